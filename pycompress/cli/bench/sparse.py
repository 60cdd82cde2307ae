"""`pycompress bench sparse`: sparse products beside dense ones, and from which sparsity on they pay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common import CommandError, progress
from . import options
from .versus import drawable, show_curves, versus

if TYPE_CHECKING:
    from pycompress.bench.family import Form
    from pycompress.bench.shapes import Shape

CASES = tuple(
    [f"{shape}@{percent}" for shape in ("128x768x768", "256x1024x4096") for percent in (50, 70, 80, 90)]
    + ["3136x64x128@80", "1x4096x4096@90"]
)
QUICK = ("128x256x256@80", "1x512x512@90")
OURS_ONLY = ("pycompress_dense",)  # what is measured beside ours without --peers
BREAKEVEN_SHAPE = "128x768x768"


def sparse(
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="MxKxN@P", help="A product by a weight of which P percent are zero; can be repeated."),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="MxKxN", help="With --breakeven: one shape; can be repeated.")
    ] = None,
    threads: options.Threads = 1,
    isa: options.Isa = None,
    form: options.Forms = None,
    rounds: options.Rounds = 15,
    quick: options.Quick = False,
    as_json: options.AsJson = False,
    peers: options.Peers = False,
    peer: options.Peer = None,
    breakeven: Annotated[
        bool, typer.Option("--breakeven", help="Speed over sparsity, and from where it beats our dense kernels.")
    ] = False,
    sparsity: Annotated[
        list[float] | None,
        typer.Option(min=0, max=100, metavar="P", help="With --breakeven: percent of zeros; can be repeated."),
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE.png", help="Draw the roofline, or the break-even.")] = None,
    as_markdown: options.AsMarkdown = False,
    timeout: options.Timeout = 60,
) -> None:
    """Measure products by sparse weights (CSR, and BSR in several blocks), beside our own dense kernels.

    Zeros lie at random positions. Figures are in GMAC/s of the dense product, so
    that all forms compare; "real work" counts only what is not zero.

    With --peers other libraries take turns with ours, sparse ones and the best
    dense ones, as in `bench gemm --peers`.

    With --breakeven each form is measured over the sparsity, and the one is told
    from which on it beats our own dense kernel of the same types.
    """
    rounds = min(rounds, 3) if quick else rounds
    if breakeven:
        if peers or peer or case:
            raise CommandError("--breakeven compares our own kernels: wanted without --peers, --peer and --case")
        names, percents = shape or [BREAKEVEN_SHAPE], sorted(set(sparsity or []))
        if quick and not shape:
            names = ["64x256x256"]
        if quick and not percents:
            percents = [50.0, 70.0, 90.0]
        drawable(plot)
        run = _breakeven(names, percents, form or [], threads, isa, rounds)
        show_curves(run, as_json, as_markdown, plot)
        return
    if shape or sparsity:
        raise CommandError("--shape and --sparsity belong to --breakeven, wanted --case MxKxN@P")
    from pycompress.bench.sparse import FAMILY

    try:
        cases = [FAMILY.parse(text) for text in dict.fromkeys(case or (QUICK if quick else CASES))]
    except ValueError as error:
        raise CommandError(error) from None
    versus(
        FAMILY,
        cases,
        forms=form or [],
        peers=[] if peers else peer or OURS_ONLY,
        rounds=rounds,
        threads=threads,
        isa=isa,
        timeout=timeout,
        as_json=as_json,
        as_markdown=as_markdown,
        plot=plot,
    )


def _breakeven(
    names: list[str], percents: list[float], forms: list[str], threads: int, isa: str | None, rounds: int
) -> dict[str, Any]:
    """Measure; plain values."""
    import pycompress as pc
    from pycompress._forced import forced
    from pycompress.bench import shapes
    from pycompress.bench import sparse as family

    try:
        found: list[Shape] = [shapes.parse(name) for name in dict.fromkeys(names)]
        chosen: list[Form] = [family.FAMILY.form(name) for name in dict.fromkeys(forms)] or list(family.FORMS)
    except ValueError as error:
        raise CommandError(error) from None
    at = percents or list(family.SPARSITIES)
    results = []
    try:
        with forced(isa, threads), progress() as bar:
            about = {"pycompress": pc.__version__, "cpu": pc.cpu_info(), "threads": threads, "rounds": rounds}
            task = bar.add_task("measuring", total=len(found) * family.turns(chosen, at, rounds))
            for one in found:
                bar.update(task, description=str(one))
                results.append(family.curves(one, chosen, at, rounds, lambda: bar.advance(task)))
    except (ValueError, OverflowError, MemoryError) as error:
        raise CommandError(error) from None
    titles = {form.name: form.title for form in chosen}
    return {**about, "family": "sparse", "forms": titles, "breakeven": results}
