"""Cheap layers for student networks, each also made from the dense layer that it replaces.

    block = DepthwiseSeparableConv2d.from_dense(conv, rank=2)      # weights by pycompress.factorize_conv
    print(count(model, images))                                    # parameters, multiply-accumulates, bytes

A block made by `from_dense` is linear, so that it computes what the factorized layer does and can stand where the
dense one stood, before its batch norm and its activation. Made by the constructor with norm=True and an activation it
is the layer of the paper. All of them can be traced by torch.fx, and so be quantized by `pycompress.qat`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pycompress as pc
from pycompress.convfactors import Stage
from pycompress.weights.base import Weight

from .modules import Conv2d, Linear

__all__ = ["Count", "DepthwiseSeparableConv2d", "Fire", "InvertedResidual", "LowRankLinear", "count", "factorized"]

Activation: TypeAlias = Callable[[], nn.Module]
Pair: TypeAlias = "int | tuple[int, int]"


def _chain(conv: nn.Conv2d, norm: bool, activation: Activation | None) -> nn.Module:
    """A convolution with what follows it."""
    parts: list[nn.Module] = [conv]
    if norm:
        parts.append(nn.BatchNorm2d(conv.out_channels))
    if activation is not None:
        parts.append(activation())
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _dense(layer: Any, kind: type[nn.Module]) -> Any:
    """The weight of a layer as an array, float32."""
    if not isinstance(layer, kind):
        raise TypeError(f"layer is {type(layer).__name__}, wanted a {kind.__name__}")
    if isinstance(layer, nn.Conv2d) and (
        layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        raise ValueError(
            f"layer has groups={layer.groups}, padding={layer.padding!r}, padding_mode={layer.padding_mode!r}, wanted "
            "one group and a padding of zeros given as numbers"
        )
    return layer.weight.detach().float().cpu().numpy()


def _fill(layer: nn.Module, weight: Any, bias: Tensor | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(weight)))
        if bias is not None:
            layer.bias.copy_(bias)


def _stage(stage: Stage, conv: nn.Conv2d, bias: Tensor | None) -> nn.Conv2d:
    """One convolution of a sequence that takes the place of `conv`."""
    o, i, kh, kw = stage.weight.shape

    def share(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(v if takes else neutral for v, takes in zip(values, stage.takes, strict=True))

    made = nn.Conv2d(
        i * stage.groups, o, (kh, kw), share(conv.stride, 1), share(conv.padding, 0), share(conv.dilation, 1),
        stage.groups, bias is not None,
    )  # fmt: skip
    _fill(made, stage.weight, bias)
    return made


def factorized(layer: nn.Conv2d, kind: str = "svd", rank: Any = None, **options: Any) -> nn.Sequential:
    """The convolutions that `pycompress.factorize_conv` cuts a dense one into, one after the other; the bias is the
    last one's.

    layer: Conv2d in one group. kind, rank, options: those of `factorize_conv`; of kind "squeeze" the one 1 x 1
    convolution has a padding of its own, that of the layer less half its kernel, which must not be negative.

    Raises as `factorize_conv`; TypeError and ValueError for another layer.
    """
    factors = pc.factorize_conv(_dense(layer, nn.Conv2d), kind, rank, **options)  # type: ignore[arg-type]
    last = len(factors.stages) - 1
    parts = [_stage(s, layer, layer.bias if i == last else None) for i, s in enumerate(factors.stages)]
    if kind == "squeeze":
        pad = [p - d * (k - 1) // 2 for p, d, k in zip(layer.padding, layer.dilation, layer.kernel_size, strict=True)]
        if min(pad) < 0:
            raise ValueError(f"layer has padding {layer.padding}, wanted at least half its kernel for kind 'squeeze'")
        parts[0].padding = tuple(pad)
    return nn.Sequential(*parts)


class DepthwiseSeparableConv2d(nn.Module):
    """A convolution of each channel, then a 1 x 1 convolution: MobileNet's layer.

    kernel_size, stride, padding, dilation, bias: as of Conv2d. rank: outputs of the depthwise convolution for each
    channel. norm, activation: what follows each of the two convolutions; with norm they have no bias.

    Howard et al., "MobileNets", 2017.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        *,
        rank: int = 1,
        bias: bool = True,
        norm: bool = False,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        mid = in_channels * rank
        between = norm or activation is not None
        self.depthwise = _chain(
            nn.Conv2d(
                in_channels, mid, kernel_size, stride, padding, dilation, in_channels, bias and between and not norm
            ),
            norm,
            activation,
        )
        self.pointwise = _chain(nn.Conv2d(mid, out_channels, 1, bias=bias and not norm), norm, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))

    @classmethod
    def from_dense(
        cls,
        layer: nn.Conv2d,
        rank: int | None = None,
        energy: float | None = None,
        error: float | None = None,
        *,
        inputs: Any = None,
    ) -> DepthwiseSeparableConv2d:
        """The best sum of `rank` depthwise-separable convolutions: `factorize_conv` of kind "separable".

        layer: Conv2d in one group. rank, energy, error: at most one of them; without any, rank 1. inputs: calibration
        inputs of the layer, as `pycompress.unfold` gives them. Raises as `factorized`.
        """
        rank = 1 if rank is None and energy is None and error is None else rank
        factors = pc.factorize_conv(_dense(layer, nn.Conv2d), "separable", rank, energy, error, inputs=inputs)
        depthwise, pointwise = factors.stages
        block = cls(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
            rank=len(depthwise.weight) // layer.in_channels, bias=layer.bias is not None,
        )  # fmt: skip
        _fill(block.depthwise, depthwise.weight)
        _fill(block.pointwise, pointwise.weight, layer.bias)
        return block.train(layer.training)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: 1 x 1 to `expand` times the channels, a convolution of each of them, 1 x 1; and its input
    added where the shapes are the same.

    kernel_size: odd; the padding is half of it. norm, activation: what follows the first two convolutions; the last
    has the norm alone. With norm they have no bias. residual: None for wherever it fits, which is a stride of 1 and
    as many outputs as inputs.

    Raises ValueError for a residual that does not fit, or an even kernel.
    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        *,
        expand: int = 6,
        bias: bool = True,
        norm: bool = True,
        activation: Activation | None = nn.ReLU6,
        residual: bool | None = None,
    ) -> None:
        super().__init__()
        size = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if not (size[0] % 2 and size[1] % 2):
            raise ValueError(f"kernel_size is {kernel_size}, wanted odd numbers")
        fits = in_channels == out_channels and stride in (1, (1, 1))
        if residual and not fits:
            raise ValueError(f"residual needs a stride of 1 and as many outputs as inputs, got {stride}, {in_channels} "
                             f"inputs, {out_channels} outputs")  # fmt: skip
        self.residual = fits if residual is None else residual
        mid, half = in_channels * expand, (size[0] // 2, size[1] // 2)
        between = norm or activation is not None
        inner = bias and between and not norm
        self.expand = _chain(nn.Conv2d(in_channels, mid, 1, bias=inner), norm, activation)
        depthwise = nn.Conv2d(mid, mid, size, stride, half, groups=mid, bias=inner)
        self.depthwise = _chain(depthwise, norm, activation)
        self.project = _chain(nn.Conv2d(mid, out_channels, 1, bias=bias and not norm), norm, None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return y + x if self.residual else y

    @classmethod
    def from_dense(
        cls, layer: nn.Conv2d, expand: int = 1, *, residual: bool | None = None, inputs: Any = None
    ) -> InvertedResidual:
        """The best sum of `expand` depthwise-separable convolutions, with the channels repeated by the first 1 x 1.

        With a residual, it is the layer less the identity that is factorized. layer: Conv2d in one group, without
        dilation, with an odd kernel and half of it as padding. inputs: calibration inputs of the layer, as
        `pycompress.unfold` gives them. Raises as `factorized`.
        """
        w = _dense(layer, nn.Conv2d)
        if layer.dilation != (1, 1) or any(2 * p + 1 != k for p, k in zip(layer.padding, w.shape[2:], strict=True)):
            raise ValueError(f"layer has padding {layer.padding}, dilation {layer.dilation}, wanted half its kernel of "
                             f"{layer.kernel_size}, which is odd, and no dilation")  # fmt: skip
        block = cls(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, expand=expand,
            bias=layer.bias is not None, norm=False, activation=None, residual=residual,
        )  # fmt: skip
        if block.residual:
            every = np.arange(len(w))
            w = w.copy()
            w[every, every, layer.padding[0], layer.padding[1]] -= 1
        depthwise, pointwise = pc.factorize_conv(w, "separable", expand, inputs=inputs).stages
        _fill(block.expand, np.repeat(np.eye(w.shape[1], dtype=np.float32), expand, 0)[:, :, None, None])
        _fill(block.depthwise, depthwise.weight)
        _fill(block.project, pointwise.weight, layer.bias)
        return block.train(layer.training)


class Fire(nn.Module):
    """SqueezeNet's module: 1 x 1 to `squeeze` channels; of these 1 x 1 to expand1 outputs, 3 x 3 to expand3 outputs,
    side by side.

    norm, activation: what follows each of the three convolutions. stride: of the two that expand.

    Iandola et al., "SqueezeNet", 2016.
    """

    order: Tensor | None

    def __init__(
        self,
        in_channels: int,
        squeeze: int,
        expand1: int,
        expand3: int,
        stride: Pair = 1,
        *,
        bias: bool = True,
        norm: bool = False,
        activation: Activation | None = nn.ReLU,
    ) -> None:
        super().__init__()
        inner = bias and not norm
        first = nn.Conv2d(in_channels, squeeze, 1, bias=inner and activation is not None)
        self.squeeze = _chain(first, norm, activation)
        self.expand1 = _chain(nn.Conv2d(squeeze, expand1, 1, stride, bias=inner), norm, activation)
        self.expand3 = _chain(nn.Conv2d(squeeze, expand3, 3, stride, 1, bias=inner), norm, activation)
        self.register_buffer("order", None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        y = torch.cat((self.expand1(x), self.expand3(x)), 1)
        return y if self.order is None else y.index_select(1, self.order)

    @classmethod
    def from_dense(cls, layer: nn.Conv2d, squeeze: int, expand1: int | None = None, *, inputs: Any = None) -> Fire:
        """Outputs that need their neighbours least become 1 x 1; then the channels of all are squeezed by the SVD.

        layer: Conv2d in one group, 3 x 3 with padding 1. squeeze: 1 to the number of inputs. expand1: how many outputs
        become 1 x 1, at least 1 and not all; None is half of them. They are those of which the middle of the kernel
        holds the largest part. inputs: calibration inputs of the layer, as `pycompress.unfold` gives them, to which the
        1 x 1 kernels are fitted; without them, they are the middles. The outputs keep their order. Raises as
        `factorized`.
        """
        w = _dense(layer, nn.Conv2d)
        outputs, channels = w.shape[:2]
        expand1 = outputs // 2 if expand1 is None else expand1
        if layer.kernel_size != (3, 3) or layer.padding != (1, 1) or layer.dilation != (1, 1):
            raise ValueError(f"layer has a kernel of {layer.kernel_size}, padding {layer.padding}, dilation "
                             f"{layer.dilation}, wanted 3 x 3, padding 1, no dilation")  # fmt: skip
        if not 0 < expand1 < outputs:
            raise ValueError(f"expand1 is {expand1}, wanted 1 to {outputs - 1}, fewer than the outputs")
        if not 1 <= squeeze <= channels:
            raise ValueError(f"squeeze is {squeeze}, wanted 1 to {channels}, the number of inputs")
        total = np.square(w, dtype=np.float64).sum((1, 2, 3))
        middle = np.square(w[:, :, 1, 1], dtype=np.float64).sum(1)
        by_middle = np.argsort(-middle / np.where(total > 0, total, 1), kind="stable")
        ones, threes = np.sort(by_middle[:expand1]), np.sort(by_middle[expand1:])
        if inputs is None:
            one = w[ones, :, 1, 1]
        else:
            one = pc.factorize_conv(w[ones], "squeeze", inputs=inputs).stages[0].weight[:, :, 0, 0]
        # One basis of `squeeze` channels for both: the left singular vectors of all taps beside each other.
        taps = np.concatenate([one.T, w[threes].transpose(1, 0, 2, 3).reshape(channels, -1)], 1)
        low = pc.factorize(taps, squeeze, allow_larger=True)
        basis, rest = np.asarray(low.a), np.asarray(low.b)
        block = cls(
            channels, squeeze, expand1, outputs - expand1, layer.stride, bias=layer.bias is not None, activation=None
        )
        bias = None if layer.bias is None else layer.bias.detach()
        _fill(block.squeeze, basis.T[:, :, None, None])
        _fill(block.expand1, rest[:, :expand1].T[:, :, None, None], None if bias is None else bias[ones])
        three = rest[:, expand1:].reshape(squeeze, len(threes), 3, 3).transpose(1, 0, 2, 3)
        _fill(block.expand3, three, None if bias is None else bias[threes])
        place = np.argsort(np.concatenate([ones, threes]))
        if (place != np.arange(outputs)).any():
            block.order = torch.from_numpy(place)
        return block.train(layer.training)


class LowRankLinear(nn.Module):
    """Two linear layers with `rank` values between them: y = (x b^T) a^T + bias, `LowRankWeight` in training."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.b = nn.Linear(in_features, rank, bias=False)
        self.a = nn.Linear(rank, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(x))

    @classmethod
    def from_dense(
        cls,
        layer: nn.Linear,
        rank: int | None = None,
        energy: float | None = None,
        error: float | None = None,
        *,
        inputs: Any = None,
        allow_larger: bool = False,
    ) -> LowRankLinear:
        """By `pycompress.factorize`, whose arguments these are; so is what is raised. TypeError for no Linear."""
        weight = pc.factorize(_dense(layer, nn.Linear), rank, energy, error, inputs=inputs, allow_larger=allow_larger)
        block = cls(layer.in_features, layer.out_features, weight.rank, layer.bias is not None)
        _fill(block.b, weight.b)
        _fill(block.a, weight.a, layer.bias)
        return block.train(layer.training)


class Count(NamedTuple):
    """What a network takes.

    parameters: values of its parameters (of weights of pycompress: of what is stored, and biases). nonzero: those that
    are not 0. macs: multiply-accumulates of matrix products, convolutions and attention for the inputs given, whatever
    their values; of a sparse weight those with stored values. bytes: of parameters and buffers as they are in memory.
    """

    parameters: int
    nonzero: int
    macs: int
    bytes: int

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters ({self.nonzero:,} not zero), {self.macs:,} multiply-accumulates, "
            f"{self.bytes:,} bytes"
        )


def count(model: nn.Module, example_input: Any) -> Count:
    """Parameters, multiply-accumulates and bytes of a network.

    example_input: a tensor, or a tuple of the arguments of `model`. It is run once, in eval mode without gradients;
    macs are those of the whole batch. The network may be one that `pycompress.qat.convert` or `compress_` made, or a
    mixture.
    """
    arrays: list[Any] = []
    for module in model.modules():
        if isinstance(module, Linear | Conv2d):
            arrays.append(_values(module.compressed))
            if module.bias is not None:
                arrays.append(module.bias.numpy())
    tensors = list(model.parameters())
    values = [*(t.detach() for t in tensors), *(torch.from_numpy(np.array(a)) for a in arrays)]
    return Count(
        sum(v.numel() for v in values),
        sum(int(torch.count_nonzero(v)) for v in values),
        _macs(model, example_input),
        sum(t.numel() * t.element_size() for t in (*tensors, *model.buffers())),
    )


def _values(weight: Weight) -> Any:
    """What is multiplied, without scales and indices."""
    if isinstance(weight, pc.LowRankWeight):
        return np.concatenate(
            [_values(f).ravel() if isinstance(f, Weight) else f.ravel() for f in (weight.a, weight.b)]
        )
    for name in ("q", "w", "data"):
        if hasattr(weight, name):
            return getattr(weight, name)
    return weight.todense()


def _macs(model: nn.Module, example_input: Any) -> int:
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    kernels = 0

    def add(module: Any, given: Any, result: Tensor) -> None:
        nonlocal kernels
        kernels += result.numel() // module.shape[0] * _values(module.compressed).size

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, Linear | Conv2d)]
    modes = {m: m.training for m in model.modules()}
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for m, training in modes.items():
            m.training = training
    return counter.get_total_flops() // 2 + kernels
