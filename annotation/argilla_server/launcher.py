"""The embedded Argilla as the app sees it: start it, ask for its address, stop it.

Owns the child process, its restarts and its files under `<home>/argilla`. Imports no argilla
package and waits for nothing: a thread does the building, starting and watching.
"""

import json
import logging
import os
import secrets
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from annotation.argilla_server.environment import (
    BuildCancelledError,
    EnvironmentBuildError,
    ensure_environment,
)
from annotation.home import write_private

State = Literal["starting", "ready", "unreachable"]

_REPOSITORY = Path(__file__).resolve().parents[2]
_OWNER = "owner"
_START_TIMEOUT_S = 180.0
_END_GRACE_S = 6.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_LOG_KEPT_BYTES = 2_000_000
_POLL_S = 0.1
# All else of the app's environment stays out: tokens, ARGILLA_* and PYTHON* of another context.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_log = logging.getLogger(__name__)
# A proxy of the environment must never see a request to loopback.
_loopback = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach a running embedded server as its owner, by API or by its web pages."""

    api_url: str
    api_key: str = field(repr=False)
    username: str
    password: str = field(repr=False)


class EmbeddedArgilla:
    """One real Argilla over one home folder, kept running until `stop`.

    A server that dies is started again, after 1 s at first and up to 60 s when it keeps dying.
    The same home gives the same keys, data and, where it is free, port.
    """

    def __init__(self, home: Path, *, cache: Path | None = None) -> None:
        self._folder = home.resolve() / "argilla"
        self._cache = cache
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._state: State = "starting"
        self._credentials: Credentials | None = None
        self._error: str | None = None

    @property
    def log(self) -> Path:
        """Everything that uv and the server had to say."""
        return self._folder / "server.log"

    @property
    def state(self) -> State:
        """`unreachable` from the first failure on, until the server answers."""
        return self._state

    @property
    def last_error(self) -> str | None:
        """Why it is unreachable, in one line."""
        return self._error

    @property
    def pid(self) -> int | None:
        """The server's process id while there is one."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def credentials(self) -> Credentials | None:
        """Address and keys; None until the server answers, and after it died."""
        return self._credentials

    def start(self) -> None:
        """Begin in the background and return at once. A second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="argilla-server", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the server (SIGTERM, then SIGKILL) and wait for it; within about six seconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._credentials = None

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._serve_once()
            except BuildCancelledError:
                return
            except (EnvironmentBuildError, OSError, ValueError) as error:
                self._fail(str(error))
            finally:
                self._credentials = None
                self._end_child()
            if time.monotonic() - began > _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            self._stop.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _serve_once(self) -> None:
        """Build if need be, start a child, and stay until it ends or `stop` is called."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._trim_log()
        python = ensure_environment(log=self.log, cancelled=self._stop, cache=self._cache)
        owner = self._owner()
        self._child = child = self._spawn(python)
        api_url = self._wait_until_it_answers(child)
        if api_url is not None:
            self._credentials = Credentials(
                api_url, owner["api_key"], owner["username"], owner["password"]
            )
            self._state, self._error = "ready", None
            _log.info("Argilla answers at %s (process %d).", api_url, child.pid)
        while not self._stop.is_set() and child.poll() is None:
            self._stop.wait(_POLL_S)
        if not self._stop.is_set():
            self._fail(f"Argilla's server ended with status {child.poll()}: see {self.log}.")

    def _fail(self, why: str) -> None:
        self._state, self._error = "unreachable", why
        _log.warning("%s It is tried again.", why)

    def _trim_log(self) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_KEPT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        self.log.touch(mode=0o600)

    def _owner(self) -> dict[str, str]:
        """The owner's secrets, made once for a home."""
        file = self._folder / "credentials.json"
        if not file.exists():
            fresh = {
                "username": _OWNER,
                "password": secrets.token_urlsafe(18),
                "api_key": f"{_OWNER}.{secrets.token_urlsafe(48)}",
                "secret_key": secrets.token_hex(32),
            }
            write_private(file, json.dumps(fresh))
        try:
            owner: dict[str, str] = json.loads(file.read_text())
            complete = all(owner[key] for key in ("username", "password", "api_key", "secret_key"))
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise ValueError(f"{file} can't be read: remove it, and new keys are made.")
        return owner

    def _spawn(self, python: Path) -> subprocess.Popen[bytes]:
        # The server copies its web pages there at every start, and leaves them when killed.
        scratch = self._folder / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        environ = {
            name: os.environ[name] for name in (*_PASSED_ON, *_PROXIES) if name in os.environ
        }
        environ |= {
            "ARGILLA_HOME_PATH": str(self._folder),
            "ARGILLA_SEARCH_ENGINE": "sql",
            "ARGILLA_DATABASE_SQLITE_TIMEOUT": "30",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(_REPOSITORY),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(scratch),
            "VOTETUNE_APP_PID": str(os.getpid()),
        }
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [python, "-m", "annotation.argilla_server.server"],
                cwd=self._folder,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal is for the app, which then ends the server itself.
                start_new_session=True,
            )

    def _wait_until_it_answers(self, child: subprocess.Popen[bytes]) -> str | None:
        """The address, once this very child answers there; None if it ended or takes too long."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while child.poll() is None and not self._stop.is_set():
            url = self._announced_by(child.pid)
            if url is not None and _answers(url):
                return url
            if time.monotonic() > deadline:
                child.kill()
                child.wait()
                return None
            self._stop.wait(_POLL_S)
        return None

    def _announced_by(self, pid: int) -> str | None:
        # server.json may still be that of an earlier app's server.
        try:
            told = json.loads((self._folder / "server.json").read_text())
            return str(told["url"]) if told["pid"] == pid else None
        except (OSError, ValueError, LookupError):
            return None

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(_END_GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


def load_credentials(home: Path) -> Credentials | None:
    """Address and keys of the server of `home` where one runs now; for other processes."""
    folder = home.resolve() / "argilla"
    try:
        told = json.loads((folder / "server.json").read_text())
        os.kill(int(told["pid"]), 0)
        owner = json.loads((folder / "credentials.json").read_text())
        return Credentials(told["url"], owner["api_key"], owner["username"], owner["password"])
    except (OSError, ValueError, LookupError):
        return None


def _answers(url: str) -> bool:
    try:
        with _loopback.open(f"{url}/api/v1/version", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
