"""What lies between the products of the encoder, in one pass over memory each: the same for all kinds of weights.

In NumPy these are five and six passes, and take as long as all products with int8 weights together.
"""

# Numba, not mypy, infers the types inside.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., Any])

exp: Any = import_module("pycompress.kernels.last_step").exp
_LEAST = np.float32(-3e38)


def _compiled(function: Function) -> Function:
    """Sums and maxima in any order, so that they become vectors."""
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "nsz", "contract", "nnan"},
    }
    try:
        return cast(Function, njit(cache=True, **options)(function))
    except RuntimeError:  # no directory to write the cache to
        return cast(Function, njit(**options)(function))


@_compiled
def softmax(scores: Floats, lengths: NDArray[np.int64], inverse: Floats) -> None:
    """scores [sentences, heads, length, length] become exp(score - the row's largest), 0 behind a sentence's length.

    inverse [sentences, heads, length, 1]: 1 / the sum of each row, by which its product is multiplied.
    """
    for s in range(scores.shape[0]):
        n = lengths[s]
        for h in range(scores.shape[1]):
            for i in range(scores.shape[2]):
                row = scores[s, h, i]
                largest = _LEAST
                for j in range(n):
                    largest = max(largest, row[j])
                total = np.float32(0)
                for j in range(n):
                    e = exp(row[j] - largest)
                    row[j] = e
                    total += e
                for j in range(n, len(row)):
                    row[j] = np.float32(0)
                inverse[s, h, i, 0] = np.float32(1) / total


@_compiled
def add_norm(x: Floats, y: Floats, gain: Floats, shift: Floats, epsilon: np.float32) -> None:
    """x [rows, hidden] becomes the layer normalization of x + y."""
    hidden = np.float32(x.shape[1])
    for i in range(x.shape[0]):
        row, other = x[i], y[i]
        total = np.float32(0)
        for j in range(len(row)):
            row[j] += other[j]
            total += row[j]
        mean = total / hidden
        squares = np.float32(0)
        for j in range(len(row)):
            d = row[j] - mean
            squares += d * d
        factor = np.float32(1) / np.sqrt(squares / hidden + epsilon)
        for j in range(len(row)):
            row[j] = (row[j] - mean) * factor * gain[j] + shift[j]
