"""pycompress.torch.compress_: which layers it replaces, what becomes part of them, uint8 between them; MiniLM."""

import copy
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402, N812
from torch import nn  # noqa: E402
from torch_models import STATIC, Mlp, _reproducible, convolutions, dtypes, error, mobile  # noqa: E402, F401

import pycompress as pc  # noqa: E402
import pycompress.torch as pct  # noqa: E402
from pycompress.torch import ops  # noqa: E402
from pycompress.torch.observe import ROWS  # noqa: E402

# ---- uint8 between layers, and what becomes part of a layer


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_uint8_between_layers(layout):
    model, x = mobile(), torch.randn(3, 3, 20, 20).to(memory_format=layout)
    wanted = model(x)
    tail = model.tail(model.stem(x))
    pct.compress_(model, STATIC, calibration=[x])
    f32, u8 = torch.float32, torch.uint8
    found = dtypes(model, x)
    assert {name: types[:2] for name, types in found.items()} == {
        "stem.0": (f32, f32),  # it is added to
        "block.0.0": (f32, u8),
        "block.1.0": (u8, u8),
        "block.2.0": (u8, f32),
        "tail.0.0": (f32, u8),
        "tail.2.0": (u8, f32),
        "head.1": (f32, u8),
        "head.3": (u8, f32),
    }
    assert not any(isinstance(m, nn.BatchNorm2d | nn.ReLU | nn.ReLU6) for m in model.modules())
    assert model.tail(model.stem(x)).is_contiguous(memory_format=layout) == tail.is_contiguous(memory_format=layout)
    assert error(model(x), wanted) < 0.03
    notes = {row.name: row.note for row in model.pycompress_report.layers}
    assert notes["block.0.0.weight"] == "with block.0.1, block.0.2; gives uint8"
    assert notes["tail.0.0.weight"] == "with tail.0.1, tail.0.2, tail.1; gives uint8"


def test_uint8_has_the_bits_of_the_functions():
    model = nn.Sequential(nn.Linear(9, 20), nn.BatchNorm1d(20), nn.Hardswish(), nn.Linear(20, 6)).eval()
    model[1].running_mean.normal_()
    x = torch.randn(50, 9)
    middle = model[:3](x).numpy()
    before = copy.deepcopy(model)
    pct.compress_(model, STATIC, calibration=[x])
    factor = before[1].weight.double() / torch.sqrt(before[1].running_var.double() + before[1].eps)
    w = (before[0].weight.double() * factor[:, None]).float().numpy()
    b = ((before[0].bias.double() - before[1].running_mean.double()) * factor + before[1].bias.double()).float().numpy()
    x_qparams, mid = pc.calibrate(x.numpy()), pc.calibrate(middle)
    q = pc.quantize_linear(x.numpy(), np.float32(x_qparams.scale), np.uint8(x_qparams.zero_point))
    y = pc.linear(q, pc.Int8Weight.from_float(w), b, activation="hardswish", x_qparams=x_qparams, y_qparams=mid)
    y = pc.linear(y, pc.Int8Weight.from_float(before[3].weight.numpy()), before[3].bias.numpy(), x_qparams=mid)
    assert np.array_equal(model(x).numpy(), y)


class Odd(nn.Module):
    """Ways in which a value is not for the next layer alone."""

    def __init__(self, how):
        super().__init__()
        self.how, self.one, self.relu, self.two = how, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)
        self.cache = None

    def forward(self, x):
        h = self.one(x)
        if self.how == "sum":
            return self.two(self.relu(h)) + h
        if self.how == "function":
            return self.two(torch.sigmoid(h))
        if self.how == "operator":
            return self.two(h) + torch.ops.aten.sigmoid.default(h)
        if self.how == "returned":
            y = self.relu(h)
            return self.two(y), {"hidden": [y]}
        if self.how == "kept":
            self.cache = self.relu(h)
            return self.two(self.cache)
        if self.how == "shared":
            return self.two(self.relu(h)) + self.relu(x)
        if self.how == "functional":
            return self.two(F.relu(h))
        if self.how == "negative":
            return self.two(F.relu(h)) + self.two(x)
        if self.how == "in place":
            h += 1
            return self.two(h)
        if self.how == "twice":
            return self.two(self.relu(self.one(self.relu(h))))
        raise AssertionError(self.how)


@pytest.mark.parametrize(
    ("how", "absorbed", "chained"),
    [
        ("sum", False, False),
        ("function", False, False),
        ("operator", False, False),
        ("returned", True, False),
        ("kept", True, False),
        ("shared", False, True),
        ("functional", False, True),
        ("negative", False, False),
        ("in place", False, False),
        ("twice", True, False),
    ],
)
def test_what_is_not_private_stays_float(how, absorbed, chained):
    model, x = Odd(how).eval(), torch.randn(30, 8)
    before = copy.deepcopy(model)
    pct.compress_(model, STATIC, calibration=[x])
    model.cache = None
    assert isinstance(model.relu, nn.Identity) == absorbed
    assert (dtypes(model, x)["one"][1] == torch.uint8) == chained
    y, wanted = model(x), before(x)
    if how == "returned":
        assert error(y[1]["hidden"][0], wanted[1]["hidden"][0]) < 0.03
        y, wanted = y[0], wanted[0]
    assert error(y, wanted) < 0.03
    if how == "kept":
        assert model.cache.dtype == torch.float32


@pytest.mark.parametrize(
    "steps",
    [
        {"factorize": {"rank": 20}, "quantize": {"bits": 8}},
        {"prune": {"sparsity": 0.2}, "quantize": {"bits": 8}},
        {"quantize": {"bits": 4}},
    ],
)
def test_uint8_of_every_kind(steps):
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval(), torch.randn(200, 64)
    wanted = model(x)
    steps["quantize"] |= {"activations": "minmax"}
    pct.compress_(model, {"rule": [steps]}, calibration=[x])
    assert dtypes(model, x)["0"] == (torch.float32, torch.uint8, (64, 1))
    assert error(model(x), wanted) < 0.6  # rank 20 of random numbers
    x_qparams, y_qparams = (pc.QParams(*ops.qparams_of(array.tolist())) for array in model[0].arrays[-2:])
    q = pc.quantize_linear(x.numpy(), np.float32(x_qparams.scale), np.uint8(x_qparams.zero_point))
    middle = pc.linear(
        q, model[0].compressed, model[0].bias.numpy(), activation="relu", x_qparams=x_qparams, y_qparams=y_qparams
    )
    y = pc.linear(middle, model[2].compressed, model[2].bias.numpy(), x_qparams=y_qparams)
    assert np.array_equal(model(x).numpy(), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_chain_ends_in_the_dtype_of_the_model(dtype):
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8)).eval(), torch.randn(30, 8)
    wanted = model(x)
    for made in (pct.compress_(copy.deepcopy(model).to(dtype), STATIC, calibration=[x.to(dtype)]),
                 pct.compress_(copy.deepcopy(model), STATIC, calibration=[x]).to(dtype)):  # fmt: skip
        assert dtypes(made, x.to(dtype))["2"][:2] == (torch.uint8, dtype)
        assert made(x.to(dtype)).dtype == dtype
        assert torch.equal(torch.compile(made, fullgraph=True, backend="aot_eager")(x.to(dtype)), made(x.to(dtype)))
        assert error(made(x.to(dtype)).float(), wanted) < 0.05


def test_a_batch_norm_over_something_else_stays():
    model, x = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)).eval(), torch.randn(3, 7, 5)
    model[1].running_mean.normal_()
    wanted = model(x)
    pct.compress_(model, "int8", calibration=[x])
    assert error(model(x), wanted) < 0.02
    assert isinstance(model[1], nn.BatchNorm1d)


def test_ranges_are_those_of_all_inputs():
    x = torch.randn(3 * ROWS, 4)
    x[17, 2], x[ROWS + 1, 0] = 11.0, -7.5
    model = pct.compress_(nn.Sequential(nn.Linear(4, 4)).eval(), STATIC, calibration=x.split(1000))
    assert ops.qparams_of(model[0].arrays[-1].tolist()) == pc.calibrate(x.numpy())
    image = torch.rand(2, 4, 70, 60)
    image[1, 3, 41, 29], image[0, 0, 0, 0] = 5.0, -3.0
    model = pct.compress_(convolutions()[:1].eval(), STATIC, calibration=[image])
    assert ops.qparams_of(model[0].arrays[-1].tolist()) == pc.calibrate(image.numpy())


# ---- which layers


def test_what_is_replaced():
    class Own(nn.Linear):
        pass

    shared = nn.Linear(6, 6)
    model = nn.ModuleDict(
        {
            "own": Own(6, 6),
            "reflect": nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
            "normed": nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)),
            "table": nn.Embedding(9, 6),
            "a": shared,
            "b": shared,
            "thin": nn.Linear(6, 1),
            "emb_proj": nn.Linear(6, 6),
            "keep": nn.Linear(6, 6, dtype=torch.bfloat16),
            "other": nn.Linear(6, 6, dtype=torch.bfloat16),
        }
    ).eval()
    types = {name: type(m) for name, m in model.items()}
    pct.compress_(model, {"rule": [{"name": "keep*", "keep": True}, {"quantize": {"bits": 8}}]})
    replaced = {name for name, m in model.items() if isinstance(m, pct.Linear)}
    assert replaced == {"a", "b", "thin", "emb_proj", "other"}
    assert all(type(m) is types[name] for name, m in model.items() if name not in replaced)
    assert model["a"] is model["b"]
    assert {row.name for row in model.pycompress_report.layers} == {
        f"{n}.weight" for n in ("a", "thin", "emb_proj", "keep", "other")
    }
    assert pct.load_(copy.deepcopy(model), model.state_dict())["a"].layer == model["a"].layer


def test_count():
    model, x = convolutions().eval(), torch.randn(2, 4, 13, 12)
    before = pct.count(model, x)
    pct.compress_(model, "int8")
    after = pct.count(model, x)
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    assert after.bytes == sum(array.numel() * array.element_size() for m in model for array in m.arrays)


def test_an_encoder_of_torch_uses_the_kernels():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    model, x = nn.TransformerEncoder(layer, 2).eval(), torch.randn(2, 5, 16)
    wanted = model(x)
    for recipe, batches in (("int8", None), (STATIC, [x])):
        made = pct.compress_(copy.deepcopy(model), recipe, calibration=batches)
        assert len(dtypes(made, x)) == 4
        assert 0 < error(made(x), wanted) < 0.03
        assert torch.equal(pct.load_(copy.deepcopy(model), made.state_dict())(x), made(x))


def test_progress_and_errors():
    told = []
    pct.compress_(Mlp().eval(), "int8", progress=lambda done, total, name: told.append((done, total, name)))
    assert told[-1] == (4 * (24 * 40 + 40 * 7), 4 * (24 * 40 + 40 * 7), "down.weight")
    for model, recipe, options, kind, what in [
        (Mlp(), "int8", {}, ValueError, "training mode"),
        (nn.Linear(3, 3).eval(), "int8", {}, ValueError, "model is itself a Linear"),
        (nn.Sequential(nn.ReLU()).eval(), "int8", {}, ValueError, "no nn.Linear"),
        ("model", "int8", {}, TypeError, "model is str"),
        (Mlp().eval(), "int7", {}, ValueError, "recipe is 'int7'"),
        (Mlp().eval(), STATIC, {}, ValueError, "needs calibration inputs"),
        (
            nn.ModuleDict({"a": nn.Linear(3, 3)}).eval(),
            {"rule": [{"name": "b", "quantize": {"bits": 8}}]},
            {},
            ValueError,
            "fits none",
        ),
        (Mlp().eval(), "int8", {"calibration": torch.zeros(2, 24)}, TypeError, "wanted batches"),
        (Mlp().eval(), STATIC, {"calibration": [torch.full((2, 24), torch.nan)]}, ValueError, "up.weight"),
        (Mlp().eval(), STATIC, {"calibration": []}, ValueError, "needs calibration inputs"),
    ]:
        before = copy.deepcopy(model)
        with pytest.raises(kind, match=what):
            pct.compress_(model, recipe, **options)
        if isinstance(model, nn.Module):
            assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]


# ---- MiniLM


def test_minilm_is_that_of_the_demo(monkeypatch):
    from pycompress.demo import fetch, minilm

    monkeypatch.setitem(sys.modules, "kernels", None)  # which transformers would take the directory here for
    transformers = pytest.importorskip("transformers")
    directory = fetch.cache_directory()
    if not fetch.is_complete(directory):
        pytest.skip("`pycompress demo` has not fetched the model")
    tokens = minilm.tokenize(directory, ["The new movie is awesome", "The cat sits outside in the garden", "Hello"], 64)
    (batch,) = minilm.batches(tokens, 1000)
    inputs = {"input_ids": torch.from_numpy(batch.ids), "attention_mask": torch.from_numpy(batch.mask).long()}
    model = transformers.BertModel.from_pretrained(directory, dtype=torch.float32, add_pooling_layer=False).eval()
    pct.compress_(model, "int8", calibration=[inputs])  # which shows that gelu follows: so it is the kernels', too
    assert sum(isinstance(m, pct.Linear) for m in model.modules()) == 36
    encoder = minilm.Encoder.load(directory)
    demo = encoder.with_weights(pc.compress(encoder.weights(), "int8"))

    def of_demo(name, layer, x):
        return pc.linear(x, layer.weight, layer.bias, activation=layer.activation)

    def of_torch(name, layer, x):
        """The same by the modules of the torch model; query, key and value are three there."""
        path = name.removesuffix(".weight")
        paths = [path.replace("qkv", part) for part in ("query", "key", "value")] if "qkv" in path else [path]
        return torch.cat([model.get_submodule(path)(torch.from_numpy(x)) for path in paths], -1).numpy()

    # The demo's encoder with these layers instead of its own: the same operations, so the same bits.
    assert np.array_equal(demo._run([batch], of_torch), demo._run([batch], of_demo))

    # In the model of transformers layer norm and softmax are torch's. Its last digits differ, by which some values are
    # rounded to the next level: it is as far from the demo as roundings, and nearer than both are to float32.
    hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = F.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()
    exact, wanted = (one(batch.ids, batch.mask) for one in (encoder, demo))
    apart, quantized = (np.linalg.norm(wanted - other, axis=1) for other in (mean, exact))
    assert (apart < 0.6 * quantized).all()
    assert np.einsum("ij,ij->i", mean, wanted).min() > 0.9995
