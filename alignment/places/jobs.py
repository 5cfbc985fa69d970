"""Training as a job on the Hub (Hugging Face Jobs): what it costs, how it begins, who follows it.

Owns the price that is shown before a start and job.json, what a run keeps of its job. A child
process here (jobs_follow) sends the run, starts the job, follows it and fetches the weights; it
outlives the app, and one that died is started again wherever the run is looked at. Only a double of
the Hub has been spoken to so far, never the real one.
"""

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from alignment.hub.jobs import Flavor, list_flavors
from alignment.places.child import child_environment, is_child_alive, start_child
from alignment.places.place import Handle
from alignment.runs.recipes import TrainingSpec, count_parameters
from alignment.runs.run_store import ACTIVE, RunError, RunFolder, Status
from alignment.settings import AlignmentSettings
from annotation.hub.client import HubError, Trouble
from annotation.whole_files import write_whole

RECORD = "job.json"
RESTART_AFTER_S = 10.0
"""A follower that dies sooner is not started again at once."""


@dataclass(frozen=True, slots=True)
class JobQuote:
    """What a job may cost: the Hub bills by the minute and ends it after `timeout_s`."""

    flavor: str
    timeout_s: int
    usd_per_hour: float
    usd_at_most: float

    @property
    def line(self) -> str:
        return (
            f"Hugging Face job on {self.flavor}: ${self.usd_per_hour:.2f} an hour, ended after "
            f"{in_words(self.timeout_s)} at the latest, so at most ${self.usd_at_most:.2f}."
        )


@dataclass(frozen=True, slots=True)
class JobRecord:
    """job.json. `namespace` None is the token's own user; `commit` None: nothing was sent yet.

    `dataset` and `weights` are the private repositories that the run goes to and comes back from;
    `lines` of the job's log are in log.txt already.
    """

    namespace: str | None
    flavor: str
    timeout_s: int
    dataset: str | None = None
    commit: str | None = None
    code_sha256: str | None = None
    weights: str | None = None
    url: str | None = None
    lines: int = 0

    def save(self, folder: RunFolder) -> None:
        write_whole(folder.path / RECORD, json.dumps(asdict(self), indent=2) + "\n")


def load_record(folder: RunFolder) -> JobRecord:
    """The run's job.json. OSError, ValueError or TypeError where there is none that is whole."""
    return JobRecord(**json.loads((folder.path / RECORD).read_text()))


def jobs_quote(settings: AlignmentSettings, spec: TrainingSpec) -> JobQuote:
    """What a job for `spec` costs at most at today's price, asked of the Hub.

    Raises RunError: no HF_TOKEN, no such flavor, or a Hub that does not say.
    """
    if settings.hf_token is None:
        raise RunError(
            "A job on the Hub needs HF_TOKEN: set a token that may write and run jobs, "
            "or train here."
        )
    try:
        flavors = list_flavors(settings.hf_token.get_secret_value())
    except HubError as error:
        offline = error.trouble in (Trouble.UNREACHABLE, Trouble.BUSY)
        remedy = ": try again later, or train here." if offline else "."
        raise RunError(f"The Hub does not say what a job costs: {error}{remedy}") from None
    flavor = _choose(flavors, settings.jobs_flavor or default_flavor(spec.base_path))
    timeout_s = settings.jobs_timeout
    at_most = flavor.usd_per_hour * timeout_s / 3600
    return JobQuote(flavor.name, timeout_s, flavor.usd_per_hour, at_most)


def default_flavor(base: Path) -> str:
    """A machine for the size of the model in `base`; nobody has measured these on the Hub."""
    parameters = count_parameters(base)
    if parameters < 20_000_000:
        return "cpu-upgrade"
    return "l4x1" if parameters < 1_000_000_000 else "l40sx1"


def in_words(seconds: int) -> str:
    """As one would say it: 45 min, 2 h, 90 s."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


class Jobs:
    """One job a run, followed by a child process of this machine."""

    def __init__(self, settings: AlignmentSettings) -> None:
        self._settings = settings

    def check(self, spec: TrainingSpec) -> None:
        """Raise RunError unless the Hub lends such a machine to whoever has this token."""
        jobs_quote(self._settings, spec)

    def spawn(self, folder: RunFolder) -> Handle:
        settings = self._settings
        flavor = settings.jobs_flavor or default_flavor(folder.spec().base_path)
        JobRecord(settings.hub_namespace, flavor, settings.jobs_timeout).save(folder)
        return self._follow(folder)

    def is_alive(self, folder: RunFolder, status: Status) -> bool:
        """True: a job lives on the Hub, whatever becomes of the process that follows it here.

        A follower that died is started again, by whoever has the token.
        """
        if is_child_alive(Handle.of(status)) or self._settings.hf_token is None:
            return True
        if status.process_started and time.time() - status.process_started < RESTART_AFTER_S:
            return True
        handle = self._follow(folder)
        folder.write_status(replace(status, pid=handle.pid, process_started=handle.process_started))
        return True

    def end(self, folder: RunFolder, status: Status) -> None:
        """Have the job cancelled by its follower, which may take its time with the Hub.

        Raises RunError where nobody here may tell the Hub.
        """
        if is_child_alive(Handle.of(status)) and status.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.pid, signal.SIGTERM)
        else:
            self._follow(folder)

    def _follow(self, folder: RunFolder) -> Handle:
        command = [sys.executable, "-m", "alignment.places.jobs_follow", str(folder.path)]
        environment = child_environment()
        # The one child that speaks to the Hub; never through its command line.
        del environment["HF_HUB_OFFLINE"]
        token = self._settings.hf_token
        if token is None:
            raise RunError("A job on the Hub needs HF_TOKEN: set it and look at the runs again.")
        environment["HF_TOKEN"] = token.get_secret_value()
        # Inherited: a cancel that comes while it imports waits until it can listen. It would die of
        # that one otherwise, and nobody tell the Hub to end a job that costs money.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return start_child(command, folder.log, environment)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _choose(flavors: tuple[Flavor, ...], name: str) -> Flavor:
    found = next((flavor for flavor in flavors if flavor.name == name), None)
    if found is None:
        names = ", ".join(flavor.name for flavor in flavors)
        raise RunError(f"JOBS_FLAVOR={name} is no machine of the Hub today: set one of {names}.")
    return found


def is_over(folder: RunFolder) -> bool:
    """Whether the run has ended here, or shall."""
    status = folder.status()
    return status.cancel_requested or status.state not in ACTIVE
