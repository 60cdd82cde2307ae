"""docs/exactness.md in NumPy, one ufunc for each float32 operation, and the tools that the tests share.

Written from the page, not from the kernels. Matrices are 2-D, a clamp keeps the sign of zero, numbers are float32.
"""

import math
import os
import subprocess
import sys

import numpy as np

from pycompress import _backend

f32 = np.float32
quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore")  # for what is meant to overflow
NATIVE = _backend.NAME == "native"
EIGHT_BITS = [np.uint8, np.int8]
ACTIVATIONS = [None, "relu", "relu6", "hardswish", "silu", "gelu", (-0.75, 1.25), (0.5, 0.5), (-math.inf, 0.0), (0, 6)]
NAMED_CLAMPS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}

# Horner's rule, lowest coefficient first.
E = [1, 1, 0.499999911, 0.166664213, 0.0416683592, 0.0083747711, 0.00138294208]
G = [
    *[1.1283803, 0.636573851, 0.103085764, -0.0199528635, 0.000870852557, 0.000938040554],
    *[-0.00034720049, 6.11964715e-05, -5.67972938e-06, 2.2165041e-07],
]

# The instruction sets that can run here; with Numba, which has none, the one way that there is.
WAYS = [isa["name"] for isa in _backend.kernels().isas() if isa["usable"]] if NATIVE else ["numba"]


def random_bytes(rng, dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def same_bits(got, wanted):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    as_bytes = (a.view(np.dtype((np.void, a.itemsize))) for a in map(np.ascontiguousarray, (got, wanted)))
    if not np.array_equal(*as_bytes):
        np.testing.assert_array_equal(got, wanted)  # says where
        raise AssertionError("zeros of different signs, or NaNs of different bits")


def python(code, *, fails=False, **environment):
    """stdout of a Python that runs `code`, or stderr where it has to fail."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYCOMPRESS_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env | environment, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


# ---- activations


def horner(coefficients, x):
    result = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + f32(c)
    return result


def exp(x):
    """Of x <= 0."""
    n = np.rint(x * f32(1.44269504))
    r = (x - n * f32(0.693359375)) - n * f32(-2.12194440e-4)
    return np.where(x < -87, f32(0), horner(E, r) * np.ldexp(f32(1), np.clip(n, -130, 0).astype(np.int32)))


def clamp(y, low, high):
    y = np.where(y < low, low, y)
    return np.where(y > high, high, y)


def bounds_of(activation):
    """The bounds of a clamp in float32, or None."""
    pair = NAMED_CLAMPS.get(activation) if isinstance(activation, str) else activation
    return None if pair is None else (f32(pair[0]), f32(pair[1]))


@quiet
def activate(y, activation):
    if activation == "hardswish":
        return (y * clamp(y + f32(3), f32(0), f32(6))) / f32(6)
    if activation == "silu":
        e = exp(-np.abs(y))
        return y * (np.where(y >= 0, f32(1), e) / (f32(1) + e))
    if activation == "gelu":
        z = np.abs(y) * f32(0.70710678)
        c = np.minimum(z, f32(5))
        e = f32(0.5) * exp(-np.maximum(horner(G, c) * c, z * z))
        return np.where(y >= 0, y - y * e, y * e)
    bounds = bounds_of(activation)
    return y if bounds is None else clamp(y, *bounds)


# ---- quantization


@quiet
def quantize_linear(x, scale, zero_point, dtype):
    """scale and zero_point broadcast against x."""
    info = np.iinfo(dtype)
    level = np.rint(x / scale) + np.asarray(zero_point).astype(f32)
    return np.clip(level, info.min, info.max).astype(dtype)


def dequantize_linear(q, scale, zero_point):
    return (q.astype(np.int32) - np.asarray(zero_point).astype(np.int32)).astype(f32) * scale


def dynamic_quantize_linear(x):
    low, high = np.min(x, initial=0).astype(f32), np.max(x, initial=0).astype(f32)
    scale, zero_point = f32(f32(high - low) / f32(255)), f32(0)
    if scale == 0:
        scale = f32(1) / f32(255)
    else:
        zero_point = np.rint(np.clip(f32(0) - low / scale, f32(0), f32(255)))
    return quantize_linear(x, scale, zero_point, np.uint8), scale, np.uint8(zero_point)


@quiet
def quantize_given(x, scale, zero_point):
    level = np.rint(x * (f32(1) / f32(scale))) + f32(zero_point)
    return np.clip(level, 0, 255).astype(np.uint8)


@quiet
def quantize_rows(x):
    low, high = np.min(x, 1, initial=0).astype(f32), np.max(x, 1, initial=0).astype(f32)
    scale = (high - low) / f32(255)
    zero_point = np.rint(np.clip(f32(0) - low / scale, f32(0), f32(255)))
    is_zero = ~np.isfinite(f32(1) / scale)
    scale, zero_point = np.where(is_zero, f32(1) / f32(255), scale), np.where(is_zero, f32(0), zero_point)
    q = [quantize_given(*row) for row in zip(x, scale, zero_point, strict=True)]
    return np.array(q, np.uint8).reshape(x.shape), scale, zero_point.astype(np.int32)


@quiet
def int8_weight(w):
    """q and scale of a float32 weight [N, ...]."""
    outputs = w.reshape(len(w), math.prod(w.shape[1:]))
    scale = np.max(np.abs(outputs), 1, initial=0) / f32(127)
    scale = np.where(scale == 0, f32(1), scale)
    return np.clip(np.rint(outputs / scale[:, None]), -127, 127).astype(np.int8).reshape(w.shape), scale


# ---- products and their last step


def sums(x, w, x_zero_point=0, w_zero_point=0):
    """x [M, K], w [N, K]; zero points are numbers, or one for each row of x or w."""
    x = x.astype(np.int64) - np.reshape(np.asarray(x_zero_point, np.int64), (-1, 1))
    w = w.astype(np.int64) - np.reshape(np.asarray(w_zero_point, np.int64), (-1, 1))
    exact = x @ w.T
    assert abs(exact).max(initial=0) < 2**31
    return exact.astype(np.int32)


def float_result(acc, x_scale, w_scale, bias=None, activation=None):
    y = acc.astype(f32) * (np.reshape(f32(x_scale), (-1, 1)) * w_scale)
    return activate(y if bias is None else y + bias, activation)


@quiet
def quantized_result(acc, x_scale, w_scale, bias, activation, y_qparams, dtype):
    scale, (y_scale, y_zero_point) = f32(x_scale) * w_scale, map(f32, y_qparams)
    lowest, highest = f32(np.iinfo(dtype).min), f32(np.iinfo(dtype).max)
    if bias is not None:
        bias_q = np.clip(np.rint(bias / scale).astype(np.float64), -(2**31), 2**31 - 1).astype(np.int64)
        acc = np.clip(acc + bias_q, -(2**31), 2**31 - 1)
    acc = acc.astype(np.int32).astype(f32)
    if activation in ("hardswish", "silu", "gelu"):
        level = np.rint(activate(acc * scale, activation) / y_scale)
    else:
        level = np.rint(acc * (scale / y_scale))
        bounds = bounds_of(activation)
        if bounds is not None:
            low, high = (np.rint(bound / y_scale) + y_zero_point for bound in bounds)
            lowest, highest = np.clip([low, high], lowest, highest)
    return np.clip(level + y_zero_point, lowest, highest).astype(dtype)


@quiet
def linear(x, q, scale, bias=None, activation=None, x_qparams=None, y_qparams=None, dtype=None):
    """pc.linear(x, Int8Weight(q, scale), ...) for a matrix x; `dtype` of a quantized result, for None that of x."""
    if x_qparams is None:
        x, x_scale, x_zero_point = quantize_rows(x)
    else:
        x_scale, x_zero_point = f32(x_qparams[0]), x_qparams[1]
        if x.dtype == np.float32:
            x = quantize_given(x, x_scale, x_zero_point)
    acc = sums(x, q, x_zero_point)
    if y_qparams is None:
        return float_result(acc, x_scale, scale, bias, activation)
    return quantized_result(acc, x_scale, scale, bias, activation, y_qparams, dtype or x.dtype)
