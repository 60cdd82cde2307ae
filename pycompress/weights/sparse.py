"""Weights that store only what is not zero: single values (CSR) or blocks (BSR), as scipy.sparse has them."""

from __future__ import annotations

import importlib
import operator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import _arguments, _backend
from .base import Weight, frozen
from .explain import Explanation, dense_forms, explain
from .int8 import Int8Weight

__all__ = ["BSRWeight", "CSRWeight"]

_INT8 = np.dtype(np.int8)
_INT32 = np.dtype(np.int32)


class _SparseWeight(Weight):
    """What CSR and BSR share. Blocks are [R, C]; those of CSR are [1, 1], and have no axes in `data`."""

    __slots__ = ("_shape", "data", "indices", "indptr", "quantizes", "scale")

    quantizes: bool  # type: ignore[misc]  # of the dtype of data

    format: ClassVar[str]

    data: NDArray[Any]
    indices: NDArray[np.int32]
    indptr: NDArray[np.int32]
    scale: NDArray[np.float32] | None

    def __init__(
        self, data: Any, indices: Any, indptr: Any, shape: tuple[int, int], scale: NDArray[np.float32] | None = None
    ) -> None:
        super().__init__()
        data = _arguments.array("data", data, _arguments.FLOAT32, _INT8)
        self._check_data(data)
        n, k = self._shape = _shape(shape)
        block_n, block_k = data.shape[1:] or (1, 1)
        rows, columns = -(-n // block_n), -(-k // block_k)
        indices, indptr = _index("indices", indices), _index("indptr", indptr)
        if indptr.shape != (rows + 1,):
            raise ValueError(f"indptr has shape {indptr.shape}, wanted {(rows + 1,)} for {rows} rows of blocks")
        if indices.shape != data.shape[:1]:
            raise ValueError(f"indices has shape {indices.shape}, wanted {data.shape[:1]}, that of data")
        if indptr[0] != 0 or indptr[-1] != len(data):
            raise ValueError(
                f"indptr goes from {indptr[0]} to {indptr[-1]}, wanted 0 to the length of data, {len(data)}"
            )
        if (indptr[1:] < indptr[:-1]).any():
            i = int(np.argmax(indptr[1:] < indptr[:-1]))
            raise ValueError(f"indptr[{i + 1}] is {indptr[i + 1]} after {indptr[i]}, wanted ascending numbers")
        outside = (indices < 0) | (indices >= columns)
        if outside.any():
            i = int(np.argmax(outside))
            raise ValueError(f"indices[{i}] is {indices[i]}, wanted 0 to {columns - 1}")
        row = np.repeat(np.arange(rows, dtype=np.int32), np.diff(indptr))
        same_row = row[1:] == row[:-1]
        if (same_row & (indices[1:] <= indices[:-1])).any():
            order = np.lexsort((indices, row))
            data, indices = data[order], indices[order]
            twice = same_row & (indices[1:] == indices[:-1])
            if twice.any():
                i = int(np.argmax(twice))
                raise ValueError(f"indices has {indices[i]} twice in row {row[i]}, wanted each once")
        self._check_overhang(data, indices, row, block_n, block_k)
        self.data = frozen(_arguments.contiguous(data))
        self.indices = frozen(_arguments.contiguous(indices))
        self.indptr = frozen(_arguments.contiguous(indptr))
        self.quantizes = data.dtype == _INT8
        self.scale = self._checked_scale(scale)

    def _check_data(self, data: NDArray[Any]) -> None:
        raise NotImplementedError

    def _check_overhang(
        self, data: NDArray[Any], indices: NDArray[np.int32], row: NDArray[np.int32], block_n: int, block_k: int
    ) -> None:
        n, k = self._shape
        for axis, size, block, first in ((1, n, block_n, row), (2, k, block_k, indices)):
            if size % block and data.ndim == 3:
                beyond = data[first == size // block]
                beyond = beyond[:, size % block :] if axis == 1 else beyond[:, :, size % block :]
                if (beyond != 0).any():
                    raise ValueError(f"a block reaches over the shape {self._shape} and is not zero there")

    def _checked_scale(self, scale: Any) -> NDArray[np.float32] | None:
        if not self.quantizes:
            if scale is not None:
                raise ValueError("scale is given with float32 data, wanted None")
            return None
        if scale is None:
            raise ValueError("scale is None with int8 data, wanted float32 [N]")
        scale = _arguments.array("scale", scale, _arguments.FLOAT32)
        if scale.shape != self._shape[:1]:
            raise ValueError(f"scale has shape {scale.shape}, wanted one for each output, {self._shape[:1]}")
        good = (scale > 0) & np.isfinite(scale)
        if not good.all():
            i = int(np.argmin(good))
            raise ValueError(f"scale[{i}] is {scale[i]}, wanted positive and finite")
        return frozen(_arguments.contiguous(scale))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K), outputs by inputs."""
        return self._shape

    @property
    def nnz(self) -> int:
        """Values that are stored, zeros within blocks included."""
        return self.data.size

    @property
    def sparsity(self) -> float:
        """The part of the N K values that is not stored."""
        n, k = self._shape
        return max(0.0, 1 - self.nnz / (n * k)) if n * k else 0.0

    def _blocks(self) -> NDArray[Any]:
        """data, [blocks, R, C]."""
        return self.data if self.data.ndim == 3 else self.data.reshape(-1, 1, 1)

    def _stored(self) -> NDArray[Any]:
        """All of the matrix in the dtype of data."""
        blocks = self._blocks()
        (n, k), (block_n, block_k) = self._shape, blocks.shape[1:]
        rows, columns = len(self.indptr) - 1, -(-k // block_k)
        dense = np.zeros((rows, columns, block_n, block_k), blocks.dtype)
        dense[np.repeat(np.arange(rows), np.diff(self.indptr)), self.indices] = blocks
        whole: NDArray[Any] = dense.transpose(0, 2, 1, 3).reshape(rows * block_n, columns * block_k)
        return whole[:n, :k]

    def todense(self) -> NDArray[np.float32]:
        """float32 [N, K]: what the kernel computes with."""
        dense = np.ascontiguousarray(self._stored(), np.float32)
        return dense if self.scale is None else dense * self.scale[:, None]

    def explain(self, m: int) -> Explanation:
        """Whether this weight pays here: the times of `linear` with float32 x [m, K], by it and by its dense forms.

        It is measured now, on the threads that are set, about 50 ms for each form: this weight, and the int8 and the
        float32 weight of the same values, dense and packed. print() it, or see `seconds` and `best`.

        Raises TypeError for an m that is no int, ValueError for m < 1.
        """
        return explain(self, m, dense_forms(self))

    def _pack(self) -> Any:
        n, k = self._shape
        if self.quantizes:
            _arguments.check_k(k, wide=False)
        return _backend.kernels().pack_sparse(self._blocks(), self.indices, self.indptr, self.scale, n, k)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {"data": self.data, "indices": self.indices, "indptr": self.indptr}
        return arrays if self.scale is None else arrays | {"scale": self.scale}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.data, self.indices, self.indptr, self._shape, self.scale)

    def __repr__(self) -> str:
        of = f"{self.data.dtype}, {self.sparsity:.1%} zeros, {self.nbytes} bytes"
        block = "" if self.data.ndim == 1 else f", blocks {self.data.shape[1]}x{self.data.shape[2]}"
        return f"{type(self).__name__}({'x'.join(map(str, self.shape))}{block}, {of})"


class CSRWeight(_SparseWeight):
    """A sparse weight of single values: those of output n are data[indptr[n]:indptr[n + 1]], at the inputs `indices`.

    Parameters
    ----------
    data
        float32 or int8 [nnz].
    indices
        Any integers [nnz], stored as int32. In a row each once; they are sorted where they are not.
    indptr
        Any integers [N + 1], stored as int32.
    shape
        (N, K).
    scale
        float32 [N], positive and finite, of int8 data: w[n] = data * scale[n].

    Arrays are copied only where they are not contiguous, sorted and of these dtypes, and must not change any more. With
    int8 data `linear` quantizes x as for an `Int8Weight`, and gives the bits that the dense weight would.

    Raises TypeError for a dtype; ValueError for a shape, for indices out of range or given twice, and for counts that
    do not agree.
    """

    __slots__ = ()

    format = "csr"

    def _check_data(self, data: NDArray[Any]) -> None:
        if data.ndim != 1:
            raise ValueError(f"data has shape {data.shape}, wanted [nnz]")

    @classmethod
    def from_dense(cls, w: NDArray[np.floating[Any]], *, bits: int = 32) -> CSRWeight:
        """The values of w that are not zero.

        w: float32 [N, K]; other floating dtypes are rounded to float32 first. bits: 32, or 8 for int8 by the rule of
        `Int8Weight.from_float`; what is stored follows from w, even where it is quantized to 0.

        Raises TypeError for a dtype that is not floating; ValueError for a shape, for bits, and with 8 bits for NaN
        or infinity.
        """
        w, values, scale = _dense(w, bits)
        keep = w != 0
        indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
        return cls(values[keep], np.nonzero(keep)[1], indptr, w.shape, scale)

    @classmethod
    def from_scipy(cls, m: Any, scale: NDArray[np.float32] | None = None) -> CSRWeight:
        """From a scipy.sparse matrix or array of any format, float (rounded to float32) or int8 (with `scale`)."""
        return cls(*_from_scipy(m, "csr"), scale)

    def to_scipy(self) -> Any:
        """A scipy.sparse.csr_array of float32; scipy has to be installed."""
        sparse = importlib.import_module("scipy.sparse")
        data = self.data if self.scale is None else self.data * np.repeat(self.scale, np.diff(self.indptr))
        return sparse.csr_array((data, self.indices.copy(), self.indptr.copy()), shape=self.shape)


class BSRWeight(_SparseWeight):
    """A sparse weight of dense blocks of R outputs by C inputs: those of row of blocks i are
    data[indptr[i]:indptr[i + 1]], at the columns of blocks `indices`.

    Parameters
    ----------
    data
        float32 or int8 [blocks, R, C].
    indices
        Any integers [blocks], stored as int32. In a row each once; they are sorted where they are not.
    indptr
        Any integers [ceil(N / R) + 1], stored as int32.
    shape
        (N, K). Where these are no multiples of R and C, the last blocks reach over them, and are zero there.
    scale
        float32 [N], positive and finite, of int8 data: w[n] = data * scale[n].

    Blocks of (1, 4) are the fastest in int8, (4, 1) and larger multiples of 4 outputs in float32; any other size works.
    Arrays are copied only where they are not contiguous, sorted and of these dtypes, and must not change any more.

    Raises TypeError for a dtype; ValueError for a shape, for indices out of range or given twice, and for counts that
    do not agree.
    """

    __slots__ = ()

    format = "bsr"

    def _check_data(self, data: NDArray[Any]) -> None:
        if data.ndim != 3 or 0 in data.shape[1:]:
            raise ValueError(f"data has shape {data.shape}, wanted [blocks, R, C] with R and C at least 1")

    @property
    def block(self) -> tuple[int, int]:
        """(R, C), outputs by inputs."""
        return self.data.shape[1], self.data.shape[2]

    @classmethod
    def from_dense(cls, w: NDArray[np.floating[Any]], block: tuple[int, int] = (4, 1), *, bits: int = 32) -> BSRWeight:
        """The blocks of w in which some value is not zero.

        w: float32 [N, K]; other floating dtypes are rounded to float32 first. block: (R, C). bits: 32, or 8 for int8 by
        the rule of `Int8Weight.from_float`; what is stored follows from w, even where it is quantized to 0.

        Raises TypeError for a dtype that is not floating; ValueError for a shape, for bits, and with 8 bits for NaN
        or infinity.
        """
        w, values, scale = _dense(w, bits)
        block_n, block_k = _shape(block, "block")
        if not block_n or not block_k:
            raise ValueError(f"block is {block}, wanted sizes of at least 1")
        (n, k), rows, columns = w.shape, -(-w.shape[0] // block_n), -(-w.shape[1] // block_k)

        def blocks(a: NDArray[Any]) -> NDArray[Any]:
            if (n, k) != (rows * block_n, columns * block_k):
                a = np.pad(a, ((0, rows * block_n - n), (0, columns * block_k - k)))
            cut: NDArray[Any] = a.reshape(rows, block_n, columns, block_k).transpose(0, 2, 1, 3)
            return cut

        keep = (blocks(w) != 0).any(axis=(2, 3))
        indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
        return cls(blocks(values)[keep], np.nonzero(keep)[1], indptr, (n, k), scale)

    @classmethod
    def from_scipy(cls, m: Any, scale: NDArray[np.float32] | None = None) -> BSRWeight:
        """From a scipy.sparse BSR matrix or array, float (rounded to float32) or int8 (with `scale`)."""
        if getattr(m, "format", None) != "bsr":
            raise ValueError(f"m has the format {getattr(m, 'format', None)!r}, wanted 'bsr': m.tobsr((R, C))")
        return cls(*_from_scipy(m, "bsr"), scale)

    def to_scipy(self) -> Any:
        """A scipy.sparse.bsr_array of float32; scipy has to be installed. Its shape is one of whole blocks."""
        sparse = importlib.import_module("scipy.sparse")
        data, (block_n, block_k) = self.data.astype(np.float32), self.block
        rows, columns = len(self.indptr) - 1, -(-self.shape[1] // block_k)
        if self.scale is not None:
            scale = np.pad(self.scale, (0, rows * block_n - len(self.scale)), constant_values=1)
            data *= np.repeat(scale.reshape(rows, block_n), np.diff(self.indptr), axis=0)[:, :, None]
        shape = rows * block_n, columns * block_k
        return sparse.bsr_array((data, self.indices.copy(), self.indptr.copy()), shape=shape)


def _shape(value: Any, name: str = "shape") -> tuple[int, int]:
    try:
        first, second = (operator.index(size) for size in value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}, wanted a pair of ints") from None
    if first < 0 or second < 0:
        raise ValueError(f"{name} is {value!r}, wanted sizes >= 0")
    if max(first, second) > _arguments.INT32_MAX:
        raise OverflowError(f"{name} is {value!r}, wanted sizes within int32")
    return first, second


def _index(name: str, value: Any) -> NDArray[np.int32]:
    """As int32 [count]."""
    a = np.asarray(value)
    if a.dtype == _INT32 and a.dtype.isnative and a.ndim == 1:
        return a
    if not (np.issubdtype(a.dtype, np.integer) or a.size == 0):
        raise TypeError(f"{name} is an array of {a.dtype}, wanted integers")
    if a.ndim != 1:
        raise ValueError(f"{name} has shape {a.shape}, wanted one axis")
    if a.size and not -_arguments.INT32_MAX <= int(a.min()) <= int(a.max()) <= _arguments.INT32_MAX:
        raise ValueError(f"{name} goes from {a.min()} to {a.max()}, wanted int32")
    return a.astype(np.int32)


def _dense(w: Any, bits: int) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32] | None]:
    """w in float32, and the values and scale that are stored."""
    w = np.asarray(w)
    if not np.issubdtype(w.dtype, np.floating):
        raise TypeError(f"w is an array of {w.dtype}, wanted float32")
    if w.ndim != 2:
        raise ValueError(f"w has shape {w.shape}, wanted [N, K]")
    if not _arguments.among(bits, 32, 8):
        raise ValueError(f"bits is {bits!r}, wanted 32 or 8")
    with np.errstate(over="ignore"):
        w = w.astype(np.float32, copy=False)
    if bits == 32:
        return w, w, None
    int8 = Int8Weight.from_float(w)
    return w, int8.q, int8.scale


def _from_scipy(m: Any, format: str) -> tuple[Any, Any, Any, tuple[int, int]]:
    if not hasattr(m, "format") or not hasattr(m, "shape"):
        raise TypeError(f"m is {type(m).__name__}, wanted a scipy.sparse matrix or array")
    if m.format != format:
        m = getattr(m, f"to{format}")()
    if not m.has_canonical_format:
        m = m.copy()
        m.sum_duplicates()
    data = m.data
    if np.issubdtype(data.dtype, np.floating):
        with np.errstate(over="ignore"):
            data = data.astype(np.float32)
    elif data.dtype != _INT8:
        raise TypeError(f"m is an array of {data.dtype}, wanted float32 or int8")
    return data, m.indices, m.indptr, m.shape
