"""float16 and float32: computed in float32."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import _arguments, _backend
from .base import Weight, frozen

__all__ = ["Float16Weight", "Float32Weight"]


class _Floats(Weight):
    """What both kinds share: one array, w."""

    __slots__ = ("w",)

    quantizes = False
    _dtype: ClassVar[np.dtype[Any]]

    w: NDArray[Any]

    def __init__(self, w: NDArray[Any]) -> None:
        super().__init__()
        self.w = frozen(_arguments.contiguous(_arguments.array("w", w, self._dtype)))
        if self.w.ndim not in (2, 4):
            raise ValueError(f"w has shape {self.w.shape}, wanted [N, K] or [O, I, kh, kw]")

    @property
    def shape(self) -> tuple[int, ...]:
        """That of w: (N, K) or (O, I, kh, kw)."""
        return self.w.shape

    def todense(self) -> NDArray[np.float32]:
        """w in float32, of w's shape: what the kernel computes with."""
        return self.w.astype(np.float32)

    def _matrix(self) -> NDArray[Any]:
        if self.w.ndim != 2:
            raise ValueError(f"weight has shape {self.shape}, wanted a matrix [N, K]")
        return self.w

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"w": self.w}


class Float16Weight(_Floats):
    """A float16 weight: half the bytes of float32, and the result of `linear` with w.astype(float32), to the bit.

    Parameters
    ----------
    w
        float16 [N, K], or [O, I, kh, kw] of a convolution; finite. It is copied only where it is not
        C-contiguous, and must not change any more.

    Raises TypeError for a dtype, ValueError for a shape, NaN or infinity.
    """

    __slots__ = ()

    _dtype = np.dtype(np.float16)

    def __init__(self, w: NDArray[np.float16]) -> None:
        super().__init__(w)
        _check_finite(self.w, self.w)

    @classmethod
    def from_float(cls, w: NDArray[np.floating[Any]]) -> Float16Weight:
        """Round to float16, half to even.

        w: float32 [N, K] or [O, I, kh, kw], or of another floating dtype.

        Raises TypeError for a dtype that is not floating; ValueError for a shape, NaN, infinity, and values that
        float16 does not reach (65520 and more).
        """
        w = _floating(w)
        with np.errstate(over="ignore", under="ignore"):
            rounded = w.astype(np.float16)
        _check_finite(rounded, w)
        return cls(rounded)

    def _pack(self) -> Any:
        return _backend.kernels().pack_f16(self._matrix())


class Float32Weight(_Floats):
    """A float32 weight that is packed once. A plain array gives the same bits, but has to be packed in each call.

    Parameters
    ----------
    w
        float32 [N, K], or [O, I, kh, kw] of a convolution. It is copied only where it is not C-contiguous, and
        must not change any more.

    Raises TypeError for a dtype, ValueError for a shape.
    """

    __slots__ = ()

    _dtype = np.dtype(np.float32)

    @classmethod
    def from_float(cls, w: NDArray[np.floating[Any]]) -> Float32Weight:
        """A copy of w, which other floating dtypes are rounded to. [N, K] or [O, I, kh, kw].

        Raises TypeError for a dtype that is not floating, ValueError for a shape.
        """
        with np.errstate(over="ignore", under="ignore"):
            return cls(_floating(w).astype(np.float32))

    def _pack(self) -> Any:
        return _backend.kernels().pack_f32(self._matrix())


def _floating(w: Any) -> NDArray[Any]:
    a: NDArray[Any] = np.asarray(w)
    if not np.issubdtype(a.dtype, np.floating):
        raise TypeError(f"w is an array of {a.dtype}, wanted float32")
    return a


def _check_finite(rounded: NDArray[np.float16], w: NDArray[Any]) -> None:
    good = np.isfinite(rounded)
    if not good.all():
        at = np.unravel_index(int(np.argmin(good)), good.shape)
        raise ValueError(f"w{[int(i) for i in at]} is {w[at]}, wanted finite values that float16 reaches, up to 65504")
