"""The checks that operations share. Each error names the argument, what it got and what it wanted."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

EIGHT_BITS = (np.dtype(np.uint8), np.dtype(np.int8))
FLOAT32 = np.dtype(np.float32)
INT32_MAX = 2**31 - 1


def array(name: str, value: Any, *dtypes: np.dtype[Any]) -> Array:
    """`value` as an array; TypeError unless it has one of `dtypes`."""
    a = np.asarray(value)
    if a.dtype not in dtypes or not a.dtype.isnative:
        raise TypeError(f"{name} is an array of {a.dtype}, wanted {' or '.join(map(str, dtypes))}")
    return a


def contiguous(a: Array) -> Array:
    """`a`, or a copy of it that is C-contiguous and aligned, as kernels want their operands. A 0-d array stays one."""
    return a if a.flags.c_contiguous and a.flags.aligned else a.copy(order="C")


def num_threads(value: Any) -> int | None:
    """None, or an int from 1 to 4096."""
    if value is None:
        return None
    try:
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"num_threads is {value!r}, wanted an int or None") from None
    if not 1 <= n <= 4096:
        raise ValueError(f"num_threads is {n}, wanted 1 to 4096, or None")
    return n


def number(value: Any) -> float:
    """float(value), but no string is a number, nor is None. TypeError, or ValueError as float() has it."""
    if value is None or isinstance(value, str | bytes):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def check_k(k: int, wide: bool) -> None:
    """OverflowError when a sum of `k` products could leave int32. wide: a weight that reaches 255, not 128."""
    largest = INT32_MAX // (255 * (255 if wide else 128))
    if k > largest:
        raise OverflowError(f"k is {k}: sums of that many products could overflow int32; wanted at most {largest}")


def shares_memory(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # NumPy's stub knows only -1 and 0
    except np.exceptions.TooHardError:
        return True


def output(
    out: Any, shape: tuple[int, ...], dtypes: Sequence[np.dtype[Any]], operands: dict[str, Array | None]
) -> Array:
    """The array that a kernel writes: `out` itself where it can, a new one otherwise; see `written`."""
    if out is None:
        return np.empty(shape, dtypes[0])
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is {type(out).__name__}, wanted a NumPy array")
    if out.dtype not in dtypes or not out.dtype.isnative:
        raise TypeError(f"out is an array of {out.dtype}, wanted {' or '.join(map(str, dtypes))}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, wanted {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only, wanted an array that can be written")
    for name, operand in operands.items():
        if operand is not None and shares_memory(out, operand):
            raise ValueError(f"out shares memory with {name}, wanted an array of its own")
    return out if out.flags.c_contiguous and out.flags.aligned else np.empty(shape, out.dtype)


def written(result: Array, out: Array | None) -> Array:
    """What the caller gets: `out`, filled from `result` where the kernel could not write into it."""
    if out is None or out is result:
        return result
    out[...] = result
    return out
