"""Faults between click and journal: wrong clocks, strange text, two tabs, replays, full disks."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from alignment.web.admin.admin_view import ArgillaStatus, describe_votes
from annotation.export.export import prepare_export
from annotation.journal.journal import Journal
from annotation.quality.voter_health import assess_voters
from annotation.schema import Completion, ModelRef, Pair, Prompt, Sampling
from tests.journal_parts import NOON, fill_disk, free_disk, make_pair
from tests.voter_app import one_line, voter_app

RTL = "\u202eevil\u202c שלום עליכם, مرحبا \u2066x\u2069"
STRANGE = f"{RTL} e\u0301 é 👩‍👩‍👧 \u200b\ufeff\u2028 𝕏\U0001f600"
"""Right-to-left, overrides, both ways to write é, joined emoji, nothings, beyond the BMP."""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3")
    made.add_pairs([make_pair(f"p{n}") for n in range(40)]).result()
    yield made
    made.close()


# Clocks


def test_only_the_servers_clock_dates_a_vote(journal: Journal) -> None:
    app = voter_app(journal, clock=lambda: NOON)
    skewed = {"Date": "Fri, 31 Dec 1999 23:59:59 GMT", "X-Timestamp": "946684799"}
    with TestClient(app, headers=skewed) as client:
        pair = client.post("/api/pairs").json()["id"]
        vote = {"pair": pair, "choice": "a"}
        for name in ("created_at", "issued_at", "time"):
            said = one_line(client.post("/api/votes", json=vote | {name: "1999-12-31"}), 422)
            assert name in said
        assert client.post("/api/votes", json=vote).status_code == 201
        assert client.get("/api/me/votes").json()[0]["created_at"] == "2026-03-01T12:00:00Z"
    (stored,) = journal.votes()
    assert (stored.created_at, stored.issued_at) == (NOON, NOON)


def test_a_server_clock_set_back_costs_no_vote_and_no_order(journal: Journal) -> None:
    now = NOON

    def clock() -> datetime:
        return now

    with TestClient(voter_app(journal, clock=clock)) as client:
        for hours in (0, -2, 0):
            pair = client.post("/api/pairs").json()["id"]
            now = NOON + timedelta(hours=hours)
            answer = client.post("/api/votes", json={"pair": pair, "choice": "a"})
            assert answer.status_code == 201
        assert len(client.get("/api/me/votes").json()) == 3
    votes = journal.votes()
    assert len({vote.pair_id for vote in votes}) == 3
    (voter,) = assess_voters(votes, {pair.id: pair for pair in journal.pairs()})
    assert voter.reading_s is not None and voter.reading_s >= 0


# Text


def test_strange_text_comes_back_letter_by_letter(journal: Journal) -> None:
    with TestClient(voter_app(journal)) as client:
        pair = client.post("/api/pairs").json()["id"]
        comment = STRANGE * 20
        made = client.post("/api/votes", json={"pair": pair, "choice": "a", "comment": comment})
        assert made.status_code == 201
        assert client.get("/api/me/votes").json()[0]["comment"] == comment
        words = {"comment": f"{STRANGE}!"}
        changed = client.patch(f"/api/votes/{made.json()['id']}", json=words)
        assert changed.json()["comment"] == f"{STRANGE}!"
    assert journal.votes()[0].comment == f"{STRANGE}!"


def test_an_answer_of_100000_strange_characters_arrives_whole_and_is_exported(
    tmp_path: Path,
) -> None:
    long = (STRANGE * (100_000 // len(STRANGE) + 1))[:100_000]
    model = ModelRef("starter", "1" * 40)
    # A prompt of the train split, so that its example is exported.
    prompt = next(p for n in range(99) if (p := Prompt.from_text(f"{RTL} {n}")).split == "train")
    answers = (Completion(long, model, Sampling()), Completion("Short.", model, Sampling()))
    journal = Journal(tmp_path / "journal.sqlite3")
    journal.add_pairs([Pair("long", prompt, answers, NOON)]).result()
    with TestClient(voter_app(journal)) as client:
        shown = client.post("/api/pairs").json()
        assert {shown["a"], shown["b"]} == {long, "Short."}
        assert shown["prompt"][0]["content"] == prompt.messages[-1].content
        choice = "a" if shown["a"] == long else "b"
        client.post("/api/votes", json={"pair": "long", "choice": choice})
    (example,) = prepare_export(journal).examples
    assert (example.chosen, example.rejected) == (long, "Short.")
    journal.close()


def test_a_comment_of_100000_characters_is_413_and_changes_nothing(journal: Journal) -> None:
    with TestClient(voter_app(journal)) as client:
        pair = client.post("/api/pairs").json()["id"]
        vote = {"pair": pair, "choice": "a", "comment": "x" * 100_000}
        assert "64 KiB" in one_line(client.post("/api/votes", json=vote), 413)
        assert journal.votes(include_superseded=True) == []
        assert client.post("/api/votes", json={"pair": pair, "choice": "a"}).status_code == 201


# The same voter twice at once


def at_once(journal: Journal, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """Ask for a pair, then send every body for it in the same moment, with one cookie."""

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(voter_app(journal))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            pair = (await client.post("/api/pairs")).json()["id"]
            sent = [client.post("/api/votes", json=body | {"pair": pair}) for body in bodies]
            return list(await asyncio.gather(*sent))

    return asyncio.run(run())


def test_two_tabs_that_vote_otherwise_on_one_pair_leave_the_first_vote(journal: Journal) -> None:
    answers = at_once(journal, {"choice": "a"}, {"choice": "b"})
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    (stored,) = journal.votes(include_superseded=True)
    (first,) = [answer.json() for answer in answers if answer.status_code == 201]
    assert stored.id == first["id"]


def test_twenty_replays_at_once_are_one_vote(journal: Journal) -> None:
    answers = at_once(journal, *[{"choice": "a", "comment": "once"}] * 20)
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.text for answer in answers}) == 1
    assert len(journal.votes(include_superseded=True)) == 1


def test_tabs_get_pairs_of_their_own_until_four_are_open(journal: Journal) -> None:
    with TestClient(voter_app(journal)) as client:
        given = [client.post("/api/pairs").json()["id"] for _ in range(6)]
    assert len(set(given[:4])) == 4
    assert given[4:] == given[:2]


# The disk


def test_a_full_disk_is_told_to_the_admin_until_a_vote_is_stored_again(journal: Journal) -> None:
    def said() -> str:
        argilla = ArgillaStatus("ready", None, "", 0, None)
        return describe_votes(prepare_export(journal).counts, 3, argilla, trouble=journal.trouble)

    with TestClient(voter_app(journal)) as client:
        pair = client.post("/api/pairs").json()["id"]
        assert "No vote can be saved" not in said()
        fill_disk(journal)
        for number in range(100):  # use up the room that the file's last pages had
            if journal.set_note(f"n{number}", "x" * 3000).exception():
                break
        vote = {"pair": pair, "choice": "a", "comment": "é" * 2000}
        one_line(client.post("/api/votes", json=vote), 507)
        assert said().startswith("**No vote can be saved now.** The disk that holds ")
        free_disk(journal)
        assert client.post("/api/votes", json=vote).status_code == 201
        assert "No vote can be saved" not in said()
