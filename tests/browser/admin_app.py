"""The admin page of a home by itself: no vote page, no sampler and no Argilla beside it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
import uvicorn
from fastapi import FastAPI

from alignment.audit import AuditLog
from alignment.contest.contest import Contest
from alignment.contest.rounds import RoundDesk
from alignment.pipeline import Pipeline
from alignment.settings import AlignmentSettings
from alignment.web.admin.admin_doors import ADMIN_PATH, TokenDoor
from alignment.web.admin.admin_gate import AdminGate
from alignment.web.admin.admin_tab import ADMIN_CSS, AdminHandlers, build_admin_page
from alignment.web.admin.admin_view import ArgillaStatus
from alignment.web.admin.audit_tab import AuditHandlers
from alignment.web.admin.own_prompts_tab import OwnPromptHandlers
from alignment.web.admin.quality_tab import QualityHandlers
from alignment.web.contest.leaderboard_tab import LeaderboardHandlers
from alignment.web.contest.rounds_tab import RoundHandlers
from alignment.web.pages import MOUNT
from alignment.web.training.bakeoff_tab import BakeoffHandlers
from alignment.web.training.checkup import Checkup
from alignment.web.training.training_tab import TrainingHandlers
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.web.page_headers import PageHeaders
from annotation.web.tab import build_theme

TOKEN = "token-of-the-owner-here"


@contextmanager
def serve_page(
    pipeline: Pipeline, journal: Journal, home: Home, settings: AlignmentSettings
) -> Iterator[str]:
    """The page behind its gate, on a port of its own; gives the address that opens it."""
    app = _build_app(pipeline, journal, home, settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    # Listening from here on: a port that was only looked up may be somebody else's by then.
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{ADMIN_PATH}?token={TOKEN}"
    finally:
        server.should_exit = True
        thread.join(20)


def _build_app(
    pipeline: Pipeline, journal: Journal, home: Home, settings: AlignmentSettings
) -> FastAPI:
    audit, registry = AuditLog(home), pipeline.registry
    door = TokenDoor(TOKEN, audit)
    rounds = RoundDesk(registry, pipeline.runs, journal)
    quiet = ArgillaStatus("ready", None, "", 0, None)
    page = build_admin_page(
        AdminHandlers(pipeline, door, argilla=lambda: quiet, pairs_ready=lambda: 0),
        QualityHandlers(pipeline, journal, door),
        OwnPromptHandlers(journal, door),
        TrainingHandlers(pipeline, door, Checkup(pipeline, home.root), settings),
        BakeoffHandlers(pipeline, door),
        LeaderboardHandlers(Contest(registry, journal, share=0.2), registry, rounds, door),
        AuditHandlers(audit, door),
        RoundHandlers(rounds, registry, door),
    )
    app = FastAPI()
    gr.mount_gradio_app(
        app, page, path=ADMIN_PATH, theme=build_theme(), css_paths=[ADMIN_CSS], **MOUNT
    )
    app.add_middleware(AdminGate, door=door)
    app.add_middleware(PageHeaders, on_space=False)
    return app
