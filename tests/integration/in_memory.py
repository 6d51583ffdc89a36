"""Runs whose data and encoders are objects: two clients, two modalities, two rounds."""

from tests import worlds

import m2fedsa

MODALITIES = ("image", "text")


def run(settings=None, **parts):
    """Two small clients in memory, unless told otherwise."""
    parts.setdefault("data", worlds.federated({"ann": (MODALITIES, 8), "bob": (MODALITIES, 8)}, modalities=MODALITIES))
    parts.setdefault("encoders", worlds.encoders(MODALITIES))
    return m2fedsa.run(settings or worlds.config(MODALITIES), **parts)


class Stops:
    """Ctrl-C after a round."""

    def __init__(self, after):
        self.after = after

    def __getattr__(self, name):
        return lambda *_arguments, **_more: None

    def round_done(self, record):
        if record["round"] == self.after:
            raise KeyboardInterrupt
