"""Who may open /admin: the bearer of the token where nobody signs in, else accounts.

Owns the admin token, its cookie, and what a stranger at the door is told. Stands in front of
nothing itself: `admin_gate` asks before any route is looked up, and every handler asks again.
"""

import hmac
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from html import escape
from pathlib import Path
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Scope

from alignment.audit import ADMIN_TOKEN, Actor, AuditLog
from annotation.home import write_private
from annotation.web.cookies import came_over_https, set_cookie
from annotation.web.sessions import COOKIE_NAME, Account, Sessions
from annotation.web.sign_in import LOGIN_PATH

ADMIN_PATH = "/admin"
COOKIE = "votetune_admin"
MAX_AGE_S = 30 * 24 * 3600
BELIEVED = timedelta(hours=12)
"""How long an admin's sign-in is believed: a role that was taken away meanwhile ends then."""
SIGNED_IN = "signed in"
REFUSED = (
    "This page is for the owner: open the admin URL that the app printed when it started. "
    "Its token is kept in the file admin_token in the app's home folder.\n"
)
SIGN_IN_FIRST = "This page is for admins: open /admin and sign in.\n"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Votetune admin</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:4rem auto;padding:0 1rem}}
h1{{font-size:1.25rem}}</style></head>
<body><h1>This page is for admins</h1><p>{line}</p><p><a href="{login}">Sign in again</a></p>
<p><a href="{home}">Go and vote</a></p></body>
</html>
"""


class AdminDoor(ABC):
    """Says who a request's admin is, and answers everybody else. `audit` is told who came in."""

    def __init__(self, audit: AuditLog) -> None:
        self.audit = audit

    @property
    @abstractmethod
    def invitation(self) -> str:
        """The path to open, as a terminal says it at start."""

    @abstractmethod
    def admin(self, cookies: str | None) -> Actor | None:
        """The admin behind a Cookie header, or None."""

    @abstractmethod
    async def answer_stranger(self, scope: Scope) -> Response:
        """What an HTTP request under /admin gets that comes from no admin."""


def load_admin_token(configured: str | None, file: Path) -> str:
    """The configured token, or one generated once and kept in `file` (mode 0600)."""
    if configured:
        return configured
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24) + "\n")
    return file.read_text().strip()


class TokenDoor(AdminDoor):
    """Opened by a token, which `GET /admin?token=…` exchanges for a cookie.

    The cookie holds a keyed hash of the token, never the token: changing the token shuts every
    earlier cookie out. The redirect to the plain path takes the token out of the address bar.
    """

    def __init__(self, token: str, audit: AuditLog, *, framed: bool = False) -> None:
        super().__init__(audit)
        self._token = token
        self._framed = framed
        self.cookie = hmac.new(token.encode(), b"votetune admin cookie", sha256).hexdigest()

    @property
    def invitation(self) -> str:
        return f"{ADMIN_PATH}?token={self._token}"

    def opens(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def admin(self, cookies: str | None) -> Actor | None:
        sent = cookie_parser(cookies or "").get(COOKIE, "")
        return ADMIN_TOKEN if hmac.compare_digest(sent.encode(), self.cookie.encode()) else None

    async def answer_stranger(self, scope: Scope) -> Response:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if scope["method"] != "GET" or not self.opens(query.get("token", [""])[0]):
            return PlainTextResponse(REFUSED, status_code=401)
        await run_in_threadpool(self.audit.note, ADMIN_TOKEN, SIGNED_IN)
        answer = RedirectResponse(admin_page(scope), status_code=303)
        answer.headers["Referrer-Policy"] = "no-referrer"
        answer.headers["Cache-Control"] = "no-store"
        set_cookie(
            answer,
            COOKIE,
            self.cookie,
            max_age_s=MAX_AGE_S,
            framed=self._framed,
            secure=came_over_https(HTTPConnection(scope)),
            path=admin_page(scope).rstrip("/"),
        )
        return answer


@dataclass(frozen=True, slots=True)
class AdminAccounts:
    """Which accounts are admins: named ones, and who writes for the organisation that owns this.

    Both in small letters, by what the provider said at sign-in.
    """

    users: frozenset[str]
    organisation: str | None = None

    def has(self, account: Account) -> bool:
        name = account.username
        # ASCII only: "K" and "ſ" of other alphabets become k and s in small letters.
        if name is not None and name.isascii() and name.lower() in self.users:
            return True
        return self.organisation is not None and account.writes_for == self.organisation


class AccountDoor(AdminDoor):
    """Opened by the session of an admin's account, for some hours after each sign-in."""

    def __init__(self, accounts: AdminAccounts, sessions: Sessions, audit: AuditLog) -> None:
        super().__init__(audit)
        self._accounts = accounts
        self._sessions = sessions

    @property
    def invitation(self) -> str:
        return f"{ADMIN_PATH} for {', '.join(sorted(self._accounts.users))} after signing in"

    def admin(self, cookies: str | None) -> Actor | None:
        account = self._account(cookies)
        return _actor(account) if account and self._accounts.has(account) else None

    def note_sign_in(self, account: Account) -> None:
        """Write down that an admin signed in; other accounts are nobody's business here."""
        if self._accounts.has(account):
            self.audit.note(_actor(account), SIGNED_IN)

    async def answer_stranger(self, scope: Scope) -> Response:
        """To the sign-in and back where the page itself was asked for; else one line."""
        account = self._account(HTTPConnection(scope).headers.get("cookie"))
        wants_page = scope["method"] in ("GET", "HEAD") and is_page(scope)
        if account is None and wants_page:
            answer: Response = RedirectResponse(_sign_in_and_back(scope), 303)
        elif account is None:
            answer = PlainTextResponse(SIGN_IN_FIRST, 401)
        elif wants_page:
            page = _PAGE.format(
                line=escape(self._refusal(account)),
                login=escape(_sign_in_and_back(scope)),
                home=escape(f"{scope.get('root_path', '')}/"),
            )
            answer = HTMLResponse(page, 403)
        else:
            answer = PlainTextResponse(f"{self._refusal(account)}\n", 403)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    def _account(self, cookies: str | None) -> Account | None:
        cookie = cookie_parser(cookies or "").get(COOKIE_NAME, "")
        return self._sessions.account(cookie, within=BELIEVED)

    def _refusal(self, account: Account) -> str:
        line = (
            f"You are signed in as {account.name}, who is no admin here: ask the owner to add you "
            "to ADMIN_USERS."
        )
        if owner := self._accounts.organisation:
            line += (
                f" Where you may write for the organisation {owner}, sign in again and let this "
                "app see it."
            )
        return line


def _sign_in_and_back(scope: Scope) -> str:
    return f"{scope.get('root_path', '')}{LOGIN_PATH}?next={quote(admin_page(scope), safe='')}"


def _actor(account: Account) -> Actor:
    return Actor(account.username or account.name, account.voter)


def admin_page(scope: Scope) -> str:
    """The page's address as the browser knows it."""
    return f"{scope.get('root_path', '')}{ADMIN_PATH}/"


def admin_path(scope: Scope) -> str | None:
    """The path under /admin that is asked for, "" for the page itself; None where it is another.

    Folded like a lenient router would, so that no spelling of the path slips past the door.
    """
    path = "/" + "/".join(part for part in str(scope["path"]).lower().split("/") if part)
    if path != ADMIN_PATH and not path.startswith(ADMIN_PATH + "/"):
        return None
    return path.removeprefix(ADMIN_PATH)


def is_page(scope: Scope) -> bool:
    return admin_path(scope) == ""
