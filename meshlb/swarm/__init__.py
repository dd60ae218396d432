"""The Swarm as a source of snapshots."""
