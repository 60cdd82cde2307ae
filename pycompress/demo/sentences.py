"""Real English sentences that every Python has: those of its own language reference, `pydoc_data.topics`."""

from __future__ import annotations

import re
import sys

FEWEST, MOST = 5, 60  # words in a sentence

_BULLET = re.compile(r"^(\*|\d+\.|--) +")
_CODE = re.compile(r"::=|>>>|==+|\*\*\*|---|^\s*(?:from|import|def|class|if|for|while|with|try|return) .*:?$", re.M)
_VERSION_NOTE = re.compile(r"^(?:New|Changed|Added|Deprecated)\b[^:.]*? in version [\w.]+(?:, [^:]*)?[:.]\s*")
_EMPHASIS = re.compile(r"(?<![\w*\"])(\*{1,2}|``)([^\s*`][^*`]*)\1(?![\w*\"])")
# A full stop ends a sentence when a capital follows, except after an abbreviation or an initial.
_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)(?<![ .][A-Z]\.)\s+(?=[\"“(]?[A-Z])")
_SENTENCE = re.compile(r"[\"“]?[A-Z].*[.!?][\"”)]?", re.S)
_WORD = re.compile(r"[\"“'(]*[A-Za-z]+(?:['\u2019/-][A-Za-z]+)*[\"”'),.;:!?]*")


def split(text: str) -> list[str]:
    """The sentences of a page, in order, on one line each, without markup, headings, grammar and code."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip("\n").split("\n")
        depth = [len(line) - len(line.lstrip()) for line in lines]
        # Prose is set flush, whatever its depth; lines at several depths are code or a list.
        if len(set(depth[1:])) > 1 or _CODE.search(block):
            continue
        lines = [line.strip() for line in lines]
        if _BULLET.match(lines[0]):
            lines[0] = _BULLET.sub("", lines[0])
        elif depth[0] != depth[-1]:
            del lines[0]  # a term, with its definition set in below it
        prose = re.sub(r"(?<=\w)-\n", "-", "\n".join(lines)).replace("\n", " ")
        prose = _EMPHASIS.sub(r"\2", _VERSION_NOTE.sub("", prose))
        for sentence in _END.split(prose):
            words = sentence.split()
            # Two words of three must be words: what is left out is mostly names, operators and numbers.
            plain = sum(_WORD.fullmatch(word) is not None for word in words)
            if FEWEST <= len(words) <= MOST and 3 * plain >= 2 * len(words) and _SENTENCE.fullmatch(sentence):
                found.append(" ".join(words))
    return found


def load(count: int) -> list[str]:
    """`count` different sentences (or all, when there are fewer), evenly spread over the topics, always the same."""
    from pydoc_data.topics import topics

    found = list(dict.fromkeys(sentence for name in sorted(topics) for sentence in split(topics[name])))
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def split_off(count: int, others: int) -> tuple[list[str], list[str]]:
    """`load(count)`, and up to `others` sentences that are not among them, evenly spread; without any, these."""
    chosen = load(count)
    rest = [sentence for sentence in load(sys.maxsize) if sentence not in set(chosen)] or chosen
    others = min(others, len(rest))
    return chosen, [rest[i * len(rest) // others] for i in range(others)]
