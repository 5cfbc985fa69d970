"""The voters' routes as interface.md promises them: statuses, bodies, one-line errors."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from annotation.gold import GoldRow, gold_pairs
from annotation.journal.journal import Journal
from annotation.schema import Prompt, VoteSource
from annotation.voting import Voting
from annotation.web.api_errors import install_api_errors
from annotation.web.routes import Health, build_vote_routes
from annotation.web.voters import VoterCookies
from tests.journal_parts import LEASE, NOON, fill_disk, free_disk, make_pair, make_vote

LABELS = {"starter@11111111", "run-7@22222222"}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3")
    yield made
    made.close()


@pytest.fixture
def app(journal: Journal) -> FastAPI:
    made = FastAPI(docs_url="/api/docs", openapi_url="/api/openapi.json")
    voting = Voting(journal, votes_per_pair=1, side_secret=b"side")
    health = Health("ok", 3, "starting", 2, "starter@11111111")
    made.include_router(build_vote_routes(voting, VoterCookies(b"cookie"), lambda: health))
    install_api_errors(made)
    return made


@pytest.fixture
def client(app: FastAPI, journal: Journal) -> Iterator[TestClient]:
    journal.add_pairs([make_pair(f"p{n}") for n in range(40)]).result()
    with TestClient(app) as made:
        yield made


def one_line(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["detail"]
    assert body["detail"].endswith(".")
    assert "\n" not in body["detail"]
    assert len(body["detail"]) < 250
    return body["detail"]


def given(client: TestClient) -> str:
    return client.post("/api/pairs").json()["id"]


def test_no_pair_before_votes_are_restored(journal: Journal) -> None:
    journal.add_pairs([make_pair("p1")]).result()
    waits = ["Restoring votes from the backup… Voting begins when they are back.", None]
    made = FastAPI()
    voting = Voting(journal, votes_per_pair=1, side_secret=b"side")
    health = Health("restoring", 0, "starting", 0, "starter@11111111")
    made.include_router(
        build_vote_routes(
            voting, VoterCookies(b"cookie"), lambda: health, not_yet=lambda: waits.pop(0)
        )
    )
    with TestClient(made) as client:
        assert client.get("/api/health").json()["status"] == "restoring"
        refused = client.post("/api/pairs")
        assert one_line(refused, 503).startswith("Restoring votes")
        assert int(refused.headers["Retry-After"]) >= 1
        assert client.post("/api/pairs").status_code == 201


# What the table promises


def test_health_says_what_it_was_told(client: TestClient) -> None:
    response = client.get("/api/health")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "pairs_ready": 3,
        "argilla": "starting",
        "undelivered": 2,
        "base_model": "starter@11111111",
        "sampling": None,
        "trouble": None,
    }


def test_the_next_pair_is_blind(client: TestClient) -> None:
    response = client.post("/api/pairs")
    assert response.status_code == 201
    body = response.json()
    assert {body.pop("a"), body.pop("b")} == {"first ", "second "}
    assert body == {"id": "p0", "prompt": [{"role": "user", "content": "What is p0?"}]}


def test_no_pair_is_503_and_already_names_the_voter(app: FastAPI, journal: Journal) -> None:
    with TestClient(app) as client:
        response = client.post("/api/pairs")
        one_line(response, 503)
        assert response.headers["Retry-After"] == "2"
        voter = client.cookies["votetune_voter"]
        journal.add_pairs([make_pair("p0")]).result()
        assert client.post("/api/pairs").status_code == 201
        assert client.cookies["votetune_voter"] == voter


def test_a_gold_pair_looks_like_any_other_until_its_vote(journal: Journal) -> None:
    gold = gold_pairs([GoldRow(Prompt.from_text("2 + 2?"), "4", "5")], b"side", NOON)
    journal.set_gold_pairs(gold).result()
    journal.add_pairs([make_pair(f"p{n}") for n in range(9)]).result()
    voting = Voting(journal, votes_per_pair=1, side_secret=b"side", gold_share=0.5)
    health = Health("ok", 3, "ready", 0, "starter@11111111")
    app = FastAPI()
    cookies = VoterCookies(b"cookie")
    app.include_router(build_vote_routes(voting, cookies, lambda: health))
    # What a voter draws hangs on its name, and a new one has another name at each run.
    known = {"votetune_voter": cookies.value("anon-0000000000000001")}
    with TestClient(app, cookies=known) as client:
        for _ in range(9):
            body = client.post("/api/pairs").json()
            assert set(body) == {"id", "prompt", "a", "b"}
            said = client.post("/api/votes", json={"pair": body["id"], "choice": "a"}).json()
            if {body["a"], body["b"]} == {"4", "5"}:
                break
    assert body["id"] == gold[0].id
    assert said["models"] == {"a": "a prepared answer", "b": "a prepared answer"}
    assert said["counted"] is False
    assert said["why"].startswith("it was a question with a known answer")
    assert set(said) == {"id", "saved", "counted", "why", "models"}


def test_a_vote_is_answered_with_what_is_on_disk(client: TestClient, journal: Journal) -> None:
    pair = given(client)
    words = {"reasons": ["clear", "safe", "clear"], "comment": "ça va 👍"}
    response = client.post("/api/votes", json={"pair": pair, "choice": "a", **words})
    assert response.status_code == 201
    (vote,) = journal.votes()
    body = response.json()
    assert set(body.pop("models").values()) == LABELS
    assert body == {"id": vote.id, "saved": True, "counted": True, "why": None}
    assert ([r.value for r in vote.reasons], vote.comment) == (["clear", "safe"], "ça va 👍")
    assert vote.voter == client.cookies["votetune_voter"].partition(".")[0]


def test_a_replay_answers_200_with_the_same_body(client: TestClient, journal: Journal) -> None:
    vote = {"pair": given(client), "choice": "b"}
    first = client.post("/api/votes", json=vote)
    again = client.post("/api/votes", json=vote)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert len(journal.votes()) == 1
    assert "already voted" in one_line(
        client.post("/api/votes", json={**vote, "choice": "tie"}), 409
    )


def test_a_skip_reveals_no_models_and_does_not_count(client: TestClient) -> None:
    body = client.post("/api/votes", json={"pair": given(client), "choice": "skip"}).json()
    assert (body["counted"], body["why"], body["models"]) == (False, "skipped", None)


@pytest.mark.parametrize("choice", ["a", "b", "tie", "both_bad"])
def test_every_judgement_counts_and_reveals(client: TestClient, choice: str) -> None:
    body = client.post("/api/votes", json={"pair": given(client), "choice": choice}).json()
    assert (body["counted"], set(body["models"].values())) == (True, LABELS)


def test_unknown_and_other_peoples_pairs_and_votes_are_refused(
    app: FastAPI, client: TestClient, journal: Journal
) -> None:
    pair = given(client)
    vote = client.post("/api/votes", json={"pair": pair, "choice": "a"}).json()["id"]
    with TestClient(app) as other:
        given(other)
        assert "'nope'" in one_line(
            other.post("/api/votes", json={"pair": "nope", "choice": "a"}), 404
        )
        one_line(other.post("/api/votes", json={"pair": pair, "choice": "a"}), 403)
        one_line(other.patch(f"/api/votes/{vote}", json={"comment": "mine"}), 403)
        one_line(other.delete(f"/api/votes/{vote}"), 403)
        one_line(other.patch("/api/votes/nope", json={}), 404)
        one_line(other.delete("/api/votes/no%0Apé"), 404)
        assert other.get("/api/me/votes").json() == []
    assert len(journal.votes(include_superseded=True)) == 1


def test_words_may_follow_the_vote_and_undo_ends_it(client: TestClient, journal: Journal) -> None:
    pair = given(client)
    made = client.post("/api/votes", json={"pair": pair, "choice": "a"}).json()
    path = f"/api/votes/{made['id']}"
    assert client.patch(path, json={"reasons": ["style"]}).status_code == 200
    assert client.patch(path, json={"comment": "because"}).json()["reasons"] == ["style"]
    assert client.patch(path, json={}).json()["comment"] == "because"
    assert client.patch(path, json={"reasons": []}).json()["reasons"] == []
    for _ in range(2):
        response = client.delete(path)
        assert response.status_code == 200
        assert (response.json()["counted"], response.json()["why"]) == (False, "undone")
    assert "undid" in one_line(client.post("/api/votes", json={"pair": pair, "choice": "a"}), 409)
    one_line(client.patch(path, json={"comment": "late"}), 409)
    assert [v.comment for v in journal.votes(include_superseded=True)] == ["because"]


def test_an_undone_skip_may_be_voted_on(client: TestClient) -> None:
    pair = given(client)
    skip = client.post("/api/votes", json={"pair": pair, "choice": "skip"}).json()
    assert client.delete(f"/api/votes/{skip['id']}").json()["models"] is None
    assert client.post("/api/votes", json={"pair": pair, "choice": "a"}).status_code == 201


def test_receipts_are_the_voters_own(client: TestClient, journal: Journal) -> None:
    shown = client.post("/api/pairs").json()
    pair = shown["id"]
    sent = {"pair": pair, "choice": "a", "reasons": ["safe"], "comment": "x"}
    made = client.post("/api/votes", json=sent).json()
    (receipt,) = client.get("/api/me/votes").json()
    assert receipt.pop("created_at").endswith("Z")
    assert receipt == {
        **sent,
        "id": made["id"],
        "counted": True,
        "why": None,
        "undone_at": None,
        "models": made["models"],
        "in_argilla": False,
        "prompt": f"What is {pair}?",
        "a": shown["a"],
        "b": shown["b"],
    }
    journal.mark_votes_delivered(journal.undelivered_votes(9)).result()
    assert client.get("/api/me/votes").json()[0]["in_argilla"] is True


def test_at_most_four_pairs_are_open(client: TestClient) -> None:
    assert [given(client) for _ in range(5)] == ["p0", "p1", "p2", "p3", "p0"]


def test_too_fast_is_429_and_passes(client: TestClient, journal: Journal) -> None:
    vote = {"pair": given(client), "choice": "a"}
    statuses = [client.post("/api/votes", json=vote).status_code for _ in range(20)]
    assert statuses == [201] + [200] * 19
    refused = client.post("/api/votes", json=vote)
    while refused.status_code != 429:  # a slow machine earns tokens while it asks
        refused = client.post("/api/votes", json=vote)
    one_line(refused, 429)
    assert refused.headers["Retry-After"] == "1"
    time.sleep(1)
    assert client.post("/api/votes", json=vote).status_code == 200
    assert len(journal.votes()) == 1


def test_a_full_disk_is_507_and_keeps_the_models_hidden(
    client: TestClient, journal: Journal
) -> None:
    pair = given(client)
    fill_disk(journal)
    for number in range(100):  # use up the room that the file's last pages had
        if journal.set_note(f"n{number}", "x" * 3000).exception():
            break
    vote = {"pair": pair, "choice": "a", "comment": "é" * 2000}
    refused = client.post("/api/votes", json=vote)
    assert "disk is full" in one_line(refused, 507)
    assert journal.votes() == []
    free_disk(journal)
    assert client.post("/api/votes", json=vote).status_code == 201


# Who votes


def test_the_cookie_is_signed_and_out_of_reach_of_scripts(app: FastAPI, client: TestClient) -> None:
    response = client.post("/api/pairs")
    parts = {part.strip().lower() for part in response.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/", "max-age=34560000"} == parts
    assert "set-cookie" not in client.post("/api/pairs").headers
    with TestClient(app, base_url="https://votes.example") as secure:
        assert "; secure" in secure.post("/api/pairs").headers["set-cookie"].lower()
    with TestClient(app, headers={"X-Forwarded-Proto": "https"}) as proxied:
        assert "; secure" in proxied.post("/api/pairs").headers["set-cookie"].lower()


def test_a_forged_cookie_is_somebody_new(app: FastAPI, client: TestClient) -> None:
    pair = given(client)
    voter, _, signature = client.cookies["votetune_voter"].partition(".")
    # Not only its end: the last character's low bits are no part of what is signed.
    wrong = signature.swapcase()
    for cookie in (voter, f"{voter}.{wrong}", "garbage", f"anon-0.{signature}"):
        with TestClient(app, headers={"Cookie": f"votetune_voter={cookie}"}) as forger:
            refused = forger.post("/api/votes", json={"pair": pair, "choice": "a"})
            one_line(refused, 403)
            assert voter not in refused.headers["set-cookie"]


# Bad bodies


BAD = [
    (b"", "body is missing"),
    (b"{", "not valid JSON"),
    (b"\xff\xfe", "not valid JSON"),
    (b"[" * 60_000, "not valid JSON"),
    (b'{"choice":' + b"1" * 5000 + b"}", "not valid JSON"),
    (b"[]", "not a JSON object"),
    (b"null", "JSON object"),
    (b"{}", '"pair" is missing'),
    (b'{"pair":"PAIR"}', '"choice" is missing: send "a", "b", "tie", "both_bad" or "skip"'),
    (b'{"pair":"PAIR","choice":"A"}', '"choice" can\'t be "A": send "a", "b"'),
    (b'{"pair":"PAIR","choice":1}', '"choice" can\'t be 1'),
    (b'{"pair":["PAIR"],"choice":"a"}', '"pair" can\'t be ["PAIR"]'),
    (b'{"pair":"","choice":"a"}', '"pair" can\'t be ""'),
    (b'{"pair":"PAIR","choice":"a","voter":"bob"}', '"voter" is not a field'),
    (b'{"pair":"PAIR","choice":"a","reasons":["nice"]}', '"reasons" can\'t be "nice"'),
    (b'{"pair":"PAIR","choice":"a","reasons":"safe"}', '"reasons" can\'t be "safe"'),
    (b'{"pair":"PAIR","choice":"a","comment":7}', '"comment" can\'t be 7'),
    (b'{"pair":"PAIR","choice":"a","comment":"\\u0000"}', "none of them NUL"),
    (b'{"pair":"PAIR","choice":"a","comment":"' + b"x" * 2001 + b'"}', "at most 2000"),
    (b'{"pair":"PAIR","choice":"a","comment":"\\ud800"}', "'comment' holds a lone surrogate"),
    (b'{"pair":"PAIR","choice":"\\udfff"}', "'choice' holds a lone surrogate"),
    (b'{"pair":"\\ud800","choice":"a"}', "'pair' holds a lone surrogate"),
    (b'{"pair":"PAIR","choice":"a","\\ud800":1}', "holds a lone surrogate"),
]


@pytest.mark.parametrize(("body", "line"), BAD, ids=[line for _, line in BAD])
def test_a_malformed_vote_is_one_line_and_changes_nothing(
    client: TestClient, journal: Journal, body: bytes, line: str
) -> None:
    sent = body.replace(b"PAIR", given(client).encode())
    response = client.post("/api/votes", content=sent, headers={"Content-Type": "application/json"})
    assert line in one_line(response, 422).replace('["p0"]', '["PAIR"]')
    assert journal.votes(include_superseded=True) == []


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    text = json.dumps({"pair": given(client), "choice": "a"})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post("/api/votes", content=text, headers={"Content-Type": kind})
        assert "application/json" in one_line(response, 422)


def test_a_large_body_is_413_whether_or_not_it_says_its_length(client: TestClient) -> None:
    large = b"x" * (64 * 1024 + 1)
    headers = {"Content-Type": "application/json"}
    for path in ("/api/votes", "/api/pairs"):
        one_line(client.post(path, content=large, headers=headers), 413)
    one_line(client.post("/api/votes", content=iter([large[:40_000]] * 2), headers=headers), 413)
    # Exactly 64 KiB is read, and refused for what it says.
    one_line(client.post("/api/votes", content=large[:-1], headers=headers), 422)


def test_what_is_no_route_is_one_line_and_the_page_is_untouched(app: FastAPI) -> None:
    app.mount("/", PlainTextResponse("the page"))
    with TestClient(app) as client:
        assert "GET '/api/nothing'" in one_line(client.get("/api/nothing"), 404)
        refused = client.get("/api/votes")
        assert "takes POST" in one_line(refused, 405)
        assert refused.headers["Allow"] == "POST"
        assert client.put("/api/votes/v1").headers["Allow"] == "DELETE, PATCH"
        assert client.get("/elsewhere").text == "the page"
        assert client.get("/api/docs").status_code == 200


def test_a_bug_is_500_in_one_line_and_in_the_log(
    journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Health:
        raise KeyError("/secret/path")

    app = FastAPI()
    voting = Voting(journal, votes_per_pair=1, side_secret=b"side")
    app.include_router(build_vote_routes(voting, VoterCookies(b"cookie"), broken))
    with caplog.at_level(logging.ERROR), TestClient(app) as client:
        assert "secret" not in one_line(client.get("/api/health"), 500)
    assert "/secret/path" in caplog.text


def test_openapi_documents_every_route_and_answer(client: TestClient) -> None:
    document = client.get("/api/openapi.json").json()
    answers = {
        (method, path): set(route["responses"])
        for path, routes in document["paths"].items()
        for method, route in routes.items()
    }
    assert answers == {
        ("get", "/api/health"): {"200"},
        ("post", "/api/pairs"): {"201", "401", "413", "429", "503", "507"},
        ("post", "/api/votes"): {
            *("200", "201", "401", "403", "404", "409", "413", "422", "429", "507"),
        },
        ("patch", "/api/votes/{id}"): {"200", "403", "404", "409", "413", "422", "507"},
        ("delete", "/api/votes/{id}"): {"200", "403", "404", "409", "422", "507"},
        ("get", "/api/me/votes"): {"200", "404", "422"},
        ("delete", "/api/me/votes"): {"200", "507"},
        ("get", "/api/me"): {"200"},
        ("get", "/api/progress"): {"200", "422"},
    }
    vote = document["components"]["schemas"]["VoteIn"]
    assert vote["required"] == ["pair", "choice"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


# Over real HTTP


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_voters_at_once_over_real_http_lose_and_double_nothing(
    app: FastAPI, journal: Journal
) -> None:
    journal.add_pairs([make_pair(f"p{n}") for n in range(10)]).result()

    async def voter(url: str) -> list[str]:
        async with httpx.AsyncClient(base_url=url) as client:
            ids = []
            for number in range(8):
                pair = (await client.post("/api/pairs")).json()
                sent: dict[str, Any] = {"pair": pair["id"], "choice": "ab"[number % 2]}
                answers = await asyncio.gather(
                    *(client.post("/api/votes", json=sent) for _ in range(2))
                )
                assert sorted(answer.status_code for answer in answers) == [200, 201]
                ids.append(answers[0].json()["id"])
            return ids

    async def everybody(url: str) -> list[list[str]]:
        return await asyncio.gather(*(voter(url) for _ in range(20)))

    with serving(app) as url:
        acknowledged = [vote for ids in asyncio.run(everybody(url)) for vote in ids]
    assert len(set(acknowledged)) == 160
    assert {vote.id for vote in journal.votes()} == set(acknowledged)


def test_a_vote_cast_in_argilla_cannot_be_undone_here(app: FastAPI, journal: Journal) -> None:
    journal.add_pairs([make_pair("p0")]).result()
    with TestClient(app) as client:
        client.post("/api/pairs")
        voter = client.cookies["votetune_voter"].partition(".")[0]
        vote = make_vote("r1", "p0", voter, source=VoteSource.ARGILLA)
        journal.mirror([], [vote]).result()
        assert "cast in Argilla" in one_line(client.delete("/api/votes/r1"), 409)
        (receipt,) = client.get("/api/me/votes").json()
        assert receipt["in_argilla"] is True


def test_the_lease_is_thirty_minutes(client: TestClient, journal: Journal) -> None:
    before = journal._clock()
    given(client)
    lasting = [LEASE.total_seconds() - 30, LEASE.total_seconds() + 30]
    ready = [
        journal.ready_count(votes_per_pair=1, now=before + LEASE * (seconds / 1800))
        for seconds in lasting
    ]
    assert ready == [39, 40]
