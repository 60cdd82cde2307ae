"""Calibration in the order of the network: each layer on what the compressed layers before it give, towards the outputs
of the network as it was.

The user's function runs the network, and calls `layer(name, x, bias, activation)` in place of each `linear`. In a first
run the weights are those of the source, and the inputs are kept. In a later run a layer is compressed at its call, and
its output is that of the compressed weight: so its error reaches the layers to come, which make up for what of it they
can. For that a weight first becomes the one whose outputs on the inputs at hand are nearest to the source's outputs
(`matched`; Nagel et al., AdaRound, ICML 2020, call it asymmetric reconstruction).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io import Tensors
from ..ops import linear
from .layers import Made, Samples, make
from .store import Store, digest_of, key_of
from .work import Done, Failed, Task, finish, matrix, named

__all__ = ["Forward", "inputs_of", "remake"]

Floats = NDArray[np.float32]
Forward = Callable[[Callable[..., Floats]], object]
"""The user's function: it is given `layer(name, x, bias=None, activation=None)`, and runs the network with it."""


def _rows(name: str, x: Any, tensors: Tensors) -> Floats:
    if name not in tensors:
        raise ValueError(f"calibration called layer({name!r}), and the model has no tensor of that name")
    samples = Samples.of(name, x, None)
    assert samples.rows is not None
    return samples.rows


def _product(
    name: str, x: Floats, w: Any, bias: Any, activation: Any, x_qparams: tuple[float, int] | None = None
) -> Floats:
    if x.shape[1] != math.prod(w.shape[1:]):
        raise ValueError(f"calibration called layer({name!r}) with x {x.shape}, wanted [samples, {w.shape[1]}]")
    if len(w.shape) == 4:  # of a convolution x has the patches
        w = np.asarray(w if isinstance(w, np.ndarray) else w.todense()).reshape(w.shape[0], -1)
    y: Floats = linear(x, w, bias, activation=activation, x_qparams=x_qparams)
    return y


def inputs_of(forward: Forward, tensors: Tensors, transposed: Mapping[str, bool]) -> dict[str, Floats]:
    """The inputs of each layer in the network as it is, float32 [samples, K], by the name of its weight.

    ValueError for a name that is no tensor, or a call without samples or of another width.
    """
    seen: dict[str, Floats] = {}

    def layer(name: str, x: Any, bias: Any = None, activation: Any = None) -> Floats:
        rows = _rows(name, x, tensors)
        seen.setdefault(name, rows)
        return _product(name, rows, matrix(tensors, name, transposed.get(name, False)), bias, activation)

    forward(layer)
    if not seen:
        raise ValueError("calibration called layer(name, x) for no layer")
    return seen


def remake(
    forward: Forward,
    tasks: Sequence[Task],
    tensors: Tensors,
    transposed: Mapping[str, bool],
    inputs: Mapping[str, Floats],
    store: Store,
    told: Callable[[Task], None],
) -> list[Done | Failed]:
    """Every task done: of layers that the network calls in the order of the calls, the others without inputs.

    One task for each tensor at most. inputs: what `inputs_of` gives.
    """
    by_name = {task.name: task for task in tasks}
    done: dict[str, Done | Failed] = {}

    def one(task: Task, x: Floats | None) -> Done | Failed:
        w = matrix(tensors, task.name, task.transposed)
        samples = None if x is None else Samples(x)
        reference = None if x is None else inputs[task.name]
        arrays = [w] if x is None or reference is None else [w, x, reference]
        key = key_of(task.name, digest_of(arrays), task.steps, task.layer, task.seed)
        if (found := store.get(key)) is not None:
            return Done(task, key, found.layer)

        def made() -> Made:
            return named(task, lambda: make(w, task.steps, task.layer, samples, task.seed, reference))

        return finish(task, key, w.shape, made, store)

    def layer(name: str, x: Any, bias: Any = None, activation: Any = None) -> Floats:
        rows = _rows(name, x, tensors)
        if name in by_name and name not in done:
            done[name] = one(by_name[name], rows)
            told(by_name[name])
        found = done.get(name)
        if isinstance(found, Done) and (piece := store.get(found.key)) is not None:
            return _product(name, rows, piece.weight(), bias, activation, piece.layer.x_qparams)
        return _product(name, rows, matrix(tensors, name, transposed.get(name, False)), bias, activation)

    forward(layer)
    for task in tasks:
        if task.name not in done:
            done[task.name] = one(task, None)
            told(task)
    return [done[task.name] for task in tasks]
