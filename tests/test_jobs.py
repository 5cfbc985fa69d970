"""A run goes to a job on the Hub and comes back: one job, no token in sight, every end told.

The Hub is a double over real HTTP that runs the posted command as a child process (hub_jobs).
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hub_double import WRITER, HubDouble
from preferences import export_of
from pydantic import SecretStr
from tiny import make_tiny_model

from alignment.base import ResolvedBase
from alignment.hub.jobs import JobRequest, JobsDoor
from alignment.places.jobs import default_flavor, in_words, jobs_quote
from alignment.places.known import known_places
from alignment.plan import plan_run
from alignment.recipes import TrainingOptions
from alignment.run_store import RunError
from alignment.runs import Run, Runs
from alignment.settings import AlignmentSettings
from annotation.export import Export
from annotation.schema import ModelRef

ROOT = Path(__file__).parent.parent
EXAMPLES = 24


@pytest.fixture
def hub(
    hub_double: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubDouble]:
    """The double, to which the followers that a test starts speak as well."""
    surroundings = hub_double.environment(tmp_path / "follower-cache")
    for name in ("HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_XET", "NO_PROXY"):
        monkeypatch.setenv(name, surroundings[name])
    hub_double.jobs.machine = {
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }
    yield hub_double
    for child in psutil.Process().children(recursive=True):
        if "alignment.places.jobs_follow" in child.cmdline():
            child.kill()


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("export"), EXAMPLES)


@pytest.fixture
def base(hub: HubDouble, tiny_folder: Path) -> ResolvedBase:
    """A tiny model that the double has, as this home resolved it."""
    commit = hub.add_repo("ada/tiny-chat", tiny_folder)
    return ResolvedBase(ModelRef("ada/tiny-chat", commit), tiny_folder, False, None)


def settings_of(token: str | None = WRITER, **more: object) -> AlignmentSettings:
    secret = SecretStr(token) if token else None
    return AlignmentSettings(hf_token=secret, **{"jobs_flavor": "cpu-basic", **more})


def jobs_runs(home: Path, **settings: object) -> Runs:
    return Runs(home, known_places(settings_of(**settings)))


def start(home: Path, base: ResolvedBase, export: Export, **settings: object) -> Run:
    options = TrainingOptions("dpo", steps=3, where="jobs")
    return jobs_runs(home, **settings).start(options, base=base, export=export)


def spec_of(base: ResolvedBase, export: Export):
    options = TrainingOptions("dpo", steps=3, where="jobs")
    return plan_run(options, base=base, dataset_sha256=export.sha256, examples=export.examples)


def until(said: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not said():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


# What it costs.


def test_the_quote_is_price_times_timeout(hub: HubDouble, base: ResolvedBase, export: Export):
    # 13333 micro-dollars a minute: 0.79998 an hour, and 45 minutes of it 0.599985.
    settings = settings_of(jobs_flavor="l4x1", jobs_timeout="45m")
    quote = jobs_quote(settings, spec_of(base, export))
    assert (quote.flavor, quote.timeout_s) == ("l4x1", 2700)
    assert quote.usd_per_hour == pytest.approx(0.79998)
    assert quote.usd_at_most == pytest.approx(0.599985)
    assert quote.line == (
        "Hugging Face job on l4x1: $0.80 an hour, ended after 45 min at the latest, "
        "so at most $0.60."
    )


def test_a_small_base_gets_a_cheap_machine_by_default(
    hub: HubDouble, base: ResolvedBase, export: Export
):
    assert default_flavor(base.path) == "cpu-upgrade"
    quote = jobs_quote(settings_of(jobs_flavor=None), spec_of(base, export))
    assert (quote.flavor, quote.timeout_s) == ("cpu-upgrade", 3600)
    assert quote.usd_at_most == pytest.approx(0.03)


def test_durations_are_said_as_one_would():
    assert [in_words(s) for s in (90, 2700, 7200, 5400)] == ["90 s", "45 min", "2 h", "90 min"]


# What is refused before anything is made, in one line.


def refused(home: Path, base: ResolvedBase, export: Export, **settings: object) -> str:
    with pytest.raises(RunError) as error:
        start(home, base, export, **settings)
    assert not list(home.glob("runs/*"))
    line = str(error.value)
    assert "\n" not in line
    return line


def test_no_token_is_one_line(hub: HubDouble, base: ResolvedBase, export: Export, tmp_path: Path):
    assert "needs HF_TOKEN" in refused(tmp_path, base, export, token=None)
    assert hub.requests == []


def test_an_unknown_flavor_names_those_there_are(
    hub: HubDouble, base: ResolvedBase, export: Export, tmp_path: Path
):
    line = refused(tmp_path, base, export, jobs_flavor="h9000")
    assert line == (
        "JOBS_FLAVOR=h9000 is no machine of the Hub today: "
        "set one of cpu-basic, cpu-upgrade, l4x1, l40sx1."
    )


def test_a_hub_in_trouble_is_one_line(
    hub: HubDouble, base: ResolvedBase, export: Export, tmp_path: Path
):
    hub.fail("GET /api/jobs/hardware", 503, times=3)
    line = refused(tmp_path, base, export)
    assert "does not say what a job costs" in line
    assert "HTTP 503" in line


# One job a run, whatever the network does.


def request(run: str = "dpo-1") -> JobRequest:
    return JobRequest(run, "python:3.12", ("python", "-c", "pass"), {}, {}, "cpu-basic", 600)


def test_a_lost_answer_starts_no_second_job(hub: HubDouble):
    hub.tear("POST /api/jobs/ada$", after=True)
    naps: list[float] = []
    job = JobsDoor("ada", WRITER, naps.append).start_once(request())
    assert job.id == hub.jobs.only.id
    assert len(hub.lines("POST /api/jobs/ada$")) == 1


def test_a_refused_request_is_asked_again_and_starts_one_job(hub: HubDouble):
    hub.fail("POST /api/jobs/ada$", 500)
    JobsDoor("ada", WRITER, lambda _: None).start_once(request())
    assert len(hub.lines("POST /api/jobs/ada$")) == 2
    assert hub.jobs.only.posted["labels"]["votetune-run"] == "dpo-1"


def test_another_run_has_a_job_of_its_own(hub: HubDouble):
    door = JobsDoor("ada", WRITER)
    assert door.start_once(request("dpo-1")).id != door.start_once(request("dpo-2")).id
    assert door.start_once(request("dpo-1")).id == min(hub.jobs.jobs)
