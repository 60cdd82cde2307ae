"""linear: the quantized forms against docs/exactness.md to the bit, float32 against float64; rows, shapes, out."""

import itertools
import math

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import ACTIVATIONS, EIGHT_BITS, f32, random_bytes, same_bits

import pycompress as pc

activations = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
# Of tiles and vectors: less than one, one, one and some, several.
SHAPES = [(1, 1, 1), (3, 5, 7), (7, 16, 32), (13, 33, 65), (9, 70, 130), (31, 131, 257)]


def random_weight(rng, n, k):
    return pc.Int8Weight(random_bytes(rng, np.int8, n, k), rng.uniform(0.001, 0.02, n).astype(f32))


def random_rows(rng, m, k):
    """float32 rows of different scale, some of one sign, one of zeros."""
    x = rng.standard_normal((m, k)) * 10.0 ** rng.uniform(-3, 3, (m, 1))
    x[1::4] = abs(x[1::4])
    x[2::4] = -abs(x[2::4])
    x[4:5] = 0
    return x.astype(f32)


def bias_for(rng, n, like):
    """Biases of the size of the sums, and some that saturate an int32."""
    bias = (rng.standard_normal(n) * like).astype(f32)
    bias[3::11], bias[4::11], bias[5::11] = 3e38, -3e38, -0.0
    return bias


# ---- int8 weights, float32 result


@activations
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_rows_quantized_on_the_fly(way, rng, m, n, k, activation):
    weight, x = random_weight(rng, n, k), random_rows(rng, m, k)
    for bias in (None, rng.standard_normal(n).astype(f32)):
        got = pc.linear(x, weight, bias, activation=activation)
        way.ran("gemm_s8")
        same_bits(got, reference.linear(x, weight.q, weight.scale, bias, activation))


@activations
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_float32_x_with_given_qparams(way, rng, m, n, k, activation):
    weight, x, x_qparams = random_weight(rng, n, k), random_rows(rng, m, k), (0.037, 119)
    x[0, 0] = -math.inf
    x[-1, -1] = math.inf
    bias = rng.standard_normal(n).astype(f32)
    got = pc.linear(x, weight, bias, activation=activation, x_qparams=x_qparams)
    way.ran("gemm_s8")
    same_bits(got, reference.linear(x, weight.q, weight.scale, bias, activation, x_qparams))


@activations
@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_quantized_x_with_float32_result(way, rng, m, n, k, dtype, activation):
    weight, x = random_weight(rng, n, k), random_bytes(rng, dtype, m, k)
    for zero_point in (0, int(np.iinfo(dtype).max), int(np.iinfo(dtype).min)):
        bias, x_qparams = rng.standard_normal(n).astype(f32), pc.QParams(0.013, zero_point)
        got = pc.linear(x, weight, bias, activation=activation, x_qparams=x_qparams)
        way.ran("gemm_s8")
        same_bits(got, reference.linear(x, weight.q, weight.scale, bias, activation, x_qparams))


def test_row_ranges_that_are_special(way, rng):
    weight = random_weight(rng, 33, 77)
    x = (rng.standard_normal((60, 77)) * 10.0 ** rng.uniform(-45, 36, (60, 1))).astype(f32)
    x[0], x[1], x[2] = 0, -0.0, 1e-45
    x[3] = np.linspace(-1.5, 253.5, 77)  # halves
    x[4, :2] = -1.7e38, 1.7e38
    x[5], x[6] = np.linspace(0, 7.5e-37, 77), np.linspace(0, 7.4e-37, 77)  # about where 1 / scale overflows
    same_bits(pc.linear(x, weight), reference.linear(x, weight.q, weight.scale))
    way.ran("gemm_s8")


# ---- int8 weights, quantized result


@activations
@pytest.mark.parametrize("y_type", EIGHT_BITS)
@pytest.mark.parametrize("x_type", EIGHT_BITS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_requantized_result(way, rng, m, n, k, x_type, y_type, activation):
    weight, x = random_weight(rng, n, k), random_bytes(rng, x_type, m, k)
    x_qparams = 0.013, int(random_bytes(rng, x_type))
    # Fine enough that results saturate, and coarse enough that all levels near the zero point are met.
    for y_scale, with_bias in itertools.product((0.002, 0.05), (False, True)):
        y_qparams = y_scale, int(random_bytes(rng, y_type))
        bias = bias_for(rng, n, like=2) if with_bias else None
        out = np.empty((m, n), y_type)
        got = pc.linear(x, weight, bias, activation=activation, x_qparams=x_qparams, y_qparams=y_qparams, out=out)
        way.ran("gemm_s8")
        assert got is out
        same_bits(got, reference.linear(x, weight.q, weight.scale, bias, activation, x_qparams, y_qparams, y_type))


@pytest.mark.parametrize("y_type", EIGHT_BITS)
@pytest.mark.parametrize("k", [*range(1, 10), 12, 13, 16, 19, 20, 23, 24, 27, 28, 31, 32, 33, 36])
def test_few_values_of_k_and_few_outputs(way, rng, k, y_type):
    """Kernels of their own for up to 32 values of k, and for up to half a panel; whole panels beside what is left."""
    for n in (1, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 96):
        weight, bias = random_weight(rng, n, k), bias_for(rng, n, like=2)
        for m, x_type in zip((1, 2, 11, 13, 50, 301), itertools.cycle(EIGHT_BITS)):
            x = random_bytes(rng, x_type, m, k)
            about = {
                "x_qparams": (0.013, int(random_bytes(rng, x_type))),
                "y_qparams": (0.02, int(random_bytes(rng, y_type))),
            }
            out = np.empty((m, n), y_type)
            pc.linear(x, weight, bias, activation="relu6", out=out, **about)
            same_bits(out, reference.linear(x, weight.q, weight.scale, bias, "relu6", **about, dtype=y_type))
    way.ran("gemm_s8")


def test_sums_that_leave_int32_by_their_multiplier(way, rng):
    """Beside others in a panel: they saturate, as those do whose bias is too large to be a start."""
    n, k = 40, 16
    weight, x = random_weight(rng, n, k), random_bytes(rng, np.uint8, 25, k)
    bias = bias_for(rng, n, like=2)
    for scales, large in ((slice(3, 4), None), (slice(0, n), None), (slice(0, 0), slice(5, 9))):
        scale, about = weight.scale.copy(), {"x_qparams": (0.013, 100), "y_qparams": (0.02, 7)}
        scale[scales] = 3e33
        b = bias.copy()
        if large:
            b[large] = 1e9
        got = pc.linear(x, pc.Int8Weight(weight.q, scale), b, **about)
        same_bits(got, reference.linear(x, weight.q, scale, b, **about))
        way.ran("gemm_s8")


def beside(rng, values):
    """Float32 values that are up to two steps away: about half of them round to the other side."""
    values = values.astype(f32)
    return (values.view(np.int32) + rng.integers(-2, 3, values.shape, np.int32)).view(f32)


@pytest.mark.parametrize("activation", [None, (-3.0, 1e9), "hardswish", "silu", "gelu"], ids=str)
@pytest.mark.parametrize("y_scale", [1.7, 0.3, 11.0])
def test_requantizing_beside_halves(way, rng, y_scale, activation):
    """Every result lies next to a half, so that the rounding of each float32 operation decides."""
    n, x_scale = 5000, f32(0.013)
    x, q = np.array([[211, 97, 5]], np.uint8), rng.integers(1, 127, (n, 3), np.int8)
    level = rng.integers(40, 120, n) + 0.5  # beyond where silu and gelu are more than y
    scale = beside(rng, level * y_scale / (reference.sums(x, q)[0] * float(x_scale)))
    arguments = {"activation": activation, "x_qparams": (x_scale, 0), "y_qparams": (y_scale, 3)}
    got = pc.linear(x, pc.Int8Weight(q, scale), **arguments)
    way.ran("gemm_s8")
    same_bits(got, reference.linear(x, q, scale, **arguments))


def test_quantizing_clamps_beside_halves(way, rng):
    """Results far out on both sides show the bounds."""
    weight, x = pc.Int8Weight(np.array([[-127], [127]], np.int8), np.full(2, 1e3, f32)), np.full((1, 1), 127, np.int8)
    for y_scale in rng.uniform(0.01, 10, 300).astype(f32):
        low, high = beside(rng, (np.sort(rng.integers(-120, 120, 2)) + np.array([-0.5, 0.5])) * float(y_scale))
        arguments = {"activation": (low, high), "x_qparams": (1.0, 0), "y_qparams": (y_scale, 3)}
        same_bits(pc.linear(x, weight, **arguments), reference.linear(x, weight.q, weight.scale, **arguments))
    way.ran("gemm_s8")


def test_quantizing_bias_beside_halves(way, rng):
    n, x_scale, w_scale = 5000, f32(0.013), f32(0.7)
    scale = x_scale * w_scale
    bias = beside(rng, (rng.integers(-120, 120, n) + 0.5) * float(scale))
    weight = pc.Int8Weight(np.zeros((n, 1), np.int8), np.full(n, w_scale))
    arguments = {"x_qparams": (x_scale, 0), "y_qparams": (scale, 0)}  # a level of the result for each of bias
    x = np.zeros((1, 1), np.int8)
    got = pc.linear(x, weight, bias, **arguments)
    way.ran("gemm_s8")
    same_bits(got, reference.linear(x, weight.q, weight.scale, bias, **arguments))


@pytest.mark.parametrize("given", [False, True])
def test_quantizing_x_beside_halves(way, rng, given):
    """The weight is the identity: the result shows each level of x."""
    k, rows = 256, 100
    step = 10.0 ** rng.uniform(-3, 1, (rows, 1))
    low = rng.integers(0, 200, (rows, 1))
    x = beside(rng, (rng.integers(0, 255, (rows, k)) - low + 0.5) * step)
    x[:, :1], x[:, 1:2] = -low * step, (255 - low) * step  # the ends of the range
    weight = pc.Int8Weight(np.eye(k, dtype=np.int8), np.ones(k, f32))
    for part in x[:, None] if given else [x]:
        qparams = (np.ptp(part) / 255, 100) if given else None
        got = pc.linear(part, weight, x_qparams=qparams)
        way.ran("gemm_s8")
        same_bits(got, reference.linear(part, weight.q, weight.scale, x_qparams=qparams))


@pytest.mark.parametrize("y_type", [np.float32, *EIGHT_BITS])
def test_every_tail_of_rows_and_columns(way, rng, y_type):
    """Results of all M lie one behind the other, computed from the last: what a call writes beyond its own shows."""
    largest_m, largest_n, k = 14, 70, 9
    x, all_of_it = random_bytes(rng, np.uint8, largest_m, k), random_weight(rng, largest_n, k)
    bias = rng.standard_normal(largest_n).astype(f32)
    qparams = {"x_qparams": (0.013, 77), "y_qparams": None if y_type == np.float32 else (0.05, 9)}
    rows = np.concatenate([np.arange(m) for m in range(1, largest_m + 1)])
    for activation in ("relu6", "gelu"):
        wanted = reference.linear(x, all_of_it.q, all_of_it.scale, bias, activation, **qparams, dtype=y_type)[rows]
        for n in range(1, largest_n + 1):
            weight = pc.Int8Weight(all_of_it.q[:n], all_of_it.scale[:n])
            memory = np.full((len(rows) + 1, n), 99, y_type)
            for m in range(largest_m, 0, -1):
                out = memory[m * (m - 1) // 2 : m * (m + 1) // 2]
                pc.linear(x[:m], weight, bias[:n], activation=activation, out=out, **qparams)
            same_bits(memory[:-1], wanted[:, :n])
            assert (memory[-1] == 99).all()
    way.ran("gemm_s8")


@pytest.mark.parametrize("x_type", EIGHT_BITS)
def test_quantized_result_has_the_type_of_x(rng, x_type):
    weight, x = random_weight(rng, 5, 9), random_bytes(rng, x_type, 3, 9)
    assert pc.linear(x, weight, x_qparams=(0.1, 0), y_qparams=(0.1, 0)).dtype == x_type


@pytest.mark.parametrize("x_type", EIGHT_BITS)
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_and_bias_saturate_together(way, x_type, sign):
    """The longest k at the extremes comes to within 127 of the end of int32, where bias has to saturate."""
    k, x_value = 65793, np.iinfo(x_type).max if x_type == np.uint8 else np.iinfo(x_type).min
    weight = pc.Int8Weight(np.full((9, k), -128 if sign * x_value < 0 else 127, np.int8), np.ones(9, f32))
    x = np.full((2, k), x_value, x_type)
    bias = (sign * np.array([0, 1, 1e3, 1e9, 2e9, 3e9, 1e38, -1e3, -3e9])).astype(f32)
    y_qparams = 2.0**24, 0
    got = pc.linear(x, weight, bias, x_qparams=(1.0, 0), y_qparams=y_qparams)
    way.ran("gemm_s8")
    same_bits(got, reference.linear(x, weight.q, weight.scale, bias, None, (1.0, 0), y_qparams))


# ---- a row's result does not depend on the batch


@pytest.mark.parametrize("kind", ["float32 weight", "int8 weight", "given qparams", "uint8", "requantized"])
def test_row_is_the_same_alone_and_in_a_batch(way, rng, kind):
    m, n, k = 67, 45, 83
    w = rng.standard_normal((n, k), f32)
    weight = w if kind == "float32 weight" else pc.Int8Weight.from_float(w)
    x = random_bytes(rng, np.uint8, m, k) if kind in ("uint8", "requantized") else random_rows(rng, m, k)
    arguments = {"bias": rng.standard_normal(n).astype(f32), "activation": "gelu"}
    if kind not in ("float32 weight", "int8 weight"):
        arguments["x_qparams"] = 0.05, 100
    if kind == "requantized":
        arguments["y_qparams"] = 0.1, 30
    together = pc.linear(x, weight, **arguments)
    same_bits(np.concatenate([pc.linear(row[None], weight, **arguments) for row in x]), together)
    order = rng.permutation(m)
    same_bits(pc.linear(x[order], weight, **arguments), together[order])
    for size in (*range(1, 18), 31):
        same_bits(pc.linear(x[-size:], weight, **arguments), together[-size:])
    for threads in (1, 2, 3):
        same_bits(pc.linear(np.tile(x, (9, 1)), weight, num_threads=threads, **arguments), np.tile(together, (9, 1)))


# ---- float32 weights


def float_tolerance(x, w, bias):
    """What K roundings of products and sums may add up to, for every order of summation and with or without FMA."""
    terms = np.abs(x.astype(np.float64)) @ np.abs(w.astype(np.float64)).T + (0 if bias is None else np.abs(bias))
    return (x.shape[-1] + 2) * 2.0**-24 * terms * 1.01


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [*SHAPES, (1, 300, 500), (200, 3, 1000), (70, 270, 521)])
def test_float32_weight_against_float64(way, rng, m, n, k, with_bias):
    x, w = rng.standard_normal((m, k), f32), rng.standard_normal((n, k), f32)
    bias = rng.standard_normal(n).astype(f32) if with_bias else None
    got = pc.linear(x, w, bias)
    way.ran("gemm_f32")
    wanted = x.astype(np.float64) @ w.astype(np.float64).T + (0 if bias is None else bias)
    assert (got.dtype, got.shape) == (np.float32, (m, n))
    assert (np.abs(got - wanted) <= float_tolerance(x, w, bias)).all()


@activations
def test_float32_activation_bits(way, rng, activation):
    """The activation is applied to exactly the value that comes without it."""
    x, w, bias = (rng.standard_normal(shape).astype(f32) * 3 for shape in ((29, 41), (67, 41), 67))
    plain = pc.linear(x, w, bias)
    with np.errstate(all="ignore"):
        same_bits(pc.linear(x, w, bias, activation=activation), reference.activate(plain, activation))
    way.ran("gemm_f32")


@activations
def test_activation_of_special_values(way, activation):
    y = [0.0, 1e-45, 1e-30, 3.0, 5 / 0.70710678, 7.0710678, 6.0, 87.0, 87.5, 1e4, 3e38, math.inf]
    y = np.array([*y, *(-v for v in y), math.nan], f32)
    with np.errstate(all="ignore"):
        wanted = reference.activate(y + f32(0), activation)
    got = pc.linear(np.zeros((1, 1), f32), np.zeros((len(y), 1), f32), y, activation=activation)[0]
    way.ran("gemm_f32")
    finite = np.isfinite(y)
    same_bits(got[finite], wanted[finite])
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("activation", ["hardswish", "silu", "gelu"])
def test_activation_of_many_values(way, rng, activation):
    """Enough of them that the last bit of each coefficient shows. Bias alone makes y."""
    y = np.concatenate([np.linspace(-100, 100, 10001), rng.standard_normal(200_000) * 4]).astype(f32)
    got = pc.linear(np.zeros((1, 1), f32), np.zeros((len(y), 1), f32), y, activation=activation)
    way.ran("gemm_f32")
    same_bits(got[0], reference.activate(y, activation))


def test_float32_weight_of_integers_is_exact(way, rng):
    """Where no rounding happens, nothing but the product remains: every element counted once."""
    for m, n, k in itertools.product([1, 2, 5, 6, 7, 13, 33], [1, 7, 8, 9, 15, 16, 17, 33, 70], [1, 2, 3, 8, 17, 40]):
        x, w = rng.integers(-50, 50, (m, k)).astype(f32), rng.integers(-50, 50, (n, k)).astype(f32)
        same_bits(pc.linear(x, w) + f32(0), (x.astype(np.int64) @ w.astype(np.int64).T).astype(f32))
    way.ran("gemm_f32")


def test_float32_every_tail_of_rows_and_columns(way, rng):
    x, w = rng.integers(-50, 50, (14, 9)).astype(f32), rng.integers(-50, 50, (70, 9)).astype(f32)
    rows = np.concatenate([np.arange(m) for m in range(1, 15)])
    wanted = (x.astype(np.int64) @ w.astype(np.int64).T).astype(f32)[rows]
    for n in range(1, 71):
        memory = np.full((len(rows) + 1, n), 99, f32)
        for m in range(14, 0, -1):
            pc.linear(x[:m], w[:n], out=memory[m * (m - 1) // 2 : m * (m + 1) // 2])
        same_bits(memory[:-1] + f32(0), wanted[:, :n])
        assert (memory[-1] == 99).all()
    way.ran("gemm_f32")


def test_float32_keeps_nan_and_infinity(way):
    x, w = np.array([[1, math.inf], [math.nan, 1], [1, 2]], f32), np.array([[1, 1], [1, -1], [0, 3]], f32)
    np.testing.assert_array_equal(
        pc.linear(x, w, activation="relu"), np.array([[math.inf, 0, math.inf], [math.nan] * 3, [3, 0, 6]], f32)
    )
    way.ran("gemm_f32")


# ---- shapes and layouts


@pytest.mark.parametrize("shape", [(9,), (1, 9), (4, 9), (2, 3, 9), (2, 1, 3, 9)])
@pytest.mark.parametrize("quantized", [False, True])
def test_leading_dimensions_of_x(rng, shape, quantized):
    w = rng.standard_normal((5, 9), f32)
    weight, x = pc.Int8Weight.from_float(w) if quantized else w, rng.standard_normal(shape).astype(f32)
    y = pc.linear(x, weight)
    assert y.shape == (*shape[:-1], 5)
    same_bits(y.reshape(-1, 5), pc.linear(x.reshape(-1, 9), weight))


layouts = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "rows apart": lambda a: np.pad(a, ((0, 0), (0, 5)))[:, : a.shape[1]],
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
}


@pytest.mark.parametrize("w_layout", layouts)
@pytest.mark.parametrize("x_layout", layouts)
def test_layouts_of_float32_operands(rng, x_layout, w_layout):
    x, w = rng.standard_normal((7, 33), f32), rng.standard_normal((41, 33), f32)
    same_bits(pc.linear(layouts[x_layout](x), layouts[w_layout](w)), pc.linear(x, w))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int8])
@pytest.mark.parametrize("layout", layouts)
def test_layouts_of_int8_operands(rng, layout, dtype):
    weight, change = random_weight(rng, 41, 33), layouts[layout]
    x = rng.standard_normal((7, 33), f32) if dtype == np.float32 else random_bytes(rng, dtype, 7, 33)
    scale, bias = (np.repeat(a, 2)[::2] for a in (weight.scale, rng.standard_normal(41, f32)))
    qparams = None if dtype == np.float32 else (0.01, 3)
    wanted = pc.linear(x, weight, bias.copy(), x_qparams=qparams)
    same_bits(pc.linear(change(x), pc.Int8Weight(change(weight.q), scale), bias, x_qparams=qparams), wanted)


def test_broadcast_views_are_operands(rng):
    x, w = np.broadcast_to(rng.standard_normal(9, f32), (4, 9)), np.broadcast_to(rng.standard_normal(9, f32), (5, 9))
    bias = np.broadcast_to(f32(0.5), (5,))
    same_bits(pc.linear(x, w, bias), pc.linear(x.copy(), w.copy(), bias.copy()))
    w = np.broadcast_to(rng.standard_normal((5, 1)).astype(f32), (5, 9))
    same_bits(pc.linear(x, w, bias), pc.linear(x.copy(), w.copy(), bias.copy()))


@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 9), (3, 0, 9), (3, 5, 0), (0, 0, 0)])
def test_empty_operands(m, n, k):
    bias, w = np.linspace(-1, 1, n, dtype=f32), np.ones((n, k), f32)
    wanted = np.tile(np.maximum(bias, f32(0)), (m, 1))
    for weight in (w, pc.Int8Weight.from_float(w)):
        same_bits(pc.linear(np.ones((m, k), f32), weight, bias, activation="relu"), wanted)
    q = np.ones((m, k), np.uint8)
    same_bits(pc.linear(q, pc.Int8Weight.from_float(w), bias, activation="relu", x_qparams=(1, 1)), wanted)
    got = pc.linear(q, pc.Int8Weight.from_float(w), bias, x_qparams=(0.5, 1), y_qparams=(0.25, 9))
    same_bits(got, np.tile(np.rint(np.rint(bias / f32(0.5)) * 2 + 9).astype(np.uint8), (m, 1)))


@st.composite
def layers(draw):
    m, n, k = (draw(st.integers(1, 150)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low = draw(st.floats(-50, 50, width=32))
    named = st.sampled_from([None, "relu", "relu6", "hardswish", "silu", "gelu"])
    activation = draw(named | st.just((low, low + draw(st.floats(0, 50, width=32)))))
    return rng, m, n, k, activation, draw(st.sampled_from([np.float32, *EIGHT_BITS])), draw(st.booleans())


@given(layers())
def test_any_layer(layer):
    rng, m, n, k, activation, x_type, requantize = layer
    scale = (10.0 ** rng.uniform(-6, 2, n)).astype(f32)
    weight = pc.Int8Weight(random_bytes(rng, np.int8, n, k), scale)
    bias = (rng.standard_normal(n) * scale * 300 * rng.choice([1, 1e3, 1e8])).astype(f32)
    if x_type == np.float32:
        x = random_rows(rng, m, k)
        qparams = [None, (float(rng.uniform(0.001, 1)), int(random_bytes(rng, np.uint8)))][rng.integers(2)], None
    else:
        x = random_bytes(rng, x_type, m, k)
        qparams = (float(rng.uniform(0.001, 1)), int(random_bytes(rng, x_type))), None
        if requantize:
            qparams = qparams[0], (float(10.0 ** rng.uniform(-3, 2)), int(random_bytes(rng, x_type)))
    got = pc.linear(x, weight, bias, activation=activation, x_qparams=qparams[0], y_qparams=qparams[1])
    same_bits(got, reference.linear(x, weight.q, weight.scale, bias, activation, *qparams))


# ---- out


outs = {
    "contiguous": lambda shape, dtype: np.zeros(shape, dtype),
    "strided": lambda shape, dtype: np.zeros((shape[0] * 2, shape[1] * 3), dtype)[1::2, 2::3],
    "Fortran": lambda shape, dtype: np.zeros(shape, dtype, order="F"),
    "reversed": lambda shape, dtype: np.zeros(shape, dtype)[::-1, ::-1],
    "unaligned": lambda shape, dtype: (
        np.zeros(4 * shape[0] * shape[1] + 1, np.uint8)[1 : math.prod(shape) * np.dtype(dtype).itemsize + 1]
        .view(dtype)
        .reshape(shape)
    ),
    "rows apart": lambda shape, dtype: np.zeros((shape[0], shape[1] + 3), dtype)[:, : shape[1]],
}


@pytest.mark.parametrize("layout", outs)
@pytest.mark.parametrize("kind", ["float32 weight", "int8 weight", "requantized"])
def test_out_is_written_and_returned(rng, kind, layout):
    m, n, k = 6, 35, 17
    w = rng.standard_normal((n, k), f32)
    weight, x = (w if kind == "float32 weight" else pc.Int8Weight.from_float(w)), rng.standard_normal((m, k), f32)
    qparams = {}
    if kind == "requantized":
        x, qparams = random_bytes(rng, np.int8, m, k), {"x_qparams": (0.1, 3), "y_qparams": (0.2, 5)}
    wanted = pc.linear(x, weight, **qparams)
    out = outs[layout]((m, n), wanted.dtype)
    assert pc.linear(x, weight, out=out, **qparams) is out
    same_bits(out, wanted)


def test_nothing_beside_out_is_written(rng):
    w, x = rng.standard_normal((35, 17), f32), rng.standard_normal((6, 17), f32)
    for weight in (w, pc.Int8Weight.from_float(w)):
        memory = np.full((8, 40), 7, f32)
        pc.linear(x, weight, out=memory[1:7, 2:37])
        same_bits(memory[1:7, 2:37], pc.linear(x, weight))
        memory[1:7, 2:37] = 7
        assert (memory == 7).all()


def test_out_may_lie_between_the_elements_of_x(rng):
    """Interleaved views share an address range, but no memory."""
    w, x = rng.standard_normal((9, 9), f32), rng.standard_normal((6, 9), f32)
    for weight, axis in itertools.product((w, pc.Int8Weight.from_float(w)), (1, 2)):
        memory = np.zeros((6, 18), f32)
        left, right = (memory[:, :9], memory[:, 9:]) if axis == 1 else (memory[:, ::2], memory[:, 1::2])
        left[:] = x
        pc.linear(left, weight, out=right)
        same_bits(right, pc.linear(x, weight))
        same_bits(left, x)


def test_out_may_lie_beside_x(rng):
    w = rng.standard_normal((9, 9), f32)
    for weight in (w, pc.Int8Weight.from_float(w)):
        memory = rng.standard_normal((12, 9), f32)
        wanted = pc.linear(memory[:6].copy(), weight)
        assert pc.linear(memory[:6], weight, out=memory[6:]).base is memory
        same_bits(memory[6:], wanted)


@pytest.mark.parametrize("quantized", [False, True])
def test_inputs_stay_as_they_are(rng, quantized):
    x, w, bias = rng.standard_normal((6, 9), f32), rng.standard_normal((5, 9), f32), rng.standard_normal(5).astype(f32)
    before = [a.copy() for a in (x, w, bias)]
    pc.linear(x, pc.Int8Weight.from_float(w) if quantized else w, bias, activation="relu")
    for now, then in zip((x, w, bias), before, strict=True):
        same_bits(now, then)
