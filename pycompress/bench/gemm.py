"""Dense products: their forms, how to set one up, and the bench of shapes.

Who computes is a `Runner`: a name, the forms it knows, and setup(operands, form) -> a call without arguments that
computes the product once. Weights are packed, and buffers made, in setup.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pycompress as pc

from . import measure
from .measure import Call, Rate
from .shapes import Shape


@dataclass(frozen=True)
class Form:
    """Types of a product. `peak` is the instruction peak that bounds it."""

    name: str
    title: str
    peak: str  # "int8" or "float32"


FORMS = (
    Form("u8s8", "u8 s8 -> s32", "int8"),  # matmul_integer
    Form("dynamic", "f32 -> f32 dynamic", "int8"),  # x is quantized on the fly, row by row
    Form("static", "u8 -> u8 static", "int8"),  # requantized
    Form("f32", "f32", "float32"),
)


@dataclass(frozen=True)
class Operands:
    """What everybody multiplies: x [m, k] and w [n, k], float32, and in 8 bits with the scales and zero points."""

    x: NDArray[np.float32]
    w: NDArray[np.float32]
    q: NDArray[np.uint8]
    weight: pc.Int8Weight
    x_qparams: pc.QParams
    y_qparams: pc.QParams

    @classmethod
    def of(cls, shape: Shape) -> Operands:
        """Normal random values, the same for a shape every time."""
        rng = np.random.default_rng([shape.m, shape.k, shape.n])
        x = rng.standard_normal((shape.m, shape.k), np.float32)
        w = rng.standard_normal((shape.n, shape.k), np.float32)
        q, scale, zero_point = pc.dynamic_quantize_linear(x)
        # A sum has the deviation sqrt(k): a uint8 result spans four of them to either side.
        y_qparams = pc.QParams(8 * shape.k**0.5 / 255, 128)
        return cls(x, w, q, pc.Int8Weight.from_float(w), pc.QParams(float(scale), int(zero_point)), y_qparams)


@dataclass(frozen=True)
class Runner:
    """Somebody who multiplies."""

    name: str
    forms: Sequence[str]
    setup: Callable[[Operands, str], Call]


def _pycompress(operands: Operands, form: str) -> Call:
    x, w, q, weight = operands.x, operands.w, operands.q, operands.weight
    shape = len(x), len(w)
    if form == "u8s8":
        zero_point = operands.x_qparams.zero_point
        return lambda: pc.matmul_integer(q, weight, zero_point)
    if form == "static":
        qparams, quantized = (operands.x_qparams, operands.y_qparams), np.empty(shape, np.uint8)
        return lambda: pc.linear(q, weight, x_qparams=qparams[0], y_qparams=qparams[1], out=quantized)
    matrix = weight if form == "dynamic" else w
    out = np.empty(shape, np.float32)
    return lambda: pc.linear(x, matrix, out=out)


def _numpy(operands: Operands, form: str) -> Call:
    x, w, out = operands.x, operands.w.T, np.empty((len(operands.x), len(operands.w)), np.float32)
    return lambda: np.dot(x, w, out=out)


OURS = Runner("pycompress", [form.name for form in FORMS], _pycompress)
NUMPY = Runner("numpy", ["f32"], _numpy)


@dataclass(frozen=True)
class Result:
    """The speed of one form of one runner, in GMAC/s; `of_peak` is the part of the instruction peak of all threads.

    None where that peak is not known: with the Numba backend, and for others, who choose their own instructions.
    """

    runner: str
    form: str
    gmacs: float
    spread: float  # interquartile range over the rounds / median
    of_peak: float | None


@dataclass(frozen=True)
class Row:
    """All results of a shape; `peak` in GMAC/s of one core, measured in the same rounds."""

    shape: Shape
    peak: dict[str, float]
    results: list[Result]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as json takes them."""
        results = [asdict(result) for result in self.results]
        return {"shape": str(self.shape), **asdict(self.shape), "peak": self.peak, "results": results}


def turns(runners: Sequence[Runner], rounds: int) -> int:
    """How often `bench` calls step()."""
    return rounds * sum(len(runner.forms) for runner in runners)


def bench(shape: Shape, runners: Sequence[Runner], rounds: int, step: Callable[[], None]) -> Row:
    """Measure all forms of all runners on a shape, in turn, on as many threads as are set."""
    operands = Operands.of(shape)
    calls = {(runner.name, form): runner.setup(operands, form) for runner in runners for form in runner.forms}
    peaks: dict[str, list[float]] = {"int8": [], "float32": []}

    def begin() -> None:
        for name, values in peaks.items():
            values.append(measure.peak(name) / 1e9)

    settle = 0.1 if pc.get_num_threads() > 1 else 0
    seconds = measure.interleaved(calls, rounds, begin, step, settle)
    peak = {name: float(np.median(values)) for name, values in peaks.items()}
    bounds = {form.name: peak[form.peak] * pc.get_num_threads() for form in FORMS}
    results = []
    for (runner, form), values in seconds.items():
        rate = Rate.of([shape.macs / 1e9 / value for value in values])
        of_peak = rate.median / bounds[form] if runner == OURS.name and bounds[form] else None
        results.append(Result(runner, form, rate.median, rate.spread, of_peak))
    return Row(shape, peak, results)


def numpy_blas() -> dict[str, Any]:
    """What numpy's dot runs on: version, kernels of its BLAS where threadpoolctl tells, and what may hold it back."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        pools = None
    else:
        pools = [
            {key: pool.get(key) for key in ("internal_api", "version", "architecture", "num_threads")}
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ]
    names = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_NUM_THREADS", "MKL_ENABLE_INSTRUCTIONS")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    return {"version": np.__version__, "blas": pools, "environment": environment}
