"""Line plots of a run as SVG: one look, axes named, readable in the dark and on a phone. Pure.

Gradio's own plot redraws itself on every poll, and shows no point where a run was evaluated
once. Colours are the stylesheet's (admin.css), two that colour-blind people tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from alignment.axes import SMOOTHED_FROM, Point, nice_ticks, number, running_mean, thinned

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 26, 34


@dataclass(frozen=True, slots=True)
class Series:
    """Points of (step, value). `measured_now_and_then` marks each point, as for held-out pairs."""

    name: str
    points: tuple[Point, ...]
    measured_now_and_then: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """One plot. `unit` names the vertical axis, `note` says in a sentence how to read it.

    `bounds` fixes the vertical axis, `from_zero` its lower end. `level` draws a thin line
    there, named by `level_name`.
    """

    name: str
    title: str
    unit: str
    note: str
    series: tuple[Series, ...]
    bounds: tuple[float, float] | None = None
    from_zero: bool = False
    level: float | None = None
    level_name: str = ""


def draw_charts(charts: Sequence[Chart], *, steps: int) -> str:
    """All of `charts` as one grid; the horizontal axes run from 0 to `steps`."""
    return f'<div class="vta-charts">{"".join(draw_chart(c, steps=steps) for c in charts)}</div>'


def draw_chart(chart: Chart, *, steps: int) -> str:
    """A figure with title, legend with latest values, plot and note; says so when it is empty."""
    legend = "".join(_legend(index, series) for index, series in enumerate(chart.series))
    has_points = any(series.points for series in chart.series)
    plot = _svg(chart, steps) if has_points else '<p class="vta-empty">Nothing measured yet.</p>'
    return (
        f'<figure class="vta-chart" id="admin-plot-{escape(chart.name)}">'
        f"<figcaption><b>{escape(chart.title)}</b>"
        f'<span class="vta-legend">{legend}</span></figcaption>'
        f'{plot}<p class="vta-note">{escape(chart.note)}</p></figure>'
    )


def _legend(index: int, series: Series) -> str:
    if not series.points:
        return ""
    return (
        f'<span><i class="vta-key vta-s{index}"></i>{escape(series.name)} '
        f"<b>{number(_drawn(series)[-1][1])}</b></span>"
    )


def _drawn(series: Series) -> tuple[Point, ...]:
    """The points of the strong line: a noisy series is told by its running mean."""
    if series.measured_now_and_then or len(series.points) < SMOOTHED_FROM:
        return series.points
    return running_mean(series.points)


def _svg(chart: Chart, steps: int) -> str:
    low, high = chart.bounds or _bounds(chart)
    ticks = nice_ticks(low, high)
    low, high = (low, high) if chart.bounds else (min(low, ticks[0]), max(high, ticks[-1]))
    scale = _Scale(float(max(1, steps)), low, high)
    said = "; ".join(
        f"{s.name} {number(_drawn(s)[-1][1])} at step {s.points[-1][0]:.0f}"
        for s in chart.series
        if s.points
    )
    parts = [_axes(chart, scale, ticks)]
    parts += [_line(index, series, scale) for index, series in enumerate(chart.series)]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{chart.title}, {chart.unit}: {said}")}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    steps: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.steps

    def y(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - inside) / (self.high - self.low)


def _axes(chart: Chart, scale: _Scale, ticks: Sequence[float]) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [f'<text class="vta-unit" x="2" y="11">{escape(chart.unit)}</text>']
    for tick in ticks:
        y = scale.y(tick)
        parts.append(
            f'<path class="vta-grid" d="M{LEFT} {y:.1f}H{right}"/>'
            f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for step in nice_ticks(0.0, scale.steps, most=5):
        anchor = "middle" if step < 0.97 * scale.steps else "end"
        parts.append(
            f'<text x="{scale.x(step):.1f}" y="{bottom + 14}" text-anchor="{anchor}">'
            f"{number(step)}</text>"
        )
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="vta-unit" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'
    )
    if chart.level is not None and scale.low <= chart.level <= scale.high:
        y = scale.y(chart.level)
        parts.append(
            f'<path class="vta-level" d="M{LEFT} {y:.1f}H{right}"/>'
            f'<text class="vta-unit" x="{right}" y="{y - 4:.1f}" text-anchor="end">'
            f"{escape(chart.level_name)}</text>"
        )
    return "".join(parts)


def _line(index: int, series: Series, scale: _Scale) -> str:
    points = series.points
    if series.measured_now_and_then:
        marks = "".join(
            f'<circle cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="3.5"/>' for x, y in points
        )
        return f'<g class="vta-s{index} vta-marked">{_path(points, scale)}{marks}</g>'
    if len(points) < SMOOTHED_FROM:
        return f'<g class="vta-s{index}">{_path(points, scale)}</g>'
    faint = _path(thinned(points), scale).replace("<path", '<path class="vta-faint"')
    return f'<g class="vta-s{index}">{faint}{_path(thinned(_drawn(series)), scale)}</g>'


def _path(points: Sequence[Point], scale: _Scale) -> str:
    if not points:
        return ""
    if len(points) == 1:
        (x, y) = points[0]
        return f'<circle cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.5"/>'
    d = " ".join(f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in points)
    return f'<path d="M{d}"/>'


def _bounds(chart: Chart) -> tuple[float, float]:
    """Room for every running mean and mark, and for most of a noisy series behind it."""
    values = sorted(y for series in chart.series for _, y in series.points)
    cut = len(values) // 50
    low, high = values[cut], values[-1 - cut]
    for series in chart.series:
        low = min([low, *(y for _, y in _drawn(series))])
        high = max([high, *(y for _, y in _drawn(series))])
    if chart.level is not None:
        low, high = min(low, chart.level), max(high, chart.level)
    if chart.from_zero:
        low = 0.0
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low - room if low < 0 or low - room > 0 else 0.0), high + room
