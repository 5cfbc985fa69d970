"""The promotion gate: do blind votes prefer a candidate to the policy, however often one looks?

Pure: wins and losses in, a verdict out. The test is a mixture e-process: with w wins and l losses
(ties cancel exactly and are dropped) and a symmetric Beta(a, a) prior on the win rate, truncated
to rates above one half,

    E = 2^(w+l+1) · B(w+a, l+a) / B(a, a) · P[Beta(w+a, l+a) > ½].

Where the candidate wins no more than it loses, E is a supermartingale, so it ever reaches 1/α with
probability at most α (Ville's inequality; Waudby-Smith and Ramdas, arXiv 2010.09686). That holds
for a look after every vote. Votes of one voter share that voter's taste, so they are capped.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alignment.contest.comparisons import Comparison
from annotation.schema import ModelRef

ALPHA = 0.05
PRIOR = 10.0
MIN_DECIDED = 20
VOTER_CAP = 5
"""Decided votes of one voter that one comparison takes: see `bench_gate` for what it guards."""
HORIZON = 100
FORECASTS = 2000

Verdict = Literal["promote", "undecided"]


@dataclass(frozen=True, slots=True)
class Gate:
    """A candidate against the policy, by the votes so far.

    `wins` and `losses` are the candidate's decided votes that the gate takes; `capped` decided
    ones are left out because their voters had given VOTER_CAP already. `ties` decide nothing.
    `evidence` is E, `needed` what it must reach. `chance` is that of promotion within the next
    HORIZON votes, None once promoted. `voters_needed` is how many more voters it takes at least,
    where those so far have used up their votes; 0 where they have not.
    """

    candidate: ModelRef
    policy: ModelRef
    wins: int
    losses: int
    ties: int
    capped: int
    voters: int
    evidence: float
    needed: float
    chance: float | None
    voters_needed: int
    verdict: Verdict


def decide(
    comparisons: Sequence[Comparison], candidate: ModelRef, policy: ModelRef, *, seed: int = 0
) -> Gate:
    """What the blind votes on `candidate` against `policy` say, oldest first.

    Votes on other models are passed over. `seed` is that of the forecast's simulation.
    """
    taken: Counter[str] = Counter()
    wins = losses = ties = capped = 0
    voters = set()
    for comparison in comparisons:
        outcome = comparison.outcome_for(candidate, policy)
        if outcome is None:
            continue
        voters.add(comparison.voter)
        if outcome == "tie":
            ties += 1
        elif taken[comparison.voter] >= VOTER_CAP:
            capped += 1
        else:
            taken[comparison.voter] += 1
            wins, losses = wins + (outcome == "win"), losses + (outcome == "loss")
    promoted = is_promoted(wins, losses)
    room = sum(VOTER_CAP - taken[voter] for voter in voters)
    return Gate(
        candidate=candidate,
        policy=policy,
        wins=wins,
        losses=losses,
        ties=ties,
        capped=capped,
        voters=len(voters),
        evidence=evidence(wins, losses),
        needed=1 / ALPHA,
        chance=None if promoted else chance_of_promotion(wins, losses, seed=seed),
        voters_needed=0 if promoted else _voters_needed(wins, losses, room),
        verdict="promote" if promoted else "undecided",
    )


def evidence(wins: int, losses: int) -> float:
    """E of the module's text; 1 with no vote."""
    return float(np.exp(log_evidence(np.array([wins]), np.array([losses]))[0]))


def is_promoted(wins: int, losses: int) -> bool:
    """E ≥ 1/α on at least MIN_DECIDED decided votes."""
    return wins + losses >= MIN_DECIDED and evidence(wins, losses) >= 1 / ALPHA


def log_evidence(wins: NDArray[np.int_], losses: NDArray[np.int_]) -> NDArray[np.float64]:
    """log E, elementwise; both arrays of one shape."""
    # Imported here for its time, which a page that shows no gate need not take.
    from scipy.special import betainc, betaln

    above, below = wins + PRIOR, losses + PRIOR
    # P[Beta(p, q) > ½] = I_½(q, p), by the symmetry of the regularised incomplete beta.
    tail = np.maximum(betainc(below, above, 0.5), np.finfo(float).tiny)
    found: NDArray[np.float64] = (
        (wins + losses + 1) * math.log(2)
        + betaln(above, below)
        - betaln(PRIOR, PRIOR)
        + np.log(tail)
    )
    return found


def chance_of_promotion(
    wins: int, losses: int, *, horizon: int = HORIZON, draws: int = FORECASTS, seed: int = 0
) -> float:
    """The chance of promotion within the next `horizon` decided votes.

    Simulated: a win rate from Beta(PRIOR + wins, PRIOR + losses), then votes at that rate.
    """
    generator = np.random.default_rng(seed)
    rates = generator.beta(PRIOR + wins, PRIOR + losses, size=(draws, 1))
    won = generator.random((draws, horizon)) < rates
    more_wins = np.cumsum(won, axis=1)
    more_losses = np.arange(1, horizon + 1) - more_wins
    found = log_evidence(wins + more_wins, losses + more_losses) >= math.log(1 / ALPHA)
    enough = wins + losses + np.arange(1, horizon + 1) >= MIN_DECIDED
    return float((found & enough).any(axis=1).mean())


def _voters_needed(wins: int, losses: int, room: int) -> int:
    """New voters without whom no promotion is possible, whatever the votes still to come say."""
    more = 0
    while not is_promoted(wins + more, losses):
        more += 1
    return max(0, math.ceil((more - room) / VOTER_CAP))
