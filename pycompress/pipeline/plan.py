"""Which steps each tensor is taken through: all that can be wrong with a recipe for a model is found here, before any
work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io import Info, Tensors
from ..io.safetensors import CODES
from ..recipe import Recipe, Steps
from .layers import kind_of
from .work import Task

__all__ = ["InMemory", "Plan", "Planned", "make_plan"]


class InMemory(Tensors):
    """A mapping of arrays. TypeError for what is no array, or has a dtype that no file could hold."""

    format = "memory"
    files = ()  # type: ignore[assignment]

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(tensors, Mapping):
            raise TypeError(f"tensors is {type(tensors).__name__}, wanted a mapping of names to arrays, or a path")
        self._tensors = tensors
        for name, value in tensors.items():
            if not isinstance(name, str):
                raise TypeError(f"tensors has a name {name!r}, wanted a str")
            a = np.asarray(value)
            code = CODES.get(a.dtype.newbyteorder("="))
            if code is None:
                raise TypeError(f"tensors[{name!r}] is an array of {a.dtype}, wanted {', '.join(map(str, CODES))}")
            self._infos[name] = Info(a.shape, code, a.nbytes)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.asarray(self._tensors[name])


@dataclass(frozen=True)
class Planned:
    """One tensor: its kind of layer, and the tasks of which one is to be (none: it stays as it is)."""

    name: str
    layer: str
    info: Info
    transposed: bool
    tasks: tuple[Task, ...] = ()
    searched: bool = False
    note: str = ""


@dataclass(frozen=True)
class Plan:
    recipe: Recipe
    tensors: tuple[Planned, ...]


def make_plan(tensors: Tensors, recipe: Recipe, calibration: Mapping[str, Any] | None, *, later: bool = False) -> Plan:
    """The steps of each tensor. ValueError for steps that need what is not there, or calibration of no tensor.

    later: calibration inputs are still to come.
    """
    if calibration is not None:
        if not isinstance(calibration, Mapping):
            raise TypeError(f"calibration is {type(calibration).__name__}, wanted a mapping of names to arrays")
        if strange := [name for name in calibration if name not in tensors]:
            raise ValueError(f"calibration has inputs of {strange[0]!r}, and the model has no tensor of that name")
    planned = tuple(_planned(name, tensors.info(name), recipe, calibration, later) for name in tensors)
    if not any(one.tasks for one in planned):
        raise ValueError(f"recipe {recipe.label!r} fits none of the {len(planned)} tensors")
    return Plan(recipe, planned)


def _planned(name: str, info: Info, recipe: Recipe, calibration: Mapping[str, Any] | None, later: bool) -> Planned:
    layer = kind_of(name, info)
    rule = None if layer == "other" else recipe.rule(name, layer)
    transposed = (
        len(info.shape) == 2 and layer != "embedding" and (info.transposed or (rule is not None and rule.transposed))
    )
    if rule is None or (not rule.candidates and rule.steps == Steps()):
        return Planned(name, layer, info, transposed)
    tried = rule.candidates or (rule.steps,)
    possible: list[Task] = []
    for steps in tried:
        # In a search zeros in the weight of a convolution are no use: its kernels multiply with them.
        useless = layer == "conv" and steps.prune is not None
        if rule.candidates and (useless or layer not in steps.layers):
            continue
        if layer not in steps.layers:
            raise ValueError(f"tensor {name!r} is of a layer {layer!r}, for which there is no {steps}")
        needs = _needs_inputs(steps)
        if needs and not later and (calibration is None or name not in calibration):
            raise ValueError(f"tensor {name!r}: {needs} needs calibration inputs, and there are none for it")
        optional = bool(rule.candidates)
        possible.append(Task(name, len(possible), layer, steps, transposed, recipe.seed, info.nbytes, optional))
    note = "" if possible else "no candidate is for this kind of layer"
    return Planned(name, layer, info, transposed, tuple(possible), bool(rule.candidates), note)


def _needs_inputs(steps: Steps) -> str | None:
    """What in the steps cannot be done without calibration inputs."""
    if steps.prune is not None and steps.prune.method in ("wanda", "sparsegpt", "gradual"):
        return f"method {steps.prune.method!r}"
    if steps.quantize is not None and steps.quantize.rounding == "gptq":
        return "rounding 'gptq'"
    if steps.quantize is not None and steps.quantize.activations != "dynamic":
        return f"activations {steps.quantize.activations!r}"
    return None
