"""Least squares on calibration inputs, what SparseGPT, GPTQ and the fits of factors share."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["inverse_factor", "refit"]

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
