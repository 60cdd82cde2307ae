"""Convolutions of images: depthwise, dense, and depthwise with pointwise in one call."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _arguments, _backend
from .ops import Activation, QParamsLike, _activation, _qparams
from .weights import DepthwiseWeight, Float16Weight, Float32Weight, Int8Weight, QParams, Weight

__all__ = ["conv2d", "depthwise_conv2d", "separable_conv2d"]

Array: TypeAlias = NDArray[Any]
Pair: TypeAlias = int | tuple[int, int]
Padding: TypeAlias = int | tuple[int, int] | tuple[int, int, int, int] | str

_LARGEST = 2**30

_depthwise_fast = _backend.fast("depthwise_fast")
_conv_fast = _backend.fast("conv_fast")
_separable_fast = _backend.fast("separable_fast")


def depthwise_conv2d(
    x: Array,
    weight: DepthwiseWeight,
    bias: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    activation: Activation = None,
    layout: str = "NHWC",
    x_qparams: QParamsLike | None = None,
    y_qparams: QParamsLike | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """Each channel by its own kernel: torch.nn.functional.conv2d with groups = C.

    Parameters
    ----------
    x
        [B, H, W, C], or [B, C, H, W] with layout="NCHW", which is converted once on the way in and once on the way out.
        With a float32 weight float32. With an int8 weight float32, which is quantized on the fly by the range of the
        whole tensor (by `x_qparams` where they are given); or uint8 or int8 with `x_qparams`.
    weight
        A `DepthwiseWeight` [O, 1, kh, kw]; O is a multiple of C.
    bias
        float32 [O].
    stride, dilation
        An int, or a pair (vertical, horizontal).
    padding
        An int, a pair (vertical, horizontal), (top, left, bottom, right), or "same": as TensorFlow, so that the result
        has ceil(H / stride) rows. Pixels of the padding are zeros.
    activation, x_qparams, y_qparams, out, num_threads
        As in `linear`.

    Returns
    -------
    [B, oh, ow, O] in x's layout: float32, or with uint8 or int8 x and `y_qparams` of x's dtype or of out's.

    Raises
    ------
    TypeError for a dtype; ValueError for a shape, an image smaller than the kernel, a value out of range, and for NaN
    or infinity where float32 is to be quantized. What is computed, to the bit, is in docs/exactness.md.
    """
    if not isinstance(weight, DepthwiseWeight):
        raise TypeError(f"weight is {type(weight).__name__}, wanted a DepthwiseWeight")
    if layout == "NHWC":
        y = _depthwise_fast(
            x, weight._blocks, bias, stride, padding, dilation, activation, x_qparams, y_qparams, out, num_threads
        )
        if y is not NotImplemented:
            return y  # type: ignore[no-any-return]
    outputs, _, kh, kw = weight.shape
    call = _Call(x, (kh, kw), stride, padding, dilation, layout, num_threads)
    channels = call.channels
    if (outputs % channels if channels else outputs) != 0:
        raise ValueError(
            f"x has {channels} channels and weight shape {weight.shape}, wanted a multiple of the channels as outputs"
        )
    arguments = call.arguments(weight, outputs, bias, activation, x_qparams, y_qparams, out)
    image, y = call.image(), call.result()
    _backend.kernels().depthwise(image, weight.blocks(), *arguments, call.shape, y, call.num_threads)
    return call.finish()


def conv2d(
    x: Array,
    weight: Array | Weight,
    bias: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    activation: Activation = None,
    layout: str = "NHWC",
    x_qparams: QParamsLike | None = None,
    y_qparams: QParamsLike | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """A dense convolution, as torch.nn.functional.conv2d.

    Parameters
    ----------
    x
        As in `depthwise_conv2d`: a weight of integers wants uint8, int8 or float32, which is quantized on the fly by
        the range of the whole tensor; a weight of floats wants float32.
    weight
        float32 [O, C / groups, kh, kw] or a compressed weight of this shape; or for a 1 x 1 kernel any weight as a
        matrix [O, C].
    groups
        Both channels and outputs are cut into so many parts, each with its own part of the weight.
    bias, stride, padding, dilation, activation, layout, x_qparams, y_qparams, out, num_threads
        As in `depthwise_conv2d`.

    Returns and raises as `depthwise_conv2d`; also OverflowError for a kernel with which a sum could leave int32.
    """
    if not isinstance(weight, Weight):
        if not isinstance(weight, np.ndarray):
            raise TypeError(f"weight is {type(weight).__name__}, wanted a float32 array or a compressed weight")
        weight = _arguments.array("weight", weight, _arguments.FLOAT32)
    elif weight._convolution is not None and layout == "NHWC" and weight._convolution[0] == groups:
        packed = weight._convolution[1]
        y = _conv_fast(x, packed, bias, stride, padding, dilation, activation, x_qparams, y_qparams, out, num_threads)
        if y is not NotImplemented:
            return y  # type: ignore[no-any-return]
    groups = _integer("groups", groups, 1)
    shape = weight.shape
    if len(shape) not in (2, 4) or 0 in shape[2:]:
        raise ValueError(f"weight has shape {shape}, wanted [O, C / groups, kh, kw], or [O, C] for a 1 x 1 kernel")
    outputs, inputs, kh, kw = (*shape, 1, 1)[:4]
    call = _Call(x, (kh, kw), stride, padding, dilation, layout, num_threads)
    if inputs * groups != call.channels:
        raise ValueError(
            f"x has {call.channels} channels and weight shape {shape}, wanted {inputs * groups} channels for {groups} "
            "groups"
        )
    if outputs % groups:
        raise ValueError(f"weight has shape {shape}, wanted a multiple of {groups} groups as outputs")
    arguments = call.arguments(weight, outputs, bias, activation, x_qparams, y_qparams, out)
    packed = _packed(weight, groups)
    image, y = call.image(), call.result()
    _backend.kernels().conv(image, packed, *arguments, call.shape, y, call.num_threads)
    return call.finish()


def separable_conv2d(
    x: Array,
    depthwise: DepthwiseWeight,
    pointwise: Array | Weight,
    depthwise_bias: Array | None = None,
    pointwise_bias: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    depthwise_activation: Activation = None,
    activation: Activation = None,
    mid_qparams: QParamsLike | None = None,
    layout: str = "NHWC",
    x_qparams: QParamsLike | None = None,
    y_qparams: QParamsLike | None = None,
    out: Array | None = None,
    num_threads: int | None = None,
) -> Array:
    """MobileNet's layer: a depthwise convolution, then a 1 x 1 one.

    The same as

        mid = depthwise_conv2d(x, depthwise, depthwise_bias, stride=..., activation=depthwise_activation,
                               x_qparams=x_qparams, y_qparams=mid_qparams where x is quantized)
        y = conv2d(mid, pointwise, pointwise_bias, activation=activation, x_qparams=mid_qparams, y_qparams=y_qparams)

    to the bit where mid or the sums are integers. Where it pays, and mid need not be known whole, mid is never in
    memory: a few rows of it at a time are multiplied while they are in the cache. A `pointwise` weight of integers
    without `mid_qparams` does need all of mid, for its range.

    Parameters
    ----------
    depthwise
        A `DepthwiseWeight` [M, 1, kh, kw].
    pointwise
        Any weight that `linear` takes, [N, M]; or [N, M, 1, 1].
    mid_qparams
        Scale and zero point of what lies between.

    The others are as in `depthwise_conv2d`; so are the result and what is raised.
    """
    if not isinstance(depthwise, DepthwiseWeight):
        raise TypeError(f"depthwise is {type(depthwise).__name__}, wanted a DepthwiseWeight")
    if layout == "NHWC" and isinstance(pointwise, Weight) and pointwise._convolution is not None:
        y = _separable_fast(
            x, depthwise._blocks, pointwise._convolution[1], depthwise_bias, pointwise_bias, stride, padding, dilation,
            depthwise_activation, activation, x_qparams, mid_qparams, y_qparams, out, num_threads,
        )  # fmt: skip
        if y is not NotImplemented:
            return y  # type: ignore[no-any-return]
    stored = {f"depthwise.{name}": a for name, a in depthwise._arrays().items()}
    _arguments.apart(out, {"x": x, **stored, "depthwise_bias": depthwise_bias})
    quantized = np.asarray(x).dtype in _arguments.EIGHT_BITS
    if isinstance(pointwise, Weight) and pointwise.quantizes and mid_qparams is None:
        fuses = False  # the range of all that lies between is wanted first
    else:
        fuses = _backend.NAME == "native" and (not quantized or depthwise.quantizes)
    if fuses:
        return _fused(
            x, depthwise, pointwise, depthwise_bias, pointwise_bias, stride, padding, dilation, depthwise_activation,
            activation, mid_qparams, layout, x_qparams, y_qparams, out, num_threads,
        )  # fmt: skip
    mid = depthwise_conv2d(
        x,
        depthwise,
        depthwise_bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        activation=depthwise_activation,
        layout=layout,
        x_qparams=x_qparams,
        y_qparams=mid_qparams if quantized else None,
        num_threads=num_threads,
    )
    return conv2d(
        mid,
        pointwise,
        pointwise_bias,
        activation=activation,
        layout=layout,
        x_qparams=mid_qparams,
        y_qparams=y_qparams,
        out=out,
        num_threads=num_threads,
    )


def _fused(
    x: Array,
    depthwise: DepthwiseWeight,
    pointwise: Array | Weight,
    depthwise_bias: Array | None,
    pointwise_bias: Array | None,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    depthwise_activation: Activation,
    activation: Activation,
    mid_qparams: QParamsLike | None,
    layout: str,
    x_qparams: QParamsLike | None,
    y_qparams: QParamsLike | None,
    out: Array | None,
    num_threads: int | None,
) -> Array:
    """separable_conv2d by the kernel that never has all of what lies between."""
    outputs, _, kh, kw = depthwise.shape
    first = _Call(x, (kh, kw), stride, padding, dilation, layout, num_threads)
    if (outputs % first.channels if first.channels else outputs) != 0:
        raise ValueError(
            f"x has {first.channels} channels and depthwise shape {depthwise.shape}, wanted a multiple of the channels "
            "as outputs"
        )
    quantized = first.x.dtype != _arguments.FLOAT32
    if not isinstance(pointwise, Weight):
        if not isinstance(pointwise, np.ndarray):
            raise TypeError(f"pointwise is {type(pointwise).__name__}, wanted a float32 array or a compressed weight")
        pointwise = _arguments.array("pointwise", pointwise, _arguments.FLOAT32)
    shape = pointwise.shape
    if len(shape) not in (2, 4) or shape[1] != outputs or shape[2:] not in ((), (1, 1)):
        raise ValueError(f"pointwise has shape {shape}, wanted [N, {outputs}] or [N, {outputs}, 1, 1]")
    between = first.between(depthwise, outputs, depthwise_bias, depthwise_activation, x_qparams)
    if mid_qparams is not None:
        if not (isinstance(pointwise, Weight) and pointwise.quantizes):
            raise ValueError(
                "mid_qparams are given, wanted None: with a pointwise weight of floats nothing is quantized"
            )
        mid_qparams = _qparams("mid_qparams", mid_qparams, first.x.dtype if quantized else np.dtype(np.uint8))
        if not quantized and mid_qparams.scale <= 2.0**-128:
            raise ValueError(f"mid_qparams: scale is {mid_qparams.scale}, wanted more than 2**-128, to have an inverse")
    if y_qparams is not None and (not quantized or mid_qparams is None):
        raise ValueError("y_qparams are given, wanted None: what lies between is float32, and has a float32 result")
    last = first.arguments(pointwise, shape[0], pointwise_bias, activation, None, y_qparams, out, behind=depthwise)
    handle = _packed(pointwise, 1).of_group(0)
    image, y = first.image(), first.result()
    _backend.kernels().separable(
        image, depthwise.blocks(), handle, between[0], last[0], between[1], last[1], between[2], mid_qparams, last[3],
        first.shape, y, first.num_threads,
    )  # fmt: skip
    return first.finish()


def _packed(weight: Array | Weight, groups: int) -> Any:
    """What the kernels take: for each group a packed matrix [O / groups, kh * kw * C / groups]."""
    kernels = _backend.kernels()
    kh, kw = (*weight.shape, 1, 1)[2:4]
    if not isinstance(weight, Weight):
        return kernels.pack_conv([kernels.pack_f32(m) for m in _matrices(weight, groups)], kh, kw, [])
    kept = weight._convolution
    if kept is not None and kept[0] == groups:
        return kept[1]
    if len(weight.shape) == 2 and groups == 1:
        handles = [weight.packed()]
    elif isinstance(weight, Int8Weight):
        scales = np.split(weight.scale, groups)
        parts = [Int8Weight(m, s) for m, s in zip(_matrices(weight.q, groups), scales, strict=True)]
        handles = [part.packed() for part in parts]
    elif isinstance(weight, Float16Weight | Float32Weight):
        handles = [type(weight)(m).packed() for m in _matrices(weight.w, groups)]
    else:
        raise TypeError(
            f"weight is {weight!r}, wanted a float32 array, an Int8Weight, a Float16Weight or a Float32Weight; a 1 x 1 "
            "kernel in one group takes any weight as a matrix"
        )
    packed = kernels.pack_conv(handles, kh, kw, list(weight._arrays().values()))
    weight._convolution = groups, packed
    return packed


def _matrices(w: Array, groups: int) -> list[Array]:
    if w.ndim == 4:
        w = w.transpose(0, 2, 3, 1).reshape(len(w), w.shape[1] * w.shape[2] * w.shape[3])
    return np.split(_arguments.contiguous(w), groups)


def _integer(name: str, value: Any, least: int) -> int:
    try:
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, wanted an int") from None
    if not least <= n <= _LARGEST:
        raise ValueError(f"{name} is {value!r}, wanted at least {least}")
    return n


def _integers(name: str, value: Any, least: int, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """A tuple of one of `lengths`; an int stands for a pair of itself."""
    values = tuple(value) if isinstance(value, tuple | list | np.ndarray) else (value, value)
    try:
        result = tuple(operator.index(v) for v in values)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, wanted an int or a tuple of ints") from None
    if len(result) not in lengths:
        raise ValueError(f"{name} is {value!r}, wanted an int or a tuple of {' or '.join(map(str, lengths))}")
    if any(not least <= v <= _LARGEST for v in result):
        raise ValueError(f"{name} is {value!r}, wanted at least {least}")
    return result


def _padding(
    value: Any, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right)."""
    if isinstance(value, str):
        if value != "same":
            raise ValueError(f"padding is {value!r}, wanted ints or 'same'")
        before, after = [], []
        for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return before[0], before[1], after[0], after[1]
    values = _integers("padding", value, 0, (2, 4))
    return (*values, *values) if len(values) == 2 else values  # type: ignore[return-value]


class _Call:
    """One convolution with its arguments checked: an image in, an image out."""

    def __init__(
        self, x: Any, kernel: tuple[int, int], stride: Any, padding: Any, dilation: Any, layout: str, num_threads: Any
    ) -> None:
        if layout not in ("NHWC", "NCHW"):
            raise ValueError(f"layout is {layout!r}, wanted 'NHWC' or 'NCHW'")
        self.nchw = layout == "NCHW"
        self.x = _arguments.array("x", x, _arguments.FLOAT32, *_arguments.EIGHT_BITS)
        if self.x.ndim != 4:
            raise ValueError(f"x has shape {self.x.shape}, wanted [B, H, W, C], or [B, C, H, W] with layout='NCHW'")
        self.batch, height, width, self.channels = (
            (self.x.shape[0], *self.x.shape[2:], self.x.shape[1]) if self.nchw else self.x.shape
        )
        self.size = height, width
        strides = _integers("stride", stride, 1, (2,))
        dilations = _integers("dilation", dilation, 1, (2,))
        pads = _padding(padding, self.size, kernel, strides, dilations)
        self.shape = (*strides, *dilations, *pads)
        result = []
        for n, before, after, k, s, d in zip(self.size, pads[:2], pads[2:], kernel, strides, dilations, strict=True):
            room = n + before + after - ((k - 1) * d + 1)
            if room < 0:
                raise ValueError(
                    f"x has shape {self.x.shape} and the padding is {pads}, wanted an image no smaller than the "
                    f"kernel of {kernel[0]} x {kernel[1]} with dilation {dilations}"
                )
            result.append(room // s + 1)
        self.result_size = result[0], result[1]
        self.num_threads = _arguments.num_threads(num_threads)

    def arguments(
        self,
        weight: Array | Weight,
        outputs: int,
        bias: Any,
        activation: Activation,
        x_qparams: QParamsLike | None,
        y_qparams: QParamsLike | None,
        out: Any,
        behind: Weight | None = None,
    ) -> tuple[Array | None, tuple[int, float, float], Any, Any]:
        """bias, activation and qparams as kernels take them; `out` is ready for `result`.

        behind: x is what this weight makes of it, and has been checked with it.
        """
        x = self.x
        if behind is None:
            x_qparams = self._x_qparams(weight, x_qparams, y_qparams)
        if y_qparams is not None and x.dtype == _arguments.FLOAT32:
            raise ValueError("y_qparams is given with float32 x, wanted None: a float32 x has a float32 result")
        bias = self._bias(bias, outputs)
        dtypes: tuple[np.dtype[Any], ...] = (_arguments.FLOAT32,)
        if y_qparams is not None:
            dtypes = (x.dtype, *(dtype for dtype in _arguments.EIGHT_BITS if dtype != x.dtype))
        nhwc = (self.batch, *self.result_size, outputs)
        shape = (self.batch, outputs, *self.result_size) if self.nchw else nhwc
        stored = (
            {f"weight.{name}": a for name, a in weight._arrays().items()}
            if isinstance(weight, Weight)
            else {"weight": weight}
        )
        self.out = out
        self.written = _arguments.output(out, shape, dtypes, {"x": x, **stored, "bias": bias})
        self.y = np.empty(nhwc, self.written.dtype) if self.nchw else self.written
        if y_qparams is not None:
            y_qparams = _qparams("y_qparams", y_qparams, self.y.dtype)
        return bias, _activation(activation), x_qparams, y_qparams

    def between(
        self, weight: Weight, outputs: int, bias: Any, activation: Activation, x_qparams: QParamsLike | None
    ) -> tuple[Array | None, tuple[int, float, float], QParams | None]:
        """The same for a convolution whose result only the kernel sees."""
        x_qparams = self._x_qparams(weight, x_qparams, None)
        return self._bias(bias, outputs, "depthwise_bias"), _activation(activation), x_qparams

    def _x_qparams(self, weight: Array | Weight, x_qparams: QParamsLike | None, y_qparams: Any) -> QParams | None:
        x, quantized = self.x, self.x.dtype != _arguments.FLOAT32
        if not (isinstance(weight, Weight) and weight.quantizes):
            _arguments.array("x", x, _arguments.FLOAT32)
            if x_qparams is not None or y_qparams is not None:
                raise ValueError(
                    "x_qparams or y_qparams is given, wanted None: with a weight of floats nothing is quantized"
                )
        if x_qparams is None:
            if quantized:
                raise ValueError(f"x_qparams is None, wanted scale and zero point of x, which is an array of {x.dtype}")
            return None
        checked = _qparams("x_qparams", x_qparams, x.dtype if quantized else np.dtype(np.uint8))
        if not quantized and checked.scale <= 2.0**-128:
            raise ValueError(f"x_qparams: scale is {checked.scale}, wanted more than 2**-128, to have an inverse")
        return checked

    def _bias(self, bias: Any, outputs: int, name: str = "bias") -> Array | None:
        if bias is None:
            return None
        bias = _arguments.array(name, bias, _arguments.FLOAT32)
        if bias.shape != (outputs,):
            raise ValueError(f"{name} has shape {bias.shape}, wanted {(outputs,)}")
        return _arguments.contiguous(bias)

    def image(self) -> Array:
        """x, NHWC, as kernels want it."""
        x = _arguments.contiguous(self.x)
        if not self.nchw:
            return x
        image = np.empty((self.batch, *self.size, self.channels), x.dtype)
        rows, columns = self.channels, self.size[0] * self.size[1]
        _backend.kernels().transpose(x, self.batch, rows, columns, image, self.num_threads)
        return image

    def result(self) -> Array:
        """Where the kernel writes, NHWC."""
        return self.y

    def finish(self) -> Array:
        """What the caller gets."""
        if self.nchw:
            rows, columns = self.result_size[0] * self.result_size[1], self.y.shape[3]
            _backend.kernels().transpose(self.y, self.batch, rows, columns, self.written, self.num_threads)
        return _arguments.written(self.written, self.out)
