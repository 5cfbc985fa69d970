"""Serving a home: one app a home, its port, its end by a signal, and what it prints at start.

Owns the order of a start too: the first pair and the page are what somebody waits for, so the
sampler's process is spawned before Gradio is imported here, and Argilla's once the page answers.
"""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

import fastapi
import uvicorn
from starlette.types import ASGIApp

from alignment.runs.tracking import check_trackio
from alignment.settings import AlignmentSettings
from alignment.web.admin.admin_doors import (
    AccountDoor,
    AdminAccounts,
    AdminDoor,
    TokenDoor,
    load_admin_token,
)
from alignment.web.site import Site
from annotation.gold import load_gold
from annotation.home import Home, HomeError, HomeLock, running_app
from annotation.prompts import load_prompts
from annotation.quick_imports import uncollected, without_gradio_stubs
from annotation.settings import AnnotationSettings, check_sign_in
from annotation.web.one_write import OneWrite

log = logging.getLogger(__name__)

GRACE_S = 3
KEEP_ALIVE_S = 75
"""By uvicorn's own 5 s most votes would need a new connection: people think longer than that."""


def serve_app(
    annotation: AnnotationSettings, alignment: AlignmentSettings, *, synthetic: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM.

    Everything that can be wrong with the settings is found before the home is touched: raises
    Fault for a bad prompts or gold file, a home in use, a taken port, a base that can't be had.
    """
    signal.signal(signal.SIGTERM, _leave)
    check_sign_in(annotation)
    prompts = load_prompts(annotation.prompts) if annotation.prompts else None
    gold = load_gold(annotation.gold_pairs) if annotation.gold_pairs else []
    if alignment.trackio_project:
        check_trackio()
    home = Home(annotation.votetune_home)
    if running := running_app(home):
        raise HomeError(
            f"Another app already serves the home {home.root} at {running.url} "
            f"(process {running.pid}): stop it, or set another VOTETUNE_HOME."
        )
    listener = listen(annotation.gradio_server_name, annotation.gradio_server_port)
    home.prepare()
    lock = HomeLock(home)
    url = f"http://{annotation.gradio_server_name}:{annotation.gradio_server_port}"
    try:
        site = Site(annotation, alignment, prompts, gold, synthetic=synthetic)
        try:
            site.start()
            door = build_door(site)
            config = build_config(_build_app(site, door))

            def on_ready() -> None:
                lock.announce(url)
                _greet(site, url, door)
                site.start_argilla()

            server = _Server(config, on_ready)
            site.leave = server.leave
            if site.broken:
                server.leave()
            server.run(sockets=[listener])
        finally:
            site.stop()
        if site.broken:
            raise site.broken
    finally:
        lock.release()
        listener.close()


def build_config(app: ASGIApp) -> uvicorn.Config:
    """How the app is served."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        # A quarter less CPU a request than asyncio and h11. Trackio brings them.
        loop="uvloop",
        http=OneWrite,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


def _build_app(site: Site, door: AdminDoor) -> fastapi.FastAPI:
    """The pages of `site`. Only here is Gradio imported: the sampler loads its model meanwhile."""
    without_gradio_stubs()
    with uncollected():
        from alignment.web.pages import build_app

        return build_app(site, door)


class _Server(uvicorn.Server):
    """uvicorn that says when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def leave(self) -> None:
        """End as after a signal, from any thread."""
        self.should_exit = True


def _leave(number: int, frame: object) -> NoReturn:
    # uvicorn raises the signal again when it is done; the default would skip every `finally`.
    sys.exit(0)


def listen(host: str, port: int) -> socket.socket:
    """A socket of that address; HomeError where it can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio asks for it before it turns Nagle's 40 ms off.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise HomeError(
            f"Port {port} on {host} can't be used ({error.strerror}): stop what listens there, "
            "or set GRADIO_SERVER_PORT to another port."
        ) from None
    return listener


def build_door(site: Site) -> AdminDoor:
    """By account where people sign in and an admin is named; else by the token."""
    settings = site.alignment
    owner = settings.space_author_name.lower() if settings.space_author_name else None
    users = settings.admin_users or (frozenset({owner}) if owner else frozenset())
    if site.identity.sessions and users:
        if settings.admin_token:
            log.warning("ADMIN_TOKEN opens nothing here: people sign in, and admins are accounts.")
        return AccountDoor(AdminAccounts(users, owner), site.identity.sessions, site.audit)
    if settings.admin_users:
        log.warning("ADMIN_USERS opens nothing here: nobody can sign in, so the token does.")
    configured = settings.admin_token.get_secret_value() if settings.admin_token else None
    token = load_admin_token(configured, site.home.admin_token)
    return TokenDoor(token, site.audit, framed=site.on_space)


def _greet(site: Site, url: str, door: AdminDoor) -> None:
    print(f"Vote   {url}", flush=True)  # noqa: T201
    print(f"Admin  {url}{door.invitation}", flush=True)  # noqa: T201
    if site.notice:
        print(site.notice, flush=True)  # noqa: T201
