"""Networks of ladder.py in the kernels of pycompress: steps as data, weights in one file, nothing of PyTorch left.

A step is a dict that JSON can hold; what it computes with is in the file under its name. `of_float` reads a trained
network with batch norm folded, `of_integers` one that `qat.convert` made, to the bit.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx, nn

import pycompress as pc
from pycompress.report import Report
from pycompress.torch import Conv2d, GlobalAveragePool2d, Linear, Quantize, ops

Step = dict[str, Any]
Tensors = dict[str, Any]


class Network:
    """Runs NHWC images, float32 [B, 16, 16, 1], to logits [B, 10]."""

    def __init__(self, steps: list[Step], tensors: Any) -> None:
        self.calls: list[Any] = []
        grid: pc.QParams | None = None  # of what passes between two steps, where it is uint8
        for step in steps:
            name, kind = step["name"], step["kind"]
            own = pc.QParams(*_pair(tensors[f"{name}.y"])) if step.get("y") else None
            if kind == "quantize":
                assert own is not None
                self.calls.append(_quantizer(own))
                grid = own
            elif kind == "mean":
                self.calls.append(pc.global_average_pool)
            elif kind == "flatten":
                self.calls.append(_flat)
            else:
                run = {"conv": pc.conv2d, "depthwise": pc.depthwise_conv2d, "linear": pc.linear}[kind]
                activation = step.get("activation")
                self.calls.append(
                    partial(
                        run,
                        weight=_runs(tensors[f"{name}.weight"], step),
                        bias=np.array(tensors[f"{name}.bias"]) if step["bias"] else None,
                        activation=tuple(activation) if isinstance(activation, list) else activation,
                        x_qparams=grid,
                        y_qparams=own,
                        num_threads=1,
                        **{k: tuple(v) for k, v in step.get("geometry", {}).items()},
                    )
                )
                grid = own

    def __call__(self, x: Any) -> Any:
        for call in self.calls:
            x = call(x)
        return x


def _pair(a: Any) -> tuple[float, int]:
    return float(a[0]), int(a[1])


def _quantizer(grid: pc.QParams) -> Any:
    scale, zero_point = np.float32(grid.scale), np.uint8(grid.zero_point)
    return lambda x: pc.quantize_linear(x, scale, zero_point)


def _flat(x: Any) -> Any:
    return x.reshape(len(x), -1)


def _runs(weight: Any, step: Step) -> Any:
    """A weight of the file as the kernel that runs it takes it: 4 bits are stored two to a byte, and run as int8."""
    if isinstance(weight, pc.Int4Weight):
        return pc.Int8Weight(weight.q.reshape(step.get("shape", weight.shape)), weight.scale[:, 0].copy())
    return pc.Float32Weight(np.array(weight)) if isinstance(weight, np.ndarray) else weight


def stored(tensors: Tensors) -> int:
    """Values of weights and biases: of a sparse weight those that it stores."""
    sparse = pc.CSRWeight | pc.BSRWeight
    return sum(
        t.nnz if isinstance(t, sparse) else math.prod(t.shape) for name, t in tensors.items() if not name.endswith(".y")
    )


def save(tensors: Tensors, path: Path) -> int:
    """The bytes of the file; without a record of what was done to each tensor, which would be a third of them."""
    pc.CompressedModel(tensors, Report(())).save(path)
    return path.stat().st_size


# ---- from trained networks


def of_float(model: nn.Module, *, int8: bool = False, sparse: Any = None) -> tuple[list[Step], Tensors]:
    """A chain of Conv2d, BatchNorm2d, ReLU, global mean, Flatten and Linear, with float32 weights; or int8 ones, for
    which each layer quantizes its inputs (dynamic). sparse: the block of pruned 1 x 1 and linear weights, (1, 1) for
    single values.
    """
    steps: list[Step] = []
    tensors: Tensors = {}
    arrays: dict[str, tuple[Any, Any]] = {}
    leaves = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    for name, module in leaves:
        if isinstance(module, nn.BatchNorm2d):
            w, b = arrays[steps[-1]["name"]]
            factor = (module.weight / (module.running_var + module.eps).sqrt()).detach().double().numpy()
            shift = module.bias.detach().double().numpy() - module.running_mean.double().numpy() * factor
            arrays[steps[-1]["name"]] = (
                w * factor.reshape(-1, *[1] * (w.ndim - 1)),
                shift + (0 if b is None else b * factor),
            )
        elif isinstance(module, nn.ReLU):
            steps[-1]["activation"] = "relu"
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            steps.append({"name": name, "kind": "mean"})
        elif isinstance(module, nn.Flatten):
            steps.append({"name": name, "kind": "flatten"})
        elif isinstance(module, nn.Conv2d | nn.Linear):
            step: Step = {"name": name, "kind": "linear"}
            if isinstance(module, nn.Conv2d):
                step["kind"] = "depthwise" if module.groups > 1 else "conv"
                (top, left), stride = module.padding, list(module.stride)
                step["geometry"] = {"stride": stride, "padding": [top, left, top, left]}
            steps.append(step)
            bias = None if module.bias is None else module.bias.detach().double().numpy()
            arrays[name] = module.weight.detach().double().numpy(), bias
        else:
            raise TypeError(f"{name} is {type(module).__name__}")
    for step in steps:
        if step["name"] not in arrays:
            continue
        w, b = arrays[step["name"]]
        w, step["bias"] = w.astype(np.float32), b is not None
        tensors[f"{step['name']}.weight"] = _float_weight(w, step["kind"], int8, sparse)
        if b is not None:
            tensors[f"{step['name']}.bias"] = b.astype(np.float32)
    return steps, tensors


def _float_weight(w: Any, kind: str, int8: bool, sparse: Any) -> Any:
    if kind == "depthwise":
        return pc.DepthwiseWeight.from_float(w, 8 if int8 else 32)
    matrix = w.reshape(len(w), -1)
    if sparse is not None and w[0].size == w.shape[1] and np.mean(w == 0) >= 0.3:
        return pc.CSRWeight.from_dense(matrix) if sparse == (1, 1) else pc.BSRWeight.from_dense(matrix, sparse)
    return pc.Int8Weight.from_float(w) if int8 else w


def of_integers(network: fx.GraphModule, bits: int) -> tuple[list[Step], Tensors]:
    """What `qat.convert` made of such a chain. bits: those of its weights; with 4 they are stored two to a byte."""
    steps: list[Step] = []
    tensors: Tensors = {}
    modules = dict(network.named_modules())
    for node in network.graph.nodes:
        if node.op != "call_module":
            continue
        name, module = str(node.target), modules[str(node.target)]
        if isinstance(module, Quantize):
            steps.append({"name": name, "kind": "quantize", "y": True})
            tensors[f"{name}.y"] = module.qparams[0].numpy()
        elif isinstance(module, GlobalAveragePool2d):
            steps.append({"name": name, "kind": "mean"})
        elif isinstance(module, nn.Flatten):
            steps.append({"name": name, "kind": "flatten"})
        elif isinstance(module, Linear | Conv2d):
            layer, weight = ops.parse(module.layer), module.compressed
            step: Step = {
                "name": name,
                "kind": "linear",
                "bias": module.bias is not None,
                "activation": layer["activation"],
            }
            if isinstance(module, Conv2d):
                step["kind"] = "depthwise" if isinstance(weight, pc.DepthwiseWeight) else "conv"
                step["geometry"] = {k: layer["geometry"][k] for k in ("stride", "padding")}
            if bits == 4 and isinstance(weight, pc.Int8Weight):
                step["shape"] = list(weight.shape)
                weight = pc.Int4Weight(weight.q.reshape(len(weight.q), -1), weight.scale[:, None])
            tensors[f"{name}.weight"] = weight
            if module.bias is not None:
                tensors[f"{name}.bias"] = module.bias.numpy()
            if module.y_qparams is not None:
                step["y"] = True
                tensors[f"{name}.y"] = module.y_qparams.numpy()
            steps.append(step)
        elif not isinstance(module, nn.Identity):
            raise TypeError(f"{name} is {type(module).__name__}")
    return steps, tensors
