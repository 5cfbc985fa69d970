"""Press to acknowledgement, 300 voters thinking 6 s: our vote page, and one of Gradio's components.

Both pages are alone on the machine with their voters, over the same pairs, and commit as durably.
In each round they take turns on a fresh server; the first seconds, while the voters drop in, count
for nothing. Raises where an acknowledged vote is not in its page's file, or one is there twice.
"""

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from annotation.journal.journal import Journal
from tests.benchmarks.bench_votes import THINK_S, percentile
from tests.benchmarks.peers.ends import leave_on_sigterm
from tests.benchmarks.peers.table import Goal, Row
from tests.benchmarks.peers.voters import Voted
from tests.journal_parts import make_pair
from tests.running_app import ROOT, free_port, start_app

VOTERS = 300
RAMP_S = THINK_S
SECONDS = 8.0
ROUNDS = 5
"""The peer's p95 was 24 ms in one round and 64 ms in the next: more rounds, each shorter."""
PAIRS = 4000
PAIR_SIZE = 80
"""Words an answer; a voter is shown each pair once at most."""
START_TIMEOUT_S = 60
QUEUED = "40"
"""Gradio's `default_concurrency_limit` of the row: its own thread pool's size."""


def rows() -> Iterator[Row]:
    """The row; the peer's other settings and our whole app stand in its notes."""
    ours, peer = [], []
    for _ in range(ROUNDS):
        ours.append(_ours())
        peer.append(_stock(QUEUED))
    others = {
        f"{name} p95 {_p95(seen):.0f} ms": seen
        for name, seen in (
            ("no limit", _stock("none")),
            ("past the queue (`queue=False`)", _stock("unqueued")),
            ("our whole app, sampler and Argilla beside it,", _whole_app()),
        )
    }
    every = [*ours, *peer, *others.values()]
    next_ms = statistics.median(
        percentile([sum(both) for both in zip(seen.votes_ms, seen.pairs_ms, strict=True)], 95)
        for seen in ours
    )
    yield Row(
        what=f"a vote, press to acknowledged, p95, {VOTERS} voters thinking {THINK_S:.0f} s",
        against=f"the page of Gradio's components, queue on, concurrency limit {QUEUED}",
        unit="ms",
        ours=[_p95(seen) for seen in ours],
        peer=[_p95(seen) for seen in peer],
        direction="less is better",
        goal=Goal("at most", 1 / 20),
        checked=(
            f"{sum(len(seen.saved) for seen in every)} votes acknowledged, each in its page's "
            f"file once; {sum(len(seen.errors) for seen in every)} refused"
        ),
        notes=(
            f"p50 {_p50(ours):.1f} against {_p50(peer):.1f} ms; ours with the next pair fetched, "
            f"as the peer's answer holds it, p95 {next_ms:.1f} ms; one round each: "
            f"{', '.join(others)}; load {os.getloadavg()[0]:.1f}"
        ),
    )


def _p95(seen: Voted) -> float:
    return percentile(seen.votes_ms, 95)


def _p50(rounds: list[Voted]) -> float:
    return statistics.median(percentile(seen.votes_ms, 50) for seen in rounds)


def _ours() -> Voted:
    """One round of our page."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        journal = Journal(folder / "journal.sqlite3")
        journal.add_pairs([make_pair(f"p{n}", size=PAIR_SIZE) for n in range(PAIRS)]).result()
        journal.close()
        with _served("our_page", folder) as url:
            seen = _vote("ours", url)
        return _checked(seen, folder / "journal.sqlite3")


def _stock(limit: str) -> Voted:
    """One round of the page of Gradio's components, over the same pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with (folder / "pairs.jsonl").open("w") as lines:
            for pair in (make_pair(f"p{n}", size=PAIR_SIZE) for n in range(PAIRS)):
                answers = [completion.text for completion in pair.completions]
                asked = pair.prompt.messages[-1].content
                print(json.dumps({"id": pair.id, "prompt": asked, "answers": answers}), file=lines)
        with _served("stock_page", folder, limit) as url:
            seen = _vote("unqueued" if limit == "unqueued" else "queued", url)
        return _checked(seen, folder / "votes.sqlite3")


def _whole_app() -> Voted:
    """One round of `python app.py` on an empty home."""
    with tempfile.TemporaryDirectory() as scratch:
        app = start_app(Path(scratch) / "home")
        try:
            app.wait_for("Argilla", lambda health: health["argilla"] == "ready", 240)
            seen = _vote("ours", app.url)
        finally:
            app.stop()
        return _checked(seen, app.home / "journal.sqlite3")


@contextmanager
def _served(page: str, folder: Path, *words: str) -> Iterator[str]:
    """The address of a page that answers, as a program of its own until the end."""
    port = free_port()
    command = [sys.executable, "-m", f"tests.benchmarks.peers.{page}", str(folder), str(port)]
    process = subprocess.Popen([*command, *words], cwd=ROOT, stdin=subprocess.DEVNULL)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_TIMEOUT_S
    try:
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{page} does not answer on {url}.")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=START_TIMEOUT_S).status_code == 200
    except httpx.HTTPError:
        return False


def _vote(kind: str, url: str) -> Voted:
    """A round of all voters, from a process of their own."""
    words = [kind, url, str(VOTERS), str(RAMP_S), str(SECONDS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.peers.voters", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return Voted(**json.loads(done.stdout))


def _checked(seen: Voted, file: Path) -> Voted:
    """`seen`, where the file holds each acknowledged vote, and each pair once from a voter."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        pair = "pair" if file.name == "votes.sqlite3" else "pair_id"
        stored = db.execute(f"SELECT id, {pair}, voter FROM votes").fetchall()
    if lost := set(seen.saved) - {vote for vote, _, _ in stored}:
        raise RuntimeError(f"{len(lost)} acknowledged votes are not in {file}: {sorted(lost)[:3]}")
    if len({(pair, voter) for _, pair, voter in stored}) != len(stored):
        raise RuntimeError(f"{file} holds a voter's vote on a pair twice.")
    if not seen.votes_ms:
        raise RuntimeError(f"nobody voted on {file}: {seen.errors[:3]}")
    return seen


if __name__ == "__main__":
    leave_on_sigterm()
    for row in rows():
        print(row)
