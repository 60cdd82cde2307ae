"""A weight that is a product, y = (x b^T) a^T.

Idea: some rows of x go through both factors before the next rows begin, so that what is between them stays in the
cache. The factors are handles of any kinds, so the work is theirs.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import quant

Array: TypeAlias = NDArray[Any]
QParams: TypeAlias = tuple[float, int]
Activation: TypeAlias = tuple[int, float, float]

MIDDLE = 1 << 18  # values between the factors


class LowRankPack:
    """Two handles, and how what is between them is quantized."""

    __slots__ = ("a", "b", "k", "mid_qparams", "n")

    def __init__(self, a: Any, b: Any, mid_qparams: QParams | None) -> None:
        self.a, self.b, self.mid_qparams = a, b, mid_qparams
        self.n, self.k = a.n, b.k

    @property
    def quantizes(self) -> bool:
        return bool(self.b.quantizes)

    def linear(
        self,
        x: Array,
        bias: Array | None,
        activation: Activation,
        x_qparams: QParams | None,
        y_qparams: QParams | None,
        out: Array,
        num_threads: int | None,
    ) -> None:
        integers = self.mid_qparams is not None and x.dtype != np.float32
        requantize = y_qparams is not None and not integers
        step = max(16, MIDDLE // max(self.b.n, 1))
        for i in range(0, len(x), step):
            rows, y = x[i : i + step], out[i : i + step]
            middle = np.empty((len(rows), self.b.n), np.uint8 if integers else np.float32)
            mid_qparams = self.mid_qparams if integers else None
            self.b.linear(rows, None, (0, 0.0, 0.0), x_qparams, mid_qparams, middle, num_threads)
            result = np.empty(y.shape, np.float32) if requantize else y
            y_now = None if requantize else y_qparams
            self.a.linear(middle, bias, activation, self.mid_qparams, y_now, result, num_threads)
            if requantize:
                assert y_qparams is not None
                scale, zero_point = np.array([y_qparams[0]], np.float32), np.array([y_qparams[1]], np.int32)
                quant.quantize_linear(result.reshape(1, 1, -1), scale, zero_point, y.reshape(1, 1, -1), num_threads)


def pack_lowrank(a: Any, b: Any, mid_qparams: QParams | None) -> LowRankPack:
    return LowRankPack(a, b, mid_qparams)
