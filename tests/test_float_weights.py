"""Float16Weight and Float32Weight: the bits of a plain float32 weight, and what they hold and refuse."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import ACTIVATIONS, f32, same_bits

import pycompress as pc

KINDS = [pc.Float16Weight, pc.Float32Weight]
FAMILY = {pc.Float16Weight: "gemm_f16", pc.Float32Weight: "gemm_f32"}
kinds = pytest.mark.parametrize("kind", KINDS)


def operands(rng, m, n, k):
    return rng.standard_normal((m, k)).astype(f32), rng.standard_normal((n, k)).astype(f32)


# ---- linear


@kinds
@pytest.mark.parametrize("m", range(1, 15))
def test_bits_of_a_plain_weight(way, rng, kind, m):
    for n in (*range(1, 36), 63, 64, 65, 127, 128, 129, 140):
        x, w = operands(rng, m, n, 1 + n % 19)
        weight, bias = kind.from_float(w), rng.standard_normal(n).astype(f32)
        y = pc.linear(x, weight, bias)
        way.ran(FAMILY[kind])
        same_bits(y, pc.linear(x, weight.todense(), bias))
        for i in (0, m - 1):
            same_bits(pc.linear(x[i], weight, bias), y[i])


@kinds
def test_activations_blocks_threads(way, rng, kind):
    for m, n, k in [(1, 300, 5000), (3, 100, 1001), (40, 70, 385), (300, 65, 400), (530, 1700, 9)]:
        x, w = operands(rng, m, n, k)
        weight, bias = kind.from_float(w), rng.standard_normal(n).astype(f32)
        for activation in ACTIVATIONS:
            same_bits(
                pc.linear(x, weight, bias, activation=activation, num_threads=2),
                pc.linear(x, weight.todense(), bias, activation=activation, num_threads=1),
            )


@given(m=st.integers(0, 50), n=st.integers(0, 200), k=st.integers(0, 900), seed=st.integers(0, 99))
def test_any_shape(m, n, k, seed):
    x, w = operands(np.random.default_rng(seed), m, n, k)
    for kind in KINDS:
        weight = kind.from_float(w)
        same_bits(pc.linear(x, weight), pc.linear(x, weight.todense()))


def test_every_float16(way):
    w = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    w = w[np.isfinite(w)].reshape(-1, 1)
    x = np.array([[1], [-1], [2**-20]], f32)
    same_bits(pc.linear(x, pc.Float16Weight(w)), x @ w.astype(f32).T + f32(0))


def test_against_float64(way, rng):
    x, w = operands(rng, 9, 77, 513)
    weight = pc.Float16Weight.from_float(w)
    exact = x.astype(np.float64) @ weight.todense().astype(np.float64).T
    bound = 514 * 2.0**-24 * (np.abs(x).astype(np.float64) @ np.abs(weight.todense()).T)
    assert (np.abs(pc.linear(x, weight) - exact) <= bound).all()


def test_special_values_of_float32_pass(way):
    w = np.array([[np.inf], [np.nan], [1e-40], [-0.0]], f32)
    same_bits(pc.linear(np.ones((2, 1), f32), pc.Float32Weight(w)), pc.linear(np.ones((2, 1), f32), w))


@kinds
def test_views_are_taken_as_they_are(rng, kind):
    x, w = operands(rng, 5, 40, 60)
    stored = w.astype(kind._dtype)
    assert np.shares_memory(kind(stored).w, stored)
    for view in (stored[::2], stored[::-1], stored[:, ::3], np.asfortranarray(stored)):
        weight = kind(view)
        same_bits(pc.linear(x[:, : view.shape[1]], weight), pc.linear(x[:, : view.shape[1]], view.astype(f32)))


@kinds
def test_low_rank_takes_them(rng, kind):
    x, w = operands(rng, 20, 30, 40)
    a, b = kind.from_float(rng.standard_normal((50, 30)).astype(f32)), kind.from_float(w)
    same_bits(pc.linear(x, pc.LowRankWeight(a, b)), pc.linear(pc.linear(x, b), a))


@kinds
def test_misuse_of_linear(rng, kind):
    x, w = operands(rng, 3, 5, 7)
    weight = kind.from_float(w)
    for message, error, arguments in [
        ("x is an array of uint8, wanted float32", TypeError, {"x": x.astype(np.uint8)}),
        ("x is an array of float16", TypeError, {"x": x.astype(np.float16)}),
        (r"x has shape \(3, 6\)", ValueError, {"x": x[:, :6]}),
        ("x_qparams or y_qparams is given", ValueError, {"x_qparams": (0.1, 3)}),
        ("out shares memory with weight.w|out overlaps", ValueError, {"out": np.ndarray((3, 5), f32, weight.w.base)}),
    ]:
        if "out" in arguments and kind is pc.Float16Weight:
            continue
        with pytest.raises(error, match=message):
            pc.linear(**{"x": x, "weight": weight, **arguments})


# ---- what they hold


def test_from_float_rounds_half_to_even():
    w = np.array([[1 + 2.0**-11, 1 + 3 * 2.0**-11, 65519.99, 2.0**-25, 3 * 2.0**-25]], np.float64)
    weight = pc.Float16Weight.from_float(w)
    assert weight.todense().tolist() == [[1, 1 + 2 * 2.0**-10, 65504, 0, 2.0**-23]]
    assert weight.w.dtype == np.float16
    assert weight.nbytes == 10


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 65520.0, -1e9])
def test_float16_refuses_what_it_does_not_hold(bad):
    w = np.zeros((2, 3), f32)
    w[1, 2] = bad
    with pytest.raises(ValueError, match=r"w\[1, 2\] is .*, wanted finite values that float16 reaches"):
        pc.Float16Weight.from_float(w)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="wanted finite"):
        pc.Float16Weight(w.astype(np.float16))


@kinds
def test_misuse(kind):
    with pytest.raises(TypeError, match="w is an array of int64"):
        kind.from_float(np.zeros((2, 3), np.int64))
    with pytest.raises(TypeError, match=f"w is an array of float64, wanted {kind._dtype}"):
        kind(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"w has shape \(3,\)"):
        kind(np.zeros(3, kind._dtype))
    with pytest.raises(ValueError, match="wanted a matrix"):
        pc.linear(np.zeros((1, 4), f32), kind(np.zeros((2, 4, 1, 1), kind._dtype)))


@kinds
def test_shape_copies_pickles(rng, kind):
    weight = kind.from_float(rng.standard_normal((5, 3, 1, 2)))
    assert weight.shape == (5, 3, 1, 2)
    assert weight.todense().shape == weight.shape
    assert weight.nbytes == 30 * kind._dtype.itemsize
    assert repr(weight) == f"{kind.__name__}(5x3x1x2, {weight.nbytes} bytes)"
    assert not weight.w.flags.writeable
    for other in (copy.copy(weight), copy.deepcopy(weight), pickle.loads(pickle.dumps(weight))):
        assert type(other) is kind
        same_bits(other.w, weight.w)
