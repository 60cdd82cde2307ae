"""Pruning that changes the weights that stay, so that the outputs on calibration inputs stay where they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._hessian import inverse_factor, refit
from ._patterns import Pattern, block_scores, least, n_of_m, part_of
from .inputs import InputStatistics

__all__ = ["Start", "gradual", "sparsegpt", "updated"]

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]
Hessian: TypeAlias = NDArray[np.floating[Any]]
Start: TypeAlias = Callable[[Floats, Pattern, Hessian, bool], Floats]

_WINDOW = 128  # columns whose zeros SparseGPT chooses at a time
_ROUND_STEPS = 5  # of conjugate gradients, between two rounds of "gradual"


def updated(
    matrix: Floats,
    form: Pattern,
    starts: list[Start],
    seen: InputStatistics,
    by_output: bool,
    damping: float,
    steps: int,
) -> Floats:
    """The best of what `starts` make, each with the refit; or, where that is better, the zeros of "magnitude"."""
    hessian = seen.damped(damping)
    hessian /= np.trace(hessian) / len(hessian)  # both about 1, so that float32 will do for much of the work
    exponent = np.frexp(np.abs(matrix).max())[1]
    best = _best(np.ldexp(matrix, -exponent), form, starts, seen, hessian, by_output, steps)
    return np.asarray(np.ldexp(best, exponent))


def _best(
    matrix: Floats,
    form: Pattern,
    starts: list[Start],
    seen: InputStatistics,
    hessian: Hessian,
    by_output: bool,
    steps: int,
) -> Floats:
    def error(candidate: Floats) -> float:
        return seen.output_error(matrix, candidate)

    made = [start(matrix, form, hessian, by_output) for start in starts]
    rough = hessian.astype(np.float32)  # twice as fast, and the damped error is smooth enough
    best = min((refit(matrix, done != 0, rough, steps, done) for done in made), key=error)
    mask = form.mask(block_scores(matrix, form, "magnitude", None, matrix.shape, None), by_output, matrix.shape)
    plain = np.where(mask, matrix, np.float32(0))
    if error(best) <= error(plain):
        return best
    return min((best, refit(matrix, mask, rough, steps, plain), plain), key=error)


def gradual(matrix: Floats, form: Pattern, hessian: Hessian, by_output: bool, rounds: int) -> Floats:
    """More zeros round by round, each time those of the least w^2 H_kk, and some steps of the refit in between."""
    done, curvature, rough = matrix, np.diagonal(hessian), hessian.astype(np.float32)
    for i in range(1, rounds + 1):
        scores = form.collect(np.square(done, dtype=np.float64) * curvature)
        mask = form.mask(scores, by_output, matrix.shape, 1 - (1 - i / rounds) ** 3)
        done = np.where(mask, done, np.float32(0))
        if i < rounds:
            done = refit(matrix, mask, rough, _ROUND_STEPS, done)
    return done


def sparsegpt(matrix: Floats, form: Pattern, hessian: Hessian, by_output: bool) -> Floats:
    """One sweep over the columns, with U of H^-1 = U^T U, upper triangular.

    Column k, once pruned, leaves an error of w_k / U_kk in the outputs; the columns to its right take up what of it
    they can, by row k of U. The zeros of a window of columns (of a group, for n:m) are chosen when the sweep comes to
    it.
    """
    (n, k), factor = matrix.shape, inverse_factor(hessian)
    left = matrix.T.astype(np.float32)  # [K, N]: a column of the weight is contiguous
    diagonal, rows = np.diagonal(factor).copy(), factor.astype(np.float32)
    keep = np.ones((n, k), bool)
    blocks = pruned = 0
    for start, end in _windows(k, form):
        grid = form.collect(np.square(left[start:end].T, dtype=np.float64) / diagonal[start:end] ** 2)
        if not form.m:
            blocks += grid.shape[1] if by_output else grid.size
            count = part_of(form.sparsity, blocks) - pruned
            pruned += count
            chosen = np.stack([~least(row, count) for row in grid]) if by_output and n else ~least(grid, count)
            keep[:, start:end] = form.spread(chosen, (n, end - start))
        errors = np.zeros((end - start, n), np.float32)
        for j in range(start, end):
            if form.m and (j - start) % form.m == 0:
                group = slice(j, min(j + form.m, end))
                keep[:, group] = n_of_m(
                    np.square(left[group].T, dtype=np.float64) / diagonal[group] ** 2, form.n, form.m
                )
            errors[j - start] = np.where(keep[:, j], np.float32(0), left[j]) / np.float32(diagonal[j])
            left[j, ~keep[:, j]] = 0
            left[j + 1 : end] -= rows[j, j + 1 : end, None] * errors[j - start]
        left[end:] -= rows[start:end, end:].T @ errors
    return np.ascontiguousarray(left.T)


def _windows(k: int, form: Pattern) -> Iterator[tuple[int, int]]:
    step = form.m or form.block[1]
    width = max(step, _WINDOW // step * step)
    for start in range(0, k, width):
        yield start, min(start + width, k)
