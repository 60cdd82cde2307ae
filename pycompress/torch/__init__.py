"""PyTorch modules that run the kernels, and what trains networks for them (extra `torch`); docs/torch.md is the manual.

    import pycompress.torch as pct

    pct.compress_(model.eval(), "int8")                  # its Linear and Conv2d, in place
    pct.load_(new_model, "small.safetensors")            # a state_dict of a compressed model

Programs that `torch.export` wrote want this module imported before they are loaded: it has their operators.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("pycompress.torch needs PyTorch: pip install pycompress-kernels[torch]") from error

from .blocks import Count, DepthwiseSeparableConv2d, Fire, InvertedResidual, LowRankLinear, count, factorized
from .compress import compress_, load_
from .modules import Add, Conv2d, Dequantize, GlobalAveragePool2d, Linear, MaxPool2d, Quantize
from .pruning import GradualPruner, MovementPruner, cubic_sparsity

__all__ = [
    "Add",
    "Conv2d",
    "Count",
    "DepthwiseSeparableConv2d",
    "Dequantize",
    "Fire",
    "GlobalAveragePool2d",
    "GradualPruner",
    "InvertedResidual",
    "Linear",
    "LowRankLinear",
    "MaxPool2d",
    "MovementPruner",
    "Quantize",
    "compress_",
    "count",
    "cubic_sparsity",
    "factorized",
    "load_",
]
