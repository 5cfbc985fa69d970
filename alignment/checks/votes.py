"""What is wrong with votes before a run: noise, a favoured side, what was lost to ties.

Owns the thresholds and the words of these findings. Pure: reads no journal and no model.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from alignment.checks.diagnosis import Finding, Level
from alignment.checks.material import RARE, Material, count_of, percent
from annotation.quality.quality import (
    FlipRate,
    decided_votes_by_pair,
    estimate_flip_rate,
    example_flip_rate,
    share_for_side_a,
)

MANY_TIES, MANY_BOTH_BAD, MANY_CONFLICTS = 0.5, 0.3, 0.2
"""Scripted voters tie on about a third of the starter's pairs; above half most votes are lost."""
SIDE_LEAN = 0.1
"""Distance from one half below which a lean, real or not, hardly moves what is learned."""
MIN_OVERLAPS = 20
"""Pairs with two decided votes; with fewer, a flip rate of .15 is uncertain by more than .1."""
NOISY = 0.1
"""Share of swapped examples from which the robust loss is worth what it takes."""
MANY_SUSPECT = 0.05
"""Share of votes by flagged voters from which they are worth a look before a run."""


@dataclass(frozen=True, slots=True)
class MeasuredFlips:
    """The flip rate of votes, and `of_examples`, what their majorities make of it."""

    votes: FlipRate
    of_examples: float


def check_votes(material: Material) -> list[Finding]:
    """Every finding on the votes of `material`; what has nothing to say about it is left out."""
    checks: tuple[Callable[[Material], Finding | None], ...] = (
        _agreement,
        _suspects,
        _side,
        _ties,
        _both_bad,
        _conflicts,
        _synthetic,
    )
    return [finding for check in checks if (finding := check(material)) is not None]


def measure_flips(material: Material) -> MeasuredFlips | None:
    """The measured flip rates, or None with fewer than MIN_OVERLAPS pairs that overlap."""
    rate = estimate_flip_rate(material.votes)
    if rate is None or rate.pairs < MIN_OVERLAPS or not material.examples:
        return None
    tallies = decided_votes_by_pair(material.votes)
    # A vote may be undone between reading the dataset and reading the votes.
    decided = Counter(tallies[e.pair_id].total() for e in material.examples if e.pair_id in tallies)
    return MeasuredFlips(rate, example_flip_rate(rate.rate, decided)) if decided else None


def _agreement(m: Material) -> Finding:
    rate = estimate_flip_rate(m.votes)
    if rate is None:
        return Finding(
            "agreement",
            "note",
            "No overlap yet",
            "No pair has two votes for a side, so nobody knows how often voters agree.",
            "set VOTES_PER_PAIR=2 for a while to measure it",
        )
    differ = (
        f"Of {rate.compared} comparisons of two votes on one pair, {percent(rate.disagreement)} "
        f"differ: a vote names the worse side with a chance of about {percent(rate.rate)} "
        f"(95 %: {percent(rate.low)} to {percent(rate.high)})"
    )
    flips = measure_flips(m)
    title = f"Voters agree {percent(1 - rate.disagreement)} of the time"
    figures = (rate.rate, rate.low, rate.high)
    if flips is None:
        more = f"collect {MIN_OVERLAPS} pairs with two votes to rely on it"
        return Finding("agreement", "note", title, f"{differ}.", more, *figures)
    meaning = f"{differ}, and {percent(flips.of_examples)} of examples have their sides swapped."
    if rate.capped:
        advice = "vote again with clearer rules: these votes differ as coin flips do"
        return Finding("agreement", "warning", title, meaning, advice, *figures)
    if flips.of_examples >= NOISY:
        advice = "use DPO's robust loss, which takes this rate, or collect more votes a pair"
        return Finding("agreement", "warning", title, meaning, advice, *figures)
    return Finding("agreement", "ok", title, meaning, "", *figures)


def _suspects(m: Material) -> Finding | None:
    if not m.suspects:
        return None
    names = {voter.voter for voter in m.suspects}
    votes = sum(vote.voter in names for vote in m.votes)
    share = votes / len(m.votes)
    some = count_of(len(names), "voter")
    title = f"{some} {'is' if len(names) == 1 else 'are'} flagged and still in"
    meaning = (
        f"{count_of(votes, 'vote')} of {len(m.votes)} look like a habit, a ring or coin flips, and "
        "the run would learn from them like from any others."
    )
    advice = "look at Quality on the admin page, and set aside the votes that you doubt"
    level: Level = "warning" if share >= MANY_SUSPECT else "note"
    return Finding("suspects", level, title, meaning, advice, share)


def _side(m: Material) -> Finding | None:
    share = share_for_side_a(m.votes)
    if share is None:
        return None
    title = f"{percent(share.rate)} of decided votes went to side a"
    range_said = f"95 %: {percent(share.low)} to {percent(share.high)}"
    figures = (share.rate, share.low, share.high)
    if share.p_value >= RARE:
        meaning = f"Sides are drawn at random, so about half is right ({range_said})."
        return Finding("side", "ok", title, meaning, "", *figures)
    level: Level = "warning" if abs(share.rate - 0.5) >= SIDE_LEAN else "note"
    meaning = (
        f"Sides are drawn at random, so it should be half ({range_said}): some voters press a "
        "side without comparing, and their votes are noise."
    )
    advice = "see under Quality on the admin page who presses one side, and set those votes aside"
    return Finding("side", level, title, meaning, advice, *figures)


def _ties(m: Material) -> Finding | None:
    return _lost(
        m,
        "ties",
        m.prepared.counts.ties,
        MANY_TIES,
        "ended in a tie",
        "Two answers alike teach nothing, so these votes are not trained on.",
        "sample at a higher temperature, or use prompts that leave room to differ",
    )


def _both_bad(m: Material) -> Finding | None:
    return _lost(
        m,
        "both_bad",
        m.prepared.counts.both_bad,
        MANY_BOTH_BAD,
        "had two bad answers",
        "A run moves the base towards the better of its own answers; it adds no ability.",
        "use a stronger base model, or prompts that this one can answer",
    )


def _conflicts(m: Material) -> Finding | None:
    return _lost(
        m,
        "conflicts",
        m.prepared.counts.conflicts,
        MANY_CONFLICTS,
        "have no majority",
        "Voters split evenly, so these pairs are not trained on.",
        "collect an odd number of votes a pair, and tell voters what a good answer is",
    )


def _lost(
    m: Material, kind: str, count: int, many: float, what: str, meaning: str, advice: str
) -> Finding | None:
    if not m.train_pairs:
        return None
    share = count / m.train_pairs
    title = f"{count} of {m.train_pairs} voted pairs {what}"
    if share >= many:
        return Finding(kind, "warning", title, meaning, advice, share)
    return Finding(kind, "ok", title, meaning, value=share)


def _synthetic(m: Material) -> Finding | None:
    counts = m.prepared.counts
    if not counts.synthetic_votes:
        return None
    mixed = counts.synthetic_votes < counts.votes
    meaning = "Scripts cast them: they show that the loop works, not what people prefer."
    advice = "use another VOTETUNE_HOME for people's votes" if mixed else ""
    title = f"{counts.synthetic_votes} of {counts.votes} votes are synthetic"
    level: Level = "warning" if mixed else "note"
    share = counts.synthetic_votes / counts.votes
    return Finding("synthetic", level, title, meaning, advice, share)
