"""The thread that keeps a journal and an Argilla alike while the app serves.

Owns when to deliver, when to read back and how long to wait after a failure. Whatever Argilla
does, nothing is raised into the app: votes wait in the journal, and `state` says so.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from annotation.argilla_store.store import ArgillaConnection, ArgillaStore
from annotation.faults import Fault
from annotation.journal.journal import Journal

State = Literal["starting", "ready", "unreachable"]

DELIVER_EVERY_S = 1.0
PULL_EVERY_S = 10.0
_CONNECT_EVERY_S = 0.5
_LONGEST_PAUSE_S = 10.0
_END_GRACE_S = 3.0
_log = logging.getLogger(__name__)


class ArgillaSync:
    """Delivers about every second and reads back about every ten, until `stop`.

    `connect` gives None while there is no address yet; it is asked again after every failure,
    since a server that was started again may answer elsewhere.
    """

    def __init__(
        self,
        journal: Journal,
        connect: Callable[[], ArgillaConnection | None],
        *,
        votes_per_pair: int,
        deliver_every_s: float = DELIVER_EVERY_S,
        pull_every_s: float = PULL_EVERY_S,
    ) -> None:
        self._journal = journal
        self._connect = connect
        self._votes_per_pair = votes_per_pair
        self._deliver_every_s = deliver_every_s
        self._pull_every_s = pull_every_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: ArgillaStore | None = None
        self._state: State = "starting"
        self._error: str | None = None

    @property
    def state(self) -> State:
        """`ready` while the last round worked; `unreachable` from a failure to the next success."""
        return self._state

    @property
    def last_error(self) -> str | None:
        """Why the last round failed, or what Argilla refused, in one line."""
        return self._error

    def start(self) -> None:
        """Begin in the background; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="argilla-sync", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End within seconds, also in the midst of a call that Argilla leaves waiting."""
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join(_END_GRACE_S)
        store = self._store
        if store is not None:
            store.close()
        self._thread.join(_END_GRACE_S)

    def _run(self) -> None:
        pause_s = self._deliver_every_s
        while not self._stop.is_set():
            try:
                connection = self._connect()
                if connection is not None:
                    self._serve(connection)
                    return
                self._stop.wait(_CONNECT_EVERY_S)
            except Fault as fault:
                pause_s = self._fail(str(fault), pause_s)
            except Exception as error:  # noqa: BLE001 - the thread's boundary: votes must go on
                if self._stop.is_set():
                    return
                _log.exception("Delivery to Argilla failed.")
                pause_s = self._fail(f"Delivery to Argilla failed: {error!r}.", pause_s)

    def _serve(self, connection: ArgillaConnection) -> None:
        """Deliver and read back until `stop`; any failure is raised."""
        store = self._store = ArgillaStore(
            connection,
            self._journal,
            votes_per_pair=self._votes_per_pair,
            stopping=self._stop.is_set,
        )
        try:
            store.ensure_dataset()
            # First: a home restored from its backup must not write over what only Argilla knows.
            store.pull()
            next_pull = time.monotonic() + self._pull_every_s
            while not self._stop.is_set():
                store.deliver()
                if time.monotonic() >= next_pull:
                    store.pull()
                    next_pull = time.monotonic() + self._pull_every_s
                self._state, self._error = "ready", _about_refused(store.refused_count())
                self._stop.wait(self._deliver_every_s)
        finally:
            self._store = None
            store.close()

    def _fail(self, why: str, pause_s: float) -> float:
        """Wait, longer after each failure in a row; the next pause."""
        if self._stop.is_set():
            return pause_s
        in_a_row = self._state == "unreachable"
        if self._error != why:
            _log.warning("%s Votes wait in the journal.", why)
        self._state, self._error = "unreachable", why
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if in_a_row else self._deliver_every_s
        self._stop.wait(pause_s)
        return pause_s


def _about_refused(count: int) -> str | None:
    if not count:
        return None
    return f"Argilla refused {count} pairs, votes or deletions, tried again later: see the log."
