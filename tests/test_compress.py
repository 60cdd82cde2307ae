"""From a model to a compressed one: steps, files, interruptions, processes, a cluster, and the search."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import pycompress as pc
from pycompress.pipeline import compress_file, search, times
from pycompress.pipeline.search import choose
from pycompress.pipeline.store import Journal
from pycompress.recipe import Recipe


def model(layers: int = 3, n: int = 24, k: int = 32) -> dict[str, Any]:
    """Weights of rank about 8, so that each technique has something to find."""
    rng = np.random.default_rng(0)

    def matrix() -> Any:
        low = rng.standard_normal((n, 8)) @ rng.standard_normal((8, k))
        return (low + 0.05 * rng.standard_normal((n, k))).astype(np.float32)

    return {
        **{f"layer.{i}.weight": matrix() for i in range(layers)},
        "layer.0.bias": np.ones(n, np.float32),
        "tokens.embedding.weight": rng.standard_normal((20, k)).astype(np.float32),
        "conv.weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "ids": np.arange(5),
    }


def inputs(tensors: dict[str, Any], samples: int = 64) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((32, 32))
    return {
        name: (rng.standard_normal((samples, 32)) @ mix).astype(np.float32)
        for name in tensors
        if name.startswith("layer.") and name.endswith("weight")
    }


@pytest.fixture
def saved(tmp_path: Any) -> Any:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(model(), path)
    return path


def rules(**steps: Any) -> dict[str, Any]:
    return {"rule": [{"name": "layer.*", **steps}]}


# ---- steps


def test_int8_is_that_of_the_weight_itself() -> None:
    tensors = model()
    seen: list[tuple[int, int, str]] = []
    made = pc.compress(tensors, "int8", progress=lambda *told: seen.append(told))
    for name in ("layer.0.weight", "layer.2.weight", "conv.weight"):
        wanted = pc.Int8Weight.from_float(tensors[name])
        np.testing.assert_array_equal(made[name].q, wanted.q)
        np.testing.assert_array_equal(made[name].scale, wanted.scale)
    for name in ("layer.0.bias", "tokens.embedding.weight", "ids"):
        np.testing.assert_array_equal(made[name], tensors[name])
    assert list(made) == list(tensors)
    total = sum(tensors[name].nbytes for name in tensors if name.startswith(("layer", "conv")) and "bias" not in name)
    assert seen[0][:2] == (0, total)
    assert seen[-1][:2] == (total, total)


def test_the_report_says_what_was_done() -> None:
    tensors = model()
    report = pc.compress(tensors, "int8").report()
    assert [layer.name for layer in report.layers] == list(tensors)
    row = {layer.name: layer for layer in report.layers}
    first = row["layer.0.weight"]
    assert (first.layer, first.label, first.shape, first.error_of) == ("linear", "int8", (24, 32), "weight")
    assert (first.nbytes_before, first.nbytes) == (24 * 32 * 4, 24 * 32 + 24 * 4)
    w, dense = tensors["layer.0.weight"], pc.Int8Weight.from_float(tensors["layer.0.weight"]).todense()
    assert first.error == pytest.approx(np.linalg.norm(dense - w) / np.linalg.norm(w), rel=1e-5)
    assert (row["ids"].label, row["ids"].error) == ("int64", None)
    assert report.nbytes_before == sum(a.nbytes for a in tensors.values())
    errors = [layer.error for layer in report.layers if layer.error is not None]
    assert report.error == pytest.approx(math.sqrt(sum(e * e for e in errors) / len(errors)))
    assert "layer.0.weight" in str(report)
    assert type(report).from_dict(report.as_dict()) == report


def test_errors_of_outputs_with_calibration() -> None:
    tensors = model()
    x = inputs(tensors)
    made = pc.compress(tensors, rules(quantize={"bits": 8}), calibration=x)
    row = made.report().layers[0]
    y = x[row.name] @ tensors[row.name].T
    wanted = np.linalg.norm(pc.linear(x[row.name], made[row.name]) - y) / np.linalg.norm(y)
    assert row.error_of == "outputs"
    assert row.error == pytest.approx(wanted, rel=1e-3)
    statistics = pc.InputStatistics(32)
    statistics.update(x[row.name])
    other = pc.compress(tensors, rules(quantize={"bits": 8}), calibration={row.name: statistics}).report().layers[0]
    y2 = x[row.name] @ made[row.name].todense().T
    assert other.error == pytest.approx(np.linalg.norm(y2 - y) / np.linalg.norm(y), rel=1e-3)


def test_low_rank_with_integers_and_with_calibration() -> None:
    tensors = model()
    recipe = rules(factorize={"rank": 8}, quantize={"bits": 8})
    made = pc.compress(tensors, recipe)
    weight = made["layer.0.weight"]
    assert isinstance(weight, pc.LowRankWeight)
    assert isinstance(weight.a, pc.Int8Weight)
    assert isinstance(weight.b, pc.Int8Weight)
    assert weight.rank == 8
    assert made.report().layers[0].label == "rank 8 int8"
    x = inputs(tensors)
    tight = rules(factorize={"rank": 4})
    plain, aware = (pc.compress(tensors, tight, calibration=c) for c in (None, x))
    for name, samples in x.items():
        y = samples @ tensors[name].T
        wrong = [np.linalg.norm(samples @ m[name].todense().T - y) for m in (plain, aware)]
        assert wrong[1] < wrong[0]
    assert aware.report().layers[0].error_of == "outputs"


def test_a_rank_that_saves_nothing_is_not_used() -> None:
    made = pc.compress(model(), rules(factorize={"rank": 20}, quantize={"bits": 8}))
    assert isinstance(made["layer.0.weight"], pc.Int8Weight)
    row = made.report().layers[0]
    assert (row.label, row.note) == ("int8", "rank 20 would save nothing: not factorized")


def test_ranges_of_activations_are_fixed_where_asked_for(saved: Any, tmp_path: Any) -> None:
    tensors, x = model(), inputs(model())
    name = "layer.0.weight"
    steps = {"quantize": {"bits": 8, "activations": "minmax"}}
    made = pc.compress(tensors, {"rule": [{"name": name, **steps}, {"quantize": {}}]}, calibration=x)
    qparams = made.x_qparams(name)
    assert qparams == pc.calibrate(x[name], "minmax")
    assert made.x_qparams("layer.1.weight") is None
    with pytest.raises(KeyError):
        made.x_qparams("layer")
    row = made.report().layers[0]
    assert row.label == "int8 static"
    y = x[name] @ tensors[name].T
    wanted = np.linalg.norm(pc.linear(x[name], made[name], x_qparams=qparams) - y) / np.linalg.norm(y)
    assert row.error == pytest.approx(wanted, rel=1e-3)
    made.save(tmp_path / "o")
    assert pc.load(tmp_path / "o").x_qparams(name) == qparams
    made = compress_file(saved, tmp_path / "o", {"rule": [{"name": name, **steps}]}, calibration=x)
    assert made.x_qparams(name) == qparams
    assert made.report().layers[list(made).index(name)].speed is not None
    with pytest.raises(ValueError, match="activations 'minmax' needs calibration inputs"):
        pc.compress(tensors, rules(**steps))
    statistics = pc.InputStatistics(32)
    statistics.update(x[name])
    with pytest.raises(ValueError, match="need calibration inputs as arrays"):
        pc.compress(tensors, {"rule": [{"name": name, **steps}]}, calibration={name: statistics})


def test_pruning_a_convolution_leaves_zeros() -> None:
    tensors = model()
    recipe = {"rule": [{"layer": "conv", "prune": {"sparsity": 0.5}, "quantize": {"bits": 8}}]}
    made = pc.compress(tensors, recipe)
    assert made["conv.weight"].shape == (4, 3, 3, 3)
    assert np.mean(made["conv.weight"].q == 0) >= 0.5
    made = pc.compress(tensors, {"rule": [{"layer": "conv", "prune": {"sparsity": 0.5}}]})
    assert isinstance(made["conv.weight"], np.ndarray)
    assert np.mean(made["conv.weight"] == 0) == 0.5


@pytest.mark.parametrize(
    ("preset", "kind"),
    [
        ("int4", "Int4Weight"),
        ("fp16", "Float16Weight"),
        ("sparse-int8", "BSRWeight"),
        ("lowrank-int8", "LowRankWeight"),
        ("int8", "Int8Weight"),
    ],
)
def test_presets_give_their_kind(preset: str, kind: str, tmp_path: Any) -> None:
    tensors = model()
    for calibration in (None, inputs(tensors)):
        made = pc.compress(tensors, preset, calibration=calibration)
        weight = made["layer.1.weight"]
        assert type(weight).__name__ == kind
        assert weight.nbytes < tensors["layer.1.weight"].nbytes
        made.save(tmp_path / "m")
        again = pc.load(tmp_path / "m")
        x = np.ones((2, 32), np.float32)
        np.testing.assert_array_equal(pc.linear(x, again["layer.1.weight"]), pc.linear(x, weight))
        assert again.report() == made.report()


def test_sparse_factors_of_low_rank() -> None:
    steps = {"factorize": {"rank": 8}, "prune": {"sparsity": 0.5, "pattern": "block", "block": [1, 4]}}
    made = pc.compress(model(), rules(**steps, quantize={"bits": 8}), calibration=inputs(model()))
    weight = made["layer.0.weight"]
    assert type(weight.a).__name__ == type(weight.b).__name__ == "BSRWeight"
    made = pc.compress(model(), rules(prune={"sparsity": 0.5}))
    assert type(made["layer.0.weight"]).__name__ == "CSRWeight"
    assert np.mean(made["layer.0.weight"].todense() == 0) >= 0.5


@pytest.mark.parametrize("prune", [{"pattern": "block", "block": [5, 3]}, {"pattern": "unstructured"}])
def test_sparse_integers_are_rounded_as_asked_for(prune: dict[str, Any]) -> None:
    tensors, x = model(), inputs(model())
    name = "layer.0.weight"

    def made(**quantize: Any) -> Any:
        steps = {"prune": {"sparsity": 0.4, **prune}, "quantize": {"bits": 8, **quantize}}
        return pc.compress(tensors, rules(**steps), calibration=x)[name]

    floats = pc.compress(tensors, rules(prune={"sparsity": 0.4, **prune}), calibration=x)[name].todense()
    plain, gptq, one, tight = made(), made(rounding="gptq"), made(per="tensor"), made(clip="mse")
    for weight in (plain, gptq, one, tight):
        np.testing.assert_array_equal(weight.indices, plain.indices)
        assert weight.data.dtype == np.int8
        assert not weight.todense()[floats == 0].any()
    assert len(set(one.scale)) == 1
    np.testing.assert_array_equal(gptq.scale, plain.scale)
    assert (tight.scale <= plain.scale).all()
    y = x[name] @ floats.T
    near, far = (np.linalg.norm(x[name] @ weight.todense().T - y) for weight in (gptq, plain))
    assert near < far


def test_a_convolution_of_1_x_1_becomes_a_matrix() -> None:
    w = np.random.default_rng(0).standard_normal((24, 16, 1, 1)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((50, 16)).astype(np.float32)
    for recipe in ("int8", {"rule": [{"factorize": {"rank": 4}}]}):
        made = pc.compress({"w": w}, recipe, calibration={"w": x})
        assert made["w"].shape == (24, 16)
        (row,) = made.report().layers
        assert (row.layer, row.shape, row.error_of) == ("pointwise", (24, 16, 1, 1), "outputs")
        y = x @ w[:, :, 0, 0].T
        assert row.error == pytest.approx(np.linalg.norm(pc.linear(x, made["w"]) - y) / np.linalg.norm(y), rel=1e-3)


def test_weights_that_lie_transposed() -> None:
    w = model()["layer.0.weight"]
    made = pc.compress({"w": np.asfortranarray(w.T)}, {"rule": [{"transposed": True, "quantize": {"bits": 8}}]})
    np.testing.assert_array_equal(made["w"].q, pc.Int8Weight.from_float(w).q)


def test_halves_and_doubles_are_taken_as_well() -> None:
    w = model()["layer.0.weight"].astype(np.float16)
    made = pc.compress({"a": w, "b": w.astype(np.float64)}, "int8")
    np.testing.assert_array_equal(made["a"].q, made["b"].q)
    assert [layer.nbytes_before for layer in made.report().layers] == [w.nbytes, 4 * w.nbytes]


@pytest.mark.parametrize(
    ("recipe", "calibration", "error", "message"),
    [
        (rules(quantize={"bits": 8}), {"layr": np.ones((2, 32))}, ValueError, "calibration has inputs of 'layr'"),
        (rules(quantize={"bits": 8}), [1], TypeError, "calibration is list"),
        (rules(quantize={"bits": 8}), {"layer.0.weight": np.ones((2, 31))}, ValueError, r"has shape \(2, 31\)"),
        (rules(quantize={"bits": 8}), {"layer.0.weight": np.ones((0, 32))}, ValueError, "holds no sample"),
        (rules(quantize={"bits": 8}), {"layer.0.weight": np.ones((2, 32), int)}, TypeError, "is an array of int64"),
        (rules(quantize={"rounding": "gptq"}), None, ValueError, "'layer.0.weight': rounding 'gptq' needs calibration"),
        ({"rule": [{"name": "none", "quantize": {"bits": 8}}]}, None, ValueError, "fits none of the 7 tensors"),
        ({"rule": [{"keep": True}]}, None, ValueError, "fits none"),
    ],
)
def test_what_cannot_be_done(recipe: Any, calibration: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pc.compress(model(), recipe, calibration=calibration)


def test_errors_name_the_tensor() -> None:
    tensors = model() | {"layer.1.weight": np.full((4, 4), np.nan, np.float32)}
    with pytest.raises(ValueError, match=r"tensor 'layer\.1\.weight', int8: w holds NaN"):
        pc.compress(tensors, "int8")


# ---- files


def same_model(a: Any, b: Any) -> None:
    assert set(a) == set(b)
    for name in a:
        assert type(a[name]) is type(b[name])
        left, right = (m[name] if isinstance(m[name], np.ndarray) else m[name].todense() for m in (a, b))
        np.testing.assert_array_equal(left, right)


def test_a_file_is_what_memory_gives(saved: Any, tmp_path: Any) -> None:
    seen = []
    made = compress_file(saved, tmp_path / "o", "int8", progress=lambda *told: seen.append(told))
    same_model(made, pc.compress(model(), "int8"))
    assert list(dict.fromkeys(phase for phase, *_ in seen)) == ["converting", "measuring", "writing"]
    for phase in ("converting", "measuring", "writing"):
        counts = [(done, total) for p, _, done, total in seen if p == phase]
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1] > 0
    report = made.report()
    assert report.batch == 128
    assert report.cpu
    timed = {layer.name for layer in report.layers if layer.seconds}
    assert {f"layer.{i}.weight" for i in range(3)} <= timed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "o"]


def test_what_compress_writes_is_always_the_same(saved: Any, tmp_path: Any) -> None:
    for name in "ab":
        compress_file(saved, tmp_path / name, "lowrank-int8", times=False)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_calibration_from_a_file(saved: Any, tmp_path: Any) -> None:
    x = inputs(model())
    np.savez(tmp_path / "x.npz", **x)
    safetensors.numpy.save_file(x, tmp_path / "x.safetensors")
    recipe = rules(factorize={"rank": 4})
    wanted = pc.compress(model(), recipe, calibration=x)
    for name in ("x.npz", "x.safetensors"):
        same_model(compress_file(saved, tmp_path / "o", recipe, calibration=tmp_path / name), wanted)


def test_a_compressed_model_can_be_read_but_not_compressed_again(saved: Any, tmp_path: Any) -> None:
    compress_file(saved, tmp_path / "o", "int8", times=False)
    with pytest.raises(ValueError, match="compressed already"):
        compress_file(tmp_path / "o", tmp_path / "p", "int8")
    with pytest.raises(ValueError, match="which is the model itself"):
        compress_file(saved, saved, "int8")
    with pytest.raises(ValueError, match="in a directory that exists"):
        compress_file(saved, tmp_path / "none" / "o", "int8")
    with pytest.raises(ValueError, match="jobs is 0"):
        compress_file(saved, tmp_path / "p", "int8", jobs=0)
    with pytest.raises(ValueError, match="wanted one of them"):
        compress_file(saved, tmp_path / "p", "int8", jobs=2, dask="tcp://127.0.0.1:1")


def test_a_model_larger_than_memory_passes_through(tmp_path: Any) -> None:
    """Peak of what Python and NumPy allocate: a few tensors, of 40."""
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": rng.standard_normal((512, 512)).astype(np.float32) for i in range(40)}
    tensors |= {f"bias{i}": rng.standard_normal(1 << 18).astype(np.float32) for i in range(10)}
    one = tensors["w0"].nbytes
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    np.savez(tmp_path / "m.npz", **tensors)
    wanted = None
    del tensors
    for name in ("m.safetensors", "m.npz"):
        tracemalloc.start()
        made = compress_file(tmp_path / name, tmp_path / "o", "int8", times=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * one, f"{peak / one:.1f} tensors"
        if wanted is not None:
            same_model(made, wanted)
        wanted = made


# ---- interruptions


def test_an_interrupted_run_is_taken_up(saved: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pycompress.pipeline import work

    make, calls = work.make, []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setattr(work, "make", failing)
    output = tmp_path / "o"
    with pytest.raises(KeyboardInterrupt):
        compress_file(saved, output, "int8", times=False)
    assert not output.exists()
    assert Journal.beside(output).directory.is_dir()
    made = compress_file(saved, output, "int8", times=False)
    assert len(calls) == 3 + 2  # four layers, of which two were done
    same_model(made, pc.compress(model(), "int8"))
    assert not Journal.beside(output).directory.exists()


def test_only_what_changed_is_done_again(saved: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pycompress.pipeline import work

    output = tmp_path / "o"
    journal = Journal.beside(output)
    monkeypatch.setattr(Journal, "remove", lambda self: None)
    compress_file(saved, output, "int8", times=False)
    make, calls = work.make, []
    monkeypatch.setattr(work, "make", lambda *arguments: calls.append(arguments) or make(*arguments))
    compress_file(saved, output, "int8", times=False)
    assert not calls
    changed = model()
    changed["layer.1.weight"] = changed["layer.1.weight"] + 1
    safetensors.numpy.save_file(changed, saved)
    made = compress_file(saved, output, "int8", times=False)
    assert len(calls) == 1
    same_model(made, pc.compress(changed, "int8"))
    calls.clear()
    for piece in journal.directory.glob("*.safetensors"):  # what a broken disk leaves is not believed
        piece.write_bytes(piece.read_bytes()[:-3])
    compress_file(saved, output, "int8", times=False)
    assert len(calls) == 4
    calls.clear()
    compress_file(saved, output, "int8", calibration=inputs(changed), times=False)
    assert len(calls) == 3


def test_two_at_once_are_refused(saved: Any, tmp_path: Any) -> None:
    output = tmp_path / "o"
    lock = Journal.beside(output).lock()
    try:
        with pytest.raises(BlockingIOError, match="another process is at work"):
            compress_file(saved, output, "int8")
    finally:
        os.close(lock)
    compress_file(saved, output, "int8", times=False)


KILLED = """
import sys
from pycompress.pipeline import compress_file
recipe = {"rule": [{"factorize": {"energy": 0.5}, "quantize": {"bits": 8}}]}
compress_file(sys.argv[1], sys.argv[2], recipe, jobs=int(sys.argv[3]), times=False)
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_any_moment_and_started_again(jobs: int, tmp_path: Any) -> None:
    rng = np.random.default_rng(jobs)
    tensors = {f"w{i}": rng.standard_normal((160, 160)).astype(np.float32) for i in range(24)}
    tensors |= {f"b{i}": rng.standard_normal(100).astype(np.float32) for i in range(3)}
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    (tmp_path / "here").mkdir()
    output, wanted = tmp_path / "here" / "o", tmp_path / "wanted"
    journal = Journal.beside(output).directory

    def command(target: Any) -> list[str]:
        return [sys.executable, "-c", KILLED, str(tmp_path / "m.safetensors"), str(target), str(jobs)]

    subprocess.run(command(wanted), check=True)
    kills, pieces = 0, 0
    while kills < 3 and not output.exists():
        process = subprocess.Popen(command(output))
        # The first pieces take their time; then the knife falls anywhere.
        while process.poll() is None and len(list(journal.glob("*.safetensors"))) <= pieces:
            time.sleep(0.002)
        time.sleep(float(rng.uniform(0.0, 0.1)))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        pieces = len(list(journal.glob("*.safetensors")))
        if not output.exists():
            assert [p.name for p in output.parent.iterdir()] == [journal.name]
    assert kills
    assert subprocess.run(command(output), check=False).returncode == 0
    assert output.read_bytes() == wanted.read_bytes()
    assert [p.name for p in output.parent.iterdir()] == ["o"]


# ---- processes, a cluster


def nearly(a: Any, b: Any) -> None:
    """Decompositions depend on how BLAS shares its work among threads: in the last bits, and so in a few roundings."""
    assert set(a) == set(b)
    for name in a:
        assert type(a[name]) is type(b[name])
        left, right = (m[name] if isinstance(m[name], np.ndarray) else m[name].todense() for m in (a, b))
        np.testing.assert_allclose(left, right, atol=0.02 * np.abs(left).max(initial=0))


def test_several_processes_give_the_same(saved: Any, tmp_path: Any) -> None:
    np.savez(tmp_path / "x.npz", **inputs(model()))
    one = compress_file(saved, tmp_path / "a", "int8", times=False)
    same_model(compress_file(saved, tmp_path / "b", "int8", jobs=2, times=False), one)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "PYCOMPRESS_NUM_THREADS")}
    one = compress_file(saved, tmp_path / "a", "lowrank-int8", calibration=inputs(model()), times=False)
    for calibration in (tmp_path / "x.npz", inputs(model())):
        nearly(one, compress_file(saved, tmp_path / "b", "lowrank-int8", calibration=calibration, jobs=2, times=False))
    assert environment == {name: os.environ.get(name) for name in environment}


def test_an_error_in_a_process_is_that_of_the_tensor(saved: Any, tmp_path: Any) -> None:
    safetensors.numpy.save_file(model() | {"layer.1.weight": np.full((24, 32), np.inf, np.float32)}, saved)
    with pytest.raises(ValueError, match=r"tensor 'layer\.1\.weight'"):
        compress_file(saved, tmp_path / "c", "int8", jobs=2)
    assert not (tmp_path / "c").exists()


@pytest.mark.filterwarnings("ignore")  # of the cluster itself
def test_a_dask_cluster_gives_the_same(saved: Any, tmp_path: Any) -> None:
    distributed = pytest.importorskip("distributed")
    compress_file(saved, tmp_path / "a", "int8", times=False)
    low = compress_file(saved, tmp_path / "low", "lowrank-int8", calibration=inputs(model()), times=False)
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(host="127.0.0.1", **options) as cluster:
        address = cluster.scheduler_address
        compress_file(saved, tmp_path / "b", "int8", dask=address, times=False)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        options = {"calibration": inputs(model()), "dask": address, "times": False}
        nearly(low, compress_file(saved, tmp_path / "b", "lowrank-int8", **options))
        safetensors.numpy.save_file(model() | {"layer.1.weight": np.full((24, 32), np.inf, np.float32)}, saved)
        with pytest.raises(ValueError, match=r"tensor 'layer\.1\.weight'"):
            compress_file(saved, tmp_path / "c", "int8", dask=address)


def test_no_cluster_is_told(saved: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pycompress-kernels\[dask\]"):
        compress_file(saved, tmp_path / "o", "int8", dask="tcp://127.0.0.1:1")
    assert not Journal.beside(tmp_path / "o").directory.exists()


# ---- the search


def best(seconds: Any, errors: Any, budget: float, fixed: Any = ()) -> float:
    """The least time of all choices within the budget."""
    allowed = budget**2 * (len(errors) + len(fixed)) - sum(e * e for e in fixed)
    every = itertools.product(*(range(len(s)) for s in seconds))
    good = [c for c in every if sum(errors[i][k] ** 2 for i, k in enumerate(c)) <= allowed + 1e-12 or not any(c)]
    return min(sum(seconds[i][k] for i, k in enumerate(c)) for c in good)


def test_the_choice_is_nearly_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    lost = []
    for _ in range(100):
        layers, options = int(rng.integers(1, 6)), int(rng.integers(1, 5))
        seconds = [[1.0, *rng.uniform(0.05, 0.9, options)] for _ in range(layers)]
        errors = [[0.0, *rng.uniform(0.001, 0.3, options)] for _ in range(layers)]
        fixed = tuple(rng.uniform(0, 0.05, int(rng.integers(0, 2))))
        choice = choose(seconds, errors, 0.08, fixed)
        spent = sum(errors[i][k] ** 2 for i, k in enumerate(choice.chosen)) + sum(e * e for e in fixed)
        assert spent <= 0.08**2 * (layers + len(fixed)) + 1e-12
        time = sum(seconds[i][k] for i, k in enumerate(choice.chosen))
        assert choice.path[0] == (
            pytest.approx(layers),
            pytest.approx(math.sqrt(sum(e * e for e in fixed) / (layers + len(fixed)))),
        )
        assert choice.path[-1] == (pytest.approx(time), pytest.approx(math.sqrt(spent / (layers + len(fixed)))))
        lost.append(time / best(seconds, errors, 0.08, fixed) - 1)
    assert min(lost) > -1e-9
    assert np.mean(lost) < 0.03
    assert np.mean(np.array(lost) < 1e-9) > 0.6


def test_what_saves_nothing_stays_float32() -> None:
    margin = 1 - search.MARGIN / 2
    assert choose([[1.0, margin, 1.2]], [[0.0, 0.0, 0.0]], 1.0).chosen == (0,)
    assert choose([[1.0, 0.5]], [[0.0, 0.2]], 0.1).chosen == (0,)
    assert choose([[1.0, 0.5]], [[0.0, math.inf]], 1.0).chosen == (0,)
    assert choose([[1.0, 0.5]], [[0.0, 0.05]], 0.1, [0.5]).chosen == (0,)
    assert choose([], [], 0.1).chosen == ()


def test_the_error_of_the_whole_model_decides() -> None:
    seconds, errors = [[1.0, 0.5]] * 10, [[0.0, 0.01 * (i + 1)] for i in range(10)]
    asked = []

    def evaluate(chosen: tuple[int, ...]) -> float:
        asked.append(chosen)
        return sum(chosen) / 10

    choice = choose(seconds, errors, 0.35, (), evaluate)
    assert choice.chosen == (1, 1, 1, 0, 0, 0, 0, 0, 0, 0)  # those with the least error first
    assert len(asked) <= 5
    assert len(choice.path) == 4
    assert choose(seconds, errors, 1.0, (), evaluate).chosen == (1,) * 10


def test_auto_takes_the_fastest_within_the_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """With given times: int8 takes half, rank 8 a quarter, and layer.2 is faster in float32 than in any form."""

    def given(w: Any, weights: Any, *rest: Any) -> list[float]:
        if w.mean() > 5:
            return [1.0] + [2.0] * len(weights)
        return [1.0] + [0.25 if isinstance(weight, pc.LowRankWeight) else 0.5 for weight, _ in weights]

    monkeypatch.setattr("pycompress.pipeline.run.measure", given)
    tensors = model()
    tensors["layer.2.weight"] = tensors["layer.2.weight"] + 10
    candidates = [{"quantize": {"bits": 8}}, {"factorize": {"rank": 8}, "quantize": {"bits": 8}}]
    recipe = rules(candidates=candidates)
    loose = pc.compress(tensors, recipe | {"budget": 0.5})
    rows = loose.report().layers
    assert [row.label for row in rows[:3]] == ["rank 8 int8", "rank 8 int8", "float32"]
    kept = rows[2]
    assert kept.note == "nothing that was tried is faster"
    assert (kept.error, kept.speed) == (0.0, 1.0)
    int8, low = ([row.candidates[k].error for row in rows[:2]] for k in (0, 1))
    assert all(a < b for a, b in zip(int8, low, strict=True))
    # Enough for one of the two layers to be of low rank, not for both.
    budget = 1.001 * math.sqrt((min(low) ** 2 + max(int8) ** 2) / 3)
    made = pc.compress(tensors, recipe | {"budget": budget})
    assert sorted(row.label for row in made.report().layers[:3]) == ["float32", "int8", "rank 8 int8"]
    assert made.report().error <= made.report().budget == budget
    tight = pc.compress(tensors, recipe | {"budget": 0.0001})
    assert [layer.label for layer in tight.report().layers[:3]] == ["float32"] * 3
    assert tight.report().layers[0].note == "what is faster would exceed the budget of error"
    one = pc.compress(tensors, recipe | {"budget": 0.5, "layer_budget": max(int8) * 1.001})
    assert [layer.label for layer in one.report().layers[:3]] == ["int8", "int8", "float32"]
    asked = []

    def evaluate(whole: pc.CompressedModel) -> float:
        asked.append({name: type(whole[name]).__name__ for name in whole})
        return 0.0 if isinstance(whole["layer.0.weight"], np.ndarray) else 1.0

    # The budget is in the units of the function: it says nothing about the error of a layer.
    first = pc.compress(tensors, recipe | {"budget": 0.001}, evaluate=evaluate)
    assert isinstance(first["layer.0.weight"], np.ndarray)
    assert asked
    assert first.report().budget is None
    free = pc.compress(tensors, recipe | {"budget": 0.001}, evaluate=lambda whole: 0.0)
    assert [layer.label for layer in free.report().layers[:3]] == ["rank 8 int8", "rank 8 int8", "float32"]
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    same_model(compress_file(tmp_path / "m.safetensors", tmp_path / "o", recipe | {"budget": 0.5}, jobs=2), loose)
    candidates_of = pc.load(tmp_path / "o").report().layers
    assert [
        len(layer.candidates) for layer in candidates_of if layer.name.endswith("weight") and "layer" in layer.name
    ] == [2] * 3


def test_a_candidate_that_cannot_be_made_is_left_out(tmp_path: Any) -> None:
    w = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    good, bad = {"quantize": {"bits": 8}}, {"factorize": {"rank": 2}, "quantize": {"bits": 8, "per": "tensor"}}
    broken = np.full((8, 8), np.nan, np.float32)
    recipe = {"rule": [{"candidates": [good, bad]}]}
    made = pc.compress({"w": w, "c": broken}, recipe)
    first, second = made.report().layers
    assert [c.label for c in first.candidates] == ["int8", "rank 2 int8"]
    assert second.label == "float32"
    assert second.note.startswith("no candidate can be made: tensor 'c', rank 2 int8: w holds NaN")
    np.testing.assert_array_equal(made["c"], broken)
    safetensors.numpy.save_file({"w": w, "c": broken}, tmp_path / "m.safetensors")
    filed = compress_file(tmp_path / "m.safetensors", tmp_path / "o", recipe, jobs=2)
    assert "no candidate can be made" in {layer.name: layer.note for layer in filed.report().layers}["c"]


def test_the_preset_auto_runs_here() -> None:
    tensors = model(2, 64, 64) | {"small": np.eye(2, dtype=np.float32)}
    made = pc.compress(tensors, Recipe.preset("auto", budget=0.05))
    report = made.report()
    assert report.threads
    assert len(report.path) >= 1
    for layer in report.layers:
        if layer.candidates and layer.seconds is not None:
            assert layer.seconds <= layer.seconds_before
        if layer.candidates and layer.label == "float32":
            assert layer.note


def test_times_are_medians_of_rounds_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of our own: forms that take 3 and 9 ms, while the machine grows slower by the round."""
    now, turns = [0.0], []

    def call(weight: Any, *rest: Any) -> Any:
        def run() -> None:
            turns.append(math.prod(weight.shape))
            now[0] += turns[-1] * 3e-3 * (1 + now[0] / 10)

        return run

    monkeypatch.setattr(times.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(times, "_call", call)
    one, three = np.zeros((1, 1), np.float32), np.zeros((3, 1), np.float32)
    found = times.measure(one, [(three, None), (one, None)], "linear", 1, 1, 5)
    assert found[1] / found[0] == pytest.approx(3, rel=0.02)
    assert found[2] / found[0] == pytest.approx(1, rel=0.02)
    assert turns == [1, 1, 3, 3, 1, 1, *5 * [1, 3, 1]]


def test_times_are_of_this_machine() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 96)).astype(np.float32)
    weight = pc.Int8Weight.from_float(w)
    found = times.measure(w, [(w, None), (weight, None), (weight, (0.1, 3))], "linear", 64, 1, 1)
    assert all(0 < seconds < 1 for seconds in found)
    conv = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    assert len(times.measure(conv, [(pc.Int8Weight.from_float(conv), None)], "conv", 64, 1, 1)) == 2
    pointwise = np.ascontiguousarray(conv[:, :, :1, :1])
    assert (
        len(times.measure(pointwise, [(pc.Int8Weight.from_float(pointwise[:, :, 0, 0]), None)], "pointwise", 8, 1, 1))
        == 2
    )
    depthwise = conv[:, :1].copy()
    assert (
        len(times.measure(depthwise, [(pc.DepthwiseWeight.from_float(depthwise), (0.1, 3))], "depthwise", 64, 1, 1))
        == 2
    )
