"""examples/mobilenet_v2.py: the network on random weights against torch, its figures where data is in the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
data = pytest.importorskip("mobilenet_data")
nets = pytest.importorskip("mobilenet_net")


def random_network(seed: int = 0) -> Any:
    """MobileNetV2's shapes with random weights that keep the size of values."""
    rng = np.random.default_rng(seed)

    def conv(name: str, o: int, i: int, k: int, stride: int, relu6: bool) -> Any:
        w = rng.standard_normal((o, i, k, k), np.float32) * np.float32((2 / (i * k * k)) ** 0.5)
        return nets.Conv(name, w, rng.standard_normal(o, np.float32) / np.float32(4), stride, relu6)

    blocks, channels = [], 32
    for expansion, outputs, repeats, first in nets.BLOCKS:
        for repeat in range(repeats):
            at, mid, stride = f"b{len(blocks)}", channels * expansion, first if repeat == 0 else 1
            expand = conv(f"{at}.expand", mid, channels, 1, 1, True) if expansion > 1 else None
            layers = conv(f"{at}.depthwise", mid, 1, 3, stride, True), conv(f"{at}.project", outputs, mid, 1, 1, False)
            blocks.append((expand, *layers, stride == 1 and channels == outputs))
            channels = outputs
    classifier = rng.standard_normal((1000, 1280), np.float32) / np.float32(36), np.zeros(1000, np.float32)
    return nets.Network(conv("stem", 32, 3, 3, 2, True), blocks, conv("last", 1280, 320, 1, 1, True), classifier)


def reference(torch: Any, net: Any, x: Any) -> Any:
    """In float64."""
    functional = torch.nn.functional

    def conv(c: Any, y: Any) -> Any:
        w, b = torch.from_numpy(c.w).double(), torch.from_numpy(c.b).double()
        y = functional.conv2d(y, w, b, c.stride, c.w.shape[2] // 2, 1, len(c.w) if c.depthwise else 1)
        return functional.relu6(y) if c.relu6 else y

    y = conv(net.stem, torch.from_numpy(x).double().permute(0, 3, 1, 2))
    for expand, depthwise, project, residual in net.blocks:
        z = conv(project, conv(depthwise, conv(expand, y) if expand else y))
        y = y + z if residual else z
    return functional.linear(
        conv(net.last, y).mean((2, 3)), *(torch.from_numpy(a).double() for a in net.classifier)
    ).numpy()


def test_float32_against_torch_and_int8_beside_it() -> None:
    torch = pytest.importorskip("torch")
    net, x = random_network(), np.random.default_rng(1).standard_normal((2, 64, 64, 3), np.float32)
    network = nets.Float(net)
    wanted, got = reference(torch, net, x), network(x)
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    quantized = nets.Int8(net, nets.calibrate(network, x))
    int8 = quantized(x)
    for a, b in zip(int8, wanted, strict=True):
        assert np.corrcoef(a, b)[0, 1] > 0.9
    # Each image's result is its own, and the buffers of one call do no harm to the next.
    assert np.array_equal(np.concatenate([quantized(image[None]) for image in x]), int8)


def test_qparams_hold_zero() -> None:
    for low, high in ((0.5, 2.0), (-3.0, -1.0), (0.0, 0.0), (-1.0, 6.0)):
        scale, zero_point = nets.qparams(low, high)
        assert 0 <= zero_point <= 255
        assert (min(low, 0) / scale + zero_point, max(high, 0) / scale + zero_point) == pytest.approx(
            (0, 255), abs=0.51
        ) or low == high


@pytest.mark.skipif(
    not data.complete(data.cache()), reason="examples/mobilenet_v2.py has not fetched weights and photographs"
)
def test_figures() -> None:
    """Top-1 of 20 photographs, and int8 agrees with float32 on most crops."""
    for package in ("torch", "PIL"):
        pytest.importorskip(package)
    command = [
        sys.executable,
        str(EXAMPLES / "mobilenet_v2.py"),
        "--crops",
        "110",
        "--rounds",
        "1",
        "--no-peers",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
    assert done.returncode == 0, done.stderr
    float32, int8 = json.loads(done.stdout)["results"]
    assert float32["top1"] >= 0.85
    assert float32["top5"] == 1
    assert int8["top1"] >= 0.8
    assert int8["agreement"] >= 0.8
    assert int8["milliseconds"] > 0
