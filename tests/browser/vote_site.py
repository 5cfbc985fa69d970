"""The real vote page, its real routes and a real journal, served by uvicorn on a free port."""

import socket
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from alignment.web.admin.admin_tab import ADMIN_CSS
from annotation.asking import AskQueue
from annotation.journal.journal import Journal
from annotation.own_prompts import OwnPrompts
from annotation.schema import (
    Completion,
    Finish,
    Message,
    ModelRef,
    Pair,
    Prompt,
    Sampling,
    Vote,
    utc_now,
)
from annotation.voting import Voting
from annotation.web.api_errors import install_api_errors
from annotation.web.callers import Callers
from annotation.web.frugal import UNWATCHED, let_queue_rest
from annotation.web.page_files import build_page_routes
from annotation.web.page_headers import PageHeaders
from annotation.web.page_weight import CompressedPages
from annotation.web.prompt_routes import build_prompt_routes
from annotation.web.routes import Health, build_vote_routes
from annotation.web.tab import VOTE_CSS, VotePage, build_theme, build_vote_tab, vote_head
from annotation.web.voters import VoterCookies

SECRET = b"a secret of the tests, 32 bytes.."
BASE = ModelRef("starter", "0a1b2c3d" * 5)
TUNED = ModelRef("starter", "0a1b2c3d" * 5, "run-7", "4e5f6a7b" * 5)
MODEL_WORDS = ("starter", "run-7", "0a1b2c3d", "4e5f6a7b")
"""What no page, storage or answer may contain before a vote is saved."""


def build_pair(
    number: int, first: str | None = None, second: str | None = None, *, prompt: str | None = None
) -> Pair:
    """Pair `pair-<number>`: its first completion is the base's, its second the tuned model's."""
    return build_chat_pair(
        number,
        [Message("user", prompt or f"Question {number}: why is the sky blue?")],
        first or f"Base answer {number}.",
        second or f"Tuned answer {number}.",
    )


def build_chat_pair(number: int, messages: Sequence[Message], first: str, second: str) -> Pair:
    sampling = Sampling()
    return Pair(
        id=f"pair-{number}",
        prompt=Prompt(tuple(messages)),
        completions=(Completion(first, BASE, sampling), Completion(second, TUNED, sampling)),
        created_at=utc_now(),
    )


def build_public_page(page: VotePage) -> gr.Blocks:
    with gr.Blocks(title="Votetune", analytics_enabled=False) as blocks, gr.Tabs():
        with gr.Tab("Vote"):
            build_vote_tab(page)
        with gr.Tab("Compare"):
            gr.Markdown("## Compare")
            gr.Textbox(label="Prompt", elem_id="compare-prompt")
    return blocks


class SlowWriter:
    """In place of a model: writes both answers as far as a test says, until it ends or is left."""

    def __init__(self) -> None:
        self._said = ("", "")
        self._ended = threading.Event()
        self._left = threading.Event()

    def say(self, first: str, second: str) -> None:
        self._said = (first, second)

    def end(self, first: str, second: str) -> None:
        self.say(first, second)
        self._ended.set()

    def was_left(self, *, timeout_s: float) -> bool:
        """Whether the reader went before the end."""
        return self._left.wait(timeout_s)

    def stream(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        count: Callable[[Sequence[int]], None],
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        try:
            while not self._ended.wait(0.02):
                count([len(text.split()) for text in self._said])
                yield self._said
            count([len(text.split()) for text in self._said])
            yield self._said
        except GeneratorExit:
            self._left.set()
            raise
        return ("stop", "stop")


@dataclass(slots=True)
class Site:
    """One running site. `stop` and `start` keep the journal, the address and the port."""

    home: Path
    votes_per_pair: int = 1
    notice: str | None = None
    root_path: str = ""
    port: int = 0
    own_prompts: Literal["open", "moderated", "off"] = "off"
    writer: SlowWriter = field(default_factory=SlowWriter)
    journal: Journal = field(init=False)
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.journal = Journal(self.home / "journal.sqlite3")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.root_path}"

    def add(self, *pairs: Pair) -> None:
        self.journal.add_pairs(pairs).result(timeout=60)

    def votes(self, *, include_superseded: bool = False) -> list[Vote]:
        return self.journal.votes(include_superseded=include_superseded)

    def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.build_app(), log_level="warning", lifespan="on", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=10)
            self._server = self._thread = None

    def close(self) -> None:
        self.stop()
        self.journal.close()

    def build_app(self) -> ASGIApp:
        app = FastAPI(telemetry=UNWATCHED)
        voting = Voting(self.journal, votes_per_pair=self.votes_per_pair, side_secret=SECRET)
        cookies = VoterCookies(SECRET)
        app.include_router(build_vote_routes(voting, cookies, self._health))
        queue = AskQueue(self.writer)
        own = OwnPrompts(
            self.journal,
            queue,
            mode=self.own_prompts,
            model=lambda: TUNED,
            sampling=Sampling(),
            flipped=voting.flipped,
        )
        app.include_router(build_prompt_routes(own, Callers(cookies, voting).elected))
        app.include_router(build_page_routes())
        install_api_errors(app)
        page = self._build_page(voting, cookies, queue)
        let_queue_rest(page)
        gr.mount_gradio_app(
            app,
            page,
            path="/",
            theme=build_theme(),
            css_paths=[*VOTE_CSS, ADMIN_CSS],
            head=vote_head(),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
        )
        app.add_middleware(CompressedPages)
        app.add_middleware(PageHeaders, on_space=False)
        return BelowRootPath(app, self.root_path) if self.root_path else app

    def _build_page(self, voting: Voting, cookies: VoterCookies, queue: AskQueue) -> gr.Blocks:
        return build_public_page(VotePage(self.notice, self.own_prompts))

    def _health(self) -> Health:
        ready = self.journal.ready_count(votes_per_pair=self.votes_per_pair, now=utc_now())
        return Health("ok", ready, "starting", self.journal.undelivered_count(), BASE.label)


class BelowRootPath:
    """What a server behind a proxy sees: paths below `root_path`, and nothing beside it."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(self._root_path + "/"):
                await PlainTextResponse("outside", 404)(scope, receive, send)
                return
            scope = {**scope, "root_path": self._root_path}
        await self._app(scope, receive, send)
