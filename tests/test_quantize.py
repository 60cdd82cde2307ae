"""quantize_linear, dequantize_linear and dynamic_quantize_linear: bits against docs/exactness.md."""

import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import EIGHT_BITS, f32, random_bytes, same_bits

import pycompress as pc

types = pytest.mark.parametrize("dtype", EIGHT_BITS)
# shape, axis: vectors along the channels and along what is within one, and sizes about those of vectors.
CHANNELS = [
    ((1,), 0),
    ((5, 33), 1),
    ((33, 5), 0),
    ((2, 3, 19), 1),
    ((2, 3, 17, 5), -3),
    ((4, 70, 1), 1),
    ((3, 0, 2), 2),
]


def along(values, shape, axis):
    """One value for each slice along the axis, so that it broadcasts."""
    return values.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def floats(rng, shape):
    x = (rng.standard_normal(shape) * 20).astype(f32)
    special = [math.inf, -math.inf, 3e38, -3e38, -0.0, 1e-45, -1e-45, 0.5, 1.5, -2.5]
    x.flat[: len(special)] = special[: x.size]
    return x


@types
@pytest.mark.parametrize(("shape", "axis"), CHANNELS)
def test_quantize_and_dequantize_by_channel(way, rng, shape, axis, dtype):
    x, channels = floats(rng, shape), shape[axis]
    scale, zero_point = rng.uniform(0.05, 0.3, channels).astype(f32), random_bytes(rng, dtype, channels)
    spread = along(scale, shape, axis), along(zero_point, shape, axis)
    q = pc.quantize_linear(x, scale, zero_point, axis=axis)
    if x.size:
        way.ran("quant")
    same_bits(q, reference.quantize_linear(x, *spread, dtype))
    same_bits(pc.dequantize_linear(q, scale, zero_point, axis=axis), reference.dequantize_linear(q, *spread))
    same_bits(pc.dequantize_linear(q, scale, axis=axis), reference.dequantize_linear(q, spread[0], 0))


@types
def test_quantize_and_dequantize_every_length(way, rng, dtype):
    for n in range(1, 140):
        x, scale, zero_point = floats(rng, n), f32(rng.uniform(0.05, 0.3)), random_bytes(rng, dtype)[()]
        q = pc.quantize_linear(x, scale, zero_point)
        same_bits(q, reference.quantize_linear(x, scale, zero_point, dtype))
        same_bits(pc.dequantize_linear(q, scale, zero_point), reference.dequantize_linear(q, scale, zero_point))
    way.ran("quant")


@types
def test_all_bytes_and_zero_points(way, dtype):
    info = np.iinfo(dtype)
    q = np.arange(info.min, info.max + 1).astype(dtype)
    for zero_point in q:
        y = pc.dequantize_linear(q, f32(0.3), zero_point)
        same_bits(y, reference.dequantize_linear(q, f32(0.3), zero_point))
        same_bits(pc.quantize_linear(y, f32(0.3), zero_point), q)
    way.ran("quant")


@types
def test_rounds_half_to_even_by_division(way, dtype):
    """Next to a half, the last bit of the quotient decides; a product by the inverse would show."""
    for scale in np.geomspace(1e-3, 10, 50, dtype=f32):
        half = (np.arange(-140, 140, dtype=f32) + f32(0.5)) * scale
        x = np.concatenate([half, np.nextafter(half, f32(-1e9)), np.nextafter(half, f32(1e9))])
        same_bits(pc.quantize_linear(x, scale, dtype(5)), reference.quantize_linear(x, scale, dtype(5), dtype))
    way.ran("quant")


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 3e38])
def test_scales_at_the_ends_of_float32(way, scale):
    x = np.array([0, 1e-45, -1e-45, 1, -1, 3e38, -3e38, math.inf, -math.inf], f32)
    same_bits(pc.quantize_linear(x, f32(scale), np.int8(-3)), reference.quantize_linear(x, f32(scale), -3, np.int8))
    way.ran("quant")


def test_dequantize_int32(way, rng):
    x = rng.integers(-(2**31), 2**31, (3, 50)).astype(np.int32)
    x[0, :3] = 2**31 - 1, -(2**31), 2**24 + 1
    scale = rng.uniform(0.05, 0.3, 3).astype(f32)
    same_bits(pc.dequantize_linear(x, scale, axis=0), x.astype(f32) * scale[:, None])
    way.ran("quant")


@pytest.mark.parametrize("x_type", [np.float16, np.int32])
@types
def test_quantize_other_floats_and_integers(rng, x_type, dtype):
    x = (rng.standard_normal(99) * 50).astype(x_type)
    scale = np.float16(0.5) if x_type == np.float16 else f32(0.5)  # no rounding in the quotient
    got = pc.quantize_linear(x, scale, dtype(9))
    same_bits(got, reference.quantize_linear(x.astype(f32), f32(0.5), dtype(9), dtype))


@types
def test_float16_scale_gives_float16(rng, dtype):
    q = random_bytes(rng, dtype, 50)
    y = pc.dequantize_linear(q, np.float16(0.1), dtype(9))
    same_bits(y, (q.astype(np.int32) - 9).astype(np.float16) * np.float16(0.1))


@types
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7])
def test_blocked_scales(rng, dtype, blocks):
    """Blocks of ceil(7 / blocks); the last may be shorter."""
    blocks_used = -(-7 // -(-7 // blocks))
    x = floats(rng, (4, 7, 6))
    scale = rng.uniform(0.05, 0.3, (4, blocks_used, 6)).astype(f32)
    zero_point = random_bytes(rng, dtype, 4, blocks_used, 6)
    at = np.arange(7) // -(-7 // blocks)
    q = pc.quantize_linear(x, scale, zero_point, axis=1)
    same_bits(q, reference.quantize_linear(x, scale[:, at], zero_point[:, at], dtype))
    y = pc.dequantize_linear(q, scale, zero_point, axis=1)
    same_bits(y, reference.dequantize_linear(q, scale[:, at], zero_point[:, at]))


def test_one_scale_and_no_zero_point(rng):
    x = floats(rng, (3, 50))
    wanted = reference.quantize_linear(x, f32(0.1), 0, np.uint8)
    for scale in (0.1, f32(0.1), np.array([0.1], f32)):
        same_bits(pc.quantize_linear(x, scale, None), wanted)
    same_bits(pc.quantize_linear(x, 0.1, 7), reference.quantize_linear(x, f32(0.1), 7, np.uint8))
    same_bits(pc.dequantize_linear(wanted, 0.1, 7), reference.dequantize_linear(wanted, f32(0.1), 7))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3)])
def test_scalars_and_empty_arrays(shape):
    x, q = np.full(shape, 2.5, f32), np.full(shape, 25, np.uint8)
    same_bits(pc.quantize_linear(x, 0.1, np.uint8(0)), q)
    same_bits(pc.dequantize_linear(q, 0.5), q * f32(0.5))
    y, scale, zero_point = pc.dynamic_quantize_linear(x)
    same_bits(y, np.full(shape, 255, np.uint8))
    same_bits(scale, f32(2.5) / f32(255) if x.size else f32(1) / f32(255))
    same_bits(zero_point, np.uint8(0))


@pytest.mark.parametrize("order", ["F", "strided", "unaligned"])
def test_layouts_of_x(rng, order):
    x = rng.standard_normal((6, 35)).astype(f32)
    other = {
        "F": np.asfortranarray(x),
        "strided": np.repeat(x, 2, 1)[:, ::2],
        "unaligned": np.frombuffer(b"x" + x.tobytes(), f32, offset=1).reshape(x.shape),
    }[order]
    scale, zero_point = rng.uniform(0.01, 0.1, 35).astype(f32), random_bytes(rng, np.uint8, 35)
    q = pc.quantize_linear(x, scale, zero_point)
    same_bits(pc.quantize_linear(other, np.repeat(scale, 2)[::2], np.repeat(zero_point, 3)[::3]), q)
    strided = np.repeat(q, 2, 1)[:, ::2]
    same_bits(pc.dequantize_linear(strided, scale, zero_point), pc.dequantize_linear(q, scale, zero_point))
    for got, wanted in zip(pc.dynamic_quantize_linear(other), pc.dynamic_quantize_linear(x), strict=True):
        same_bits(got, wanted)


# ---- dynamic


RANGES = {
    "zeros": [0.0, -0.0],
    "one value": [3.7],
    "above 0": [1.0, 2.0, 3.3],
    "below 0": [-1.0, -2.0, -3.3],
    "subnormal": [1e-45, 3e-44],
    "scale underflows": [1e-43, -2e-43],
    "inverse of the scale overflows": [7.4e-37, 0.0],
    "widest": [-1.7e38, 1.7e38],
    "widest on one side": [3.4e38, 1.0],
    "halves": list(np.linspace(-1.5, 253.5, 256)),
}


@pytest.mark.parametrize("values", RANGES.values(), ids=RANGES)
def test_dynamic_quantize_special_ranges(way, values):
    x = np.array(values, f32)
    for got, wanted in zip(pc.dynamic_quantize_linear(x), reference.dynamic_quantize_linear(x), strict=True):
        same_bits(got, wanted)
    way.ran("quant")


def test_dynamic_quantize_every_length_and_place(way, rng):
    """Wherever the extremes are, they are found."""
    for n in range(1, 140):
        x = rng.standard_normal(n).astype(f32)
        x[rng.integers(n)], x[rng.integers(n)] = -9, 11
        for got, wanted in zip(pc.dynamic_quantize_linear(x), reference.dynamic_quantize_linear(x), strict=True):
            same_bits(got, wanted)
    way.ran("quant")


def test_dynamic_quantize_large(way, rng, threads):
    x = rng.standard_normal((700, 1001)).astype(f32) * f32(3)
    x[-1, -1], x[350, 500] = 40, -50
    wanted = reference.dynamic_quantize_linear(x)
    for n in (1, 2, 3):
        threads(n)
        for got, part in zip(pc.dynamic_quantize_linear(x), wanted, strict=True):
            same_bits(got, part)
    way.ran("quant")


@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32), max_size=70), st.floats(2.0**-99, 2.0**99, width=32))
def test_any_values(values, scale):
    x = np.array(values, f32)
    for got, wanted in zip(pc.dynamic_quantize_linear(x), reference.dynamic_quantize_linear(x), strict=True):
        same_bits(got, wanted)
    same_bits(pc.quantize_linear(x, f32(scale), np.int8(-7)), reference.quantize_linear(x, f32(scale), -7, np.int8))
