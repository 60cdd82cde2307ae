"""Recipes: which layers of a model are factorized, pruned and quantized, and how. docs/recipes.md is the manual.

    recipe = Recipe.preset("sparse-int8", sparsity=0.9)
    recipe = Recipe.from_toml("recipe.toml")

Whatever a recipe says is checked here, before any work; an error names the key, in a file with its line.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ._errors import FormatError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["LAYERS", "PRESETS", "Factorize", "Prune", "Quantize", "Recipe", "Rule", "Steps"]

LAYERS = ("linear", "pointwise", "conv", "depthwise", "embedding")
"""Kinds of layers, by the tensor: a matrix; a convolution of 1 x 1; another; one with a filter for each channel; a
table that is looked up (a matrix with "emb", "wte" or "wpe" in its name, or that ONNX's Gather reads)."""

_PATTERNS = ("unstructured", "block", "n:m")
_ACTIVATIONS = ("dynamic", "minmax", "moving_average", "percentile", "entropy", "mse")


@dataclass(frozen=True)
class Factorize:
    """w ~ a @ b, by the rank, or the least rank that keeps this share of the energy, or that errs at most so much.

    Energy and error are those of the outputs where there are calibration inputs, of the weight where there are none.
    """

    rank: int | None = None
    energy: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Prune:
    """Zeros in a pattern: see `pycompress.prune`. method None: sparsegpt with calibration inputs, else magnitude."""

    sparsity: float | None = None
    pattern: str = "unstructured"
    block: tuple[int, int] = (4, 1)
    m: int = 4
    method: str | None = None
    per: str | None = None


@dataclass(frozen=True)
class Quantize:
    """bits: 8, 4 or 16 (float16); the rest as in `pycompress.quantize`. rounding None: for 4 bits gptq where there are
    calibration inputs, else to nearest. activations: "dynamic", or the method by which `pycompress.calibrate` finds a
    range for the layer's inputs once and for all.
    """

    bits: int = 8
    per: str | None = None
    group_size: int = 32
    rounding: str | None = None
    clip: str = "max"
    activations: str = "dynamic"


@dataclass(frozen=True)
class Steps:
    """What is done to one weight, in this order; each of them may be left out."""

    factorize: Factorize | None = None
    prune: Prune | None = None
    quantize: Quantize | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The kinds of layers that this can be done to: what has no kernel for convolutions is for matrices only."""
        matrices, bits = ("linear", "pointwise", "embedding"), None if self.quantize is None else self.quantize.bits
        if self.factorize is not None or bits == 4:
            return matrices
        return LAYERS if self.prune is None and bits == 8 else (*matrices, "conv")

    def __str__(self) -> str:
        parts = []
        if (f := self.factorize) is not None:
            rank, energy = f"rank {f.rank}", f"energy {f.energy}"
            parts.append(
                rank if f.rank is not None else energy if f.energy is not None else f"low rank, error {f.error}"
            )
        if (p := self.prune) is not None:
            shape = f" {p.block[0]}x{p.block[1]}" if p.pattern == "block" else ""
            shape = f" {p.pattern}" if ":" in p.pattern and p.pattern != "n:m" else shape
            parts.append("sparse" + (f" {p.sparsity:.0%}" if p.sparsity is not None else "") + shape)
        if (q := self.quantize) is not None:
            parts.append("float16" if q.bits == 16 else f"int{q.bits}" + " static" * (q.activations != "dynamic"))
        return " ".join(parts) or "float32"


@dataclass(frozen=True)
class Rule:
    """What is done to the tensors that it fits: the first rule that fits one decides, and none leaves it as it is.

    name: patterns of file names (`fnmatch`), of which one must fit. layer: kinds of layers; by default all that the
    steps can be done to, but embeddings. steps: none of them keep the tensor as it is. candidates: a search tries
    these, and takes the fastest within the recipe's budget. transposed: the matrix lies in the file as [K, N].
    """

    name: tuple[str, ...] = ("*",)
    layer: tuple[str, ...] | None = None
    steps: Steps = Steps()
    candidates: tuple[Steps, ...] = ()
    transposed: bool = False

    def fits(self, name: str, layer: str) -> bool:
        """Whether it is for the tensor of this name, of a layer of this kind."""
        if self.layer is not None:
            kinds = set(self.layer)
        else:
            tried = self.candidates or (self.steps,)
            kinds = {kind for steps in tried for kind in steps.layers} - {"embedding"}
        return layer in kinds and any(fnmatchcase(name, pattern) for pattern in self.name)


@dataclass(frozen=True)
class Recipe:
    """Rules, in the order in which they are tried.

    batch: rows of x with which times are measured. threads: of these products (None: as many as `linear` would take).
    budget: for rules with candidates, the root of the mean square of the layers' relative errors; layer_budget: the
    most for a single layer (None: 4 times the budget), since beyond it errors no longer just add up. seed: of what is
    random (the SVD of large matrices).
    """

    rules: tuple[Rule, ...] = ()
    batch: int = 128
    threads: int | None = None
    budget: float = 0.05
    layer_budget: float | None = None
    seed: int = 0
    label: str = "recipe"

    @classmethod
    def preset(cls, name: str, **options: Any) -> Recipe:
        """A preset by its name, with its own options: see PRESETS. ValueError for a name, TypeError for an option."""
        return _told(lambda: _preset({"name": name, **options}, ("preset",)))

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Recipe:
        """The recipe in what a TOML file holds. ValueError or TypeError that names the key."""
        return _told(lambda: _recipe(found))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Recipe:
        """The recipe in a file. FormatError with the line for what is wrong in it, OSError when it cannot be read."""
        path = Path(path)
        try:
            text = path.read_text("utf-8")
            found = tomllib.loads(text)
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise FormatError(f"{path}: no TOML: {error}") from None
        try:
            return replace(_recipe(found), label=path.stem)
        except _WrongError as wrong:
            raise FormatError(f"{path}, line {_line(text, wrong.path)}: {wrong}") from None

    @classmethod
    def of(cls, recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> Recipe:
        """A recipe as functions take it: one of these, a dict, a preset's name, or the path of a TOML file."""
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, Mapping):
            return cls.from_dict(recipe)
        if isinstance(recipe, str) and recipe in PRESETS:
            return cls.preset(recipe)
        if not isinstance(recipe, str | os.PathLike):
            raise TypeError(f"recipe is {type(recipe).__name__}, wanted a preset's name, a path, a dict or a Recipe")
        if not Path(recipe).is_file() and Path(recipe).suffix != ".toml":
            raise ValueError(f"recipe is {str(recipe)!r}, wanted a TOML file or one of {', '.join(PRESETS)}")
        return cls.from_toml(recipe)

    def rule(self, name: str, layer: str) -> Rule | None:
        """The first rule that fits."""
        return next((rule for rule in self.rules if rule.fits(name, layer)), None)

    @property
    def searches(self) -> bool:
        return any(rule.candidates for rule in self.rules)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ---- presets

_INT8 = Steps(quantize=Quantize(8))


def _sparse(sparsity: float, block: tuple[int, int] = (1, 4)) -> Steps:
    return Steps(prune=Prune(sparsity, "block", block), quantize=Quantize(8))


def _low_rank(energy: float | None, rank: int | None = None) -> Steps:
    return Steps(factorize=Factorize(rank, energy), quantize=Quantize(8))


def default_candidates() -> tuple[Steps, ...]:
    """What a search tries where the recipe names nothing: of each technique what can be faster than float32."""
    return (
        _INT8,
        Steps(quantize=Quantize(4)),
        Steps(quantize=Quantize(16)),
        # Which of the two forms is faster depends on the instruction set.
        *(_sparse(sparsity, block) for block in ((1, 4), (4, 1)) for sparsity in (0.5, 0.7, 0.9)),
        *(_low_rank(energy) for energy in (0.98, 0.95, 0.9, 0.8)),
    )


def _int8(activations: str = "dynamic") -> Recipe:
    return Recipe((Rule(steps=Steps(quantize=Quantize(8, activations=activations))),))


def _int4(group_size: int = 32) -> Recipe:
    return Recipe((Rule(steps=Steps(quantize=Quantize(4, group_size=group_size))), Rule(steps=_INT8)))


def _fp16() -> Recipe:
    return Recipe((Rule(steps=Steps(quantize=Quantize(16))),))


def _sparse_int8(sparsity: float = 0.7, block: tuple[int, int] = (1, 4)) -> Recipe:
    return Recipe((Rule(layer=("linear", "pointwise"), steps=_sparse(sparsity, block)), Rule(steps=_INT8)))


def _low_rank_int8(energy: float | None = None, rank: int | None = None) -> Recipe:
    energy = 0.95 if energy is None and rank is None else energy
    return Recipe((Rule(steps=_low_rank(energy, rank)), Rule(steps=_INT8)))


def _auto(budget: float = 0.05, layer_budget: float | None = None) -> Recipe:
    return Recipe((Rule(candidates=default_candidates()),), budget=budget, layer_budget=layer_budget)


PRESETS: dict[str, Callable[..., Recipe]] = {
    "int8": _int8,
    "int4": _int4,
    "fp16": _fp16,
    "sparse-int8": _sparse_int8,
    "lowrank-int8": _low_rank_int8,
    "auto": _auto,
}
"""Presets and their options: the arguments of these functions."""


def value_of(text: str) -> Any:
    """A value as TOML writes it; text that is none is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


# ---- checks

Path_ = tuple[str | int, ...]


class _WrongError(Exception):
    """A key, as the way to it from the top, and what is wrong there."""

    def __init__(self, path: Path_, what: str, kind: type[Exception] = ValueError) -> None:
        super().__init__(f"{_spell(path)}{what}")
        self.path, self.kind = path, kind


def _spell(path: Path_) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return f"{text} " if text else ""


def _told(make: Callable[[], Recipe]) -> Recipe:
    try:
        return make()
    except _WrongError as wrong:
        raise wrong.kind(str(wrong)) from None


def _table(found: Any, path: Path_, keys: Mapping[str, Callable[[Any, Path_], Any]]) -> dict[str, Any]:
    """The values of a table, each by its check; an unknown key is wrong."""
    if not isinstance(found, Mapping):
        raise _WrongError(path, f"is {found!r}, wanted a table", TypeError)
    for key in found:
        if key not in keys:
            raise _WrongError((*path, key), f"is no known key, wanted one of {', '.join(keys)}")
    return {key: keys[key](value, (*path, key)) for key, value in found.items()}


def _int(low: int, high: int) -> Callable[[Any, Path_], int]:
    def check(value: Any, path: Path_) -> int:
        if type(value) is not int:
            raise _WrongError(path, f"is {value!r}, wanted an int", TypeError)
        if not low <= value <= high:
            raise _WrongError(path, f"is {value}, wanted {low} to {high}")
        return value

    return check


def _fraction(value: Any, path: Path_) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _WrongError(path, f"is {value!r}, wanted a number", TypeError)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise _WrongError(path, f"is {value}, wanted 0 to 1")
    return float(value)


def _one_of(*choices: Any) -> Callable[[Any, Path_], Any]:
    def check(value: Any, path: Path_) -> Any:
        if isinstance(value, bool) or value not in choices:
            raise _WrongError(path, f"is {value!r}, wanted {' or '.join(map(repr, choices))}")
        return value

    return check


def _names(*choices: str) -> Callable[[Any, Path_], tuple[str, ...]]:
    """A string or a list of them; with `choices`, only these."""

    def check(value: Any, path: Path_) -> tuple[str, ...]:
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str) for name in found):
            raise _WrongError(path, f"is {value!r}, wanted a string or a list of strings", TypeError)
        for name in found:
            if choices and name not in choices:
                raise _WrongError(path, f"is {name!r}, wanted one of {', '.join(choices)}")
        return tuple(found)

    return check


def _block(value: Any, path: Path_) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise _WrongError(path, f"is {value!r}, wanted [rows, columns]", TypeError)
    rows, columns = (_int(1, 1024)(size, path) for size in value)
    return rows, columns


def _pattern(value: Any, path: Path_) -> str:
    n, colon, m = value.partition(":") if isinstance(value, str) else ("", "", "")
    if value not in _PATTERNS and not (colon and n.isdecimal() and m.isdecimal()):
        raise _WrongError(path, f'is {value!r}, wanted {", ".join(map(repr, _PATTERNS))} or a pair as "2:4"')
    return str(value)


def _flag(value: Any, path: Path_) -> bool:
    if not isinstance(value, bool):
        raise _WrongError(path, f"is {value!r}, wanted true or false", TypeError)
    return value


def _factorize(found: Any, path: Path_) -> Factorize:
    keys = {"rank": _int(1, 2**31), "energy": _fraction, "error": _fraction}
    step = Factorize(**_table(found, path, keys))
    if sum(value is not None for value in (step.rank, step.energy, step.error)) != 1:
        raise _WrongError(path, "wants exactly one of rank, energy and error")
    return step


def _prune(found: Any, path: Path_) -> Prune:
    keys: dict[str, Callable[[Any, Path_], Any]] = {
        "sparsity": _fraction,
        "pattern": _pattern,
        "block": _block,
        "m": _int(1, 1024),
        "method": _one_of("magnitude", "wanda", "sparsegpt", "gradual"),
        "per": _one_of("tensor", "output"),
    }
    step = Prune(**_table(found, path, keys))
    if step.sparsity is None and step.pattern in _PATTERNS:
        raise _WrongError(path, f"has no sparsity, which pattern {step.pattern!r} needs")
    for key, pattern in (("block", "block"), ("m", "n:m")):
        if key in found and step.pattern != pattern:
            raise _WrongError((*path, key), f"is for pattern {pattern!r}, and the pattern is {step.pattern!r}")
    return step


def _quantize(found: Any, path: Path_) -> Quantize:
    keys: dict[str, Callable[[Any, Path_], Any]] = {
        "bits": _one_of(8, 4, 16),
        "per": _one_of("tensor", "channel", "group"),
        "group_size": _one_of(32, 64, 128),
        "rounding": _one_of("nearest", "gptq"),
        "clip": _one_of("max", "mse"),
        "activations": _one_of(*_ACTIVATIONS),
    }
    step = Quantize(**_table(found, path, keys))
    if "group_size" in found and (step.bits != 4 or step.per in ("tensor", "channel")):
        raise _WrongError((*path, "group_size"), "is for 4 bits per group")
    if step.bits == 8 and step.per == "group":
        raise _WrongError((*path, "per"), "is 'group', which is for 4 bits")
    if step.bits == 16 and (other := [key for key in ("per", "rounding", "clip", "activations") if key in found]):
        raise _WrongError((*path, other[0]), "is for 8 and 4 bits, and bits is 16")
    return step


_STEPS: dict[str, Callable[[Any, Path_], Any]] = {"factorize": _factorize, "prune": _prune, "quantize": _quantize}


def _together(steps: Steps, path: Path_) -> Steps:
    """Steps that can be combined: sparse weights are float32 or int8."""
    if steps.prune is not None and steps.quantize is not None and steps.quantize.bits != 8:
        raise _WrongError(
            (*path, "quantize"),
            f"to {steps.quantize.bits} bits cannot follow prune: sparse weights are float32 or int8",
        )
    return steps


def _candidates(found: Any, path: Path_) -> tuple[Steps, ...]:
    if found == "default":
        return default_candidates()
    if not isinstance(found, list | tuple) or not found:
        raise _WrongError(path, f'is {found!r}, wanted "default" or a list of tables', TypeError)
    made = []
    for i, one in enumerate(found):
        steps = _together(Steps(**_table(one, (*path, i), _STEPS)), (*path, i))
        if steps == Steps():
            raise _WrongError((*path, i), "is empty: float32 is always among the candidates")
        made.append(steps)
    return tuple(made)


def _rule(found: Any, path: Path_) -> Rule:
    keys: dict[str, Callable[[Any, Path_], Any]] = {
        "name": _names(),
        "layer": _names(*LAYERS),
        "keep": _flag,
        "transposed": _flag,
        "candidates": _candidates,
        **_STEPS,
    }
    values = _table(found, path, keys)
    keep = values.pop("keep", False)
    steps = _together(Steps(**{key: values.pop(key) for key in _STEPS if key in values}), path)
    candidates = values.get("candidates", ())
    what = [keep, steps != Steps(), bool(candidates)]
    if sum(what) != 1:
        raise _WrongError(path, "wants one of: keep = true; factorize, prune, quantize; candidates")
    if keep and "layer" not in values:
        values["layer"] = LAYERS
    for one in candidates or (steps,):
        if bad := [kind for kind in values.get("layer", ()) if kind not in one.layers] if not keep else []:
            if candidates and any(kind in one.layers for kind in values["layer"]):
                continue  # it is tried where it can be
            raise _WrongError((*path, "layer"), f"is {bad[0]!r}, for which there is no {one}")
    return Rule(steps=steps, **values)


def _rules(found: Any, path: Path_) -> tuple[Rule, ...]:
    if not isinstance(found, list | tuple):
        raise _WrongError(path, "is no list of rules: write [[rule]]", TypeError)
    return tuple(_rule(one, (*path, i)) for i, one in enumerate(found))


def _preset(found: Any, path: Path_) -> Recipe:
    if isinstance(found, str):
        found = {"name": found}
    if not isinstance(found, Mapping) or "name" not in found:
        raise _WrongError(path, f"is {found!r}, wanted a preset's name, or a table with it", TypeError)
    name = _one_of(*PRESETS)(found["name"], (*path, "name"))
    all_options: dict[str, dict[str, Callable[[Any, Path_], Any]]] = {
        "int8": {"activations": _one_of(*_ACTIVATIONS)},
        "int4": {"group_size": _one_of(32, 64, 128)},
        "sparse-int8": {"sparsity": _fraction, "block": _block},
        "lowrank-int8": {"energy": _fraction, "rank": _int(1, 2**31)},
        "auto": {"budget": _fraction, "layer_budget": _fraction},
    }
    keys = {"name": _one_of(*PRESETS), **all_options.get(name, {})}
    values = _table(found, path, keys)
    del values["name"]
    if name == "lowrank-int8" and len(values) > 1:
        raise _WrongError(path, "wants energy or rank, not both")
    return replace(PRESETS[name](**values), label=name)


def _recipe(found: Any) -> Recipe:
    keys: dict[str, Callable[[Any, Path_], Any]] = {
        "preset": _preset,
        "rule": _rules,
        "batch": _int(1, 2**20),
        "threads": _int(1, 4096),
        "budget": _fraction,
        "layer_budget": _fraction,
        "seed": _int(0, 2**32 - 1),
    }
    values = _table(found, (), keys)
    base = values.pop("preset", None) or Recipe()
    rules = values.pop("rule", ()) + base.rules
    if not rules:
        raise _WrongError((), "a recipe wants a preset or rules, and has none")
    return replace(base, rules=rules, **values)


# ---- lines


def _line(text: str, path: Path_) -> int:
    """The line of a TOML text on which the key of this path is given.

    A statement ends where the text up to there is TOML, and it is the one that sought the key when the key is there
    then and was not before. Within a statement of several lines the key is looked for as a word.
    """
    lines = text.split("\n")
    end = 0
    for n in range(1, len(lines) + 1):
        try:
            found = tomllib.loads("\n".join(lines[:n]))
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        if _holds(found, path):
            word = next((key for key in reversed(path) if isinstance(key, str)), "")
            return next((i for i in range(end + 1, n + 1) if word in lines[i - 1]), end + 1)
        end = n
    return 1


def _holds(found: Any, path: Path_) -> bool:
    for key in path:
        try:
            found = found[key]
        except (KeyError, IndexError, TypeError):
            return False
    return True
