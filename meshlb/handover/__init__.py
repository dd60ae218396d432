"""From one agent of a node to the next, with all sockets."""
