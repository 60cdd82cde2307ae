"""The picture of a comparison, for somebody who looks rather than reads."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .minilm import PRUNED
from .run import KINDS, Report

COLOURS = dict(zip(KINDS, ("#9aa5b1", "#0b6fb8", "#e07b00"), strict=True))
LABELS = dict(zip(KINDS, ("float32", "int8", "int8, pruned"), strict=True))
INK = "#2b2f36"


def draw(report: Report, path: Path, subtitle: str = "") -> None:
    """Write a PNG to `path`, all or nothing: it is made beside it and renamed."""
    # A figure without pyplot is drawn by Agg: no display, and no state left behind in the process.
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15, wspace=0.04, hspace=0.06)
    figure = Figure(figsize=(12, 7.2), layout=layout)
    float32, int8 = (report.speed[kind] for kind in KINDS[:2])
    figure.suptitle(
        "int8 weights in a sentence encoder: linear layers "
        f"{float32.linear_bytes / int8.linear_bytes:.1f}x smaller and "
        f"{report.linear_speedup():.1f}x as fast, cosine {report.closeness['int8'].cosines.mean():.4f}",
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


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=INK, labelsize=11)


def _bars(axes: Axes, values: list[float], label: str, better: str) -> None:
    """One bar for each kind, less is better; the ratio stands at all but the first."""
    bars = axes.barh([LABELS[kind] for kind in KINDS], values, color=[COLOURS[kind] for kind in KINDS], height=0.6)
    texts = [label.format(value) for value in values]
    for i in range(1, len(texts)):
        texts[i] += f"  ({values[0] / values[i]:.1f}x {better})"
    axes.bar_label(bars, texts, padding=5, fontsize=12, fontweight="bold", color=INK)
    axes.set_xlim(0, 1.3 * max(values))
    axes.invert_yaxis()
    axes.set_xticks([])
    _plain(axes)
    axes.spines["bottom"].set_visible(False)


def _throughput(axes: Axes, report: Report) -> None:
    groups = {"one core": [report.sentences / report.speed[kind].one_core_seconds for kind in KINDS]}
    if report.threads > 1:
        groups[f"{report.threads} cores"] = [report.sentences / report.speed[kind].all_cores_seconds for kind in KINDS]
    at = np.arange(len(groups))
    for k, kind in enumerate(KINDS):
        values = [group[k] for group in groups.values()]
        bars = axes.bar(at + (k - 1) * 0.28, values, width=0.26, color=COLOURS[kind], label=LABELS[kind])
        ratios = [f"\n({group[k] / group[0]:.1f}x)" if k else "" for group in groups.values()]
        texts = [f"{value:.0f}{ratio}" for value, ratio in zip(values, ratios, strict=True)]
        axes.bar_label(bars, texts, padding=3, fontsize=12, fontweight="bold", color=INK)
    axes.set_xticks(at, list(groups))
    axes.set_yticks([])
    axes.set_xlim(-0.7, len(groups) - 0.3)
    axes.margins(y=0.3)
    axes.set_title("Sentences per second, the whole encoder")
    axes.legend(loc="upper left", frameon=False, fontsize=11)
    _plain(axes)
    axes.spines["left"].set_visible(False)


def _cosines(axes: Axes, report: Report) -> None:
    lowest = min(float(found.cosines.min()) for found in report.closeness.values())
    bins = np.linspace(lowest, 1, 61).tolist()
    axes.set_title("How close: cosine of each embedding to its float32 one")
    for place, (kind, found) in enumerate(report.closeness.items()):
        counts, edges = np.histogram(found.cosines, bins)
        axes.stairs(counts / counts.max(), edges, fill=True, color=COLOURS[kind])  # each as high as the other
        name = LABELS[kind] + (
            f" ({PRUNED:.0%} of the feed-forward weights, not retrained)" if kind == "pruned" else ""
        )
        axes.text(
            0.02,
            0.99 - 0.22 * place,
            f"{name}\nmean {found.cosines.mean():.4f}, worst {found.cosines.min():.4f}; "
            f"same nearest {found.top1:.0%}, among {report.neighbours} {found.overlap:.0%}",
            transform=axes.transAxes,
            va="top",
            fontsize=10,
            color=COLOURS[kind],
            linespacing=1.4,
        )
    axes.set_ylim(0, 1.9)
    axes.set_yticks([])
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.locator_params(axis="x", nbins=6)
    _plain(axes)
    axes.spines["left"].set_visible(False)
