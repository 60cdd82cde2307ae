"""Sparse products beside dense ones: their forms, how to set one up, and from which sparsity on a form pays.

A case is a shape with the part of the weight that is zero, 128x768x768@80. What is not zero lies at random positions.
Speeds are of the dense product, so that all forms compare; `work` is what a sparse kernel really multiplies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pycompress as pc

from . import gemm, measure, shapes
from .family import Family, Form
from .measure import Call


@dataclass(frozen=True)
class Kind:
    """How a form stores its weight, and which dense form computes the same."""

    block: tuple[int, int]  # (1, 1) is CSR
    dense: str  # of pycompress.bench.gemm

    @property
    def bits(self) -> int:
        return 32 if self.dense == "f32" else 8


KINDS = {
    "int8_1x4": Kind((1, 4), "static"),
    "int8_4x1": Kind((4, 1), "static"),
    "int8_16x1": Kind((16, 1), "static"),
    "int8_csr": Kind((1, 1), "static"),
    "dynamic_1x4": Kind((1, 4), "dynamic"),
    "f32_4x1": Kind((4, 1), "f32"),
    "f32_8x1": Kind((8, 1), "f32"),
    "f32_csr": Kind((1, 1), "f32"),
}
_TYPES = {"static": "u8 -> u8 static", "dynamic": "f32 -> f32 dynamic", "f32": "f32"}


def _form(name: str, kind: Kind) -> Form:
    dense = next(form for form in gemm.FORMS if form.name == kind.dense)
    stored = "CSR" if kind.block == (1, 1) else "BSR ({}, {})".format(*kind.block)
    weight = "float32" if kind.bits == 32 else "int8"
    # An index of 32 bits for each block.
    sizes = dense.sizes[0], dense.sizes[1] + 4 / (kind.block[0] * kind.block[1]), dense.sizes[2]
    # With few values that are not zero in an output, the rms of the results is below what y_qparams is made for.
    tolerance = 2 * dense.tolerance if kind.dense == "static" else dense.tolerance
    return Form(name, f"{stored} {weight}, {_TYPES[kind.dense]}", dense.peak, sizes, tolerance)


FORMS = tuple(_form(name, kind) for name, kind in KINDS.items())


@dataclass(frozen=True)
class Case:
    """A product of [m, k] by a weight [n, k] of which `percent` are zero."""

    shape: shapes.Shape
    percent: float

    @property
    def part(self) -> float:
        """Of the weight that is kept."""
        return 1 - self.percent / 100

    def __str__(self) -> str:
        return f"{self.shape}@{self.percent:g}"


def parse(text: str) -> Case:
    """A case from "MxKxN@P", P the percentage of zeros, 0 to 100. Raises ValueError."""
    shape, _, percent = text.partition("@")
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,4})?", percent, re.ASCII) or float(percent) > 100:
        raise ValueError(f"case {text!r}, wanted MxKxN@P with P percent of zeros, as in 128x768x768@80")
    return Case(shapes.parse(shape), float(percent))


def pruned(w: NDArray[np.float32], block: tuple[int, int], sparsity: float, seed: Sequence[int]) -> NDArray[np.float32]:
    """w with round(sparsity * blocks) of its blocks set to zero, at random positions."""
    (n, k), (block_n, block_k) = w.shape, block
    rows, columns = -(-n // block_n), -(-k // block_k)
    keep = np.ones(rows * columns, bool)
    keep[np.random.default_rng(seed).permutation(keep.size)[: round(sparsity * keep.size)]] = False
    whole = np.repeat(np.repeat(keep.reshape(rows, columns), block_n, axis=0), block_k, axis=1)
    zeroed: NDArray[np.float32] = w * whole[:n, :k]
    return zeroed


class Operands:
    """What everybody multiplies. The weight depends on the form: its zeros lie in blocks of that form."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._dense: dict[str, gemm.Operands] = {}

    @cached_property
    def _all(self) -> gemm.Operands:
        return gemm.Operands.of(self.case.shape)

    def dense(self, form: str) -> gemm.Operands:
        """The operands of the dense product with the same zeros, as pycompress.bench.gemm has them."""
        if form not in self._dense:
            whole, shape, block = self._all, self.case.shape, KINDS[form].block
            seed = [shape.m, shape.k, shape.n, round(100 * self.case.percent), *block]
            w = pruned(whole.w, block, self.case.percent / 100, seed)
            # The deviation of a sum, as there.
            deviation = max(1.0, shape.k * self.case.part) ** 0.5
            y_qparams = pc.QParams(8 * deviation / 255, 128)
            self._dense[form] = gemm.Operands(
                whole.x, w, whole.q, pc.Int8Weight.from_float(w), whole.x_qparams, y_qparams
            )
        return self._dense[form]

    def weight(self, form: str) -> pc.CSRWeight | pc.BSRWeight:
        """Ours, as the form stores it."""
        kind, w = KINDS[form], self.dense(form).w
        if kind.block == (1, 1):
            return pc.CSRWeight.from_dense(w, bits=kind.bits)
        return pc.BSRWeight.from_dense(w, kind.block, bits=kind.bits)


def _linear(operands: gemm.Operands, weight: Any, dense: str) -> Call:
    """`linear` with that weight, in a form of pycompress.bench.gemm."""
    x, q, shape = operands.x, operands.q, (len(operands.x), len(operands.w))
    if dense == "static":
        quantized = np.empty(shape, np.uint8)
        x_qparams, y_qparams = operands.x_qparams, operands.y_qparams
        return lambda: pc.linear(q, weight, x_qparams=x_qparams, y_qparams=y_qparams, out=quantized)
    out = np.empty(shape, np.float32)
    return lambda: pc.linear(x, weight, out=out)


def ours(operands: Operands, form: str) -> Call:
    """`linear` with the sparse weight."""
    return _linear(operands.dense(form), operands.weight(form), KINDS[form].dense)


def ours_dense(operands: Operands, form: str) -> Call:
    """`linear` with the dense weight of the same values, packed beforehand."""
    dense, kind = operands.dense(form), KINDS[form].dense
    return _linear(dense, pc.Float32Weight.from_float(dense.w) if kind == "f32" else dense.weight, kind)


def _reference(operands: Operands, form: str) -> NDArray[np.float64]:
    return gemm.FAMILY.reference(operands.dense(form), KINDS[form].dense)


def _values(operands: Operands, form: str, result: NDArray[Any]) -> NDArray[np.float64]:
    return gemm.FAMILY.values(operands.dense(form), KINDS[form].dense, result)


def _traffic(case: Case, form: Form) -> float:
    x, w, y = form.sizes
    shape = case.shape
    return shape.m * shape.k * x + case.part * shape.n * shape.k * w + shape.m * shape.n * y


FAMILY = Family(
    "sparse",
    FORMS,
    parse,
    Operands,
    ours,
    _reference,
    _values,
    lambda case: float(case.shape.macs),
    _traffic,
    work=lambda case: case.shape.macs * case.part,
)

SPARSITIES = (30, 40, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95)  # percent, of a break-even


@dataclass(frozen=True)
class Curve:
    """A form over the sparsity: GMAC/s of the dense product, real ones, and speed over our own dense one."""

    form: str
    gmacs: list[float]
    work: list[float]
    ratio: list[float]  # by pairs of a round, the median
    breakeven: float | None  # percent of zeros; None where it is not reached; the first of all where it is ahead there


def breakeven(percent: Sequence[float], ratio: Sequence[float]) -> float | None:
    """From which sparsity on a form is ahead (ratio >= 1) and stays so: between two measured ones on a line."""
    behind = [i for i, value in enumerate(ratio) if value < 1]
    if not behind:
        return percent[0]
    i = behind[-1]
    if i + 1 == len(ratio):
        return None
    return percent[i] + (percent[i + 1] - percent[i]) * (1 - ratio[i]) / (ratio[i + 1] - ratio[i])


def curves(
    shape: shapes.Shape, forms: Sequence[Form], percents: Sequence[float], rounds: int, step: Callable[[], None]
) -> dict[str, Any]:
    """All forms at all sparsities in turn, with our own dense forms, on as many threads as are set: plain values.

    step() is called after each turn; there are `turns` of them.
    """
    calls: dict[tuple[str, float | None], Call] = {}
    cases = {percent: Operands(Case(shape, percent)) for percent in percents}
    for form in forms:
        for percent, operands in cases.items():
            calls[form.name, percent] = ours(operands, form.name)
        calls.setdefault((KINDS[form.name].dense, None), ours_dense(cases[percents[0]], form.name))
    peaks: dict[str, list[float]] = {"int8": [], "float32": []}

    def begin() -> None:
        for name, values in peaks.items():
            values.append(measure.peak(name) / 1e9)

    settle = 0.1 if pc.get_num_threads() > 1 else 0
    seconds = {key: np.array(taken) for key, taken in measure.interleaved(calls, rounds, begin, step, settle).items()}
    macs = shape.macs / 1e9

    def speed(taken: NDArray[np.float64]) -> float:
        return float(np.median(macs / taken))

    found = []
    for form in forms:
        dense = seconds[KINDS[form.name].dense, None]
        gmacs = [speed(seconds[form.name, percent]) for percent in percents]
        ratio = [float(np.median(dense / seconds[form.name, percent])) for percent in percents]
        work = [value * (1 - percent / 100) for value, percent in zip(gmacs, percents, strict=True)]
        found.append(Curve(form.name, gmacs, work, ratio, breakeven(percents, ratio)))
    return {
        "shape": str(shape),
        "sparsity": list(percents),
        "peak": {name: float(np.median(values)) for name, values in peaks.items()},
        "dense": {name: speed(taken) for (name, percent), taken in seconds.items() if percent is None},
        "curves": [{**vars(curve), "dense": KINDS[curve.form].dense} for curve in found],
    }


def turns(forms: Sequence[Form], percents: Sequence[float], rounds: int) -> int:
    """How often `curves` calls step()."""
    return rounds * (len(forms) * len(percents) + len({KINDS[form.name].dense for form in forms}))
