"""Models as they come: safetensors (one file or a sharded set), npz, ONNX, GGUF; one tensor in memory at a time.

Nothing here unpickles anything. A file that is not what it says it is raises FormatError.
"""

from __future__ import annotations

import errno
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .._errors import FormatError
from . import safetensors

__all__ = ["Info", "Tensors", "open_tensors"]

Array = NDArray[Any]

_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Info:
    """What is known of a tensor before it is read.

    shape and dtype are the tensor's, nbytes its size in the file. layer: what it is for, where the file says so
    ("linear", "conv", "grouped" for a convolution in groups, "depthwise", "embedding"). transposed: a linear layer's
    weight that lies there as [K, N].
    """

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    layer: str | None = None
    transposed: bool = False


class Tensors(Mapping[str, Array]):
    """The tensors of a model by name, each read when it is asked for; `info(name)` tells what it is without that.

    format is the file's, files the paths that belong to it, metadata the strings in the header of a safetensors file.
    """

    format: str
    files: list[Path]

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self._infos: dict[str, Info] = {}

    def info(self, name: str) -> Info:
        return self._infos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def tensor(self, name: str) -> safetensors.Tensor:
        """The tensor as it is written to another file when nothing is done to it."""
        info = self._infos[name]
        # What is no type of NumPy has been made float32.
        code = info.dtype if info.dtype in safetensors.CODES.values() else "F32"
        return safetensors.Tensor(code, info.shape, lambda: self[name])


def open_tensors(path: str | os.PathLike[str]) -> Tensors:
    """The tensors of the model at `path`.

    path: a .safetensors file; the index (.index.json) of a sharded set, or the directory that holds either; an .npz of
    arrays; an .onnx model (needs the extra `onnx`), whose initializers are read; a .gguf of F32, F16, BF16, Q8_0 and
    Q4_0 (needs the extra `gguf`), which are read as float32. Raises FormatError for a file that is broken or none of
    these, OSError for one that cannot be read, ImportError for an extra that is not installed.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in ("model.safetensors", _INDEX) if (path / name).is_file()), path)
        if path.is_dir():
            raise FormatError(f"{path} is a directory without model.safetensors and {_INDEX}")
    with path.open("rb") as file:
        magic = file.read(4)
    if path.name.endswith(".index.json"):
        return _Safetensors(path, *_shards(path))
    if magic == b"GGUF":
        from .gguf import GGUF

        return GGUF(path)
    if path.suffix == ".onnx":
        from .onnx import ONNX

        return ONNX(path)
    if magic[:2] == b"PK":
        return _Npz(path)
    return _Safetensors(path, [safetensors.File(path)], None)


class _Safetensors(Tensors):
    def __init__(self, path: Path, files: list[safetensors.File], names: dict[str, safetensors.File] | None) -> None:
        super().__init__()
        self.format = "safetensors" if names is None else "safetensors, sharded"
        self.files = [file.path for file in files] + ([path] if names is not None else [])
        self.metadata = files[0].metadata if names is None else {}
        self._holders = names if names is not None else dict.fromkeys(files[0].entries, files[0])
        for name, file in self._holders.items():
            entry = file.entries[name]
            self._infos[name] = Info(entry.shape, entry.dtype, entry.nbytes)

    def __getitem__(self, name: str) -> Array:
        return self._holders[name].array(name)

    def tensor(self, name: str) -> safetensors.Tensor:
        return self._holders[name].tensor(name)


def _shards(path: Path) -> tuple[list[safetensors.File], dict[str, safetensors.File]]:
    """The files of a sharded set, and the one that holds each tensor."""
    try:
        with path.open("rb") as file:
            text = file.read(safetensors.MAX_HEADER + 1)
        found = json.loads(text)["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: no index of a sharded model: {error!r}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise FormatError(f"{path}: weight_map is no object of file names")
    files: dict[str, safetensors.File] = {}
    for name in dict.fromkeys(found.values()):
        # Nothing outside of the index's own directory is read, whatever the index says.
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise FormatError(f"{path}: {name!r} in weight_map is no file's name")
        try:
            files[name] = safetensors.File(path.parent / name)
        except FileNotFoundError:
            raise FormatError(f"{path}: the set's file {name!r} is not there") from None
    for tensor, name in found.items():
        if tensor not in files[name].entries:
            raise FormatError(f"{path}: {name!r} has no tensor {tensor!r}")
    return list(files.values()), {tensor: files[name] for tensor, name in found.items()}


class _Npz(Tensors):
    """A zip file of .npy arrays. Headers are read first; a member that is larger than its header says is refused."""

    format = "npz"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.files = [path]
        with self._archive() as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name in self._infos:
                    raise FormatError(f"{path}: two arrays are called {name!r}")
                with archive.open(member) as file:
                    shape, dtype, _ = self._header(name, file)
                    if file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                        raise FormatError(f"{path}: {name!r}, {dtype} of shape {shape}, is not as long as it says")
                code = safetensors.CODES[dtype.newbyteorder("=")]
                self._infos[name] = Info(shape, code, math.prod(shape) * dtype.itemsize)

    def __getitem__(self, name: str) -> Array:
        info = self._infos[name]
        with self._archive() as archive:
            try:
                member = archive.open(f"{name}.npy")
            except KeyError:
                member = archive.open(name)
            with member as file:
                shape, dtype, fortran = self._header(name, file)
                if shape != info.shape:
                    raise FormatError(f"{self.files[0]}: {name!r} has changed since it was opened")
                data = file.read(info.nbytes)
                if len(data) != info.nbytes or file.read(1):
                    raise FormatError(f"{self.files[0]}: {name!r} is not as long as it says")
        a = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
        a = a.astype(dtype.newbyteorder("="), copy=False)
        return a.reshape(shape[::-1]).T if fortran else a.reshape(shape)

    def _archive(self) -> _Archive:
        return _Archive(self.files[0])

    def _header(self, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        try:
            version = np.lib.format.read_magic(file)
            if version not in read:
                raise ValueError(f"version {version} of the .npy format, wanted 1.0 or 2.0")
            shape, fortran, dtype = read[version](file)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise FormatError(f"{self.files[0]}: {name!r} is no array: {error}") from None
        if dtype.newbyteorder("=") not in safetensors.CODES:
            raise FormatError(f"{self.files[0]}: {name!r} is an array of {dtype}, wanted numbers")
        if len(shape) > safetensors.MAX_NDIM or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
            raise FormatError(f"{self.files[0]}: {name!r} has shape {shape}")
        return shape, dtype, fortran


class _Archive:
    """A zip file within a `with`, in which its own errors become FormatError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> zipfile.ZipFile:
        try:
            self._zip = zipfile.ZipFile(self._path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OverflowError) as error:
            raise FormatError(f"{self._path}: no zip file: {error}") from error
        return self._zip

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._zip.close()
        # A broken archive shows itself as nearly anything: errors of zlib, bz2 and struct, a password, a seek to -1.
        mine = isinstance(error, FormatError | MemoryError)
        disk = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if isinstance(error, Exception) and not mine and not disk:
            raise FormatError(f"{self._path}: the zip file is broken: {error!r}") from error
