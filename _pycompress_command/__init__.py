"""The outermost layer of the command `pycompress`.

It is not part of pycompress, because that package itself can't be imported where PYCOMPRESS_ISA or PYCOMPRESS_BACKEND
asks for what can't run: which then is one clear line, not a traceback.
"""

import sys


def main() -> None:
    """The entry point of the command; `pycompress.cli.main` behind it."""
    try:
        from pycompress.cli import main as command
    except ImportError as error:
        sys.exit(f"error: {error}")
    command()
