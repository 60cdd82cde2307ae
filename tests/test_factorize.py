"""pc.factorize and pc.factorize_conv against what the singular values say, and against any other choice of factors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import f32, python, same_bits

import pycompress as pc
from pycompress.factorize import savings, truncated_svd

FORMS = [
    ("separable", "depthwise_first", {"rank": 1}),
    ("separable", "depthwise_first", {"rank": 3}),
    ("separable", "pointwise_first", {"rank": 1}),
    ("separable", "pointwise_first", {"rank": 2}),
    ("svd", "spatial", {"rank": 4}),
    ("svd", "channel", {"rank": 3}),
    ("tucker2", None, {"rank": (3, 2)}),
    ("cp", None, {"rank": 6}),
]
forms = pytest.mark.parametrize(
    ("kind", "form", "rank"), FORMS, ids=["-".join(map(str, (k, f, *r.values()))) for k, f, r in FORMS]
)


def needs(kind):
    if kind == "cp":
        pytest.importorskip("tensorly")


def weight(rng, n=20, k=30, decay=0.9):
    """Singular values that fall by `decay`."""
    u, v = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in (n, k))
    least = min(n, k)
    return ((u[:, :least] * decay ** np.arange(least)) @ v[:least]).astype(f32)


def correlated(rng, samples, k, spread=30.0):
    mix = rng.standard_normal((k, k)) * np.geomspace(1, 1 / spread, k)[:, None]
    return (rng.standard_normal((samples, k)) @ mix).astype(f32)


def images(rng, channels, size=9, count=4):
    """Smooth ones: neighbours are alike."""
    x = rng.standard_normal((count, size, size, channels))
    for axis in (1, 2):
        x += np.roll(x, 1, axis)
    return x.astype(f32)


def output_error(x, w, approximation):
    difference = (approximation.astype(float) - w).reshape(len(w), -1)
    return np.linalg.norm(x.astype(float) @ difference.T)


# ---- matrices


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (12, 12)])
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_error_is_the_tail_of_the_singular_values(rng, shape, rank):
    w = rng.standard_normal(shape).astype(f32)
    s = np.linalg.svd(w.astype(float), compute_uv=False)
    low = pc.factorize(w, rank, allow_larger=True)
    assert isinstance(low, pc.LowRankWeight)
    assert (low.shape, low.rank, low.a.dtype, low.b.dtype) == (shape, rank, f32, f32)
    error = np.linalg.norm(low.a.astype(float) @ low.b - w)
    assert error == pytest.approx(np.linalg.norm(s[rank:]), rel=1e-5)
    np.testing.assert_allclose(np.linalg.norm(low.a, axis=0), np.sqrt(s[:rank]), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(low.b, axis=1), np.sqrt(s[:rank]), rtol=1e-5)


@given(st.integers(0, 10**6), st.floats(0.01, 1), st.sampled_from(["energy", "error"]))
def test_the_smallest_rank_that_will_do(seed, bound, by):
    rng = np.random.default_rng(seed)
    w = weight(rng, *rng.integers(1, 12, 2), decay=rng.uniform(0.3, 1))
    s = np.linalg.svd(w.astype(float), compute_uv=False)
    lost = 1 - bound if by == "energy" else bound**2
    rank = len(truncated_svd(w, **{by: min(bound, 0.999) if by == "error" else bound})[1])
    total = (s**2).sum()
    assert (s[rank:] ** 2).sum() <= lost * total + 1e-9 * total
    assert rank == 1 or (s[rank - 1 :] ** 2).sum() >= lost * total - 1e-9 * total


def test_as_from_dense(rng):
    w = weight(rng)
    for choice in ({"rank": 4}, {"energy": 0.5}):
        low, same = pc.factorize(w, **choice), pc.LowRankWeight.from_dense(w, **choice)
        assert low.rank == same.rank
        np.testing.assert_allclose(low.todense(), same.todense(), atol=1e-5)


def test_a_rank_that_saves_nothing_is_refused(rng):
    w = weight(rng)
    assert pc.factorize(w, 11).rank == 11
    with pytest.raises(ValueError, match=r"rank 12 of a weight of shape \(20, 30\) takes 600 .* below 12"):
        pc.factorize(w, 12)
    assert pc.factorize(w, 20, allow_larger=True).rank == 20


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_randomized_is_nearly_the_best_and_the_same_again(rng, shape):
    w = weight(rng, *shape, decay=0.95)
    s = np.linalg.svd(w.astype(float), compute_uv=False)
    low = pc.factorize(w, 20, solver="randomized", seed=3)
    assert np.linalg.norm(low.todense() - w) <= 1.001 * np.linalg.norm(s[20:])
    again = pc.factorize(w, 20, solver="randomized", seed=3)
    same_bits(again.a, low.a)
    same_bits(again.b, low.b)
    other = pc.factorize(w, 20, solver="randomized", seed=4)
    assert not np.array_equal(other.a, low.a)
    for choice in ({"energy": 0.9}, {"error": 0.2}, {"energy": 0.9999}):
        exact = pc.factorize(w, solver="exact", **choice)
        assert exact.rank <= pc.factorize(w, solver="randomized", **choice).rank <= exact.rank + 1


def test_large_is_randomized_and_fast(rng):
    """1200 x 800 by "auto": the error is that of the whole decomposition, without it."""
    left, right = rng.standard_normal((1200, 40)), rng.standard_normal((40, 800))
    w = (left @ right + 0.01 * rng.standard_normal((1200, 800))).astype(f32)
    u, s, vt = truncated_svd(w, 40)
    assert (u.shape, s.shape, vt.shape) == ((1200, 40), (40,), (40, 800))
    np.testing.assert_allclose(u.T @ u, np.eye(40), atol=1e-9)
    assert np.linalg.norm(u * s @ vt - w) / np.linalg.norm(w) < 2e-3
    assert len(truncated_svd(w, error=0.01)[1]) == 40


def test_of_zeros():
    low = pc.factorize(np.zeros((6, 8), f32), energy=0.9)
    assert low.rank == 1
    assert not low.todense().any()
    low = pc.factorize(np.zeros((6, 8), f32), 2, inputs=np.ones((3, 8), f32))
    assert np.isfinite(low.a).all()
    assert not low.todense().any()


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_with_inputs_no_factors_are_better(rng, rank):
    """Against the optimum by its other formula, (w S)_r S^-1, and against least squares from either side."""
    w, x = rng.standard_normal((20, 30)).astype(f32), correlated(rng, 400, 30)
    low = pc.factorize(w, rank, inputs=x, damping=0)
    root = np.linalg.cholesky(x.T.astype(float) @ x)
    u, s, vt = np.linalg.svd(w @ root, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ vt[:rank] @ np.linalg.inv(root)
    got = output_error(x, w, low.todense())
    assert got == pytest.approx(np.linalg.norm(s[rank:]), rel=1e-4)
    np.testing.assert_allclose(low.todense(), best, atol=1e-3)
    assert got < 0.9 * output_error(x, w, pc.factorize(w, rank).todense())


@given(st.integers(0, 10**6))
def test_with_inputs_never_worse_than_without(seed):
    """Also with damping, few samples, dead inputs."""
    rng = np.random.default_rng(seed)
    n, k = rng.integers(2, 12, 2)
    w = (rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-2, 2, (1, k))).astype(f32)
    x = correlated(rng, rng.integers(1, 30), k, 10 ** rng.uniform(0, 3)) * (rng.random(k) < 0.9).astype(f32)
    rank, damping = int(rng.integers(1, min(n, k) + 1)), rng.choice([0, 0.01, 1])
    plain = pc.factorize(w, rank, allow_larger=True).todense()
    aware = pc.factorize(w, rank, inputs=x, damping=damping, allow_larger=True).todense()
    scale = np.linalg.norm(x.astype(float) @ w.T.astype(float)) + np.linalg.norm(x) * np.linalg.norm(w)
    assert output_error(x, w, aware) <= output_error(x, w, plain) * (1 + 1e-5) + 1e-6 * scale


def test_error_with_inputs_is_that_of_the_outputs(rng):
    w, x = rng.standard_normal((20, 30)).astype(f32), correlated(rng, 400, 30)
    low = pc.factorize(w, error=0.3, inputs=x, damping=1e-9)
    relative = output_error(x, w, low.todense()) / np.linalg.norm(x.astype(float) @ w.T)
    assert relative <= 0.3
    assert savings(w, low, x).error == pytest.approx(relative, rel=1e-5)
    fewer = pc.factorize(w, low.rank - 1, inputs=x, damping=1e-9)
    assert savings(w, fewer, x).error > 0.3


def test_savings(rng):
    w = weight(rng)
    saved = savings(w, pc.factorize(w, 5))
    assert saved[:3] == ((600, 250), (600, 250), (2400, 1000))
    assert saved.error == pytest.approx(np.linalg.norm(0.9 ** np.arange(5, 20)) / np.linalg.norm(0.9 ** np.arange(20)))
    assert "600 -> 250 (2.40x)" in str(saved)
    low = pc.factorize(w, 5)
    mixed = pc.LowRankWeight(pc.quantize(low.a), pc.prune(low.b, 0.5))
    assert savings(w, mixed)[:2] == ((600, 175), (600, 175))
    assert savings(w, pc.prune(w, 0.75))[:3] == ((600, 150), (600, 150), (2400, 2400))
    assert savings(w, pc.quantize(w)).bytes == (2400, 600 + 80)


# ---- convolutions


def convolve(x, w, stride, padding, dilation, groups):
    """NCHW, by its definition."""
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    x = np.pad(x, [(0, 0), (0, 0), (ph, ph), (pw, pw)])
    outputs, width, kh, kw = w.shape
    height, breadth = (x.shape[2] - (kh - 1) * dh - 1) // sh + 1, (x.shape[3] - (kw - 1) * dw - 1) // sw + 1
    y = np.zeros((len(x), outputs, height, breadth))
    for o in range(outputs):
        first = o // (outputs // groups) * width
        for i, v, u in np.ndindex(width, kh, kw):
            rows, columns = slice(v * dh, v * dh + height * sh, sh), slice(u * dw, u * dw + breadth * sw, sw)
            y[:, o] += w[o, i, v, u] * x[:, first + i, rows, columns][:, :height, :breadth]
    return y


@forms
@pytest.mark.parametrize(("stride", "padding", "dilation"), [((1, 1), (0, 0), (1, 1)), ((2, 1), (1, 2), (1, 2))])
def test_the_stages_amount_to_the_dense_weight(rng, kind, form, rank, stride, padding, dilation):
    needs(kind)
    w = rng.standard_normal((6, 4, 3, 3)).astype(f32)
    factors = pc.factorize_conv(w, kind, form=form, **rank)
    x = rng.standard_normal((2, 4, 9, 8))
    wanted = convolve(x, factors.todense().astype(float), stride, padding, dilation, 1)
    y = x
    for part, groups, (vertical, horizontal) in factors.stages:
        assert part.dtype == f32
        taken = [
            (value[0] if vertical else plain, value[1] if horizontal else plain)
            for value, plain in ((stride, 1), (padding, 0), (dilation, 1))
        ]
        y = convolve(y, part.astype(float), *taken, groups)
    np.testing.assert_allclose(y, wanted, atol=1e-4)
    assert sum(part.size for part, _, _ in factors.stages) == factors.savings.parameters[1] == factors.savings.macs[1]
    error = np.linalg.norm(factors.todense() - w) / np.linalg.norm(w)
    assert factors.savings.error == pytest.approx(error, rel=1e-4)
    assert factors.shape == w.shape


def test_the_textbook_figure():
    """A 3x3 filter over 10 channels: 90 parameters, depthwise separable 3 * 3 + 10 = 19."""
    w = np.ones((1, 10, 3, 3), f32)
    one_filter = pc.factorize_conv(w, "separable", form="pointwise_first").savings
    assert one_filter.parameters == one_filter.macs == (90, 19)
    ten_filters = pc.factorize_conv(w.reshape(10, 1, 3, 3), "separable").savings
    assert ten_filters.parameters == (90, 19)
    assert one_filter.bytes == (360, 76)
    assert one_filter.error < 1e-6


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_separable_is_the_best_for_each_channel(rng, rank):
    w = rng.standard_normal((7, 5, 3, 3)).astype(f32)
    factors = pc.factorize_conv(w, "separable", rank)
    tail = [np.linalg.svd(w[:, i].reshape(7, 9).astype(float), compute_uv=False)[rank:] for i in range(5)]
    assert np.linalg.norm(factors.todense() - w) == pytest.approx(np.linalg.norm(np.concatenate(tail)), rel=1e-5)
    by_output = pc.factorize_conv(w, "separable", min(rank, 5), form="pointwise_first")
    tail = [np.linalg.svd(w[o].reshape(5, 9).astype(float), compute_uv=False)[rank:] for o in range(7)]
    wanted = np.linalg.norm(np.concatenate(tail))
    assert np.linalg.norm(by_output.todense() - w) == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_pairs_add_up(rng):
    w = rng.standard_normal((7, 5, 3, 3)).astype(f32)
    factors = pc.factorize_conv(w, "separable", 2)
    assert [(d.shape, p.shape) for d, p in factors.pairs] == [((5, 1, 3, 3), (7, 5))] * 2
    total = sum(p[:, :, None, None] * d[:, 0] for d, p in factors.pairs)
    np.testing.assert_allclose(total, factors.todense(), atol=1e-5)
    with pytest.raises(ValueError, match="pairs are of kind 'separable'"):
        _ = pc.factorize_conv(w, "svd", 2).pairs


def test_svd_errors_are_tails(rng):
    w = rng.standard_normal((7, 5, 3, 4)).astype(f32)
    for form, matrix in (("channel", w.reshape(7, -1)), ("spatial", w.transpose(1, 2, 0, 3).reshape(15, 28))):
        s = np.linalg.svd(matrix.astype(float), compute_uv=False)
        factors = pc.factorize_conv(w, "svd", 4, form=form)
        assert np.linalg.norm(factors.todense() - w) == pytest.approx(np.linalg.norm(s[4:]), rel=1e-5)
    shapes = [part.weight.shape for part in pc.factorize_conv(w, "svd", 4).stages]
    assert shapes == [(4, 5, 3, 1), (7, 4, 1, 4)]


def test_tucker2(rng):
    core, left, right = rng.standard_normal((3, 2, 3, 3)), rng.standard_normal((8, 3)), rng.standard_normal((6, 2))
    w = np.einsum("rsyx,or,is->oiyx", core, left, right).astype(f32)
    assert pc.factorize_conv(w, "tucker2", (3, 2)).savings.error < 1e-6
    shapes = [part.weight.shape for part in pc.factorize_conv(w, "tucker2", energy=0.99999).stages]
    assert shapes == [(2, 6, 1, 1), (3, 2, 3, 3), (8, 3, 1, 1)]
    noisy = rng.standard_normal((8, 6, 3, 3)).astype(f32)
    for error in (0.2, 0.5, 0.8):
        assert pc.factorize_conv(noisy, "tucker2", error=error).savings.error <= error
        assert pc.factorize_conv(noisy, "tucker2", energy=1 - error**2).savings.error <= error
    # HOOI: at least as good as the truncated HOSVD that it begins with
    x = noisy.astype(float)
    u, v = (np.linalg.svd(m.reshape(len(m), -1))[0] for m in (x, x.transpose(1, 0, 2, 3)))
    projected = np.einsum("oiyx,or,is,pr,qs->pqyx", x, u[:, :4], v[:, :3], u[:, :4], v[:, :3])
    assert pc.factorize_conv(noisy, "tucker2", (4, 3)).savings.error < np.linalg.norm(projected - x) / np.linalg.norm(x)
    assert [s.weight.shape[0] for s in pc.factorize_conv(noisy, "tucker2", 7).stages] == [6, 7, 8]


def test_cp_finds_a_sum_of_products(rng):
    pytest.importorskip("tensorly")
    parts = [rng.standard_normal((size, 2)) for size in (6, 5, 3, 3)]
    w = np.einsum("or,ir,yr,xr->oiyx", *parts).astype(f32)
    factors = pc.factorize_conv(w, "cp", 2)
    assert factors.savings.error < 1e-2
    assert [part.weight.shape for part in factors.stages] == [(2, 5, 1, 1), (2, 1, 3, 1), (2, 1, 1, 3), (6, 2, 1, 1)]
    assert [part.groups for part in factors.stages] == [1, 2, 2, 1]


@pytest.mark.parametrize("kernel", [(3, 3), (5, 3), (2, 4)])
def test_squeeze_is_least_squares_of_the_middle(rng, kernel):
    w = rng.standard_normal((6, 4, *kernel)).astype(f32)
    x = pc.unfold(images(rng, 4), kernel)
    factors = pc.factorize_conv(w, "squeeze", inputs=x, damping=1e-9)
    (stage,) = factors.stages
    middle = x.reshape(len(x), 4, *kernel)[:, :, (kernel[0] - 1) // 2, (kernel[1] - 1) // 2]
    best = np.linalg.lstsq(middle.astype(float), x.astype(float) @ w.reshape(6, -1).T, rcond=None)[0].T
    np.testing.assert_allclose(stage.weight[:, :, 0, 0], best, rtol=1e-3, atol=1e-3)
    assert factors.todense().shape == w.shape
    assert factors.savings.parameters == (w.size, 24)
    assert output_error(x, w, factors.todense()) < output_error(x, w, np.zeros_like(w))


def test_squeeze_of_flat_images_is_the_sum_of_the_taps(rng):
    w = rng.standard_normal((6, 4, 3, 3)).astype(f32)
    x = np.repeat(rng.standard_normal((50, 4)), 9, axis=1).astype(f32)
    (stage,) = pc.factorize_conv(w, "squeeze", inputs=x, damping=1e-9).stages
    np.testing.assert_allclose(stage.weight[:, :, 0, 0], w.sum((2, 3)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kind", "form", "rank"), FORMS[:-1])  # cp's iteration does not end at an optimum
@given(seed=st.integers(0, 10**6))
def test_convolutions_with_inputs_never_worse_than_without(kind, form, rank, seed):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((5, 4, 3, 2)).astype(f32)
    x = pc.unfold(images(rng, 4, rng.integers(3, 7), 1), (3, 2))
    x = x * 10.0 ** rng.uniform(-1, 1, (1, 24)).astype(f32)
    plain = pc.factorize_conv(w, kind, form=form, **rank).todense()
    aware = pc.factorize_conv(w, kind, form=form, inputs=x, **rank)
    norm = np.linalg.norm(x.astype(float) @ w.reshape(5, -1).T)
    wrong = output_error(x, w, aware.todense())
    assert wrong <= output_error(x, w, plain) * (1 + 1e-5) + 1e-5 * norm
    assert aware.savings.error == pytest.approx(wrong / norm, rel=1e-3, abs=1e-5)


@forms
def test_convolutions_gain_by_inputs(rng, kind, form, rank):
    needs(kind)
    w = rng.standard_normal((10, 4, 3, 3)).astype(f32)
    x = pc.unfold(images(rng, 4), 3)
    plain, aware = (pc.factorize_conv(w, kind, form=form, inputs=inputs, **rank).todense() for inputs in (None, x))
    assert output_error(x, w, aware) < 0.995 * output_error(x, w, plain)


def test_separable_with_inputs_stands_still_at_the_best(rng):
    """Neither stage can be improved by least squares when the other stays."""
    w, x = rng.standard_normal((8, 3, 3, 3)).astype(f32), pc.unfold(images(rng, 3), 3)
    factors = pc.factorize_conv(w, "separable", inputs=x, rounds=300, damping=1e-9)
    depthwise, pointwise = factors.pairs[0]
    wanted, patches = x.astype(float) @ w.reshape(8, -1).T, x.reshape(-1, 3, 9).astype(float)
    got = output_error(x, w, factors.todense())
    features = np.einsum("sik,ik->si", patches, depthwise.reshape(3, 9))
    best = np.linalg.norm(features @ np.linalg.lstsq(features, wanted, rcond=None)[0] - wanted)
    assert got == pytest.approx(best, rel=1e-4)
    design = np.einsum("sik,oi->soik", patches, pointwise).reshape(-1, 27)
    taps = np.linalg.lstsq(design, wanted.reshape(-1), rcond=None)[0]
    assert got == pytest.approx(np.linalg.norm(design @ taps - wanted.reshape(-1)), rel=1e-3)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [(3, 1, 0, 1), ((3, 2), 2, (1, 0), (2, 1))])
def test_unfold_is_what_a_convolution_multiplies(rng, kernel, stride, padding, dilation):
    two = lambda value: value if isinstance(value, tuple) else (value, value)  # noqa: E731
    x, w = rng.standard_normal((2, 3, 8, 7)).astype(f32), rng.standard_normal((5, 3, *two(kernel))).astype(f32)
    wanted = convolve(x.astype(float), w.astype(float), two(stride), two(padding), two(dilation), 1)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    patches = pc.unfold(x, kernel, layout="NCHW", **options)
    same_bits(pc.unfold(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), kernel, **options), patches)
    y = (patches @ w.reshape(5, -1).T).reshape(2, *wanted.shape[2:], 5).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(y, wanted, atol=1e-4)


# ---- bad input

W = np.ones((4, 8), f32)
C = np.ones((4, 3, 3, 3), f32)
BAD = [
    (TypeError, "w is an array of int8", {"w": W.astype(np.int8)}),
    (ValueError, r"w has shape \(4, 3, 3, 3\)", {"w": C}),
    (ValueError, r"w has shape \(0, 8\)", {"w": W[:0]}),
    (ValueError, "w holds NaN", {"w": W * np.nan}),
    (ValueError, "rank is 2, energy 0.5, error None: wanted one", {"energy": 0.5}),
    (ValueError, "rank is None, energy None", {"rank": None}),
    (ValueError, "rank is 0, wanted 1 to 4", {"rank": 0}),
    (ValueError, "rank is 5, wanted 1 to 4", {"rank": 5}),
    (TypeError, "rank is 1.5", {"rank": 1.5}),
    (ValueError, "energy is 0, wanted above 0", {"rank": None, "energy": 0}),
    (ValueError, "error is 1, wanted from 0 to below 1", {"rank": None, "error": 1}),
    (ValueError, "error is nan", {"rank": None, "error": math.nan}),
    (ValueError, "solver is 'fast'", {"solver": "fast"}),
    (ValueError, "damping is -1", {"damping": -1, "inputs": np.ones((2, 8), f32)}),
    (ValueError, "inputs: x has shape", {"inputs": W[:, :4]}),
]


@pytest.mark.parametrize(("error", "message", "change"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_arguments(error, message, change):
    with pytest.raises(error, match=message):
        pc.factorize(**({"w": W, "rank": 2} | change))


BAD_CONV = [
    (ValueError, r"w has shape \(4, 8\)", {"w": W}),
    (ValueError, r"w has shape \(4, 0, 3, 3\)", {"w": C[:, :0]}),
    (ValueError, "kind is 'fft'", {"kind": "fft"}),
    (ValueError, "form is 'spatial', wanted 'depthwise_first' or", {"form": "spatial"}),
    (ValueError, "form is 'spatial', wanted None", {"kind": "tucker2", "form": "spatial"}),
    (ValueError, "rank is 10, wanted 1 to 4", {"rank": 10}),
    (ValueError, r"rank is \(1, 2\), wanted an int", {"rank": (1, 2)}),
    (ValueError, "rank is None, energy None", {"kind": "svd"}),
    (ValueError, "rank is 5, wanted 1 to 4", {"kind": "tucker2", "rank": 5}),
    (ValueError, r"rank is \(1, 2, 3\)", {"kind": "tucker2", "rank": (1, 2, 3)}),
    (ValueError, "'cp' takes rank only", {"kind": "cp", "energy": 0.5}),
    (ValueError, "rank is 0", {"kind": "cp", "rank": 0}),
    (ValueError, "'squeeze' needs calibration inputs", {"kind": "squeeze"}),
    (ValueError, "'squeeze' takes none", {"kind": "squeeze", "rank": 1}),
    (ValueError, "inputs: x has shape", {"inputs": W}),
    (ValueError, "rounds is -1", {"rounds": -1}),
]


@pytest.mark.parametrize(("error", "message", "change"), BAD_CONV, ids=[message for _, message, _ in BAD_CONV])
def test_bad_arguments_of_convolutions(error, message, change):
    with pytest.raises(error, match=message):
        pc.factorize_conv(**({"w": C} | change))


@pytest.mark.parametrize("shape", [(0, 4, 4, 2), (2, 4, 4, 0)])
def test_unfold_of_nothing(shape):
    assert pc.unfold(np.ones(shape, f32), 3).shape == (4 * shape[0], 9 * shape[3])


def test_bad_arguments_of_unfold():
    x = np.ones((1, 4, 4, 2), f32)
    for error, message, args, options in [
        (ValueError, "x has shape", (x[0], 3), {}),
        (TypeError, "x is an array of int64", (x.astype(np.int64), 3), {}),
        (ValueError, "layout is 'CHWN'", (x, 3), {"layout": "CHWN"}),
        (ValueError, "smaller than the kernel, 5 by 5", (x, 3), {"dilation": 2}),
        (ValueError, "stride is 0", (x, 3), {"stride": 0}),
    ]:
        with pytest.raises(error, match=message):
            pc.unfold(*args, **options)


def test_savings_of_another_weight():
    with pytest.raises(ValueError, match="weight has shape"):
        savings(W, W[:3])


def test_without_tensorly():
    code = """
import sys; sys.modules["tensorly.decomposition"] = None
import numpy as np, pycompress as pc
pc.factorize_conv(np.ones((2, 2, 3, 3), np.float32), "cp", 1)
"""
    assert "ImportError: kind 'cp' needs tensorly: pip install 'pycompress-kernels[cp]'" in python(code, fails=True)
