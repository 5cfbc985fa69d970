"""Comparisons of two models: what becomes a pair, who is given it, and what it is worth."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from journal_parts import FIRST_MODEL, LEASE, NOON, SECOND_MODEL, make_pair, make_vote

from annotation.checks import Checks
from annotation.comparing import ComparisonPool, Models
from annotation.export.export import prepare_export
from annotation.journal.issue import MOST_COMPARISONS
from annotation.journal.journal import Journal
from annotation.schema import (
    Completion,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Sampling,
    Split,
    utc_now,
)

MODELS = (FIRST_MODEL, SECOND_MODEL)
PROMPTS = [Prompt.from_text(f"What is {n}?") for n in range(60)]
EVAL = [prompt for prompt in PROMPTS if prompt.split is Split.EVAL]
CHECKS = Checks(b"a secret")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.sqlite3")) as opened:
        yield opened


class Speaker:
    """Says what it is told to, by model and by how often it was asked."""

    def __init__(self, say: Callable[[ModelRef, int], str]) -> None:
        self._say = say
        self.asked: list[tuple[list[Prompt], tuple[ModelRef, ...]]] = []

    def sample(self, *_: object, **__: object) -> list[list[Completion]]:
        raise AssertionError("a comparison asks each model once")

    def sample_each(
        self, prompts: Sequence[Prompt], *, models: Sequence[ModelRef], sampling: Sampling
    ) -> list[list[Completion]]:
        self.asked.append((list(prompts), tuple(models)))
        turn = len(self.asked)
        return [[Completion(self._say(m, turn), m, sampling) for m in models] for _ in prompts]


def fill(
    journal: Journal, speaker: Speaker, models: Models | None = MODELS, *, target: int = 8
) -> ComparisonPool:
    pool = ComparisonPool(
        journal, PROMPTS, speaker, models=lambda: models, sampling=Sampling(), target=target
    )
    pool.start()
    deadline = time.monotonic() + 20
    while journal.comparisons_ready(now=utc_now()) < target and time.monotonic() < deadline:
        if models is None or pool.error:
            break
        time.sleep(0.01)
    pool.stop()
    return pool


def compare(number: int) -> Pair:
    return replace(make_pair(f"c{number}"), kind=PairKind.COMPARE)


def give(journal: Journal, voter: str, share: float, *, minutes: int = 0) -> Pair | None:
    return journal.issue(
        voter,
        votes_per_pair=1,
        lease=LEASE,
        max_open=100,
        now=NOON + timedelta(minutes=minutes),
        checks=CHECKS,
        compare_share=share,
    ).result(10)


def test_each_model_answers_eval_prompts_once(journal: Journal) -> None:
    speaker = Speaker(lambda model, turn: f"{model.label} {turn}")
    fill(journal, speaker, target=32)
    pairs = journal.pairs()
    assert len(pairs) == 32
    for pair in pairs:
        assert pair.kind is PairKind.COMPARE
        assert pair.prompt.split is Split.EVAL
        assert {c.model for c in pair.completions} == set(MODELS)
    # Which model comes first in the record is a coin that no voter sees; 32 alike are 2^-31.
    assert len({pair.completions[0].model for pair in pairs}) == 2
    assert {models for _, models in speaker.asked} == {MODELS}


def test_equal_answers_are_drawn_again_by_both_models(journal: Journal) -> None:
    """Else the model that says the same twice would get a second try, and the other none."""
    speaker = Speaker(lambda model, turn: "same" if turn == 1 else f"{model.label} {turn}")
    fill(journal, speaker)
    seeds = [{c.sampling.seed for c in pair.completions} for pair in journal.pairs()]
    assert all(len(some) == 1 for some in seeds)
    assert speaker.asked[0][0] == speaker.asked[1][0]


def test_without_two_models_nothing_is_drawn(journal: Journal) -> None:
    speaker = Speaker(lambda model, turn: "never")
    assert fill(journal, speaker, None).error is None
    assert speaker.asked == []


def test_comparisons_come_in_the_share_that_is_asked_for(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(60)]).result()
    journal.add_pairs([compare(n) for n in range(60)]).result()
    for share, low, high in ((0.0, 0, 0), (0.5, 50, 110)):
        given = [give(journal, f"voter-{share}-{n % 20}", share) for n in range(160)]
        kinds = [pair.kind for pair in given if pair]
        assert low <= kinds.count(PairKind.COMPARE) <= high


def test_one_voter_is_given_few_comparisons_and_none_twice(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(60)]).result()
    journal.add_pairs([compare(n) for n in range(60)]).result()
    given = [give(journal, "ann", 1.0) for _ in range(40)]
    compared = [pair.id for pair in given if pair and pair.kind is PairKind.COMPARE]
    assert len(compared) == len(set(compared)) == MOST_COMPARISONS


def test_two_voters_do_not_share_a_comparison(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0"), make_pair("p1"), compare(0)]).result()
    first, second = give(journal, "ann", 1.0), give(journal, "bob", 1.0)
    assert (first and first.id, second and second.id) == ("c0", "p0")
    # A lease that ran out leaves it to somebody else.
    third = give(journal, "cat", 1.0, minutes=31)
    assert third
    assert third.id == "c0"


def test_a_comparison_counts_is_delivered_and_teaches_nothing(journal: Journal) -> None:
    train = next(p for p in PROMPTS if p.split is Split.TRAIN)
    pairs = [replace(compare(0), prompt=EVAL[0]), replace(compare(1), prompt=train)]
    journal.add_pairs(pairs).result()
    for pair in pairs:
        vote = make_vote(f"v-{pair.id}", pair.id)
        assert journal.add_vote(vote).result().vote.counts
    assert [vote.pair_id for vote in journal.votes_on(PairKind.COMPARE)] == ["c0", "c1"]
    assert [pair.id for pair in journal.undelivered_pairs(9)] == ["c0", "c1"]
    assert prepare_export(journal).examples == ()
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 0


def test_late_votes_on_a_closed_comparison_count(journal: Journal) -> None:
    journal.add_pairs([compare(0), compare(1)]).result()
    assert journal.retire_comparisons().result() == 2
    assert journal.comparisons_ready(now=NOON) == 0
    assert journal.add_vote(make_vote("v", "c0")).result().vote.counts
    assert give(journal, "bob", 1.0) is None
