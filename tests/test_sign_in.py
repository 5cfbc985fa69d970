"""Signing in against a provider on loopback: what opens a session, what ends it."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider
from pydantic import SecretStr
from starlette.requests import Request
from starlette.testclient import TestClient

from annotation.schema import utc_now
from annotation.web.sessions import COOKIE_NAME, LIFE, Account, Sessions
from annotation.web.sign_in import (
    STATE_COOKIE,
    Provider,
    SignIn,
    build_sign_in_routes,
    own_path,
    voter_id,
    writes_for,
)

SECRET = b"a secret of the tests, 32 bytes.."
APP = "http://testserver"


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    provider = OidcProvider(redirects={f"{APP}/login/callback"})
    provider.start()
    yield provider
    provider.stop()


class App:
    """An app with the sign-in routes and one that says who asks."""

    def __init__(
        self,
        provider: OidcProvider,
        home: Path,
        *,
        framed: bool = False,
        url: str | None = None,
        organisation: str | None = None,
        on_sign_in: Callable[[Account], None] = lambda account: None,
    ) -> None:
        self.now = utc_now()
        self.sessions = Sessions(
            home / "sessions.json", SECRET, framed=framed, clock=lambda: self.now
        )
        registered = Provider(
            provider.url, CLIENT_ID, SecretStr(CLIENT_SECRET), "openid profile", url, organisation
        )
        flow = SignIn(registered, self.sessions, SECRET, framed=framed, on_sign_in=on_sign_in)
        app = FastAPI()
        app.include_router(build_sign_in_routes(flow))

        @app.get("/who")
        def who(request: Request) -> dict[str, str | None]:
            account = self.sessions.find(request)
            return {"voter": account and account.voter, "name": account and account.name}

        self.app = app

    def browser(self) -> TestClient:
        return TestClient(self.app, base_url=APP, follow_redirects=False)


@pytest.fixture
def app(provider: OidcProvider, tmp_path: Path) -> App:
    return App(provider, tmp_path)


def sign_in(browser: TestClient, path: str = "/login/huggingface") -> httpx.Response:
    """Walk the flow as a browser does; the app's last answer."""
    there = browser.get(path)
    assert there.status_code == 303, there.text
    back = httpx.get(there.headers["location"])
    assert back.status_code == 303, back.text
    return browser.get(back.headers["location"].removeprefix(APP))


def who(browser: TestClient) -> str | None:
    voter: str | None = browser.get("/who").json()["voter"]
    return voter


def test_an_account_is_one_voter_by_its_stable_id(app: App, provider: OidcProvider) -> None:
    browser = app.browser()
    assert who(browser) is None
    answer = sign_in(browser, "/login/huggingface?next=/%3Fview%3Dvotes")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?view=votes")
    assert browser.get("/who").json() == {"voter": "hub-65f0c0ffee", "name": "ada"}
    provider.user["preferred_username"] = "countess"  # renamed on the Hub: the same voter
    other = app.browser()
    sign_in(other)
    assert other.get("/who").json() == {"voter": "hub-65f0c0ffee", "name": "countess"}


def test_only_identity_is_asked_for_and_no_token_is_kept(
    app: App, provider: OidcProvider, tmp_path: Path
) -> None:
    browser = app.browser()
    sign_in(browser)
    assert provider.asked[0]["scope"] == "openid profile"
    kept = (tmp_path / "sessions.json").read_text()
    assert not any(token in kept for token in provider._tokens)
    assert (tmp_path / "sessions.json").stat().st_mode & 0o777 == 0o600


def test_a_cookie_copied_before_the_logout_opens_nothing_after(app: App) -> None:
    browser, thief = app.browser(), app.browser()
    sign_in(browser)
    thief.cookies.set(COOKIE_NAME, browser.cookies[COOKIE_NAME])
    assert who(thief) == "hub-65f0c0ffee"
    assert browser.get("/logout").status_code == 405  # no picture's address signs anybody out
    assert browser.post("/logout").headers["location"] == "/"
    assert who(browser) is None
    assert who(thief) is None


def test_a_session_ends_by_itself_and_outlives_a_restart(
    app: App, provider: OidcProvider, tmp_path: Path
) -> None:
    browser = app.browser()
    sign_in(browser)
    again = App(provider, tmp_path)
    later = again.browser()
    later.cookies.set(COOKIE_NAME, browser.cookies[COOKIE_NAME])
    assert who(later) == "hub-65f0c0ffee"
    again.now = app.now + LIFE + timedelta(seconds=1)
    assert who(later) is None


def test_a_damaged_file_signs_everybody_out_and_stops_nothing(
    app: App, provider: OidcProvider, tmp_path: Path
) -> None:
    browser = app.browser()
    sign_in(browser)
    (tmp_path / "sessions.json").write_text("[{")
    again = App(provider, tmp_path).browser()
    again.cookies.set(COOKIE_NAME, browser.cookies[COOKIE_NAME])
    assert who(again) is None


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1] + "A", lambda c: c.split(".")[0], lambda c: ""]
)
def test_a_forged_cookie_is_nobody(app: App, change: object) -> None:
    browser, forger = app.browser(), app.browser()
    sign_in(browser)
    value = change(browser.cookies[COOKIE_NAME])  # type: ignore[operator]
    forger.cookies.set(COOKIE_NAME, value if value != browser.cookies[COOKIE_NAME] else value + "x")
    assert who(forger) is None


def test_a_sign_in_started_elsewhere_is_refused(app: App) -> None:
    """Login CSRF: a victim's browser is sent to the callback with the attacker's code."""
    attacker, victim = app.browser(), app.browser()
    there = attacker.get("/login/huggingface").headers["location"]
    back = httpx.get(there).headers["location"].removeprefix(APP)
    answer = victim.get(back)
    assert answer.status_code == 400
    assert "was not started here" in answer.text
    victim.get("/login/huggingface")  # even with a sign-in of its own under way
    answer = victim.get(back)
    assert answer.status_code == 400
    assert "does not match" in answer.text
    assert who(victim) is None


def test_a_code_is_good_once_and_a_state_for_one_sign_in(app: App) -> None:
    browser = app.browser()
    there = browser.get("/login/huggingface").headers["location"]
    back = httpx.get(there).headers["location"].removeprefix(APP)
    assert browser.get(back).status_code == 303
    assert browser.get(back).status_code == 400


def test_a_refusal_or_a_provider_that_is_down_is_one_line(app: App, provider: OidcProvider) -> None:
    browser = app.browser()
    provider.refuses = True
    there = browser.get("/login/huggingface").headers["location"]
    answer = browser.get(httpx.get(there).headers["location"].removeprefix(APP))
    assert (answer.status_code, answer.text.count("\n")) == (400, 1)
    assert "access_denied" in answer.text
    provider.down = True
    answer = browser.get("/login/huggingface")
    assert (answer.status_code, answer.text.count("\n")) == (400, 1)
    assert "can't be reached" in answer.text


@pytest.mark.parametrize("user", [{}, {"sub": ""}, {"sub": 7}, {"sub": None}])
def test_an_account_without_an_id_is_nobody(
    app: App, provider: OidcProvider, user: dict[str, object]
) -> None:
    provider.user = user
    browser = app.browser()
    assert sign_in(browser).status_code == 400
    assert who(browser) is None


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example",
        "//evil.example",
        "////evil.example",
        "/\\evil.example",
        "\\\\evil",
        "javascript:alert(1)",
        "/\t/evil.example",
        "",
        "evil",
        "/a\\..\\b",
    ],
)
def test_nobody_is_sent_to_another_site(target: str) -> None:
    assert own_path(target) == "/"


def test_own_paths_are_kept() -> None:
    for path in ("/", "/?view=votes", "/admin/", "/a//b?next=//x"):
        assert own_path(path) == path


def test_in_the_hubs_frame_cookies_are_secure_cross_site_and_partitioned(
    provider: OidcProvider, tmp_path: Path
) -> None:
    framed = App(provider, tmp_path, framed=True, url="https://ada-votetune.hf.space")
    provider.redirects.add("https://ada-votetune.hf.space/login/callback")
    answer = framed.browser().get("/login/huggingface")
    sent = answer.headers["set-cookie"]
    assert sent.startswith(f"{STATE_COOKIE}=")
    for attribute in ("HttpOnly", "Secure", "SameSite=none", "Partitioned"):
        assert attribute in sent
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["redirect_uri"] == ["https://ada-votetune.hf.space/login/callback"]


def org(**more: object) -> dict[str, object]:
    return {"sub": "65f00e6", "preferred_username": "Navy", "name": "The navy", **more}


@pytest.mark.parametrize(
    ("orgs", "writes"),
    [
        ([org(roleInOrg="write")], True),
        ([org(roleInOrg="admin")], True),
        ([org(roleInOrg="read"), org(roleInOrg="admin", preferred_username="NAVY")], True),
        ([org(roleInOrg="write", securityRestrictions=["ip"], missingMFA=False)], True),
        ([org(roleInOrg="read")], False),
        ([org(roleInOrg="contributor")], False),
        ([org()], False),  # the account did not let the app see it
        ([org(roleInOrg="admin", missingMFA=True)], False),
        ([org(roleInOrg="admin", pendingSSO=True)], False),
        ([org(roleInOrg="admin", securityRestrictions=["sso"])], False),
        ([org(roleInOrg="admin", preferred_username="army", name="navy")], False),
        ([org(roleInOrg="admin", preferred_username=None)], False),
        ([org(roleInOrg="admin", preferred_username="navy\u200b")], False),
        ([org(roleInOrg=["admin"])], False),
        (["navy", None, 7], False),
        ({"navy": "admin"}, False),
        (None, False),
    ],
)
def test_a_role_counts_in_the_owners_organisation_only(orgs: object, writes: bool) -> None:
    assert writes_for({"orgs": orgs}, "navy") is writes


def test_of_all_organisations_only_the_role_in_the_owners_is_kept(
    provider: OidcProvider, tmp_path: Path
) -> None:
    told: list[Account] = []
    app = App(provider, tmp_path, organisation="Navy", on_sign_in=told.append)
    army = org(roleInOrg="admin", preferred_username="army")
    provider.user["orgs"] = [army, org(roleInOrg="write")]
    sign_in(app.browser())
    assert told == [Account("hub-65f0c0ffee", "ada", "ada", "navy")]
    provider.user["orgs"] = [army]
    sign_in(app.browser())
    assert told[1] == Account("hub-65f0c0ffee", "ada", "ada", None)
    assert "army" not in (tmp_path / "sessions.json").read_text()


@pytest.mark.parametrize("username", [None, "", 7, ["ada"]])
def test_a_full_name_never_stands_for_a_username(
    provider: OidcProvider, tmp_path: Path, username: object
) -> None:
    told: list[Account] = []
    provider.user = {"sub": "1", "preferred_username": username, "name": "ada"}
    sign_in(App(provider, tmp_path, on_sign_in=told.append).browser())
    assert told == [Account("hub-1", "ada", None, None)]


def test_sessions_of_an_earlier_version_still_stand(
    app: App, provider: OidcProvider, tmp_path: Path
) -> None:
    browser = app.browser()
    sign_in(browser)
    file = tmp_path / "sessions.json"
    rows = json.loads(file.read_text())
    for row in rows:
        del row["account"]["username"], row["account"]["writes_for"]
    file.write_text(json.dumps(rows))
    again = App(provider, tmp_path).browser()
    again.cookies.set(COOKIE_NAME, browser.cookies[COOKIE_NAME])
    assert who(again) == "hub-65f0c0ffee"


def test_voters_of_odd_subjects_are_safe_and_distinct() -> None:
    odd = [voter_id(subject) for subject in ("Ä", "a b", "A", "x" * 300, "a/b")]
    assert len(set(odd)) == 5
    assert all(len(voter) <= 64 and voter.isascii() for voter in odd)


def test_a_session_store_needs_a_secret(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="secret is empty"):
        Sessions(tmp_path / "s.json", b"", framed=False)
