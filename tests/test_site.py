"""The composed app: what a start does to a home, and that one process tree is left or none."""

import sqlite3
import time
from pathlib import Path

import httpx
import psutil
import pytest
from oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider
from running_app import free_port, run_command, start_app, submitted_votes
from tiny import make_tiny_model

from tests.processes import command_of, has_ended

pytestmark = [pytest.mark.slow]


def waiting_bases(home: Path) -> set[str]:
    """Bases of the pairs that may still be shown."""
    with sqlite3.connect(f"file:{home / 'journal.sqlite3'}?mode=ro", uri=True) as journal:
        rows = journal.execute("SELECT * FROM pairs WHERE retired_at IS NULL").fetchall()
    return {"starter" if '"starter"' in str(row) else "other" for row in rows}


def has_warm_trainer(app: psutil.Process) -> bool:
    return any("alignment.places.warm" in command_of(child) for child in app.children())


def test_another_base_on_a_home_without_votes_shows_only_its_own_pairs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"Say the number {n}.\n" for n in range(60)))
    first = start_app(home, env={"PROMPTS": str(prompts), "WARM_TRAINER": "true"})
    assert waiting_bases(home) == {"starter"}
    app = psutil.Process(first.process.pid)
    first.wait_for("warm trainer", lambda _: has_warm_trainer(app))
    children = app.children(recursive=True)
    first.stop()
    gone_by = time.monotonic() + 15
    while not all(map(has_ended, children)) and time.monotonic() < gone_by:
        time.sleep(0.1)
    assert all(map(has_ended, children))
    assert not (home / "app.json").exists()

    tiny = make_tiny_model(tmp_path / "tiny")
    second = start_app(home, env={"PROMPTS": str(prompts), "BASE_MODEL": str(tiny)})
    try:
        assert str(tiny) in str(second.health()["base_model"])
        assert waiting_bases(home) == {"other"}
    finally:
        second.stop()


def test_a_voter_outlives_a_wiped_disk_where_the_secret_is_configured(tmp_path: Path) -> None:
    secret = {"COOKIE_SECRET": "nothing that a person would guess, ever"}
    first = start_app(tmp_path / "home", env=secret)
    with httpx.Client(base_url=first.url) as browser:
        assert browser.post("/api/pairs").status_code == 201
        voter = browser.cookies["votetune_voter"]
    first.stop()
    assert not (tmp_path / "home" / "cookie_secret").exists()

    second = start_app(tmp_path / "wiped", env={**secret, "ANONYMOUS_VOTES": "refuse"})
    try:
        with httpx.Client(base_url=second.url, cookies={"votetune_voter": voter}) as browser:
            assert "set-cookie" not in browser.get("/api/progress").headers
            assert browser.get("/api/progress").json()["pairs_wanted"] > 0
            assert browser.post("/api/pairs").status_code == 401
        assert "so nobody can vote: set it to count or store." in second.said
    finally:
        second.stop()


def test_where_accounts_are_wanted_a_signed_in_voter_votes_and_nobody_else(tmp_path: Path) -> None:
    """The real app against a provider on loopback; another site's page changes nothing."""
    port = free_port()
    provider = OidcProvider(redirects={f"http://127.0.0.1:{port}/login/callback"})
    provider.start()
    app = start_app(
        tmp_path / "home",
        port=port,
        env={
            "OAUTH_CLIENT_ID": CLIENT_ID,
            "OAUTH_CLIENT_SECRET": CLIENT_SECRET,
            "OPENID_PROVIDER_URL": provider.url,
            "COOKIE_SECRET": "nothing that a person would guess, ever",
            "ADMIN_USERS": "Ada",
            "ANONYMOUS_VOTES": "refuse",
        },
    )
    try:
        assert f"Admin  {app.url}/admin for ada after signing in" in app.said
        with httpx.Client(base_url=app.url, follow_redirects=True) as browser:
            refused = browser.post("/api/pairs")
            assert (refused.status_code, refused.json()["sign_in"]) == (401, "/login/huggingface")
            assert browser.get("/login/huggingface").status_code == 200
            me = browser.get("/api/me").json()
            assert (me["signed_in"], me["name"], me["sign_out"]) == (True, "ada", "/logout")
            pair = browser.post("/api/pairs").json()["id"]
            ballot = {"pair": pair, "choice": "a"}
            evil = browser.post("/api/votes", json=ballot, headers={"Origin": "https://evil.io"})
            assert evil.status_code == 403
            assert browser.post("/api/votes", json=ballot).json()["counted"]
            assert browser.get("/admin").url == f"{app.url}/admin/"
            copied = dict(browser.cookies)
            browser.post("/logout")
            assert not browser.get("/api/me").json()["signed_in"]
        with httpx.Client(base_url=app.url, cookies=copied) as thief:
            assert thief.post("/api/pairs").status_code == 401
            assert thief.get("/admin/config").status_code == 401
        app.wait_for("delivery", lambda h: h["argilla"] == "ready" and h["undelivered"] == 0)
        assert CLIENT_SECRET not in app.said
        assert len(submitted_votes(app.home)) == 1
        with sqlite3.connect(f"file:{app.home / 'journal.sqlite3'}?mode=ro", uri=True) as journal:
            assert journal.execute("SELECT voter FROM votes").fetchall() == [("hub-65f0c0ffee",)]
    finally:
        app.stop()
        provider.stop()


def test_sign_in_without_a_cookie_secret_is_refused_at_start_and_stops_no_command(
    tmp_path: Path,
) -> None:
    login = {"OAUTH_CLIENT_ID": CLIENT_ID, "OAUTH_CLIENT_SECRET": CLIENT_SECRET}
    done = run_command(tmp_path / "home", **login)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "COOKIE_SECRET is not set, and people sign in here" in done.stderr
    assert not (tmp_path / "home").exists()
    assert run_command(tmp_path / "home", "status", **login).returncode == 0
