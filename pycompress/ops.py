"""The operations of a network's layers, on float32, uint8 and int8 arrays and on every kind of weight."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _arguments, _backend
from .weights import QParams, Weight

__all__ = ["linear"]

Array: TypeAlias = NDArray[Any]
Activation: TypeAlias = str | tuple[float, float] | None
QParamsLike: TypeAlias = QParams | tuple[float, int]

# Codes of the C header, with the bounds of a clamp.
_ACTIVATIONS: dict[str | None, tuple[int, float, float]] = {
    None: (0, 0.0, 0.0),
    "relu": (1, 0.0, math.inf),
    "relu6": (1, 0.0, 6.0),
    "hardswish": (2, 0.0, 0.0),
    "silu": (3, 0.0, 0.0),
    "gelu": (4, 0.0, 0.0),
}


_fast = _backend.fast("linear_fast")


def linear(
    x: Array,
    weight: Array | Weight,
    bias: Array | None = None,
    *,
    activation: Activation = None,
    x_qparams: QParamsLike | None = None,
    y_qparams: QParamsLike | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """activation(x @ weight.T + bias), as torch.nn.functional.linear.

    Parameters
    ----------
    x
        [..., K]. With a weight of floats: float32. With one of integers: float32, which is quantized on the fly, each
        row by its own range (by `x_qparams` where they are given); or uint8 or int8 with `x_qparams`.
    weight
        float32 [N, K] of any strides, or a compressed weight.
    bias
        float32 [N].
    activation
        None, "relu", "relu6", "hardswish", "silu", "gelu", or a clamp (low, high).
    x_qparams, y_qparams
        Scale and zero point of a quantized x and of a quantized result.
    out
        Where the result goes; it is returned. It must not share memory with the other arrays.
    num_threads
        At most so many threads for this call; None for `get_num_threads()`.

    Returns
    -------
    float32 [..., N]; with uint8 or int8 x and `y_qparams` an array of x's dtype, or of out's (uint8 or int8).

    Raises
    ------
    TypeError for a dtype; ValueError for a shape, for a value out of range, and for NaN or infinity where float32 is to
    be quantized; OverflowError for a K with which a sum could leave int32. What is computed, to the bit, is in
    docs/exactness.md.
    """
    packed = weight._packed if isinstance(weight, Weight) else weight
    y = _fast(x, packed, bias, activation, x_qparams, y_qparams, out, num_threads)
    if y is not NotImplemented:
        return y  # type: ignore[no-any-return]
    if isinstance(weight, Weight):
        return _linear_weight(x, weight, bias, activation, x_qparams, y_qparams, out, num_threads)
    return _linear_f32(x, weight, bias, activation, x_qparams, y_qparams, out, num_threads)


def _activation(value: Activation) -> tuple[int, float, float]:
    if value is None or isinstance(value, str):
        if value not in _ACTIVATIONS:
            names = ", ".join(repr(name) for name in _ACTIVATIONS if name)
            raise ValueError(f"activation is {value!r}, wanted None, {names}, or a pair (low, high)")
        return _ACTIVATIONS[value]
    try:
        low, high = (_arguments.number(bound) for bound in value)
    except (TypeError, ValueError):
        raise TypeError(f"activation is {value!r}, wanted None, a name, or a pair of numbers (low, high)") from None
    if not low <= high:
        raise ValueError(f"activation is {value!r}, wanted a pair with low <= high")
    with np.errstate(over="ignore"):
        return 1, float(np.float32(low)), float(np.float32(high))


def _qparams(name: str, value: QParamsLike, dtype: np.dtype[Any]) -> QParams:
    """As QParams, with a zero point that fits `dtype`."""
    if not isinstance(value, QParams):
        try:
            scale, zero_point = value
        except (TypeError, ValueError):
            raise TypeError(f"{name} is {value!r}, wanted a QParams or a pair (scale, zero_point)") from None
        try:
            value = QParams(scale, zero_point)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    info = np.iinfo(dtype)
    if not info.min <= value.zero_point <= info.max:
        raise ValueError(f"{name}: zero_point is {value.zero_point}, wanted {info.min} to {info.max} for {dtype}")
    return value


def _operands(x: Array, n: int, k: int, bias: Array | None) -> tuple[tuple[int, ...], Array, Array | None]:
    """Shape of the result, x as a matrix [M, K], and bias, all as kernels want them."""
    if x.ndim == 0 or x.shape[-1] != k:
        raise ValueError(f"x has shape {x.shape}, wanted [..., {k}] for a weight of shape {(n, k)}")
    if bias is not None:
        bias = _arguments.array("bias", bias, _arguments.FLOAT32)
        if bias.shape != (n,):
            raise ValueError(f"bias has shape {bias.shape}, wanted {(n,)}")
        bias = _arguments.contiguous(bias)
    rows = math.prod(x.shape[:-1])
    return (*x.shape[:-1], n), _arguments.contiguous(x).reshape(rows, k), bias


def _linear_weight(
    x: Array,
    weight: Weight,
    bias: Array | None,
    activation: Activation,
    x_qparams: QParamsLike | None,
    y_qparams: QParamsLike | None,
    out: Array | None,
    num_threads: int | None,
) -> Array:
    packed = weight.packed()
    n, k = weight.shape
    x = _arguments.array("x", x, _arguments.FLOAT32, *(_arguments.EIGHT_BITS if weight.quantizes else ()))
    quantized = x.dtype != _arguments.FLOAT32
    if not weight.quantizes and (x_qparams is not None or y_qparams is not None):
        raise ValueError("x_qparams or y_qparams is given, wanted None: with a weight of floats nothing is quantized")
    if quantized and x_qparams is None:
        raise ValueError(f"x_qparams is None, wanted scale and zero point of x, which is an array of {x.dtype}")
    if y_qparams is not None and not quantized:
        raise ValueError("y_qparams is given with float32 x, wanted None: a float32 x has a float32 result")
    shape, rows, bias = _operands(x, n, k, bias)
    dtypes: tuple[np.dtype[Any], ...] = (_arguments.FLOAT32,)
    if y_qparams is not None:
        dtypes = (x.dtype, *(dtype for dtype in _arguments.EIGHT_BITS if dtype != x.dtype))
    stored = {f"weight.{name}": a for name, a in weight._arrays().items()}
    result = _arguments.output(out, shape, dtypes, {"x": x, **stored, "bias": bias})
    if x_qparams is not None:
        x_qparams = _qparams("x_qparams", x_qparams, x.dtype if quantized else np.dtype(np.uint8))
        if not quantized and x_qparams.scale <= 2.0**-128:
            raise ValueError(f"x_qparams: scale is {x_qparams.scale}, wanted more than 2**-128, to have an inverse")
    if y_qparams is not None:
        y_qparams = _qparams("y_qparams", y_qparams, result.dtype)
    _backend.kernels().linear(
        rows,
        packed,
        bias,
        _activation(activation),
        x_qparams,
        y_qparams,
        result.reshape(len(rows), n),
        _arguments.num_threads(num_threads),
    )
    return _arguments.written(result, out)


def _linear_f32(
    x: Array,
    weight: Array,
    bias: Array | None,
    activation: Activation,
    x_qparams: QParamsLike | None,
    y_qparams: QParamsLike | None,
    out: Array | None,
    num_threads: int | None,
) -> Array:
    if not isinstance(weight, np.ndarray):
        raise TypeError(f"weight is {type(weight).__name__}, wanted a float32 array or a compressed weight")
    weight = _arguments.array("weight", weight, _arguments.FLOAT32)
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {weight.shape}, wanted [N, K]")
    if x_qparams is not None or y_qparams is not None:
        raise ValueError("x_qparams or y_qparams is given, wanted None: with a float32 weight nothing is quantized")
    n, k = weight.shape
    x = _arguments.array("x", x, _arguments.FLOAT32)
    shape, rows, bias = _operands(x, n, k, bias)
    result = _arguments.output(out, shape, (_arguments.FLOAT32,), {"x": x, "weight": weight, "bias": bias})
    _backend.kernels().linear_f32(
        rows,
        weight if weight.flags.aligned else weight.copy(),
        bias,
        _activation(activation),
        result.reshape(len(rows), n),
        _arguments.num_threads(num_threads),
    )
    return _arguments.written(result, out)
