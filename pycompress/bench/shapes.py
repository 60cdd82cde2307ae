"""Files of GEMM shapes: one `M K N  # layer` a line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

BUNDLED = "pycompress.shapes"  # bench/shapes of the repository, as it is installed


@dataclass(frozen=True)
class Shape:
    """A product of [m, k] by a weight [n, k]; `layer` says whose it is."""

    m: int
    k: int
    n: int
    layer: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one product."""
        return self.m * self.k * self.n

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n}"


def parse(text: str) -> Shape:
    """A shape from "MxKxN". Raises ValueError."""
    return _shape(text.split("x"), f"shape {text!r}", "MxKxN")


def names() -> list[str]:
    """The bundled files, as `load` takes them."""
    found = (path.name for path in files(BUNDLED).iterdir())
    return sorted(name.removesuffix(".txt") for name in found if name.endswith(".txt"))


def load(source: str) -> list[Shape]:
    """The shapes of a bundled file, by its name, or of any file, by its path.

    Raises ValueError for a line that is no shape and for a file without shapes, FileNotFoundError without such a file.
    """
    shapes = []
    for number, line in enumerate(_read(source).splitlines(), 1):
        numbers, _, layer = line.partition("#")
        if numbers.strip():
            shape = _shape(numbers.split(), f"{source}, line {number}: {numbers.strip()!r}", "M K N")
            shapes.append(Shape(shape.m, shape.k, shape.n, layer.strip()))
    if not shapes:
        raise ValueError(f"{source} holds no shapes, wanted lines 'M K N  # layer'")
    return shapes


def _shape(fields: list[str], where: str, form: str) -> Shape:
    if len(fields) != 3 or not all(re.fullmatch(r"[1-9][0-9]{0,8}", field, re.ASCII) for field in fields):
        raise ValueError(f"{where}, wanted three positive integers {form}")
    m, k, n = map(int, fields)
    return Shape(m, k, n)


def _read(source: str) -> str:
    if source in names():
        return files(BUNDLED).joinpath(f"{source}.txt").read_text(encoding="utf-8")
    if not Path(source).is_file():
        raise FileNotFoundError(f"there is no file of shapes {source!r}; bundled are {', '.join(names())}")
    return Path(source).read_text(encoding="utf-8")
