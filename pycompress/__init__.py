"""Kernels that make compressed neural networks fast on ordinary CPUs.

    import pycompress as pc

    weight = pc.Int8Weight.from_float(w)            # [N, K], once
    y = pc.linear(x, weight, bias, activation="relu")

Operations: `linear`, and the ONNX operators `quantize_linear`, `dequantize_linear`, `dynamic_quantize_linear`,
`matmul_integer`, `qlinear_matmul`. The environment: PYCOMPRESS_ISA caps the instruction set, PYCOMPRESS_BACKEND chooses
"native" or "numba", PYCOMPRESS_NUM_THREADS the threads. `pycompress doctor` says what runs here.

Beside these: `pycompress.kernels` (the same kernels in Numba), `pycompress.numba` (the native ones inside @njit),
`pycompress.capi` (the C interface through cffi).
"""

from ._errors import FormatError
from ._machine import __version__, cpu_info, get_num_threads, set_num_threads
from .onnx_ops import (
    dequantize_linear,
    dynamic_quantize_linear,
    matmul_integer,
    qlinear_matmul,
    quantize_linear,
)
from .ops import linear
from .pooling import add, average_pool2d, global_average_pool, max_pool2d
from .weights import Float16Weight, Float32Weight, Int8Weight, LowRankWeight, QParams

__all__ = [
    "Float16Weight",
    "Float32Weight",
    "FormatError",
    "Int8Weight",
    "LowRankWeight",
    "QParams",
    "__version__",
    "add",
    "average_pool2d",
    "cpu_info",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "get_num_threads",
    "global_average_pool",
    "linear",
    "matmul_integer",
    "max_pool2d",
    "qlinear_matmul",
    "quantize_linear",
    "set_num_threads",
]
