"""The door to /admin: one ASGI middleware in front of everything under that path.

Owns the admin token and its cookie. Gradio's own `auth_dependency` leaves /cancel, /heartbeat
and /stream open, so the whole path is shut here, before any route is looked up. Knows nothing
of what is behind the door.
"""

import hmac
import secrets
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from annotation.home import write_private
from annotation.web.cookies import came_over_https, set_cookie

ADMIN_PATH = "/admin"
COOKIE = "votetune_admin"
MAX_AGE_S = 30 * 24 * 3600
REFUSED = (
    "This page is for the owner: open the admin URL that the app printed when it started. "
    "Its token is kept in the file admin_token in the app's home folder.\n"
)


def load_admin_token(configured: str | None, file: Path) -> str:
    """The configured token, or one generated once and kept in `file` (mode 0600)."""
    if configured:
        return configured
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24) + "\n")
    return file.read_text().strip()


class AdminDoor:
    """Which token opens, and which cookie shows that it did.

    The cookie holds a keyed hash of the token, never the token: changing the token shuts every
    earlier cookie out.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self.cookie = hmac.new(token.encode(), b"votetune admin cookie", sha256).hexdigest()

    def opens(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def admits(self, cookie_header: str | None) -> bool:
        """Whether a request with this Cookie header has been through the door."""
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(cookie_header or "")
        except CookieError:
            return False
        sent = jar[COOKIE].value if COOKIE in jar else ""
        return hmac.compare_digest(sent.encode(), self.cookie.encode())


class AdminGate:
    """Lets a request or socket under /admin through only with the admin cookie.

    `GET /admin?token=…` with the right token is answered by the cookie and a redirect to the
    plain path, so the token leaves the address bar.
    """

    def __init__(self, app: ASGIApp, *, door: AdminDoor, framed: bool = False) -> None:
        self._app = app
        self._framed = framed
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not _is_admin_path(scope):
            await self._app(scope, receive, send)
        elif self._door.admits(HTTPConnection(scope).headers.get("cookie")):
            # Gradio's mount answers below the path only, and people type it without the slash.
            bare = scope["type"] == "http" and scope["path"] == ADMIN_PATH
            answer = RedirectResponse(_page(scope), status_code=307) if bare else self._app
            await answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer_stranger(scope)(scope, receive, send)

    def _answer_stranger(self, scope: Scope) -> Response:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if scope["method"] != "GET" or not self._door.opens(query.get("token", [""])[0]):
            return PlainTextResponse(REFUSED, status_code=401)
        answer = RedirectResponse(_page(scope), status_code=303)
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cache-Control"] = "no-store"
        set_cookie(
            answer,
            COOKIE,
            self._door.cookie,
            max_age_s=MAX_AGE_S,
            framed=self._framed,
            secure=came_over_https(HTTPConnection(scope)),
            path=_page(scope).rstrip("/"),
        )
        return answer


def _page(scope: Scope) -> str:
    return f"{scope.get('root_path', '')}{ADMIN_PATH}/"


def _is_admin_path(scope: Scope) -> bool:
    # Folded like a lenient router would, so that no spelling of the path slips past the door.
    path = "/" + "/".join(part for part in str(scope["path"]).lower().split("/") if part)
    return path == ADMIN_PATH or path.startswith(ADMIN_PATH + "/")
