"""Pruning: weights set to zero where the outputs need them least, in the patterns that the sparse kernels run fast.

    pruned = pc.prune(w, 0.8, "block", block=(1, 4))
    weight = pc.BSRWeight.from_dense(pruned, block=(1, 4), bits=8)

`from pycompress.prune import ...` gives the rest: `prune_all` for many tensors, `prune_channels` for whole channels
between layers, `score` and `mask` for the parts of `prune`. Definitions and sources: docs/converters.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, get_args, overload

import numpy as np
from numpy.typing import NDArray

from ._arguments import among, interval, whole
from ._compensate import Start, gradual, sparsegpt, updated
from ._hessian import inverse_factor, refit
from ._patterns import Method, block_scores, fraction, least, parse, part_of, weight
from .channels import ChannelCut, PrunedChannels, prune_channels, smaller
from .inputs import InputStatistics, statistics

__all__ = ["ChannelCut", "PrunedChannels", "prune", "prune_all", "prune_channels"]

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]
Inputs: TypeAlias = "Array | InputStatistics"
Per: TypeAlias = Literal["tensor", "output"]


@overload
def prune(  # type: ignore[overload-overlap]  # no str but "channel" has another result than a weight
    w: Array,
    sparsity: float,
    pattern: Literal["channel"],
    *,
    axis: int = 0,
    method: Method = "magnitude",
    scores: Array | None = None,
    inputs: Inputs | None = None,
    damping: float = 0.01,
) -> PrunedChannels: ...


@overload
def prune(
    w: Array,
    sparsity: float | None = None,
    pattern: str = "unstructured",
    *,
    block: int | tuple[int, int] = (4, 1),
    m: int = 4,
    axis: int = 0,
    method: Method = "magnitude",
    scores: Array | None = None,
    inputs: Inputs | None = None,
    per: Per | None = None,
    damping: float = 0.01,
    refit_steps: int | None = None,
    rounds: int = 16,
) -> Floats: ...


def prune(
    w: Array,
    sparsity: float | None = None,
    pattern: str = "unstructured",
    *,
    block: int | tuple[int, int] = (4, 1),
    m: int = 4,
    axis: int = 0,
    method: Method = "magnitude",
    scores: Array | None = None,
    inputs: Inputs | None = None,
    per: Per | None = None,
    damping: float = 0.01,
    refit_steps: int | None = None,
    rounds: int = 16,
) -> Floats | PrunedChannels:
    """A copy of the weight with zeros in a pattern.

    Parameters
    ----------
    w
        float32 [N, K], or [O, I, kh, kw], which counts as [O, I * kh * kw]. Other floating dtypes are rounded to
        float32.
    sparsity
        Fraction of zeros, 0 to 1: of the elements, blocks or channels, round(sparsity * their number) are pruned (half
        to even), those with the least score; of equal ones the first by index. Zeros that w has already count.
    pattern
        "unstructured"; "block", whole blocks of shape `block`, the last ones cut off where N or K is no multiple;
        "n:m", of every m neighbours in a row at most n stay, n = (1 - sparsity) * m, which must be an integer; or such
        a pair by name, "2:4" or another, which needs no sparsity. "channel": whole outputs (axis 0) or inputs (axis 1;
        of a convolution, input channels): then the result is a `PrunedChannels`, a smaller weight.
    method
        "magnitude": |w|. "wanda": |w| times the norm of its input. Blocks and channels have the L2 norm of these.
        "sparsegpt": one sweep over the columns, zeros by w^2 / [H^-1]_kk, H the mean of x x^T of the calibration
        inputs, and what stays is changed to make up for what goes. "gradual": the best, in two to three times the time:
        more zeros round by round, by w^2 H_kk, and what stays is fitted again in between; or "sparsegpt", where that is
        better on `inputs`. For inputs (axis 1) both are the same: the least increase of the error, in 16 rounds, and an
        exact fit.
    scores
        Scores to use with "magnitude" in place of |w|: floating, of w's shape, or one for each block or channel; those
        of a block or channel are summed. Infinity keeps for as long as possible.
    inputs
        Calibration inputs of the layer, float32 [samples, K], or `InputStatistics`. All methods but "magnitude" need
        them; for a convolution see `unfold`.
    per
        "output": the same sparsity in every row, or row of blocks. "tensor": over all of w. None is "output" for
        "wanda", as in its paper, else "tensor". n:m is always per group.
    damping
        What is added to H: this, times the mean of its diagonal, times the identity.
    refit_steps
        Steps of conjugate gradients by which the weights that stay are fitted to the outputs of w (least squares on
        `inputs`, damped). None: 20 after "sparsegpt" and "gradual", else 0.
    rounds
        Of "gradual": the zeros grow as 1 - (1 - i / rounds)^3.

    With "sparsegpt" and "gradual" the outputs on `inputs` are never further from those of w than with "magnitude" in
    the same pattern.

    Raises TypeError for a dtype, ValueError for a shape, a value, NaN or infinity.

    Sources: E. Frantar, D. Alistarh, SparseGPT, ICML 2023; M. Sun et al., A simple and effective pruning approach for
    large language models (Wanda), ICLR 2024; X. Meng et al., ALPS, NeurIPS 2024 (the refit); M. Zhu, S. Gupta, To
    prune, or not to prune, 2017 (growing zeros); B. Hassibi, D. Stork, Optimal brain surgeon, NeurIPS 1992 (inputs).
    """
    w = weight(w)
    matrix = w.reshape(len(w), math.prod(w.shape[1:]))
    if not among(method, *get_args(Method)):
        raise ValueError(f"method is {method!r}, wanted one of {', '.join(get_args(Method))}")
    if not among(per, None, *get_args(Per)):
        raise ValueError(f"per is {per!r}, wanted 'tensor', 'output' or None")
    damping = interval("damping", damping, 0, math.inf, above=True, below=True)
    seen = None if inputs is None else statistics(inputs, matrix.shape[1])
    if method != "magnitude" and seen is None:
        raise ValueError(
            f"method {method!r} needs calibration inputs: inputs is None, wanted [samples, {matrix.shape[1]}]"
        )
    if scores is not None and method != "magnitude":
        raise ValueError(f"scores were given, and method {method!r}, which has its own; wanted one of both")
    updates = method in ("sparsegpt", "gradual")
    steps = (20 if updates else 0) if refit_steps is None else whole("refit_steps", refit_steps, 0)
    rounds = whole("rounds", rounds, 1)
    if steps and seen is None:
        raise ValueError("refit_steps need calibration inputs: inputs is None")
    if among(pattern, "channel"):
        share = fraction(sparsity)
        if not among(axis, 0, 1):
            raise ValueError(f"axis is {axis!r}, wanted 0 (outputs) or 1 (inputs)")
        return smaller(w, share, int(axis), method, scores, seen, damping)
    form = parse(pattern, sparsity, block, m)
    by_output = (per or ("output" if method == "wanda" else "tensor")) == "output"
    if updates and seen is not None and w.size:
        starts: list[Start] = [sparsegpt] if method == "sparsegpt" else [partial(gradual, rounds=rounds), sparsegpt]
        done = updated(matrix, form, starts, seen, by_output, damping, steps)
    else:
        mask = form.mask(block_scores(matrix, form, method, scores, w.shape, seen), by_output, matrix.shape)
        done = np.where(mask, matrix, np.float32(0))
        if steps and seen is not None:
            done = refit(matrix, mask, seen.damped(damping), steps, done)
    return done.reshape(w.shape)


# ---- many tensors


def prune_all(
    tensors: Mapping[str, Array],
    sparsity: float | None = None,
    pattern: str = "unstructured",
    *,
    scope: Literal["layer", "global"] = "global",
    method: Method = "magnitude",
    inputs: Mapping[str, Inputs] | None = None,
    **options: Any,
) -> dict[str, Floats]:
    """Prune many weights at once.

    Parameters
    ----------
    tensors
        Weights by name, as `prune` takes them.
    sparsity, pattern, method, options
        As in `prune` (not "channel"; no `scores`).
    scope
        "layer": this sparsity in each. "global": over all together, so that each weight has the sparsity that its
        scores give it: blocks (elements) with the least score in all weights go, of equal ones the first in the order
        of the mapping and by index. For n:m both are the same.
    inputs
        Calibration inputs by the names of `tensors`, for all methods but "magnitude".

    Returns a dict with the same names. Raises as `prune`, with the name of the tensor.
    """
    if scope not in ("layer", "global"):
        raise ValueError(f"scope is {scope!r}, wanted 'layer' or 'global'")
    if pattern == "channel" or "scores" in options:
        raise ValueError("pattern 'channel' and scores are for one weight at a time, see prune and prune_channels")
    inputs = {} if inputs is None else inputs
    if method != "magnitude" and (missing := tensors.keys() - inputs.keys()):
        raise ValueError(
            f"method {method!r} needs calibration inputs for each tensor; there are none for {sorted(missing)}"
        )
    if scope == "global":
        shares = _shares(tensors, sparsity, pattern, method, inputs, options)
        options = {**options, "per": "tensor"}
    done: dict[str, Floats] = {}
    for name, w in tensors.items():
        share = sparsity if scope == "layer" or shares is None else shares[name]
        try:
            done[name] = prune(w, share, pattern, method=method, inputs=inputs.get(name), **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"tensor {name!r}: {error}") from None
    return done


def _shares(
    tensors: Mapping[str, Array],
    sparsity: float | None,
    pattern: str,
    method: Method,
    inputs: Mapping[str, Inputs],
    options: Mapping[str, Any],
) -> dict[str, float] | None:
    """The sparsity of each tensor, when the least scores of all go. None for n:m."""
    form = parse(pattern, sparsity, options.get("block", (4, 1)), options.get("m", 4))
    if options.get("per") == "output":
        raise ValueError("per is 'output', but scope is 'global': wanted one of both")
    if form.m:
        return None
    grids = {}
    for name, w in tensors.items():
        try:
            w = weight(w)
            matrix = w.reshape(len(w), math.prod(w.shape[1:]))
            seen = statistics(inputs[name], matrix.shape[1]) if method != "magnitude" else None
            if method == "sparsegpt" and seen is not None:
                factor = inverse_factor(seen.damped(options.get("damping", 0.01)))
                grids[name] = form.collect(np.square(matrix, dtype=np.float64) / np.square(factor).sum(0))
            else:
                grids[name] = block_scores(matrix, form, method, None, w.shape, seen).astype(np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"tensor {name!r}: {error}") from None
    flat = np.concatenate([np.zeros(0), *(grid.reshape(-1) for grid in grids.values())])
    chosen = least(flat, part_of(form.sparsity, len(flat)))
    shares, start = {}, 0
    for name, grid in grids.items():
        shares[name] = float(np.mean(chosen[start : start + grid.size])) if grid.size else 0.0
        start += grid.size
    return shares
