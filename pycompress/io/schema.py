"""What a compressed model is in a safetensors file: docs/files.md says it to the byte.

A weight is stored as the arguments of its constructor. Arrays are tensors named `<weight>/<argument>`, weights among
the arguments (the factors of a LowRankWeight) the same one level deeper; all else, and the kind, is JSON in the
metadata. So this file knows no kind: one that is added to `pycompress.weights` can be stored as it is."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import weights as kinds
from .._errors import FormatError
from ..weights.base import Weight

__all__ = ["FORMAT", "VERSION", "Stored", "describe", "is_compressed", "metadata", "parse", "rebuild", "tensors_of"]

Array = NDArray[Any]

FORMAT = "pycompress"
VERSION = 1
MAX_DEPTH = 3  # weights within weights

Stored = dict[str, Any]  # a weight's entry in the metadata: kind, shape, arrays, weights, values


def describe(name: str, weight: Weight) -> tuple[Stored, dict[str, Array]]:
    """A weight's entry in the metadata, and its arrays by the names of their tensors."""
    stored: Stored = {"kind": type(weight).__name__, "shape": list(weight.shape)}
    if kinds.__dict__.get(stored["kind"]) is not type(weight):
        raise TypeError(f"{name!r} is a {type(weight).__name__}, which is no kind of pycompress.weights")
    arrays: dict[str, Array] = {}
    arguments = weight.__reduce__()[1]  # what pickle keeps as well: the constructor's, in their order
    for argument, value in zip(inspect.signature(type(weight)).parameters, arguments, strict=False):
        if value is None:
            continue  # the constructor's default
        if isinstance(value, Weight):
            inner, theirs = describe(f"{name}/{argument}", value)
            stored.setdefault("weights", {})[argument] = inner
            arrays |= theirs
        elif isinstance(value, np.ndarray):
            stored.setdefault("arrays", []).append(argument)
            arrays[f"{name}/{argument}"] = value
        else:
            stored.setdefault("values", {})[argument] = _json_of(value)
    return stored, arrays


def _json_of(value: Any) -> Any:
    """A number, a string or a sequence of these as JSON has it: no NumPy scalars, no tuples."""
    if isinstance(value, tuple | list):
        return [_json_of(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def metadata(weights: Mapping[str, Stored], report: Any) -> dict[str, str]:
    """The strings of the header."""
    return {
        "format": FORMAT,
        "pycompress.version": str(VERSION),
        "pycompress.weights": json.dumps(weights, separators=(",", ":"), ensure_ascii=False),
        "pycompress.report": json.dumps(report, separators=(",", ":"), ensure_ascii=False),
    }


def is_compressed(found: Mapping[str, str]) -> bool:
    """Whether the metadata of a file say that it is one of ours."""
    return found.get("format") == FORMAT


def parse(found: Mapping[str, str], tensors: Mapping[str, Any]) -> tuple[dict[str, Stored], Any]:
    """The weights' entries and the report from the metadata of a file with these tensors.

    FormatError for what `metadata` does not write, for a weight whose tensors are not there, or that two would share.
    """
    if not is_compressed(found):
        raise FormatError(
            f"format in the metadata is {found.get('format')!r}, wanted {FORMAT!r}, as `pycompress compress` has it"
        )
    if found.get("pycompress.version") != str(VERSION):
        raise FormatError(f"version {found.get('pycompress.version')!r} of the schema, and this one reads {VERSION}")
    weights = _json(found, "pycompress.weights", dict)
    report = _json(found, "pycompress.report", dict)
    taken: set[str] = set()
    for name, stored in weights.items():
        if name in tensors:
            raise FormatError(f"{name!r} is both a tensor and a compressed weight")
        _check(name, stored, tensors, taken, 1)
    return weights, report


def _json(found: Mapping[str, str], key: str, wanted: type) -> Any:
    try:
        value = json.loads(found[key], parse_constant=_no_constant)
    except (KeyError, ValueError, RecursionError) as error:
        raise FormatError(f"{key} in the metadata is no JSON: {error}") from None
    if not isinstance(value, wanted):
        raise FormatError(f"{key} in the metadata is no JSON object")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _check(name: str, stored: Any, tensors: Mapping[str, Any], taken: set[str], depth: int) -> None:
    """FormatError unless an entry has the form that `describe` gives it."""
    if not isinstance(stored, dict) or not {"kind", "shape"} <= set(stored) <= {
        *("kind", "shape", "arrays", "weights", "values")
    }:
        raise FormatError(f"{name!r} in the metadata is no object of kind, shape, arrays, weights and values")
    kind = _kind(name, stored["kind"])
    if not _are(stored["shape"], lambda size: type(size) is int and 0 <= size < 2**63):
        raise FormatError(f"{name!r} has shape {stored['shape']!r}, wanted a list of sizes")
    arrays, weights, values = (
        stored.get(key, empty) for key, empty in (("arrays", []), ("weights", {}), ("values", {}))
    )
    if not _are(arrays, lambda a: isinstance(a, str)) or not isinstance(weights, dict) or not isinstance(values, dict):
        raise FormatError(f"{name!r} has arrays, weights or values that are no list and no objects")
    if not all(_plain(value) or _are(value, _plain) for value in values.values()):
        raise FormatError(f"{name!r} has values {values!r}, wanted numbers, strings, and lists of these")
    arguments = [*arrays, *weights, *values]
    wanted = inspect.signature(kind).parameters
    if len(set(arguments)) != len(arguments) or not set(arguments) <= set(wanted):
        raise FormatError(f"{name!r} has arguments {arguments}, and {kind.__name__} takes {', '.join(wanted)}")
    for argument in arrays:
        tensor = f"{name}/{argument}"
        if tensor not in tensors or tensor in taken:
            raise FormatError(f"{name!r} needs a tensor {tensor!r} of its own")
        taken.add(tensor)
    if weights and depth == MAX_DEPTH:
        raise FormatError(f"{name!r} holds weights within weights, deeper than {MAX_DEPTH}")
    for argument, inner in weights.items():
        _check(f"{name}/{argument}", inner, tensors, taken, depth + 1)


def _plain(found: Any) -> bool:
    return isinstance(found, int | float | str)


def _are(found: Any, good: Callable[[Any], bool]) -> bool:
    return isinstance(found, list) and all(map(good, found))


def _kind(name: str, kind: Any) -> type[Weight]:
    """The class; only one that `pycompress.weights` lists."""
    found = kinds.__dict__.get(kind) if isinstance(kind, str) and kind in kinds.__all__ else None
    if not (isinstance(found, type) and issubclass(found, Weight) and found is not Weight):
        raise FormatError(f"{name!r} is of kind {kind!r}, which this version of pycompress does not have")
    return found


def tensors_of(name: str, stored: Stored) -> list[str]:
    """The names of the tensors that a weight's entry lists."""
    inner = [t for argument, part in stored.get("weights", {}).items() for t in tensors_of(f"{name}/{argument}", part)]
    return [f"{name}/{argument}" for argument in stored.get("arrays", [])] + inner


def rebuild(name: str, stored: Stored, array: Callable[[str], Array]) -> Weight:
    """The weight of a checked entry; `array` gives a tensor by its name.

    The constructor checks everything that is in the arrays: what it refuses is a FormatError.
    """
    arguments: dict[str, Any] = {a: array(f"{name}/{a}") for a in stored.get("arrays", [])}
    arguments |= {a: rebuild(f"{name}/{a}", inner, array) for a, inner in stored.get("weights", {}).items()}
    arguments |= {a: tuple(v) if isinstance(v, list) else v for a, v in stored.get("values", {}).items()}
    try:
        weight = _kind(name, stored["kind"])(**arguments)
        shape = list(weight.shape)
    except FormatError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, MemoryError) as error:
        raise FormatError(f"{name!r} is no {stored['kind']}: {error}") from error
    if shape != stored["shape"]:
        raise FormatError(f"{name!r} has shape {stored['shape']}, and its arrays make {shape}")
    return weight
