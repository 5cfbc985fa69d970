"""The one seam between a run's folder and what trains it: a process here, or a job elsewhere.

Owns what a place must be able to do. Knows no place and starts nothing.
"""

from dataclasses import dataclass
from typing import Protocol

from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunFolder, Status


@dataclass(frozen=True, slots=True)
class Handle:
    """What finds a run's process or job again from any process; kept in the run's Status.

    `process_started` is psutil's create_time of `pid`, in seconds; `job` is the Hub's id of it.
    """

    pid: int | None = None
    process_started: float | None = None
    job: str | None = None

    @classmethod
    def of(cls, status: Status) -> "Handle":
        """What `status` names."""
        return cls(status.pid, status.process_started, status.job)


class Place(Protocol):
    """Somewhere to train. Every process that looks at a home can ask its places the same things.

    The home's lock is not reentrant: `spawn` and `is_alive` are called under it, so they return
    at once, wait for no network and move no state.
    """

    def check(self, spec: TrainingSpec) -> None:
        """Raise RunError, one line, when `spec` can't be trained here. Nothing is made yet."""

    def spawn(self, folder: RunFolder) -> Handle:
        """Start what trains the queued run in `folder`, or goes on from its last checkpoint.

        Raises RunError, with nothing started, when it can't. From here on the run's own process
        moves the state, under the lock.
        """

    def is_alive(self, folder: RunFolder, status: Status) -> bool:
        """Whether what `status` names still works on the run. Believed when it says no."""

    def end(self, folder: RunFolder, status: Status) -> None:
        """End it within two seconds, whatever it does. Called without the lock.

        `cancel_requested` stands in state.json by then, so the process may say itself how it
        ended; else the caller does.
        """
