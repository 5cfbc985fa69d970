"""Who did what to this home: one append-only file of JSON lines, for the owner to read.

Owns the file's form, and that an action is written down before it begins and again, with its end,
before it is answered; each time flushed to the disk. Keeps no text that a person wrote, no secret
and no voter's id, so that a voter who asks to be forgotten is not remembered here. Judges nothing.
"""

import fcntl
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from annotation.backup.events import sha256_of_voter
from annotation.faults import Fault
from annotation.home import Home
from annotation.schema import utc_now

Ended = Literal["done", "refused", "failed"]
SHOWN = 50
TAIL_BYTES = 256 * 1024
MOST_THINGS = 10
_THING = re.compile(r"[A-Za-z0-9./][A-Za-z0-9._/@:+-]{0,199}")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}")
_log = logging.getLogger(__name__)


class AuditError(Fault):
    """The log can't be written; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: what they are called, and an account's stable id where there is one."""

    name: str
    id: str | None = None


ADMIN_TOKEN = Actor("admin token")
COMMAND_LINE = Actor("command line")


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One action. `ended` is None while it goes on, and for good where the process died in it."""

    at: datetime
    who: Actor
    what: str
    on: tuple[str, ...] = ()
    ended: Ended | None = None


@dataclass(slots=True)
class Action:
    """An action under way; `touched` says what it is done to, as soon as that is known."""

    on: list[str] = field(default_factory=list)

    def touched(self, *things: str) -> None:
        """Name runs, models, repositories, pairs by their id."""
        self.on += [_thing(thing) for thing in things]

    def touched_voters(self, *voters: str) -> None:
        self.on += [voter_tag(voter) for voter in voters]


class AuditLog:
    """The log of one home. Processes may share it: each line is appended whole, under a lock."""

    def __init__(self, home: Home, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._file = home.audit
        self._clock = clock

    @contextmanager
    def action(
        self, who: Actor, what: str, *on: str, refusals: tuple[type[Exception], ...] = (Fault,)
    ) -> Iterator[Action]:
        """Write down that `what` begins and how it ended.

        One of `refusals` ends it as refused, any other exception as failed; both are raised on.
        Raises AuditError, and the action must not begin, where it can't be written down.
        """
        action, key, ended = Action(), secrets.token_hex(8), "failed"
        action.touched(*on)
        began = {"key": key, **_said(who, what), "on": action.on[:MOST_THINGS]}
        try:
            self._append(began)
        except OSError as error:
            raise AuditError(
                f"The audit log {self._file} can't be written ({error.strerror}), so nothing was "
                "done: free some space, or mend its rights."
            ) from None
        try:
            yield action
            ended = "done"
        except refusals:
            ended = "refused"
            raise
        finally:
            self._append_end({"key": key, "ended": ended, "on": action.on[:MOST_THINGS]}, what)

    def note(self, who: Actor, what: str) -> None:
        """Write down what is done already, such as a sign-in. Where it can't be, say so."""
        self._append_end({"key": secrets.token_hex(8), **_said(who, what), "ended": "done"}, what)

    def latest(self, count: int = SHOWN) -> list[AuditLine]:
        """The newest `count` actions, newest first. A line that can't be read is left out."""
        found: dict[str, AuditLine] = {}
        for row in self._rows():
            _merge(found, row)
        return list(reversed(found.values()))[:count]

    def _append_end(self, row: dict[str, Any], what: str) -> None:
        # It has happened: to tell the person that it failed would be wrong.
        try:
            self._append(row)
        except OSError as error:
            _log.error("The audit log lacks how %s ended: %s", what, error.strerror)

    def _append(self, row: dict[str, Any]) -> None:
        line = json.dumps({"at": self._clock().isoformat(), **row}) + "\n"
        is_new = not self._file.exists()
        file = os.open(self._file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            _write_whole(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)
        if is_new:
            _sync_folder(self._file.parent)

    def _rows(self) -> Iterator[dict[str, Any]]:
        try:
            with self._file.open("rb") as file:
                start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
                file.seek(start)
                lines = file.read().splitlines()[1 if start else 0 :]
        except FileNotFoundError:
            return
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def voter_tag(voter: str) -> str:
    """A voter as this log names them: by a hash, as the journal keeps of who asked to go."""
    return f"voter {sha256_of_voter(voter)[:12]}"


def _said(who: Actor, what: str) -> dict[str, str | None]:
    return {"who": who.name, "account": who.id, "what": what}


def _merge(found: dict[str, AuditLine], row: dict[str, Any]) -> None:
    """Put a row into `found`, the beginning of an action or its end."""
    try:
        at, key = datetime.fromisoformat(row["at"]), str(row["key"])
        on = tuple(str(thing) for thing in row.get("on") or ())
        if "what" in row:
            who = Actor(str(row["who"]), row.get("account"))
            found[key] = AuditLine(at, who, str(row["what"]), on, row.get("ended"))
        elif key in found:
            found[key] = replace(found[key], on=on, ended=row["ended"])
    except (KeyError, TypeError, ValueError):
        return


def _thing(name: str) -> str:
    # People paste into the wrong box: what is no id, or holds a token, is not written down.
    return name if _THING.fullmatch(name) and not _TOKEN.search(name) else "(not an id)"


def _write_whole(file: int, line: bytes) -> None:
    end = os.lseek(file, 0, os.SEEK_END)
    # A crash or a full disk may have left half a line: it must not swallow this one.
    if end and os.pread(file, 1, end - 1) != b"\n":
        line = b"\n" + line
    while line:
        line = line[os.write(file, line) :]


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
