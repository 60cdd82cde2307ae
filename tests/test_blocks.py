"""Blocks for students against their definitions: the papers' shapes, the converters' weights, counts by hand."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402

import pycompress as pc  # noqa: E402
from pycompress import qat  # noqa: E402
from pycompress.torch import (  # noqa: E402
    DepthwiseSeparableConv2d,
    Fire,
    InvertedResidual,
    LowRankLinear,
    count,
    factorized,
)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def conv(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, **options).eval()


def run(layer, x):
    with torch.no_grad():
        return layer(x)


def by_weight(layer, w, x):
    """The convolution of `layer` with another weight."""
    return F.conv2d(
        x, torch.as_tensor(np.asarray(w)), layer.bias.detach() if layer.bias is not None else None,
        layer.stride, layer.padding, layer.dilation,
    )  # fmt: skip


def close(a, b):
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- weights by the converters

GEOMETRY = [
    {"padding": 1},
    {"padding": (2, 0), "stride": (2, 1), "dilation": (1, 2), "bias": False},
    {"stride": 2, "padding": 1},
]


@pytest.mark.parametrize("options", GEOMETRY)
@pytest.mark.parametrize("rank", [1, 2, 9])
def test_separable_is_the_converters_weight(options, rank):
    dense, x = conv(5, 8, **options), torch.randn(2, 5, 11, 12)
    block = DepthwiseSeparableConv2d.from_dense(dense, min(rank, 8))
    factors = pc.factorize_conv(dense.weight.detach().numpy(), "separable", min(rank, 8))
    close(run(block, x), by_weight(dense, factors.todense(), x))
    assert (rank == 9) == torch.allclose(run(block, x), run(dense, x), atol=1e-4)  # min(O, taps): exact
    assert not block.training


KINDS = [
    ("svd", 4, {}), ("svd", 4, {"form": "channel"}), ("tucker2", (5, 3), {}),
    ("separable", 2, {"form": "pointwise_first"}),
]  # fmt: skip


@pytest.mark.parametrize("options", GEOMETRY)
@pytest.mark.parametrize(("kind", "rank", "more"), KINDS)
def test_factorized_is_the_converters_weight(kind, rank, more, options):
    dense, x = conv(6, 8, **options), torch.randn(2, 6, 11, 12)
    made = factorized(dense, kind, rank, **more)
    close(
        run(made, x),
        by_weight(dense, pc.factorize_conv(dense.weight.detach().numpy(), kind, rank, **more).todense(), x),
    )


@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 2, "dilation": 2, "stride": 2}, {"padding": 3}])
def test_squeezed_convolution(options):
    dense, x = conv(4, 6, **options), torch.randn(2, 4, 9, 10)
    inputs = np.random.default_rng(0).standard_normal((200, 36), dtype=np.float32)
    made = factorized(dense, "squeeze", inputs=inputs)
    assert made[0].kernel_size == (1, 1)
    close(
        run(made, x),
        by_weight(dense, pc.factorize_conv(dense.weight.detach().numpy(), "squeeze", inputs=inputs).todense(), x),
    )


def test_separable_by_energy_and_by_calibration_inputs():
    dense, x = conv(4, 6, padding=1), F.avg_pool2d(torch.randn(8, 4, 14, 14), 5, 1)
    by_energy = DepthwiseSeparableConv2d.from_dense(dense, energy=0.9)
    w = dense.weight.detach().numpy()
    kept = 1 - np.square(
        np.linalg.norm(w - pc.factorize_conv(w, "separable", energy=0.9).todense()) / np.linalg.norm(w)
    )
    assert kept >= 0.9
    assert by_energy.depthwise.weight.shape[0] % 4 == 0
    inputs = pc.unfold(x.numpy(), 3, padding=1, layout="NCHW")
    errors = [
        float((run(DepthwiseSeparableConv2d.from_dense(dense, 1, inputs=i), x) - run(dense, x)).square().sum())
        for i in (None, inputs)
    ]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("expand", [1, 3, 9])
def test_inverted_residual_from_dense(expand, residual):
    dense, x = conv(9, 9, padding=1), torch.randn(2, 9, 7, 8)
    block = InvertedResidual.from_dense(dense, expand, residual=residual)
    w, every = dense.weight.detach().numpy().copy(), np.arange(9)
    w[every, every, 1, 1] -= residual
    wanted = pc.factorize_conv(w, "separable", expand).todense()
    wanted[every, every, 1, 1] += residual
    close(run(block, x), by_weight(dense, wanted, x))
    if expand == 9:
        close(run(block, x), run(dense, x))


def test_inverted_residual_with_a_stride_and_other_channels():
    dense, x = conv(4, 6, (3, 5), padding=(1, 2), stride=(2, 1), bias=False), torch.randn(2, 4, 7, 8)
    block = InvertedResidual.from_dense(dense, 2)
    assert not block.residual
    close(
        run(block, x), by_weight(dense, pc.factorize_conv(dense.weight.detach().numpy(), "separable", 2).todense(), x)
    )


def fire_by_definition(dense, squeeze, expand1):
    """The weight that Fire.from_dense stands for, from the singular values of its taps."""
    w = dense.weight.detach().numpy().astype(np.float64)
    share = np.square(w[:, :, 1, 1]).sum(1) / np.square(w).sum((1, 2, 3))
    ones = np.argsort(-share)[:expand1]
    cut = np.zeros_like(w)
    cut[:, :, 1, 1] = w[:, :, 1, 1]
    threes = np.setdiff1d(np.arange(len(w)), ones)
    cut[threes] = w[threes]
    taps = cut.transpose(1, 0, 2, 3).reshape(w.shape[1], -1)
    u = np.linalg.svd(taps)[0][:, :squeeze]
    return (u @ u.T @ taps).reshape(w.shape[1], len(w), 3, 3).transpose(1, 0, 2, 3).astype(np.float32)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "bias": False}])
@pytest.mark.parametrize(("squeeze", "expand1"), [(3, 4), (6, 1), (6, 7)])
def test_fire_from_dense(squeeze, expand1, options):
    dense, x = conv(6, 8, padding=1, **options), torch.randn(2, 6, 9, 10)
    block = Fire.from_dense(dense, squeeze, expand1)
    close(run(block, x), by_weight(dense, fire_by_definition(dense, squeeze, expand1), x))
    inputs = pc.unfold(x.numpy(), 3, padding=1, layout="NCHW")
    fitted = Fire.from_dense(dense, 6, expand1, inputs=inputs)
    plain = Fire.from_dense(dense, 6, expand1)
    same = run(conv(6, 8, padding=1, **options).requires_grad_(False), x).shape == run(fitted, x).shape
    assert same
    whole = F.conv2d(x, dense.weight, dense.bias, padding=1).detach()
    errors = []
    for b in (fitted, plain):
        b.expand1.stride = b.expand3.stride = (1, 1)
        errors.append(float((run(b, x) - whole).square().sum()))
    assert errors[0] < errors[1]


def test_low_rank_linear():
    dense, x = nn.Linear(12, 9), torch.randn(5, 3, 12)
    block = LowRankLinear.from_dense(dense, 4)
    weight = pc.factorize(dense.weight.detach().numpy(), 4)
    close(run(block, x), F.linear(x, torch.from_numpy(weight.todense()), dense.bias.detach()))
    assert [tuple(p.shape) for p in block.parameters()] == [(4, 12), (9, 4), (9,)]
    exact = LowRankLinear.from_dense(dense, 9, allow_larger=True)
    close(run(exact, x), run(dense, x))
    with pytest.raises(ValueError, match="rank 6"):
        LowRankLinear.from_dense(dense, 6)
    inputs = (torch.randn(200, 12) * torch.arange(1.0, 13)).numpy()
    fitted = LowRankLinear.from_dense(nn.Linear(12, 9, bias=False), error=0.5, inputs=inputs)
    assert fitted.a.bias is None


# ---- the papers' forms


def test_forms_of_the_papers():
    x = torch.randn(2, 8, 10, 10)
    relu = lambda: nn.ReLU()  # noqa: E731
    block = DepthwiseSeparableConv2d(8, 16, 3, 2, 1, norm=True, activation=relu)
    names = [type(m).__name__ for m in (*block.depthwise, *block.pointwise)]
    assert names == ["Conv2d", "BatchNorm2d", "ReLU"] * 2
    assert block(x).shape == (2, 16, 5, 5)
    assert all(m.bias is None for m in block.modules() if isinstance(m, nn.Conv2d))
    block = InvertedResidual(8, 8, expand=6)
    kinds = [type(m) for m in block.modules()]
    assert kinds.count(nn.ReLU6) == 2
    assert kinds.count(nn.BatchNorm2d) == 3
    block.eval()
    close(block(x), x + block.project(block.depthwise(block.expand(x))))
    assert block.depthwise[0].groups == 48
    assert InvertedResidual(8, 8, stride=2)(x).shape == (2, 8, 5, 5)
    fire = Fire(8, 4, 6, 10).eval()
    squeezed = F.relu(fire.squeeze[0](x))
    wanted = torch.cat([F.relu(fire.expand1[0](squeezed)), F.relu(fire.expand3[0](squeezed))], 1)
    close(fire(x), wanted)


def test_blocks_are_quantized_as_what_they_consist_of():
    x = torch.randn(4, 6, 8, 8)
    act = nn.ReLU
    model = nn.Sequential(
        DepthwiseSeparableConv2d(6, 8, 3, padding=1, norm=True, activation=act), InvertedResidual(8, 8, expand=2),
        Fire.from_dense(nn.Conv2d(8, 8, 3, padding=1), 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        LowRankLinear(8, 5, 2),
    )  # fmt: skip
    prepared = qat.prepare(model, x).train()
    prepared(x)
    prepared.eval()
    network = qat.convert(prepared)
    assert not [m for m in network.modules() if type(m) in (nn.Conv2d, nn.Linear)]
    torch.testing.assert_close(network(x), prepared(x), rtol=1e-5, atol=1e-5)


# ---- counts


def test_count_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), DepthwiseSeparableConv2d(8, 16, 3, padding=1),
        nn.Flatten(), nn.Linear(16 * 25, 10),
    )  # fmt: skip
    x = torch.randn(2, 3, 10, 10)
    got = count(model.train(), x)
    assert model[1].training
    parameters = (27 * 8 + 8) + 16 + (9 * 8) + (8 * 16 + 16) + (4000 + 10)
    assert got.parameters == parameters
    assert got.macs == 2 * (25 * (27 * 8 + 9 * 8 + 8 * 16) + 4000)
    assert got.bytes == 4 * (parameters + 16) + 8  # running statistics, and how many batches they have seen
    with torch.no_grad():
        model[-1].weight[:, :100] = 0
    assert count(model, x).nonzero == int(sum((p != 0).sum() for p in model.parameters()))
    assert "multiply-accumulates" in str(got)


def test_count_of_a_converted_network():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(200, 10)
    )
    x = torch.randn(2, 3, 10, 10)
    plain = count(model, x)
    prepared = qat.prepare(model, x).train()
    prepared(x)
    got = count(qat.convert(prepared.eval()), x)
    assert got.macs == plain.macs
    assert got.parameters == 27 * 8 + 8 + 2000 + 10
    pairs = 2 + 2 + 1  # of the quantizer, with its bounds, and on both sides of the layers; the last one gives float32
    assert got.bytes == 27 * 8 + 2 * 4 * 8 + 2000 + 2 * 4 * 10 + 2 * 4 * pairs


def test_errors():
    dense = nn.Conv2d(4, 4, 3, padding=1)
    for make in (
        DepthwiseSeparableConv2d.from_dense,
        InvertedResidual.from_dense,
        lambda a: Fire.from_dense(a, 2),
        factorized,
    ):
        with pytest.raises(TypeError, match="layer is Linear, wanted a Conv2d"):
            make(nn.Linear(4, 4))
        with pytest.raises(ValueError, match="groups=2"):
            make(nn.Conv2d(4, 4, 3, padding=1, groups=2))
        with pytest.raises(ValueError, match="padding='same'"):
            make(nn.Conv2d(4, 4, 3, padding="same"))
    with pytest.raises(TypeError, match="wanted a Linear"):
        LowRankLinear.from_dense(dense, 2)
    with pytest.raises(ValueError, match="padding"):
        InvertedResidual.from_dense(nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match="residual needs"):
        InvertedResidual(4, 8, residual=True)
    with pytest.raises(ValueError, match="wanted odd"):
        InvertedResidual(4, 4, 2)
    with pytest.raises(ValueError, match="expand1 is 4"):
        Fire.from_dense(dense, 2, 4)
    with pytest.raises(ValueError, match="squeeze is 5"):
        Fire.from_dense(dense, 5, 2)
    with pytest.raises(ValueError, match="3 x 3"):
        Fire.from_dense(nn.Conv2d(4, 4, 5, padding=2), 2)
    with pytest.raises(ValueError, match="at least half its kernel"):
        factorized(nn.Conv2d(4, 4, 3), "squeeze", inputs=np.ones((3, 36), np.float32))


def test_a_block_does_not_share_the_dense_layers_weights():
    dense = nn.Conv2d(4, 6, 3, padding=1)
    before = copy.deepcopy(dense.state_dict())
    block = DepthwiseSeparableConv2d.from_dense(dense)
    with torch.no_grad():
        for p in block.parameters():
            p.zero_()
    assert all(torch.equal(v, before[k]) for k, v in dense.state_dict().items())
