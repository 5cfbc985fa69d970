"""The journal's one writing thread: takes all that waits, commits once, then answers.

Owns the writing connection, the queue and the transaction. An operation that fails is undone
alone; one that takes SQLite's whole transaction down has its neighbours run again without it.
Knows nothing of pairs and votes.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from annotation.journal.checkpoints import Checkpoints
from annotation.journal.rows import BUSY_TIMEOUT_S, JournalError, open_writer, translate

MAX_BATCH = 256
SCRUB_EVERY_S = 30.0
SCRUB_AGAIN_S = 1.0
SCRUB_NOTE = "journal.scrub"
"""The journal's note that deleted bytes may still be in the file: a crash must not forget it."""
_SCRUB_WAIT_MS = 50
LAZY_SYNC_S = 0.25
"""While the disk has synced within it, what is lazy leaves that to the next that is not."""
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Work:
    run: Callable[[sqlite3.Connection], Any]
    scrub: bool = False
    lazy: bool = False
    future: "Future[Any]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Answer:
    result: Any = None
    error: BaseException | None = None


class GroupCommitWriter:
    """Runs operations on one connection, in order, many to a commit.

    A future resolves only after the commit that holds its operation, synced to disk unless the
    whole commit is lazy.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = open_writer(path)
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._trouble: str | None = None
        noted = "SELECT 1 FROM notes WHERE key = ?"
        due = self._connection.execute(noted, (SCRUB_NOTE,)).fetchone()
        self._scrub_at = time.monotonic() if due else None
        self._scrubbed_at = float("-inf")
        self._is_rewritten = False
        self._syncs = True
        self._synced_at = float("-inf")
        self._checkpoints = Checkpoints(path)
        self._thread = threading.Thread(target=self._loop, name="journal", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """Why the disk refused the last commit, in one line; None since one was stored."""
        return self._trouble

    def submit(
        self,
        run: Callable[[sqlite3.Connection], _Result],
        *,
        scrub: bool = False,
        lazy: bool = False,
    ) -> "Future[_Result]":
        """Queue an operation; it may run twice, the first time rolled back without a trace.

        With `scrub`, what it deletes leaves the bytes of file and WAL soon after its commit, at
        once or within half a minute of the time before. With `lazy`, a power cut may take it,
        though never the end of the app alone, nor once a later commit has synced: under load it
        costs the disk nothing and votes no wait.
        """
        work = _Work(run, scrub, lazy)
        with self._gate:
            if self._closed:
                work.future.set_exception(JournalError(f"The journal {self._path} is closed."))
            else:
                self._queue.put(work)
        return work.future

    def close(self) -> None:
        """Commit what was queued, fold the WAL into the file, close. Safe to call twice."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._checkpoints.stop()
        self._thread.join()

    def _loop(self) -> None:
        running = True
        while running:
            works = self._take()
            running = None not in works
            batch = [w for w in works if w and w.future.set_running_or_notify_cancel()]
            if batch:
                self._commit(batch)
            if self._scrub_at is not None and time.monotonic() >= self._scrub_at:
                self._scrub()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            # The WAL keeps everything; the next start folds it in.
            _log.warning("%s", translate(error, self._path))
        self._connection.close()

    def _take(self) -> list[_Work | None]:
        """All that waits, up to a batch; nothing where a scrub is due first."""
        wait_s = None
        if self._scrub_at is not None:
            wait_s = max(0.0, self._scrub_at - time.monotonic())
        try:
            works = [self._queue.get(timeout=wait_s)]
        except queue.Empty:
            return []
        while works[-1] is not None and len(works) < MAX_BATCH and not self._queue.empty():
            works.append(self._queue.get())
        return works

    def _scrub(self) -> None:
        """Rewrite the file without what was deleted, then fold the WAL in and empty it.

        secure_delete alone leaves the copies that page splits had made before.
        """
        db = self._connection
        try:
            self._sync(True)
            if not self._is_rewritten:
                db.execute("VACUUM")
                self._is_rewritten = True
            # Briefly, and again later: while this waits for a reader, voters wait for it.
            db.execute(f"PRAGMA busy_timeout = {_SCRUB_WAIT_MS}")
            in_the_way = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            db.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
            if in_the_way:
                self._scrub_at = time.monotonic() + SCRUB_AGAIN_S
                return
            db.execute("DELETE FROM notes WHERE key = ?", (SCRUB_NOTE,))
        except sqlite3.Error as error:
            self._scrub_at = time.monotonic() + SCRUB_EVERY_S
            _log.warning("Deleted bytes stay for now: %s", translate(error, self._path))
        else:
            self._scrub_at, self._scrubbed_at = None, time.monotonic()

    def _commit(self, batch: Sequence[_Work]) -> None:
        try:
            answers = self._transact(batch)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: every future is told
            self._abandon()
            if len(batch) > 1 and not _is_busy(error):
                for work in batch:
                    self._commit([work])
                return
            _log.warning("A write to the journal failed: %s", error)
            wrapped = translate(error, self._path) if isinstance(error, sqlite3.Error) else error
            self._trouble = str(wrapped)
            answers = [_Answer(error=wrapped)] * len(batch)
        else:
            self._trouble = None
        if any(work.scrub for work in batch):
            self._scrub_at = max(time.monotonic(), self._scrubbed_at + SCRUB_EVERY_S)
            self._is_rewritten = False
        for work, answer in zip(batch, answers, strict=True):
            if answer.error is not None:
                work.future.set_exception(answer.error)
            else:
                work.future.set_result(answer.result)

    def _transact(self, batch: Sequence[_Work]) -> list[_Answer]:
        lately = time.monotonic() - self._synced_at < LAZY_SYNC_S
        self._sync(not (lately and all(work.lazy for work in batch)))
        self._connection.execute("BEGIN IMMEDIATE")
        if len(batch) == 1:
            # Alone, it is undone with its whole transaction: a savepoint would copy every page.
            answers = [self._run(batch[0])]
            if answers[0].error is not None:
                self._connection.execute("ROLLBACK")
                return answers
        else:
            answers = [self._attempt(work) for work in batch]
        self._connection.execute("COMMIT")
        if self._syncs:
            self._synced_at = time.monotonic()
        return answers

    def _sync(self, wanted: bool) -> None:
        if wanted != self._syncs:
            mode = "FULL" if wanted else "NORMAL"
            self._connection.execute(f"PRAGMA synchronous = {mode}")
            self._syncs = wanted

    def _attempt(self, work: _Work) -> _Answer:
        """One operation among others, undone alone where it fails."""
        self._connection.execute("SAVEPOINT operation")
        answer = self._run(work)
        if answer.error is not None:
            self._connection.execute("ROLLBACK TO operation")
        self._connection.execute("RELEASE operation")
        return answer

    def _run(self, work: _Work) -> _Answer:
        try:
            answer = _Answer(work.run(self._connection))
            if work.scrub:
                self._connection.execute(
                    "INSERT OR REPLACE INTO notes (key, value) VALUES (?, '')", (SCRUB_NOTE,)
                )
        except sqlite3.OperationalError:
            # Disk full, I/O error: SQLite may have rolled the whole transaction back already.
            raise
        except Exception as error:  # noqa: BLE001 - reported through the operation's future
            return _Answer(error=_plain(error))
        return answer

    def _abandon(self) -> None:
        # After a full disk SQLite has rolled back by itself, and a second ROLLBACK raises.
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            # The thread lives on: while this lasts, each write fails and tries it again.
            _log.error("%s", translate(error, self._path))


def _is_busy(error: Exception) -> bool:
    # Another program holds the file: each operation alone would wait as long, one by one.
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY


def _plain(error: Exception) -> Exception:
    if isinstance(error, UnicodeEncodeError):
        excerpt = ascii(error.object[max(0, error.start - 20) : error.end])
        return ValueError(f"Text with a lone surrogate can't be stored: replace it in {excerpt}.")
    if isinstance(error, sqlite3.Error):
        return JournalError(f"The journal refused: {error}.")
    return error
