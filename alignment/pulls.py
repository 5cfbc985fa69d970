"""Pulls from the Hub that go on behind a page: one at a time, watched and cancelled from there.

Owns the thread that pulls and what is said of it. A pull that fails, or is cancelled, changes
nothing: what is live stays live.
"""

import logging
import threading
from dataclasses import dataclass
from enum import StrEnum

from alignment.hub.meter import Cancelled, Meter
from alignment.hub.pull import PullSize, say_bytes
from alignment.registry import Registry
from annotation.faults import Fault

_log = logging.getLogger(__name__)


class PullsError(Fault):
    """A pull that can't be started or stopped; the message is the one line to read."""


class PullState(StrEnum):
    PULLING = "pulling"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class PullStatus:
    """The latest pull. `line` says in a sentence how it stands; bytes count all of its files."""

    state: PullState
    name: str
    done_bytes: int
    total_bytes: int
    line: str


def parse_name(name: str) -> tuple[str, str | None]:
    """owner/name and its revision, if one is named."""
    repo, _, revision = name.strip().partition("@")
    return repo, revision or None


class Pulls:
    """The pulls of one process into one registry. Safe to share between threads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._name = ""
        self._meter = Meter()
        self._state: PullState | None = None
        self._line = ""
        # Not the thread's join: an interrupted one says that the thread has ended.
        self._ended = threading.Event()
        self._ended.set()

    def size_up(self, name: str) -> PullSize:
        """What a pull of `name` (owner/name[@revision]) would fetch. Raises RegistryError."""
        return self._registry.size_up(*parse_name(name))

    def start(self, name: str) -> PullStatus:
        """Pull `name` behind the caller's back. Raises RegistryError where it can be told already
        that it can't be had, PullsError while another one goes on.
        """
        size = self.size_up(name)
        with self._lock:
            if self._state is PullState.PULLING:
                raise PullsError(f"{self._name} is being pulled: wait for it, or cancel it.")
            self._name, self._meter = size.name, Meter()
            self._meter.begin(0 if size.is_here else size.bytes)
            self._state, self._line = PullState.PULLING, ""
            self._ended.clear()
            arguments = (*parse_name(name), self._meter)
            threading.Thread(target=self._pull, args=arguments, name="pull", daemon=True).start()
        return self._status()

    def cancel(self) -> PullStatus:
        """Stop the pull that goes on. Raises PullsError where none does."""
        with self._lock:
            if self._state is not PullState.PULLING:
                raise PullsError("Nothing is being pulled: there is nothing to cancel.")
            self._meter.cancel()
        return self._status()

    def status(self) -> PullStatus | None:
        """How the latest pull stands; None before any."""
        return self._status() if self._state else None

    def wait(self, timeout_s: float | None = None) -> PullStatus | None:
        """The latest pull's status once it has ended, or after `timeout_s`."""
        self._ended.wait(timeout_s)
        return self.status()

    def _pull(self, repo: str, revision: str | None, meter: Meter) -> None:
        try:
            model = self._registry.pull(repo, revision, meter=meter)
            state, line = PullState.DONE, f"{model.name} is here: choose it in the Compare tab."
        except Cancelled as stopped:
            state, line = PullState.CANCELLED, f"{self._name}: {stopped}"
        except Fault as fault:
            state, line = PullState.FAILED, str(fault)
        except Exception as error:  # noqa: BLE001 -- the thread's boundary: reported to the page
            _log.exception("the pull of %s failed", self._name)
            state, line = PullState.FAILED, f"{self._name} failed ({type(error).__name__})."
        with self._lock:
            self._state, self._line = state, line
        self._ended.set()

    def _status(self) -> PullStatus:
        with self._lock:
            state, meter, line = self._state or PullState.PULLING, self._meter, self._line
            done, total = meter.done, meter.total
            if state is PullState.PULLING:
                share = f" ({done / total:.0%})" if total else ""
                line = f"{self._name}: {say_bytes(done)} of {say_bytes(total)}{share}."
                if meter.is_cancelled:
                    line = f"{self._name}: being cancelled."
            return PullStatus(state, self._name, done, total, line)
