"""Quantization of weights to 8, 4 and 16 bits, and what makes its error smaller.

    weight = pc.quantize(w)                                           # Int8Weight
    weight = pc.quantize(w, 4, rounding="gptq", inputs=x)             # Int4Weight, rounded to keep the outputs
    bias = bias + bias_correction(w, weight, x)

`from pycompress.quantize import ...` gives the rest: `integers` (levels and scales as arrays), `bias_correction`,
`smooth`. Definitions and sources: docs/converters.md. Ranges of activations: `pycompress.calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, overload

import numpy as np
from numpy.typing import NDArray

from ._arguments import among, each, floating, interval, whole
from ._hessian import inverse_factor
from .inputs import InputStatistics, statistics
from .weights import Float16Weight, Int4Weight, Int8Weight, Weight

__all__ = ["Integers", "Smoothed", "bias_correction", "integers", "quantize", "smooth"]

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]
Inputs: TypeAlias = "Array | InputStatistics"
Per: TypeAlias = Literal["tensor", "channel", "group"]
Rounding: TypeAlias = Literal["nearest", "gptq"]
Clip: TypeAlias = Literal["max", "mse"]

_WINDOW = 128  # columns that GPTQ rounds before the others follow


@overload
def quantize(
    w: Array,
    bits: Literal[8] = 8,
    *,
    per: Per | None = None,
    group_size: int = 32,
    rounding: Rounding = "nearest",
    clip: Clip = "max",
    inputs: Inputs | None = None,
    damping: float = 0.01,
) -> Int8Weight: ...


@overload
def quantize(
    w: Array,
    bits: int,
    *,
    per: Per | None = None,
    group_size: int = 32,
    rounding: Rounding = "nearest",
    clip: Clip = "max",
    inputs: Inputs | None = None,
    damping: float = 0.01,
) -> Weight: ...


def quantize(
    w: Array,
    bits: int = 8,
    *,
    per: Per | None = None,
    group_size: int = 32,
    rounding: Rounding = "nearest",
    clip: Clip = "max",
    inputs: Inputs | None = None,
    damping: float = 0.01,
) -> Weight:
    """A weight of 8, 4 or 16 bits.

    Parameters
    ----------
    w
        float32 [N, K], or [O, I, kh, kw] (8 and 16 bits). Other floating dtypes are rounded to float32.
    bits
        8: `Int8Weight`, 4: `Int4Weight`, 16: `Float16Weight` (nothing else applies to it).
    per
        Who shares a scale. 8 bits: "channel" (each output has one), the default, or "tensor". 4 bits: "group"
        (`group_size` inputs of an output), the default, "channel" or "tensor".
    rounding
        "nearest": round(w / scale), half to even. "gptq": column after column, each error made up for in the columns to
        come, by calibration inputs; zeros stay zeros. Rows whose outputs are nearer without it are rounded to nearest:
        so no output is worse.
    clip
        "max": scale = max|w| / 127 (or / 7). "mse": scales down to half of that are tried, and the one of the least
        squared error taken, of the weights, or, with inputs, of weights times the norm of their inputs.
    inputs
        Calibration inputs, float32 [samples, K] or `InputStatistics`; for a convolution see `unfold`.
    damping
        For "gptq": this, times the mean of the diagonal of x x^T, times the identity, is added to it.

    Raises TypeError for a dtype, ValueError for a shape, a value, NaN or infinity.
    Source: E. Frantar et al., GPTQ, ICLR 2023.
    """
    if not among(bits, 4, 8, 16):
        raise ValueError(f"bits is {bits!r}, wanted 8, 4 or 16")
    if bits == 16:
        if per is not None or not among(rounding, "nearest") or not among(clip, "max"):
            raise ValueError("per, rounding or clip is given, wanted none of them with 16 bits: float16 has no scales")
        return Float16Weight.from_float(floating("w", w))
    if per is None:
        per = "channel" if bits == 8 else "group"
    if bits == 8 and among(per, "group"):
        raise ValueError(
            "per is 'group', wanted 'channel' or 'tensor' with 8 bits: int8 kernels have a scale for each output"
        )
    if bits == 4 and np.ndim(w) != 2:
        raise ValueError(f"w has shape {np.shape(w)}, wanted [N, K] with 4 bits")
    if bits == 4 and among(per, "group") and not among(group_size, 32, 64, 128):
        raise ValueError(
            f"group_size is {group_size!r}, wanted 32, 64 or 128; or per 'channel' for one group an output"
        )
    done = integers(
        w, bits, per=per, group_size=group_size, rounding=rounding, clip=clip, inputs=inputs, damping=damping
    )
    if bits == 8:
        return Int8Weight(done.q, np.ascontiguousarray(done.scale[:, 0]))
    return Int4Weight(done.q, done.scale)


class Integers(NamedTuple):
    """q: int8, of w's shape, from -(2^(bits-1) - 1) to that. scale: float32 [N, groups]; group g has the inputs from
    g * group_size on. w[n, k] is about q[n, k] * scale[n, k // group_size]."""

    q: NDArray[np.int8]
    scale: Floats
    group_size: int

    def todense(self) -> Floats:
        """float32, of q's shape."""
        matrix = self.q.reshape(len(self.q), math.prod(self.q.shape[1:]))
        dense: Floats = matrix * _spread(self.scale, self.group_size, matrix.shape[1])
        return dense.reshape(self.q.shape)


def integers(
    w: Array,
    bits: int = 8,
    *,
    per: Per = "channel",
    group_size: int = 32,
    rounding: Rounding = "nearest",
    clip: Clip = "max",
    inputs: Inputs | None = None,
    damping: float = 0.01,
) -> Integers:
    """Levels and scales as plain arrays, for 2 to 8 bits; arguments as in `quantize`."""
    w = floating("w", w)
    if w.ndim not in (2, 4):
        raise ValueError(f"w has shape {w.shape}, wanted [N, K] or [O, I, kh, kw]")
    for name, value, known in (("per", per, Per), ("rounding", rounding, Rounding), ("clip", clip, Clip)):
        if not among(value, *get_args(known)):
            raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(get_args(known))}")
    most = 2 ** (whole("bits", bits, 2, 8) - 1) - 1
    damping = interval("damping", damping, 0, math.inf, above=True, below=True)
    matrix = w.reshape(len(w), math.prod(w.shape[1:]))
    k = matrix.shape[1]
    size = min(whole("group_size", group_size, 1), k) if per == "group" else k
    seen = None if inputs is None else statistics(inputs, k)
    if rounding == "gptq" and seen is None:
        raise ValueError(f"rounding 'gptq' needs calibration inputs: inputs is None, wanted [samples, {k}]")
    scale = _scales(matrix, most, size, per == "tensor")
    if clip == "mse":
        scale = _clipped(matrix, scale, most, size, per == "tensor", seen)
    q = _nearest(matrix, _spread(scale, size, k), most)
    if rounding == "gptq" and seen is not None:
        q = _gptq(matrix, _spread(scale, size, k), most, q, seen, damping)
    return Integers(q.reshape(w.shape), scale, max(size, 1))


def _spread(scale: Floats, size: int, k: int) -> Floats:
    """[N, groups] to [N, K], or [N, 1] where a row has one."""
    return scale if scale.shape[1] == 1 else np.asarray(np.repeat(scale, size, 1)[:, :k])


def _groups(values: Array, size: int) -> Array:
    """[N, K] to [N, groups, size], zeros behind the end."""
    n, k = values.shape
    count = max(1, -(-k // max(size, 1)))
    padded = values
    if count * size != k:
        padded = np.zeros((n, count * size), values.dtype)
        padded[:, :k] = values
    return padded.reshape(n, count, size)


def _scales(matrix: Floats, most: int, size: int, one: bool) -> Floats:
    """max|w| / most in float32; 1 where that is 0."""
    largest = np.abs(_groups(matrix, size)).max(2, initial=0)
    if one:
        largest = np.full((len(matrix), 1), largest.max(initial=0), np.float32)
    quotient = largest / np.float32(most)
    return np.asarray(np.where(quotient > 0, quotient, np.float32(1)))


def _clipped(matrix: Floats, scale: Floats, most: int, size: int, one: bool, seen: InputStatistics | None) -> Floats:
    """Of scale * (1, 0.98, ... 0.5) the one of the least squared error; of equal ones the largest."""
    importance = np.ones(matrix.shape[1]) if seen is None else np.diagonal(seen.gram) / seen.count
    best, least = scale, np.full(scale.shape, math.inf)
    for step in range(26):
        tried = scale * np.float32(1 - step / 50)
        tried = np.where(tried > 0, tried, scale)
        spread = _spread(tried, size, matrix.shape[1])
        wrong = (matrix - _nearest(matrix, spread, most) * spread).astype(np.float64) ** 2 * importance
        error = _groups(wrong, size).sum(2)
        if one:
            error = np.full(scale.shape, error.sum())
        best, least = np.where(error < least, tried, best), np.minimum(error, least)
    return best


def _nearest(matrix: Floats, scale: Floats, most: int) -> NDArray[np.int8]:
    return np.asarray(np.clip(np.rint(matrix / scale), -most, most).astype(np.int8))


def _gptq(
    matrix: Floats, scale: Floats, most: int, plain: NDArray[np.int8], seen: InputStatistics, damping: float
) -> NDArray[np.int8]:
    """Round column after column, the inputs of the largest norm first; the error of each goes into those to come."""
    n, k = matrix.shape
    hessian = seen.damped(damping)
    hessian /= np.trace(hessian) / max(k, 1)  # about 1, so that float32 will do below
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    factor = inverse_factor(hessian[np.ix_(order, order)])
    diagonal, rows = np.diagonal(factor).astype(np.float32), factor.astype(np.float32)
    left = matrix.T[order]  # [K, N]: a column of the weight is contiguous
    scales, pruned = np.broadcast_to(scale, (n, k)).T[order], left == 0
    levels = np.empty((k, n), np.int8)
    for start in range(0, k, _WINDOW):
        end = min(start + _WINDOW, k)
        errors = np.empty((end - start, n), np.float32)
        for j in range(start, end):
            levels[j] = np.where(pruned[j], 0, np.clip(np.rint(left[j] / scales[j]), -most, most))
            errors[j - start] = (left[j] - levels[j] * scales[j]) / diagonal[j]
            left[j + 1 : end] -= rows[j, j + 1 : end, None] * errors[j - start]
        left[end:] -= rows[start:end, end:].T @ errors
    q = np.empty((n, k), np.int8)
    q[:, order] = levels.T
    better = _row_errors(matrix, q * scale, seen) < _row_errors(matrix, plain * scale, seen)
    return np.where(better[:, None], q, plain)


def _row_errors(matrix: Floats, approximation: Floats, seen: InputStatistics) -> NDArray[np.float64]:
    """Squared error of each output, summed over the samples."""
    difference = approximation.astype(np.float64) - matrix
    return np.asarray(np.einsum("nk,nk->n", difference @ seen.gram, difference))


# ---- the mean of the outputs


def bias_correction(w: Array, weight: Weight | Array, inputs: Inputs) -> Floats:
    """What to add to the bias, float32 [N], so that the outputs keep their mean on the calibration inputs.

    w: the float32 weight, [N, K] or [O, I, kh, kw]. weight: what is used in its place, of any kind, or an array.
    inputs: float32 [samples, K] or `InputStatistics`. It is mean((w - weight) x).

    Raises TypeError for a dtype, ValueError for a shape.
    Source: M. Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019.
    """
    w = floating("w", w)
    approximation = weight.todense() if isinstance(weight, Weight) else floating("weight", weight)
    if approximation.shape != w.shape:
        raise ValueError(f"weight has shape {approximation.shape}, wanted w's, {w.shape}")
    matrix = w.reshape(len(w), math.prod(w.shape[1:])).astype(np.float64)
    mean = statistics(inputs, matrix.shape[1]).mean
    return ((matrix - approximation.reshape(matrix.shape)) @ mean).astype(np.float32)


# ---- scaling between layers


class Smoothed(NamedTuple):
    """scale: float32 [K], by which the activation was divided; consumers, multiplied; producers and along, divided by
    it.
    """

    scale: Floats
    consumers: list[Floats]
    producers: list[Floats]
    along: list[Floats]


def smooth(
    consumers: Array | Sequence[Array],
    inputs: Inputs | None = None,
    *,
    producers: Array | Sequence[Array] = (),
    along: Sequence[Array] = (),
    alpha: float = 0.5,
) -> Smoothed:
    """Move range from an activation with outliers into the weights that read it: the network computes the same.

    Parameters
    ----------
    consumers
        float32 [N, K] or [O, K, kh, kw], one weight or all that read the activation: they are multiplied, input by
        input.
    inputs
        Calibration inputs, float32 [samples, K] or `InputStatistics`. None: the largest |w| of each row of the
        producers takes the place of the activation's (cross-layer equalization; alpha 0.5 makes both sides equal).
    producers, along
        What makes the activation: weights [K, ...], and biases or parameters of a normalization, [K, ...]. They are
        divided, output by output. Only what scales with the activation may lie between (relu may, gelu may not).
    alpha
        From 0 to 1: scale[k] = max|x[k]|^alpha / max|w[:, k]|^(1 - alpha); 1 where either is 0.

    Raises TypeError for a dtype, ValueError for a shape or a value.
    Sources: G. Xiao et al., SmoothQuant, ICML 2023; for no inputs: M. Nagel et al., ICCV 2019.
    """
    read, made, others = (
        [floating(name, a) for a in each(name, value)]
        for name, value in (("consumers", consumers), ("producers", producers), ("along", along))
    )
    if not read:
        raise ValueError("consumers are empty, wanted at least one weight")
    k = read[0].shape[1] if read[0].ndim > 1 else 0
    for w in read:
        if w.ndim not in (2, 4) or w.shape[1] != k:
            raise ValueError(
                f"consumers have shapes {[a.shape for a in read]}, wanted [N, K] or [O, K, kh, kw], the same K"
            )
    for a in (*made, *others):
        if a.shape[:1] != (k,):
            raise ValueError(f"an array of producers or along has shape {a.shape}, wanted [{k}, ...]")
    if inputs is None and not made:
        raise ValueError("inputs is None and producers are empty, wanted one of them")
    alpha = interval("alpha", alpha, 0, 1)
    if inputs is not None:
        ahead = statistics(inputs, k).absmax.astype(np.float64)
    else:
        ahead = np.max([np.abs(w).reshape(k, -1).max(1, initial=0) for w in made], axis=0).astype(np.float64)
    axes = [(0, *range(2, w.ndim)) for w in read]
    behind = np.max([np.abs(w).max(axis, initial=0) for w, axis in zip(read, axes, strict=True)], axis=0)
    usable = (ahead > 0) & (behind > 0)
    ratio = np.where(usable, ahead, 1.0) ** alpha / np.where(usable, behind, 1.0).astype(np.float64) ** (1 - alpha)
    scale = np.clip(ratio, 2.0**-40, 2.0**40).astype(np.float32)

    def times(a: Floats, factor: Floats, axis: int) -> Floats:
        return np.asarray(a * factor.reshape([-1 if i == axis else 1 for i in range(a.ndim)]))

    divided = [[times(a, np.float32(1) / scale, 0) for a in arrays] for arrays in (made, others)]
    return Smoothed(scale, [times(w, scale, 1) for w in read], *divided)
