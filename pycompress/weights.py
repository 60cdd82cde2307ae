"""Compressed weights: canonical arrays, the same on every CPU, and beside them the packed form for the CPU at hand."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _arguments, _backend

__all__ = ["Int8Weight", "QParams"]

_CHUNK = 1 << 18  # values that from_float has in hand at a time


class _QParams(NamedTuple):
    scale: float
    zero_point: int


class QParams(_QParams):
    """Scale and zero point of a quantized tensor: real = (q - zero_point) * scale.

    scale is positive and finite in float32, to which it is rounded; zero_point is an int within uint8 or int8,
    whichever the tensor has. Wherever an operation takes a QParams, a plain (scale, zero_point) will do.

    Raises TypeError when they are not numbers, ValueError when they are out of range.
    """

    __slots__ = ()

    def __new__(cls, scale: float, zero_point: int = 0) -> QParams:
        try:
            with np.errstate(over="ignore"):
                rounded = float(np.float32(_arguments.number(scale)))
        except (TypeError, ValueError):
            raise TypeError(f"scale is {scale!r}, wanted a number") from None
        try:
            index = operator.index(zero_point)
        except TypeError:
            raise TypeError(f"zero_point is {zero_point!r}, wanted an int") from None
        if not (rounded > 0 and math.isfinite(rounded)):
            raise ValueError(f"scale is {scale!r}, wanted positive and finite in float32")
        if not -128 <= index <= 255:
            raise ValueError(f"zero_point is {index}, wanted -128 to 255")
        return super().__new__(cls, rounded, index)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> QParams:  # type: ignore[override]  # mypy wants arguments of typeshed's
        """As the constructor; `_replace` goes through it, so that it checks as well."""
        return cls(*iterable)


class Int8Weight:
    """An int8 weight with a scale for each output: w[n] = q[n] * scale[n].

    Parameters
    ----------
    q
        int8 [N, K], or [O, I, kh, kw] of a convolution. It is not copied, and must not change any more.
    scale
        float32 [N], positive and finite.

    Raises TypeError for a dtype, ValueError for a shape or a scale.

    It can be pickled and copied. What is packed for this CPU, once, when it is first used, is not part of that.
    """

    __slots__ = ("_packed", "q", "scale")

    q: NDArray[np.int8]
    scale: NDArray[np.float32]

    def __init__(self, q: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
        self.q = _frozen(_arguments.array("q", q, np.dtype(np.int8)))
        self.scale = _frozen(_arguments.array("scale", scale, _arguments.FLOAT32))
        if self.q.ndim not in (2, 4):
            raise ValueError(f"q has shape {self.q.shape}, wanted [N, K] or [O, I, kh, kw]")
        if self.scale.shape != self.q.shape[:1]:
            raise ValueError(f"scale has shape {self.scale.shape}, wanted one for each output of q, {self.q.shape[:1]}")
        good = (self.scale > 0) & np.isfinite(self.scale)
        if not good.all():
            i = int(np.argmin(good))
            raise ValueError(f"scale[{i}] is {self.scale[i]}, wanted positive and finite")
        self._packed: Any = None

    @classmethod
    def from_float(cls, w: NDArray[np.floating[Any]]) -> Int8Weight:
        """Quantize symmetrically, output by output: scale = max|w| / 127, q = round_half_even(w / scale).

        w: float32 [N, K] or [O, I, kh, kw]; other floating dtypes are rounded to float32 first. q is clipped to -127
        and 127. An output of zeros has scale 1.

        Raises TypeError for a dtype that is not floating, ValueError for a shape, NaN or infinity.
        """
        w = np.asarray(w)
        if not np.issubdtype(w.dtype, np.floating):
            raise TypeError(f"w is an array of {w.dtype}, wanted float32")
        if w.ndim not in (2, 4):
            raise ValueError(f"w has shape {w.shape}, wanted [N, K] or [O, I, kh, kw]")
        q, scale = np.empty(w.shape, np.int8), np.ones(len(w), np.float32)
        step = max(1, _CHUNK * len(w) // max(w.size, 1))
        for start in range(0, len(w) if w.size else 0, step):
            rows = slice(start, start + step)
            with np.errstate(over="ignore"):
                part = w[rows].astype(np.float32)
            largest = np.abs(part).max(axis=tuple(range(1, w.ndim)))
            if not np.isfinite(largest).all():
                raise ValueError("w holds NaN or infinity (in float32), wanted finite values")
            quotient = largest / np.float32(127)
            scale[rows] = np.where(quotient > 0, quotient, np.float32(1))  # 0 also where max|w| / 127 underflows
            part /= scale[rows].reshape(-1, *[1] * (w.ndim - 1))
            np.clip(np.rint(part, out=part), -127, 127, out=part)
            q[rows] = part
        return cls(q, scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of q: (N, K) or (O, I, kh, kw)."""
        return self.q.shape

    @property
    def nbytes(self) -> int:
        """Bytes of what is stored: q and scale."""
        return self.q.nbytes + self.scale.nbytes

    def todense(self) -> NDArray[np.float32]:
        """q * scale, float32, of q's shape: what the kernel computes with."""
        dense: NDArray[np.float32] = self.q * self.scale.reshape(-1, *[1] * (self.q.ndim - 1))
        return dense

    def packed(self) -> Any:
        """The weight as the kernel in use reads it, made at the first call.

        Raises OverflowError when K is so long that a sum could leave int32, ValueError for a 4-D weight.
        """
        if self._packed is None:
            if self.q.ndim != 2:
                raise ValueError(f"weight has shape {self.shape}, wanted a matrix [N, K]")
            _arguments.check_k(self.q.shape[1], wide=False)
            self._packed = _backend.kernels().pack_int8(self.q, _arguments.contiguous(self.scale))
        return self._packed

    def __reduce__(self) -> tuple[type[Int8Weight], tuple[NDArray[np.int8], NDArray[np.float32]]]:
        return Int8Weight, (self.q, self.scale)

    def __repr__(self) -> str:
        return f"Int8Weight({'x'.join(map(str, self.shape))}, {self.nbytes} bytes)"


def _frozen(a: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: the packed form would not follow a change."""
    view: NDArray[Any] = a.view()
    view.flags.writeable = False
    return view
