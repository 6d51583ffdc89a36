"""Head outputs on a disk: computed once for all runs that have the same head and the same samples, and read row by row.

An entry is two files: the tensors, and a note written after them that says how to read them and what their SHA-256 is. Its name is a
digest of all that decides a bit of it: the head (plan and tensors), the encoder inputs of every sample in their order, the chunk size, and
the machine's software and threads. So another head, another processing or another sample is another entry, never a stale one.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from m2fedsa.client.kept import CHUNK, Outputs, Source, inverse, layout
from m2fedsa.errors import StorageError
from m2fedsa.machine import processor
from m2fedsa.messages import InputSpec
from m2fedsa.models.cut import Head
from m2fedsa.state import digest, fingerprints, raw_bytes

NOTE, CONTENT, UNFINISHED = ".json", ".outputs", ".new"
SEAL = "seal"
"""Of the note itself: read wrongly, the tensors would be wrong."""
_READ = 1 << 22
_ALIGNED = 64
"""A mask begins at a multiple of these many bytes."""
_LEFT_BEHIND = 86_400
"""Seconds after which nobody is writing a file any more."""


@dataclass
class Shelf:
    """A folder of entries, shared by clients, runs and processes."""

    folder: Path
    limit: int
    """bytes of all entries together; those that were not asked for the longest make room first"""
    _heads: dict[int, tuple[Head, str]] = field(default_factory=dict)
    _in_use: set[str] = field(default_factory=set)
    _swept: bool = False

    def keep(self, source: Source) -> Outputs:
        """See `kept.Place.keep`. `StorageError` if this run's outputs do not fit in, or if the disk refuses."""
        key = self._key(source)
        self._in_use.add(key)
        found = self._find(key)
        if found is None:
            self._make(key, source)
            found = self._find(key)
            if found is None:
                raise StorageError(f"{self._path(key, CONTENT)}: reads otherwise than it was written. Look at the disk.")
        return found

    # --- names ----------------------------------------------------------------------------------------------------------------------

    def _key(self, source: Source) -> str:
        sha = hashlib.sha256(self._software(source.head).encode())
        for inputs in source.inputs():
            for name, value in sorted(inputs.items()):
                sha.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
                sha.update(raw_bytes(value))
        return sha.hexdigest()

    def _software(self, head: Head) -> str:
        import transformers

        made_with = [torch.__version__, transformers.__version__, torch.get_num_threads(), processor(head.device), CHUNK]
        return json.dumps([self._digest(head), *made_with])

    def _digest(self, head: Head) -> str:
        """Of the plan, of the kind of attention, and of every tensor that the head holds; computed once per head."""
        if id(head) not in self._heads:
            tensors = {name: tensor for name, tensor in (*head.named_parameters(), *head.named_buffers()) if not tensor.is_meta}
            config = getattr(head.encoder, "config", None)
            kind = str(getattr(config, "_attn_implementation", None))
            text = head.plan.to_json() + kind + digest(fingerprints(tensors))
            self._heads[id(head)] = (head, hashlib.sha256(text.encode()).hexdigest())
        return self._heads[id(head)][1]

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / f"{key}{suffix}"

    # --- entries --------------------------------------------------------------------------------------------------------------------

    def _find(self, key: str) -> Outputs | None:
        """The entry, if it is there and whole; what was altered or cut short is taken away."""
        note, content = self._path(key, NOTE), self._path(key, CONTENT)
        try:
            text = note.read_text()
        except OSError:
            # Perhaps another process has not come to its note yet: its tensors stay.
            return None
        try:
            told: dict[str, Any] = json.loads(text)
            if told.pop(SEAL) == _seal(told) and content.stat().st_size == told["size"] and _sha(content) == told["sha256"]:
                os.utime(note)
                return _mapped(content, told)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        self._remove(key)
        return None

    def _make(self, key: str, source: Source) -> None:
        """Compute and write chunk by chunk: what is kept never lies in memory as a whole."""
        with self._whole(self._path(key, CONTENT)) as file:
            told = self._write(file, source)
        with self._whole(self._path(key, NOTE)) as file:
            file.write(json.dumps({**told, SEAL: _seal(told)}).encode())

    @contextmanager
    def _whole(self, path: Path) -> Iterator[BinaryIO]:
        """A file that stands at `path` once it is whole. Two processes may need the same entry at once: each writes a file of its own, and
        the later one takes the place of the earlier, which says the same."""
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.{uuid.uuid4().hex}{UNFINISHED}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror or error}. Nothing written earlier is lost.") from error
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _write(self, file: BinaryIO, source: Source) -> dict[str, Any]:
        told: dict[str, Any] = {}
        sha, masks = hashlib.sha256(), []
        for one in source.outputs():
            if not told:
                order = layout(one.hidden)
                told = {"hidden": _kind(one.hidden, order, len(source.rows)), "inputs": {n: _spec(s) for n, s in one.inputs.items()}}
                self._make_room(len(source.rows) * (one.hidden[0].nbytes + (0 if one.mask is None else one.mask[0].nbytes)), source)
            part = raw_bytes(one.hidden.permute(told["hidden"]["order"]))
            sha.update(part)
            file.write(part)
            if one.mask is not None:
                masks.append(one.mask)
        if masks:
            mask = torch.cat(masks)
            told["mask"] = _kind(mask, list(range(mask.dim())), len(mask))
            part = bytes(-file.tell() % _ALIGNED) + raw_bytes(mask)
            sha.update(part)
            file.write(part)
        return {**told, "size": file.tell(), "sha256": sha.hexdigest()}

    # --- room -----------------------------------------------------------------------------------------------------------------------

    def _make_room(self, needed: int, source: Source) -> None:
        """Take away the entries that were not asked for the longest, none of this run."""
        if not self._swept:
            self._sweep()
        found = sorted(self._entries())
        sizes = {key: size for _, key, size in found}
        for _, key, _ in found:
            if sum(sizes.values()) + needed <= self.limit:
                return
            if key not in self._in_use:
                self._remove(key)
                del sizes[key]
        if sum(sizes.values()) + needed > self.limit:
            raise StorageError(
                f"kept.limit = {self.limit}, but the head outputs of this run need more: {sum(sizes.values())} bytes are kept, and "
                f"{source.name} needs {needed}. Raise kept.limit, or cut the encoder where its activations are smaller."
            )

    def _entries(self) -> Iterator[tuple[float, str, int]]:
        """When it was asked for last, its name and its size; others may take entries away meanwhile."""
        for note in self.folder.glob(f"*{NOTE}"):
            with suppress(OSError):
                yield note.stat().st_mtime, note.stem, self._path(note.stem, CONTENT).stat().st_size

    def _sweep(self) -> None:
        """Take away what processes that died have left behind: what is no entry, and has not been touched for long. Once is enough."""
        self._swept = True
        for left in (*self.folder.glob(f".*{UNFINISHED}"), *self.folder.glob(f"*{CONTENT}")):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _LEFT_BEHIND and not left.with_suffix(NOTE).exists():
                    left.unlink()

    def _remove(self, key: str) -> None:
        # The note first: an entry without one is not there.
        for suffix in (NOTE, CONTENT):
            self._path(key, suffix).unlink(missing_ok=True)


def _mapped(content: Path, told: dict[str, Any]) -> Outputs:
    hidden = _tensor(content, told["hidden"], 0)
    mask = _tensor(content, told["mask"], hidden.nbytes + -hidden.nbytes % _ALIGNED) if "mask" in told else None
    return Outputs(hidden, mask, {name: InputSpec(tuple(shape), getattr(torch, dtype)) for name, (shape, dtype) in told["inputs"].items()})


def _tensor(content: Path, kind: dict[str, Any], offset: int) -> Tensor:
    """A tensor over the file itself; rows are read when they are taken."""
    dtype = getattr(torch, kind["dtype"])
    size = torch.Size(kind["shape"]).numel() * dtype.itemsize
    # Private: what writes into a row would write to a copy in memory, never to the file.
    whole = torch.from_file(str(content), shared=False, size=offset + size, dtype=torch.uint8)
    stored = whole[offset : offset + size].view(dtype).view([kind["shape"][dimension] for dimension in kind["order"]])
    return stored.permute(inverse(kind["order"]))


def _kind(tensor: Tensor, order: list[int], rows: int) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": [rows, *tensor.shape[1:]], "order": order}


def _spec(spec: InputSpec) -> list[Any]:
    return [list(spec.shape), str(spec.dtype).removeprefix("torch.")]


def _seal(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _sha(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ):
            sha.update(part)
    return sha.hexdigest()
