"""A worker: one library in a process of its own, where it can neither disturb the others nor take them down.

    python -m pycompress.bench.worker NAME [ISA]

reads a request a line from stdin and writes an answer a line to stdout, both JSON objects; what the library prints goes
to stderr. NAME is "pycompress" or a peer (see pycompress.bench.peer). Requests:

    {"do": "open"}                                        -> {"versions": {package: version}} or {"missing": package}
    {"do": "setup", "family": F, "case": C, "form": F}    -> {}; set up and warmed up, instead of what was before
    {"do": "check", "to": PATH}                           -> {}; computes once and saves the result, a .npy
    {"do": "turn", "seconds": S, "settle": T}             -> {"seconds": of a call, the best of timings for S seconds},
                                                             after T seconds of rest
    {"do": "peak", "type": "int8" or "float32"}           -> {"macs": a second}
    {"do": "bandwidth"}                                   -> {"L2": bytes read a second, "L3": ..., "DRAM": ...}

What fails is answered by {"error": "what: why"}. The process ends with its input.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
import warnings
from typing import Any

import numpy as np

from . import family as families
from . import measure
from .peer import Peer, Ready, load

OURS = "pycompress"


class MissingError(Exception):
    """A package is not installed."""


class Worker:
    """Holds the operands of a case and one call that is set up. A method for each request."""

    def __init__(self, name: str, isa: str | None) -> None:
        self.peer: Peer | None = None if name == OURS else load(name)
        self.isa = isa
        self._case: tuple[str, str] | None = None
        self._operands: Any = None
        self._ready: Ready | None = None
        self._timer: measure.Timer | None = None

    def open(self) -> dict[str, Any]:
        if self.peer is None:
            return {"versions": {OURS: importlib.import_module("pycompress").__version__}}
        for package in self.peer.packages:
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                if error.name == package:
                    raise MissingError(package) from None
                raise
        for library in self.peer.libraries:
            try:
                ctypes.CDLL(library)
            except OSError:
                raise MissingError(library) from None
        if self.peer.hold is not None and self.isa is not None:
            self.peer.hold(self.isa)
        return {"versions": {package: importlib.metadata.version(package) for package in self.peer.packages}}

    def setup(self, family: str, case: str, form: str) -> dict[str, Any]:
        self._ready = self._timer = None  # the old one's memory first
        gc.collect()
        about = families.load(family)
        if self._case != (family, case):
            self._operands = about.operands(about.parse(case))
            self._case = (family, case)
        made = (about.ours if self.peer is None else self.peer.setups[family])(self._operands, form)
        self._ready = made if isinstance(made, Ready) else Ready(made)
        self._timer = measure.Timer(self._ready.call)
        return {}

    def check(self, to: str) -> dict[str, Any]:
        assert self._ready is not None
        np.save(to, np.ascontiguousarray(self._ready.result(self._ready.call())), allow_pickle=False)
        return {}

    def turn(self, seconds: float, settle: float = 0) -> dict[str, Any]:
        assert self._timer is not None
        time.sleep(settle)
        return {"seconds": self._timer.turn(seconds)}

    def peak(self, type: str) -> dict[str, Any]:
        return {"macs": measure.peak(type)}

    def bandwidth(self) -> dict[str, Any]:
        return measure.bandwidth()


def answer(worker: Worker, line: str) -> dict[str, Any]:
    """The answer to a request."""
    try:
        request = json.loads(line)
        do = request.pop("do")
        if do not in ("open", "setup", "check", "turn", "peak", "bandwidth"):
            raise ValueError(f"there is no request {do!r}")
        found: dict[str, Any] = getattr(worker, do)(**request)
    except MissingError as error:
        return {"missing": str(error)}
    except Exception as error:  # whatever a library throws is its result
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return found


def main() -> None:
    # A line that a library prints must not be taken for an answer: stdout becomes stderr, also for C.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker = Worker(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    gc.disable()  # a worker that has answered rests: it must not collect garbage in the turn of the next one
    for line in sys.stdin:
        print(json.dumps(answer(worker, line)), file=answers, flush=True)


if __name__ == "__main__":
    main()
