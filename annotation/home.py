"""The home folder: its files by name, its secrets, and the lock that one app holds.

Owns what lies where under VOTETUNE_HOME, and that secrets are readable by their owner only.
"""

import fcntl
import hmac
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from annotation.faults import Fault

TRIES, PAUSE_S = 5, 0.05


class HomeError(Fault):
    """The home folder can't be used; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under one VOTETUNE_HOME. Creating one touches nothing on disk."""

    root: Path

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite3"

    @property
    def app(self) -> Path:
        return self.root / "app.json"

    @property
    def admin_token(self) -> Path:
        return self.root / "admin_token"

    @property
    def audit(self) -> Path:
        return self.root / "audit.jsonl"

    @property
    def exports(self) -> Path:
        return self.root / "exports"

    @property
    def sampler_log(self) -> Path:
        return self.root / "sampler.log"

    def prepare(self) -> None:
        """Make the folder, for its owner's eyes only. Raises HomeError where it can't be."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HomeError(
                f"VOTETUNE_HOME={self.root} can't be made ({error.strerror}): "
                "name a folder that can be written."
            ) from None
        if not os.access(self.root, os.W_OK):
            raise HomeError(
                f"VOTETUNE_HOME={self.root} can't be written: name a folder that can be."
            )

    def secret(self, name: str) -> bytes:
        """32 random bytes kept in the file `name` (mode 0600), made on first use."""
        file = self.root / name
        if not file.exists():
            write_private(file, secrets.token_hex(32))
        return bytes.fromhex(file.read_text().strip())


def derived_secret(secret: str, name: str) -> bytes:
    """The secret called `name` that follows from `secret`, on whatever disk: 32 bytes."""
    return hmac.digest(secret.encode(), name.encode(), "sha256")


def write_private(file: Path, text: str) -> None:
    """Write `text` whole, by rename, readable by the owner only."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


class HomeLock:
    """Held by the one app that serves a home; the kernel lets go of it when the app dies."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._file = (home.root / "lock").open("a+")
        if not self._take():
            self._file.close()
            running = running_app(home)
            where = f" at {running.url} (process {running.pid})" if running else ""
            raise HomeError(
                f"Another app already serves the home {home.root}{where}: "
                "stop it, or set another VOTETUNE_HOME."
            ) from None

    def _take(self) -> bool:
        # More than once: a command that only looks (`running_app`) holds it for a moment.
        for _ in range(TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(PAUSE_S)
            else:
                return True
        return False

    def announce(self, url: str) -> None:
        """Say in app.json where this home is served."""
        write_private(self._home.app, json.dumps({"url": url, "pid": os.getpid()}))

    def release(self) -> None:
        self._home.app.unlink(missing_ok=True)
        self._file.close()


@dataclass(frozen=True, slots=True)
class RunningApp:
    url: str
    pid: int


def running_app(home: Home) -> RunningApp | None:
    """The app that serves this home now, or None. Takes nobody's word but the lock's.

    A process id in a file proves nothing: after a crash or a reboot another process may have it.
    """
    try:
        with (home.root / "lock").open() as lock:
            if _is_free(lock):
                return None
        found = json.loads(home.app.read_text())
        return RunningApp(url=str(found["url"]), pid=int(found["pid"]))
    except (OSError, ValueError, KeyError):
        return None


def _is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
