"""The container: safetensors files, read by memory map, every number in the header checked before it is used.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the header's length, the header as JSON,
the tensors' bytes one after the other, without gaps. The reader here is our own, because it must not trust a file,
should name what is wrong, and has to hand out ranges of bytes; the writer because it must not hold a model in memory.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._errors import FormatError

__all__ = ["CODES", "SIZES", "File", "Range", "Tensor", "decode", "write"]

Array = NDArray[Any]

MAX_HEADER = 100_000_000  # bytes, as the safetensors library has it
MAX_NDIM = 32  # of NumPy before 2
CHUNK = 1 << 20

CODES = {
    np.dtype(name): code
    for name, code in {
        **{"float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL"},
        **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
        **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    }.items()
}
# By name, so that they are the very objects that np.float32 and the like have: native calls know those at a glance.
_DTYPES = {code: np.dtype(f"<{dtype.str[1:]}") for dtype, code in CODES.items()}
# bfloat16 and the 8-bit floats are no types of NumPy: they are read as float32, and copied as the bytes they are.
_OTHERS = {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
SIZES: dict[str, int] = {code: dtype.itemsize for code, dtype in _DTYPES.items()} | _OTHERS


@dataclass(frozen=True)
class Range:
    """Bytes within a file."""

    path: Path
    start: int


@dataclass(frozen=True)
class Tensor:
    """A tensor that is to be written: its dtype's code, its shape, and its bytes.

    data: an array, bytes in another file, or what makes the array when it is its turn.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Array | Range | Callable[[], Array]

    @classmethod
    def of(cls, a: Array) -> Tensor:
        """An array; TypeError for a dtype that no code stands for."""
        dtype = a.dtype.newbyteorder("=")
        if dtype not in CODES:
            raise TypeError(f"an array of {a.dtype} cannot be stored, wanted one of {', '.join(map(str, CODES))}")
        return cls(CODES[dtype], a.shape, a)

    @property
    def nbytes(self) -> int:
        return SIZES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its dtype's code, its shape, and where its bytes are."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class File:
    """A safetensors file, mapped. FormatError when it is none, OSError when it cannot be read.

    metadata: the header's strings by name. entries: its tensors by name, in the order of their bytes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                self.refuse(f"{size} bytes are too few for a safetensors file")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(self._map[:8], "little")
        if not 2 <= length <= min(MAX_HEADER, len(self._map) - 8):
            self.refuse(f"a header of {length} bytes, wanted 2 to {min(MAX_HEADER, len(self._map) - 8)}")
        header = self._parse(self._map[8 : 8 + length])
        self.metadata: dict[str, str] = self._strings(header.pop("__metadata__", {}))
        begin, end = 8 + length, len(self._map)
        found = {name: self._entry(name, value, begin, end) for name, value in header.items()}
        self.entries: dict[str, Entry] = dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].nbytes)))
        at = begin
        for name, entry in self.entries.items():
            if entry.start != at:
                self.refuse(
                    f"tensor {name!r} begins at byte {entry.start}, where {at} is the next: a gap or an overlap"
                )
            at += entry.nbytes
        if at != end:
            self.refuse(f"the tensors end at byte {at}, the file at {end}")

    def refuse(self, what: str) -> NoReturn:
        """Raises the FormatError that says `what`."""
        raise FormatError(f"{self.path}: {what}")

    def _parse(self, header: bytes) -> dict[str, Any]:
        try:
            found = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, a number too long, a key twice
            self.refuse(f"the header is no JSON: {error}")
        if not isinstance(found, dict):
            self.refuse("the header is no JSON object")
        return found

    def _strings(self, found: Any) -> dict[str, str]:
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            self.refuse("__metadata__ in the header is no object of strings")
        return found

    def _entry(self, name: str, found: Any, begin: int, end: int) -> Entry:
        if not isinstance(found, dict) or set(found) != {"dtype", "shape", "data_offsets"}:
            self.refuse(f"tensor {name!r} in the header is no object of dtype, shape and data_offsets")
        dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
        if not isinstance(dtype, str) or dtype not in SIZES:
            self.refuse(f"tensor {name!r} has dtype {dtype!r}, wanted one of {', '.join(SIZES)}")
        if not _sizes(shape) or len(shape) > MAX_NDIM:
            self.refuse(f"tensor {name!r} has shape {shape!r}, wanted a list of up to {MAX_NDIM} sizes")
        if not _sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= end - begin:
            self.refuse(f"tensor {name!r} has data_offsets {offsets!r}, wanted a range within {end - begin} bytes")
        nbytes = offsets[1] - offsets[0]
        if math.prod(shape) * SIZES[dtype] != nbytes:
            self.refuse(f"tensor {name!r}, {dtype} of shape {shape}, has {nbytes} bytes")
        return Entry(dtype, tuple(shape), begin + offsets[0], nbytes)

    def array(self, name: str) -> Array:
        """A tensor as a read-only array: a view of the map wherever NumPy has its dtype, float32 for the other
        floats."""
        entry = self.entries[name]
        a = decode(entry.dtype, entry.shape, self._map, entry.start)
        if entry.dtype == "BOOL" and entry.nbytes and int(a.view(np.uint8).max()) > 1:
            self.refuse(f"tensor {name!r} is BOOL, and has a byte that is neither 0 nor 1")
        return a

    def tensor(self, name: str) -> Tensor:
        """The tensor's bytes where they are, to be copied into another file."""
        entry = self.entries[name]
        return Tensor(entry.dtype, entry.shape, Range(self.path, entry.start))


def decode(dtype: str, shape: tuple[int, ...], buffer: Any, start: int = 0) -> Array:
    """The array of a tensor that lies in `buffer` at byte `start`; its length has been checked."""
    count = math.prod(shape)
    stored = _DTYPES.get(dtype) or np.dtype(f"<u{SIZES[dtype]}")
    # An empty tensor may begin where the buffer ends, and frombuffer does not take that.
    a = np.frombuffer(buffer, stored, count, start) if count else np.empty(0, stored)
    if dtype == "BF16":
        a = (a.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif dtype in ("F8_E4M3", "F8_E5M2"):
        a = _float8(dtype)[a]
    elif not (a.flags.aligned and a.dtype.isnative):
        a = a.astype(a.dtype.newbyteorder("="))
    a = a.reshape(shape)
    a.flags.writeable = False
    return a


def _float8(dtype: str) -> NDArray[np.float32]:
    """The values of the 256 bytes of an 8-bit float: E4M3 (no infinities, NaN is S.1111.111), or E5M2 (as IEEE)."""
    bits = np.arange(256, dtype=np.uint16)
    if dtype == "F8_E5M2":
        half: NDArray[np.float16] = (bits << np.uint16(8)).view(np.float16)  # E5M2 is its upper half
        return half.astype(np.float32)
    exponent, fraction = (bits >> 3 & 15).astype(np.int32), (bits & 7).astype(np.float32)
    value = np.where(exponent > 0, np.ldexp(1 + fraction / 8, exponent - 7), np.ldexp(fraction / 8, -6))
    value[(bits & 127) == 127] = np.nan
    signed: NDArray[np.float32] = np.where(bits > 127, -value, value).astype(np.float32)
    return signed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _sizes(found: Any) -> bool:
    """Whether this is a list of ints (True is none) that can be sizes."""
    return isinstance(found, list) and all(type(size) is int and 0 <= size < 2**63 for size in found)


def write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], step: Callable[[int], None] = lambda n: None
) -> None:
    """Write a new file at `path`, a chunk at a time, and bring it to the disk; `step` is told of bytes as they are
    done.

    Tensors of larger values come first, so that each is aligned to its values. FormatError when the header would be too
    long for any reader. What is at `path` is overwritten: see `replacing`.
    """
    order = sorted(tensors, key=lambda name: -SIZES[tensors[name].dtype])
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise FormatError(f"{path}: a header of {len(text)} bytes, and {MAX_HEADER} is the most that readers take")
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = tensors[name]
            if isinstance(tensor.data, Range):
                _copy(file.fileno(), tensor.data, tensor.nbytes, step)
            else:
                for part in _chunks(tensor.data() if callable(tensor.data) else tensor.data):
                    _write_all(file.fileno(), part)
                    step(len(part))
        os.fsync(file.fileno())


def _chunks(a: Array) -> Iterable[memoryview]:
    """The bytes of an array in C order, little-endian, a part at a time."""
    flat = np.ascontiguousarray(a, a.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, CHUNK):
        yield flat[start : start + CHUNK].data


def _write_all(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _copy(target: int, data: Range, nbytes: int, step: Callable[[int], None]) -> None:
    """Copy bytes between files within the kernel, where the file systems can."""
    with data.path.open("rb", buffering=0) as source:
        at, within = data.start, hasattr(os, "copy_file_range")
        end = at + nbytes
        while at < end:
            size = min(end - at, 64 * CHUNK if within else CHUNK)
            if within:
                try:
                    done = os.copy_file_range(source.fileno(), target, size, at)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
                        raise
                    within = False
                    continue
            else:
                part = os.pread(source.fileno(), size, at)
                _write_all(target, part)
                done = len(part)
            if done == 0:
                raise FormatError(f"{data.path}: the file became shorter while it was read")
            at += done
            step(done)
