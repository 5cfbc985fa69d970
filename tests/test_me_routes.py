"""A voter's own votes over HTTP: progress, receipts, and being forgotten."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from annotation.journal.deletion import note_published
from annotation.journal.journal import Journal
from annotation.progress import ProgressBoard, Tally
from annotation.schema import Choice, Message, PairKind, Prompt, VoteSource
from annotation.web.sessions import COOKIE_NAME
from tests.journal_parts import make_pair, make_vote, on_writer
from tests.voter_app import Door, one_line, voter_app

NOW = datetime(2026, 3, 10, 15, 7, tzinfo=UTC)
ME = "anon-0000000000000001"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3", clock=lambda: NOW)
    made.add_pairs([make_pair(f"p{n}") for n in range(30)]).result()
    yield made
    made.close()


@pytest.fixture
def client(journal: Journal) -> Iterator[TestClient]:
    with TestClient(voter_app(journal, clock=lambda: NOW)) as made:
        yield made


def cast(client: TestClient, choice: str = "a", **words: object) -> dict:
    pair = client.post("/api/pairs").json()
    sent = {"pair": pair["id"], "choice": choice, **words}
    return {**pair, "vote": client.post("/api/votes", json=sent).json()["id"]}


# Progress


def store(journal: Journal, *votes: tuple[str, str, datetime]) -> None:
    for number, (voter, pair, at) in enumerate(votes):
        journal.add_vote(make_vote(f"v{number}", pair, voter, created_at=at)).result()


def test_progress_counts_live_votes_from_the_callers_midnight(journal: Journal) -> None:
    midnight = datetime(2026, 3, 9, 23, 30, tzinfo=UTC)  # somebody's, 30 minutes west
    store(
        journal,
        (ME, "p0", midnight),
        (ME, "p1", midnight - timedelta(microseconds=1)),
        (ME, "p2", NOW - timedelta(days=40)),
        (ME, "p3", NOW),
        ("bob", "p0", NOW),
        ("bob", "p1", NOW - timedelta(hours=47)),
        ("bob", "p2", midnight + timedelta(minutes=14)),
    )
    journal.add_vote(make_vote("s", "p4", ME, Choice.SKIP, created_at=NOW))
    journal.undo_vote("v3", voter=ME).result()
    board = ProgressBoard(journal, votes_per_pair=1, clock=lambda: NOW)
    progress = board.progress(ME, midnight)
    # Mine: p0 today, p1 and p2 before; p3 undone, p4 skipped. Bob's p0 and p2 are of today.
    assert progress.mine == Tally(today=1, all=3)
    assert progress.everyone == Tally(today=3, all=6)
    # Of 30 pairs, p0, p1 and p2 have their vote.
    assert progress.pairs_wanted == 27
    assert board.progress(ME).mine == Tally(today=0, all=3)  # the server's midnight is later
    assert board.progress("nobody").mine == Tally(0, 0)


def test_only_pairs_for_everybody_are_wanted(journal: Journal) -> None:
    journal.add_pairs(
        [
            replace(make_pair("gold"), kind=PairKind.GOLD, expected=Choice.A),
            replace(make_pair("own"), kind=PairKind.OWN, author=ME),
            replace(make_pair("hidden"), kind=PairKind.OWN, author=ME, only_for=ME),
        ]
    ).result()
    board = ProgressBoard(journal, votes_per_pair=2, clock=lambda: NOW)
    store(journal, (ME, "p0", NOW))
    assert board.progress(ME).pairs_wanted == 31


def test_progress_over_http_says_how_many_and_never_which_way(client: TestClient) -> None:
    for choice in ("a", "b", "skip"):
        cast(client, choice)
    answer = client.get("/api/progress", params={"since": "2026-03-10T00:00:00+01:00"})
    assert answer.json() == {
        "mine": {"today": 2, "all": 2},
        "everyone": {"today": 2, "all": 2},
        "pairs_wanted": 28,
    }


BAD_TIMES = [
    *("", "today", "2026-03-10", "2026-03-10T00:00:00", "2026-03-08T15:06:59Z"),
    *("2026-03-13T00:00Z", "9" * 40, "-1", "0001-01-01T00:00:00+23:59"),
    *("9999-12-31T23:59:59-23:59", "1\0"),
]


@pytest.mark.parametrize("since", BAD_TIMES)
def test_a_bad_since_is_one_line(client: TestClient, since: str) -> None:
    said = one_line(client.get("/api/progress", params={"since": since}), 422)
    assert '"since"' in said and "2026-03-01T00:00:00Z" in said


def test_many_who_ask_are_one_look_at_everybodys_votes(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    look = journal.live_by_quarter

    def counted(since: datetime, voter: str | None = None) -> dict[str, int]:
        looks.append(voter)
        return look(since, voter)

    monkeypatch.setattr(journal, "live_by_quarter", counted)
    board = ProgressBoard(journal, votes_per_pair=1, clock=lambda: NOW, cache_s=60)
    threads = [
        threading.Thread(target=board.progress, args=(f"v{n}", NOW - timedelta(hours=n)))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looks.count(None) == 1
    assert len(looks) == 21


def test_progress_reads_indexes_and_no_whole_table(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = []
    read = journal._rows

    def explained(sql: str, values: Any = ()) -> list[Any]:
        plans.extend(row["detail"] for row in read(f"EXPLAIN QUERY PLAN {sql}", values))
        return read(sql, values)

    monkeypatch.setattr(journal, "_rows", explained)
    ProgressBoard(journal, votes_per_pair=1, clock=lambda: NOW).progress(ME)
    looked = [plan for plan in plans if plan.startswith(("SEARCH", "SCAN"))]
    indexes = ("votes_by_voter", "votes_by_time", "pairs_in_play")
    named = [next(name for name in indexes if name in plan) for plan in looked if "INDEX" in plan]
    assert set(named) == set(indexes)
    assert all("INDEX" in plan or "CONSTANT ROW" in plan for plan in looked)


# Receipts


def test_a_receipt_shows_the_beginnings_as_this_voter_saw_them(
    client: TestClient, journal: Journal
) -> None:
    turns = (
        Message("user", "first"),
        Message("assistant", "then"),
        Message("user", "ß" * 400),
    )
    long = replace(make_pair("long", size=100), prompt=Prompt(turns))
    on_writer(journal, lambda db: db.execute("UPDATE pairs SET retired_at = 'now'"))
    journal.add_pairs([long]).result()
    seen = cast(client, "b")
    (receipt,) = client.get("/api/me/votes").json()
    assert receipt["prompt"] == "ß" * 300
    assert (receipt["a"], receipt["b"]) == (seen["a"][:300], seen["b"][:300])
    assert receipt["choice"] == "b"


def test_receipts_come_in_pages_from_either_end(client: TestClient) -> None:
    ids = [cast(client)["vote"] for _ in range(5)]

    def page(**asked: object) -> list[str]:
        return [r["id"] for r in client.get("/api/me/votes", params=asked).json()]

    assert page() == ids
    assert page(order="newest", limit=2) == [ids[4], ids[3]]
    assert page(order="newest", limit=2, before=ids[3]) == [ids[2], ids[1]]
    assert page(order="newest", limit=2, before=ids[0]) == []
    assert page(before=ids[2]) == ids[:2]
    assert page(limit=1) == ids[:1]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"order": "best"}, "order"),
        ({"before": ""}, "before"),
    ],
)
def test_bad_pages_are_one_line(client: TestClient, asked: dict, named: str) -> None:
    assert f'"{named}"' in one_line(client.get("/api/me/votes", params=asked), 422)


def test_another_voters_vote_is_no_place_to_begin(client: TestClient, journal: Journal) -> None:
    journal.add_vote(make_vote("bobs", "p9", "bob")).result()
    one_line(client.get("/api/me/votes", params={"before": "bobs"}), 404)


def test_a_receipt_says_why_a_vote_does_not_count(client: TestClient, journal: Journal) -> None:
    for choice in ("skip", "a", "a"):
        last = cast(client, choice)
    client.delete(f"/api/votes/{last['vote']}")
    voter = client.cookies["votetune_voter"].partition(".")[0]
    journal.set_aside(voter, "always the left side").result()
    why = [r["why"] for r in client.get("/api/me/votes").json()]
    assert why == ["skipped", "set aside: always the left side", "undone"]
    journal.bring_back(voter).result()
    receipts = client.get("/api/me/votes").json()
    assert [(r["counted"], r["why"]) for r in receipts][1] == (True, None)


# Delete mine


def test_deleting_mine_forgets_me_and_makes_me_somebody_new(
    client: TestClient, journal: Journal
) -> None:
    for _ in range(3):
        cast(client, comment="mine alone")
    before = client.cookies["votetune_voter"]
    answer = client.delete("/api/me/votes")
    assert answer.json() == {
        "deleted": 3,
        "published": False,
        "note": "Your votes are deleted here, and from this app's other copies within minutes.",
    }
    after = client.cookies["votetune_voter"]
    assert after != before and after.startswith("anon-")
    assert client.get("/api/me/votes").json() == []
    assert journal.votes(include_superseded=True) == []
    again = client.delete("/api/me/votes")
    assert (again.status_code, again.json()["deleted"]) == (200, 0)
    assert again.json()["note"] == "No vote of yours is stored here."


def test_the_old_cookie_finds_nothing_and_may_not_vote_on_what_it_held(
    client: TestClient, journal: Journal
) -> None:
    pair = client.post("/api/pairs").json()["id"]
    old = client.cookies["votetune_voter"]
    client.delete("/api/me/votes")
    client.cookies.clear()
    client.cookies.set("votetune_voter", old)
    one_line(client.post("/api/votes", json={"pair": pair, "choice": "a"}), 403)
    assert client.delete("/api/me/votes").json()["deleted"] == 0


def test_it_says_when_copies_cannot_be_called_back(
    client: TestClient, journal: Journal, tmp_path: Path
) -> None:
    note_published(tmp_path / "journal.sqlite3")
    cast(client)
    answer = client.delete("/api/me/votes").json()
    assert answer["published"] is True
    assert "can't be called back" in answer["note"]


def test_a_signed_in_voter_stays_who_they_are(journal: Journal, tmp_path: Path) -> None:
    door = Door(tmp_path)
    with TestClient(voter_app(journal, sessions=door.sessions)) as client:
        client.cookies.set(COOKIE_NAME, door.cookie())
        cast(client)
        answer = client.delete("/api/me/votes")
        assert answer.json()["deleted"] == 1
        assert "votetune_voter" not in answer.headers.get("set-cookie", "")
        cast(client)
    assert [vote.voter[:4] for vote in journal.votes()] == ["hub-"]


def test_deleting_touches_nobody_else(client: TestClient, journal: Journal) -> None:
    journal.add_vote(make_vote("bobs", "p0", "bob", source=VoteSource.ARGILLA)).result()
    cast(client)
    client.delete("/api/me/votes")
    assert [vote.id for vote in journal.votes()] == ["bobs"]
