"""Pruning of whole channels: of one weight, and between the layers that write and read them, so that the network gets
smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._arguments import interval, whole
from ._patterns import Method, Pattern, block_scores, given_scores, least, part_of, weight
from .inputs import InputStatistics, statistics

__all__ = ["ChannelCut", "PrunedChannels", "prune_channels", "smaller"]

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]
Inputs: TypeAlias = "Array | InputStatistics"


class PrunedChannels(NamedTuple):
    """A smaller dense weight, and the indices of the outputs or inputs that it kept (int64, ascending)."""

    weight: Floats
    kept: NDArray[np.int64]


def smaller(
    w: Floats,
    sparsity: float,
    axis: int,
    method: Method,
    given: Array | None,
    seen: InputStatistics | None,
    damping: float,
) -> PrunedChannels:
    size = w.shape[axis]
    matrix = w.reshape(len(w), math.prod(w.shape[1:]))
    form = Pattern((1, matrix.shape[1]) if axis == 0 else (len(w), math.prod(w.shape[2:])), sparsity)
    count = part_of(sparsity, size)
    if not w.size:
        return _kept(w, axis, np.arange(count, size))
    if given is not None:
        scores = given_scores(given, w.shape, matrix.shape, (size,), lambda a: form.collect(a).reshape(-1))
    elif method in ("sparsegpt", "gradual") and seen is not None and axis == 1:
        hessian = seen.damped(damping)
        kept = _greedy(matrix, hessian, size, count)
        return _kept(_fit_inputs(w, kept, hessian), axis, kept)
    elif method != "magnitude" and seen is not None and axis == 0:
        scores = np.einsum("nk,nk->n", matrix @ seen.gram, matrix)
    else:
        scores = block_scores(matrix, form, method, None, w.shape, seen).reshape(-1)
    return _kept(w, axis, np.flatnonzero(~least(scores, count)))


def _kept(w: Floats, axis: int, kept: Array) -> PrunedChannels:
    """The part of w, which may have these inputs only already."""
    part = w if w.shape[axis] == len(kept) else np.take(w, kept, axis)
    return PrunedChannels(np.ascontiguousarray(part), kept.astype(np.int64))


def _greedy(matrix: Array, hessian: NDArray[np.float64], size: int, count: int, rounds: int = 16) -> NDArray[np.int64]:
    """Inputs to keep: each round drops those that the others can replace best, and refits (optimal brain surgeon)."""
    group = matrix.shape[1] // size
    kept, fitted = np.arange(size), matrix.astype(np.float64)
    target = fitted @ hessian
    for i in range(rounds):
        now = count * (i + 1) // rounds - count * i // rounds
        if not now:
            continue
        columns = _columns(kept, group)
        inverse = np.linalg.inv(hessian[np.ix_(columns, columns)])
        scores = np.empty(len(kept))
        for j in range(len(kept)):
            own = slice(j * group, (j + 1) * group)
            part = fitted[:, own]
            scores[j] = float(np.vdot(part @ np.linalg.inv(inverse[own, own]), part))
        kept = kept[~least(scores, now)]
        columns = _columns(kept, group)
        fitted = np.linalg.solve(hessian[np.ix_(columns, columns)], target[:, columns].T).T
    return kept


def _fit_inputs(w: Floats, kept: Array, hessian: NDArray[np.float64]) -> Floats:
    """The weight over those inputs alone whose outputs are nearest to w's."""
    group = math.prod(w.shape[2:])
    columns = _columns(kept, group)
    target = w.reshape(len(w), -1).astype(np.float64) @ hessian[:, columns]
    fitted = np.linalg.solve(hessian[np.ix_(columns, columns)], target.T).T
    return np.asarray(fitted.astype(np.float32).reshape(len(w), len(kept), *w.shape[2:]))


def _columns(kept: Array, group: int) -> NDArray[np.int64]:
    return (kept[:, None] * group + np.arange(group)).reshape(-1)


@dataclass(frozen=True)
class ChannelCut:
    """Layers without the channels that went; in the order in which they were given.

    kept: int64, ascending. producers, along, consumers: the smaller arrays. shifts: for each consumer, float32 [N] to
    add to its bias, zeros without calibration inputs.
    """

    kept: NDArray[np.int64]
    producers: list[Floats]
    consumers: list[Floats]
    along: list[Array] = field(default_factory=list)
    shifts: list[Floats] = field(default_factory=list)


def prune_channels(
    producers: Array | Sequence[Array],
    consumers: Array | Sequence[Array],
    sparsity: float,
    *,
    along: Sequence[Array] = (),
    inputs: Inputs | Sequence[Inputs] | None = None,
    scores: Array | None = None,
    multiple_of: int = 1,
    damping: float = 0.01,
) -> ChannelCut:
    """Take whole channels out between layers: outputs of the producers, inputs of the consumers. The network gets
    smaller.

    Parameters
    ----------
    producers
        One weight or several (of a gated layer, or of branches that are added): float32 [C, K] or [C, I, kh, kw], C the
        same.
    consumers
        One weight or several that read the channels: float32 [N, C], [N, C, kh, kw], or [N, C * s] behind a flattened
        NCHW map with s positions.
    sparsity
        Fraction of the C channels to take out, 0 to below 1.
    along
        Arrays [C, ...] that belong to the channels: biases, parameters of a normalization, a depthwise weight. They are
        cut likewise.
    inputs
        Calibration inputs of the consumer (of each consumer, in a sequence), float32 [samples, its inputs] or
        `InputStatistics`: then consumers are fitted by least squares to give the outputs that they gave, with the mean
        of what went in `shifts`.
    scores
        Floating [C], in place of the default: the product of the norms of the channel in the producers and in the
        consumers, or, with inputs, the norm of what it adds to the consumers' outputs.
    multiple_of
        Channels that stay are rounded up to a multiple of this (of the kernels' tile, say), at most C.

    Raises TypeError for a dtype, ValueError for a shape or a value.
    Source of the refit: Y. He, X. Zhang, J. Sun, Channel pruning for accelerating very deep neural networks, ICCV 2017.
    """
    made = [weight(w) for w in _several(producers)]
    used = [weight(w) for w in _several(consumers)]
    if not made or not used:
        raise ValueError("producers or consumers are empty, wanted at least one of each")
    size = len(made[0])
    for w in made:
        if len(w) != size or not size:
            raise ValueError(f"producers have shapes {[a.shape for a in made]}, wanted the same number of outputs")
    for w in used:
        if w.shape[1] % size or (w.ndim == 4 and w.shape[1] != size) or not w.size:
            raise ValueError(
                f"a consumer has shape {w.shape}, wanted {size} inputs, or a multiple of it when flattened"
            )
    arrays = [np.asarray(a) for a in along]
    for a in arrays:
        if a.shape[:1] != (size,):
            raise ValueError(f"an array along the channels has shape {a.shape}, wanted [{size}, ...]")
    multiple = whole("multiple_of", multiple_of, 1)
    damping = interval("damping", damping, 0, math.inf, above=True, below=True)
    remain = size - part_of(interval("sparsity", sparsity, 0, 1, below=True), size)
    remain = min(size, max(1, -(-remain // multiple)) * multiple)
    groups = [math.prod(w.shape[1:]) // size for w in used]
    seen = []
    if inputs is not None:
        seen = [statistics(one, groups[i] * size) for i, one in enumerate(_seen(inputs, len(used)))]
    if scores is not None:
        ranking = given_scores(scores, (size,), (size,), (size,), lambda a: a)
    elif seen:
        parts = (_added(w, s, g) for w, s, g in zip(used, seen, groups, strict=True))
        ranking = np.sum(list(parts), axis=0)
    else:
        ahead = np.sum([np.square(w, dtype=np.float64).reshape(size, -1).sum(1) for w in made], axis=0)
        behind = np.sum([np.square(w, dtype=np.float64).reshape(len(w), size, -1).sum((0, 2)) for w in used], axis=0)
        ranking = ahead * behind
    kept = np.flatnonzero(~least(ranking, size - remain))
    smaller, shifts = [], []
    for i, w in enumerate(used):
        matrix = w.reshape(len(w), -1)
        columns = _columns(kept, groups[i])
        fitted, shift = matrix[:, columns], np.zeros(len(w), np.float32)
        if seen:
            fitted, shift = _fit_centered(matrix, columns, seen[i], damping)
        smaller.append(np.ascontiguousarray(fitted).reshape(len(w), -1, *w.shape[2:]))
        shifts.append(shift)
    return ChannelCut(kept, [w[kept] for w in made], smaller, [a[kept] for a in arrays], shifts)


def _several(weights: Array | Sequence[Array]) -> Sequence[Array]:
    return [weights] if isinstance(weights, np.ndarray) else list(weights)


def _seen(inputs: Inputs | Sequence[Inputs], consumers: int) -> list[Inputs]:
    if isinstance(inputs, np.ndarray | InputStatistics):
        return [inputs] * consumers
    if len(inputs) != consumers:
        raise ValueError(f"inputs are {len(inputs)}, wanted as many as there are consumers, {consumers}")
    return list(inputs)


def _added(w: Floats, seen: InputStatistics, group: int) -> NDArray[np.float64]:
    """For each channel, the squared norm of what it adds to the outputs beyond its mean."""
    matrix = w.reshape(len(w), -1).astype(np.float64)
    covariance = seen.gram - np.outer(seen.sum, seen.mean)
    blocks = covariance.reshape(seen.k // group, group, seen.k // group, group)
    own = np.einsum("cicj->cij", blocks)
    columns = matrix.reshape(len(w), -1, group)
    return np.asarray(np.einsum("nci,cij,ncj->c", columns, own, columns, optimize=True))


def _fit_centered(matrix: Floats, columns: Array, seen: InputStatistics, damping: float) -> tuple[Floats, Floats]:
    """Least squares with a constant: the weight over `columns`, and what to add to the bias."""
    whole_weight = matrix.astype(np.float64)
    covariance = seen.damped(damping) - np.outer(seen.mean, seen.mean)
    part = covariance[np.ix_(columns, columns)]
    fitted = np.linalg.solve(part, (whole_weight @ covariance[:, columns]).T).T.astype(np.float32)
    shift = whole_weight @ seen.mean - fitted.astype(np.float64) @ seen.mean[columns]
    return fitted, shift.astype(np.float32)
