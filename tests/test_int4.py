"""Int4Weight: how it is made and kept, and linear by it against docs/exactness.md to the bit."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import reference
from reference import ACTIVATIONS, EIGHT_BITS, f32, random_bytes, same_bits

import pycompress as pc

GROUP_SIZES = (32, 64, 128, None)
# Of tiles, panels and chunks: less than one, one, one and some, several; odd sizes throughout.
SHAPES = [(1, 1, 1), (2, 33, 31), (3, 5, 64), (4, 16, 33), (5, 31, 129), (7, 32, 96), (13, 65, 257), (31, 70, 300)]


def random_weight(rng, n, k, group_size=32, magnitude=0.01):
    groups = -(-k // (group_size or k))
    q = rng.integers(-7, 8, (n, k), np.int8)
    return pc.Int4Weight(q, (rng.uniform(0.1, 1, (n, groups)) * magnitude).astype(f32))


@reference.quiet
def wanted(x, weight, bias=None, activation=None, x_qparams=None, y_qparams=None, dtype=None):
    """docs/exactness.md, operation by operation."""
    if x_qparams is None:
        x, x_scale, x_zero_point = reference.quantize_rows(x)
    else:
        x_scale, x_zero_point = f32(x_qparams[0]), x_qparams[1]
        if x.dtype == f32:
            x = reference.quantize_given(x, x_scale, x_zero_point)
    q, size = weight.q, weight.group_size
    total = np.zeros((len(x), len(q)), f32)
    for g in range(weight.scale.shape[1]):
        part = slice(g * size, (g + 1) * size)
        total = total + reference.sums(x[:, part], q[:, part], x_zero_point).astype(f32) * weight.scale[:, g]
    y = total * np.reshape(f32(x_scale), (-1, 1))
    y = reference.activate(y if bias is None else y + bias, activation)
    if y_qparams is None:
        return y
    info = np.iinfo(dtype or x.dtype)
    return np.clip(np.rint(y / f32(y_qparams[0])) + f32(y_qparams[1]), info.min, info.max).astype(info.dtype)


# ---- what is computed


@pytest.mark.parametrize("group_size", GROUP_SIZES, ids=str)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_rows_quantized_on_the_fly(way, rng, m, n, k, group_size):
    weight, x = random_weight(rng, n, k, group_size), rng.standard_normal((m, k)).astype(f32)
    x[1::4], x[2::4] = abs(x[1::4]), 0
    for bias, activation in itertools.product((None, rng.standard_normal(n).astype(f32)), ACTIVATIONS):
        got = pc.linear(x, weight, bias, activation=activation)
        way.ran("gemm_s4")
        same_bits(got, wanted(x, weight, bias, activation))


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_quantized_x_and_results(way, rng, m, n, k, dtype):
    info = np.iinfo(dtype)
    x, bias = random_bytes(rng, dtype, m, k), rng.standard_normal(n).astype(f32)
    for group_size, zero_point in itertools.product(GROUP_SIZES, (info.min, info.min + 77, info.max)):
        weight, x_qparams = random_weight(rng, n, k, group_size), (0.013, int(zero_point))
        for activation, y_type in itertools.product((None, "relu6", "gelu"), (None, np.uint8, np.int8)):
            y_qparams = None if y_type is None else (0.05, int(np.iinfo(y_type).min) + 101)
            out = None if y_type is None else np.empty((m, n), y_type)
            got = pc.linear(x, weight, bias, activation=activation, x_qparams=x_qparams, y_qparams=y_qparams, out=out)
            way.ran("gemm_s4")
            same_bits(got, wanted(x, weight, bias, activation, x_qparams, y_qparams, y_type))


def test_float32_x_with_given_qparams(way, rng):
    for m, n, k in SHAPES:
        weight, x = random_weight(rng, n, k), rng.standard_normal((m, k)).astype(f32)
        x[0, 0] = np.inf
        same_bits(pc.linear(x, weight, x_qparams=(0.02, 119)), wanted(x, weight, x_qparams=(0.02, 119)))


@pytest.mark.parametrize("rows", [3, 13])  # either kind of kernel
def test_pairs_of_values_in_every_lane(way, rows):
    """One value of x that is not 0: each of 256 at some places of k. All pairs at all places: gemm_s4_test.cpp."""
    k, n, zero_point = 40, 33, 0
    q = np.array([np.roll(np.resize(np.arange(-7, 8, dtype=np.int8), k), j) for j in range(n)])
    weight = pc.Int4Weight(q, np.ones((n, 2), f32))
    places = np.resize(np.arange(k), -(-k // rows) * rows).reshape(-1, rows)
    for value in range(256):
        for some in places if value in (0, 1, 127, 128, 254, 255) else places[value % len(places)][None]:
            x = np.zeros((rows, k), np.uint8)
            x[np.arange(rows), some] = value
            got = pc.linear(x, weight, x_qparams=(1, zero_point))
            same_bits(got, (value * q[:, some].T.astype(np.int32)).astype(f32))
    way.ran("gemm_s4")


@pytest.mark.parametrize("rows", [1, 9])
def test_extremes(way, rows):
    """The largest sums there are, which must not saturate on the way."""
    n, k = 35, 1000
    for x_value, w_value, zero_point, group_size in itertools.product((0, 255), (-7, 7), (0, 255), GROUP_SIZES):
        groups = -(-k // (group_size or k))
        weight = pc.Int4Weight(np.full((n, k), w_value, np.int8), np.full((n, groups), 0.5, f32))
        x = np.full((rows, k), x_value, np.uint8)
        y = pc.linear(x, weight, x_qparams=(1, zero_point))
        assert (y == 0.5 * k * (x_value - zero_point) * w_value).all()
    way.ran("gemm_s4")


def test_longest_k(way):
    k = 1 << 19
    bytes_of_7 = np.full((1, k // 2), 0x77, np.uint8)
    weight = pc.Int4Weight(bytes_of_7, np.ones((1, 1), f32))
    for rows in (1, 6):
        y = pc.linear(np.full((rows, k), 255, np.uint8), weight, x_qparams=(1, 0))
        assert (y == f32(255 * 7 * k)).all()
    too_long = pc.Int4Weight(np.zeros((1, k // 2 + 1), np.uint8), np.ones((1, 1), f32))
    with pytest.raises(OverflowError, match=f"{k + 2}"):
        pc.linear(np.zeros((1, k + 2), f32), too_long)


def test_a_row_does_not_depend_on_the_others(way, rng):
    weight, x = random_weight(rng, 50, 200, 64), rng.standard_normal((40, 200)).astype(f32)
    whole = pc.linear(x, weight, activation="silu")
    for m in (*range(1, 14), 25):
        same_bits(pc.linear(x[:m], weight, activation="silu"), whole[:m])


def test_threads(way, rng):
    for m in (1, 40):
        weight, x = random_weight(rng, 300, 500, 128), rng.standard_normal((m, 500)).astype(f32)
        same_bits(pc.linear(x, weight, num_threads=2), pc.linear(x, weight, num_threads=1))


def test_layouts_and_out(rng):
    weight, x = random_weight(rng, 9, 77), rng.standard_normal((2, 3, 77)).astype(f32)
    y = pc.linear(x, weight)
    assert y.shape == (2, 3, 9)
    out = np.empty((2, 3, 9), f32)
    assert pc.linear(x, weight, out=out) is out
    same_bits(out, y)
    same_bits(pc.linear(np.asfortranarray(x), weight), y)
    strided = pc.Int4Weight(np.asfortranarray(weight.data), np.asfortranarray(weight.scale), k=77)
    same_bits(pc.linear(x, strided), y)


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 5), (3, 0, 5), (3, 4, 0), (0, 0, 0)])
def test_empty(way, m, n, k):
    weight, bias = pc.Int4Weight.from_float(np.ones((n, k), f32)), np.arange(n, dtype=f32)
    same_bits(pc.linear(np.ones((m, k), f32), weight, bias), np.broadcast_to(bias if k == 0 else 0, (m, n)).astype(f32))


# ---- the weight


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("group_size", GROUP_SIZES, ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 32), (5, 33), (7, 100), (2, 257)])
def test_from_float_is_the_definition(rng, n, k, group_size, dtype):
    w = (rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-3, 3, (n, k))).astype(dtype)
    w[0, :32] = 0
    weight = pc.Int4Weight.from_float(w, group_size)
    size = group_size or k
    w = w.astype(f32)
    for g in range(-(-k // size)):
        part = slice(g * size, (g + 1) * size)
        scale = abs(w[:, part]).max(axis=1) / f32(7)
        scale[scale == 0] = 1
        same_bits(weight.scale[:, g], scale)
        same_bits(weight.q[:, part], np.clip(np.rint(w[:, part] / scale[:, None]), -7, 7).astype(np.int8))
    assert weight.shape == (n, k)
    assert weight.nbytes == n * ((k + 1) // 2) + weight.scale.nbytes
    same_bits(weight.todense(), weight.q * np.repeat(weight.scale, size, axis=1)[:, :k])


def test_from_float_in_pieces(rng, monkeypatch):
    from pycompress.weights import int4

    w = rng.standard_normal((23, 50)).astype(f32)
    whole = pc.Int4Weight.from_float(w)
    for chunk in (1, 120):
        monkeypatch.setattr(int4, "_CHUNK", chunk)
        some = pc.Int4Weight.from_float(w)
        same_bits(some.data, whole.data)
        same_bits(some.scale, whole.scale)


def test_values_and_bytes_are_the_same_weight(rng):
    for k in (1, 2, 33, 64):
        q, scale = rng.integers(-7, 8, (5, k), np.int8), np.ones((5, -(-k // 32)), f32)
        weight = pc.Int4Weight(q, scale)
        same_bits(weight.q, q)
        assert weight.data.dtype == np.uint8
        assert weight.data.shape == (5, (k + 1) // 2)
        same_bits(weight.data & 15, (q[:, ::2] & 15).view(np.uint8))
        other = pc.Int4Weight(weight.data, scale, k=k)
        same_bits(other.q, q)
        assert other.shape == (5, k)
    assert pc.Int4Weight(np.zeros((5, 3), np.uint8), np.ones((5, 1), f32)).shape == (5, 6)


@pytest.mark.parametrize(
    ("k", "groups", "size"), [(20, 1, 32), (33, 2, 32), (33, 1, 64), (100, 1, 128), (300, 10, 32), (300, 5, 64)]
)
def test_group_size_follows_from_the_scales(k, groups, size):
    assert pc.Int4Weight(np.zeros((2, k), np.int8), np.ones((2, groups), f32)).group_size == size
    assert pc.Int4Weight(np.zeros((2, 300), np.int8), np.ones((2, 1), f32)).group_size == 300


@pytest.mark.parametrize("used", [False, True])
def test_copies_compute_the_same(rng, used):
    weight, x = random_weight(rng, 5, 77), rng.standard_normal((3, 77)).astype(f32)
    if used:
        pc.linear(x, weight)
    for how in (copy.copy, copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))):
        other = how(weight)
        assert type(other) is pc.Int4Weight
        assert other.shape == (5, 77)
        same_bits(other.data, weight.data)
        same_bits(pc.linear(x, other), pc.linear(x, weight))
    assert len(pickle.dumps(weight)) < weight.nbytes + 1000


def test_arrays_are_read_only(rng):
    weight = random_weight(rng, 3, 5)
    for array in (weight.data, weight.scale, weight.q):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


# ---- errors

Q, SCALE = np.zeros((2, 70), np.int8), np.ones((2, 3), f32)


@pytest.mark.parametrize(
    ("error", "match", "make"),
    [
        (TypeError, "q is", lambda: pc.Int4Weight(Q.astype(np.int32), SCALE)),
        (ValueError, "q has shape", lambda: pc.Int4Weight(Q[0], SCALE)),
        (ValueError, "values from -8", lambda: pc.Int4Weight(np.minimum(Q, -8), SCALE)),
        (ValueError, "to 8, wanted", lambda: pc.Int4Weight(np.maximum(Q, 8), SCALE)),
        (ValueError, "holds -8", lambda: pc.Int4Weight(np.full((2, 35), 0x80, np.uint8), SCALE)),
        (ValueError, "holds -8", lambda: pc.Int4Weight(np.full((2, 35), 8, np.uint8), SCALE)),
        (ValueError, "k is 68", lambda: pc.Int4Weight(np.zeros((2, 35), np.uint8), SCALE, k=68)),
        (ValueError, "k is 69", lambda: pc.Int4Weight(Q, SCALE, k=69)),
        (TypeError, "scale is", lambda: pc.Int4Weight(Q, SCALE.astype(np.float64))),
        (ValueError, "scale has shape", lambda: pc.Int4Weight(Q, SCALE[:1])),
        (ValueError, r"wanted \(2, 3\) or \(2, 2\) or \(2, 1\)", lambda: pc.Int4Weight(Q, np.ones((2, 4), f32))),
        (ValueError, r"scale\[1, 2\] is 0", lambda: pc.Int4Weight(Q, np.array([[1, 1, 1], [1, 1, 0]], f32))),
        (ValueError, r"scale\[0, 1\] is nan", lambda: pc.Int4Weight(Q, np.array([[1, np.nan, 1]] * 2, f32))),
        (TypeError, "w is an array of int64", lambda: pc.Int4Weight.from_float(np.ones((2, 3), int))),
        (ValueError, "w has shape", lambda: pc.Int4Weight.from_float(np.ones(3, f32))),
        (ValueError, "NaN or infinity", lambda: pc.Int4Weight.from_float(np.full((2, 3), np.inf, f32))),
        (ValueError, "group_size is 48", lambda: pc.Int4Weight.from_float(np.ones((2, 3), f32), 48)),
    ],
)
def test_errors(error, match, make):
    with pytest.raises(error, match=match):
        make()


def test_errors_of_linear(way, rng):
    weight, x = random_weight(rng, 5, 77), np.ones((2, 77), f32)
    with pytest.raises(ValueError, match="x has shape"):
        pc.linear(x[:, 1:], weight)
    with pytest.raises(ValueError, match="x_qparams is None"):
        pc.linear(x.astype(np.uint8), weight)
    with pytest.raises(ValueError, match="NaN"):
        pc.linear(np.full((2, 77), np.nan, f32), weight)
    bias = np.array([0, 0, np.nan, 0, 0], f32)
    with pytest.raises(ValueError, match="NaN"):
        pc.linear(x.astype(np.uint8), weight, bias, x_qparams=(1, 0), y_qparams=(1, 0))


@pytest.mark.parametrize("used", [False, True])
def test_no_result_goes_into_a_weight(used):
    data, scale = np.zeros((4, 35), np.uint8), np.ones((4, 3), f32)
    weight, x = pc.Int4Weight(data, scale), np.ones((1, 70), np.uint8)
    if used:
        pc.linear(x, weight, x_qparams=(1, 0))
    for name, memory in ("data", data), ("scale", scale.view(np.uint8)):
        with pytest.raises(ValueError, match=f"out shares memory with weight.{name}"):
            pc.linear(x, weight, x_qparams=(1, 0), y_qparams=(1, 0), out=memory.reshape(-1)[:4].reshape(1, 4))


# ---- inside @njit


@pytest.mark.skipif(not reference.NATIVE, reason="about the native kernels")
def test_inside_njit(rng):
    numba = pytest.importorskip("numba")
    import pycompress.numba as pn

    weight, x = random_weight(rng, 9, 77, 64), rng.standard_normal((6, 77)).astype(f32)
    bias = rng.standard_normal(9).astype(f32)

    @numba.njit
    def layer(x, data, scale, bias, out):
        packed = pn.pack_int4(data, scale, 77, 64)
        for ith in range(2):
            pn.linear_int4(x, packed, bias, pn.RELU, None, None, out, ith, 2)

    out = np.empty((6, 9), f32)
    layer(x, np.array(weight.data), np.array(weight.scale), bias, out)
    same_bits(out, pc.linear(x, weight, bias, activation="relu"))
    with pytest.raises(ValueError, match="do not fit"):
        layer(x, np.array(weight.data[:, 1:]), np.array(weight.scale), bias, out)
