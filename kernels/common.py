"""What every family needs: the decorator of a kernel, and the split of its work over threads.

A kernel does a part of the work and knows no threads. Threads are plain Python threads around kernels that release the
GIL, started for one call: only work that lasts much longer than that is split. So nothing survives a call, and a forked
child has nothing to repair, which Numba's own threading layers cannot promise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from numba import njit

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])

# Multiply-accumulates for which a thread of its own pays: some 0.2 ms, where starting one takes 0.05 ms.
GRAIN = 1 << 22

_num_threads: int | None = None


def kernel(function: Function) -> Function:
    """Compile for this CPU, strictly IEEE: without fastmath LLVM neither reorders nor contracts float operations."""
    # Numba's error model: division by zero gives infinity; Python's would put a branch into every loop that divides.
    # fastmath=False is said: what is not said comes from the function that calls first, and stays in the cache.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False}
    compiled: Any
    try:
        compiled = njit(cache=True, **options)(function)
    except RuntimeError:  # no directory to write the cache to
        compiled = njit(**options)(function)
    return cast(Function, compiled)


def _usable_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cpus = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return max(1, min(cpus, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no control group, or no quota ("max")
        return cpus


def get_num_threads() -> int:
    """Threads of a call that does not say: set_num_threads(), else the environment, else the usable CPUs."""
    if _num_threads is not None:
        return _num_threads
    for name in ("PYCOMPRESS_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()  # OpenMP allows a list, one for each level
        if value.isdecimal() and 1 <= int(value) <= 4096:
            return int(value)
    return _usable_cpus()


def set_num_threads(n: int | None) -> None:
    """Set what get_num_threads() returns; None for the default."""
    global _num_threads
    _num_threads = n


def parallel(body: Callable[[int, int], T], count: int, work: int, num_threads: int | None) -> list[T]:
    """Call body(start, stop) over range(count), in as many parts as `work` multiply-accumulates are worth threads."""
    parts = min(count, work // GRAIN)
    if parts > 1:
        parts = min(parts, get_num_threads() if num_threads is None else num_threads)
    if parts <= 1:
        return [body(0, count)]
    cuts = [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
    with ThreadPoolExecutor(parts - 1) as pool:
        others = [pool.submit(body, *cut) for cut in cuts[1:]]
        first = body(*cuts[0])
        return [first, *(other.result() for other in others)]
