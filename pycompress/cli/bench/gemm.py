"""`pycompress bench gemm`: dense int8 and float32 products."""

from __future__ import annotations

import json
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common import CommandError, console, progress
from . import options
from .versus import versus

if TYPE_CHECKING:
    from pycompress.bench.gemm import Row
    from pycompress.bench.shapes import Shape

QUICK = ("128x768x768", "8x1024x1024", "17x333x77")
BESIDE_PEERS = ("mixed", "square")  # the bundled shapes that are measured beside peers when none are named


def gemm(
    shapes: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE", help="Shapes, bundled or from a file of lines 'M K N  # layer'."),
    ] = None,
    shape: Annotated[list[str] | None, typer.Option(metavar="MxKxN", help="One shape; can be repeated.")] = None,
    threads: options.Threads = 1,
    isa: options.Isa = None,
    form: options.Forms = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds, in which all take turns: 7, beside peers 15.", show_default=False)
    ] = None,
    quick: options.Quick = False,
    as_json: options.AsJson = False,
    peers: options.Peers = False,
    peer: options.Peer = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE.png", help="Beside peers: draw the roofline.")] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Beside peers: print the tables as Markdown.")
    ] = False,
    timeout: options.Timeout = 60,
) -> None:
    """Measure int8 and float32 products of [M, K] by a weight [N, K], beside numpy.

    Figures are in GMAC/s: the median over rounds of the best of a few timings,
    with the part of the instruction peak that was measured in the same rounds,
    and the spread, which is the interquartile range over the rounds.

    Without --shapes and --shape all bundled shapes are measured. An int8 weight
    is packed beforehand, a float32 weight at each call.

    With --peers other libraries take turns with ours, each in a process of its
    own, pinned and held to the same threads and instruction set; the ratio is
    taken by pairs of the same round. What is not installed, or fails, is named.
    """
    beside = peers or bool(peer)
    if (plot or as_markdown) and not beside:
        raise CommandError("--plot and --markdown show ours beside peers, wanted --peers or --peer with them")
    rounds = rounds or (15 if beside else 7)
    rounds = min(rounds, 3) if quick else rounds
    if beside and not shapes and not shape and not quick:
        shapes = list(BESIDE_PEERS)
    chosen = _chosen(shapes or [], shape or [], quick)
    if beside:
        from pycompress.bench.gemm import FAMILY

        versus(
            FAMILY,
            chosen,
            forms=form or [],
            peers=[] if peers else peer or [],
            rounds=rounds,
            threads=threads,
            isa=isa,
            timeout=timeout,
            as_json=as_json,
            as_markdown=as_markdown,
            plot=plot,
        )
        return
    rows, about = _run(chosen, form or [], threads, isa, rounds)
    if as_json:
        typer.echo(json.dumps({**about, "shapes": [row.as_dict() for row in rows]}, indent=2))
    else:
        _show(rows, about)


def _chosen(sources: list[str], single: list[str], quick: bool) -> list[Shape]:
    """The shapes to measure, each once. CommandError for one that is none."""
    from pycompress.bench import shapes

    if not sources and not single:
        sources, single = ([], list(QUICK)) if quick else (shapes.names(), [])
    try:
        found = [shapes.parse(text) for text in single]
        found += [shape for source in sources for shape in shapes.load(source)]
    except (ValueError, OSError) as error:
        raise CommandError(error) from None
    return list({(shape.m, shape.k, shape.n): shape for shape in reversed(found)}.values())[::-1]


def _run(
    shapes: list[Shape], forms: list[str], threads: int, isa: str | None, rounds: int
) -> tuple[list[Row], dict[str, Any]]:
    """Measure; returns what was found and where."""
    import pycompress as pc
    from pycompress._forced import forced
    from pycompress.bench import gemm

    runners = [gemm.OURS, gemm.NUMPY]
    if forms:
        try:
            wanted = {gemm.FAMILY.form(name).name for name in forms}
        except ValueError as error:
            raise CommandError(f"--form: {error}") from None
        runners = [replace(runner, forms=[name for name in runner.forms if name in wanted]) for runner in runners]
    with ExitStack() as stack:
        try:
            stack.enter_context(forced(isa, threads))
        except ValueError as error:
            raise CommandError(f"--isa: {error}") from None
        stack.enter_context(_blas_threads(threads))
        about = {"cpu": pc.cpu_info(), "threads": threads, "rounds": rounds, "numpy": gemm.numpy_blas()}
        bar = stack.enter_context(progress())
        task = bar.add_task("measuring", total=len(shapes) * gemm.turns(runners, rounds))
        rows = []
        for shape in shapes:
            bar.update(task, description=str(shape))
            try:
                rows.append(gemm.bench(shape, runners, rounds, lambda: bar.advance(task)))
            except (OverflowError, MemoryError) as error:
                raise CommandError(f"{shape}: {error}") from None
    return rows, about


def _blas_threads(threads: int) -> Any:
    """numpy on as many threads as ours; without threadpoolctl it keeps its own number."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(limits=threads, user_api="blas")


def _show(rows: list[Row], about: dict[str, Any]) -> None:
    """The table, on stdout."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from pycompress.bench.gemm import FORMS, NUMPY, OURS

    cpu, blas = about["cpu"], about["numpy"]
    threads = "1 thread" if about["threads"] == 1 else f"{about['threads']} threads"
    title = ", ".join(str(part) for part in (cpu["name"], cpu["isa"], cpu["backend"], threads) if part)
    columns = {(OURS.name, form.name): form.title for form in FORMS} | {(NUMPY.name, "f32_array"): "numpy f32"}
    measured = {(result.runner, result.form) for row in rows for result in row.results}
    columns = {column: heading for column, heading in columns.items() if column in measured}
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("M x K x N", no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = {(result.runner, result.form): result for result in row.results}
        texts = []
        for column in columns:
            result = cells[column]
            of_peak = "" if result.of_peak is None else f" {result.of_peak:4.0%}"
            texts.append(f"{result.gmacs:.1f}{of_peak} ±{result.spread:3.0%}")
        table.add_row(str(row.shape), *texts)
    out = console()
    out.print(table)
    peaks = {name: max(row.peak[name] for row in rows) for name in ("int8", "float32")}
    if all(peaks.values()):
        out.print(f"GMAC/s, part of the instruction peak of {cpu['isa']}, ± spread over {about['rounds']} rounds.")
        out.print(f"Peak of one core, highest seen: int8 {peaks['int8']:.0f}, float32 {peaks['float32']:.0f} GMAC/s.")
    else:
        out.print(f"GMAC/s, ± spread over {about['rounds']} rounds. The Numba backend has no instruction peak.")
    out.print("Weights are packed beforehand; an array is packed at each call, or read as it is with up to 8 rows.")
    out.print(f"numpy {blas['version']}: {_blas(blas)}", soft_wrap=True)


def _blas(about: dict[str, Any]) -> str:
    """numpy's BLAS in a line."""
    if about["blas"] is None:
        text = "its BLAS and threads are unknown (threadpoolctl is not installed)"
    else:
        pools = [
            f"{pool['internal_api']} {pool['version']}, kernel {pool['architecture']}, threads {pool['num_threads']}"
            for pool in about["blas"]
        ]
        text = "; ".join(pools) or "its BLAS is unknown to threadpoolctl"
    settings = ", ".join(f"{name}={value}" for name, value in about["environment"].items())
    return f"{text}; set, and may hold it back: {settings}" if settings else text
