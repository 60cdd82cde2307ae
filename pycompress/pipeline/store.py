"""Where finished weights wait until all are there: in memory, or in a journal on the disk, from which an interrupted
run is taken up again.

A piece is known by a hash of everything it follows from (the tensor's bytes, the steps, the calibration inputs, the
version), so what is found under that hash is what would be computed, whatever has changed around it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._errors import FormatError
from .._machine import __version__
from ..io import schema, writer
from ..io.safetensors import CHUNK, File, Tensor
from ..recipe import Steps
from ..report import Layer, Report
from ..weights import Weight

__all__ = ["Journal", "Memory", "Piece", "Store", "digest_of", "key_of"]

Array = NDArray[Any]


class Piece(Protocol):
    """A finished weight."""

    @property
    def layer(self) -> Layer: ...
    def weight(self) -> Weight | Array: ...
    def stored(self) -> tuple[schema.Stored | None, dict[str, Tensor]]:
        """Its entry in a file (None: a plain array), and the tensors that belong to it."""


class Store(Protocol):
    """Finished weights by their keys, and small notes (times) beside them."""

    def get(self, key: str) -> Piece | None: ...
    def put(self, key: str, layer: Layer, weight: Weight | Array) -> None: ...
    def note(self, key: str, make: Callable[[], Any]) -> Any:
        """What was noted under the key, or else what `make` gives, noted for the next time. JSON."""


def key_of(name: str, content: str, steps: Steps, layer: str, seed: int) -> str:
    """The hash of everything that a piece follows from. content: `digest_of` the weight and the calibration inputs."""
    digest = hashlib.blake2b(digest_size=20)
    what = [__version__, schema.VERSION, name, content, asdict(steps), layer, seed]
    digest.update(json.dumps(what).encode())
    return digest.hexdigest()


def digest_of(arrays: Sequence[Array]) -> str:
    """The hash of the bytes of arrays."""
    digest = hashlib.blake2b(digest_size=20)
    for a in arrays:
        digest.update(f"{a.dtype} {a.shape}".encode())
        flat = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, CHUNK):
            digest.update(flat[start : start + CHUNK].data)
    return digest.hexdigest()


class _Made:
    def __init__(self, layer: Layer, weight: Weight | Array) -> None:
        self.layer, self._weight = layer, weight

    def weight(self) -> Weight | Array:
        return self._weight

    def stored(self) -> tuple[schema.Stored | None, dict[str, Tensor]]:
        if not isinstance(self._weight, Weight):
            return None, {self.layer.name: Tensor.of(self._weight)}
        stored, arrays = schema.describe(self.layer.name, self._weight)
        return stored, {name: Tensor.of(a) for name, a in arrays.items()}


class Memory:
    """In memory, for models that fit into it."""

    def __init__(self) -> None:
        self._pieces: dict[str, Piece] = {}
        self._notes: dict[str, Any] = {}

    def get(self, key: str) -> Piece | None:
        return self._pieces.get(key)

    def put(self, key: str, layer: Layer, weight: Weight | Array) -> None:
        self._pieces[key] = _Made(layer, weight)

    def note(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._notes:
            self._notes[key] = make()
        return self._notes[key]


class _Filed:
    """A piece in the journal: a file of the same format as the whole model. No map of it is kept open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        file = File(path)
        self._weights, report = schema.parse(file.metadata, file.entries)
        (self.layer,) = Report.from_dict(report).layers
        self._tensors = {name: file.tensor(name) for name in file.entries}

    def weight(self) -> Weight | Array:
        file, name = File(self._path), self.layer.name
        stored = self._weights.get(name)
        return file.array(name) if stored is None else schema.rebuild(name, stored, file.array)

    def stored(self) -> tuple[schema.Stored | None, dict[str, Tensor]]:
        return self._weights.get(self.layer.name), self._tensors


class Journal:
    """A directory of pieces beside the output. One process at a time has it (`lock`), with all of its workers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def beside(cls, output: Path) -> Journal:
        """That of an output file."""
        return cls(output.with_name(f".{output.name}.unfinished"))

    def lock(self) -> int:
        """Make the directory, and keep others out until the descriptor is closed. BlockingIOError: someone has it."""
        self.directory.mkdir(exist_ok=True)
        handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BlockingIOError(f"another process is at work in {self.directory}") from None
        for left in self.directory.glob(".*.tmp"):  # of a process that was killed
            left.unlink()
        return handle

    def get(self, key: str) -> Piece | None:
        try:
            return _Filed(self._piece(key))
        except (FileNotFoundError, FormatError, ValueError):  # ValueError: a report of another number of layers
            return None

    def put(self, key: str, layer: Layer, weight: Weight | Array) -> None:
        with writer.replacing(self._piece(key)) as beside:
            writer.save(beside, {layer.name: weight}, Report((layer,)).as_dict())

    def note(self, key: str, make: Callable[[], Any]) -> Any:
        path = self.directory / f"{key}.json"
        try:
            return json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            found = make()
        with writer.replacing(path) as beside:
            beside.write_text(json.dumps(found), "utf-8")
        return found

    def _piece(self, key: str) -> Path:
        return self.directory / f"{key}.safetensors"

    def remove(self) -> None:
        shutil.rmtree(self.directory)
