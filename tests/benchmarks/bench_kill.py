"""kill -9 while people vote, 100 times: how many acknowledged votes are lost. None may be.

Run as `python -m tests.benchmarks.bench_kill`. Of the rounds, all on one journal, the first are the
voters' routes alone and the last `--app` are the whole app, sampler and Argilla beside it.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.killed_server import Round, kill_rounds, start_routes, stored_votes
from tests.running_app import start_app

ROUNDS = 100
OF_THE_APP = 5
SEED = 1


def _report(name: str, done: Sequence[Round], began: float) -> str:
    lost, refused = {vote for one in done for vote in one.lost}, sum(one.refused for one in done)
    return (
        f"{name}: {len(done)} rounds of kill -9, {sum(one.acknowledged for one in done)} votes "
        f"acknowledged, {len(lost)} lost, {refused} refused; {time.monotonic() - began:.0f} s "
        f"(load {os.getloadavg()[0]:.1f})"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for the routes and one for the app; exit 1 where a vote is lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="in all")
    parser.add_argument("--app", type=int, default=OF_THE_APP, help="of them with the whole app")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="votetune-kill-") as scratch:
        routes, home = Path(scratch) / "routes", Path(scratch) / "home"
        routes.mkdir()

        def app() -> tuple[str, subprocess.Popen[bytes]]:
            started = start_app(home)
            return started.url, started.process

        lost = 0
        for name, start, folder, rounds in (
            ("voters' routes", lambda: start_routes(routes), routes, options.rounds - options.app),
            ("whole app", app, home, options.app),
        ):
            began, done = time.monotonic(), []
            for one in kill_rounds(start, folder / "journal.sqlite3", rounds=rounds, seed=SEED):
                done.append(one)
                lost += len(one.lost)
            print(_report(name, done, began), flush=True)
            if done:
                print(f"  {len(stored_votes(folder / 'journal.sqlite3'))} votes in the journal")
    if lost:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
