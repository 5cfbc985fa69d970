"""Latency of POST /api/votes while voters flood the app with prompts of their own, and without.

Eight askers keep the queue of own prompts full all the time; each is a new voter at every prompt,
so that the limit for one voter does not hold them back.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.benchmarks.bench_votes import SECONDS, THINK_S, VOTERS, measure
from tests.running_app import start_app

ASKERS = 8


async def asker(client: httpx.AsyncClient, until: float, answered: list[float]) -> None:
    while time.monotonic() < until:
        began = time.monotonic()
        client.cookies.clear()
        answer = await client.post("/api/prompts", json={"text": "What is the capital of Peru?"})
        if answer.status_code == 503:
            await asyncio.sleep(1)
        elif "pair" in json.loads(answer.text.splitlines()[-1]):
            answered.append(time.monotonic() - began)


async def measure_flooded(url: str) -> tuple[list[float], list[float]]:
    answered: list[float] = []
    until = time.monotonic() + SECONDS
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        (took, _), *_ = await asyncio.gather(
            measure(url), *(asker(client, until, answered) for _ in range(ASKERS))
        )
    return took, answered


def percentiles(took: list[float]) -> str:
    milliseconds = sorted(1000 * seconds for seconds in took)
    p95 = milliseconds[int(0.95 * len(milliseconds))]
    return f"p50 {statistics.median(milliseconds):.1f}, p95 {p95:.1f} ms of {len(took)}"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        app = start_app(Path(scratch) / "home")
        try:
            app.wait_for("Argilla", lambda health: health["argilla"] == "ready", 240)
            # Each again, so that a change of the machine's other load shows.
            for _ in range(2):
                calm, _ = asyncio.run(measure(app.url))
                flooded, answered = asyncio.run(measure_flooded(app.url))
                print(
                    f"POST /api/votes, {VOTERS} voters thinking {THINK_S:.0f} s "
                    f"(load {os.getloadavg()[0]:.1f}): {percentiles(calm)}; with {ASKERS} askers "
                    f"of own prompts, {len(answered)} answered: {percentiles(flooded)}",
                    flush=True,
                )
        finally:
            app.stop()


if __name__ == "__main__":
    main()
