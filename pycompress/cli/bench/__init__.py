"""`pycompress bench`: a file and a line here for each family."""

from __future__ import annotations

import typer

from . import conv, gemm, sparse, versus

app = typer.Typer(no_args_is_help=True)
app.command()(gemm.gemm)
app.command()(sparse.sparse)
app.command()(conv.conv)
app.command()(versus.report)


@app.callback()
def _families() -> None:
    """Measure the kernels: ratios within one run are what holds."""
