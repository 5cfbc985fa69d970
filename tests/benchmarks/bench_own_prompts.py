"""Latency of POST /api/votes while voters flood the app with prompts of their own, and without.

Eight askers keep the queue of own prompts full all the time; each is a new voter at every prompt,
so that the limit for one voter does not hold them back.
"""

import asyncio
import json
import tempfile
import threading
from pathlib import Path

import httpx

from tests.benchmarks.bench_votes import measure
from tests.running_app import start_app

ASKERS, VOTERS, SECONDS = 8, 50, 30.0


async def ask_until(client: httpx.AsyncClient, over: threading.Event, answered: list[str]) -> None:
    while not over.is_set():
        client.cookies.clear()
        answer = await client.post("/api/prompts", json={"text": "What is the capital of Peru?"})
        last = json.loads(answer.text.splitlines()[-1])
        if answer.status_code == 503:
            await asyncio.sleep(1)
        elif "pair" in last:
            answered.append(last["pair"]["id"])


async def flood(url: str, over: threading.Event, answered: list[str]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(ask_until(client, over, answered) for _ in range(ASKERS)))


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        app = start_app(Path(scratch) / "home")
        try:
            app.wait_for("Argilla", lambda health: health["argilla"] == "ready", 240)
            # Each twice, so that a change of the machine's other load shows.
            for _ in range(2):
                print(f"nobody asks: {measure(app, VOTERS, SECONDS)}", flush=True)
                over, answered = threading.Event(), list[str]()
                asking = threading.Thread(
                    target=lambda over=over, answered=answered: asyncio.run(
                        flood(app.url, over, answered)
                    )
                )
                asking.start()
                report = measure(app, VOTERS, SECONDS)
                over.set()
                asking.join()
                print(f"{ASKERS} ask, {len(answered)} answered: {report}", flush=True)
        finally:
            app.stop()


if __name__ == "__main__":
    main()
