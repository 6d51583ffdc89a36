"""No sample of one client, and no sample of validation or test, reaches another client's training: by digest, over a whole run.

Each sample is known by the SHA-256 of what its encoder is given, and by that of what its head makes of it, which without modality adapters
is what goes over the wire. Who may hold which of them is computed beforehand, from the data and from heads of another assembly.
"""

import hashlib
from collections import defaultdict

import pytest
import torch
from tests import worlds

import m2fedsa
from m2fedsa.client import Client
from m2fedsa.client.kept import KeptOutputs
from m2fedsa.config import Data
from m2fedsa.data.digits import digits
from m2fedsa.data.samples import SPLITS
from m2fedsa.data.spread import Table, spread
from m2fedsa.main_server.server import MainServer, ServerSession
from m2fedsa.messages import EvaluateTask
from m2fedsa.models.cut import Head
from m2fedsa.state import raw_bytes

NUMBER = 90


def digest(*tensors):
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(raw_bytes(tensor))
    return total.hexdigest()


class Column:
    """A modality of a table that lies in memory."""

    def __init__(self, arguments):
        self.arguments = arguments

    def inputs(self, rows):
        return {name: value[rows] for name, value in self.arguments.items()}

    def look(self):
        raise AssertionError("nobody looks")


def data():
    """Ninety samples, no two alike, spread over four clients of unequal classes, who each validate and test on their own; some lack
    modalities, half lack labels."""
    columns, labels = worlds.columns(NUMBER)
    table = Table(worlds.CLASSES, {name: Column(one) for name, one in columns.items()}, labels, ["train"] * NUMBER, [""] * NUMBER)
    said = Data(
        clients=4, minimum=12, missing_rate=0.3, labelled_fraction=0.5, evaluation="clients", held_out=(0.2, 0.2), multimodal_fraction=1.0
    )
    return spread(table, said, seed=3)


def inputs_of(samples):
    """modality -> digests of what the encoder is given, of the samples that have it."""
    found = {}
    for column, modality in enumerate(samples.modalities):
        given = samples.inputs(modality, samples.presence[:, column].nonzero().flatten())
        found[modality] = {digest(*(value[row] for value in given.values())) for row in range(len(next(iter(given.values()))))}
    return found


def outputs_of(samples, heads):
    """modality -> digests of the heads' outputs."""
    kept = KeptOutputs()
    return {
        modality: {digest(one) for one in kept.get("train", modality, samples, heads[modality]).outputs.hidden}
        for column, modality in enumerate(samples.modalities)
        if bool(samples.presence[:, column].any())
    }


def by_split(client, of):
    found = defaultdict(lambda: defaultdict(set))
    for split in SPLITS:
        samples = client.split(split)
        for modality, digests in of(samples).items() if samples is not None else ():
            found["train" if split == "train" else "held out"][modality] |= digests
    return found


class Watch:
    """Who ran its heads on what, and who sent what to the main server: client -> purpose -> modality -> digests."""

    def __init__(self, patch, heads):
        self.read, self.sent = (defaultdict(lambda: defaultdict(lambda: defaultdict(set))) for _ in range(2))
        self.now = None
        names = {head.plan.to_json(): modality for modality, head in heads.items()}
        perform, under, forward, evaluate = Client.perform, Head.under, ServerSession.forward, MainServer.evaluate

        def performing(client, task):
            self.now = (client.name, "held out" if isinstance(task, EvaluateTask) else "train")
            try:
                return perform(client, task)
            finally:
                self.now = None

        def running(head, weights, inputs, **more):
            if self.now is not None:
                into = self.read[self.now[0]][self.now[1]][names[head.plan.to_json()]]
                into |= {digest(*(value[row] for value in inputs.values())) for row in range(len(next(iter(inputs.values()))))}
            return under(head, weights, inputs, **more)

        def stepping(session, activations):
            self.note(self.now[0], "train", activations)
            return forward(session, activations)

        def evaluating(server, client, request):
            assert self.now[0] == client
            self.note(client, self.now[1], request.activations)
            return evaluate(server, client, request)

        patch.setattr(Client, "perform", performing)
        patch.setattr(Head, "under", running)
        patch.setattr(ServerSession, "forward", stepping)
        patch.setattr(MainServer, "evaluate", evaluating)

    def note(self, client, purpose, activations):
        for modality, one in activations.modalities.items():
            self.sent[client][purpose][modality] |= {digest(row) for row in one.hidden}


def test_over_a_whole_run(monkeypatch):
    """Warm start with soft labels, fusion, transfer with teachers, validation and test."""
    held = data()
    adapters = {f"modalities__{name}__modality_adapter": False for name in worlds.MODALITIES}
    config = worlds.config(
        federation__rounds=3, federation__warm_start=True, transfer__start=2, transfer__refresh=1, evaluation__every=1, **adapters
    )
    config = config.model_copy(update={"data": config.data.model_copy(update={"clients": 4})})
    heads = worlds.parties(config, held).shared.heads
    inputs = {name: by_split(client, inputs_of) for name, client in held.clients.items()}
    outputs = {name: by_split(client, lambda samples: outputs_of(samples, heads)) for name, client in held.clients.items()}
    everywhere = [one for known in (inputs, outputs) for owner in known.values() for purpose in owner.values() for one in purpose.values()]
    assert sum(map(len, everywhere)) == len(set.union(*everywhere))  # each digest belongs to one client, purpose and modality
    with monkeypatch.context() as patch:
        watch = Watch(patch, heads)
        m2fedsa.run(config, data=held, encoders=worlds.encoders())
    for seen, known in ((watch.read, inputs), (watch.sent, outputs)):
        assert set(seen) == set(held.clients)
        for client, purposes in seen.items():
            for purpose, modalities in purposes.items():
                for modality, digests in modalities.items():
                    assert digests <= known[client][purpose][modality], f"{client}, {purpose}, {modality}"
    # and the run did use them: all that can be taught, and all that was held out
    sent = {client: {modality: len(one) for modality, one in watch.sent[client]["held out"].items()} for client in held.clients}
    assert sent == {client: {modality: len(one) for modality, one in outputs[client]["held out"].items()} for client in held.clients}
    assert all(len(watch.sent[client]["train"][modality]) > 3 for client in held.clients for modality in worlds.MODALITIES)


@pytest.mark.parametrize("evaluation", ["global", "clients"])
@pytest.mark.parametrize("partition", ["dirichlet", "shards", "square", "column"])
def test_no_digit_is_held_twice(partition, evaluation):
    """Of all clients and all splits of the embedded digits, image and sound and word together."""
    said = Data(clients=6, partition=partition, column="speaker", evaluation=evaluation, multimodal_fraction=1.0)
    held = digits(seed=0, settings=said)
    everywhere = []
    for client in held.clients.values():
        for samples in filter(None, map(client.split, SPLITS)):
            rows = torch.arange(len(samples.labels))
            given = [value for modality in samples.modalities for value in samples.inputs(modality, rows).values()]
            everywhere += [digest(*(value[row] for value in given)) for row in rows.tolist()]
    assert len(everywhere) == (1192 if evaluation == "clients" else 1192 + 300 + 600)
    assert len(set(everywhere)) == len(everywhere)
