"""The integer network of a prepared one: the modules of this package in the places of those of `pycompress.qat`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx, nn

import pycompress as pc
from pycompress import qat
from pycompress.ops import Activation

from .modules import Add, Conv2d, Dequantize, GlobalAveragePool2d, Linear, MaxPool2d, Quantize
from .observe import padding_of
from .ops import clamp_of

__all__ = ["convert_"]

_NAMES: dict[Any, str] = {(0.0, np.inf): "relu", (0.0, 6.0): "relu6"}  # the short way into the kernel
SPARSE_FROM = 0.5  # zeros from which a pruned weight is held sparse


def _matrix(q: Any, scale: Any, block: tuple[int, int] | None) -> Any:
    """The weight q * scale, q int8 [N, K]: sparse where it was pruned in blocks (of 1 x 1: in any way)."""
    if block is None or not q.size or np.count_nonzero(q) > (1 - SPARSE_FROM) * q.size:
        return pc.Int8Weight(q, scale)
    if block == (1, 1):
        csr = pc.CSRWeight.from_dense(q.astype(np.float32))
        return pc.CSRWeight(csr.data.astype(np.int8), csr.indices, csr.indptr, q.shape, scale)
    bsr = pc.BSRWeight.from_dense(q.astype(np.float32), block)
    return pc.BSRWeight(bsr.data.astype(np.int8), bsr.indices, bsr.indptr, q.shape, scale)


def _layer(old: qat.QuantizedLayer) -> Linear | Conv2d:
    layer: Any = old.layer
    with torch.no_grad():
        w, bias = old.folded()
        levels, scales = qat.quantized_weight(w, old.weight_bits)
    q, scale, block = levels.to(torch.int8).numpy(), scales.numpy(), getattr(layer, "pruned_block", None)
    more: dict[str, Any] = {
        "activation": _activation(old),
        "x_qparams": old.source.grid(),
        "y_qparams": None if old.output is None else old.output.grid(),
    }
    if isinstance(layer, nn.Linear):
        return Linear(_matrix(q, scale, block), bias, **more)
    weight: Any
    if layer.groups == layer.in_channels and layer.groups > 1:
        weight = pc.DepthwiseWeight(q, scale)
    elif layer.kernel_size == (1, 1) and layer.groups == 1:
        weight = _matrix(q[:, :, 0, 0], scale, block)
    else:
        weight = pc.Int8Weight(q, scale)
    more |= {"stride": layer.stride, "padding": padding_of(layer), "dilation": layer.dilation, "groups": layer.groups}
    return Conv2d(weight, bias, **more)


def _activation(old: qat.QuantizedLayer) -> Activation:
    """That of a layer; a clamp also keeps a result of fewer bits within them."""
    if old.output is None or isinstance(old.activation, str):
        return _NAMES.get(old.activation, old.activation)
    return clamp_of(old.output.bounds(old.activation), old.output.grid())


def convert_(model: fx.GraphModule) -> fx.GraphModule:
    """Replace what `pycompress.qat.prepare` put in, in place."""
    modules, graph = dict(model.named_modules()), model.graph
    quantized: dict[fx.Node, qat.Quantizer] = {}  # nodes that give uint8
    for node in list(graph.nodes):
        old = modules.get(str(node.target)) if node.op == "call_module" else None
        new, output = _integer(old)
        if new is None and node.args and node.args[0] in quantized and qat.keeps(node, old):
            output = quantized[node.args[0]]
            new = MaxPool2d.of(old) if isinstance(old, nn.MaxPool2d) else None
        if new is not None:
            model.set_submodule(str(node.target), new)
        if output is not None:
            quantized[node] = output
        elif new is None:
            _dequantize_inputs(model, node, quantized)
    graph.lint()
    model.delete_all_unused_submodules()
    model.recompile()
    return model


def _integer(old: nn.Module | None) -> tuple[nn.Module | None, qat.Quantizer | None]:
    """What takes the place of a module of `qat`, and the quantizer of its result where that is uint8."""
    if isinstance(old, qat.Quantizer):
        return Quantize(old.grid(), old.levels + 1), old
    if isinstance(old, qat.QuantizedLayer):
        return _layer(old), old.output
    if isinstance(old, qat.QuantizedAdd):
        a, b, y = (quantizer.grid() for quantizer in (*old.sources, old.output))
        return Add(a, b, y, old.output.bounds(old.activation)), old.output
    if isinstance(old, qat.QuantizedMean):
        return GlobalAveragePool2d(old.keepdim), old.source
    return None, None


def _dequantize_inputs(model: fx.GraphModule, node: fx.Node, quantized: dict[fx.Node, qat.Quantizer]) -> None:
    """float32 for what is no integer operation."""
    for source in list(node.all_input_nodes):
        if source in quantized:
            name = f"dequantize_{source.name}"
            if not hasattr(model, name):
                model.add_submodule(name, Dequantize(quantized[source].grid()))
            with model.graph.inserting_before(node):
                made = model.graph.call_module(name, (source,))
            node.replace_input_with(source, made)
