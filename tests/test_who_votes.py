"""Who a voter is: the signed-in Hub user, else the cookie; what votes without sign-in are worth."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response

from annotation.home import Home, derived_secret
from annotation.journal.journal import Journal
from annotation.schema import VoteSource
from annotation.web.sessions import COOKIE_NAME as SESSION_COOKIE
from annotation.web.sessions import LIFE
from annotation.web.voters import VoterCookies
from tests.journal_parts import make_pair
from tests.voter_app import ADA, Door, one_line, request, voter_app


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3")
    made.add_pairs([make_pair(f"p{n}") for n in range(60)]).result()
    yield made
    made.close()


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(journal: Journal, door: Door) -> Iterator[Serve]:
    opened = []

    def make(session: str | None = None, *, sign_in: bool = True, **voting: Any) -> TestClient:
        sessions = door.sessions if sign_in else None
        client = TestClient(voter_app(journal, sessions=sessions, **voting))
        if session is not None:
            client.cookies.set(SESSION_COOKIE, session)
        opened.append(client)
        return client.__enter__()

    yield make
    for client in opened:
        client.__exit__(None, None, None)


def vote(client: TestClient) -> dict[str, Any]:
    pair = client.post("/api/pairs").json()["id"]
    return dict(client.post("/api/votes", json={"pair": pair, "choice": "a"}).json())


def test_a_signed_in_voter_is_the_account_on_every_browser(
    serve: Serve, door: Door, journal: Journal
) -> None:
    for _ in range(2):
        client = serve(door.cookie())
        assert vote(client)["counted"] is True
        assert "votetune_voter" not in client.cookies
    assert {v.voter for v in journal.votes()} == {ADA.voter}
    assert len(client.get("/api/me/votes").json()) == 2


def test_signing_in_and_out_leaves_the_anonymous_voter_as_they_were(
    serve: Serve, door: Door, journal: Journal
) -> None:
    client = serve()
    vote(client)
    client.cookies.set(SESSION_COOKIE, door.cookie())
    vote(client)
    client.cookies.delete(SESSION_COOKIE)
    vote(client)
    voters = [v.voter for v in journal.votes()]
    assert voters[1] == ADA.voter
    assert voters[0] == voters[2] != ADA.voter


def test_an_expired_or_ended_session_is_nobodys(serve: Serve, door: Door, journal: Journal) -> None:
    cookie = door.cookie()
    door.now += LIFE + timedelta(seconds=1)
    vote(serve(cookie))
    ended = door.cookie()
    asks = request(ended)
    assert door.sessions.find(asks) is not None
    door.sessions.end(Response(), asks)
    vote(serve(ended))
    assert {v.voter[:5] for v in journal.votes()} == {"anon-"}


def test_a_forged_session_is_nobodys(serve: Serve, door: Door, journal: Journal) -> None:
    good = door.cookie()
    number, _, signature = good.partition(".")
    theirs = Door(door.file.parent, b"another secret").cookie()
    # Letters in the other case: at random, a changed end or beginning may be what was there.
    wrong = (f"{number}.{signature.swapcase()}", f"{number.swapcase()}.{signature}")
    for forged in (theirs, *wrong, number, ADA.voter, ""):
        vote(serve(forged))
    assert {v.voter[:5] for v in journal.votes()} == {"anon-"}


def test_without_sign_in_no_session_is_believed(serve: Serve, door: Door, journal: Journal) -> None:
    client = serve(door.cookie(), sign_in=False)
    # What Gradio's own sign-in would keep: its mock signs everybody in.
    client.cookies.set("session", "eyJvYXV0aF9pbmZvIjp7InVzZXJpbmZvIjp7InN1YiI6IjEifX19")
    vote(client)
    assert [v.voter[:5] for v in journal.votes()] == ["anon-"]


def test_the_voters_cookie_never_stands_for_a_sign_in() -> None:
    cookies = VoterCookies(b"cookie")
    assert cookies.read(cookies.value("anon-1")) == "anon-1"
    assert cookies.read(cookies.value(ADA.voter)) is None


def test_nothing_but_cookie_and_session_says_who_votes(serve: Serve, journal: Journal) -> None:
    """One cookie under many addresses is one voter, and one address with two cookies is two."""
    client = serve(sign_in=False)
    for n in range(4):
        client.headers.update(
            {
                "X-Forwarded-For": f"10.0.0.{n}",
                "X-Real-IP": f"10.0.0.{n}",
                "Forwarded": f"for=10.0.0.{n}",
                "X-Forwarded-User": f"user-{n}",
                "Authorization": f"Bearer {n}",
                "X-Voter": f"voter-{n}",
            }
        )
        vote(client)
    assert len({v.voter for v in journal.votes()}) == 1
    vote(serve(sign_in=False))
    assert len({v.voter for v in journal.votes()}) == 2
    body = {"pair": "p0", "choice": "a", "voter": "hub-1"}
    assert '"voter" is not a field' in one_line(client.post("/api/votes", json=body), 422)


def test_forwarded_addresses_buy_no_more_votes(serve: Serve) -> None:
    client = serve()
    sent = {"pair": client.post("/api/pairs").json()["id"], "choice": "a"}
    statuses = [
        client.post("/api/votes", json=sent, headers={"X-Forwarded-For": f"10.0.0.{n}"}).status_code
        for n in range(60)
    ]
    assert 429 in statuses


def test_pairs_have_a_limit_of_their_own(serve: Serve) -> None:
    client = serve()
    statuses = [client.post("/api/pairs").status_code for _ in range(40)]
    assert set(statuses) == {201}
    refused = client.post("/api/pairs")
    while refused.status_code != 429:  # a slow machine earns tokens while it asks
        refused = client.post("/api/pairs")
    assert "Too many pairs" in one_line(refused, 429)
    assert refused.headers["Retry-After"] == "1"
    assert vote_status(client) == 404, "votes are counted apart"


def vote_status(client: TestClient) -> int:
    return client.post("/api/votes", json={"pair": "nowhere", "choice": "a"}).status_code


# ANONYMOUS_VOTES


def test_stored_only_votes_say_so_and_never_leave(
    serve: Serve, door: Door, journal: Journal
) -> None:
    client = serve(anonymous="store")
    answer = vote(client)
    assert (answer["counted"], answer["why"]) == (
        False,
        "votes without sign-in are kept but not counted",
    )
    assert set(answer["models"]) == {"a", "b"}
    assert client.get("/api/me/votes").json()[0]["why"] == answer["why"]
    assert (journal.vote_count(), journal.undelivered_count()) == (0, 0)
    assert journal.wanted_count(1) == 60
    signed = serve(door.cookie(), anonymous="store")
    assert vote(signed)["counted"] is True


@pytest.mark.parametrize("sign_in", [True, False])
def test_refused_votes_are_401_and_name_the_way_in_where_there_is_one(
    serve: Serve, journal: Journal, sign_in: bool
) -> None:
    client = serve(sign_in=sign_in, anonymous="refuse")
    for path, body in (("pairs", None), ("votes", {"pair": "p0", "choice": "a"})):
        refused = client.post(f"/api/{path}", json=body)
        said = one_line(refused, 401)
        if sign_in:
            assert refused.json()["sign_in"] == "/login/huggingface"
        else:
            assert list(refused.json()) == ["detail"] and "no votes without sign-in" in said
        assert "set-cookie" not in refused.headers
    assert journal.votes() == []
    assert client.get("/api/progress").status_code == 200
    assert client.get("/api/me/votes").json() == []


def test_who_signs_in_may_vote_where_others_are_refused(serve: Serve, door: Door) -> None:
    client = serve(door.cookie(), anonymous="refuse")
    assert vote(client)["counted"] is True


@pytest.mark.parametrize("anonymous", ["count", "store", "refuse"])
def test_scripted_voters_always_count(serve: Serve, anonymous: str) -> None:
    client = serve(anonymous=anonymous, source=VoteSource.SYNTHETIC)
    assert vote(client)["counted"] is True


# COOKIE_SECRET


def test_a_configured_secret_outlives_the_disk_and_differs_by_use(tmp_path: Path) -> None:
    configured = "of the owner" * 4
    voter = VoterCookies(derived_secret(configured, "cookie_secret")).value("anon-1")
    assert VoterCookies(derived_secret(configured, "cookie_secret")).read(voter) == "anon-1"
    assert VoterCookies(derived_secret(f"{configured}!", "cookie_secret")).read(voter) is None
    assert len(derived_secret(configured, "side_secret")) == 32
    assert derived_secret(configured, "side_secret") != derived_secret(configured, "cookie_secret")
    home = Home(tmp_path)
    assert VoterCookies(home.secret("cookie_secret")).read(voter) is None
