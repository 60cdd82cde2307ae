"""The native kernels as functions that can be called inside `@numba.njit`, also with nogil=True and cache=True.

    from pycompress.numba import RELU, linear_int8, pack_int8

    packed = pack_int8(q, scale)  # once; here or in compiled code

    @numba.njit(nogil=True)
    def layer(x, packed, bias, out):
        linear_int8(x, packed, bias, RELU, None, None, out)

They are the functions of pycompress/_backend.py, and can be called from Python too. A packed weight is a uint8 array:
compiled code can pass it on, and it can be stored and mapped again on a CPU of the same kind. A call does all the work
on the calling thread or, with (ith, nth), part `ith` of `nth` of it: for threads of your own, or a numba.prange over
ith. The bits of the result do not depend on nth.

Matrices may be views with longer rows (x[:, :k]), but the values of a row must be contiguous; all other arrays must be
C-contiguous. `activation` is one of the constants NONE, RELU, RELU6, HARDSWISH, SILU, GELU, or clamp(low, high).
`x_qparams` and `y_qparams` are a tuple (scale, zero_point) or None. `out` is written in place and must not overlap the
other arrays. docs/exactness.md defines what each function computes.

Errors: where an array has a dtype, a number of dimensions or a layout that the function does not take, the call does
not compile: numba.TypingError. Shapes and values are checked when it runs: ValueError, OverflowError (a number beyond
int32, or k so long that a sum could overflow) or TypeError (dtypes that do not go together). Numba does not carry
exceptions out of a numba.prange: there, call a compiled function that catches them and returns whether it went well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import llvmlite.binding  # type: ignore[import-untyped]
import numba
import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload
from numpy.typing import NDArray

from .capi import ffi, lib

__all__ = [
    "GELU",
    "HARDSWISH",
    "NONE",
    "RELU",
    "RELU6",
    "SILU",
    "clamp",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "gemm_int8",
    "linear_f32",
    "linear_int4",
    "linear_int8",
    "pack_int4",
    "pack_int8",
    "packed_shape",
    "quantize_linear",
    "quantize_rows",
]

Array: TypeAlias = NDArray[Any]
QParams: TypeAlias = tuple[float, int]
Activation: TypeAlias = tuple[int, float, float]
Function = TypeVar("Function", bound=Callable[..., Any])

NONE: Activation = (lib.PC_ACTIVATION_NONE, 0.0, 0.0)
RELU: Activation = (lib.PC_ACTIVATION_CLAMP, 0.0, math.inf)
RELU6: Activation = (lib.PC_ACTIVATION_CLAMP, 0.0, 6.0)
HARDSWISH: Activation = (lib.PC_ACTIVATION_HARDSWISH, 0.0, 0.0)
SILU: Activation = (lib.PC_ACTIVATION_SILU, 0.0, 0.0)
GELU: Activation = (lib.PC_ACTIVATION_GELU, 0.0, 0.0)

# ---- the C functions and structs, read from the header by cffi

_SCALARS: dict[str, Any] = {
    "int32_t": types.int32,
    "int64_t": types.int64,
    "size_t": types.uintp,
    "float": types.float32,
}


def _function(name: str) -> Any:
    """A C function for compiled code, by its name and not its address: so that code which calls it can be cached."""
    address = ffi.addressof(lib, name)
    llvmlite.binding.add_symbol(name, int(ffi.cast("uintptr_t", address)))
    ctype = ffi.typeof(address)
    result, *args = [types.voidptr if t.kind == "pointer" else _SCALARS[t.cname] for t in (ctype.result, *ctype.args)]
    return types.ExternalFunction(name, result(*args))


def _struct(name: str) -> np.dtype[np.void]:
    """The layout of a C struct; pointers are integers."""
    ctype = ffi.typeof(name)
    formats = {"int32_t": np.int32, "int64_t": np.int64, "size_t": np.uintp, "float": np.float32}
    return np.dtype(
        {
            "names": [field for field, _ in ctype.fields],
            "formats": [np.uintp if f.type.kind == "pointer" else formats[f.type.cname] for _, f in ctype.fields],
            "offsets": [f.offset for _, f in ctype.fields],
            "itemsize": ffi.sizeof(ctype),
        }
    )


_last_error = _function("pc_last_error")
_quantize_linear_run = _function("pc_quantize_linear_run")
_dequantize_linear_run = _function("pc_dequantize_linear_run")
_range_run = _function("pc_range_run")
_dynamic_qparams = _function("pc_dynamic_qparams")
_quantize_rows_run = _function("pc_quantize_rows_run")
_s8_pack_size = _function("pc_gemm_s8_pack_size")
_s8_pack = _function("pc_gemm_s8_pack")
_s8_packed_info = _function("pc_gemm_s8_packed_info")
_s8_workspace_size = _function("pc_gemm_s8_workspace_size")
_s8_run = _function("pc_gemm_s8_run")
_s4_pack_size = _function("pc_gemm_s4_pack_size")
_s4_pack = _function("pc_gemm_s4_pack")
_s4_packed_info = _function("pc_gemm_s4_packed_info")
_s4_workspace_size = _function("pc_gemm_s4_workspace_size")
_s4_run = _function("pc_gemm_s4_run")
_f32_workspace_size = _function("pc_gemm_f32_workspace_size")
_f32_run = _function("pc_gemm_f32_run")

_QUANT = _struct("pc_quant_desc")
_S8 = _struct("pc_gemm_s8_desc")
_S4 = _struct("pc_gemm_s4_desc")
_F32 = _struct("pc_gemm_f32_desc")
_QUANT_SIZE, _S8_SIZE, _F32_SIZE = _QUANT.itemsize, _S8.itemsize, _F32.itemsize

_S4_SIZE = _S4.itemsize

_ALIGNMENT: int = lib.PC_ALIGNMENT
_TYPE_S32: int = lib.PC_S32
_TYPE_F32: int = lib.PC_F32
_TYPE_U8: int = lib.PC_U8
_ERROR_TYPE: int = lib.PC_ERROR_TYPE
_ERROR_OVERFLOW: int = lib.PC_ERROR_OVERFLOW

# ---- what the functions need inside compiled code


def _njit(function: Function) -> Function:
    # A cache that outlives a change of the header is safe: fields are only added at the end, and the library looks at
    # a descriptor's size.
    try:
        return cast(Function, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # no directory to write the cache to
        return cast(Function, numba.njit(nogil=True)(function))


_CODES = {types.float32: lib.PC_F32, types.uint8: lib.PC_U8, types.int8: lib.PC_S8, types.int32: lib.PC_S32}


def _array(
    name: str, ndim: int, *dtypes: types.Type, layout: str = "C", written: bool = False
) -> Callable[[Array], int]:
    """A function for compiled code that gives the pc_type of an array, and takes no array but such a one.

    Layout "any" leaves the strides to be looked at when it runs. Raises numba.TypingError, naming `name`.
    """
    wanted = " or ".join(map(str, dtypes))

    def pc_type(array: Array) -> int:
        raise NotImplementedError("for compiled code only")

    @overload(pc_type)
    def typed(array: Any) -> Callable[[Any], int]:
        if not isinstance(array, types.Array) or array.ndim != ndim or array.dtype not in dtypes:
            raise TypingError(f"{name} is {array}, wanted a {ndim}-D array of {wanted}")
        if layout == "C" and array.layout != "C":
            raise TypingError(f"{name} is {array}, wanted a C-contiguous array")
        if not array.aligned or (written and not array.mutable):
            raise TypingError(f"{name} is {array}, wanted an aligned{' and writable' if written else ''} array")
        code: int = _CODES[array.dtype]

        def impl(array: Any) -> int:  # overload wants the parameters of both to be the same, annotations too
            return code

        return impl

    return pc_type


@_njit
def _message() -> str:
    text = numba.carray(_last_error(), 1 << 16, np.uint8)  # type: ignore[attr-defined]
    message = ""
    for byte in text:
        if byte == 0:
            break
        message += chr(byte)
    return message


@_njit
def _check(status: int) -> None:
    """Raise what a pc_status means, with the message of pc_last_error()."""
    if status == 0:
        return
    # From a function of its own: Numba 0.60 would take a string that is made here for its first value, "".
    message = _message()
    if status == _ERROR_TYPE:
        raise TypeError(message)
    if status == _ERROR_OVERFLOW:
        raise OverflowError(message)
    raise ValueError(message)


@_njit
def _int32(value: int) -> Any:
    if not -(2**31) <= value < 2**31:
        raise OverflowError("a zero point, ith or nth does not fit int32")
    return np.int32(value)


@_njit
def _scale(value: float) -> Any:
    # The C interface takes a scale of 0 for "not given".
    scale = np.float32(value)
    if not scale > 0:
        raise ValueError("the scale of x_qparams or y_qparams is not positive in float32")
    return scale


@_njit
def _row_stride(matrix: Array) -> Any:
    """Elements from row to row."""
    rows, columns = matrix.shape
    if matrix.size == 0:  # NumPy gives it any strides
        return columns
    if columns > 1 and matrix.strides[1] != matrix.itemsize:
        raise ValueError("the rows of x or out are not contiguous")
    if rows == 1:
        return columns
    if matrix.strides[0] < columns * matrix.itemsize or matrix.strides[0] % matrix.itemsize != 0:
        raise ValueError("the rows of x or out overlap, or lie backwards or askew")
    return matrix.strides[0] // matrix.itemsize


@_njit
def _aligned(size: int) -> Array:
    """Memory for "packed" and "workspace"."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    skip = np.int64(_ALIGNMENT - memory.ctypes.data % _ALIGNMENT)
    return memory[skip : skip + size]


# ---- quantization

_x1 = _array("x", 1, types.float32)
_x3 = _array("x", 3, types.float32)
_q3 = _array("x", 3, types.uint8, types.int8, types.int32)
_out1_u8 = _array("out", 1, types.uint8, written=True)
_out3_q = _array("out", 3, types.uint8, types.int8, written=True)
_out3_f32 = _array("out", 3, types.float32, written=True)
_scales = _array("scale", 1, types.float32)
_zero_points = _array("zero_point", 1, types.int32)
_out_scales = _array("scale", 1, types.float32, written=True)
_out_zero_points = _array("zero_point", 1, types.int32, written=True)


@_njit
def _quant_desc(shape: tuple[int, int, int], q_type: int, scale: Array, zero_point: Array) -> Array:
    _scales(scale)
    _zero_points(zero_point)
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


@_njit
def quantize_linear(x: Array, scale: Array, zero_point: Array, out: Array, ith: int = 0, nth: int = 1) -> None:
    """ONNX QuantizeLinear. x float32 [outer, channels, inner]; scale float32, zero_point int32 [channels]; out uint8 or
    int8, of x's shape. ValueError on NaN, or a scale or zero point out of range."""
    _x3(x)
    if out.shape != x.shape:
        raise ValueError("out has another shape than x")
    desc = _quant_desc(x.shape, _out3_q(out), scale, zero_point)
    _check(_quantize_linear_run(desc.ctypes, x.ctypes, out.ctypes, _int32(ith), _int32(nth)))


@_njit
def dequantize_linear(x: Array, scale: Array, zero_point: Array, out: Array, ith: int = 0, nth: int = 1) -> None:
    """ONNX DequantizeLinear. x uint8, int8 or int32 [outer, channels, inner]; scale float32, zero_point int32
    [channels]; out float32, of x's shape. ValueError on a scale or zero point out of range."""
    _out3_f32(out)
    if out.shape != x.shape:
        raise ValueError("out has another shape than x")
    desc = _quant_desc(x.shape, _q3(x), scale, zero_point)
    _check(_dequantize_linear_run(desc.ctypes, x.ctypes, out.ctypes, _int32(ith), _int32(nth)))


@_njit
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
    _check(_range_run(x.ctypes, x.size, limits.ctypes, np.int32(0), np.int32(1)))
    _check(_dynamic_qparams(limits.ctypes, np.int32(1), scale.ctypes, zero_point.ctypes))
    desc = _quant_desc((1, 1, x.size), _TYPE_U8, scale, zero_point)
    _check(_quantize_linear_run(desc.ctypes, x.ctypes, out.ctypes, np.int32(0), np.int32(1)))
    return scale[0], zero_point[0]


_x2_f32 = _array("x", 2, types.float32, layout="any")
_out2_u8 = _array("out", 2, types.uint8, layout="any", written=True)


@_njit
def quantize_rows(x: Array, out: Array, scale: Array, zero_point: Array, ith: int = 0, nth: int = 1) -> None:
    """Each row by its own range, as linear_int8 does with float32 x. x float32 [m, k]; written: out uint8 [m, k], scale
    float32 [m], zero_point int32 [m]. ValueError on NaN or infinity."""
    _x2_f32(x)
    _out2_u8(out)
    _out_scales(scale)
    _out_zero_points(zero_point)
    m, k = x.shape
    if out.shape != x.shape or len(scale) != m or len(zero_point) != m:
        raise ValueError("out has another shape than x, or scale or zero_point another length than x has rows")
    ldx, ldy = _row_stride(x), _row_stride(out)
    _check(
        _quantize_rows_run(
            x.ctypes, m, k, ldx, out.ctypes, ldy, scale.ctypes, zero_point.ctypes, _int32(ith), _int32(nth)
        )
    )


# ---- gemm

_weight_q = _array("q", 2, types.int8, types.uint8, layout="any")
_weight_f32 = _array("w", 2, types.float32, layout="any")
_packed = _array("packed", 1, types.uint8)
_x2_q = _array("x", 2, types.uint8, types.int8, layout="any")
_x2 = _array("x", 2, types.float32, types.uint8, types.int8, layout="any")
_out2_s32 = _array("out", 2, types.int32, layout="any", written=True)
_out2_f32 = _array("out", 2, types.float32, layout="any", written=True)
_out2 = _array("out", 2, types.float32, types.uint8, types.int8, layout="any", written=True)
_biases = _array("bias", 1, types.float32)


@_njit
def clamp(low: float, high: float) -> Activation:
    """The activation min(max(y, low), high)."""
    return RELU[0], np.float64(low), np.float64(high)


@_njit
def pack_int8(q: Array, scale: Array) -> Array:
    """Pack a weight for the instruction set in use. q int8 or uint8 [n, k], any strides; scale float32 [n], positive.

    Returns uint8 [bytes], aligned to 64 bytes. ValueError on a scale that is not positive and finite; OverflowError
    when k is so long that a sum could overflow.
    """
    w_type = _weight_q(q)
    _scales(scale)
    n, k = q.shape
    if len(scale) != n:
        raise ValueError("scale has another length than q has rows")
    size = np.empty(1, np.uintp)
    _check(_s8_pack_size(n, k, size.ctypes))
    packed = _aligned(np.int64(size[0]))
    _check(
        _s8_pack(q.ctypes, np.int32(w_type), n, k, q.strides[0], q.strides[1], scale.ctypes, packed.ctypes, packed.size)
    )
    return packed


@_njit
def packed_shape(packed: Array) -> tuple[int, int]:
    """(n, k) of a packed weight. ValueError on bytes that pack_int8 did not write, or for another kind of CPU."""
    _packed(packed)
    n = np.empty(1, np.int64)
    k = np.empty(1, np.int64)
    name = np.empty(1, np.uintp)
    _check(_s8_packed_info(packed.ctypes, packed.size, n.ctypes, k.ctypes, name.ctypes))
    return n[0], k[0]


@_njit
def _s8_desc(x: Array, packed: Array, out: Array) -> Array:
    n, k = packed_shape(packed)
    if x.shape[1] != k or out.shape[0] != x.shape[0] or out.shape[1] != n:
        raise ValueError("the shapes of x, packed and out do not fit: wanted x [m, k], packed from [n, k], out [m, n]")
    desc = np.zeros(1, _S8)
    d = desc[0]
    d.size = _S8_SIZE
    d.m, d.n, d.k = x.shape[0], n, k
    d.ldx, d.ldy = _row_stride(x), _row_stride(out)
    return desc


@_njit
def _s8_part(desc: Array, packed: Array, x: Array, out: Array, ith: int, nth: int) -> Any:
    # It returns a status, and the caller raises: Numba leaks what a function holds that an exception leaves.
    ith32, nth32 = _int32(ith), _int32(nth)
    size = np.empty(1, np.uintp)
    status = _s8_workspace_size(desc.ctypes, packed.ctypes, packed.size, nth32, size.ctypes)
    if status != 0:
        return status
    # Room for all parts; that of the others is never touched, and so is address space only.
    work = _aligned(np.int64(size[0]))
    return _s8_run(desc.ctypes, packed.ctypes, packed.size, x.ctypes, out.ctypes, work.ctypes, work.size, ith32, nth32)


@_njit
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
    d.x_type, d.y_type = x_type, _TYPE_S32
    if x_zero_point is not None:
        _zero_points(x_zero_point)
        if len(x_zero_point) != d.m:
            raise ValueError("x_zero_point has another length than x has rows")
        d.x_zero_points = x_zero_point.ctypes.data
    if w_zero_point is not None:
        _zero_points(w_zero_point)
        if len(w_zero_point) != d.n:
            raise ValueError("w_zero_point has another length than the weight has rows")
        d.w_zero_points = w_zero_point.ctypes.data
    _check(_s8_part(desc, packed, x, out, ith, nth))


@_njit
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
    x_type, y_type = _x2(x), _out2(out)
    desc = _s8_desc(x, packed, out)
    d = desc[0]
    d.x_type, d.y_type = x_type, y_type
    if x_qparams is not None:
        d.x_scale, d.x_zero_point = _scale(x_qparams[0]), _int32(x_qparams[1])
    if y_qparams is not None:
        if y_type == _TYPE_F32:
            raise ValueError("y_qparams go with out of uint8 or int8")
        d.y_scale, d.y_zero_point = _scale(y_qparams[0]), _int32(y_qparams[1])
    if bias is not None:
        _biases(bias)
        if len(bias) != d.n:
            raise ValueError("bias has another length than the weight has rows")
        d.bias = bias.ctypes.data
    d.activation, d.low, d.high = activation
    _check(_s8_part(desc, packed, x, out, ith, nth))


_weight_data = _array("data", 2, types.uint8)
_group_scales = _array("scale", 2, types.float32)


@_njit
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
    _check(_s4_pack_size(n, k, group_size, size.ctypes))
    groups = (k + group_size - 1) // group_size if group_size > 0 else min(k, 1)
    if data.shape[1] != (k + 1) // 2 or scale.shape != (n, groups):
        raise ValueError("the shapes of data and scale do not fit k and group_size")
    packed = _aligned(np.int64(size[0]))
    _check(_s4_pack(data.ctypes, n, k, 0, group_size, scale.ctypes, packed.ctypes, packed.size))
    return packed


@_njit
def _s4_part(desc: Array, packed: Array, x: Array, out: Array, ith: int, nth: int) -> Any:
    ith32, nth32 = _int32(ith), _int32(nth)
    size = np.empty(1, np.uintp)
    status = _s4_workspace_size(desc.ctypes, packed.ctypes, packed.size, nth32, size.ctypes)
    if status != 0:
        return status
    work = _aligned(np.int64(size[0]))
    return _s4_run(desc.ctypes, packed.ctypes, packed.size, x.ctypes, out.ctypes, work.ctypes, work.size, ith32, nth32)


@_njit
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
    x_type, y_type = _x2(x), _out2(out)
    _packed(packed)
    n_k = np.empty(2, np.int64)
    unused = np.empty(2, np.int64)
    _check(
        _s4_packed_info(
            packed.ctypes, packed.size, n_k[:1].ctypes, n_k[1:].ctypes, unused[:1].ctypes, unused[1:].ctypes
        )
    )
    n, k = n_k
    if x.shape[1] != k or out.shape[0] != x.shape[0] or out.shape[1] != n:
        raise ValueError("the shapes of x, packed and out do not fit: wanted x [m, k], packed from [n, k], out [m, n]")
    desc = np.zeros(1, _S4)
    d = desc[0]
    d.size = _S4_SIZE
    d.m, d.n, d.k = x.shape[0], n, k
    d.ldx, d.ldy = _row_stride(x), _row_stride(out)
    d.x_type, d.y_type = x_type, y_type
    if x_qparams is not None:
        d.x_scale, d.x_zero_point = _scale(x_qparams[0]), _int32(x_qparams[1])
    if y_qparams is not None:
        if y_type == _TYPE_F32:
            raise ValueError("y_qparams go with out of uint8 or int8")
        d.y_scale, d.y_zero_point = _scale(y_qparams[0]), _int32(y_qparams[1])
    if bias is not None:
        _biases(bias)
        if len(bias) != d.n:
            raise ValueError("bias has another length than the weight has rows")
        d.bias = bias.ctypes.data
    d.activation, d.low, d.high = activation
    _check(_s4_part(desc, packed, x, out, ith, nth))


@_njit
def _f32_part(desc: Array, w: Array, x: Array, out: Array, ith: int, nth: int) -> Any:
    ith32, nth32 = _int32(ith), _int32(nth)
    size = np.empty(1, np.uintp)
    status = _f32_workspace_size(desc.ctypes, nth32, size.ctypes)
    if status != 0:
        return status
    work = _aligned(np.int64(size[0]))
    return _f32_run(desc.ctypes, w.ctypes, 0, x.ctypes, out.ctypes, work.ctypes, work.size, ith32, nth32)


@_njit
def linear_f32(
    x: Array, w: Array, bias: Array | None, activation: Activation, out: Array, ith: int = 0, nth: int = 1
) -> None:
    """out = activation(x @ w.T + bias). x float32 [m, k]; w float32 [n, k], rows or columns in any positive strides;
    bias float32 [n] or None; out float32 [m, n]. ValueError on a clamp whose low is above its high."""
    _x2_f32(x)
    _weight_f32(w)
    _out2_f32(out)
    m, k = x.shape
    n = w.shape[0]
    if w.shape[1] != k or out.shape != (m, n):
        raise ValueError("the shapes of x, w and out do not fit: wanted x [m, k], w [n, k], out [m, n]")
    desc = np.zeros(1, _F32)
    d = desc[0]
    d.size = _F32_SIZE
    d.m, d.n, d.k = m, n, k
    d.ldx, d.ldy = _row_stride(x), _row_stride(out)
    # The stride of a side of length 1 says nothing, nor do those of an empty array.
    ldn = w.strides[0] if n > 1 and k > 0 else w.itemsize
    ldk = w.strides[1] if k > 1 and n > 0 else w.itemsize
    if ldn <= 0 or ldk <= 0 or ldn % w.itemsize != 0 or ldk % w.itemsize != 0:
        raise ValueError("w has strides that are not positive multiples of its element")
    d.ldn, d.ldk = ldn // w.itemsize, ldk // w.itemsize
    if bias is not None:
        _biases(bias)
        if len(bias) != n:
            raise ValueError("bias has another length than w has rows")
        d.bias = bias.ctypes.data
    d.activation, d.low, d.high = activation
    _check(_f32_part(desc, w, x, out, ith, nth))
