"""Factorization: a weight as a product of smaller ones, by the singular value decomposition.

    weight = pc.factorize(w, energy=0.95)                       # LowRankWeight
    weight = pc.factorize(w, rank=64, inputs=x)                 # least error of the outputs for inputs like x
    factors = pc.factorize_conv(w, "separable", rank=1)         # depthwise + pointwise

`from pycompress.factorize import savings` says what that saves. Convolutions: `pycompress.convfactors`. Definitions and
sources: docs/converters.md.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._arguments import floating, interval, whole
from .inputs import InputStatistics, statistics
from .weights import LowRankWeight, Weight

__all__ = ["Savings", "factorize", "savings", "truncated_svd"]

Array: TypeAlias = NDArray[Any]
Matrix: TypeAlias = NDArray[np.floating[Any]]
Inputs: TypeAlias = "Array | InputStatistics"

_EXACT = 512  # the shorter side up to which the whole decomposition is as fast as a randomized one


class Savings(NamedTuple):
    """What a compressed weight saves.

    Each pair is (before, after). parameters: values that are not zero by construction. macs: multiply-accumulates for
    one row of x, or one output position of a convolution. bytes: of what is stored, float32 before. error: ||w2 - w|| /
    ||w|| (Frobenius), or that of the outputs where calibration inputs were given.
    """

    parameters: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]
    error: float

    def __str__(self) -> str:
        parts = [
            f"{name} {before:,} -> {after:,} ({before / max(after, 1):.2f}x)"
            for name, (before, after) in zip(self._fields, self[:3], strict=False)
        ]
        return ", ".join([*parts, f"error {self.error:.3g}"])


def factorize(
    w: Array,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    *,
    inputs: Inputs | None = None,
    damping: float = 0.01,
    solver: Literal["auto", "exact", "randomized"] = "auto",
    seed: int = 0,
    allow_larger: bool = False,
) -> LowRankWeight:
    """The weight of low rank that is nearest to w: a truncated singular value decomposition.

    Parameters
    ----------
    w
        float32 [N, K] (other floating dtypes are rounded to float32).
    rank, energy, error
        One of them. rank: 1 to min(N, K). energy: the smallest rank that keeps this part (above 0, at most 1) of the
        sum of the squared singular values. error: the smallest rank whose relative error, sqrt(1 - kept energy), is at
        most this.
    inputs
        Calibration inputs, float32 [samples, K] or `InputStatistics`: then singular values are those of w S, where S
        S^T is the damped mean of x x^T, and the error of the outputs on these inputs is the least that this rank can
        have (activation-aware SVD), up to the damping.
    damping
        What is added to the mean of x x^T: this, times the mean of its diagonal, times the identity.
    solver
        "exact": the whole decomposition. "randomized": a sketch of the largest singular vectors with 4 power
        iterations, the same for the same seed. "auto": exact for a shorter side up to 512, and for ranks above a
        quarter of it.
    allow_larger
        Take also a rank that saves nothing, r (K + N) >= K N, as `LowRankWeight.from_dense` does.

    Returns a `LowRankWeight` with factors a = U sqrt(S) and b = sqrt(S) V^T (with inputs: S^-1/2 U^T w). See `savings`.

    Raises TypeError for a dtype, ValueError for a shape, a value, NaN or infinity.

    Sources: C. Eckart, G. Young, Psychometrika 1, 1936; N. Halko, P. Martinsson, J. Tropp, SIAM Review 53, 2011;
    X. Wang et al., SVD-LLM, ICLR 2025.
    """
    w = floating("w", w)
    if w.ndim != 2 or not w.size:
        raise ValueError(f"w has shape {w.shape}, wanted [N, K], not empty")
    dense = w.astype(np.float64)
    root = None if inputs is None else root_of(statistics(inputs, w.shape[1]), damping)
    u, s, vt = truncated_svd(dense if root is None else dense @ root, rank, energy, error, solver=solver, seed=seed)
    (n, k), r = w.shape, len(s)
    if r * (k + n) >= k * n and not allow_larger:
        raise ValueError(
            f"rank {r} of a weight of shape {w.shape} takes {r * (k + n)} values and as many products, the weight "
            f"itself {k * n}: wanted a rank below {-(-k * n // (k + n))}, or allow_larger=True"
        )
    scale = np.sqrt(s)
    # U U^T w is the projection that the best approximation is; S need not be inverted for it.
    b = scale[:, None] * vt if root is None else _divide(u.T @ dense, scale)
    return LowRankWeight((u * scale).astype(np.float32), b.astype(np.float32))


def savings(w: Array, weight: Weight | Array, inputs: Inputs | None = None) -> Savings:
    """What `weight`, made from the float32 array w ([N, K]), saves; its error on `inputs` where they are given."""
    w = floating("w", w)
    if tuple(weight.shape) != w.shape:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, wanted w's, {w.shape}")
    count = _values(weight)
    approximation = weight.todense() if isinstance(weight, Weight) else np.asarray(weight)
    error = relative_error(w, approximation, inputs)
    return Savings((w.size, count), (w.size, count), (4 * w.size, weight.nbytes), error)


def _values(weight: Weight | Array) -> int:
    """Values that a kernel multiplies with: of the factors, or those that are not zero."""
    if isinstance(weight, LowRankWeight):
        return sum(_values(factor) for factor in (weight.a, weight.b))
    return math.prod(weight.shape) if isinstance(weight, Weight) else int(np.count_nonzero(weight))


def relative_error(w: Array, approximation: Array, inputs: Inputs | None) -> float:
    """Of the weight, or of its outputs on `inputs`."""
    if inputs is not None:
        return statistics(inputs, math.prod(w.shape[1:])).output_error(w, approximation)
    norm = float(np.linalg.norm(w.astype(np.float64)))
    wrong = float(np.linalg.norm(approximation.astype(np.float64) - w))
    return wrong / norm if norm else wrong


# ---- the decomposition


def truncated_svd(
    matrix: Array,
    rank: int | None = None,
    energy: float | None = None,
    error: float | None = None,
    *,
    solver: Literal["auto", "exact", "randomized"] = "auto",
    seed: int = 0,
) -> tuple[Matrix, Matrix, Matrix]:
    """(U, s, V^T) in float64 of the rank that one of `rank`, `energy`, `error` asks for, as in `factorize`."""
    most = min(matrix.shape)
    rank, lost = _wanted(rank, energy, error, most)
    if solver not in ("auto", "exact", "randomized"):
        raise ValueError(f"solver is {solver!r}, wanted 'auto', 'exact' or 'randomized'")
    matrix = matrix.astype(np.float64)
    if solver == "exact" or (solver == "auto" and (most <= _EXACT or (rank or 0) * 4 > most)):
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
        rank = _rank(s, lost, float(s @ s)) if rank is None else rank
    elif rank is not None:
        u, s, vt = _randomized(matrix, rank, seed)
    else:
        total, guess = float(np.vdot(matrix, matrix)), max(16, most // 16)
        while True:
            u, s, vt = _randomized(matrix, guess, seed)
            if float(s @ s) >= (1 - lost) * total:
                break
            guess *= 2
            if guess * 2 > most:
                u, s, vt = np.linalg.svd(matrix, full_matrices=False)
                break
        rank = _rank(s, lost, total)
    u, vt = _signs(u[:, :rank], vt[:rank])
    return u, s[:rank], vt


def rank_of(s: Matrix, rank: int | None, energy: float | None, error: float | None) -> int:
    """The rank that is asked for, when s are all singular values."""
    rank, lost = _wanted(rank, energy, error, len(s))
    return _rank(s, lost, float(s @ s)) if rank is None else rank


def _wanted(rank: int | None, energy: float | None, error: float | None, most: int) -> tuple[int | None, float]:
    """The rank, or None and the part of the sum of squares that may be lost."""
    if sum(value is not None for value in (rank, energy, error)) != 1:
        raise ValueError(f"rank is {rank}, energy {energy}, error {error}: wanted one of them")
    if rank is not None:
        return whole("rank", rank, 1, most), 0.0
    if energy is not None:
        return None, 1 - interval("energy", energy, 0, 1, above=True)
    return None, interval("error", error, 0, 1, below=True) ** 2


def _rank(s: Matrix, lost: float, total: float) -> int:
    """The smallest rank, at least 1, that loses no more than that part of the sum of squares."""
    kept = np.cumsum(s**2)
    return int(min(np.searchsorted(kept, (1 - lost) * total * (1 - 1e-12)) + 1, len(s)))


def _signs(u: Matrix, vt: Matrix) -> tuple[Matrix, Matrix]:
    """The largest element of each column of U is positive, so that the result does not depend on the LAPACK at hand."""
    sign = (
        np.where(np.take_along_axis(u, np.abs(u).argmax(0)[None], 0)[0] < 0, -1.0, 1.0) if u.size else np.ones(len(vt))
    )
    return u * sign, vt * sign[:, None]


def _randomized(matrix: Matrix, rank: int, seed: int) -> tuple[Matrix, Matrix, Matrix]:
    if matrix.shape[0] < matrix.shape[1]:
        v, s, ut = _randomized(np.ascontiguousarray(matrix.T), rank, seed)
        return ut.T, s, v.T
    width = min(rank + max(16, rank // 8), matrix.shape[1])
    basis = matrix @ np.random.default_rng(seed).standard_normal((matrix.shape[1], width))
    for _ in range(4):
        basis, _ = np.linalg.qr(basis)
        basis, _ = np.linalg.qr(matrix.T @ basis)
        basis = matrix @ basis
    basis, _ = np.linalg.qr(basis)
    u, s, vt = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], vt[:rank]


def root_of(seen: InputStatistics, damping: float) -> Matrix:
    """S with S S^T = the damped mean of x x^T."""
    damping = interval("damping", damping, 0, math.inf, below=True)
    hessian = seen.damped(damping)
    try:
        return np.linalg.cholesky(hessian)
    except np.linalg.LinAlgError:  # not positive definite without damping
        values, vectors = np.linalg.eigh(hessian)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _divide(rows: Matrix, scale: Matrix) -> Matrix:
    """rows / scale, zeros where scale is zero."""
    return np.divide(rows, scale[:, None], out=np.zeros_like(rows), where=scale[:, None] > 0)
