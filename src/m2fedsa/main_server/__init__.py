"""The main server: the tails of the encoders, the task adapters and the fusion network."""

from m2fedsa.main_server.server import MainServer

__all__ = ["MainServer"]
