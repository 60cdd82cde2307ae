"""Tables and pictures of what pycompress.bench.versus found, of one run or of several on one machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from .versus import Entry, Failure, Result, Run, best
from .worker import OURS

# Colour (of Okabe and Ito, which the colour-blind can tell apart) and marker of each library, in their order.
STYLES = (
    ("#000000", "v"),
    ("#E69F00", "s"),
    ("#56B4E9", "^"),
    ("#009E73", "D"),
    ("#0072B2", "o"),
    ("#CC79A7", "P"),
    ("#8C6D31", "X"),
    ("#7F7F7F", "p"),
    ("#882255", "<"),
    ("#F0E442", "h"),
)
OUR_STYLE = ("#D55E00", "*")

RUN = {  # what a file has to hold
    *("family", "cpu", "isa", "capped", "threads", "rounds", "bandwidth", "forms", "peers", "versions", "results"),
    "failures",
}


def merge(runs: Sequence[Run]) -> Run:
    """One run of several; of what was measured twice the later counts.

    Raises ValueError for what is no run, and for runs on different machines, families, instruction sets or threads.
    """
    for run in runs:
        if not isinstance(run, dict) or not run.keys() >= RUN:
            raise ValueError("a file is no output of `pycompress bench ... --peers --json`")
    merged = {**runs[0]}
    for run in runs[1:]:
        for key in ("family", "isa", "capped", "threads"):
            if run[key] != merged[key]:
                raise ValueError(f"{key} is {run[key]!r} in one file and {merged[key]!r} in another, wanted the same")
        if run["cpu"]["name"] != merged["cpu"]["name"]:
            raise ValueError(f"one file is of {run['cpu']['name']}, another of {merged['cpu']['name']}")
        for key in ("forms", "peers", "versions"):
            merged[key] = {**merged[key], **run[key]}
        levels = {**merged["bandwidth"], **run["bandwidth"]}
        merged["bandwidth"] = {level: max(merged["bandwidth"].get(level, 0), rate) for level, rate in levels.items()}
        merged["rounds"] = min(merged["rounds"], run["rounds"])
        again = {(result["case"], result["form"]) for result in run["results"]}
        merged["results"] = [r for r in merged["results"] if (r["case"], r["form"]) not in again] + run["results"]
        kept = [failure for failure in merged["failures"] if (failure["case"], failure["form"]) not in again]
        merged["failures"] = kept + [failure for failure in run["failures"] if failure not in kept]
    return merged


@dataclass
class Table:
    """A form: a heading, columns, and a row for each case."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def title(run: Run) -> str:
    """Where and how it was measured, in a line."""
    threads = "1 thread" if run["threads"] == 1 else f"{run['threads']} threads"
    held = f"all held to {run['isa']}" if run["capped"] else run["isa"] or "Numba"
    return f"{run['cpu']['name']}, {held}, {threads}, {run['rounds']} rounds"


def tables(run: Run) -> Iterator[Table]:
    """A table for each form that was measured. Speeds in GMAC/s."""
    for form, results in _by_form(run):
        names = [name for name in run["peers"] if any(name == e["peer"] for r in results for e in r["entries"])]
        failed = {f["peer"] for f in run["failures"] if f["form"] == form}
        names += [name for name in run["peers"] if name in failed and name not in names]
        groups = _groups(run, names)
        sparse = any(_work(result) != result["macs"] for result in results)
        columns = ["case", OURS, *(["real work"] if sparse else []), "of peak"]
        if groups:
            columns += [f"to {group}" for group in groups]
        else:
            columns += ["ratio", "to the best peer"]
        columns += [run["peers"][name]["title"] for name in names]
        rows = []
        for result in results:
            entries = {entry["peer"]: entry for entry in result["entries"]}
            first = [result["case"], _speed(entries.get(OURS), OURS in failed)]
            if sparse:
                found = entries.get(OURS)
                first.append(f"{found['gmacs'] * _work(result) / result['macs']:.1f}" if found else "")
            first.append(_percent(result["of_peak"]))
            if groups:
                for members in groups.values():
                    ratio, _ = _against(run, best([entries[name] for name in members if name in entries]), entries)
                    first.append(ratio.partition(" ")[0])  # the quartiles are in the JSON
            else:
                first += _against(run, result["best"], entries)
            rows.append([*first, *(_speed(entries.get(name), name in failed) for name in names)])
        yield Table(f"{form}: {run['forms'][form]['title']}", columns, rows)


def notes(run: Run) -> Iterator[str]:
    """What has to be known to read the tables: peaks, marks, versions, and everything that was not measured."""
    peaks = {}
    for form in run["forms"].values():
        values = [r["peak"] for r in run["results"] if r["peak"] and run["forms"][r["form"]]["peak"] == form["peak"]]
        if values:
            peaks[form["peak"]] = f"{form['peak']} {max(values):.0f}"
    if peaks:
        yield f"Instruction peak of one core, highest seen, in GMAC/s: {', '.join(peaks.values())}."
    if run["bandwidth"]:
        levels = ", ".join(f"{level} {rate / 1e9:.0f}" for level, rate in run["bandwidth"].items())
        yield f"Read by one core, in GB/s: {levels}."
    groups = _groups(run, run["peers"])
    named = "; ".join(f"{group}: {', '.join(_name(run, name) for name in names)}" for group, names in groups.items())
    if groups:
        yield f"to ...: our speed over the best of the group, by pairs of one round, the median of {run['rounds']}."
    else:
        yield f"ratio: our speed over the peer's, by pairs of one round, the median (quartiles) of {run['rounds']}."
    if groups:
        yield f"Groups: {named}."
    if any(_work(result) != result["macs"] for result in run["results"]):
        yield "GMAC/s are of the dense product; real work, and the part of the peak, count only what is not zero."
    for (peer, form), found in _grouped(run, lambda entry: entry["differs"]).items():
        error, case = max((entry["error"], case) for case, entry in found)
        yield (
            f"* {_name(run, peer)}, {form}: differs from the reference by up to {error:.3g} of the rms of the results"
            f" ({case}; a correct one by at most {run['forms'][form]['tolerance']:g})."
        )
    for peer, forms in _not_held(run).items():
        yield f"† {_name(run, peer)}, {', '.join(forms)}: cannot be held to {run['isa']}; left out of the ratio."
    for peer, operations in _operations(run).items():
        versions = " ".join(f"{package} {version}" for package, version in run["versions"].get(peer, {}).items())
        yield f"{_name(run, peer)}{f' ({versions})' if versions else ''}: {operations}."
    yield from failures(run)


def failures(run: Run) -> Iterator[str]:
    """A line for each thing that was not measured, the same reason once for all cases."""
    reasons: dict[tuple[str, str | None, str], list[str]] = {}
    for failure in run["failures"]:
        reasons.setdefault((failure["peer"], failure["form"], failure["reason"]), []).append(failure["case"] or "")
    for (peer, form, reason), cases in reasons.items():
        where = f", {form}, {', '.join(cases)}" if form else ""
        yield f"{_name(run, peer)}{where}: not measured: {reason}."
    missing = [package for failure in run["failures"] for package in _missing(run, failure)]
    if missing:
        yield f'To have all: pip install "pycompress-kernels[bench]" (or {" ".join(dict.fromkeys(missing))}).'


def markdown(run: Run) -> str:
    """The tables and notes as they stand in a page."""
    lines = [f"{title(run)}.", ""]
    for table in tables(run):
        columns = " | ".join(table.columns)
        lines += [f"**{table.title}**", "", f"| {columns} |", f"|{' --- |' * len(table.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows] + [""]
    return "\n".join([*lines, *(f"- {note.replace('*', chr(92) + '*')}" for note in notes(run)), ""])


def plot(run: Run, path: str) -> None:
    """Write `figure` as an image. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    drawn = figure(run)
    drawn.savefig(path, dpi=100)
    plt.close(drawn)


def figure(run: Run) -> Any:
    """A roofline for each form, GMAC/s over MAC/byte, as a matplotlib figure."""
    from matplotlib import pyplot as plt

    groups = list(_by_form(run))
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    drawn, axes = plt.subplots(lines, columns, figsize=(7.6 * columns, 5.4 * lines + 1), squeeze=False)
    peaks = {
        kind: max(
            (r["peak"] for r in run["results"] if r["peak"] and run["forms"][r["form"]]["peak"] == kind), default=0
        )
        for kind in ("int8", "float32")
    }
    styles = {OURS: OUR_STYLE, **dict(zip(run["peers"], STYLES * len(run["peers"]), strict=False))}
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, (form, results) in zip(axes.flat, groups, strict=False):
        _panel(axis, run, form, results, peaks[run["forms"][form]["peak"]], styles)
    shown = {entry["peer"] for result in run["results"] for entry in result["entries"] if entry["held"]}
    handles = [_marker(plt, styles[name], name, _name(run, name)) for name in styles if name in shown]
    legend = drawn.legend(handles=handles, loc="lower center", ncols=min(len(handles), 8), frameon=False, fontsize=11)
    legend.set_in_layout(False)
    remarks = [*dict.fromkeys(failure_line(run, failure) for failure in run["failures"])]
    for peer, forms in _not_held(run).items():
        remarks.append(f"{_name(run, peer)}, {', '.join(forms)}: not held to {run['isa']}, not drawn")
    drawn.suptitle(f"{run['family']}: {title(run)}", fontsize=13)
    bottom = 0.06 + 0.016 * len(remarks)
    if remarks:
        drawn.text(0.5, 0.035, "\n".join(remarks), ha="center", va="bottom", fontsize=8.5, color="#555555")
    drawn.tight_layout(rect=(0, bottom, 1, 1 - 0.3 / drawn.get_figheight()))
    for axis in axes.flat:
        for text in (text for text in axis.texts if text.get_gid() == "along"):
            x, y = text.get_position()
            (left, down), (right, up) = axis.transData.transform([(x, y), (2 * x, 2 * y)])
            text.set(rotation=math.degrees(math.atan2(up - down, right - left)), rotation_mode="anchor")
    return drawn


def failure_line(run: Run, failure: Failure) -> str:
    """For a legend: who, and why."""
    where = f" ({failure['form']})" if failure["form"] else ""
    return f"{_name(run, failure['peer'])}{where}: {failure['reason'][:90]}"


def _panel(
    axis: Any, run: Run, form: str, results: Sequence[Result], peak: float, styles: dict[str, tuple[str, str]]
) -> None:
    """The roofs and the points of a form."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    at = _apart([result["intensity"] for result in results])
    speeds = [entry["gmacs"] for result in results for entry in result["entries"] if entry["held"]]
    low, high = min(at) / 1.6, max(at) * 1.6
    top = max([peak * run["threads"], *speeds])
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(min(speeds, default=1) / 1.5, top * 1.35))
    roof = peak * run["threads"]
    if roof:
        axis.axhline(roof, color="#444444", linewidth=1.4)
        kind = run["forms"][form]["peak"]
        axis.text(high / 1.03, roof * 1.03, f"{kind} peak {roof:.0f} GMAC/s", ha="right", va="bottom", fontsize=9)
    for level, rate in run["bandwidth"].items():
        end = roof / (rate / 1e9) if roof else high
        line = [low, min(end, high)]
        axis.plot(line, [x * rate / 1e9 for x in line], color="#999999", linewidth=1, zorder=1)
        x = (0.5 * roof if roof else top / 3) / (rate / 1e9)
        if low < x < high:
            text = axis.text(x, x * rate / 1e9, f"{level} {rate / 1e9:.0f} GB/s", fontsize=8.5, color="#666666")
            text.set(ha="center", va="center", zorder=1.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
            text.set_gid("along")  # turned along its line when the layout is known
    for x, result in zip(at, results, strict=True):
        shown = [entry for entry in result["entries"] if entry["held"]]
        if shown:
            axis.axvline(x, color="#dddddd", linewidth=0.7, zorder=0)
        for entry in shown:
            colour, marker = styles[entry["peer"]]
            size, order = (17, 2) if entry["peer"] == OURS else (7.5, 3)  # ours is larger, so it lies below the others
            face = "white" if entry["differs"] else colour
            axis.plot(x, entry["gmacs"], marker, color=colour, mfc=face, markersize=size, mec=colour, zorder=order)
    _labels(axis, at, [result["case"] for result in results], low, high)
    axis.grid(axis="y", which="major", color="#eeeeee", zorder=0)
    axis.set_xlabel("MAC per byte of operands and result")
    axis.set_ylabel("GMAC/s")
    for scale in axis.xaxis, axis.yaxis:
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
        scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        scale.set_minor_formatter(NullFormatter())
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    name = run["forms"][form]["title"]
    axis.text(0.98, 0.03, name, transform=axis.transAxes, ha="right", fontsize=13, fontweight="bold", bbox=box)


def _apart(values: Sequence[float]) -> list[float]:
    """The same, with those that would hide one another moved apart by some percent."""
    moved = list(values)
    for this, before in zip(sorted(range(len(moved)), key=moved.__getitem__)[1:], _sorted(values), strict=False):
        moved[this] = max(moved[this], moved[before] * 1.06)
    return moved


def _sorted(values: Sequence[float]) -> list[int]:
    return sorted(range(len(values)), key=values.__getitem__)


def _labels(axis: Any, at: Sequence[float], texts: Sequence[str], low: float, high: float) -> None:
    """The cases above the panel, none on another, each with a line to its points."""
    step = (high / low) ** (1 / 26)
    order = _sorted(at)
    places = [at[i] for i in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] * step)
    if places[-1] > high:
        places[-1] = high
    for i in reversed(range(len(places) - 1)):
        places[i] = min(places[i], places[i + 1] / step)
    across = axis.get_xaxis_transform()
    for place, i in zip(places, order, strict=True):
        axis.plot([at[i], place], [1, 1.035], color="#bbbbbb", linewidth=0.7, transform=across, clip_on=False)
        axis.text(
            place, 1.04, texts[i], rotation=45, fontsize=8.5, va="bottom", rotation_mode="anchor", transform=across
        )


def _marker(plt: Any, style: tuple[str, str], name: str, label: str) -> Any:
    colour, marker = style
    size = 15 if name == OURS else 8
    return plt.Line2D([], [], color=colour, marker=marker, linestyle="", markersize=size, label=label)


def _by_form(run: Run) -> Iterator[tuple[str, list[Result]]]:
    order = list(run["forms"])
    results = sorted(run["results"], key=lambda result: order.index(result["form"]))
    for form, found in groupby(results, key=lambda result: str(result["form"])):
        yield form, list(found)


def _grouped(run: Run, wanted: Callable[[Entry], bool]) -> dict[tuple[str, str], list[tuple[str, Entry]]]:
    """(peer, form) -> its (case, entry) that are wanted."""
    found: dict[tuple[str, str], list[tuple[str, Entry]]] = {}
    for result in run["results"]:
        for entry in result["entries"]:
            if wanted(entry):
                found.setdefault((entry["peer"], result["form"]), []).append((result["case"], entry))
    return found


def _not_held(run: Run) -> dict[str, list[str]]:
    """The forms in which a peer does not obey."""
    found: dict[str, list[str]] = {}
    for peer, form in _grouped(run, lambda entry: not entry["held"]):
        found.setdefault(peer, []).append(form)
    return found


def _operations(run: Run) -> dict[str, str]:
    """Of each peer, what it calls the forms."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for result in run["results"]:
        for entry in result["entries"]:
            found.setdefault(entry["peer"], {}).setdefault(entry["operation"], {})[result["form"]] = None
    return {
        peer: "; ".join(
            f"{', '.join(forms)} {'is' if len(forms) == 1 else 'are'} {operation}" for operation, forms in of.items()
        )
        for peer, of in found.items()
        if peer != OURS
    }


def _groups(run: Run, names: Iterable[str]) -> dict[str, list[str]]:
    """Kinds of peers that have to be told apart, and who of `names` belongs to each."""
    found: dict[str, list[str]] = {}
    for name in names:
        if group := run["peers"][name].get("group"):
            found.setdefault(group, []).append(name)
    return found


def _work(result: Result) -> float:
    return result.get("work", result["macs"])  # older files have none


def _against(run: Run, peer: str | None, entries: dict[str, Entry]) -> list[str]:
    """Our speed over that peer's, and who that is."""
    if not peer or not (found := entries[peer]["ratio"]):
        return ["", ""]
    return [f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})", str(run["peers"][peer]["title"])]


def _missing(run: Run, failure: Failure) -> list[str]:
    packages = run["peers"].get(failure["peer"], {}).get("packages", [])
    return [package for package in packages if failure["reason"] == f"not installed ({package})"]


def _name(run: Run, peer: str) -> str:
    return str(run["peers"][peer]["title"]) if peer in run["peers"] else peer


def _speed(entry: Entry | None, failed: bool) -> str:
    if entry is None:
        return "failed" if failed else ""
    return f"{entry['gmacs']:.1f}{'*' if entry['differs'] else ''}{'' if entry['held'] else '†'}"


def _percent(part: float | None) -> str:
    return "" if part is None else f"{part:.0%}"


__all__ = ["best", "failures", "markdown", "merge", "notes", "plot", "tables", "title"]
