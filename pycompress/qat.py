"""Quantization-aware training in PyTorch: the network that is trained is the one that the kernels run, to the bit.

    prepared = qat.prepare(model, example_inputs)      # torch.fx: layers, batch norms and activations become one
    train(prepared)                                    # any loop; ranges are observed, then fixed or learned
    network = qat.convert(prepared.eval())             # the kernels of pycompress; the same uint8 between the layers

What a layer computes in `eval` mode is docs/exactness.md, in exact integers; gradients are straight-through. Pruning
during training: `pycompress.torch.GradualPruner`, `MovementPruner`; what they pruned runs by the sparse kernels.

Needs the extra `torch`.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

try:
    import torch
except ImportError as error:
    raise ImportError("pycompress.qat needs PyTorch: pip install pycompress-kernels[torch]") from error
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ._arguments import interval, whole

__all__ = ["QuantizedAdd", "QuantizedLayer", "Quantizer", "convert", "prepare"]

Clamp: TypeAlias = tuple[float, float]

HARDSWISH = "hardswish"
LEAST = 1e-9  # of scales


class _Round(torch.autograd.Function):
    """Round half to even, with the gradient of the identity (Bengio et al., 2013)."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_through(x: Tensor) -> Tensor:
    """torch.round with a straight-through gradient."""
    return _Round.apply(x)


def _scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """x, whose gradient is multiplied by `factor`."""
    return (x - x * factor).detach() + x * factor


class Quantizer(nn.Module):
    """Scale and zero point of an activation in uint8 (or fewer bits of it), observed or learned.

    mode "observe": the range is a moving average of the batches' least and largest values, and follows them as long as
    the module is in training mode. mode "learn": it is observed over the first `warmup` batches; then the scale is a
    parameter, trained with the gradient of LSQ (Esser et al., "Learned Step Size Quantization", ICLR 2020), and the
    zero point stays.

    The result of `forward` lies on the grid: (q - zero_point) * scale in float32, q from 0 to 2^bits - 1.
    """

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, bits: int = 8, mode: str = "observe", momentum: float = 0.1, warmup: int = 20) -> None:
        super().__init__()
        if mode not in ("observe", "learn"):
            raise ValueError(f"mode is {mode!r}, wanted 'observe' or 'learn'")
        self.levels = 2 ** whole("bits", bits, 2, 8) - 1
        self.mode, self.momentum, self.warmup = mode, interval("momentum", momentum, 0, 1), whole("warmup", warmup, 1)
        if mode == "learn":
            self.scale = nn.Parameter(torch.ones(()))
        else:
            self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros(()))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        return (
            f"levels={self.levels}, mode={self.mode}, scale={self.scale.item():.4g}, zero_point={int(self.zero_point)}"
        )

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        low, high = (v.clamp(max=0) if i == 0 else v.clamp(min=0) for i, v in enumerate(torch.aminmax(x.detach())))
        if not torch.isfinite(high - low):
            raise ValueError("x holds NaN or infinity, wanted finite values to quantize")
        step = 1.0 if self.seen == 0 else self.momentum
        self.low += step * (low - self.low)
        self.high += step * (high - self.high)
        self.seen += 1
        scale = (self.high - self.low) / self.levels
        self.scale.copy_(torch.where(scale > 0, scale.clamp_min(LEAST), torch.full_like(scale, 1 / self.levels)))
        self.zero_point.copy_(torch.round(-self.low / self.scale).clamp(0, self.levels))

    @property
    def step(self) -> Tensor:
        """The scale as it is used: positive, also where one that is learned is not; without a gradient."""
        return self.scale.detach().abs().clamp_min(LEAST).float()

    def grid(self) -> tuple[float, int]:
        """Scale, as float32 has it, and zero point."""
        return float(self.step), int(self.zero_point)

    def bounds(self, clamp: Clamp | None) -> tuple[int, int]:
        """The lowest and the highest level, of those that a clamp leaves."""
        scale, zero_point = self.step, self.zero_point
        low, high = (torch.round(torch.tensor(v) / scale) + zero_point for v in clamp or (-math.inf, math.inf))
        return int(low.clamp(0, self.levels)), int(high.clamp(0, self.levels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() and (self.mode == "observe" or self.seen < self.warmup):
            self._observe(x)
        scale, zero_point = self.scale, self.zero_point
        if self.mode == "learn":
            scale = _scaled_gradient(scale.abs().clamp_min(LEAST), (x.numel() * self.levels) ** -0.5)
        q = round_through((x / scale).clamp(-zero_point, self.levels - zero_point))
        return q * scale


def quantized_weight(w: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """q and scale of a weight, one scale for each output, as Int8Weight.from_float: max|w| / (2^(bits - 1) - 1)."""
    most = 2 ** (bits - 1) - 1
    scale = w.detach().flatten(1).abs().amax(1) / most
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    q = round_through(w / scale.view(-1, *[1] * (w.ndim - 1))).clamp(-most, most)
    return q, scale


class QuantizedLayer(nn.Module):
    """Conv2d or Linear with the batch norm and the activation that follow it, as one integer kernel.

    In eval mode the result is exact: what the kernel of this layer computes from the same uint8. In training mode the
    forward value is that too, but where a batch norm takes the statistics of the batch; then it is the fake-quantized
    one, with the weight quantized as it will be folded. `output` is None for a float32 result.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        norm: nn.BatchNorm2d | nn.BatchNorm1d | None,
        activation: Clamp | str | None,
        source: Quantizer,
        output: Quantizer | None,
        weight_bits: int,
    ) -> None:
        super().__init__()
        self.layer, self.norm, self.output = layer, norm, output
        self.activation, self.weight_bits = activation, weight_bits
        self._source = [source]  # in a list: it belongs to the layer before

    @property
    def source(self) -> Quantizer:
        """The quantizer of x."""
        return self._source[0]

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the batch norm's running statistics in them."""
        w, b = self.layer.weight, self.layer.bias
        if self.norm is None:
            return w, b
        factor = self._factor()
        b = torch.zeros_like(factor) if b is None else b
        shift = self.norm.bias if self.norm.bias is not None else 0
        return w * factor.view(-1, *[1] * (w.ndim - 1)), (b - self.norm.running_mean) * factor + shift

    def _factor(self) -> Tensor:
        assert self.norm is not None
        factor = torch.rsqrt(self.norm.running_var.clone() + self.norm.eps)
        return factor if self.norm.weight is None else factor * self.norm.weight

    def _product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, w, b)
        c = self.layer
        return F.conv2d(x, w, b, c.stride, c.padding, c.dilation, c.groups)

    def _activate(self, y: Tensor) -> Tensor:
        if self.activation is None:
            return y
        if self.activation == HARDSWISH:
            return y * (y + 3).clamp(0, 6) / 6
        return y.clamp(*self.activation)

    def _per_output(self, values: Tensor) -> Tensor:
        return values if isinstance(self.layer, nn.Linear) else values.view(-1, 1, 1)

    @torch.no_grad()
    def exact(self, x: Tensor) -> Tensor:
        """The kernel's result for x on the grid of `source`: float32, on the grid of `output` where there is one."""
        s_x = self.source.step
        w, b = self.folded()
        q, s_w = quantized_weight(w, self.weight_bits)
        acc = self._product(torch.round(x.double() / s_x.double()), q.double(), None)
        scale = s_x * s_w
        if self.output is None:
            y = acc.float() * self._per_output(scale)
            return self._activate(y if b is None else y + self._per_output(b))
        if b is not None:
            acc = acc + self._per_output(torch.round(b / scale).double().clamp(-(2.0**31), 2.0**31 - 1))
            acc = acc.clamp(-(2.0**31), 2.0**31 - 1)
        s_y, z_y, clamp = self.output.step, self.output.zero_point, self.activation
        if isinstance(clamp, str):
            v, clamp = self._activate(acc.float() * self._per_output(scale)) / s_y, None
        else:
            v = acc.float() * self._per_output(scale / s_y)
        return ((torch.round(v) + z_y).clamp(*self.output.bounds(clamp)) - z_y) * s_y

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, nn.BatchNorm1d) and x.ndim != 2:
            raise ValueError(
                f"x of a Linear with a BatchNorm1d has shape {tuple(x.shape)}, wanted 2-D: "
                "of others the norm is of another axis; skip the layer"
            )
        norm = self.norm
        statistics = norm is not None and norm.training
        if statistics:
            factor = self._factor().detach()
            factor = torch.where(factor.abs() < 1e-12, torch.full_like(factor, 1e-12), factor)
            w, b = self.layer.weight * factor.view(-1, *[1] * (self.layer.weight.ndim - 1)), None
        else:
            w, b = self.folded()
        q, s_w = quantized_weight(w, self.weight_bits)
        fake = q * s_w.view(-1, *[1] * (w.ndim - 1))
        if norm is not None and statistics:
            y = self._product(x, fake, None) / self._per_output(factor)
            y = norm(y if self.layer.bias is None else y + self._per_output(self.layer.bias))
        else:
            y = self._product(x, fake, b)
        y = self._activate(y)
        if self.output is not None:
            y = self.output(y)
        if statistics or (self.training and self.output is not None and self.output.seen == 0):
            return y
        return y + (self.exact(x) - y).detach()


class QuantizedAdd(nn.Module):
    """The sum of two quantized images and a clamp, as `pc.add`."""

    def __init__(self, sources: tuple[Quantizer, Quantizer], activation: Clamp | None, output: Quantizer) -> None:
        super().__init__()
        self.output, self.activation = output, activation
        self.sources = sources

    @torch.no_grad()
    def exact(self, a: Tensor, b: Tensor) -> Tensor:
        """The kernel's result."""
        s_y, z_y = self.output.step, self.output.zero_point
        terms = []
        for x, source in zip((a, b), self.sources, strict=True):
            s = source.step
            terms.append(torch.round(x.double() / s.double()).float() * (s / s_y))
        level = torch.round(terms[0] + terms[1]) + z_y
        return (level.clamp(*self.output.bounds(self.activation)) - z_y) * s_y

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        y = a + b
        y = self.output(y if self.activation is None else y.clamp(*self.activation))
        return y + (self.exact(a, b) - y).detach()


class QuantizedMean(nn.Module):
    """The mean of each channel of a quantized image, as `pc.global_average_pool` without a scale of its own."""

    def __init__(self, source: Quantizer, keepdim: bool) -> None:
        super().__init__()
        self._source, self.keepdim = [source], keepdim

    @property
    def source(self) -> Quantizer:
        """The quantizer of x, and of the result."""
        return self._source[0]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"x of a mean of height and width has shape {tuple(x.shape)}, wanted [B, C, H, W]")
        y = x.mean((2, 3), keepdim=self.keepdim)
        with torch.no_grad():
            s, z = self.source.step, self.source.zero_point
            total = (torch.round(x.double() / s.double()) + z).sum((2, 3), keepdim=self.keepdim)
            exact = (
                torch.round(total.float() * torch.tensor(1 / (x.shape[2] * x.shape[3]), dtype=torch.float32)) - z
            ) * s
        return y + (exact - y).detach()


# ---- prepare

# By types of modules, functions and names of methods.
_ACTIVATIONS: dict[Any, Clamp | str] = dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu"), (0.0, math.inf))
_ACTIVATIONS |= {nn.ReLU6: (0.0, 6.0), F.relu6: (0.0, 6.0), nn.Hardswish: HARDSWISH, F.hardswish: HARDSWISH}
_DROPOUTS: dict[Any, Any] = {F.dropout: nn.Dropout, F.dropout2d: nn.Dropout2d}
_SAME = (nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten, nn.MaxPool2d)


def keeps(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node makes of uint8, out of training, what it makes of the values that it stands for."""
    if isinstance(module, nn.MaxPool2d) and (module.ceil_mode or module.return_indices):
        return False
    return isinstance(module, _SAME) if node.op == "call_module" else node.target in (torch.flatten, "flatten")


def prepare(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    mode: str = "observe",
    warmup: int = 20,
    skip: Iterable[str] = (),
) -> fx.GraphModule:
    """A copy of a model with fake quantization, to be trained or calibrated, and then converted.

    Linear and Conv2d, each with a BatchNorm and a clamp (ReLU, ReLU6, Hardtanh) or Hardswish that follows, become a
    `QuantizedLayer`; a sum of two images, a `QuantizedAdd`; dropout, flatten, max pooling and the global mean let
    quantized values pass. Everything else stays as it is, in float32. What only leaves the model stays float32 too.

    example_inputs: a tensor, or what the model is called with; the copy is run once, so that what does not fit it is
    seen here. weight_bits, activation_bits: 2 to 8. mode, warmup: of the `Quantizer`s. skip: names of modules to leave
    alone.

    Raises TypeError for what is no model, or of another dtype than float32; ValueError for a model that torch.fx cannot
    trace, with its reason, for a value out of range, and for a name that is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}, wanted a torch.nn.Module")
    weight_bits = whole("weight_bits", weight_bits, 2, 8)
    Quantizer(activation_bits, mode, warmup=warmup)  # checks them
    skip = {skip} if isinstance(skip, str) else set(skip)
    try:
        traced = fx.symbolic_trace(copy.deepcopy(model))
    except Exception as error:
        raise ValueError(f"torch.fx cannot trace {type(model).__name__}: {error}") from error
    return _Preparation(traced, weight_bits, activation_bits, mode, warmup, skip).run(example_inputs)


class _Preparation:
    """Walks the graph once, and keeps which values lie on the grid of which quantizer."""

    def __init__(
        self, traced: fx.GraphModule, weight_bits: int, bits: int, mode: str, warmup: int, skip: set[str]
    ) -> None:
        self.traced, self.graph, self.skip = traced, traced.graph, skip
        self.weight_bits, self.bits, self.mode, self.warmup = weight_bits, bits, mode, warmup
        self.modules = dict(traced.named_modules())
        self.on_grid: dict[fx.Node, Quantizer] = {}
        unknown = skip - self.modules.keys()
        if unknown:
            raise ValueError(f"skip names {sorted(unknown)[0]!r}, which is no module of the model")

    def run(self, example_inputs: Tensor | Sequence[Tensor]) -> fx.GraphModule:
        for node in [node for node in self.graph.nodes if node.target in _DROPOUTS]:
            self._dropout(node)
        for node in list(self.graph.nodes):
            if node.graph is not self.graph or node._erased:
                continue
            module = self._module(node)
            if self._is_layer(node):
                self._layer(node)
            elif self._is_add(node):
                self._add(node)
            elif node.args and node.args[0] in self.on_grid and self._mean_of(node) is not None:
                self._mean(node)
            elif node.args and node.args[0] in self.on_grid and keeps(node, module):
                self.on_grid[node] = self.on_grid[node.args[0]]
        self.graph.lint()
        self.traced.delete_all_unused_submodules()
        self.traced.recompile()
        inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
        training = self.traced.training
        with torch.no_grad():
            self.traced.eval()(*inputs)
        self.traced.train(training)
        return self.traced

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def _is_layer(self, node: fx.Node) -> bool:
        module: Any = self._module(node)
        kind = None if module is None else parametrize.type_before_parametrizations(module)
        if kind is nn.Conv2d and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
            return False
        return kind in (nn.Conv2d, nn.Linear) and node.target not in self.skip

    def _is_add(self, node: fx.Node) -> bool:
        function = node.op == "call_function" and node.target in (operator.add, torch.add, operator.iadd)
        operands = [a for a in node.args if isinstance(a, fx.Node)]
        return bool(function) and len(operands) == 2 and not node.kwargs and all(a in self.on_grid for a in operands)

    def _mean_of(self, node: fx.Node) -> bool | None:
        """Whether a mean of height and width keeps these dimensions; None for all else."""
        module = self._module(node)
        pooled = isinstance(module, nn.AdaptiveAvgPool2d) and (module.output_size,)
        if node.target is F.adaptive_avg_pool2d:
            pooled = node.args[1:]
        if pooled:
            return True if pooled in ((1,), ((1, 1),), ([1, 1],)) else None
        given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | node.kwargs
        dim, keepdim = given.pop("dim", None), given.pop("keepdim", False)
        known = dim in ((2, 3), [2, 3], (-2, -1), [-2, -1]) and not given
        return bool(keepdim) if node.target in ("mean", torch.mean) and known else None

    def _insert(self, name: str, module: nn.Module, after: fx.Node, args: tuple[Any, ...]) -> fx.Node:
        while hasattr(self.traced, name):
            name += "_"
        self.traced.add_submodule(name, module)
        self.modules[name] = module
        with self.graph.inserting_after(after):
            return self.graph.call_module(name, args)

    def _quantizer(self) -> Quantizer:
        return Quantizer(self.bits, self.mode, warmup=self.warmup)

    def _source(self, node: fx.Node) -> tuple[fx.Node, Quantizer]:
        """A value on a grid: this one, or a quantized form of it."""
        if node in self.on_grid:
            return node, self.on_grid[node]
        for user in node.users:
            if user in self.on_grid and isinstance(self._module(user), Quantizer):
                return user, self.on_grid[user]
        quantizer = self._quantizer()
        made = self._insert(f"quantize_{node.name}", quantizer, node, (node,))
        self.on_grid[made] = quantizer
        return made, quantizer

    def _following(self, node: fx.Node, curves: bool) -> tuple[nn.Module | None, Any, fx.Node]:
        """Batch norm, activation, and the last node of the chain that begins with `node`."""
        norm: nn.Module | None = None
        activation: Clamp | str | None = None
        last = node
        user = self._only_user(last)
        if user is not None and isinstance(self._module(user), nn.BatchNorm2d | nn.BatchNorm1d):
            found = self._module(user)
            if found.track_running_stats:  # type: ignore[union-attr]
                norm, last = found, user
                user = self._only_user(last)
        if user is not None:
            module: Any = self._module(user)
            found = _ACTIVATIONS.get(user.target if module is None else type(module))
            if type(module) is nn.Hardtanh:
                found = float(module.min_val), float(module.max_val)
            if found is not None and (curves or found != HARDSWISH):
                activation, last = found, user
        return norm, activation, last

    def _only_user(self, node: fx.Node) -> fx.Node | None:
        return next(iter(node.users)) if len(node.users) == 1 else None

    def _stays(self, node: fx.Node) -> bool:
        """Whether an integer operation reads this value, maybe through others that let it pass."""
        for user in node.users:
            module = self._module(user)
            if self._is_layer(user) or self._mean_of(user) is not None:
                return True
            if user.op == "call_function" and user.target in (operator.add, torch.add, operator.iadd):
                return True
            if keeps(user, module) and self._stays(user):
                return True
        return False

    def _layer(self, node: fx.Node) -> None:
        dtype = self._module(node).weight.dtype  # type: ignore[union-attr]
        if dtype != torch.float32:
            raise TypeError(f"{node.target} has a weight of {dtype}, wanted float32, in which the kernels compute")
        source, quantizer = self._source(node.args[0])
        norm, activation, last = self._following(node, curves=self.bits == 8)
        output = self._quantizer() if self._stays(last) else None
        module = QuantizedLayer(self._module(node), norm, activation, quantizer, output, self.weight_bits)
        self._replace(node, last, module, (source,), output)

    def _add(self, node: fx.Node) -> None:
        if not self._stays(node) and not self._stays(self._following(node, curves=False)[2]):
            return
        _, activation, last = self._following(node, curves=False)
        output = self._quantizer()
        sources = tuple(self.on_grid[a] for a in node.args)
        self._replace(node, last, QuantizedAdd(sources, activation, output), node.args, output)  # type: ignore[arg-type]

    def _dropout(self, node: fx.Node) -> None:
        """The function as a module: whether it is in training was a constant when it was traced."""
        p = (*node.args[1:2], node.kwargs.get("p", 0.5))[0]
        made = self._insert(node.name, _DROPOUTS[node.target](p), node, node.args[:1])
        node.replace_all_uses_with(made)
        self.graph.erase_node(node)

    def _mean(self, node: fx.Node) -> None:
        quantizer = self.on_grid[node.args[0]]
        module = QuantizedMean(quantizer, bool(self._mean_of(node)))
        self._replace(node, node, module, (node.args[0],), quantizer)

    def _replace(
        self, first: fx.Node, last: fx.Node, module: nn.Module, args: tuple[Any, ...], output: Quantizer | None
    ) -> None:
        """One node in place of the chain from first to last."""
        made = self._insert(f"quantized_{first.name}", module, last, args)
        last.replace_all_uses_with(made)
        node: fx.Node | None = last
        while node is not None:
            before = None if node is first else node.args[0]
            self.graph.erase_node(node)
            node = before
        if output is not None:
            self.on_grid[made] = output


# ---- convert


def convert(prepared: fx.GraphModule) -> fx.GraphModule:
    """The network of a prepared model in the kernels of pycompress; for inference on the CPU.

    Its layers take and give uint8 where the prepared one's lie on a grid, and these are the same numbers: with q of the
    converted layer, (q - zero_point) * scale is what the prepared one gives in eval mode, to the bit.

    Layers of which a pruner of `pycompress.torch` made at least half zero hold a `CSRWeight` or a `BSRWeight`, those of
    its blocks: Linear and Conv2d of 1 x 1. A larger kernel stays dense, with the zeros in it.

    Raises TypeError for what `prepare` did not make, ValueError when a range was never seen.
    """
    from .torch import integer

    if not isinstance(prepared, fx.GraphModule):
        raise TypeError(f"prepared is {type(prepared).__name__}, wanted what prepare made of it")

    model: fx.GraphModule = copy.deepcopy(prepared).eval()
    for name, module in model.named_modules():
        if isinstance(module, Quantizer) and module.seen == 0:
            raise ValueError(f"{name} has seen no values: run the prepared model in train mode on some batches first")
    return integer.convert_(model)
