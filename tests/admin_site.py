"""The real app in this process, with accounts from a provider on loopback; nothing samples in it.

Every service is the product's, none is started but the journal: no Argilla, no model, no training.
"""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from oidc_provider import CLIENT_ID, CLIENT_SECRET, OidcProvider
from pydantic import SecretStr
from running_app import free_port

from alignment.settings import AlignmentSettings
from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.pages import build_app
from alignment.web.serve import build_door
from alignment.web.site import Site
from annotation.home import Home
from annotation.schema import ModelRef, Prompt, Sampling
from annotation.settings import AnnotationSettings

ADA: dict[str, object] = {"sub": "65f0c0ffee", "preferred_username": "ada"}
BOB: dict[str, object] = {"sub": "65f0b0b", "preferred_username": "bob", "name": "ada"}


@dataclass
class Silent:
    """Stands for the models of the compare tab: nobody answers, whatever is asked."""

    asked: list[str] = field(default_factory=list)

    def stream(
        self, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling
    ) -> Iterator[tuple[str, ...]]:
        self.asked.append(str(prompt.messages[-1].content))
        yield ("",)

    def start(self) -> None:
        self.asked.append("start")


class AdminSite:
    """One served home. `sign_in` walks the flow as a browser does."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.provider = OidcProvider(redirects={f"{self.url}/login/callback"})
        self.provider.start()
        self.home = Home(folder / "home")
        self.home.prepare()
        annotation = AnnotationSettings(
            votetune_home=self.home.root,
            oauth_client_id=CLIENT_ID,
            oauth_client_secret=SecretStr(CLIENT_SECRET),
            openid_provider_url=self.provider.url,
            cookie_secret=SecretStr("nothing that a person would guess, ever"),
            anonymous_votes="count",
        )
        alignment = AlignmentSettings(
            base_model="starter", warm_trainer=False, min_examples=1_000_000, **settings
        )
        self.site = Site(annotation, alignment, None, [], synthetic=False)
        self.site.comparer = Silent()  # type: ignore[assignment]
        self.door: AdminDoor = build_door(self.site)
        self.app = build_app(self.site, self.door)
        config = uvicorn.Config(
            self.app, port=port, log_level="warning", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.02)

    def browser(self) -> httpx.Client:
        """A browser that nobody has signed in with."""
        # Gradio answers some unknown names by a bare 500, after which uvicorn hangs up.
        alone = httpx.Limits(max_keepalive_connections=0)
        return httpx.Client(base_url=self.url, timeout=60, follow_redirects=True, limits=alone)

    @contextmanager
    def sign_in(self, user: dict[str, object]) -> Iterator[httpx.Client]:
        """The browser of `user`, who has just signed in."""
        self.provider.user = user
        with self.browser() as browser:
            assert browser.get("/login/huggingface").status_code == 200
            yield browser

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        self.site.stop()
        self.provider.stop()

    def snapshot(self) -> dict[str, str]:
        """Every file of the home by its content, the journal's by its rows.

        But for the log of the process that answers in the Compare tab: anybody may ask there.
        """
        passed_over = (self.home.journal.name, "comparer.log")
        found = {
            str(file.relative_to(self.home.root)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(self.home.root.rglob("*"))
            if file.is_file() and not file.name.startswith(passed_over)
        }
        with closing(sqlite3.connect(f"file:{self.home.journal}?mode=ro", uri=True)) as journal:
            rows = "\n".join(journal.iterdump())
        return found | {"journal": hashlib.sha256(rows.encode()).hexdigest()}
