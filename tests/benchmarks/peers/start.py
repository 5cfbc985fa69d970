"""Seconds from `make run`, installed and on an empty home, to the page, the first pair, Argilla.

Owns no part of a start: the app is what a person starts, Make and its checks included. A start's
clients are this process alone, which asks for the page and the health every 50 ms.
"""

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.benchmarks.peers.table import Limit
from tests.running_app import ROOT, clean_environment, free_port

STARTS = 5
TIMEOUT_S = 240
AT_MOST_S = 6.0


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds to each, and what the app and its children had used of the CPU by the first pair."""

    page_s: float
    pair_s: float
    argilla_s: float
    cpu_s: float


def rows() -> Iterator[Limit]:
    """One row, of STARTS starts after one that is not counted."""
    with tempfile.TemporaryDirectory(prefix="votetune-start-") as scratch:
        # The first also brings the files of the libraries back into memory.
        starts = [measure_start(Path(scratch) / f"home{n}") for n in range(1 + STARTS)][1:]
    yield Limit(
        what="page start (`make run` when installed) to first pair",
        unit="s",
        values=[start.pair_s for start in starts],
        at_most=AT_MOST_S,
        checked="a pair was issued to a new voter each time, with two answers that differ",
        notes=(
            f"medians: page {_median(starts, 'page_s')} s, Argilla {_median(starts, 'argilla_s')} "
            f"s; {_median(starts, 'cpu_s')} CPU-s by the first pair; load {os.getloadavg()[0]:.1f}"
        ),
    )


def measure_start(home: Path) -> Start:
    """One start on an empty home. Raises RuntimeError where it does not come to all three."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = clean_environment(home, GRADIO_SERVER_PORT=str(port), WARM_TRAINER="true")
    began = time.monotonic()
    # This very environment; its requirements count as installed, as they are.
    command = ["make", "-o", "requirements.txt", f"VENV={sys.prefix}", "run"]
    with home.with_name(f"{home.name}.log").open("wb") as log:
        make = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        seen: dict[str, float] = {}
        with httpx.Client(base_url=url, timeout=5) as client:
            while len(seen) < 4:
                if make.poll() is not None or time.monotonic() - began > TIMEOUT_S:
                    raise RuntimeError(f"the start came no further than {sorted(seen)}")
                time.sleep(0.05)
                _look(client, seen, began, make.pid)
        return Start(seen["page"], seen["pair"], seen["argilla"], seen["cpu"])
    finally:
        _end(make)


def _look(client: httpx.Client, seen: dict[str, float], began: float, pid: int) -> None:
    """Note in `seen` what is there for the first time."""
    try:
        if "page" not in seen:
            client.get("/").raise_for_status()
            seen["page"] = time.monotonic() - began
        if "pair" not in seen and (answer := client.post("/api/pairs")).status_code == 201:
            seen["pair"], seen["cpu"] = time.monotonic() - began, _cpu_seconds(pid)
            texts = [re.sub(r"\s+", " ", answer.json()[side]).strip() for side in ("a", "b")]
            if texts[0] == texts[1] or not all(texts):
                raise RuntimeError(f"the first pair is none: {texts}")
        if "argilla" not in seen and client.get("/api/health").json()["argilla"] == "ready":
            seen["argilla"] = time.monotonic() - began
    except httpx.HTTPError:
        return


def _cpu_seconds(pid: int) -> float:
    make = psutil.Process(pid)
    used = [p.cpu_times() for p in (make, *make.children(recursive=True))]
    return sum(times.user + times.system for times in used)


def _end(make: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does, which reaches the app too; Make waits for it."""
    for app in psutil.Process(make.pid).children() if make.poll() is None else []:
        app.send_signal(signal.SIGTERM)
    make.wait(30)


def _median(starts: Sequence[Start], name: str) -> str:
    return f"{statistics.median(getattr(start, name) for start in starts):.1f}"


if __name__ == "__main__":
    for row in rows():
        print(row)
