"""MobileNetV2 as data: its convolutions with batch norm folded in, for every library that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pycompress as pc

Floats = NDArray[np.float32]
Ranges = dict[str, tuple[float, float]]
# expansion, channels, repeats, first stride: table 2 of the paper (Sandler et al., 2018)
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass
class Conv:
    """A convolution: w [O, I / groups, kh, kw], padded by k // 2; relu6 or nothing follows."""

    name: str
    w: Floats
    b: Floats
    stride: int
    relu6: bool

    @property
    def depthwise(self) -> bool:
        return self.w.shape[1] == 1


@dataclass
class Network:
    """stem, blocks of (expand or None, depthwise, project, input added), last convolution, classifier."""

    stem: Conv
    blocks: list[tuple[Conv | None, Conv, Conv, bool]]
    last: Conv
    classifier: tuple[Floats, Floats]


def load(path: Path) -> Network:
    """torchvision's file of weights; batch norm y = (x - mean) / sqrt(var + 1e-5) * weight + bias goes into w and b."""
    import torch

    state = {k: v.numpy() for k, v in torch.load(path, map_location="cpu", weights_only=True).items()}

    def conv(at: str, norm: str, stride: int, relu6: bool) -> Conv:
        n = {
            part: state[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        factor = n["weight"] / np.sqrt(n["running_var"] + 1e-5)
        w = state[f"{at}.weight"] * factor[:, None, None, None]
        bias = n["bias"] - n["running_mean"] * factor
        return Conv(at, w.astype(np.float32), bias.astype(np.float32), stride, relu6)

    blocks, index, channels = [], 1, 32
    for expansion, outputs, repeats, first in BLOCKS:
        for repeat in range(repeats):
            at, stride = f"features.{index}.conv", first if repeat == 0 else 1
            expand = conv(f"{at}.0.0", f"{at}.0.1", 1, True) if expansion > 1 else None
            k = 1 if expand else 0
            depthwise, project = (
                conv(f"{at}.{k}.0", f"{at}.{k}.1", stride, True),
                conv(f"{at}.{k + 1}", f"{at}.{k + 2}", 1, False),
            )
            blocks.append((expand, depthwise, project, stride == 1 and channels == outputs))
            index, channels = index + 1, outputs
    stem, last = conv("features.0.0", "features.0.1", 2, True), conv("features.18.0", "features.18.1", 1, True)
    return Network(stem, blocks, last, (state["classifier.1.weight"], state["classifier.1.bias"]))


def _relu6(conv: Conv) -> str | None:
    return "relu6" if conv.relu6 else None


class Buffers:
    """Where results go, kept from call to call."""

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.kept = dtype, {}  # type: Any, dict[str, NDArray[Any]]

    def __call__(self, name: str, x: NDArray[Any], channels: int, stride: int = 1) -> NDArray[Any]:
        """For a result with so many channels of an image x [B, H, W, C], padded by half the kernel."""
        b, h, w = x.shape[:3]
        shape = b, -(-h // stride), -(-w // stride), channels
        kept = self.kept.get(name)
        if kept is None or kept.shape != shape:
            kept = self.kept[name] = np.empty(shape, self.dtype)
        return kept


class Float:
    """The network in float32, on pycompress. `seen(name, image)` is told every result, for the calibration."""

    def __init__(self, net: Network) -> None:
        self.net, self.out = net, Buffers(np.float32)
        self.depthwise = {d.name: pc.DepthwiseWeight.from_float(d.w, bits=32) for _, d, _, _ in net.blocks}
        every = [net.last, *(c for e, _, p, _ in net.blocks for c in (e, p) if c)]
        self.matrix = {c.name: pc.Float32Weight.from_float(c.w[:, :, 0, 0]) for c in every}
        self.stem, self.classifier = (pc.Float32Weight.from_float(w) for w in (net.stem.w, net.classifier[0]))

    def __call__(self, x: Floats, seen: Any = None) -> Floats:
        """Normalized images [B, 224, 224, 3] -> logits [B, 1000]."""
        net, out = self.net, self.out

        def told(name: str, value: Floats) -> Floats:
            if seen:
                seen(name, value)
            return value

        def point(c: Conv, y: Floats) -> Floats:
            return told(
                c.name, pc.linear(y, self.matrix[c.name], c.b, activation=_relu6(c), out=out(c.name, y, len(c.w)))
            )

        x = told("input", x)
        to = out(net.stem.name, x, 32, 2)
        x = told(net.stem.name, pc.conv2d(x, self.stem, net.stem.b, stride=2, padding=1, activation="relu6", out=to))
        for expand, d, project, residual in net.blocks:
            y = point(expand, x) if expand else x
            if seen:  # what lies between is wanted too
                y = told(
                    d.name,
                    pc.depthwise_conv2d(y, self.depthwise[d.name], d.b, stride=d.stride, padding=1, activation="relu6"),
                )
                y = point(project, y)
            else:
                y = pc.separable_conv2d(
                    y, self.depthwise[d.name], self.matrix[project.name], d.b, project.b,
                    stride=d.stride, padding=1, depthwise_activation="relu6",
                    out=out(project.name, y, len(project.w), d.stride),
                )  # fmt: skip
            x = (
                told(f"{project.name}.add", pc.add(x, y, out=out(f"{project.name}.add", x, x.shape[3])))
                if residual
                else y
            )
        x = told("pool", pc.global_average_pool(point(net.last, x)))
        return pc.linear(x.reshape(len(x), -1), self.classifier, net.classifier[1])


class Int8:
    """The network in static int8: uint8 images from end to end, int8 weights with a scale for each output."""

    def __init__(self, net: Network, ranges: Ranges) -> None:
        self.net, self.out, self.q = net, Buffers(np.uint8), {name: qparams(*span) for name, span in ranges.items()}
        self.depthwise = {d.name: pc.DepthwiseWeight.from_float(d.w) for _, d, _, _ in net.blocks}
        every = [net.last, *(c for e, _, p, _ in net.blocks for c in (e, p) if c)]
        self.matrix = {c.name: pc.Int8Weight.from_float(c.w[:, :, 0, 0]) for c in every}
        self.stem, self.classifier = pc.Int8Weight.from_float(net.stem.w), pc.Int8Weight.from_float(net.classifier[0])
        self.image: Any = None
        self.steps: list[tuple[str, Callable[[], Any]]] = []

    def __call__(self, image: Floats, timed: Any = None) -> Floats:
        """Normalized images [B, 224, 224, 3] -> logits [B, 1000]. timed(name, call) -> call(), for a profile."""
        net, at, name = self.net, self.q["input"], self.net.stem.name
        do = timed or (lambda name, call: call())
        x = do("quantize", lambda: pc.quantize_linear(image, np.float32(at.scale), np.uint8(at.zero_point)))
        to = self.out(name, x, 32, 2)
        do(name, lambda: pc.conv2d(
            x, self.stem, net.stem.b, stride=2, padding=1, activation="relu6", x_qparams=at, y_qparams=self.q[name],
            out=to,
        ))  # fmt: skip
        if to is not self.image:  # the first time, or another number of images
            self.image, self.steps = to, self.calls(to)
        for name, call in self.steps:
            result = do(name, call)
        return result

    def calls(self, x: NDArray[np.uint8]) -> list[tuple[str, Callable[[], Any]]]:
        """What follows the stem, whose result is x: calls from buffer to buffer, bound once. The last gives logits."""
        net, q, calls = self.net, self.q, []

        def call(
            name: str, operation: Any, *operands: Any, x: Any, channels: int, stride: int = 1, **about: Any
        ) -> Any:
            to = self.out(name, x, channels, stride)
            if stride > 1:
                about["stride"] = stride
            calls.append((name, partial(operation, *operands, y_qparams=q[name], out=to, **about)))
            return to, q[name]

        def point(c: Conv, x: Any, at: pc.QParams) -> Any:
            about = {"x_qparams": at, "activation": _relu6(c)}
            return call(c.name, pc.linear, x, self.matrix[c.name], c.b, x=x, channels=len(c.w), **about)

        at = q[net.stem.name]
        for expand, d, p, residual in net.blocks:
            y, y_at = point(expand, x, at) if expand else (x, at)
            y, y_at = call(
                p.name, pc.separable_conv2d, y, self.depthwise[d.name], self.matrix[p.name], d.b, p.b, x=y,
                channels=len(p.w), stride=d.stride, padding=1, depthwise_activation="relu6", mid_qparams=q[d.name],
                x_qparams=y_at,
            )  # fmt: skip
            if residual:
                about = {"a_qparams": at, "b_qparams": y_at}
                y, y_at = call(f"{p.name}.add", pc.add, x, y, x=x, channels=len(p.w), **about)
            x, at = y, y_at
        x, at = point(net.last, x, at)
        pool = np.empty((len(x), 1, 1, x.shape[3]), np.uint8)
        calls.append(("pool", partial(pc.global_average_pool, x, x_qparams=at, y_qparams=q["pool"], out=pool)))
        rows, bias = pool.reshape(len(x), -1), net.classifier[1]
        calls.append(("classifier", partial(pc.linear, rows, self.classifier, bias, x_qparams=q["pool"])))
        return calls


def qparams(low: float, high: float) -> pc.QParams:
    """uint8 for that range; it holds 0, which the padding is."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / 255, 1e-8)
    return pc.QParams(scale, round(-low / scale))


def calibrate(network: Float, photographs: Floats) -> Ranges:
    """The smallest and largest value of every result: means over the photographs, so that one counts little."""
    extremes: dict[str, list[tuple[float, float]]] = {}

    def seen(name: str, value: Floats) -> None:
        extremes.setdefault(name, []).append((float(value.min()), float(value.max())))

    for photograph in photographs:
        network(photograph[None], seen)
    return {name: tuple(np.mean(pairs, axis=0).tolist()) for name, pairs in extremes.items()}
