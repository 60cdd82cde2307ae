"""Least squares on calibration inputs, what SparseGPT, GPTQ and the fits of factors share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .inputs import InputStatistics

__all__ = ["inverse_factor", "matched", "refit"]

Array: TypeAlias = NDArray[Any]
Matrix: TypeAlias = NDArray[np.floating[Any]]


def inverse_factor(hessian: Matrix) -> Matrix:
    """U, upper triangular, with H^-1 = U^T U: of H in reverse order, the inverse of the Cholesky factor."""
    try:
        lower = np.linalg.cholesky(hessian[::-1, ::-1])
    except np.linalg.LinAlgError:
        raise ValueError("inputs are too much alike for so little damping: wanted a larger damping") from None
    return np.ascontiguousarray(_triangular_inverse(lower)[::-1, ::-1])


def _triangular_inverse(lower: Matrix) -> Matrix:
    """By halves, so that nearly all of it is matrix products."""
    n = len(lower)
    if n <= 64:
        return np.tril(np.linalg.inv(lower)) if n else lower
    half = n // 2
    inverse = np.zeros_like(lower)
    first, second = _triangular_inverse(lower[:half, :half]), _triangular_inverse(lower[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, second
    inverse[half:, :half] = -second @ (lower[half:, :half] @ first)
    return inverse


def refit(w: Array, mask: NDArray[np.bool_], hessian: Matrix, steps: int, start: Array) -> NDArray[np.float32]:
    """The weights where mask is True, changed so that trace(D H D^T) falls, D = result - w; zeros elsewhere.

    Conjugate gradients on each row from `start`, in H's precision, with the diagonal of H as preconditioner: the error
    falls with every step.
    """
    if not steps or not w.size:
        return start.astype(np.float32)
    target = w.astype(hessian.dtype)
    x = np.where(mask, start, 0).astype(hessian.dtype)
    diagonal = np.diagonal(hessian)
    residual = np.where(mask, (target - x) @ hessian, 0)
    z = residual / diagonal
    direction = z
    weight = np.einsum("nk,nk->n", residual, z)
    for _ in range(steps):
        step = direction @ hessian
        curvature = np.einsum("nk,nk->n", direction, step)
        alpha = np.divide(weight, curvature, out=np.zeros_like(weight), where=curvature > 0)[:, None]
        x += alpha * direction
        residual = residual - alpha * np.where(mask, step, 0)
        z = residual / diagonal
        before, weight = weight, np.einsum("nk,nk->n", residual, z)
        direction = z + np.divide(weight, before, out=np.zeros_like(weight), where=before > 0)[:, None] * direction
    return x.astype(np.float32)


def matched(w: Array, before: Array, now: Array, seen: InputStatistics, damping: float = 0.1) -> NDArray[np.float32]:
    """The weight, float32 [N, K], whose outputs on `now` are nearest to those of w on `before`, both [samples, K].

    Least squares of now W^T - before w^T, and of W - w, times `damping` times the mean of the diagonal of H, for what
    the samples do not tell. seen: the statistics of `now`.
    """
    # W = w + w (before - now)^T now (G + d)^-1: w where the two are the same
    moved = (before - now).T @ now
    hessian = seen.damped(damping)
    change = np.linalg.solve(hessian, (w.astype(np.float64) @ (moved.astype(np.float64) / seen.count)).T).T
    return np.asarray(w + change, np.float32)
