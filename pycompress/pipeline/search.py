"""The choice of one candidate for each layer: least time within a budget of error.

It is a knapsack with one choice in each class. Squared errors add up, since the layers' errors are not correlated; of
each layer only the candidates on the lower convex hull of (squared error, time) are worth a thought, and going down the
hulls by the time saved per squared error is optimal but for the last step (Sinha and Zoltners, The multiple-choice
knapsack problem, 1979). What the budget has left then goes to whatever still fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Choice", "choose"]

MARGIN = 0.03  # of float32's time: what saves less than this may be noise


@dataclass(frozen=True)
class Choice:
    """For each layer its candidate, 0 being float32; and (seconds, error) of all layers after each step on the way."""

    chosen: tuple[int, ...]
    path: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Move:
    layer: int
    to: int
    seconds: float  # saved
    squared: float  # error added

    @property
    def worth(self) -> float:
        return self.seconds / self.squared if self.squared > 0 else math.inf


def choose(
    seconds: Sequence[Sequence[float]],
    errors: Sequence[Sequence[float]],
    budget: float,
    fixed: Sequence[float] = (),
    evaluate: Callable[[tuple[int, ...]], float] | None = None,
) -> Choice:
    """Choose for each layer among its candidates; the first of each is float32, without error.

    budget: the root of the mean square of all errors, those of `fixed` layers included, stays within it. With
    `evaluate`, the error of a choice as a whole, it is that which stays within it: the furthest point on the way to the
    least time, by bisection.
    """
    count = max(1, len(errors) + len(fixed))
    base = sum(error * error for error in fixed)
    allowed = count * budget * budget
    moves = sorted(
        (move for i in range(len(errors)) for move in _hull(i, seconds[i], errors[i])), key=lambda m: -m.worth
    )
    chosen = [0] * len(errors)
    spent, time = base, sum(options[0] for options in seconds)
    path, states = [(time, math.sqrt(spent / count))], [tuple(chosen)]
    blocked: set[int] = set()

    def take(move: _Move) -> None:
        nonlocal spent, time
        chosen[move.layer] = move.to
        spent, time = spent + move.squared, time - move.seconds
        path.append((time, math.sqrt(max(spent, 0.0) / count)))
        states.append(tuple(chosen))

    for move in moves:
        if move.layer in blocked:
            continue
        if evaluate is None and spent + move.squared > allowed:
            blocked.add(move.layer)  # the next ones of this layer go on from there
            continue
        take(move)
    if evaluate is not None:
        at = _furthest(states, lambda state: evaluate(state) <= budget)
        return Choice(states[at], tuple(path[: at + 1]))
    while more := [
        move
        for i in range(len(errors))
        for move in _from(i, chosen[i], seconds[i], errors[i])
        if spent + move.squared <= allowed
    ]:
        take(max(more, key=lambda m: m.seconds))
    return Choice(tuple(chosen), tuple(path))


def _hull(layer: int, seconds: Sequence[float], errors: Sequence[float]) -> list[_Move]:
    """The moves down the lower convex hull of a layer's candidates, from float32 on; each saves less for its error."""
    quick = [i for i in range(1, len(seconds)) if seconds[i] < (1 - MARGIN) * seconds[0] and math.isfinite(errors[i])]
    points = [0]
    for i in sorted(quick, key=lambda i: (errors[i], seconds[i])):
        if seconds[i] >= seconds[points[-1]]:
            continue
        while len(points) > 1 and _worth(points[-2], points[-1], seconds, errors) <= _worth(
            points[-2], i, seconds, errors
        ):
            points.pop()
        points.append(i)
    return [_move(layer, a, b, seconds, errors) for a, b in pairwise(points)]


def _from(layer: int, now: int, seconds: Sequence[float], errors: Sequence[float]) -> list[_Move]:
    """All moves from a candidate to a faster one."""
    limit = min(seconds[now], (1 - MARGIN) * seconds[0])
    return [
        _move(layer, now, i, seconds, errors)
        for i in range(1, len(seconds))
        if seconds[i] < limit and math.isfinite(errors[i])
    ]


def _move(layer: int, a: int, b: int, seconds: Sequence[float], errors: Sequence[float]) -> _Move:
    return _Move(layer, b, seconds[a] - seconds[b], errors[b] ** 2 - errors[a] ** 2)


def _worth(a: int, b: int, seconds: Sequence[float], errors: Sequence[float]) -> float:
    return _move(0, a, b, seconds, errors).worth


def _furthest(states: Sequence[tuple[int, ...]], good: Callable[[tuple[int, ...]], bool]) -> int:
    """The last state that is good, if goodness ends somewhere; 0, float32, without asking."""
    low, high = 0, len(states) - 1
    if high == 0 or good(states[high]):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(states[middle]) else (low, middle)
    return low
