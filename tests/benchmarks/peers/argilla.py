"""Responses into Argilla on records that are there: our delivery against the SDK's `records.log`.

Both send the same 1,000 responses of 50 people to 500 records of a dataset of the same shape, on a
real argilla-server on loopback, in turns, and the server's tables must then say the same. Ours is
`ArgillaStore.deliver` with a journal that holds the votes. CPU-seconds are those of the client and
of the server together. Seeds: one a round.
"""

import random
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import argilla as rg

from annotation.argilla_server import launcher
from annotation.argilla_store.api import ArgillaApi
from annotation.argilla_store.records import to_record, to_response, voter_user_id
from annotation.argilla_store.store import ArgillaConnection, ArgillaStore
from annotation.journal.journal import Journal
from annotation.schema import Choice, Completion, ModelRef, Pair, Prompt, Reason, Sampling, Vote
from tests.argilla_fixture import wait_ready
from tests.benchmarks.peers.machine import process_seconds
from tests.benchmarks.peers.table import Goal, Row

ROUNDS = 5
RECORDS = 500
VOTES_PER_PAIR = 2
VOTERS = [f"voter-{n:02}" for n in range(50)]
AT = datetime(2026, 1, 2, tzinfo=UTC)
GOAL = Goal("at least", 20)
STOCK_SERVER = (
    "from annotation.argilla_server import server; "
    "server._speed_up = lambda: lambda: True; raise SystemExit(server.main())"
)
"""The same server without what we speed up in it, and without our route."""


@dataclass(frozen=True, slots=True)
class Place:
    """A running server, and one dataset on it that a journal is delivered to."""

    server: launcher.EmbeddedArgilla
    home: Path
    connection: ArgillaConnection
    journal: Journal
    store: ArgillaStore

    def cpu_s(self) -> float:
        """Of the server and of this process, so far."""
        if self.server.pid is None:
            raise SystemExit(f"Argilla ended: {self.server.last_error}")
        return process_seconds(self.server.pid) + time.process_time()


def pairs_of(seed: int) -> list[Pair]:
    """RECORDS pairs of a round, of some 60 words an answer."""
    drawn = random.Random(seed)

    def words(count: int) -> str:
        return " ".join(f"word{drawn.randrange(500)}" for _ in range(count))

    model, sampling = ModelRef("starter", "0" * 40), Sampling(max_new_tokens=64, seed=seed)
    return [
        Pair(
            id=uuid.UUID(int=drawn.getrandbits(128)).hex,
            prompt=Prompt.from_text(words(12)),
            completions=(
                Completion(f"One {words(60)}", model, sampling),
                Completion(f"Two {words(60)}", model, sampling),
            ),
            created_at=AT,
        )
        for _ in range(RECORDS)
    ]


def votes_of(pairs: Sequence[Pair], seed: int) -> list[Vote]:
    """Two votes a pair, some with reasons and a comment, by people drawn anew for each."""
    drawn = random.Random(seed)
    return [
        Vote(
            id=uuid.UUID(int=drawn.getrandbits(128)).hex,
            pair_id=pair.id,
            voter=voter,
            choice=drawn.choices(list(Choice)[:4], (5, 4, 2, 1))[0],
            flipped=drawn.random() < 0.5,
            created_at=AT,
            reasons=(Reason.CLEAR, Reason.CORRECT) if drawn.random() < 0.3 else (),
            comment=f"Said {drawn.randrange(999)}." if drawn.random() < 0.2 else "",
        )
        for pair in pairs
        for voter in drawn.sample(VOTERS, VOTES_PER_PAIR)
    ]


def open_place(stack: ExitStack, server: launcher.EmbeddedArgilla, home: Path, name: str) -> Place:
    """A dataset called `name` with the records of every round, and a user for every voter."""
    known = wait_ready(server, 900)
    connection = ArgillaConnection(known.api_url, known.api_key, "bench", name)
    journal = stack.enter_context(closing(Journal(home / f"{name}.sqlite3")))
    store = ArgillaStore(connection, journal, votes_per_pair=VOTES_PER_PAIR)
    stack.enter_context(closing(store))
    warm_up = pairs_of(99)[: len(VOTERS)]
    for pairs in (*(pairs_of(seed) for seed in range(ROUNDS + 1)), warm_up):
        journal.add_pairs(pairs).result()
    for pair, voter in zip(warm_up, VOTERS, strict=True):
        journal.add_vote(Vote(uuid.uuid4().hex, pair.id, voter, Choice.A, False, AT)).result()
    store.deliver()
    return Place(server, home, connection, journal, store)


def start(stack: ExitStack, home: Path, *, stock: bool = False) -> launcher.EmbeddedArgilla:
    """A server on `home`, as the product runs it, or a stock one on the same search engine."""
    server = launcher.EmbeddedArgilla(home)
    if stock:
        popen = launcher.subprocess.Popen

        def spawn(words: list[Any], **more: Any) -> Any:
            return popen([words[0], "-c", STOCK_SERVER], **more)

        launcher.subprocess.Popen = spawn  # type: ignore[misc,assignment]
        stack.callback(setattr, launcher.subprocess, "Popen", popen)
    server.start()
    stack.callback(server.stop)
    wait_ready(server, 900)
    return server


def ours(place: Place, votes: Sequence[Vote]) -> float:
    """Responses a CPU-second of a delivery."""
    for future in [place.journal.add_vote(vote) for vote in votes]:
        future.result()
    began = place.cpu_s()
    if place.store.deliver() != len(votes):
        raise SystemExit("Not every vote was delivered.")
    return len(votes) / (place.cpu_s() - began)


def peers(place: Place, pairs: Sequence[Pair], votes: Sequence[Vote]) -> float:
    """Responses a CPU-second of `records.log`, from records with responses to the server's yes.

    A record is logged whole: without its fields it is refused, without its metadata they are lost.
    """
    client = rg.Argilla(api_url=place.connection.api_url, api_key=place.connection.api_key)
    with closing(client.http_client):
        dataset = client.datasets(place.connection.dataset, workspace="bench")
        by_pair: dict[str, list[Vote]] = {}
        for vote in votes:
            by_pair.setdefault(vote.pair_id, []).append(vote)
        began = place.cpu_s()
        dataset.records.log([_sdk_record(pair, by_pair[pair.id]) for pair in pairs])
        return len(votes) / (place.cpu_s() - began)


def _sdk_record(pair: Pair, votes: Sequence[Vote]) -> Any:
    record = to_record(pair)
    responses = []
    for vote in votes:
        user_id = uuid.UUID(voter_user_id(vote.voter))
        for name, held in to_response(vote, str(user_id))["values"].items():
            responses.append(rg.Response(name, held["value"], user_id, status="submitted"))
    return rg.Record(
        id=pair.id, fields=record["fields"], metadata=record["metadata"], responses=responses
    )


def stored(place: Place) -> dict[tuple[str, str], tuple[str, str, str]]:
    """What the tables hold of a dataset: by record and person, values, status, record's status."""
    sql = (
        'SELECT external_id, username, responses."values", responses.status, records.status'
        " FROM responses JOIN records ON records.id = record_id JOIN users ON users.id = user_id"
        " JOIN datasets ON datasets.id = dataset_id WHERE datasets.name = ?"
    )
    with closing(sqlite3.connect(place.home / "argilla" / "argilla.db")) as db:
        rows = db.execute(sql, (place.connection.dataset,)).fetchall()
    return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}


def ceiling(place: Place, scratch: Path) -> float:
    """Responses a CPU-second of SQLite alone: a round's rows into a copy of the tables.

    Their records are rewritten too, as a delivery does; keys are checked and every commit synced,
    as in the server.
    """
    copy = scratch / "copy.db"
    with closing(sqlite3.connect(place.home / "argilla" / "argilla.db")) as db:
        db.execute("VACUUM INTO ?", (str(copy),))
    with closing(sqlite3.connect(copy)) as db:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("PRAGMA foreign_keys = ON")
        marks = ("id", '"values"', "status", "record_id", "user_id", "inserted_at", "updated_at")
        columns = ", ".join(marks)
        rows = db.execute(f"SELECT {columns} FROM responses LIMIT {2 * RECORDS}").fetchall()
        db.executemany("DELETE FROM responses WHERE id = ?", [row[:1] for row in rows])
        ids = ",".join(f"'{record_id}'" for record_id in {row[3] for row in rows})
        texts = f"SELECT metadata, 'completed', updated_at, id FROM records WHERE id IN ({ids})"
        records = db.execute(texts).fetchall()
        db.execute(f"UPDATE records SET status = 'pending', metadata = '' WHERE id IN ({ids})")
        db.commit()
        began = time.process_time()
        db.executemany(f"INSERT INTO responses ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        rewrite = "UPDATE records SET metadata = ?, status = ?, updated_at = ? WHERE id = ?"
        db.executemany(rewrite, records)
        db.commit()
        return len(rows) / (time.process_time() - began)


def requests_alone(place: Place, count: int = 200) -> float:
    """Requests a CPU-second of the server alone that say who asks, and ask for next to nothing."""
    with closing(ArgillaApi(place.connection.api_url, place.connection.api_key)) as api:
        before = place.cpu_s() - time.process_time()
        for _ in range(count):
            api.votes_at_once()
        return count / (place.cpu_s() - time.process_time() - before)


def server_alone(place: Place, votes: Sequence[Vote]) -> float:
    """Responses a CPU-second of the server alone at our delivery."""
    before = place.cpu_s() - time.process_time()
    for future in [place.journal.add_vote(vote) for vote in votes]:
        future.result()
    place.store.deliver()
    return len(votes) / (place.cpu_s() - time.process_time() - before)


def compare(mine: Place, theirs: Place, against: str, extra: Callable[[], str] = lambda: "") -> Row:
    """A row of ROUNDS rounds in which the two take turns; SystemExit where the tables differ."""
    rates: list[tuple[float, float]] = []
    warm = pairs_of(ROUNDS)
    ours(mine, votes_of(warm, ROUNDS)[: 2 * len(VOTERS)])
    peers(theirs, warm[: len(VOTERS)], votes_of(warm, ROUNDS)[: 2 * len(VOTERS)])
    for seed in range(ROUNDS):
        pairs = pairs_of(seed)
        votes = votes_of(pairs, seed)
        rates.append((ours(mine, votes), peers(theirs, pairs, votes)))
    found, wanted = stored(mine), stored(theirs)
    if found != wanted:
        odd = next(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        raise SystemExit(f"{odd}: {found.get(odd)} of ours, {wanted.get(odd)} of the SDK's.")
    return Row(
        what="votes on known pairs into Argilla",
        against=against,
        unit="responses a CPU-s, client and server",
        ours=[rate for rate, _ in rates],
        peer=[rate for _, rate in rates],
        direction="more is better",
        goal=GOAL,
        checked=f"{len(found)} responses and records' states equal in the server's tables",
        notes=extra(),
    )


def rows() -> Iterator[Row]:
    """Against the SDK on the server without our speed-ups, then with them."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="votetune-bench-")))
        homes = [scratch / name for name in ("embedded", "stock")]
        for home in homes:
            home.mkdir()
        embedded = start(stack, homes[0])
        mine = open_place(stack, embedded, homes[0], "ours")

        def ends() -> str:
            alone = server_alone(mine, votes_of(pairs_of(ROUNDS), ROUNDS)[2 * len(VOTERS) :])
            return (
                f"the server alone takes {alone:.0f} a CPU-s by our route; SQLite alone "
                f"{ceiling(mine, scratch):.0f} a CPU-s (the same rows written, synchronous FULL); "
                f"the server answers {requests_alone(mine):.0f} requests a CPU-s that ask nothing"
            )

        log = "the SDK's records.log"
        stock = open_place(stack, start(stack, homes[1], stock=True), homes[1], "stock")
        yield compare(mine, stock, f"{log}, that server as shipped but for its search engine", ends)
        again = open_place(stack, embedded, homes[0], "again")
        theirs = open_place(stack, embedded, homes[0], "peers")
        yield compare(again, theirs, f"{log}, sped up by our server as well")


if __name__ == "__main__":
    for row in rows():
        print(row, flush=True)
    sys.exit()
