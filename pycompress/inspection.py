"""What is in a model's file: `pycompress inspect`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .io import open_tensors, schema
from .io.safetensors import File
from .model import load
from .weights import Weight

__all__ = ["Inspection", "Statistics", "Tensor", "inspect"]

BINS = 24
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Statistics:
    """Of the finite values of a tensor. zeros, finite: parts of all values. histogram: equal bins from min to max."""

    min: float
    max: float
    mean: float
    std: float
    zeros: float
    finite: float
    histogram: list[int]


@dataclass(frozen=True)
class Tensor:
    """kind: that of a weight ("Int8Weight"), or the dtype. parts: for a weight, the tensors that hold it: dtype and
    shape."""

    name: str
    kind: str
    shape: tuple[int, ...]
    nbytes: int
    parts: dict[str, Any]
    statistics: Statistics | None


@dataclass(frozen=True)
class Inspection:
    """version: of the schema, for a file of ours. file_bytes: of all files of a sharded set."""

    path: Path
    format: str
    version: int | None
    file_bytes: int
    tensors: list[Tensor]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def inspect(
    path: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda name: True, *, stats: bool = True
) -> Inspection:
    """The tensors of a file whose names are wanted. FormatError for a file, or a weight in it, that is broken."""
    path = Path(path)
    source = open_tensors(path)
    size = sum(file.stat().st_size for file in source.files)
    metadata = source.metadata
    rows = []
    if not schema.is_compressed(metadata):
        for name in filter(wanted, source):
            info = source.info(name)
            found = statistics(source[name]) if stats else None
            rows.append(Tensor(name, info.dtype, info.shape, info.nbytes, {}, found))
        return Inspection(path, source.format, None, size, rows)
    weights, _ = schema.parse(metadata, source)
    file = File(path)
    for name in filter(wanted, load(path)):
        if name in weights:
            stored = weights[name]
            weight = _built(file, name, stored)
            parts = {t[len(name) + 1 :]: source.info(t) for t in schema.tensors_of(name, stored)}
            about = {part: {"dtype": info.dtype, "shape": list(info.shape)} for part, info in parts.items()}
            with np.errstate(over="ignore", invalid="ignore"):  # of scales near the end of float32
                found = statistics(weight.todense()) if stats else None
            rows.append(Tensor(name, stored["kind"], weight.shape, weight.nbytes, about, found))
        else:
            info = source.info(name)
            found = statistics(source[name]) if stats else None
            rows.append(Tensor(name, info.dtype, info.shape, info.nbytes, {}, found))
    return Inspection(path, source.format, schema.VERSION, size, rows)


def _built(file: File, name: str, stored: schema.Stored) -> Weight:
    """Not by the model, which would keep it: one weight is in memory at a time."""
    try:
        return schema.rebuild(name, stored, file.array)
    except ValueError as error:
        file.refuse(str(error))


def statistics(a: NDArray[Any]) -> Statistics | None:
    """Of an array, a part at a time; None where it has no finite value."""
    count = finite = zeros = 0
    low, high, total = np.inf, -np.inf, 0.0
    for part in _parts(a):
        good = part[np.isfinite(part)]
        count, finite, zeros = count + part.size, finite + good.size, zeros + int(np.count_nonzero(part == 0))
        if good.size:
            low, high, total = min(low, float(good.min())), max(high, float(good.max())), total + float(good.sum())
    if not finite:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # of float64 near its ends
        mean, squares = total / finite, 0.0
        histogram = np.zeros(BINS, np.int64)
        for part in _parts(a):
            good = part[np.isfinite(part)]
            squares += float(np.sum((good - mean) ** 2))
            place = (good / 2 - low / 2) / (high / 2 - low / 2) if low < high else np.full(good.shape, 0.5)
            histogram += np.bincount(np.clip(np.nan_to_num(place) * BINS, 0, BINS - 1).astype(np.int64), minlength=BINS)
        mean, std = (float(np.nan_to_num(value)) for value in (mean, np.sqrt(squares / finite)))
    return Statistics(low, high, mean, std, zeros / count, finite / count, histogram.tolist())


def _parts(a: Any) -> Iterator[NDArray[np.float64]]:
    flat = a.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].astype(np.float64)
