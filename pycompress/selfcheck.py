"""Every kernel on every instruction set that runs here, against references in int64, float64 and plain NumPy.

Small odd shapes and extreme values, in a second or so: enough to see a broken build, a miscompiled kernel or a faulty
CPU. docs/exactness.md defines what is right; where a result comes from integers, it has to be right to the bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _backend
from ._forced import forced

__all__ = ["Check", "count", "run"]

Array: TypeAlias = NDArray[Any]
Activation: TypeAlias = tuple[int, float, float]
f32: TypeAlias = np.float32

ACTIVATIONS: dict[str, Activation] = {
    "none": (0, 0.0, 0.0),
    "relu": (1, 0.0, math.inf),
    "relu6": (1, 0.0, 6.0),
    "hardswish": (2, 0.0, 0.0),
    "silu": (3, 0.0, 0.0),
    "gelu": (4, 0.0, 0.0),
}
SMOOTH = ("silu", "gelu")  # through exp: compared with float64, not to the bit
SHAPES = ((1, 1, 1), (2, 37, 64), (7, 5, 131), (17, 33, 19), (33, 70, 258))  # M, N, K
THREADED = (64, 288, 512)  # enough work for a second thread


@dataclass(frozen=True)
class Check:
    """One kernel on one instruction set; None as `isa` is the Numba backend. `reason` says what failed, else "".

    `kernel` is the one that ran, as "gemm_s8/avx2": an instruction set may use that of a lower one.
    """

    name: str
    isa: str | None
    kernel: str
    ok: bool
    reason: str


class MismatchError(Exception):
    """Where a result and its reference differ."""


def isas() -> list[str | None]:
    """The usable instruction sets; [None] with the Numba backend."""
    if _backend.NAME != "native":
        return [None]
    return [isa["name"] for isa in _backend.kernels().isas() if isa["usable"]]


def count() -> int:
    """How many checks `run` does."""
    return len(CHECKS) * len(isas())


def run() -> Iterator[Check]:
    """Do all checks. While it runs nothing else may compute: it forces one instruction set after the other."""
    for isa in isas():
        with forced(isa):
            for name, check in CHECKS.items():
                yield _one(name, isa, check)


def _one(name: str, isa: str | None, check: Callable[[Any, np.random.Generator], None]) -> Check:
    kernels, ran, reason = _backend.kernels(), "numba", ""
    try:
        # References overflow on purpose.
        with np.errstate(all="ignore"):
            check(kernels, np.random.default_rng(0))
        if isa is not None:
            ran = kernels.last_kernel()
            names = isas()
            by = ran.partition("/")[2]
            if by not in names or names.index(by) > names.index(isa):
                reason = f"{isa} was forced, but {ran} ran"
    except Exception as error:  # whatever it is, it is the finding
        reason = str(error) if isinstance(error, MismatchError) else f"{type(error).__name__}: {error}"
    return Check(name, isa, ran, not reason, reason)


def _same(what: str, got: Array, wanted: Array) -> None:
    """The same bits, but for the sign of zero and the payload of NaN."""
    wanted = wanted.astype(got.dtype)
    _report(what, got, wanted, ~((got == wanted) | ((got != got) & (wanted != wanted))))


def _close(what: str, got: Array, wanted: Array, error: Array | float) -> None:
    """At most `error` from the reference, which is float64."""
    _report(what, got, wanted, ~(np.abs(got.astype(np.float64) - wanted) <= error))


def _report(what: str, got: Array, wanted: Array, wrong: Array) -> None:
    if wrong.any():
        index = tuple(map(int, np.argwhere(wrong)[0]))
        raise MismatchError(
            f"{what}: {int(wrong.sum())} of {wrong.size} values differ, first at {list(index)}: "
            f"got {got[index]}, wanted {wanted[index]}"
        )


# ---- quantization


def _levels(x: Array, zero_point: Array | int, dtype: Any) -> Array:
    """x, divided by its scale already, as levels of an 8-bit type."""
    info = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(x) + np.asarray(zero_point, np.float32), info.min, info.max).astype(dtype))


def _range(x: Array) -> tuple[f32, int]:
    """Scale and zero point of DynamicQuantizeLinear."""
    low, high = min(f32(0), x.min(initial=0)), max(f32(0), x.max(initial=0))
    scale = f32(f32(high - low) / f32(255))
    if scale == 0:
        return f32(f32(1) / f32(255)), 0
    return scale, int(np.rint(np.clip(f32(0) - f32(low / scale), f32(0), f32(255))))


def _rows(x: Array) -> tuple[Array, Array, Array]:
    """x [m, k] as linear quantizes it, row by row: q, scale [m], zero_point [m]."""
    scale, zero_point = np.empty(len(x), np.float32), np.empty(len(x), np.int32)
    for i, row in enumerate(x):
        scale[i], zero_point[i] = _range(row)
    inverse = f32(1) / scale
    lost = ~np.isfinite(inverse)  # too small for its reciprocal: counts as zeros
    scale[lost], zero_point[lost], inverse[lost] = f32(1) / f32(255), 0, 255
    return _levels(x * inverse[:, None], zero_point[:, None], np.uint8), scale, zero_point


def _floats(rng: np.random.Generator, *shape: int) -> Array:
    return np.asarray(rng.standard_normal(shape, np.float32) * f32(3))


EXTREMES = np.array([0.0, -0.0, 0.5, -0.5, 1.5, 2.5, 1e-45, -1e-38, 3e38, -3e38, 127.5, -128.5, 255.5], np.float32)


def _check_quantize(kernels: Any, rng: np.random.Generator) -> None:
    infinite = np.concatenate([EXTREMES, [np.inf, -np.inf]]).astype(np.float32)
    for dtype, shape in itertools.product((np.uint8, np.int8), ((1, 1, 1), (2, 3, 37), (5, 67, 1), (1, 1, 131))):
        x = _floats(rng, *shape)
        x.reshape(-1)[: infinite.size] = infinite[: x.size]
        scale = rng.uniform(0.01, 1, shape[1]).astype(np.float32)
        zero_point = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, shape[1], np.int32)
        out = np.empty(shape, dtype)
        kernels.quantize_linear(x, scale, zero_point, out, 1)
        _same(f"{out.dtype} {list(shape)}", out, _levels(x / scale[:, None], zero_point[:, None], dtype))


def _check_dequantize(kernels: Any, rng: np.random.Generator) -> None:
    for dtype, shape in itertools.product(
        (np.uint8, np.int8, np.int32), ((1, 1, 1), (2, 3, 37), (5, 67, 1), (1, 1, 131))
    ):
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        x.reshape(-1)[:2] = np.array([info.min, info.max], dtype)[: x.size]
        scale = rng.uniform(0.01, 1, shape[1]).astype(np.float32)
        zero_point = np.zeros(shape[1], np.int32) if dtype == np.int32 else x[0, :, 0].astype(np.int32)
        out = np.empty(shape, np.float32)
        kernels.dequantize_linear(x, scale, zero_point, out, 1)
        difference = x.astype(np.int64) - zero_point[:, None]
        _same(f"{x.dtype} {list(shape)}", out, difference.astype(np.float32) * scale[:, None])


def _check_dynamic_quantize(kernels: Any, rng: np.random.Generator) -> None:
    x = _floats(rng, 1031)
    for name, values in {
        "normal": x,
        "one": x[:1],
        "odd": x[:37],
        "positive": np.abs(x),
        "negative": -np.abs(x),
        "zeros": np.zeros(67, np.float32),
        "tiny": x * f32(1e-42),
        "huge": x * f32(1e37),
    }.items():
        out = np.empty(values.size, np.uint8)
        got = kernels.dynamic_quantize_linear(values, out, 1)
        scale, zero_point = _range(values)
        _same(f"{name}, scale and zero point", np.array(got), np.array([scale, zero_point], np.float64))
        _same(name, out, _levels(values / scale, zero_point, np.uint8))


def _check_quantize_rows(kernels: Any, rng: np.random.Generator) -> None:
    for k in (1, 37, 258):
        x = _floats(rng, 7, k)
        x[1:6] = 0 * x[1], x[2] * f32(1e-39), np.abs(x[3]), -np.abs(x[4]), x[5] * f32(1e36)
        out, scale, zero_point = np.empty(x.shape, np.uint8), np.empty(7, np.float32), np.empty(7, np.int32)
        kernels.quantize_rows(x, out, scale, zero_point, 1)
        q, scales, zero_points = _rows(x)
        _same(f"[7, {k}], q", out, q)
        _same(f"[7, {k}], scale", scale, scales)
        _same(f"[7, {k}], zero point", zero_point, zero_points)


# ---- products


def _bytes(rng: np.random.Generator, dtype: Any, *shape: int) -> Array:
    """Random values of all the range."""
    info = np.iinfo(dtype)
    return np.asarray(rng.integers(info.min, info.max, shape, dtype, endpoint=True))


def _splittable(rng: np.random.Generator, dtype: Any, n: int, k: int) -> Array:
    """A weight with few neighbours that vpmaddubsw would saturate on: a kernel for split weights takes it."""
    info = np.iinfo(dtype)
    middle = (int(info.min) + int(info.max) + 1) // 2
    w = rng.integers(middle - 64, middle + 64, (n, k), dtype)
    w[:, 4:6], w[:, -2:] = info.max, info.min
    return w


def _product(x: Array, w: Array) -> Array:
    """x @ w.T without a BLAS, whose threads may wait for those of others."""
    return np.asarray(np.einsum("mk,nk->mn", x, w))


def _sums(x: Array, w: Array, x_zero_point: Array | int = 0, w_zero_point: Array | int = 0) -> Array:
    """Exact, in int64; x_zero_point [m, 1], w_zero_point [n, 1]."""
    return _product(x.astype(np.int64) - x_zero_point, w.astype(np.int64) - w_zero_point)


def _gemm_check(x_type: Any, w_type: Any) -> Callable[[Any, np.random.Generator], None]:
    def check(kernels: Any, rng: np.random.Generator) -> None:
        def product(what: str, x: Array, w: Array, zero_points: bool, num_threads: int = 1) -> None:
            x_zero_point = _bytes(rng, x_type, len(x), 1).astype(np.int32) if zero_points else None
            w_zero_point = _bytes(rng, w_type, len(w), 1).astype(np.int32) if zero_points else None
            out = np.empty((len(x), len(w)), np.int32)
            handle = kernels.pack_int8(w, np.ones(len(w), np.float32))
            flat = [None if z is None else z.reshape(-1) for z in (x_zero_point, w_zero_point)]
            kernels.gemm_int8(x, handle, *flat, out, num_threads)
            zeros = [0 if z is None else z for z in (x_zero_point, w_zero_point)]
            _same(f"{what} {[*out.shape, x.shape[1]]}", out, _sums(x, w, *zeros))

        for m, n, k in SHAPES:
            x, w = _bytes(rng, x_type, m, k), _bytes(rng, w_type, n, k)
            product("M, N, K", x, w, False)
            product("with zero points, M, N, K", x, w, True)
            # Every product an extreme: what saturates at 16 bits shows here.
            for a, b in itertools.product(*((np.iinfo(t).min, np.iinfo(t).max) for t in (x_type, w_type))):
                product(f"all {a} by all {b}, M, N, K", np.full_like(x, a), np.full_like(w, b), False)
        m, n, k = SHAPES[-1]
        x, w = _bytes(rng, x_type, m, k), _splittable(rng, w_type, n, k)
        for rows in (3, m):
            product("split, M, N, K", x[:rows], w, False)
            product("split, with zero points, M, N, K", x[:rows], w, True)
        m, n, k = THREADED
        product("on 2 threads, M, N, K", _bytes(rng, x_type, m, k), _bytes(rng, w_type, n, k), True, 2)

    return check


def _activate(y: Array, name: str) -> Array:
    """In y's type: float32 as the kernels do it, float64 as it is defined."""
    code, low, high = ACTIVATIONS[name]
    of = y.dtype.type
    if code == 1:
        return np.asarray(np.minimum(np.maximum(y, of(low)), of(high)))
    if name == "hardswish":
        return np.asarray((y * np.minimum(np.maximum(y + of(3), of(0)), of(6))) / of(6))
    if name == "silu":
        return np.asarray(y / (1 + np.exp(-y)))
    if name == "gelu":
        return np.asarray(y * 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(-y / math.sqrt(2)))
    return y


def _linear_int8_check(y_type: Any) -> Callable[[Any, np.random.Generator], None]:
    """uint8 and int8 x with parameters; for a float32 result also float32 x, quantized row by row and by parameters."""

    def check(kernels: Any, rng: np.random.Generator) -> None:
        for (m, n, k), (name, activation) in itertools.product(SHAPES[1:], ACTIVATIONS.items()):
            w = np.maximum((_splittable if k == SHAPES[-1][2] else _bytes)(rng, np.int8, n, k), -127)
            w_scale = rng.uniform(0.001, 0.02, n).astype(np.float32)
            bias = _floats(rng, n)
            handle = kernels.pack_int8(w, w_scale)
            x_qparams, x = (float(f32(0.02)), 117), _floats(rng, m, k)
            given = np.full(m, x_qparams[0], np.float32), np.full(m, x_qparams[1], np.int32)
            kinds: dict[str, tuple[Array, tuple[Array, Array, Array], tuple[float, int] | None]] = {}
            for dtype in (np.uint8, np.int8):
                q = _bytes(rng, dtype, m, k)
                kinds[f"{q.dtype} x"] = q, (q, *given), x_qparams
            if y_type == np.float32:
                kinds["float32 x"] = x, _rows(x), None
                by_given = _levels(x * (f32(1) / given[0][:, None]), x_qparams[1], np.uint8)
                kinds["float32 x with x_qparams"] = x, (by_given, *given), x_qparams
            y_qparams = None if y_type == np.float32 else (0.05, int(np.iinfo(y_type).min + 101))
            for kind, (argument, (q, x_scale, x_zero_point), qparams) in kinds.items():
                for used in (bias, None):
                    out = np.empty((m, n), y_type)
                    kernels.linear(argument, handle, used, activation, qparams, y_qparams, out, 1)
                    what = f"{kind}, {name}, {'no ' if used is None else ''}bias, M, N, K {[m, n, k]}"
                    scale = x_scale[:, None] * w_scale
                    sums = _sums(q, w, x_zero_point[:, None])
                    if y_qparams is None:
                        _compare_f32(what, out, sums, scale, used, name)
                    else:
                        _compare_quantized(what, out, sums, scale, used, name, y_qparams)

    return check


def _compare_f32(what: str, out: Array, sums: Array, scale: Array, bias: Array | None, name: str) -> None:
    y = sums.astype(np.float32) * scale
    if bias is not None:
        y = y + bias
    if name in SMOOTH:
        wanted = _activate(y.astype(np.float64), name)
        _close(what, out, wanted, 1e-6 + 1e-5 * np.abs(wanted))
    else:
        _same(what, out, _activate(y, name))


def _compare_quantized(
    what: str, out: Array, sums: Array, scale: Array, bias: Array | None, name: str, y_qparams: tuple[float, int]
) -> None:
    y_scale, zero_point = f32(y_qparams[0]), y_qparams[1]
    if bias is not None:
        sums = sums + np.rint(bias / scale).astype(np.int64)
    real = sums.astype(np.float32)
    info = np.iinfo(out.dtype)
    if name == "none" or ACTIVATIONS[name][0] == 1:
        low, high = (f32(info.min), f32(info.max))
        if name != "none":
            bounds = np.rint(np.array(ACTIVATIONS[name][1:], np.float32) / y_scale) + f32(zero_point)
            low, high = np.clip(bounds, low, high)
        _same(what, out, np.clip(np.rint(real * (scale / y_scale)) + f32(zero_point), low, high))
    elif name in SMOOTH:
        # A value between two levels may fall to either side.
        level = _activate((real * scale).astype(np.float64), name) / y_scale + zero_point
        _close(what, out, np.clip(level, info.min, info.max), 0.501)
    else:
        _same(what, out, _levels(_activate(real * scale, name) / y_scale, zero_point, out.dtype))


def _check_linear_f32(kernels: Any, rng: np.random.Generator) -> None:
    def product(m: int, n: int, k: int, name: str, num_threads: int = 1) -> None:
        x, w, bias, out = _floats(rng, m, k), _floats(rng, n, k), _floats(rng, n), np.empty((m, n), np.float32)
        kernels.linear_f32(x, w, bias, ACTIVATIONS[name], out, num_threads)
        x64, w64 = x.astype(np.float64), w.astype(np.float64)
        # The bound of a sum of k products, rounded one by one, in any order.
        error = (k + 4) * 2.0**-24 * (_product(np.abs(x64), np.abs(w64)) + np.abs(bias))
        # The slope of every activation is at most 1.5.
        _close(f"{name}, M, N, K {[m, n, k]}", out, _activate(_product(x64, w64) + bias, name), 1.5 * error + 1e-5)

    for (m, n, k), name in itertools.product(SHAPES, ACTIVATIONS):
        product(m, n, k, name)
    product(*THREADED, "relu", 2)


def _check_linear_f16(kernels: Any, rng: np.random.Generator) -> None:
    """The bits of float32, packed and plain, with all finite float16 among the values."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = rng.permutation(halves[np.isfinite(halves)])
    for (m, n, k), name in itertools.product([*SHAPES, (1, 64, 992)], ACTIVATIONS):
        w, x, bias = np.resize(halves, (n, k)), _floats(rng, m, k), _floats(rng, n)
        out, wanted, packed = (np.empty((m, n), np.float32) for _ in range(3))
        kernels.linear(x, kernels.pack_f16(w), bias, ACTIVATIONS[name], None, None, out, 1)
        kernels.linear(x, kernels.pack_f32(w.astype(np.float32)), bias, ACTIVATIONS[name], None, None, packed, 1)
        kernels.linear_f32(x, w.astype(np.float32), bias, ACTIVATIONS[name], wanted, 1)
        _same(f"{name}, M, N, K {[m, n, k]}", out, wanted)
        _same(f"{name}, float32 packed, M, N, K {[m, n, k]}", packed, wanted)


def _check_pool(kernels: Any, rng: np.random.Generator) -> None:
    geometry = (3, 3, 1, 1, 1, 1, 0, 0)
    for channels in (1, 33, 130):
        x = rng.integers(0, 256, (2, 5, 6, channels), np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2)).astype(np.float32)
        for mode, wanted in ((0, windows.max((-2, -1))), (1, np.rint(windows.sum((-2, -1)) * (f32(1) / f32(9))))):
            out = np.empty((2, 3, 4, channels), np.uint8)
            kernels.pool(x, out, mode, geometry, None, None, 1)
            _same(f"mode {mode}, {channels} channels", out, wanted)


def _check_add(kernels: Any, rng: np.random.Generator) -> None:
    for count in (1, 33, 1000):
        a, b = (rng.integers(0, 256, count, np.uint8) for _ in range(2))
        out, a_ratio, b_ratio = np.empty(count, np.uint8), f32(0.5) / f32(0.75), f32(0.25) / f32(0.75)
        kernels.add(a, b, out, (0.5, 128), (0.25, 3), (0.75, 100), (0, 0.0, 0.0), 1)
        real = (a.astype(np.float32) - f32(128)) * a_ratio + (b.astype(np.float32) - f32(3)) * b_ratio
        _same(f"{count} values", out, _levels(real, 100, np.uint8))


def _check_linear_int4(kernels: Any, rng: np.random.Generator) -> None:
    """A few rows and many, every group size, and all results."""
    for (m, n, k), size in itertools.product((*SHAPES, (5, 33, 300)), (32, 64, 128, 0)):
        groups = -(-k // (size or k))
        q = rng.integers(-7, 8, (n, k), np.int8)
        q[:, :2], q[:, -2:] = 7, -7
        even = np.pad(q, [(0, 0), (0, k % 2)]).view(np.uint8)
        data = np.ascontiguousarray(even[:, ::2] & 15 | even[:, 1::2] << 4)
        scale = rng.uniform(0.001, 0.02, (n, groups)).astype(np.float32)
        handle = kernels.pack_int4(data, scale, k, size)
        x, bias = _floats(rng, m, k), _floats(rng, n)
        full = np.full((m, k), 255, np.uint8)
        given = full, np.full(m, 0.02, np.float32), np.full(m, 117, np.int32)
        kinds: tuple[tuple[tuple[Array, Array, Array], Array, tuple[float, int] | None], ...] = (
            (_rows(x), x, None),
            (given, full, (float(f32(0.02)), 117)),
        )
        for (xq, x_scale, x_zero_point), argument, qparams in kinds:
            total = np.zeros((m, n), np.float32)
            for g in range(groups):
                part = slice(g * (size or k), (g + 1) * (size or k))
                sums = _sums(xq[:, part], q[:, part], x_zero_point[:, None])
                total = total + sums.astype(np.float32) * scale[:, g]
            y = _activate(total * x_scale[:, None] + bias, "relu6")
            out = np.empty((m, n), np.float32)
            kernels.linear(argument, handle, bias, ACTIVATIONS["relu6"], qparams, None, out, 1)
            _same(f"{argument.dtype} x, groups of {size or k}, M, N, K {[m, n, k]}", out, y)
            if qparams:
                levels = np.empty((m, n), np.uint8)
                kernels.linear(argument, handle, bias, ACTIVATIONS["relu6"], qparams, (0.05, 101), levels, 1)
                _same(
                    f"to uint8, groups of {size or k}, M, N, K {[m, n, k]}",
                    levels,
                    _levels(y / f32(0.05), 101, np.uint8),
                )


def _sparse_check(dtype: Any) -> Callable[[Any, np.random.Generator], None]:
    """Blocks that take each of the forms there are: outputs alone and in fours; of int8 in quads and by columns."""

    def check(kernels: Any, rng: np.random.Generator) -> None:
        for (m, n, k), (r, c) in itertools.product(SHAPES, ((1, 1), (1, 4), (4, 1), (8, 4))):
            rows, columns = -(-n // r), -(-k // c)
            keep = rng.random((rows, columns)) < 0.4
            shape = rows, columns, r, c
            blocks = _bytes(rng, np.int8, *shape) if dtype == np.int8 else _floats(rng, *shape)
            w = np.where(keep[:, :, None, None], blocks, 0).transpose(0, 2, 1, 3).reshape(rows * r, columns * c)
            w[n:], w[:, k:] = 0, 0
            data = w.reshape(rows, r, columns, c).transpose(0, 2, 1, 3)[keep]
            indptr = np.concatenate([[0], np.cumsum(keep.sum(1))]).astype(np.int32)
            indices, w = np.nonzero(keep)[1].astype(np.int32), w[:n, :k]
            scale = np.full(n, 0.5, np.float32) if dtype == np.int8 else None
            handle = kernels.pack_sparse(np.ascontiguousarray(data, dtype), indices, indptr, scale, n, k)
            out, what = np.empty((m, n), np.float32), f"blocks {r}x{c}, M, N, K {[m, n, k]}"
            if dtype == np.int8:
                x = _bytes(rng, np.uint8, m, k)
                kernels.linear(x, handle, None, ACTIVATIONS["none"], (1.0, 117), None, out, 1)
                _same(what, out, _sums(x, w, 117).astype(np.float32) * f32(0.5))
            else:
                x = _floats(rng, m, k)
                kernels.linear(x, handle, None, ACTIVATIONS["none"], None, None, out, 1)
                x64, w64 = x.astype(np.float64), w.astype(np.float64)
                error = (k + 4) * 2.0**-24 * _product(np.abs(x64), np.abs(w64))
                _close(what, out, _product(x64, w64), error + 1e-6)

    return check


def _conv_sums(x: Array, w: Array, zero_point: int) -> Array:
    """int64 sums of x [H, W, C] by w [C, k, k], each channel by its own; padding k // 2."""
    size = w.shape[1]
    pixels = np.pad(x.astype(np.int64) - zero_point, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (size, size), (0, 1))
    return np.asarray(np.einsum("hwcij,cij->hwc", windows, w.astype(np.int64)))


def _check_depthwise(kernels: Any, rng: np.random.Generator) -> None:
    for size, stride, channels, dtype in itertools.product((3, 5), (1, 2), (7, 32, 131), (np.uint8, np.int8)):
        x, w = _bytes(rng, dtype, 1, 9, 11, channels), _bytes(rng, np.int8, channels, size, size)
        x[0, :4], w[:3] = np.iinfo(dtype).max, -128
        scale, zero_point = rng.uniform(0.001, 0.02, channels).astype(np.float32), int(_bytes(rng, dtype, 1)[0])
        sums = _conv_sums(x[0], w, zero_point)[::stride, ::stride]
        shape = (stride, stride, 1, 1, *[size // 2] * 4)
        handle, bias = kernels.pack_depthwise(w, scale), _floats(rng, channels)
        for y_type, y_qparams in ((np.float32, None), (dtype, (0.25, int(np.iinfo(dtype).min + 101)))):
            out = np.empty((1, *sums.shape), y_type)
            kernels.depthwise(x, handle, bias, ACTIVATIONS["relu6"], (0.02, zero_point), y_qparams, shape, out, 1)
            what = f"{size}x{size}, stride {stride}, {channels} channels"
            factor = f32(0.02) * scale
            if y_qparams is None:
                _compare_f32(what, out[0], sums, factor, bias, "relu6")
            else:
                _compare_quantized(what, out[0], sums, factor, bias, "relu6", y_qparams)


def _check_depthwise_f32(kernels: Any, rng: np.random.Generator) -> None:
    for size, channels in itertools.product((3, 5), (7, 32, 131)):
        x, w = _floats(rng, 1, 9, 11, channels), _floats(rng, channels, size, size)
        out = np.empty(x.shape, np.float32)
        shape = (1, 1, 1, 1, *[size // 2] * 4)
        kernels.depthwise(x, kernels.pack_depthwise(w, None), None, ACTIVATIONS["none"], None, None, shape, out, 1)
        image, weight = (np.rint(v * 2.0**20) for v in (x[0].astype(np.float64), w.astype(np.float64)))
        wanted = _conv_sums(image, weight, 0) * 2.0**-40
        most = _conv_sums(np.abs(image), np.abs(weight), 0) * 2.0**-40
        _close(f"{size}x{size}, {channels} channels", out[0], wanted, (size * size + 4) * 2.0**-24 * most + 1e-4)


def _check_conv(kernels: Any, rng: np.random.Generator) -> None:
    for channels, outputs in ((3, 5), (16, 33)):
        x, w = _bytes(rng, np.uint8, 2, 7, 8, channels), _bytes(rng, np.int8, outputs, 3, 3, channels)
        pixels = np.pad(x.astype(np.int64) - 9, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), (1, 2))
        wanted = np.einsum("bhwcij,oijc->bhwo", windows, w.astype(np.int64))
        matrix = kernels.pack_int8(w.reshape(outputs, -1), np.ones(outputs, np.float32))
        out = np.empty(wanted.shape, np.int32)
        handle = kernels.pack_conv([matrix], 3, 3, [])
        kernels.conv(x, handle, None, ACTIVATIONS["none"], (1.0, 9), None, (1, 1, 1, 1, 1, 1, 1, 1), out, 1)
        _same(f"{channels} -> {outputs} channels", out, wanted)


CHECKS: dict[str, Callable[[Any, np.random.Generator], None]] = {
    "quantize_linear": _check_quantize,
    "dequantize_linear": _check_dequantize,
    "dynamic_quantize_linear": _check_dynamic_quantize,
    "quantize_rows": _check_quantize_rows,
    "gemm_int8, u8 s8": _gemm_check(np.uint8, np.int8),
    "gemm_int8, u8 u8": _gemm_check(np.uint8, np.uint8),
    "gemm_int8, s8 s8": _gemm_check(np.int8, np.int8),
    "gemm_int8, s8 u8": _gemm_check(np.int8, np.uint8),
    "linear_int8 -> float32": _linear_int8_check(np.float32),
    "linear_int8 -> uint8": _linear_int8_check(np.uint8),
    "linear_int8 -> int8": _linear_int8_check(np.int8),
    "linear_int4": _check_linear_int4,
    "linear_f32": _check_linear_f32,
    "linear_f16": _check_linear_f16,
    "sparse, float32": _sparse_check(np.float32),
    "sparse, int8": _sparse_check(np.int8),
    "pool": _check_pool,
    "add": _check_add,
    "depthwise": _check_depthwise,
    "depthwise_f32": _check_depthwise_f32,
    "conv": _check_conv,
}
