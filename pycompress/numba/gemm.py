"""Products by int8, int4, float16 and float32 weights, and their packing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from .core import (
    TYPE_S32,
    Activation,
    Array,
    QParams,
    aligned,
    array_of,
    check,
    function,
    int32,
    njit,
    out_matrix,
    packed_array,
    scale_array,
    set_last_step,
    set_shapes,
    set_types,
    struct,
    x_f32_matrix,
    x_matrix,
    zero_point_array,
)

_s8_pack_size = function("pc_gemm_s8_pack_size")
_s8_pack = function("pc_gemm_s8_pack")
_s8_packed_info = function("pc_gemm_s8_packed_info")
_s8_workspace_size = function("pc_gemm_s8_workspace_size")
_s8_run = function("pc_gemm_s8_run")
_s4_pack_size = function("pc_gemm_s4_pack_size")
_s4_pack = function("pc_gemm_s4_pack")
_s4_packed_info = function("pc_gemm_s4_packed_info")
_s4_workspace_size = function("pc_gemm_s4_workspace_size")
_s4_run = function("pc_gemm_s4_run")
_f32_pack_size = function("pc_gemm_f32_pack_size")
_f32_pack = function("pc_gemm_f32_pack")
_f16_pack_size = function("pc_gemm_f16_pack_size")
_f16_pack = function("pc_gemm_f16_pack")
_f32_workspace_size = function("pc_gemm_f32_workspace_size")
_f32_run = function("pc_gemm_f32_run")
_S8 = struct("pc_gemm_s8_desc")
_S4 = struct("pc_gemm_s4_desc")
_F32 = struct("pc_gemm_f32_desc")
_S8_SIZE, _S4_SIZE, _F32_SIZE = _S8.itemsize, _S4.itemsize, _F32.itemsize


_weight_q = array_of("q", 2, types.int8, types.uint8, layout="any")
_weight_f32 = array_of("w", 2, types.float32, layout="any")
_x2_q = array_of("x", 2, types.uint8, types.int8, layout="any")
_out2_s32 = array_of("out", 2, types.int32, layout="any", written=True)
_out2_f32 = array_of("out", 2, types.float32, layout="any", written=True)


@njit
def pack_int8(q: Array, scale: Array) -> Array:
    """Pack a weight for the instruction set in use. q int8 or uint8 [n, k], any strides; scale float32 [n], positive.

    Returns uint8 [bytes], aligned to 64 bytes. ValueError on a scale that is not positive and finite; OverflowError
    when k is so long that a sum could overflow.
    """
    w_type = _weight_q(q)
    scale_array(scale)
    n, k = q.shape
    if len(scale) != n:
        raise ValueError("scale has another length than q has rows")
    size = np.empty(1, np.uintp)
    check(_s8_pack_size(n, k, size.ctypes))
    packed = aligned(np.int64(size[0]))
    check(
        _s8_pack(q.ctypes, np.int32(w_type), n, k, q.strides[0], q.strides[1], scale.ctypes, packed.ctypes, packed.size)
    )
    return packed


@njit
def packed_shape(packed: Array) -> tuple[int, int]:
    """(n, k) of a packed weight. ValueError on bytes that pack_int8 did not write, or for another kind of CPU."""
    packed_array(packed)
    n = np.empty(1, np.int64)
    k = np.empty(1, np.int64)
    name = np.empty(1, np.uintp)
    check(_s8_packed_info(packed.ctypes, packed.size, n.ctypes, k.ctypes, name.ctypes))
    return n[0], k[0]


@njit
def _s8_desc(x: Array, packed: Array, out: Array) -> Array:
    n, k = packed_shape(packed)
    desc = np.zeros(1, _S8)
    set_shapes(desc, _S8_SIZE, n, k, x, out)
    return desc


@njit
def _s8_part(desc: Array, packed: Array, x: Array, out: Array, ith: int, nth: int) -> Any:
    # It returns a status, and the caller raises: Numba leaks what a function holds that an exception leaves.
    ith32, nth32 = int32(ith), int32(nth)
    size = np.empty(1, np.uintp)
    status = _s8_workspace_size(desc.ctypes, packed.ctypes, packed.size, nth32, size.ctypes)
    if status != 0:
        return status
    # Room for all parts; that of the others is never touched, and so is address space only.
    work = aligned(np.int64(size[0]))
    return _s8_run(desc.ctypes, packed.ctypes, packed.size, x.ctypes, out.ctypes, work.ctypes, work.size, ith32, nth32)


@njit
def gemm_int8(
    x: Array,
    packed: Array,
    x_zero_point: Array | None,
    w_zero_point: Array | None,
    out: Array,
    ith: int = 0,
    nth: int = 1,
) -> None:
    """out = (x - x_zero_point) @ (w - w_zero_point).T, exactly. x uint8 or int8 [m, k]; packed from [n, k]; zero points
    int32 [m] and [n], or None for zeros; out int32 [m, n]. ValueError on a zero point out of range; OverflowError when
    k is so long that a sum could overflow."""
    x_type = _x2_q(x)
    _out2_s32(out)
    desc = _s8_desc(x, packed, out)
    d = desc[0]
    d.x_type, d.y_type = x_type, TYPE_S32
    if x_zero_point is not None:
        zero_point_array(x_zero_point)
        if len(x_zero_point) != d.m:
            raise ValueError("x_zero_point has another length than x has rows")
        d.x_zero_points = x_zero_point.ctypes.data
    if w_zero_point is not None:
        zero_point_array(w_zero_point)
        if len(w_zero_point) != d.n:
            raise ValueError("w_zero_point has another length than the weight has rows")
        d.w_zero_points = w_zero_point.ctypes.data
    check(_s8_part(desc, packed, x, out, ith, nth))


@njit
def linear_int8(
    x: Array,
    packed: Array,
    bias: Array | None,
    activation: Activation,
    x_qparams: QParams | None,
    y_qparams: QParams | None,
    out: Array,
    ith: int = 0,
    nth: int = 1,
) -> None:
    """out = activation(x @ w.T + bias). x float32 [m, k], quantized by x_qparams or, with None, row by row; or x uint8
    or int8, with x_qparams. packed from [n, k]; bias float32 [n] or None. out [m, n] float32; or uint8 or int8, by
    y_qparams (then x_qparams is needed too). ValueError on NaN or infinity that is to be quantized, or qparams out of
    range."""
    x_type, y_type = x_matrix(x), out_matrix(out)
    desc = _s8_desc(x, packed, out)
    set_types(desc, x_type, y_type, x_qparams, y_qparams)
    set_last_step(desc, out.shape[1], bias, activation)
    check(_s8_part(desc, packed, x, out, ith, nth))


_weight_data = array_of("data", 2, types.uint8)
_group_scales = array_of("scale", 2, types.float32)


@njit
def pack_int4(data: Array, scale: Array, k: int, group_size: int) -> Array:
    """Pack an int4 weight for the instruction set in use. data uint8 [n, (k + 1) // 2], two values to a byte, the lower
    k in the low half; scale float32 [n, groups], positive; group_size a multiple of 32, or 0 for one group.

    Returns uint8 [bytes], aligned to 64 bytes. ValueError on shapes that do not fit, a group size, or a scale that is
    not positive and finite; OverflowError when k is so long that a sum could overflow.
    """
    _weight_data(data)
    _group_scales(scale)
    n = data.shape[0]
    size = np.empty(1, np.uintp)
    check(_s4_pack_size(n, k, group_size, size.ctypes))
    groups = (k + group_size - 1) // group_size if group_size > 0 else min(k, 1)
    if data.shape[1] != (k + 1) // 2 or scale.shape != (n, groups):
        raise ValueError("the shapes of data and scale do not fit k and group_size")
    packed = aligned(np.int64(size[0]))
    check(_s4_pack(data.ctypes, n, k, 0, group_size, scale.ctypes, packed.ctypes, packed.size))
    return packed


@njit
def _s4_part(desc: Array, packed: Array, x: Array, out: Array, ith: int, nth: int) -> Any:
    ith32, nth32 = int32(ith), int32(nth)
    size = np.empty(1, np.uintp)
    status = _s4_workspace_size(desc.ctypes, packed.ctypes, packed.size, nth32, size.ctypes)
    if status != 0:
        return status
    work = aligned(np.int64(size[0]))
    return _s4_run(desc.ctypes, packed.ctypes, packed.size, x.ctypes, out.ctypes, work.ctypes, work.size, ith32, nth32)


@njit
def linear_int4(
    x: Array,
    packed: Array,
    bias: Array | None,
    activation: Activation,
    x_qparams: QParams | None,
    y_qparams: QParams | None,
    out: Array,
    ith: int = 0,
    nth: int = 1,
) -> None:
    """As linear_int8, with packed from pack_int4."""
    x_type, y_type = x_matrix(x), out_matrix(out)
    packed_array(packed)
    n_k = np.empty(2, np.int64)
    unused = np.empty(2, np.int64)
    check(
        _s4_packed_info(
            packed.ctypes, packed.size, n_k[:1].ctypes, n_k[1:].ctypes, unused[:1].ctypes, unused[1:].ctypes
        )
    )
    desc = np.zeros(1, _S4)
    set_shapes(desc, _S4_SIZE, n_k[0], n_k[1], x, out)
    set_types(desc, x_type, y_type, x_qparams, y_qparams)
    set_last_step(desc, out.shape[1], bias, activation)
    check(_s4_part(desc, packed, x, out, ith, nth))


@njit
def _f32_part(desc: Array, w: Array, size: int, x: Array, out: Array, ith: int, nth: int) -> Any:
    ith32, nth32 = int32(ith), int32(nth)
    work_size = np.empty(1, np.uintp)
    status = _f32_workspace_size(desc.ctypes, nth32, work_size.ctypes)
    if status != 0:
        return status
    work = aligned(np.int64(work_size[0]))
    return _f32_run(desc.ctypes, w.ctypes, size, x.ctypes, out.ctypes, work.ctypes, work.size, ith32, nth32)


@njit
def _strides(w: Array) -> tuple[int, int]:
    """Elements from row to row and from column to column."""
    n, k = w.shape
    # The stride of a side of length 1 says nothing, nor do those of an empty array.
    ldn = w.strides[0] if n > 1 and k > 0 else w.itemsize
    ldk = w.strides[1] if k > 1 and n > 0 else w.itemsize
    if ldn <= 0 or ldk <= 0 or ldn % w.itemsize != 0 or ldk % w.itemsize != 0:
        raise ValueError("w has strides that are not positive multiples of its element")
    return ldn // w.itemsize, ldk // w.itemsize


@njit
def linear_f32(
    x: Array, w: Array, bias: Array | None, activation: Activation, out: Array, ith: int = 0, nth: int = 1
) -> None:
    """out = activation(x @ w.T + bias). x float32 [m, k]; w float32 [n, k], rows or columns in any positive strides;
    bias float32 [n] or None; out float32 [m, n]. ValueError on a clamp whose low is above its high."""
    x_f32_matrix(x)
    _weight_f32(w)
    _out2_f32(out)
    desc = np.zeros(1, _F32)
    set_shapes(desc, _F32_SIZE, w.shape[0], w.shape[1], x, out)
    d = desc[0]
    d.ldn, d.ldk = _strides(w)
    set_last_step(desc, out.shape[1], bias, activation)
    check(_f32_part(desc, w, 0, x, out, ith, nth))


_weight_f16 = array_of("w", 2, types.uint16, layout="any")


@njit
def pack_f32(w: Array) -> Array:
    """Pack a float32 weight [n, k], rows or columns in any positive strides, for the instruction set in use.

    Returns uint8 [bytes], aligned to 64 bytes.
    """
    _weight_f32(w)
    n, k = w.shape
    ldn, ldk = _strides(w)
    size = np.empty(1, np.uintp)
    check(_f32_pack_size(n, k, size.ctypes))
    packed = aligned(np.int64(size[0]))
    check(_f32_pack(w.ctypes, n, k, ldn, ldk, packed.ctypes, packed.size))
    return packed


@njit
def pack_f16(w: Array) -> Array:
    """As pack_f32, of a float16 weight given by its bits as uint16 (w.view(np.uint16)): half of the bytes. It is
    computed with in float32."""
    _weight_f16(w)
    n, k = w.shape
    ldn, ldk = _strides(w)
    size = np.empty(1, np.uintp)
    check(_f16_pack_size(n, k, size.ctypes))
    packed = aligned(np.int64(size[0]))
    check(_f16_pack(w.ctypes, n, k, ldn, ldk, packed.ctypes, packed.size))
    return packed


@njit
def linear_packed_f32(
    x: Array, packed: Array, bias: Array | None, activation: Activation, out: Array, ith: int = 0, nth: int = 1
) -> None:
    """As linear_f32, with packed from pack_f32 or pack_f16. ValueError where it is of another shape than [n, k]."""
    x_f32_matrix(x)
    packed_array(packed)
    _out2_f32(out)
    desc = np.zeros(1, _F32)
    set_shapes(desc, _F32_SIZE, out.shape[1], x.shape[1], x, out)
    set_last_step(desc, out.shape[1], bias, activation)
    if packed.size == 0:  # it would be taken for a weight that is not packed
        raise ValueError("packed is empty, wanted what pack_f32 or pack_f16 returned")
    check(_f32_part(desc, packed, packed.size, x, out, ith, nth))
