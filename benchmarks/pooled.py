"""All training samples of a federation in one place: what centralised training is given. Nobody gains a modality that was not there."""

import torch

from m2fedsa.data.samples import ClientData, FederatedData, InMemorySamples


def pooled(data: FederatedData) -> FederatedData:
    """The same samples, with the same modalities present, held by one client; evaluation stays where it is."""
    indices, labels, presence = [], [], []
    columns = None
    for client in data.clients.values():
        if client.train is None:
            continue
        train = client.train
        assert isinstance(train, InMemorySamples)
        columns = train.columns
        place = [data.modalities.index(modality) for modality in train.modalities]
        whole = torch.zeros(len(train.labels), len(data.modalities), dtype=torch.bool)
        whole[:, place] = train.presence
        rows = train.indices if train.indices.ndim == 2 else train.indices[:, None].expand(-1, len(place))
        spread = torch.zeros(len(train.labels), len(data.modalities), dtype=torch.int64)
        spread[:, place] = rows
        indices.append(spread)
        labels.append(train.labels)
        presence.append(whole)
    assert columns is not None
    train = InMemorySamples(columns, torch.cat(indices), torch.cat(labels), torch.cat(presence), data.modalities)
    evaluation = {name: client for name, client in data.clients.items() if client.train is None}
    return FederatedData(data.classes, data.modalities, {"central": ClientData(data.modalities, train=train), **evaluation})
