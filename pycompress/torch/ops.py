"""The operators of `torch.ops.pycompress`, and functions of the same names by which modules call them.

    linear(Tensor x, Tensor[] arrays, str layer) -> Tensor
    conv2d(Tensor x, Tensor[] arrays, str layer) -> Tensor
    quantize(Tensor x, Tensor qparams) -> Tensor
    add(Tensor a, Tensor b, Tensor qparams) -> Tensor
    global_average_pool(Tensor x) -> Tensor
    max_pool2d(Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation) -> Tensor

`qparams` are rows of a scale and a zero point; one more holds the lowest and the highest level of the result. `layer`
is JSON: the kind of weight, the activation, the geometry; `arrays` the tensors that it names (`names`), as they are
stored. So `torch.compile` sees plain tensors, and `torch.export` writes them into its file; the weight that is packed
for this CPU is made at the first call, and kept as long as its first tensor lives (`ready`).
"""

from __future__ import annotations

import functools
import json
import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pycompress as pc
from pycompress import _backend
from pycompress.io import schema
from pycompress.ops import Activation
from pycompress.ops import _activation as check_activation

__all__ = [
    "add",
    "clamp_of",
    "conv2d",
    "describe",
    "global_average_pool",
    "linear",
    "max_pool2d",
    "names",
    "pair",
    "parse",
    "quantize",
    "read",
    "weight_of",
]

FLOAT32, UINT8 = torch.float32, torch.uint8
BESIDE = ("bias", "x_qparams", "y_qparams")

UNDER = "weight"  # the name of the weight, as docs/files.md has it: its arrays are weight/q, weight/scale, ...

parse = functools.cache(json.loads)


@functools.cache
def names(layer: str) -> tuple[str, ...]:
    """What the arrays of a layer are, in their order: those of the weight, bias, x_qparams, y_qparams."""
    found = parse(layer)
    return (*schema.tensors_of(UNDER, found["weight"]), *found["beside"])


def describe(weight: Any, beside: dict[str, Tensor], **more: Any) -> tuple[dict[str, Tensor], str]:
    """The arrays of a layer by name, and its description. beside: float32 tensors, by names of BESIDE."""
    stored, arrays = schema.describe(UNDER, weight)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}  # torch knows no read-only
    return tensors | beside, json.dumps({"weight": stored, "beside": list(beside), **more})


def read(text: bytes, arrays: Mapping[str, Tensor]) -> str:
    """A description from a file, with the arrays that it is to go with. FormatError for anything else."""
    try:
        layer = text.decode()
        found = parse(layer)
        keys = {"weight", "beside", "activation", "absorbed"}
        if not isinstance(found, dict) or set(found) - {"geometry", "channels_last"} != keys:
            raise ValueError(f"it has the keys {list(found)}")
        if not (set(found["beside"]) <= set(BESIDE) and all(isinstance(name, str) for name in found["absorbed"])):
            raise ValueError(f"it has beside the weight {found['beside']}, and absorbed {found['absorbed']}")
        present = {name: arrays[name] for name in arrays if name.startswith(f"{UNDER}/")}
        schema.parse(schema.metadata({UNDER: found["weight"]}, {}), present)
        missing = [name for name in names(layer) if name not in arrays]
        if missing:
            raise ValueError(f"{missing[0]!r} is missing")
        made = _Ready([arrays[name] for name in names(layer)], layer)
        check_activation(made.arguments["activation"])
        bias, outputs = made.arguments["bias"], made.weight.shape[:1]
        if bias is not None and (bias.shape != outputs or bias.dtype != np.float32):
            raise ValueError(f"bias has shape {bias.shape} and is {bias.dtype}, wanted {outputs} in float32")
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise pc.FormatError(f"no layer of pycompress: {error}") from None
    return layer


def weight_of(arrays: Sequence[Tensor], layer: str) -> Any:
    """The weight in arrays; it shares their memory. FormatError (a ValueError) for what is none."""
    # detach: an array keeps the tensor that it was made of, and that one must not be the key of `_kept`.
    found = {name: array.detach().numpy() for name, array in zip(names(layer), arrays, strict=True)}
    return schema.rebuild(UNDER, parse(layer)["weight"], found.__getitem__)


class _Ready:
    """A layer whose arrays have been checked. It holds for these tensors, as long as nobody changes them."""

    __slots__ = ("arguments", "ids", "key", "layer", "rest", "versions", "weight", "x_qparams", "y_qparams")

    def __init__(self, arrays: Sequence[Tensor], layer: str) -> None:
        found = parse(layer)
        beside = {name: array.detach() for name, array in zip(names(layer), arrays, strict=True)}
        self.weight = weight_of(arrays, layer)
        self.x_qparams, self.y_qparams = (
            pc.QParams(*qparams_of(beside[name].tolist())) if name in beside else None
            for name in ("x_qparams", "y_qparams")
        )
        given = {"activation": found["activation"], **found.get("geometry", {})}
        self.arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        # A copy: torch moves memory that it shares with other processes.
        self.arguments["bias"] = beside["bias"].numpy().copy() if "bias" in beside else None
        self.arguments |= {"x_qparams": self.x_qparams, "y_qparams": self.y_qparams}
        self.layer, self.versions = layer, _versions(arrays)
        self.ids, self.rest = tuple(map(id, arrays)), arrays[1:]  # kept, so that no other tensor gets their ids
        key = id(arrays[0])
        self.key = weakref.ref(arrays[0], lambda _: _kept.pop(key, None))


_kept: dict[int, _Ready] = {}


def ready(arrays: Sequence[Tensor], layer: str) -> _Ready:
    """The layer of these tensors, packed at the first call, and anew when one of them was changed in place."""
    found = _kept.get(id(arrays[0]))
    if (
        found is not None
        and found.layer == layer
        and found.ids == tuple(map(id, arrays))
        and (not found.versions or found.versions == tuple(map(_version, arrays)))
    ):
        return found
    made = _kept[id(arrays[0])] = _Ready(arrays, layer)
    return made


_version = operator.attrgetter("_version")


def _versions(arrays: Sequence[Tensor]) -> tuple[int, ...]:
    try:
        return tuple(map(_version, arrays))
    except RuntimeError:  # made under inference_mode, which does not count changes
        return ()


def qparams_of(pair: Sequence[float]) -> tuple[float, int]:
    """Scale and zero point, of a buffer that holds floats."""
    scale, zero_point = pair
    return scale, int(zero_point)


def clamp_of(levels: Sequence[float], qparams: Sequence[float]) -> Activation:
    """The activation that leaves the lowest to the highest of these levels of uint8."""
    (low, high), (scale, zero_point) = levels, qparams
    return None if (low, high) == (0, 255) else ((low - zero_point) * scale, (high - zero_point) * scale)


def _threads() -> int:
    """As many as both torch and pycompress allow."""
    ours, theirs = pc.get_num_threads(), torch.get_num_threads()
    return ours if ours < theirs else theirs


def _input(x: Tensor) -> Tensor:
    """x in a type that kernels take. Other floats are rounded to float32; what is returned has their type again."""
    if x.requires_grad:
        x = x.detach()
    dtype = x.dtype
    if dtype is FLOAT32 or dtype is UINT8:
        return x
    if not x.is_floating_point():
        raise TypeError(f"x is a tensor of {x.dtype}, wanted a floating dtype, or uint8 between layers of integers")
    return x.float()


def _quantized(x: Any, layer: _Ready) -> Any:
    """A layer with a quantized result takes its x quantized."""
    if layer.y_qparams is None or x.dtype == np.uint8:
        return x
    scale, zero_point = layer.x_qparams  # type: ignore[misc]
    return pc.quantize_linear(x, np.float32(scale), np.uint8(zero_point))


def run_linear(x: Tensor, arrays: Sequence[Tensor], layer: str) -> Tensor:
    """[..., K] -> [..., N]; memory is shared with NumPy on both sides."""
    now, given = ready(arrays, layer), _input(x)
    y = pc.linear(_quantized(given.numpy(), now), now.weight, num_threads=_threads(), **now.arguments)
    result = torch.from_numpy(y)
    return result if given.dtype is x.dtype or now.y_qparams is not None else result.to(x.dtype)


def _in_channels_last(x: Tensor) -> bool:
    """Whether an image lies in memory as [B, H, W, C], and only so. Between layers of integers it always does."""
    return x.dtype is torch.uint8 or (x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous())


def _result_in_channels_last(x: Tensor, found: Any) -> bool:
    """A float result lies as a float x does; a layer that ends a chain of integers knows it from its calibration."""
    if "y_qparams" in found["beside"]:
        return True
    return bool(found["channels_last"]) if x.dtype is torch.uint8 else _in_channels_last(x)


def _nhwc(x: Tensor, change: Callable[[Any], Any]) -> Any:
    """An image as an array [B, H, W, C], each value changed; that may make it smaller, and so comes first."""
    if _in_channels_last(x):
        return change(x.permute(0, 2, 3, 1).numpy())
    return _turned(change(x.contiguous().numpy()), 1)


def _image(y: Any) -> Tensor:
    """The tensor of [B, H, W, C], over its memory."""
    return torch.from_numpy(y).permute(0, 3, 1, 2)


def _turned(image: Any, channels: int) -> Any:
    """Between NCHW and NHWC. channels: the axis where they are, 1 or 3."""
    b, c = len(image), image.shape[channels]
    size = image.shape[2:] if channels == 1 else image.shape[1:3]
    rows, columns = (c, size[0] * size[1]) if channels == 1 else (size[0] * size[1], c)
    turned = np.empty((b, *size, c) if channels == 1 else (b, c, *size), image.dtype)
    _backend.kernels().transpose(image, b, rows, columns, turned, _threads())
    return turned


def run_conv2d(x: Tensor, arrays: Sequence[Tensor], layer: str) -> Tensor:
    """[B, C, H, W] -> [B, O, oh, ow]; without a copy where x is in channels_last."""
    if x.ndim == 3:
        return run_conv2d(x[None], arrays, layer)[0]
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, wanted [B, C, H, W]")
    now, given = ready(arrays, layer), _input(x)
    last = _result_in_channels_last(x, parse(layer))
    if last or _in_channels_last(given):
        image, layout = _nhwc(given, lambda array: _quantized(array, now)), "NHWC"
    else:
        image, layout = _quantized(given.numpy(), now), "NCHW"  # the kernels transpose it, both ways
    run: Any = pc.depthwise_conv2d if isinstance(now.weight, pc.DepthwiseWeight) else pc.conv2d
    y = run(image, now.weight, layout=layout, num_threads=_threads(), **now.arguments)
    if layout == "NHWC" and not last:
        y = _turned(y, 3)
    result = _image(y) if last else torch.from_numpy(y)
    return result if given.dtype is x.dtype or now.y_qparams is not None else result.to(x.dtype)


def pair(value: int | Sequence[int]) -> list[int]:
    """As torch's modules have sizes."""
    return [value, value] if isinstance(value, int) else list(value)


def run_quantize(x: Tensor, qparams: Tensor) -> Tensor:
    """float -> uint8, images in channels_last."""
    pair, (_, high) = qparams.tolist()
    scale, zero_point = qparams_of(pair)

    def quantized(array: Any) -> Any:
        q = pc.quantize_linear(array, np.float32(scale), np.uint8(zero_point))
        return q if high == 255 else np.minimum(q, np.uint8(high), out=q)

    given = _input(x)
    return _image(_nhwc(given, quantized)) if x.ndim == 4 else torch.from_numpy(quantized(given.numpy()))


def run_add(a: Tensor, b: Tensor, qparams: Tensor) -> Tensor:
    """uint8, of shapes that broadcast; images in channels_last."""
    of_a, of_b, of_y, levels = qparams.tolist()
    if a.shape != b.shape:
        a, b = torch.broadcast_tensors(a, b)
    image = a.ndim == 4
    arrays = ((x.permute(0, 2, 3, 1) if image else x).numpy() for x in (a, b))
    y = pc.add(
        *arrays,
        a_qparams=qparams_of(of_a),
        b_qparams=qparams_of(of_b),
        y_qparams=qparams_of(of_y),
        activation=clamp_of(levels, of_y),
        num_threads=_threads(),
    )
    return _image(y) if image else torch.from_numpy(y)


def run_global_average_pool(x: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> [B, C] of the same scale and zero point."""
    if x.ndim != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, wanted [B, C, H, W]")
    y = pc.global_average_pool(x.permute(0, 2, 3, 1).numpy(), num_threads=_threads())
    return torch.from_numpy(y.reshape(y.shape[0], y.shape[3]))


def run_max_pool2d(x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> Tensor:
    """uint8 images, the result in channels_last."""
    if x.ndim == 3:
        return run_max_pool2d(x[None], kernel, stride, padding, dilation)[0]
    window: Any = {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation)}
    image: Any = x.permute(0, 2, 3, 1).numpy()
    y = pc.max_pool2d(image, (kernel[0], kernel[1]), **window, num_threads=_threads())
    return _image(y)


# ---- for the compiler: shapes alone


def _result_dtype(x: Tensor, found: Any) -> torch.dtype:
    if "y_qparams" in found["beside"]:
        return torch.uint8
    return torch.float32 if x.dtype is torch.uint8 else x.dtype


def _fake_linear(x: Tensor, arrays: Sequence[Tensor], layer: str) -> Tensor:
    found = parse(layer)
    n, k = found["weight"]["shape"]
    torch._check(x.shape[-1] == k, lambda: f"x has shape {tuple(x.shape)}, wanted [..., {k}]")
    return x.new_empty((*x.shape[:-1], n), dtype=_result_dtype(x, found))


def _fake_conv2d(x: Tensor, arrays: Sequence[Tensor], layer: str) -> Tensor:
    if x.ndim == 3:
        return _fake_conv2d(x[None], arrays, layer)[0]
    found = parse(layer)
    geometry, (outputs, _, *kernel) = found["geometry"], (*found["weight"]["shape"], 1, 1)[:4]
    top, left, bottom, right = geometry["padding"]
    sizes = _sizes(x, kernel, geometry["stride"], (top + bottom, left + right), geometry["dilation"])
    dtype = _result_dtype(x, found)
    if _result_in_channels_last(x, found):
        return _empty_image(x, (x.shape[0], outputs, *sizes), dtype)
    return x.new_empty((x.shape[0], outputs, *sizes), dtype=dtype)


def _fake_quantize(x: Tensor, qparams: Tensor) -> Tensor:
    return _empty_image(x, x.shape) if x.ndim == 4 else x.new_empty(x.shape, dtype=torch.uint8)


def _fake_add(a: Tensor, b: Tensor, qparams: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return _empty_image(a, shape) if len(shape) == 4 else a.new_empty(shape)


def _fake_global_average_pool(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[:2])


def _fake_max_pool2d(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    if x.ndim == 3:
        return _fake_max_pool2d(x[None], kernel, stride, padding, dilation)[0]
    sizes = _sizes(x, kernel, stride, [2 * pad for pad in padding], dilation)
    return _empty_image(x, (*x.shape[:2], *sizes))


def _empty_image(x: Tensor, shape: Sequence[Any], dtype: torch.dtype = torch.uint8) -> Tensor:
    """[B, C, H, W] in channels_last."""
    b, c, h, w = shape
    return x.new_empty((b, h, w, c), dtype=dtype).permute(0, 3, 1, 2)


def _sizes(x: Tensor, kernel: Any, stride: Any, pads: Any, dilation: Any) -> list[Any]:
    """Height and width of the result."""
    window = zip(x.shape[2:], kernel, stride, pads, dilation, strict=True)
    return [(size + pad - (k - 1) * d - 1) // s + 1 for size, k, s, pad, d in window]


# ---- registration

_library = torch.library.Library("pycompress", "FRAGMENT")


def _no_gradient(context: Any, gradient: Tensor) -> Any:
    raise RuntimeError(
        "layers of pycompress are for inference and have no gradient: train with pycompress.qat, or detach their result"
    )


_is_compiling, _is_tracing = torch.compiler.is_compiling, torch.jit.is_tracing
_modes = torch._C._len_torch_dispatch_stack


def _register(
    name: str, arguments: str, run: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Make an operator. Returned is what calls it: `run` itself where nobody wants to see the operator."""
    # The result's strides follow those of x: the compiler must not change them.
    _library.define(f"{name}({arguments}) -> Tensor", tags=(torch.Tag.needs_fixed_stride_order,))
    _library.impl(name, run, "CPU")
    torch.library.register_fake(f"pycompress::{name}", fake, lib=_library)
    torch.library.register_autograd(f"pycompress::{name}", _no_gradient, lib=_library)
    operator = getattr(torch.ops.pycompress, name).default

    def call(x: Tensor, *more: Any) -> Tensor:
        if (
            _is_compiling()
            or type(x) is not Tensor
            or not x.is_cpu
            or (x.requires_grad and torch.is_grad_enabled())
            or _modes()
            or _is_tracing()
        ):
            return operator(x, *more)
        return run(x, *more)  # without the dispatcher, which takes longer than a small x

    return call


_LAYER = "Tensor x, Tensor[] arrays, str layer"
_POOL = "Tensor x, int[] kernel, int[] stride, int[] padding, int[] dilation"
linear = _register("linear", _LAYER, run_linear, _fake_linear)
conv2d = _register("conv2d", _LAYER, run_conv2d, _fake_conv2d)
quantize = _register("quantize", "Tensor x, Tensor qparams", run_quantize, _fake_quantize)
add = _register("add", "Tensor a, Tensor b, Tensor qparams", run_add, _fake_add)
global_average_pool = _register("global_average_pool", "Tensor x", run_global_average_pool, _fake_global_average_pool)
max_pool2d = _register("max_pool2d", _POOL, run_max_pool2d, _fake_max_pool2d)
