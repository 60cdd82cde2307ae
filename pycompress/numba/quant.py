"""Quantization of arrays and of rows."""

from __future__ import annotations

import numpy as np
from numba import types

from .core import (
    TYPE_U8,
    Array,
    array_of,
    check,
    function,
    int32,
    njit,
    row_stride,
    scale_array,
    struct,
    x_f32_matrix,
    zero_point_array,
)

_quantize_linear_run = function("pc_quantize_linear_run")
_dequantize_linear_run = function("pc_dequantize_linear_run")
_range_run = function("pc_range_run")
_dynamic_qparams = function("pc_dynamic_qparams")
_quantize_rows_run = function("pc_quantize_rows_run")
_QUANT = struct("pc_quant_desc")
_QUANT_SIZE = _QUANT.itemsize


_x1 = array_of("x", 1, types.float32)
_x3 = array_of("x", 3, types.float32)
_q3 = array_of("x", 3, types.uint8, types.int8, types.int32)
_out1_u8 = array_of("out", 1, types.uint8, written=True)
_out3_q = array_of("out", 3, types.uint8, types.int8, written=True)
_out3_f32 = array_of("out", 3, types.float32, written=True)
_out_scales = array_of("scale", 1, types.float32, written=True)
_out_zero_points = array_of("zero_point", 1, types.int32, written=True)


@njit
def _quant_desc(shape: tuple[int, int, int], q_type: int, scale: Array, zero_point: Array) -> Array:
    scale_array(scale)
    zero_point_array(zero_point)
    desc = np.zeros(1, _QUANT)
    d = desc[0]
    d.size = _QUANT_SIZE
    d.outer, d.channels, d.inner = shape
    d.q_type = q_type
    if len(scale) != d.channels or len(zero_point) != d.channels:
        raise ValueError("scale and zero_point have another length than x has channels, the middle one of its sizes")
    d.scale = scale.ctypes.data
    d.zero_point = zero_point.ctypes.data
    return desc


@njit
def quantize_linear(x: Array, scale: Array, zero_point: Array, out: Array, ith: int = 0, nth: int = 1) -> None:
    """ONNX QuantizeLinear. x float32 [outer, channels, inner]; scale float32, zero_point int32 [channels]; out uint8 or
    int8, of x's shape. ValueError on NaN, or a scale or zero point out of range."""
    _x3(x)
    if out.shape != x.shape:
        raise ValueError("out has another shape than x")
    desc = _quant_desc(x.shape, _out3_q(out), scale, zero_point)
    check(_quantize_linear_run(desc.ctypes, x.ctypes, out.ctypes, int32(ith), int32(nth)))


@njit
def dequantize_linear(x: Array, scale: Array, zero_point: Array, out: Array, ith: int = 0, nth: int = 1) -> None:
    """ONNX DequantizeLinear. x uint8, int8 or int32 [outer, channels, inner]; scale float32, zero_point int32
    [channels]; out float32, of x's shape. ValueError on a scale or zero point out of range."""
    _out3_f32(out)
    if out.shape != x.shape:
        raise ValueError("out has another shape than x")
    desc = _quant_desc(x.shape, _q3(x), scale, zero_point)
    check(_dequantize_linear_run(desc.ctypes, x.ctypes, out.ctypes, int32(ith), int32(nth)))


@njit
def dynamic_quantize_linear(x: Array, out: Array) -> tuple[float, int]:
    """ONNX DynamicQuantizeLinear. x float32 [count], out uint8 [count]; returns (scale, zero_point). ValueError on NaN
    or infinity. It takes no (ith, nth): the second of its two passes needs all of the first."""
    _x1(x)
    _out1_u8(out)
    if out.shape != x.shape:
        raise ValueError("out has another shape than x")
    limits = np.empty(2, np.float32)
    scale = np.empty(1, np.float32)
    zero_point = np.empty(1, np.int32)
    check(_range_run(x.ctypes, x.size, limits.ctypes, np.int32(0), np.int32(1)))
    check(_dynamic_qparams(limits.ctypes, np.int32(1), scale.ctypes, zero_point.ctypes))
    desc = _quant_desc((1, 1, x.size), TYPE_U8, scale, zero_point)
    check(_quantize_linear_run(desc.ctypes, x.ctypes, out.ctypes, np.int32(0), np.int32(1)))
    return scale[0], zero_point[0]


_out2_u8 = array_of("out", 2, types.uint8, layout="any", written=True)


@njit
def quantize_rows(x: Array, out: Array, scale: Array, zero_point: Array, ith: int = 0, nth: int = 1) -> None:
    """Each row by its own range, as linear_int8 does with float32 x. x float32 [m, k]; written: out uint8 [m, k], scale
    float32 [m], zero_point int32 [m]. ValueError on NaN or infinity."""
    x_f32_matrix(x)
    _out2_u8(out)
    _out_scales(scale)
    _out_zero_points(zero_point)
    m, k = x.shape
    if out.shape != x.shape or len(scale) != m or len(zero_point) != m:
        raise ValueError("out has another shape than x, or scale or zero_point another length than x has rows")
    ldx, ldy = row_stride(x), row_stride(out)
    check(
        _quantize_rows_run(
            x.ctypes, m, k, ldx, out.ctypes, ldy, scale.ctypes, zero_point.ctypes, int32(ith), int32(nth)
        )
    )
