"""What is particular to the Numba backend.

The references are NumPy float32, one ufunc for each operation of docs/exactness.md, so that a promotion to float64, a
contraction or another order would show.
"""

import importlib.util
import math
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
from reference import activate

pytest.importorskip("numba")

from numba.core.caching import FunctionCache

from pycompress import kernels

common, gemm, last_step, quant = kernels.common, kernels.gemm, kernels.last_step, kernels.quant
f32 = np.float32
NO_ACTIVATION = (last_step.NONE, 0.0, 0.0)
ACTIVATIONS = [
    NO_ACTIVATION,
    (last_step.CLAMP, 0.0, math.inf),
    (last_step.CLAMP, -0.7, 1.3),
    (last_step.HARDSWISH, 0.0, 0.0),
    (last_step.SILU, 0.0, 0.0),
    (last_step.GELU, 0.0, 0.0),
]
EIGHT_BITS = [np.uint8, np.int8]

ACTIVATION_NAMES = {last_step.HARDSWISH: "hardswish", last_step.SILU: "silu", last_step.GELU: "gelu"}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def tiny_grain(monkeypatch):
    """Split even the smallest work."""
    monkeypatch.setattr(common, "GRAIN", 1)


def random_bytes(rng, dtype, shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def same_bits(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


# ---- references ------------------------------------------------------------------------------------------------------


def activation_reference(y, activation):
    code, low, high = activation
    return activate(y, (low, high) if code == last_step.CLAMP else ACTIVATION_NAMES.get(code))


def rows_reference(x):
    low, high = np.minimum(x.min(1), f32(0)), np.maximum(x.max(1), f32(0))
    scale = (high - low) / f32(255)
    with np.errstate(all="ignore"):
        zero_point = np.rint(np.clip(f32(0) - low / scale, f32(0), f32(255)))
        is_zero = ~np.isfinite(f32(1) / scale)
    scale, zero_point = np.where(is_zero, f32(1) / f32(255), scale), np.where(is_zero, f32(0), zero_point)
    q = np.clip(np.rint(x * (f32(1) / scale)[:, None]) + zero_point[:, None], 0, 255)
    return q.astype(np.uint8), scale, zero_point.astype(np.int32)


def sums_reference(x, w, x_zero_point=0, w_zero_point=0):
    x = x.astype(np.int64) - np.reshape(x_zero_point, (-1, 1))
    w = w.astype(np.int64) - np.reshape(w_zero_point, (-1, 1))
    return (x @ w.T).astype(np.int32)


def last_step_reference(sums, x_scale, w_scale, bias, activation, y_qparams, dtype):
    scale = np.reshape(x_scale, (-1, 1)) * w_scale
    code, low, high = activation
    if dtype == np.float32:
        y = sums.astype(f32) * scale
        return activation_reference(y if bias is None else y + bias, activation)
    y_scale, y_zero_point = f32(y_qparams[0]), f32(y_qparams[1])
    bounds = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max], f32)
    if bias is not None:
        bias_q = np.clip(np.rint(bias / scale).astype(np.float64), -(2**31), 2**31 - 1).astype(np.int64)
        sums = np.clip(sums + bias_q, -(2**31), 2**31 - 1).astype(np.int32)
    if code in (last_step.NONE, last_step.CLAMP):
        y = np.rint(sums.astype(f32) * (scale / y_scale))
        if code == last_step.CLAMP:
            bounds = np.clip(np.rint(np.array([low, high], f32) / y_scale) + y_zero_point, *bounds)
    else:
        y = np.rint(activation_reference(sums.astype(f32) * scale, activation) / y_scale)
    return np.clip(y + y_zero_point, *bounds).astype(dtype)


# ---- the package -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kernels", "other.kernels"])
def test_refuses_another_name(name):
    spec = importlib.util.spec_from_file_location(name, kernels.__file__)
    with pytest.raises(ImportError, match=rf"pycompress\.kernels.*{name}"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert name not in sys.modules


def all_kernels():
    for module in (quant, gemm, last_step):
        for function in vars(module).values():
            if hasattr(function, "targetoptions"):
                yield pytest.param(module, function, id=function.__name__)


@pytest.mark.parametrize(("module", "function"), list(all_kernels()))
def test_compiled_as_it_should_be(module, function):
    assert function.targetoptions["nogil"]
    assert not function.targetoptions.get("fastmath")
    assert not function.targetoptions.get("parallel")
    assert isinstance(function._cache, FunctionCache)
    # A cache does not see changes in another file: kernels call only those of their own.
    assert function.py_func.__module__ == module.__name__


def test_without_a_cache_directory(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: (function, options)

    monkeypatch.setattr(common, "njit", njit)
    function, options = common.kernel(len)
    assert function is len
    assert options["nogil"]


def test_num_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    monkeypatch.delenv("PYCOMPRESS_NUM_THREADS", raising=False)
    monkeypatch.setattr(common, "_num_threads", None)
    assert kernels.get_num_threads() == 3
    monkeypatch.setenv("PYCOMPRESS_NUM_THREADS", "5")
    assert kernels.get_num_threads() == 5
    kernels.set_num_threads(2)
    assert kernels.get_num_threads() == 2
    kernels.set_num_threads(None)
    monkeypatch.delenv("PYCOMPRESS_NUM_THREADS")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert kernels.get_num_threads() >= 1


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_parallel_covers_all_once(tiny_grain, count, num_threads):
    parts = common.parallel(lambda start, stop: list(range(start, stop)), count, 100, num_threads)
    assert [i for part in parts for i in part] == list(range(count))
    assert len(parts) <= num_threads


def test_parallel_raises(tiny_grain):
    def body(start, stop):
        raise ValueError(start)

    with pytest.raises(ValueError, match="0"):
        common.parallel(body, 4, 100, 2)


# ---- activations -----------------------------------------------------------------------------------------------------


def applied(activation, y):
    y = y.reshape(1, -1).copy()
    last_step.finish_f32(y, np.empty(0, f32), activation[0], f32(activation[1]), f32(activation[2]), (0, 1, 0, y.size))
    return y[0]


def special_and_random(rng):
    special = [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        1e-30,
        -3.0,
        3.0,
        5 / 0.70710678,
        -5 / 0.70710678,
        -87.0,
        87.5,
        1e4,
        -1e4,
        3e38,
    ]
    wide = rng.standard_normal(2000) * 10.0 ** rng.uniform(-6, 3, 2000)
    return np.concatenate([special, np.linspace(-15, 15, 5001), wide]).astype(f32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_bits(rng, activation):
    y = special_and_random(rng)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        expected = activation_reference(y, activation)
    got = applied(activation, y)
    # Of two equal operands, +0 and -0, minimum and maximum may give either.
    same_bits(got + f32(0), expected + f32(0))
    # In a vector and alone, the same.
    same_bits(np.concatenate([applied(activation, v) for v in y[:50, None]]), got[:50])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_keeps_nan(activation):
    assert np.isnan(applied(activation, np.full(9, np.nan, f32))).all()


def test_exp_accuracy():
    x = np.concatenate([np.linspace(-87, 0, 4001), [-0.0, -1e-40, -1e-8]]).astype(f32)
    got = np.array([last_step.exp(v) for v in x], np.float64)
    expected = np.exp(x.astype(np.float64))
    assert np.max(np.abs(got / expected - 1)) < 2e-7
    assert last_step.exp(f32(0)) == 1
    assert [last_step.exp(f32(v)) for v in (-87.001, -1e30, -np.inf)] == [0, 0, 0]


def test_silu_accuracy():
    x = np.linspace(-80, 80, 20001, dtype=f32)
    exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    got = applied((last_step.SILU, 0.0, 0.0), x)
    np.testing.assert_allclose(got, exact, rtol=5e-7, atol=0)


def test_gelu_accuracy():
    x = np.linspace(-10, 10, 20001, dtype=f32)
    exact = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.tolist()])
    got = applied((last_step.GELU, 0.0, 0.0), x).astype(np.float64)
    assert np.max(np.abs(got - exact)) < 2.5e-7
    near = x >= -5
    np.testing.assert_allclose(got[near], exact[near], rtol=5e-6, atol=0)


# ---- quantization ----------------------------------------------------------------------------------------------------


def quantize_rows(x, num_threads=1):
    q = np.empty(x.shape, np.uint8)
    scale, zero_point = np.empty(len(x), f32), np.empty(len(x), np.int32)
    kernels.quantize_rows(x, q, scale, zero_point, num_threads)
    return q, scale, zero_point


def rows_to_quantize(rng):
    x = rng.standard_normal((40, 77)) * 10.0 ** rng.uniform(-45, 36, (40, 1))
    x[0] = 0
    x[1] = -0.0
    x[2] = np.abs(x[2])  # 0 is the minimum
    x[3] = -np.abs(x[3])
    x[4] = 1e-45
    x[5] = np.linspace(-1.5, 253.5, 77)  # halves
    x[6, 0], x[6, 1] = -1.7e38, 1.7e38
    x[7] = np.linspace(0, 7.5e-37, 77)  # about where 1 / scale overflows
    x[8] = np.linspace(0, 7.4e-37, 77)
    return x.astype(f32)


def test_quantize_rows_bits(rng):
    x = rows_to_quantize(rng)
    for got, expected in zip(quantize_rows(x), rows_reference(x), strict=True):
        same_bits(got, expected)


def test_dynamic_quantize_bits(rng):
    for x in rows_to_quantize(rng):
        low, high = min(f32(0), x.min()), max(f32(0), x.max())
        scale, zero_point = (high - low) / f32(255), f32(0)
        if scale > 0:
            zero_point = np.rint(np.clip(f32(0) - low / scale, 0, 255))
        else:
            scale = f32(1) / f32(255)
        q = np.empty(x.shape, np.uint8)
        assert kernels.dynamic_quantize_linear(x, q, 1) == (scale, zero_point)
        same_bits(q, np.clip(np.rint(x / scale) + zero_point, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 13, 96])
def test_range_must_be_finite(rng, value, place):
    x = rng.standard_normal((3, 97)).astype(f32)
    x[1, place] = value
    with pytest.raises(ValueError, match="x has NaN or infinity"):
        quantize_rows(x)
    with pytest.raises(ValueError, match="x has NaN or infinity"):
        kernels.dynamic_quantize_linear(x.reshape(-1), np.empty(x.size, np.uint8), 1)


def test_range_too_wide():
    x = np.array([[-2e38, 2e38]], f32)
    with pytest.raises(ValueError, match="x has a range"):
        quantize_rows(x)
    with pytest.raises(ValueError, match="x has a range"):
        kernels.dynamic_quantize_linear(x[0], np.empty(2, np.uint8), 1)


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("shape", [(1, 1, 300), (2, 3, 19), (17, 33, 1), (9, 1, 1), (1, 40, 1)])
def test_quantize_and_back_bits(rng, tiny_grain, shape, dtype):
    info = np.iinfo(dtype)
    x = (rng.standard_normal(shape) * 20).astype(f32)
    x.flat[:4] = np.inf, -np.inf, 3e38, -0.0
    scale = rng.uniform(0.05, 0.3, shape[1]).astype(f32)
    zero_point = random_bytes(rng, dtype, shape[1]).astype(np.int32)
    s, z = scale.reshape(-1, 1), zero_point.astype(f32).reshape(-1, 1)
    with np.errstate(over="ignore"):
        expected = np.clip(np.rint(x / s) + z, info.min, info.max).astype(dtype)
    for num_threads in (1, 3):
        q = np.empty(shape, dtype)
        kernels.quantize_linear(x, scale, zero_point, q, num_threads)
        same_bits(q, expected)
        y = np.empty(shape, f32)
        kernels.dequantize_linear(q, scale, zero_point, y, num_threads)
        same_bits(y, (q.astype(np.int32) - zero_point.reshape(-1, 1)).astype(f32) * s)


def test_dequantize_int32():
    x = np.array([2**31 - 1, -(2**31), 2**24 + 1, -7], np.int32)
    y = np.empty((1, 1, 4), f32)
    kernels.dequantize_linear(x.reshape(1, 1, 4), np.array([0.3], f32), np.zeros(1, np.int32), y, 1)
    same_bits(y[0, 0], x.astype(f32) * f32(0.3))


@pytest.mark.parametrize("shape", [(1, 1, 33), (3, 11, 1)])
def test_quantize_refuses_nan(shape):
    x = np.zeros(shape, f32)
    x.flat[-1] = np.nan
    scale, zero_point = np.ones(shape[1], f32), np.zeros(shape[1], np.int32)
    with pytest.raises(ValueError, match="x has NaN"):
        kernels.quantize_linear(x, scale, zero_point, np.empty(shape, np.uint8), 1)


def test_rounds_in_float32():
    """Next to a half, the last bit of a scale or of a quotient decides."""
    for scale in np.geomspace(1e-3, 10, 50, dtype=f32):
        half = (np.arange(254, dtype=f32) + f32(0.5)) * scale
        x = np.concatenate([half, np.nextafter(half, f32(0)), np.nextafter(half, f32(1e9)), [f32(0), 255 * scale]])
        rows, row_scale, row_zero_point = quantize_rows(x[None])
        for got, expected in zip((rows, row_scale, row_zero_point), rows_reference(x[None]), strict=True):
            same_bits(got, expected)
        given, exact = np.empty(x.shape, np.uint8), np.empty(x.shape, np.uint8)
        quant.quantize_by(x, float(scale), 3, given, 1)
        same_bits(given, np.clip(np.rint(x * (f32(1) / scale)) + 3, 0, 255).astype(np.uint8))
        kernels.dynamic_quantize_linear(x, exact, 1)
        same_bits(exact, np.clip(np.rint(x / row_scale), 0, 255).astype(np.uint8))


# ---- integer products ------------------------------------------------------------------------------------------------


def gemm_int8(x, w, x_zero_point=None, w_zero_point=None, num_threads=1):
    out = np.full((len(x), len(w)), 12345, np.int32)
    kernels.gemm_int8(x, kernels.pack_int8(w, np.ones(len(w), f32)), x_zero_point, w_zero_point, out, num_threads)
    return out


@pytest.mark.parametrize("w_type", EIGHT_BITS)
@pytest.mark.parametrize("x_type", EIGHT_BITS)
def test_gemm_int8_is_exact(rng, x_type, w_type):
    for m, n, k in [*np.ndindex(6, 6, 6), (3, 9, 33), (40, 21, 64), (17, 5, 1000), (1, 300, 70), (300, 1, 70)]:
        x, w = random_bytes(rng, x_type, (m, k)), random_bytes(rng, w_type, (n, k))
        zx = random_bytes(rng, x_type, m).astype(np.int32)
        zw = random_bytes(rng, w_type, n).astype(np.int32)
        same_bits(gemm_int8(x, w), sums_reference(x, w))
        same_bits(gemm_int8(x, w, zx), sums_reference(x, w, zx))
        same_bits(gemm_int8(x, w, None, zw), sums_reference(x, w, 0, zw))
        same_bits(gemm_int8(x, w, zx, zw), sums_reference(x, w, zx, zw))


@pytest.mark.parametrize("w_type", EIGHT_BITS)
@pytest.mark.parametrize("x_type", EIGHT_BITS)
def test_gemm_int8_extremes(x_type, w_type):
    k = 65793 if w_type == np.int8 else 33025  # the longest that are allowed
    ends = [np.array([np.iinfo(t).min, np.iinfo(t).max], np.int32) for t in (x_type, w_type)]
    x = np.repeat(ends[0].astype(x_type), 2)[:, None].repeat(k, axis=1)
    w = ends[1].astype(w_type)[:, None].repeat(k, axis=1)
    for zx in (None, np.tile(ends[0], 2)):
        same_bits(gemm_int8(x, w, zx), sums_reference(x, w, 0 if zx is None else zx))
    x, w = x[:, :33025], w[:, :33025]
    for zx in (np.tile(ends[0], 2), np.tile(ends[0][::-1], 2)):
        for zw in (ends[1], ends[1][::-1]):
            same_bits(gemm_int8(x, w, zx, zw), sums_reference(x, w, zx, zw))


def test_pack_takes_any_strides(rng):
    x, w = random_bytes(rng, np.uint8, (5, 12)), random_bytes(rng, np.int8, (24, 14))
    for view in (w[::2, 1:13], w[:12, :12].T, w[11::-1, 12:0:-1]):
        same_bits(gemm_int8(x, view), sums_reference(x, view))
        as_uint8 = view.view(np.uint8) if view.strides[-1] == 1 else view.astype(np.uint8)
        same_bits(gemm_int8(x, as_uint8), sums_reference(x, as_uint8))


def test_pack_copies(rng):
    q, scale = random_bytes(rng, np.int8, (4, 8)), np.ones(4, f32)
    w = kernels.pack_int8(q, scale)
    stored, expected = q.copy(), scale.copy()
    q[:], scale[:] = 0, 0
    np.testing.assert_array_equal(w.q, stored)
    np.testing.assert_array_equal(w.scale, expected)
    assert (w.n, w.k) == (4, 8)


# ---- layers ----------------------------------------------------------------------------------------------------------


def layer(rng, m=13, n=22, k=35, w_type=np.int8):
    w = random_bytes(rng, w_type, (n, k))
    w_scale = rng.uniform(1e-3, 2e-3, n).astype(f32)
    bias = rng.standard_normal(n).astype(f32)
    return rng.standard_normal((m, k)).astype(f32), w, w_scale, bias


@pytest.mark.parametrize("y_type", [np.float32, np.uint8, np.int8])
@pytest.mark.parametrize("x_kind", ["rows", "given", "uint8", "int8"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_int8_bits(rng, x_kind, y_type, with_bias):
    for w_type in EIGHT_BITS:
        x, w, w_scale, bias = layer(rng, w_type=w_type)
        x_qparams = None if x_kind == "rows" else (0.021, 117 if x_kind != "int8" else -11)
        y_qparams = None if y_type == np.float32 else (0.017, 60 if y_type == np.uint8 else -20)
        if x_kind == "rows":
            q, x_scale, x_zero_point = rows_reference(x)
        else:
            x_scale, x_zero_point = f32(x_qparams[0]), x_qparams[1]
            if x_kind == "given":
                q = np.clip(np.rint(x * (f32(1) / x_scale)) + f32(x_zero_point), 0, 255).astype(np.uint8)
            else:
                q = x = random_bytes(rng, np.dtype(x_kind), x.shape)
        b = bias if with_bias else None
        for activation in ACTIVATIONS:
            out = np.empty((len(x), len(w)), y_type)
            packed = kernels.pack_int8(w, w_scale)
            kernels.linear(x, packed, b, activation, x_qparams, y_qparams, out, 1)
            sums = sums_reference(q, w, x_zero_point)
            expected = last_step_reference(sums, x_scale, w_scale, b, activation, y_qparams, y_type)
            same_bits(out, expected)


def test_sums_beyond_float32_are_rounded_first(rng):
    """From 2^24 on not every sum is a float32: it is rounded before it is scaled."""
    x, w = rng.integers(200, 256, (9, 5001)).astype(np.uint8), rng.integers(90, 128, (50, 5001)).astype(np.int8)
    sums = sums_reference(x, w)
    assert sums.min() > 2**24
    w_scale = rng.uniform(1e-9, 1e-8, 50).astype(f32)
    packed = kernels.pack_int8(w, w_scale)
    for y_type, y_qparams in ((np.float32, None), (np.uint8, (0.003, 5))):
        out = np.empty(sums.shape, y_type)
        kernels.linear(x, packed, None, NO_ACTIVATION, (0.7, 0), y_qparams, out, 1)
        same_bits(out, last_step_reference(sums, f32(0.7), w_scale, None, NO_ACTIVATION, y_qparams, y_type))


@pytest.mark.parametrize("y_type", EIGHT_BITS)
def test_requantize_saturates(y_type):
    x = np.full((2, 8), 255, np.uint8)
    w = np.full((6, 8), 127, np.int8)
    w[1::2] = -127
    w_scale = np.full(6, 1e-20, f32)
    bias = np.array([3e38, -3e38, 2.1e-11, -2.1e-11, 0, 0], f32)  # beyond int32, near its ends, none
    out = np.empty((2, 6), y_type)
    for activation in ACTIVATIONS:
        for y_scale in (1e-20, 1e-13, 1e-30):
            args = activation, (1.0, 0), (y_scale, 5), out, 1
            kernels.linear(x, kernels.pack_int8(w, w_scale), bias, *args)
            with np.errstate(over="ignore"):
                step = sums_reference(x, w), f32(1), w_scale, bias, activation, (y_scale, 5), y_type
                same_bits(out, last_step_reference(*step))


def test_quantized_bias_must_be_finite(rng):
    x, w, w_scale, bias = layer(rng)
    bias[3] = np.inf
    packed = kernels.pack_int8(w, w_scale)
    out = np.empty((len(x), len(w)), np.uint8)
    with pytest.raises(ValueError, match="bias has NaN or infinity"):
        kernels.linear(x, packed, bias, NO_ACTIVATION, (0.02, 100), (0.02, 100), out, 1)
    out = np.empty((len(x), len(w)), f32)
    kernels.linear(x, packed, bias, NO_ACTIVATION, (0.02, 100), None, out, 1)
    assert np.isposinf(out[:, 3]).all()


def test_given_qparams_saturate_infinity_and_refuse_nan(rng):
    x, w, w_scale, _ = layer(rng)
    packed, out = kernels.pack_int8(w, w_scale), np.empty((len(x), len(w)), f32)
    x[0, 0], x[1, 1] = np.inf, -np.inf
    kernels.linear(x, packed, None, NO_ACTIVATION, (0.02, 100), None, out, 1)
    expected = out.copy()
    x[0, 0], x[1, 1] = 1e30, -1e30
    kernels.linear(x, packed, None, NO_ACTIVATION, (0.02, 100), None, out, 1)
    same_bits(out, expected)
    x[2, 2] = np.nan
    with pytest.raises(ValueError, match="x has NaN"):
        kernels.linear(x, packed, None, NO_ACTIVATION, (0.02, 100), None, out, 1)
    with pytest.raises(ValueError, match="x has NaN or infinity"):
        kernels.linear(x, packed, None, NO_ACTIVATION, None, None, out, 1)


def linear_f32(x, w, bias=None, activation=NO_ACTIVATION, num_threads=1):
    out = np.full((len(x), len(w)), np.nan, f32)
    kernels.linear_f32(x, w, bias, activation, out, num_threads)
    return out


@pytest.mark.parametrize("k", [1, 7, 8, 9, 300])
def test_linear_f32_sums_in_order(rng, k):
    x = rng.standard_normal((5, k)).astype(f32)
    w = rng.standard_normal((270, k)).astype(f32)
    bias = rng.standard_normal(270).astype(f32)
    sums = np.zeros((5, 270), f32)
    for p in range(k):
        sums = sums + x[:, p, None] * w[:, p]
    same_bits(linear_f32(x, w), sums)
    same_bits(linear_f32(x, np.asfortranarray(w)), sums)
    same_bits(linear_f32(x, w.repeat(2, axis=1)[:, ::2]), sums)
    for activation in ACTIVATIONS:
        same_bits(linear_f32(x, w, bias, activation), activation_reference(sums + bias, activation))


@pytest.mark.parametrize(("m", "n"), [(1, 40), (40, 1), (37, 22), (9, 530)])
def test_bits_do_not_depend_on_threads_or_batch(rng, tiny_grain, monkeypatch, m, n):
    monkeypatch.setattr(gemm, "TILE", 700)  # several tiles
    x, w, w_scale, bias = layer(rng, m, n, 35)
    packed, w_float = kernels.pack_int8(w, w_scale), w * w_scale[:, None]
    gelu = (last_step.GELU, 0.0, 0.0)

    def results(x, num_threads):
        y_float, y_bytes = np.empty((len(x), n), f32), np.empty((len(x), n), np.int8)
        kernels.linear(x, packed, bias, gelu, None, None, y_float, num_threads)
        kernels.linear(x, packed, bias, gelu, (0.02, 128), (0.02, 3), y_bytes, num_threads)
        q, scale, zero_point = quantize_rows(x, num_threads)
        sums = gemm_int8(q, w, zero_point, np.arange(n, dtype=np.int32) % 7, num_threads)
        return [y_float, y_bytes, q, scale, zero_point, sums, linear_f32(x, w_float, bias, gelu, num_threads)]

    expected = results(x, 1)
    for num_threads in (2, 3, 8):
        for got, alone in zip(results(x, num_threads), expected, strict=True):
            same_bits(got, alone)
    for got, batch in zip(results(x[-1:].copy(), 1), expected, strict=True):
        same_bits(got, np.ascontiguousarray(batch[-1:]))

    flat = x.reshape(-1)
    q1, q3 = np.empty(flat.shape, np.uint8), np.empty(flat.shape, np.uint8)
    assert kernels.dynamic_quantize_linear(flat, q1, 1) == kernels.dynamic_quantize_linear(flat, q3, 3)
    same_bits(q1, q3)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 5, 0), (0, 0, 0)])
def test_zero_sizes(rng, tiny_grain, shape, num_threads):
    m, n, k = shape
    x, w, w_scale, bias = layer(rng, m, n, k)
    packed = kernels.pack_int8(w, w_scale)
    expected = np.zeros((m, n), f32) + bias
    for x_qparams in (None, (0.5, 7)):
        out = np.full((m, n), np.nan, f32)
        kernels.linear(x, packed, bias, NO_ACTIVATION, x_qparams, None, out, num_threads)
        same_bits(out, expected)
    q, scale, zero_point = quantize_rows(x, num_threads)
    if k == 0:
        same_bits(scale, np.full(m, 1 / 255, f32))
        same_bits(zero_point, np.zeros(m, np.int32))
    out = np.full((m, n), 99, np.uint8)
    kernels.linear(q, packed, None, NO_ACTIVATION, (0.5, 7), (0.5, 3), out, num_threads)
    same_bits(out, np.full((m, n), 3, np.uint8))
    zw = np.ones(n, np.int32)
    same_bits(gemm_int8(q, w, zero_point, zw, num_threads), np.zeros((m, n), np.int32))
    same_bits(linear_f32(x, w.astype(f32), bias, NO_ACTIVATION, num_threads), expected)


def test_zero_sized_quantization():
    one, zero, none = np.ones(1, f32), np.zeros(1, np.int32), np.empty(0, f32)
    kernels.quantize_linear(np.empty((1, 1, 0), f32), one, zero, np.empty((1, 1, 0), np.uint8), None)
    kernels.dequantize_linear(np.empty((0, 1, 4), np.int8), one, zero, np.empty((0, 1, 4), f32), None)
    kernels.quantize_linear(np.empty((2, 0, 3), f32), none, np.empty(0, np.int32), np.empty((2, 0, 3), np.int8), None)
    assert kernels.dynamic_quantize_linear(none, np.empty(0, np.uint8), None) == (f32(1 / 255), 0)


def test_read_only_operands(rng):
    x, w, w_scale, bias = layer(rng)
    for array in (x, w, w_scale, bias):
        array.flags.writeable = False
    out = np.empty((len(x), len(w)), f32)
    kernels.linear(x, kernels.pack_int8(w, w_scale), bias, NO_ACTIVATION, None, None, out, 1)
    linear_f32(x, w.astype(f32), bias)


def compute_in_child(x, w, expected):
    np.testing.assert_array_equal(gemm_int8(x, w, num_threads=2), expected)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_after_threads(rng, tiny_grain):
    x, w = random_bytes(rng, np.uint8, (40, 30)), random_bytes(rng, np.int8, (20, 30))
    expected = gemm_int8(x, w, num_threads=2)
    child = multiprocessing.get_context("fork").Process(target=compute_in_child, args=(x, w, expected))
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_a_caller_with_fastmath_changes_no_bit(tmp_path):
    code = """
import numpy as np
from numba import njit
from pycompress.kernels.last_step import exp

@njit(fastmath=True)
def loose(x):
    return exp(x)

x = np.linspace(-20, 20, 4001, dtype=np.float32)
loose(x[0])
print(np.array([exp(value) for value in x], np.float32).tobytes().hex())
"""
    # A cache of its own: the caller is to be the first.
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    got = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=120)
    x = np.linspace(-20, 20, 4001, dtype=np.float32)
    assert bytes.fromhex(got.stdout.decode()) == np.array([last_step.exp(value) for value in x], np.float32).tobytes()
