"""The thread that keeps a journal and its backup alike while the app serves.

Owns when to restore, when to send, and how long a last sync may take. Sends nothing before it has
read what is there. Voting opens once an empty home is restored; whatever the Hub does afterwards,
nothing is raised into the app: votes wait in the journal, and `status` says so.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from annotation.backup.events import (
    BackupBase,
    BackupError,
    EventFile,
    Header,
    OtherBase,
    Wish,
    merge,
)
from annotation.backup.journal_backup import JournalBackup
from annotation.backup.repo import BackupRepo, event_names
from annotation.faults import Fault
from annotation.hub.client import HubError
from annotation.journal.journal import JournalError
from annotation.schema import utc_now

State = Literal["restoring", "ready", "unreachable", "refused"]

SYNC_EVERY_S = 30.0
"""Half of what a vote may wait; more often would meet the Hub's limit on commits an hour."""
PATIENCE_S = 20.0
"""How long an empty home waits for a Hub that can't be reached before voting opens without it."""
LAST_SYNC_S = 8.0
OVERLAP_S = 900.0
"""A Space that restarts may run twice for a while: that long, files of the other are looked for."""
_LONGEST_PAUSE_S = 300.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """How the backup does. `waiting` are pairs and votes that it has not got."""

    repo: str
    state: State
    last_sync: datetime | None
    waiting: int
    last_error: str | None


class BackupSync:
    """Restores once, then sends about every 30 s what is new, until `stop`, and then once more.

    `on_open` is called once, when voting may begin. `on_broken` is called instead, with the
    reason, where an empty home can't be restored because what is there can't be read.
    """

    def __init__(
        self,
        journal: JournalBackup,
        repo: BackupRepo,
        base: BackupBase,
        *,
        on_open: Callable[[], None],
        on_broken: Callable[[BackupError], None],
        every_s: float = SYNC_EVERY_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._journal = journal
        self._repo = repo
        self._base = base
        self._on_open, self._on_broken = on_open, on_broken
        self._every_s, self._patience_s = every_s, patience_s
        self._known: set[str] = set()
        self._told: set[Wish] = set()
        self._has_looked = False
        self._broken: str | None = None
        self._read = (0, 0)
        self._is_open = False
        self._opening = threading.Lock()
        self._state: State = "restoring"
        self._error: str | None = None
        self._pause_s = every_s
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        repo.sleep = self._nap

    @property
    def restoring(self) -> str | None:
        """What is being waited for before voting opens, as a sentence; None once it is open."""
        if self._is_open:
            return None
        done, of = self._read
        progress = f" ({done:,} of {of:,} files)" if of else ""
        return f"Restoring votes from the backup{progress}… Voting begins when they are back."

    def status(self) -> BackupStatus:
        return BackupStatus(
            repo=self._repo.repo,
            state=self._state,
            last_sync=self._journal.last_sync(),
            waiting=self._journal.waiting_count(),
            last_error=self._error,
        )

    def start(self) -> None:
        """Begin in the background; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="backup-sync", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Send what waits, for little more than LAST_SYNC_S; the log says what is left.

        A second call does nothing.
        """
        self._repo.deadline_s = LAST_SYNC_S
        self._stop.set()
        if self._thread is not None:
            self._thread.join(LAST_SYNC_S + 2)
            if waiting := self._journal.waiting_count():
                _log.warning(
                    "%d pairs and votes are not in the backup %s: start again on this home to "
                    "send them.",
                    waiting,
                    self._repo.repo,
                )
            self._thread = None
        self._journal.close()

    def _run(self) -> None:
        if self._journal.read_up_to(self._repo.repo) is not None or not self._journal.is_empty():
            self._open()
        waiting = threading.Timer(self._patience_s, self._lose_patience)
        waiting.daemon = True
        waiting.start()
        while not self._stop.is_set():
            self._round()
            self._stop.wait(self._pause_s if self._is_open else 1.0)
        waiting.cancel()
        if self._is_open:
            self._round()

    def _lose_patience(self) -> None:
        # Not in the midst of a restore: half of it would be nothing to go on from.
        if not self._is_open and self._read == (0, 0):
            _log.warning("Voting begins without the backup, which is read once it can be.")
            self._open()

    def _round(self) -> None:
        """Read what is new there, send what is new here, follow deletions; raises nothing."""
        try:
            self._journal.belong_to(self._repo.repo)
            self._catch_up()
            self._open()
            self._send()
            self._follow_wishes()
        except HubError as error:
            wait_s = min(error.retry_after_s or 0.0, _LONGEST_PAUSE_S)
            self._pause_s = max(self._every_s, wait_s)
            state: State = "unreachable" if error.passing else "refused"
            self._fail(state, f"The backup {self._repo.repo} can't be used now: {error}.")
        except BackupError as fault:
            self._fail("refused", str(fault))
            if not self._is_open and not self._stop.is_set():
                self._stop.set()
                self._on_broken(fault)
        except Fault as fault:
            # The journal's own trouble, as a full disk: it passes, and nothing is marked.
            self._fail("unreachable", str(fault))
        except Exception as error:  # noqa: BLE001 - the thread's boundary: votes must go on
            if not self._stop.is_set():
                _log.exception("The backup failed.")
                self._fail("unreachable", f"The backup failed: {error!r}.")
        else:
            self._pause_s = self._every_s
            if self._broken:
                self._fail("refused", self._broken)
            else:
                self._recover()

    def _catch_up(self) -> None:
        """Take over files that this home has not read: all of them first, later another's."""
        upto = self._journal.read_up_to(self._repo.repo)
        is_idle = time.monotonic() > self._began + OVERLAP_S and not self._journal.waiting_count()
        if self._has_looked and is_idle:
            return
        head = self._repo.look()
        names = event_names(head)
        if not self._has_looked and upto is not None:
            self._known = {name for name in names if name <= upto}
        new = [name for name in names if name not in self._known]
        if new or upto is None:
            self._tell(0, len(new))
            try:
                files = self._repo.read(head, new, lambda done: self._tell(done, len(new)))
                self._take_over(files)
            except OtherBase:
                raise
            except BackupError as fault:
                # On a home in use votes are safer there than here alone: nothing is overwritten.
                if not self._is_open:
                    raise
                self._broken = str(fault)
        self._known.update(new)
        self._has_looked = True

    def _take_over(self, files: Mapping[str, EventFile]) -> None:
        for file in files.values():
            theirs = file.header.base
            if file.header.votes and not self._base.is_same(theirs):
                raise OtherBase(
                    f"The votes in {self._repo.repo} belong to {theirs.label}, and this home "
                    f"speaks {self._base.label}: set BASE_MODEL={theirs.base} "
                    f"BASE_REVISION={theirs.revision}, or another VOTES_REPO."
                )
        events = (event for file in files.values() for event in file.events)
        held = merge(events, self._journal.wishes())
        last = max([*files, *self._known], default="")
        done = self._journal.restore(self._repo.repo, last, held, self._base).result()
        if done.pairs or done.votes:
            _log.warning("Restored %d votes and %d pairs.", done.votes, done.pairs)

    def _tell(self, done: int, of: int) -> None:
        self._read = (done, of)
        if done == of or done % 100 == 0:
            _log.info("Restoring votes: %d of %d files are read.", done, of)

    def _send(self) -> None:
        while True:
            events = [event for event in self._journal.waiting() if event not in self._told]
            if not events:
                return
            header = Header(utc_now(), self._base, self._journal.held_votes())
            after = max(self._known, default=None)
            self._known.update(self._repo.append(header, events, after=after))
            # What is broken there is looked at again at the next start.
            upto = None if self._broken else max(self._known)
            self._journal.mark(self._repo.repo, upto, events, utc_now()).result()
            self._told.update(event for event in events if isinstance(event, Wish))

    def _follow_wishes(self) -> None:
        """Rewrite the backup without voters who asked for it, once Argilla needs no name more."""
        wishes = [wish for wish in self._journal.wishes() if wish.in_argilla]
        if wishes:
            self._repo.forget(wishes)
            for wish in wishes:
                self._journal.finish(wish).result()

    def _open(self) -> None:
        with self._opening:
            if not self._is_open and not self._stop.is_set():
                self._is_open = True
                self._on_open()

    def _fail(self, state: State, why: str) -> None:
        if self._error != why and not self._stop.is_set():
            _log.warning("%s Votes wait in the journal.", why)
            self._note_error(why)
        self._state, self._error = state, why

    def _note_error(self, why: str | None) -> None:
        try:
            self._journal.set_error(why).result()
        except JournalError as error:
            _log.warning("%s", error)

    def _recover(self) -> None:
        if self._state != "ready":
            self._note_error(None)
        self._state, self._error = "ready", None

    def _nap(self, seconds: float) -> None:
        """Wait between tries; once it is over, as briefly as the last sync allows."""
        if not self._stop.wait(seconds):
            return
        time.sleep(min(seconds, 1.0))
