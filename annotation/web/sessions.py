"""Who is signed in: sessions that live on the server, so that signing out ends one at once.

Owns the session cookie and the file of live sessions. A cookie holds a signed random number and
nothing of its bearer; a cookie that was copied before its owner signed out opens nothing after.
Knows no OAuth and no votes.
"""

import json
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from itsdangerous import BadSignature, Signer
from starlette.requests import HTTPConnection
from starlette.responses import Response

from annotation.home import write_private
from annotation.schema import utc_now
from annotation.web.cookies import came_over_https, clear_cookie, set_cookie

COOKIE_NAME = "votetune_session"
LIFE = timedelta(days=30)
MOST = 100_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """A signed-in account. `voter` is its stable id, `name` what its owner calls it today.

    `username` is its unique name at the provider. `writes_for` is the organisation that owns this
    app, in small letters, where the account had a write or admin role in it at sign-in.
    """

    voter: str
    name: str
    username: str | None = None
    writes_for: str | None = None


class Sessions:
    """Opens, finds and ends sessions; safe to share between threads.

    They outlive a restart in `file`, as sha256 of their numbers: the file opens no session. Where
    the file is lost, everybody signs in again.
    """

    def __init__(
        self,
        file: Path,
        secret: bytes,
        *,
        framed: bool,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if not secret:
            raise ValueError("The session secret is empty: every session could be forged.")
        self._file = file
        self._signer = Signer(secret, salt=COOKIE_NAME, digest_method=sha256)
        self._framed = framed
        self._clock = clock
        self._lock = threading.Lock()
        self._live = self._load()

    def open(self, response: Response, request: HTTPConnection, account: Account) -> None:
        """Sign `account` in: a new session, whose cookie goes with `response`."""
        number = secrets.token_urlsafe(32)
        with self._lock:
            now = self._clock()
            self._live = {key: kept for key, kept in self._live.items() if kept[1] > now}
            while len(self._live) >= MOST:
                self._live.pop(next(iter(self._live)))
            self._live[_key(number)] = (account, now + LIFE)
            self._save()
        set_cookie(
            response,
            COOKIE_NAME,
            self._signer.sign(number).decode(),
            max_age_s=int(LIFE.total_seconds()),
            framed=self._framed,
            secure=came_over_https(request),
        )

    def find(self, request: HTTPConnection) -> Account | None:
        """The account of a request's live session, or None."""
        return self.account(request.cookies.get(COOKIE_NAME, ""))

    def account(self, cookie: str, *, within: timedelta = LIFE) -> Account | None:
        """The account of a cookie's live session that was opened within this time, or None."""
        key = self._key_of(cookie)
        kept = self._live.get(key) if key else None
        return kept[0] if kept and kept[1] - LIFE + within > self._clock() else None

    def end(self, response: Response, request: HTTPConnection) -> None:
        """Sign out: the session is over, whoever still holds its cookie."""
        key = self._key_of(request.cookies.get(COOKIE_NAME, ""))
        with self._lock:
            if key and self._live.pop(key, None):
                self._save()
        clear_cookie(response, COOKIE_NAME, framed=self._framed, secure=came_over_https(request))

    def _key_of(self, cookie: str) -> str | None:
        try:
            number = self._signer.unsign(cookie).decode()
        except (BadSignature, UnicodeError):
            return None
        return _key(number)

    def _load(self) -> dict[str, tuple[Account, datetime]]:
        try:
            rows = json.loads(self._file.read_text())
            return {
                row["key"]: (Account(**row["account"]), datetime.fromisoformat(row["until"]))
                for row in rows
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s can't be read (%s): everybody signs in again.", self._file, error)
            return {}

    def _save(self) -> None:
        rows = [
            {"key": key, "account": asdict(account), "until": until.isoformat()}
            for key, (account, until) in self._live.items()
        ]
        write_private(self._file, json.dumps(rows))


def _key(number: str) -> str:
    return sha256(number.encode()).hexdigest()
