"""All layers: converted, measured, chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from .. import _machine
from ..io import Tensors
from ..io.safetensors import CODES
from ..model import CompressedModel
from ..report import Candidate, Layer, Report
from ..weights import Weight
from .inorder import Forward, remake
from .plan import Plan, Planned
from .search import MARGIN, Choice, choose
from .store import Piece, Store
from .times import measure
from .work import Done, Failed, Task, Workers, matrix

__all__ = ["Finished", "Progress", "run_plan"]

Progress = Callable[[str, str, int, int], None]
"""Told: the phase, the name of a tensor, bytes done, bytes in all."""

ROUNDS, SEARCH_ROUNDS = 5, 11


@dataclass(frozen=True)
class Finished:
    """The piece of each tensor that was compressed, and the report."""

    pieces: Mapping[str, Piece]
    report: Report

    def tensors(self, source: Tensors) -> dict[str, Weight | NDArray[Any]]:
        """Every tensor of the model, by name."""
        return {name: self.pieces[name].weight() if name in self.pieces else source[name] for name in source}


def run_plan(
    plan: Plan,
    source: Tensors,
    calibration: Mapping[str, Any] | None,
    store: Store,
    workers: Workers,
    progress: Progress,
    evaluate: Callable[[CompressedModel], float] | None,
    *,
    times: bool,
    forward: Forward | None = None,
) -> Finished:
    """Take the plan's tensors through their steps, measure what they take, and choose where there is a choice.

    forward: the network that gave the calibration inputs. What is chosen is then made again, layer by layer as it runs
    (inorder.py); what there is no choice of is made only so.
    """
    recipe = plan.recipe
    again = None if forward is None else _InOrder(plan, source, calibration or {}, store, forward, progress)
    if again is not None and not recipe.searches:
        done = again([task for one in plan.tensors for task in one.tasks], told=True)
        made: dict[str, list[Done]] = {one.name: [done[one.name]] if one.name in done else [] for one in plan.tensors}
        failed: dict[str, str] = {}
    else:
        made, failed = _convert(plan, source, calibration, store, workers, progress)
    seconds = _measure(plan, source, store, made, progress) if times else {}
    searched = [one for one in plan.tensors if one.searched and seconds.get(one.name)]
    choice = _choose(plan, searched, made, seconds, source, store, evaluate, again)
    chosen = {one.name: k - 1 for one, k in zip(searched, choice.chosen, strict=True)}
    if again is not None and recipe.searches:
        picked = {
            one.name: made[one.name][chosen.get(one.name, -1 if one.searched else 0)]
            for one in plan.tensors
            if made[one.name] and chosen.get(one.name, -1 if one.searched else 0) >= 0
        }
        for name, way in again([way.task for way in picked.values()]).items():
            k = chosen.get(name, 0)
            made[name] = [*made[name][:k], way, *made[name][k + 1 :]]
    pieces: dict[str, Piece] = {}
    layers = []
    for one in plan.tensors:
        k = chosen.get(one.name, -1 if one.searched else 0)
        layer = _layer(one, source, made[one.name], k, seconds.get(one.name))
        if k < 0 and not made[one.name] and one.name in failed:
            layer = replace(layer, note=f"no candidate can be made: {failed[one.name]}")
        layers.append(layer)
        if one.tasks and k >= 0:
            pieces[one.name] = _piece(store, made[one.name][k])
    about = _machine.cpu_info()
    cpu = ", ".join(str(about[key]) for key in ("name", "isa", "backend") if about.get(key))
    report = Report(tuple(layers), recipe.label)
    if times:
        threads = recipe.threads or _machine.get_num_threads()
        report = replace(report, batch=recipe.batch, threads=threads, cpu=cpu)
    if recipe.searches:
        report = replace(report, budget=recipe.budget if evaluate is None else None, path=choice.path)
    return Finished(pieces, report)


def _convert(
    plan: Plan,
    source: Tensors,
    calibration: Mapping[str, Any] | None,
    store: Store,
    workers: Workers,
    progress: Progress,
) -> tuple[dict[str, list[Done]], dict[str, str]]:
    """Every task done; those of a tensor in the order of the plan. And why one of a tensor's candidates was not."""
    tasks = [task for one in plan.tensors for task in one.tasks]
    total, done = sum(task.nbytes for task in tasks), 0
    progress("converting", "", 0, total)
    found: dict[str, dict[int, Done]] = {one.name: {} for one in plan.tensors}
    failed: dict[str, str] = {}
    for one in workers.run(tasks, source, calibration, store):
        if isinstance(one, Failed):
            failed[one.task.name] = one.why
        else:
            found[one.task.name][one.task.way] = one
        done += one.task.nbytes
        progress("converting", one.task.name, done, total)
    return {name: _different([ways[k] for k in sorted(ways)]) for name, ways in found.items()}, failed


def _different(ways: list[Done]) -> list[Done]:
    """Without what came out like one before it: a step that is not worth it is left out of a weight."""
    first = {(way.layer.label, way.layer.nbytes, way.layer.error): way for way in reversed(ways)}
    return [way for way in ways if first[way.layer.label, way.layer.nbytes, way.layer.error] is way]


class _InOrder:
    """The given tasks made in the order of the network, of what `forward` runs."""

    def __init__(
        self,
        plan: Plan,
        source: Tensors,
        inputs: Mapping[str, Any],
        store: Store,
        forward: Forward,
        progress: Progress,
    ) -> None:
        self._source, self._inputs, self._store, self._forward = source, inputs, store, forward
        self._transposed = {one.name: one.transposed for one in plan.tensors}
        self._progress = progress

    def __call__(self, tasks: list[Task], told: bool = False) -> dict[str, Done]:
        """By name, without those that could not be made. told: say how far it is."""
        total, done = sum(task.nbytes for task in tasks), 0

        def step(task: Task) -> None:
            nonlocal done
            done += task.nbytes
            if told:
                self._progress("converting", task.name, done, total)

        if told:
            self._progress("converting", "", 0, total)
        found = remake(self._forward, tasks, self._source, self._transposed, self._inputs, self._store, step)
        return {one.task.name: one for one in found if isinstance(one, Done)}


def _measure(
    plan: Plan, source: Tensors, store: Store, made: Mapping[str, list[Done]], progress: Progress
) -> dict[str, list[float]]:
    """Seconds of each tensor that was converted: in float32, then in each way. Here, where nothing else runs now."""
    recipe, measured = plan.recipe, {}
    todo = [one for one in plan.tensors if made[one.name] and one.layer != "embedding"]
    total, done = sum(one.info.nbytes for one in todo), 0
    progress("measuring", "", 0, total)
    for one in todo:
        ways = made[one.name]
        threads = recipe.threads or _machine.get_num_threads()

        def take(one: Planned = one, ways: list[Done] = ways, threads: int = threads) -> list[float]:
            w = matrix(source, one.name, one.transposed)
            weights = [(_piece(store, way).weight(), way.layer.x_qparams) for way in ways]
            return measure(w, weights, one.layer, recipe.batch, threads, SEARCH_ROUNDS if one.searched else ROUNDS)

        about = _machine.cpu_info()
        what = [[way.key for way in ways], recipe.batch, threads, about["name"], about["isa"], about["backend"]]
        measured[one.name] = store.note(hashlib.blake2b(json.dumps(what).encode(), digest_size=20).hexdigest(), take)
        done += one.info.nbytes
        progress("measuring", one.name, done, total)
    return measured


def _choose(
    plan: Plan,
    searched: list[Planned],
    made: Mapping[str, list[Done]],
    seconds: Mapping[str, list[float]],
    source: Tensors,
    store: Store,
    evaluate: Callable[[CompressedModel], float] | None,
    again: _InOrder | None,
) -> Choice:
    recipe = plan.recipe
    most = recipe.layer_budget
    if most is None:  # what `evaluate` gives has no common measure with the errors of layers
        most = 4 * recipe.budget if evaluate is None else 1.0
    errors = [[0.0, *(_within(way.layer.error, most) for way in made[one.name])] for one in searched]
    fixed = [
        error
        for one in plan.tensors
        if one.tasks and not one.searched
        if (error := made[one.name][0].layer.error) is not None
    ]

    def whole(chosen: tuple[int, ...]) -> float:
        ways = {one.name: made[one.name][k - 1] for one, k in zip(searched, chosen, strict=True) if k}
        ways |= {one.name: made[one.name][0] for one in plan.tensors if one.tasks and not one.searched}
        if again is not None:  # what is judged is what will be made
            ways |= again([way.task for way in ways.values()])
        pieces = {name: _piece(store, way) for name, way in ways.items()}
        assert evaluate is not None
        return float(evaluate(CompressedModel(Finished(pieces, Report()).tensors(source))))

    times = [seconds[one.name] for one in searched]
    return choose(times, errors, recipe.budget, fixed, whole if evaluate is not None else None)


def _within(error: float | None, most: float) -> float:
    """Infinity for what is not to be chosen."""
    return float("inf") if error is None or error > most else error


def _piece(store: Store, done: Done) -> Piece:
    piece = store.get(done.key)
    if piece is None:
        raise OSError(f"the finished part {done.key} of {done.task.name!r} is gone from the journal")
    return piece


def _layer(one: Planned, source: Tensors, ways: list[Done], chosen: int, seconds: list[float] | None) -> Layer:
    """The row of the report. chosen: -1 for float32."""
    tensor = source.tensor(one.name)
    kept = _NAMES.get(tensor.dtype, tensor.dtype)
    if not ways:
        return Layer(one.name, one.layer, one.info.shape, kept, one.info.nbytes, tensor.nbytes, note=one.note)
    if chosen < 0:
        note = "nothing that was tried is faster" if seconds else "there is no operation to measure it by"
        if seconds and min(seconds[1:]) < (1 - MARGIN) * seconds[0]:
            note = "what is faster would exceed the budget of error"
        layer = Layer(one.name, one.layer, ways[0].layer.shape, kept, one.info.nbytes, tensor.nbytes, 0.0, note=note)
    else:
        layer = ways[chosen].layer
    if seconds:
        layer = replace(layer, seconds_before=seconds[0], seconds=seconds[chosen + 1])
    if one.searched:
        candidates = tuple(
            Candidate(way.layer.label, way.layer.nbytes, way.layer.error, seconds[k + 1] if seconds else None)
            for k, way in enumerate(ways)
        )
        layer = replace(layer, candidates=candidates)
    return layer


_NAMES = {code: dtype.name for dtype, code in CODES.items()} | {"BF16": "bfloat16"}
