"""The options that the families share."""

from __future__ import annotations

from typing import Annotated

import typer

Threads = Annotated[int, typer.Option(min=1, max=4096, help="Threads of a call.")]
Isa = Annotated[str | None, typer.Option(metavar="NAME", help="Hold our kernels, and peers, to this instruction set.")]
Forms = Annotated[list[str] | None, typer.Option("--form", metavar="NAME", help="One form; can be repeated.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds, in which all take turns.")]
Quick = Annotated[bool, typer.Option("--quick", help="A few small cases (unless some are named), 3 rounds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]
Peers = Annotated[bool, typer.Option("--peers", help="Beside all other libraries, each in its own process.")]
Peer = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME|FILE.py", help="Beside this library, or your adapter; can be repeated."),
]
Plot = Annotated[str | None, typer.Option(metavar="FILE.png", help="Draw the roofline.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds that a worker may take for an answer.")]
