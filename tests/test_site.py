"""The composed app: what a start does to a home, and that one process tree is left or none."""

import sqlite3
import time
from pathlib import Path

import httpx
import psutil
import pytest
from running_app import start_app
from tiny import make_tiny_model

pytestmark = [pytest.mark.slow]


def waiting_bases(home: Path) -> set[str]:
    """Bases of the pairs that may still be shown."""
    with sqlite3.connect(f"file:{home / 'journal.sqlite3'}?mode=ro", uri=True) as journal:
        rows = journal.execute("SELECT * FROM pairs WHERE retired_at IS NULL").fetchall()
    return {"starter" if '"starter"' in str(row) else "other" for row in rows}


def has_warm_trainer(app: psutil.Process) -> bool:
    return any("alignment.places.warm" in child.cmdline() for child in app.children())


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
    while any(child.is_running() for child in children) and time.monotonic() < gone_by:
        time.sleep(0.1)
    assert not [child for child in children if child.is_running()]
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
