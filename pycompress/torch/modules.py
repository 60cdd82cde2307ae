"""Linear and Conv2d by the kernels of pycompress, and what stands between them in a network of integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pycompress as pc
from pycompress._arguments import whole
from pycompress.ops import Activation, QParamsLike

from . import ops

__all__ = ["Add", "Conv2d", "Dequantize", "GlobalAveragePool2d", "Linear", "MaxPool2d", "Quantize", "read_state"]

EXTRA = "_extra_state"  # torch's key for what `get_extra_state` gives


class _Module(nn.Module):
    """One operator. The types of its buffers are part of what it computes, and stay."""

    dtype = torch.float32  # which the model has; the buffers have their own

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Module:
        """`.to`, `.half`, `.share_memory` and the like."""
        for name, old in self._buffers.items():
            if old is None:
                continue
            new = fn(old)
            if new.device.type not in ("cpu", "meta"):
                raise RuntimeError(f"layers of pycompress run on the CPU, and cannot be moved to {new.device}")
            if new.dtype != old.dtype:
                new = old if new.device == old.device else old.to(new.device)
            self._buffers[name] = new
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self


class _Layer(_Module):
    """Buffers with the arrays of a compressed weight, bias and scales; all else is in `layer`, see `ops`."""

    _op: Callable[..., Tensor]
    layer: str

    def _settle(
        self,
        weight: Any,
        bias: Tensor | None,
        activation: Activation,
        x_qparams: QParamsLike | None,
        y_qparams: QParamsLike | None,
        absorbed: tuple[str, ...],
        **more: Any,
    ) -> None:
        super().__init__()
        if y_qparams is not None and (x_qparams is None or not weight.quantizes):
            raise ValueError("y_qparams is given, wanted None: without x_qparams and a weight of integers y is float32")
        with torch.inference_mode(False):  # tensors that count their changes
            beside = {} if bias is None else {"bias": bias.detach().to("cpu", torch.float32, copy=True)}
            for name, pair in (("x_qparams", x_qparams), ("y_qparams", y_qparams)):
                if pair is not None:
                    beside[name] = torch.tensor(pc.QParams(*pair), dtype=torch.float32, device="cpu")
            arrays, layer = ops.describe(weight, beside, activation=activation, absorbed=absorbed, **more)
            self._adopt(arrays, ops.read(layer.encode(), arrays))

    @classmethod
    def restored(cls, arrays: dict[str, Tensor], layer: str) -> tuple[Any, tuple[str, ...]]:
        """The layer that `read_state` found, and the names of the modules that it does the work of."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._adopt(arrays, layer)
        return made, tuple(ops.parse(layer)["absorbed"])

    def _adopt(self, arrays: dict[str, Tensor], layer: str) -> None:
        self._buffers.clear()
        self.layer, self._names = layer, ops.names(layer)
        for name in dict.fromkeys((*self._names, *ops.BESIDE)):
            self.register_buffer(name, arrays.get(name))

    @property
    def arrays(self) -> list[Tensor]:
        """The buffers, in the order in which the operator takes them."""
        buffers: dict[str, Any] = self._buffers
        return [buffers[name] for name in self._names]

    @property
    def compressed(self) -> Any:
        """The compressed weight, over the memory of the buffers. It must not be changed."""
        return ops.weight_of(self.arrays, self.layer)

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight: (N, K) or (O, I, kh, kw)."""
        return tuple(ops.parse(self.layer)["weight"]["shape"])

    @property
    def weight(self) -> Tensor:
        """For models that ask their layers for shape, dtype and device: a tensor of these, all NaN, without memory."""
        return torch.full((), math.nan, dtype=self.dtype, device=self.arrays[0].device).expand(self.shape)

    def forward(self, input: Tensor) -> Tensor:
        y = self._op(input, self.arrays, self.layer)
        return y.to(self.dtype) if input.dtype is torch.uint8 and y.is_floating_point() else y

    def extra_repr(self) -> str:
        found = ops.parse(self.layer)
        shape = "x".join(map(str, self.shape))
        what = [f"{shape}, {found['weight']['kind']}", *found["beside"]]
        if found["activation"] is not None:
            what.append(f"activation={found['activation']}")
        return ", ".join(what + [f"{name}={value}" for name, value in found.get("geometry", {}).items()])

    # A state is whole: what kind of weight it is goes with the arrays, as a tensor, since safetensors holds only these.

    def get_extra_state(self) -> Tensor:
        return torch.frombuffer(bytearray(self.layer.encode()), dtype=torch.uint8)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take the state of any kind of weight that fits this layer's shape."""
        mine = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if EXTRA not in mine:
            missing_keys.extend(prefix + name for name in (*self._names, EXTRA) if name not in mine)
            unexpected_keys.extend(prefix + name for name in mine if name not in self._names)
            return
        try:
            self._adopt(*read_state(mine, self.layer))
        except (TypeError, ValueError) as error:
            error_msgs.append(f"{prefix.rstrip('.')}: {error}")
        unexpected_keys.extend(prefix + name for name in mine if name not in (*self._names, EXTRA))


def read_state(state: dict[str, Any], like: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Arrays and description of the layer in a state, by its own names. like: the layer whose place it takes.

    FormatError or ValueError for what is none.
    """
    text = state[EXTRA]
    if not isinstance(text, Tensor) or text.dtype is not torch.uint8 or text.ndim != 1:
        raise pc.FormatError(f"{EXTRA} is no tensor of bytes")
    with torch.inference_mode(False):
        arrays = {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in state.items()
            if isinstance(value, Tensor) and name != EXTRA
        }
    layer = ops.read(bytes(text.tolist()), arrays)
    if like is not None and _place(layer) != _place(like):
        raise pc.FormatError(f"the state is of a layer {_place(layer)}, wanted {_place(like)}")
    return {name: arrays[name] for name in ops.names(layer)}, layer


def _place(layer: str) -> Any:
    """What layers have in common that can take each other's place."""
    found = ops.parse(layer)
    if "geometry" not in found:
        return found["weight"]["shape"]
    return (*found["weight"]["shape"], 1, 1)[:4], found["geometry"]


class Linear(_Layer):
    """activation(x @ weight.T + bias) by `pycompress.linear`; x [..., K] -> [..., N].

    weight: any weight of pycompress, [N, K]. bias: [N]. activation: as in `pycompress.linear`. x_qparams: scale and
    zero point by which x is quantized; without them each row is by its own range. y_qparams: the result is uint8, and
    so may x be.

    x is float32, or of another floating dtype, which is rounded to float32; the result has its dtype. There is no
    gradient. `.to` and the like leave the arrays as they are, and refuse other devices.
    """

    _op = staticmethod(ops.linear)

    def __init__(
        self,
        weight: Any,
        bias: Tensor | None = None,
        *,
        activation: Activation = None,
        x_qparams: QParamsLike | None = None,
        y_qparams: QParamsLike | None = None,
        absorbed: tuple[str, ...] = (),
    ) -> None:
        """absorbed: names of the modules that this one does the work of, for `load_`."""
        self._settle(weight, bias, activation, x_qparams, y_qparams, absorbed)

    @property
    def in_features(self) -> int:
        return self.shape[1]

    @property
    def out_features(self) -> int:
        return self.shape[0]


class Conv2d(_Layer):
    """A convolution with zeros beyond the image by `pycompress.conv2d` or `depthwise_conv2d`: x [B, C, H, W].

    weight: a `DepthwiseWeight`, a weight [O, I, kh, kw], or for a 1 x 1 kernel any weight [O, I]. padding: (top, left,
    bottom, right). The other arguments are those of `Linear`. Images in torch.channels_last are not copied, and have
    results that lie likewise; between layers of uint8 images always lie so, and the float result of a layer with uint8
    x does when `channels_last` is true.
    """

    _op = staticmethod(ops.conv2d)

    def __init__(
        self,
        weight: Any,
        bias: Tensor | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: Activation = None,
        x_qparams: QParamsLike | None = None,
        y_qparams: QParamsLike | None = None,
        channels_last: bool = False,
        absorbed: tuple[str, ...] = (),
    ) -> None:
        geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        if not isinstance(weight, pc.DepthwiseWeight):
            geometry["groups"] = groups
        self._settle(
            weight, bias, activation, x_qparams, y_qparams, absorbed, geometry=geometry, channels_last=channels_last
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return (*super().shape, 1, 1)[:4]

    @property
    def out_channels(self) -> int:
        return self.shape[0]

    @property
    def kernel_size(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def stride(self) -> tuple[int, ...]:
        return tuple(ops.parse(self.layer)["geometry"]["stride"])


class _Between(_Module):
    """What has scales and zero points, and no weight: `qparams`, as the operator takes them."""

    qparams: Tensor

    def __init__(self, *pairs: tuple[float, float]) -> None:
        super().__init__()
        self.register_buffer("qparams", torch.tensor(pairs, dtype=torch.float32, device="cpu"))

    def extra_repr(self) -> str:
        return ", ".join(f"({one:.4g}, {other:.4g})" for one, other in self.qparams.tolist())


class Quantize(_Between):
    """float -> uint8 as `pycompress.quantize_linear`; images in channels_last. levels: 2^bits of the result."""

    def __init__(self, qparams: QParamsLike, levels: int = 256) -> None:
        super().__init__(pc.QParams(*qparams), (0, whole("levels", levels, 2, 256) - 1))

    def forward(self, input: Tensor) -> Tensor:
        return ops.quantize(input, self.qparams)


class Dequantize(_Between):
    """uint8 -> (q - zero_point) * scale in float32, then in the dtype of the model; contiguous."""

    def __init__(self, qparams: QParamsLike) -> None:
        super().__init__(pc.QParams(*qparams))

    def forward(self, input: Tensor) -> Tensor:
        scale, zero_point = self.qparams[0]
        q = input.to(torch.float32, memory_format=torch.contiguous_format)
        return ((q - zero_point) * scale).to(self.dtype)


class Add(_Between):
    """The sum of uint8 tensors as `pycompress.add`, of shapes that broadcast. levels: the least and the highest of the
    result, by which it is clamped.
    """

    def __init__(self, a: QParamsLike, b: QParamsLike, y: QParamsLike, levels: tuple[int, int] = (0, 255)) -> None:
        super().__init__(*(pc.QParams(*pair) for pair in (a, b, y)), levels)

    def forward(self, input: Tensor, other: Tensor) -> Tensor:
        return ops.add(input, other, self.qparams)


class GlobalAveragePool2d(_Module):
    """The mean of each channel as `pycompress.global_average_pool`: uint8 [B, C, H, W] -> [B, C], or [B, C, 1, 1]."""

    def __init__(self, keepdim: bool = False) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, input: Tensor) -> Tensor:
        y = ops.global_average_pool(input)
        return y[:, :, None, None] if self.keepdim else y


class MaxPool2d(nn.MaxPool2d):
    """Max pooling that also takes uint8, by the kernels; torch's does so for small images only."""

    @classmethod
    def of(cls, pool: nn.MaxPool2d) -> MaxPool2d:
        """The same pooling. ceil_mode and indices are for floats."""
        return cls(pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.return_indices, pool.ceil_mode)

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype is not torch.uint8:
            return super().forward(input)
        names = ("kernel_size", "stride", "padding", "dilation")
        return ops.max_pool2d(input, *(ops.pair(getattr(self, name)) for name in names))
