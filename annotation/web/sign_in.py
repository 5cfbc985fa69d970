"""Signing in with a Hugging Face account: OAuth 2.0 with PKCE against an OpenID provider.

Owns the three routes /login/huggingface, /login/callback and /logout, and what of an account is
kept: its stable id, its name and whether it may write for the organisation that owns this app,
never a token. Opens sessions, and judges no vote and no admin. Gradio's own
LoginButton is not used: its session cookie still works after the logout, and outside a Space it
signs everybody in as a mock (facts of Gradio 6.31, CVE-2026-27167).

Follows RFC 6749 (the code flow), RFC 7636 (PKCE) and OpenID Connect Core 1.0, §5.3 (userinfo).
"""

import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from fastapi import APIRouter
from itsdangerous import BadSignature, URLSafeTimedSerializer
from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from annotation.web.cookies import came_over_https, clear_cookie, set_cookie
from annotation.web.sessions import Account, Sessions

LOGIN_PATH = "/login/huggingface"
LOGOUT_PATH = "/logout"
CALLBACK_PATH = "/login/callback"
STATE_COOKIE = "votetune_login"
STATE_LIFE_S = 600
TIMEOUT_S = 20.0
WRITERS = ("write", "admin")
_PLAIN_SUBJECT = re.compile(r"[a-z0-9-]{1,60}")
_log = logging.getLogger(__name__)


class SignInRefused(Exception):
    """A sign-in that can't be finished; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Provider:
    """The OpenID provider and this app's registration there, as a Space's environment gives them.

    `public_url` is where browsers reach this app, or None to believe the request's own address.
    `organisation` is who owns this app there: an account's role in it is kept, no other.
    """

    url: str
    client_id: str
    client_secret: SecretStr
    scopes: str
    public_url: str | None = None
    organisation: str | None = None


def voter_id(subject: str) -> str:
    """The voter that stands for an account's stable `sub`; the same on every machine."""
    if _PLAIN_SUBJECT.fullmatch(subject):
        return f"hub-{subject}"
    return f"hub-{sha256(subject.encode()).hexdigest()[:40]}"


class SignIn:
    """The flow between a browser, the provider and `sessions`."""

    def __init__(
        self,
        provider: Provider,
        sessions: Sessions,
        secret: bytes,
        *,
        framed: bool,
        on_sign_in: Callable[[Account], None] = lambda account: None,
    ) -> None:
        """`on_sign_in` is told, in a thread, of each account that signs in."""
        self._provider = provider
        self._sessions = sessions
        self._state = URLSafeTimedSerializer(secret, salt=STATE_COOKIE)
        self._framed = framed
        self._on_sign_in = on_sign_in

    async def begin(self, request: Request) -> Response:
        """Send the browser to the provider; what it must bring back waits in a signed cookie."""
        found = await self._discover()
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        async with self._client(request) as client:
            url, _ = client.create_authorization_url(
                found["authorization_endpoint"], state=state, code_verifier=verifier
            )
        answer = RedirectResponse(url, status_code=303)
        waiting = {
            "state": state,
            "verifier": verifier,
            "next": own_path(request.query_params.get("next", "/")),
        }
        set_cookie(
            answer,
            STATE_COOKIE,
            self._state.dumps(waiting),
            max_age_s=STATE_LIFE_S,
            framed=self._framed,
            secure=came_over_https(request),
            path="/login",
        )
        return answer

    async def finish(self, request: Request) -> Response:
        """Take the provider's answer: check the state, swap the code, ask who it is, sign in."""
        waiting = self._waiting(request)
        if said := request.query_params.get("error"):
            raise SignInRefused(f"Signing in was refused ({_plain(said)}): try again if you like.")
        code = request.query_params.get("code")
        if not code:
            raise SignInRefused("The provider sent no code: start signing in again.")
        account = await self._account(request, code, waiting["verifier"])
        answer = RedirectResponse(waiting["next"], status_code=303)
        self._sessions.open(answer, request, account)
        await run_in_threadpool(self._on_sign_in, account)
        self._forget_state(answer, request)
        return answer

    def leave(self, request: Request) -> Response:
        """Sign out. The voter's cookie stays, so votes go on without an account."""
        answer = RedirectResponse(own_path(request.query_params.get("next", "/")), 303)
        self._sessions.end(answer, request)
        return answer

    def refuse(self, request: Request, why: str) -> Response:
        answer = PlainTextResponse(f"{why}\n", status_code=400)
        self._forget_state(answer, request)
        return answer

    def _forget_state(self, answer: Response, request: Request) -> None:
        secure = came_over_https(request)
        clear_cookie(answer, STATE_COOKIE, framed=self._framed, secure=secure, path="/login")

    def _waiting(self, request: Request) -> dict[str, str]:
        """What `begin` left, once the state that came back is the one that was sent."""
        try:
            waiting: dict[str, str] = self._state.loads(
                request.cookies.get(STATE_COOKIE, ""), max_age=STATE_LIFE_S
            )
        except BadSignature:
            raise SignInRefused(
                "This sign-in was not started here, or more than ten minutes ago: start again."
            ) from None
        came = request.query_params.get("state", "")
        if not secrets.compare_digest(came.encode(), waiting["state"].encode()):
            raise SignInRefused("This sign-in does not match the one started here: start again.")
        return waiting

    async def _account(self, request: Request, code: str, verifier: str) -> Account:
        found = await self._discover()
        try:
            async with self._client(request) as client:
                await client.fetch_token(found["token_endpoint"], code=code, code_verifier=verifier)
                answer = await client.get(found["userinfo_endpoint"])
                answer.raise_for_status()
                claims = answer.json()
        except (AuthlibBaseError, httpx.HTTPError, ValueError) as error:
            _log.warning("Signing in failed: %s", type(error).__name__)
            raise SignInRefused(
                "The provider did not confirm who you are: start signing in again."
            ) from None
        return _account_of(claims, self._provider.organisation)

    def _client(self, request: Request) -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            client_id=self._provider.client_id,
            client_secret=self._provider.client_secret.get_secret_value(),
            scope=self._provider.scopes,
            redirect_uri=self._callback(request),
            code_challenge_method="S256",
            timeout=TIMEOUT_S,
        )

    def _callback(self, request: Request) -> str:
        if self._provider.public_url:
            return f"{self._provider.public_url}{CALLBACK_PATH}"
        scheme = "https" if came_over_https(request) else "http"
        root = str(request.scope.get("root_path", "")).rstrip("/")
        return f"{scheme}://{request.url.netloc}{root}{CALLBACK_PATH}"

    async def _discover(self) -> dict[str, Any]:
        """The provider's endpoints, by its discovery document (OpenID Connect Discovery 1.0)."""
        address = f"{self._provider.url}/.well-known/openid-configuration"
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
                answer = await client.get(address)
                answer.raise_for_status()
                found: dict[str, Any] = answer.json()
            for name in ("authorization_endpoint", "token_endpoint", "userinfo_endpoint"):
                if not str(found[name]).startswith(("https://", "http://")):
                    raise ValueError(name)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s gave no endpoints: %s", address, type(error).__name__)
            raise SignInRefused(
                "The sign-in provider can't be reached: try again in a minute."
            ) from None
        return found


def build_sign_in_routes(sign_in: SignIn) -> APIRouter:
    """/login/huggingface, /login/callback and /logout, outside the voters' API."""
    router = APIRouter(include_in_schema=False)

    @router.get(LOGIN_PATH)
    async def get_login(request: Request) -> Response:
        try:
            return await sign_in.begin(request)
        except SignInRefused as refused:
            return sign_in.refuse(request, str(refused))

    @router.get(CALLBACK_PATH)
    async def get_callback(request: Request) -> Response:
        try:
            return await sign_in.finish(request)
        except SignInRefused as refused:
            return sign_in.refuse(request, str(refused))

    @router.post(LOGOUT_PATH)
    async def post_logout(request: Request) -> Response:
        # A POST, which other sites can't make from a picture's address.
        return sign_in.leave(request)

    return router


def own_path(target: str) -> str:
    """`target` where it is a path of this app, else "/": nobody is sent to another site.

    A browser reads "//x", "/\\x" and control characters in between as another host's address.
    """
    parts = urlsplit(target)
    plain = target.startswith("/") and not target.startswith(("//", "/\\"))
    if not plain or parts.netloc or parts.scheme or not target.isprintable() or "\\" in target:
        return "/"
    return target


def _account_of(claims: object, organisation: str | None) -> Account:
    subject = claims.get("sub") if isinstance(claims, dict) else None
    if not isinstance(subject, str) or not subject:
        _log.warning("The provider's userinfo names no account.")
        raise SignInRefused("The provider did not say who you are: start signing in again.")
    assert isinstance(claims, dict)
    username = claims.get("preferred_username")
    # The full name is whatever its owner likes, so it never stands for the username.
    username = username if isinstance(username, str) and username else None
    name = username or claims.get("name") or "you"
    return Account(
        voter_id(subject),
        str(name)[:96],
        username,
        organisation.lower() if organisation and writes_for(claims, organisation) else None,
    )


def writes_for(claims: dict[str, Any], organisation: str) -> bool:
    """Whether userinfo gives the account a write or admin role in `organisation`.

    The Hub names the role where the account let this app see the organisation. One whom the
    organisation itself would first ask for a second factor or single sign-on has none.
    """
    found = claims.get("orgs")
    for org in found if isinstance(found, list) else ():
        if not isinstance(org, dict) or not _is_named(org.get("preferred_username"), organisation):
            continue
        asked = org.get("securityRestrictions")
        owes = asked if isinstance(asked, list) else []
        if org.get("missingMFA") or org.get("pendingSSO") or {"mfa", "sso"} & {*map(str, owes)}:
            continue
        if org.get("roleInOrg") in WRITERS:
            return True
    return False


def _is_named(name: object, organisation: str) -> bool:
    # ASCII only: "K" and "ſ" of other alphabets become k and s in small letters.
    return isinstance(name, str) and name.isascii() and name.lower() == organisation.lower()


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9 _.-]", "", text)[:60]
