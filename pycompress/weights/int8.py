"""int8, a scale for each output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _arguments, _backend
from .base import Weight, frozen

__all__ = ["Int8Weight"]

_CHUNK = 1 << 18  # values that from_float has in hand at a time


class Int8Weight(Weight):
    """An int8 weight with a scale for each output: w[n] = q[n] * scale[n].

    Parameters
    ----------
    q
        int8 [N, K], or [O, I, kh, kw] of a convolution. It is not copied, and must not change any more.
    scale
        float32 [N], positive and finite.

    Raises TypeError for a dtype, ValueError for a shape or a scale.
    """

    __slots__ = ("q", "scale")

    quantizes = True

    q: NDArray[np.int8]
    scale: NDArray[np.float32]

    def __init__(self, q: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
        super().__init__()
        self.q = frozen(_arguments.array("q", q, np.dtype(np.int8)))
        self.scale = frozen(_arguments.array("scale", scale, _arguments.FLOAT32))
        if self.q.ndim not in (2, 4):
            raise ValueError(f"q has shape {self.q.shape}, wanted [N, K] or [O, I, kh, kw]")
        if self.scale.shape != self.q.shape[:1]:
            raise ValueError(f"scale has shape {self.scale.shape}, wanted one for each output of q, {self.q.shape[:1]}")
        good = (self.scale > 0) & np.isfinite(self.scale)
        if not good.all():
            i = int(np.argmin(good))
            raise ValueError(f"scale[{i}] is {self.scale[i]}, wanted positive and finite")

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

    def todense(self) -> NDArray[np.float32]:
        """q * scale, float32, of q's shape: what the kernel computes with."""
        dense: NDArray[np.float32] = self.q * self.scale.reshape(-1, *[1] * (self.q.ndim - 1))
        return dense

    def _pack(self) -> Any:
        if self.q.ndim != 2:
            raise ValueError(f"weight has shape {self.shape}, wanted a matrix [N, K]")
        _arguments.check_k(self.q.shape[1], wide=False)
        return _backend.kernels().pack_int8(self.q, _arguments.contiguous(self.scale))

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"q": self.q, "scale": self.scale}
