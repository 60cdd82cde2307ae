"""Pruning during training: the schedule, the masks of each pattern, gradients by formula, and what is converted."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

import pycompress as pc  # noqa: E402
from pycompress import qat  # noqa: E402
from pycompress.torch import Conv2d, GradualPruner, Linear, MovementPruner, count, cubic_sparsity  # noqa: E402

torch.set_num_threads(1)

PATTERNS = [
    ("unstructured", 0.7, {}),
    ("block", 0.6, {"block": (4, 1)}),
    ("block", 0.75, {"block": (1, 4)}),
    ("block", 0.5, {"block": (3, 5)}),  # the last blocks are cut off
    ("n:m", 0.75, {"m": 8}),
    ("2:4", None, {}),
    ("channel", 0.5, {"axis": 0}),
    ("channel", 0.25, {"axis": 1}),
]
patterns = pytest.mark.parametrize(("pattern", "sparsity", "options"), PATTERNS)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def net():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8),
        nn.Conv2d(8, 24, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 32), nn.ReLU(),
        nn.Linear(32, 5),
    )  # fmt: skip


X, Y = torch.randn(16, 4, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 5


def train(model, pruner, steps, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        optimizer.step()
        pruner.step()
        losses.append(loss.item())
    return losses


def pruned_by(w, sparsity, pattern, options):
    """True where `pycompress.prune` leaves a weight."""
    w = w.detach().numpy()
    result = pc.prune(w, sparsity, pattern, **options)
    if pattern != "channel":
        return result != 0
    keep = np.zeros(w.shape, bool)
    keep[(slice(None),) * options["axis"] + (result.kept,)] = True
    return keep


# ---- the schedule


def test_the_schedule_is_zhu_and_guptas():
    for initial, final, begin, end in [(0.0, 0.9, 0, 10), (0.2, 0.5, 7, 9), (0.0, 1.0, 3, 103)]:
        for t in range(end + 20):
            share = min(max((t - begin) / (end - begin), 0), 1)
            assert cubic_sparsity(t, final, initial, begin, end) == pytest.approx(
                final + (initial - final) * (1 - share) ** 3
            )
    assert cubic_sparsity(5, 0.7, 0.1, 5, 5) == 0.7


def test_masks_change_when_the_schedule_says():
    layer = nn.Linear(20, 50)
    pruner = GradualPruner(layer, 0.8, begin=3, end=14, every=4, initial=0.2)
    seen = []
    for _ in range(18):
        pruner.step()
        seen.append(float((layer.weight == 0).float().mean()))
    updates = {3: 3, 7: 7, 11: 11, 14: 14}
    now, wanted = 0.0, []
    for t in range(18):
        if t in updates:
            now = cubic_sparsity(t, 0.8, 0.2, 3, 14)
        wanted.append(round(now * 1000) / 1000)
    assert seen == pytest.approx(wanted)
    assert seen[-1] == pytest.approx(0.8)


@patterns
def test_masks_are_those_of_prune(pattern, sparsity, options):
    model = net()
    weights = {n: m.weight.detach().clone() for n, m in model.named_modules() if hasattr(m, "weight")}
    pruner = GradualPruner(model, sparsity, pattern, begin=0, end=0, **options)
    assert set(pruner.masks) == {"0", "4", "8", "10"}  # not the depthwise one
    pruner.step()
    for name, mask in pruner.masks.items():
        keep = pruned_by(weights[name], sparsity, pattern, options)
        assert np.array_equal(mask.numpy() != 0, keep), name
        assert not keep.all()
        assert torch.equal(model.get_submodule(name).weight, weights[name] * mask)
    zeros = pruner.finish()
    assert zeros == {n: float((model.get_submodule(n).weight == 0).float().mean()) for n in zeros}


def test_half_way_patterns_grow_in_their_own_blocks():
    for pattern, sparsity, options in PATTERNS:
        layer = nn.Linear(24, 16)
        pruner = GradualPruner(layer, sparsity, pattern, begin=0, end=10, **options)
        before = torch.ones_like(layer.weight)
        for _ in range(11):
            pruner.step()
            mask = pruner.masks[""]
            assert (mask <= before).all()  # without training, what is gone stays gone
            before = mask.clone()
        wanted = pruned_by(layer.parametrizations.weight.original, sparsity, pattern, options)
        assert np.array_equal(before.numpy() != 0, wanted)


def test_all_layers_together():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 30))
    with torch.no_grad():
        model[0].weight *= 5
    values = torch.cat([m.weight.detach().abs().flatten() for m in model])
    pruner = GradualPruner(model, 0.6, begin=0, end=0, scope="global")
    pruner.step()
    limit = values.sort().values[240]
    for m in model:
        assert torch.equal(m.weight != 0, m.parametrizations.weight.original.abs() >= limit)
    assert pruner.zeros()["0"] < 0.3 < pruner.zeros()["1"]


# ---- gradients


@patterns
def test_movement_scores_have_the_gradient_of_the_paper(pattern, sparsity, options):
    layer = nn.Linear(21, 10).double()
    pruner = MovementPruner(layer, sparsity, pattern, begin=0, end=0, **options)
    (scores,) = pruner.scores
    with torch.no_grad():
        scores.copy_(torch.randn_like(scores))
    given = scores.detach().numpy().copy()
    pruner.step()
    w = layer.parametrizations.weight.original
    block = {"block": options.get("block", (4, 1)), "channel": ((1, 21), (10, 1))[options.get("axis", 0)]}.get(
        pattern, (1, 1)
    )
    mask = pruner.masks[""]
    x = torch.randn(7, 21, dtype=torch.float64)
    (layer(x) ** 2).sum().backward()
    y = x @ (w * mask).detach().T + layer.bias.detach()
    by_masked_weight = (2 * y).T @ x
    assert torch.allclose(w.grad, by_masked_weight * mask)
    moved = (by_masked_weight * w.detach()).numpy()
    wanted = np.zeros(given.shape)
    for i in range(10):
        for j in range(21):
            wanted[i // block[0], j // block[1]] += moved[i, j]
    assert np.allclose(scores.grad.numpy(), wanted)
    # and the highest scores stay
    if pattern == "channel":
        kept = given.ravel() > np.sort(given.ravel())[round(sparsity * given.size) - 1]
        assert np.array_equal(mask.numpy() != 0, np.broadcast_to(kept.reshape(given.shape), mask.shape))
    elif pattern in ("unstructured", "block"):
        kept = given > np.sort(given.ravel())[round(sparsity * given.size) - 1]
        assert np.array_equal(mask.numpy() != 0, np.repeat(np.repeat(kept, block[0], 0), block[1], 1)[:10, :21])
    else:
        assert np.array_equal(
            mask.numpy() != 0, pc.prune(np.ones((10, 21), np.float32), sparsity, pattern, scores=given, **options) != 0
        )


def test_movement_keeps_what_training_moves_away_from_zero():
    """Weights that shrink lose their scores, though they are larger than those that grow."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.1]]))
    pruner = MovementPruner(layer, 0.5, begin=20, end=20)
    optimizer = torch.optim.SGD(layer.parameters(), 0.05)
    x = torch.randn(64, 2)
    for _ in range(21):
        optimizer.zero_grad()
        F.mse_loss(layer(x), x @ torch.tensor([[0.6], [0.5]])).backward()
        optimizer.step()
        pruner.step()
    original = layer.parametrizations.weight.original
    assert original[0, 0] > original[0, 1]
    assert pruner.masks[""].tolist() == [[0.0, 1.0]]


def test_masked_weights_are_not_trained_and_optimizers_stay_valid():
    layer = nn.Linear(6, 8)
    parameter = layer.weight
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)  # before the pruner
    pruner = GradualPruner(layer, 0.5, begin=0, end=0)
    pruner.step()
    assert layer.parametrizations.weight.original is parameter
    before, mask = parameter.detach().clone(), pruner.masks[""].clone()
    layer(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()
    assert torch.equal(parameter[mask == 0], before[mask == 0])
    assert (parameter[mask == 1] != before[mask == 1]).all()
    pruner.finish()
    assert layer.weight is parameter
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight != 0, mask == 1)


def test_it_trains_and_is_saved_with_its_masks():
    model = net()
    pruner = GradualPruner(model, 0.6, end=20, every=5)
    losses = train(model, pruner, 60, torch.optim.Adam(model.parameters(), 0.02))
    assert losses[-1] < losses[0] / 2
    again = net()
    GradualPruner(again, 0.6, end=20)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(X), model.eval()(X))
    assert torch.equal(copy.deepcopy(model)(X), model(X))


# ---- under quantization-aware training


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("kind", "pattern", "options", "stored"),
    [
        (GradualPruner, "unstructured", {}, pc.CSRWeight), (GradualPruner, "block", {"block": (8, 1)}, pc.BSRWeight),
        (GradualPruner, "n:m", {"m": 10}, pc.CSRWeight), (MovementPruner, "block", {"block": (1, 4)}, pc.BSRWeight),
        (GradualPruner, "channel", {}, pc.Int8Weight),
    ],
)  # fmt: skip
def test_pruned_and_quantized_is_what_runs(kind, pattern, options, stored, bits):
    prepared = qat.prepare(net(), X, weight_bits=bits).train()
    prepared(X)
    pruner = kind(prepared, 0.7, pattern, end=10, every=2, **options)
    train(prepared, pruner, 14)
    before = copy.deepcopy(prepared).eval()
    masks = {n: m.clone() for n, m in pruner.masks.items()}
    pruner.finish()
    prepared.eval()
    assert torch.equal(prepared(X), before(X))
    network = qat.convert(prepared)
    assert torch.allclose(network(X), prepared(X), rtol=1e-5, atol=1e-5)
    weights = [m.compressed for m in network.modules() if isinstance(m, Linear | Conv2d)]
    assert [type(weight) for weight in weights] == [pc.Int8Weight, pc.DepthwiseWeight, stored, stored, stored]
    for weight, mask in zip((weights[0], *weights[2:]), masks.values(), strict=True):
        dense = weight.todense().reshape(mask.shape)
        assert (dense[mask.numpy() == 0] == 0).all()
        if isinstance(weight, pc.BSRWeight):
            assert weight.block == options["block"]
    if stored is not pc.Int8Weight:
        # To the bit what the dense weight gives, and no more is multiplied than is stored.
        for m in prepared.modules():
            if hasattr(m, "pruned_block"):
                m.pruned_block = None
        dense = qat.convert(prepared)
        assert torch.equal(dense(X), network(X))
        assert count(network, X).macs < count(dense, X).macs


def test_a_pruned_model_can_be_prepared():
    """Masks and all: the copy has masks of its own."""
    model = net()
    pruner = GradualPruner(model, 0.8, "block", block=(4, 1), begin=0, end=0)
    pruner.step()
    prepared = qat.prepare(model, X).train()
    prepared(X)
    network = qat.convert(prepared.eval())
    assert [type(m.compressed) for m in network.modules() if isinstance(m, Linear)] == [pc.BSRWeight] * 2
    assert torch.allclose(network(X), prepared(X), rtol=1e-5, atol=1e-5)


def test_errors():
    model = net()
    for arguments, options, match in [
        ((1.5,), {}, "sparsity is 1.5"), ((0.5, "rows"), {}, "pattern is 'rows'"),
        ((0.3, "n:m"), {}, "of 4 would stay"),
        ((0.5,), {"begin": 3, "end": 2}, "end is 2"), ((0.5,), {"every": 0}, "every is 0"),
        ((0.5,), {"initial": 0.6}, "initial is 0.6"), ((0.5,), {"scope": "net"}, "scope is 'net'"),
        ((0.5,), {"layers": ["7"]}, "no Linear or Conv2d named '7'"), ((0.5, "channel"), {"axis": 2}, "axis is 2"),
        ((0.5,), {"layers": ["0"], "skip": ["0"]}, "no layer is left"),
    ]:  # fmt: skip
        for kind in (GradualPruner, MovementPruner):
            with pytest.raises(ValueError, match=match):
                kind(model, *arguments, **{"end": 10, **options})
    assert type(model[0]) is nn.Conv2d  # nothing was touched
    pruner = GradualPruner(model, 0.5, end=10)
    with pytest.raises(ValueError, match="layer '0' has a mask already"):
        GradualPruner(model, 0.5, end=10)
    pruner.finish()
    for call in (pruner.step, pruner.finish):
        with pytest.raises(RuntimeError, match="finished"):
            call()
