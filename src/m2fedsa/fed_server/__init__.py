"""The fed server: the round, the client-side global tensors, and the warm start."""

from m2fedsa.fed_server.server import FedServer, Sampler, uniform_sampler

__all__ = ["FedServer", "Sampler", "uniform_sampler"]
