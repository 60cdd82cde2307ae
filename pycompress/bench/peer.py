"""What an adapter of bench/peers says about a library that ours is measured beside."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]


class Ready(NamedTuple):
    """A call that is set up, and what makes an array of the result that it returns."""

    call: Call
    result: Callable[[Any], NDArray[Any]] = np.asarray


Setup = Callable[[Any, str], "Call | Ready"]


@dataclass
class Peer:
    """A library, or one way through it. Its file is imported by everybody, the library only by its own worker.

    caps holds, for each instruction set that the library can be held to, the environment that does so. `hold` is for a
    library that wants to be asked: it is called in the worker, before the first setup, with the instruction set.
    not_held names forms for which the library does not obey. libraries are shared ones of the system, which pip can't
    install.
    """

    name: str  # as --peer takes it: the name of the file
    title: str  # in tables and pictures
    packages: Sequence[str]  # to import, and to install
    caps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hold: Callable[[str], None] | None = None
    not_held: Sequence[str] = ()
    libraries: Sequence[str] = ()  # as dlopen takes them
    served: dict[str, dict[str, str]] = field(default_factory=dict)  # family -> form -> the library's operation
    setups: dict[str, Setup] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)  # family -> kind of competitor, where it tells several apart
    source: str = ""  # what `load` was given: a worker takes the same

    def family(self, name: str, forms: Mapping[str, str], group: str = "") -> Callable[[Setup], Setup]:
        """A decorator: the function sets up these forms of a family; each is named with the operation behind it.

        With `group` the tables have a ratio to the best of each group, "dense" say, instead of one to the best of all.
        """

        def add(setup: Setup) -> Setup:
            self.served[name], self.setups[name] = dict(forms), setup
            if group:
                self.groups[name] = group
            return setup

        return add

    def obeys(self, isa: str, form: str) -> bool:
        """Whether it can be held to this instruction set."""
        return isa in self.caps and form not in self.not_held


def names() -> list[str]:
    """All bundled adapters, in the order of reports."""
    bundled: Sequence[str] = importlib.import_module("pycompress.peers").NAMES
    return list(bundled)


def load(name: str) -> Peer:
    """The adapter of that name, or in that Python file. Raises ValueError."""
    if name.endswith(".py"):
        path = Path(name)
        spec = importlib.util.spec_from_file_location(f"pycompress_peer_{path.stem}", path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ValueError(f"there is no file {name!r}, wanted an adapter as in bench/peers")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    elif name in names():
        module = importlib.import_module(f"pycompress.peers.{name}")
    else:
        raise ValueError(f"there is no peer {name!r}; there are {', '.join(names())}, or a file NAME.py")
    found = getattr(module, "PEER", None)
    if not isinstance(found, Peer):
        raise ValueError(f"{name!r} holds no PEER, wanted an adapter as in bench/peers")
    found.source = name
    return found


def threads() -> int:
    """How many threads a worker may use: for libraries that have to be told."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))
