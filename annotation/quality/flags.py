"""What gives a voter away, as flags with a plain reason each. Pure: figures in, flags out.

Binomial tails find votes that follow a side, the length or one model; a score against peers,
gold pairs and own repeats finds votes that follow nothing; a likelihood finds voters who vote as
one. A flag is a reason to look: nothing is set aside here. What can't be told apart is `LIMITS`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from annotation.quality.quality import Share

FlagKind = Literal["side", "length", "model", "noise", "ring"]

RARE = 0.002
"""Chance of a lean like this in an honest voter below which it is flagged."""
LEAN = 0.15
"""Smaller leans are let be: with a thousand votes chance no longer explains a trifle."""
ENOUGH_OTHERS = 20
"""Votes of others without which a taste can't be compared with theirs."""
USUAL_NOISE, MOST_NOISE = 0.15, 0.35
"""An honest vote is scored as one that errs at the rate measured over all, within these."""
GOLD_RIGHT, GOLD_WEIGHT = 0.93, 20
"""How often an honest voter is right on a gold pair, believed as if seen on so many of them."""
SURPRISE = -2.2
"""Standard deviations below an honest voter's score: about 1 honest voter in 70 falls so low."""
COPIES = 0.97
"""How often one who copies gives the same answer."""
RING = 0.01
"""Chance of a single false ring among all voters, however many votes they cast."""

LIMITS = (
    "Votes alone can't tell a careless voter from an honest one who got hard pairs, a ring from "
    "fans of a better model or two very careful voters, who copied from whom, or a taste for "
    "length from a habit. So a flag is a reason to look: set aside what you doubt, nothing is "
    "ever deleted, and bring it back with one click."
)


@dataclass(frozen=True, slots=True)
class Flag:
    """What a voter is suspected of and, in a sentence, what in the votes says so.

    The owner reads `reason`, which may name a model or another voter. `told` does not: it is for
    the voter, whose receipts say why votes don't count.
    """

    kind: FlagKind
    reason: str

    @property
    def told(self) -> str:
        return _TOLD[self.kind]


_TOLD: Mapping[FlagKind, str] = {
    "side": "nearly all votes went to one side",
    "length": "nearly all votes followed the length of the answers",
    "model": "nearly all votes went the same way",
    "noise": "votes rarely agreed with those of others or with checks",
    "ring": "votes were the same as another voter's",
}


def short_name(voter: str) -> str:
    """Enough of a voter's id to know it by."""
    return voter if len(voter) <= 16 else f"{voter[:13]}…"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One comparison of a voter's: did it come out as an honest vote does at rate `honest`?"""

    agrees: bool
    honest: float


def flag_side(side_a: Share | None) -> Flag | None:
    """Sides are drawn at random, so an honest voter takes each about half the time."""
    if side_a is None or side_a.p_value >= RARE or abs(side_a.rate - 0.5) < LEAN:
        return None
    left = side_a.rate > 0.5
    count = side_a.count if left else side_a.total - side_a.count
    name = "left" if left else "right"
    return Flag("side", f"{count} of {side_a.total} votes went to the {name} answer.")


def flag_length(longer: Share | None, others: Share | None) -> Flag | None:
    """Longer answers may well be better: what counts is how far a voter is from all others."""
    if longer is None or others is None or others.total < ENOUGH_OTHERS:
        return None
    for name, count, usual in (
        ("longer", longer.count, others.rate),
        ("shorter", longer.total - longer.count, 1 - others.rate),
    ):
        if _leans(count, longer.total, max(0.5, usual), RARE / 2):
            reason = (
                f"{count} of {longer.total} votes went to the {name} answer, which others chose "
                f"{100 * usual:.0f} % of the time."
            )
            return Flag("length", reason)
    return None


def flag_model(shares: Mapping[str, tuple[Share, Share]]) -> Flag | None:
    """Model name to this voter's share for it where it met another model, and all others' share.

    The strangest is named. With more models chance has more tries, so each counts for less.
    """
    level = RARE / max(1, len(shares) - 1)
    backed = {
        name: mine.rate - others.rate
        for name, (mine, others) in shares.items()
        if others.total >= ENOUGH_OTHERS
        and _leans(mine.count, mine.total, max(0.5, others.rate), level)
    }
    if not backed:
        return None
    name = max(backed, key=lambda model: backed[model])
    mine, others = shares[name]
    return Flag(
        "model",
        f"{mine.count} of {mine.total} votes went to {name}, which others chose "
        f"{100 * others.rate:.0f} % of the time.",
    )


def score_evidence(evidence: Iterable[Evidence]) -> tuple[float, float]:
    """How much more like an honest voter's than like coin flips, in nats; and how surprising.

    Σ ln(p / ½) where it agrees and ln((1 − p) / ½) where not, p being the honest rate. The second
    figure is how many standard deviations that is from what honest votes would sum to.
    """
    score = mean = variance = 0.0
    for item in evidence:
        p = item.honest
        gain, loss = math.log(2 * p), math.log(2 * (1 - p))
        score += gain if item.agrees else loss
        mean += p * gain + (1 - p) * loss
        variance += p * (1 - p) * (gain - loss) ** 2
    return score, (score - mean) / math.sqrt(variance) if variance else 0.0


def flag_noise(score: float, surprise: float, said: Iterable[str]) -> Flag | None:
    """Votes more like coin flips than like an honest voter's, and no accident of one.

    `said` are the comparisons in words, of which the reason is made.
    """
    if score >= 0 or surprise >= SURPRISE:
        return None
    return Flag("noise", f"Votes like coin flips: {', '.join(said)}.")


def honest_rate(noise: float, lead: int) -> float:
    """How often an honest vote agrees with others who lead by `lead` votes, each wrong at `noise`.

    By Bayes they are right with chance (1−ε)^k / ((1−ε)^k + ε^k), k being the lead: one half
    where they are even, so that such a pair says nothing.
    """
    right = 1 / (1 + (noise / (1 - noise)) ** lead)
    return right * (1 - noise) + (1 - right) * noise


def copy_evidence(agrees: bool, independent: float) -> float:
    """Nats for copying from one shared pair; `independent` is how often an honest vote agrees.

    Summed over pairs, honest voters reach ln(1/x) with a chance of x at the most (Ville).
    """
    if agrees:
        return math.log(COPIES / independent)
    return math.log((1 - COPIES) / (1 - independent))


def ring_level(compared: int) -> float:
    """What `copy_evidence` must exceed where so many pairs of voters are looked at (Bonferroni)."""
    return math.log(max(1, compared) / RING)


def _leans(count: int, total: int, usual: float, level: float) -> bool:
    """Whether `count` of `total` is both far above `usual` and no accident."""
    from scipy.special import bdtrc

    if count / total < usual + min(LEAN, (1 - usual) / 2):
        return False
    return float(bdtrc(count - 1, total, usual)) < level if count else False
