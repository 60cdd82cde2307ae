"""The checks that operations share. Each error names the argument, what it got and what it wanted."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
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
    if value is None or value is np.ma.masked or isinstance(value, str | bytes):
        raise TypeError(f"{value!r} is not a number")
    try:
        return float(value)
    except OverflowError:  # an int that float64 does not reach
        return math.inf if value > 0 else -math.inf


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


def apart(out: Any, operands: dict[str, Any]) -> None:
    """ValueError when `out` shares memory with an operand."""
    for name, operand in operands.items():
        if isinstance(out, np.ndarray) and isinstance(operand, np.ndarray) and shares_memory(out, operand):
            raise ValueError(f"out shares memory with {name}, wanted an array of its own")


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
    apart(out, operands)
    return out if out.flags.c_contiguous and out.flags.aligned else np.empty(shape, out.dtype)


def written(result: Array, out: Array | None) -> Array:
    """What the caller gets: `out`, filled from `result` where the kernel could not write into it."""
    if out is None or out is result:
        return result
    out[...] = result
    return out


# ---- of converters


def floating(name: str, value: Any) -> NDArray[np.float32]:
    """`value` as float32, C-contiguous; TypeError unless it is floating, ValueError for NaN and infinity."""
    a = np.asarray(value)
    if not np.issubdtype(a.dtype, np.floating):
        raise TypeError(f"{name} is an array of {a.dtype}, wanted float32")
    with np.errstate(over="ignore"):
        a = np.ascontiguousarray(a, np.float32).reshape(a.shape)
    if not np.isfinite(a).all():
        raise ValueError(f"{name} holds NaN or infinity (in float32), wanted finite values")
    return a


def interval(name: str, value: Any, low: float, high: float, *, above: bool = False, below: bool = False) -> float:
    """float(value), from low (above: more than it) to high (below: less than it)."""
    try:
        n = number(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {value!r}, wanted a number") from None
    if not (low <= n <= high) or (above and n == low) or (below and n == high):
        words = f"{'above' if above else 'from'} {low:g} {'to below' if below else 'to'} {high:g}"
        raise ValueError(f"{name} is {value!r}, wanted {words}")
    return n


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """An int from low to high."""
    try:
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, wanted an int") from None
    if n < low or (high is not None and n > high):
        raise ValueError(f"{name} is {n}, wanted {low}{' or more' if high is None else f' to {high}'}")
    return n


def among(value: Any, *options: Any) -> bool:
    """Whether `value` is one of `options`; an array, which can't be compared, is none."""
    return not isinstance(value, np.ndarray) and value in options


def each(name: str, value: Any) -> Iterable[Any]:
    """One array, or what an iterable gives."""
    if isinstance(value, np.ndarray):
        return [value]
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} is {value!r}, wanted an array or some of them")
    return value


def pair(name: str, value: Any, low: int) -> tuple[int, int]:
    """An int for both, or two."""
    first, second = value if isinstance(value, tuple | list) and len(value) == 2 else (value, value)
    return whole(name, first, low), whole(name, second, low)
