"""The layers of pycompress.torch: the bits of the functions, eager, compiled and exported; states, copies, casts."""

import copy
import gc
import io
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch_models import Mlp, Mobile, _reproducible, convolutions, error, mobile, static_mobile  # noqa: E402, F401

import pycompress as pc  # noqa: E402
import pycompress.torch as pct  # noqa: E402
from pycompress.torch import ops  # noqa: E402
from pycompress.torch.observe import padding_of  # noqa: E402


def run_layer(layer, weight, x, x_qparams=None):
    """What the functions of pycompress make of a torch layer."""
    bias = None if layer.bias is None else layer.bias.numpy()
    if isinstance(layer, nn.Linear):
        return torch.from_numpy(pc.linear(x.numpy(), weight, bias, x_qparams=x_qparams))
    depthwise = isinstance(weight, pc.DepthwiseWeight)
    groups = {} if depthwise else {"groups": layer.groups}
    run = pc.depthwise_conv2d if depthwise else pc.conv2d
    y = run(
        np.ascontiguousarray(x.numpy()), weight, bias, stride=layer.stride, padding=padding_of(layer),
        dilation=layer.dilation, layout="NCHW", x_qparams=x_qparams, **groups,
    )  # fmt: skip
    return torch.from_numpy(y)


# ---- the layers


# Recipes, and how far the result may be from that of float32; what is taken out of random weights is all missed.
RECIPES = [
    ("int8", 0.03),
    ("int4", 0.25),
    ("fp16", 0.001),
    ("sparse-int8", None),
    ("lowrank-int8", None),
    ({"rule": [{"prune": {"sparsity": 0.5}}]}, None),
]


@pytest.mark.parametrize(("recipe", "most"), RECIPES)
@pytest.mark.parametrize("make", [Mlp, convolutions])
def test_layers_have_the_bits_of_the_functions(make, recipe, most):
    model = make().eval()
    x = torch.randn(3, 5, 24) if make is Mlp else torch.randn(2, 4, 13, 12)
    before = copy.deepcopy(model)
    assert pct.compress_(model, recipe) is model
    dense = {name: p.numpy() for name, p in before.named_parameters() if p.ndim > 1}
    weights = pc.compress(dense, recipe)
    checked = 0
    for (name, old), new in zip(before.named_modules(), model.modules(), strict=True):
        if not isinstance(new, pct.Linear | pct.Conv2d):
            assert type(new) is type(old)
            continue
        given = []
        hook = new.register_forward_hook(lambda module, args, y, given=given: given.extend((args[0], y)))
        model(x)
        hook.remove()
        weight = weights[f"{name}.weight"]
        if getattr(old, "groups", 1) != 1 and old.kernel_size == (1, 1):
            weight = new.compressed  # by its shape alone it looks like a matrix
        assert torch.equal(run_layer(old, weight, given[0]), given[1]), name
        assert given[1].is_contiguous()
        checked += 1
    assert checked >= 2
    assert most is None or 0 < error(model(x), before(x)) < most
    rows = {row.name: row for row in model.pycompress_report.layers}
    assert len(rows) == (2 if make is Mlp else 5)
    assert most is None or model.pycompress_report.nbytes < 0.6 * model.pycompress_report.nbytes_before


def test_a_layer_made_by_hand():
    w, b, x = torch.randn(6, 9), torch.randn(6), torch.randn(4, 9)
    layer = pct.Linear(pc.CSRWeight.from_dense(w.numpy(), bits=8), b, activation=(-1.0, 1.5))
    wanted = pc.linear(x.numpy(), pc.CSRWeight.from_dense(w.numpy(), bits=8), b.numpy(), activation=(-1.0, 1.5))
    assert torch.equal(layer(x), torch.from_numpy(wanted))
    assert "6x9, CSRWeight" in repr(layer)
    assert layer.bias.data_ptr() != b.data_ptr()
    assert pct.Linear(layer.compressed).bias is None
    for bad, what in [({"activation": "tanh"}, "activation"), ({"y_qparams": (1.0, 0)}, "y_qparams")]:
        with pytest.raises(ValueError, match=what):
            pct.Linear(pc.Int8Weight.from_float(w.numpy()), **bad)
    with pytest.raises(ValueError, match=r"bias has shape \(5,\)"):
        pct.Linear(pc.Int8Weight.from_float(w.numpy()), b[:5])


def test_inputs_of_every_kind():
    layer = pct.Linear(pc.Int8Weight.from_float(torch.randn(6, 8).numpy()), torch.randn(6))
    x = torch.randn(4, 3, 16)[..., ::2]
    assert torch.equal(layer(x), layer(x.contiguous()))
    assert torch.equal(layer(x[0, 0]), layer(x)[0, 0])
    assert torch.equal(layer(input=x), layer(x))
    assert layer(torch.empty(0, 8)).shape == (0, 6)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        y = layer(x.to(dtype))
        assert y.dtype == dtype
        assert torch.equal(y, layer(x.to(dtype).float()).to(dtype))
    for bad in (torch.zeros(2, 8, dtype=torch.int64), torch.zeros(2, 8, dtype=torch.bool)):
        with pytest.raises(TypeError, match="wanted a floating dtype"):
            layer(bad)
    with pytest.raises(ValueError, match="x_qparams is None"):
        layer(torch.zeros(2, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"wanted \[..., 8\]"):
        layer(torch.zeros(2, 7))
    conv = pct.Conv2d(pc.Int8Weight.from_float(torch.randn(5, 3, 3, 3).numpy()), padding=(1, 0, 2, 1), stride=(2, 1))
    image = torch.randn(2, 3, 9, 8)
    y = conv(image)
    assert torch.equal(conv(image[1:2])[0], conv(image[1]))
    assert conv(image[:0]).shape == (0, *y.shape[1:])
    last = conv(image.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, y)
    assert torch.equal(conv(image.transpose(2, 3).contiguous().transpose(2, 3)), y)
    with pytest.raises(ValueError, match=r"wanted \[B, C, H, W\]"):
        conv(image[0, 0])
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.Sequential(nn.Linear(8, 8), layer)(x).dtype == torch.bfloat16


def test_nothing_is_copied(monkeypatch):
    seen = {}

    def watched(function):
        def call(x, *args, **kwargs):
            seen["x"], seen["threads"] = x, kwargs["num_threads"]
            seen["y"] = function(x, *args, **kwargs)
            return seen["y"]

        return call

    for name in ("linear", "conv2d"):
        monkeypatch.setattr(ops.pc, name, watched(getattr(pc, name)))
    layer = pct.Linear(pc.Int8Weight.from_float(torch.randn(6, 8).numpy()))
    conv = pct.Conv2d(pc.Int8Weight.from_float(torch.randn(5, 3, 3, 3).numpy()))
    image = torch.randn(2, 3, 9, 8).to(memory_format=torch.channels_last)
    threads = torch.get_num_threads(), pc.get_num_threads()
    try:
        for module, x in ((layer, torch.randn(4, 8)), (conv, image)):
            torch.set_num_threads(3)
            pc.set_num_threads(2)
            y = module(x)
            assert seen["threads"] == 2
            assert seen["x"].ctypes.data == x.data_ptr()
            assert seen["y"].ctypes.data == y.data_ptr()
            torch.set_num_threads(1)
            module(x)
            assert seen["threads"] == 1
    finally:
        torch.set_num_threads(threads[0])
        pc.set_num_threads(threads[1])


def test_no_gradient():
    model = pct.compress_(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)).eval(), "int8")
    with torch.enable_grad():
        x = torch.randn(3, 8, requires_grad=True)
        y = model(x)
        with pytest.raises(RuntimeError, match=r"have no gradient: train with pycompress\.qat"):
            y.sum().backward()
        with torch.no_grad():
            assert torch.equal(model(x), y)
            assert torch.equal(model[1](x), model[1](x.detach()))
    with torch.inference_mode():
        assert torch.equal(model(x), y)
        assert torch.equal(copy.deepcopy(model)(x), y)  # tensors without a count of changes
        made = pct.compress_(nn.Sequential(nn.Linear(8, 8)).eval(), "int8")
        assert not any(array.is_inference() for array in made[0].arrays)


# ---- torch.library


WEIGHTS = {
    "int8": lambda w: pc.Int8Weight.from_float(w),
    "csr": lambda w: pc.CSRWeight.from_dense(w),
    "low rank": lambda w: pc.LowRankWeight(pc.Int8Weight.from_float(w[:, :3]), w[:3]),
}


@pytest.mark.parametrize("kind", list(WEIGHTS))
def test_opcheck_linear(kind):
    layer = pct.Linear(WEIGHTS[kind](torch.randn(8, 12).numpy()), torch.randn(8), activation="relu")
    for x in (torch.randn(3, 5, 12), torch.randn(3, 12, dtype=torch.float64)):
        torch.library.opcheck(torch.ops.pycompress.linear.default, (x, layer.arrays, layer.layer))


def test_opcheck_uint8():
    x = torch.randint(0, 256, (2, 6, 7, 5), dtype=torch.uint8).to(memory_format=torch.channels_last)
    scales = {"x_qparams": (0.1, 128), "y_qparams": (0.2, 3)}
    for kind, w in ((pc.Int8Weight, torch.randn(4, 6, 3, 2)), (pc.DepthwiseWeight, torch.randn(12, 1, 3, 2))):
        layer = pct.Conv2d(kind.from_float(w.numpy()), stride=(2, 1), padding=(1, 0, 1, 2), **scales)
        for image in (x, (x.float() - 128) * 0.1, ((x.float() - 128) * 0.1).contiguous()):
            torch.library.opcheck(torch.ops.pycompress.conv2d.default, (image, layer.arrays, layer.layer))
            assert torch.equal(layer(image), layer(x))
        for last in (False, True):
            layer = pct.Conv2d(kind.from_float(w.numpy()), x_qparams=(0.1, 128), channels_last=last)
            torch.library.opcheck(torch.ops.pycompress.conv2d.default, (x, layer.arrays, layer.layer))
            assert layer(x).is_contiguous() is not last
    torch.library.opcheck(torch.ops.pycompress.max_pool2d.default, (x, [3, 2], [2, 2], [1, 0], [1, 2]))
    linear = pct.Linear(pc.Int8Weight.from_float(torch.randn(4, 5).numpy()), **scales)
    torch.library.opcheck(torch.ops.pycompress.linear.default, (x, linear.arrays, linear.layer))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 5), (6,)])
def test_opcheck_between_layers(shape):
    """What stands between the layers of an integer network, against the operators of pycompress."""
    find, x = torch.ops.pycompress, 3 * torch.randn(shape)
    images = [x, x.to(memory_format=torch.channels_last)] if len(shape) == 4 else [x, x.double()]
    for image in images:
        for levels in (256, 32):
            module = pct.Quantize((0.03, 7), levels)
            torch.library.opcheck(find.quantize.default, (image, module.qparams))
            q = pc.quantize_linear(x.numpy(), np.float32(0.03), np.uint8(7))
            assert np.array_equal(module(image).numpy(), np.minimum(q, levels - 1))
            assert len(shape) != 4 or module(image).is_contiguous(memory_format=torch.channels_last)
    a = module(x)
    assert torch.equal(pct.Dequantize((0.03, 7))(a), (a.float() - 7) * 0.03)
    assert pct.Dequantize((0.03, 7)).half()(a).dtype == torch.float16
    b = torch.randint(0, 256, shape[-1:], dtype=torch.uint8)
    for levels, clamp in (((0, 255), None), ((3, 20), (0.0, 1.7))):
        module = pct.Add((0.03, 7), (0.2, 100), (0.1, 3), levels)
        torch.library.opcheck(find.add.default, (a, b, module.qparams))
        wide = [np.ascontiguousarray(v) for v in np.broadcast_arrays(a.numpy(), b.numpy())]
        qparams = {"a_qparams": (0.03, 7), "b_qparams": (0.2, 100), "y_qparams": (0.1, 3)}
        assert np.array_equal(module(a, b).numpy(), pc.add(*wide, activation=clamp, **qparams))
    if len(shape) == 4:
        torch.library.opcheck(find.global_average_pool.default, (a,))
        mean = pc.global_average_pool(a.contiguous().numpy(), layout="NCHW")
        assert np.array_equal(pct.GlobalAveragePool2d(keepdim=True)(a).numpy(), mean)
        assert np.array_equal(pct.GlobalAveragePool2d()(a).numpy(), mean[:, :, 0, 0])
    with pytest.raises(TypeError, match="x is a tensor of"):
        pct.Quantize((0.03, 7))(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(ValueError, match="levels is 300"):
        pct.Quantize((0.03, 7), 300)
    with pytest.raises(ValueError, match=r"x has shape \(3, 5\)"):
        pct.GlobalAveragePool2d()(a.new_zeros(3, 5))
    with pytest.raises(TypeError, match="uint8"):
        pct.Quantize((0.03, 7))(a)


def test_compile():
    torch._dynamo.reset()
    for model, x in ((pct.compress_(Mlp().eval(), "sparse-int8"), torch.randn(3, 24)), static_mobile()):
        wanted = model(x)
        assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_traces():
    model, x = static_mobile()
    wanted = model(x)
    assert torch.equal(torch.jit.trace(model, (x,))(x), wanted)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), wanted)
    conv = model.stem[0]
    assert torch.equal(torch.compile(conv, fullgraph=True, backend="aot_eager")(x[0]), conv(x)[0])


def test_export_keeps_the_weights_in_its_file():
    model, x = static_mobile()
    wanted = model(torch.cat([x, x]))
    dim = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: dim},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert {name.rpartition("/")[2] for name in loaded.state_dict if "/" in name} == {"q", "scale"}
    run = loaded.module()
    assert torch.equal(run(torch.cat([x, x])), wanted)
    packed = {id(kept) for kept in ops._kept.values()}
    run(x)
    assert {id(kept) for kept in ops._kept.values()} == packed  # once, not in each call


# ---- states, copies, devices


def test_states_go_through_safetensors(tmp_path):
    model, x = static_mobile()
    wanted = model(x)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    assert path.stat().st_size < 0.5 * sum(p.numel() * 4 for p in mobile().parameters()) + 20000
    fresh = pct.load_(mobile(), path)
    assert [type(m) for m in fresh.modules()] == [type(m) for m in model.modules()]
    assert torch.equal(fresh(x), wanted)
    again, _ = static_mobile(seed=5)
    assert not torch.equal(again(x), wanted)
    again.load_state_dict(safetensors.torch.load_file(path))
    assert torch.equal(again(x), wanted)
    with torch.device("meta"):
        empty = Mobile().eval()
    assert torch.equal(pct.load_(empty, path)(x), wanted)
    # A layer takes any kind of weight of its shape.
    sparse, dense = (pct.compress_(Mlp().eval(), recipe) for recipe in ("sparse-int8", "int4"))
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(2, 24)
    assert torch.equal(dense(x), sparse(x))
    assert sorted(dense.state_dict()) == sorted(sparse.state_dict())


def test_states_that_do_not_fit():
    model = pct.compress_(Mlp().eval(), "int8")
    state = model.state_dict()
    for change, what in [
        ({"up._extra_state": torch.zeros(9, dtype=torch.uint8)}, "no layer of pycompress"),
        ({"up._extra_state": torch.zeros(9)}, "no tensor of bytes"),
        ({"up._extra_state": state["down._extra_state"]}, "up"),
        ({"up.weight/q": state["up.weight/q"][1:]}, "no layer of pycompress"),
        ({"up.weight/scale": -state["up.weight/scale"]}, "scale"),
        ({"up.bias": torch.zeros(3)}, "bias has shape"),
        ({"up.more": torch.zeros(3)}, "Unexpected key"),
    ]:
        with pytest.raises(RuntimeError, match=what):
            copy.deepcopy(model).load_state_dict(state | change)
        if "more" not in str(change):
            with pytest.raises(ValueError, match=r"no layer of pycompress|no tensor of bytes|wanted"):
                pct.load_(Mlp().eval(), state | change)
    for key in ("up.weight/q", "up._extra_state"):
        with pytest.raises(RuntimeError, match=key if "extra" in key else "weight/q"):
            copy.deepcopy(model).load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(ValueError, match=r"'up' of the state has a weight of shape \(40, 24\), wanted that of Linear"):
        pct.load_(nn.ModuleDict({"up": nn.Linear(9, 9)}), state)
    with pytest.raises(RuntimeError, match=r"norm\.weight"):
        pct.load_(nn.ModuleDict({"up": nn.Linear(24, 40), "down": nn.Linear(40, 7)}), state)
    x = torch.randn(2, 24)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_copies_and_casts():
    model = pct.compress_(Mlp().eval(), "int8")
    x = torch.randn(2, 24)
    wanted = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), wanted)
    double = copy.deepcopy(model).double()
    assert double.up.arrays[1].dtype == torch.float32
    assert double(x.double()).dtype == torch.float64
    assert error(double(x.double()), wanted.double()) < 0.01  # LayerNorm is in float64 now
    assert copy.deepcopy(model).to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    half = copy.deepcopy(model).half().up.weight  # what models ask of it
    assert (half.shape, half.dtype, half.device.type) == ((40, 24), torch.float16, "cpu")
    assert half.isnan().all()
    assert (model.up.out_features, model.up.in_features) == half.shape
    meta = copy.deepcopy(model).to("meta", torch.float64)
    assert meta(x.double().to("meta")).shape == wanted.shape
    assert {b.dtype for b in meta.up.buffers()} == {torch.int8, torch.float32}
    back = meta.to_empty(device="cpu").to(torch.float32)
    back.load_state_dict(model.state_dict())
    assert torch.equal(back(x), wanted)
    with FakeTensorMode(), pytest.raises(RuntimeError, match="run on the CPU"):
        model.up._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device="cuda"))
    assert torch.equal(model(x), wanted)


def test_packed_weights_live_as_long_as_their_tensors():
    model = pct.compress_(Mlp().eval(), "int8")
    x = torch.randn(2, 24)
    model(x)
    gc.collect()
    before = len(ops._kept)
    first = model.up.compressed
    model.up._buffers["weight/q"].neg_()  # a change in place is seen
    changed = model(x)
    assert np.array_equal(model.up.compressed.q, first.q)  # over the same memory
    fresh = pct.compress_(Mlp().eval(), "int8")
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), changed)
    del fresh, model
    gc.collect()
    assert len(ops._kept) == before - 2
