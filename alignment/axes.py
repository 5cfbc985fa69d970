"""What a plot's axes and lines are made of: round ticks, short numbers, running means. Pure.

Draws nothing: the page draws SVG, a model card a picture.
"""

import math
from collections.abc import Sequence

SMOOTHED_FROM = 12
"""Steps from which on a noisy series is drawn faint, with its running mean on top."""
MOST_POINTS = 240

Point = tuple[float, float]


def running_mean(points: Sequence[Point]) -> tuple[Point, ...]:
    """Each value replaced by the mean of itself and those before it, a tenth of all at most."""
    width = max(3, len(points) // 10)
    values = [y for _, y in points]
    return tuple(
        (x, sum(values[max(0, i + 1 - width) : i + 1]) / min(i + 1, width))
        for i, (x, _) in enumerate(points)
    )


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """At most about `most` points, each the mean of those that it stands for; the last one stays.

    A long run would send a megabyte on every poll, and no screen shows it.
    """
    size = math.ceil(len(points) / most)
    if size <= 1:
        return tuple(points)
    groups = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    means = ((g[-1][0], sum(y for _, y in g) / len(g)) for g in groups)
    return (*means, points[-1])


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers, 1, 2 or 5 times a power of ten apart, that span the range."""
    if not high > low:
        high = low + 1.0
    raw = (high - low) / (most - 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    gap = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.ceil(low / gap - 1e-9), math.floor(high / gap + 1e-9)
    return [round(i * gap, 12) for i in range(first, last + 1)]


def number(value: float) -> str:
    """Three significant digits and no more: 0.214, 3.88, −12.3, 1,240."""
    if value == 0:
        return "0"
    size = abs(value)
    digits = max(0, 2 - math.floor(math.log10(size))) if size < 100 else 0
    text = f"{size:,.{min(digits, 4)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"−{text}" if value < 0 else text
