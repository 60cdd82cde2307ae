"""Whole networks through the pipeline: one of convolutions, and calibration while a network runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import pycompress as pc
from pycompress.pipeline import compress_file

# ---- a network of convolutions


def conv_network() -> tuple[dict[str, Any], Any]:
    """Weights OIHW, and the network on images [N, H, W, 3] as a function of weights."""
    rng = np.random.default_rng(0)
    shapes = {"stem": (16, 3, 3, 3), "depthwise": (16, 1, 3, 3), "pointwise": (32, 16, 1, 1), "wide": (24, 32, 3, 5)}
    tensors = {name: rng.standard_normal(shape) / math.prod(shape[1:]) ** 0.5 for name, shape in shapes.items()}
    tensors["head"] = rng.standard_normal((10, 24)) / 24**0.5
    tensors = {f"{name}.weight": w.astype(np.float32) for name, w in tensors.items()}

    def network(weights: Any, x: Any) -> Any:
        x = pc.conv2d(x, weights["stem.weight"], padding=1, activation="relu")
        depthwise = weights["depthwise.weight"]
        if isinstance(depthwise, np.ndarray):
            depthwise = pc.DepthwiseWeight.from_float(depthwise, bits=32)
        x = pc.depthwise_conv2d(x, depthwise, padding=1)
        pointwise = weights["pointwise.weight"]
        x = pc.conv2d(x, pointwise, activation="relu")
        x = pc.conv2d(x, weights["wide.weight"], padding=(1, 2), activation="relu")
        return pc.linear(x.mean((1, 2)), weights["head.weight"])

    return tensors, network


@pytest.mark.parametrize(
    ("preset", "error"), [("int8", 0.03), ("fp16", 0.002), ("int4", 0.3), ("sparse-int8", 0.9), ("lowrank-int8", 0.5)]
)
def test_presets_on_convolutions(preset: str, error: float) -> None:
    tensors, network = conv_network()
    x = np.random.default_rng(1).standard_normal((2, 9, 9, 3)).astype(np.float32)
    y, made = network(tensors, x), pc.compress(tensors, preset)
    assert np.linalg.norm(network(made, x) - y) < error * np.linalg.norm(y)
    kinds = {name.removesuffix(".weight"): type(made[name]).__name__ for name in made}
    assert kinds["stem"] == kinds["wide"] == ("Float16Weight" if preset == "fp16" else "Int8Weight")
    assert kinds["depthwise"] == ("ndarray" if preset == "fp16" else "DepthwiseWeight")


def test_auto_on_convolutions(tmp_path: Any) -> None:
    tensors, network = conv_network()
    x = np.random.default_rng(1).standard_normal((2, 9, 9, 3)).astype(np.float32)
    patches = pc.unfold(x, 3, padding=1)
    recipe = {"preset": {"name": "auto", "budget": 0.2}, "batch": 196, "threads": 1}
    made = pc.compress(tensors, recipe, calibration={"stem.weight": patches})
    y = network(tensors, x)
    assert np.linalg.norm(network(made, x) - y) < 0.5 * np.linalg.norm(y)
    rows = {layer.name: layer for layer in made.report().layers}
    tried = {name: {candidate.label for candidate in row.candidates} for name, row in rows.items()}
    assert tried["stem.weight"] == tried["wide.weight"] == {"int8", "float16"}
    assert tried["depthwise.weight"] == {"int8"}
    assert {"int8", "int4", "float16"} < tried["pointwise.weight"]
    for row in rows.values():
        assert row.seconds is not None
        assert all(candidate.seconds > 0 for candidate in row.candidates)
        assert row.seconds <= row.seconds_before
    assert rows["stem.weight"].candidates[0].error < 0.03
    # As the command has it: times of what there is no choice about.
    safetensors.numpy.save_file(tensors, tmp_path / "m.safetensors")
    filed = compress_file(tmp_path / "m.safetensors", tmp_path / "o", "int8")
    assert all(layer.speed is not None for layer in filed.report().layers)


# ---- calibration while the network runs


def chain(layers: int = 5, n: int = 32) -> tuple[dict[str, Any], Any, Any]:
    """Weights, the network as a function of `layer` and x, and correlated inputs."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((n, 8)) @ rng.standard_normal((8, n)) + 0.3 * rng.standard_normal((n, n))
    tensors = {f"l{i}.weight": (rng.standard_normal((n, n)) / n**0.5).astype(np.float32) for i in range(layers)}
    bias = rng.standard_normal(n).astype(np.float32)

    def network(layer: Any, x: Any) -> Any:
        for name in tensors:
            x = layer(name, x, bias, "relu") + np.float32(0.3) * x
        return x

    return tensors, network, [(rng.standard_normal((500, n)) @ mix).astype(np.float32) for _ in range(2)]


@pytest.mark.parametrize(
    "recipe",
    [
        {"preset": {"name": "sparse-int8", "sparsity": 0.5}},
        {"preset": {"name": "lowrank-int8", "rank": 10}},
        {"preset": "int4"},
        {"rule": [{"prune": {"sparsity": 0.6, "method": "gradual"}}]},
    ],
)
def test_layers_make_up_for_those_before_them(recipe: dict[str, Any]) -> None:
    """On inputs that calibration has not seen: in order beats each for itself, which beats none."""
    tensors, network, (x, new) = chain()

    def running(weights: Any) -> Any:
        return lambda name, x, bias, activation: pc.linear(x, weights[name], bias, activation=activation)

    y, seen = network(running(tensors), new), {}

    def record(name: str, x: Any, *rest: Any) -> Any:
        seen[name] = x
        return running(tensors)(name, x, *rest)

    network(record, x)
    told: list[tuple[int, int, str]] = []
    apart = pc.compress(tensors, recipe, calibration=seen)
    ordered = pc.compress(
        tensors, recipe, calibration=lambda layer: network(layer, x), progress=lambda *step: told.append(step)
    )
    errors = [np.linalg.norm(network(running(made), new) - y) for made in (ordered, apart)]
    assert errors[0] < 0.95 * errors[1]
    total = sum(w.nbytes for w in tensors.values())
    assert told == [(0, total, ""), *((4096 * (i + 1), total, f"l{i}.weight") for i in range(len(tensors)))]
    # The first layer sees the same either way; the report's error of the last one is that of the network's outputs.
    first, last = ordered.report().layers[0], ordered.report().layers[-1]
    assert first.error == pytest.approx(apart.report().layers[0].error, rel=1e-3)
    assert last.error_of == "outputs"
    assert last.error > 0


def test_int8_needs_no_running_network() -> None:
    tensors, network, (x, _) = chain()
    made = pc.compress(
        tensors | {"more": np.eye(8, dtype=np.float32)}, "int8", calibration=lambda layer: network(layer, x)
    )
    for name, w in tensors.items():
        np.testing.assert_array_equal(made[name].q, pc.Int8Weight.from_float(w).q)
    assert made.report().layers[-1].error_of == "weight"


def test_a_search_judges_what_it_will_make() -> None:
    tensors, network, (x, new) = chain()
    asked = []

    def outputs(weights: Any) -> Any:
        return network(lambda name, x, bias, activation: pc.linear(x, weights[name], bias, activation=activation), new)

    y = outputs(tensors)

    def evaluate(made: pc.CompressedModel) -> float:
        asked.append({name: made[name] for name in made})
        return float(np.linalg.norm(outputs(made) - y) / np.linalg.norm(y))

    recipe = {"budget": 0.1, "batch": 64, "threads": 1}
    recipe["rule"] = [{"candidates": [{"quantize": {"bits": 8}}, {"quantize": {"bits": 4}}]}]
    made = pc.compress(tensors, recipe, calibration=lambda layer: network(layer, x), evaluate=evaluate)
    assert evaluate(made) <= 0.1
    assert any(
        all(np.array_equal(pc.linear(new, one[name]), pc.linear(new, made[name])) for name in tensors)
        for one in asked[:-1]
    ) or all(isinstance(made[name], np.ndarray) for name in tensors)


@pytest.mark.parametrize(
    ("forward", "error", "message"),
    [
        (lambda layer: layer("x.weight", np.ones((3, 32), np.float32)), ValueError, "no tensor of that name"),
        (
            lambda layer: layer("l0.weight", np.ones((3, 31), np.float32)),
            ValueError,
            r"x \(3, 31\), wanted \[samples, 32\]",
        ),
        (lambda layer: layer("l0.weight", np.ones((0, 32), np.float32)), ValueError, "holds no sample"),
        (lambda layer: layer("l0.weight", np.ones((3, 32), np.int8)), TypeError, "int8"),
        (lambda layer: None, ValueError, "for no layer"),
        (3, TypeError, "calibration is int, wanted a mapping or a function"),
    ],
)
def test_what_a_running_network_cannot_do(forward: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pc.compress(chain()[0], "int4", calibration=forward)
