"""Who a voter is, and how fast one may vote.

A voter is the account of a live session, else the bearer of a signed cookie that this server made;
nothing in a body or another header says who votes. Knows no pair and no vote.
"""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from itsdangerous import BadSignature, Signer
from starlette.requests import Request
from starlette.responses import Response

from annotation.web.cookies import set_cookie
from annotation.web.sessions import Sessions

COOKIE_NAME = "votetune_voter"
# Browsers cap a cookie's life at 400 days.
_COOKIE_AGE_S = 400 * 24 * 3600
_VOTER = re.compile(r"[a-z0-9-]{1,64}")
_HUB = "hub-"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request; `is_new` where the answer has to set the cookie.

    `name` is what a signed-in voter is called.
    """

    voter: str
    is_new: bool
    signed_in: bool = False
    name: str | None = None


class VoterCookies:
    """Reads and sets the cookie `votetune_voter`: the voter's id and its signature.

    Where people may sign in, their `sessions` come first.
    """

    def __init__(
        self, secret: bytes, sessions: Sessions | None = None, *, framed: bool = False
    ) -> None:
        """`framed`: the app is shown inside the Hub's pages."""
        if not secret:
            raise ValueError("The cookie secret is empty: every cookie could be forged.")
        self._sessions = sessions
        self._framed = framed
        self._signer = Signer(secret, salt=COOKIE_NAME, digest_method=sha256)

    def caller(self, request: Request) -> Caller:
        """The signed-in voter, else the cookie's, else a new one."""
        if self._sessions and (account := self._sessions.find(request)):
            return Caller(account.voter, is_new=False, signed_in=True, name=account.name)
        cookie = request.cookies.get(COOKIE_NAME)
        voter = None if cookie is None else self.read(cookie)
        return Caller(voter, is_new=False) if voter else self.new_caller()

    @property
    def has_sign_in(self) -> bool:
        """Whether there is a way to sign in."""
        return self._sessions is not None

    def new_caller(self) -> Caller:
        """Somebody who was never here."""
        return Caller(f"anon-{secrets.token_hex(8)}", is_new=True)

    def read(self, cookie: str) -> str | None:
        """The voter of a cookie's value, or None where this server did not sign it."""
        try:
            voter = self._signer.unsign(cookie).decode()
        except (BadSignature, UnicodeError):
            return None
        # A cookie outlives a sign-in, so it never stands for one.
        return voter if _VOTER.fullmatch(voter) and not voter.startswith(_HUB) else None

    def value(self, voter: str) -> str:
        """The signed cookie of `voter`."""
        return self._signer.sign(voter).decode()

    def attach(self, response: Response, voter: str, *, secure: bool) -> None:
        """Set the cookie for 400 days, as `cookies` sets every cookie."""
        set_cookie(
            response,
            COOKIE_NAME,
            self.value(voter),
            max_age_s=_COOKIE_AGE_S,
            framed=self._framed,
            secure=secure,
        )


class TokenBuckets:
    """A token bucket for each voter: `rate_per_s` in the long run, `burst` at once.

    A bucket that is full again is forgotten, and never more than `most` are kept, so memory
    stays bounded whoever calls. For one event loop: not thread-safe.
    """

    def __init__(
        self,
        *,
        rate_per_s: float = 5.0,
        burst: int = 20,
        most: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, voter: str) -> float:
        """Take one token and give 0, or give the seconds until there is one."""
        now = self._clock()
        self._forget(now)
        tokens, since = self._buckets.get(voter, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + (now - since) * self._rate_per_s)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._rate_per_s
        self._buckets[voter] = (tokens if wait_s else tokens - 1, now)
        self._buckets.move_to_end(voter)
        return wait_s

    def _forget(self, now: float) -> None:
        full_after_s = self._burst / self._rate_per_s
        while self._buckets:
            _, since = next(iter(self._buckets.values()))
            if since + full_after_s > now and len(self._buckets) < self._most:
                return
            self._buckets.popitem(last=False)
