"""The child process: a real argilla-server on SQLite with no Elasticsearch and no Redis.

Runs in the embedded environment only (`python -m annotation.argilla_server.server`), in the
folder named by ARGILLA_HOME_PATH. Reads the owner's secrets from credentials.json beside the
database, writes server.json once it answers, and ends when the app that started it ends.
Edits no file of a package: what differs from a stock server is set before or after its import.
"""

import fcntl
import gc
import importlib.machinery
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from annotation.children import lower_priority

_EXIT_GRACE_S = 5.0
_NICENESS = 10
_LOCK_WAIT_S = 15.0
_STRONG_PASSWORD_CHARS = 64
_LOG = logging.getLogger("votetune.argilla_server")


def main() -> int:
    """Serve until SIGTERM or until the app is gone. 0 after a clean end."""
    home = Path(os.environ["ARGILLA_HOME_PATH"])
    os.umask(0o077)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    _end_with_the_app(int(os.environ["VOTETUNE_APP_PID"]))
    with (home / "server.lock").open("w") as lock:
        if not _locked(lock):
            _LOG.error("Another server still uses %s: end it, then start again.", home)
            return 1
        credentials = json.loads((home / "credentials.json").read_text())
        os.environ["ARGILLA_AUTH_SECRET_KEY"] = credentials["secret_key"]
        _replace_redis()
        _trim_imports()
        _migrate()
        _ensure_owner(credentials)
        _serve(home, has_webhooks=_speed_up())
    return 0


def _locked(lock: Any) -> bool:
    """Hold the home against a server of an earlier app that is still ending."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def _end_with_the_app(app_pid: int) -> None:
    """End this process when the app is gone, however it went.

    The pipe on stdin closes with the app, but a fork of the app may hold it open, so the parent's
    id is watched too.
    """

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_EXIT_GRACE_S)
        os._exit(1)

    def watch_pipe() -> None:
        while os.read(0, 1024):
            pass
        end()

    def watch_parent() -> None:
        while os.getppid() == app_pid:
            time.sleep(1)
        end()

    for watch in (watch_pipe, watch_parent):
        threading.Thread(target=watch, name=watch.__name__, daemon=True).start()


def _replace_redis() -> None:
    """Every connection that the server asks for is one fake Redis inside this process."""
    import fakeredis
    import redis

    shared = fakeredis.FakeServer()

    def from_url(url: str, **_: Any) -> fakeredis.FakeRedis:
        return fakeredis.FakeRedis(server=shared)

    redis.from_url = from_url


def _trim_imports() -> None:
    """Take 3.2 s off a start: what this server never uses is not imported, or only when it is.

    The Hub jobs (pandas, pyarrow, datasets) load at their first use; the clients of the two stock
    search engines, which the server imports whatever engine is set, are names without content.
    """
    jobs, clients = "argilla_server.jobs.hub_jobs", ("elasticsearch8", "opensearchpy")

    class Finder:
        @staticmethod
        def find_spec(fullname: str, path: Any = None, target: Any = None) -> Any:
            if fullname != jobs:
                return None
            spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = importlib.util.LazyLoader(spec.loader)
            return spec

    sys.meta_path.insert(0, Finder)
    for name, client in zip(clients, ("AsyncElasticsearch", "AsyncOpenSearch"), strict=True):
        stub = types.ModuleType(name)
        vars(stub).update({client: type(client, (), {}), "helpers": types.ModuleType("helpers")})
        sys.modules[name] = stub


def _migrate() -> None:
    """Bring the database to the package's newest schema, and to WAL, before anything opens it."""
    from alembic import command  # type: ignore[import-not-found]
    from alembic.config import Config  # type: ignore[import-not-found]
    from argilla_server.database import ALEMBIC_CONFIG_FILE
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def use_wal(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        # A voter's deletion overwrites here as it does in the journal.
        cursor.execute("PRAGMA secure_delete = ON")
        cursor.close()

    event.listen(Engine, "connect", use_wal)
    # Without a file name, alembic's environment leaves this process's logging alone.
    config = Config()
    config.set_main_option("script_location", str(Path(ALEMBIC_CONFIG_FILE).parent / "alembic"))
    command.upgrade(config, "head")


def _ensure_owner(credentials: dict[str, str]) -> None:
    """The REST API can't set an API key, so the owner is written to the database."""
    from argilla_server.contexts import accounts
    from argilla_server.database import SyncSessionLocal
    from argilla_server.models import User, UserRole
    from sqlalchemy import select

    with SyncSessionLocal() as session:
        owner = session.scalar(select(User).where(User.username == credentials["username"]))
        if owner is not None and owner.api_key == credentials["api_key"]:
            return
        if owner is None:
            owner = User(username=credentials["username"], first_name="Votetune")
            session.add(owner)
        owner.role = UserRole.owner
        owner.api_key = credentials["api_key"]
        owner.password_hash = accounts.hash_password(credentials["password"])
        session.commit()
    SyncSessionLocal.remove()


def _speed_up() -> Callable[[], bool]:
    """Bulk writes measured 53 records a second as shipped and 156 with the first two of these.

    Gives what tells whether a webhook may want events.
    """
    _build_type_adapters_once()
    has_webhooks = _skip_events_without_webhooks()
    _hash_random_passwords_cheaply()
    return has_webhooks


def _build_type_adapters_once() -> None:
    from argilla_server.api.schemas.v1.questions import QuestionSettings
    from argilla_server.models import MetadataProperty, Question
    from argilla_server.models.metadata_properties import MetadataPropertySettings
    from pydantic import TypeAdapter

    def parsed_by(adapter: Any) -> property:
        return property(lambda record: adapter.validate_python(record.settings))

    Question.parsed_settings = parsed_by(TypeAdapter(QuestionSettings))
    MetadataProperty.parsed_settings = parsed_by(TypeAdapter(MetadataPropertySettings))


def _skip_events_without_webhooks() -> Callable[[], bool]:
    """Build an event only where a webhook may want it; from the first webhook on, all go out."""
    from argilla_server.database import SyncSessionLocal
    from argilla_server.models import Webhook
    from argilla_server.webhooks.v1 import datasets, records, responses
    from sqlalchemy import event, exists, select

    with SyncSessionLocal() as session:
        wanted = threading.Event()
        if session.scalar(select(exists(select(Webhook.id)))):
            wanted.set()
    SyncSessionLocal.remove()

    def note_webhook(*_: Any) -> None:
        wanted.set()

    event.listen(Webhook, "before_insert", note_webhook)

    class NoEvent:
        @staticmethod
        async def notify(_db: Any) -> list[Any]:
            return []

    def guard(function: Any, answer: Any) -> Any:
        async def guarded(*args: Any) -> Any:
            return await function(*args) if wanted.is_set() else answer

        return guarded

    for kind, module in (("dataset", datasets), ("record", records), ("response", responses)):
        notify, build = f"notify_{kind}_event", f"build_{kind}_event"
        _replace_everywhere(getattr(module, notify), guard(getattr(module, notify), []))
        _replace_everywhere(getattr(module, build), guard(getattr(module, build), NoEvent))
    return wanted.is_set


def _replace_everywhere(old: Any, new: Any) -> None:
    """Replace a function in every module of the server that imported it by name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("argilla_server.") and name != "argilla_server.jobs.hub_jobs":
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)


def _hash_random_passwords_cheaply() -> None:
    """A random password of 64 characters needs no slow hash, and half a second a voter is a lot."""
    import bcrypt  # type: ignore[import-not-found]
    from argilla_server.contexts import accounts

    slow = accounts.hash_password

    def hash_password(password: str) -> str:
        if len(password) < _STRONG_PASSWORD_CHARS:
            return str(slow(password))
        return str(bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=4)).decode())

    _replace_everywhere(slow, hash_password)


def _serve(home: Path, *, has_webhooks: Callable[[], bool]) -> None:
    import uvicorn
    from argilla_server._app import app
    from argilla_server.api.routes import api_v1

    from annotation.argilla_server import engine  # noqa: F401  (registers the "sql" engine)
    from annotation.argilla_server.votes_route import votes_router

    api_v1.include_router(votes_router(has_webhooks))
    with _listener(home) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=3, server_header=False
        )
        server = uvicorn.Server(config)
        _start_worker()
        threading.Thread(target=_announce, args=(server, home, url), daemon=True).start()
        server.run(sockets=[listener])


def _listener(home: Path) -> socket.socket:
    """The port of the last time where it is free, so that open pages and bookmarks stay good."""
    try:
        wanted = int(json.loads((home / "server.json").read_text())["url"].rsplit(":", 1)[1])
    except (OSError, ValueError, LookupError):
        wanted = 0
    for port in (wanted, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
        else:
            return listener
    raise OSError("No port of 127.0.0.1 is free.")


def _announce(server: Any, home: Path, url: str) -> None:
    while not server.started:
        time.sleep(0.02)
    # What was imported stays: looking through it for garbage takes .15 s each time.
    gc.freeze()
    partial = home / "server.json.tmp"
    partial.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    partial.replace(home / "server.json")
    # Only now: starting is waited for, what comes after is nobody's wait. Votes come first.
    lower_priority(os.getpid(), _NICENESS)


def _start_worker() -> None:
    """Run the server's background jobs in a thread of this process."""
    from argilla_server.jobs.queues import DEFAULT_QUEUE, HIGH_QUEUE
    from rq import SimpleWorker
    from rq.timeouts import TimerDeathPenalty

    class ThreadWorker(SimpleWorker):  # type: ignore[misc]
        death_penalty_class = TimerDeathPenalty
        # A job's arguments may hold a Hub token.
        log_job_description = False

        def _install_signal_handlers(self) -> None:
            """Signals belong to the main thread."""

    worker = ThreadWorker([HIGH_QUEUE, DEFAULT_QUEUE], connection=DEFAULT_QUEUE.connection)
    threading.Thread(
        target=worker.work, kwargs={"logging_level": "WARNING"}, name="jobs", daemon=True
    ).start()


if __name__ == "__main__":
    sys.exit(main())
