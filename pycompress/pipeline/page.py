"""The report as one self-contained page: tables, and plots as SVG in it. No script, nothing that is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from ..io import writer
from ..report import Layer, Report, size

__all__ = ["html", "write"]

# Okabe and Ito's colours, told apart by everyone.
_COLOURS = {
    "float32": "#888888",
    "float16": "#56b4e9",
    "int8": "#0072b2",
    "int4": "#009e73",
    "sparse": "#d55e00",
    "low rank": "#cc79a7",
}


def write(path: Path, report: Report, *, model: str, file_bytes: int) -> None:
    """Write the page at `path`; file_bytes: those of the compressed file."""
    with writer.replacing(path) as beside:
        beside.write_text(html(report, model=model, file_bytes=file_bytes), "utf-8")


def html(report: Report, *, model: str, file_bytes: int) -> str:
    """The page."""
    done = [layer for layer in report.layers if layer.error is not None]
    plots = [_error_bytes(done)]
    if any(layer.seconds for layer in done):
        plots.append(_error_time(done))
    if len(report.path) > 1:
        plots.append(_search(report))
    plots.append(_sizes(report.layers))
    figures = "\n".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in plots if svg
    )
    about = ", ".join(
        part
        for part in (
            report.cpu,
            f"{report.threads} thread{'s' if report.threads > 1 else ''}" if report.threads else "",
            f"products of {report.batch} rows" if report.batch else "",
        )
        if part
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(model)}: {escape(report.recipe)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(model)} <span>compressed by {escape(report.recipe)}</span></h1>
<p class="about">{escape(about)}</p>
<div class="cards">{"".join(_cards(report, file_bytes))}</div>
<div class="plots">
{figures}
</div>
<h2>Every tensor</h2>
{_table(report)}
</body>
</html>
"""


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6675; --line: #d9dee5; --back: #ffffff; --card: #f5f7fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7ebf0; --soft: #9aa6b5; --line: #39424e; --back: #14181e; --card: #1d232b; }
}
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: var(--ink); background: var(--back);
       margin: 2rem auto; max-width: 1180px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h1 span { color: var(--soft); font-weight: normal; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.about { color: var(--soft); margin: .2rem 0 1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; }
.card { background: var(--card); border-radius: 8px; padding: 12px 16px; }
.card b { display: block; font-size: 1.6rem; line-height: 1.3; } .card span { color: var(--soft); font-size: .87rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 16px; margin-top: 20px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 12px; }
svg .name { fill: var(--ink); } svg .grid { stroke: var(--line); stroke-width: 1; } svg .rule { stroke: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } .n { text-align: right; white-space: nowrap; }
td:first-child { overflow-wrap: anywhere; } small { color: var(--soft); display: block; }
i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
"""


def _cards(report: Report, file_bytes: int) -> Iterable[str]:
    def card(value: str, text: str) -> str:
        return f'<div class="card"><b>{escape(value)}</b><span>{escape(text)}</span></div>'

    before, after = report.nbytes_before, report.nbytes
    yield card(
        f"{before / max(after, 1):.2f}x smaller", f"{size(before)} before, {size(after)} now; file {size(file_bytes)}"
    )
    if report.seconds is not None:
        was, now = report.seconds
        yield card(
            f"{was / now:.2f}x as fast", f"the layers' products: {1e3 * was:.2f} ms in float32, {1e3 * now:.2f} ms now"
        )
    if report.error is not None:
        budget = "" if report.budget is None else f", of a budget of {report.budget:.2%}"
        yield card(f"{report.error:.2%} error", f"root of the mean square over the layers{budget}")
    done = [layer for layer in report.layers if layer.error is not None and layer.label != "float32"]
    matrices = [layer for layer in report.layers if layer.layer != "other"]
    yield card(f"{len(done)} of {len(matrices)} layers", "are compressed; the others stay as they are")


def _table(report: Report) -> str:
    rows = []
    for layer in report.layers:
        note = f"<small>{escape(layer.note)}</small>" if layer.note else ""
        speed = "" if layer.speed is None else f"{layer.speed:.2f}x"
        time = "" if layer.seconds is None else f"{1e6 * layer.seconds:.0f} us"
        error = "" if layer.error is None else f"{layer.error:.2%}"
        rows.append(
            f"<tr><td>{escape(layer.name)}{note}</td><td>{escape(layer.layer)}</td>"
            f"<td>{'x'.join(map(str, layer.shape))}</td>"
            f'<td><i style="background:{_colour(layer.label)}"></i>{escape(layer.label)}</td>'
            f'<td class="n">{size(layer.nbytes_before)}</td><td class="n">{size(layer.nbytes)}</td>'
            f'<td class="n">{error}</td><td class="n">{time}</td><td class="n">{speed}</td></tr>'
        )
    heads = ("tensor", "layer", "shape", "is now")
    numbers = ("before", "after", "error", "time", "speed")
    head = "".join(f"<th>{text}</th>" for text in heads) + "".join(f'<th class="n">{text}</th>' for text in numbers)
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


# ---- the plots


def _group(label: str) -> str:
    if label.startswith(("rank", "energy", "low rank")):
        return "low rank"
    return "sparse" if label.startswith("sparse") else label


def _colour(label: str) -> str:
    return _COLOURS.get(_group(label), "#888888")


@dataclass(frozen=True)
class _Point:
    x: float
    y: float
    label: str
    tip: str
    faint: bool = False


def _points(layers: Sequence[Layer], x: Callable[[Layer, int, float | None], float | None]) -> list[_Point]:
    """A point for each layer, and a faint one for each other candidate of a search. x: of (layer, bytes, seconds)."""
    found = []
    for layer in layers:
        for c in layer.candidates:
            at = x(layer, c.nbytes, c.seconds)
            if c.label != layer.label and c.error is not None and at is not None:
                tip = f"{layer.name}: {c.label}, tried; {size(c.nbytes)}, error {c.error:.2%}"
                found.append(_Point(at, c.error, c.label, tip, True))
    for layer in layers:
        at = x(layer, layer.nbytes, layer.seconds)
        if layer.error is not None and at is not None:
            speed = "" if layer.speed is None else f", {layer.speed:.2f}x as fast"
            tip = f"{layer.name}: {layer.label}; {size(layer.nbytes)}, error {layer.error:.2%}{speed}"
            found.append(_Point(at, layer.error, layer.label, tip))
    return found


def _error_bytes(layers: Sequence[Layer]) -> tuple[str, str]:
    points = _points(layers, lambda layer, nbytes, _: nbytes / max(layer.nbytes_before, 1))
    return "Error against bytes, layer by layer", _scatter(points, "bytes, part of before", "error of the layer")


def _error_time(layers: Sequence[Layer]) -> tuple[str, str]:
    def part(layer: Layer, nbytes: int, seconds: float | None) -> float | None:
        return seconds / layer.seconds_before if seconds and layer.seconds_before else None

    points = _points(layers, part)
    return "Error against time, layer by layer", _scatter(points, "time, part of float32's", "error of the layer")


def _search(report: Report) -> tuple[str, str]:
    points = [
        _Point(
            1e3 * seconds,
            error,
            "int8" if k == len(report.path) - 1 else "float32",
            f"step {k}: {1e3 * seconds:.3f} ms, error {error:.2%}",
        )
        for k, (seconds, error) in enumerate(report.path)
    ]
    plot = _Axes(points, "time of all layers that were searched, ms", "error of all", zero=True, level=report.budget)
    lines = " ".join(f"{plot.x(p.x):.1f},{plot.y(p.y):.1f}" for p in points)
    body = f'<polyline points="{lines}" fill="none" stroke="#0072b2" stroke-width="2" opacity=".6"/>'
    body += "".join(plot.dot(p, 3 if k < len(points) - 1 else 6) for k, p in enumerate(points))
    if report.budget is not None:
        y = plot.y(report.budget)
        body += (
            f'<line class="rule" x1="{plot.left}" x2="{plot.right}" y1="{y:.1f}" y2="{y:.1f}" stroke-dasharray="5 4"/>'
        )
        body += f'<text x="{plot.right - 4}" y="{y - 5:.1f}" text-anchor="end">budget {report.budget:.2%}</text>'
    return "The search: from float32 (right) step by step to what was chosen", plot.svg(body)


def _scatter(points: list[_Point], x: str, y: str) -> str:
    if not points:
        return ""
    plot = _Axes(points, x, y, least=1.0)
    body = "".join(plot.dot(p, 3.5 if p.faint else 5.5) for p in points)
    groups = [name for name in _COLOURS if any(_group(p.label) == name for p in points)]
    at = plot.left + 10
    legend = ""
    for name in groups:
        legend += f'<circle cx="{at}" cy="12" r="5" fill="{_COLOURS[name]}"/><text x="{at + 10}" y="16">{name}</text>'
        at += 28 + 7 * len(name)
    if any(p.faint for p in points):
        legend += (
            f'<circle cx="{at}" cy="12" r="3.5" fill="none" stroke="#888888"/><text x="{at + 10}" y="16">tried</text>'
        )
    return plot.svg(body + legend)


@dataclass
class _Axes:
    """Two axes around points. y is logarithmic where errors spread over more than a decade, unless `zero`.

    least: what x reaches at least. level: what y does.
    """

    points: Sequence[_Point]
    x_name: str
    y_name: str
    zero: bool = False
    least: float = 0.0
    level: float | None = None
    width: int = 560
    height: int = 330
    left: int = 64
    top: int = 28
    log: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.right, self.bottom = self.width - 14, self.height - 46
        ys = [p.y for p in self.points] + ([self.level] if self.level else [])
        positive = [y for y in ys if y > 0]
        self.log = not self.zero and bool(positive) and max(positive) > 10 * min(positive)
        if self.log:
            self._floor = min(positive) / 1.6  # zeros lie on the axis
            self._y = (math.log10(self._floor), math.log10(max(positive) * 1.3))
        else:
            self._floor = 0.0
            self._y = (0.0, 1.12 * max(ys, default=0.0) or 1.0)
        self._x = (0.0, 1.06 * max([self.least, *(p.x for p in self.points)]) or 1.0)

    def x(self, value: float) -> float:
        return self.left + (value - self._x[0]) / (self._x[1] - self._x[0]) * (self.right - self.left)

    def y(self, value: float) -> float:
        at = math.log10(max(value, self._floor)) if self.log else value
        return self.bottom - (at - self._y[0]) / (self._y[1] - self._y[0]) * (self.bottom - self.top)

    def dot(self, p: _Point, radius: float) -> str:
        colour = _colour(p.label)
        look = f'fill="none" stroke="{colour}" opacity=".75"' if p.faint else f'fill="{colour}" fill-opacity=".8"'
        tip = f"<title>{escape(p.tip)}</title>"
        return f'<circle cx="{self.x(p.x):.1f}" cy="{self.y(p.y):.1f}" r="{radius}" {look}>{tip}</circle>'

    def svg(self, body: str) -> str:
        parts = []
        for value, text in _ticks(*self._x):
            x = self.x(value)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self.top}" y2="{self.bottom}"/>')
            parts.append(f'<text x="{x:.1f}" y="{self.bottom + 17}" text-anchor="middle">{text}</text>')
        for value in _decades(*self._y) if self.log else [value for value, _ in _ticks(*self._y)]:
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{self.left - 7}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.3g} %</text>')
        middle = (self.left + self.right) / 2
        parts.append(f'<text x="{middle}" y="{self.height - 8}" text-anchor="middle">{escape(self.x_name)}</text>')
        at = f'x="14" y="{(self.top + self.bottom) / 2}" transform="rotate(-90 14 {(self.top + self.bottom) / 2})"'
        parts.append(f'<text {at} text-anchor="middle">{escape(self.y_name)}</text>')
        return f'<svg viewBox="0 0 {self.width} {self.height}" role="img">{"".join(parts)}{body}</svg>'


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round values from low to high, about five of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step)
    values = [step * k for k in range(first, int(high / step) + 1)]
    return [(value, f"{value:.6g}") for value in values]


def _decades(low: float, high: float) -> list[float]:
    """Round values of a logarithmic axis: 1, 2, 5 of each decade where it is short, else its powers of ten."""
    steps = (1, 2, 5) if high - low < 2.2 else (1, 3) if high - low < 3.5 else (1,)
    found = [10.0**e * m for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    return [value for value in found if low <= math.log10(value) <= high]


def _sizes(layers: Sequence[Layer], most: int = 16) -> tuple[str, str]:
    """Bars of bytes before and after, the largest tensors first."""
    order = sorted(layers, key=lambda layer: -layer.nbytes_before)
    shown, rest = order[:most], order[most:]
    if not shown or not shown[0].nbytes_before:
        return "", ""
    rows = [(layer.name, layer.nbytes_before, layer.nbytes, layer.label) for layer in shown]
    if rest:
        before, after = sum(a.nbytes_before for a in rest), sum(a.nbytes for a in rest)
        rows.append((f"{len(rest)} others", before, after, "float32"))
    largest = max(row[1] for row in rows)
    left, width, step = 214, 560, 21
    parts = []
    for i, (name, before, after, label) in enumerate(rows):
        y = 4 + i * step
        short = name if len(name) <= 30 else "..." + name[-27:]
        scale = (width - left - 70) / largest
        parts.append(f'<text class="name" x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(short)}</text>')
        tip = f"<title>{escape(name)}: {size(before)} before, {size(after)} now ({escape(label)})</title>"
        place = f'x="{left}" y="{y + 2}" height="14"'
        parts.append(f'<rect {place} width="{scale * before:.1f}" fill="#888888" opacity=".28">{tip}</rect>')
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{scale * after:.1f}" height="14" fill="{_colour(label)}">{tip}</rect>'
        )
        parts.append(f'<text x="{left + scale * max(before, after) + 6:.1f}" y="{y + 13}">{size(after)}</text>')
    svg = f'<svg viewBox="0 0 {width} {len(rows) * step + 10}" role="img">{"".join(parts)}</svg>'
    return "Bytes: before (grey) and now", svg
