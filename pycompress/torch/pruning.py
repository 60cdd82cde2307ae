"""Pruning while a network is trained: zeros that grow, in the patterns that the sparse kernels run.

    pruner = GradualPruner(model, 0.8, "block", block=(16, 1), begin=100, end=1000, every=20)
    for x, y in batches:
        ...; optimizer.step()
        pruner.step()                     # once after each step of the optimizer
    pruner.finish()                       # the zeros stay, the masks go

A mask is a parametrization of a layer's weight (torch.nn.utils.parametrize): it acts on the weight before anything else
sees it, so also before the fake quantizer of a model that `pycompress.qat.prepare` made. Such a model is the one to
prune, since `prepare` makes a copy. `qat.convert` then runs the pruned layers by the sparse kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pycompress._arguments import interval, whole
from pycompress._patterns import Pattern, block_scores, fraction, least, parse, part_of

__all__ = ["GradualPruner", "MovementPruner", "cubic_sparsity"]


def cubic_sparsity(step: int, final: float, initial: float = 0.0, begin: int = 0, end: int = 1) -> float:
    """The part of zeros at a step: s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3, s_i before t_0, s_f from t_1 on.

    Zhu and Gupta, "To prune, or not to prune", 2017, eq. 1, with t_1 = t_0 + n dt.
    """
    if step >= end:
        return final
    progress = (step - begin) / (end - begin) if step > begin else 0.0
    return final + (initial - final) * (1 - progress) ** 3


class _Mask(nn.Module):
    """A weight times its mask. `form` is over the weight as a matrix [N, K]."""

    mask: Tensor

    def __init__(self, weight: Tensor, form: Pattern) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("mask", torch.ones_like(weight, requires_grad=False))

    def forward(self, w: Tensor) -> Tensor:
        return w * self.mask

    def grid(self, w: Tensor) -> Any:
        """A score for each block, or for each element of an n:m pattern."""
        matrix = w.detach().float().cpu().numpy().reshape(len(w), -1)
        return block_scores(matrix, self.form, "magnitude", None, tuple(w.shape), None)

    def set(self, keep: Any) -> None:
        self.mask.copy_(torch.from_numpy(np.ascontiguousarray(keep)).view(self.mask.shape))


class _Move(torch.autograd.Function):
    """w * mask; the scores of the mask get the gradient that each of its elements would: straight through."""

    @staticmethod
    def forward(context: Any, w: Tensor, scores: Tensor, mask: Tensor, block: tuple[int, int]) -> Tensor:
        context.save_for_backward(w, mask)
        context.block = block
        return w * mask

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        w, mask = context.saved_tensors
        return gradient * mask, _collect(gradient * w, context.block), None, None


def _collect(values: Tensor, block: tuple[int, int]) -> Tensor:
    """Sums over the blocks of a weight as a matrix; the last ones are cut off."""
    matrix = values.flatten(1)
    n, k = matrix.shape
    rows, columns = -(-n // block[0]), -(-k // block[1])
    padded = F.pad(matrix, (0, columns * block[1] - k, 0, rows * block[0] - n))
    return padded.view(rows, block[0], columns, block[1]).sum((1, 3))


class _MovementMask(_Mask):
    def __init__(self, weight: Tensor, form: Pattern) -> None:
        super().__init__(weight, form)
        grid = form.grid((len(weight), weight[0].numel()))
        self.scores = nn.Parameter(torch.zeros(grid, dtype=weight.dtype, device=weight.device))

    def forward(self, w: Tensor) -> Tensor:
        return _Move.apply(w, self.scores, self.mask, self.form.block)

    def grid(self, w: Tensor) -> Any:
        return self.scores.detach().double().cpu().numpy()


class _Pruner:
    """The schedule, and the masks of all layers."""

    _kind: type[_Mask] = _Mask

    def __init__(
        self,
        model: nn.Module,
        sparsity: float | None = None,
        pattern: str = "unstructured",
        *,
        begin: int = 0,
        end: int,
        every: int = 1,
        initial: float = 0.0,
        block: int | tuple[int, int] = (4, 1),
        m: int = 4,
        axis: int = 0,
        scope: str = "layer",
        layers: Iterable[str] | None = None,
        skip: Iterable[str] = (),
    ) -> None:
        self.begin = whole("begin", begin, 0)
        self.end = whole("end", end, self.begin)
        self.every = whole("every", every, 1)
        if scope not in ("layer", "global"):
            raise ValueError(f"scope is {scope!r}, wanted 'layer' or 'global'")
        if axis not in (0, 1):
            raise ValueError(f"axis is {axis!r}, wanted 0 (outputs) or 1 (inputs)")
        channel = pattern == "channel"
        form = Pattern((1, 1), fraction(sparsity)) if channel else parse(pattern, sparsity, block, m)
        self.sparsity, self.pattern, self.scope = form.sparsity, pattern, scope
        self.initial = interval("initial", initial, 0, max(form.sparsity, 0.0))
        self.step_count = 0
        self._layers: dict[str, Any] = _chosen(model, layers, set(skip))
        self._masks: dict[str, Any] = {}
        for name, layer in self._layers.items():
            if any(isinstance(p, _Mask) for p in _of(layer)):
                raise ValueError(f"layer {name!r} has a mask already: finish() its pruner first")
            own = form
            if channel:
                per_input = math.prod(layer.weight.shape[2:])
                own = Pattern(
                    (1, layer.weight[0].numel()) if axis == 0 else (len(layer.weight), per_input), sparsity or 0
                )
            self._masks[name] = self._kind(layer.weight, own)
        for name, layer in self._layers.items():
            parametrize.register_parametrization(layer, "weight", self._masks[name], unsafe=True)
            layer.pruned_block = None if channel else form.block  # of what `qat.convert` makes of it
        self._finished = False

    @property
    def masks(self) -> dict[str, Tensor]:
        """By the names of the layers: 1 where a weight stays, 0 where it goes, in the shapes of the weights."""
        return {name: mask.mask for name, mask in self._masks.items()}

    def zeros(self) -> dict[str, float]:
        """The part of zeros in each weight, by name."""
        with torch.no_grad():
            return {name: float((layer.weight == 0).float().mean()) for name, layer in self._layers.items()}

    def step(self) -> float:
        """Call it once after each step of the optimizer. The first call is step 0; masks change at `begin`, every
        `every` steps after it, and at `end`. Returns the part of zeros that the schedule wants now.
        """
        self._check()
        t, self.step_count = self.step_count, self.step_count + 1
        now = cubic_sparsity(t, self.sparsity, self.initial, self.begin, self.end)
        if self.begin <= t <= self.end and ((t - self.begin) % self.every == 0 or t == self.end):
            self._update(now)
        return now if t >= self.begin else 0.0

    @torch.no_grad()
    def _update(self, sparsity: float) -> None:
        part = sparsity / self.sparsity if self.sparsity else 0.0
        grids = {name: mask.grid(_original(self._layers[name])) for name, mask in self._masks.items()}
        if self.scope == "layer" or any(mask.form.m for mask in self._masks.values()):
            for name, mask in self._masks.items():
                mask.set(mask.form.mask(grids[name], False, _matrix(mask.mask), part))
            return
        flat = np.concatenate([np.zeros(0), *(np.asarray(g, np.float64).reshape(-1) for g in grids.values())])
        keep, start = ~least(flat, part_of(sparsity, len(flat))), 0
        for name, mask in self._masks.items():
            size = grids[name].size
            own = keep[start : start + size].reshape(grids[name].shape)
            mask.set(mask.form.spread(own, _matrix(mask.mask)))
            start += size

    def finish(self) -> dict[str, float]:
        """Take the masks away; their zeros stay, in the same parameters. Returns `zeros()`.

        Before step `end` has come, the sparsity is what it is so far. A second call raises RuntimeError.
        """
        self._check()
        self._finished = True
        for layer in self._layers.values():
            own = type(layer)  # deep copies have the same class, from which torch is about to delete the weight
            layer.__class__ = type(own.__name__, own.__bases__, dict(own.__dict__))
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        return self.zeros()

    def _check(self) -> None:
        if self._finished:
            raise RuntimeError("this pruner is finished: its masks are gone")


class GradualPruner(_Pruner):
    """Magnitude pruning that grows from `initial` to `sparsity` over the steps from `begin` to `end`.

    Parameters
    ----------
    model
        Any module; its Linear and Conv2d layers are pruned where they lie, grouped convolutions only if named.
    sparsity, pattern, block, m, axis
        As in `pycompress.prune`, and with the same zeros: "unstructured", "block", "n:m" (of which 1 - n/m is the
        sparsity; until then the fraction of the zeros to come), "channel", in which outputs (axis 0) or inputs (axis
        1) become zero and the shape stays.
    begin, end, every
        Steps, counted by calls of `step`: see there. begin = end prunes at once.
    initial
        Sparsity at `begin`.
    scope
        "layer": the same sparsity in each. "global": the least of all together; n:m is per group in any case.
    layers, skip
        Names of modules, as in `named_modules()`: those to prune (None for all), those to leave.

    A masked weight keeps its value beneath the mask and gets no gradient; it returns when others become smaller.

    Raises ValueError for a value out of range, names that are no such layers, and a layer with a mask already.
    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017.
    """


class MovementPruner(_Pruner):
    """As `GradualPruner`, but what goes is learned: scores that grow where training moves a weight away from zero.

    Each block (element, for "unstructured" and "n:m"; channel) has a score, which begins at 0 and gets the
    straight-through gradient of its mask, the sum of dL/dW' * W over the block, W' = W * mask. Those of the highest
    scores stay. `scores` are parameters of the model: make the optimizer after the pruner, best with a learning rate of
    their own and without weight decay:

        pruner = MovementPruner(model, 0.8, end=1000)
        weights = [p for p in model.parameters() if not any(p is s for s in pruner.scores)]
        optimizer = torch.optim.AdamW([{"params": weights}, {"params": pruner.scores, "lr": 1e-2, "weight_decay": 0}])

    Sanh, Wolf and Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020; blocks: Lagunas et al.,
    "Block Pruning For Faster Transformers", EMNLP 2021.
    """

    _kind = _MovementMask

    @property
    def scores(self) -> list[nn.Parameter]:
        """One for each layer, [ceil(N / R), ceil(K / C)] for blocks of R x C of the weight as a matrix."""
        return [mask.scores for mask in self._masks.values()]


def _chosen(model: nn.Module, layers: Iterable[str] | None, skip: set[str]) -> dict[str, nn.Module]:
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    for name in (*(layers or ()), *skip):
        if name not in found:
            raise ValueError(f"the model has no Linear or Conv2d named {name!r}; it has {', '.join(found)}")
    wanted = [n for n, m in found.items() if getattr(m, "groups", 1) == 1] if layers is None else list(layers)
    chosen = {n: found[n] for n in wanted if n not in skip}
    if not chosen:
        raise ValueError("no layer is left to prune")
    return chosen


def _of(layer: nn.Module) -> Iterable[nn.Module]:
    return layer.parametrizations.weight if parametrize.is_parametrized(layer, "weight") else ()


def _original(layer: nn.Module) -> Tensor:
    """The weight beneath the mask."""
    parts = layer.parametrizations.weight
    before = parts.original
    for part in parts:
        if isinstance(part, _Mask):
            break
        before = part(before)
    return before


def _matrix(w: Tensor) -> tuple[int, int]:
    return len(w), w[0].numel()
