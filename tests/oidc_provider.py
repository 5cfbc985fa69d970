"""An OpenID provider on loopback: discovery, consent without a question, tokens, userinfo.

Stands for huggingface.co, which can't be reached here. As strict as the real one where it matters:
a registered redirect address, one use of a code, the client's secret, and PKCE with S256.
"""

import base64
import hashlib
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT_ID, CLIENT_SECRET = "votetune-client", "the secret of the tests' client"


@dataclass(slots=True)
class OidcProvider:
    """One provider. `user` is who consents; `refuses` makes them refuse; `down` answers 503."""

    redirects: set[str] = field(default_factory=set)
    user: dict[str, object] = field(
        default_factory=lambda: {"sub": "65f0c0ffee", "preferred_username": "ada"}
    )
    refuses: bool = False
    down: bool = False
    port: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)
    _codes: dict[str, str] = field(default_factory=dict)
    _tokens: set[str] = field(default_factory=set)
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        routes = [
            Route("/.well-known/openid-configuration", self._discover),
            Route("/oauth/authorize", self._authorize),
            Route("/oauth/token", self._token, methods=["POST"]),
            Route("/oauth/userinfo", self._userinfo),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join()

    async def _discover(self, request: Request) -> Response:
        if self.down:
            return PlainTextResponse("busy", 503)
        paths = ("authorize", "token", "userinfo")
        names = ("authorization_endpoint", "token_endpoint", "userinfo_endpoint")
        found = {n: f"{self.url}/oauth/{p}" for n, p in zip(names, paths, strict=True)}
        return JSONResponse({"issuer": self.url, **found})

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        self.asked.append(asked)
        if asked.get("client_id") != CLIENT_ID or asked.get("redirect_uri") not in self.redirects:
            return PlainTextResponse("unknown client or redirect_uri", 400)
        if asked.get("code_challenge_method") != "S256" or asked.get("response_type") != "code":
            return PlainTextResponse("PKCE with S256 is wanted", 400)
        back = {"state": asked["state"]}
        if self.refuses:
            back["error"] = "access_denied"
        else:
            back["code"] = secrets.token_urlsafe(16)
            self._codes[back["code"]] = asked["code_challenge"]
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}", 303)

    async def _token(self, request: Request) -> Response:
        form = await request.form()
        basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        told = request.headers.get("authorization") == f"Basic {basic}"
        challenge = self._codes.pop(str(form.get("code")), None)
        hashed = hashlib.sha256(str(form.get("code_verifier")).encode()).digest()
        proof = base64.urlsafe_b64encode(hashed).decode().rstrip("=")
        if not told or challenge != proof or form.get("redirect_uri") not in self.redirects:
            return JSONResponse({"error": "invalid_grant"}, 400)
        token = secrets.token_urlsafe(16)
        self._tokens.add(token)
        return JSONResponse({"access_token": token, "token_type": "bearer", "expires_in": 3600})

    async def _userinfo(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self._tokens:
            return JSONResponse({"error": "invalid_token"}, 401)
        return JSONResponse(self.user)
