"""`pycompress bench conv`: convolutions of one image, depthwise, separable and dense."""

from __future__ import annotations

from typing import Annotated

import typer

from ..common import CommandError
from .versus import versus

QUICK = ("depthwise:14x512:k3:s1", "separable:14x512>512:k3:s1", "conv:14x256>256:k3:s1")


def conv(
    case: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CASE", help="depthwise:SIDExC:kK:sS, or separable or conv:SIDExC>O:kK:sS; can be repeated."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, max=4096, help="Threads of a call.")] = 1,
    isa: Annotated[str | None, typer.Option(metavar="NAME", help="Force this instruction set.")] = None,
    form: Annotated[list[str] | None, typer.Option(metavar="NAME", help="static or f32; can be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in which all take turns.")] = 15,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases (unless some are named), 3 rounds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="Beside all other libraries, each in its own process.")
    ] = False,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|FILE.py", help="Beside this library, or your adapter; can be repeated."),
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="FILE.png", help="Draw the roofline.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a worker may take for an answer.")] = 60,
) -> None:
    """Measure convolutions of one image [1, SIDE, SIDE, C], padded by half the kernel.

    static: uint8 in and out, int8 weights with a scale for each output. f32:
    float32. Weights are packed beforehand where the library has a way.

    Without --peers or --peer ours alone is measured, beside the instruction peak.
    """
    from pycompress.bench.conv import CASES, FAMILY

    try:
        texts = case or (QUICK if quick else CASES)
        chosen = list(dict.fromkeys(FAMILY.parse(text) for text in texts))
    except ValueError as error:
        raise CommandError(f"--case: {error}") from None
    versus(
        FAMILY,
        chosen,
        forms=form or [],
        peers=[] if peers else peer or (),
        rounds=min(rounds, 3) if quick else rounds,
        threads=threads,
        isa=isa,
        timeout=timeout,
        as_json=as_json,
        as_markdown=as_markdown,
        plot=plot,
        alone=not peers and not peer,
    )
