"""A client alone: assembled from its own folder, with a link to the main server."""

from dataclasses import replace
from pathlib import Path

from m2fedsa.assembly import place_of
from m2fedsa.client import Client, Shared
from m2fedsa.data.site_files import read_samples
from m2fedsa.deploy.drawing import Drawing
from m2fedsa.deploy.places import DATA, HEADS, STATE
from m2fedsa.errors import WeightsError
from m2fedsa.links.port import Link
from m2fedsa.models.cut import Head
from m2fedsa.models.precision import attend, device_of, place_and_type
from m2fedsa.models.slices import load_head, origin_of


def client_of(folder: Path, name: str, modalities: tuple[str, ...], link: Link) -> Client:
    """The client of a folder. `InputError` if heads or samples are missing, broken or of another deployment."""
    drawing = Drawing.read(folder)
    shared = replace(shared_of(folder, drawing, modalities), place=place_of(drawing.blueprint.config))
    return Client(name, read_samples(folder / DATA, modalities), shared, link)


def shared_of(folder: Path, drawing: Drawing, modalities: tuple[str, ...]) -> Shared:
    """What a client is made with besides its samples; head outputs stay in memory."""
    heads = {modality: _head(folder / HEADS / modality, modality, drawing) for modality in modalities}
    device = device_of(drawing.blueprint.config.compute)
    return Shared(drawing.blueprint, heads, checkpoint=folder / STATE / "local", shortens=drawing.shortens, device=device)


def _head(folder: Path, modality: str, drawing: Drawing) -> Head:
    compute = drawing.blueprint.config.compute
    origin = origin_of(folder, "head")
    wanted = drawing.slices[modality]
    if (origin.digest, origin.weights) != (wanted["digest"], wanted["head"]):
        raise WeightsError(
            f"{folder}: is the head of another encoder ({origin.encoder}, digest {origin.digest[:16]}…) than the one of this deployment "
            f"({wanted['encoder']}, {wanted['digest'][:16]}…). Copy the client's folder again."
        )
    head = load_head(folder)
    attend(head.encoder, compute)
    head.to(**place_and_type(compute))
    return head
