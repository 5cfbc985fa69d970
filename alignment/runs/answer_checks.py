"""What looks off in a finished run's own answers, in words: length, repetition, distance, ranking.

Pure. Owns the thresholds; the figures are measured in alignment.training.watch.answers. A run that
wins by length alone, or falls apart, can win votes for a while: these stand beside the votes.
"""

import math
from dataclasses import dataclass

from alignment.runs.run_store import AnswerFigures, FinalMetrics

LONGER, SHORTER, FEW_TOKENS = 1.5, 0.6, 5
"""Times the base's mean length; and at least so many tokens apart."""
REPEATS, REPEATS_MORE = 0.2, 0.1
"""Share of repeated 4-grams, and by how much it must be above the base's."""
FAR_NATS = 1.0
"""KL a token from which on a model has little left of its base: e times as likely, each token."""
ERRORS = 2.0


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that looks off: `name` for code, `tag` for a table, `says` the whole sentence."""

    name: str
    tag: str
    says: str


def remarks(final: FinalMetrics) -> list[Remark]:
    """What looks off at a run's end, the worst first; empty where nothing does."""
    found = [_ranks_against_votes(final)]
    if final.answered is not None:
        found += [check(final.answered) for check in (_repeats, _far, _length)]
    return [remark for remark in found if remark is not None]


def _ranks_against_votes(final: FinalMetrics) -> Remark | None:
    accuracy, pairs = final.eval_reward_accuracy, final.eval_pairs
    if accuracy is None or not pairs or accuracy + ERRORS * math.sqrt(0.25 / pairs) >= 0.5:
        return None
    return Remark(
        "against_votes",
        "ranks against votes",
        f"It ranks {accuracy:.0%} of {pairs} held-out pairs as voters did, less than chance would: "
        "it learned the opposite, or nothing.",
    )


def _repeats(seen: AnswerFigures) -> Remark | None:
    if seen.repetition < max(REPEATS, seen.base_repetition + REPEATS_MORE):
        return None
    return Remark(
        "repeats",
        "falls apart",
        f"It repeats itself: {seen.repetition:.0%} of its runs of four tokens were said before, "
        f"the base's {seen.base_repetition:.0%}. It may be falling apart: read its answers.",
    )


def _far(seen: AnswerFigures) -> Remark | None:
    if seen.kl_per_token - ERRORS * (seen.kl_error or 0.0) < FAR_NATS:
        return None
    return Remark(
        "far",
        "far from the base",
        f"It has moved {seen.kl_per_token:.2f} nats a token from its base, so that little is left "
        "of that: look whether it still answers well. A smaller learning rate stays closer.",
    )


def _length(seen: AnswerFigures) -> Remark | None:
    if abs(seen.tokens - seen.base_tokens) < FEW_TOKENS or not seen.base_tokens:
        return None
    times = seen.tokens / seen.base_tokens
    if times >= LONGER:
        return Remark(
            "longer",
            "longer",
            f"Its answers are {times:.1f} times as long as the base's: look whether it wins by "
            "length. The leaderboard has a column without it.",
        )
    if times <= SHORTER:
        return Remark(
            "shorter",
            "shorter",
            f"Its answers are {times:.1f} times as long as the base's: look whether it leaves "
            "things out.",
        )
    return None
