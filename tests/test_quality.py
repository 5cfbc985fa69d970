"""What votes say of themselves, by hand: flip rate, shares, majorities, agreement, leans."""

import itertools
import math
import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from scipy.stats import binomtest
from vote_parts import pair_of, vote_on

from annotation.quality.quality import (
    FlipRate,
    SplitPair,
    agreements,
    decided_votes_by_pair,
    estimate_flip_rate,
    example_flip_rate,
    krippendorff_alpha,
    majority_flip_rate,
    share_for_side_a,
    share_of,
    summarise_quality,
)
from annotation.schema import Choice, PairKind, Vote

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
A, B, TIE = Choice.A, Choice.B, Choice.TIE


def votes_on(*pairs: tuple[Choice, ...]) -> list[Vote]:
    """One vote for each choice, each by another voter, nobody flipped."""
    return [
        Vote(f"{p}-{v}", f"pair-{p}", f"voter-{v}", choice, flipped=False, created_at=NOON)
        for p, choices in enumerate(pairs)
        for v, choice in enumerate(choices)
    ]


def measured(*pairs: tuple[Choice, ...]) -> FlipRate:
    found = estimate_flip_rate(votes_on(*pairs))
    assert found is not None
    return found


# The flip rate of votes


def test_flip_rate_of_one_disagreement_in_four() -> None:
    found = measured((A, A), (B, B), (A, A), (A, B))
    # d = 1/4, so ε = (1 - √(1/2)) / 2.
    assert found.disagreement == 0.25
    assert found.rate == pytest.approx(0.1464466, abs=1e-7)
    assert (found.votes, found.pairs, found.compared) == (8, 4, 4)
    # Residuals -1/4 (thrice) and 3/4 square to 3/4; · 4/3 = 1; √1 / 4 = 1/4 is the error of d,
    # and the slope of ε at d is 1 / (2 √(1/2)).
    assert found.standard_error == pytest.approx(0.25 / (2 * math.sqrt(0.5)))
    assert not found.capped


def test_the_interval_is_wilsons_for_d_carried_over() -> None:
    # 25 differ of 100; the error is √(.1875 / 99), worth .1875 / (.1875 / 99) = 99 comparisons.
    found = measured(*[(A, B)] * 25, *[(A, A)] * 75)
    centre = (0.25 + 1.96**2 / (2 * 99)) / (1 + 1.96**2 / 99)
    half = 1.96 / (1 + 1.96**2 / 99) * math.sqrt(0.1875 / 99 + 1.96**2 / (4 * 99**2))
    for bound, d in ((found.low, centre - half), (found.high, centre + half)):
        assert bound == pytest.approx((1 - math.sqrt(1 - 2 * d)) / 2, abs=1e-4)
    assert found.low < found.rate < found.high


def test_three_votes_on_a_pair_are_three_comparisons() -> None:
    # A A B differs in 2 of its 3 comparisons, A A A in none of 3, B B in none of 1.
    found = measured((A, A, B), (A, A, A), (B, B))
    assert (found.compared, found.votes, found.pairs) == (7, 8, 3)
    assert found.disagreement == pytest.approx(2 / 7)


def test_sides_are_compared_as_answers_and_not_as_places() -> None:
    one, other = votes_on((A, B))
    swapped = Vote(other.id, other.pair_id, other.voter, B, flipped=True, created_at=NOON)
    found = estimate_flip_rate([one, swapped])
    assert found is not None
    # Side b of a flipped voter is the pair's first completion: both chose that one.
    assert found.disagreement == 0


def test_votes_that_never_differ_leave_room_for_doubt() -> None:
    found = measured(*[(A, A)] * 10)
    assert (found.rate, found.low) == (0, 0)
    # Wilson of 0 of 10 ends at z² / (10 + z²) = .278; ε = (1 - √(1 - .5555)) / 2 = .167.
    assert found.high == pytest.approx(0.1667, abs=1e-3)


def test_votes_like_coin_flips_are_capped_at_one_half() -> None:
    found = measured((A, B), (A, B), (A, A))
    assert found.disagreement == pytest.approx(2 / 3)
    assert (found.rate, found.high, found.capped) == (0.5, 0.5, True)
    assert found.standard_error is None


@pytest.mark.parametrize("pairs", [(), ((A,), (B,)), ((A, TIE), (Choice.BOTH_BAD, B))])
def test_no_two_decided_votes_on_a_pair_is_no_overlap(
    pairs: tuple[tuple[Choice, ...], ...],
) -> None:
    assert estimate_flip_rate(votes_on(*pairs)) is None


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = random.Random(0)
    epsilon, held = 0.15, 0
    for _ in range(300):
        # Two votes on most pairs and five on some, so that comparisons are not independent.
        pairs = [
            tuple(A if draw.random() > epsilon else B for _ in range(5 if n % 5 == 0 else 2))
            for n in range(100)
        ]
        found = measured(*pairs)
        held += found.low <= epsilon <= found.high
    # Binomial(300, .95): mean 285, standard deviation 3.8.
    assert held >= 273


def test_decided_votes_are_tallied_in_the_records_order() -> None:
    tallies = decided_votes_by_pair(votes_on((A, A, B, TIE), (TIE,)))
    assert tallies == {"pair-0": Counter({A: 2, B: 1})}


# The flip rate of examples


def test_a_majority_of_three_errs_by_the_closed_form() -> None:
    for rate in (0.05, 0.15, 0.3):
        assert majority_flip_rate(rate, 3) == pytest.approx(3 * rate**2 - 2 * rate**3)
    # At .15: 3 · .0225 - 2 · .003375 = .06075.
    assert measured((A, A), (B, B), (A, A), (A, B)).of_majority(1) == pytest.approx(0.1464466)
    assert majority_flip_rate(0.15, 3) == pytest.approx(0.06075)


def test_an_even_number_errs_among_the_votes_that_decide() -> None:
    # Both wrong .04, both right .64, and the rest decides nothing: .04 / .68.
    assert majority_flip_rate(0.2, 2) == pytest.approx(0.04 / 0.68)


@pytest.mark.parametrize("votes", [1, 2, 3, 4, 5])
def test_a_majority_is_what_counting_every_outcome_gives(votes: int) -> None:
    rate, wrong, decided = 0.3, 0.0, 0.0
    for errors in itertools.product((0, 1), repeat=votes):
        chance = math.prod(rate if e else 1 - rate for e in errors)
        wrong += chance * (2 * sum(errors) > votes)
        decided += chance * (2 * sum(errors) != votes)
    assert majority_flip_rate(rate, votes) == pytest.approx(wrong / decided)


def test_examples_flip_as_their_majorities_do_on_average() -> None:
    # 3 examples by one vote at .2 and 1 by three votes at 3 · .04 - 2 · .008 = .104: .704 / 4.
    assert example_flip_rate(0.2, {1: 3, 3: 1}) == pytest.approx(0.704 / 4)


# Shares


@pytest.mark.parametrize(("count", "total"), [(60, 100), (3, 17), (0, 9), (8, 8), (5, 10)])
def test_a_share_has_wilsons_interval_and_the_exact_test(count: int, total: int) -> None:
    found = share_of(count, total)
    assert found is not None
    assert found.rate == count / total
    oracle = binomtest(count, total)
    interval = oracle.proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(oracle.pvalue)


def test_the_share_of_nothing_is_none() -> None:
    assert share_of(0, 0) is None
    assert share_for_side_a(votes_on((TIE,))) is None


def test_side_a_is_the_side_that_the_voter_saw() -> None:
    flipped = Vote("f", "pair-9", "v", A, flipped=True, created_at=NOON)
    found = share_for_side_a([*votes_on((A, B, TIE), (Choice.SKIP,)), flipped])
    assert found is not None
    assert (found.count, found.total) == (2, 3)


# Agreement


def test_alpha_is_krippendorffs_with_each_pair_both_ways_round() -> None:
    found = krippendorff_alpha(votes_on((A, A), (B, B), (A, A), (A, B), (A,)))
    assert found is not None
    # Eight units of two values, 8 of each kind in all. Two units differ, so 4 of 16 ordered
    # coincidences do; by chance 2 · 8 · 8 / 15 would: 1 - 4 / 8.533.
    assert found.value == pytest.approx(1 - 4 * 15 / 128)
    assert (found.votes, found.pairs) == (8, 4)


def test_alpha_does_not_depend_on_which_answer_is_the_first() -> None:
    votes = votes_on((A, A), (A, A), (A, B), (A, TIE))
    turned = [replace(v, flipped=True) if v.pair_id in ("pair-0", "pair-2") else v for v in votes]
    one, other = krippendorff_alpha(votes), krippendorff_alpha(turned)
    assert one is not None
    assert one == other
    # One way round, votes that all went to first answers leave chance nothing to disagree on.
    assert one.value > 0


def test_alpha_counts_ties_as_an_answer() -> None:
    found = krippendorff_alpha(votes_on((A, TIE), (TIE, TIE)))
    assert found is not None
    # Units (a, tie), (b, tie), (tie, tie) twice: 4 of 8 ordered coincidences differ. Of a, b, tie
    # there are 1, 1 and 6: by chance 2 · (1 · 1 + 1 · 6 + 1 · 6) / 7 = 26/7 would.
    assert found.value == pytest.approx(1 - 4 * 7 / 26)


@pytest.mark.parametrize("pairs", [(), ((A,), (B,)), ((TIE, TIE),)])
def test_alpha_of_nothing_to_compare_is_none(pairs: tuple[tuple[Choice, ...], ...]) -> None:
    assert krippendorff_alpha(votes_on(*pairs)) is None


def test_a_vote_is_compared_with_the_majority_of_the_others() -> None:
    votes = votes_on((A, A, B), (A, B), (A, TIE))
    # Of A A B: each A sees one for and one against, B sees two against. A and B see each other.
    # A tie is no opinion, so the last A stands alone.
    assert agreements(votes, decided_votes_by_pair(votes)) == [False, False, False]


# All of it


def test_the_summary_is_of_votes_that_count_and_of_no_checks() -> None:
    pairs = [
        pair_of("p0"),
        pair_of("p1", longer_first=False),
        pair_of("own", kind=PairKind.OWN),
        pair_of("gold", kind=PairKind.GOLD, expected=A),
    ]
    votes = [
        vote_on("p0", "ann", A),
        # Side a of a flipped voter is the second answer, which is the shorter one.
        vote_on("p0", "bob", A, flipped=True),
        vote_on("p1", "ann", B),
        vote_on("own", "ann", TIE),
        vote_on("gold", "ann", B, counted=False),
        vote_on("p1", "bob", Choice.SKIP, counted=False),
        replace(vote_on("p1", "cid", A), set_aside="presses left"),
        replace(vote_on("own", "dan", A), superseded_at=NOON),
    ]
    found = summarise_quality(votes, {pair.id: pair for pair in pairs})
    assert (found.votes, found.voters, found.pairs) == (4, 2, 3)
    assert found.side_a == share_of(2, 3)
    assert found.longer == share_of(2, 3)
    assert found.agreement == share_of(0, 2)
    assert found.flip_rate == estimate_flip_rate(votes[:2])
    assert found.split_pairs == (SplitPair("p0", Counter({A: 1, B: 1})),)


def test_days_without_votes_are_days_too() -> None:
    late = replace(vote_on("p0", "ann", A), created_at=NOON + timedelta(days=2, hours=11))
    found = summarise_quality([vote_on("p0", "bob", A), late], {"p0": pair_of("p0")})
    assert found.days == (
        (date(2026, 11, 23), 1),
        (date(2026, 11, 24), 0),
        (date(2026, 11, 25), 1),
    )


def test_pairs_without_agreement_have_no_strict_majority() -> None:
    pairs = {f"pair-{n}": pair_of(f"pair-{n}") for n in range(5)}
    votes = votes_on((A, A, B), (A, B), (A, B, TIE), (A, A, B, B), (TIE, TIE))
    found = summarise_quality(votes, pairs).split_pairs
    assert [(s.pair_id, dict(s.tally)) for s in found] == [
        ("pair-3", {A: 2, B: 2}),
        ("pair-2", {A: 1, B: 1, TIE: 1}),
        ("pair-1", {A: 1, B: 1}),
    ]


def test_no_vote_is_no_figure() -> None:
    found = summarise_quality([], {})
    assert (found.votes, found.days, found.alpha, found.agreement) == (0, (), None, None)
    assert (found.side_a, found.longer, found.flip_rate) == (None, None, None)
