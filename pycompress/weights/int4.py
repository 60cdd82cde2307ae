"""int4, two values to a byte, a scale for each output and group of inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _arguments, _backend
from .base import Weight, frozen

__all__ = ["Int4Weight"]

LARGEST = 7
LONGEST_K = 1 << 19  # with which no sum can leave int32
GROUP_SIZES = (32, 64, 128)
_CHUNK = 1 << 18  # values that from_float has in hand at a time


class Int4Weight(Weight):
    """An int4 weight with a scale for each output and group of inputs: w[n, k] = q[n, k] * scale[n, k // group_size].

    Parameters
    ----------
    q
        int8 [N, K], values from -7 to 7; or uint8 [N, (K + 1) // 2], two of them to a byte in two's complement, the one
        of lower k in the low half (as ONNX INT4). Bytes are not copied, and must not change any more.
    scale
        float32 [N, groups], positive and finite. Groups are of 32, 64 or 128 inputs, or of all K, which follows from
        their number; the last may be shorter.
    k
        K of a q that is bytes; None for twice as many as there are. In the last byte of an odd K the upper half is not
        looked at.

    `data` is what is stored, `q` the values. Raises TypeError for a dtype, ValueError for a shape or a value.
    """

    __slots__ = ("_k", "data", "scale")

    quantizes = True

    data: NDArray[np.uint8]
    scale: NDArray[np.float32]

    def __init__(
        self, q: NDArray[np.int8] | NDArray[np.uint8], scale: NDArray[np.float32], *, k: int | None = None
    ) -> None:
        super().__init__()
        q = _arguments.array("q", q, np.dtype(np.int8), np.dtype(np.uint8))
        if q.ndim != 2:
            raise ValueError(f"q has shape {q.shape}, wanted [N, K], or [N, (K + 1) // 2] for bytes")
        if q.dtype == np.int8:
            if not _arguments.among(k, None, q.shape[1]):
                raise ValueError(f"k is {k}, wanted None or {q.shape[1]}, as q has")
            if q.size and not -LARGEST <= int(q.min()) <= int(q.max()) <= LARGEST:
                raise ValueError(f"q has values from {q.min()} to {q.max()}, wanted -{LARGEST} to {LARGEST}")
            self._k, q = q.shape[1], _packed(q.view(np.int8))
        else:
            self._k = 2 * q.shape[1] if k is None else _arguments.whole("k", k, 0)
            if (self._k + 1) // 2 != q.shape[1] or isinstance(k, bool):
                raise ValueError(f"k is {k}, wanted {2 * q.shape[1]}, or one less, for the bytes of q {q.shape}")
            low, high = q & 15, q[:, : self._k // 2] >> 4
            if (low == 8).any() or (high == 8).any():
                raise ValueError(f"q holds -8, wanted values from -{LARGEST} to {LARGEST}")
        self.data = frozen(q)
        self.scale = frozen(_arguments.array("scale", scale, _arguments.FLOAT32))
        if self.scale.ndim != 2 or len(self.scale) != len(q) or not self._sizes():
            wanted = sorted({_groups(self._k, size) for size in (*GROUP_SIZES, max(self._k, 1))}, reverse=True)
            counts = " or ".join(f"({len(q)}, {count})" for count in wanted)
            raise ValueError(f"scale has shape {self.scale.shape}, wanted {counts} for q of [{len(q)}, {self._k}]")
        good = (self.scale > 0) & np.isfinite(self.scale)
        if not good.all():
            i, g = map(int, np.argwhere(~good)[0])
            raise ValueError(f"scale[{i}, {g}] is {self.scale[i, g]}, wanted positive and finite")

    @classmethod
    def from_float(cls, w: NDArray[np.floating[Any]], group_size: int | None = 32) -> Int4Weight:
        """Quantize symmetrically, group by group: scale = max|w| / 7, q = round_half_even(w / scale).

        w: float32 [N, K]; other floating dtypes are rounded to float32 first. group_size: 32, 64 or 128 inputs, or None
        for all of an output. q is clipped to -7 and 7. A group of zeros has scale 1.

        Raises TypeError for a dtype that is not floating, ValueError for a shape, a group size, NaN or infinity.
        """
        w = np.asarray(w)
        if not np.issubdtype(w.dtype, np.floating):
            raise TypeError(f"w is an array of {w.dtype}, wanted float32")
        if w.ndim != 2:
            raise ValueError(f"w has shape {w.shape}, wanted [N, K]")
        if group_size is not None and (isinstance(group_size, bool) or not _arguments.among(group_size, *GROUP_SIZES)):
            raise ValueError(f"group_size is {group_size!r}, wanted 32, 64, 128, or None for all inputs of an output")
        n, k = w.shape
        size = group_size or max(k, 1)
        groups = _groups(k, size)
        q, scale = np.zeros((n, (k + 1) // 2), np.uint8), np.ones((n, groups), np.float32)
        step = max(1, _CHUNK // max(k, 1))
        for start in range(0, n if k else 0, step):
            rows = slice(start, start + step)
            part = np.zeros((len(w[rows]), groups * size), np.float32)
            with np.errstate(over="ignore"):
                part[:, :k] = w[rows]
            parts = part.reshape(len(part), groups, size)
            largest = np.abs(parts).max(axis=2)
            if not np.isfinite(largest).all():
                raise ValueError("w holds NaN or infinity (in float32), wanted finite values")
            quotient = largest / np.float32(LARGEST)
            scale[rows] = np.where(quotient > 0, quotient, np.float32(1))  # 0 also where max|w| / 7 underflows
            parts /= scale[rows][:, :, None]
            np.clip(np.rint(parts, out=parts), -LARGEST, LARGEST, out=parts)
            q[rows] = _packed(part[:, :k].astype(np.int8))
        return cls(q, scale, k=k)

    def _sizes(self) -> list[int]:
        """The group sizes that scale's shape allows, the smallest first."""
        return [s for s in (*GROUP_SIZES, max(self._k, 1)) if _groups(self._k, s) == self.scale.shape[1]]

    @property
    def group_size(self) -> int:
        """32, 64 or 128; or K, where one group of more than 128 is all of an output."""
        return self._sizes()[0]

    @property
    def q(self) -> NDArray[np.int8]:
        """The values, int8 [N, K], unpacked anew."""
        values = np.empty((*self.data.shape, 2), np.uint8)
        np.bitwise_and(self.data, 15, out=values[..., 0])
        np.right_shift(self.data, 4, out=values[..., 1])
        values ^= 8
        values -= 8
        return frozen(values.view(np.int8).reshape(len(values), -1)[:, : self._k])

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.data), self._k

    def todense(self) -> NDArray[np.float32]:
        """q * scale, float32 [N, K]: what the kernel computes with."""
        scale = np.repeat(self.scale, self.group_size, axis=1)[:, : self._k]
        dense: NDArray[np.float32] = self.q * scale
        return dense

    def _pack(self) -> Any:
        if self._k > LONGEST_K:
            raise OverflowError(
                f"K is {self._k}: sums of that many products could overflow int32; wanted at most {LONGEST_K}"
            )
        data, scale = _arguments.contiguous(self.data), _arguments.contiguous(self.scale)
        return _backend.kernels().pack_int4(data, scale, self._k, self.group_size if self.scale.shape[1] > 1 else 0)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"data": self.data, "scale": self.scale}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.data, self.scale, self._k)


def _restore(data: NDArray[np.uint8], scale: NDArray[np.float32], k: int) -> Int4Weight:
    return Int4Weight(data, scale, k=k)


def _groups(k: int, size: int) -> int:
    return -(-k // size)


def _packed(q: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Two values to a byte."""
    even = np.zeros((len(q), (q.shape[1] + 1) // 2), np.uint8)
    np.bitwise_and(q[:, ::2].astype(np.uint8), 15, out=even)
    even[:, : q.shape[1] // 2] |= q[:, 1::2].astype(np.uint8) << 4
    return even
