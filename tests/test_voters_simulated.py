"""Voter health over crowds whose kinds are known: few honest ones flagged, cheats caught."""

from collections import Counter

import pytest

from annotation.quality.voter_health import assess_voters
from tests.voters_simulated import Crowd, Kind, Plan, simulate

CROWDS = 25


def flagged(crowd: Crowd) -> Counter[Kind]:
    voters = assess_voters(crowd.votes, crowd.pairs)
    return Counter(crowd.kinds[voter.voter] for voter in voters if voter.is_flagged)


def test_a_crowd_is_what_its_plan_says() -> None:
    plan = Plan(votes_each=20, gold_share=0.1, votes_per_pair=3)
    crowd = simulate(plan, 1)
    assert Counter(crowd.kinds.values()) == dict.fromkeys(Kind, 2) | {Kind.HONEST: 30}
    assert set(Counter(vote.voter for vote in crowd.votes).values()) == {20}
    assert len({(vote.voter, vote.pair_id) for vote in crowd.votes}) == len(crowd.votes)
    by_pair = Counter(vote.pair_id for vote in crowd.votes)
    gold = {name for name, pair in crowd.pairs.items() if pair.expected}
    assert sum(by_pair[name] for name in gold) == 40 * 2
    # 720 ordinary votes, three a pair: only the last pairs of all may be left with fewer.
    ordinary = [count for name, count in by_pair.items() if name not in gold]
    assert max(ordinary) == 3
    assert ordinary.count(3) >= 230
    assert simulate(plan, 1) == crowd
    assert simulate(plan, 2).votes != crowd.votes


def test_honest_votes_err_15_percent_of_the_time() -> None:
    """12,000 votes of 10 crowds: three standard errors are about a percent."""
    right = [simulate(Plan(votes_each=40), seed).right for seed in range(10)]
    assert sum(right) / len(right) == pytest.approx(0.85, abs=0.012)


def test_honest_voters_are_rarely_flagged_and_cheats_nearly_always() -> None:
    """30 votes each, a quarter on gold, 25 crowds: 750 honest voters, 50 of each kind of cheat."""
    found = Counter[Kind]()
    for seed in range(CROWDS):
        found += flagged(simulate(Plan(votes_each=30, gold_share=0.25), seed))
    assert found[Kind.HONEST] <= 0.02 * 30 * CROWDS
    for kind in (Kind.LEFT, Kind.LENGTH):
        assert found[kind] >= 0.98 * 2 * CROWDS, kind
    assert found[Kind.CARELESS] >= 0.95 * 2 * CROWDS


def test_without_gold_and_second_votes_nobody_can_tell_the_careless() -> None:
    found = flagged(simulate(Plan(votes_each=30, votes_per_pair=1), 1))
    assert found[Kind.CARELESS] == 0
    assert found[Kind.LEFT] == 2
