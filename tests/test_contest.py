"""The contest of a home: who is compared, when the policy changes, and what voters may see."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from journal_parts import make_pair, make_vote
from small_files import write_run

from alignment.base import ResolvedBase, bind_base
from alignment.commands.status import load_status
from alignment.contest.contest import GATE_TURNS, WAITING_SHARE, Contest, ContestError, GateWatch
from alignment.contest.gate import VOTER_CAP
from alignment.contest.leaderboard import Standing
from alignment.contest.promotions import PromotionError
from alignment.registry import Registry, RegistryError, why_base_answers
from alignment.web.contest.leaderboard_view import draw_gate
from annotation.choosing import Random
from annotation.journal.journal import Journal
from annotation.sampling import PairPool
from annotation.schema import Choice, Completion, ModelRef, PairKind, Prompt, Sampling, Split
from annotation.settings import AnnotationSettings

BASE = ModelRef("ada/chat", "b" * 40)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def journal(home: Path) -> Iterator[Journal]:
    with closing(Journal(home / "journal.sqlite3")) as opened:
        yield opened


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(home, ResolvedBase(BASE, home / "base", is_starter=False, notice=None))


@pytest.fixture
def contest(registry: Registry, journal: Journal) -> Contest:
    # Every look is a fresh one: the clock jumps further than a look is good for.
    ticks = iter(range(0, 1_000_000, 1000))
    return Contest(registry, journal, share=0.2, clock=lambda: float(next(ticks)))


def judge(
    journal: Journal, winner: ModelRef, loser: ModelRef, votes: int, *, tag: str, voters: int = 99
) -> None:
    """Blind votes that all go to `winner`."""
    for n in range(votes):
        pair = replace(
            make_pair(f"{tag}-{n}"),
            kind=PairKind.COMPARE,
            completions=(
                Completion(f"{tag} {n} one", winner, Sampling()),
                Completion(f"{tag} {n} other", loser, Sampling()),
            ),
        )
        journal.add_pairs([pair]).result()
        voter = f"{tag}-{n % voters}"
        journal.add_vote(make_vote(f"v-{pair.id}", pair.id, voter, Choice.A)).result()


def test_without_a_trained_model_nothing_is_compared(contest: Contest) -> None:
    assert contest.models() is None
    assert contest.gate() is None
    assert contest.compare_share() == 0
    for step in (contest.override, contest.dismiss):
        with pytest.raises(ContestError, match="No model waits"):
            step()
    with pytest.raises(PromotionError, match="nothing to roll back to"):
        contest.roll_back()
    assert contest.leaderboard(closed_only=False).duels == ()


def test_the_newest_model_meets_the_policy(
    contest: Contest, registry: Registry, home: Path
) -> None:
    write_run(home, "dpo-1", BASE, seed=1)
    first = registry.get("dpo-1").ref
    assert contest.models() == (first, BASE)
    assert contest.compare_share() == WAITING_SHARE
    write_run(home, "dpo-2", BASE, seed=2)
    assert contest.models() == (registry.get("dpo-2").ref, BASE)


def test_the_gate_promotes_and_the_next_pairs_come_from_the_new_policy(
    contest: Contest, registry: Registry, journal: Journal, home: Path
) -> None:
    write_run(home, "dpo-1", BASE)
    tuned = registry.get("dpo-1").ref
    contest.models()
    judge(journal, tuned, BASE, 19, tag="a")
    journal.add_pairs([make_pair("waiting")]).result()
    assert contest.settle() is None
    assert registry.policy().ref == BASE
    judge(journal, tuned, BASE, 1, tag="b")
    promoted = contest.settle()
    assert promoted
    assert (promoted.model, promoted.by, promoted.wins, promoted.losses) == (tuned, "gate", 20, 0)
    assert registry.policy().ref == registry.get("policy").ref == tuned
    assert journal.ready_count(votes_per_pair=1, now=make_pair("x").created_at) == 0
    # The contest is over: what is compared now is the policy with the base, the measure of all.
    assert contest.gate() is None
    assert contest.models() == (tuned, BASE)
    assert contest.compare_share() == 0.2
    assert contest.settle() is None


def test_one_voters_taste_does_not_promote(
    contest: Contest, registry: Registry, journal: Journal, home: Path
) -> None:
    write_run(home, "dpo-1", BASE)
    judge(journal, registry.get("dpo-1").ref, BASE, 40, tag="a", voters=3)
    gate = contest.gate()
    assert gate
    assert (gate.wins, gate.capped) == (3 * VOTER_CAP, 40 - 3 * VOTER_CAP)
    assert contest.settle() is None


def test_votes_set_aside_do_not_promote(
    contest: Contest, registry: Registry, journal: Journal, home: Path
) -> None:
    write_run(home, "dpo-1", BASE)
    judge(journal, registry.get("dpo-1").ref, BASE, 30, tag="a", voters=30)
    for n in range(15):
        journal.set_aside(f"a-{n}", "a ring").result()
    assert contest.settle() is None
    for n in range(15):
        journal.bring_back(f"a-{n}").result()
    assert contest.settle()


def test_a_second_candidate_meets_the_policy_most_and_the_base_sometimes(
    contest: Contest, registry: Registry, journal: Journal, home: Path
) -> None:
    write_run(home, "dpo-1", BASE, seed=1)
    first = registry.get("dpo-1").ref
    contest.override()
    write_run(home, "dpo-2", BASE, seed=2)
    second = registry.get("dpo-2").ref
    drawn = [contest.models() for _ in range(3 * GATE_TURNS)]
    assert drawn.count((second, BASE)) == 3
    assert drawn.count((second, first)) == 3 * GATE_TURNS - 3


def test_comparisons_of_models_out_of_play_are_closed(
    contest: Contest, registry: Registry, journal: Journal, home: Path
) -> None:
    write_run(home, "dpo-1", BASE, seed=1)
    contest.models()
    judge(journal, registry.get("dpo-1").ref, BASE, 2, tag="a")
    now = make_pair("x").created_at
    pair = replace(make_pair("open"), kind=PairKind.COMPARE)
    journal.add_pairs([pair]).result()
    assert journal.comparisons_ready(now=now) == 1
    contest.models()
    assert journal.comparisons_ready(now=now) == 1
    write_run(home, "dpo-2", BASE, seed=2)
    contest.models()
    assert journal.comparisons_ready(now=now) == 0
    assert len(contest.comparisons()) == 2  # the votes stay


def test_voters_see_closed_comparisons_only(
    contest: Contest, registry: Registry, journal: Journal, home: Path
) -> None:
    write_run(home, "dpo-1", BASE, seed=1)
    first = registry.get("dpo-1").ref
    judge(journal, first, BASE, 25, tag="a")
    judge(journal, BASE, first, 5, tag="b")
    assert contest.leaderboard(closed_only=True).duels == ()
    (duel,) = contest.leaderboard(closed_only=False).duels
    assert (duel.model, duel.wins, duel.losses) == (first, 25, 5)
    contest.override()
    assert contest.leaderboard(closed_only=True).duels == (duel,)
    contest.roll_back()
    (shown,) = contest.leaderboard(closed_only=True).duels
    assert shown == duel
    top = contest.leaderboard(closed_only=True).rows[0]
    assert (top.model, top.standing) == (first, Standing.PLACED)


def test_a_dismissed_model_waits_no_more_and_stays_here(
    contest: Contest, registry: Registry, home: Path
) -> None:
    write_run(home, "dpo-1", BASE)
    assert contest.dismiss().name == "dpo-1"
    assert contest.models() is None
    assert registry.get("dpo-1")


def test_one_click_rolls_back_and_a_former_policy_is_no_candidate(
    contest: Contest, registry: Registry, home: Path
) -> None:
    write_run(home, "dpo-1", BASE)
    contest.override()
    assert contest.roll_back().model == BASE
    assert registry.policy().ref == BASE
    assert contest.models() is None


def test_while_the_policy_is_gone_the_base_answers_and_nothing_is_promoted(
    contest: Contest, registry: Registry, journal: Journal, home: Path
) -> None:
    path = write_run(home, "dpo-1", BASE, seed=1)
    contest.override()
    write_run(home, "dpo-2", BASE, seed=2)
    first, second = registry.get("dpo-1").ref, registry.get("dpo-2").ref
    assert contest.models() == (second, first)
    judge(journal, second, BASE, 40, tag="a")
    judge(journal, second, first, 10, tag="b")
    assert (registry.why_base_answers(), why_base_answers(home)) == (None, None)
    path.rename(home / "elsewhere")
    line = (
        f"The policy {first.label} is not here any more, so the base answers meanwhile: "
        "restore its files or pull it again, or roll back."
    )
    assert registry.answering().ref == BASE
    assert registry.why_base_answers() == why_base_answers(home) == contest.trouble == line
    with pytest.raises(RegistryError, match="is not here any more: pull it again, or roll back"):
        registry.policy()
    # What beats the base may yet lose to the policy: nothing is compared or promoted meanwhile.
    assert (contest.models(), contest.gate(), contest.settle()) == (None, None, None)
    assert contest.compare_share() == 0
    with pytest.raises(ContestError, match="so the base answers meanwhile"):
        contest.override()
    # And what voters see does not open up what is still to be decided.
    assert contest.leaderboard(closed_only=True).duels == ()
    assert line in draw_gate(contest.gate(), {}, contest.trouble)
    (home / "elsewhere").rename(path)
    assert registry.answering().ref == first
    assert (contest.trouble, contest.models()) == (None, (second, first))
    path.rename(home / "elsewhere")
    assert contest.roll_back().model == BASE
    assert (registry.policy().ref, contest.trouble) == (BASE, None)


class Answerer:
    """Two answers that name who gave them."""

    def sample(
        self, prompts: Sequence[Prompt], *, model: ModelRef, sampling: Sampling, per_prompt: int
    ) -> list[list[Completion]]:
        words = (f"{model.label} {sampling.seed} {n}" for n in range(per_prompt))
        return [[Completion(text, model, sampling) for text in words] for _ in prompts[:1]]

    def sample_each(
        self, prompts: Sequence[Prompt], *, models: Sequence[ModelRef], sampling: Sampling
    ) -> list[list[Completion]]:
        raise AssertionError("nothing is compared here")


def test_pairs_go_on_with_the_base_while_the_policy_is_gone(
    contest: Contest, registry: Registry, journal: Journal, home: Path
) -> None:
    path = write_run(home, "dpo-1", BASE)
    tuned = contest.override().model
    prompts = [p for n in range(9) if (p := Prompt.from_text(f"Ask {n}")).split is Split.TRAIN]
    pool = PairPool(
        journal,
        prompts[:1],
        Answerer(),
        model=lambda: registry.answering().ref,
        sampling=Sampling(),
        votes_per_pair=1,
        target=8,
    )

    def models_of_new_pairs() -> set[ModelRef]:
        before = {pair.id for pair in journal.pairs()}
        pool._draw(prompts[:1], Random())
        new = [pair for pair in journal.pairs() if pair.id not in before]
        assert len(new) == 1
        return {completion.model for pair in new for completion in pair.completions}

    assert models_of_new_pairs() == {tuned}
    path.rename(home / "elsewhere")
    assert models_of_new_pairs() == {BASE}
    (home / "elsewhere").rename(path)
    assert models_of_new_pairs() == {tuned}


def test_the_watch_promotes_by_itself(
    registry: Registry, journal: Journal, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignment.contest.contest.LOOK_EVERY_S", 0.02)
    write_run(home, "dpo-1", BASE)
    tuned = registry.get("dpo-1").ref
    watch = GateWatch(Contest(registry, journal, share=0.2), journal)
    watch.start()
    try:
        judge(journal, tuned, BASE, 25, tag="a")
        deadline = time.monotonic() + 20
        while registry.policy().ref != tuned and time.monotonic() < deadline:
            time.sleep(0.02)
        assert registry.policy().ref == tuned
    finally:
        watch.stop()


def test_the_status_of_a_home_says_that_its_policy_is_gone(contest: Contest, home: Path) -> None:
    bind_base(home, BASE.base, BASE.base_revision, None)
    path = write_run(home, "dpo-1", BASE)
    contest.override()
    settings = AnnotationSettings(votetune_home=home)
    assert load_status(settings).trouble is None
    assert "trouble" not in load_status(settings).to_text()
    path.rename(home / "elsewhere")
    found = load_status(settings)
    assert "is not here any more, so the base answers meanwhile" in (found.trouble or "")
    assert f"trouble     {found.trouble}" in found.to_text()
    assert json.loads(found.to_json())["trouble"] == found.trouble
