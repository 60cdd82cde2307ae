"""`pycompress compress`: a model's file and a recipe to a compressed file."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import CommandError, console, size, told

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycompress.recipe import Recipe
    from pycompress.report import Layer, Report


def compress(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="safetensors (a file, an index, its directory), npz, ONNX or GGUF.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the result goes (safetensors).")
    ],
    recipe: Annotated[
        str,
        typer.Option(metavar="FILE|PRESET", help="A TOML file, or int8, int4, fp16, sparse-int8, lowrank-int8, auto."),
    ] = "int8",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the preset: sparsity=0.9.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Inputs of layers by the names of their weights, [samples, K]: npz or safetensors."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Rows of x to measure times with.", show_default="128")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Threads of a measured product.", show_default="all usable")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Processes that convert.")] = 1,
    dask: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Convert on the workers of this Dask scheduler.", show_default=False),
    ] = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure what each layer takes.")] = True,
    page: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write a page (HTML) with tables and plots.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Factorize, prune and quantize the weights of a model by a recipe.

    The result is one safetensors file, which pycompress.load maps into memory.
    An interrupted run leaves no half file: the same command takes up its work.
    """
    if page is not None and (not page.parent.is_dir() or page.is_dir()):
        raise CommandError(f"--report: no page can be written to {page}")
    with told("Interrupted. The same command takes up where it stopped."):
        from pycompress import pipeline

        chosen = _recipe(recipe, options or [], batch, threads)
        with _bar() as progress:
            made = pipeline.compress_file(
                model, output, chosen, calibration=calibration, progress=progress, jobs=jobs, dask=dask, times=speed
            )
        report = made.report()
        if page is not None:
            from pycompress.pipeline import page as pages

            pages.write(page, report, model=model.name, file_bytes=output.stat().st_size)
    if as_json:
        typer.echo(json.dumps({"model": str(model), "output": str(output), **report.as_dict()}, indent=2))
    else:
        _show(report, output, page)


def _recipe(recipe: str, options: list[str], batch: int | None, threads: int | None) -> Recipe:
    """The recipe, with what the command line says about it."""
    from pycompress.recipe import PRESETS, Recipe, value_of

    if options and recipe not in PRESETS:
        raise CommandError(f"--set is for presets ({', '.join(PRESETS)}), and the recipe is {recipe!r}: write it there")
    settings: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise CommandError(f"--set {option}: wanted KEY=VALUE")
        settings[key] = value_of(value)
    chosen = Recipe.preset(recipe, **settings) if recipe in PRESETS else Recipe.of(recipe)
    return replace(chosen, batch=batch or chosen.batch, threads=threads or chosen.threads)


@contextmanager
def _bar() -> Iterator[Any]:
    """A bar on stderr for each phase: bytes done, and the time that is left. It is not there before there is work."""
    from rich.progress import DownloadColumn

    from .common import progress

    bar = progress(DownloadColumn())
    tasks: dict[str, Any] = {}

    def told(phase: str, name: str, done: int, total: int) -> None:
        bar.start()
        if phase not in tasks:
            for task in tasks.values():
                bar.update(task, visible=False)
            tasks[phase] = bar.add_task(phase, total=total)
        bar.update(tasks[phase], completed=done, total=total, description=f"{phase} {name[-40:]}".rstrip())

    try:
        yield told
    finally:
        if tasks:
            bar.stop()


def _show(report: Report, output: Path, page: Path | None) -> None:
    """The table, on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=_title(report), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("tensor", overflow="fold")
    for heading in "layer", "shape", "is now":
        table.add_column(heading)
    for heading in "before", "after", "error", "speed":
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [layer for layer in report.layers if layer.layer != "other"]
    for layer in rows:
        table.add_row(*map(escape, _cells(layer)))
    out = console()
    out.print(table)
    others = [layer for layer in report.layers if layer.layer == "other"]
    if others:
        out.print(f"and {len(others)} other tensors, {size(sum(layer.nbytes for layer in others))}, as they were.")
    for note in dict.fromkeys(layer.note for layer in rows if layer.note):
        names = [layer.name for layer in rows if layer.note == note]
        out.print(f"{len(names)} x {note}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}", highlight=False)
    out.print(f"{size(report.nbytes_before)} before, {size(report.nbytes)} after: {output}", highlight=False)
    if report.error is not None:
        out.print(f"error: {report.error:.2%}, root of the mean square over the layers", highlight=False)
    if report.seconds is not None:
        before, after = report.seconds
        out.print(
            f"products of {report.batch} rows with these layers: {1e3 * before:.2f} ms in float32, "
            f"{1e3 * after:.2f} ms now, {before / after:.2f}x as fast",
            highlight=False,
        )
    if page is not None:
        out.print(f"report: {page}", highlight=False)


def _title(report: Report) -> str:
    threads = "" if not report.threads else f", {report.threads} thread{'s' if report.threads > 1 else ''}"
    return f"{report.recipe}{'; ' + report.cpu if report.cpu else ''}{threads}"


def _cells(layer: Layer) -> tuple[str, ...]:
    return (
        layer.name,
        layer.layer,
        "x".join(map(str, layer.shape)),
        layer.label,
        size(layer.nbytes_before),
        size(layer.nbytes),
        "" if layer.error is None else f"{layer.error:.2%}",
        "" if layer.speed is None else f"{layer.speed:.2f}x",
    )
