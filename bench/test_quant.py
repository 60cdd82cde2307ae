"""Quantization of activations [M, K] of every bundled shape, in bytes that are read and written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

import pycompress as pc
from pycompress.bench.shapes import Shape


@pytest.fixture(scope="session")
def x(shape: Shape) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((shape.m, shape.k), np.float32)


def test_quantize_linear(report: Callable[..., None], x: NDArray[np.float32]) -> None:
    zero_point = np.array(128, np.uint8)
    report(lambda: pc.quantize_linear(x, 0.03, zero_point), "B", 5 * x.size)


def test_dequantize_linear(report: Callable[..., None], x: NDArray[np.float32]) -> None:
    q, scale, zero_point = pc.dynamic_quantize_linear(x)
    report(lambda: pc.dequantize_linear(q, scale, zero_point), "B", 5 * x.size)


def test_dynamic_quantize_linear(report: Callable[..., None], x: NDArray[np.float32]) -> None:
    # Read twice: for the range, and to quantize.
    report(lambda: pc.dynamic_quantize_linear(x), "B", 9 * x.size)
