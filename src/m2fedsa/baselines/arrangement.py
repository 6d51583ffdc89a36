"""The same samples held by others: all in one place, evaluation dealt out to those who train, modalities that lack filled with zeros.

N samples, M modalities of a client.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from m2fedsa.config import Data
from m2fedsa.data.samples import SPLITS, ClientData, FederatedData, Samples, Split
from m2fedsa.seeding import derive

CENTRAL = "central"
"""The client that holds everything."""


def arranged(data: FederatedData, settings: Data, seed: int) -> FederatedData:
    """The samples as `data.absent` and `data.arrangement` want them."""
    if settings.absent == "zeros":
        data = filled(data)
    steps: Mapping[str, Callable[[FederatedData], FederatedData]] = {"pooled": pooled, "apart": lambda whole: apart(whole, seed)}
    return steps[settings.arrangement](data) if settings.arrangement in steps else data


def pooled(data: FederatedData) -> FederatedData:
    """All training samples with one client, with the modalities that they had; evaluation stays where it is."""
    parts = [client.train for client in data.clients.values() if client.train is not None]
    evaluation = {name: replace(client, train=None) for name, client in data.clients.items() if client.validation or client.test}
    return replace(data, clients={CENTRAL: ClientData(data.modalities, train=Joined(parts, data.modalities)), **evaluation})


def apart(data: FederatedData, seed: int) -> FederatedData:
    """Validation and test samples dealt out at random to the clients that train, who look at the modalities that they hold."""
    training = {name: client for name, client in data.clients.items() if client.train is not None}
    validation, test = (_dealt(data, split, list(training), seed) for split in SPLITS[1:])
    clients = {name: ClientData(client.modalities, client.train, validation.get(name), test.get(name)) for name, client in training.items()}
    return replace(data, clients=clients)


def _dealt(data: FederatedData, split: Split, names: Sequence[str], seed: int) -> dict[str, Samples]:
    held = [samples for client in data.clients.values() if (samples := client.split(split)) is not None]
    if not held:
        return {}
    whole = Joined(held, data.modalities)
    order = torch.randperm(len(whole.labels), generator=derive(seed, "dealt", split))
    found: dict[str, Samples] = {}
    for name, share in zip(names, order.tensor_split(len(names)), strict=True):
        own = data.clients[name].modalities
        presence = whole.presence[:, [data.modalities.index(modality) for modality in own]]
        rows = share.sort().values
        rows = rows[presence[rows].any(1)]
        if len(rows):
            found[name] = Part(whole, rows, own)
    return found


def filled(data: FederatedData) -> FederatedData:
    """Every training client holds every modality; what its samples lack has zeros for inputs."""
    blanks = {modality: _blank(data, modality) for modality in data.modalities}
    clients = {
        name: replace(client, modalities=data.modalities, train=Filled(client.train, data.modalities, blanks))
        if client.train is not None
        else client
        for name, client in data.clients.items()
    }
    return replace(data, clients=clients)


def _blank(data: FederatedData, modality: str) -> dict[str, Tensor]:
    """One sample of zeros as the encoder takes it; of a mask the first place counts, because attention to nothing is undefined."""
    for client in data.clients.values():
        for split in SPLITS:
            samples = client.split(split)
            if samples is not None and modality in samples.modalities:
                rows = samples.presence[:, samples.modalities.index(modality)].nonzero().flatten()[:1]
                if len(rows):
                    return _zeroed(samples.inputs(modality, rows))
    return {}


def _zeroed(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    zeros = {name: torch.zeros_like(value) for name, value in inputs.items()}
    for name, value in zeros.items():
        if "mask" in name and value.dim() > 1:
            value[:, 0] = 1
    return zeros


@dataclass(frozen=True)
class Joined:
    """The samples of several holders, one after the other, over all modalities of the run."""

    parts: Sequence[Samples]
    modalities: tuple[str, ...]

    @cached_property
    def labels(self) -> Tensor:
        """See `Samples.labels`."""
        return torch.cat([part.labels for part in self.parts])

    @cached_property
    def presence(self) -> Tensor:
        """See `Samples.presence`."""
        spread = []
        for part in self.parts:
            whole = torch.zeros(len(part.labels), len(self.modalities), dtype=torch.bool)
            whole[:, [self.modalities.index(modality) for modality in part.modalities]] = part.presence
            spread.append(whole)
        return torch.cat(spread)

    @cached_property
    def _starts(self) -> Tensor:
        return torch.tensor([0, *(len(part.labels) for part in self.parts)]).cumsum(0)

    def inputs(self, modality: str, rows: Tensor) -> dict[str, Tensor]:
        """See `Samples.inputs`; as wide as the widest part has it."""
        owner = torch.bucketize(rows, self._starts, right=True) - 1
        found: dict[str, Tensor] = {}
        for place in sorted(set(owner.tolist())):
            mine = (owner == place).nonzero().flatten()
            for name, value in self.parts[place].inputs(modality, rows[mine] - self._starts[place]).items():
                width = self._widths(modality).get(name)
                wide = value if width is None or value.shape[1] == width else _widened(value, width)
                found.setdefault(name, wide.new_zeros(len(rows), *wide.shape[1:]))[mine] = wide
        return found

    def _widths(self, modality: str) -> dict[str, int]:
        """Input -> width of the first dimension behind the batch, where parts differ in it."""
        if modality not in self._known:
            self._known[modality] = self._measured(modality)
        return self._known[modality]

    @cached_property
    def _known(self) -> dict[str, dict[str, int]]:
        return {}

    def _measured(self, modality: str) -> dict[str, int]:
        widths: dict[str, set[int]] = {}
        for part in self.parts:
            if modality in part.modalities:
                rows = part.presence[:, part.modalities.index(modality)].nonzero().flatten()[:1]
                for name, value in part.inputs(modality, rows).items() if len(rows) else ():
                    if value.dim() > 1:
                        widths.setdefault(name, set()).add(value.shape[1])
        return {name: max(found) for name, found in widths.items() if len(found) > 1}


def _widened(value: Tensor, width: int) -> Tensor:
    """(B, W, ...) padded with zeros to (B, width, ...)."""
    return functional.pad(value, [0, 0] * (value.dim() - 2) + [0, width - value.shape[1]])


@dataclass(frozen=True)
class Part:
    """Some samples of a holder, and some of the modalities."""

    whole: Samples
    rows: Tensor
    modalities: tuple[str, ...]

    @property
    def labels(self) -> Tensor:
        """See `Samples.labels`."""
        return self.whole.labels[self.rows]

    @property
    def presence(self) -> Tensor:
        """See `Samples.presence`."""
        columns = [self.whole.modalities.index(modality) for modality in self.modalities]
        return self.whole.presence[self.rows][:, columns]

    def inputs(self, modality: str, rows: Tensor) -> dict[str, Tensor]:
        """See `Samples.inputs`."""
        return self.whole.inputs(modality, self.rows[rows])


@dataclass(frozen=True)
class Filled:
    """Samples of which none lacks a modality any more."""

    held: Samples
    modalities: tuple[str, ...]
    blanks: Mapping[str, Mapping[str, Tensor]]

    @property
    def labels(self) -> Tensor:
        """See `Samples.labels`."""
        return self.held.labels

    @property
    def presence(self) -> Tensor:
        """See `Samples.presence`: all."""
        return torch.ones(len(self.labels), len(self.modalities), dtype=torch.bool)

    def inputs(self, modality: str, rows: Tensor) -> dict[str, Tensor]:
        """See `Samples.inputs`."""
        blank = self._blank(modality)
        found = {name: value.expand(len(rows), *value.shape[1:]).clone() for name, value in blank.items()}
        if modality in self.held.modalities:
            real = self.held.presence[rows, self.held.modalities.index(modality)].nonzero().flatten()
            if len(real):
                for name, value in self.held.inputs(modality, rows[real]).items():
                    found[name][real] = value
        return found

    def _blank(self, modality: str) -> Mapping[str, Tensor]:
        """As wide as what this client has of the modality; as another client's where it has none."""
        if modality in self.held.modalities:
            rows = self.held.presence[:, self.held.modalities.index(modality)].nonzero().flatten()[:1]
            if len(rows):
                return _zeroed(self.held.inputs(modality, rows))
        return self.blanks[modality]
