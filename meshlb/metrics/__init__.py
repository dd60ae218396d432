"""What the agent counts, for Prometheus."""
