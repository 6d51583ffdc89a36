"""A participant: its samples, the heads of its modalities, and what it does when the fed server asks."""

from m2fedsa.client.participant import Client, Shared

__all__ = ["Client", "Shared"]
