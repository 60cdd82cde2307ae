"""`compress_`: the linear layers and convolutions of a model, by a recipe, in the model itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, fx, nn

import pycompress as pc
from pycompress import pipeline, qat
from pycompress.io import Info, Tensors
from pycompress.ops import Activation
from pycompress.recipe import Recipe

from . import ops
from .integer import convert_
from .modules import EXTRA, Conv2d, Linear, MaxPool2d, read_state
from .observe import PASSING, Observed, is_relu, observe, padding_of

__all__ = ["compress_", "load_"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_NAMED = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish", nn.SiLU: "silu"}


def _activation(module: Any) -> Activation:
    """What `pycompress.linear` calls the activation that a module computes; None for any other module."""
    if type(module) is nn.Hardtanh:
        return float(module.min_val), float(module.max_val)
    if type(module) is nn.GELU and module.approximate == "none":
        return "gelu"
    if type(module).__name__ == "GELUActivation" and getattr(module, "act", None) is F.gelu:  # of transformers
        return "gelu"
    return _NAMED.get(type(module))


def compress_(
    model: nn.Module,
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    calibration: Iterable[Any] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> nn.Module:
    """Compress the nn.Linear and nn.Conv2d of a model by a recipe, in place, and return the model.

    recipe: as in `pycompress.compress`; names of tensors are those of `model.state_dict()`. calibration: batches of
    inputs: tensors, tuples of arguments, or dicts of arguments by name; the model is run on each. progress: as in
    `pycompress.compress`.

    The layers that the recipe compresses become `Linear` and `Conv2d` of this package; any other module stays as it is,
    with one exception. What calibration shows to follow a layer directly and alone becomes part of it: a BatchNorm, and
    then an activation (ReLU, ReLU6, Hardtanh, Hardswish, SiLU, GELU); nn.Identity takes their place. Where the recipe
    fixes the ranges of activations, what goes from one layer to others only, be it through ReLU, max pooling, flatten
    or dropout, is uint8.

    `model.pycompress_report` says what was done, layer by layer, and the error of each (pycompress.report.Report). The
    state_dict of the model can be stored as safetensors, and loaded into a model that was compressed in the same way,
    or by `load_` into a new one.

    Raises ValueError for a model in training mode, for what is wrong with the recipe, and when it fits no layer.
    TypeError for what is no model. Hooks of the layers that are replaced go with them.
    """
    recipe = Recipe.of(recipe)
    names = _layers(model)
    seen = Observed()
    if isinstance(calibration, Tensor | Mapping):
        raise TypeError(f"calibration is a {type(calibration).__name__}, wanted batches of inputs: [x]")
    if calibration is not None:
        modules = [module for module in model.modules() if _is_watched(module, names)]
        seen = observe(model, list(calibration), names, modules)
    parts = {layer: _Part(layer, seen) for layer in names}
    inputs = {f"{names[layer]}.weight": rows for layer, rows in seen.samples.items()}
    source = _Weights({f"{names[layer]}.weight": part for layer, part in parts.items()})
    made = pipeline.compress(source, recipe, calibration=inputs if calibration is not None else None, progress=progress)
    for layer, part in parts.items():
        part.take(made, f"{names[layer]}.weight")
    for part in parts.values():
        part.connect(seen, parts)
    _replace(model, {layer: part for layer, part in parts.items() if part.weight is not None})
    found = made.report()
    notes = {f"{names[layer]}.weight": part.note for layer, part in parts.items()}
    layers = tuple(replace(one, note=_joined(one.note, notes[one.name])) for one in found.layers)
    model.pycompress_report = replace(found, layers=layers)
    return model


def load_(model: nn.Module, state: Mapping[str, Tensor] | str | os.PathLike[str]) -> nn.Module:
    """Make of a new float model the compressed one whose state_dict this is, in place, and return it.

    state: a state_dict of a model after `compress_`, or the path of a safetensors file with it. The layers that were
    compressed are replaced, whatever is in them; then the state is loaded. A network that `qat.convert` made is loaded
    into what `qat.prepare` makes of a new model; it need not have seen any values.

    Raises ValueError and RuntimeError for a state that does not fit the model, FormatError for one that is broken.
    """
    if isinstance(state, str | os.PathLike):
        from safetensors.torch import load_file

        state = load_file(state)
    if isinstance(model, fx.GraphModule) and any(isinstance(m, qat.Quantizer) for m in model.modules()):
        convert_(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    for key in [key for key in state if key.endswith(f".{EXTRA}")]:
        name = key.removesuffix(f".{EXTRA}")
        old = modules.get(name)
        if not isinstance(old, nn.Linear | nn.Conv2d):
            continue  # the extra state of another module
        prefix = f"{name}."
        mine = {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}
        kind = Linear if isinstance(old, nn.Linear) else Conv2d
        arrays, layer = read_state(mine)
        _check_shape(name, old, layer)
        new, absorbed = kind.restored(arrays, layer)
        new.dtype = old.weight.dtype
        if strange := [other for other in absorbed if other not in modules]:
            raise ValueError(f"{name} did the work of {strange[0]!r}, which is no module of this model")
        _put(model, name, new)
        for other in absorbed:
            _put(model, other, _instead_of(modules[other]))
    _keep_off_the_fast_path(model)
    model.load_state_dict(state)
    return model


def _check_shape(name: str, old: Any, layer: str) -> None:
    found = ops.parse(layer)
    shape, wanted = tuple(found["weight"]["shape"]), tuple(old.weight.shape)
    if (*shape, 1, 1)[:4] != (*wanted, 1, 1)[:4] or ("geometry" in found) != isinstance(old, nn.Conv2d):
        raise ValueError(f"{name!r} of the state has a weight of shape {shape}, wanted that of {old}")


def _replace(model: nn.Module, parts: Mapping[nn.Module, _Part]) -> None:
    """Put the new layers in place of the old ones, wherever these are."""
    where: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        where.setdefault(module, []).append(name)
    new: dict[str, nn.Module] = {}
    for layer, part in parts.items():
        part.names = tuple(name for module in part.absorbed for name in where[module])
        new |= dict.fromkeys(where[layer], part.module())
        new |= {name: _instead_of(module) for module in part.absorbed for name in where[module]}
    for name, module in new.items():
        _put(model, name, module)
    _keep_off_the_fast_path(model)


def _layers(model: nn.Module) -> dict[nn.Module, str]:
    """What can be replaced, with its first name."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}, wanted a torch.nn.Module")
    if type(model) in (nn.Linear, nn.Conv2d):
        raise ValueError(f"model is itself a {type(model).__name__}, which cannot be replaced: nn.Sequential(model)")
    if model.training:
        raise ValueError("model is in training mode, wanted model.eval(): compressed layers are for inference")
    found = {module: name for name, module in model.named_modules() if _has_kernel(module)}
    if not found:
        raise ValueError("model has no nn.Linear and no nn.Conv2d with parameters on the CPU")
    return found


def _has_kernel(module: nn.Module) -> bool:
    # Not subclasses, which may do something else with the weight, and no weight that is computed anew in each call.
    if type(module) not in (nn.Linear, nn.Conv2d) or not isinstance(module._parameters.get("weight"), Tensor):
        return False
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return False
    return module.weight.device.type == "cpu" and module.weight.is_floating_point()


def _is_watched(module: nn.Module, layers: Mapping[nn.Module, str]) -> bool:
    return module in layers or type(module) in (*_NORMS, *PASSING) or _activation(module) is not None


class _Part:
    """One layer on its way: the modules that become part of it, its weight, and the scales on both sides."""

    def __init__(self, layer: Any, seen: Observed) -> None:
        self.layer: Any = layer
        self.absorbed: list[nn.Module] = []
        self.names: tuple[str, ...] = ()  # of the absorbed, in the model
        self.weight: Any = None
        self.x_qparams: pc.QParams | None = None
        self.y_qparams: pc.QParams | None = None
        self.w, self.b = _floats(layer.weight), None if layer.bias is None else _floats(layer.bias)
        follower: Any = seen.follower(layer)
        # Over [B, T, C] a BatchNorm1d is one of T, not of the outputs.
        dims = {value.ndim for value in seen.values.get(layer, [])}
        norms = {(nn.BatchNorm1d, 2)} if isinstance(layer, nn.Linear) else {(nn.BatchNorm2d, 4)}
        if (
            {(type(follower), ndim) for ndim in dims} == norms
            and not follower.training
            and follower.track_running_stats
        ):
            self._fold(follower)
            self.absorbed.append(follower)
            follower = seen.follower(follower)
        self.activation = _activation(follower)
        if self.activation is not None:
            self.absorbed.append(follower)
        self.channels_last = bool(seen.channels_last & {layer, *self.absorbed})

    def _fold(self, norm: Any) -> None:
        factor = torch.rsqrt(norm.running_var.double() + norm.eps)
        factor = factor if norm.weight is None else factor * norm.weight.double()
        shift = 0 if norm.bias is None else norm.bias.double()
        b = torch.zeros_like(factor) if self.b is None else self.b.double()
        self.w = (self.w.double() * factor.view(-1, *[1] * (self.w.ndim - 1))).float()
        self.b = ((b - norm.running_mean.double()) * factor + shift).float()

    @property
    def kind(self) -> str:
        """The layer's kind, as `pycompress.io.Info` has it."""
        if isinstance(self.layer, nn.Linear):
            return "linear"
        groups = self.layer.groups
        return "conv" if groups == 1 else "depthwise" if groups == self.layer.in_channels else "grouped"

    def take(self, made: pc.CompressedModel, name: str) -> None:
        """The weight that the recipe made, or None where it left the layer alone."""
        weight = made[name]
        if isinstance(weight, np.ndarray):
            # Zeros in the weight of a convolution, or float32 as it was.
            weight = None if np.array_equal(weight, self.w.numpy()) else pc.Float32Weight(weight)
        self.weight, self.x_qparams = weight, made.x_qparams(name)

    def connect(self, seen: Observed, parts: Mapping[nn.Module, _Part]) -> None:
        """Give uint8 when all that reads the result are layers that quantize it alike."""
        if self.weight is None or self.x_qparams is None or not self.weight.quantizes:
            return
        readers, through = seen.readers([self.layer, *self.absorbed][-1])
        wanted = {parts[reader].reads() if reader in parts else None for reader in readers}
        only = wanted.pop() if len(wanted) == 1 else None
        if only is not None and not (only.zero_point and any(map(is_relu, through))):
            self.y_qparams = only
            self.absorbed += [module for module in through if isinstance(module, nn.MaxPool2d)]

    def reads(self) -> pc.QParams | None:
        """How this layer quantizes what it reads."""
        return self.x_qparams if self.weight is not None and self.weight.quantizes else None

    def module(self) -> Linear | Conv2d:
        more: dict[str, Any] = {
            "activation": self.activation,
            "x_qparams": self.x_qparams,
            "y_qparams": self.y_qparams,
            "absorbed": self.names,
        }
        made: Linear | Conv2d
        if isinstance(self.layer, nn.Linear):
            made = Linear(self.weight, self.b, **more)
        else:
            conv = self.layer
            more |= {"stride": conv.stride, "padding": padding_of(conv), "dilation": conv.dilation}
            made = Conv2d(self.weight, self.b, groups=conv.groups, channels_last=self.channels_last, **more)
        made.dtype = self.layer.weight.dtype
        return made

    @property
    def note(self) -> str:
        return _joined(f"with {', '.join(self.names)}" if self.names else "", "gives uint8" if self.y_qparams else "")


class _Weights(Tensors):
    """The weights of the layers, for the pipeline."""

    format = "torch"
    files = ()  # type: ignore[assignment]

    def __init__(self, parts: Mapping[str, _Part]) -> None:
        super().__init__()
        self._parts = parts
        for name, part in parts.items():
            shape = tuple(part.w.shape)
            self._infos[name] = Info(shape, "F32", 4 * math.prod(shape), part.kind)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._parts[name].w.numpy()


def _floats(parameter: Tensor) -> Tensor:
    return parameter.detach().float().contiguous()


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _instead_of(module: nn.Module) -> nn.Module:
    """What stays where a layer does the work of a module; pooling is still to be done, on uint8."""
    return MaxPool2d.of(module) if isinstance(module, nn.MaxPool2d) else nn.Identity()


def _keep_off_the_fast_path(model: nn.Module) -> None:
    """torch's encoder layer has a path of its own in eval mode, which takes the weights of its layers."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and isinstance(module.linear1, Linear):
            module.activation_relu_or_gelu = 0


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
