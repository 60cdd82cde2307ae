"""Kernels that make compressed neural networks fast on ordinary CPUs.

    import pycompress as pc

    weight = pc.Int8Weight.from_float(w)            # [N, K], once
    y = pc.linear(x, weight, bias, activation="relu")

Operations: `linear`, and the ONNX operators `quantize_linear`, `dequantize_linear`, `dynamic_quantize_linear`,
`matmul_integer`, `qlinear_matmul`. The environment: PYCOMPRESS_ISA caps the instruction set, PYCOMPRESS_BACKEND chooses
"native" or "numba", PYCOMPRESS_NUM_THREADS the threads. `pycompress doctor` says what runs here.

Converters from float32 weights: `quantize`, `calibrate`, `prune`, `factorize`, `factorize_conv`. The modules
`pycompress.prune`, `.quantize` and `.factorize` hold more: `from pycompress.prune import prune_all`.

Whole models: `compress` by a recipe, `load` from a file; `pycompress compress` does both, tensor by tensor.

Beside these: `pycompress.kernels` (the same kernels in Numba), `pycompress.numba` (the native ones inside @njit),
`pycompress.capi` (the C interface through cffi).
"""

from ._errors import FormatError
from ._machine import __version__, cpu_info, get_num_threads, set_num_threads
from .calibration import Observer, calibrate
from .convfactors import ConvFactors, factorize_conv
from .convolution import conv2d, depthwise_conv2d, separable_conv2d
from .factorize import factorize
from .inputs import InputStatistics, unfold
from .model import CompressedModel, compress, load
from .onnx_conv import conv_integer, qlinear_conv
from .onnx_ops import (
    dequantize_linear,
    dynamic_quantize_linear,
    matmul_integer,
    qlinear_matmul,
    quantize_linear,
)
from .ops import linear
from .pooling import add, average_pool2d, global_average_pool, max_pool2d
from .prune import prune
from .quantize import quantize
from .weights import (
    BSRWeight,
    CSRWeight,
    DepthwiseWeight,
    Float16Weight,
    Float32Weight,
    Int4Weight,
    Int8Weight,
    LowRankWeight,
    QParams,
)

__all__ = [
    "BSRWeight",
    "CSRWeight",
    "CompressedModel",
    "ConvFactors",
    "DepthwiseWeight",
    "Float16Weight",
    "Float32Weight",
    "FormatError",
    "InputStatistics",
    "Int4Weight",
    "Int8Weight",
    "LowRankWeight",
    "Observer",
    "QParams",
    "__version__",
    "add",
    "average_pool2d",
    "calibrate",
    "compress",
    "conv2d",
    "conv_integer",
    "cpu_info",
    "depthwise_conv2d",
    "dequantize_linear",
    "dynamic_quantize_linear",
    "factorize",
    "factorize_conv",
    "get_num_threads",
    "global_average_pool",
    "linear",
    "load",
    "matmul_integer",
    "max_pool2d",
    "prune",
    "qlinear_conv",
    "qlinear_matmul",
    "quantize",
    "quantize_linear",
    "separable_conv2d",
    "set_num_threads",
    "unfold",
]
