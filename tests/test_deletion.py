"""A voter who deletes is forgotten: in the journal's rows, in its bytes, and nobody else is."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from annotation.export.export import prepare_export
from annotation.journal import writer as journal_writer
from annotation.journal.deletion import ARGILLA_NOTE, note_published, was_published
from annotation.journal.journal import Journal, UnknownPair
from annotation.schema import Choice, PairKind, VoteSource
from tests.journal_parts import NOON, give, make_pair, make_vote, on_writer

ANN, BOB = "anon-00000000000000aa", "anon-00000000000000bb"
SECRET = "only Ann ever said this, über 👍"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path, clock=lambda: NOON)
    yield made
    made.close()


def bytes_of(path: Path) -> bytes:
    wal = path.with_name(f"{path.name}-wal")
    return path.read_bytes() + (wal.read_bytes() if wal.exists() else b"")


def eventually(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fill(journal: Journal, *, others: int = 3) -> None:
    """40 pairs; Ann has voted on every second, with words changed once; others on all."""
    journal.add_pairs([make_pair(f"p{n}") for n in range(40)]).result()
    for number in range(40):
        for other in range(others):
            journal.add_vote(make_vote(f"o{other}-{number}", f"p{number}", f"other-{other}"))
        if number % 2:
            continue
        journal.add_vote(make_vote(f"ann-{number}", f"p{number}", ANN, comment=SECRET))
        journal.amend_vote(f"ann-{number}", voter=ANN, comment=f"{SECRET} {'x' * 50 * number}")
    journal.undo_vote("ann-0", voter=ANN)
    give(journal, ANN)
    journal.set_aside(ANN, "too fast").result()


def test_a_deletion_leaves_nothing_of_the_voter_in_the_bytes(journal: Journal, path: Path) -> None:
    fill(journal)
    assert ANN.encode() in bytes_of(path)
    assert SECRET.encode() in bytes_of(path)
    assert journal.delete_voter(ANN).result() == 20
    traces = [trace.encode() for trace in (ANN, SECRET, "ann-4")]
    eventually(lambda: not any(trace in bytes_of(path) for trace in traces))
    assert b"other-2" in bytes_of(path)


def test_a_reader_in_the_way_only_puts_the_scrubbing_off(journal: Journal, path: Path) -> None:
    fill(journal)
    slow = sqlite3.connect(path, isolation_level=None)
    slow.execute("BEGIN")
    slow.execute("SELECT count(*) FROM votes").fetchone()
    journal.delete_voter(ANN).result()
    began = time.monotonic()
    journal.add_vote(make_vote("late", "p1", "late")).result()
    assert time.monotonic() - began < 2
    assert ANN.encode() in bytes_of(path)
    slow.execute("COMMIT")
    slow.close()
    eventually(lambda: ANN.encode() not in bytes_of(path))


def test_what_a_killed_app_left_in_the_wal_goes_at_the_next_start(path: Path) -> None:
    first = Journal(path, clock=lambda: NOON)
    fill(first)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM votes").fetchone()
    first.delete_voter(ANN).result()
    copy = path.with_name("copy.sqlite3")
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(
            path.with_name(path.name + suffix).read_bytes()
        )
    reader.close()
    first.close()
    assert ANN.encode() in bytes_of(copy)
    again = Journal(copy)
    eventually(lambda: ANN.encode() not in bytes_of(copy))
    assert again.receipts(ANN) == []
    again.close()


def test_others_votes_and_the_counts_stay_right(journal: Journal) -> None:
    fill(journal, others=1)
    others = journal.votes(voter="other-0")
    journal.bring_back(ANN).result()
    assert journal.vote_count() == 40 + 19
    journal.delete_voter(ANN).result()
    assert journal.votes(voter="other-0") == others
    assert journal.vote_count() == 40
    counts = on_writer(journal, lambda db: db.execute("SELECT votes FROM pairs").fetchall())
    assert {row["votes"] for row in counts} == {1}
    assert prepare_export(journal).counts.voters == 1


def test_a_pair_that_only_the_deleted_voted_on_wants_votes_again(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0")]).result()
    journal.add_vote(make_vote("v", "p0", ANN)).result()
    assert journal.wanted_count(1) == 0
    journal.delete_voter(ANN).result()
    assert journal.wanted_count(1) == 1
    assert give(journal, BOB) == "p0"


def test_a_pair_that_the_deleted_still_held_is_free_at_once(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0")]).result()
    assert give(journal, ANN) == "p0"
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 0
    journal.delete_voter(ANN).result()
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 1


def test_the_backups_own_writes_are_scrubbed_where_asked(journal: Journal, path: Path) -> None:
    fill(journal)
    votes = "DELETE FROM votes WHERE voter = 'other-1'"
    held = "DELETE FROM assignments WHERE voter = 'other-1'"
    journal.submit(lambda db: (db.execute(votes), db.execute(held)), scrub=True).result()
    eventually(lambda: b"other-1" not in bytes_of(path))


def test_a_second_deletion_finds_nothing(journal: Journal) -> None:
    fill(journal)
    assert [journal.delete_voter(ANN).result() for _ in range(2)] == [20, 0]
    assert journal.delete_voter("anon-who-never-came").result() == 0
    assert journal.deletions("in_argilla") == journal.deletions("in_backup") == []


def test_own_prompts_and_checks_go_unless_somebody_else_voted(journal: Journal) -> None:
    names = ("own-alone", "own-both")
    own = [replace(make_pair(name), kind=PairKind.OWN, author=ANN) for name in names]
    hidden = replace(make_pair("own-hidden"), kind=PairKind.OWN, author=ANN, only_for=ANN)
    again = replace(make_pair("again"), kind=PairKind.REPEAT, only_for=ANN, repeats="own-both")
    bobs = replace(make_pair("bobs"), kind=PairKind.OWN, author=BOB, only_for=BOB)
    journal.add_pairs([*own, hidden, again, bobs]).result()
    for pair in (*own, hidden, again):
        journal.add_vote(make_vote(f"a-{pair.id}", pair.id, ANN))
    journal.add_vote(make_vote("b", "own-both", BOB)).result()
    give(journal, "carol")
    journal.delete_voter(ANN).result()
    assert {pair.id: pair.author for pair in journal.pairs()} == {"own-both": None, "bobs": BOB}
    assert [vote.id for vote in journal.votes()] == ["b"]
    with pytest.raises(UnknownPair):
        journal.add_vote(make_vote("late", "own-alone", "carol")).result()


def test_a_deletion_is_remembered_until_all_have_followed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "SCRUB_EVERY_S", 0.1)
    journal = Journal(path, clock=lambda: NOON, has_backup=True)
    journal.set_note(ARGILLA_NOTE, "some-dataset")
    own = replace(make_pair("own"), kind=PairKind.OWN, author=ANN)
    journal.add_pairs([make_pair("p0"), own])
    journal.add_vote(make_vote("v0", "p0", ANN))
    journal.add_vote(make_vote("v1", "own", ANN))
    journal.delete_voter(ANN).result()
    (wish,) = journal.deletions("in_argilla")
    assert (wish.voter, wish.requested_at, wish.votes) == (ANN, NOON, 2)
    assert (sorted(wish.voted), wish.removed) == (["own", "p0"], ("own",))
    journal.finish_deletion(wish, "in_argilla").result()
    assert journal.deletions("in_argilla") == []
    assert journal.deletions("in_backup") == [wish]
    time.sleep(0.5)
    assert ANN.encode() in bytes_of(path)
    journal.finish_deletion(wish, "in_backup").result()
    assert journal.deletions("in_backup") == []
    eventually(lambda: ANN.encode() not in bytes_of(path))
    journal.close()


def test_a_wish_renewed_meanwhile_stays_and_holds_both(path: Path) -> None:
    times = iter([NOON, NOON + timedelta(minutes=1)])
    journal = Journal(path, clock=lambda: next(times))
    journal.set_note(ARGILLA_NOTE, "some-dataset")
    journal.add_pairs([make_pair("p0"), make_pair("p1")])
    journal.add_vote(make_vote("v0", "p0", "hub-5"))
    journal.delete_voter("hub-5").result()
    (first,) = journal.deletions("in_argilla")
    journal.add_vote(make_vote("v1", "p1", "hub-5", created_at=NOON + timedelta(seconds=9)))
    journal.delete_voter("hub-5").result()
    journal.finish_deletion(first, "in_argilla").result()
    (both,) = journal.deletions("in_argilla")
    assert (both.votes, both.voted) == (2, ("p0", "p1"))
    assert both.requested_at == NOON + timedelta(minutes=1)
    journal.close()


def test_what_argilla_still_holds_never_comes_back(journal: Journal) -> None:
    journal.set_note(ARGILLA_NOTE, "some-dataset")
    own = replace(make_pair("own"), kind=PairKind.OWN, author=ANN)
    journal.add_pairs([make_pair("p0"), own])
    votes = [make_vote("v0", "p0", ANN), make_vote("v1", "own", ANN)]
    for vote in votes:
        journal.add_vote(vote)
    journal.delete_voter(ANN).result()
    bobs = make_vote("b", "p0", BOB, source=VoteSource.ARGILLA)
    newer = make_vote("n", "p0", ANN, Choice.B, created_at=NOON + timedelta(seconds=1))
    journal.mirror([own], [*votes, bobs]).result()
    assert [vote.id for vote in journal.votes()] == ["b"]
    assert [pair.id for pair in journal.pairs()] == ["p0"]
    journal.mirror([], [newer]).result()
    assert [vote.id for vote in journal.votes(voter=ANN)] == ["n"]


def test_a_vote_cast_since_is_sent_again(journal: Journal) -> None:
    """Argilla deletes the voter's user, and with it whatever that user has answered by then."""
    journal.set_note(ARGILLA_NOTE, "some-dataset")
    journal.add_pairs([make_pair("p0"), make_pair("p1")])
    journal.add_vote(make_vote("v0", "p0", "hub-5"))
    journal.delete_voter("hub-5").result()
    later = journal.add_vote(make_vote("v1", "p1", "hub-5")).result().vote
    journal.mark_votes_delivered([later]).result()
    assert journal.undelivered_count() == 0
    (wish,) = journal.deletions("in_argilla")
    journal.finish_deletion(wish, "in_argilla").result()
    assert [vote.id for vote in journal.undelivered_votes(9)] == ["v1"]


def test_publishing_is_noted_beside_a_running_app(journal: Journal, path: Path) -> None:
    assert was_published(journal) is False
    note_published(path)
    first = journal.note("dataset.published")
    note_published(path)
    assert was_published(journal) is True
    assert journal.note("dataset.published") == first


def test_the_wish_names_no_words_and_no_choice(path: Path) -> None:
    journal = Journal(path, clock=lambda: NOON, has_backup=True)
    fill(journal)
    journal.delete_voter(ANN).result()
    rows = on_writer(journal, lambda db: db.execute("SELECT * FROM deletions").fetchall())
    assert SECRET not in json.dumps([tuple(row) for row in rows])
    journal.close()
