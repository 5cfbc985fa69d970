"""Latency of POST /api/votes and /api/pairs while 300 voters think 6 s each, on the real app.

Run as `python -m tests.benchmarks.bench_votes`. The voters are one process of their own; it, the
server, the sampler and Argilla share the machine, as on a laptop. The CPU seconds of each process
and the machine's load stand beside the latencies, since others may use the cores too.
"""

import argparse
import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.running_app import ROOT, RunningApp, start_app

VOTERS = 300
THINK_S = 6.0
SECONDS = 60.0
GOAL_MS = 10.0
DRY_S = 1.0


@dataclass
class Tally:
    """What the voters saw. Milliseconds, statuses that no voter should see, ids of saved votes."""

    votes_ms: list[float] = field(default_factory=list)
    pairs_ms: list[float] = field(default_factory=list)
    dry: int = 0
    reconnects: int = 0
    errors: list[str] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    client_cpu_s: float = 0.0


class Page:
    """One voter's connection and cookie; opened again when the server has closed it."""

    def __init__(self, url: str, tally: Tally) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname, address.port
        self._tally = tally
        self._cookie = ""
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: object = None) -> tuple[int, dict[str, str], float]:
        """Status, body, and the milliseconds that both took, a new connection included."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{self._cookie}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        began = time.perf_counter()
        try:
            status, answer = await self._exchange(head.encode() + content)
        except (asyncio.IncompleteReadError, ConnectionError):
            # The server closed it just as we wrote, as after a pause; a page sends again too.
            self.close()
            status, answer = await self._exchange(head.encode() + content)
        return status, json.loads(answer), 1000 * (time.perf_counter() - began)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._open is None or self._open[0].at_eof():
            self.close()
            self._tally.reconnects += 1
            self._open = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._open
        writer.write(request)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [line.partition(": ") for line in lines[1:]]
        length = next(int(v) for k, _, v in headers if k.lower() == "content-length")
        for name, _, value in headers:
            if name.lower() == "set-cookie":
                self._cookie = f"Cookie: {value.partition(';')[0]}\r\n"
        return int(lines[0].split()[1]), await reader.readexactly(length)

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


async def vote_until(url: str, seed: int, until: float, tally: Tally) -> None:
    """One voter: a pair, a thought, a vote, again."""
    drawn = random.Random(seed)
    page = Page(url, tally)
    await asyncio.sleep(drawn.random() * THINK_S)
    while time.monotonic() < until:
        status, pair, took = await page.post("/api/pairs")
        if status == 503:
            tally.dry += 1
            await asyncio.sleep(DRY_S)
            continue
        if status != 201:
            tally.errors.append(f"{status} {pair}")
            continue
        tally.pairs_ms.append(took)
        await asyncio.sleep(drawn.expovariate(1 / THINK_S))
        choice = drawn.choice(["a", "b"])
        status, vote, took = await page.post("/api/votes", {"pair": pair["id"], "choice": choice})
        if status not in (200, 201):
            tally.errors.append(f"{status} {vote}")
            continue
        tally.votes_ms.append(took)
        tally.saved.append(vote["id"])
    page.close()


def be_the_voters(url: str, voters: int, seconds: float) -> None:
    """The voters' process: prints its tally as JSON."""

    async def all_of_them() -> Tally:
        tally = Tally()
        until = time.monotonic() + seconds
        await asyncio.gather(*(vote_until(url, seed, until, tally) for seed in range(voters)))
        return tally

    tally = asyncio.run(all_of_them())
    tally.client_cpu_s = time.process_time()
    print(json.dumps(asdict(tally)))


@dataclass(frozen=True, slots=True)
class Use:
    """CPU seconds so far: of the server, and of each of its children by name; resident MiB."""

    server_s: float
    children_s: dict[str, float]
    rss_mib: float


def use_of(app: RunningApp) -> Use:
    """What the app has used, its children apart."""
    server = psutil.Process(app.process.pid)
    children = {}
    for child in server.children(recursive=True):
        words = " ".join(child.cmdline())
        name = "Argilla" if "argilla" in words else "sampler"
        used = child.cpu_times()
        children[name] = children.get(name, 0.0) + used.user + used.system
    used = server.cpu_times()
    return Use(used.user + used.system, children, server.memory_info().rss / 2**20)


def measure(app: RunningApp, voters: int, seconds: float) -> str:
    """Let them vote; the report. SystemExit where an acknowledged vote is not in the journal."""
    before = use_of(app)
    words = ["--client", app.url, "--voters", str(voters), "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_votes", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    tally, after = Tally(**json.loads(done.stdout)), use_of(app)
    with sqlite3.connect(f"file:{app.home / 'journal.sqlite3'}?mode=ro", uri=True) as journal:
        stored = {row[0] for row in journal.execute("SELECT id FROM votes")}
        pairs = journal.execute("SELECT count(DISTINCT pair_id) FROM votes").fetchone()[0]
    if lost := set(tally.saved) - stored:
        raise SystemExit(f"{len(lost)} acknowledged votes are not in the journal: {sorted(lost)}")
    requests = len(tally.votes_ms) + len(tally.pairs_ms) + tally.dry
    server_s = after.server_s - before.server_s
    beside = ", ".join(
        f"{name} {after.children_s[name] - before.children_s.get(name, 0.0):.0f}"
        for name in sorted(after.children_s)
    )
    verdict = "met" if percentile(tally.votes_ms, 95) <= GOAL_MS else "NOT met"
    return (
        f"{voters} voters thinking {THINK_S:.0f} s for {seconds:.0f} s, load "
        f"{os.getloadavg()[0]:.1f}\n"
        f"  POST /api/votes  {_figures(tally.votes_ms)}; wanted p95 {GOAL_MS:.0f}: {verdict}\n"
        f"  POST /api/pairs  {_figures(tally.pairs_ms)}\n"
        f"  {len(tally.saved)} votes acknowledged, all stored, on {pairs} pairs; "
        f"{tally.dry} times no pair was ready; {len(tally.errors)} errors {tally.errors[:3]}; "
        f"{tally.reconnects} connections\n"
        f"  server {server_s:.1f} CPU-s, {1000 * server_s / requests:.2f} ms a request; voters "
        f"{tally.client_cpu_s:.1f}, {beside} CPU-s; memory {after.rss_mib - before.rss_mib:+.0f} "
        f"MiB to {after.rss_mib:.0f}"
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` % of `values` do not exceed; nan of none."""
    ordered = sorted(values)
    return (
        ordered[min(len(ordered) - 1, int(share / 100 * len(ordered)))] if ordered else float("nan")
    )


def _figures(values: Sequence[float]) -> str:
    p50, p95, p99 = (percentile(values, share) for share in (50, 95, 99))
    return f"n {len(values)}, p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms"


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the app on an empty home, let the voters loose, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voters", type=int, default=VOTERS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--client", metavar="URL", help="be the voters of an app that runs")
    options = parser.parse_args(arguments)
    if options.client:
        be_the_voters(options.client, options.voters, options.seconds)
        return
    with tempfile.TemporaryDirectory() as scratch:
        app = start_app(Path(scratch) / "home")
        try:
            app.wait_for("Argilla", lambda health: health["argilla"] == "ready", 240)
            for _ in range(options.times):
                print(measure(app, options.voters, options.seconds), flush=True)
        finally:
            app.stop()


if __name__ == "__main__":
    main()
