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
from .modules import Conv2d, Linear
from .pruning import GradualPruner, MovementPruner, cubic_sparsity

__all__ = [
    "Conv2d",
    "Count",
    "DepthwiseSeparableConv2d",
    "Fire",
    "GradualPruner",
    "InvertedResidual",
    "Linear",
    "LowRankLinear",
    "MovementPruner",
    "compress_",
    "count",
    "cubic_sparsity",
    "factorized",
    "load_",
]
