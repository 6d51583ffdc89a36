"""How a client reaches the main server."""
