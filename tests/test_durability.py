"""No vote is lost: not when the app is killed, not while Argilla is away."""

import time
from pathlib import Path

import pytest
from running_app import start_app, submitted_votes

from tests.killed_server import stored_votes, voters

pytestmark = [pytest.mark.slow, pytest.mark.argilla]


def test_kill_9_while_8_clients_vote_loses_no_acknowledged_vote(tmp_path: Path) -> None:
    home = tmp_path / "home"
    app = start_app(home)
    clients, stop = voters(app.url)
    deadline = time.monotonic() + 30
    while sum(len(c.acknowledged) for c in clients) < 60 and time.monotonic() < deadline:
        time.sleep(0.05)
    app.kill()
    stop.set()
    for client in clients:
        client.join(20)
    acknowledged = {vote for client in clients for vote in client.acknowledged}
    assert len(acknowledged) >= 60
    assert not [status for client in clients for status in client.refused]
    assert acknowledged <= stored_votes(home / "journal.sqlite3")

    again = start_app(home)
    try:
        again.wait_for("Argilla", lambda h: h["argilla"] == "ready" and h["undelivered"] == 0, 180)
        assert len(submitted_votes(home)) == len(stored_votes(home / "journal.sqlite3"))
    finally:
        again.stop()


def test_argilla_away_refuses_nothing_and_catches_up(tmp_path: Path) -> None:
    """Another Argilla by address; stopped while people vote, then back on its own data."""
    from argilla_fixture import wait_ready

    from annotation.argilla_server.launcher import EmbeddedArgilla

    server = EmbeddedArgilla(tmp_path / "elsewhere")
    server.start()
    credentials = wait_ready(server)
    app = start_app(
        tmp_path / "home",
        env={"ARGILLA_API_URL": credentials.api_url, "ARGILLA_API_KEY": credentials.api_key},
    )
    try:
        app.wait_for("Argilla", lambda h: h["argilla"] == "ready")
        server.stop()
        clients, stop = voters(app.url)
        app.wait_for("undelivered votes", lambda h: h["undelivered"] >= 30)
        app.wait_for("word of it", lambda h: h["argilla"] == "unreachable")
        stop.set()
        for client in clients:
            client.join(20)
        assert not [status for client in clients for status in client.refused]
        acknowledged = {vote for client in clients for vote in client.acknowledged}
        assert acknowledged <= stored_votes(app.home / "journal.sqlite3")

        server = EmbeddedArgilla(tmp_path / "elsewhere")
        server.start()
        assert wait_ready(server).api_url == credentials.api_url
        app.wait_for("delivery", lambda h: h["undelivered"] == 0, 180)
    finally:
        app.stop()
        server.stop()
