"""Our own files: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..weights.base import Weight
from . import safetensors, schema
from .safetensors import Tensor

__all__ = ["replacing", "save", "write"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path`: what is written there takes its place when the block ends without error."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.fchmod(handle, 0o666 & ~_umask())  # mkstemp's is for its owner only
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        publish(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def publish(beside: Path, path: Path) -> None:
    """Rename, and see to it that the name is on the disk too."""
    os.replace(beside, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot sync a directory
            os.fsync(directory)
    finally:
        os.close(directory)


def save(
    path: Path, tensors: Mapping[str, Weight | Any], report: Any, step: Callable[[int], None] = lambda n: None
) -> None:
    """Write weights and arrays to `path`."""
    plain = {name: Tensor.of(value) for name, value in tensors.items() if not isinstance(value, Weight)}
    weights = {}
    for name, value in tensors.items():
        if isinstance(value, Weight):
            stored, arrays = schema.describe(name, value)
            weights[name] = stored, {tensor: Tensor.of(a) for tensor, a in arrays.items()}
    write(path, plain, weights, report, step)


def write(
    path: Path,
    plain: Mapping[str, Tensor],
    weights: Mapping[str, tuple[schema.Stored, Mapping[str, Tensor]]],
    report: Any,
    step: Callable[[int], None] = lambda n: None,
) -> None:
    """Write plain tensors, and weights as their entry and the tensors it names."""
    tensors = dict(plain)
    for name, (_, parts) in weights.items():
        if both := tensors.keys() & ({name} | parts.keys()):
            raise ValueError(f"{name!r} would be stored under a name that another tensor has: {min(both)!r}")
        tensors.update(parts)
    entries = {name: stored for name, (stored, _) in weights.items()}
    safetensors.write(path, tensors, schema.metadata(entries, report), step)
