"""Voters' own prompts over real HTTP: streamed, stored, given, approved; and what is refused."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from annotation.argilla_store.records import pair_from_record, to_record
from annotation.asking import MAX_WAITING, AskQueue
from annotation.export.export import prepare_export
from annotation.faults import Unaskable
from annotation.journal.journal import Journal, UnknownPair
from annotation.own_prompts import Mode, OwnPrompts
from annotation.schema import (
    AnonymousVotes,
    Choice,
    Finish,
    ModelRef,
    PairKind,
    Prompt,
    Sampling,
    Split,
)
from annotation.voting import Voting
from annotation.web.api_errors import install_api_errors
from annotation.web.callers import Callers
from annotation.web.prompt_routes import build_prompt_routes
from annotation.web.routes import Health, build_vote_routes
from annotation.web.voters import VoterCookies
from tests.journal_parts import fill_disk, make_pair

POLICY = ModelRef("starter", "1" * 40, "run-7", "2" * 40)
SAMPLING = Sampling(temperature=0.7, max_new_tokens=9)
WAITING = "it waits for the owner's approval"


class Script:
    """A Streamer that says what it was told to, word by word, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str]] = [("one two three", "four five six")]
        self.asked: list[tuple[Prompt, Sequence[ModelRef], Sampling]] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.closed_at: float | None = None
        self.error: Exception | None = None

    def stream(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        count: Callable[[Sequence[int]], None],
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        self.asked.append((prompt, models, sampling))
        if self.error:
            raise self.error
        texts = self.answers[min(len(self.asked), len(self.answers)) - 1]
        try:
            for size in range(1, max(map(len, texts)) + 1):
                count([len(text[:size]) for text in texts])
                yield tuple(text[:size] for text in texts)
                while not self.go_on.wait(0.02):
                    yield tuple(text[:size] for text in texts)
            return ("stop", "length")
        finally:
            self.closed_at = time.monotonic()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3")
    yield made
    made.close()


@pytest.fixture
def script() -> Script:
    return Script()


Serve = Callable[..., Any]


@pytest.fixture
def serve(journal: Journal, script: Script) -> Iterator[Serve]:
    """Serves the routes in this process, with prompts `mode`; gives the address."""

    @contextmanager
    def served(mode: Mode = "open", anonymous: AnonymousVotes = "count") -> Iterator[str]:
        voting = Voting(journal, votes_per_pair=1, side_secret=b"side", anonymous=anonymous)
        queue = AskQueue(script)
        own = OwnPrompts(
            journal,
            queue,
            mode=mode,
            model=lambda: POLICY,
            sampling=SAMPLING,
            flipped=voting.flipped,
        )
        cookies, health = VoterCookies(b"cookie"), Health("ok", 0, "ready", 0, "starter")
        app = FastAPI()
        app.include_router(build_vote_routes(voting, cookies, lambda: health))
        app.include_router(build_prompt_routes(own, Callers(cookies, voting).elected))
        install_api_errors(app)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", http="h11", loop="asyncio"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            script.go_on.set()
            queue.stop()
            server.should_exit = True
            thread.join(20)

    return served


def test_where_votes_without_sign_in_are_refused_so_are_prompts(
    serve: Serve, script: Script
) -> None:
    with serve(anonymous="refuse") as url, httpx.Client(base_url=url) as client:
        refused = client.post("/api/prompts", json={"text": "What is rain?"})
        assert refused.status_code == 401
        assert "no votes without sign-in" in refused.json()["detail"]
    assert script.asked == []


def ask(client: httpx.Client, text: str = "What is rain?") -> list[dict[str, Any]]:
    answer = client.post("/api/prompts", json={"text": text})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def one_line(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    detail = str(answer.json()["detail"])
    assert "\n" not in detail
    assert detail.endswith(".")
    return detail


def test_both_answers_grow_and_then_the_pair_is_voted_on(
    serve: Serve, journal: Journal, script: Script
) -> None:
    script.answers = [("one " * 40, "four " * 40)]
    script.go_on.clear()
    with serve() as url, httpx.Client(base_url=url) as client:
        body = {"text": "  What is rain?\0 "}
        with client.stream("POST", "/api/prompts", json=body) as answer:
            lines = answer.iter_lines()
            first = json.loads(next(lines))
            script.go_on.set()  # only now: it came while all the rest was still to be said
            *more, last = [json.loads(line) for line in lines]
        pair = last["pair"]
        for draft in (first, *more):
            assert set(draft) == {"a", "b"}
            assert pair["a"].startswith(draft["a"].rstrip())
            assert pair["b"].startswith(draft["b"].rstrip())
        assert pair["prompt"] == [{"role": "user", "content": "What is rain?\ufffd"}]
        (stored,) = journal.pairs()
        assert (stored.id, stored.kind, stored.only_for) == (pair["id"], PairKind.OWN, None)
        assert [c.finish for c in stored.completions] == ["stop", "length"]
        assert {c.model for c in stored.completions} == {POLICY}
        vote = client.post("/api/votes", json={"pair": pair["id"], "choice": "a"}).json()
        assert (vote["counted"], vote["why"]) == (True, None)
        assert vote["models"] == {"a": "run-7@22222222", "b": "run-7@22222222"}
        (kept,) = journal.votes()
        assert stored.author == kept.voter
        chosen = stored.resolve(kept.choice, kept.flipped)
        assert chosen is not None
        assert chosen.chosen.text == pair["a"]
        _, models, sampling = script.asked[0]
        assert models == [POLICY, POLICY]  # one batch of two
        assert (sampling.temperature, sampling.max_new_tokens) == (0.7, 9)
    with serve() as url, httpx.Client(base_url=url) as other:
        assert other.post("/api/pairs").json()["id"] == pair["id"]  # and it goes round


def test_sides_are_drawn_for_the_author(serve: Serve, journal: Journal) -> None:
    flips = set()
    with serve() as url:
        for _ in range(40):  # each a coin, and all of them alike is 2^-39
            with httpx.Client(base_url=url) as client:
                last = ask(client)[-1]["pair"]
                pair = journal.pair(last["id"])
                assert pair is not None
                flips.add(last["a"] == pair.completions[1].text)
            if len(flips) == 2:
                break
    assert flips == {False, True}


def test_an_own_prompt_is_given_once_and_open_again_until_it_is_voted_on(
    serve: Serve, journal: Journal
) -> None:
    with serve() as url, httpx.Client(base_url=url) as client:
        pair = ask(client)[-1]["pair"]
        assert client.post("/api/pairs").json() == pair  # nothing else is there
        journal.add_pairs([make_pair("p0")]).result()
        assert client.post("/api/pairs").json()["id"] == "p0"
        client.post("/api/votes", json={"pair": pair["id"], "choice": "tie"})
        assert client.post("/api/pairs").json()["id"] == "p0"


def test_equal_answers_are_drawn_again_and_then_given_up(
    serve: Serve, journal: Journal, script: Script
) -> None:
    with serve() as url, httpx.Client(base_url=url) as client:
        script.answers = [("same", "same "), ("", "x"), ("good", "better")]
        pair = ask(client)[-1]["pair"]
        assert {pair["a"], pair["b"]} == {"good", "better"}
        assert len(script.asked) == 3
        assert len({sampling.seed for _, _, sampling in script.asked}) == 3
        script.asked, script.answers = [], [("same", "same")]
        assert ask(client)[-1] == {
            "error": "The model gave the same answer twice, or none: ask something else."
        }
        assert len(script.asked) == 4
    assert len(journal.pairs()) == 1


def test_what_fails_is_said_in_the_last_line_and_tells_no_path(
    serve: Serve, journal: Journal, script: Script
) -> None:
    with serve() as url, httpx.Client(base_url=url) as client:
        script.error = Unaskable("The prompt has 900 tokens and this model takes 500: shorten it.")
        assert ask(client) == [{"error": str(script.error)}]
        script.error = RuntimeError("/home/ada/votetune/comparer.log says why")
        (last,) = ask(client)
        assert last == {"error": "The model could not answer this time: try again in a minute."}
        script.error = None
        fill_disk(journal)
        script.answers = [("x" * 50_000, "y" * 50_000)]
        last = ask(client)[-1]
        assert last["error"].startswith("The server's disk is full")
    assert journal.pairs() == []


@pytest.mark.parametrize("text", ["", "x" * 2001, 7, None])
def test_a_prompt_that_is_none_is_422(serve: Serve, text: object) -> None:
    with serve() as url, httpx.Client(base_url=url) as client:
        detail = one_line(client.post("/api/prompts", json={"text": text}), 422)
        assert detail.endswith("send a prompt of 1 to 2000 characters.")


def test_a_blank_prompt_is_422_and_off_is_403(serve: Serve, script: Script) -> None:
    with serve() as url, httpx.Client(base_url=url) as client:
        assert "is empty" in one_line(client.post("/api/prompts", json={"text": " \n"}), 422)
        assert ask(client, "x" * 2000)[-1]["pair"]
    with serve("off") as url, httpx.Client(base_url=url) as client:
        assert "not taken here" in one_line(client.post("/api/prompts", json={"text": "Q"}), 403)
    assert len(script.asked) == 1


def test_a_voter_asks_three_at_once_and_then_one_in_ten_seconds(serve: Serve) -> None:
    with serve() as url, httpx.Client(base_url=url) as client:
        for _ in range(3):
            ask(client)
        answer = client.post("/api/prompts", json={"text": "Q"})
        one_line(answer, 429)
        assert 1 <= int(answer.headers["Retry-After"]) <= 10
        assert httpx.post(f"{url}/api/prompts", json={"text": "Q"}).status_code == 200


async def flood(
    url: str, script: Script, size: int, refused: int
) -> tuple[list[int], httpx.Response]:
    """`size` voters ask while nobody is answered, until so many are `refused`.

    Gives their statuses, and a second ask of the first.
    """

    async def one(client: httpx.AsyncClient) -> int:
        async with client.stream("POST", "/api/prompts", json={"text": "Q"}) as answer:
            if answer.status_code == 503:
                assert answer.headers["Retry-After"] == "10"
            await answer.aread()
            return answer.status_code

    first = httpx.AsyncClient(base_url=url, timeout=30)
    others = [httpx.AsyncClient(base_url=url, timeout=30) for _ in range(size - 1)]
    await first.post("/api/pairs")  # for its cookie
    waiting = [asyncio.create_task(one(first))]
    while not script.asked:
        await asyncio.sleep(0.01)
    again = await first.post("/api/prompts", json={"text": "Q"})
    waiting += [asyncio.create_task(one(client)) for client in others]
    # Nobody is answered yet, so who is done was refused; the last to come may still be on the way.
    while sum(task.done() for task in waiting[1:]) < refused:
        await asyncio.sleep(0.01)
    script.go_on.set()
    statuses = await asyncio.gather(*waiting)
    for client in (first, *others):
        await client.aclose()
    return list(statuses), again


def test_one_at_a_time_for_a_voter_and_a_bounded_queue_for_all(
    serve: Serve, journal: Journal, script: Script
) -> None:
    script.go_on.clear()
    with serve() as url:
        statuses, again = asyncio.run(flood(url, script, MAX_WAITING + 3, refused=2))
    assert "still being answered" in one_line(again, 409)
    assert sorted(statuses) == [*[200] * (MAX_WAITING + 1), 503, 503]
    assert len(journal.pairs()) == MAX_WAITING + 1


def test_a_reader_who_goes_stops_the_drawing_within_a_second(
    serve: Serve, journal: Journal, script: Script
) -> None:
    script.go_on.clear()
    with serve() as url, httpx.Client(base_url=url) as client:
        with client.stream("POST", "/api/prompts", json={"text": "Q"}) as answer:
            next(answer.iter_lines())
            left = time.monotonic()
        while script.closed_at is None and time.monotonic() - left < 5:
            time.sleep(0.01)
        assert script.closed_at is not None
        assert script.closed_at - left < 1
        script.go_on.set()
        assert ask(client)[-1]["pair"]  # and the voter may ask again
    assert len(journal.pairs()) == 1


def test_votes_are_taken_while_prompts_are_answered_and_drafts_are_few(
    serve: Serve, journal: Journal, script: Script
) -> None:
    journal.add_pairs([make_pair("p0")]).result()
    script.go_on.clear()
    answered: list[list[dict[str, Any]]] = []
    with serve() as url, httpx.Client(base_url=url) as asker, httpx.Client(base_url=url) as voter:
        asking = threading.Thread(target=lambda: answered.append(ask(asker)))
        asking.start()
        while not script.asked:
            time.sleep(0.01)
        began = time.monotonic()
        pair = voter.post("/api/pairs").json()["id"]
        vote = {"pair": pair, "choice": "a"}
        assert voter.post("/api/votes", json=vote).status_code == 201
        assert answered == []
        time.sleep(1)
        script.go_on.set()
        asking.join(20)
        took_s = time.monotonic() - began
    # The script yields fifty times a second; of that, ten drafts a second reach the loop.
    assert 2 <= len(answered[0]) <= 10 * took_s + 3


# Moderation


def wait_for_approval(serve: Serve, client_votes: str = "a") -> tuple[str, str]:
    with serve("moderated") as url, httpx.Client(base_url=url) as client:
        pair = ask(client)[-1]["pair"]
        vote = client.post("/api/votes", json={"pair": pair["id"], "choice": client_votes}).json()
        assert (vote["counted"], vote["why"]) == (False, WAITING)
        assert httpx.post(f"{url}/api/pairs").status_code == 503  # nobody else is given it
    return pair["id"], vote["id"]


def test_a_moderated_prompt_counts_and_goes_round_once_it_is_approved(
    serve: Serve, journal: Journal
) -> None:
    pair_id, vote_id = wait_for_approval(serve)
    assert [pair.id for pair in journal.waiting_pairs()] == [pair_id]
    assert (journal.undelivered_pairs(9), journal.undelivered_count()) == ([], 0)
    assert prepare_export(journal).counts.votes == 0
    approved = journal.approve_pair(pair_id).result()
    assert approved == journal.pair(pair_id)
    assert (approved.kind, approved.only_for) == (PairKind.OWN, None)
    assert journal.waiting_pairs() == []
    assert [pair.id for pair in journal.undelivered_pairs(9)] == [pair_id]
    (vote,) = journal.undelivered_votes(9)
    assert (vote.id, vote.counts, vote.why, vote.revision) == (vote_id, True, None, 2)
    assert journal.vote_count() == 1
    with pytest.raises(UnknownPair, match="No prompt waits"):
        journal.approve_pair(pair_id).result()
    with serve("moderated") as url, httpx.Client(base_url=url) as other:
        assert other.post("/api/pairs").json()["id"] == pair_id


def test_a_rejected_prompt_never_counts_and_is_asked_no_more(
    serve: Serve, journal: Journal
) -> None:
    pair_id, _ = wait_for_approval(serve)
    journal.reject_pair(pair_id).result()
    (vote,) = journal.votes()
    assert (vote.counted, vote.why) == (False, "the owner did not approve this prompt")
    assert journal.waiting_pairs() == []
    assert (journal.undelivered_pairs(9), journal.undelivered_count()) == ([], 0)
    with pytest.raises(UnknownPair, match="No prompt waits"):
        journal.reject_pair(pair_id).result()


def test_an_undone_vote_stays_undone_when_its_prompt_is_approved(
    serve: Serve, journal: Journal
) -> None:
    pair_id, vote_id = wait_for_approval(serve)
    (vote,) = journal.votes()
    journal.undo_vote(vote_id, voter=vote.voter).result()
    journal.approve_pair(pair_id).result()
    assert journal.vote_count() == 0
    assert journal.undelivered_count() == 0


# What others make of it


def test_an_own_prompt_of_the_eval_split_is_asked_and_never_exported(
    serve: Serve, journal: Journal
) -> None:
    texts = (f"What is thing {n}?" for n in range(1000))
    held = next(text for text in texts if Prompt.from_text(text).split is Split.EVAL)
    kept = next(text for text in texts if Prompt.from_text(text).split is Split.TRAIN)
    with serve() as url:
        for text in (held, kept):
            with httpx.Client(base_url=url) as client:
                pair = ask(client, text)[-1]["pair"]
                body = {"pair": pair["id"], "choice": Choice.A}
                assert client.post("/api/votes", json=body).json()["counted"]
    prepared = prepare_export(journal)
    assert [e.prompt for e in prepared.examples] == [Prompt.from_text(kept)]
    assert prepared.counts.eval_left_out == 1


def test_an_own_pair_goes_through_an_argilla_record_unchanged(
    serve: Serve, journal: Journal
) -> None:
    with serve() as url, httpx.Client(base_url=url) as client:
        ask(client)
    (pair,) = journal.pairs()
    assert pair.author is not None
    record = to_record(pair)
    assert pair_from_record(record) == pair
    shown = json.dumps(record["fields"])
    assert pair.author not in shown
