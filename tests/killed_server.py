"""A server that is killed while people vote, again and again: is every acknowledged vote there?

As a program (`python -m tests.killed_server FOLDER PORT`) it serves the voters' routes over a
journal in FOLDER, with no model and no Argilla, so that a round takes seconds.
"""

import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from annotation.journal.journal import Journal
from annotation.voting import Voting
from annotation.web.api_errors import install_api_errors
from annotation.web.routes import Health, build_vote_routes
from annotation.web.voters import VoterCookies
from tests.journal_parts import make_pair
from tests.running_app import ROOT, free_port

CLIENTS = 8
PAIRS = 400
FEWEST, MOST = 20, 150
"""Between so many acknowledged votes, drawn anew for each round, the server is killed."""
PATIENCE_S = 60


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
    """CLIENTS of them at work, and what stops them."""
    stop = threading.Event()
    started = [Voter(url, stop) for _ in range(CLIENTS)]
    for voter in started:
        voter.start()
    return started, stop


def stored_votes(journal: Path) -> set[str]:
    """The ids in a journal's file, which must be whole."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {row[0] for row in db.execute("SELECT id FROM votes")}


@dataclass(frozen=True, slots=True)
class Round:
    """One life of a server. `lost` were acknowledged, in this life or before, and are not there."""

    acknowledged: int
    lost: frozenset[str]
    refused: int


def kill_rounds(
    start: Callable[[], tuple[str, subprocess.Popen[bytes]]],
    journal: Path,
    *,
    rounds: int,
    seed: int,
) -> Iterator[Round]:
    """`start` a server, let people vote, kill -9, look; so many times on one journal."""
    drawn = random.Random(seed)
    acknowledged: set[str] = set()
    for _ in range(rounds):
        url, process = start()
        clients, stop = voters(url)
        wanted, deadline = drawn.randint(FEWEST, MOST), time.monotonic() + PATIENCE_S
        while sum(len(c.acknowledged) for c in clients) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.wait(10)
        stop.set()
        for client in clients:
            client.join(20)
        mine = {vote for client in clients for vote in client.acknowledged}
        acknowledged |= mine
        lost = frozenset(acknowledged - stored_votes(journal))
        yield Round(len(mine), lost, sum(len(client.refused) for client in clients))


def start_routes(folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """This module as a program on `folder`; its address and process, once it answers."""
    port = free_port()
    words = ["-m", "tests.killed_server", str(folder), str(port)]
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdin=subprocess.DEVNULL)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            if httpx.get(f"{url}/api/health", timeout=5).status_code == 200:
                return url, process
        except httpx.HTTPError:
            time.sleep(0.05)
    process.kill()
    raise AssertionError(f"no answer within {PATIENCE_S} s")


def main() -> None:
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    journal = Journal(folder / "journal.sqlite3")
    if not journal.pairs():
        journal.add_pairs([make_pair(f"p{n}") for n in range(PAIRS)]).result()
    voting = Voting(journal, votes_per_pair=1, side_secret=b"of the sides")
    health = Health("ok", PAIRS, "unreachable", 0, "starter")
    app = FastAPI()
    app.include_router(build_vote_routes(voting, VoterCookies(b"of the cookies"), lambda: health))
    install_api_errors(app)
    uvicorn.run(app, port=port, log_level="warning", loop="uvloop", http="httptools")


if __name__ == "__main__":
    main()
