"""What the commands share: how errors are told, and where output goes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


class CommandError(Exception):
    """Why a command can't do what it was asked, in words for its user: told in one line, exit code 1."""


def console() -> Console:
    """Where results go. A pipe has no width: there nothing is folded that fits in a wide window."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


@contextmanager
def told(interrupted: str) -> Iterator[None]:
    """What is wrong with an argument or a file, as a CommandError; and `interrupted` where someone pressed Ctrl-C."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        raise CommandError(error) from error
    except MemoryError as error:
        raise CommandError(f"not enough memory: {error}") from error
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"{about}{error.strerror or error}") from error
    except KeyboardInterrupt:
        raise CommandError(interrupted) from None
    except RuntimeError as error:
        if type(error).__name__ != "BrokenProcessPool":
            raise
        raise CommandError(
            "a process that converts was killed; with less of --jobs there is more memory for each"
        ) from None


def progress(*more: ProgressColumn) -> Progress:
    """A bar on stderr, gone when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), *more, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def size(nbytes: float) -> str:
    """Bytes in decimal units."""
    from pycompress.report import size

    return size(nbytes)
