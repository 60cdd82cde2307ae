"""What a family of benches is, so that the same workers, rounds and reports serve all of them.

A module beside this one, say gemm, ends with `FAMILY = Family("gemm", ...)`. Peers (pycompress.peers) serve it with a
function each; pycompress.bench.versus measures them beside ours. bench/README.md shows how a family plugs in.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Form:
    """Types of an operation: what goes in and what comes out, whatever is done inside."""

    name: str  # as --form takes it
    title: str
    peak: str  # the instruction peak that bounds it, "int8" or "float32"
    sizes: tuple[float, float, float]  # bytes of a value of x, of the weight, of the result
    tolerance: float = 0.0  # how far a result may lie from the reference, in parts of the rms of all results


@dataclass(frozen=True)
class Family:
    """One kind of operation. A case is an object of the family's own; str(case) is what `parse` reads.

    Cases cross to the workers as text, and each worker makes the operands itself: they have to be the same every time.
    """

    name: str
    forms: tuple[Form, ...]
    parse: Callable[[str], Any]  # text -> case; ValueError
    operands: Callable[[Any], Any]  # case -> what everybody computes with
    ours: Callable[[Any, str], Callable[[], object]]  # operands, form -> a call that computes once
    reference: Callable[[Any, str], NDArray[np.float64]]  # operands, form -> the result, as real numbers
    values: Callable[[Any, str, NDArray[Any]], NDArray[np.float64]]  # operands, form, result -> as real numbers
    macs: Callable[[Any], float]  # multiply-accumulates of a case
    traffic: Callable[[Any, Form], float]  # bytes of its operands and result, each counted once
    work: Callable[[Any], float] | None = None  # multiply-accumulates that ours really does, where these are fewer

    def form(self, name: str) -> Form:
        """The form of that name. Raises ValueError."""
        for form in self.forms:
            if form.name == name:
                return form
        raise ValueError(f"there is no form {name!r}; {self.name} has {', '.join(form.name for form in self.forms)}")


def load(name: str) -> Family:
    """The family that the module of this name defines."""
    family: Family = importlib.import_module(f"pycompress.bench.{name}").FAMILY
    return family
