"""What stands between the layers of a convolutional network: pooling, and the sum of two images."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _arguments, _backend
from .ops import Activation, QParamsLike, _activation, _qparams
from .weights import QParams

__all__ = ["add", "average_pool2d", "global_average_pool", "max_pool2d"]

Array: TypeAlias = NDArray[Any]
Pair: TypeAlias = int | tuple[int, int]

_TYPES = (_arguments.FLOAT32, *_arguments.EIGHT_BITS)
_MAX, _AVERAGE, _AVERAGE_PADDED = range(3)

_pool_fast = _backend.fast("pool_fast")
_add_fast = _backend.fast("add_fast")


def max_pool2d(
    x: Array,
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    layout: str = "NHWC",
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """The largest value under each window, as torch.nn.functional.max_pool2d.

    x: [B, H, W, C], or [B, C, H, W] with layout="NCHW"; float32, uint8 or int8. The result has x's dtype, layout and,
    if it is quantized, x's quantization. stride: by default kernel_size. Padding, at most half of the kernel, never
    wins; NaN always does. out: written and returned; it must not share memory with x.

    Raises TypeError for a dtype, ValueError for a shape or a value out of range.
    """
    if layout == "NHWC":
        y = _pool_fast(x, _MAX, kernel_size, stride, padding, dilation, None, None, out, num_threads)
        if y is not NotImplemented:
            return y  # type: ignore[no-any-return]
    geometry = _Geometry(x, kernel_size, stride, padding, dilation, layout)
    return geometry.run(_MAX, geometry.x.dtype, None, None, out, num_threads)


def average_pool2d(
    x: Array,
    kernel_size: Pair,
    *,
    stride: Pair | None = None,
    padding: Pair = 0,
    count_include_pad: bool = True,
    x_qparams: QParamsLike | None = None,
    y_qparams: QParamsLike | None = None,
    layout: str = "NHWC",
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """The mean under each window, as torch.nn.functional.avg_pool2d.

    x: as for `max_pool2d`. count_include_pad: pixels of the padding count, as zeros. float32 x has a float32 result.
    uint8 and int8 x: with x_qparams and y_qparams a result of x's dtype in y's quantization; with x_qparams alone
    float32; with neither x's own dtype and quantization, for which padding that counts wants x_qparams as well.

    Raises TypeError for a dtype, ValueError for a shape or a value out of range, OverflowError for a window of more
    than 2^23 pixels of 8 bits.
    """
    if layout == "NHWC":
        mode = _AVERAGE_PADDED if count_include_pad else _AVERAGE
        y = _pool_fast(x, mode, kernel_size, stride, padding, 1, x_qparams, y_qparams, out, num_threads)
        if y is not NotImplemented:
            return y  # type: ignore[no-any-return]
    geometry = _Geometry(x, kernel_size, stride, padding, 1, layout)
    counts = count_include_pad and any(geometry.padding)
    if counts and geometry.x.dtype != _arguments.FLOAT32 and x_qparams is None:
        raise ValueError("x_qparams is None, wanted scale and zero point of x: padding counts as zero")
    mode = _AVERAGE_PADDED if counts else _AVERAGE
    return _average(geometry, mode, x_qparams, y_qparams, out, num_threads)


def global_average_pool(
    x: Array,
    *,
    x_qparams: QParamsLike | None = None,
    y_qparams: QParamsLike | None = None,
    layout: str = "NHWC",
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """The mean of each channel, as ONNX GlobalAveragePool: [B, 1, 1, C], or [B, C, 1, 1] with layout="NCHW".

    x, x_qparams, y_qparams and errors: as for `average_pool2d`; x must have pixels.
    """
    if layout == "NHWC":
        y = _pool_fast(x, _AVERAGE, None, 1, 0, 1, x_qparams, y_qparams, out, num_threads)
        if y is not NotImplemented:
            return y  # type: ignore[no-any-return]
    x = np.asarray(x)
    size = (x.shape[1:3] if layout == "NHWC" else x.shape[2:4]) if x.ndim == 4 else (1, 1)
    if 0 in size:
        raise ValueError(f"x has shape {x.shape}, wanted at least one pixel")
    geometry = _Geometry(x, (size[0], size[1]), 1, 0, 1, layout)
    return _average(geometry, _AVERAGE, x_qparams, y_qparams, out, num_threads)


def add(
    a: Array,
    b: Array,
    *,
    a_qparams: QParamsLike | None = None,
    b_qparams: QParamsLike | None = None,
    y_qparams: QParamsLike | None = None,
    activation: Activation = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """a + b for arrays of one shape and dtype, as ONNX Runtime's QLinearAdd where they are quantized.

    float32 a and b have a float32 result. uint8 or int8 a and b, with a_qparams and b_qparams, have one of their dtype
    with y_qparams, else of float32. activation: None, "relu", "relu6" or a clamp (low, high), for float32 operands or a
    quantized result. out: written and returned; it must not share memory with a or b.

    Raises TypeError for a dtype, ValueError for a shape or a value out of range.
    """
    y = _add_fast(a, b, a_qparams, b_qparams, y_qparams, activation, out, num_threads)
    if y is not NotImplemented:
        return y  # type: ignore[no-any-return]
    a = _arguments.array("a", a, *_TYPES)
    b = _arguments.array("b", b, a.dtype)
    if a.shape != b.shape:
        raise ValueError(f"a and b have shapes {a.shape} and {b.shape}, wanted the same")
    code = _activation(activation)
    if code[0] > 1:
        raise ValueError(f"activation is {activation!r}, wanted None, 'relu', 'relu6' or a pair (low, high)")
    dtype = a.dtype
    if a.dtype == _arguments.FLOAT32:
        if not a_qparams is b_qparams is y_qparams is None:
            raise ValueError("qparams are given with float32 arrays, wanted None")
    else:
        if a_qparams is None or b_qparams is None:
            raise ValueError(f"a_qparams or b_qparams is None, wanted scale and zero point of arrays of {a.dtype}")
        a_qparams, b_qparams = _qparams("a_qparams", a_qparams, dtype), _qparams("b_qparams", b_qparams, dtype)
        if y_qparams is not None:
            y_qparams = _qparams("y_qparams", y_qparams, dtype)
        elif code[0]:
            raise ValueError("y_qparams is None, wanted scale and zero point of the result: the activation acts on it")
        else:
            dtype = _arguments.FLOAT32
    result = _arguments.output(out, a.shape, (dtype,), {"a": a, "b": b})
    operands = _arguments.contiguous(a), _arguments.contiguous(b)
    _backend.kernels().add(
        *operands, result, a_qparams, b_qparams, y_qparams, code, _arguments.num_threads(num_threads)
    )
    return _arguments.written(result, out)


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    try:
        values = value if isinstance(value, tuple | list) else (value, value)
        first, second = (operator.index(v) for v in values)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}, wanted an int or a pair of ints") from None
    if min(first, second) < least or max(first, second) >= 2**31:
        raise ValueError(f"{name} is {value!r}, wanted at least {least}")
    return first, second


class _Geometry:
    """Checked arguments of a window over an image, which is NHWC from here on."""

    def __init__(self, x: Array, kernel: Pair, stride: Pair | None, padding: Pair, dilation: Pair, layout: str) -> None:
        if layout not in ("NHWC", "NCHW"):
            raise ValueError(f"layout is {layout!r}, wanted 'NHWC' or 'NCHW'")
        self.given = _arguments.array("x", x, *_TYPES)
        if self.given.ndim != 4:
            raise ValueError(
                f"x has shape {self.given.shape}, wanted [B, H, W, C] or, with layout='NCHW', [B, C, H, W]"
            )
        self.nchw = layout == "NCHW"
        self.x = _arguments.contiguous(self.given.transpose(0, 2, 3, 1) if self.nchw else self.given)
        self.kernel = _pair("kernel_size", kernel, 1)
        self.stride = self.kernel if stride is None else _pair("stride", stride, 1)
        self.padding, self.dilation = _pair("padding", padding, 0), _pair("dilation", dilation, 1)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ValueError(f"padding is {padding!r}, wanted at most half of kernel_size {kernel!r}")
        self.size = []
        for name, length, k, s, p, d in zip(
            ("height", "width"), self.x.shape[1:3], self.kernel, self.stride, self.padding, self.dilation, strict=True
        ):
            room = length + 2 * p - d * (k - 1) - 1
            if room < 0:
                raise ValueError(f"x has {name} {length}, wanted at least {length - room} for this kernel and padding")
            self.size.append(room // s + 1)

    def run(
        self,
        mode: int,
        dtype: np.dtype[Any],
        x_qparams: QParams | None,
        y_qparams: QParams | None,
        out: Array | None,
        num_threads: int | None,
    ) -> Array:
        batch, *_, channels = self.x.shape
        shape = (batch, *self.size, channels)
        outer = (batch, channels, *self.size) if self.nchw else shape
        result = _arguments.output(out, outer, (dtype,), {"x": self.given})
        y = np.empty(shape, dtype) if self.nchw else result
        geometry = (*self.kernel, *self.stride, *self.dilation, *self.padding)
        threads = _arguments.num_threads(num_threads)
        _backend.kernels().pool(self.x, y, mode, geometry, x_qparams, y_qparams, threads)
        if self.nchw:
            result[...] = y.transpose(0, 3, 1, 2)
        return _arguments.written(result, out)


def _average(
    geometry: _Geometry,
    mode: int,
    x_qparams: QParamsLike | None,
    y_qparams: QParamsLike | None,
    out: Array | None,
    num_threads: int | None,
) -> Array:
    x, dtype = geometry.x, geometry.x.dtype
    if dtype == _arguments.FLOAT32:
        if x_qparams is not None or y_qparams is not None:
            raise ValueError("x_qparams or y_qparams is given with float32 x, wanted None")
        return geometry.run(mode, dtype, None, None, out, num_threads)
    if geometry.kernel[0] * geometry.kernel[1] >= 2**23:
        raise OverflowError(f"kernel_size is {geometry.kernel}: the sum of a window could overflow int32")
    if x_qparams is None and y_qparams is not None:
        raise ValueError("y_qparams is given without x_qparams, wanted both")
    x_given = None if x_qparams is None else _qparams("x_qparams", x_qparams, x.dtype)
    y_given = None if y_qparams is None else _qparams("y_qparams", y_qparams, x.dtype)
    if x_given is not None and y_given is None:
        dtype = _arguments.FLOAT32
    return geometry.run(mode, dtype, x_given, y_given, out, num_threads)
