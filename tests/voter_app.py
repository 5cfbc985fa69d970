"""The voters' routes over a journal of one's own, for tests of who votes and what is theirs."""

from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from annotation.journal.journal import Journal
from annotation.schema import utc_now
from annotation.voting import Voting
from annotation.web.api_errors import install_api_errors
from annotation.web.routes import Health, build_vote_routes
from annotation.web.sessions import COOKIE_NAME, Account, Sessions
from annotation.web.voters import VoterCookies

ADA = Account("hub-65f0c0ffee", "ada")


def request(session: str | None = None) -> Request:
    """A request with this session's cookie."""
    headers = [] if session is None else [(b"cookie", f"{COOKIE_NAME}={session}".encode())]
    address = {"scheme": "http", "server": ("testserver", 80), "path": "/", "query_string": b""}
    return Request({"type": "http", "headers": headers, **address})


class Door:
    """Sessions in a folder, and a way through them that needs no provider."""

    def __init__(self, folder: Path, secret: bytes = b"of the sessions") -> None:
        self.now = utc_now()
        self.file = folder / "sessions.json"
        self.sessions = Sessions(self.file, secret, framed=False, clock=lambda: self.now)

    def cookie(self, account: Account = ADA) -> str:
        """Sign `account` in; the cookie that its browser gets."""
        answer = Response()
        self.sessions.open(answer, request(), account)
        return answer.headers["set-cookie"].partition(";")[0].partition("=")[2]


def voter_app(journal: Journal, *, sessions: Sessions | None = None, **voting: Any) -> FastAPI:
    """With `sessions`, people may sign in."""
    app = FastAPI(openapi_url="/api/openapi.json")
    served = Voting(journal, **{"votes_per_pair": 1, "side_secret": b"side", **voting})
    health = Health("ok", 3, "starting", 2, "starter@11111111")
    cookies = VoterCookies(b"cookie", sessions)
    app.include_router(build_vote_routes(served, cookies, lambda: health))
    install_api_errors(app)
    return app


def one_line(response: httpx.Response, status: int) -> str:
    """The refusal's one line."""
    assert response.status_code == status, response.text
    said = response.json()["detail"]
    assert said.endswith(".") and "\n" not in said and len(said) < 250
    return str(said)
