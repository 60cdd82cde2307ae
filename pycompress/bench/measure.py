"""Times of things that are to be compared: in rounds, in which all of them take turns.

The speed of a machine changes: its clock, its neighbours. What takes turns meets the same changes, so the ratio of two
figures of one run holds where neither figure does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from .. import _backend

Call = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)

WINDOW = 2e-4  # seconds of one timing, at least: long beside the clock's own cost
TURN = 5  # timings in a turn; the best counts, since an interruption can only make one slower


@dataclass(frozen=True)
class Rate:
    """Multiply-accumulates per second: the median over rounds, and how far the middle half of the rounds spreads."""

    median: float
    spread: float  # interquartile range / median

    @classmethod
    def of(cls, rates: list[float]) -> Rate:
        low, median, high = np.percentile(rates, [25, 50, 75]).tolist()
        return cls(median, (high - low) / median)


class Timer:
    """Takes the time of one call, again and again. Making it warms the call up."""

    def __init__(self, call: Call) -> None:
        self.call, self.number = call, 1
        self._time()
        # So many calls in a timing that it lasts a window.
        while (seconds := self._time()) < WINDOW:
            self.number = max(2 * self.number, int(self.number * WINDOW / max(seconds, 1e-7)))

    def _time(self) -> float:
        call = self.call
        start = time.perf_counter()
        for _ in range(self.number):
            call()
        return time.perf_counter() - start

    def turn(self, least: float = 0) -> float:
        """Seconds of a call: the best of a few timings, and of more until `least` seconds have passed."""
        end = time.perf_counter() + least
        best = min(self._time() for _ in range(TURN))
        while time.perf_counter() < end:
            best = min(best, self._time())
        return best / self.number


def interleaved(
    calls: Mapping[Key, Call], rounds: int, begin: Callable[[], None], step: Callable[[], None], settle: float = 0
) -> dict[Key, list[float]]:
    """Seconds of each call, round by round; another one is first in each round.

    begin() is called at the start of a round, step() after each turn. Before a turn `settle` seconds pass: with several
    threads, the thread pools of others spin for a while after their last product, on cores that the next one needs.
    """
    timers = {name: Timer(call) for name, call in calls.items()}
    seconds: dict[Key, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        begin()
        for name in order:
            time.sleep(settle)
            seconds[name].append(timers[name].turn())
            step()
        order.append(order.pop(0))
    return seconds


def peak(type: str) -> float:
    """Multiply-accumulates per second that one core reaches from registers, on the instruction set in use.

    type: "int8" or "float32". Takes a millisecond; 0 with the Numba backend, which has no such bound of its own.
    """
    if _backend.NAME != "native":
        return 0.0
    value: float = _backend.kernels().measure_peak(type)
    return value


def bandwidth() -> dict[str, float]:
    """Bytes per second that one thread reads from the second and the third level of caches and from memory.

    The best of three ways that numpy has of reading an array: a product of two halves, the largest byte, a product of a
    matrix by a vector. Takes half a second, and 256 MiB.
    """
    found = {}
    for level, size in (("L2", 1 << 19), ("L3", 1 << 23), ("DRAM", 1 << 28)):
        a = np.ones(size // 4, np.float32)
        rows, vector = a.reshape(-1, min(4096, len(a) // 16)), np.ones(min(4096, len(a) // 16), np.float32)
        ways: tuple[Call, ...] = (
            partial(np.dot, a[: len(a) // 2], a[len(a) // 2 :]),
            a.view(np.uint8).max,
            partial(np.dot, rows, vector),
        )
        found[level] = size / min(Timer(way).turn(0.03) for way in ways)
    return found
