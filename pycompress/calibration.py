"""The range of a tensor that is to be quantized, from batches of its values, in memory that does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _arguments
from ._arguments import floating, interval
from .weights import QParams

__all__ = ["Method", "Observer", "calibrate"]

Array: TypeAlias = NDArray[Any]
Method: TypeAlias = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]

_CHUNK = 1 << 18  # values in hand at a time
_LEAST_EXPONENT = -160  # of a histogram's bins; below the least float32


def calibrate(
    batches: Array | Iterable[Array],
    method: Method = "minmax",
    *,
    dtype: DTypeLike = np.uint8,
    symmetric: bool = False,
    percentile: float = 99.99,
    momentum: float = 0.9,
) -> QParams:
    """Scale and zero point for a tensor, from batches of its values.

    Parameters
    ----------
    batches
        float32 arrays of any shape, one after the other (a generator is read once, nothing of it is kept); or one
        array.
    method, dtype, symmetric, percentile, momentum
        As in `Observer`.

    Raises TypeError for a dtype that is not floating, ValueError for NaN or infinity, or when no value was seen.
    """
    observer = Observer(method, dtype=dtype, symmetric=symmetric, percentile=percentile, momentum=momentum)
    for batch in _arguments.each("batches", batches):
        observer.update(batch)
    return observer.qparams()


class Observer:
    """Finds the range of a tensor, batch by batch.

    Parameters
    ----------
    method
        "minmax": all that was seen. "moving_average": range = momentum * range + (1 - momentum) * range of the batch,
        beginning with the first batch. "percentile": what holds `percentile` percent of the values, as much cut off
        below as above (of |x|, when symmetric). "mse": the range of the least mean squared error of quantization.
        "entropy": the range of the least Kullback-Leibler divergence between the values and the quantized values.
    dtype
        uint8 or int8, of the quantized tensor.
    symmetric
        Zero point 0 (128 for uint8), and 127 steps to either side; else the formula of ONNX DynamicQuantizeLinear.
    percentile
        Above 0, at most 100.
    momentum
        From 0 to below 1.

    Every range is widened to hold 0. "percentile", "mse" and "entropy" keep a histogram with bins as wide as a power of
    2, multiples of it at their edges: as the range grows, bins merge exactly. So the result does not depend on the
    order of the values, nor on how they are cut into batches ("moving_average" does).

    "mse" and "entropy" take the smallest and the largest value seen, times powers of 2^(-1/2) down to 1/64, and then of
    2^(-1/16) about the best.

    Sources: "entropy": S. Migacz, 8-bit inference with TensorRT, GTC 2017. "moving_average": B. Jacob et al.,
    Quantization and training of neural networks for efficient integer-arithmetic-only inference, CVPR 2018.
    """

    def __init__(
        self,
        method: Method = "minmax",
        *,
        dtype: DTypeLike = np.uint8,
        symmetric: bool = False,
        percentile: float = 99.99,
        momentum: float = 0.9,
    ) -> None:
        if not _arguments.among(method, *get_args(Method)):
            raise ValueError(f"method is {method!r}, wanted one of {', '.join(get_args(Method))}")
        if not _arguments.among(symmetric, True, False):
            raise TypeError(f"symmetric is {symmetric!r}, wanted a bool")
        self._dtype = np.dtype(dtype)
        if self._dtype not in _arguments.EIGHT_BITS:
            raise TypeError(f"dtype is {self._dtype}, wanted uint8 or int8")
        self._method, self._symmetric = method, bool(symmetric)
        self._percentile = interval("percentile", percentile, 0, 100, above=True)
        self._momentum = interval("momentum", momentum, 0, 1, below=True)
        self._low, self._high, self._count = 0.0, 0.0, 0
        self._histogram = None if method in ("minmax", "moving_average") else _Histogram()

    def update(self, x: Array) -> None:
        """See the values of a batch: float32 of any shape (other floating dtypes are rounded to float32 first)."""
        x = floating("x", x)
        if not x.size:
            return
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        if self._method == "moving_average" and self._count:
            keep = self._momentum
            low, high = keep * self._low + (1 - keep) * low, keep * self._high + (1 - keep) * high
        elif self._method != "moving_average":
            low, high = min(low, self._low), max(high, self._high)
        self._low, self._high, self._count = low, high, self._count + x.size
        if self._histogram is not None:
            self._histogram.cover(low, high)
            for start in range(0, x.size, _CHUNK):
                self._histogram.add(x.reshape(-1)[start : start + _CHUNK])

    def merge(self, other: Observer) -> None:
        """See all that `other` has seen: the result is that of one observer for both. Not for "moving_average"."""
        if self._settings() != other._settings() or self._method == "moving_average":
            raise ValueError("other has another method, dtype or option, or a moving average; wanted the same as here")
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)
        self._count += other._count
        if self._histogram is not None and other._histogram is not None:
            self._histogram.cover(self._low, self._high)
            self._histogram.merge(other._histogram)

    def _settings(self) -> tuple[Any, ...]:
        return self._method, self._dtype, self._symmetric, self._percentile, self._momentum

    def range(self) -> tuple[float, float]:
        """(low, high) that is to be represented; low <= 0 <= high. ValueError when no value was seen."""
        if not self._count:
            raise ValueError("no values were seen, wanted at least one to calibrate with")
        if self._histogram is None or self._low == self._high:
            return self._low, self._high
        if self._method == "percentile":
            return self._cut_off(self._histogram)
        centers, counts = self._histogram.values(3 if self._method == "entropy" else 0)
        error = _divergence if self._method == "entropy" else _squared_error
        return self._search(lambda low, high: error(centers, counts, low, high, *self._saturating(low, high)))

    def qparams(self) -> QParams:
        """Scale and zero point for that range. ValueError when no value was seen, or for a range beyond float32."""
        return self._quantizer(*self.range())

    def _quantizer(self, low: float, high: float) -> QParams:
        """As ONNX DynamicQuantizeLinear, in float32; or symmetric."""
        f32 = np.float32
        least = np.iinfo(self._dtype).min
        middle = least + 128
        if self._symmetric:
            scale = f32(max(-low, high)) / f32(127)
            return QParams(scale, middle) if scale > 0 else QParams(f32(1) / f32(127), middle)
        with np.errstate(over="ignore"):
            scale = (f32(high) - f32(low)) / f32(255)
        if not np.isfinite(scale):
            raise ValueError(f"the range {low} to {high} is wider than float32 can say")
        if scale == 0:
            return QParams(f32(1) / f32(255), least)
        return QParams(scale, least + int(np.rint(np.clip(-f32(low) / scale, f32(0), f32(255)))))

    def _saturating(self, low: float, high: float) -> tuple[float, int, int]:
        """Scale, and the least and the largest level less the zero point."""
        scale, zero_point = self._quantizer(low, high)
        least = int(np.iinfo(self._dtype).min) - zero_point
        return scale, least, least + 255

    def _cut_off(self, histogram: _Histogram) -> tuple[float, float]:
        left = (100 - self._percentile) / 100
        if self._symmetric:
            high = min(histogram.folded_quantile(1 - left), max(-self._low, self._high))
            return -high, high
        low, high = histogram.quantile(left / 2), histogram.quantile(1 - left / 2)
        return min(max(low, self._low), 0.0), max(min(high, self._high), 0.0)

    def _search(self, error: Callable[[float, float], float]) -> tuple[float, float]:
        """The range of the least error; of equal ones the widest. First in steps of 2^(1/2), then of 2^(1/16)."""
        low, high = self._low, self._high
        if self._symmetric:
            low, high = min(low, -high), max(high, -low)

        def best(lows: Iterable[int], highs: Iterable[int]) -> tuple[int, int]:
            if self._symmetric:
                pairs = [(k, k) for k in highs if k >= 0]
            else:
                some_low, some_high = ([k for k in ks if k >= 0] for ks in (lows, highs))
                pairs = [(i, j) for i in (some_low if low else [0]) for j in (some_high if high else [0])]
            ordered = sorted(pairs, key=lambda pair: (sum(pair), pair))
            return min(ordered, key=lambda pair: error(*ends(*pair)))

        def ends(i: int, j: int) -> tuple[float, float]:
            return low * 2 ** (-i / 16), high * 2 ** (-j / 16)

        i, j = best(range(0, 97, 8), range(0, 97, 8))
        return ends(*best(range(i - 8, i + 9), range(j - 8, j + 9)))


class _Histogram:
    """Counts of values in bins [i, i + 1) * 2 ** exponent, for as many i as fit; they merge two by two as the range
    grows.
    """

    def __init__(self, bins: int = 1 << 15) -> None:
        self._bins, self._exponent, self._first = bins, _LEAST_EXPONENT, 0
        self._counts, self._zeros = np.zeros(bins, np.int64), 0

    def cover(self, low: float, high: float) -> None:
        """Make the bins as wide as needed for low <= 0 <= high, no wider."""
        exponent = self._exponent
        if high > low:
            exponent = max(exponent, math.frexp((high - low) / self._bins)[1] - 1)
        while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= self._bins:
            exponent += 1
        self._place(exponent, math.floor(math.ldexp(low, -exponent)))

    def _place(self, exponent: int, first: int) -> None:
        if (exponent, first) == (self._exponent, self._first):
            return
        full = np.flatnonzero(self._counts)
        at = ((full + self._first) >> min(exponent - self._exponent, 63)) - first
        moved = np.zeros(self._bins, np.int64)
        np.add.at(moved, at, self._counts[full])
        self._counts, self._exponent, self._first = moved, exponent, first

    def add(self, x: Array) -> None:
        self._zeros += x.size - int(np.count_nonzero(x))
        at = np.floor(x.astype(np.float64) * 2.0**-self._exponent).astype(np.int64) - self._first
        self._counts += np.bincount(at, minlength=self._bins)

    def merge(self, other: _Histogram) -> None:
        moved = _Histogram(self._bins)
        moved._counts, moved._exponent, moved._first = other._counts, other._exponent, other._first
        moved._place(self._exponent, self._first)
        self._counts += moved._counts
        self._zeros += other._zeros

    def values(self, halvings: int) -> tuple[Array, Array]:
        """Centers and counts of the bins that are not empty, after merging them two by two so many times.

        Without what is exactly 0, as is half of what comes out of a relu: that is exact in any quantization.
        """
        counts = self._counts.copy()
        counts[-self._first] -= self._zeros
        full = np.flatnonzero(counts)
        at, where = np.unique((full + self._first) >> halvings, return_inverse=True)
        counts = np.bincount(where, weights=counts[full])
        return (at + 0.5) * 2.0 ** (self._exponent + halvings), counts

    def quantile(self, fraction: float) -> float:
        """The value below which that fraction of all lies, linearly within a bin."""
        edges = (np.arange(self._bins + 1) + self._first) * 2.0**self._exponent
        return _quantile(edges, self._counts, fraction)

    def folded_quantile(self, fraction: float) -> float:
        """The same of |x|."""
        index = np.arange(self._bins) + self._first
        folded = np.where(index < 0, -index - 1, index)
        counts = np.bincount(folded, weights=self._counts)
        return _quantile(np.arange(len(counts) + 1) * 2.0**self._exponent, counts, fraction)


def _quantile(edges: Array, counts: Array, fraction: float) -> float:
    below = np.concatenate([[0], np.cumsum(counts)])
    rank = fraction * below[-1]
    bin_ = int(np.searchsorted(below, rank, side="left")) - 1
    bin_ = max(bin_, int(np.flatnonzero(counts)[0]))
    inside = min(max((rank - below[bin_]) / counts[bin_], 0.0), 1.0)
    return float(edges[bin_] + inside * (edges[bin_ + 1] - edges[bin_]))


def _squared_error(x: Array, counts: Array, low: float, high: float, scale: float, least: int, most: int) -> float:
    error = np.clip(np.rint(x / scale), least, most) * scale - x
    return float(error * error @ counts)


def _divergence(x: Array, counts: Array, low: float, high: float, scale: float, least: int, most: int) -> float:
    """KL(values, clipped to the range || their levels, the mass of each spread evenly over its bins)."""
    inside = (x >= low) & (x <= high)
    if not inside.any():
        return math.inf
    first, last = int(np.argmax(inside)), len(x) - 1 - int(np.argmax(inside[::-1]))
    kept = counts[first : last + 1]
    clipped = kept.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last + 1 :].sum()
    levels = np.clip(np.rint(x[first : last + 1] / scale), least, most)
    starts = np.flatnonzero(np.diff(levels, prepend=math.nan))
    sizes = np.diff(starts, append=len(levels))
    spread = np.repeat(np.add.reduceat(kept, starts) / sizes, sizes)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    return float(p @ np.log(p / q))
