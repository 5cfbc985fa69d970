"""The real admin page over a real journal, for its quality section; nothing is trained here."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from running_app import free_port

from alignment.base import resolve_base
from alignment.pipeline import Pipeline
from alignment.settings import AlignmentSettings
from alignment.web.admin_gate import ADMIN_PATH, AdminDoor, AdminGate
from alignment.web.admin_tab import ADMIN_CSS, AdminHandlers, build_admin_page
from alignment.web.admin_view import ArgillaStatus
from alignment.web.bakeoff_tab import BakeoffHandlers
from alignment.web.checkup import Checkup
from alignment.web.own_prompts_tab import OwnPromptHandlers
from alignment.web.quality_tab import QualityHandlers
from alignment.web.training_tab import TrainingHandlers
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.schema import Pair, Vote
from annotation.web.tab import build_theme

TOKEN = "token-of-the-owner-here"


def store(journal: Journal, pairs: Sequence[Pair], votes: Sequence[Vote]) -> None:
    journal.add_pairs(pairs).result(30)
    for future in [journal.add_vote(vote) for vote in votes]:
        future.result(30)


@contextmanager
def serve_admin(folder: Path) -> Iterator[tuple[str, Journal]]:
    """The address that opens the page, and the journal that it shows."""
    home = Home(folder / "quality")
    home.prepare()
    settings = AlignmentSettings(base_model="starter", min_examples=10)
    base = resolve_base(settings, home.root, has_votes=False)
    journal = Journal(home.journal)
    pipeline, door = Pipeline(home, settings, base, journal), AdminDoor(TOKEN)
    quiet = ArgillaStatus("ready", None, "", 0, None)
    page = build_admin_page(
        AdminHandlers(pipeline, door, argilla=lambda: quiet, pairs_ready=lambda: 0),
        QualityHandlers(pipeline, journal, door),
        OwnPromptHandlers(journal, door),
        TrainingHandlers(pipeline, door, Checkup(pipeline, home.root), settings),
        BakeoffHandlers(pipeline, door),
    )
    app = FastAPI()
    gr.mount_gradio_app(
        app,
        page,
        path=ADMIN_PATH,
        theme=build_theme(),
        css_paths=[ADMIN_CSS],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
    )
    app.add_middleware(AdminGate, door=door)
    config = uvicorn.Config(app, port=free_port(), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{config.port}{ADMIN_PATH}?token={TOKEN}", journal
    finally:
        server.should_exit = True
        thread.join(10)
        journal.close()
