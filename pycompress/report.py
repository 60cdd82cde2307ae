"""What compressing a model did to it, layer by layer: the rows of the command's table and of its page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ._errors import FormatError
from .weights import QParams

__all__ = ["Candidate", "Layer", "Report", "size"]


@dataclass(frozen=True)
class Candidate:
    """One way that a search tried on a layer. seconds: for one product with the report's batch of rows."""

    label: str
    nbytes: int
    error: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Layer:
    """What was done to one tensor.

    name, shape: the tensor's. layer: "linear", "conv", "depthwise", "embedding" or "other". label: what it is now, in
    words ("float32", "int8", "rank 64, int8"). nbytes_before, nbytes: in the files. error: |y - y'| / |y| over the
    calibration inputs' outputs, or over the weight itself (`error_of`: "outputs" or "weight"); None where nothing was
    done. seconds_before, seconds: measured, for one product with the report's batch of rows, float32 and now; None
    where that was not measured. x_qparams: scale and zero point for the layer's inputs, where the recipe fixes them.
    note: why it is as it is. candidates: what a search tried."""

    name: str
    layer: str
    shape: tuple[int, ...]
    label: str
    nbytes_before: int
    nbytes: int
    error: float | None = None
    error_of: str | None = None
    seconds_before: float | None = None
    seconds: float | None = None
    x_qparams: tuple[float, int] | None = None
    note: str = ""
    candidates: tuple[Candidate, ...] = ()

    @property
    def speed(self) -> float | None:
        """How many times as fast as float32."""
        return self.seconds_before / self.seconds if self.seconds_before and self.seconds else None


@dataclass(frozen=True)
class Report:
    """What compressing a model did. batch, threads, cpu: how and where the times were measured.

    budget: the error that a search was allowed (the root of the mean square of its layers' errors); None without one,
    and where a function said what the error is.
    path: for a search, (seconds, error) of its layers together after each of its steps, from all float32 on.
    """

    layers: tuple[Layer, ...] = ()
    recipe: str = ""
    batch: int | None = None
    threads: int | None = None
    cpu: str = ""
    budget: float | None = None
    path: tuple[tuple[float, float], ...] = field(default=(), repr=False)

    @property
    def nbytes_before(self) -> int:
        return sum(layer.nbytes_before for layer in self.layers)

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    @property
    def seconds(self) -> tuple[float, float] | None:
        """(float32, now) of all layers that were measured."""
        both = [(a.seconds_before, a.seconds) for a in self.layers if a.seconds_before and a.seconds]
        return (sum(a for a, _ in both), sum(b for _, b in both)) if both else None

    @property
    def error(self) -> float | None:
        """The root of the mean square of the errors of all layers that have one."""
        errors = [layer.error for layer in self.layers if layer.error is not None]
        return math.sqrt(sum(e * e for e in errors) / len(errors)) if errors else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Totals are in it as well; `from_dict` ignores these."""
        seconds = self.seconds or (None, None)
        totals = {"nbytes_before": self.nbytes_before, "nbytes": self.nbytes, "error": self.error}
        totals |= {"seconds_before": seconds[0], "seconds": seconds[1]}
        return asdict(self) | {"totals": totals}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Report:
        """The inverse of `as_dict`; FormatError for anything else."""
        try:
            layers = tuple(
                _checked(
                    Layer,
                    {
                        **layer,
                        "shape": tuple(layer["shape"]),
                        "x_qparams": _qparams(layer["x_qparams"]),
                        "candidates": tuple(_checked(Candidate, c) for c in layer["candidates"]),
                    },
                )
                for layer in found["layers"]
            )
            path = tuple((float(a), float(b)) for a, b in found["path"])
            rest = {key: value for key, value in found.items() if key not in ("totals", "layers", "path")}
            report: Report = _checked(cls, {**rest, "layers": layers, "path": path})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"no report of a compressed model: {error!r}") from None
        return report

    def __str__(self) -> str:
        """The table as plain text."""
        rows = [("name", "shape", "", "bytes", "error", "speed")]
        for layer in self.layers:
            shape = "x".join(map(str, layer.shape))
            size = f"{layer.nbytes_before} > {layer.nbytes}"
            error = "" if layer.error is None else f"{layer.error:.2%}"
            speed = "" if layer.speed is None else f"{layer.speed:.2f}x"
            rows.append((layer.name, shape, layer.label, size, error, speed))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _qparams(found: Any) -> tuple[float, int] | None:
    return None if found is None else tuple(QParams(*found))  # type: ignore[return-value]  # a pair


_TYPES: dict[str, Any] = {
    "str": str,
    "str | None": str | None,
    "int": int,
    "int | None": int | None,
    "float | None": float | int | None,
}


def _checked(cls: type[Any], found: Mapping[str, Any]) -> Any:
    """An object of a dataclass whose plain fields have the types that they say."""
    for part in fields(cls):
        wanted = _TYPES.get(str(part.type))
        value = found.get(part.name)
        if wanted is not None and part.name in found and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise TypeError(f"{part.name} is {value!r}, wanted {part.type}")
    if not all(type(size) is int and size >= 0 for size in found.get("shape", ())):
        raise TypeError(f"shape is {found['shape']!r}, wanted sizes")
    return cls(**found)


def size(nbytes: float) -> str:
    """Bytes in decimal units, for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"
