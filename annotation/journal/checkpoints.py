"""Folds the journal's WAL into its file beside the writer, so that no vote waits for it.

Owns a connection and a thread that only ever checkpoint. Where they can't, or fall behind, the
writer does it by itself, seldom.
"""

import logging
import sqlite3
import threading
from pathlib import Path

from annotation.journal.rows import connect

EVERY_S = 1.0
_log = logging.getLogger(__name__)


class Checkpoints:
    """Checkpoints every second until `stop`; never in the way of a reader or the writer."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and let go of the file. Safe to call twice."""
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.Error as error:
                # A full disk, above all: the writer meets it too, and tells those who vote.
                _log.debug("The WAL stays for now: %s", error)
