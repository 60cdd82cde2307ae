"""Quantization-aware training: what is trained is what runs, to the bit; gradients; ranges; what is refused."""

import io
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import safetensors.torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch import fx, nn  # noqa: E402

import pycompress.torch as pct  # noqa: E402
from pycompress import qat  # noqa: E402

torch.set_num_threads(1)


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(20, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Dropout(0.1), nn.Linear(33, 17, bias=False),
        nn.Hardswish(), nn.Linear(17, 17), nn.ReLU6(), nn.Linear(17, 5),
    )  # fmt: skip


class Residual(nn.Module):
    """Everything that `prepare` knows of images, and a part that it does not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.pool = nn.MaxPool2d(2)
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.Hardswish()
        )
        self.pointwise = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
        self.wide = nn.Conv2d(16, 24, (3, 1), (2, 1), (1, 0), dilation=(1, 1))
        self.odd = nn.Softplus()
        self.last = nn.Conv2d(24, 8, 3, padding=2, dilation=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.stem(x))
        x = F.relu(self.pointwise(self.depthwise(x)) + x)
        x = self.last(self.odd(self.wide(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


MODELS = {"mlp": (mlp, (20,)), "cnn": (Residual, (3, 18, 20))}
models = pytest.mark.parametrize("name", list(MODELS))


def trained(name, steps=25, **options):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    prepared = qat.prepare(make(), torch.randn(2, *shape), **options).train()
    optimizer = torch.optim.SGD(prepared.parameters(), 0.02, momentum=0.9)
    x, y = torch.randn(32, *shape), torch.randint(5, (32,))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(prepared(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return prepared, x, losses


class Recorder(fx.Interpreter):
    """Keeps the value of every node by name."""

    def __init__(self, module):
        super().__init__(module)
        self.values = {}

    def run_node(self, n):
        value = super().run_node(n)
        self.values[n.name] = value
        return value


def values(module, x):
    recorder = Recorder(module)
    with torch.no_grad():
        recorder.run(x)
    return recorder.values


@models
@pytest.mark.parametrize("mode", ["observe", "learn"])
@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (8, 5), (3, 4)])
def test_the_network_that_was_trained_is_the_one_that_runs(name, mode, bits):
    prepared, x, losses = trained(name, mode=mode, warmup=5, weight_bits=bits[0], activation_bits=bits[1])
    assert losses[-1] < losses[0]
    prepared.eval()
    network = qat.convert(prepared)
    wanted, got = values(prepared, x), values(network, x)
    compared = 0
    for node in network.graph.nodes:
        value = got[node.name]
        if not isinstance(value, torch.Tensor) or value.dtype != torch.uint8 or node.name not in wanted:
            continue
        quantizer = grid_of(prepared, node)
        scale, zero_point = quantizer.grid()
        assert torch.equal((value.float() - zero_point) * scale, wanted[node.name]), node.name
        assert value.max() <= quantizer.levels
        assert value.max() > value.min()
        compared += 1
    assert compared >= (5 if name == "mlp" else 8)
    out = got["output"]
    assert out.dtype == torch.float32
    assert torch.allclose(out, wanted["output"], rtol=1e-6, atol=1e-6)


def grid_of(prepared, node):
    """The quantizer of a node's values, by name of the node in the prepared graph."""
    modules = dict(prepared.named_modules())
    node = next(n for n in prepared.graph.nodes if n.name == node.name)
    while True:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, qat.Quantizer):
            return module
        if getattr(module, "output", None) is not None:
            return module.output
        node = node.args[0]


def converted(name, **options):
    prepared, x, _ = trained(name, steps=8, **options)
    network = qat.convert(prepared.eval())
    with torch.no_grad():
        return network, x, network(x)


@models
def test_a_converted_network_is_of_the_modules_of_pycompress_torch(name):
    network, _, _ = converted(name)
    found = Counter(type(m) for m in network.modules() if m is not network)
    known = Counter({kind: found[kind] for kind in (nn.Module, nn.Flatten, nn.Dropout)})
    if name == "mlp":
        assert found - known == {pct.Quantize: 1, pct.Linear: 4}
    else:
        assert found - known == {
            pct.Quantize: 2, pct.Conv2d: 5, pct.MaxPool2d: 1, pct.Add: 1, nn.Softplus: 1, pct.Linear: 1,
            pct.GlobalAveragePool2d: 1,
        }  # fmt: skip
    assert "Quantize((" in repr(network)


@models
@pytest.mark.parametrize("bits", [(8, 8), (3, 4)])
def test_converted_networks_are_compiled_and_exported(name, bits):
    network, x, wanted = converted(name, weight_bits=bits[0], activation_bits=bits[1])
    torch._dynamo.reset()
    with torch.no_grad():
        assert torch.equal(torch.compile(network, fullgraph=True, backend="aot_eager")(x), wanted)
        dim = torch.export.Dim("batch", min=2, max=64)
        program = torch.export.export(network, (x[:5],), dynamic_shapes=({0: dim},))
        file = io.BytesIO()
        torch.export.save(program, file)
        file.seek(0)
        assert torch.equal(torch.export.load(file).module()(x), wanted)
        for layout in (torch.contiguous_format, torch.channels_last):
            if x.ndim == 4:
                assert torch.equal(network(x.to(memory_format=layout)), wanted)


@models
@pytest.mark.parametrize("bits", [(8, 8), (3, 4)])
def test_states_of_converted_networks(name, bits, tmp_path):
    options = {"weight_bits": bits[0], "activation_bits": bits[1]}
    network, x, wanted = converted(name, **options)
    path = tmp_path / "network.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    make, shape = MODELS[name]
    fresh = pct.load_(qat.prepare(make().eval(), torch.zeros(1, *shape), **options), path)
    with torch.no_grad():
        assert torch.equal(fresh(x), wanted)
        other = qat.prepare(make(), torch.zeros(1, *shape), **options).train()
        other(3 * x + 1)
        other = qat.convert(other.eval())
        assert not torch.equal(other(x), wanted)
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(x), wanted)
        assert torch.equal(other.to(torch.bfloat16).to(torch.float32)(x), wanted)  # scales are not rounded
    state = network.state_dict()
    key = next(key for key in state if key.endswith("qparams") and key.startswith("quantize_"))
    for wrong, error in [(state[key][:1], RuntimeError), (state[key] * torch.tensor([-1.0, 1.0]), ValueError)]:
        with pytest.raises(error, match=r"size mismatch|positive"):
            pct.load_(qat.prepare(make().eval(), torch.zeros(1, *shape), **options), state | {key: wrong})(x)


def test_gradients_are_those_of_the_straight_through_estimator():
    layer, source, output = nn.Linear(3, 2), qat.Quantizer(), qat.Quantizer()
    for quantizer in (source, output):
        quantizer.low.fill_(-4.0), quantizer.high.fill_(4.0), quantizer.seen.fill_(1)
        quantizer.scale.fill_(8 / 255), quantizer.zero_point.fill_(128)
    quantized = qat.QuantizedLayer(layer, None, (0.0, 1.0), source, output, 8).eval()
    x = source.eval()(torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]])).requires_grad_()
    quantized(x).sum().backward()
    q, scale = qat.quantized_weight(layer.weight.detach(), 8)
    fake = q * scale[:, None]
    y = x.detach() @ fake.T + layer.bias.detach()
    passes = ((y > 0) & (y < 1)).float()
    assert torch.allclose(x.grad, passes @ fake)
    assert torch.allclose(layer.weight.grad, passes.T @ x.detach())
    assert torch.allclose(layer.bias.grad, passes.sum(0))


def test_learned_scale_has_the_gradient_of_lsq():
    quantizer = qat.Quantizer(4, "learn").eval()
    with torch.no_grad():
        quantizer.scale.fill_(0.5)
        quantizer.zero_point.fill_(3)
    x = torch.tensor([0.7, -0.1, 9.0, -5.0])
    quantizer(x).sum().backward()
    inside = lambda v: np.rint(v / 0.5) - v / 0.5  # noqa: E731
    wanted = (inside(0.7) + inside(-0.1) + 12 - 3) / np.sqrt(4 * 15)
    assert float(quantizer.scale.grad) == pytest.approx(wanted, rel=1e-5)


def test_a_learned_scale_may_lose_its_sign():
    prepared, x, _ = trained("mlp", steps=3, mode="learn", warmup=2)
    for quantizer in (m for m in prepared.modules() if isinstance(m, qat.Quantizer)):
        with torch.no_grad():
            quantizer.scale.neg_()
    network = qat.convert(prepared.eval())
    with torch.no_grad():
        assert torch.allclose(network(x), prepared(x), rtol=1e-6, atol=1e-6)
        assert network(x).std() > 0


def test_observed_ranges():
    quantizer = qat.Quantizer(momentum=0.5).train()
    quantizer(torch.tensor([-1.0, 3.0]))
    quantizer(torch.tensor([-3.0, 1.0]))
    assert (float(quantizer.low), float(quantizer.high)) == (-2.0, 2.0)
    scale, zero_point = quantizer.grid()
    assert scale == pytest.approx(4 / 255)
    assert zero_point in (127, 128)  # of 127.5
    quantizer.eval()(torch.tensor([100.0]))
    assert float(quantizer.high) == 2.0
    quantizer = qat.Quantizer().train()
    assert torch.equal(quantizer(torch.zeros(3)), torch.zeros(3))  # a range of nothing
    assert quantizer(torch.zeros(0, 3)).shape == (0, 3)
    assert quantizer.seen == 1


def test_batch_norm_learns_what_it_would_have():
    """Running statistics after training steps: those of the float model's batch norm on the fake-quantized product."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(64, 4) + 1
    prepared = qat.prepare(model, x).train()
    for _ in range(60):
        prepared(x)
        model.train()(x)
    norm = next(m for m in prepared.modules() if isinstance(m, nn.BatchNorm1d))
    assert torch.allclose(norm.running_mean, model[1].running_mean, atol=0.05)
    assert torch.allclose(norm.running_var, model[1].running_var, rtol=0.05)
    assert F.mse_loss(prepared.eval()(x), model.eval()(x)) < 0.01 * model(x).var()


class Odd(nn.Module):
    """A convolution, something with its result, and a layer that reads it."""

    def __init__(self, how, channels=6):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.head, self.act = nn.Linear(channels, 4), nn.ReLU()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.how = how

    def forward(self, x):
        return self.how(self, self.one(x))


ODD = {
    "functional dropout": lambda m, y: m.two(F.dropout(F.relu(y), 0.5, m.training)),
    "dropout by name": lambda m, y: m.two(F.dropout2d(y, training=m.training, p=0.9)),
    "sum that broadcasts": lambda m, y: m.two(y + m.two(y)[:, :1]) + m.two(m.one_by_one(y) + y),
    "pool that the kernels lack": lambda m, y: (m.two(y), m.pool(y)),
    "mean of something else": lambda m, y: (m.two(y), y.mean(1), y.mean(), y.mean(dim=(2, 3)), y.mean((2, 3, 1))),
    "mean by name": lambda m, y: m.head(torch.mean(y, dim=[-2, -1], keepdim=False)),
    "mean that stays": lambda m, y: m.two(y.mean((2, 3), True)),
    "view": lambda m, y: (m.two(y), y.view(y.shape[0], -1), m.two(y).view(y.shape[0], -1)),
    "twice": lambda m, y: m.two(m.act(m.two(y).repeat(1, 2, 1, 1)[:, :6])),
}


@pytest.mark.parametrize("how", list(ODD))
def test_what_stands_between_layers(how):
    torch.manual_seed(0)
    model = Odd(ODD[how])
    if how == "sum that broadcasts":
        model.one_by_one = nn.Sequential(nn.Conv2d(6, 6, 1), nn.AdaptiveAvgPool2d(1))
    x = torch.randn(4, 3, 9, 7)
    with torch.no_grad():
        prepared = qat.prepare(model, x).train()
        prepared(x)
        prepared.eval()
        found, wanted, floats = (f(x) for f in (qat.convert(prepared), prepared, model.eval()))
    for f, w, e in zip(*([v] if torch.is_tensor(v) else v for v in (found, wanted, floats)), strict=True):
        assert f.shape == w.shape == e.shape
        assert torch.allclose(f, w, rtol=1e-5, atol=1e-5)
        assert F.mse_loss(w, e) < 0.01 * e.square().mean()


def test_one_image_without_a_batch():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)), torch.randn(3, 9, 9)
    with torch.no_grad():
        prepared = qat.prepare(model, x).train()
        prepared(x)
        network = qat.convert(prepared.eval())
        assert torch.allclose(network(x), prepared(x), rtol=1e-6, atol=1e-6)
        assert torch.equal(network(x[None])[0], network(x))
        assert torch.equal(torch.compile(network, fullgraph=True, backend="aot_eager")(x), network(x))


def test_what_is_not_known_stays_as_it_is():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6)

        def forward(self, x):
            return self.two(self.norm(torch.sigmoid(self.one(x)) * x)).softmax(1)

    prepared = qat.prepare(Net(), torch.randn(2, 6)).train()
    x = torch.randn(40, 6)
    prepared(x)
    kinds = [type(m) for m in prepared.modules()]
    assert kinds.count(qat.QuantizedLayer) == 2
    assert nn.LayerNorm in kinds
    network = qat.convert(prepared.eval())
    assert torch.allclose(network(x), prepared(x), atol=1e-6)
    skipped = qat.prepare(Net(), torch.randn(2, 6), skip=["one"])
    assert [type(m) for m in skipped.modules()].count(qat.QuantizedLayer) == 1


def test_errors():
    x = torch.randn(2, 20)
    with pytest.raises(ValueError, match="weight_bits is 9"):
        qat.prepare(mlp(), x, weight_bits=9)
    with pytest.raises(ValueError, match="bits is 1"):
        qat.prepare(mlp(), x, activation_bits=1)
    with pytest.raises(ValueError, match="mode is 'guess'"):
        qat.prepare(mlp(), x, mode="guess")
    with pytest.raises(ValueError, match="skip names 'nothing'"):
        qat.prepare(mlp(), x, skip=["nothing"])
    for options, kind, what in [
        ({"weight_bits": 4.5}, TypeError, "weight_bits is 4.5"), ({"warmup": 0}, ValueError, "warmup is 0"),
        ({"skip": "nothing"}, ValueError, "skip names 'nothing'"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=what):
            qat.prepare(mlp(), x, **options)
    with pytest.raises(TypeError, match="model is str"):
        qat.prepare("mlp", x)
    with pytest.raises(TypeError, match=r"1 has a weight of torch\.float64, wanted float32"):
        qat.prepare(mlp().double(), x.double())
    with pytest.raises(TypeError, match="prepared is Sequential"):
        qat.convert(mlp())
    with pytest.raises(ValueError, match="momentum is 3"):
        qat.Quantizer(momentum=3.0)
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        qat.prepare(mlp(), x).train()(x * torch.nan)
    with pytest.raises(ValueError, match="has seen no values"):
        qat.convert(qat.prepare(mlp(), x))

    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"torch\.fx cannot trace Branch"):
        qat.prepare(Branch(), x)


def test_a_norm_of_another_axis_is_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(5), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"shape \(2, 5, 4\), wanted 2-D"):
        qat.prepare(model, torch.randn(2, 5, 4))
