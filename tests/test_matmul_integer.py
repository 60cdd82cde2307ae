"""matmul_integer and qlinear_matmul, exact against int64: every small shape, extremes, zero points, stacks."""

import itertools

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import EIGHT_BITS, f32, random_bytes, same_bits

import pycompress as pc
from pycompress import _backend

PAIRS = [pytest.param(x, w, id=f"{x.__name__}-{w.__name__}") for x in EIGHT_BITS for w in EIGHT_BITS]
pairs = pytest.mark.parametrize(("x_type", "w_type"), PAIRS)
EXTREMES = {np.uint8: [0, 1, 127, 128, 255], np.int8: [-128, -127, 0, 1, 127]}


def exact(a, b, a_zero_point=0, b_zero_point=0):
    """Stacks as numpy.matmul takes them; zero points broadcast against a and b."""
    a = a.astype(np.int64) - np.asarray(a_zero_point).astype(np.int64)
    b = b.astype(np.int64) - np.asarray(b_zero_point).astype(np.int64)
    return np.asarray(np.matmul(a, b)).astype(np.int32)


@pairs
def test_every_m_n_k_from_1_to_33(way, rng, x_type, w_type):
    kernels, largest = _backend.kernels(), 33
    # For one n and k the results of all m lie one behind the other, and are computed from the last to the first: what a
    # call writes beyond its own shows in the one behind it.
    rows = np.concatenate([np.arange(m) for m in range(1, largest + 1)])
    starts = [m * (m - 1) // 2 for m in range(1, largest + 2)]
    for k in range(1, largest + 1):
        x, w = random_bytes(rng, x_type, largest, k), random_bytes(rng, w_type, largest, k)
        wanted = reference.sums(x, w)[rows]
        for n in range(1, largest + 1):
            packed = kernels.pack_int8(w[:n], np.ones(n, f32))
            out = np.full((len(rows) + 1, n), 12345, np.int32)
            for m in range(largest, 0, -1):
                kernels.gemm_int8(x[:m], packed, None, None, out[starts[m - 1] : starts[m]], 1)
            assert np.array_equal(out[:-1], wanted[:, :n]), (n, k)
            assert (out[-1] == 12345).all(), (n, k)
    way.ran("gemm_s8")


@pairs
def test_public_function_on_small_shapes(way, rng, x_type, w_type):
    for m, n, k in itertools.product([1, 2, 3, 5, 8, 17], [1, 7, 8, 16, 31, 33, 65], [1, 2, 3, 4, 5, 15, 16, 33, 130]):
        a, b = random_bytes(rng, x_type, m, k), random_bytes(rng, w_type, k, n)
        same_bits(pc.matmul_integer(a, b), exact(a, b))
    way.ran("gemm_s8")


@pairs
@pytest.mark.parametrize(("m", "n", "k"), [(130, 257, 300), (1, 1030, 77), (515, 3, 1029), (64, 768, 768)])
def test_larger_shapes(way, rng, x_type, w_type, m, n, k):
    a, b = random_bytes(rng, x_type, m, k), random_bytes(rng, w_type, k, n)
    za, zb = random_bytes(rng, x_type, m), random_bytes(rng, w_type, n)
    same_bits(pc.matmul_integer(a, b), exact(a, b))
    same_bits(pc.matmul_integer(a, b, za, zb), exact(a, b, za[:, None], zb))
    way.ran("gemm_s8")


@pairs
@pytest.mark.parametrize("k", [4, 8, 31, 32, 64, 65, 259])
def test_extremes_in_neighbouring_lanes(way, x_type, w_type, k):
    """All groups of four extremes against all: sums of two products that leave 16 bits are among them."""
    x, w = (
        np.array(list(itertools.product(EXTREMES[t][::2], repeat=4)), t)[:, np.arange(k) % 4] for t in (x_type, w_type)
    )
    same_bits(pc.matmul_integer(x, w.T), exact(x, w.T))
    way.ran("gemm_s8")


@pairs
def test_extremes_in_every_lane_alone(way, rng, x_type, w_type):
    k = 133
    for x_value, w_value in itertools.product(EXTREMES[x_type], EXTREMES[w_type]):
        a, b = np.zeros((k, k), x_type), random_bytes(rng, w_type, k, 70)
        np.fill_diagonal(a, x_value)
        same_bits(pc.matmul_integer(a, b), np.int32(x_value) * b.astype(np.int32))
        a, b = random_bytes(rng, x_type, 29, k), np.zeros((k, k), w_type)
        np.fill_diagonal(b, w_value)
        same_bits(pc.matmul_integer(a, b), a.astype(np.int32) * np.int32(w_value))
    way.ran("gemm_s8")


@pairs
def test_extremes_of_zero_points(way, x_type, w_type):
    a = np.array(EXTREMES[x_type], x_type)[:, None].repeat(67, axis=1)
    b = np.array(EXTREMES[w_type], w_type)[None].repeat(67, axis=0)
    for za, zb in itertools.product(EXTREMES[x_type], EXTREMES[w_type]):
        same_bits(pc.matmul_integer(a, b, x_type(za), w_type(zb)), exact(a, b, za, zb))
    way.ran("gemm_s8")


@pairs
def test_longest_k_at_the_extremes(way, x_type, w_type):
    longest = 65793 if w_type == np.int8 else 33025
    a = np.array(EXTREMES[x_type], x_type)[:, None].repeat(longest, axis=1)
    b = np.array(EXTREMES[w_type], w_type)[None].repeat(longest, axis=0)
    for za in (None, *(x_type(value) for value in EXTREMES[x_type][::4])):
        same_bits(pc.matmul_integer(a, b, za), exact(a, b, za or 0))
    a, b = a[:, :33025], b[:33025]
    for za, zb in itertools.product(EXTREMES[x_type][::4], EXTREMES[w_type][::4]):
        same_bits(pc.matmul_integer(a, b, x_type(za), w_type(zb)), exact(a, b, za, zb))
    way.ran("gemm_s8")


def test_packed_weight_is_its_transpose(way, rng):
    weight = pc.Int8Weight(random_bytes(rng, np.int8, 40, 65), np.ones(40, f32))
    for dtype in EIGHT_BITS:
        a = random_bytes(rng, dtype, 3, 7, 65)
        same_bits(pc.matmul_integer(a, weight), exact(a, weight.q.T))
        zero_point = random_bytes(rng, np.int8, 40)
        same_bits(pc.matmul_integer(a, weight, dtype(3), zero_point), exact(a, weight.q.T, 3, zero_point))
    way.ran("gemm_s8")


# ---- stacks, zero points


dimensions = st.integers(0, 5)


@st.composite
def products(draw):
    """a, b, and their zero points, twice: as the operation takes them and as they broadcast in NumPy."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x_type, w_type = draw(st.sampled_from(EIGHT_BITS)), draw(st.sampled_from(EIGHT_BITS))
    m, n, k = (draw(st.integers(0, 70) | st.integers(1, 9)) for _ in range(3))
    batch = draw(st.lists(st.integers(0, 3), max_size=3))
    stacks = []
    for _ in range(2):
        stack = [draw(st.sampled_from([1, size])) for size in batch]
        stacks.append(stack[draw(st.integers(0, len(stack))) :])
    a = random_bytes(rng, x_type, *stacks[0], m, k)
    b = random_bytes(rng, w_type, *stacks[1], k, n)
    if draw(st.booleans()):
        a = np.asfortranarray(a)
    if draw(st.booleans()):
        b = np.moveaxis(np.ascontiguousarray(np.moveaxis(b, -1, -2)), -1, -2)
    za = draw(st.sampled_from(["none", "scalar", "one", "full"] + ["rows"] * (not stacks[0])))
    zb = draw(st.sampled_from(["none", "scalar", "one", "full", "columns"]))
    given_a = {
        "none": None,
        "scalar": random_bytes(rng, x_type)[()],
        "one": random_bytes(rng, x_type, 1),
        "rows": random_bytes(rng, x_type, m),
        "full": random_bytes(rng, x_type, *stacks[0], m, 1),
    }[za]
    given_b = {
        "none": None,
        "scalar": random_bytes(rng, w_type)[()],
        "one": random_bytes(rng, w_type, 1),
        "columns": random_bytes(rng, w_type, n),
        "full": random_bytes(rng, w_type, *stacks[1], 1, n),
    }[zb]
    wanted_a = 0 if given_a is None else given_a[:, None] if za == "rows" else given_a
    return a, b, given_a, given_b, exact(a, b, wanted_a, 0 if given_b is None else given_b)


@given(products())
def test_stacks_and_zero_points(product):
    a, b, a_zero_point, b_zero_point, wanted = product
    same_bits(pc.matmul_integer(a, b, a_zero_point, b_zero_point), wanted)


def test_vectors(rng):
    a, b = random_bytes(rng, np.uint8, 9), random_bytes(rng, np.int8, 9, 4)
    same_bits(pc.matmul_integer(a, b), exact(a, b))
    same_bits(pc.matmul_integer(b.T, a), exact(b.T, a))
    same_bits(pc.matmul_integer(a, b[:, 0]), np.int32(exact(a, b[:, 0])))
    stack = random_bytes(rng, np.uint8, 2, 3, 9)
    same_bits(pc.matmul_integer(stack, b[:, 0]), exact(stack, b[:, 0]))
    same_bits(pc.matmul_integer(a, stack.swapaxes(1, 2)), exact(a, stack.swapaxes(1, 2)))


def test_zero_points_as_python_ints(rng):
    a, b = random_bytes(rng, np.uint8, 3, 9), random_bytes(rng, np.int8, 9, 4)
    same_bits(pc.matmul_integer(a, b, 200, -100), exact(a, b, 200, -100))


@pytest.mark.parametrize("shape", [(0, 5, 3), (4, 5, 0), (4, 0, 3), (0, 0, 0)])
def test_empty_operands(shape):
    m, k, n = shape
    a, b = np.ones((m, k), np.uint8), np.ones((k, n), np.int8)
    same_bits(pc.matmul_integer(a, b, 1, 1), np.zeros((m, n), np.int32))
    same_bits(pc.qlinear_matmul(a, 1.0, 0, b, 1.0, 0, 1.0, 7), np.full((m, n), 7, np.uint8))


# ---- qlinear_matmul


def requantized(acc, a_scale, b_scale, y_scale, y_zero_point, dtype):
    """Scales that broadcast against acc."""
    multiplier = (np.asarray(a_scale, f32) * np.asarray(b_scale, f32)) / np.asarray(y_scale, f32)
    info = np.iinfo(dtype)
    level = np.rint(acc.astype(f32) * multiplier) + np.asarray(y_zero_point).astype(f32)
    return np.clip(level, info.min, info.max).astype(dtype)


@pairs
@pytest.mark.parametrize("y_type", EIGHT_BITS)
def test_qlinear_matmul_bits(way, rng, x_type, w_type, y_type):
    m, n, k = 13, 37, 66
    a, b = random_bytes(rng, x_type, m, k), random_bytes(rng, w_type, k, n)
    za, zb, zy = random_bytes(rng, x_type), random_bytes(rng, w_type, n), random_bytes(rng, y_type)
    a_scale, b_scale, y_scale = f32(0.013), rng.uniform(0.001, 0.02, n).astype(f32), f32(1.7)
    got = pc.qlinear_matmul(a, a_scale, za[()], b, b_scale, zb, y_scale, zy[()])
    way.ran("gemm_s8")
    same_bits(got, requantized(exact(a, b, za, zb), a_scale, b_scale, y_scale, zy, y_type))


@pytest.mark.parametrize("y_type", EIGHT_BITS)
def test_qlinear_matmul_by_row(rng, y_type):
    m, n, k = 13, 37, 66
    a, b = random_bytes(rng, np.uint8, 2, m, k), random_bytes(rng, np.int8, 2, k, n)
    za, zb = random_bytes(rng, np.uint8, 2, m, 1), random_bytes(rng, np.int8, 2, 1, n)
    zy = random_bytes(rng, y_type, 2, m, 1)
    a_scale, y_scale = rng.uniform(0.001, 0.02, (2, 2, m, 1)).astype(f32) * np.array([1, 99], f32).reshape(2, 1, 1, 1)
    b_scale = rng.uniform(0.001, 0.02, (2, 1, n)).astype(f32)
    got = pc.qlinear_matmul(a, a_scale, za, b, b_scale, zb, y_scale, zy)
    same_bits(got, requantized(exact(a, b, za, zb), a_scale, b_scale, y_scale, zy, y_type))
    got = pc.qlinear_matmul(
        a[0], a_scale[0, :, 0], za[0, :, 0], b[0], b_scale[0, 0], zb[0, 0], y_scale[0, :, 0], zy[0, :, 0]
    )
    same_bits(got, requantized(exact(a[0], b[0], za[0], zb[0]), a_scale[0], b_scale[0], y_scale[0], zy[0], y_type))


def test_qlinear_matmul_of_a_packed_weight(rng):
    weight = pc.Int8Weight.from_float(rng.standard_normal((40, 65), f32))
    a = random_bytes(rng, np.uint8, 7, 65)
    wanted = requantized(exact(a, weight.q.T, 3), f32(0.02), weight.scale, f32(0.1), 9, np.uint8)
    for b_scale, b_zero_point in ((None, None), (weight.scale, 0), (None, np.int8(0))):
        same_bits(pc.qlinear_matmul(a, 0.02, 3, weight, b_scale, b_zero_point, 0.1, 9), wanted)


def test_qlinear_matmul_agrees_with_linear(rng):
    """By row or not, the same rule."""
    weight = pc.Int8Weight.from_float(rng.standard_normal((40, 65), f32))
    a = random_bytes(rng, np.int8, 7, 65)
    by_linear = pc.linear(a, weight, x_qparams=(0.02, 5), y_qparams=(0.1, -9))
    same_bits(pc.qlinear_matmul(a, 0.02, 5, weight, None, None, 0.1, np.int8(-9)), by_linear)
    rows = np.full(7, 0.02, f32), np.full(7, 5, np.int8), np.full(7, 0.1, f32), np.full(7, -9, np.int8)
    same_bits(pc.qlinear_matmul(a, rows[0], rows[1], weight, None, None, rows[2], rows[3]), by_linear)
