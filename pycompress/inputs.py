"""What the converters learn from the inputs of a layer, in memory that does not grow with the number of samples."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._arguments import floating, pair, whole

__all__ = ["InputStatistics", "statistics", "unfold"]

Array: TypeAlias = NDArray[Any]

_CHUNK = 1 << 22  # values in hand at a time


class InputStatistics:
    """What the inputs of a layer tell about errors in its weight: sums over samples, in memory of k * k.

    The squared error of the outputs of a weight w2 in place of w, summed over all samples, is trace(D G D^T) with D =
    w2 - w and G the sum of x x^T. This is all that SparseGPT, GPTQ and activation-aware SVD need of the inputs.

        statistics = InputStatistics(768)
        for batch in batches:               # float32 [..., 768]
            statistics.update(batch)
        pc.prune(w, 0.8, method="sparsegpt", inputs=statistics)

    Attributes: `count`, samples seen; `gram`, float64 [k, k], their sum of x x^T; `sum`, float64 [k]; `absmax`,
    float32 [k], the largest |x|.
    """

    def __init__(self, k: int) -> None:
        k = whole("k", k, 0, 2**24)
        self.count = 0
        self.gram = np.zeros((k, k))
        self.sum = np.zeros(k)
        self.absmax = np.zeros(k, np.float32)

    def update(self, x: Array) -> None:
        """See samples: float32 [..., k]; other floating dtypes are rounded to float32 first.

        Raises TypeError for a dtype, ValueError for a shape, NaN or infinity.
        """
        x = floating("x", x)
        if x.ndim < 1 or x.shape[-1] != len(self.sum):
            raise ValueError(f"x has shape {x.shape}, wanted [..., {len(self.sum)}]")
        x = x.reshape(math.prod(x.shape[:-1]), len(self.sum))
        step = max(1, _CHUNK // max(1, len(self.sum)))
        for start in range(0, len(x), step):
            part = x[start : start + step].astype(np.float64)
            self.gram += part.T @ part
            self.sum += part.sum(0)
            np.maximum(self.absmax, np.abs(x[start : start + step]).max(0, initial=0), out=self.absmax)
        self.count += len(x)

    def merge(self, other: InputStatistics) -> None:
        """See all that `other` has seen."""
        if len(other.sum) != len(self.sum):
            raise ValueError(f"other has k = {len(other.sum)}, wanted {len(self.sum)}")
        self.count += other.count
        self.gram += other.gram
        self.sum += other.sum
        np.maximum(self.absmax, other.absmax, out=self.absmax)

    @property
    def mean(self) -> NDArray[np.float64]:
        """float64 [k], of the samples."""
        return self.sum / max(self.count, 1)

    @property
    def k(self) -> int:
        """Values in a sample."""
        return len(self.sum)

    def damped(self, damping: float) -> NDArray[np.float64]:
        """gram / count + damping * (mean of its diagonal) * identity; the identity where all inputs are zeros."""
        hessian = self.gram / max(self.count, 1)
        level = float(np.trace(hessian)) / max(self.k, 1)
        if level == 0:
            return np.eye(self.k)
        hessian[np.diag_indices(self.k)] += damping * level
        return hessian

    def output_error(self, w: Array, approximation: Array) -> float:
        """Of outputs: ||x (approximation - w)^T|| / ||x w^T||, Frobenius norms over all samples; 0 / 0 is 0."""
        w = w.reshape(len(w), self.k).astype(np.float64)
        difference = approximation.reshape(len(w), self.k) - w
        wrong, whole = (max(float(np.vdot(a @ self.gram, a)), 0.0) for a in (difference, w))
        return math.sqrt(wrong / whole) if whole > 0 else math.sqrt(wrong)


def statistics(inputs: Array | InputStatistics, k: int) -> InputStatistics:
    """`inputs` as InputStatistics of k: an array is float32 [samples, k], with any leading dimensions."""
    if not isinstance(inputs, InputStatistics):
        made = InputStatistics(k)
        try:
            made.update(inputs)
        except (TypeError, ValueError) as error:
            raise type(error)(f"inputs: {error}") from None
        inputs = made
    if inputs.k != k:
        raise ValueError(f"inputs have {inputs.k} values each, wanted {k}, as many as the weight has inputs")
    if not inputs.count:
        raise ValueError("inputs hold no sample, wanted at least one")
    return inputs


def unfold(
    x: Array,
    kernel_size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    layout: Literal["NHWC", "NCHW"] = "NHWC",
) -> Array:
    """The inputs of a convolution as the samples of a matrix: every patch of x, in the order of `w.reshape(O, -1)`.

    x: float32 [N, H, W, C], or [N, C, H, W]. Returns float32 [N * out_h * out_w, C * kh * kw]
    (torch.nn.functional.unfold transposed). Large: unfold a few images at a time, and `InputStatistics.update` with
    each.

    Raises TypeError for a dtype, ValueError for a shape or a size.
    """
    x = floating("x", x)
    if layout not in ("NHWC", "NCHW"):
        raise ValueError(f"layout is {layout!r}, wanted 'NHWC' or 'NCHW'")
    if x.ndim != 4:
        raise ValueError(f"x has shape {x.shape}, wanted [{', '.join(layout)}]")
    if layout == "NHWC":
        x = x.transpose(0, 3, 1, 2)
    (kh, kw), (sh, sw), (dh, dw) = (
        pair(name, value, 1)
        for name, value in [("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)]
    )
    ph, pw = pair("padding", padding, 0)
    x = np.pad(x, [(0, 0), (0, 0), (ph, ph), (pw, pw)])
    tall, wide = (kh - 1) * dh + 1, (kw - 1) * dw + 1
    if x.shape[2] < tall or x.shape[3] < wide:
        raise ValueError(
            f"x is {x.shape[2]} by {x.shape[3]} with its padding, smaller than the kernel, {tall} by {wide}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(x, (tall, wide), (2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
    count = math.prod(windows.shape[i] for i in (0, 2, 3))
    return np.ascontiguousarray(windows.transpose(0, 2, 3, 1, 4, 5)).reshape(count, x.shape[1] * kh * kw)
