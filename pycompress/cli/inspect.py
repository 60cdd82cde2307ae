"""`pycompress inspect`: what is in a model's file."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import console, size, told

if TYPE_CHECKING:
    from pycompress.inspection import Inspection

BARS = " ▁▂▃▄▅▆▇█"


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A compressed model, or any that `compress` reads.")],
    name: Annotated[str, typer.Option(metavar="PATTERN", help="Only tensors with such names.")] = "*",
    stats: Annotated[
        bool, typer.Option("--stats/--no-stats", help="Read the values: statistics and histogram.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show the tensors of a model: kind, shape, size, statistics, histogram.

    Each compressed weight is read and checked on the way. Statistics are of the
    values that it stands for.
    """
    with told("Interrupted."):
        from pycompress import inspection

        found = inspection.inspect(file, lambda tensor: fnmatchcase(tensor, name), stats=stats)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _show(found, stats)


def _show(found: Inspection, stats: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    version = "" if found.version is None else f", compressed, schema {found.version}"
    title = f"{found.path.name}: {found.format}{version}, {size(found.file_bytes)}"
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("tensor", overflow="fold")
    table.add_column("kind")
    table.add_column("shape")
    table.add_column("bytes", justify="right", no_wrap=True)
    if stats:
        for heading in "min", "max", "mean", "std", "zeros":
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("histogram", no_wrap=True)
    for row in found.tensors:
        cells: list[Any] = [row.name, row.kind, "x".join(map(str, row.shape)), size(row.nbytes)]
        if stats and (s := row.statistics) is not None:
            cells += [f"{value:.3g}" for value in (s.min, s.max, s.mean, s.std)]
            cells += [f"{s.zeros:.0%}", _bars(s.histogram)]
        table.add_row(*(escape(str(cell)) for cell in cells))
    out = console()
    out.print(table)
    kinds: dict[str, list[int]] = {}
    for row in found.tensors:
        kinds.setdefault(row.kind, []).append(row.nbytes)
    for kind, sizes in sorted(kinds.items(), key=lambda item: -sum(item[1])):
        out.print(f"{kind}: {len(sizes)} tensors, {size(sum(sizes))}", highlight=False)


def _bars(counts: list[int]) -> str:
    """A histogram in a line; what is not empty shows."""
    most = max(counts, default=0)
    return "".join(BARS[0 if not count else 1 + count * (len(BARS) - 2) // most] for count in counts)
