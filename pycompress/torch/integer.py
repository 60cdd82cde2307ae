"""The integer network that `pycompress.qat.convert` makes: modules that take and give uint8, and call the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

import pycompress as pc
from pycompress import qat

from .modules import MaxPool2d

__all__ = ["Dequantize", "IntegerAdd", "IntegerConv2d", "IntegerLinear", "Quantize", "converted"]


NAMES: dict[Any, str] = {(0.0, np.inf): "relu", (0.0, 6.0): "relu6"}  # the short way into the kernel
SPARSE_FROM = 0.5  # zeros from which a pruned weight is held sparse


def matrix_weight(q: Any, scale: Any, block: tuple[int, int] | None) -> Any:
    """The weight q * scale, q int8 [N, K]: sparse where it was pruned in blocks (of 1 x 1: in any way)."""
    if block is None or not q.size or np.count_nonzero(q) > (1 - SPARSE_FROM) * q.size:
        return pc.Int8Weight(q, scale)
    if block == (1, 1):
        csr = pc.CSRWeight.from_dense(q.astype(np.float32))
        return pc.CSRWeight(csr.data.astype(np.int8), csr.indices, csr.indptr, q.shape, scale)
    bsr = pc.BSRWeight.from_dense(q.astype(np.float32), block)
    return pc.BSRWeight(bsr.data.astype(np.int8), bsr.indices, bsr.indptr, q.shape, scale)


def nhwc(x: Tensor) -> Any:
    """[B, C, H, W] as an array [B, H, W, C]; a view where the tensor is in channels_last."""
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def nchw(y: Any) -> Tensor:
    """The way back: a tensor in channels_last."""
    return torch.from_numpy(y).permute(0, 3, 1, 2)


class Quantize(nn.Module):
    """float32 -> uint8."""

    def __init__(self, quantizer: qat.Quantizer) -> None:
        super().__init__()
        self.qparams, self.levels = pc.QParams(*quantizer.grid()), quantizer.levels

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)
        array = nhwc(x) if x.ndim == 4 else x.numpy()
        q = pc.quantize_linear(array, np.float32(self.qparams.scale), np.uint8(self.qparams.zero_point))
        q = np.minimum(q, self.levels, dtype=np.uint8) if self.levels < 255 else q
        return nchw(q) if x.ndim == 4 else torch.from_numpy(q)


class Dequantize(nn.Module):
    """uint8 -> float32."""

    def __init__(self, quantizer: qat.Quantizer) -> None:
        super().__init__()
        self.qparams = pc.QParams(*quantizer.grid())

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.qparams.zero_point) * self.qparams.scale


class _Layer(nn.Module):
    """What an integer layer keeps: the weight as q and scale, the bias, and the scales on both sides."""

    def __init__(self, layer: qat.QuantizedLayer) -> None:
        super().__init__()
        with torch.no_grad():
            w, b = layer.folded()
            q, scale = qat.quantized_weight(w, layer.weight_bits)
        self.q, self.scale = q.to(torch.int8).numpy(), scale.float().numpy()
        self.bias = None if b is None else b.detach().float().numpy()
        self.block: tuple[int, int] | None = getattr(layer.layer, "pruned_block", None)
        self.x_qparams = pc.QParams(*layer.source.grid())
        self.y_qparams = None if layer.output is None else pc.QParams(*layer.output.grid())
        self.activation: Any = NAMES.get(layer.activation, layer.activation)
        if layer.output is not None and layer.output.levels < 255:
            self.activation = narrowed(layer.activation, layer.output)

    @property
    def arguments(self) -> dict[str, Any]:
        return {"activation": self.activation, "x_qparams": self.x_qparams, "y_qparams": self.y_qparams}


def narrowed(activation: Any, output: qat.Quantizer) -> tuple[float, float]:
    """A clamp that keeps fewer than 256 levels."""
    scale, zero_point = output.grid()
    low, high = activation or (-np.inf, np.inf)
    return max(low, -zero_point * scale), min(high, (output.levels - zero_point) * scale)


class IntegerLinear(_Layer):
    """x uint8 [..., K] -> uint8 or float32 [..., N]."""

    def __init__(self, layer: qat.QuantizedLayer) -> None:
        super().__init__(layer)
        self.weight = matrix_weight(self.q, self.scale, self.block)

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(pc.linear(x.contiguous().numpy(), self.weight, self.bias, **self.arguments))


class IntegerConv2d(_Layer):
    """x uint8 [B, C, H, W] -> uint8 or float32, both in channels_last."""

    def __init__(self, layer: qat.QuantizedLayer) -> None:
        super().__init__(layer)
        conv = layer.layer
        self.depthwise = conv.groups == conv.in_channels and conv.groups > 1
        self.weight: Any
        if self.depthwise:
            self.weight = pc.DepthwiseWeight(self.q, self.scale)
        elif conv.kernel_size == (1, 1) and conv.groups == 1:
            self.weight = matrix_weight(self.q[:, :, 0, 0], self.scale, self.block)
        else:
            self.weight = pc.Int8Weight(self.q, self.scale)
        top, left = conv.padding
        self.geometry: dict[str, Any] = {
            "stride": conv.stride,
            "padding": (top, left, top, left),
            "dilation": conv.dilation,
        }
        if not self.depthwise:
            self.geometry["groups"] = conv.groups

    def forward(self, x: Tensor) -> Tensor:
        run: Any = pc.depthwise_conv2d if self.depthwise else pc.conv2d
        return nchw(run(nhwc(x), self.weight, self.bias, **self.geometry, **self.arguments))


class IntegerAdd(nn.Module):
    """The sum of two uint8 images."""

    def __init__(self, add: qat.QuantizedAdd) -> None:
        super().__init__()
        a, b = (pc.QParams(*source.grid()) for source in add._sources)
        activation: Any = add.activation
        if add.output.levels < 255:
            activation = narrowed(activation, add.output)
        self.arguments: dict[str, Any] = {"a_qparams": a, "b_qparams": b, "y_qparams": pc.QParams(*add.output.grid())}
        self.activation = activation

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        arrays = (nhwc(a), nhwc(b)) if a.ndim == 4 else (a.contiguous().numpy(), b.contiguous().numpy())
        y = pc.add(*arrays, activation=self.activation, **self.arguments)
        return nchw(y) if a.ndim == 4 else torch.from_numpy(y)


class IntegerMean(nn.Module):
    """The mean of each channel."""

    def __init__(self, mean: qat.QuantizedMean) -> None:
        super().__init__()
        self.keepdim = mean.keepdim

    def forward(self, x: Tensor) -> Tensor:
        y = nchw(pc.global_average_pool(nhwc(x)))
        return y if self.keepdim else y.flatten(1)


def converted(model: fx.GraphModule) -> fx.GraphModule:
    """Replace what `pycompress.qat.prepare` put in; a copy has been made."""
    modules, graph = dict(model.named_modules()), model.graph
    quantized: dict[fx.Node, qat.Quantizer] = {}  # nodes that give uint8
    for node in list(graph.nodes):
        old = modules.get(str(node.target)) if node.op == "call_module" else None
        new, output = _integer(old, quantized.get(node.args[0]) if node.args else None)
        if new is not None:
            model.set_submodule(str(node.target), new)
        elif node.target in (torch.flatten, "flatten") and node.args[0] in quantized:
            output = quantized[node.args[0]]
        if output is not None:
            quantized[node] = output
        if new is None and output is None:
            _dequantize_inputs(model, node, quantized)
    graph.lint()
    model.delete_all_unused_submodules()
    model.recompile()
    return model


def _integer(old: nn.Module | None, source: qat.Quantizer | None) -> tuple[nn.Module | None, qat.Quantizer | None]:
    """What takes a module's place, and the quantizer of its uint8 result; None for what stays."""
    if isinstance(old, qat.Quantizer):
        return Quantize(old), old
    if isinstance(old, qat.QuantizedLayer):
        return (IntegerLinear if isinstance(old.layer, nn.Linear) else IntegerConv2d)(old), old.output
    if isinstance(old, qat.QuantizedAdd):
        return IntegerAdd(old), old.output
    if source is None:
        return None, None
    if isinstance(old, qat.QuantizedMean):
        return IntegerMean(old), source
    if isinstance(old, nn.MaxPool2d):
        return MaxPool2d.of(old), source
    if isinstance(old, nn.Flatten | nn.Identity):
        return old, source
    return (nn.Identity(), source) if isinstance(old, nn.Dropout | nn.Dropout2d) else (None, None)


def _dequantize_inputs(model: fx.GraphModule, node: fx.Node, quantized: dict[fx.Node, qat.Quantizer]) -> None:
    """float32 for what is no integer operation."""
    for source in list(node.all_input_nodes):
        if source in quantized:
            name = f"dequantize_{source.name}"
            if not hasattr(model, name):
                model.add_submodule(name, Dequantize(quantized[source]))
            with model.graph.inserting_before(node):
                made = model.graph.call_module(name, (source,))
            node.replace_input_with(source, made)
