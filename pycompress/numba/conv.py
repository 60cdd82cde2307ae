"""Depthwise convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from .core import (
    TYPE_S8,
    Activation,
    Array,
    QParams,
    aligned,
    array_of,
    check,
    function,
    int32,
    njit,
    packed_array,
    scale_array,
    set_last_step,
    set_types,
    struct,
)

_conv_output_size = function("pc_conv_output_size")
_depthwise_pack_size = function("pc_depthwise_pack_size")
_depthwise_pack = function("pc_depthwise_pack")
_depthwise_packed_info = function("pc_depthwise_packed_info")
_depthwise_workspace_size = function("pc_depthwise_workspace_size")
_depthwise_run = function("pc_depthwise_run")
_CONV = struct("pc_conv_desc")
_CONV_SIZE = _CONV.itemsize


_weight_depthwise = array_of("w", 3, types.float32, types.int8)
_x4 = array_of("x", 4, types.float32, types.uint8, types.int8)
_out4 = array_of("out", 4, types.float32, types.uint8, types.int8, written=True)


@njit
def pack_depthwise(w: Array, scale: Array | None) -> Array:
    """Pack a depthwise weight for the instruction set in use. w float32 or int8 [outputs, kh, kw]; scale float32
    [outputs] of an int8 weight, or None. Returns uint8 [bytes], aligned to 64 bytes."""
    w_type = _weight_depthwise(w)
    outputs, kh, kw = w.shape
    size = np.empty(1, np.uintp)
    check(_depthwise_pack_size(np.int32(w_type), outputs, kh, kw, size.ctypes))
    packed = aligned(np.int64(size[0]))
    if scale is None:
        check(_depthwise_pack(w.ctypes, np.int32(w_type), outputs, kh, kw, np.uintp(0), packed.ctypes, packed.size))
    else:
        scale_array(scale)
        if w_type != TYPE_S8 or len(scale) != outputs:
            raise ValueError("scale goes with a weight of int8, and has as many values as w has outputs")
        check(_depthwise_pack(w.ctypes, np.int32(w_type), outputs, kh, kw, scale.ctypes, packed.ctypes, packed.size))
    return packed


@njit
def _depthwise_part(desc: Array, packed: Array, x: Array, out: Array, ith: int, nth: int) -> Any:
    ith32, nth32 = int32(ith), int32(nth)
    size = np.empty(1, np.uintp)
    status = _depthwise_workspace_size(desc.ctypes, packed.ctypes, packed.size, nth32, size.ctypes)
    if status != 0:
        return status
    work = aligned(np.int64(size[0]))
    return _depthwise_run(
        desc.ctypes, packed.ctypes, packed.size, x.ctypes, out.ctypes, work.ctypes, work.size, ith32, nth32
    )


@njit
def depthwise_conv2d(
    x: Array,
    packed: Array,
    bias: Array | None,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    activation: Activation,
    x_qparams: QParams | None,
    y_qparams: QParams | None,
    out: Array,
    ith: int = 0,
    nth: int = 1,
) -> None:
    """Depthwise convolution of NHWC images, with packed from pack_depthwise. x float32, uint8 or int8 [batch, height,
    width, channels]; padding (top, left, bottom, right); out [batch, out_height, out_width, outputs], float32, or of an
    int8 weight uint8 or int8 by y_qparams. With an int8 weight x_qparams is needed: a float32 x is quantized by it.
    ValueError on shapes that do not fit, qparams out of range, and NaN that is to be quantized."""
    x_type, y_type = _x4(x), _out4(out)
    packed_array(packed)
    sizes = np.empty(3, np.int64)  # outputs, kh, kw
    w_type = np.empty(1, np.int32)
    name = np.empty(1, np.uintp)
    check(
        _depthwise_packed_info(
            packed.ctypes,
            packed.size,
            w_type.ctypes,
            sizes[:1].ctypes,
            sizes[1:2].ctypes,
            sizes[2:].ctypes,
            name.ctypes,
        )
    )
    desc = np.zeros(1, _CONV)
    d = desc[0]
    d.size = _CONV_SIZE
    d.batch, d.height, d.width, d.channels = x.shape
    d.outputs, d.kernel_height, d.kernel_width = sizes[0], sizes[1], sizes[2]
    if min(stride) < 1 or min(dilation) < 1 or min(padding) < 0:
        raise ValueError("stride or dilation is less than 1, or padding is negative")
    d.stride_height, d.stride_width = stride
    d.dilation_height, d.dilation_width = dilation
    d.pad_top, d.pad_left, d.pad_bottom, d.pad_right = padding
    size = np.empty(2, np.int64)
    set_types(desc, x_type, y_type, x_qparams, y_qparams)
    set_last_step(desc, sizes[0], bias, activation)
    check(_conv_output_size(desc.ctypes, size[:1].ctypes, size[1:].ctypes))
    if out.shape != (x.shape[0], size[0], size[1], sizes[0]):
        raise ValueError("out has another shape than the result")
    check(_depthwise_part(desc, packed, x, out, ith, nth))
