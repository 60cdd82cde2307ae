"""The command `pycompress`: a file for each subcommand, which imports what it needs only when it runs.

Results go to stdout, progress and errors to stderr. What can be expected to go wrong is told in one line, exit code 1.
"""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import bench, compress, demo, doctor, inspect
from .common import CommandError

__all__ = ["app", "main"]


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, ImportError, OSError) as error:  # ImportError: something optional that is not installed
            if isinstance(error, OSError) and error.errno == errno.EPIPE:  # nobody reads on: typer ends quietly
                raise
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(compress.compress)
app.command()(inspect.inspect)
app.command()(doctor.doctor)
app.command()(demo.demo)
app.add_typer(bench.app, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        import pycompress

        typer.echo(f"pycompress {pycompress.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Kernels that make compressed neural networks fast on ordinary CPUs."""


def main() -> None:
    """The entry point."""
    app()
