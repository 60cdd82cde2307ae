"""pc.quantize and pycompress.quantize: levels and scales by their definition, and what is left of the outputs."""

import importlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import f32, same_bits

import pycompress as pc
from pycompress.quantize import bias_correction, integers, smooth

PER = [{"per": "tensor"}, {"per": "channel"}, {"per": "group", "group_size": 16}, {"per": "group", "group_size": 7}]
pers = pytest.mark.parametrize("options", PER, ids=lambda o: "-".join(map(str, o.values())))
every_bits = pytest.mark.parametrize("bits", [2, 3, 4, 8])


def weight(rng, n=12, k=40):
    return (rng.standard_normal((n, k)) * rng.uniform(0.1, 3, (n, 1))).astype(f32)


def correlated(rng, samples, k, spread=30.0):
    mix = rng.standard_normal((k, k)) * np.geomspace(1, 1 / spread, k)[:, None]
    return (rng.standard_normal((samples, k)) @ mix).astype(f32)


def row_errors(x, w, approximation):
    return np.linalg.norm(x.astype(float) @ (approximation.astype(float) - w).reshape(len(w), -1).T, axis=0)


def slow(w, bits, size):
    """float32, one group at a time."""
    most = f32(2 ** (bits - 1) - 1)
    q, scales = np.zeros(w.shape, np.int8), []
    for row, out in zip(w, q, strict=True):
        scales.append([])
        for start in range(0, len(row), size):
            group = row[start : start + size]
            scale = np.abs(group).max() / most
            scale = scale if scale > 0 else f32(1)
            out[start : start + size] = np.clip(np.rint(group / scale), -most, most)
            scales[-1].append(scale)
    return q, np.array(scales, f32)


# ---- levels and scales


def test_8_bits_is_from_float(rng):
    for w in (weight(rng), rng.standard_normal((6, 3, 5, 5)).astype(f32)):
        got, wanted = pc.quantize(w), pc.Int8Weight.from_float(w)
        assert isinstance(got, pc.Int8Weight)
        same_bits(got.q, wanted.q)
        same_bits(got.scale, wanted.scale)


def test_8_bits_per_tensor(rng):
    w = weight(rng)
    got = pc.quantize(w, per="tensor")
    scale = np.abs(w).max() / f32(127)
    same_bits(got.scale, np.full(12, scale, f32))
    same_bits(got.q, np.rint(w / scale).astype(np.int8))


@pytest.mark.parametrize("k", [20, 32, 100])
def test_4_bits_is_from_float(rng, k):
    w = weight(rng, 6, k)
    for size in (32, 64, 128):
        got, wanted = pc.quantize(w, 4, group_size=size), pc.Int4Weight.from_float(w, size)
        same_bits(got.q, wanted.q)
        same_bits(got.scale, wanted.scale)
    by_channel, wanted = pc.quantize(w, 4, per="channel"), pc.Int4Weight.from_float(w, None)
    same_bits(by_channel.q, wanted.q)
    same_bits(by_channel.scale, wanted.scale)
    options = {"rounding": "gptq", "clip": "mse", "inputs": correlated(rng, 90, k)}
    same_bits(pc.quantize(w, 4, **options).todense(), integers(w, 4, per="group", **options).todense())


def test_16_bits_is_from_float(rng):
    w = weight(rng)
    same_bits(pc.quantize(w, 16).todense(), w.astype(np.float16).astype(f32))


@every_bits
@pytest.mark.parametrize("size", [1, 7, 16, 40, 100])
def test_groups(rng, bits, size):
    w = weight(rng)
    w[3, :16] = 0
    got = integers(w, bits, per="group", group_size=size)
    q, scale = slow(w, bits, size)
    same_bits(got.q, q)
    same_bits(got.scale, scale)
    spread = np.repeat(scale, min(size, 40), 1)[:, :40]
    same_bits(got.todense(), q * spread)
    assert (np.abs(got.todense() - w) <= spread * f32(0.50001)).all()


@every_bits
def test_channels_and_tensor(rng, bits):
    w = weight(rng)
    for per, size in (("channel", 40), ("tensor", w.size)):
        got = integers(w, bits, per=per)
        q, scale = slow(w if per == "channel" else w.reshape(1, -1), bits, size)
        same_bits(got.q, q.reshape(w.shape))
        same_bits(got.scale, np.broadcast_to(scale, (12, 1)))


@given(st.integers(0, 10**6))
def test_any_weight(seed):
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal(rng.integers(1, 9, 2)) * 10.0 ** rng.uniform(-44, 37)).astype(f32)
    size, bits = int(rng.integers(1, 10)), int(rng.integers(2, 9))
    got = integers(w, bits, per="group", group_size=size)
    q, scale = slow(w, bits, size)
    same_bits(got.q, q)
    same_bits(got.scale, scale)


@pers
@every_bits
def test_clip_is_the_best_of_26_scales(rng, bits, options):
    w = weight(rng)
    w[2, 5] = 40
    got, plain = (integers(w, bits, clip=clip, **options) for clip in ("mse", "max"))
    size = got.group_size

    def errors(scale):
        spread = np.repeat(scale, size, 1)[:, : w.shape[1]]
        most = 2 ** (bits - 1) - 1
        squares = (np.clip(np.rint(w / spread), -most, most) * spread - w).astype(float) ** 2
        by_group = [squares[:, start : start + size].sum(1) for start in range(0, w.shape[1], size)]
        total = np.stack(by_group, 1)
        return np.full(total.shape, total.sum()) if options["per"] == "tensor" else total

    tried = [plain.scale * f32(1 - step / 50) for step in range(26)]
    np.testing.assert_allclose(errors(got.scale), np.min([errors(scale) for scale in tried], axis=0), rtol=1e-5)
    if options["per"] != "tensor" and bits < 8:
        assert errors(got.scale).sum() < errors(plain.scale).sum()


def test_clip_with_inputs_minds_the_large_ones(rng):
    w, x = weight(rng), rng.standard_normal((200, 40)).astype(f32)
    x[:, :4] *= 30
    plain, minding = (integers(w, 4, clip="mse", inputs=inputs).todense() for inputs in (None, x))
    assert row_errors(x, w, minding).sum() < 0.9 * row_errors(x, w, plain).sum()


# ---- GPTQ


def test_gptq_is_the_definition(rng):
    """Column by column, the largest inputs first, with the inverse of what is left of H computed anew each time."""
    w, x = weight(rng, 6, 24), correlated(rng, 300, 24)
    hessian = x.T.astype(float) @ x / len(x)
    hessian += 0.01 * np.trace(hessian) / 24 * np.eye(24)
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    hessian, left = hessian[np.ix_(order, order)], w[:, order].astype(float)
    scale = np.abs(w).max(1) / f32(7)
    wanted = np.zeros((6, 24))
    for j in range(24):
        inverse = np.linalg.inv(hessian[j:, j:])
        level = np.clip(np.rint(left[:, j] / scale), -7, 7)
        wanted[:, order[j]] = level
        left[:, j:] -= ((left[:, j] - level * scale) / inverse[0, 0])[:, None] * inverse[0]
    got = integers(w, 4, rounding="gptq", inputs=x)
    np.testing.assert_array_equal(got.q, wanted)
    same_bits(got.scale[:, 0], scale)


@pytest.mark.parametrize(("of_w", "of_x"), [(2.0**100, 2.0**-80), (2.0**-100, 2.0**80)])
def test_gptq_of_very_large_and_small_numbers(rng, of_w, of_x):
    w, x = weight(rng, 6, 20), correlated(rng, 100, 20)
    got = integers(w * f32(of_w), 4, rounding="gptq", inputs=x * f32(of_x))
    same_bits(got.q, integers(w, 4, rounding="gptq", inputs=x).q)


def test_gptq_windows_change_nothing_but_the_time(rng, monkeypatch):
    w, x = weight(rng, 6, 60), correlated(rng, 300, 60)
    wanted = integers(w, 4, rounding="gptq", inputs=x)
    for window in (1, 7, 16):
        monkeypatch.setattr(importlib.import_module("pycompress.quantize"), "_WINDOW", window)
        assert np.mean(integers(w, 4, rounding="gptq", inputs=x).q != wanted.q) < 0.02  # sums in another order


@pers
@every_bits
def test_gptq_beats_rounding_to_nearest(rng, bits, options):
    w, x = weight(rng, 16, 200), correlated(rng, 800, 200)
    plain, better = (integers(w, bits, rounding=r, inputs=x, **options) for r in ("nearest", "gptq"))
    same_bits(plain.scale, better.scale)
    assert np.abs(better.q).max() <= 2 ** (bits - 1) - 1
    assert row_errors(x, w, better.todense()).sum() < 0.8 * row_errors(x, w, plain.todense()).sum()


@pers
@given(seed=st.integers(0, 10**6))
def test_gptq_makes_no_output_worse(options, seed):
    rng = np.random.default_rng(seed)
    n, k = rng.integers(1, 8), rng.integers(1, 24)
    w = (rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-1, 1, (1, k))).astype(f32)
    x = correlated(rng, rng.integers(1, 40), k, 10 ** rng.uniform(0, 3)) * (rng.random(k) < 0.9).astype(f32)
    plain, better = (integers(w, 3, rounding=r, inputs=x, **options) for r in ("nearest", "gptq"))
    limit = row_errors(x, w, plain.todense())
    assert (row_errors(x, w, better.todense()) <= limit * (1 + 1e-6) + 1e-6 * np.linalg.norm(x)).all()


def test_gptq_keeps_zeros(rng):
    w, x = weight(rng), correlated(rng, 200, 40)
    pruned = pc.prune(w, 0.6, "block", block=(1, 4), method="sparsegpt", inputs=x)
    plain, better = (integers(pruned, 4, rounding=r, inputs=x) for r in ("nearest", "gptq"))
    assert not better.q[pruned == 0].any()
    assert row_errors(x, pruned, better.todense()).sum() < 0.95 * row_errors(x, pruned, plain.todense()).sum()


def test_gptq_of_a_convolution_and_again(rng):
    w, x = rng.standard_normal((6, 4, 3, 3)).astype(f32), rng.standard_normal((2, 8, 8, 4)).astype(f32)
    patches = pc.unfold(x + np.roll(x, 1, 1), 3)
    got = pc.quantize(w, rounding="gptq", inputs=patches)
    assert got.shape == w.shape
    matrix = pc.quantize(w.reshape(6, -1), rounding="gptq", inputs=patches)
    same_bits(got.q.reshape(6, -1), matrix.q)
    assert (row_errors(patches, w, got.todense()) <= row_errors(patches, w, pc.quantize(w).todense())).all()


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1)])
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
@pers
def test_empty_and_tiny_weights(shape, rounding, options):
    x = np.ones((3, shape[1]), f32)
    got = integers(np.ones(shape, f32), 4, rounding=rounding, clip="mse", inputs=x, **options)
    assert got.q.shape == got.todense().shape == shape


# ---- bias correction


def test_bias_correction_keeps_the_mean(rng):
    w, x = weight(rng), rng.standard_normal((300, 40)).astype(f32) + f32(1.5)
    for compressed in (integers(w, 3).todense(), pc.quantize(w), pc.factorize(w, 5), pc.prune(w, 0.5)):
        dense = compressed if isinstance(compressed, np.ndarray) else compressed.todense()
        shift = bias_correction(w, compressed, x)
        assert shift.dtype == f32
        outputs = x.astype(float) @ w.T.astype(float)
        corrected = x.astype(float) @ dense.T.astype(float) + shift
        np.testing.assert_allclose(corrected.mean(0), outputs.mean(0), atol=1e-4)
        plain = np.linalg.norm(corrected - shift - outputs, axis=0)
        assert (np.linalg.norm(corrected - outputs, axis=0) <= plain + 1e-6).all()


# ---- smooth


def test_smooth_changes_nothing_but_the_ranges(rng):
    gain, shift = rng.uniform(0.5, 2, (2, 40)).astype(f32)
    gain[[3, 17]] = 50
    x = rng.standard_normal((100, 40)).astype(f32)
    first, second = weight(rng, 12, 40), weight(rng, 7, 40)
    activation = x * gain + shift
    done = smooth([first, second], activation, along=[gain, shift])
    wanted = np.sqrt(np.abs(activation).max(0) / np.maximum(np.abs(first).max(0), np.abs(second).max(0)))
    np.testing.assert_allclose(done.scale, wanted, rtol=1e-5)
    smoothed = x * done.along[0] + done.along[1]
    for w, scaled in zip((first, second), done.consumers, strict=True):
        np.testing.assert_allclose(smoothed @ scaled.T, activation @ w.T, rtol=1e-3, atol=1e-3)
    assert np.ptp(np.abs(smoothed).max(0)) < 0.5 * np.ptp(np.abs(activation).max(0))

    def error(activation, w):
        y = pc.linear(activation, pc.quantize(w), x_qparams=pc.calibrate([activation]))
        return np.linalg.norm(y - activation @ w.T)

    assert error(smoothed, done.consumers[0]) < 0.5 * error(activation, first)


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_smooth_alpha(rng, alpha):
    w, x = weight(rng), correlated(rng, 50, 40)
    wanted = np.abs(x).max(0) ** alpha / np.abs(w).max(0) ** (1 - alpha)
    np.testing.assert_allclose(smooth(w, x, alpha=alpha).scale, wanted, rtol=1e-5)


def test_smooth_without_inputs_makes_both_sides_equal(rng):
    first, bias, second = (
        weight(rng, 9, 5),
        rng.standard_normal(9).astype(f32),
        rng.standard_normal((4, 9, 3, 3)).astype(f32),
    )
    done = smooth(second, producers=first, along=[bias])
    np.testing.assert_allclose(np.abs(done.producers[0]).max(1), np.abs(done.consumers[0]).max((0, 2, 3)), rtol=1e-5)
    x = rng.standard_normal((6, 5)).astype(f32)
    hidden = np.maximum(x @ first.T + bias, 0)
    after = np.maximum(x @ done.producers[0].T + done.along[0], 0)
    y, again = (np.einsum("sc,ocyx->soyx", h, w) for h, w in ((hidden, second), (after, done.consumers[0])))
    np.testing.assert_allclose(again, y, rtol=1e-3, atol=1e-4)


def test_smooth_leaves_dead_inputs_alone(rng):
    w, x = weight(rng), correlated(rng, 50, 40)
    x[:, 3], w[:, 5] = 0, 0
    scale = smooth(w, x).scale
    assert scale[3] == scale[5] == 1
    extreme = smooth(np.full((2, 1), 1e-38, f32), np.full((2, 1), 1e38, f32))
    assert np.isfinite(extreme.consumers[0]).all()


# ---- bad input

W = np.ones((4, 8), f32)
X = np.ones((5, 8), f32)
BAD = [
    (TypeError, "w is an array of int64", {"w": np.ones((4, 8), np.int64)}),
    (ValueError, r"w has shape \(8,\)", {"w": np.ones(8, f32)}),
    (ValueError, "w holds NaN", {"w": W * np.nan}),
    (ValueError, "bits is 5", {"bits": 5}),
    (ValueError, "bits is '8'", {"bits": "8"}),
    (ValueError, "per is 'row'", {"per": "row"}),
    (ValueError, "per is 'group', wanted 'channel'", {"per": "group"}),
    (ValueError, "group_size is 0, wanted 32, 64 or 128", {"bits": 4, "group_size": 0}),
    (ValueError, "group_size is 48, wanted 32, 64 or 128", {"bits": 4, "group_size": 48}),
    (
        ValueError,
        r"w has shape \(4, 2, 3, 3\), wanted \[N, K\] with 4 bits",
        {"bits": 4, "w": np.ones((4, 2, 3, 3), f32)},
    ),
    (ValueError, "rounding is 'up'", {"rounding": "up"}),
    (ValueError, "clip is 'min'", {"clip": "min"}),
    (ValueError, "'gptq' needs calibration inputs", {"rounding": "gptq"}),
    (ValueError, "inputs: x has shape", {"rounding": "gptq", "inputs": X[:, :5]}),
    (ValueError, "damping is 0", {"damping": 0}),
    (ValueError, "float16 has no scales", {"bits": 16, "per": "channel"}),
    (ValueError, "float16 has no scales", {"bits": 16, "rounding": "gptq"}),
]


@pytest.mark.parametrize(("error", "message", "change"), BAD, ids=range(len(BAD)))
def test_bad_arguments(error, message, change):
    with pytest.raises(error, match=message):
        pc.quantize(**({"w": W} | change))


def test_bad_arguments_of_the_others():
    with pytest.raises(ValueError, match="group_size is 0"):
        integers(W, per="group", group_size=0)
    for bits in (1, 9):
        with pytest.raises(ValueError, match=f"bits is {bits}, wanted 2 to 8"):
            integers(W, bits)
    with pytest.raises(ValueError, match="weight has shape"):
        bias_correction(W, W[:3], X)
    for error, message, args, options in [
        (ValueError, "consumers are empty", ([],), {}),
        (ValueError, "consumers have shapes", ([W, W[:, :5]], X), {}),
        (ValueError, "consumers have shapes", (np.ones(4, f32), X), {}),
        (ValueError, "an array of producers or along has shape", (W, X), {"along": [np.ones(7, f32)]}),
        (ValueError, "inputs is None and producers are empty", (W,), {}),
        (ValueError, "alpha is 1.5", (W, X), {"alpha": 1.5}),
        (ValueError, "alpha is nan", (W, X), {"alpha": math.nan}),
        (TypeError, "consumers is an array of int64", (W.astype(int), X), {}),
    ]:
        with pytest.raises(error, match=message):
            smooth(*args, **options)
