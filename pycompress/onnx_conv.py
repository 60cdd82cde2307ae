"""ConvInteger and QLinearConv of ONNX: images NCHW, or [N, C, L] of one dimension."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _arguments, _backend
from .convolution import _Call, _integer, _integers, _matrices
from .onnx_ops import _as_integer, _scale

__all__ = ["conv_integer", "qlinear_conv"]

Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = int | tuple[int, ...]

_NONE = (0, 0.0, 0.0)


def conv_integer(
    x: Array,
    w: Array,
    x_zero_point: Array | int | None = None,
    w_zero_point: Array | int | None = None,
    *,
    strides: Ints = 1,
    pads: Ints = 0,
    dilations: Ints = 1,
    group: int = 1,
) -> NDArray[np.int32]:
    """ONNX ConvInteger: the convolution of x - x_zero_point with w - w_zero_point, exact in int32.

    Parameters
    ----------
    x
        uint8 or int8 [N, C, H, W], or [N, C, L].
    w
        uint8 or int8 [M, C / group, kH, kW], or [M, C / group, kL].
    x_zero_point
        One number of x's dtype; pixels of the padding have this value.
    w_zero_point
        One number of w's dtype, or one for each output, [M].
    strides, dilations
        An int, or one for each spatial dimension.
    pads
        An int, or as ONNX has them: the beginnings, then the ends, (top, left, bottom, right).
    group
        Both channels and outputs are cut into so many parts.

    Raises TypeError for a dtype, ValueError for a shape or a value out of range, OverflowError for a kernel with which
    a sum could leave int32.
    """
    conv = _Conv(x, w, x_zero_point, w_zero_point, strides, pads, dilations, group)
    return conv.run(np.dtype(np.int32), None, None, None, None)


def qlinear_conv(
    x: Array,
    x_scale: Array | float,
    x_zero_point: Array | int | None,
    w: Array,
    w_scale: Array | float,
    w_zero_point: Array | int | None,
    y_scale: Array | float,
    y_zero_point: Array | int,
    bias: Array | None = None,
    *,
    strides: Ints = 1,
    pads: Ints = 0,
    dilations: Ints = 1,
    group: int = 1,
) -> Array:
    """ONNX QLinearConv: as `conv_integer`, plus `bias`, requantized to y_zero_point's dtype.

    Parameters
    ----------
    x, x_zero_point, w, w_zero_point, strides, pads, dilations, group
        As in `conv_integer`.
    x_scale, y_scale
        float32, one number each.
    w_scale
        float32: one number, or one for each output, [M].
    y_zero_point
        uint8 or int8, one number. A Python int means uint8.
    bias
        int32 [M], in steps of x_scale * w_scale; the sum saturates.

    Raises as `conv_integer`; also ValueError for a scale that is not positive and finite.
    """
    conv = _Conv(x, w, x_zero_point, w_zero_point, strides, pads, dilations, group)
    x_factor, y_factor = (
        np.float32(_one(name, _scale(name, value))) for name, value in (("x_scale", x_scale), ("y_scale", y_scale))
    )
    w_factors = conv.outputs("w_scale", _scale("w_scale", w_scale).astype(np.float32))
    zero_point = (
        _as_integer("y_zero_point", y_zero_point, np.dtype(np.uint8))
        if isinstance(y_zero_point, int)
        else _arguments.array("y_zero_point", y_zero_point, *_arguments.EIGHT_BITS)
    )
    y_zero = int(_one("y_zero_point", zero_point))
    with np.errstate(over="ignore"):
        steps = x_factor * w_factors
        multiplier = steps / y_factor
    if not np.isfinite(multiplier).all():
        raise ValueError("x_scale * w_scale / y_scale is not finite in float32, wanted scales for which it is")
    real = None
    if bias is not None:
        bias = _arguments.array("bias", bias, np.dtype(np.int32))
        if bias.shape != (conv.m,):
            raise ValueError(f"bias has shape {bias.shape}, wanted {(conv.m,)}")
        # The kernels take a bias in float32 and divide it by its step again, which gives back all but huge ones.
        with np.errstate(all="ignore"):
            real = bias.astype(np.float32) * steps
            back = np.rint(real / steps)
        if not (np.abs(bias.astype(np.int64)) < 2**22).all() or not (back == bias).all():
            sums = conv.run(np.dtype(np.int32), None, None, None, None).astype(np.int64)
            spread = (-1, *[1] * (sums.ndim - 2))
            info = np.iinfo(np.int32)
            total = np.clip(sums + bias.astype(np.int64).reshape(spread), info.min, info.max).astype(np.float32)
            limits = np.iinfo(zero_point.dtype)
            with np.errstate(over="ignore"):
                level = np.rint(total * multiplier.reshape(spread)) + np.float32(y_zero)
            return np.asarray(np.clip(level, limits.min, limits.max).astype(zero_point.dtype))
    x_qparams, y_qparams = (float(x_factor), conv.x_zero_point), (float(y_factor), y_zero)
    return conv.run(zero_point.dtype, w_factors, real, x_qparams, y_qparams)


def _one(name: str, value: Array) -> Any:
    if value.size != 1:
        raise ValueError(f"{name} has shape {value.shape}, wanted one number")
    return value.reshape(())[()]


class _Conv:
    """The operands, checked, as images of two dimensions."""

    def __init__(
        self, x: Any, w: Any, x_zero_point: Any, w_zero_point: Any, strides: Any, pads: Any, dilations: Any, group: Any
    ) -> None:
        x = _arguments.array("x", x, *_arguments.EIGHT_BITS)
        w = _arguments.array("w", w, *_arguments.EIGHT_BITS)
        if x.ndim not in (3, 4) or w.ndim != x.ndim or 0 in w.shape[2:]:
            raise ValueError(
                f"x and w have shapes {x.shape} and {w.shape}, wanted [N, C, H, W] and [M, C / group, kH, kW], or one "
                "spatial dimension less"
            )
        group = _integer("group", group, 1)
        self.m = len(w)
        if w.shape[1] * group != x.shape[1] or self.m % group:
            raise ValueError(
                f"x and w have shapes {x.shape} and {w.shape}, wanted {w.shape[1] * group} channels and a multiple of "
                f"{group} outputs for {group} groups"
            )
        self.line = x.ndim == 3
        spatial = x.ndim - 2
        stride, dilation = (
            self._pair(_integers(name, self._all(value, spatial), 1, (spatial,)), 1)
            for name, value in (("strides", strides), ("dilations", dilations))
        )
        ends = _integers("pads", self._all(pads, 2 * spatial), 0, (2 * spatial,))
        padding = (0, ends[0], 0, ends[1]) if self.line else ends
        if self.line:
            x, w = x[:, :, None], w[:, :, None]
        self.w, self.group = w, group
        self.x_zero_point = (
            0 if x_zero_point is None else int(_one("x_zero_point", _as_integer("x_zero_point", x_zero_point, x.dtype)))
        )
        self.w_zero_point = np.zeros(self.m, np.int32)
        if w_zero_point is not None:
            zero = _as_integer("w_zero_point", w_zero_point, w.dtype)
            self.w_zero_point = np.ascontiguousarray(self.outputs("w_zero_point", zero).astype(np.int32))
        self.call = _Call(x, (w.shape[2], w.shape[3]), stride, padding, dilation, "NCHW", None)

    @staticmethod
    def _all(value: Any, count: int) -> Any:
        return value if isinstance(value, tuple | list | np.ndarray) else (value,) * count

    def _pair(self, values: tuple[int, ...], other: int) -> tuple[int, ...]:
        return (other, *values) if self.line else values

    def outputs(self, name: str, value: Array) -> Array:
        """One value for each output."""
        if value.size == 1:
            return np.broadcast_to(value.reshape(()), (self.m,))
        if value.shape != (self.m,):
            raise ValueError(f"{name} has shape {value.shape}, wanted one number or {(self.m,)}")
        return value

    def run(
        self,
        dtype: np.dtype[Any],
        w_scale: Array | None,
        bias: Array | None,
        x_qparams: tuple[float, int] | None,
        y_qparams: tuple[float, int] | None,
    ) -> Array:
        call, kernels = self.call, _backend.kernels()
        shape = (call.batch, self.m, *call.result_size)
        call.written, call.out = np.empty(shape, dtype), None
        call.y = np.empty((call.batch, *call.result_size, self.m), dtype)
        scale = np.ones(self.m, np.float32) if w_scale is None else np.ascontiguousarray(w_scale)
        if x_qparams is None:
            x_qparams = 1.0, self.x_zero_point
        unsigned = self.w.dtype == np.uint8
        middle = 128 if unsigned else 0
        if self.w.shape[1] == 1 and self.group > 1 and (self.w_zero_point == middle).all():
            w = (self.w ^ np.uint8(128)).view(np.int8) if unsigned else self.w
            weight = kernels.pack_depthwise(np.ascontiguousarray(w[:, 0]), scale)
            kernels.depthwise(call.image(), weight, bias, _NONE, x_qparams, y_qparams, call.shape, call.y, None)
        else:
            zero_point = self.w_zero_point if self.w_zero_point.any() else None
            _arguments.check_k(math.prod(self.w.shape[1:]), wide=unsigned or zero_point is not None)
            parts = zip(_matrices(self.w, self.group), np.split(scale, self.group), strict=True)
            handles = [kernels.pack_int8(part, factors) for part, factors in parts]
            weight = kernels.pack_conv(handles, self.w.shape[2], self.w.shape[3], [])
            kernels.conv(call.image(), weight, bias, _NONE, x_qparams, y_qparams, call.shape, call.y, None, zero_point)
        y = call.finish()
        return y[:, :, 0] if self.line else y
