"""The Swarm that is already there: its verbs, spoken to the Docker Engine."""
