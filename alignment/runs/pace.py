"""How fast a run goes and how long it still takes, from its metrics. Pure."""

from collections.abc import Sequence

from alignment.runs.run_store import Metric

RECENT_STEPS = 20


def remaining_s(metrics: Sequence[Metric], steps: int) -> float | None:
    """Seconds until step `steps` at the pace of the last steps; None before the second one.

    What follows the last step, evaluating and saving, is not in it.
    """
    timed = [(m.step, m.seconds) for m in metrics[-RECENT_STEPS:] if m.seconds is not None]
    if len(timed) < 2:
        return None
    (first_step, began), (last_step, now) = timed[0], timed[-1]
    if last_step <= first_step or now <= began:
        return None
    return (steps - last_step) * (now - began) / (last_step - first_step)


def tokens_per_s(metrics: Sequence[Metric]) -> float | None:
    """The mean over the last steps that say; None without any."""
    said = [m.tokens_per_s for m in metrics[-RECENT_STEPS:] if m.tokens_per_s is not None]
    return sum(said) / len(said) if said else None


def say_duration(seconds: float) -> str:
    """`seconds` as people say them: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
