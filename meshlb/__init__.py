"""The routing mesh and L4 load balancer for Docker Swarm."""

__version__ = "0.1.0"
