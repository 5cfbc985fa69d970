"""No vote is lost: not when the app is killed, not while Argilla is away."""

import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest
from running_app import start_app, submitted_votes

pytestmark = [pytest.mark.slow, pytest.mark.argilla]
CLIENTS = 8


class Voter(threading.Thread):
    """Votes as fast as the server lets it, and remembers what was acknowledged."""

    def __init__(self, url: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._url, self._stop_event = url, stop
        self.acknowledged: list[str] = []
        self.refused: list[int] = []

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._stop_event.is_set():
                try:
                    self._vote(client)
                except httpx.HTTPError:
                    return  # the app was killed: what was not answered may be lost

    def _vote(self, client: httpx.Client) -> None:
        pair = client.post("/api/pairs")
        if pair.status_code == 503:
            time.sleep(0.2)
            return
        answer = client.post("/api/votes", json={"pair": pair.json()["id"], "choice": "a"})
        if answer.status_code in (200, 201):
            self.acknowledged.append(answer.json()["id"])
        elif answer.status_code == 429:
            time.sleep(float(answer.headers["Retry-After"]))
        else:
            self.refused.append(answer.status_code)


def voters(url: str) -> tuple[list[Voter], threading.Event]:
    stop = threading.Event()
    started = [Voter(url, stop) for _ in range(CLIENTS)]
    for voter in started:
        voter.start()
    return started, stop


def live_votes(home: Path) -> set[str]:
    with sqlite3.connect(f"file:{home / 'journal.sqlite3'}?mode=ro", uri=True) as journal:
        return {row[0] for row in journal.execute("SELECT id FROM votes")}


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
    assert acknowledged <= live_votes(home)

    again = start_app(home)
    try:
        again.wait_for("Argilla", lambda h: h["argilla"] == "ready" and h["undelivered"] == 0, 180)
        assert len(submitted_votes(home)) == len(live_votes(home))
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
        assert acknowledged <= live_votes(app.home)

        server = EmbeddedArgilla(tmp_path / "elsewhere")
        server.start()
        assert wait_ready(server).api_url == credentials.api_url
        app.wait_for("delivery", lambda h: h["undelivered"] == 0, 180)
    finally:
        app.stop()
        server.stop()
