"""What the commands share: how errors are told, and where output goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class CommandError(Exception):
    """Why a command can't do what it was asked, in words for its user: told in one line, exit code 1."""


def console() -> Console:
    """Where results go. A pipe has no width: there nothing is folded that fits in a wide window."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def progress() -> Progress:
    """A bar on stderr, gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
