"""kill -9 while threads vote: what was acknowledged is in the journal, and the journal is whole."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from annotation.journal.journal import Journal
from tests.journal_parts import make_pair
from tests.killed_server import FEWEST, kill_rounds, start_routes

ROOT = Path(__file__).parent.parent
ROUNDS = 3
ACKNOWLEDGED_BEFORE_THE_KILL = 400

VOTERS = """
import itertools, pathlib, sys, threading
from annotation.journal.journal import Journal
from annotation.schema import Choice
from tests.journal_parts import make_vote

path, round_ = pathlib.Path(sys.argv[1]), sys.argv[2]
journal = Journal(path)
pairs = [pair.id for pair in journal.pairs()]
printing = threading.Lock()

def vote(worker):
    for number in itertools.count():
        name = f"{round_}-{worker}-{number}"
        pair = pairs[number % len(pairs)]
        cast = make_vote(name, pair, f"voter-{name}", Choice.B)
        journal.add_vote(cast).result()
        if number % 5 == 0:
            journal.undo_vote(name, voter=cast.voter).result()
        with printing:
            print(name, flush=True)

for worker in range(8):
    threading.Thread(target=vote, args=(worker,)).start()
"""


def acknowledged_until_killed(path: Path, round_: int) -> list[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", VOTERS, str(path), str(round_)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(ACKNOWLEDGED_BEFORE_THE_KILL)]
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    # What the pipe still held was acknowledged too; a last line cut short was not printed whole.
    return [
        line.strip().decode() for line in [*lines, *rest.splitlines(True)] if line[-1:] == b"\n"
    ]


def test_acknowledged_votes_survive_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path)
    journal.add_pairs([make_pair(f"p{n}") for n in range(40)]).result()
    journal.close()
    acknowledged: list[str] = []
    for round_ in range(ROUNDS):
        acknowledged += acknowledged_until_killed(path, round_)
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()
        journal = Journal(path)
        stored = {vote.id: vote for vote in journal.votes(include_superseded=True)}
        assert len(acknowledged) >= (round_ + 1) * ACKNOWLEDGED_BEFORE_THE_KILL
        assert set(acknowledged) <= set(stored)
        undone = {name for name in acknowledged if int(name.rsplit("-", 1)[1]) % 5 == 0}
        assert all(
            (stored[name].superseded_at is not None) == (name in undone) for name in acknowledged
        )
        journal.close()


def test_votes_acknowledged_over_http_survive_kill_9(tmp_path: Path) -> None:
    """Five rounds of `bench_kill` on one journal, another seed."""
    rounds = kill_rounds(
        lambda: start_routes(tmp_path), tmp_path / "journal.sqlite3", rounds=5, seed=2
    )
    for done in rounds:
        assert done.acknowledged >= FEWEST
        assert not done.lost
        assert not done.refused
