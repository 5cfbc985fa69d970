"""The journal over real files: what is kept, what is refused, who gets which pair."""

import contextlib
import json
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation.journal import rows as journal_schema
from annotation.journal import tables as journal_tables
from annotation.journal import writer as journal_writer
from annotation.journal.journal import (
    Journal,
    JournalError,
    JournalFull,
    JournalReader,
    NotYours,
    UnknownPair,
    UnknownVote,
    VoteConflict,
)
from annotation.journal.writer import GroupCommitWriter
from annotation.schema import (
    Choice,
    Completion,
    Message,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Reason,
    Sampling,
    Vote,
    VoteSource,
)
from tests.journal_parts import (
    LEASE,
    NOON,
    fill_disk,
    free_disk,
    give,
    make_pair,
    make_vote,
    on_writer,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3", clock=lambda: NOON)
    yield made
    made.close()


def live(journal: JournalReader, voter: str = "ann") -> list[tuple[str, Choice]]:
    return [(v.pair_id, v.choice) for v in journal.votes(voter=voter)]


# What is kept


def test_an_acknowledged_vote_is_there_for_another_connection(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    vote = make_vote("v1", "p1", reasons=(Reason.CLEAR, Reason.SAFE), comment="ça va 👍")
    stored = journal.add_vote(vote).result()
    other = JournalReader(journal._path)
    assert other.votes() == [vote] == [stored.vote]
    assert stored.pair == make_pair("p1")
    other.close()


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
    lambda text: bool(text.strip())
)


@given(
    first=texts,
    second=texts,
    asked=st.lists(texts, min_size=1, max_size=3),
    temperature=st.floats(0, 2),
    seed=st.integers(0, 2**63 - 1),
    microseconds=st.integers(0, 10**15),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_pair_comes_back_as_it_was(
    journal: Journal,
    first: str,
    second: str,
    asked: list[str],
    temperature: float,
    seed: int,
    microseconds: int,
) -> None:
    model = ModelRef("/models/é", "a" * 40, "me/adapter", "b" * 40)
    sampling = Sampling(temperature, 0.9, 64, seed)
    pair = Pair(
        id=f"p{len(journal.pairs())}",
        prompt=Prompt((Message("system", "Be short."), *(Message("user", text) for text in asked))),
        completions=(
            Completion(f"1{first}", model, sampling),
            Completion(f"2{second}", model, sampling, finish="length"),
        ),
        created_at=NOON + timedelta(microseconds=microseconds),
    )
    journal.add_pairs([pair]).result()
    assert journal.pair(pair.id) == pair


def test_pairs_are_stored_all_or_none(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    with pytest.raises(ValueError, match="Pair p1 is in the journal already"):
        journal.add_pairs([make_pair("p2"), make_pair("p1")]).result()
    assert [pair.id for pair in journal.pairs()] == ["p1"]


def test_pairs_can_be_asked_for_by_more_ids_than_sqlite_binds(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(1200)]).result()
    asked = [f"p{n}" for n in range(1199, -1, -1)] + ["nope", "p3"]
    assert [pair.id for pair in journal.pairs(asked)] == [f"p{n}" for n in range(1200)]


def test_an_undone_vote_stays(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    journal.add_vote(make_vote("v1", "p1")).result()
    undone = journal.undo_vote("v1", voter="ann").result().vote
    assert (undone.superseded_at, undone.revision) == (NOON, 2)
    assert journal.votes() == []
    assert journal.votes(include_superseded=True) == [undone]
    assert journal.vote_count() == 0
    assert journal.undo_vote("v1", voter="ann").result().replayed


def test_every_earlier_state_of_a_vote_stays(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    journal.add_vote(make_vote("v1", "p1", comment="one")).result()
    journal.amend_vote("v1", voter="ann", comment="two").result()
    journal.amend_vote("v1", voter="ann", reasons=(Reason.STYLE,)).result()
    journal.amend_vote("v1", voter="ann", comment="two").result()  # changes nothing
    journal.undo_vote("v1", voter="ann").result()
    with sqlite3.connect(journal._path) as db:
        kept = db.execute("SELECT revision, reasons, comment, superseded_at FROM vote_history")
        assert kept.fetchall() == [
            (1, "", "one", None),
            (2, "", "two", None),
            (3, "style", "two", None),
        ]
    db.close()
    (vote,) = journal.votes(include_superseded=True)
    assert (vote.revision, vote.comment, vote.reasons) == (4, "two", (Reason.STYLE,))


def test_votes_come_oldest_first_and_by_voter(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1"), make_pair("p2")]).result()
    journal.add_vote(make_vote("late", "p1", created_at=NOON + LEASE)).result()
    journal.add_vote(make_vote("early", "p2")).result()
    journal.add_vote(make_vote("other", "p1", "bob", created_at=NOON + 2 * LEASE)).result()
    assert [vote.id for vote in journal.votes()] == ["early", "late", "other"]
    assert [vote.id for vote in journal.votes(voter="ann")] == ["early", "late"]


def test_a_note_is_kept_over_a_restart(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.sqlite3")
    first.set_note("base", "one").result()
    first.set_note("base", "two").result()
    first.close()
    again = Journal(tmp_path / "j.sqlite3")
    assert (again.note("base"), again.note("nothing")) == ("two", None)
    again.close()


# What is refused


@pytest.mark.parametrize(
    ("choice", "accepted"), [(Choice.A, True), (Choice.B, False), (Choice.TIE, False)]
)
def test_the_same_choice_is_a_replay_and_another_a_conflict(
    journal: Journal, choice: Choice, accepted: bool
) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    first = journal.add_vote(make_vote("v1", "p1")).result()
    again = journal.add_vote(make_vote("v2", "p1", choice=choice, comment="new"))
    if accepted:
        assert again.result() == replace(first, replayed=True)
    else:
        with pytest.raises(VoteConflict, match="already voted otherwise"):
            again.result()
    assert journal.votes() == [first.vote]


def test_a_revealed_pair_cannot_be_voted_on_again_but_an_undone_skip_can(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1"), make_pair("p2")]).result()
    journal.add_vote(make_vote("v1", "p1")).result()
    journal.undo_vote("v1", voter="ann").result()
    with pytest.raises(VoteConflict, match="after its models were shown"):
        journal.add_vote(make_vote("v2", "p1")).result()
    journal.add_vote(make_vote("v3", "p2", choice=Choice.SKIP)).result()
    journal.undo_vote("v3", voter="ann").result()
    assert not journal.add_vote(make_vote("v4", "p2", choice=Choice.B)).result().replayed
    assert live(journal) == [("p2", Choice.B)]


@pytest.mark.parametrize("choice", Choice)
def test_a_vote_is_answered_as_it_is_stored(journal: Journal, choice: Choice) -> None:
    journal.add_pairs([make_pair("p1"), make_pair("p2")]).result()
    own = make_pair("p3")
    own = replace(own, kind=PairKind.OWN, author="ann", only_for="ann")
    journal.add_own_pair(own, lease=LEASE, now=NOON).result()
    journal.set_aside("bob", "too fast").result()
    for voter in ("ann", "bob"):
        give(journal, voter)
    later = NOON + timedelta(seconds=7)
    votes = [
        make_vote("v1", "p1", "ann", choice, created_at=later, reasons=(Reason.CLEAR,)),
        make_vote("v2", "p2", "bob", choice, created_at=later, comment="ü"),
        make_vote("v3", "p1", "cat", choice, created_at=later),
        make_vote("v4", "p3", "ann", choice, created_at=later),
    ]
    said = [journal.add_vote(vote).result() for vote in votes]
    assert [outcome.vote for outcome in said] == journal.votes()
    assert [outcome.pair for outcome in said] == [
        journal.pair(name) for name in ("p1", "p2", "p1", "p3")
    ]
    assert not any(outcome.in_argilla or outcome.replayed for outcome in said)
    assert [outcome.vote.issued_at for outcome in said] == [NOON, NOON, None, NOON]
    assert [outcome.vote.set_aside for outcome in said] == [None, "too fast", None, None]
    assert said[3].vote.counted is False
    again = journal.add_vote(replace(votes[0], id="v5")).result()
    assert again == replace(said[0], replayed=True)


def test_a_vote_takes_seven_statements(journal: Journal) -> None:
    """Between any two of them another thread may take Python's lock, and the vote waits."""
    journal.add_pairs([make_pair("p1")]).result()
    give(journal, "ann")
    statements: list[str] = []
    on_writer(journal, lambda db: db.set_trace_callback(statements.append))
    statements.clear()
    journal.add_vote(make_vote("v1", "p1"), issued_only=True).result()
    on_writer(journal, lambda db: db.set_trace_callback(None))
    seen = [statement.split()[0] for statement in statements if not statement.startswith("--")]
    vote = ["BEGIN", "SELECT", "SELECT", "INSERT", "INSERT", "UPDATE", "COMMIT"]
    assert seen[: len(vote)] == vote


def test_only_the_voter_of_an_issued_pair_may_vote_amend_and_undo(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    with pytest.raises(UnknownPair, match="'p9'"):
        journal.add_vote(make_vote("v1", "p9")).result()
    with pytest.raises(NotYours, match="not given to you"):
        journal.add_vote(make_vote("v1", "p1"), issued_only=True).result()
    assert give(journal, "ann") == "p1"
    journal.add_vote(make_vote("v1", "p1"), issued_only=True).result()
    with pytest.raises(NotYours, match="another voter's"):
        journal.undo_vote("v1", voter="bob").result()
    with pytest.raises(NotYours, match="another voter's"):
        journal.amend_vote("v1", voter="bob", comment="x").result()
    with pytest.raises(UnknownVote, match="'v9'"):
        journal.undo_vote("v9", voter="ann").result()
    journal.undo_vote("v1", voter="ann").result()
    with pytest.raises(VoteConflict, match="was undone"):
        journal.amend_vote("v1", voter="ann", comment="x").result()


@pytest.mark.parametrize("field", ["id", "voter", "comment"])
def test_a_lone_surrogate_is_refused_and_changes_nothing(journal: Journal, field: str) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    with pytest.raises(ValueError, match="lone surrogate") as refused:
        journal.add_vote(replace(make_vote("v1", "p1"), **{field: "x\ud800"})).result()
    str(refused.value).encode()
    assert journal.votes() == []
    bad = Completion("broken \ud83d", ModelRef("starter", "1" * 40), Sampling())
    pair = replace(make_pair("p2"), completions=(bad, make_pair("p2").completions[1]))
    with pytest.raises(ValueError, match="lone surrogate"):
        journal.add_pairs([pair]).result()
    assert [pair.id for pair in journal.pairs()] == ["p1"]


def test_a_time_without_a_zone_is_refused(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    with pytest.raises(ValueError, match="no time zone"):
        journal.add_vote(make_vote("v1", "p1", created_at=datetime(2026, 1, 1))).result()


def test_a_newer_or_foreign_or_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    newer, foreign = tmp_path / "newer.sqlite3", tmp_path / "foreign.sqlite3"
    Journal(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    foreign.write_bytes(b"a photograph" * 1000)
    for path, line in [(newer, "newer Votetune .schema 99"), (foreign, "not a database")]:
        for opens in (Journal, JournalReader):
            with pytest.raises(JournalError, match=line) as refused:
                opens(path)
            assert "\n" not in str(refused.value)
    with pytest.raises(JournalError, match="There is no journal at"):
        JournalReader(tmp_path / "none.sqlite3")
    assert not (tmp_path / "none.sqlite3").exists()


def test_only_the_owner_may_read_the_files(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    files = list(journal._path.parent.iterdir())
    assert len(files) == 3  # the database, its WAL, and the WAL's index
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


# The writing thread


def test_what_waits_shares_one_commit(tmp_path: Path) -> None:
    writer = GroupCommitWriter(tmp_path / "j.sqlite3")
    statements: list[str] = []
    begun, gate = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> bool:
        begun.set()
        return gate.wait(10)

    writer.submit(lambda db: db.set_trace_callback(statements.append)).result()
    statements.clear()
    held = writer.submit(hold)
    assert begun.wait(10)  # an emptied queue is no proof: its batch may still be open
    sql = "INSERT INTO notes VALUES (?, 'x')"
    waiting = [writer.submit(lambda db, n=n: db.execute(sql, (f"k{n}",))) for n in range(100)]
    gate.set()
    assert held.result()
    for future in waiting:
        future.result()
    writer.close()
    assert statements.count("COMMIT") == 2  # the gate's, and one for the hundred


def test_a_failing_operation_leaves_its_neighbours_alone(journal: Journal) -> None:
    gate = threading.Event()
    held = journal._writer.submit(lambda db: gate.wait(10))
    before = journal.set_note("before", "1")
    failing = journal.add_vote(make_vote("v1", "nowhere"))
    after = journal.set_note("after", "1")
    gate.set()
    held.result(), before.result(), after.result()
    with pytest.raises(UnknownPair):
        failing.result()
    assert (journal.note("before"), journal.note("after")) == ("1", "1")


def test_an_operation_alone_takes_no_savepoint_and_leaves_nothing_where_it_fails(
    journal: Journal,
) -> None:
    def fail(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO notes VALUES ('half', 'done')")
        raise ValueError("half done")

    statements: list[str] = []
    on_writer(journal, lambda db: db.set_trace_callback(statements.append))
    with pytest.raises(ValueError, match="half done"):
        on_writer(journal, fail)
    journal.set_note("after", "1").result()
    on_writer(journal, lambda db: db.set_trace_callback(None))
    assert (journal.note("half"), journal.note("after")) == (None, "1")
    assert not [statement for statement in statements if "SAVEPOINT" in statement]


def test_an_error_that_leaves_the_transaction_open_is_cleared_away(journal: Journal) -> None:
    gate = threading.Event()
    held = journal._writer.submit(lambda db: gate.wait(10))
    before = journal.set_note("k", "1")
    failing = journal._writer.submit(lambda db: db.execute("SELECT * FROM nowhere"))
    gate.set()
    held.result(), before.result()
    with pytest.raises(JournalError, match="no such table"):
        failing.result()
    journal.set_note("k", "2").result()
    assert journal.note("k") == "2"


def test_a_full_disk_stores_nothing_of_the_write_and_spares_its_neighbours(
    journal: Journal,
) -> None:
    journal.set_note("small", "0").result()
    journal.add_pairs([make_pair("p1")]).result()
    fill_disk(journal)
    gate = threading.Event()
    held = journal._writer.submit(lambda db: gate.wait(10))
    before = journal.set_note("small", "1")
    too_big = journal.add_pairs([make_pair(f"big{n}", size=2000) for n in range(20)])
    after = journal.add_vote(make_vote("v1", "p1"))
    gate.set()
    held.result(), before.result(), after.result()
    with pytest.raises(JournalFull, match=r"disk .* is full"):
        too_big.result()
    assert journal.note("small") == "1"
    assert [pair.id for pair in journal.pairs()] == ["p1"]
    assert live(journal) == [("p1", Choice.A)]
    free_disk(journal)
    journal.add_pairs([make_pair(f"big{n}", size=2000) for n in range(20)]).result()
    assert len(journal.pairs()) == 21


def test_a_file_held_by_another_program_is_an_error_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_schema, "BUSY_TIMEOUT_S", 0.2)
    journal = Journal(tmp_path / "j.sqlite3")
    other = sqlite3.connect(tmp_path / "j.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked"):
        journal.set_note("k", "1").result()
    other.execute("COMMIT")
    other.close()
    journal.set_note("k", "2").result()
    assert journal.note("k") == "2"
    journal.close()


def test_a_lease_leaves_its_sync_to_the_votes_but_never_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PRAGMA synchronous 2 syncs at the commit (FULL), 1 does not (NORMAL)."""
    # However long this machine takes from one line here to the next.
    monkeypatch.setattr(journal_writer, "LAZY_SYNC_S", 60.0)
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.add_pairs([make_pair(f"p{n}") for n in range(4)]).result()

    def level() -> int:
        return int(journal._writer._connection.execute("PRAGMA synchronous").fetchone()[0])

    assert give(journal, "ann") == "p0"
    assert level() == 1
    journal.add_vote(make_vote("v0", "p0")).result()
    assert level() == 2
    assert give(journal, "bob") == "p1"
    assert level() == 1
    # Nobody votes, so nothing else would take the lease to the disk.
    monkeypatch.setattr(journal_writer, "LAZY_SYNC_S", 0.0)
    assert give(journal, "cid") == "p2"
    assert level() == 2
    journal.close()


def test_closing_commits_what_was_queued_and_folds_the_wal_in(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3")
    queued = [journal.set_note(f"k{n}", "x") for n in range(500)]
    journal.close()
    journal.close()
    assert all(future.done() and future.exception() is None for future in queued)
    assert [file.name for file in tmp_path.iterdir()] == ["j.sqlite3"]
    with pytest.raises(JournalError, match="is closed"):
        journal.set_note("late", "x").result()
    with pytest.raises(JournalError, match="is closed"):
        journal.note("k1")
    reader = JournalReader(tmp_path / "j.sqlite3")
    assert reader.note("k499") == "x"
    reader.close()


def test_another_process_reads_while_this_one_writes(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(300)]).result()
    program = """
import json, sys, pathlib
from annotation.journal.journal import JournalReader
reader = JournalReader(pathlib.Path(sys.argv[1]))
seen = []
while not seen or seen[-1] < 300:
    seen.append(len(reader.votes()))
print(json.dumps(seen))
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(journal._path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    for n in range(300):
        journal.add_vote(make_vote(f"v{n}", f"p{n}")).result()
    out, _ = child.communicate(timeout=30)
    seen = json.loads(out)
    assert child.returncode == 0
    assert seen[-1] == 300
    assert seen == sorted(seen)


# One live vote


def test_racing_votes_leave_one_live_vote(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(20)]).result()

    def cast(number: int) -> str:
        choice = [Choice.A, Choice.B, Choice.TIE][number % 3]
        vote = make_vote(f"v{number}", f"p{number % 20}", f"voter{number % 4}", choice)
        try:
            return "replay" if journal.add_vote(vote).result().replayed else "stored"
        except VoteConflict:
            return "conflict"

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(cast, range(600)))
    # 4 divides 20, so each pair meets one voter only: 20 (pair, voter), 30 tries on each.
    assert answers.count("stored") == len(journal.votes()) == 20
    assert len({(v.pair_id, v.voter) for v in journal.votes()}) == 20


steps = st.lists(
    st.tuples(
        st.sampled_from(["vote", "undo", "amend", "mirror", "removed", "delivered"]),
        st.sampled_from(["p1", "p2"]),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from(list(Choice)),
    ),
    max_size=25,
)


@given(steps=steps)
@settings(max_examples=60, deadline=None)
def test_any_sequence_keeps_one_live_vote_and_deletes_none(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, str, Choice]]
) -> None:
    journal = Journal(tmp_path_factory.mktemp("any") / "j.sqlite3", clock=lambda: NOON)
    journal.add_pairs([make_pair("p1"), make_pair("p2")]).result()
    seen: dict[str, int] = {}
    for number, (step, pair, voter, choice) in enumerate(steps):
        with contextlib.suppress(VoteConflict, UnknownVote):
            _take(journal, step, make_vote(f"v{number}", pair, voter, choice))
        every = {vote.id: vote for vote in journal.votes(include_superseded=True)}
        assert all(name in every and every[name].revision >= seen[name] for name in seen)
        seen = {name: vote.revision for name, vote in every.items()}
        counted = [(v.pair_id, v.voter) for v in journal.votes()]
        assert len(counted) == len(set(counted))
        wanting = 2 - len({v.pair_id for v in journal.votes() if v.counted})
        assert journal.ready_count(votes_per_pair=1, now=NOON) == wanting
    journal.close()


def _take(journal: Journal, step: str, vote: Vote) -> None:
    mine = [v for v in journal.votes(voter=vote.voter) if v.pair_id == vote.pair_id]
    target = mine[0].id if mine else "none"
    if step == "vote":
        journal.add_vote(vote).result()
    elif step == "undo":
        journal.undo_vote(target, voter=vote.voter).result()
    elif step == "amend":
        journal.amend_vote(target, voter=vote.voter, comment=vote.id).result()
    elif step == "mirror" and vote.choice is not Choice.SKIP:
        journal.mirror([], [replace(vote, source=VoteSource.ARGILLA)]).result()
    elif step == "removed":
        journal.mirror_removed([(vote.pair_id, vote.voter)]).result()
    elif step == "delivered":
        journal.mark_votes_delivered(journal.undelivered_votes(100)).result()


# Who gets which pair


def test_a_voter_holds_at_most_four_and_then_gets_the_oldest_again(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(9)]).result()
    moments = [NOON + timedelta(seconds=n) for n in range(7)]
    given = [give(journal, "ann", now=moment) for moment in moments]
    assert given == ["p0", "p1", "p2", "p3", "p0", "p1", "p2"]
    journal.add_vote(make_vote("v1", "p1"), issued_only=True).result()
    assert give(journal, "ann", now=moments[-1]) == "p4"


def test_a_lease_ends_and_the_late_vote_is_still_stored(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0"), make_pair("p1")]).result()
    assert give(journal, "ann") == "p0"
    assert give(journal, "bob") == "p1"
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 0
    assert journal.ready_count(votes_per_pair=1, now=NOON + LEASE) == 2
    assert give(journal, "cat", now=NOON + LEASE) == "p0"
    late = make_vote("v1", "p0", created_at=NOON + 2 * LEASE)
    stored = journal.add_vote(late, issued_only=True).result().vote
    assert stored == replace(late, issued_at=NOON)
    assert journal.vote_count() == 1


def test_a_journal_of_version_1_keeps_all_it_has(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    pair, vote = make_pair("p0"), make_vote("v1", "p0")
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(journal_tables._VERSION_1 + "PRAGMA user_version = 1;")
        db.execute(
            "INSERT INTO pairs (id, prompt_id, messages, first, second, created_at, votes)"
            " VALUES (?, ?, ?, ?, ?, ?, 1)",
            journal_schema.pair_to_row(pair)[:6],
        )
        db.execute(
            "INSERT INTO votes (id, pair_id, voter, choice, flipped, created_at, reasons, comment,"
            " source, superseded_at, counted, why, revision)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            journal_schema.vote_to_row(vote)[:13],
        )
    with pytest.raises(JournalError, match="start the app to make or renew it"):
        JournalReader(path)
    with contextlib.closing(Journal(path)) as journal:
        assert journal.pairs() == [pair]
        assert journal.votes() == [vote]
        assert journal.set_aside("ann", "always left").result() == 1
    with contextlib.closing(Journal(path)) as journal:
        assert journal.vote_count() == 0


def test_set_aside_votes_count_nowhere_until_they_are_brought_back(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0"), make_pair("p1")]).result()
    journal.add_vote(make_vote("v1", "p0")).result()
    assert journal.set_aside("ann", "answers in a second").result() == 1
    later = journal.add_vote(make_vote("v2", "p1")).result().vote
    assert later.set_aside == "answers in a second"
    assert not later.counts
    assert later.counted  # what it was worth is kept for the day it is brought back
    assert journal.vote_count() == 0
    assert journal.set_aside_voters() == {"ann": "answers in a second"}
    # Their pairs want other votes again, and Argilla still gets what was voted.
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 2
    assert [vote.id for vote in journal.undelivered_votes(9)] == ["v1", "v2"]
    assert journal.bring_back("ann").result() == 2
    assert [vote.counts for vote in journal.votes()] == [True, True]
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 0
    assert journal.set_aside_voters() == {}


def test_checks_and_pairs_for_one_voter_are_given_to_nobody_else(journal: Journal) -> None:
    gold = replace(make_pair("gold"), kind=PairKind.GOLD, expected=Choice.A)
    own = replace(make_pair("own"), kind=PairKind.OWN, author="ann", only_for="ann")
    again = replace(make_pair("again"), kind=PairKind.REPEAT, repeats="p0", only_for="ann")
    journal.add_pairs([gold, own, again, make_pair("p0")]).result()
    assert journal.pairs() == [gold, own, again, make_pair("p0")]
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 1
    assert [pair.id for pair in journal.undelivered_pairs(9)] == ["p0"]
    assert give(journal, "bob") == "p0"


def test_unleased_pairs_come_before_pairs_that_others_hold(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0"), make_pair("p1")]).result()
    assert [give(journal, voter) for voter in ("ann", "bob", "cat")] == ["p0", "p1", "p0"]


def test_the_pair_nearest_to_its_votes_comes_first(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(3)]).result()
    journal.add_vote(make_vote("v1", "p2", "bob")).result()
    # p2 has one of two votes, and its second place is leased to ann: then p0 is next.
    assert [give(journal, voter, wanted=2) for voter in ("ann", "cat")] == ["p2", "p0"]
    # p0 now has one lease of two: still unleased enough for dan.
    assert give(journal, "dan", wanted=2) == "p0"
    assert journal.ready_count(votes_per_pair=2, now=NOON) == 1


def test_a_voter_never_gets_a_pair_twice_and_then_nothing(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(3)]).result()
    for choice in (Choice.A, Choice.SKIP, Choice.TIE):
        pair = give(journal, "ann")
        assert pair is not None
        journal.add_vote(make_vote(f"v{pair}", pair, choice=choice)).result()
    assert give(journal, "ann") is None
    journal.undo_vote("vp0", voter="ann").result()  # revealed: still never again
    assert give(journal, "ann") is None
    journal.undo_vote("vp1", voter="ann").result()  # the skip
    assert give(journal, "ann") == "p1"


def test_new_voters_get_pairs_that_others_finished_when_none_wants_votes(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0"), make_pair("p1")]).result()
    journal.add_vote(make_vote("v0", "p0")).result()
    journal.add_vote(make_vote("v1", "p1")).result()
    assert [give(journal, "bob"), give(journal, "bob")] == ["p0", "p1"]
    # Nothing else is left, so an open one comes again rather than nothing.
    assert give(journal, "bob") == "p0"


def test_a_skip_leaves_the_pair_wanting_a_vote(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0")]).result()
    journal.add_vote(make_vote("v0", "p0", choice=Choice.SKIP)).result()
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 1
    assert give(journal, "bob") == "p0"


def test_a_retired_pair_is_out_of_play(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0"), make_pair("p1"), make_pair("p2")]).result()
    assert give(journal, "ann") == "p0"
    journal.add_vote(make_vote("v1", "p1", "bob")).result()
    assert journal.retire_unvoted_pairs().result() == 2
    assert give(journal, "ann") == "p1"
    assert journal.ready_count(votes_per_pair=2, now=NOON + LEASE) == 1
    assert [pair.id for pair in journal.undelivered_pairs(9)] == ["p1"]
    late = journal.add_vote(make_vote("v2", "p0"), issued_only=True).result().vote
    assert (late.counted, late.why) == (False, "its base model is no longer in use")
    assert journal.vote_count() == 1
    assert [vote.id for vote in journal.undelivered_votes(9)] == ["v1"]


def test_issuing_reads_an_index_and_no_whole_table(journal: Journal) -> None:
    from annotation.journal.issue import _OPEN, _SEEN_BY_OTHERS, _UNHELD, _WANTING

    values = {"voter": "ann", "now": "", "votes": 0, "most": 1, "wanted": 1, "free": ""}
    with contextlib.closing(sqlite3.connect(journal._path)) as db:
        for sql in (_OPEN, _SEEN_BY_OTHERS, _UNHELD, _WANTING):
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
            assert not [line for line in plan if line.startswith("SCAN")], plan
            if sql != _OPEN:
                assert plan[0].startswith("SEARCH pairs USING INDEX pairs_in_play (votes"), plan


def steps_to_give(journal: Journal, voter: str) -> int:
    """SQLite's own steps, in hundreds, that giving `voter` a pair takes."""
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    on_writer(journal, lambda db: db.set_progress_handler(step, 100))
    assert give(journal, voter) is not None
    on_writer(journal, lambda db: db.set_progress_handler(None, 0))
    return steps[0]


def test_what_others_hold_and_checks_do_not_slow_the_next_pair(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(2)]).result()
    alone = steps_to_give(journal, "first")
    checks = [
        replace(make_pair(f"again{n}"), kind=PairKind.REPEAT, repeats=f"p{n}", only_for="ann")
        for n in range(2000)
    ]
    journal.add_pairs([*checks, *(make_pair(f"q{n}") for n in range(1000))]).result()
    for number in range(300):
        for _ in range(3):
            assert give(journal, f"voter-{number}") is not None
    # 900 pairs are held: ten steps each, for reading them off the index, and no more.
    assert steps_to_give(journal, "late") - alone < 90 + 5


def test_finished_pairs_go_round_one_to_each_of_many_voters(journal: Journal) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(6)]).result()
    for number in range(6):
        journal.add_vote(make_vote(f"v{number}", f"p{number}")).result()
    given = [give(journal, f"voter-{n}") for n in range(7)]
    assert given == [*(f"p{n}" for n in range(6)), "p0"]
    # And then those with the fewest votes first.
    journal.add_vote(make_vote("w0", "p0", "voter-0")).result()
    assert give(journal, "late", now=NOON + LEASE) == "p1"


def test_pairs_are_counted_by_prompt(journal: Journal) -> None:
    same = "What is up?"
    journal.add_pairs([make_pair("p0", prompt=same), make_pair("p1", prompt=same)]).result()
    journal.add_pairs([make_pair("p2")]).result()
    journal.retire_unvoted_pairs().result()
    assert journal.pairs_per_prompt() == {
        Prompt.from_text(same).id: 2,
        Prompt.from_text("What is p2?").id: 1,
    }


# What Argilla has not got, and what it brings


def test_a_vote_is_undelivered_until_that_revision_is(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0"), make_pair("p1")]).result()
    journal.mark_pairs_delivered(["p0"]).result()
    assert [pair.id for pair in journal.undelivered_pairs(9)] == ["p1"]
    journal.add_vote(make_vote("v0", "p0")).result()
    journal.add_vote(make_vote("skip", "p1", choice=Choice.SKIP)).result()
    sent = journal.undelivered_votes(9)
    assert [vote.id for vote in sent] == ["v0"]
    journal.amend_vote("v0", voter="ann", comment="while it was on its way").result()
    journal.mark_votes_delivered(sent).result()
    assert journal.undelivered_count() == 1
    journal.mark_votes_delivered(journal.undelivered_votes(9)).result()
    assert journal.undelivered_count() == 0
    assert [receipt.in_argilla for receipt in journal.receipts("ann")] == [True, False]
    journal.undo_vote("v0", voter="ann").result()
    assert [vote.superseded_at for vote in journal.undelivered_votes(9)] == [NOON]


def test_votes_cast_in_argilla_are_taken_over_once(journal: Journal) -> None:
    vote = make_vote("r1", "p0", "reviewer", source=VoteSource.ARGILLA, comment="from the UI")
    for _ in range(2):
        journal.mirror([make_pair("p0")], [vote]).result()
    assert journal.votes() == [vote]
    assert (journal.undelivered_pairs(9), journal.undelivered_count()) == ([], 0)
    assert journal.ready_count(votes_per_pair=1, now=NOON) == 0
    assert give(journal, "reviewer") is None
    with pytest.raises(VoteConflict, match="cast in Argilla"):
        journal.undo_vote("r1", voter="reviewer").result()


def test_a_change_made_in_argilla_supersedes(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0")]).result()
    journal.add_vote(make_vote("v0", "p0", choice=Choice.A, flipped=True)).result()
    journal.mark_votes_delivered(journal.undelivered_votes(9)).result()
    # Side a of a flipped voter is b of the record: the same vote, so nothing changes.
    same = make_vote("r0", "p0", choice=Choice.B, source=VoteSource.ARGILLA)
    journal.mirror([], [same]).result()
    assert [vote.id for vote in journal.votes()] == ["v0"]
    journal.mirror([], [replace(same, comment="more")]).result()
    assert [(v.id, v.comment, v.revision) for v in journal.votes()] == [("v0", "more", 2)]
    journal.mirror([], [replace(same, choice=Choice.TIE)]).result()
    journal.mirror([], [replace(same, choice=Choice.BOTH_BAD)]).result()
    votes = journal.votes(include_superseded=True)
    assert [v.choice for v in votes] == [Choice.A, Choice.TIE, Choice.BOTH_BAD]
    assert live(journal) == [("p0", Choice.BOTH_BAD)]
    assert journal.undelivered_count() == 0
    journal.mirror_removed([("p0", "ann"), ("p0", "nobody")]).result()
    assert live(journal) == []


def test_argilla_never_touches_what_it_has_not_got_yet(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0"), make_pair("p1")]).result()
    journal.add_vote(make_vote("v0", "p0")).result()
    old = make_vote("r0", "p0", choice=Choice.B, source=VoteSource.ARGILLA)
    journal.mirror([], [old]).result()
    assert live(journal) == [("p0", Choice.A)]
    journal.mark_votes_delivered(journal.undelivered_votes(9)).result()
    journal.undo_vote("v0", voter="ann").result()
    # Argilla still shows the vote whose undo is on its way.
    journal.mirror([], [replace(old, choice=Choice.A)]).result()
    assert live(journal) == []
    journal.mirror_removed([("p0", "ann")]).result()
    assert len(journal.votes(include_superseded=True)) == 1


def test_a_page_vote_is_not_removed_by_argilla(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0")]).result()
    journal.add_vote(make_vote("v0", "p0")).result()
    journal.mark_votes_delivered(journal.undelivered_votes(9)).result()
    journal.mirror_removed([("p0", "ann")]).result()
    assert live(journal) == [("p0", Choice.A)]


def test_a_vote_in_argilla_replaces_a_skip(journal: Journal) -> None:
    journal.add_pairs([make_pair("p0")]).result()
    journal.add_vote(make_vote("v0", "p0", choice=Choice.SKIP)).result()
    journal.mirror([], [make_vote("r0", "p0", source=VoteSource.ARGILLA)]).result()
    assert live(journal) == [("p0", Choice.A)]
    assert give(journal, "ann") is None
