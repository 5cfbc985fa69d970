"""An export from our mirror of Argilla's votes against reading Argilla through the SDK into a list.

Both have the same 100,000 votes on 50,000 pairs: the peer in a real argilla-server on loopback,
ours in a journal; then ours has 1,000,000 (the same, ten times, under other ids). The peer reads
the first 15,000 records, for its cost a vote grows with the offset, and with `--whole` all of them
(eight minutes). Rows come into the tables by bulk SQL: only reading is measured.
Ours runs in a child process that does nothing else; neither side's interpreter and imports are
counted in its seconds, all of the child's in its memory. Preferences are compared pair by pair.
Seed 7.
"""

import json
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from annotation.argilla_server.launcher import Credentials, EmbeddedArgilla
from annotation.argilla_store.records import to_record, to_response, voter_user_id
from annotation.argilla_store.store import ArgillaConnection, ArgillaStore
from annotation.export.export import export_preferences, load_examples
from annotation.journal.journal import Journal, JournalReader
from annotation.journal.rows import vote_to_row
from annotation.schema import Choice, Completion, ModelRef, Pair, Prompt, Sampling, Vote
from tests.argilla_fixture import wait_ready
from tests.benchmarks.peers.table import Goal, Limit, Row
from tests.running_app import ROOT

ROUNDS = 3
PAIRS, PEER_PAIRS, TIMES = 50_000, 15_000, 10
VOTERS = [f"voter-{n:03}" for n in range(200)]
AT = datetime(2026, 1, 2, tzinfo=UTC)
_STEP = 5_000
_VOTE_SQL = (
    "INSERT INTO votes (id, pair_id, voter, choice, flipped, created_at, reasons, comment, source,"
    " superseded_at, counted, why, revision, issued_at, set_aside, delivered_revision)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)"
)
Preferred = dict[str, str]
"""Pair id to the text that was preferred."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What a child process told of an export."""

    votes: int
    cpu_s: float
    mib: float


def world(start: int, count: int) -> tuple[list[Pair], list[Vote]]:
    """`count` pairs of some 40 words an answer from the one numbered `start`, two votes each."""
    drawn = random.Random(f"7 {start}")
    words = [f"word{n}" for n in range(500)]
    model = ModelRef("starter", "0" * 40)
    pairs, votes = [], []
    for n in range(start, start + count):
        pair_id = uuid.UUID(int=drawn.getrandbits(128)).hex
        first, second = (
            Completion(f"{side} {' '.join(drawn.choices(words, k=40))}", model, Sampling(seed=n))
            for side in ("One", "Two")
        )
        prompt = Prompt.from_text(f"Question {n}: {' '.join(drawn.choices(words, k=12))}")
        pairs.append(Pair(pair_id, prompt, (first, second), AT + timedelta(seconds=n)))
        for voter in drawn.sample(VOTERS, 2):
            choice = drawn.choices(list(Choice)[:4], (8, 3, 1, 1))[0]
            vote_id = uuid.UUID(int=drawn.getrandbits(128)).hex
            votes.append(Vote(vote_id, pair_id, voter, choice, drawn.random() < 0.5, AT))
    return pairs, votes


def fill(path: Path) -> None:
    """A journal of PAIRS pairs: pairs by its own call, votes by bulk SQL of the same rows."""
    with closing(Journal(path)) as journal:
        for start in range(0, PAIRS, _STEP):
            pairs, votes = world(start, _STEP)
            journal.add_pairs(pairs).result()
            cast = [vote_to_row(vote) for vote in votes]
            journal.submit(lambda db, cast=cast: db.executemany(_VOTE_SQL, cast)).result()


def multiply(source: Path, path: Path) -> None:
    """The journal `source` with all its pairs and votes TIMES times, under other ids."""
    shutil.copyfile(source, path)
    vote = "voter, choice, flipped, created_at, reasons, comment, source, counted, revision"
    pair = "prompt_id, messages, first, second, created_at"
    with closing(Journal(path)) as journal:
        for n in range(1, TIMES):
            for sql in (
                f"INSERT INTO pairs (id, {pair}) SELECT id || '-{n}', {pair} FROM pairs"
                " WHERE length(id) = 32",
                f"INSERT INTO votes (id, pair_id, {vote}, delivered_revision)"
                f" SELECT id || '-{n}', pair_id || '-{n}', {vote}, 1 FROM votes"
                " WHERE length(id) = 32",
            ):
                journal.submit(lambda db, sql=sql: db.execute(sql).rowcount).result()


def export_apart(journal: Path, out: Path) -> Exported:
    """Export in a process of its own."""
    words = ["-m", "tests.benchmarks.peers.export", "--child", str(journal), str(out)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return Exported(**json.loads(done.stdout))


def be_the_child(journal: Path, out: Path) -> None:
    began = time.process_time()
    with closing(JournalReader(journal)) as reader:
        votes = export_preferences(reader, out).counts.votes
    cpu_s = time.process_time() - began
    # Not ru_maxrss, which a child inherits from the process that started it.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"votes": votes, "cpu_s": cpu_s, "mib": int(peak[1]) / 1024}))


def fill_argilla(known: Credentials, home: Path) -> ArgillaConnection:
    """The same pairs and votes in a dataset of the server, by bulk SQL."""
    connection = ArgillaConnection(known.api_url, known.api_key, "bench", "peer")
    with (
        closing(Journal(home / "empty.sqlite3")) as journal,
        closing(ArgillaStore(connection, journal, votes_per_pair=2)) as store,
    ):
        store.ensure_dataset()
    moment = AT.strftime("%Y-%m-%d %H:%M:%S.%f")
    with closing(sqlite3.connect(home / "argilla" / "argilla.db", timeout=30)) as db:
        (dataset_id,) = db.execute("SELECT id FROM datasets WHERE name = 'peer'").fetchone()
        users = {voter: uuid.UUID(voter_user_id(voter)).hex for voter in VOTERS}
        db.executemany(
            "INSERT INTO users (id, first_name, username, role, api_key, password_hash,"
            " inserted_at, updated_at) VALUES (?, 'x', ?, 'annotator', ?, 'x', ?, ?)",
            [(id_, voter, f"{voter}.key", moment, moment) for voter, id_ in users.items()],
        )
        for start in range(0, PAIRS, _STEP):
            pairs, votes = world(start, _STEP)
            ids = {pair.id: uuid.uuid4().hex for pair in pairs}
            db.executemany(
                "INSERT INTO records (id, external_id, dataset_id, fields, metadata, status,"
                " inserted_at, updated_at) VALUES (?, ?, ?, ?, ?, 'completed', ?, ?)",
                [_record_row(pair, ids[pair.id], dataset_id) for pair in pairs],
            )
            db.executemany(
                'INSERT INTO responses (id, record_id, user_id, status, "values", inserted_at,'
                " updated_at) VALUES (?, ?, ?, 'submitted', ?, ?, ?)",
                [_response_row(vote, ids[vote.pair_id], users[vote.voter]) for vote in votes],
            )
        db.commit()
    return connection


def _record_row(pair: Pair, record_id: str, dataset_id: str) -> tuple[str, ...]:
    record = to_record(pair)
    moment = pair.created_at.strftime("%Y-%m-%d %H:%M:%S.%f")
    held = (json.dumps(record[part]) for part in ("fields", "metadata"))
    return (record_id, pair.id, dataset_id, *held, moment, moment)


def _response_row(vote: Vote, record_id: str, user_id: str) -> tuple[str, ...]:
    values = json.dumps(to_response(vote, "")["values"])
    moment = AT.strftime("%Y-%m-%d %H:%M:%S.%f")
    return (uuid.uuid4().hex, record_id, user_id, values, moment, moment)


def read_by_sdk(
    server: EmbeddedArgilla, connection: ArgillaConnection, count: int
) -> tuple[float, set[str], Preferred]:
    """CPU-seconds of the SDK and the server for a list of the first `count` records, whose ids
    these are, and what they say.
    """
    import argilla as rg
    import psutil

    client = rg.Argilla(api_url=connection.api_url, api_key=connection.api_key)
    process = psutil.Process(server.pid or -1)

    def cpu_s() -> float:
        used = process.cpu_times()
        return used.user + used.system + time.process_time()

    with closing(client.http_client):
        dataset = client.datasets(connection.dataset, workspace="bench")
        dataset.records(limit=500).to_list(flatten=False)
        began = cpu_s()
        rows = dataset.records(with_suggestions=False, limit=count).to_list(flatten=False)
        took = cpu_s() - began
    said: Preferred = {}
    for row in rows:
        answers = [response["value"] for response in row["responses"]["preference"]]
        winner, support = Counter(answers).most_common(1)[0]
        prompt = Prompt.from_text(row["fields"]["prompt"][0]["content"])
        if prompt.split == "train" and 2 * support > len(answers) and winner in ("a", "b"):
            said[row["id"]] = row["fields"][f"completion_{winner}"]
    return took, {row["id"] for row in rows}, said


def rows(peer_pairs: int = PEER_PAIRS) -> Iterator[Row | Limit]:
    """The ratio, then memory at 100,000 votes and at ten times that, and the cost of a vote.

    The SDK reads the first `peer_pairs` records.
    """
    with tempfile.TemporaryDirectory(prefix="votetune-bench-") as scratch:
        home = Path(scratch)
        journal, larger = home / "journal.sqlite3", home / "larger.sqlite3"
        fill(journal)
        row, done = _against_sdk(home, journal, peer_pairs)
        yield row
        yield _memory(done)
        multiply(journal, larger)
        many = [export_apart(larger, home / "many")]
        yield _memory(many)
        yield Limit(
            what=f"export, cost of a vote among {many[0].votes:,} by that among {done[0].votes:,}",
            unit="times",
            values=[_ms_a_vote(many) / _ms_a_vote(done)],
            at_most=1.2,
            checked="CPU-seconds a vote of the rows above",
        )


def _against_sdk(home: Path, journal: Path, count: int) -> tuple[Row, list[Exported]]:
    server = EmbeddedArgilla(home)
    server.start()
    try:
        connection = fill_argilla(wait_ready(server, 900), home)
        export_apart(journal, home / "out")
        mine, theirs = [], []
        for _ in range(ROUNDS):
            mine.append(export_apart(journal, home / "out"))
            took, read, said = read_by_sdk(server, connection, count)
            theirs.append(1e3 * took / 2 / count)
    finally:
        server.stop()
    examples = load_examples(home / "out")
    exported = {e.pair_id: e.chosen for e in examples if e.pair_id in read}
    if exported != said or len(read) != count:
        raise SystemExit(f"{len(exported)} preferences of ours, {len(said)} read by the SDK.")
    row = Row(
        what=f"export, {2 * PAIRS:,} votes on {PAIRS:,} pairs",
        against=f"reading through the SDK into a list, {count:,} of the pairs",
        unit="CPU-ms a vote, of client and server",
        ours=[_ms_a_vote([one]) for one in mine],
        peer=theirs,
        direction="less is better",
        goal=Goal("at least", 5),
        checked=f"{len(exported)} preferences equal, pair by pair",
        notes="ours ends with files, hashes, 1,000 draws for an interval and a card, the peer's "
        "with a list",
    )
    return row, mine


def _memory(done: Sequence[Exported]) -> Limit:
    votes = done[0].votes
    if any(one.votes != votes for one in done) or votes % (2 * PAIRS):
        raise SystemExit(f"{[one.votes for one in done]} votes exported, each should be the same.")
    return Limit(
        what=f"export, {votes:,} votes on {votes // 2:,} pairs, memory",
        unit="MiB at most resident",
        values=[one.mib for one in done],
        at_most=500,
        checked="every vote counted",
        notes=f"{statistics.median(one.cpu_s for one in done):.1f} CPU-s, "
        f"{_ms_a_vote(done):.3f} ms a vote",
    )


def _ms_a_vote(done: Sequence[Exported]) -> float:
    return statistics.median(1e3 * one.cpu_s / one.votes for one in done)


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--child"]:
        be_the_child(Path(arguments[1]), Path(arguments[2]))
        return
    for row in rows(PAIRS if "--whole" in arguments else PEER_PAIRS):
        print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
