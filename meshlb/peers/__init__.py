"""The channel between agents."""
