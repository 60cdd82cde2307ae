"""pc.calibrate, pc.Observer and pc.InputStatistics against brute force on the values themselves."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import f32

import pycompress as pc

METHODS = ["minmax", "moving_average", "percentile", "entropy", "mse"]
KINDS = [(np.uint8, False), (np.uint8, True), (np.int8, False), (np.int8, True)]
kinds = pytest.mark.parametrize(("dtype", "symmetric"), KINDS, ids=["uint8", "uint8-sym", "int8", "int8-sym"])
DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "laplace": lambda rng, n: rng.laplace(1, 2, n),
    "relu": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "below 0": lambda rng, n: -np.abs(rng.standard_normal(n)),
    "uniform": lambda rng, n: rng.uniform(-3, 5, n),
    "outliers": lambda rng, n: np.where(rng.random(n) < 1e-4, 60, 1) * rng.standard_normal(n),
}
distributions = pytest.mark.parametrize("draw", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)


def values(rng, draw, n=100_000):
    return draw(rng, n).astype(f32)


def round_trip(x, qparams, dtype):
    """Quantized and back."""
    info = np.iinfo(dtype)
    q = np.clip(np.rint(x.astype(float) / qparams.scale) + qparams.zero_point, info.min, info.max)
    return (q - qparams.zero_point) * qparams.scale


def squared_error(x, qparams, dtype):
    return float(np.mean((round_trip(x, qparams, dtype) - x) ** 2))


def for_range(low, high, dtype, symmetric):
    return pc.calibrate(np.array([low, high], f32), dtype=dtype, symmetric=symmetric)


# ---- methods


@distributions
def test_minmax_is_dynamic_quantize_linear(rng, draw):
    x = values(rng, draw)
    _, scale, zero_point = pc.dynamic_quantize_linear(x)
    assert pc.calibrate(np.split(x, 10)) == pc.QParams(scale, int(zero_point))
    as_int8 = pc.calibrate([x], dtype=np.int8)
    assert as_int8 == (scale, int(zero_point) - 128)


@distributions
def test_symmetric(rng, draw):
    x = values(rng, draw)
    scale = np.abs(x).max() / f32(127)
    assert pc.calibrate([x], dtype=np.int8, symmetric=True) == (scale, 0)
    assert pc.calibrate([x], symmetric=True) == (scale, 128)


@kinds
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("x", [[0.0], [0, -0.0, 0], [3.5], [-2.0, -2], [1e-45], [3e38], [0, 1, 1, 1], [-1e-40, 1e30]])
def test_few_and_special_values(method, x, dtype, symmetric):
    x = np.array(x, f32)
    qparams = pc.calibrate([x], method, dtype=dtype, symmetric=symmetric)
    if method in ("minmax", "moving_average") and x.any() and np.abs(x).max() > 1e-40:
        assert np.abs(round_trip(x, qparams, dtype) - x).max() <= qparams.scale * 0.5001
    if not x.any():
        assert round_trip(x, qparams, dtype).tolist() == x.tolist()


def test_moving_average():
    batches = [np.array([-1, 3.0], f32), np.array([-3, 1.0], f32), np.array([5.0], f32)]
    low = 0.75 * (0.75 * -1 + 0.25 * -3) + 0.25 * 0
    high = 0.75 * (0.75 * 3 + 0.25 * 1) + 0.25 * 5
    observer = pc.Observer("moving_average", momentum=0.75)
    for batch in batches:
        observer.update(batch)
    assert observer.range() == (low, high)
    assert pc.calibrate(batches, "moving_average", momentum=0.75) == for_range(low, high, np.uint8, False)


@distributions
@pytest.mark.parametrize("percentile", [90, 99, 99.9, 100])
@pytest.mark.parametrize("symmetric", [False, True])
def test_percentile(rng, draw, percentile, symmetric):
    x = values(rng, draw)
    observer = pc.Observer("percentile", percentile=percentile, symmetric=symmetric)
    observer.update(x)
    low, high = observer.range()
    if symmetric:
        wanted = np.percentile(np.abs(x), percentile)
        wanted = -wanted, wanted
    else:
        left = (100 - percentile) / 2
        wanted = min(np.percentile(x, left), 0), max(np.percentile(x, 100 - left), 0)
    # Two bins; and where values are rare, percentiles between two of them are a matter of taste.
    ordered, left = np.sort(np.abs(x) if symmetric else x), (100 - percentile) / (100 if symmetric else 200)
    around = (min(max(int(part * len(x)) - 1, 0), len(x) - 3) for part in (left, 1 - left))
    gap = max(ordered[i + 2] - ordered[i] for i in around) if percentile < 100 else 0
    bin_width = (max(x.max(), 0) - min(x.min(), 0)) / 2**14
    np.testing.assert_allclose((low, high), wanted, atol=2 * bin_width + gap)
    assert low <= 0 <= high


@distributions
@kinds
def test_mse_is_near_the_best_of_all_ranges(rng, draw, dtype, symmetric):
    x = values(rng, draw, 20_000)
    got = squared_error(x, pc.calibrate([x], "mse", dtype=dtype, symmetric=symmetric), dtype)
    low, high = min(x.min(), 0), max(x.max(), 0)
    steps = np.linspace(0.02, 1, 50)
    if symmetric:
        ranges = [(-t * max(-low, high), t * max(-low, high)) for t in steps]
    else:
        ranges = itertools.product(low * steps if low < 0 else [0.0], high * steps if high > 0 else [0.0])
        ranges = list(ranges)[:: 1 if low == 0 or high == 0 else 7]
    best = min(squared_error(x, for_range(*ends, dtype, symmetric), dtype) for ends in ranges)
    assert got <= 1.03 * best
    assert got <= 1.0001 * squared_error(x, pc.calibrate([x], dtype=dtype, symmetric=symmetric), dtype)


def slow_divergence(x, low, high, qparams, width):
    """The definition, bin by bin."""
    x = x[x != 0].astype(float)
    bins = {}
    for at, count in zip(*np.unique(np.floor(x / width), return_counts=True), strict=True):
        bins[(at + 0.5) * width] = int(count)
    inside = [center for center in sorted(bins) if low <= center <= high]
    p = {center: float(bins[center]) for center in inside}
    p[inside[0]] += sum(count for center, count in bins.items() if center < inside[0])
    p[inside[-1]] += sum(count for center, count in bins.items() if center > inside[-1])
    levels = {}
    for center in inside:
        level = np.clip(np.rint(center / qparams.scale) + qparams.zero_point, -128, 127)
        levels.setdefault(level, []).append(center)
    q = {}
    for members in levels.values():
        for center in members:
            q[center] = sum(bins[member] for member in members) / len(members)
    whole_p, whole_q = sum(p.values()), sum(q.values())
    return sum(p[c] / whole_p * math.log((p[c] / whole_p) / (q[c] / whole_q)) for c in inside)


@pytest.mark.parametrize("name", ["normal", "relu", "outliers"])
def test_entropy_is_the_least_divergence(rng, name):
    x = values(rng, DISTRIBUTIONS[name], 20_000)
    observer = pc.Observer("entropy", dtype=np.int8, symmetric=True)
    observer.update(x)
    widest = float(np.abs(x).max())
    span = float(max(x.max(), 0)) - float(min(x.min(), 0))
    width = 2.0 ** math.ceil(math.log2(span / 2**15))
    if math.floor(x.max() / width) - math.floor(min(x.min(), 0) / width) >= 2**15:
        width *= 2
    width *= 8  # entropy merges the bins

    def divergence(k):
        high = widest * 2 ** (-k / 16)
        return slow_divergence(x, -high, high, for_range(-high, high, np.int8, True), width)

    coarse = min(range(0, 97, 8), key=divergence)
    fine = min(range(max(coarse - 8, 0), coarse + 9), key=divergence)
    assert observer.range() == (-widest * 2 ** (-fine / 16), widest * 2 ** (-fine / 16))


def test_what_is_cut_off(rng):
    """All of a uniform distribution is kept; far outliers are not, whose place the others need."""
    uniform = rng.uniform(-1, 1, 200_000).astype(f32)
    outliers = np.append(rng.standard_normal(200_000), [400.0]).astype(f32)
    for method in ("percentile", "entropy", "mse"):
        kept = pc.Observer(method)
        kept.update(uniform)
        assert kept.range() == pytest.approx((-1, 1), abs=0.06)
        cut = pc.Observer(method)
        cut.update(outliers)
        assert cut.range()[1] < {"percentile": 5, "entropy": 40, "mse": 330}[method]


# ---- as a stream


@kinds
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_the_cut_and_the_order_do_not_matter(rng, method, dtype, symmetric):
    x = values(rng, DISTRIBUTIONS["outliers"], 30_000) * f32(0.01)
    options = {"dtype": dtype, "symmetric": symmetric}
    wanted = pc.calibrate([x], method, **options)
    assert pc.calibrate(x.reshape(3, 100, 100), method, **options) == wanted
    assert (
        pc.calibrate(np.split(np.sort(np.abs(x)) * np.sign(x[np.argsort(np.abs(x))]), 100), method, **options) == wanted
    )
    assert pc.calibrate((x[i::7] for i in range(7)), method, **options) == wanted
    one, other = pc.Observer(method, **options), pc.Observer(method, **options)
    one.update(x[:100])
    other.update(x[100:])
    other.merge(pc.Observer(method, **options))
    one.merge(other)
    assert one.qparams() == wanted


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(-(2.0**120), 2.0**120, width=32), max_size=5), min_size=1, max_size=6))
def test_any_values_in_any_batches(method, batches):
    arrays = [np.array(batch, f32) for batch in batches]
    whole = np.concatenate(arrays)
    if whole.size:
        observer = pc.Observer(method)
        for batch in arrays:
            observer.update(batch)
        low, high = observer.range()
        assert min(whole.min(), 0) <= low <= 0 <= high <= max(whole.max(), 0)
        assert observer.qparams() == pc.calibrate([whole], method)


@pytest.mark.parametrize("method", METHODS)
def test_in_bounded_memory(rng, method):
    base = rng.standard_normal((100, 1000)).astype(f32)
    tracemalloc.start()
    pc.calibrate((base * f32(1 + i / 10) for i in range(60)), method)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # all batches are 24 MB


def test_layouts_and_dtypes(rng):
    x = rng.standard_normal((40, 50)).astype(f32)
    wanted = pc.calibrate([x], "mse")
    assert pc.calibrate([x.T[::-1]], "mse") == wanted
    assert pc.calibrate([x.astype(np.float64)], "mse") == wanted
    assert pc.calibrate([np.zeros((0, 3), f32), x], "mse") == wanted


BAD = [
    (ValueError, "no values were seen", {"batches": []}),
    (ValueError, "no values were seen", {"batches": np.zeros((0, 4), f32)}),
    (ValueError, "method is 'max'", {"method": "max"}),
    (TypeError, "dtype is int16", {"dtype": np.int16}),
    (ValueError, "percentile is 0, wanted above 0", {"percentile": 0}),
    (ValueError, "percentile is 101", {"percentile": 101}),
    (ValueError, "momentum is 1, wanted from 0 to below 1", {"momentum": 1}),
    (ValueError, "x holds NaN", {"batches": [np.array([1, math.nan], f32)]}),
    (ValueError, "x holds NaN or infinity", {"batches": [np.array([math.inf], f32)]}),
    (TypeError, "x is an array of int64", {"batches": [np.arange(3)]}),
    (ValueError, "wider than float32 can say", {"batches": np.array([-3e38, 3e38], f32)}),
]


@pytest.mark.parametrize(("error", "message", "change"), BAD, ids=range(len(BAD)))
def test_bad_arguments(error, message, change):
    with pytest.raises(error, match=message):
        pc.calibrate(**({"batches": [np.ones(3, f32)]} | change))


def test_observers_that_do_not_fit():
    for one, other in [("mse", "entropy"), ("moving_average", "moving_average")]:
        with pytest.raises(ValueError, match="other has another method"):
            pc.Observer(one).merge(pc.Observer(other))


# ---- InputStatistics


def test_statistics(rng):
    x = rng.standard_normal((6, 50, 8)).astype(f32) + 2
    seen, other = pc.InputStatistics(8), pc.InputStatistics(8)
    for batch in x[:4]:
        seen.update(batch)
    other.update(x[4:])
    seen.merge(other)
    flat = x.reshape(-1, 8).astype(float)
    assert (seen.count, seen.k) == (300, 8)
    np.testing.assert_allclose(seen.gram, flat.T @ flat, rtol=1e-10)
    np.testing.assert_allclose(seen.mean, flat.mean(0), rtol=1e-10)
    np.testing.assert_array_equal(seen.absmax, np.abs(flat).max(0))
    w, approximation = rng.standard_normal((2, 5, 8)).astype(f32)
    error = np.linalg.norm(flat @ (approximation - w).T.astype(float)) / np.linalg.norm(flat @ w.T.astype(float))
    assert seen.output_error(w, approximation) == pytest.approx(error, rel=1e-6)
    damped = seen.damped(0.5)
    np.testing.assert_allclose(damped, flat.T @ flat / 300 + 0.5 * np.trace(flat.T @ flat) / 2400 * np.eye(8))


def test_statistics_in_pieces(rng, monkeypatch):
    from pycompress import inputs

    x = rng.standard_normal((100, 8)).astype(f32)
    whole, pieces = pc.InputStatistics(8), pc.InputStatistics(8)
    whole.update(x)
    monkeypatch.setattr(inputs, "_CHUNK", 24)
    pieces.update(x)
    np.testing.assert_allclose(pieces.gram, whole.gram, rtol=1e-10)
    assert pieces.count == 100


def test_bad_statistics():
    seen = pc.InputStatistics(4)
    for error, message, x in [
        (ValueError, r"x has shape \(2, 5\), wanted \[..., 4\]", np.ones((2, 5), f32)),
        (ValueError, "x has shape", f32(1)),
        (TypeError, "x is an array of int64", np.ones((2, 4), np.int64)),
        (ValueError, "x holds NaN", np.full((2, 4), math.nan, f32)),
    ]:
        with pytest.raises(error, match=message):
            seen.update(x)
    assert seen.count == 0
    with pytest.raises(TypeError, match=r"k is 4\.0"):
        pc.InputStatistics(4.0)
    with pytest.raises(ValueError, match="other has k = 5"):
        seen.merge(pc.InputStatistics(5))
