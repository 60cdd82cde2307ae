"""The picture of a comparison, for somebody who looks rather than reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .run import KINDS, Report

COLOURS = dict(zip(KINDS, ("#9aa5b1", "#7d6bb0", "#0b6fb8", "#12908e", "#e07b00", "#c2467d", "#2f9e44"), strict=True))
INK = "#2b2f36"
BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "weight": "bold", "color": INK}


def draw(report: Report, path: Path, subtitle: str = "") -> None:
    """Write a PNG to `path`, all or nothing: it is made beside it and renamed."""
    # A figure without pyplot is drawn by Agg: no display, and no state left behind in the process.
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15, wspace=0.04, hspace=0.06)
    figure = Figure(figsize=(13, 8.4), layout=layout)
    float32, auto = report.speed["float32"], report.speed["auto"]
    figure.suptitle(
        "A sentence encoder under every preset; auto: linear layers "
        f"{float32.linear_bytes / auto.linear_bytes:.1f}x smaller and "
        f"{float32.linear_seconds / auto.linear_seconds:.1f}x as fast, "
        f"cosine {report.closeness['auto'].cosines.mean():.4f}",
        fontsize=14,
        fontweight="bold",
        color=INK,
    )
    (size, linear), (speed, cosine) = figure.subplots(2, 2)
    _bars(size, [report.speed[kind].linear_bytes / 1e6 for kind in KINDS], "{:.1f} MB", "smaller")
    size.set_title(f"Size of the {report.linear_layers} linear layers")
    _bars(linear, [report.speed[kind].linear_seconds for kind in KINDS], "{:.2f} s", "as fast")
    linear.set_title(f"Time in the linear layers, {report.sentences} sentences, one core")
    _throughput(speed, report)
    _cosines(cosine, report)
    if subtitle:
        figure.supxlabel(subtitle, fontsize=10, color=INK)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(beside, format="png", dpi=150)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=11)
    axes.invert_yaxis()
    axes.set_xticks([])


def _bars(axes: Axes, values: list[float], label: str, better: str) -> None:
    """One bar for each kind, less is better; the ratio stands at all but the first."""
    bars = axes.barh(KINDS, values, color=[COLOURS[kind] for kind in KINDS], height=0.66)
    texts = [label.format(value) for value in values]
    for i in range(1, len(texts)):
        texts[i] += f"  ({values[0] / values[i]:.1f}x {better})"
    axes.bar_label(bars, texts, padding=5, fontsize=11, fontweight="bold", color=INK)
    axes.set_xlim(0, 1.3 * max(values))
    _bare(axes)


def _throughput(axes: Axes, report: Report) -> None:
    """Sentences per second: on one core, and behind it, lighter, on all."""
    one = [report.sentences / report.speed[kind].one_core_seconds for kind in KINDS]
    longest = one
    texts = [f"{a:.0f} ({a / one[0]:.1f}x)" for a in one]
    if report.threads > 1:
        longest = [report.sentences / report.speed[kind].all_cores_seconds for kind in KINDS]
        axes.barh(KINDS, longest, color=[COLOURS[kind] for kind in KINDS], height=0.66, alpha=0.35)
        texts = [f"{text}, {b:.0f} on {report.threads} cores" for text, b in zip(texts, longest, strict=True)]
    axes.barh(KINDS, one, color=[COLOURS[kind] for kind in KINDS], height=0.66)
    for i, (text, value) in enumerate(zip(texts, longest, strict=True)):
        axes.annotate(text, (value, i), (5, 0), **BESIDE)
    axes.set_xlim(0, 1.55 * max(*one, *longest))
    axes.set_title("Sentences per second, the whole encoder")
    _bare(axes)


def _cosines(axes: Axes, report: Report) -> None:
    """Of each kind the mean, a bar, and the worst, a line."""
    kinds = list(report.closeness)
    means = [float(report.closeness[kind].cosines.mean()) for kind in kinds]
    worst = [float(report.closeness[kind].cosines.min()) for kind in kinds]
    axes.barh(kinds, means, color=[COLOURS[kind] for kind in kinds], height=0.66)
    for i, kind in enumerate(kinds):
        text = f"{means[i]:.4f}, worst {worst[i]:.3f}; same nearest {report.closeness[kind].top1:.0%}"
        axes.annotate(text, (max(means[i], 0), i), (5, 0), **BESIDE)
        axes.plot([worst[i], worst[i]], [i - 0.33, i + 0.33], color="white", linewidth=2)
    axes.set_xlim(0, 1.75)
    axes.set_title("How close: cosine of each embedding to its float32 one")
    _bare(axes)
