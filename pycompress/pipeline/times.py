"""What a layer takes on this machine: float32 and compressed weights in turn, so that a change of speed meets all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import weights as kinds
from ..weights import Weight

__all__ = ["measure"]

Array = NDArray[Any]
Form: TypeAlias = "tuple[Weight | Array, tuple[float, int] | None]"

LEAST = 2e-3  # seconds of a turn: a product that is shorter is repeated


def measure(
    w: NDArray[np.float32],
    weights: Sequence[Form],
    layer: str,
    batch: int,
    threads: int | None,
    rounds: int,
) -> list[float]:
    """Seconds of one product with `batch` rows (output positions of a convolution): of w first, then of each weight.

    weights: each with the QParams of its x, or None. Medians over `rounds` in which all take turns.
    """
    if layer == "pointwise":
        w = w.reshape(w.shape[:2])
    # What float32 can do, packed beforehand as the others are.
    first = kinds.DepthwiseWeight.from_float(w, bits=32) if layer == "depthwise" else kinds.Float32Weight.from_float(w)
    calls = [_call(weight, x_qparams, layer, batch, threads) for weight, x_qparams in ((first, None), *weights)]
    repeats = []
    for call in calls:
        call()  # packs the weight
        start = time.perf_counter()
        call()
        repeats.append(max(1, math.ceil(LEAST / max(time.perf_counter() - start, 1e-7))))
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        order = range(len(calls)) if turn % 2 == 0 else reversed(range(len(calls)))
        for i in order:
            start = time.perf_counter()
            for _ in range(repeats[i]):
                calls[i]()
            taken[i].append((time.perf_counter() - start) / repeats[i])
    return [statistics.median(times) for times in taken]


def _call(
    weight: Weight | Array, x_qparams: tuple[float, int] | None, layer: str, batch: int, threads: int | None
) -> Callable[[], Any]:
    import pycompress as pc

    rng = np.random.default_rng(0)
    shape = weight.shape
    if len(shape) == 2:
        x = rng.standard_normal((batch, shape[1]), np.float32)
        matrix: Any = weight
        return lambda: pc.linear(x, matrix, x_qparams=x_qparams, num_threads=threads)
    operation: Any = pc.depthwise_conv2d if layer == "depthwise" else pc.conv2d
    side = max(1, math.isqrt(batch))
    channels = shape[0] if layer == "depthwise" else shape[1]
    image = rng.standard_normal((1, side, -(-batch // side), channels), np.float32)
    pads = ((shape[2] - 1) // 2, (shape[3] - 1) // 2)
    return lambda: operation(image, weight, padding=pads, x_qparams=x_qparams, num_threads=threads)
