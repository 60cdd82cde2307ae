"""The kernels of pycompress in Numba: the readable form of each, and the backend where no compiler is.

One file for each family. They share last_step, which turns int32 sums into results, and common, which compiles and
splits the work over threads. A kernel's file opens with its idea: the tile, and what bounds it.

What each function computes, to the bit, is in docs/exactness.md; the arguments are in pycompress/_backend.py, and have
been checked by the caller. In float32 the bits depend on every type and on the order: a Python float, or an integer
that meets a float32, would turn the expression into float64, so constants are np.float32 and integers are converted
first.

Numba's cache of a file does not see changes in another file. Therefore no compiled function calls one of another file:
Python calls them in turn, tile by tile, so that a tile's sums are still in the cache when its last step reads them.
"""

if __name__ != "pycompress.kernels":
    raise ImportError(
        f"this package is part of pycompress: import it as 'pycompress.kernels', not as {__name__!r} "
        "(the project called 'kernels' on PyPI is another one)"
    )

from .common import get_num_threads, set_num_threads
from .conv import conv, depthwise, pack_conv, pack_depthwise, transpose
from .gemm import gemm_int8, linear, linear_f32, pack_f16, pack_f32, pack_int8
from .int4 import pack_int4
from .lowrank import pack_lowrank
from .pool import add, pool
from .quant import dequantize_linear, dynamic_quantize_linear, quantize_linear, quantize_rows
from .sparse import pack_sparse

__all__ = [
    "add",
    "conv",
    "depthwise",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "gemm_int8",
    "get_num_threads",
    "linear",
    "linear_f32",
    "pack_conv",
    "pack_depthwise",
    "pack_f16",
    "pack_f32",
    "pack_int4",
    "pack_int8",
    "pack_lowrank",
    "pack_sparse",
    "pool",
    "quantize_linear",
    "quantize_rows",
    "set_num_threads",
    "transpose",
]
