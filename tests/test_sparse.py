"""CSR and BSR weights: linear against the dense reference, every pattern of small matrices; formats, bad indices."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from reference import EIGHT_BITS, f32, python, random_bytes, same_bits

import pycompress as pc

BLOCKS = [(1, 1), (1, 4), (4, 1), (8, 1), (16, 1), (4, 4), (8, 8), (16, 16), (2, 3), (3, 8), (5, 2)]
blocks = pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b[0]}x{b[1]}")
activations = pytest.mark.parametrize("activation", [None, "relu", "hardswish", "gelu", (-0.5, 0.75)], ids=str)


def pruned(rng, n, k, block=(1, 1), sparsity=0.7):
    """float32 [n, k], with zeros in whole blocks."""
    keep = rng.random((-(-n // block[0]), -(-k // block[1]))) >= sparsity
    w = rng.standard_normal((n, k)).astype(f32)
    w[w == 0] = 1
    return np.where(np.kron(keep, np.ones(block, bool))[:n, :k], w, f32(0))


def weight_of(w, block, bits=32):
    if block == (1, 1):
        return pc.CSRWeight.from_dense(w, bits=bits)
    return pc.BSRWeight.from_dense(w, block, bits=bits)


def in_order(x, w, bias=None):
    """What float32 has to be within: the sum in float64, and the bound of an error."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    exact, magnitude = x @ w.T, abs(x) @ abs(w).T
    if bias is not None:
        exact, magnitude = exact + bias, magnitude + abs(bias)
    return exact, (w.shape[1] + 2) * 2.0**-24 * magnitude + 1e-37


def check_f32(weight, x, w, bias=None):
    got = pc.linear(x, weight, bias)
    assert (got.dtype, got.shape) == (f32, (len(x), len(w)))
    exact, bound = in_order(x, w, bias)
    assert (abs(got - exact) <= bound).all()
    # Products with zeros change no sum, so the dense kernel gives the same bits, but for the sign of zeros.
    same_bits(got + f32(0), pc.linear(x, w, bias) + f32(0))
    return got


def ran(way, weight):
    way.ran("sparse_s8" if weight.quantizes else "sparse_f32")


# ---- results


@blocks
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (1, 70, 130), (3, 5, 7), (17, 33, 65), (70, 16, 64), (65, 131, 300)]
)
def test_float32(way, rng, m, n, k, block):
    w, x = pruned(rng, n, k, block), rng.standard_normal((m, k)).astype(f32)
    weight = weight_of(w, block)
    pc.linear(x, weight)
    ran(way, weight)
    check_f32(weight, x, w)
    check_f32(weight, x, w, rng.standard_normal(n).astype(f32))


@blocks
@activations
@pytest.mark.parametrize(("m", "n", "k"), [(1, 37, 130), (5, 5, 7), (66, 131, 530)])
def test_int8(way, rng, m, n, k, block, activation):
    """To the bit what the dense int8 weight gives, in all its forms."""
    w = pruned(rng, n, k, block)
    weight = weight_of(w, block, bits=8)
    dense = pc.Int8Weight.from_float(w)
    same_bits(weight.scale, dense.scale)
    same_bits(weight.todense(), dense.todense())
    bias, x = rng.standard_normal(n).astype(f32), rng.standard_normal((m, k)).astype(f32)
    options = {"activation": activation}
    got = pc.linear(x, weight, bias, **options)
    ran(way, weight)
    same_bits(got, reference.linear(x, dense.q, dense.scale, bias, activation))
    given = {"x_qparams": (0.02, 120)}
    same_bits(pc.linear(x, weight, **options, **given), pc.linear(x, dense, **options, **given))
    for dtype in EIGHT_BITS:
        q, x_qparams = random_bytes(rng, dtype, m, k), (0.02, int(random_bytes(rng, dtype)))
        wanted = reference.linear(q, dense.q, dense.scale, bias, activation, x_qparams)
        same_bits(pc.linear(q, weight, bias, x_qparams=x_qparams, **options), wanted)
        for y_scale in (0.05, 2.0):
            y_qparams = y_scale, int(random_bytes(rng, dtype))
            wanted = reference.linear(q, dense.q, dense.scale, bias, activation, x_qparams, y_qparams)
            got = pc.linear(q, weight, bias, x_qparams=x_qparams, y_qparams=y_qparams, **options)
            same_bits(got, wanted)


@pytest.mark.parametrize("value", [127, -127, -128])
@pytest.mark.parametrize("block", [(1, 1), (1, 4), (4, 1), (4, 4)], ids=str)
def test_extremes(way, block, value):
    """255 times the largest weights, in every lane: what saturates where a kernel adds in 16 bits."""
    n, k = 32, 64
    q = np.full((n, k), value, np.int8)
    q[::3] //= 2
    data = q.reshape(n // block[0], block[0], k // block[1], block[1]).transpose(0, 2, 1, 3).reshape(-1, *block)
    columns = k // block[1]
    indptr = np.arange(n // block[0] + 1) * columns
    arguments = np.tile(np.arange(columns), n // block[0]), indptr, (n, k), np.ones(n, f32)
    weight = pc.CSRWeight(data.ravel(), *arguments) if block == (1, 1) else pc.BSRWeight(data, *arguments)
    for m in (1, 70):
        x = np.full((m, k), 255, np.uint8)
        got = pc.linear(x, weight, x_qparams=(1.0, 0))
        np.testing.assert_array_equal(got, np.tile(255 * q.astype(np.int64).sum(1), (m, 1)))
        same_bits(pc.linear(x, weight, x_qparams=(1.0, 255)), np.zeros((m, n), f32))


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize(
    ("n", "k", "block"), [(2, 4, (1, 1)), (8, 2, (4, 1)), (2, 16, (1, 4)), (4, 8, (4, 4)), (3, 3, (2, 2))]
)
def test_every_pattern(way, n, k, block, bits):
    rows, columns = -(-n // block[0]), -(-k // block[1])
    values = (np.arange(n * k).reshape(n, k) % 7 + 1).astype(f32)
    x = np.arange(3 * k, dtype=f32).reshape(3, k) - k
    for pattern in itertools.product((False, True), repeat=rows * columns):
        keep = np.kron(np.reshape(pattern, (rows, columns)), np.ones(block, bool))[:n, :k]
        w = values * keep
        weight = weight_of(w, block, bits)
        assert weight.data.shape[0] == sum(pattern)
        if bits == 32:
            np.testing.assert_array_equal(weight.todense(), w)
            np.testing.assert_array_equal(pc.linear(x, weight), x @ w.T)
        else:
            same_bits(pc.linear(x, weight), pc.linear(x, pc.Int8Weight.from_float(w)))


@given(st.data())
def test_random(data):
    draw = data.draw
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    m, n, k = (draw(st.integers(0, high)) for high in (90, 150, 700))
    block = draw(st.sampled_from(BLOCKS))
    w = pruned(rng, n, k, block, draw(st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])))
    x = rng.standard_normal((m, k)).astype(f32)
    check_f32(weight_of(w, block), x, w)
    same_bits(pc.linear(x, weight_of(w, block, 8)), pc.linear(x, pc.Int8Weight.from_float(w)))


@pytest.mark.parametrize("block", [(1, 1), (4, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("bits", [32, 8])
def test_threads_and_rows(way, rng, block, bits):
    """The number of threads changes no bit, nor do the other rows."""
    n, k = 1000, 600
    w, x = pruned(rng, n, k, block, 0.5), rng.standard_normal((150, k)).astype(f32)
    w[400:700] = 0  # unequal parts
    weight = weight_of(w, block, bits)
    whole = pc.linear(x, weight, num_threads=1)
    for threads in (2, 3, 5):
        same_bits(pc.linear(x, weight, num_threads=threads), whole)
        same_bits(pc.linear(x[:9], weight, num_threads=threads), whole[:9])
    for i in range(0, 150, 13):
        same_bits(pc.linear(x[i : i + 1], weight), whole[i : i + 1])
    out = np.empty((150, n), f32)
    assert pc.linear(x, weight, out=out) is out
    same_bits(out, whole)


@pytest.mark.parametrize("bits", [32, 8])
def test_nothing_stored_and_empty_sizes(way, bits):
    for n, k in ((5, 9), (0, 9), (5, 0), (0, 0)):
        for block in ((1, 1), (4, 1), (1, 4)):
            weight = weight_of(np.zeros((n, k), f32), block, bits)
            assert (weight.nnz, weight.shape) == (0, (n, k))
            bias = np.arange(n, dtype=f32)
            for m in (0, 1, 3):
                same_bits(pc.linear(np.ones((m, k), f32), weight, bias), np.tile(bias, (m, 1)))
                same_bits(pc.linear(np.ones((m, k), f32), weight), np.zeros((m, n), f32))


def test_special_values(way):
    """Only stored weights meet x: what is not stored makes no NaN of an infinity."""
    weight = pc.CSRWeight(np.array([2, math.inf], f32), [1, 0], [0, 1, 2], (2, 2))
    for m in (1, 3):
        x = np.tile(np.array([math.inf, 3], f32), (m, 1))
        same_bits(pc.linear(x, weight), np.tile(np.array([6, math.inf], f32), (m, 1)))
        x[:, 1] = math.nan
        got = pc.linear(x, weight)
        assert np.isnan(got[:, 0]).all()
        assert (got[:, 1] == math.inf).all()
    # Rows of unequal length are filled up: that changes no sign of a zero.
    w = np.zeros((16, 40), f32)
    w[0], w[1:, 0] = 1, -1e-30
    x = np.full((3, 40), 1e-30, f32)
    same_bits(pc.linear(x, pc.CSRWeight.from_dense(w))[:, 1:], pc.linear(x[:, :1], w[1:, :1].copy()))


def test_shapes_of_x(rng):
    w = pruned(rng, 6, 10)
    weight = pc.CSRWeight.from_dense(w)
    x = rng.standard_normal((2, 3, 10)).astype(f32)
    same_bits(pc.linear(x, weight), pc.linear(x.reshape(6, 10), weight).reshape(2, 3, 6))
    same_bits(pc.linear(x[0, 0], weight), pc.linear(x[:1, 0], weight)[0])
    same_bits(pc.linear(x[:, ::2], weight), pc.linear(x[:, ::2].copy(), weight))
    with pytest.raises(ValueError, match="x has shape"):
        pc.linear(x[..., :9], weight)
    with pytest.raises(TypeError, match="x is an array of uint8"):
        pc.linear(np.zeros((1, 10), np.uint8), weight)
    with pytest.raises(ValueError, match="shares memory"):
        pc.linear(x, weight, out=x[..., :6])
    with pytest.raises(ValueError, match="x_qparams"):
        pc.linear(np.zeros((1, 10), np.uint8), pc.CSRWeight.from_dense(w, bits=8))
    for value in (math.nan, math.inf):
        x[1, 1, 1] = value
        with pytest.raises(ValueError, match="NaN"):
            pc.linear(x, pc.CSRWeight.from_dense(w, bits=8))


def test_low_rank_of_sparse_factors(rng):
    a, b = pruned(rng, 20, 8), pruned(rng, 8, 30, (4, 1))
    x = rng.standard_normal((5, 30)).astype(f32)
    a8, b32 = pc.CSRWeight.from_dense(a, bits=8), pc.BSRWeight.from_dense(b)
    same_bits(pc.linear(x, pc.LowRankWeight(a8, b32)), pc.linear(pc.linear(x, b32), a8))


# ---- the classes


def test_from_dense(rng):
    w = pruned(rng, 10, 13, (4, 3))
    bsr = pc.BSRWeight.from_dense(w, (4, 3))
    assert bsr.block == (4, 3)
    same_bits(bsr.todense(), w)
    same_bits(pc.BSRWeight.from_dense(w).todense(), w)
    assert pc.BSRWeight.from_dense(w).block == (4, 1)
    csr = pc.CSRWeight.from_dense(w.astype(np.float64))
    same_bits(csr.todense(), w)
    assert csr.nnz == np.count_nonzero(w)
    assert csr.sparsity == 1 - csr.nnz / w.size
    assert csr.nbytes == 8 * csr.nnz + 4 * 11
    assert csr.indices.dtype == csr.indptr.dtype == np.int32
    assert not csr.data.flags.writeable
    # What is stored follows from w, not from what it is quantized to.
    small = pc.CSRWeight.from_dense(np.array([[1, 1e-6, 0]], f32), bits=8)
    assert small.data.tolist() == [127, 0]
    assert pc.CSRWeight.from_dense(np.array([[math.nan, 0]], f32)).nnz == 1
    for error, arguments, options in (
        (TypeError, (np.ones((2, 2), np.int32),), {}),
        (ValueError, (np.ones(3, f32),), {}),
        (ValueError, (w,), {"bits": 4}),
        (ValueError, (np.full((2, 2), np.nan, f32),), {"bits": 8}),
    ):
        for kind in (pc.CSRWeight, pc.BSRWeight):
            with pytest.raises(error):
                kind.from_dense(*arguments, **options)
    for block in ((0, 4), (4, 0), (-1, 4)):
        with pytest.raises(ValueError, match="block is"):
            pc.BSRWeight.from_dense(w, block)
    for block in (4, (4,), (4.0, 1), "ab"):
        with pytest.raises(TypeError):
            pc.BSRWeight.from_dense(w, block)


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("block", [(1, 1), (3, 4)])
def test_pickle_copy_repr(rng, block, bits):
    w, x = pruned(rng, 9, 16, block), rng.standard_normal((2, 16)).astype(f32)
    weight = weight_of(w, block, bits)
    y = pc.linear(x, weight)
    for other in (pickle.loads(pickle.dumps(weight)), copy.copy(weight), copy.deepcopy(weight)):
        assert (other.shape, other.nbytes, type(other)) == (weight.shape, weight.nbytes, type(weight))
        same_bits(pc.linear(x, other), y)
    assert "9x16" in repr(weight)
    assert ("3x4" in repr(weight)) == (block != (1, 1))


def test_unsorted_is_sorted(rng):
    w = pruned(rng, 7, 20, sparsity=0.4)
    weight = pc.CSRWeight.from_dense(w)
    order = np.concatenate([rng.permutation(np.arange(a, b)) for a, b in itertools.pairwise(weight.indptr)])
    other = pc.CSRWeight(
        weight.data[order], weight.indices[order].astype(np.int64), weight.indptr.astype(np.uint64), (7, 20)
    )
    same_bits(other.data, weight.data)
    same_bits(other.indices, weight.indices)
    same_bits(other.todense(), w)


ONE = np.ones(2, f32)


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "data", (np.ones(2), [0, 1], [0, 1, 2], (2, 3))),
        (TypeError, "indices", (ONE, [0.0, 1.0], [0, 1, 2], (2, 3))),
        (TypeError, "indptr", (ONE, [0, 1], [0.0, 1.0, 2.0], (2, 3))),
        (ValueError, "data has shape", (ONE[None], [0, 1], [0, 1, 2], (2, 3))),
        (ValueError, "indices has shape", (ONE, [[0, 1]], [0, 1, 2], (2, 3))),
        (ValueError, "indices has shape", (ONE, [0, 1, 2], [0, 1, 2], (2, 3))),
        (ValueError, "indptr has shape", (ONE, [0, 1], [0, 2], (2, 3))),
        (ValueError, "indptr has shape", (ONE, [0, 1], [], (2, 3))),
        (ValueError, "indptr goes", (ONE, [0, 1], [1, 1, 2], (2, 3))),
        (ValueError, "indptr goes", (ONE, [0, 1], [0, 1, 1], (2, 3))),
        (ValueError, "indptr goes", (ONE, [0, 1], [0, 1, 3], (2, 3))),
        (ValueError, "ascending", (ONE, [0, 1], [0, 3, 1, 2], (3, 3))),
        (ValueError, "ascending", (ONE, [0, 1], [0, -1, 2], (2, 3))),
        (ValueError, r"indices\[1\] is 3", (ONE, [0, 3], [0, 1, 2], (2, 3))),
        (ValueError, r"indices\[0\] is -1", (ONE, [-1, 1], [0, 1, 2], (2, 3))),
        (ValueError, "wanted int32", (ONE, [0, 2**40], [0, 1, 2], (2, 3))),
        (ValueError, "twice", (ONE, [1, 1], [0, 2, 2], (2, 3))),
        (ValueError, "twice", (np.ones(3, f32), [1, 0, 1], [0, 3, 3], (2, 3))),
        (ValueError, "shape", (ONE, [0, 1], [0, 1, 2], (2, -3))),
        (TypeError, "shape", (ONE, [0, 1], [0, 1, 2], 6)),
        (TypeError, "shape", (ONE, [0, 1], [0, 1, 2], (2, 3, 4))),
        (OverflowError, "shape", (ONE, [0, 1], [0, 1, 2], (2, 2**31))),
        (ValueError, "scale", (ONE, [0, 1], [0, 1, 2], (2, 3), ONE)),
        (ValueError, "scale", (ONE.astype(np.int8), [0, 1], [0, 1, 2], (2, 3))),
        (TypeError, "scale", (ONE.astype(np.int8), [0, 1], [0, 1, 2], (2, 3), np.ones(2))),
        (ValueError, "scale", (ONE.astype(np.int8), [0, 1], [0, 1, 2], (2, 3), np.ones(3, f32))),
        (ValueError, "scale", (ONE.astype(np.int8), [0, 1], [0, 1, 2], (2, 3), np.array([1, 0], f32))),
        (ValueError, "scale", (ONE.astype(np.int8), [0, 1], [0, 1, 2], (2, 3), np.array([1, math.inf], f32))),
    ],
)
def test_malformed_csr(error, match, arguments):
    with pytest.raises(error, match=match):
        pc.CSRWeight(*arguments)


def test_malformed_bsr():
    data = np.ones((2, 2, 3), f32)
    assert pc.BSRWeight(data, [0, 1], [0, 1, 2], (4, 6)).block == (2, 3)
    for error, match, arguments in (
        (ValueError, "data has shape", (data[0], [0, 1], [0, 1, 2], (4, 6))),
        (ValueError, "data has shape", (data[:, :0], [0, 1], [0, 1, 2], (4, 6))),
        (ValueError, "reaches over", (data, [0, 1], [0, 1, 2], (3, 6))),
        (ValueError, "reaches over", (data, [0, 1], [0, 1, 2], (4, 5))),
        (ValueError, "indices", (data, [0, 2], [0, 1, 2], (4, 6))),
        (ValueError, "indptr", (data, [0, 1], [0, 1, 2], (5, 6))),
    ):
        with pytest.raises(error, match=match):
            pc.BSRWeight(*arguments)
    data[1, 1:] = 0
    assert pc.BSRWeight(data, [0, 1], [0, 1, 2], (3, 6)).todense().shape == (3, 6)


def test_k_too_long():
    weight = pc.CSRWeight(np.ones(1, np.int8), [0], [0, 1], (1, 70_000), np.ones(1, f32))
    with pytest.raises(OverflowError):
        pc.linear(np.zeros((1, 70_000), f32), weight)


def test_scipy(rng):
    sparse = pytest.importorskip("scipy.sparse")
    w = pruned(rng, 12, 20, (4, 5))
    for make in (sparse.csr_array, sparse.coo_array, sparse.csc_matrix, sparse.bsr_array):
        same_bits(pc.CSRWeight.from_scipy(make(w)).todense(), w)
    bsr = pc.BSRWeight.from_scipy(sparse.csr_array(w).tobsr((4, 5)))
    assert bsr.block == (4, 5)
    same_bits(bsr.todense(), w)
    same_bits(bsr.to_scipy().toarray(), w)
    same_bits(pc.CSRWeight.from_dense(w).to_scipy().toarray(), w)
    for weight in (pc.CSRWeight.from_dense(w, bits=8), pc.BSRWeight.from_dense(w, (4, 5), bits=8)):
        same_bits(weight.to_scipy().toarray(), weight.todense())
    twice = sparse.csr_array((np.ones(2, f32), [1, 1], [0, 2]), shape=(1, 3))
    assert pc.CSRWeight.from_scipy(twice).todense().tolist() == [[0, 2, 0]]
    with pytest.raises(ValueError, match="bsr"):
        pc.BSRWeight.from_scipy(sparse.csr_array(w))
    with pytest.raises(TypeError):
        pc.CSRWeight.from_scipy(w)


def test_scipy_is_not_needed():
    make = "import sys, numpy as np, pycompress as pc; pc.CSRWeight.from_dense(np.eye(3))"
    python(f"{make}; assert 'scipy' not in sys.modules")
