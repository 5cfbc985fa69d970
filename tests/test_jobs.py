"""A run goes to a job on the Hub and comes back: one job, no token in sight, every end told.

The Hub is a double over real HTTP that runs the posted command as a child process (hub_jobs).
"""

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from hub_double import WRITER, HubDouble
from preferences import export_of
from pydantic import SecretStr
from small_files import write_adapter, write_model
from tiny import make_tiny_model
from typer.testing import CliRunner

import app
from alignment.base import ResolvedBase
from alignment.hub.jobs import JobRequest, JobsDoor
from alignment.hub.model_files import weights_sha256
from alignment.places.child import is_child_alive
from alignment.places.jobs import default_flavor, in_words, jobs_quote
from alignment.places.jobs_bundle import PACKAGES, build_bundle, pack_code, read_pins
from alignment.places.jobs_remote import Errand, prepare
from alignment.places.jobs_report import FolderMirror, FolderReporter, to_line
from alignment.places.known import known_places
from alignment.places.place import Handle
from alignment.registry import Registry
from alignment.runs.plan import plan_run
from alignment.runs.recipes import TrainingOptions
from alignment.runs.run_store import Metric, RunError, RunFolder, RunState, Sample, Status
from alignment.runs.runs import Run, Runs
from alignment.settings import AlignmentSettings
from alignment.starter.starter import STARTER_DIR, starter_revision
from annotation.export.export import Export, copy_export
from annotation.hub.commits import commit_files
from annotation.schema import ModelRef, utc_now

ROOT = Path(__file__).parent.parent
EXAMPLES = 24
FILES = ["adapter_config.json", "adapter_model.safetensors"]


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
        # One that has just ended has no command line any more.
        with contextlib.suppress(psutil.NoSuchProcess):
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


def kill(run: Run) -> None:
    """End the run's follower as a machine that goes down does."""
    os.kill(run.status.pid or 0, signal.SIGKILL)
    until(lambda: not is_child_alive(Handle.of(run.status)))


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


def test_a_token_that_the_hub_refuses_is_one_line(
    hub: HubDouble, base: ResolvedBase, export: Export, tmp_path: Path
):
    line = refused(tmp_path, base, export, token="hf_of_nobody_0000000000")
    assert line == (
        "The Hub does not say what a job costs: the Hub refused HF_TOKEN: set one that is valid."
    )


def test_no_network_is_one_line(
    hub: HubDouble,
    base: ResolvedBase,
    export: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert refused(tmp_path, base, export) == (
        "The Hub does not say what a job costs: the connection to the Hub failed: "
        "try again later, or train here."
    )


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


@pytest.mark.parametrize("status", [400, 503])
def test_a_job_that_has_ended_needs_no_cancel(status: int, hub: HubDouble):
    hub.jobs.stand_in = "pass"
    door = JobsDoor("ada", WRITER, lambda _: None)
    job = door.start_once(request())
    until(lambda: hub.jobs.only.stage == "COMPLETED")
    hub.fail("/cancel$", status, times=9)
    door.cancel(job.id)
    assert len(hub.lines("/cancel$")) == 1


def test_another_run_has_a_job_of_its_own(hub: HubDouble):
    door = JobsDoor("ada", WRITER)
    assert door.start_once(request("dpo-1")).id != door.start_once(request("dpo-2")).id
    assert door.start_once(request("dpo-1")).id == min(hub.jobs.jobs)


# The whole way.


def everything_in(folder: Path) -> bytes:
    return b"\0".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def test_a_run_trains_on_the_hub_and_comes_home(
    hub: HubDouble,
    base: ResolvedBase,
    export: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("alignment.places.jobs.RESTART_AFTER_S", 0.0)
    hub.jobs.cut_logs_after = [2, 5]
    run = start(tmp_path, base, export)
    runs = jobs_runs(tmp_path)
    until(lambda: bool(runs.get(run.id).status.job))
    # The machine goes down in the middle; whoever looks at the runs next goes on.
    first = runs.get(run.id).status
    assert WRITER not in " ".join(psutil.Process(first.pid).cmdline())
    kill(runs.get(run.id))
    until(lambda: runs.get(run.id).status.pid != first.pid)
    done = runs.wait(run.id, 120)
    assert (done.state, done.reason, done.status.step) == (RunState.DONE, None, 3)
    assert [m.step for m in done.folder.metrics()] == [1, 2, 3]
    assert done.status.final is not None
    assert done.status.final.loss == done.folder.metrics()[-1].loss
    assert sorted(p.name for p in done.folder.adapter.iterdir()) == FILES
    registered = Registry(tmp_path, base).get(run.id)
    assert registered.ref.base_revision == base.ref.base_revision
    log = done.folder.log.read_text()
    assert log.count("pairs to train on") == 1
    assert to_line("metric", {})[:20] not in log
    # One job and one commit of everything it needs, both private; the token only as a secret.
    job = hub.jobs.only
    assert job.posted.pop("secrets") == {"HF_TOKEN": WRITER}
    assert job.posted["timeoutSeconds"] == 3600
    name = f"ada/votetune-{run.id}"
    for kind, commits in (("datasets", 2), ("models", 2)):
        repo = hub.repo(name, kind)
        assert (repo.private, len(repo.commits)) == (True, commits)
        assert all(WRITER.encode() not in blob.data for blob in repo.head.files.values())
        assert all(str(tmp_path).encode() not in blob.data for blob in repo.head.files.values())
    told = json.dumps([job.posted, job.events])
    assert WRITER not in told
    assert WRITER.encode() not in everything_in(tmp_path / "runs")
    assert WRITER.encode() not in everything_in(hub.jobs.folder)


# What leaves this machine.


def queued(home: Path, base: ResolvedBase, export: Export) -> RunFolder:
    """A run's folder as a place finds it."""
    folder = RunFolder(home / "runs" / "dpo-20261123-1200-abcd")
    copy_export(export, folder.dataset)
    folder.write_spec(spec_of(base, export))
    folder.write_status(Status(RunState.PREPARING, utc_now(), utc_now()))
    return folder


@pytest.mark.parametrize("kind", ["starter", "folder"])
def test_a_base_that_the_hub_lacks_goes_along(
    kind: str, hub: HubDouble, export: Export, tmp_path: Path
):
    here = write_model(tmp_path / "my-model")
    ref = ModelRef(str(here), weights_sha256(here))
    if kind == "starter":
        here, ref = STARTER_DIR, ModelRef("starter", starter_revision())
    folder = queued(tmp_path, ResolvedBase(ref, here, kind == "starter", None), export)
    files = build_bundle(folder).files
    assert str(tmp_path) not in str(files["spec.json"])
    commit = commit_files("ada/run", files, kind="dataset", message="Add", token=WRITER)
    there = prepare(Errand("run", "ada/run", commit, "ada/run", WRITER), tmp_path / "there")
    assert there.spec().base_path != here
    assert weights_sha256(there.spec().base_path) == ref.base_revision
    assert there.spec().base.base == ("starter" if kind == "starter" else "my-model")
    assert there.status().state is RunState.QUEUED


def test_another_dataset_than_the_specs_is_refused(
    hub: HubDouble, base: ResolvedBase, export: Export, tmp_path: Path
):
    folder = queued(tmp_path, base, export)
    folder.write_spec(replace(folder.spec(), dataset_sha256="0" * 64))
    files = build_bundle(folder).files
    commit = commit_files("ada/run", files, kind="dataset", message="Add", token=WRITER)
    with pytest.raises(RunError, match="not the one that the run names"):
        prepare(Errand("run", "ada/run", commit, "ada/run", WRITER), tmp_path / "there")


def test_the_code_is_the_same_bytes_each_time_and_holds_what_runs():
    code = pack_code()
    assert code == pack_code()
    with tarfile.open(fileobj=BytesIO(code)) as archive:
        names = archive.getnames()
    assert {"alignment/train.py", "alignment/places/jobs_remote.py", "packages.txt"} <= set(names)
    assert not [n for n in names if n.endswith((".safetensors", ".pyc"))]


def imported(module: str, seen: set[str]) -> set[str]:
    """Packages that `module` and every module of ours below it import, at any depth of code."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    if module in seen or not path.is_file():
        return set()
    seen.add(module)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith(("alignment", "annotation")):
                found |= imported(name, seen)
            elif name.split(".")[0] not in sys.stdlib_module_names:
                found.add(name.split(".")[0].replace("_", "-"))
    return found


def test_a_job_installs_every_package_that_its_side_imports():
    needed = imported("alignment.places.jobs_remote", set())
    needed |= imported("alignment.train", set())
    # rich draws the progress of making the starter, and the others weigh votes: no job does either,
    # and each is imported where it is used.
    assert needed - set(PACKAGES) == {"rich", "evalica", "pandas", "scipy"}


def test_pins_lose_their_extras_and_nothing_else():
    text = "# why\ngradio[oauth]==6.31.0\ntorch==2.13.0\n\nx_y==1.0+cpu\n"
    assert read_pins(text) == {"gradio": "6.31.0", "torch": "2.13.0", "x_y": "1.0+cpu"}


def test_code_that_was_changed_on_the_way_never_runs(hub: HubDouble, tmp_path: Path):
    code = pack_code()
    commit = commit_files(
        "ada/run", {"code.tar.gz": code}, kind="dataset", message="Add", token=WRITER
    )
    done = subprocess.run(
        [sys.executable, ROOT / "alignment" / "places" / "jobs_bootstrap.py"],
        cwd=tmp_path,
        env={
            **hub.environment(tmp_path / "cache"),
            "VOTETUNE_DATASET": "ada/run",
            "VOTETUNE_COMMIT": commit,
            "VOTETUNE_CODE_SHA256": "0" * 64,
            "HF_TOKEN": WRITER,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "The code in the run's repository is not what this job was started with."
    )
    assert list(tmp_path.iterdir()) == []
    stored = [r for r in hub.requests if r.host == "localhost" and r.method == "GET"]
    assert [r.authorization for r in stored] == [None]


# How a job's log becomes a run's folder.


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "runs" / "dpo-1")
    made.path.mkdir(parents=True)
    made.write_status(Status(RunState.PREPARING, utc_now(), utc_now()))
    return made


@pytest.mark.parametrize("told", ["queued", "preparing", "training", "evaluating"])
def test_a_run_reaches_its_end_from_wherever_the_log_broke_off(folder: RunFolder, told: str):
    folder.write_status(Status(RunState(told), utc_now(), utc_now()))
    with folder.locked():
        FolderMirror(folder).reach(RunState.EVALUATING)
        assert folder.status().state is RunState.EVALUATING
        assert folder.move(RunState.DONE).state is RunState.DONE


def test_what_a_job_tells_arrives_once_however_often_it_is_replayed(
    folder: RunFolder, tmp_path: Path
):
    there = RunFolder(tmp_path / "there")
    there.path.mkdir()
    reporter = FolderReporter(there, hide="hf_secret")
    there.write_status(Status(RunState.TRAINING, utc_now(), utc_now(), step=2))
    there.log.write_bytes(b"hello hf_secret\n@votetune {}\nhalf")
    for step in (1, 2):
        there.append_metric(Metric(step, loss=0.5))
        there.append_samples([Sample(step, "Why?", "Because.", 3)])
    lines = list(reporter.news())
    assert list(reporter.news()) == []
    there.log.write_bytes(there.log.read_bytes() + b" a line\n")
    lines += reporter.news()
    mirror = FolderMirror(folder)
    logs = [rest for line in lines + lines if (rest := mirror.take(line)) is not None]
    assert logs == ["hello …", " @votetune {}", "half a line"] * 2
    assert folder.metrics() == there.metrics()
    assert folder.samples() == there.samples()
    assert (folder.status().state, folder.status().step) == (RunState.TRAINING, 2)
    # A follower that was started again knows what is there.
    again = FolderMirror(folder)
    for line in lines:
        again.take(line)
    assert len(folder.metrics()) == len(folder.samples()) == 2


@pytest.mark.parametrize(
    "line",
    [
        "@votetune ",
        "@votetune []",
        '@votetune {"kind": "metric", "row": {"step": 1, "loss": "high"}}',
        '@votetune {"kind": "metric", "row": {"stop": 1}}',
        '@votetune {"kind": "state", "row": {"state": "winning", "step": 1, "reason": null}}',
        '@votetune {"kind": "result", "row": {"commit": "../.."}}',
        '@votetune {"kind": "state", "row": {"state": "done", "step": 0, "reason": null}}',
    ],
)
def test_a_row_that_makes_no_sense_changes_nothing(folder: RunFolder, line: str):
    before = everything_in(folder.path)
    mirror = FolderMirror(folder)
    assert mirror.take(line) is None
    assert everything_in(folder.path) == before
    assert mirror.result is None


# Every end that a job may have, told by a stand-in for the training.


@pytest.fixture
def light(hub: HubDouble, tmp_path: Path) -> ResolvedBase:
    """A base that nobody will load."""
    model = write_model(tmp_path / "light")
    return ResolvedBase(ModelRef("ada/light", hub.add_repo("ada/light", model)), model, False, None)


SLEEPS = "import time; print('up'); time.sleep(60)"
FAILS = f"import sys; print({to_line('state', {'state': 'failed', 'step': 1, 'reason': 'No.'})!r})"


@pytest.mark.parametrize(
    ("stand_in", "reason"),
    [
        (f"{FAILS}; sys.exit(1)", "No."),
        (
            "raise SystemExit(3)",
            "The job failed on the Hub (Job failed with exit code: 3. Reason: Error): see log.txt.",
        ),
        (
            "print('nothing made')",
            "The job's weights are not taken: ada/votetune-{run} can't be used: there is no",
        ),
    ],
)
def test_a_job_that_fails_is_one_line(
    stand_in: str,
    reason: str,
    hub: HubDouble,
    light: ResolvedBase,
    export: Export,
    tmp_path: Path,
):
    hub.jobs.stand_in = stand_in
    run = start(tmp_path, light, export)
    done = jobs_runs(tmp_path).wait(run.id, 20)
    assert done.state is RunState.FAILED
    assert reason.format(run=run.id) in (done.reason or "")
    assert not done.folder.adapter.exists()


def test_weights_of_another_base_are_not_taken(
    hub: HubDouble, light: ResolvedBase, export: Export, tmp_path: Path
):
    hub.jobs.stand_in = "print('pretend')"
    hub.jobs.scheduling_s = 1.0
    run = start(tmp_path, light, export)
    until(lambda: bool(jobs_runs(tmp_path).get(run.id).status.job))
    other = write_adapter(tmp_path / "other", replace(light.ref, base_revision="9" * 40))
    hub.add_repo(f"ada/votetune-{run.id}", other, private=True)
    done = jobs_runs(tmp_path).wait(run.id, 20)
    assert done.state is RunState.FAILED
    assert "it belongs to ada/light@999999999999" in (done.reason or "")
    assert not done.folder.adapter.exists()


def test_a_job_past_its_timeout_says_which_setting(
    hub: HubDouble, light: ResolvedBase, export: Export, tmp_path: Path
):
    hub.jobs.stand_in = SLEEPS
    settings = settings_of().model_copy(update={"jobs_timeout": 1})
    runs = Runs(tmp_path, known_places(settings))
    run = runs.start(TrainingOptions("dpo", where="jobs"), base=light, export=export)
    done = runs.wait(run.id, 20)
    assert done.state is RunState.FAILED
    assert done.reason == (
        "The job ran past JOBS_TIMEOUT, 1 s, and was ended: set a longer one, a faster "
        "JOBS_FLAVOR, or train fewer steps."
    )


def test_a_job_cancelled_on_the_hub_is_cancelled_here(
    hub: HubDouble, light: ResolvedBase, export: Export, tmp_path: Path
):
    hub.jobs.stand_in = SLEEPS
    run = start(tmp_path, light, export)
    until(lambda: any(job.stage == "RUNNING" for job in hub.jobs.jobs.values()))
    hub.jobs.only.finish("CANCELED")
    hub.jobs.only.kill()
    done = jobs_runs(tmp_path).wait(run.id, 20)
    assert (done.state, done.reason) == (RunState.CANCELLED, "The job was cancelled on the Hub.")


@pytest.mark.parametrize("follower", ["alive", "killed", "just started again"])
def test_cancel_is_at_once_here_and_reaches_the_hub(
    follower: str,
    hub: HubDouble,
    light: ResolvedBase,
    export: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    hub.jobs.stand_in = SLEEPS
    run = start(tmp_path, light, export)
    runs = jobs_runs(tmp_path)
    until(lambda: any(job.stage == "RUNNING" for job in hub.jobs.jobs.values()))
    if follower != "alive":
        kill(runs.get(run.id))
    if follower == "just started again":
        # The cancel's own look at the runs starts another, which is told while it still imports.
        monkeypatch.setattr("alignment.places.jobs.RESTART_AFTER_S", 0.0)
    began = time.monotonic()
    cancelled = runs.cancel(run.id)
    assert time.monotonic() - began < 2.0
    assert cancelled.state is RunState.CANCELLED
    until(lambda: hub.jobs.only.stage == "CANCELED")
    until(lambda: runs.get(run.id).reason == "Cancelled by an admin.")
    assert len(hub.jobs.jobs) == 1


def test_a_cancel_that_the_hub_refuses_says_that_the_job_goes_on(
    hub: HubDouble, light: ResolvedBase, export: Export, tmp_path: Path
):
    hub.jobs.stand_in = SLEEPS
    run = start(tmp_path, light, export)
    until(lambda: any(job.stage == "RUNNING" for job in hub.jobs.jobs.values()))
    hub.fail("/cancel$", 403, times=9)
    runs = jobs_runs(tmp_path)
    runs.cancel(run.id)
    until(lambda: "could not be told" in (runs.get(run.id).reason or ""))
    assert f"cancel it at {hub.endpoint}/jobs/ada/{hub.jobs.only.id}" in (
        runs.get(run.id).reason or ""
    )


def test_a_run_cancelled_before_its_job_never_gets_one(
    hub: HubDouble, light: ResolvedBase, export: Export, tmp_path: Path
):
    hub.jobs.stand_in = SLEEPS
    hub.fail("POST /api/repos/create", 503, times=50)
    run = start(tmp_path, light, export)
    until(lambda: bool(hub.lines("POST /api/repos/create")))
    runs = jobs_runs(tmp_path)
    assert runs.cancel(run.id).state is RunState.CANCELLED
    pid = runs.get(run.id).status.pid
    until(lambda: not psutil.pid_exists(pid))
    assert hub.jobs.jobs == {}


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        ("credit", "The job on cpu-basic can't be started: the account has no credit for it"),
        ("namespace", "can't be sent to the Hub as bob/votetune-"),
        ("permission", "HF_TOKEN may not start jobs for ada: give it the permission to run jobs"),
    ],
)
def test_a_job_that_the_hub_refuses_is_one_line(
    trouble: str, line: str, hub: HubDouble, light: ResolvedBase, export: Export, tmp_path: Path
):
    hub.jobs.has_credit = trouble != "credit"
    if trouble == "permission":
        hub.fail("POST /api/jobs/ada$", 403)
    namespace = "bob" if trouble == "namespace" else None
    run = start(tmp_path, light, export, hub_namespace=namespace)
    done = jobs_runs(tmp_path).wait(run.id, 20)
    assert done.state is RunState.FAILED
    assert line in (done.reason or "")
    assert "\n" not in (done.reason or "")
    assert hub.jobs.jobs == {}


def test_without_the_token_a_run_is_left_to_whoever_has_it(
    hub: HubDouble, light: ResolvedBase, export: Export, tmp_path: Path
):
    hub.jobs.stand_in = SLEEPS
    run = start(tmp_path, light, export)
    until(lambda: any(job.stage == "RUNNING" for job in hub.jobs.jobs.values()))
    blind = jobs_runs(tmp_path, token=None)
    kill(blind.get(run.id))
    assert blind.get(run.id).is_active
    with pytest.raises(RunError, match="needs HF_TOKEN"):
        blind.cancel(run.id)
    assert hub.jobs.only.stage == "RUNNING"


def test_the_command_shows_the_price_and_asks_before_it_starts(
    hub: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "home"
    home.mkdir()
    export_of(tmp_path, EXAMPLES)
    (tmp_path / f"journal-{EXAMPLES}.sqlite3").rename(home / "journal.sqlite3")
    for name, value in {
        "VOTETUNE_HOME": str(home),
        "BASE_MODEL": "starter",
        "HF_TOKEN": WRITER,
        "JOBS_FLAVOR": "l4x1",
        "JOBS_TIMEOUT": "2h",
    }.items():
        monkeypatch.setenv(name, value)
    hub.jobs.stand_in = "raise SystemExit(1)"
    price = "$0.80 an hour, ended after 2 h at the latest, so at most $1.60."
    asked = ["train", "--method", "dpo", "--where", "jobs"]
    no = CliRunner().invoke(app.cli, asked, input="n\n")
    assert price in no.stderr
    assert (no.exit_code, hub.jobs.jobs) == (1, {})
    assert not (home / "runs").exists()
    yes = CliRunner().invoke(app.cli, [*asked, "--yes"])
    assert price in yes.stderr
    run_id = yes.stdout.strip()
    assert jobs_runs(home).wait(run_id, 20).state is RunState.FAILED
    assert hub.jobs.only.posted["flavor"] == "l4x1"
    assert hub.jobs.only.posted["timeoutSeconds"] == 7200
