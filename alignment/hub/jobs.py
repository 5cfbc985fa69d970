"""The door to Hugging Face Jobs: what a machine costs, one job a run, its stage, lines and end.

Owns that a run never has two jobs: each carries the run's id as a label, and a job with that label
is found and taken before another is started. Every refusal is a HubError of one line.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from time import sleep as wait

from huggingface_hub import HfApi, JobInfo

from annotation.hub.client import HubError, Trouble, call, call_again

LABEL = "votetune-run"
_UNITS_AN_HOUR = {"second": 3600.0, "minute": 60.0, "hour": 1.0}


class Stage(StrEnum):
    """The Hub's words for where a job stands."""

    SCHEDULING = "SCHEDULING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    ERROR = "ERROR"
    DELETED = "DELETED"
    OTHER = "OTHER"


ENDED = frozenset({Stage.COMPLETED, Stage.CANCELED, Stage.ERROR, Stage.DELETED})


@dataclass(frozen=True, slots=True)
class Flavor:
    """A machine that the Hub lends, by its name there."""

    name: str
    usd_per_hour: float


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job to start. `secrets` are encrypted by the Hub; everything else can be read there."""

    run: str
    image: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    secrets: Mapping[str, str]
    flavor: str
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the Hub shows it; `url` is its page there, `running_s` what it has run so far."""

    id: str
    stage: Stage
    message: str | None
    running_s: int | None
    url: str


@dataclass(frozen=True, slots=True)
class JobsDoor:
    """Requests about the jobs of one `namespace`, with `token`. All raise HubError."""

    namespace: str
    token: str
    sleep: Callable[[float], None] = wait

    def start_once(self, request: JobRequest) -> Job:
        """The one job of `request.run`: the one that is there, else a new one.

        After a lost answer the job is looked for by its label before it is asked for again.
        """

        def attempt() -> Job:
            found = self._find(request.run)
            return found if found is not None else self._start(request)

        return call_again(attempt, sleep=self.sleep)

    def find(self, run: str) -> Job | None:
        """The newest job that carries the run's label, or None."""
        return call_again(lambda: self._find(run), attempts=3, sleep=self.sleep)

    def inspect(self, job_id: str) -> Job:
        """The job as it stands now; one attempt."""
        return _to_job(call(lambda: self._api.inspect_job(job_id=job_id, namespace=self.namespace)))

    def cancel(self, job_id: str) -> None:
        """Have the job ended; one that has ended already stays as it is."""

        def attempt() -> None:
            try:
                call(lambda: self._api.cancel_job(job_id=job_id, namespace=self.namespace))
            except HubError:
                if self.inspect(job_id).stage not in ENDED:
                    raise

        call_again(attempt, sleep=self.sleep)

    def lines(self, job_id: str) -> Iterator[str]:
        """Every line that the job wrote, from its first, until it has ended.

        A stream that breaks off is taken up again by huggingface_hub, without repeating lines.
        """
        found = iter(self._api.fetch_job_logs(job_id=job_id, namespace=self.namespace, follow=True))
        while (line := call(lambda: next(found, None))) is not None:
            yield line

    @property
    def _api(self) -> HfApi:
        return HfApi(token=self.token)

    def _find(self, run: str) -> Job | None:
        jobs = call(
            lambda: list(self._api.list_jobs(labels={LABEL: run}, namespace=self.namespace))
        )
        return _to_job(jobs[0]) if jobs else None

    def _start(self, request: JobRequest) -> Job:
        made = call(
            lambda: self._api.run_job(
                image=request.image,
                command=list(request.command),
                env=dict(request.env),
                secrets=dict(request.secrets),
                flavor=request.flavor,
                timeout=request.timeout_s,
                labels={LABEL: request.run, "name": f"votetune-{request.run}"},
                namespace=self.namespace,
            )
        )
        return _to_job(made)


def list_flavors(token: str) -> tuple[Flavor, ...]:
    """What the Hub lends today, at today's price. Raises HubError, within 8 s offline."""
    found = call_again(lambda: HfApi(token=token).list_jobs_hardware(), attempts=3, deadline_s=8.0)
    flavors = []
    for machine in found:
        units = _UNITS_AN_HOUR.get(machine.unit_label)
        if units is not None:
            flavors.append(Flavor(machine.name, machine.unit_cost_micro_usd / 1e6 * units))
    if not flavors:
        raise HubError(Trouble.REFUSED, "the Hub names no machine with a price", passing=False)
    return tuple(flavors)


def own_namespace(token: str) -> str:
    """The name of the user whose token it is. Raises HubError."""
    return str(call_again(lambda: HfApi(token=token).whoami(), attempts=3, deadline_s=8.0)["name"])


def _to_job(info: JobInfo) -> Job:
    known = {str(stage): stage for stage in Stage}
    # The stage is an enum of strings or a plain string, as the server sends it.
    stage = known.get(str(getattr(info.status.stage, "value", info.status.stage)), Stage.OTHER)
    message = " ".join(str(info.status.message).split())[:200] if info.status.message else None
    running_s = info.durations.running_secs if info.durations else None
    return Job(info.id, stage, message, running_s, info.url)
