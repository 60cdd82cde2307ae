"""Patterns of zeros: which blocks, or which of m neighbours, go when each has a score."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._arguments import among, floating, interval, pair, whole
from .inputs import InputStatistics

__all__ = [
    "Method",
    "Pattern",
    "block_scores",
    "fraction",
    "given_scores",
    "least",
    "n_of_m",
    "parse",
    "part_of",
    "weight",
]

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Method: TypeAlias = Literal["magnitude", "wanda", "sparsegpt", "gradual"]


@dataclass(frozen=True)
class Pattern:
    """A pattern: blocks of which a fraction goes, or n of m neighbours that stay."""

    block: tuple[int, int]
    sparsity: float
    n: int = 0
    m: int = 0

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        return -(-shape[0] // self.block[0]), -(-shape[1] // self.block[1])

    def mask(self, grid_scores: Array, by_output: bool, shape: tuple[int, int], part: float = 1) -> Mask:
        """True where weights stay; grid_scores has one for each block. part: of the zeros, the rest is to come."""
        if self.m:
            keep = n_of_m(grid_scores, self.n, self.m)
            going = np.where(keep, np.inf, grid_scores)
            return keep if part == 1 else ~least(going, part_of(part, int(np.count_nonzero(~keep))))
        if by_output:
            count = part_of(self.sparsity * part, grid_scores.shape[1])
            keep = np.ones(grid_scores.shape, bool)
            for i in range(len(keep)):
                keep[i] = ~least(grid_scores[i], count)
        else:
            keep = ~least(grid_scores, part_of(self.sparsity * part, grid_scores.size))
        return self.spread(keep, shape)

    def spread(self, keep: Mask, shape: tuple[int, int]) -> Mask:
        """One value for each block, to one for each element."""
        return np.repeat(np.repeat(keep, self.block[0], 0)[: shape[0]], self.block[1], 1)[:, : shape[1]]

    def collect(self, values: Array) -> NDArray[np.float64]:
        """The sum over each block, element after element, so that it has the same bits everywhere."""
        total = np.zeros(self.grid(values.shape))
        for i in range(self.block[0]):
            for j in range(self.block[1]):
                part = values[i :: self.block[0], j :: self.block[1]]
                total[: part.shape[0], : part.shape[1]] += part
        return total


def parse(pattern: str, sparsity: float | None, block: int | tuple[int, int], m: int) -> Pattern:
    named = re.fullmatch(r"(\d+):(\d+)", pattern) if isinstance(pattern, str) else None
    if named:
        n, m = int(named[1]), int(named[2])
        if not 0 <= n <= m or m == 0:
            raise ValueError(f"pattern is {pattern!r}, wanted n:m with n at most m, m above 0")
        if sparsity is not None and abs(fraction(sparsity) - (1 - n / m)) > 1e-9:
            raise ValueError(f"sparsity is {sparsity}, but pattern {pattern!r} has {1 - n / m:g}; leave it out")
        return Pattern((1, 1), 1 - n / m, n, m)
    if not among(pattern, "unstructured", "block", "n:m"):
        raise ValueError(f"pattern is {pattern!r}, wanted 'unstructured', 'block', 'n:m', such as '2:4', or 'channel'")
    if pattern == "n:m":
        m = whole("m", m, 1)
        exact = (1 - fraction(sparsity)) * m
        if abs(exact - round(exact)) > 1e-9:
            raise ValueError(f"sparsity is {sparsity}: {exact:g} of {m} would stay, wanted an integer; see m")
        return Pattern((1, 1), fraction(sparsity), round(exact), m)
    return Pattern((1, 1) if pattern == "unstructured" else pair("block", block, 1), fraction(sparsity))


def fraction(value: float | None) -> float:
    return interval("sparsity", value, 0, 1)


def part_of(sparsity: float, size: int) -> int:
    return round(sparsity * size)


def least(scores: Array, count: int) -> Mask:
    """True for the `count` least scores; of equal ones the first. As a stable sort would choose, but in linear time."""
    flat = scores.reshape(-1)
    if count == 0 or count == len(flat):
        return np.full(scores.shape, count > 0)
    limit = np.partition(flat, count - 1)[count - 1]
    chosen = flat < limit
    equal = np.flatnonzero(flat == limit)
    chosen[equal[: count - int(np.count_nonzero(chosen))]] = True
    return np.asarray(chosen.reshape(scores.shape))


def n_of_m(scores: Array, n: int, m: int) -> Mask:
    """True for the n largest of every m neighbours in a row (of a shorter last group, too); of equal ones the last."""
    rows, k = scores.shape
    padded = np.full((rows, -(-k // m) * m), -math.inf)
    padded[:, :k] = np.maximum(scores, np.finfo(np.float64).min)  # above the padding, which never stays
    order = np.argsort(padded.reshape(rows, -1, m), axis=2, kind="stable")
    keep = np.zeros((rows, padded.shape[1] // m, m), bool)
    np.put_along_axis(keep, order[:, :, m - n :], True, 2)
    return keep.reshape(rows, -1)[:, :k]


# ---- scores


def block_scores(
    matrix: Floats,
    form: Pattern,
    method: Method,
    given: Array | None,
    shape: tuple[int, ...],
    seen: InputStatistics | None,
) -> Array:
    """One for each block."""
    if given is not None:
        return given_scores(given, shape, matrix.shape, form.grid(matrix.shape), form.collect)
    if form.block == (1, 1) and method == "magnitude":
        return np.abs(matrix)
    squares = np.square(matrix, dtype=np.float64)  # exact, and so are their bits
    if method in ("wanda", "gradual") and seen is not None:
        squares *= np.diagonal(seen.gram) / seen.count
    return form.collect(squares)


def given_scores(
    given: Array,
    shape: tuple[int, ...],
    matrix: tuple[int, ...],
    grid: tuple[int, ...],
    collect: Callable[[Array], Array],
) -> Array:
    given = np.asarray(given)
    if not np.issubdtype(given.dtype, np.floating):
        raise TypeError(f"scores is an array of {given.dtype}, wanted float32 or float64")
    if np.isnan(given).any():
        raise ValueError("scores hold NaN, wanted numbers")
    if given.shape == grid:
        return given
    if given.shape in (shape, matrix):
        with np.errstate(invalid="ignore"):
            total = collect(given.reshape(matrix))
        if np.isnan(total).any():
            raise ValueError("scores hold both infinities within one block, wanted at most one of them")
        return total
    raise ValueError(f"scores have shape {given.shape}, wanted w's, {shape}, or one for each block, {grid}")


def weight(value: Any) -> Floats:
    w = floating("w", value)
    if w.ndim not in (2, 4):
        raise ValueError(f"w has shape {w.shape}, wanted [N, K] or [O, I, kh, kw]")
    return w
