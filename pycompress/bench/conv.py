"""Convolutions of one image: depthwise, depthwise with pointwise, and dense, in static int8 and in float32."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pycompress as pc

from .family import Family, Form

FORMS: tuple[Form, ...] = (
    Form("static", "u8 -> u8 static", "int8", (1, 1, 1), 0.07),  # a level, which is 8 rms / 255, for each rounding
    Form("f32", "f32", "float32", (4, 4, 4), 1e-4),
)
# The layers of MobileNetV1 (a side of the image, channels, outputs, stride).
MOBILENET_V1 = (
    (112, 32, 64, 1), (112, 64, 128, 2), (56, 128, 128, 1), (56, 128, 256, 2), (28, 256, 256, 1), (28, 256, 512, 2),
    (14, 512, 512, 1), (14, 512, 1024, 2), (7, 1024, 1024, 1),
)  # fmt: skip
CASES = (
    *(f"depthwise:{side}x{c}:k3:s1" for side, c in ((112, 32), (56, 128), (28, 256), (14, 512), (7, 1024))),
    *(f"depthwise:{side}x{c}:k3:s2" for side, c in ((112, 64), (56, 128), (28, 256))),
    *(f"depthwise:{side}x{c}:k5:s1" for side, c in ((28, 120), (14, 480))),
    *(f"separable:{side}x{c}>{o}:k3:s{s}" for side, c, o, s in MOBILENET_V1),
    *(f"conv:{side}x{c}>{o}:k3:s{s}" for side, c, o, s in ((56, 64, 64, 1), (14, 256, 256, 1), (224, 3, 32, 2))),
)


@dataclass(frozen=True)
class Case:
    """A square image [1, side, side, channels], a square kernel, padded by kernel // 2."""

    kind: str  # "depthwise", "separable" or "conv"
    side: int
    channels: int
    outputs: int
    kernel: int
    stride: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """From "depthwise:56x128:k3:s1", "separable:56x128>128:k3:s1" or "conv:56x64>64:k3:s1". Raises ValueError."""
        found = re.fullmatch(
            r"(depthwise|separable|conv):([1-9]\d{0,3})x([1-9]\d{0,4})(?:>([1-9]\d{0,4}))?:k([1-9]\d?):s([1-9])", text
        )
        if not found or (found[4] is None) != (found[1] == "depthwise"):
            raise ValueError(
                f"{text!r} is no convolution, wanted depthwise:SIDExC:kK:sS, or separable or conv:SIDExC>O:kK:sS"
            )
        side, channels, outputs, kernel, stride = (int(part or found[3]) for part in found.groups()[1:])
        case = cls(found[1], side, channels, outputs, kernel, stride)
        if side + 2 * case.padding < kernel:
            raise ValueError(f"{text!r}: the image is smaller than the kernel")
        return case

    def __str__(self) -> str:
        outputs = "" if self.kind == "depthwise" else f">{self.outputs}"
        return f"{self.kind}:{self.side}x{self.channels}{outputs}:k{self.kernel}:s{self.stride}"

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def result_side(self) -> int:
        return (self.side + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def weights(self) -> int:
        first = self.kernel**2 * self.channels
        return (
            first * self.outputs
            if self.kind == "conv"
            else first + (self.kind == "separable") * self.channels * self.outputs
        )

    @property
    def macs(self) -> int:
        return self.result_side**2 * self.weights


@dataclass(frozen=True)
class Layer:
    """One convolution: w [O, I / groups, kh, kw], quantized with a scale for each output, and the result's QParams."""

    w: NDArray[np.float32]
    q: NDArray[np.int8]
    scale: NDArray[np.float32]
    stride: int
    padding: int
    groups: int
    x_qparams: pc.QParams
    y_qparams: pc.QParams


@dataclass(frozen=True)
class Operands:
    """An image [1, H, W, C], float32 and quantized, and the layers that it goes through, one or (separable) two."""

    case: Case
    x: NDArray[np.float32]
    q: NDArray[np.uint8]
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, case: Case) -> Operands:
        """Normal random values, the same for a case every time."""
        rng = np.random.default_rng(
            [ord(case.kind[0]), case.side, case.channels, case.outputs, case.kernel, case.stride]
        )
        x = rng.standard_normal((1, case.side, case.side, case.channels), np.float32)
        q, scale, zero_point = pc.dynamic_quantize_linear(x)
        shapes = {
            "depthwise": [(case.channels, 1, case.kernel, case.kernel)],
            "separable": [(case.channels, 1, case.kernel, case.kernel), (case.outputs, case.channels, 1, 1)],
            "conv": [(case.outputs, case.channels, case.kernel, case.kernel)],
        }[case.kind]
        layers, qparams = [], pc.QParams(float(scale), int(zero_point))
        for i, shape in enumerate(shapes):
            # Divided by the root of the terms, a result has the deviation 1: uint8 spans four to either side.
            w = rng.standard_normal(shape, np.float32) / np.float32((shape[1] * shape[2] * shape[3]) ** 0.5)
            weight, y_qparams = pc.Int8Weight.from_float(w), pc.QParams(8 / 255, 128)
            groups = case.channels if shape[1] == 1 and case.kind != "conv" else 1
            stride, padding = (case.stride, case.padding) if i == 0 else (1, 0)
            layers.append(Layer(w, weight.q, weight.scale, stride, padding, groups, qparams, y_qparams))
            qparams = y_qparams
        return cls(case, x, q, tuple(layers))

    def nchw(self, form: str) -> NDArray[Any]:
        """The image as other libraries want it."""
        return np.ascontiguousarray((self.q if form == "static" else self.x).transpose(0, 3, 1, 2))

    @property
    def result_shape(self) -> tuple[int, int, int, int]:
        """NHWC."""
        return 1, self.case.result_side, self.case.result_side, self.case.outputs


def _aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Memory that begins at a cache line, as a result of ours does, and an image within the other libraries."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(count + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    array: NDArray[Any] = memory[skip : skip + count].view(dtype).reshape(shape)
    return array


def _pycompress(operands: Operands, form: str) -> Callable[[], object]:
    static, first = form == "static", operands.layers[0]
    last = operands.layers[-1]
    x: Any = operands.q if static else operands.x
    out = _aligned(operands.result_shape, np.uint8 if static else np.float32)
    image = _aligned(x.shape, x.dtype)
    image[...] = x
    x = image
    about: dict[str, Any] = {"stride": first.stride, "padding": first.padding, "out": out}
    if static:
        about |= {"x_qparams": first.x_qparams, "y_qparams": last.y_qparams}
    if operands.case.kind == "conv":
        dense: Any = pc.Int8Weight(first.q, first.scale) if static else pc.Float32Weight.from_float(first.w)
        return lambda: pc.conv2d(x, dense, **about)
    depthwise = pc.DepthwiseWeight(first.q, first.scale) if static else pc.DepthwiseWeight(first.w)
    if operands.case.kind == "depthwise":
        return lambda: pc.depthwise_conv2d(x, depthwise, **about)
    if static:
        about["mid_qparams"] = first.y_qparams
    pointwise: Any = (
        pc.Int8Weight(last.q[:, :, 0, 0], last.scale) if static else pc.Float32Weight.from_float(last.w[:, :, 0, 0])
    )
    return lambda: pc.separable_conv2d(x, depthwise, pointwise, **about)


def _reference(operands: Operands, form: str) -> NDArray[np.float64]:
    """In float64: of the integers exactly, rounded after each layer, or of the float32 values."""
    static, first = form == "static", operands.layers[0]
    x: NDArray[np.float64] = (
        (operands.q - np.float64(first.x_qparams.zero_point)) * first.x_qparams.scale
        if static
        else operands.x.astype(np.float64)
    )
    for layer in operands.layers:
        w = layer.q * layer.scale.astype(np.float64)[:, None, None, None] if static else layer.w.astype(np.float64)
        x = _convolve(x, w, layer)
        if static:
            scale, zero_point = layer.y_qparams
            x = np.clip(np.rint(x / scale), -zero_point, 255 - zero_point) * scale
    return x


def _convolve(x: NDArray[np.float64], w: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
    """Position by position of the kernel."""
    pad, s, k = layer.padding, layer.stride, w.shape[2]
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((n - k) // s + 1 for n in padded.shape[1:3])
    y = np.zeros((1, height, width, len(w)))
    for i in range(k):
        for j in range(k):
            part = padded[:, i : i + (height - 1) * s + 1 : s, j : j + (width - 1) * s + 1 : s]
            y += part * w[:, 0, i, j] if layer.groups > 1 else part @ w[:, :, i, j].T
    return y


def _values(operands: Operands, form: str, result: NDArray[Any]) -> NDArray[np.float64]:
    if form != "static":
        return np.asarray(result, np.float64)
    scale, zero_point = operands.layers[-1].y_qparams
    levels: NDArray[np.float64] = result - np.float64(zero_point)
    return levels * scale


def _traffic(case: Case, form: Form) -> float:
    x, w, y = form.sizes
    return case.side**2 * case.channels * x + case.weights * w + case.result_side**2 * case.outputs * y


FAMILY = Family(
    "conv", FORMS, Case.parse, Operands.of, _pycompress, _reference, _values, lambda case: float(case.macs), _traffic
)
