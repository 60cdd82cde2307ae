"""The weight of a depthwise convolution: each output reads one channel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _arguments, _backend
from .base import Weight, frozen
from .int8 import Int8Weight

__all__ = ["DepthwiseWeight"]


class DepthwiseWeight(Weight):
    """A depthwise weight: int8 with a scale for each output, w[o] = q[o] * scale[o], or float32.

    Parameters
    ----------
    q
        int8 or float32 [O, 1, kh, kw]. With an image of C channels, O is a multiple of C, and output o reads channel
        o // (O // C). It is not copied, and must not change any more.
    scale
        float32 [O], positive and finite, for int8; None for float32.

    Raises TypeError for a dtype, ValueError for a shape or a scale.
    """

    __slots__ = ("_blocks", "q", "scale")

    q: NDArray[Any]
    scale: NDArray[np.float32] | None

    def __init__(self, q: NDArray[Any], scale: NDArray[np.float32] | None = None) -> None:
        super().__init__()
        self._blocks: Any = None
        q = _arguments.array("q", q, np.dtype(np.int8), _arguments.FLOAT32)
        if q.ndim != 4 or q.shape[1] != 1 or 0 in q.shape[2:]:
            raise ValueError(f"q has shape {q.shape}, wanted [O, 1, kh, kw]")
        if q.dtype == np.int8:
            if scale is None:
                raise TypeError("scale is None, wanted float32 [O] for an int8 weight")
            checked = Int8Weight(q, scale)
            self.q, self.scale = checked.q, checked.scale
        else:
            if scale is not None:
                raise ValueError("scale is given, wanted None for a float32 weight")
            self.q, self.scale = frozen(q), None

    @classmethod
    def from_float(cls, w: NDArray[np.floating[Any]], bits: int = 8) -> DepthwiseWeight:
        """Quantize output by output as `Int8Weight.from_float` (bits=8), or keep float32 (bits=32).

        w: float32 [O, 1, kh, kw]; other floating dtypes are rounded to float32 first.

        Raises TypeError for a dtype that is not floating, ValueError for bits, a shape, NaN or infinity.
        """
        if not _arguments.among(bits, 8, 32):
            raise ValueError(f"bits is {bits!r}, wanted 8 or 32")
        w = np.asarray(w)
        if bits == 8:
            if w.ndim != 4:
                raise ValueError(f"w has shape {w.shape}, wanted [O, 1, kh, kw]")
            quantized = Int8Weight.from_float(w)
            return cls(quantized.q, quantized.scale)
        if not np.issubdtype(w.dtype, np.floating):
            raise TypeError(f"w is an array of {w.dtype}, wanted float32")
        with np.errstate(over="ignore"):
            w = w.astype(np.float32, copy=False)
        if not np.isfinite(w).all():
            raise ValueError("w holds NaN or infinity (in float32), wanted finite values")
        return cls(w)

    @property
    def quantizes(self) -> bool:  # type: ignore[override]  # of this kind each object says it
        """Whether x may be uint8 or int8, and float32 x is quantized: int8 weights do that."""
        return self.scale is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """(O, 1, kh, kw)."""
        return self.q.shape

    def todense(self) -> NDArray[np.float32]:
        """float32 [O, 1, kh, kw]: what the kernel computes with."""
        if self.scale is None:
            return np.array(self.q, np.float32)
        dense: NDArray[np.float32] = self.q * self.scale.reshape(-1, 1, 1, 1)
        return dense

    def blocks(self) -> Any:
        """The weight as the depthwise kernel in use reads it, made at the first call."""
        if self._blocks is None:
            scale = None if self.scale is None else _arguments.contiguous(self.scale)
            self._blocks = _backend.kernels().pack_depthwise(_arguments.contiguous(self.q)[:, 0], scale)
        return self._blocks

    def _pack(self) -> Any:
        raise ValueError("weight is a DepthwiseWeight, wanted a matrix [N, K]: it goes with depthwise_conv2d")

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"q": self.q} if self.scale is None else {"q": self.q, "scale": self.scale}
