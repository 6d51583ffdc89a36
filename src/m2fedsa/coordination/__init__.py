"""How the fed server reaches the main server."""
