"""A product of two factors, each of any other kind."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import _arguments, _backend
from .base import Weight, frozen
from .qparams import QParams

__all__ = ["LowRankWeight"]

Factor: TypeAlias = "NDArray[np.float32] | Weight"


class LowRankWeight(Weight):
    """A weight of low rank: w = a @ b.

    `linear` computes (x b^T) a^T in one call: some rows of x go through both factors before the next rows begin. Its
    result is that of two calls, linear(linear(x, b), a, bias, ...), to the bit.

    Parameters
    ----------
    a, b
        [N, r] and [r, K]: float32 arrays or weights of any other kinds, in any mixture. What `linear` takes as x
        follows from b.
    mid_qparams
        Scale and zero point (uint8) of x b^T, for an `a` of integers: it is then quantized by these, and with a
        quantized x it is integers all through. None: float32, quantized row by row where `a` is of integers.

    Raises TypeError for a factor that is no weight, ValueError for shapes that do not fit, and for mid_qparams with
    an `a` of floats.
    """

    __slots__ = ("a", "b", "mid_qparams", "quantizes")

    quantizes: bool  # type: ignore[misc]  # of the kind of b

    def __init__(self, a: Factor, b: Factor, *, mid_qparams: QParams | tuple[float, int] | None = None) -> None:
        super().__init__()
        self.a = _factor("a", a)
        self.b = _factor("b", b)
        if self.a.shape[1] != self.b.shape[0]:
            raise ValueError(f"a has shape {self.a.shape} and b {self.b.shape}, wanted [N, r] and [r, K]")
        if mid_qparams is not None:
            if not (isinstance(self.a, Weight) and self.a.quantizes):
                raise ValueError("mid_qparams is given, wanted None: with an a of floats nothing is quantized")
            try:
                mid_qparams = QParams(*mid_qparams)
            except (TypeError, ValueError) as error:
                raise type(error)(f"mid_qparams: {error}") from None
            if mid_qparams.zero_point < 0 or mid_qparams.scale <= 2.0**-128:
                raise ValueError(f"mid_qparams is {mid_qparams}, wanted a zero point of uint8, a scale with an inverse")
        self.mid_qparams = mid_qparams
        self.quantizes = isinstance(self.b, Weight) and self.b.quantizes

    @classmethod
    def from_dense(
        cls,
        w: NDArray[np.floating[Any]],
        rank: int | None = None,
        energy: float | None = None,
        *,
        allow_larger: bool = False,
    ) -> LowRankWeight:
        """The best approximation of w by its singular value decomposition (Eckart and Young, 1936), in float32.

        w: [N, K], floating. Either rank, from 1 to min(N, K), or energy: the part, above 0 and at most 1, of the sum
        of the squared singular values that is kept, by the smallest rank that does so. The singular values are shared
        out evenly: a = U sqrt(S), b = sqrt(S) V^T.

        A rank r that saves nothing, r (K + N) >= K N, is refused, unless allow_larger. Raises TypeError for a dtype,
        ValueError for a shape, a value out of range, NaN or infinity.
        """
        w = np.asarray(w)
        if not np.issubdtype(w.dtype, np.floating):
            raise TypeError(f"w is an array of {w.dtype}, wanted float32")
        if w.ndim != 2 or 0 in w.shape:
            raise ValueError(f"w has shape {w.shape}, wanted [N, K], not empty")
        if not np.isfinite(w).all():
            raise ValueError("w holds NaN or infinity, wanted finite values")
        if (rank is None) == (energy is None):
            raise ValueError(f"rank is {rank} and energy is {energy}, wanted one of them")
        (n, k), most = w.shape, min(w.shape)
        if rank is not None:
            rank = _arguments.whole("rank", rank, 1, most)
        if energy is not None:
            energy = _arguments.interval("energy", energy, 0, 1, above=True)
        u, s, vt = np.linalg.svd(w.astype(np.float64), full_matrices=False)
        if rank is None:
            kept = np.cumsum(s**2)
            rank = int(min(np.searchsorted(kept, energy * kept[-1] * (1 - 1e-12)) + 1, most))
        if rank * (k + n) >= k * n and not allow_larger:
            raise ValueError(
                f"rank {rank} of a weight of shape {w.shape} takes {rank * (k + n)} values and as many products, the "
                f"weight itself {k * n}: wanted a rank below {-(-k * n // (k + n))}, or allow_larger=True"
            )
        root = np.sqrt(s[:rank])
        return cls((u[:, :rank] * root).astype(np.float32), (root[:, None] * vt[:rank]).astype(np.float32))

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K)."""
        return self.a.shape[0], self.b.shape[1]

    @property
    def rank(self) -> int:
        """Columns of a, rows of b."""
        rank: int = self.b.shape[0]
        return rank

    def todense(self) -> NDArray[np.float32]:
        """a @ b in float32, [N, K]."""
        a, b = (f.todense() if isinstance(f, Weight) else f for f in (self.a, self.b))
        dense: NDArray[np.float32] = a @ b
        return dense

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for name, factor in (("a", self.a), ("b", self.b)):
            parts = factor._arrays() if isinstance(factor, Weight) else {"": factor}
            arrays |= {f"{name}.{part}".rstrip("."): array for part, array in parts.items()}
        return arrays

    def _pack(self) -> Any:
        kernels = _backend.kernels()
        a, b = (f.packed() if isinstance(f, Weight) else kernels.pack_f32(f) for f in (self.a, self.b))
        return kernels.pack_lowrank(a, b, self.mid_qparams)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.a, self.b, self.mid_qparams)


def _restore(a: Factor, b: Factor, mid_qparams: QParams | None) -> LowRankWeight:
    return LowRankWeight(a, b, mid_qparams=mid_qparams)


def _factor(name: str, value: Any) -> Any:
    if isinstance(value, LowRankWeight):
        raise TypeError(f"{name} is a LowRankWeight, wanted a float32 array or a weight of another kind")
    if not isinstance(value, Weight):
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name} is {type(value).__name__}, wanted a float32 array or a weight")
        value = frozen(_arguments.contiguous(_arguments.array(name, value, _arguments.FLOAT32)))
    if len(value.shape) != 2:
        raise ValueError(f"{name} has shape {value.shape}, wanted a matrix")
    return value
