"""pc.prune and pycompress.prune: which weights go, how many, and what is left of the outputs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import f32, same_bits

import pycompress as pc
from pycompress import _compensate
from pycompress._hessian import inverse_factor, refit
from pycompress.prune import prune_all, prune_channels

BLOCKS = [(1, 1), (1, 4), (4, 1), (8, 1), (3, 2), (16, 16), (5, 40)]
PATTERNS = [
    {"pattern": "unstructured"},
    {"pattern": "block", "block": (4, 1)},
    {"pattern": "block", "block": (1, 4)},
    {"pattern": "block", "block": (3, 5)},
    {"pattern": "n:m"},
    {"pattern": "n:m", "m": 8},
]
patterns = pytest.mark.parametrize("options", PATTERNS, ids=lambda o: "-".join(map(str, o.values())))
UPDATING = ["sparsegpt", "gradual"]


def weight(rng, n=24, k=40):
    return rng.standard_normal((n, k)).astype(f32)


def correlated(rng, samples, k, spread=30.0):
    """Inputs of a few strong directions and many weak ones."""
    mix = rng.standard_normal((k, k)) * np.geomspace(1, 1 / spread, k)[:, None]
    return (rng.standard_normal((samples, k)) @ mix).astype(f32)


def output_error(x, w, approximation):
    return np.linalg.norm(x.astype(float) @ (approximation.astype(float) - w).T)


# ---- which weights go


def slow(w, sparsity, block, by_output=False, score=lambda part: float((part.astype(float) ** 2).sum())):
    """The definition: blocks sorted by (score, index), one list for all of w or one for each row of blocks."""
    n, k = w.shape
    rows, columns = range(0, n, block[0]), range(0, k, block[1])
    pruned = w.copy()
    lists = [[(i, j) for j in columns] for i in rows]
    for blocks in lists if by_output else [[*itertools.chain(*lists)]]:
        ordered = sorted(blocks, key=lambda at: score(w[at[0] : at[0] + block[0], at[1] : at[1] + block[1]]))
        for i, j in ordered[: round(sparsity * len(blocks))]:
            pruned[i : i + block[0], j : j + block[1]] = 0
    return pruned


@pytest.mark.parametrize("sparsity", [0, 0.2, 0.5, 0.9, 1])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("per", ["tensor", "output"])
def test_blocks(rng, block, sparsity, per):
    w = weight(rng)
    before = w.copy()
    got = pc.prune(w, sparsity, "block", block=block, per=per)
    same_bits(got, slow(w, sparsity, block, per == "output"))
    same_bits(w, before)


@given(st.data())
def test_any_weight_and_block(data):
    """With many ties, and blocks that do not divide the weight."""
    shape = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 9)))
    values = st.lists(st.integers(-3, 3), min_size=math.prod(shape), max_size=math.prod(shape))
    w = np.array(data.draw(values), f32).reshape(shape)
    block = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    sparsity, by_output = data.draw(st.floats(0, 1)), data.draw(st.booleans())
    got = pc.prune(w, sparsity, "block", block=block, per="output" if by_output else "tensor")
    np.testing.assert_array_equal(got, slow(w, sparsity, block, by_output))


@pytest.mark.parametrize("size", range(12))
def test_exactly_so_many_zeros(rng, size):
    w = rng.uniform(1, 2, (1, size)).astype(f32)
    for zeros in range(size + 1):
        assert np.count_nonzero(pc.prune(w, zeros / max(size, 1)) == 0) == zeros


def test_ties_go_by_index():
    ones = np.ones((3, 4), f32)
    assert pc.prune(ones, 0.5).tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    assert pc.prune(ones, 0.5, per="output").tolist() == [[0, 0, 1, 1]] * 3
    assert pc.prune(ones, pattern="2:4").tolist() == [[0, 0, 1, 1]] * 3
    assert pc.prune(ones, 0.25, "channel", axis=1).kept.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (0, 3), (3, 3), (1, 2), (7, 64)])
def test_n_of_m(rng, n, m):
    w = weight(rng, 5, 39)  # the last group is short
    named = pc.prune(w, pattern=f"{n}:{m}")
    same_bits(named, pc.prune(w, 1 - n / m, "n:m", m=m))
    for row, start in itertools.product(range(5), range(0, 39, m)):
        group, kept = w[row, start : start + m], named[row, start : start + m]
        stay = sorted(range(len(group)), key=lambda i: abs(group[i]))[max(0, len(group) - n) :] if n else []
        assert np.flatnonzero(kept).tolist() == sorted(stay)
        same_bits(kept[kept != 0], group[kept != 0])


def test_n_of_m_keeps_as_many_of_a_short_group_whatever_their_scores():
    w = np.ones((1, 6), f32)
    scores = np.array([[0, 1, 2, 3, -math.inf, -math.inf]])
    assert pc.prune(w, pattern="1:4", scores=scores).tolist() == [[0, 0, 0, 1, 0, 1]]


def test_convolutions_are_matrices(rng):
    w = rng.standard_normal((6, 5, 3, 3)).astype(f32)
    same_bits(pc.prune(w, 0.7), pc.prune(w.reshape(6, -1), 0.7).reshape(w.shape))
    same_bits(pc.prune(w, 0.7, "block", block=(1, 9)), slow(w.reshape(6, -1), 0.7, (1, 9)).reshape(w.shape))


def test_given_scores(rng):
    w, scores = weight(rng, 6, 8), rng.standard_normal((6, 8))
    order = np.argsort(scores.reshape(-1), kind="stable")
    assert set(np.flatnonzero(pc.prune(w, 0.5, scores=scores) == 0)) == set(order[:24])
    whole = scores.reshape(3, 2, 2, 4).sum((1, 3))
    by_element = pc.prune(w, 0.5, "block", block=(2, 4), scores=scores)
    same_bits(by_element, pc.prune(w, 0.5, "block", block=(2, 4), scores=whole))
    kept = np.full((6, 8), -math.inf)
    kept[2] = math.inf
    assert np.flatnonzero(pc.prune(w, 5 / 6, scores=kept).any(1)).tolist() == [2]


def test_wanda_is_weight_times_norm_of_the_input(rng):
    w, x = weight(rng), correlated(rng, 50, 40)
    scores = np.abs(w) * np.linalg.norm(x.astype(float), axis=0)
    got = pc.prune(w, 0.6, method="wanda", inputs=x)
    for row, pruned in zip(scores, got, strict=True):
        assert set(np.flatnonzero(pruned == 0)) == set(np.argsort(row)[:24])
    blocks = pc.prune(w, 0.5, "block", block=(4, 1), method="wanda", inputs=x, per="tensor")
    same_bits(blocks, np.where(slow((scores).astype(f32), 0.5, (4, 1)) != 0, w, f32(0)))


# ---- what stays makes up for what goes


@patterns
@pytest.mark.parametrize("method", UPDATING)
def test_updates_beat_magnitude_with_as_many_zeros(rng, method, options):
    w, x = weight(rng, 32, 160), correlated(rng, 600, 160)
    plain = pc.prune(w, 0.5, **options)
    got = pc.prune(w, 0.5, method=method, inputs=x, **options)
    assert output_error(x, w, got) < 0.75 * output_error(x, w, plain)
    block = options.get("block", (1, 1))
    filled = np.ones((-(-32 // block[0]) * block[0], -(-160 // block[1]) * block[1]), bool)
    filled[:32, :160] = got == 0
    zeros = filled.reshape(-(-32 // block[0]), block[0], -1, block[1]).all((1, 3))
    if options["pattern"] == "n:m":
        m = options.get("m", 4)
        assert (np.count_nonzero(got.reshape(32, -1, m), axis=2) == m // 2).all()
    else:
        assert np.count_nonzero(zeros) == round(0.5 * zeros.size)


@patterns
@given(seed=st.integers(0, 10**6))
def test_updates_are_never_worse_than_magnitude(options, seed):
    """Also of few samples, of outliers, of dead inputs."""
    rng = np.random.default_rng(seed)
    n, k, samples = rng.integers(1, 12), rng.integers(1, 24), rng.integers(1, 40)
    w = (rng.standard_normal((n, k)) * 10.0 ** rng.uniform(-2, 2, (1, k))).astype(f32)
    x = correlated(rng, samples, k, 10 ** rng.uniform(0, 3)) * (rng.random(k) < 0.9).astype(f32)
    sparsity = rng.choice([0.25, 0.5, 0.75]) if "m" in options else 0.5
    plain = output_error(x, w, pc.prune(w, sparsity, **options))
    scale = np.linalg.norm(x.astype(float) @ w.T.astype(float))
    for method in UPDATING:
        got = pc.prune(w, sparsity, method=method, inputs=x, rounds=4, **options)
        assert np.isfinite(got).all()
        wrong = output_error(x, w, got)
        assert wrong <= plain * (1 + 1e-6) + 1e-6 * scale
        plain = wrong  # and "gradual" is not worse than "sparsegpt"


def test_gradual_is_better_than_one_sweep(rng):
    w, x = weight(rng, 48, 256), correlated(rng, 1000, 256)
    one, more = (pc.prune(w, 0.7, method=method, inputs=x) for method in UPDATING)
    assert output_error(x, w, more) < 0.97 * output_error(x, w, one)


def test_one_sweep_is_the_definition(rng):
    """Optimal brain surgeon, column by column, with the inverse of what is left of H computed anew each time."""
    w, x = weight(rng, 12, 30), correlated(rng, 200, 30)
    hessian = x.T.astype(float) @ x / len(x)
    hessian += 0.01 * np.trace(hessian) / 30 * np.eye(30)
    pivots = np.array([np.linalg.inv(hessian[j:, j:])[0, 0] for j in range(30)])
    keep = np.ones(w.size, bool)
    keep[np.argsort((w.astype(float) ** 2 / pivots).reshape(-1))[: w.size // 2]] = False
    keep, wanted = keep.reshape(w.shape), w.astype(float)
    for j in range(30):
        inverse = np.linalg.inv(hessian[j:, j:])
        error = np.where(keep[:, j], 0, wanted[:, j]) / inverse[0, 0]
        wanted[:, j:] -= error[:, None] * inverse[0]
    got = pc.prune(w, 0.5, method="sparsegpt", inputs=x, refit_steps=0)
    np.testing.assert_array_equal(got != 0, keep)
    np.testing.assert_allclose(got, np.where(keep, wanted, 0), rtol=1e-3, atol=1e-4)


def test_windows_change_nothing_but_the_time(rng, monkeypatch):
    """Zeros of n:m are chosen group by group, whatever the window."""
    w, x = weight(rng, 12, 60), correlated(rng, 300, 60)
    wanted = pc.prune(w, pattern="2:4", method="sparsegpt", inputs=x, refit_steps=0)
    for window in (1, 8, 20):
        monkeypatch.setattr(_compensate, "_WINDOW", window)
        got = pc.prune(w, pattern="2:4", method="sparsegpt", inputs=x, refit_steps=0)
        np.testing.assert_array_equal(got != 0, wanted != 0)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_gradual_is_the_definition(rng):
    w, x = weight(rng, 6, 20), correlated(rng, 100, 20)
    hessian = x.T.astype(float) @ x / 100
    hessian += 0.01 * np.trace(hessian) / 20 * np.eye(20)
    done = w
    for zeros in [0.8 * (1 - (1 - i / 4) ** 3) for i in (1, 2, 3, 4)]:
        scores = done.astype(float) ** 2 * np.diagonal(hessian)
        mask = np.ones(120, bool)
        mask[np.argsort(scores.reshape(-1), kind="stable")[: round(zeros * 120)]] = False
        mask = mask.reshape(6, 20)
        done = refit(w, mask, hessian, 20 if zeros == 0.8 else 5, np.where(mask, done, 0))
    got = pc.prune(w, 0.8, method="gradual", inputs=x, rounds=4)
    assert output_error(x, w, got) < 0.99 * output_error(x, w, pc.prune(w, 0.8, method="sparsegpt", inputs=x))
    np.testing.assert_array_equal(got != 0, done != 0)
    np.testing.assert_allclose(got, done, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("k", [1, 5, 64, 65, 300])
def test_inverse_factor(rng, k):
    x = correlated(rng, 400, k).astype(float)
    hessian = x.T @ x + np.eye(k)
    factor = inverse_factor(hessian)
    assert not np.tril(factor, -1).any()
    np.testing.assert_allclose(factor.T @ factor @ hessian, np.eye(k), atol=1e-7)


def test_refit_is_least_squares_on_what_stays(rng):
    w, x = weight(rng, 6, 20), correlated(rng, 100, 20, 3)
    hessian, mask = x.T.astype(float) @ x / 100, rng.random((6, 20)) < 0.5
    start = np.where(mask, w, 0)
    fitted = refit(w, mask, hessian, 200, start)
    for row, kept, got in zip(w, mask, fitted, strict=True):
        best = np.linalg.lstsq(x[:, kept].astype(float), x.astype(float) @ row, rcond=None)[0]
        np.testing.assert_allclose(got[kept], best, rtol=1e-3, atol=1e-3)
        assert not got[~kept].any()
    errors = [output_error(x, w, refit(w, mask, hessian, steps, start)) for steps in range(8)]
    assert errors == sorted(errors, reverse=True)
    refitted = pc.prune(w, 0.5, inputs=x, refit_steps=5)
    assert output_error(x, w, refitted) < output_error(x, w, pc.prune(w, 0.5))


@pytest.mark.parametrize("method", ["magnitude", "wanda", *UPDATING])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_empty_and_tiny_weights(method, shape):
    w, x = np.ones(shape, f32), np.ones((3, shape[1]), f32)
    assert pc.prune(w, 0.4, method=method, inputs=x).shape == shape


@pytest.mark.parametrize("method", ["wanda", *UPDATING])
def test_the_same_from_statistics_and_again(rng, method):
    w, x = weight(rng), correlated(rng, 90, 40)
    seen = pc.InputStatistics(40)
    for batch in np.split(x.reshape(9, 10, 40), 3):
        seen.update(batch)
    first = pc.prune(w, 0.5, method=method, inputs=seen)
    same_bits(pc.prune(w, 0.5, method=method, inputs=seen), first)
    other = pc.prune(w, 0.5, method=method, inputs=x)  # of sums in another order
    np.testing.assert_array_equal(other != 0, first != 0)
    assert output_error(x, w, other) == pytest.approx(output_error(x, w, first), rel=1e-4)


@pytest.mark.parametrize("method", UPDATING)
def test_dead_inputs_and_no_inputs_but_zeros(rng, method):
    w, x = weight(rng, 8, 12), correlated(rng, 60, 12)
    x[:, 3] = 0
    assert np.isfinite(pc.prune(w, 0.5, method=method, inputs=x)).all()
    same_bits(pc.prune(w, 0.5, method=method, inputs=np.zeros_like(x)), pc.prune(w, 0.5))


@pytest.mark.parametrize("method", UPDATING)
@pytest.mark.parametrize(("of_w", "of_x"), [(100, -83), (-100, 83), (124, 60), (-110, -60)])
def test_very_large_and_small_numbers(rng, method, of_w, of_x):
    # By powers of two, which round nothing: another last bit of w could rightly leave other zeros.
    w, x = weight(rng, 8, 12), correlated(rng, 60, 12)
    got = pc.prune(np.ldexp(w, of_w), 0.5, method=method, inputs=np.ldexp(x, of_x))
    same_bits(got, np.ldexp(pc.prune(w, 0.5, method=method, inputs=x), of_w))


# ---- channels


def test_outputs_by_norm(rng):
    w = weight(rng, 10, 7)
    pruned = pc.prune(w, 0.3, "channel")
    assert pruned.kept.tolist() == sorted(np.argsort(np.linalg.norm(w, axis=1))[3:])
    same_bits(pruned.weight, w[pruned.kept])


def test_inputs_of_a_convolution(rng):
    w = rng.standard_normal((6, 10, 3, 3)).astype(f32)
    pruned = pc.prune(w, 0.4, "channel", axis=1)
    assert pruned.kept.tolist() == sorted(np.argsort((w**2).sum((0, 2, 3)))[4:])
    same_bits(pruned.weight, w[:, pruned.kept])


def test_inputs_are_fitted_to_the_outputs(rng):
    w, x = weight(rng, 10, 12), correlated(rng, 300, 12)
    pruned = pc.prune(w, 0.5, "channel", axis=1, method="sparsegpt", inputs=x, damping=1e-9)
    best = np.linalg.lstsq(x[:, pruned.kept].astype(float), x.astype(float) @ w.T, rcond=None)[0].T
    np.testing.assert_allclose(pruned.weight, best, rtol=1e-2, atol=1e-3)
    errors = []
    for kept in itertools.combinations(range(12), 6):
        part = x[:, kept].astype(float)
        fitted = np.linalg.lstsq(part, x.astype(float) @ w.T, rcond=None)[0]
        errors.append(np.linalg.norm(part @ fitted - x.astype(float) @ w.T))
    got = np.linalg.norm(x[:, pruned.kept].astype(float) @ best.T - x.astype(float) @ w.T)
    assert got <= np.quantile(errors, 0.02)  # among the best of all 924 choices


def test_outputs_by_what_they_give(rng):
    w, x = weight(rng, 9, 12), correlated(rng, 100, 12)
    norms = np.linalg.norm(x.astype(float) @ w.T.astype(float), axis=0)
    assert pc.prune(w, 1 / 3, "channel", method="wanda", inputs=x).kept.tolist() == sorted(np.argsort(norms)[3:])


@pytest.mark.parametrize("axis", [0, 1])
def test_all_and_no_channels(rng, axis):
    w = weight(rng, 5, 4)
    same_bits(pc.prune(w, 0, "channel", axis=axis).weight, w)
    assert pc.prune(w, 1, "channel", axis=axis).weight.shape == ((0, 4), (5, 0))[axis]
    x = correlated(rng, 50, 4)
    assert pc.prune(w, 1, "channel", axis=axis, method="gradual", inputs=x).weight.size == 0


def test_channels_between_layers_that_do_nothing(rng):
    """Channels of zeros go, and the network computes the same."""
    first, bias, second = weight(rng, 16, 8), rng.standard_normal(16).astype(f32), weight(rng, 5, 16)
    dead = [1, 4, 9, 15]
    first[dead], bias[dead] = 0, 0
    cut = prune_channels(first, second, 0.25, along=[bias])
    assert sorted({*range(16)} - {*cut.kept}) == dead
    x = rng.standard_normal((20, 8)).astype(f32)
    y = np.maximum(x @ first.T + bias, 0) @ second.T
    hidden = np.maximum(x @ cut.producers[0].T + cut.along[0], 0)
    np.testing.assert_allclose(hidden @ cut.consumers[0].T + cut.shifts[0], y, rtol=1e-4, atol=1e-4)


def test_channels_of_gated_layers_convolutions_and_flattened_maps(rng):
    gate, up = weight(rng, 12, 6), rng.standard_normal((12, 6, 3, 3)).astype(f32)
    conv, flat = rng.standard_normal((4, 12, 3, 3)).astype(f32), weight(rng, 3, 12 * 5)
    depthwise = rng.standard_normal((12, 1, 3, 3)).astype(f32)
    cut = prune_channels([gate, up], [conv, flat], 0.5, along=[depthwise])
    kept = cut.kept
    assert len(kept) == 6
    for got, wanted in zip(cut.producers, (gate, up), strict=True):
        same_bits(got, wanted[kept])
    same_bits(cut.consumers[0], conv[:, kept])
    same_bits(cut.consumers[1], flat.reshape(3, 12, 5)[:, kept].reshape(3, -1))
    same_bits(cut.along[0], depthwise[kept])


def test_consumers_are_fitted(rng):
    first, second = weight(rng, 32, 16), weight(rng, 8, 32)
    x = rng.standard_normal((500, 16)).astype(f32)
    hidden = np.maximum(x @ first.T + 0.5, 0)
    wanted = hidden @ second.T
    plain, fitted = (prune_channels(first, second, 0.5, inputs=inputs) for inputs in (None, hidden))

    def error(cut):
        return np.linalg.norm(hidden[:, cut.kept] @ cut.consumers[0].T + cut.shifts[0] - wanted)

    assert error(fitted) < 0.7 * error(plain)
    same_kept = prune_channels(first, second, 0.5, inputs=hidden, scores=np.arange(32.0), damping=1e-9)
    design = np.concatenate([hidden[:, 16:], np.ones((500, 1), f32)], 1).astype(float)
    best = np.linalg.norm(design @ np.linalg.lstsq(design, wanted, rcond=None)[0] - wanted)
    assert error(same_kept) == pytest.approx(best, rel=1e-3)


def test_channels_that_stay_are_a_multiple(rng):
    for multiple, kept in [(1, 5), (4, 8), (16, 10), (3, 6)]:
        assert len(prune_channels(weight(rng, 10, 4), weight(rng, 3, 10), 0.5, multiple_of=multiple).kept) == kept


# ---- many tensors


def test_every_layer_alike(rng):
    tensors = {"a": weight(rng, 6, 8), "b": weight(rng, 8, 20) * f32(10)}
    pruned = prune_all(tensors, 0.5, "block", block=(2, 2), scope="layer")
    assert [*pruned] == ["a", "b"]
    for name, w in tensors.items():
        same_bits(pruned[name], pc.prune(w, 0.5, "block", block=(2, 2)))


@pytest.mark.parametrize("block", [(1, 1), (2, 4)])
def test_the_least_of_all_together(rng, block):
    tensors = {"a": weight(rng, 6, 8), "b": weight(rng, 8, 20) * f32(1.5), "empty": np.zeros((0, 4), f32)}
    pruned = prune_all(tensors, 0.6, "block", block=block)
    whole = np.concatenate([np.pad(w, [(0, 0), (0, 20 - w.shape[1])]) for w in tensors.values()])
    together = np.concatenate([np.pad(w, [(0, 0), (0, 20 - w.shape[1])]) for w in pruned.values()])
    scores = (whole.astype(float) ** 2).reshape(7, 2, -1, 4).sum((1, 3)) if block == (2, 4) else np.abs(whole)
    stays = (together != 0).reshape(7, 2, -1, 4).all((1, 3)) if block == (2, 4) else together != 0
    blocks = sum(w.size for w in tensors.values()) // math.prod(block)
    assert np.count_nonzero(stays) == blocks - round(0.6 * blocks)
    assert scores[stays].min() > scores[~stays].max()


def test_ties_of_all_together_go_by_order():
    ones = {"b": np.ones((1, 4), f32), "a": np.ones((1, 4), f32)}
    pruned = prune_all(ones, 5 / 8)
    assert {name: w.tolist() for name, w in pruned.items()} == {"b": [[0, 0, 0, 0]], "a": [[0, 1, 1, 1]]}


@pytest.mark.parametrize("method", ["wanda", *UPDATING])
def test_all_together_with_inputs(rng, method):
    tensors = {"a": weight(rng, 12, 16), "b": weight(rng, 12, 16)}
    inputs = {"a": correlated(rng, 80, 16), "b": correlated(rng, 80, 16) * f32(30)}
    pruned = prune_all(tensors, 0.5, method=method, inputs=inputs)
    zeros = {name: np.count_nonzero(w == 0) for name, w in pruned.items()}
    assert abs(sum(zeros.values()) - 192) <= 1
    assert zeros["a"] > 1.5 * zeros["b"]  # the outputs of b are larger, and so are its errors


def test_n_of_m_all_together(rng):
    tensors = {"a": weight(rng, 6, 8), "b": weight(rng, 8, 20)}
    for name, w in prune_all(tensors, pattern="2:4").items():
        same_bits(w, pc.prune(tensors[name], pattern="2:4"))


# ---- bad input

W = np.ones((4, 8), f32)
X = np.ones((5, 8), f32)
BAD = [
    (TypeError, "w is an array of int64", {"w": np.ones((4, 8), np.int64)}),
    (ValueError, r"w has shape \(8,\)", {"w": np.ones(8, f32)}),
    (ValueError, "w holds NaN", {"w": np.full((4, 8), np.nan, f32)}),
    (ValueError, "w holds NaN or infinity", {"w": np.full((4, 8), 1e300)}),
    (TypeError, "sparsity is None", {"sparsity": None}),
    (ValueError, "sparsity is 1.5, wanted from 0 to 1", {"sparsity": 1.5}),
    (ValueError, "sparsity is nan", {"sparsity": math.nan}),
    (TypeError, "sparsity is '0.5'", {"sparsity": "0.5"}),
    (ValueError, "pattern is 'rows'", {"pattern": "rows"}),
    (ValueError, "pattern is None", {"pattern": None}),
    (ValueError, "pattern is '5:4'", {"pattern": "5:4"}),
    (ValueError, "pattern is '0:0'", {"pattern": "0:0"}),
    (ValueError, "0.5, but pattern '1:4' has 0.75", {"pattern": "1:4"}),
    (ValueError, "1.5 of 3 would stay", {"pattern": "n:m", "m": 3}),
    (ValueError, "m is 0", {"pattern": "n:m", "m": 0}),
    (ValueError, "block is 0", {"pattern": "block", "block": (0, 4)}),
    (TypeError, "block is 1.5", {"pattern": "block", "block": 1.5}),
    (ValueError, "method is 'random'", {"method": "random"}),
    (ValueError, "'wanda' needs calibration inputs", {"method": "wanda"}),
    (ValueError, "'sparsegpt' needs calibration inputs", {"method": "sparsegpt"}),
    (ValueError, "refit_steps need calibration inputs", {"refit_steps": 3}),
    (ValueError, "inputs: x has shape", {"inputs": X[:, :5]}),
    (ValueError, "inputs have 5 values each, wanted 8", {"inputs": pc.InputStatistics(5)}),
    (ValueError, "inputs hold no sample", {"inputs": pc.InputStatistics(8)}),
    (TypeError, "inputs: x is an array of int64", {"inputs": np.ones((5, 8), np.int64)}),
    (ValueError, "inputs: x holds NaN", {"inputs": X * np.nan}),
    (ValueError, "per is 'row'", {"per": "row"}),
    (ValueError, "damping is 0, wanted above 0", {"damping": 0}),
    (ValueError, "rounds is 0", {"rounds": 0}),
    (ValueError, "scores have shape", {"scores": np.ones((4, 4))}),
    (ValueError, "scores hold NaN", {"scores": np.full((4, 8), np.nan)}),
    (TypeError, "scores is an array of int64", {"scores": np.ones((4, 8), np.int64)}),
    (ValueError, "which has its own", {"scores": np.ones((4, 8)), "method": "wanda", "inputs": X}),
    (ValueError, "axis is 2", {"pattern": "channel", "axis": 2}),
]


@pytest.mark.parametrize(("error", "message", "change"), BAD, ids=[message for _, message, _ in BAD])
def test_bad_arguments(error, message, change):
    with pytest.raises(error, match=message):
        pc.prune(**({"w": W, "sparsity": 0.5} | change))


def test_too_little_damping():
    x = np.repeat(np.arange(1.0, 6, dtype=f32)[:, None], 8, 1)
    with pytest.raises(ValueError, match="wanted a larger damping"):
        pc.prune(W, 0.5, method="sparsegpt", inputs=x, damping=1e-20)


def test_infinities_of_both_signs_in_one_block():
    scores = np.zeros((4, 8))
    scores[0, :2] = math.inf, -math.inf
    with pytest.raises(ValueError, match="both infinities"):
        pc.prune(W, 0.5, "block", block=(1, 2), scores=scores)


def test_bad_arguments_of_channels(rng):
    a, b = weight(rng, 6, 4), weight(rng, 3, 6)
    for message, args, options in [
        ("producers or consumers are empty", ([], b), {}),
        ("producers have shapes", ([a, a[:5]], b), {}),
        ("a consumer has shape", (a, b[:, :5]), {}),
        ("an array along the channels has shape", (a, b), {"along": [np.ones(5)]}),
        ("multiple_of is 0", (a, b), {"multiple_of": 0}),
        ("inputs are 2", (a, b), {"inputs": [X[:, :6]] * 2}),
        ("sparsity is 1", (a, b), {"sparsity": 1}),
        ("scores have shape", (a, b), {"scores": np.ones(4)}),
        ("damping is 0", (a, b), {"damping": 0}),
    ]:
        with pytest.raises(ValueError, match=message):
            prune_channels(*args, **({"sparsity": 0.5} | options))


def test_bad_arguments_of_many(rng):
    tensors = {"a": W, "b": np.ones(3, f32)}
    with pytest.raises(ValueError, match="tensor 'b': w has shape"):
        prune_all(tensors, 0.5)
    with pytest.raises(ValueError, match="tensor 'b': w has shape"):
        prune_all(tensors, 0.5, scope="layer")
    with pytest.raises(ValueError, match=r"there are none for \['a', 'b'\]"):
        prune_all(tensors, 0.5, method="wanda")
    with pytest.raises(ValueError, match="scope is 'all'"):
        prune_all(tensors, 0.5, scope="all")
    with pytest.raises(ValueError, match="one weight at a time"):
        prune_all(tensors, 0.5, "channel")
    with pytest.raises(ValueError, match="wanted one of both"):
        prune_all({"a": W}, 0.5, per="output")


def test_the_module_has_more_and_the_name_is_the_function():
    from pycompress.prune import prune

    assert pc.prune is prune
