"""GGUF, the files of llama.cpp (extra `gguf`): F32, F16, BF16, Q8_0 and Q4_0, read as float32.

The package's reader trusts a file: a length that lies keeps it busy until memory ends. So the header is read here, and
the package is asked what the types are, and for the values of blocks.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._errors import FormatError
from . import safetensors
from .sources import Info, Tensors

__all__ = ["GGUF"]

_FLOATS = ("F32", "F16", "BF16")
_BLOCKS = ("Q8_0", "Q4_0")

# The types of values in the header: bytes of each, by its number. 8 is a string, 9 an array.
_VALUES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY, _UINT32 = 8, 9, 4


class GGUF(Tensors):
    """The tensors of a GGUF file; a tensor of another type is a FormatError that names it, when it is read."""

    format = "gguf"

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            import gguf
        except ImportError as error:
            raise ImportError('GGUF files need the package gguf: pip install "pycompress-kernels[gguf]"') from error
        self.files = [path]
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        types = {int(t): (t.name, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGMLQuantizationType}
        self._start: dict[str, int] = {}
        try:
            self._read(_Cursor(self._map), types)
        except (ValueError, struct.error) as error:
            raise FormatError(f"{path}: no GGUF file: {error}") from None

    def _read(self, at: _Cursor, types: dict[int, tuple[str, int, int]]) -> None:
        at.skip(4)  # GGUF
        version = at.number("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}, wanted 2 or 3, little-endian")
        tensors, values = at.count(24), at.count(13)
        alignment = 32
        for _ in range(values):
            key, value = at.string(), at.number("<I")
            if key == b"general.alignment" and value == _UINT32:
                alignment = at.number("<I")
            else:
                at.value(value)
        if alignment < 8 or alignment & (alignment - 1):
            raise ValueError(f"an alignment of {alignment}, wanted a power of 2, 8 or more")
        found = []
        for _ in range(tensors):
            name = at.string().decode("utf-8")
            ndim = at.number("<I")
            if ndim > safetensors.MAX_NDIM:
                raise ValueError(f"tensor {name!r} has {ndim} dimensions")
            shape = tuple(reversed([at.number("<Q") for _ in range(ndim)]))
            found.append((name, shape, at.number("<I"), at.number("<Q")))
        begin = -(-at.at // alignment) * alignment
        for name, shape, number, offset in found:
            if name in self._infos:
                raise ValueError(f"two tensors are called {name!r}")
            if number not in types:
                raise ValueError(f"tensor {name!r} has the unknown type {number}")
            kind, block, size = types[number]
            if math.prod(shape) % block or (shape and shape[-1] % block):
                raise ValueError(f"tensor {name!r}, {kind} of shape {shape}, is not cut into blocks of {block}")
            nbytes = math.prod(shape) // block * size
            if offset % alignment or begin + offset + nbytes > len(self._map):
                raise ValueError(f"tensor {name!r}, {kind} of shape {shape}, does not lie within the file at {offset}")
            self._start[name] = begin + offset
            # llama.cpp's names for tables; all else that is a matrix is a linear layer's.
            layer = "embedding" if name in ("token_embd.weight", "position_embd.weight") else None
            self._infos[name] = Info(shape, kind, nbytes, layer)

    def __getitem__(self, name: str) -> NDArray[Any]:
        from gguf import GGMLQuantizationType, quants

        info = self._infos[name]
        if info.dtype in _FLOATS:
            plain = safetensors.decode(info.dtype, info.shape, self._map, self._start[name])
            return plain.astype(np.float32, copy=False)
        if info.dtype not in _BLOCKS:
            wanted = ", ".join((*_FLOATS, *_BLOCKS))
            raise FormatError(f"{self.files[0]}: tensor {name!r} is {info.dtype}, and {wanted} can be read")
        if not info.nbytes:
            return np.empty(info.shape, np.float32)
        data = np.frombuffer(self._map, np.uint8, info.nbytes, self._start[name])
        with np.errstate(over="ignore", invalid="ignore"):  # scales of a broken file
            values = quants.dequantize(data.reshape(*info.shape[:-1], -1), GGMLQuantizationType[info.dtype])
        return np.asarray(values, np.float32).reshape(info.shape)


class _Cursor:
    """A place in a file; ValueError beyond its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self.at = data, 0

    def skip(self, size: int) -> int:
        """Where it was."""
        before = self.at
        if size > len(self._data) - before:
            raise ValueError(f"{size} bytes at {before} are beyond its end")
        self.at += size
        return before

    def number(self, form: str) -> int:
        (found,) = struct.unpack_from(form, self._data, self.skip(struct.calcsize(form)))
        return int(found)

    def count(self, least: int) -> int:
        """How many things follow, of at least so many bytes each."""
        count = self.number("<Q")
        if count * least > len(self._data) - self.at:
            raise ValueError(f"{count} things of {least} bytes and more at {self.at} are beyond its end")
        return count

    def string(self) -> bytes:
        start = self.skip(self.count(1))
        return self._data[start : self.at]

    def value(self, kind: int, depth: int = 0) -> None:
        """Go past a value of the header."""
        if kind in _VALUES:
            self.skip(_VALUES[kind])
        elif kind == _STRING:
            self.string()
        elif kind == _ARRAY and depth < 4:
            inner = self.number("<I")
            if inner in _VALUES:
                self.skip(self.count(_VALUES[inner]) * _VALUES[inner])
            else:
                for _ in range(self.count(8)):
                    self.value(inner, depth + 1)
        else:
            raise ValueError(f"a value of the unknown type {kind} at {self.at}")
