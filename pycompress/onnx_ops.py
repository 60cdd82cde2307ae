"""ONNX operators, exactly as the specification defines them: NumPy arrays in and out.

The 8-bit types run in the kernels. QuantizeLinear and DequantizeLinear know more types and blocked scales; those run in
NumPy, with types that NumPy lacks (int4, float8, ...) as arrays of the ml_dtypes package.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _arguments, _backend
from .weights import Int8Weight

__all__ = [
    "dequantize_linear",
    "dynamic_quantize_linear",
    "matmul_integer",
    "qlinear_matmul",
    "quantize_linear",
]

Array: TypeAlias = NDArray[Any]

_EIGHT_BITS = _arguments.EIGHT_BITS
_FLOAT32 = _arguments.FLOAT32
_FLOAT16 = np.dtype(np.float16)
_INT32 = np.dtype(np.int32)
# Quantized types beside uint8 and int8, by name: most belong to ml_dtypes, which only who has such arrays needs.
_OTHER_INTEGERS = ("uint16", "int16", "uint4", "int4", "uint2", "int2")
_FLOATS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")


# ---- QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear


def quantize_linear(x: Array, scale: Array | float, zero_point: Array | int | None, *, axis: int = 1) -> Array:
    """ONNX QuantizeLinear: y = saturate(round_half_even(x / scale) + zero_point).

    Parameters
    ----------
    x
        float32, float16 or int32, of any shape.
    scale
        float32 (or x's dtype): one number; [x.shape[axis]], one for each slice along `axis`; or of x's rank with fewer
        elements along `axis`, one for each block of ceil(x.shape[axis] / scale.shape[axis]).
    zero_point
        Of scale's shape and of the result's dtype: uint8 or int8, and, in NumPy, the other types of ONNX (uint16, int16
        and those of ml_dtypes: uint4, int4, uint2, int2, float8, float4). An int means uint8, None zeros of uint8.

    Raises TypeError for a dtype, ValueError for a shape, a scale that is not positive and finite, or NaN in x.
    Infinities saturate.
    """
    x = _arguments.array("x", x, _FLOAT32, _FLOAT16, _INT32)
    scale = _scale("scale", scale)
    if zero_point is None:
        zero_point = np.zeros(scale.shape, np.uint8)
    elif isinstance(zero_point, int):
        zero_point = _as_integer("zero_point", zero_point, np.dtype(np.uint8))
    zero_point = np.asarray(zero_point)
    form = _form(x.shape, scale, zero_point, axis)
    if zero_point.dtype in _EIGHT_BITS and x.dtype == _FLOAT32 and form is not None:
        y = np.empty(x.shape, zero_point.dtype)
        scales, zero_points = scale.reshape(-1).astype(np.float32), zero_point.reshape(-1).astype(np.int32)
        _backend.kernels().quantize_linear(
            _arguments.contiguous(x).reshape(form), scales, zero_points, y.reshape(form), None
        )
        return y
    low, high, is_float = _range("zero_point", zero_point.dtype)
    spread_scale, spread_zero_point = (_spread(a, x.shape, axis) for a in (scale, zero_point))
    if x.dtype == _INT32:
        x = x.astype(np.float32)
    if np.isnan(x).any():
        raise ValueError("x holds NaN, which can't be quantized")
    with np.errstate(over="ignore"):
        quotient = (x / spread_scale.astype(x.dtype)).astype(np.float32)
    if is_float:
        return np.asarray(np.clip(quotient + spread_zero_point.astype(np.float32), low, high).astype(zero_point.dtype))
    # Clamped before the zero point is added, so that no integer overflows; the bounds are integers, so it is the same.
    zero = spread_zero_point.astype(np.int32)
    level = np.clip(np.rint(quotient), low - zero, high - zero).astype(np.int32) + zero
    return np.asarray(level.astype(zero_point.dtype))


def dequantize_linear(x: Array, scale: Array | float, zero_point: Array | int | None = None, *, axis: int = 1) -> Array:
    """ONNX DequantizeLinear: y = (x - zero_point) * scale, of scale's dtype.

    Parameters
    ----------
    x
        uint8, int8 or int32 of any shape; and, in NumPy, the other types that `quantize_linear` gives.
    scale
        float32 or float16; shapes as in `quantize_linear`.
    zero_point
        Of x's dtype and scale's shape. None for zeros.

    Raises TypeError for a dtype, ValueError for a shape or a scale that is not positive and finite.
    """
    x = np.asarray(x)
    native = x.dtype in (*_EIGHT_BITS, _INT32)
    if not native:
        _range("x", x.dtype)
    scale = _scale("scale", scale)
    zero_point = (
        np.zeros(scale.shape, x.dtype) if zero_point is None else _as_integer("zero_point", zero_point, x.dtype)
    )
    form = _form(x.shape, scale, zero_point, axis)
    if native and scale.dtype == _FLOAT32 and form is not None:
        y = np.empty(x.shape, np.float32)
        scales, zero_points = scale.reshape(-1).astype(np.float32), zero_point.reshape(-1).astype(np.int32)
        _backend.kernels().dequantize_linear(
            _arguments.contiguous(x).reshape(form), scales, zero_points, y.reshape(form), None
        )
        return y
    spread_scale, spread_zero_point = (_spread(a, x.shape, axis) for a in (scale, zero_point))
    if x.dtype.name in _FLOATS:
        difference = x.astype(np.float32) - spread_zero_point.astype(np.float32)
    else:
        difference = (x.astype(np.int32) - spread_zero_point.astype(np.int32)).astype(np.float32)
    return np.asarray(difference.astype(scale.dtype) * spread_scale)


def dynamic_quantize_linear(x: Array) -> tuple[NDArray[np.uint8], np.float32, np.uint8]:
    """ONNX DynamicQuantizeLinear: quantize x to uint8 by its own range, which always includes 0.

    x: float32 of any shape. Returns y (uint8, of x's shape), its scale and its zero point. A scale of zeros alone is
    1 / 255. Raises TypeError for a dtype, ValueError for NaN, infinity or a range wider than float32.
    """
    x = _arguments.array("x", x, _FLOAT32)
    y = np.empty(x.shape, np.uint8)
    scale, zero_point = _backend.kernels().dynamic_quantize_linear(
        _arguments.contiguous(x).reshape(-1), y.reshape(-1), None
    )
    return y, np.float32(scale), np.uint8(zero_point)


def _scale(name: str, value: Array | float | None) -> Array:
    """float32 or float16; a Python number counts as float32. ValueError unless positive and finite."""
    with np.errstate(over="ignore"):
        scale = np.asarray(np.float32(_arguments.number(value)) if isinstance(value, float | int) else value)
    if scale.dtype not in (_FLOAT32, _FLOAT16):
        raise TypeError(f"{name} is an array of {scale.dtype}, wanted float32")
    good = (scale > 0) & np.isfinite(scale)
    if not good.all():
        raise ValueError(f"{name} holds {scale[~good].flat[0]}, wanted positive and finite")
    return scale


def _as_integer(name: str, value: Array | int | None, dtype: np.dtype[Any]) -> Array:
    """A zero point: an array of `dtype`, or a Python int that fits it."""
    if isinstance(value, int):
        low, high = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.isbuiltin else _range(name, dtype)[:2]
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}, wanted {low} to {high} for {dtype}")
        return np.array(value, dtype)
    a = np.asarray(value)
    if a.dtype != dtype:
        raise TypeError(f"{name} is an array of {a.dtype}, wanted {dtype}")
    return a


def _form(shape: tuple[int, ...], scale: Array, zero_point: Array, axis: int) -> tuple[int, int, int] | None:
    """The tensor as [outer, channels, inner]; None for blocked scales. ValueError when scale has another shape."""
    if zero_point.shape != scale.shape and not zero_point.size == scale.size == 1:
        raise ValueError(f"zero_point has shape {zero_point.shape}, wanted scale's, {scale.shape}")
    if scale.size == 1 and scale.ndim <= 1:
        return 1, 1, math.prod(shape)
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis is {axis!r}, wanted an int") from None
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis is {axis}, wanted {-len(shape)} to {len(shape) - 1} for x of shape {shape}")
    axis %= len(shape)
    if scale.shape == (shape[axis],):
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    blocked = scale.ndim == len(shape) and all(
        1 <= s <= n if i == axis else s == n for i, (s, n) in enumerate(zip(scale.shape, shape, strict=True))
    )
    if not blocked:
        raise ValueError(
            f"scale has shape {scale.shape}, wanted one number, {(shape[axis],)} for axis {axis} of x, "
            f"or x's shape {shape} with blocks along that axis"
        )
    return None


def _spread(a: Array, shape: tuple[int, ...], axis: int) -> Array:
    """A scale or zero point so that it broadcasts against a tensor of `shape`."""
    if a.size == 1 and a.ndim <= 1:
        return a.reshape(())
    axis %= len(shape)
    if a.ndim == len(shape):
        block = -(-shape[axis] // a.shape[axis])
        return np.repeat(a, block, axis)[tuple(slice(n) for n in shape)]
    return a.reshape(-1, *[1] * (len(shape) - axis - 1))


def _range(name: str, dtype: np.dtype[Any]) -> tuple[float, float, bool]:
    """Bounds of a quantized type, and whether it is a float."""
    if dtype in (*_EIGHT_BITS, np.dtype(np.uint16), np.dtype(np.int16)):
        info = np.iinfo(dtype)
        return info.min, info.max, False
    if dtype.name in (*_OTHER_INTEGERS, *_FLOATS):
        import ml_dtypes

        is_float = dtype.name in _FLOATS
        bounds: Any = (ml_dtypes.finfo if is_float else ml_dtypes.iinfo)(dtype)
        return float(bounds.min), float(bounds.max), is_float
    raise TypeError(f"{name} is an array of {dtype}, wanted uint8, int8 or another quantized type of ONNX")


# ---- MatMulInteger, QLinearMatMul

_matmul_integer_fast = _backend.fast("matmul_integer_fast")


def matmul_integer(
    a: Array,
    b: Array | Int8Weight,
    a_zero_point: Array | int | None = None,
    b_zero_point: Array | int | None = None,
) -> NDArray[np.int32]:
    """ONNX MatMulInteger: (a - a_zero_point) @ (b - b_zero_point), exact in int32.

    Parameters
    ----------
    a, b
        uint8 or int8, in any combination, with the shapes of numpy.matmul: [..., M, K] and [..., K, N]. b may be an
        `Int8Weight` w, which is packed already: then b is w.q.T.
    a_zero_point
        Of a's dtype: one number, [M] for a matrix, or [..., M, 1].
    b_zero_point
        Of b's dtype: one number, [N], or [..., 1, N].

    Raises TypeError for a dtype, ValueError for a shape, OverflowError for a K with which a sum could leave int32.
    """
    if type(b) is Int8Weight:
        y = _matmul_integer_fast(a, b._packed, a_zero_point, b_zero_point)
        if y is not NotImplemented:
            return y  # type: ignore[no-any-return]
    product = _Product(a, b, a_zero_point, b_zero_point)
    kernels = _backend.kernels()

    def run(part: _Part, out: Array) -> None:
        kernels.gemm_int8(part.a, part.packed, part.a_zero_point, part.b_zero_point, out, None)

    return product.run(np.dtype(np.int32), np.ones(product.n, np.float32), run)


def qlinear_matmul(
    a: Array,
    a_scale: Array | float,
    a_zero_point: Array | int | None,
    b: Array | Int8Weight,
    b_scale: Array | float | None,
    b_zero_point: Array | int | None,
    y_scale: Array | float,
    y_zero_point: Array | int,
) -> Array:
    """ONNX QLinearMatMul: (a - a_zero_point) * a_scale @ (b - b_zero_point) * b_scale, as y_zero_point's dtype.

    Parameters
    ----------
    a, a_zero_point, b, b_zero_point
        As in `matmul_integer`.
    a_scale, b_scale, y_scale
        float32 or float16: one number; a_scale and y_scale also for each row ([M] for a matrix, [..., M, 1]), b_scale
        also for each column ([N], [..., 1, N]). With an `Int8Weight` as b, b_scale is its own (give None), and so is
        its zero point, 0.
    y_zero_point
        uint8 or int8, of y_scale's shape. A Python int means uint8.

    Raises TypeError for a dtype, ValueError for a shape or a scale that is not positive and finite, OverflowError for a
    K with which a sum could leave int32.
    """
    product = _Product(a, b, a_zero_point, b_zero_point)
    if isinstance(b, Int8Weight):
        if b_scale is not None and (product.columns("b_scale", _scale("b_scale", b_scale)) != b.scale).any():
            raise ValueError("b_scale differs from the scale of b, which is an Int8Weight; wanted None")
        if product.b_zero_point is not None:
            raise ValueError("b_zero_point is not 0, wanted None: b is an Int8Weight")
        b_scale = b.scale
    a_scale, b_scale, y_scale = (
        _scale(name, value).astype(np.float32)
        for name, value in (("a_scale", a_scale), ("b_scale", b_scale), ("y_scale", y_scale))
    )
    y_zero_point = (
        _as_integer("y_zero_point", y_zero_point, np.dtype(np.uint8))
        if isinstance(y_zero_point, int)
        else _arguments.array("y_zero_point", y_zero_point, *_EIGHT_BITS)
    )
    if y_zero_point.size != 1 and y_zero_point.shape != y_scale.shape:
        raise ValueError(f"y_zero_point has shape {y_zero_point.shape}, wanted y_scale's, {y_scale.shape}")
    columns = product.columns("b_scale", b_scale)
    if a_scale.size == y_scale.size == y_zero_point.size == 1 and columns.ndim == 1:
        x_qparams = float(a_scale.item()), product.a_zero_point_of_all
        y_qparams = float(y_scale.item()), int(y_zero_point.item())
        if x_qparams[1] is not None:
            linear = _backend.kernels().linear

            def run(part: _Part, out: Array) -> None:
                linear(part.a, part.packed, None, (0, 0.0, 0.0), x_qparams, y_qparams, out, None, part.b_zero_point)

            return product.run(y_zero_point.dtype, columns, run)
    sums = matmul_integer(a, b, a_zero_point, b_zero_point)
    return _requantize(sums, product, a_scale, columns, y_scale, y_zero_point)


def _requantize(
    sums: Array, product: _Product, a_scale: Array, b_scale: Array, y_scale: Array, zero_point: Array
) -> Array:
    """The last step for scales of rows, by the rule of docs/exactness.md."""
    rows = product.rows("a_scale", a_scale), product.rows("y_scale", y_scale), product.rows("y_zero_point", zero_point)
    shape = (*product.batch, product.m, product.n)
    a_scale, y_scale, zero = (np.broadcast_to(r, (*product.batch, product.m))[..., None] for r in rows)
    columns = b_scale if b_scale.ndim == 1 else b_scale[..., None, :]
    with np.errstate(over="ignore", invalid="ignore"):
        multiplier = a_scale * columns / y_scale
        value = sums.reshape(shape).astype(np.float32) * multiplier
    if not np.isfinite(multiplier).all():
        raise ValueError("a_scale * b_scale / y_scale is not finite in float32, wanted scales for which it is")
    info = np.iinfo(zero_point.dtype)
    level = np.clip(np.rint(value) + zero.astype(np.float32), info.min, info.max)
    return np.asarray(level.astype(zero_point.dtype).reshape(product.shape))


class _Part:
    """One matrix product of a stack: arguments of a kernel."""

    __slots__ = ("a", "a_zero_point", "b_zero_point", "packed")

    def __init__(self, a: Array, a_zero_point: Array | None, packed: Any, b_zero_point: Array | None) -> None:
        self.a, self.a_zero_point, self.packed, self.b_zero_point = a, a_zero_point, packed, b_zero_point


class _Product:
    """Shapes and zero points of a stack of matrix products, checked: a [*a_batch, M, K] by b [*b_batch, K, N].

    `shape` is that of the result, as numpy.matmul gives it. A stack of a with one b is one product of all its rows.
    """

    def __init__(self, a: Array, b: Array | Int8Weight, a_zero_point: Any, b_zero_point: Any) -> None:
        a = _arguments.array("a", a, *_EIGHT_BITS)
        self.weight = b if isinstance(b, Int8Weight) else None
        if isinstance(b, Int8Weight):
            if b.q.ndim != 2:
                raise ValueError(f"b has shape {b.shape}, wanted a matrix [N, K]")
            b = b.q.T
        b = _arguments.array("b", b, *_EIGHT_BITS)
        if a.ndim == 0 or b.ndim == 0:
            raise ValueError(f"a and b have shapes {a.shape} and {b.shape}, wanted at least one dimension each")
        vector_a, vector_b = a.ndim == 1, b.ndim == 1
        self.a = a[None] if vector_a else a
        self.b = b[:, None] if vector_b else b
        self.m, self.k = self.a.shape[-2:]
        self.n = self.b.shape[-1]
        if self.b.shape[-2] != self.k:
            raise ValueError(
                f"a and b have shapes {a.shape} and {b.shape}, wanted the same K: [..., M, K] and [..., K, N]"
            )
        try:
            self.batch = np.broadcast_shapes(self.a.shape[:-2], self.b.shape[:-2])
        except ValueError:
            raise ValueError(f"a and b have shapes {a.shape} and {b.shape}, whose stacks do not broadcast") from None
        self.shape = (*self.batch, *(() if vector_a else (self.m,)), *(() if vector_b else (self.n,)))
        self.a_zero_point = self._zero_point("a_zero_point", a_zero_point, self.a, self.rows)
        self.b_zero_point = self._zero_point("b_zero_point", b_zero_point, self.b, self.columns)
        _arguments.check_k(self.k, wide=self.b.dtype == np.uint8 or self.b_zero_point is not None)

    def _zero_point(self, name: str, value: Any, operand: Array, spread: Callable[[str, Array], Array]) -> Array | None:
        if value is None:
            return None
        zero_point = spread(name, _as_integer(name, value, operand.dtype)).astype(np.int32)
        return zero_point if zero_point.any() else None

    def rows(self, name: str, value: Array) -> Array:
        """One value for each row: [M], or [*a_batch, M]."""
        if value.size == 1:
            return np.broadcast_to(value.reshape(()), (self.m,))
        stack = self.a.shape[:-2]
        if value.shape == (self.m,) and not stack:
            return value
        if value.ndim >= 2 and value.shape[-1] == 1:
            wanted = stack if name == "a_zero_point" else self.batch
            try:
                return np.broadcast_to(value[..., 0], (*wanted, self.m))
            except ValueError:
                pass
        raise ValueError(f"{name} has shape {value.shape}, wanted one number, {(self.m,)} or {(*stack, self.m, 1)}")

    def columns(self, name: str, value: Array) -> Array:
        """One value for each column: [N], or [*b_batch, N]."""
        if value.size == 1:
            return np.broadcast_to(value.reshape(()), (self.n,))
        stack = self.b.shape[:-2]
        if value.shape == (self.n,):
            return value
        if value.ndim >= 2 and value.shape[-2] == 1:
            try:
                return np.broadcast_to(value[..., 0, :], (*stack, self.n))
            except ValueError:
                pass
        raise ValueError(f"{name} has shape {value.shape}, wanted one number, {(self.n,)} or {(*stack, 1, self.n)}")

    @property
    def a_zero_point_of_all(self) -> int | None:
        """The zero point of a when all rows have the same, else None."""
        if self.a_zero_point is None:
            return 0
        first = int(self.a_zero_point.flat[0]) if self.a_zero_point.size else 0
        return first if (self.a_zero_point == first).all() else None

    def run(self, dtype: np.dtype[Any], scale: Array, run: Callable[[_Part, Array], None]) -> Array:
        """The result of all products; run(part, out) does one. scale [N] goes into the packed b."""
        out = np.empty((*self.batch, self.m, self.n), dtype)
        pack, scale = _backend.kernels().pack_int8, _arguments.contiguous(scale)

        def packed(b: Array) -> Any:
            return pack(b.T, scale) if self.weight is None else self.weight.packed()

        if self.b.ndim == 2:
            rows = math.prod(self.a.shape[:-1])
            a = _arguments.contiguous(self.a).reshape(rows, self.k)
            a_zero_point = self.a_zero_point
            if a_zero_point is not None:
                a_zero_point = np.ascontiguousarray(np.broadcast_to(a_zero_point, self.a.shape[:-1])).reshape(-1)
            b_zero_point = None if self.b_zero_point is None else np.ascontiguousarray(self.b_zero_point.reshape(-1))
            run(_Part(a, a_zero_point, packed(self.b), b_zero_point), out.reshape(rows, self.n))
            return out.reshape(self.shape)

        a = np.broadcast_to(self.a, (*self.batch, self.m, self.k))
        extra = len(self.batch) - (self.b.ndim - 2)  # leading dimensions that only a has
        forms: dict[tuple[int, ...], Any] = {}  # a b that several a's share is packed once
        for index in np.ndindex(self.batch):
            at = tuple(i if size > 1 else 0 for i, size in zip(index[extra:], self.b.shape[:-2], strict=True))
            if at not in forms:
                forms[at] = packed(self.b[at])
            part = _Part(
                _arguments.contiguous(a[index]),
                self._at(self.a_zero_point, self.m, index),
                forms[at],
                self._at(self.b_zero_point, self.n, index),
            )
            run(part, out[index])
        return out.reshape(self.shape)

    def _at(self, zero_point: Array | None, size: int, index: tuple[int, ...]) -> Array | None:
        if zero_point is None:
            return None
        return np.ascontiguousarray(np.broadcast_to(zero_point, (*self.batch, size))[index])
