"""Ours beside peers: a worker process for each, in turns; ratios by pairs of the same round.

`run` gives plain values, as json takes them; pycompress.bench.report makes tables and pictures of those.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

import pycompress as pc

from .family import Family, Form
from .measure import Rate
from .peer import Peer
from .process import NotInstalledError, PeerError, Process, beside, cores
from .worker import OURS

TURN = 0.02  # seconds of a turn, at least: after the turns of others, caches and clock have to come back
SETTLE = 0.1  # seconds before a turn with several threads: the pools of others spin for a while
DEATHS = 2  # so often may a worker die before it is given up


class Ratio(TypedDict):
    """Our speed over the peer's in the same round: the median over rounds, and the quartiles."""

    median: float
    low: float
    high: float


class Entry(TypedDict):
    """One library on a case and form."""

    peer: str
    operation: str
    seconds: list[float]  # of a call, round by round
    gmacs: float
    spread: float  # interquartile range / median
    error: float  # the largest distance from the reference, over the rms of the results
    differs: bool  # by more than the form allows
    held: bool  # to the instruction set; False: it does not obey, and is left out of `best`
    ratio: Ratio | None  # None for ours, and without ours


class Failure(TypedDict):
    """What is not measured, and why; without a form it holds for all."""

    peer: str
    case: str | None
    form: str | None
    reason: str


class Result(TypedDict):
    """A case in a form. Speeds in GMAC/s; intensity in MAC per byte of operands and result."""

    case: str
    form: str
    macs: float
    work: float  # of these ours does so many: fewer with a sparse weight
    intensity: float
    peak: float | None  # of one core's instructions, measured in the same rounds; None with the Numba backend
    of_peak: float | None  # ours, round by round, over all threads
    entries: list[Entry]
    best: str | None  # the peer that is nearest to ours, or most ahead


Run = dict[str, Any]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Our speed over theirs, from seconds in the same rounds."""
    low, median, high = np.percentile(np.divide(theirs, ours), [25, 50, 75]).tolist()
    return {"median": median, "low": low, "high": high}


def best(entries: Sequence[Entry]) -> str | None:
    """The peer with the lowest ratio, of those that are held to the instruction set."""
    compared = [(entry["ratio"]["median"], entry["peer"]) for entry in entries if entry["ratio"] and entry["held"]]
    return min(compared)[1] if compared else None


def deviation(got: NDArray[Any], wanted: NDArray[np.float64]) -> float:
    """The largest distance over the rms of what is wanted. Raises PeerError for a result that is another altogether."""
    if got.shape != wanted.shape:
        raise PeerError(f"wrong result: shape {got.shape}, wanted {wanted.shape}")
    if not np.isfinite(got).all():
        raise PeerError("wrong result: it holds NaN or infinity")
    difference, rms = got - wanted, float(np.sqrt(np.mean(wanted**2))) or 1.0
    if float(np.sqrt(np.mean(difference**2))) > 0.5 * rms:
        raise PeerError("wrong result: its difference from the reference has more than half the rms of the reference")
    return float(abs(difference).max()) / rms


@dataclass
class Side:
    """A worker, started anew where it died, with what is known of it."""

    peer: Peer | None  # None is ours
    cores: list[int]
    isa: str | None
    timeout: float
    versions: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    deaths: int = 0

    @property
    def name(self) -> str:
        return self.peer.name if self.peer else OURS

    def operation(self, family: str, form: str) -> str | None:
        """What it calls the form; None where it has no such thing."""
        return self.peer.served.get(family, {}).get(form) if self.peer else OURS

    def held(self, form: str) -> bool:
        return self.isa is None or self.peer is None or self.peer.obeys(self.isa, form)

    def ask(self, do: str, **about: Any) -> dict[str, Any]:
        """As Process.ask."""
        if self.deaths >= DEATHS:
            raise PeerError(f"given up: it died {self.deaths} times")
        if self.process is None:
            self.process = self._start()
        try:
            return self.process.ask(do, **about)
        except PeerError:
            if not self.process.alive:
                self.process, self.deaths = None, self.deaths + 1
            raise

    def end(self) -> None:
        if self.process:
            self.process.end()
        self.process = None

    def _start(self) -> Process:
        extra: dict[str, str] = {}
        if self.isa:
            extra = dict(self.peer.caps.get(self.isa, {})) if self.peer else {"PYCOMPRESS_ISA": self.isa}
        source = self.peer.source if self.peer else OURS
        process = Process(source, self.cores, len(self.cores), self.isa, extra, self.timeout)
        try:
            self.versions = process.ask("open")["versions"]
        except PeerError:
            if process.alive:
                process.end()
            self.deaths += 1
            raise
        return process


def capped(isa: str | None) -> str | None:
    """The instruction set that all have to be held to; None for the best one here, to which nobody has to be held."""
    isa = isa or os.environ.get("PYCOMPRESS_ISA") or None
    usable = pc.cpu_info()["isas"]
    return None if usable and isa == usable[-1] else isa


def run(
    family: Family,
    cases: Sequence[Any],
    forms: Sequence[Form],
    peers: Sequence[Peer],
    *,
    rounds: int,
    threads: int = 1,
    isa: str | None = None,
    timeout: float = 60,
    step: Callable[[str], None] = lambda what: None,
) -> Run:
    """Measure these cases in these forms: ours, and the peers that serve a form. step(what) is called before each.

    Raises ValueError where this process may not use so many CPUs, and what the family raises for a case that is too
    large. What goes wrong in a worker is an entry of "failures".
    """
    isa, taken = capped(isa), cores(threads)
    sides = [Side(peer, taken, isa, timeout) for peer in (None, *peers)]
    failures: list[Failure] = []
    results: list[Result] = []
    with beside(taken), tempfile.TemporaryDirectory() as directory:
        try:
            sides = [side for side in sides if _open(side, failures)]
            bandwidth = _bandwidth(sides)
            for case, form in itertools.product(cases, forms):
                step(f"{case} {form.name}")
                serving = [side for side in sides if side.operation(family.name, form.name)]
                results.append(_measure(family, case, form, serving, rounds, failures, Path(directory, "y.npy")))
        finally:
            for side in sides:
                side.end()
    cpu = {key: value for key, value in pc.cpu_info().items() if key not in ("isa", "threads")}
    return {
        "pycompress": pc.__version__,
        "family": family.name,
        "cpu": cpu,
        "isa": isa or (cpu["isas"] or [None])[-1],
        "capped": isa is not None,
        "threads": threads,
        "rounds": rounds,
        "bandwidth": bandwidth,
        "forms": {form.name: {"title": form.title, "peak": form.peak, "tolerance": form.tolerance} for form in forms},
        "peers": {
            peer.name: {"title": peer.title, "packages": list(peer.packages), "group": peer.groups.get(family.name, "")}
            for peer in peers
        },
        "versions": {side.name: side.versions for side in sides},
        "results": results,
        "failures": failures,
    }


def _open(side: Side, failures: list[Failure]) -> bool:
    """Whether it can take part at all."""
    try:
        side.ask("open")
    except NotInstalledError as error:
        failures.append({"peer": side.name, "case": None, "form": None, "reason": str(error)})
        side.end()
        return False
    except PeerError as error:
        failures.append({"peer": side.name, "case": None, "form": None, "reason": f"does not start: {error}"})
        side.end()
        return False
    return True


def _bandwidth(sides: Sequence[Side]) -> dict[str, float]:
    """Bytes read a second, by our worker. The first time is the warm-up; {} without a worker of ours."""
    try:
        return {level: float(rate) for level, rate in sides[0].ask("bandwidth").items()} if sides else {}
    except PeerError:
        return {}


def _measure(
    family: Family,
    case: Any,
    form: Form,
    serving: Sequence[Side],
    rounds: int,
    failures: list[Failure],
    scratch: Path,
) -> Result:
    """Set up, check, and take turns."""
    operands = family.operands(case)
    reference = family.reference(operands, form.name)
    errors: dict[str, float] = {}
    seconds: dict[str, list[float]] = {}
    live = list(serving)
    peaks: list[float] = []

    def attempt(side: Side, action: Callable[[], None]) -> None:
        try:
            action()
        except PeerError as error:
            failures.append({"peer": side.name, "case": str(case), "form": form.name, "reason": str(error)})
            live.remove(side)
            seconds.pop(side.name, None)

    def prepare(side: Side) -> None:
        side.ask("setup", family=family.name, case=str(case), form=form.name)
        side.ask("check", to=str(scratch))
        values = family.values(operands, form.name, np.load(scratch, allow_pickle=False))
        errors[side.name], seconds[side.name] = deviation(values, reference), []

    def turn(side: Side) -> None:
        if side.peer is None:
            peaks.append(side.ask("peak", type=form.peak)["macs"] / 1e9)
        seconds[side.name].append(side.ask("turn", seconds=TURN, settle=settle)["seconds"])

    settle = SETTLE if serving and len(serving[0].cores) > 1 else 0
    for side in serving:
        attempt(side, lambda side=side: prepare(side))  # type: ignore[misc]
    order = list(serving)
    for _ in range(rounds):
        for side in [side for side in order if side in live]:
            attempt(side, lambda side=side: turn(side))  # type: ignore[misc]
        order.append(order.pop(0))  # another one is first in each round

    macs, ours = family.macs(case), seconds.get(OURS)
    work = family.work(case) if family.work else macs
    entries: list[Entry] = []
    for side in (side for side in serving if side in live):
        taken, error = seconds[side.name], errors[side.name]
        rate = Rate.of([macs / 1e9 / value for value in taken])
        entries.append(
            {
                "peer": side.name,
                "operation": str(side.operation(family.name, form.name)),
                "seconds": taken,
                "gmacs": rate.median,
                "spread": rate.spread,
                "error": error,
                "differs": error > form.tolerance,
                "held": side.held(form.name),
                "ratio": ratio(ours, taken) if ours and side.peer else None,
            }
        )
    of_peak = None
    if ours and all(peaks):
        bounds = np.array(peaks) * len(serving[0].cores)
        of_peak = float(np.median(work / 1e9 / np.array(ours) / bounds))
    return {
        "case": str(case),
        "form": form.name,
        "macs": macs,
        "work": work,
        "intensity": macs / family.traffic(case, form),
        "peak": float(np.median(peaks)) if peaks and all(peaks) else None,
        "of_peak": of_peak,
        "entries": entries,
        "best": best(entries),
    }
