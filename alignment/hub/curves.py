"""A run's training curves as one PNG for its card: axes named, training and held out told apart.

A card on the Hub shows pictures that lie beside it; the page's own plots are SVG with the page's
styles. The same metrics give the same bytes. Pure.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from alignment.axes import SMOOTHED_FROM, Point, nice_ticks, number, running_mean, thinned
from alignment.runs.run_store import Metric

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 60, 48
SCALE = 2
"""Drawn so much larger than told: pixels for a fine screen."""
TEXT, QUIET, GRID = "#1f2328", "#59636e", "#d8dee4"
COLOURS = ("#0072b2", "#d55e00")
"""Training and held out, told apart by colour-blind readers too."""
FAINT = ("#b2d4e8", "#f2cdb2")


@dataclass(frozen=True, slots=True)
class _Panel:
    """One plot: `unit` names its vertical axis; held-out values are marked one by one."""

    title: str
    unit: str
    training: tuple[Point, ...]
    held_out: tuple[Point, ...]
    bounds: tuple[float, float] | None = None

    @property
    def line(self) -> tuple[Point, ...]:
        """What is drawn strongly of training: a noisy series is told by its running mean."""
        noisy = len(self.training) >= SMOOTHED_FROM
        return thinned(running_mean(self.training) if noisy else self.training)


def draw_curves(metrics: Sequence[Metric]) -> bytes | None:
    """Loss, reward accuracy and reward margin side by side; None where nothing was logged."""
    panels = [panel for panel in _panels(metrics) if panel.training or panel.held_out]
    if not panels:
        return None
    size = (SCALE * WIDTH * len(panels), SCALE * HEIGHT)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    steps = max(1, metrics[-1].step)
    for index, panel in enumerate(panels):
        _draw_panel(draw, panel, steps, SCALE * WIDTH * index)
    out = io.BytesIO()
    picture.quantize(64).save(out, "PNG", optimize=True)
    return out.getvalue()


def _panels(metrics: Sequence[Metric]) -> list[_Panel]:
    def points(of: Callable[[Metric], float | None]) -> tuple[Point, ...]:
        found = ((float(m.step), of(m)) for m in metrics)
        return tuple((x, y) for x, y in found if y is not None and math.isfinite(y))

    return [
        _Panel("Loss", "loss", points(lambda m: m.loss), points(lambda m: m.eval_loss)),
        _Panel(
            "Reward accuracy",
            "share of pairs ranked right",
            points(lambda m: m.reward_accuracy),
            points(lambda m: m.eval_reward_accuracy),
            (0.0, 1.0),
        ),
        _Panel(
            "Reward margin",
            "chosen above rejected, log-probability times beta",
            points(lambda m: m.reward_margin),
            points(lambda m: m.eval_reward_margin),
        ),
    ]


def _draw_panel(draw: ImageDraw.ImageDraw, panel: _Panel, steps: int, left: int) -> None:
    ticks = nice_ticks(*(panel.bounds or _bounds(panel)))
    low, high = panel.bounds or (ticks[0], ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        inside = min(max(y, low), high)
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / steps
        down = TOP + (HEIGHT - TOP - BOTTOM) * (high - inside) / (high - low)
        return left + SCALE * across, SCALE * down

    _draw_axes(draw, panel, ticks, steps, at)
    if len(panel.training) >= SMOOTHED_FROM:
        _draw_line(draw, [at(*p) for p in thinned(panel.training)], FAINT[0], 1.0)
    _draw_line(draw, [at(*p) for p in panel.line], COLOURS[0], 2.0)
    _draw_line(draw, [at(*p) for p in panel.held_out], COLOURS[1], 2.0)
    for point in panel.held_out:
        _draw_dot(draw, at(*point), COLOURS[1], 3.5)
    _draw_legend(draw, panel, left)


def _draw_axes(
    draw: ImageDraw.ImageDraw,
    panel: _Panel,
    ticks: Sequence[float],
    steps: int,
    at: Callable[[float, float], tuple[float, float]],
) -> None:
    low = panel.bounds[0] if panel.bounds else ticks[0]
    for tick in ticks:
        draw.line([at(0, tick), at(steps, tick)], fill=GRID, width=SCALE)
        x, y = at(0, tick)
        _write(draw, (x - 8 * SCALE, y), number(tick), 12, QUIET, "rm")
    for step in nice_ticks(0.0, float(steps), most=5):
        x, y = at(step, low)
        _write(draw, (x, y + 14 * SCALE), number(step), 12, QUIET, "mm")
    x, y = at(steps / 2, low)
    _write(draw, (x, y + 34 * SCALE), "step", 12, QUIET, "mm")
    left = at(0, low)[0] - LEFT * SCALE
    _write(draw, (left + 12 * SCALE, 16 * SCALE), panel.title, 15, TEXT, "lm")
    _write(draw, (left + 12 * SCALE, 40 * SCALE), panel.unit, 12, QUIET, "lm")


def _draw_legend(draw: ImageDraw.ImageDraw, panel: _Panel, left: int) -> None:
    """Each series with its latest value, right of the title."""
    x = float(left + SCALE * (WIDTH - RIGHT))
    told = (("held out", panel.held_out), ("training", panel.line))
    for (name, points), colour in zip(told, reversed(COLOURS), strict=True):
        if points:
            text = f"{name} {number(points[-1][1])}"
            _write(draw, (x, 16 * SCALE), text, 12, colour, "rm")
            x -= _font(12).getlength(text) + 14 * SCALE


def _draw_line(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str, width: float
) -> None:
    if len(points) == 1:
        _draw_dot(draw, points[0], colour, 2.5)
    elif points:
        draw.line(list(points), fill=colour, width=round(width * SCALE), joint="curve")


def _draw_dot(
    draw: ImageDraw.ImageDraw, point: tuple[float, float], colour: str, radius: float
) -> None:
    draw.circle(point, radius * SCALE, fill=colour)


def _write(
    draw: ImageDraw.ImageDraw,
    where: tuple[float, float],
    text: str,
    size: int,
    colour: str,
    anchor: str,
) -> None:
    # The font that ships with Pillow knows no minus sign.
    draw.text(where, text.replace("−", "-"), fill=colour, font=_font(size), anchor=anchor)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size * SCALE)


def _bounds(panel: _Panel) -> tuple[float, float]:
    """Room for the strong line and every mark, and for most of a noisy series behind them."""
    noisy = sorted(y for _, y in panel.training)
    cut = len(noisy) // 50
    values = [y for _, y in (*panel.line, *panel.held_out)] + noisy[cut : len(noisy) - cut]
    low, high = min(values), max(values)
    gap = nice_ticks(low, high)
    width = gap[1] - gap[0] if len(gap) > 1 else max(abs(high), 1.0)
    return math.floor(low / width) * width, math.ceil(high / width + 1e-9) * width
