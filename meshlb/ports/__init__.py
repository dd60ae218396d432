"""The sockets of published ports."""
