"""How the fed server reaches the clients."""
