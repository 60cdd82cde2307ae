"""A compressed model: weights and plain arrays by name, in memory or mapped from a file, and what was done to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .weights.base import Weight
from .weights.qparams import QParams

if TYPE_CHECKING:
    from .io.safetensors import File
    from .recipe import Recipe
    from .report import Report

__all__ = ["CompressedModel", "compress", "load"]

Array = NDArray[Any]


class CompressedModel(Mapping[str, Any]):
    """The tensors of a model by name: a Weight, which `linear` takes, or a plain array where nothing was compressed.

    Loaded from a file, each is read from the map when it is first asked for, and checked then: FormatError when it is
    broken. The file must not be changed while it is in use; to replace it (as `save` does) is no change.
    """

    def __init__(self, tensors: Mapping[str, Weight | Array], report: Report | None = None) -> None:
        """tensors: weights and arrays by name; they are not copied. report: what `report` gives back."""
        for name, value in tensors.items():
            if not isinstance(name, str):
                raise TypeError(f"tensors has a name {name!r}, wanted a str")
            if not isinstance(value, Weight | np.ndarray):
                raise TypeError(f"tensors[{name!r}] is {type(value).__name__}, wanted a weight or an array")
        self._tensors: Mapping[str, Any] = dict(tensors)
        self._report = report

    def __getitem__(self, name: str) -> Any:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        if isinstance(self._tensors, _Mapped):
            return self._tensors.nbytes
        return sum(value.nbytes for value in self._tensors.values())

    def x_qparams(self, name: str) -> QParams | None:
        """Scale and zero point for the inputs of a layer, where the recipe fixed them (static quantization); else None.

        For `linear(x, model[name], x_qparams=model.x_qparams(name))`. KeyError for a name that the model does not have.
        """
        if name not in self:
            raise KeyError(name)
        found = next((layer.x_qparams for layer in self.report().layers if layer.name == name), None)
        return None if found is None else QParams(*found)

    def report(self) -> Report:
        """What was done to each layer: see `pycompress.report.Report`. Without a record: what each one is."""
        from .report import Layer, Report

        if self._report is None:
            rows = []
            for name, value in self.items():
                dense = 4 * int(np.prod(value.shape, dtype=np.int64))
                kind = type(value).__name__ if isinstance(value, Weight) else str(value.dtype)
                before = dense if isinstance(value, Weight) else value.nbytes
                rows.append(Layer(name, "other", tuple(value.shape), kind, before, value.nbytes))
            self._report = Report(tuple(rows))
        return self._report

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file (docs/files.md), which `load` maps. It appears at `path` when it is whole.

        Raises OSError when that cannot be done, TypeError for a dtype that safetensors has not, ValueError for two
        tensors with one name.
        """
        from .io import writer

        with writer.replacing(Path(path)) as beside:
            writer.save(beside, dict(self), self.report().as_dict())

    def __repr__(self) -> str:
        return f"CompressedModel({len(self)} tensors, {self.nbytes} bytes)"


class _Mapped(Mapping[str, Any]):
    """The tensors of a file. Weights are built at their first use, and kept: so they are packed only once."""

    def __init__(self, file: File, weights: dict[str, Any], names: list[str]) -> None:
        self._file, self._weights, self._names = file, weights, dict.fromkeys(names)
        self._built: dict[str, Weight] = {}

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self._file.entries.values())

    def __getitem__(self, name: str) -> Any:
        from .io import schema

        if name not in self._names:
            raise KeyError(name)
        if name not in self._weights:
            return self._file.array(name)
        if name not in self._built:
            try:
                self._built[name] = schema.rebuild(name, self._weights[name], self._file.array)
            except ValueError as error:
                self._file.refuse(str(error))
        return self._built[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load(path: str | os.PathLike[str]) -> CompressedModel:
    """The model in a file that `CompressedModel.save` or `pycompress compress` wrote, memory-mapped.

    The header is checked here, each weight when it is first asked for; nothing is ever unpickled. Raises FormatError
    for a file that is broken or another's, OSError for one that cannot be read.
    """
    from .io import schema
    from .io.safetensors import File
    from .report import Report

    file = File(path)
    try:
        weights, found = schema.parse(file.metadata, file.entries)
        report = Report.from_dict(found)
    except ValueError as error:
        file.refuse(str(error))
    parts = {tensor for name, stored in weights.items() for tensor in schema.tensors_of(name, stored)}
    names = [*weights, *(name for name in file.entries if name not in parts)]
    order = [layer.name for layer in report.layers]  # that of the model that was compressed
    model = CompressedModel({}, report)
    model._tensors = _Mapped(file, weights, order if sorted(order) == sorted(names) else names)
    return model


def compress(
    tensors: Mapping[str, Array] | str | os.PathLike[str],
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    calibration: Mapping[str, Any] | Callable[[Callable[..., NDArray[np.float32]]], object] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    evaluate: Callable[[CompressedModel], float] | None = None,
) -> CompressedModel:
    """Factorize, prune and quantize the weights of a model by a recipe.

    tensors: arrays by name; or the path of a model that `pycompress.io.open_tensors` reads. Matrices are [N, K],
    outputs by inputs, weights of convolutions OIHW. recipe: a preset's name ("int8", "auto"), the path of a TOML file,
    what such a file holds as a dict, or a Recipe: see docs/recipes.md. calibration: by the name of a weight, the inputs
    of its layer, float32 [samples, K], or a list of such arrays; for a convolution [samples, I * kh * kw], its patches.
    Or, much better where errors are large, a function `forward(layer)` that runs the network, and calls `layer(name,
    x, bias=None, activation=None)` as `linear` with the weight of that name: x as above, all samples at once, result
    float32 [samples, N]. It is called several times; each layer is compressed on what the compressed layers before it
    give, towards the outputs that the network had (docs/recipes.md).
    progress: called with bytes done, bytes in all, and the name of a tensor. evaluate: for recipes that search: the
    error of a whole model, which then counts against the recipe's budget in place of that of the layers.

    Returns the model in memory. To write a model that may be larger than memory, see
    `pycompress.pipeline.compress_file`, which is what the command does.

    Raises TypeError and ValueError for what is wrong with an argument, FormatError (a ValueError) for a file.
    """
    from . import pipeline

    return pipeline.compress(tensors, recipe, calibration=calibration, progress=progress, evaluate=evaluate)
