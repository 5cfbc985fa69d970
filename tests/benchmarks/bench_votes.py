"""Latency of POST /api/votes while 50 voters think 6 s each, on the real app.

The client shares the machine with the server, the sampler and Argilla, as on a laptop.
"""

import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.running_app import start_app

VOTERS = 50
THINK_S = 6.0
SECONDS = 30.0


async def voter(url: str, seed: int, until: float, took: list[float], waits: list[int]) -> None:
    drawn = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        await asyncio.sleep(drawn.random() * THINK_S)
        while time.monotonic() < until:
            pair = await client.post("/api/pairs")
            if pair.status_code == 503:
                waits.append(1)
                await asyncio.sleep(1)
                continue
            await asyncio.sleep(drawn.expovariate(1 / THINK_S))
            began = time.monotonic()
            answer = await client.post(
                "/api/votes", json={"pair": pair.json()["id"], "choice": "a"}
            )
            answer.raise_for_status()
            took.append(time.monotonic() - began)


async def measure(url: str) -> tuple[list[float], list[int]]:
    took: list[float] = []
    waits: list[int] = []
    until = time.monotonic() + SECONDS
    await asyncio.gather(*(voter(url, seed, until, took, waits) for seed in range(VOTERS)))
    return took, waits


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        app = start_app(Path(scratch) / "home")
        try:
            app.wait_for("Argilla", lambda health: health["argilla"] == "ready", 240)
            took, waits = asyncio.run(measure(app.url))
        finally:
            app.stop()
    milliseconds = sorted(1000 * seconds for seconds in took)
    p95 = milliseconds[int(0.95 * len(milliseconds))]
    print(
        f"POST /api/votes, {VOTERS} voters thinking {THINK_S:.0f} s, {len(took)} votes "
        f"(load {os.getloadavg()[0]:.1f}): p50 {statistics.median(milliseconds):.1f} ms, "
        f"p95 {p95:.1f} ms; {len(waits)} times no pair was ready"
    )


if __name__ == "__main__":
    main()
