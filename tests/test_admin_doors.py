"""Who opens /admin: by account where people sign in, by the token elsewhere; nobody else."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from admin_site import ADA, BOB, AdminSite
from starlette.requests import Request
from starlette.responses import Response

from alignment.audit import Actor, AuditLog
from alignment.settings import AlignmentSettings
from alignment.web.admin.admin_doors import (
    BELIEVED,
    COOKIE,
    AccountDoor,
    AdminAccounts,
    TokenDoor,
)
from alignment.web.serve import build_door
from annotation.home import Home
from annotation.schema import utc_now
from annotation.web.sessions import COOKIE_NAME, Account, Sessions

# Gradio leaves event loops unclosed where Blocks are built.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
TOKEN = "token-of-the-owner-here"
GRACE: dict[str, object] = {
    "sub": "65f06ace",
    "preferred_username": "grace",
    "orgs": [{"sub": "65f00e6", "preferred_username": "Navy", "roleInOrg": "write"}],
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminSite]:
    made = AdminSite(
        tmp_path_factory.mktemp("doors"),
        admin_users="Ada,linus",
        admin_token=TOKEN,
        space_author_name="navy",
    )
    yield made
    made.close()


def status(browser: httpx.Client, path: str = "/admin/config") -> int:
    return browser.get(path, follow_redirects=False).status_code


@pytest.mark.slow
class TestByAccount:
    def test_nobody_is_sent_to_sign_in_and_comes_back(self, served: AdminSite) -> None:
        served.provider.user = ADA
        with served.browser() as browser:
            sent = browser.get("/admin", follow_redirects=False)
            assert sent.status_code == 303
            assert sent.headers["location"] == "/login/huggingface?next=%2Fadmin%2F"
            assert sent.headers["cache-control"] == "no-store"
            there = browser.get("/admin")
            assert (there.status_code, there.url) == (200, f"{served.url}/admin/")
            assert "Votetune admin" in there.text
            assert browser.get("/admin/config").json()["username"] == "ada"

    def test_an_admin_who_signs_in_is_written_down_and_a_voter_is_not(
        self, served: AdminSite
    ) -> None:
        log = AuditLog(served.home)
        before = len(log.latest())
        with served.sign_in(BOB):
            assert len(log.latest()) == before
        with served.sign_in(ADA):
            newest, *others = log.latest()
        assert len(others) == before
        assert newest.who == Actor("ada", "hub-65f0c0ffee")
        assert (newest.what, newest.ended) == ("signed in", "done")

    def test_a_voter_gets_one_clear_line_as_a_page(self, served: AdminSite) -> None:
        """Bob's full name is "ada", which anybody may call themselves."""
        with served.sign_in(BOB) as browser:
            page = browser.get("/admin")
            assert (page.status_code, page.headers["content-type"]) == (
                403,
                "text/html; charset=utf-8",
            )
            assert page.text.count("You are signed in as bob, who is no admin here: ask") == 1
            assert 'href="/login/huggingface?next=%2Fadmin%2F"' in page.text
            assert status(browser, "/admin/?token=" + TOKEN) == 403

    def test_a_name_on_the_refusal_is_inert(self, served: AdminSite) -> None:
        user = {"sub": "65f0bad", "preferred_username": "<img src=x onerror=alert(1)>"}
        with served.sign_in(user) as browser:
            assert "<img" not in browser.get("/admin").text

    @pytest.mark.parametrize("name", ["ada", "ADA", "Linus"])
    def test_names_are_compared_in_any_case(self, served: AdminSite, name: str) -> None:
        with served.sign_in({"sub": f"65f0{name.lower()}", "preferred_username": name}) as browser:
            assert status(browser) == 200

    def test_who_writes_for_the_owner_opens_it(self, served: AdminSite) -> None:
        with served.sign_in(GRACE) as browser:
            assert status(browser) == 200
        reader = GRACE | {"orgs": [{"preferred_username": "navy", "roleInOrg": "read"}]}
        with served.sign_in(reader) as browser:
            assert status(browser) == 403
            assert "for the organisation navy" in browser.get("/admin").text

    def test_the_token_opens_nothing_where_accounts_do(self, served: AdminSite) -> None:
        cookie = TokenDoor(TOKEN, AuditLog(served.home)).cookie
        with served.browser() as browser:
            answer = browser.get(f"/admin?token={TOKEN}", follow_redirects=False)
            assert answer.headers["location"].startswith("/login/huggingface?")
            browser.cookies.set(COOKIE, cookie)
            assert status(browser) == 401
        assert not served.home.admin_token.exists()

    def test_signing_out_closes_it_whoever_holds_the_cookie(self, served: AdminSite) -> None:
        with served.sign_in(ADA) as browser, served.browser() as thief:
            thief.cookies.set(COOKIE_NAME, browser.cookies[COOKIE_NAME])
            assert status(browser) == status(thief) == 200
            browser.post("/logout")
            assert status(browser) == status(thief) == 401
            body = {"data": []}
            assert thief.post("/admin/gradio_api/run/votes", json=body).status_code == 401

    @pytest.mark.parametrize(
        "path",
        [
            "/admin?next=https://evil.example",
            "//admin",
            "/admin//",
            "/ADMIN/",
            "/admin/?next=//evil.example",
        ],
    )
    def test_the_way_back_is_always_the_admin_page(self, served: AdminSite, path: str) -> None:
        with served.browser() as browser:
            answer = browser.get(served.url + path, follow_redirects=False)
        sent = urlsplit(answer.headers["location"])
        assert (sent.netloc, sent.path) == ("", "/login/huggingface")
        assert parse_qs(sent.query) == {"next": ["/admin/"]}


class Desk:
    """An account door over sessions whose clock the test turns."""

    def __init__(self, folder: Path, accounts: AdminAccounts) -> None:
        self.now = utc_now()
        home = Home(folder)
        self.sessions = Sessions(
            folder / "sessions.json", b"s" * 32, framed=False, clock=lambda: self.now
        )
        self.door = AccountDoor(accounts, self.sessions, AuditLog(home))

    def cookie(self, account: Account) -> str:
        answer = Response()
        self.sessions.open(
            answer,
            Request({"type": "http", "path": "/", "query_string": b"", "headers": []}),
            account,
        )
        return answer.headers["set-cookie"].split(";")[0]


ADMINS = AdminAccounts(frozenset({"ada", "sam", "kim"}), "navy")


def test_an_old_sign_in_is_believed_no_more(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ADMINS)
    cookie = desk.cookie(Account("hub-1", "ada", "ada"))
    assert desk.door.admin(cookie) == Actor("ada", "hub-1")
    desk.now += BELIEVED - timedelta(seconds=1)
    assert desk.door.admin(cookie)
    desk.now += timedelta(seconds=2)
    assert desk.door.admin(cookie) is None
    assert desk.sessions.account(cookie.partition("=")[2])  # they still vote


@pytest.mark.parametrize(
    "account",
    [
        Account("hub-2", "ada"),
        Account("hub-2", "ada", None),
        Account("hub-2", "x", "\u017fam"),  # long s: "sam" when folded
        Account("hub-2", "x", "\u212aim"),  # Kelvin sign: "kim" in small letters
        Account("hub-2", "x", "ada "),
        Account("hub-2", "x", "adam"),
        Account("hub-2", "x", "navy"),
        Account("hub-2", "x", "x", "army"),
    ],
)
def test_no_other_account_is_an_admin(tmp_path: Path, account: Account) -> None:
    desk = Desk(tmp_path, ADMINS)
    assert desk.door.admin(desk.cookie(account)) is None
    desk.door.note_sign_in(account)
    assert desk.door.audit.latest() == []


@pytest.mark.parametrize("cookies", [None, "", "x", f"{COOKIE_NAME}=", f"{COOKIE_NAME}=a.b", "é=é"])
def test_no_forged_session_opens(tmp_path: Path, cookies: str | None) -> None:
    assert Desk(tmp_path, ADMINS).door.admin(cookies) is None


def door_of(folder: Path, *, sign_in: bool, **settings: Any) -> TokenDoor | AccountDoor:
    home = Home(folder)
    site: Any = SimpleNamespace(
        alignment=AlignmentSettings(**settings),
        identity=SimpleNamespace(sessions=object() if sign_in else None),
        home=home,
        audit=AuditLog(home),
        on_space=False,
    )
    door = build_door(site)
    assert isinstance(door, TokenDoor | AccountDoor)
    return door


def test_admins_are_those_named_or_the_spaces_author(tmp_path: Path) -> None:
    named = door_of(tmp_path, sign_in=True, admin_users="Ada,grace", space_author_name="Navy")
    assert named.invitation == "/admin for ada, grace after signing in"
    author = door_of(tmp_path, sign_in=True, space_author_name="Navy")
    assert author.invitation == "/admin for navy after signing in"


def test_where_nobody_signs_in_or_nobody_is_named_the_token_opens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for settings in ({}, {"space_author_name": "ada"}):
            opened = door_of(tmp_path, sign_in=False, admin_token=TOKEN, **settings)
            assert opened.invitation == f"/admin?token={TOKEN}"
        assert door_of(tmp_path, sign_in=True).invitation.startswith("/admin?token=")
        assert caplog.text == ""
        assert isinstance(door_of(tmp_path, sign_in=False, admin_users="ada"), TokenDoor)
        assert "ADMIN_USERS opens nothing here: nobody can sign in" in caplog.text
        door_of(tmp_path, sign_in=True, admin_users="ada", admin_token=TOKEN)
        assert "ADMIN_TOKEN opens nothing here" in caplog.text
    assert TOKEN not in caplog.text
