"""LowRankWeight: one call is two, to the bit; the decomposition against its definition; what is refused."""

import copy
import itertools
import pickle

import numpy as np
import pytest
from reference import ACTIVATIONS, EIGHT_BITS, f32, random_bytes, same_bits

import pycompress as pc

N, R, K = 70, 19, 131
KINDS = {
    "float32": lambda w: w,
    "int8": pc.Int8Weight.from_float,
}
mixtures = pytest.mark.parametrize(("a_kind", "b_kind"), list(itertools.product(KINDS, KINDS)))


def factors(rng, a_kind, b_kind, n=N, r=R, k=K):
    a, b = rng.standard_normal((n, r)).astype(f32), rng.standard_normal((r, k)).astype(f32)
    return KINDS[a_kind](a), KINDS[b_kind](b)


def quantized(y, y_qparams, dtype):
    return pc.quantize_linear(y, f32(y_qparams[0]), dtype(y_qparams[1]))


# ---- one call is two


@mixtures
@pytest.mark.parametrize("m", [0, 1, 7, 40])
def test_float32_x(way, rng, a_kind, b_kind, m):
    a, b = factors(rng, a_kind, b_kind)
    weight, x, bias = (
        pc.LowRankWeight(a, b),
        rng.standard_normal((m, K)).astype(f32),
        rng.standard_normal(N).astype(f32),
    )
    for activation in ACTIVATIONS:
        same_bits(
            pc.linear(x, weight, bias, activation=activation),
            pc.linear(pc.linear(x, b), a, bias, activation=activation),
        )


@pytest.mark.parametrize("a_kind", KINDS)
@pytest.mark.parametrize("x_dtype", [np.float32, *EIGHT_BITS])
def test_given_qparams(way, rng, a_kind, x_dtype):
    a, b = factors(rng, a_kind, "int8")
    x = rng.standard_normal((13, K)).astype(f32) if x_dtype == np.float32 else random_bytes(rng, x_dtype, 13, K)
    bias, x_qparams = rng.standard_normal(N).astype(f32), (0.031, 77)
    got = pc.linear(x, pc.LowRankWeight(a, b), bias, activation="silu", x_qparams=x_qparams)
    same_bits(got, pc.linear(pc.linear(x, b, x_qparams=x_qparams), a, bias, activation="silu"))


@pytest.mark.parametrize("a_kind", KINDS)
@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_quantized_result_of_a_float_middle(way, rng, a_kind, dtype, activation):
    a, b = factors(rng, a_kind, "int8")
    x, x_qparams, y_qparams = random_bytes(rng, dtype, 13, K), (0.031, 77), (3.1, 100)
    bias = rng.standard_normal(N).astype(f32)
    got = pc.linear(x, pc.LowRankWeight(a, b), bias, activation=activation, x_qparams=x_qparams, y_qparams=y_qparams)
    y = pc.linear(pc.linear(x, b, x_qparams=x_qparams), a, bias, activation=activation)
    same_bits(got, quantized(y, y_qparams, dtype))


@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("y_qparams", [None, (5.5, 90)])
def test_integers_all_through(way, rng, dtype, y_qparams):
    a, b = factors(rng, "int8", "int8")
    mid, x_qparams = pc.QParams(1.7, 128), (0.031, 77)
    x, bias = random_bytes(rng, dtype, 45, K), rng.standard_normal(N).astype(f32)
    out = None if y_qparams is None else np.empty((45, N), dtype)
    weight = pc.LowRankWeight(a, b, mid_qparams=mid)
    got = pc.linear(x, weight, bias, activation="relu", x_qparams=x_qparams, y_qparams=y_qparams, out=out)
    middle = pc.linear(x, b, x_qparams=x_qparams, y_qparams=mid, out=np.empty((45, R), np.uint8))
    wanted = np.empty((45, N), f32 if y_qparams is None else dtype)
    pc.linear(middle, a, bias, activation="relu", x_qparams=mid, y_qparams=y_qparams, out=wanted)
    same_bits(got, wanted)


def test_a_float_middle_quantized_by_given_numbers(way, rng):
    a, b = factors(rng, "int8", "float32")
    x, mid = rng.standard_normal((9, K)).astype(f32), (0.4, 99)
    same_bits(pc.linear(x, pc.LowRankWeight(a, b, mid_qparams=mid)), pc.linear(pc.linear(x, b), a, x_qparams=mid))


@mixtures
@pytest.mark.parametrize(("m", "n", "r", "k"), [(600, 70, 40, 50), (3, 900, 300, 1100), (300, 260, 400, 384)])
def test_many_rows_and_threads(rng, a_kind, b_kind, m, n, r, k):
    """More rows than a tile, ranks above it, few rows that are worth threads of their own."""
    a, b = factors(rng, a_kind, b_kind, n, r, k)
    weight, x = pc.LowRankWeight(a, b), rng.standard_normal((m, k)).astype(f32)
    wanted = pc.linear(pc.linear(x, b, num_threads=1), a, num_threads=1)
    for num_threads in (1, 2, 3):
        same_bits(pc.linear(x, weight, num_threads=num_threads), wanted)
    q = random_bytes(rng, np.uint8, m, k)
    if b_kind == "int8":
        wanted = quantized(pc.linear(pc.linear(q, b, x_qparams=(0.1, 3)), a), (9.0, 8), np.uint8)
        for num_threads in (1, 2, 3):
            got = pc.linear(q, weight, x_qparams=(0.1, 3), y_qparams=(9.0, 8), num_threads=num_threads)
            same_bits(got, wanted)


def test_shapes_and_out(rng):
    a, b = factors(rng, "int8", "int8")
    weight, x = pc.LowRankWeight(a, b), rng.standard_normal((2, 3, K)).astype(f32)
    out = np.empty((2, 3, N), f32)
    assert pc.linear(x, weight, out=out) is out
    same_bits(out.reshape(6, N), pc.linear(x.reshape(6, K), weight))
    assert pc.linear(np.empty((0, K), f32), weight).shape == (0, N)


@pytest.mark.parametrize("shape", [(5, 1, 0), (0, 3, 4), (0, 1, 0)])
def test_empty_weights(way, shape):
    n, r, k = shape
    weight = pc.LowRankWeight(np.ones((n, r), f32), np.ones((r, k), f32))
    assert np.array_equal(pc.linear(np.ones((2, k), f32), weight), np.zeros((2, n), f32))


# ---- the weight


def test_what_it_is(rng):
    a, b = factors(rng, "int8", "float32")
    weight = pc.LowRankWeight(a, b, mid_qparams=(0.5, 3))
    assert weight.shape == (N, K)
    assert weight.rank == R
    assert weight.nbytes == a.nbytes + b.nbytes
    same_bits(weight.todense(), a.todense() @ b)
    assert repr(weight) == f"LowRankWeight({N}x{K}, {weight.nbytes} bytes)"
    x = rng.standard_normal((3, K)).astype(f32)
    wanted = pc.linear(x, weight)
    for other in (pickle.loads(pickle.dumps(weight)), copy.copy(weight), copy.deepcopy(weight)):
        assert other.mid_qparams == (0.5, 3)
        same_bits(pc.linear(x, other), wanted)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (1, 60), (200, 180)])
def test_from_dense_is_the_best_of_its_rank(rng, shape):
    w = rng.standard_normal(shape)
    s = np.linalg.svd(w, compute_uv=False)
    for rank in {1, min(shape) // 2 or 1, min(shape)}:
        weight = pc.LowRankWeight.from_dense(w, rank, allow_larger=True)
        assert weight.rank == rank
        error = np.linalg.norm(w - weight.a.astype(float) @ weight.b.astype(float))
        assert error == pytest.approx(np.linalg.norm(s[rank:]), rel=1e-5, abs=1e-5)


def test_from_dense_by_energy(rng):
    s = np.array([8.0, 4, 2, 1] + [0.5] * 36)
    u, v = (np.linalg.qr(rng.standard_normal((n, 40)))[0] for n in (90, 80))
    w = (u * s) @ v.T
    total = np.sum(s**2)
    for rank in (1, 2, 3, 7):
        kept = np.sum(s[:rank] ** 2) / total
        assert pc.LowRankWeight.from_dense(w, energy=kept * 0.9999).rank == rank
        assert pc.LowRankWeight.from_dense(w, energy=kept * 1.0001).rank == rank + 1
    assert pc.LowRankWeight.from_dense(w, energy=1.0, allow_larger=True).rank >= 40


def test_a_rank_that_saves_nothing_is_refused(rng):
    w = rng.standard_normal((60, 40)).astype(f32)
    pc.LowRankWeight.from_dense(w, 23)
    with pytest.raises(
        ValueError, match=r"rank 24 .* takes 2400 values .* itself 2400: wanted a rank below 24, or allow"
    ):
        pc.LowRankWeight.from_dense(w, 24)
    assert pc.LowRankWeight.from_dense(w, 24, allow_larger=True).rank == 24


# ---- errors

A, B = np.ones((4, 2), f32), np.ones((2, 3), f32)
Q = pc.Int8Weight.from_float(A)


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (ValueError, r"a has shape \(4, 2\) and b \(3, 2\)", lambda: pc.LowRankWeight(A, B.T)),
        (TypeError, "a is list", lambda: pc.LowRankWeight([[1.0]], B)),
        (TypeError, "b is an array of float64", lambda: pc.LowRankWeight(A, B.astype(float))),
        (TypeError, "a is a LowRankWeight", lambda: pc.LowRankWeight(pc.LowRankWeight(A, B), B.T @ B)),
        (ValueError, r"b has shape \(3,\), wanted a matrix", lambda: pc.LowRankWeight(A, np.ones(3, f32))),
        (ValueError, "mid_qparams is given, wanted None", lambda: pc.LowRankWeight(A, B, mid_qparams=(1, 0))),
        (ValueError, "mid_qparams: scale", lambda: pc.LowRankWeight(Q, B, mid_qparams=(-1, 0))),
        (ValueError, "wanted a zero point of uint8", lambda: pc.LowRankWeight(Q, B, mid_qparams=(1, -3))),
        (ValueError, "rank is None and energy is None", lambda: pc.LowRankWeight.from_dense(A)),
        (ValueError, "rank is 1 and energy is 0.5", lambda: pc.LowRankWeight.from_dense(A, 1, 0.5)),
        (ValueError, "rank is 3, wanted 1 to 2", lambda: pc.LowRankWeight.from_dense(A, 3)),
        (ValueError, "energy is 1.5", lambda: pc.LowRankWeight.from_dense(A, energy=1.5)),
        (ValueError, "NaN or infinity", lambda: pc.LowRankWeight.from_dense(A * np.inf, 1)),
        (TypeError, "w is an array of int64", lambda: pc.LowRankWeight.from_dense(A.astype(int), 1)),
        (ValueError, r"w has shape \(4,\)", lambda: pc.LowRankWeight.from_dense(A[:, 0], 1)),
        (TypeError, "x is an array of uint8", lambda: pc.linear(np.ones((1, 3), np.uint8), pc.LowRankWeight(A, B))),
        (ValueError, "with a weight of floats", lambda: pc.linear(B[:1], pc.LowRankWeight(A, B), x_qparams=(1, 0))),
        (ValueError, "out shares memory with weight.b", lambda: shared_out()),
    ],
)
def test_errors(error, match, call):
    with pytest.raises(error, match=match):
        call()


def shared_out():
    memory = np.ones((2, 4), f32)
    return pc.linear(np.ones((2, 4), f32), pc.LowRankWeight(np.ones((4, 2), f32), memory), out=memory)


def test_nan_between_the_factors_is_an_error(way):
    weight = pc.LowRankWeight(Q, np.full((2, 3), 3e38, f32))
    with pytest.raises(ValueError, match="NaN or infinity"):
        pc.linear(np.full((1, 3), 3e38, f32), weight)
