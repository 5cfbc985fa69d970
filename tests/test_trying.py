"""Two models blind for one voter: unnamed until the vote is on disk, and out of every figure."""

import asyncio
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from journal_parts import make_pair, make_vote
from voter_app import voter_app

from alignment.contest.comparisons import comparisons_of
from annotation.asking import Answered, AskQueue, Draft, Line, Unanswered
from annotation.backup.events import BackupBase, Header, from_file, merge, to_files
from annotation.backup.journal_backup import JournalBackup
from annotation.checks import is_flipped
from annotation.export.export import live_votes, prepare_export
from annotation.journal.journal import Journal, NotYours
from annotation.journal.votes import TRIED
from annotation.quality.quality import summarise_quality
from annotation.schema import Choice, Finish, ModelRef, PairKind, Prompt, Sampling, utc_now
from annotation.trying import ONE_MODEL, BlindTries
from annotation.voting import Receipt, Voting
from annotation.web.voters import VoterCookies

SECRET = b"side"
MANY = [ModelRef("ada/chat", "b" * 40, f"run-{n}", f"{n}" * 40) for n in range(4)]


class Parrot:
    """Every model says its own number, as a word; `same` has them all say one thing."""

    def __init__(self) -> None:
        self.same = False
        self.seeds: list[int] = []

    def stream(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        count: Callable[[Sequence[int]], None],
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        self.seeds.append(sampling.seed)
        words = ["nil" if self.same else f"number {MANY.index(model)}" for model in models]
        for size in (3, 9):
            count([size for _ in models])
            yield tuple(word[:size] for word in words)
        return ("stop", "stop")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.sqlite3")) as opened:
        yield opened


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
def queue(parrot: Parrot) -> Iterator[AskQueue]:
    made = AskQueue(parrot)
    yield made
    made.stop()


@pytest.fixture
def voting(journal: Journal) -> Voting:
    return Voting(journal, votes_per_pair=1, side_secret=SECRET)


@pytest.fixture
def tries(journal: Journal, queue: AskQueue, voting: Voting) -> BlindTries:
    return BlindTries(
        journal,
        queue,
        models=lambda: MANY,
        sampling=Sampling(),
        flipped=voting.flipped,
        secret=SECRET,
    )


def told(tries: BlindTries, voter: str = "ann", text: str = "Which are you?") -> list[Line]:
    async def read() -> list[Line]:
        return [line async for line in tries.ask(voter, text).lines()]

    return asyncio.run(asyncio.wait_for(read(), 20))


def pair_id(line: Line) -> str:
    assert isinstance(line, Answered)
    return line.pair.id


def cast(voting: Voting, pair: str, voter: str = "ann", choice: Choice = Choice.A) -> Receipt:
    return asyncio.run(voting.vote(voter, pair, choice))


def test_two_models_answer_by_sides_and_nothing_names_them(
    tries: BlindTries, journal: Journal, voting: Voting
) -> None:
    *drafts, last = told(tries)
    assert isinstance(last, Answered)
    stored = journal.pair(last.pair.id)
    assert stored
    assert (stored.kind, stored.only_for, stored.author) == (PairKind.TRIED, "ann", "ann")
    first, second = (completion.model for completion in stored.completions)
    assert first != second
    a, b = stored.shown(is_flipped(SECRET, stored.id, "ann"))
    assert (last.pair.a, last.pair.b) == (a.text, b.text)
    assert [a.text, b.text] == [f"number {MANY.index(c.model)}" for c in (a, b)]
    for draft in drafts:
        assert isinstance(draft, Draft)
        for side, whole in zip(draft.answers, (a, b), strict=True):
            assert whole.text.startswith(side.text)
    receipt = cast(voting, last.pair.id)
    assert receipt.models == (a.model, b.model)
    assert (receipt.counted, receipt.why) == (False, TRIED)


def test_every_two_models_come_up_as_the_key_says(tries: BlindTries) -> None:
    def drawn(by: BlindTries) -> list[tuple[str | None, ...]]:
        return [tuple(m.adapter for m in by._two_of(MANY, f"p{n}", "ann")) for n in range(600)]

    fair = Counter(drawn(tries))
    assert len(fair) == 6
    assert min(fair.values()) > 60
    assert drawn(tries) == drawn(tries)
    before = drawn(tries)
    tries._secret = b"another"
    assert drawn(tries) != before


def test_answers_that_are_alike_are_drawn_again_and_then_told(
    tries: BlindTries, parrot: Parrot, journal: Journal
) -> None:
    parrot.same = True
    (*_, last) = told(tries)
    assert last == Unanswered("Both models said the same, or nothing: ask something else.")
    assert len(parrot.seeds) == len(set(parrot.seeds)) == 4
    assert journal.pairs() == []


def test_one_model_alone_is_a_state_in_words(
    journal: Journal, queue: AskQueue, voting: Voting
) -> None:
    alone = BlindTries(
        journal,
        queue,
        models=lambda: MANY[:1],
        sampling=Sampling(),
        flipped=voting.flipped,
        secret=SECRET,
    )
    assert alone.why_not() == ONE_MODEL
    assert told(alone) == [Unanswered(ONE_MODEL)]


def test_such_a_vote_is_out_of_gate_ratings_quality_and_export(
    tries: BlindTries, journal: Journal, voting: Voting
) -> None:
    tried = pair_id(told(tries)[-1])
    cast(voting, tried)
    journal.add_pairs([make_pair("ordinary")]).result()
    journal.add_vote(make_vote("v", "ordinary", "bob")).result()
    votes, pairs = journal.votes(), {pair.id: pair for pair in journal.pairs()}
    assert {vote.pair_id for vote in votes} == {tried, "ordinary"}
    assert comparisons_of(votes, pairs) == []
    assert journal.votes_on(PairKind.COMPARE) == []
    assert journal.comparison_votes() == 0
    assert [vote.pair_id for vote in live_votes(journal)] == ["ordinary"]
    counts = prepare_export(journal).counts
    assert (counts.votes, counts.pairs_voted) == (1, 1)
    assert summarise_quality(votes, pairs).votes == 1
    assert journal.vote_count() == 1


def test_the_pair_is_its_voters_alone_and_never_comes_up_in_the_vote_tab(
    tries: BlindTries, journal: Journal, voting: Voting
) -> None:
    tried = pair_id(told(tries)[-1])
    for voter in ("ann", "bob"):
        assert asyncio.run(voting.next_pair(voter)) is None
    with pytest.raises(NotYours):
        cast(voting, tried, "bob")
    assert journal.wanted_count(1) == 0
    assert journal.waiting_pairs() == []
    assert cast(voting, tried).counted is False


def test_argilla_gets_neither_the_pair_nor_the_vote(
    tries: BlindTries, journal: Journal, voting: Voting
) -> None:
    receipt = cast(voting, pair_id(told(tries)[-1]))
    assert receipt.in_argilla is False
    assert journal.undelivered_pairs(9) == []
    assert journal.undelivered_votes(9) == []
    assert journal.undelivered_count() == 0


def test_a_backup_brings_it_home_as_it_was(
    tries: BlindTries, journal: Journal, voting: Voting, tmp_path: Path
) -> None:
    cast(voting, pair_id(told(tries)[-1]))
    (before,) = journal.receipts("ann")
    events = JournalBackup(journal, tmp_path / "journal.sqlite3").waiting()
    base = BackupBase(MANY[0].base, MANY[0].base_revision)
    header = Header(utc_now(), base, votes=1)
    files = [from_file("one", content) for content in to_files(header, events)]
    held = merge(event for file in files for event in file.events)
    path = tmp_path / "restored.sqlite3"
    with closing(Journal(path)) as restored:
        JournalBackup(restored, path).restore("ada/votes", "one", held, base).result()
        (outcome,) = restored.receipts("ann")
        assert (outcome.vote.counted, outcome.vote.why) == (False, TRIED)
        assert outcome.pair == before.pair
        assert restored.comparison_votes() == restored.vote_count() == 0
        assert restored.prompts_of("ann", 9) == [outcome.pair.prompt]


def test_deleting_the_voter_deletes_the_prompt_too(
    tries: BlindTries, journal: Journal, voting: Voting
) -> None:
    cast(voting, pair_id(told(tries)[-1]))
    assert asyncio.run(voting.forget("ann")).votes == 1
    assert journal.pairs() == []
    assert journal.prompts_of("ann", 9) == []


def test_the_routes_say_in_plain_words_why_it_does_not_count(
    tries: BlindTries, journal: Journal
) -> None:
    tried = pair_id(told(tries)[-1])
    client = TestClient(voter_app(journal))
    client.cookies.set("votetune_voter", VoterCookies(b"cookie").value("ann"))
    body = {"pair": tried, "choice": "b"}
    saved = client.post("/api/votes", json=body).json()
    assert (saved["counted"], saved["why"]) == (False, TRIED)
    assert set(saved["models"].values()) <= {model.label for model in MANY}
    (receipt,) = client.get("/api/me/votes").json()
    assert (receipt["why"], receipt["in_argilla"]) == (TRIED, False)
    assert client.post("/api/votes", json=body).status_code == 200
    stranger = TestClient(voter_app(journal))
    assert stranger.post("/api/votes", json=body).status_code == 403
