"""What a sparse weight brings on this CPU: its time beside those of the dense weights of the same values."""

from __future__ import annotations

import operator
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .floating import Float32Weight
from .int8 import Int8Weight

if TYPE_CHECKING:
    from .sparse import _SparseWeight

__all__ = ["Explanation", "explain"]

SECONDS = 0.05  # for each form


@dataclass(frozen=True)
class Explanation:
    """Seconds of `linear` with float32 x [m, K], measured here, for "sparse", "int8" and "float32".

    "sparse" is the weight that was asked; the others are dense weights of its values, packed beforehand. A form that
    cannot hold these values is missing. `best` is the fastest form; `str` gives a table.
    """

    weight: str
    m: int
    num_threads: int
    isa: str | None
    seconds: dict[str, float]

    @property
    def best(self) -> str:
        """The form with the least time: "sparse", "int8" or "float32"."""
        return min(self.seconds, key=self.seconds.__getitem__)

    def __str__(self) -> str:
        names = {"sparse": "this weight", "int8": "dense int8", "float32": "dense float32"}
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        lines = [f"{self.weight}, {self.m} rows, {self.isa or 'Numba'}, {threads}:"]
        for form, seconds in self.seconds.items():
            ratio = seconds / self.seconds["sparse"]
            beside = "" if form == "sparse" else f", this weight is {ratio:.2f}x as fast"
            lines.append(
                f"  {names[form]:13} {1e6 * seconds:10.1f} us{beside}{' <- best' if form == self.best else ''}"
            )
        return "\n".join(lines)


def explain(weight: _SparseWeight, m: int, dense: dict[str, Any]) -> Explanation:
    """Measure `linear` with this weight and with `dense`, in turns."""
    from .. import _machine, ops
    from ..bench.measure import Timer

    try:
        m = operator.index(m)
    except TypeError:
        raise TypeError(f"m is {m!r}, wanted an int") from None
    if m < 1:
        raise ValueError(f"m is {m}, wanted at least 1")
    n, k = weight.shape
    x = np.random.default_rng(0).standard_normal((m, k), np.float32)
    out = np.empty((m, n), np.float32)
    weights: dict[str, Any] = {"sparse": weight, **dense}
    timers = {form: Timer(partial(ops.linear, x, w, out=out)) for form, w in weights.items()}
    taken: dict[str, list[float]] = {form: [] for form in timers}
    end = time.perf_counter() + SECONDS * len(timers)
    while time.perf_counter() < end or len(taken["sparse"]) < 3:
        for form, timer in timers.items():
            taken[form].append(timer.turn())
    seconds = {form: float(np.median(values)) for form, values in taken.items()}
    return Explanation(repr(weight), m, _machine.get_num_threads(), _machine.cpu_info()["isa"], seconds)


def dense_forms(weight: _SparseWeight) -> dict[str, Any]:
    """The dense weights of its values; int8 is missing where these are not finite, or K is too long for int32 sums."""
    values = weight.todense()
    forms: dict[str, Any] = {}
    try:
        int8 = Int8Weight.from_float(values) if weight.scale is None else Int8Weight(weight._stored(), weight.scale)
        int8.packed()
        forms["int8"] = int8
    except (ValueError, OverflowError):
        pass
    forms["float32"] = Float32Weight.from_float(values)
    return forms
