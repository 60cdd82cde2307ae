#!/usr/bin/env python3
"""Put what comes from stdin into a page, between its lines `<!-- NAME -->` and `<!-- end of NAME -->`.

pycompress bench gemm --peers --markdown | tools/paste.py docs/benchmarks.md peers
"""

import sys
from pathlib import Path


def pasted(page: str, name: str, text: str) -> str:
    """The page with the text in its place. Raises ValueError where that is missing."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ValueError(f"the page has no place for it, wanted the lines {begin.strip()} and {end.strip()}")
    return f"{page.partition(begin)[0]}{begin}\n{text.strip()}\n\n{end}{page.partition(end)[2]}"


def main() -> None:
    path, name = Path(sys.argv[1]), sys.argv[2]
    text = sys.stdin.read()
    if not text.strip():  # what should have written it has failed, and has said so
        sys.exit("nothing came from stdin: the page is left as it is")
    try:
        path.write_text(pasted(path.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    except ValueError as error:
        sys.exit(f"{path}: {error}")


if __name__ == "__main__":
    main()
