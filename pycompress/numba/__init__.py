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

from .conv import depthwise_conv2d, pack_depthwise
from .core import GELU, HARDSWISH, NONE, RELU, RELU6, SILU, clamp
from .gemm import (
    gemm_int8,
    linear_f32,
    linear_int4,
    linear_int8,
    linear_packed_f32,
    pack_f16,
    pack_f32,
    pack_int4,
    pack_int8,
    packed_shape,
)
from .quant import dequantize_linear, dynamic_quantize_linear, quantize_linear, quantize_rows
from .sparse import linear_sparse, pack_sparse

__all__ = [
    "GELU",
    "HARDSWISH",
    "NONE",
    "RELU",
    "RELU6",
    "SILU",
    "clamp",
    "depthwise_conv2d",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "gemm_int8",
    "linear_f32",
    "linear_int4",
    "linear_int8",
    "linear_packed_f32",
    "linear_sparse",
    "pack_depthwise",
    "pack_f16",
    "pack_f32",
    "pack_int4",
    "pack_int8",
    "pack_sparse",
    "packed_shape",
    "quantize_linear",
    "quantize_rows",
]
