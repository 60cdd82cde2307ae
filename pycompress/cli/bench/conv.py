"""`pycompress bench conv`: convolutions of one image, depthwise, separable and dense."""

from __future__ import annotations

from typing import Annotated

import typer

from ..common import CommandError
from . import options
from .versus import versus

QUICK = ("depthwise:14x512:k3:s1", "separable:14x512>512:k3:s1", "conv:14x256>256:k3:s1")


def conv(
    case: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CASE", help="depthwise:SIDExC:kK:sS, or separable or conv:SIDExC>O:kK:sS; can be repeated."
        ),
    ] = None,
    threads: options.Threads = 1,
    isa: options.Isa = None,
    form: options.Forms = None,
    rounds: options.Rounds = 15,
    quick: options.Quick = False,
    as_json: options.AsJson = False,
    peers: options.Peers = False,
    peer: options.Peer = None,
    plot: options.Plot = None,
    as_markdown: options.AsMarkdown = False,
    timeout: options.Timeout = 60,
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
