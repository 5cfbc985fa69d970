"""The embedded server's own Python environment: one a machine, built once by uv.

Owns where it lies and that a torn build is never used. argilla-server's pins contradict the
app's, so nothing is ever installed into the app's environment. Knows no server.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from annotation.children import without_secrets
from annotation.faults import Fault

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
_ABANDONED_S = 3600.0
_POLL_S = 0.2


class EnvironmentBuildError(Fault):
    """The environment can't be made; the message is one line that says why and what to do."""


class BuildCancelledError(Exception):
    """The app ended while the environment was being built."""


def environment_dir(cache: Path | None = None) -> Path:
    """Where this machine's environment for these requirements and this Python belongs."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes())
    key.update(f"{sys.version_info[:3]} {platform.machine()} {sys.base_prefix}".encode())
    return (cache or _cache_dir()) / f"argilla-server-{key.hexdigest()[:16]}"


def ensure_environment(*, log: Path, cancelled: Event, cache: Path | None = None) -> Path:
    """A Python that can run the server; its environment is built first where there is none.

    Two apps that start at once build once. uv's output is appended to `log`. Raises
    EnvironmentBuildError, or BuildCancelledError soon after `cancelled` is set.
    """
    folder = environment_dir(cache)
    python = folder / "bin" / "python"
    try:
        if python.exists():
            return python
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f"{folder.name}.lock"), cancelled):
            if not python.exists():
                _build(folder, log, cancelled)
    except OSError as error:
        raise EnvironmentBuildError(
            f"Argilla's environment can't be made in {folder.parent} ({error.strerror}): "
            "set XDG_CACHE_HOME to a folder with 500 MB of room."
        ) from error
    return python


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "votetune"


@contextmanager
def _locked(path: Path, cancelled: Event) -> Iterator[None]:
    with path.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if cancelled.wait(_POLL_S):
                    raise BuildCancelledError from None
            else:
                break
        yield


def _build(folder: Path, log: Path, cancelled: Event) -> None:
    """Build beside `folder` and rename, so that `folder` is there whole or not at all."""
    _remove_abandoned(folder)
    # An environment whose Python is gone would block the rename.
    shutil.rmtree(folder, ignore_errors=True)
    draft = folder.with_name(f"{folder.name}.draft-{os.getpid()}-{time.time_ns()}")
    python = draft / "bin" / "python"
    try:
        # Relocatable: no file inside names the folder, which changes at the end.
        _uv(
            "venv", "--relocatable", "--python", sys.executable, str(draft), log=log, stop=cancelled
        )
        _uv(
            *("pip", "install", "--no-deps"),
            *("--python", str(python), "--requirements", str(REQUIREMENTS)),
            log=log,
            stop=cancelled,
        )
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    for draft in folder.parent.glob(f"{folder.name}.draft-*"):
        if time.time() - draft.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(draft, ignore_errors=True)


def _uv(*arguments: str, log: Path, stop: Event) -> None:
    import uv

    with log.open("ab") as out:
        start = out.tell()
        command = [uv.find_uv_bin(), "--no-config", "--no-progress", *arguments]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_uv_environ()
        )
        try:
            while child.poll() is None:
                if stop.wait(_POLL_S):
                    raise BuildCancelledError
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
    if child.returncode != 0:
        raise EnvironmentBuildError(
            f"Argilla's environment can't be built: {_last_error(log, start)} "
            f"It needs a package index once; the whole output is in {log}."
        )


def _last_error(log: Path, start: int) -> str:
    with log.open("rb") as out:
        out.seek(start)
        lines = [line.strip(" ×╰─▶│├") for line in out.read().decode(errors="replace").splitlines()]
    told: Sequence[str] = [
        line for line in lines if line.startswith(("error", "Failed", "Because"))
    ]
    words = (told or [line for line in lines if line] or ["uv said nothing."])[-1]
    return words if words.endswith(".") else f"{words}."


def _uv_environ() -> dict[str, str]:
    """No secret, and pip's index settings, which uv does not read by itself."""
    environ = without_secrets(os.environ)
    for mine, pips in (
        ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
        ("UV_INDEX", "PIP_EXTRA_INDEX_URL"),
        ("SSL_CERT_FILE", "PIP_CERT"),
    ):
        if pips in environ:
            environ.setdefault(mine, environ[pips])
    environ.pop("VIRTUAL_ENV", None)
    return environ
