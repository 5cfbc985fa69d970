"""When a run is scored on its held-out pairs, and when that tells it to stop before its last step.

Owns the rule alone: numbers in, a decision out. Knows no trainer, no folder and no clock.
"""

import math
from dataclasses import dataclass, replace

EVALUATIONS = 8
"""How often a run is scored: once an eighth of its steps, the last one included."""
PATIENCE = 3
MIN_PAIRS = 10
"""Held-out pairs from which on an accuracy may stop a run: fewer step by more than .1."""
FAIR_SHARE = 0.5
"""Of its steps that every run gets; presets were measured at the last one."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A run's figures on its held-out pairs after some step; rewards as TRL defines them."""

    loss: float
    reward_accuracy: float | None
    reward_margin: float | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is remembered from one scored step to the next. `best_step` is 0 before the first.

    The baseline is the untrained model's: with a reference it can't tell the sides apart. `worse`
    counts scored steps in a row.
    """

    baseline_accuracy: float = 0.5
    baseline_margin: float = 0.0
    best_step: int = 0
    best_accuracy: float = 0.0
    best_margin: float = 0.0
    worse: int = 0
    stop: bool = False


def scored_steps(steps: int) -> tuple[int, ...]:
    """After which of `steps` a run is scored, ascending; the last is `steps`."""
    shares = (math.ceil(n * steps / EVALUATIONS) for n in range(1, EVALUATIONS + 1))
    return tuple(sorted(set(shares)))


def sampled_steps(steps: int) -> tuple[int, ...]:
    """Every second scored step, ascending; the last is `steps`."""
    return scored_steps(steps)[::-2][::-1]


def tolerated_drop(pairs: int) -> float:
    """One standard error of a proportion over `pairs`, at its largest: sqrt(¼ / pairs)."""
    return math.sqrt(0.25 / pairs)


def judge(past: Judgement, found: HeldOut, *, step: int, steps: int, pairs: int) -> Judgement:
    """Take the scored `step` in; `stop` is set once the run does harm and is past its fair share.

    A step is worse when its accuracy is below the best so far, or below the untrained model's, by
    more than one standard error, and its margin is below that one's too: pairs that cross
    zero while the mean margin grows are noise. `PATIENCE` worse steps in a row stop a run.
    """
    accuracy, margin = found.reward_accuracy, found.reward_margin
    if accuracy is None or margin is None:
        return past
    if past.best_step == 0 or accuracy >= past.best_accuracy:
        past = replace(past, best_step=step, best_accuracy=accuracy, best_margin=margin)
    known = (
        (past.best_accuracy, past.best_margin),
        (past.baseline_accuracy, past.baseline_margin),
    )
    worse = any(
        accuracy < best - tolerated_drop(pairs) and margin < best_margin
        for best, best_margin in known
    )
    count = past.worse + 1 if worse else 0
    fair = FAIR_SHARE * steps <= step < steps
    return replace(past, worse=count, stop=fair and count >= PATIENCE and pairs >= MIN_PAIRS)
