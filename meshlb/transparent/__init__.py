"""Clients' own addresses, kept on the way to tasks."""
