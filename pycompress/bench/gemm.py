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
from .family import Family, Form
from .measure import Call, Rate
from .shapes import Shape, parse

# Tolerances, in parts of the rms of the results: exact; activations in 8 bits; one rounding of a uint8 result, which
# spans 8 rms; float32 sums in any order.
FORMS: tuple[Form, ...] = (
    Form("u8s8", "u8 s8 -> s32", "int8", (1, 1, 4), 0),  # matmul_integer
    Form("dynamic", "f32 -> f32 dynamic", "int8", (4, 1, 4), 0.08),  # x is quantized on the fly, row by row
    Form("static", "u8 -> u8 static", "int8", (1, 1, 1), 0.032),  # requantized
    Form("f32", "f32", "float32", (4, 4, 4), 1e-4),  # a weight that is packed beforehand, as most peers do
    Form("f32_array", "f32, an array", "float32", (4, 4, 4), 1e-4),  # an array as it is
    Form("f16", "f16 weight", "float32", (4, 2, 4), 1e-4),
    *(Form(f"int4_{size}", f"int4, groups of {size}", "int8", (4, 0.5 + 4 / size, 4), 0.08) for size in (32, 128)),
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

    def signed(self) -> NDArray[np.int8]:
        """q less 128, for those who multiply int8 by int8 only."""
        return (self.q ^ 128).view(np.int8)

    def unsigned_sums(self, sums: NDArray[Any]) -> NDArray[np.int64]:
        """From sums of such products those of the form "u8s8", in which q's zero point is taken off."""
        whole = self.weight.q.sum(axis=1, dtype=np.int64)
        result: NDArray[np.int64] = np.asarray(sums, np.int64) + (128 - self.x_qparams.zero_point) * whole
        return result


def int4_groups(w: NDArray[np.float32], size: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """q [n, groups, size] from -7 to 7 and scale [n, groups] = max|w| / 7; the last group is filled up with zeros."""
    groups = -(-w.shape[1] // size)
    parts = np.pad(w, [(0, 0), (0, groups * size - w.shape[1])]).reshape(len(w), groups, size)
    largest = np.abs(parts).max(axis=2)
    scale = np.where(largest > 0, largest / np.float32(7), np.float32(1))
    return np.clip(np.rint(parts / scale[..., None]), -7, 7).astype(np.int8), scale


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
    matrix: Any = w
    if form == "dynamic":
        matrix = weight
    elif form == "f32":
        matrix = pc.Float32Weight(w)
    elif form == "f16":
        matrix = pc.Float16Weight.from_float(w)
    elif form.startswith("int4_"):
        matrix = pc.Int4Weight.from_float(w, group_size=int(form.removeprefix("int4_")))
    out = np.empty(shape, np.float32)
    return lambda: pc.linear(x, matrix, out=out)


def _numpy(operands: Operands, form: str) -> Call:
    x, w, out = operands.x, operands.w.T, np.empty((len(operands.x), len(operands.w)), np.float32)
    return lambda: np.dot(x, w, out=out)


OURS = Runner("pycompress", [form.name for form in FORMS], _pycompress)
NUMPY = Runner("numpy", ["f32_array"], _numpy)


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


def _reference(operands: Operands, form: str) -> NDArray[np.float64]:
    """The product in float64: of the integers (exactly), else of x by the weight as it is quantized."""
    if form in ("u8s8", "static"):
        q = operands.q - np.float64(operands.x_qparams.zero_point)
        sums: NDArray[np.float64] = q @ operands.weight.q.T.astype(np.float64)
        if form == "u8s8":
            return sums
        scale, zero_point = operands.y_qparams
        exact = sums * (operands.x_qparams.scale * operands.weight.scale.astype(np.float64))
        levels: NDArray[np.float64] = np.clip(np.rint(exact / scale), -zero_point, 255 - zero_point)
        return levels * scale
    w: NDArray[Any] = operands.w
    if form == "dynamic":
        w = operands.weight.todense()
    elif form == "f16":
        w = w.astype(np.float16)
    elif form.startswith("int4_"):
        q4, scales = int4_groups(w, int(form.removeprefix("int4_")))
        w = (q4 * scales[..., None]).reshape(len(w), -1)[:, : w.shape[1]]
    product: NDArray[np.float64] = operands.x.astype(np.float64) @ w.T.astype(np.float64)
    return product


def _values(operands: Operands, form: str, result: NDArray[Any]) -> NDArray[np.float64]:
    if form != "static":
        return np.asarray(result, np.float64)
    levels: NDArray[np.float64] = result - np.float64(operands.y_qparams.zero_point)
    return levels * operands.y_qparams.scale


def _traffic(shape: Shape, form: Form) -> float:
    x, w, y = form.sizes
    return shape.m * shape.k * x + shape.n * shape.k * w + shape.m * shape.n * y


FAMILY = Family(
    "gemm", FORMS, parse, Operands.of, _pycompress, _reference, _values, lambda shape: float(shape.macs), _traffic
)
