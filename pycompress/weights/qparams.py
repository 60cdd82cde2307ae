"""Scale and zero point of a quantized tensor."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from .. import _arguments

__all__ = ["QParams"]


class _QParams(NamedTuple):
    scale: float
    zero_point: int


class QParams(_QParams):
    """Scale and zero point of a quantized tensor: real = (q - zero_point) * scale.

    scale is positive and finite in float32, to which it is rounded; zero_point is an int within uint8 or int8,
    whichever the tensor has. Wherever an operation takes a QParams, a plain (scale, zero_point) will do.

    Raises TypeError when they are not numbers, ValueError when they are out of range.
    """

    __slots__ = ()

    def __new__(cls, scale: float, zero_point: int = 0) -> QParams:
        try:
            with np.errstate(over="ignore"):
                rounded = float(np.float32(_arguments.number(scale)))
        except (TypeError, ValueError):
            raise TypeError(f"scale is {scale!r}, wanted a number") from None
        try:
            index = operator.index(zero_point)
        except TypeError:
            raise TypeError(f"zero_point is {zero_point!r}, wanted an int") from None
        if not (rounded > 0 and math.isfinite(rounded)):
            raise ValueError(f"scale is {scale!r}, wanted positive and finite in float32")
        if not -128 <= index <= 255:
            raise ValueError(f"zero_point is {index}, wanted -128 to 255")
        return super().__new__(cls, rounded, index)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> QParams:  # type: ignore[override]  # mypy wants arguments of typeshed's
        """As the constructor; `_replace` goes through it, so that it checks as well."""
        return cls(*iterable)
