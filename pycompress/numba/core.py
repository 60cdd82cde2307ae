"""What the functions of this package share inside compiled code: the C interface, errors, checks of arrays.

Numba's cache looks at a function's own file alone: after a change here, touch the files beside it.

Each family has its own few lines from a descriptor to its C functions, alike but for their names: a function that made
them would capture the C functions, which Numba pickles otherwise in each process, so that its cache would never hit.
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

from ..capi import ffi, lib

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


def function(name: str) -> Any:
    """A C function for compiled code, by its name and not its address: so that code which calls it can be cached."""
    address = ffi.addressof(lib, name)
    llvmlite.binding.add_symbol(name, int(ffi.cast("uintptr_t", address)))
    ctype = ffi.typeof(address)
    result, *args = [types.voidptr if t.kind == "pointer" else _SCALARS[t.cname] for t in (ctype.result, *ctype.args)]
    return types.ExternalFunction(name, result(*args))


def struct(name: str) -> np.dtype[np.void]:
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


_last_error = function("pc_last_error")


ALIGNMENT: int = lib.PC_ALIGNMENT
TYPE_S32: int = lib.PC_S32
TYPE_F32: int = lib.PC_F32
TYPE_U8: int = lib.PC_U8
TYPE_S8: int = lib.PC_S8
ERROR_TYPE: int = lib.PC_ERROR_TYPE
ERROR_OVERFLOW: int = lib.PC_ERROR_OVERFLOW

# ---- what the functions need inside compiled code


def njit(function: Function) -> Function:
    # A cache that outlives a change of the header is safe: fields are only added at the end, and the library looks at
    # a descriptor's size.
    try:
        return cast(Function, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # no directory to write the cache to
        return cast(Function, numba.njit(nogil=True)(function))


_CODES = {
    types.uint16: 0,  # the bits of float16, which has no pc_type
    types.float32: lib.PC_F32,
    types.uint8: lib.PC_U8,
    types.int8: lib.PC_S8,
    types.int32: lib.PC_S32,
}


def array_of(
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


@njit
def _message() -> str:
    text = numba.carray(_last_error(), 1 << 16, np.uint8)  # type: ignore[attr-defined]
    message = ""
    for byte in text:
        if byte == 0:
            break
        message += chr(byte)
    return message


@njit
def check(status: int) -> None:
    """Raise what a pc_status means, with the message of pc_last_error()."""
    if status == 0:
        return
    # From a function of its own: Numba 0.60 would take a string that is made here for its first value, "".
    message = _message()
    if status == ERROR_TYPE:
        raise TypeError(message)
    if status == ERROR_OVERFLOW:
        raise OverflowError(message)
    raise ValueError(message)


@njit
def int32(value: int) -> Any:
    if not -(2**31) <= value < 2**31:
        raise OverflowError("a zero point, ith or nth does not fit int32")
    return np.int32(value)


@njit
def positive_scale(value: float) -> Any:
    # The C interface takes a scale of 0 for "not given".
    scale = np.float32(value)
    if not scale > 0:
        raise ValueError("the scale of x_qparams or y_qparams is not positive in float32")
    return scale


@njit
def row_stride(matrix: Array) -> Any:
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


@njit
def aligned(size: int) -> Array:
    """Memory for "packed" and "workspace"."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    skip = np.int64(ALIGNMENT - memory.ctypes.data % ALIGNMENT)
    return memory[skip : skip + size]


@njit
def clamp(low: float, high: float) -> Activation:
    """The activation min(max(y, low), high)."""
    return RELU[0], np.float64(low), np.float64(high)


# What several files take.
x_f32_matrix = array_of("x", 2, types.float32, layout="any")
zero_point_array = array_of("zero_point", 1, types.int32)
x_matrix = array_of("x", 2, types.float32, types.uint8, types.int8, layout="any")
out_matrix = array_of("out", 2, types.float32, types.uint8, types.int8, layout="any", written=True)
packed_array = array_of("packed", 1, types.uint8)
scale_array = array_of("scale", 1, types.float32)
bias_array = array_of("bias", 1, types.float32)


@njit
def set_shapes(desc: Array, size: int, n: int, k: int, x: Array, out: Array) -> None:
    """The fields that the descriptors of all products have."""
    if x.shape[1] != k or out.shape[0] != x.shape[0] or out.shape[1] != n:
        raise ValueError("the shapes of x, the weight and out do not fit: wanted x [m, k], w [n, k], out [m, n]")
    d = desc[0]
    d.size = size
    d.m, d.n, d.k = x.shape[0], n, k
    d.ldx, d.ldy = row_stride(x), row_stride(out)


@njit
def set_last_step(desc: Array, n: int, bias: Array | None, activation: Activation) -> None:
    d = desc[0]
    if bias is not None:
        bias_array(bias)
        if len(bias) != n:
            raise ValueError("bias has another length than the weight has rows")
        d.bias = bias.ctypes.data
    d.activation, d.low, d.high = activation


@njit
def set_types(desc: Array, x_type: int, y_type: int, x_qparams: QParams | None, y_qparams: QParams | None) -> None:
    d = desc[0]
    d.x_type, d.y_type = x_type, y_type
    if x_qparams is not None:
        d.x_scale, d.x_zero_point = positive_scale(x_qparams[0]), int32(x_qparams[1])
    if y_qparams is not None:
        if y_type == TYPE_F32:
            raise ValueError("y_qparams go with out of uint8 or int8")
        d.y_scale, d.y_zero_point = positive_scale(y_qparams[0]), int32(y_qparams[1])
