"""Tables and a picture of what pycompress.bench.sparse.curves found: speed over sparsity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .report import Table

# Of Okabe and Ito, which the colour-blind can tell apart.
STYLES = {
    "int8_1x4": ("#D55E00", "o"),
    "int8_4x1": ("#0072B2", "s"),
    "int8_16x1": ("#009E73", "^"),
    "int8_csr": ("#CC79A7", "D"),
    "dynamic_1x4": ("#D55E00", "o"),
    "f32_4x1": ("#0072B2", "s"),
    "f32_8x1": ("#009E73", "^"),
    "f32_csr": ("#CC79A7", "D"),
}
DENSE = {"static": "int8, u8 -> u8", "dynamic": "int8, f32 -> f32", "f32": "float32"}
NOTES = (
    "GMAC/s of the dense product; in brackets the speed over our own dense kernel of the same types, the last rows.",
    "beats dense from: percent of zeros from which on the form is faster than our dense kernel of the same types.",
)


def merge(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One run of several, shape by shape; of a shape that was measured twice the later counts.

    Raises ValueError for runs on different machines, instruction sets or threads.
    """
    merged = {**runs[0]}
    for run in runs[1:]:
        for what, one, other in (("threads", merged["threads"], run["threads"]), *_same(merged["cpu"], run["cpu"])):
            if one != other:
                raise ValueError(f"{what} is {one!r} in one file and {other!r} in another, wanted the same")
        merged["rounds"] = min(merged["rounds"], run["rounds"])
        merged["forms"] = {**merged["forms"], **run["forms"]}
        again = {found["shape"] for found in run["breakeven"]}
        merged["breakeven"] = [one for one in merged["breakeven"] if one["shape"] not in again] + run["breakeven"]
    return merged


def _same(one: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    yield from ((key, one[key], other[key]) for key in ("name", "isa"))


def title(run: dict[str, Any]) -> str:
    """Where and how it was measured, in a line."""
    cpu = run["cpu"]
    threads = "1 thread" if run["threads"] == 1 else f"{run['threads']} threads"
    return f"{cpu['name']}, {cpu['isa'] or 'Numba'}, {threads}, {run['rounds']} rounds"


def tables(run: dict[str, Any]) -> Iterator[Table]:
    """For each shape: forms by sparsities, each speed with the ratio to our dense kernel."""
    for found in run["breakeven"]:
        columns = ["form", "beats dense from", *(f"{percent:g} %" for percent in found["sparsity"])]
        rows = []
        for curve in found["curves"]:
            cells = [f"{v:.0f} ({r:.2f})" for v, r in zip(curve["gmacs"], curve["ratio"], strict=True)]
            rows.append([run["forms"][curve["form"]], _from(curve["breakeven"], found["sparsity"]), *cells])
        for name, value in found["dense"].items():
            rows.append([f"dense {DENSE[name]}", "", f"{value:.0f}", *([""] * (len(found["sparsity"]) - 1))])
        yield Table(found["shape"], columns, rows)


def _from(value: float | None, percents: list[float]) -> str:
    if value is None:
        return "never"
    return f"<= {value:g} %" if value == percents[0] else f"{value:.0f} %"


def markdown(run: dict[str, Any]) -> str:
    """The tables and notes as they stand in a page."""
    lines = [f"{title(run)}.", ""]
    for table in tables(run):
        lines += [f"**{table.title}**", "", f"| {' | '.join(table.columns)} |", f"|{' --- |' * len(table.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows] + [""]
    return "\n".join([*lines, *(f"- {note}" for note in NOTES), ""])


def plot(run: dict[str, Any], path: str) -> None:
    """Write a picture: for each shape a panel of int8 and one of float32. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    groups = [names for names in (("static", "dynamic"), ("f32",)) if _has(run, names)]
    shapes = run["breakeven"]
    drawn = Figure(figsize=(7.4 * len(groups), 5.2 * len(shapes) + 0.6), layout="constrained")
    axes = drawn.subplots(len(shapes), len(groups), squeeze=False)
    for line, found in zip(axes, shapes, strict=True):
        for axis, names in zip(line, groups, strict=True):
            _panel(axis, run, found, names)
    drawn.suptitle(f"Sparse over dense: {title(run)}", fontsize=13)
    drawn.savefig(path, dpi=100)


def _has(run: dict[str, Any], names: tuple[str, ...]) -> bool:
    return any(curve["dense"] in names for found in run["breakeven"] for curve in found["curves"])


def _panel(axis: Any, run: dict[str, Any], found: dict[str, Any], names: tuple[str, ...]) -> None:
    """Speed over sparsity; the dense kernel is a level line, and a ring marks where a form crosses it."""
    at = found["sparsity"]
    speeds = [value for curve in found["curves"] if curve["dense"] in names for value in curve["gmacs"]]
    for name in names:
        if name in found["dense"] and any(curve["dense"] == name for curve in found["curves"]):
            level = found["dense"][name]
            speeds.append(level)
            axis.axhline(level, color="#444444", linewidth=1.6, linestyle="--" if name == "dynamic" else "-", zorder=1)
            below = name == "dynamic" and "static" in found["dense"]
            text = f"our dense {DENSE[name]}: {level:.0f}"
            axis.annotate(
                text,
                (max(at), level),
                xytext=(0, -4 if below else 4),
                textcoords="offset points",
                ha="right",
                va="top" if below else "bottom",
                fontsize=10,
                color="#444444",
            )
    for curve in found["curves"]:
        if curve["dense"] not in names:
            continue
        colour, marker = STYLES[curve["form"]]
        dashed = curve["dense"] == "dynamic"
        stored = run["forms"][curve["form"]].replace(", f32", "").replace(", u8 -> u8 static", "")
        label = f"{stored.replace(' -> f32', ',')}: from {_from(curve['breakeven'], at)}"
        axis.plot(
            at,
            curve["gmacs"],
            color=colour,
            marker=marker,
            markersize=5.5,
            linewidth=2,
            linestyle="--" if dashed else "-",
            markerfacecolor="white" if dashed else colour,
            label=label,
            zorder=3,
        )
        if (cross := curve["breakeven"]) is not None and cross != at[0]:
            level = found["dense"][curve["dense"]]
            axis.plot(cross, level, "o", markersize=11, mfc="none", mec=colour, mew=1.8, zorder=4)
    axis.set_yscale("log")
    ticks = [base * step for base in (1, 10, 100, 1000, 10000) for step in (1, 2, 5)]
    low, high = min(speeds) / 1.15, max(speeds) * 1.15
    axis.set_yticks([tick for tick in ticks if low <= tick <= high])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(lambda value, _: "")
    axis.set_ylim(low, high)
    axis.set_xlabel("zeros in the weight, percent")
    axis.set_ylabel("GMAC/s of the dense product")
    axis.grid(color="#eeeeee", zorder=0)
    kind = "float32" if names == ("f32",) else "int8"
    axis.set_title(f"{found['shape']}, {kind}", fontsize=12, fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(
        loc="upper left",
        fontsize=9.5,
        frameon=True,
        framealpha=0.9,
        edgecolor="none",
        title="beats dense",
        alignment="left",
    )
