"""The same voters for either vote page: each thinks, presses, and waits for the acknowledgement.

A program: `python -m tests.benchmarks.peers.voters KIND URL VOTERS RAMP SECONDS` prints a tally.
The kinds of page differ in what a press sends, as Votetune's page and Gradio's own client send it.
A stock page is spared two things: its heartbeat connection, and a new connection for each stream.
"""

import asyncio
import json
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import httpx
import uvloop

from tests.benchmarks.bench_votes import DRY_S, THINK_S, Page, Tally

PATIENCE_S = 20.0


@dataclass
class Voted:
    """What voters saw of one page; milliseconds of those votes alone that came after the ramp."""

    votes_ms: list[float] = field(default_factory=list)
    pairs_ms: list[float] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    client_cpu_s: float = 0.0


class VotePage(Protocol):
    """One voter's page. Milliseconds count from the press."""

    async def next_pair(self) -> float:
        """Milliseconds until the page has a pair to show; 0 where it came with the vote."""

    async def vote(self, choice: str) -> tuple[str, float]:
        """The stored vote's id and the milliseconds until it was acknowledged."""


class OurPage:
    """Two routes: the vote, then the next pair, which the real page fetches ahead."""

    def __init__(self, url: str) -> None:
        self._page = Page(url, Tally())
        self._pair = ""

    async def next_pair(self) -> float:
        status, pair, took = await self._page.post("/api/pairs")
        while status == 503:
            await asyncio.sleep(DRY_S)
            status, pair, took = await self._page.post("/api/pairs")
        self._pair = pair["id"]
        return took

    async def vote(self, choice: str) -> tuple[str, float]:
        body = {"pair": self._pair, "choice": choice}
        status, vote, took = await self._page.post("/api/votes", body)
        if status != 201:
            raise RuntimeError(f"{status} {vote}")
        return vote["id"], took


class StockPage(Page):
    """Gradio's events. Queued: join, then the session's stream; else one call that answers."""

    def __init__(self, url: str, functions: dict[str, int], *, queued: bool) -> None:
        super().__init__(url, Tally())
        self._functions, self._queued = functions, queued
        self._session = secrets.token_hex(6)
        self._has_pair = False

    async def next_pair(self) -> float:
        if self._has_pair:
            return 0.0
        self._has_pair = True
        return (await self._call("next_pair", []))[1]

    async def vote(self, choice: str) -> tuple[str, float]:
        data, took = await self._call(f"vote_{choice}", [None, [], ""])
        return data[-1].removeprefix("Saved as ").removesuffix("."), took

    async def _call(self, name: str, data: list[object]) -> tuple[list[Any], float]:
        body = {"data": data, "fn_index": self._functions[name], "session_hash": self._session}
        if not self._queued:
            status, answer, took = await self.post(f"/gradio_api/run/{name}", body)
            return _data(status, answer), took
        began = time.perf_counter()
        status, joined, _ = await self.post("/gradio_api/queue/join", body)
        if status != 200:
            raise RuntimeError(f"{status} {joined}")
        answered, took = None, 0.0
        async for message in self._stream():
            if message["msg"] == "process_completed":
                answered, took = message, 1000 * (time.perf_counter() - began)
        if answered is None:
            raise RuntimeError("the stream ended without an answer")
        return _data(200 if answered["success"] else 500, answered["output"]), took

    async def _stream(self) -> AsyncIterator[dict[str, Any]]:
        """The session's messages, until the server has closed their stream."""
        if self._open is None or self._open[0].at_eof():
            self.close()
            self._open = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._open
        path = f"/gradio_api/queue/data?session_hash={self._session}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        text = b""
        while size := int(await reader.readline(), 16):
            text += (await reader.readexactly(size + 2))[:-2]
            *whole, text = text.split(b"\n\n")
            for event in whole:
                yield json.loads(event.removeprefix(b"data: "))
        await reader.readline()


def _data(status: int, answer: dict[str, Any]) -> list[Any]:
    if status != 200:
        raise RuntimeError(f"{status} {answer}")
    return list(answer["data"])


def build_pages(kind: str, url: str, voters: int) -> list[VotePage]:
    """So many pages of `kind`: ours, queued or unqueued."""
    if kind == "ours":
        return [OurPage(url) for _ in range(voters)]
    config = httpx.get(f"{url}/config", timeout=30).json()
    functions = {one["api_name"]: one["id"] for one in config["dependencies"]}
    return [StockPage(url, functions, queued=kind == "queued") for _ in range(voters)]


async def _vote_until(page: VotePage, seed: int, since: float, until: float, seen: Voted) -> None:
    drawn = random.Random(seed)
    await asyncio.sleep(drawn.random() * THINK_S)
    while time.monotonic() < until:
        try:
            async with asyncio.timeout(PATIENCE_S):
                pair_ms = await page.next_pair()
            thinks_s = drawn.expovariate(1 / THINK_S)
            if time.monotonic() + thinks_s > until:
                return
            await asyncio.sleep(thinks_s)
            began = time.monotonic()
            async with asyncio.timeout(PATIENCE_S):
                vote, vote_ms = await page.vote(drawn.choice(["a", "b"]))
        except (RuntimeError, ValueError, OSError, asyncio.IncompleteReadError) as error:
            seen.errors.append(repr(error))
            continue
        seen.saved.append(vote)
        if began >= since:
            seen.votes_ms.append(vote_ms)
            seen.pairs_ms.append(pair_ms)


async def vote_all(kind: str, url: str, voters: int, ramp_s: float, seconds: float) -> Voted:
    """All voters at once; what they saw between `ramp_s` and `ramp_s + seconds`."""
    pages, seen, now = build_pages(kind, url, voters), Voted(), time.monotonic()
    since, until = now + ramp_s, now + ramp_s + seconds
    await asyncio.gather(
        *(_vote_until(page, seed, since, until, seen) for seed, page in enumerate(pages))
    )
    return seen


def main(kind: str, url: str, voters: str, ramp_s: str, seconds: str) -> None:
    """Print the tally as JSON."""
    # The lighter loop: what the voters' own process takes stands in both pages' figures.
    seen = uvloop.run(vote_all(kind, url, int(voters), float(ramp_s), float(seconds)))
    seen.client_cpu_s = time.process_time()
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main(*sys.argv[1:])
