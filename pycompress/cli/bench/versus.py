"""Ours beside peers, for every family: what `pycompress bench FAMILY --peers` does, and `pycompress bench report`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common import CommandError, console, progress
from . import options

if TYPE_CHECKING:
    from pycompress.bench.family import Family


def versus(
    family: Family,
    cases: Sequence[Any],
    *,
    forms: Sequence[str],
    peers: Sequence[str],
    rounds: int,
    threads: int,
    isa: str | None,
    timeout: float,
    as_json: bool,
    as_markdown: bool,
    plot: str | None,
    alone: bool = False,
) -> None:
    """Measure and show. Without `peers` all that serve the family, or (alone) none; without `forms` all."""
    import pycompress as pc
    from pycompress.bench import peer as adapters
    from pycompress.bench import process, versus

    drawable(plot)
    try:
        chosen = [family.form(name) for name in dict.fromkeys(forms)] or list(family.forms)
        found = [adapters.load(name) for name in dict.fromkeys(peers or ([] if alone else adapters.names()))]
        process.cores(threads)
        usable = pc.cpu_info()["isas"]
        if isa is not None and isa not in usable:
            raise ValueError(f"--isa: {isa!r} can't be forced here, wanted {', '.join(usable) or 'none with Numba'}")
    except (ValueError, ImportError) as error:
        raise CommandError(error) from None
    found = [peer for peer in found if peers or family.name in peer.served]
    with progress() as bar:
        task = bar.add_task("starting", total=len(cases) * len(chosen) + 1)
        try:
            run = versus.run(
                family,
                cases,
                chosen,
                found,
                rounds=rounds,
                threads=threads,
                isa=isa,
                timeout=timeout,
                step=lambda what: bar.update(task, description=what, advance=1),
            )
        except (ValueError, OverflowError, MemoryError) as error:
            raise CommandError(error) from None
    show(run, as_json, as_markdown, plot)


def report(
    files: Annotated[
        list[Path], typer.Argument(help="What `bench ... --peers --json` printed, or --breakeven --json.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print them as one.")] = False,
    as_markdown: options.AsMarkdown = False,
    plot: options.Plot = None,
) -> None:
    """Show results of `bench ... --peers --json`, or of --breakeven, again; several files of one machine as one."""
    from pycompress.bench import curves, report

    drawable(plot)
    try:
        runs = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        if all(isinstance(run, dict) and "breakeven" in run for run in runs):
            show_curves(curves.merge(runs), as_json, as_markdown, plot)
            return
        run = report.merge(runs)
    except (OSError, ValueError) as error:
        raise CommandError(error) from None
    show(run, as_json, as_markdown, plot)


def show(run: dict[str, Any], as_json: bool, as_markdown: bool, plot: str | None) -> None:
    """On stdout, and as a picture where one is wanted."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from pycompress.bench import report

    if as_json:
        typer.echo(json.dumps(run, indent=1))
    elif as_markdown:
        typer.echo(report.markdown(run), nl=False)
    else:
        out = console()
        out.print(f"{report.title(run)}; GMAC/s", soft_wrap=True)
        for found in report.tables(run):
            table = Table(title=found.title, title_justify="left", box=SIMPLE_HEAD)
            for i, column in enumerate(found.columns):
                table.add_column(
                    column, justify="left" if i == 0 or column == "to the best peer" else "right", no_wrap=i < 4
                )
            for row in found.rows:
                table.add_row(*row)
            out.print(table)
        for note in report.notes(run):
            out.print(note, soft_wrap=True, markup=False, highlight=False)
    if plot:
        try:
            report.plot(run, plot)
        except (OSError, ValueError) as error:
            raise CommandError(f"--plot: {error}") from None
        typer.echo(f"drawn: {plot}", err=True)


def show_curves(run: dict[str, Any], as_json: bool, as_markdown: bool, plot: str | None) -> None:
    """As `show`, of what --breakeven found."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from pycompress.bench import curves

    if as_json:
        typer.echo(json.dumps(run, indent=1))
    elif as_markdown:
        typer.echo(curves.markdown(run), nl=False)
    else:
        out = console()
        out.print(curves.title(run), soft_wrap=True)
        for found in curves.tables(run):
            table = Table(title=found.title, title_justify="left", box=SIMPLE_HEAD)
            for i, column in enumerate(found.columns):
                table.add_column(column, justify="right" if i else "left", no_wrap=i > 1)
            for row in found.rows:
                table.add_row(row[0], *(cell.replace(" (", "\n(") for cell in row[1:]))
            out.print(table)
        for note in curves.NOTES:
            out.print(note, soft_wrap=True, markup=False, highlight=False)
    if plot:
        try:
            curves.plot(run, plot)
        except (OSError, ValueError) as error:
            raise CommandError(f"--plot: {error}") from None
        typer.echo(f"drawn: {plot}", err=True)


def drawable(plot: str | None) -> None:
    """Before the work, not after it."""
    if plot is None:
        return
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError('--plot needs matplotlib: pip install "pycompress-kernels[bench]"')
    if not Path(plot).parent.is_dir():
        raise CommandError(f"--plot: there is no directory {str(Path(plot).parent)!r}")
