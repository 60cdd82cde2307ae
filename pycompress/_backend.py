"""Which backend runs the operations: the compiled kernels, or the same in Numba.

A backend is a module with the functions below. They take arguments that `ops` and `onnx_ops` have already checked:
C-contiguous arrays of the exact dtype and shape, numbers in range. `out` is written in place.

    quantize_linear(x, scale, zero_point, out, num_threads)
        x float32 [outer, channels, inner]; scale float32, zero_point int32 [channels]; out uint8 or int8; ValueError
        on NaN
    dequantize_linear(x, scale, zero_point, out, num_threads)
        x uint8, int8 or int32; out float32
    dynamic_quantize_linear(x, out, num_threads) -> (float, int)
        x float32 [count], out uint8 [count]; ValueError on NaN, infinity
    quantize_rows(x, out, scale, zero_point, num_threads)
        x float32 [m, k]; out uint8; scale float32, zero_point int32 [m]
    pack_int8(q, scale) -> handle
        q int8 or uint8 [n, k], any strides; scale float32 [n]
    pack_f32(w) -> handle
        w float32 [n, k], contiguous
    pack_f16(w) -> handle
        w float16 [n, k], contiguous
    pack_lowrank(a, b, mid_qparams) -> handle
        a [n, r] and b [r, k] handles; mid_qparams (scale, zero_point) or None
    pack_int4(data, scale, k, group_size) -> handle
        data uint8 [n, (k + 1) // 2], two values to a byte; scale float32 [n, groups]; group_size 0 for one group
    pack_sparse(data, indices, indptr, scale, n, k) -> handle
        data float32 or int8 [blocks, block_n, block_k]; indices int32 [blocks]; indptr int32 [ceil(n / block_n) + 1];
        scale float32 [n] of int8, or None; all contiguous
    gemm_int8(x, w, x_zero_point, w_zero_point, out, num_threads)
        x uint8 or int8 [m, k]; w a handle; zero points int32 [m] and [n], or None for zeros; out int32 [m, n]
    linear(x, w, bias, activation, x_qparams, y_qparams, out, num_threads, w_zero_point=None)
        x float32, uint8 or int8 [m, k]; w a handle of any kind; bias float32 [n] or None; activation (code, low, high);
        qparams (scale, zero_point) or None; out float32, uint8 or int8 [m, n]; w_zero_point as above, for int8 handles
    linear_f32(x, w, bias, activation, out, num_threads)
        x float32 [m, k]; w float32 [n, k], any strides; out float32
    pool(x, out, mode, geometry, x_qparams, y_qparams, num_threads)
        x, out float32, uint8 or int8 [batch, height, width, channels]; mode 0 max, 1 average, 2 average with padding;
        geometry: height and width of the kernel, the stride, the dilation, the padding before
    add(a, b, out, a_qparams, b_qparams, y_qparams, activation, num_threads)
        a, b, out float32, uint8 or int8 of one shape; activation none or a clamp
    pack_depthwise(w, scale) -> handle
        w int8 or float32 [outputs, kh, kw], contiguous; scale float32 [outputs] of int8, else None
    depthwise(x, w, bias, activation, x_qparams, y_qparams, shape, out, num_threads)
        x float32, uint8 or int8 [batch, height, width, channels]; w such a handle; shape (stride: vertical, horizontal,
        dilation likewise, top, left, bottom, right); out [batch, oh, ow, outputs], with an int8 weight also int32
    pack_conv(groups, kh, kw, stored) -> handle
        for each group a handle of pack_int8 or the like, [outputs, kh * kw * channels]; stored: arrays that no result
        may overwrite
    conv(x, w, bias, activation, x_qparams, y_qparams, shape, out, num_threads, w_zero_point=None)
        as depthwise, w a handle of pack_conv; w_zero_point int32 [outputs], for int8 handles
    transpose(x, batch, rows, columns, out, num_threads)
        out [batch, columns, rows] of x [batch, rows, columns], 1 or 4 bytes each
    get_num_threads() -> int, set_num_threads(n)
        n an int >= 1; for the default 0 (native) or None (numba)

Activation codes are those of the C header: 0 none, 1 clamp, 2 hardswish, 3 silu, 4 gelu. num_threads is an int >= 1 or
None. docs/exactness.md defines what each computes.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["NAME", "fast", "kernels"]


def _choose() -> str:
    name = os.environ.get("PYCOMPRESS_BACKEND", "")
    if name not in ("", "native", "numba"):
        raise ImportError(f"PYCOMPRESS_BACKEND is {name!r}, wanted 'native' or 'numba'")
    if name == "numba":
        return name
    try:
        importlib.import_module("pycompress._native")  # an ISA that can't run here shows itself now
    except ModuleNotFoundError as error:
        if error.name != "pycompress._native" or name == "native":
            raise
        return "numba"  # installed without a compiler
    return "native"


NAME = _choose()


@functools.cache
def kernels() -> ModuleType:
    """The module of the backend in use. Numba is imported by the first call that needs it."""
    return importlib.import_module("pycompress._native" if NAME == "native" else "pycompress.kernels")


def fast(name: str) -> Callable[..., Any]:
    """A function of the native module that takes what is plainly right, and returns NotImplemented for all else.

    What it declines goes the long way, which knows what to say about it. Other backends decline everything.
    """
    return getattr(kernels(), name) if NAME == "native" else lambda *arguments: NotImplemented
