"""The main server alone: assembled from its own folder, with the tails and nothing of the heads."""

from pathlib import Path

from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.places import STATE, TAILS
from m2fedsa.errors import WeightsError
from m2fedsa.main_server import MainServer
from m2fedsa.models.cut import Tail
from m2fedsa.models.precision import attend, device_of, place_and_type
from m2fedsa.models.recomputing import recompute
from m2fedsa.models.slices import load_tail, origin_of
from m2fedsa.storage import Store


def main_server_of(folder: Path, drawing: Drawing | None = None) -> MainServer:
    """The main server of a folder. `InputError` if a tail is missing, broken or of another deployment."""
    drawing = drawing or Drawing.read(folder)
    blueprint = drawing.blueprint
    tails = {modality: _tail(folder / TAILS / modality, modality, drawing) for modality in blueprint.modalities}
    server = MainServer(blueprint, tails, device=device_of(blueprint.config.compute))
    server.store = Store(folder / STATE / "checkpoint")
    return server


def _tail(folder: Path, modality: str, drawing: Drawing) -> Tail:
    config = drawing.blueprint.config
    settings, wanted = config.modalities[modality], drawing.slices[modality]
    origin = origin_of(folder, "tail")
    if (origin.digest, origin.weights) != (wanted["digest"], wanted["tail"]):
        raise WeightsError(
            f"{folder}: is the tail of another encoder ({origin.encoder}, digest {origin.digest[:16]}…) than the one of this deployment "
            f"({wanted['encoder']}, {wanted['digest'][:16]}…). Copy the main server's folder again."
        )
    tail = load_tail(folder, None if settings.pooling == "default" else settings.pooling)
    attend(tail.encoder, config.compute)
    tail.to(**place_and_type(config.compute))
    if config.compute.checkpoint_tails:
        recompute(tail, settings.blocks)
    return tail
