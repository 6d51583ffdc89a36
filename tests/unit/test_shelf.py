"""Head outputs on a disk: the same bits as in memory, computed once for all runs, never those of another head or sample."""

import copy
import json
import os

import pytest
import torch
from tests import worlds

from m2fedsa.client.kept import CHUNK, KeptOutputs, Source
from m2fedsa.client.shelf import CONTENT, NOTE, Shelf
from m2fedsa.errors import StorageError
from m2fedsa.models.cut import Head, plan


def made(modality="text", block=1):
    model = worlds.encoders((modality,))[modality].requires_grad_(False)
    table, _ = worlds.columns(2)
    return Head(model, plan(model, table[modality], block))


def held(number=CHUNK + 5, seed=1):
    table, labels = worlds.columns(number, seed)
    return worlds.samples(table, labels, torch.arange(number), ("image", "text"))


class Counting:
    """Samples that count how many went on to a head."""

    def __init__(self, monkeypatch):
        self.number = 0
        forward = Head.forward

        def counted(head, inputs, graph=False):
            self.number += len(next(iter(inputs.values())))
            return forward(head, inputs, graph)

        monkeypatch.setattr(Head, "forward", counted)


@pytest.fixture
def passes(monkeypatch):
    return Counting(monkeypatch)


def outputs(shelf, samples, head, modality="text"):
    return KeptOutputs("client ann", shelf).get("train", modality, samples, head)


def same(one, other):
    rows = torch.tensor([3, 0, len(one.place) - 1])
    for a, b in zip(one.rows(rows), other.rows(rows), strict=True):
        if not isinstance(a, torch.Tensor):
            assert a == b
            continue
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
        assert a.stride() == b.stride()


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_same_bits_as_in_memory(tmp_path, modality):
    samples, head = held(), made(modality)
    in_memory = outputs(None, samples, head, modality)
    for _ in range(2):
        same(outputs(Shelf(tmp_path, 10**9), samples, head, modality), in_memory)


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 3, 1, 2)])
def test_a_layout_in_memory_is_kept(tmp_path, order, monkeypatch):
    """Activations of convolutions and of Whisper do not lie row-major; their tails compute other bits if they do."""
    samples, head = held(), made()
    forward = Head.forward
    sizes = (5, 3) if len(order) == 3 else (4, 6, 3)

    def turned(self, inputs, graph=False):
        hidden = forward(self, inputs, graph)
        return hidden.flatten(1)[:, : torch.Size(sizes).numel()].reshape(len(hidden), *sizes).permute(order)

    monkeypatch.setattr(Head, "forward", turned)
    in_memory, on_disk = (outputs(place, samples, head) for place in (None, Shelf(tmp_path, 10**9)))
    assert in_memory.rows(torch.tensor([1, 2]))[0].is_contiguous() is False
    same(in_memory, on_disk)


def test_a_later_run_computes_nothing(tmp_path, passes):
    samples = held()
    outputs(Shelf(tmp_path, 10**9), samples, made())
    before = passes.number
    head = made()
    made_for_the_head = passes.number - before
    outputs(Shelf(tmp_path, 10**9), samples, head)
    assert passes.number == before + made_for_the_head


@pytest.mark.parametrize("what", ["a weight", "the cut", "a sample", "the order of samples", "the threads", "the processor"])
def test_what_decides_a_bit_is_in_the_key(tmp_path, passes, monkeypatch, what):
    samples, head = held(), made()
    first = outputs(Shelf(tmp_path, 10**9), samples, head)
    if what == "a weight":
        head = copy.deepcopy(head)
        next(tensor for tensor in head.parameters() if not tensor.is_meta).view(-1)[0] += 1e-3
    elif what == "the cut":
        head = made(block=2)
    elif what == "a sample":
        samples.columns["text"]["input_ids"][CHUNK + 1, 0] += 1
    elif what == "the order of samples":
        samples.indices[:] = samples.indices.flip(0)
    elif what == "the processor":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    else:
        torch.set_num_threads(2)
    before = passes.number
    second = outputs(Shelf(tmp_path, 10**9), samples, head)
    assert passes.number - before == len(samples.labels)
    assert len(list(tmp_path.glob(f"*{NOTE}"))) == 2
    if what not in ("the threads", "the processor"):
        assert not torch.equal(first.outputs.hidden, second.outputs.hidden)


@pytest.mark.parametrize("suffix", [CONTENT, NOTE])
@pytest.mark.parametrize("damage", ["cut short", "altered", "gone", "empty"])
def test_a_damaged_entry_is_noticed_and_made_again_with_the_same_bits(tmp_path, passes, suffix, damage):
    samples, head = held(), made()
    first = outputs(None, samples, head)
    outputs(Shelf(tmp_path, 10**9), samples, head)
    (file,) = tmp_path.glob(f"*{suffix}")
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes({"cut short": content[:-7], "altered": content, "empty": b""}[damage])
    before = passes.number
    same(outputs(Shelf(tmp_path, 10**9), samples, head), first)
    assert passes.number - before == len(samples.labels)


def test_a_mask_of_a_file_of_odd_size_is_where_it_was_put(tmp_path, monkeypatch):
    samples, head = held(CHUNK + 1), made()
    forward = Head.forward
    monkeypatch.setattr(Head, "forward", lambda self, inputs, graph=False: forward(self, inputs, graph)[:, :3, :3].to(torch.bfloat16))
    same(outputs(None, samples, head), outputs(Shelf(tmp_path, 10**9), samples, head))


def test_the_oldest_entry_of_other_runs_makes_room(tmp_path):
    head = made()
    shelf = Shelf(tmp_path, 10**9)
    for seed in (1, 2, 3):
        outputs(shelf, held(seed=seed), head)
        for note in tmp_path.glob(f"*{NOTE}"):
            os.utime(note, (note.stat().st_atime, note.stat().st_mtime - 10))
    size = next(tmp_path.glob(f"*{CONTENT}")).stat().st_size
    names = {file.name for file in tmp_path.iterdir()}
    other = Shelf(tmp_path, 3 * size)
    outputs(other, held(seed=2), head)  # asked for now, so the youngest
    outputs(other, held(seed=4), head)
    assert len(list(tmp_path.glob(f"*{NOTE}"))) == 3
    assert len(names & {file.name for file in tmp_path.iterdir()}) == 4
    fresh = Shelf(tmp_path, 10**9)
    before = {file.name for file in tmp_path.iterdir()}
    outputs(fresh, held(seed=1), head)
    assert before < {file.name for file in tmp_path.iterdir()}, "the first was the one that went"


def test_a_run_that_does_not_fit_says_what_it_needs(tmp_path):
    head = made()
    outputs(Shelf(tmp_path, 10**9), held(), head)
    size = next(tmp_path.glob(f"*{CONTENT}")).stat().st_size
    shelf = Shelf(tmp_path / "small", int(1.5 * size))
    outputs(shelf, held(), head)
    with pytest.raises(StorageError, match=rf"kept.limit = {int(1.5 * size)}, .* client ann, train, text needs \d+"):
        outputs(shelf, held(seed=9), head)
    assert not [file for file in (tmp_path / "small").iterdir() if file.suffix not in (NOTE, CONTENT)], "nothing half-written stays"
    assert json.loads(next((tmp_path / "small").glob(f"*{NOTE}")).read_text())["size"] == size


def test_what_a_batch_does_to_its_rows_does_not_reach_the_file(tmp_path):
    samples, head = held(), made()
    kept = outputs(Shelf(tmp_path, 10**9), samples, head)
    kept.outputs.hidden.zero_()
    same(outputs(Shelf(tmp_path, 10**9), samples, head), outputs(None, samples, head))


def test_a_source_names_its_client_split_and_modality():
    source = Source("client ann, train, text", held(3), "text", made(), torch.arange(3))
    assert sum(len(inputs["input_ids"]) for inputs in source.inputs()) == 3


def test_two_that_need_the_same_entry_at_once_both_get_it(tmp_path, monkeypatch):
    """Each begins while the other computes, and looks while the other is between its tensors and its note."""
    samples, head, plain = held(), made(), outputs(None, held(), made())
    write, found = Shelf._write, []

    def meanwhile(shelf, file, source):
        told = write(shelf, file, source)
        if not found:
            found.append(None)
            found[0] = outputs(Shelf(tmp_path, 10**9), samples, head)
            next(tmp_path.glob(f"*{NOTE}")).unlink()
            assert Shelf(tmp_path, 10**9)._find(next(tmp_path.glob(f"*{CONTENT}")).stem) is None
            assert len(list(tmp_path.glob(f"*{CONTENT}"))) == 1, "tensors whose note is still to come stay"
        return told

    monkeypatch.setattr(Shelf, "_write", meanwhile)
    same(outputs(Shelf(tmp_path, 10**9), samples, head), plain)
    same(found[0], plain)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [NOTE, CONTENT]


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    samples, head = held(), made()
    left = [tmp_path / f"{'a' * 64}{CONTENT}", tmp_path / f".{'b' * 64}.1.c.new"]
    outputs(Shelf(tmp_path, 10**9), samples, head)
    mine = set(tmp_path.iterdir())
    for file in left:
        file.write_bytes(b"half")
    outputs(Shelf(tmp_path, 10**9), held(seed=2), head)
    assert all(file.exists() for file in left), "somebody may still be writing"
    for file in (*left, *mine):
        os.utime(file, (0, 0))
    outputs(Shelf(tmp_path, 10**9), held(seed=3), head)  # a later run
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in mine), "an entry stays, however old"
