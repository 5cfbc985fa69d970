"""The promotion gate: its evidence against published values, its cap, and how often it errs."""

import math

import numpy as np
import pytest

from alignment.contest.comparisons import Comparison, Outcome
from alignment.contest.gate import (
    ALPHA,
    MIN_DECIDED,
    VOTER_CAP,
    chance_of_promotion,
    decide,
    evidence,
    is_promoted,
    log_evidence,
)
from annotation.schema import ModelRef

POLICY = ModelRef("starter", "1" * 40)
CANDIDATE = ModelRef("starter", "1" * 40, "run-7", "2" * 40)
OTHER = ModelRef("starter", "1" * 40, "run-8", "3" * 40)


def votes(outcomes: list[Outcome], voters: int = 1000) -> list[Comparison]:
    return [Comparison(f"v{n % voters}", CANDIDATE, POLICY, o) for n, o in enumerate(outcomes)]


def test_no_vote_is_no_evidence() -> None:
    # 2¹ · B(10, 10)/B(10, 10) · P[Beta(10, 10) > ½] = 2 · ½.
    assert evidence(0, 0) == pytest.approx(1.0)


def test_one_vote_moves_it_as_by_hand() -> None:
    # One win: 2² · B(11, 10)/B(10, 10) · P[Beta(11, 10) > ½]. B(11,10)/B(10,10) = 10/20 = ½.
    # P[Beta(11, 10) > ½] = P[Bin(20, ½) ≤ 10] = ½ + C(20,10)/2²¹ = .5881.
    tail = 0.5 + math.comb(20, 10) / 2**21
    assert evidence(1, 0) == pytest.approx(2 * tail)
    assert evidence(0, 1) == pytest.approx(2 * (1 - tail))


def test_the_mean_of_the_next_look_is_todays_evidence_at_even_odds() -> None:
    """The supermartingale itself, with equality at a win rate of one half."""
    for wins, losses in ((0, 0), (3, 9), (40, 25)):
        after = (evidence(wins + 1, losses) + evidence(wins, losses + 1)) / 2
        assert after == pytest.approx(evidence(wins, losses))


@pytest.mark.parametrize(
    ("wins", "of"),
    [(18, 20), (24, 30), (30, 40), (36, 50), (64, 100), (92, 150), (120, 200), (229, 400)],
)
def test_wins_needed_are_the_published_ones(wins: int, of: int) -> None:
    assert is_promoted(wins, of - wins)
    assert not is_promoted(wins - 1, of - wins + 1)


def test_too_few_votes_promote_nobody() -> None:
    assert evidence(MIN_DECIDED - 1, 0) > 1 / ALPHA
    assert not is_promoted(MIN_DECIDED - 1, 0)
    assert is_promoted(MIN_DECIDED, 0)


def test_ties_and_other_models_change_nothing() -> None:
    outcomes: list[Outcome] = ["win"] * 18 + ["loss"] * 2
    plain = decide(votes(outcomes), CANDIDATE, POLICY)
    noisy = [
        *(Comparison(f"t{n}", CANDIDATE, POLICY, "tie") for n in range(50)),
        *(Comparison(f"o{n}", OTHER, POLICY, "loss") for n in range(50)),
        *votes(outcomes),
    ]
    found = decide(noisy, CANDIDATE, POLICY)
    assert (found.wins, found.losses, found.ties) == (18, 2, 50)
    assert found.evidence == plain.evidence
    assert found.verdict == plain.verdict == "promote"
    assert found.chance is None


def test_sides_do_not_matter() -> None:
    swapped = [
        Comparison("v", POLICY, CANDIDATE, "loss"),
        Comparison("w", POLICY, CANDIDATE, "win"),
        Comparison("x", CANDIDATE, POLICY, "win"),
    ]
    found = decide(swapped, CANDIDATE, POLICY)
    assert (found.wins, found.losses) == (2, 1)


def test_one_persons_taste_cannot_promote() -> None:
    found = decide(votes(["win"] * 400, voters=1), CANDIDATE, POLICY)
    assert (found.wins, found.capped, found.verdict) == (VOTER_CAP, 400 - VOTER_CAP, "undecided")
    # 20 decided votes at 5 a voter: three more people at the least, if all of them agree.
    assert found.voters_needed == 3


def test_no_more_voters_are_asked_for_while_those_here_have_votes_left() -> None:
    found = decide(votes(["win"] * 10, voters=10), CANDIDATE, POLICY)
    assert found.voters_needed == 0


def test_the_forecast_is_calibrated_where_it_can_be_counted() -> None:
    """From 60 of 100, promotion needs no luck or much: compare with the forecast's own model."""
    generator = np.random.default_rng(7)
    rates = generator.beta(10 + 60, 10 + 40, size=4000)
    won = np.cumsum(generator.random((4000, 100)) < rates[:, None], axis=1)
    lost = np.arange(1, 101) - won
    came_true = (log_evidence(60 + won, 40 + lost) >= math.log(20)).any(axis=1).mean()
    assert chance_of_promotion(60, 40, draws=4000) == pytest.approx(came_true, abs=0.03)


def test_an_equal_candidate_is_promoted_in_few_runs_and_a_better_one_in_most() -> None:
    """1,000 runs of 400 votes, looked at after every one; `bench_gate` has 4,000."""
    generator = np.random.default_rng(11)
    for rate, low, high in ((0.5, 0.0, 0.05), (0.6, 0.9, 1.0)):
        won = np.cumsum(generator.random((1000, 400)) < rate, axis=1)
        lost = np.arange(1, 401) - won
        passed = log_evidence(won, lost) >= math.log(1 / ALPHA)
        share = passed[:, MIN_DECIDED - 1 :].any(axis=1).mean()
        assert low <= share <= high
