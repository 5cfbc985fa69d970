"""The warm training process: what it holds, who takes it, and how it ends in every case."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from alignment.base import ResolvedBase
from alignment.places.child import NICENESS
from alignment.places.here import Here
from alignment.places.warm import WarmWorker
from alignment.runs.recipes import TrainingOptions
from alignment.runs.run_store import RunState
from alignment.runs.runs import Runs
from annotation.export.export import Export
from tests.preferences import export_of, tiny_base
from tests.processes import has_ended
from tests.tiny import make_tiny_model

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return tiny_base(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("votes"), 24)


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> Iterator[WarmWorker]:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    worker = WarmWorker(may_start=lambda: True)
    worker.start()
    yield worker
    worker.stop()


def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def waiting(worker: WarmWorker) -> psutil.Process:
    until(lambda: worker.pid)
    assert worker.pid
    return psutil.Process(worker.pid)


def has_imported(process: psutil.Process) -> bool:
    """Idle, with the last library of the list mapped."""
    before = sum(process.cpu_times()[:2])
    time.sleep(0.3)
    return sum(process.cpu_times()[:2]) - before < 0.02 and process.memory_info().rss > 200 << 20


def test_a_run_takes_the_warm_process_and_outlives_the_app_in_it(
    tmp_path: Path, warm: WarmWorker, base: ResolvedBase, export: Export
) -> None:
    child = waiting(warm)
    until(lambda: has_imported(child))
    assert child.nice() == NICENESS
    assert "HF_TOKEN" not in child.environ()
    assert os.getsid(child.pid) == child.pid
    runs = Runs(tmp_path, {"here": Here(warm)})
    options = TrainingOptions("dpo", steps=60)
    clicked = time.monotonic()
    run = runs.start(options, base=base, export=export)
    assert time.monotonic() - clicked < 1.5
    assert run.status.pid == child.pid
    assert warm.pid is None
    # The app ends; the run does not.
    warm.stop()
    assert child.is_running()
    done = Runs(tmp_path).wait(run.id, timeout_s=60)
    assert done.state is RunState.DONE, done.reason
    log = done.folder.log.read_text()
    assert "examples, 60 steps" in log
    assert "training from step 0" in log


def test_whoever_wants_to_know_is_told_that_a_run_has_taken_it_and_of_no_cold_run(
    tmp_path: Path, base: ResolvedBase, export: Export
) -> None:
    told: list[str] = []
    worker = WarmWorker(lambda: True, lambda: told.append("taken"))
    runs = Runs(tmp_path, {"here": Here(worker)})
    cold = runs.start(TrainingOptions("dpo", steps=1000), base=base, export=export)
    runs.cancel(cold.id)
    assert told == []
    worker.start()
    try:
        waiting(worker)
        run = runs.start(TrainingOptions("dpo", steps=1000), base=base, export=export)
        assert told == ["taken"]
        runs.cancel(run.id)
    finally:
        worker.stop()


def test_the_next_process_is_warmed_after_the_run_has_ended(
    tmp_path: Path, warm: WarmWorker, base: ResolvedBase, export: Export
) -> None:
    first = waiting(warm)
    runs = Runs(tmp_path, {"here": Here(warm)})
    # Taken while it still imports: the answer comes all the same.
    run = runs.start(TrainingOptions("orpo", steps=1000), base=base, export=export)
    assert run.status.pid == first.pid
    until(lambda: runs.get(run.id).status.step > 0)
    assert warm.pid is None
    before = time.monotonic()
    assert runs.cancel(run.id).state is RunState.CANCELLED
    assert time.monotonic() - before < 2
    assert waiting(warm).pid != first.pid


def test_a_cancel_while_a_taken_process_imports_ends_it_within_two_seconds(
    tmp_path: Path, warm: WarmWorker, base: ResolvedBase, export: Export
) -> None:
    child = waiting(warm)
    runs = Runs(tmp_path, {"here": Here(warm)})
    run = runs.start(TrainingOptions("dpo", steps=1000), base=base, export=export)
    before = time.monotonic()
    cancelled = runs.cancel(run.id)
    assert time.monotonic() - before < 2
    assert (cancelled.state, cancelled.reason) == (RunState.CANCELLED, "Cancelled by an admin.")
    assert run.status.pid == child.pid
    assert has_ended(child)


def test_a_warm_process_that_hangs_or_died_gives_way_to_a_cold_one(
    tmp_path: Path, warm: WarmWorker, base: ResolvedBase, export: Export
) -> None:
    hung = waiting(warm)
    hung.send_signal(signal.SIGSTOP)
    runs = Runs(tmp_path, {"here": Here(warm)})
    run = runs.start(TrainingOptions("dpo", steps=2), base=base, export=export)
    assert run.status.pid != hung.pid
    assert has_ended(hung)
    # Now there is none at all: the next run is cold without a word.
    assert runs.wait(run.id, timeout_s=60).state is RunState.DONE
    again = runs.start(TrainingOptions("dpo", steps=1000), base=base, export=export)
    assert again.is_active
    assert warm.pid is None
    runs.cancel(again.id)


def test_a_waiting_process_ends_with_the_app_however_that_ends() -> None:
    program = (
        "import time; from alignment.places.warm import WarmWorker;"
        "worker = WarmWorker(lambda: True); worker.start()\n"
        "while worker.pid is None: time.sleep(.01)\n"
        "print(worker.pid, flush=True); time.sleep(60)"
    )
    app = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert app.stdout is not None
    child = psutil.Process(int(app.stdout.readline()))
    app.kill()
    app.wait(10)
    app.stdout.close()
    # It imports at that moment, and notices all the same.
    until(lambda: has_ended(child), timeout_s=10)


def test_none_is_started_before_the_app_says_so() -> None:
    asked: list[float] = []

    def may_start() -> bool:
        asked.append(time.monotonic())
        return False

    worker = WarmWorker(may_start)
    worker.start()
    until(lambda: len(asked) >= 2)
    assert worker.pid is None
    worker.stop()
    worker.stop()
