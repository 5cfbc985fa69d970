"""Runs over several processes: the same losses as one, ended together, refused for a bad config."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import alignment.runs.runs
from alignment.base import ResolvedBase
from alignment.places.accelerated import Accelerated, read_launch
from alignment.places.child import ROOT, child_environment
from alignment.places.here import Here
from alignment.runs.plan import plan_run
from alignment.runs.recipes import Recipe, TrainingOptions, TrainingSpec
from alignment.runs.run_store import Metric, RunState
from alignment.runs.runs import Run, RunError, Runs
from alignment.settings import AlignmentSettings
from alignment.training.hardware import split_batch
from alignment.training.watch.progress import TrainingError
from annotation.export.export import Export
from annotation.settings import SettingsError, load_settings
from tests.preferences import export_of, tiny_base
from tests.running_app import free_port
from tests.tiny import make_tiny_model

TWO_ON_CPU = """\
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
num_machines: 1
num_processes: 2
machine_rank: 0
main_process_ip: 127.0.0.1
mixed_precision: 'no'
use_cpu: true
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return tiny_base(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("votes"), 24)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "two.yaml"
    file.write_text(TWO_ON_CPU)
    return file


@pytest.fixture
def runs(tmp_path: Path, config: Path) -> Runs:
    return Runs(tmp_path / "home", {"here": Here(), "accelerate": Accelerated(config)})


def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def processes_of(run: Run) -> list[psutil.Process]:
    """The launcher and what it launched, by their command lines."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(run.folder.path) in (process.info["cmdline"] or [])
    ]


def trained(runs: Runs, base: ResolvedBase, export: Export, **options: object) -> list[Metric]:
    asked = TrainingOptions("dpo", steps=6, **options)  # type: ignore[arg-type]
    run = runs.wait(runs.start(asked, base=base, export=export).id, timeout_s=120)
    assert run.state is RunState.DONE, run.reason
    assert (run.folder.adapter / "adapter_model.safetensors").is_file()
    return list(runs.metrics(run.id))


def test_two_processes_over_gloo_have_the_losses_of_one(
    runs: Runs, base: ResolvedBase, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = trained(runs, base, export, where="accelerate")
    # A batch of 8 is 4 pairs in each of two processes, or 4 and 4 one after the other in one.
    monkeypatch.setattr(alignment.runs.runs, "plan_run", in_halves)
    assert_same_losses(together, trained(runs, base, export))


def test_two_processes_sift_flipped_votes_as_one_does(
    runs: Runs, base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = export_of(tmp_path, 40, flipped=range(2, 40, 5))
    robust = {"loss": "robust", "flip_rate": 0.2}
    together = trained(runs, base, export, where="accelerate", **robust)
    monkeypatch.setattr(alignment.runs.runs, "plan_run", in_halves)
    assert_same_losses(together, trained(runs, base, export, **robust))
    two, one = (run.status.final for run in runs.list())
    assert two is not None and one is not None
    assert two.left_out == one.left_out == 8


def assert_same_losses(together: list[Metric], alone: list[Metric]) -> None:
    assert [m.step for m in together] == [m.step for m in alone] == list(range(1, 7))
    for name in ("loss", "reward_margin", "grad_norm", "chosen_logps", "rejected_logps"):
        two, one = ([getattr(m, name) for m in found] for found in (together, alone))
        # Sums of fp32 in another order, and nothing else.
        assert two == pytest.approx(one, rel=1e-4, abs=1e-4), name


def in_halves(options: TrainingOptions, **pinned: object) -> TrainingSpec:
    spec = plan_run(options, **pinned)  # type: ignore[arg-type]
    assert (spec.recipe.batch_size, spec.recipe.micro_batch) == (8, 8)
    return replace(spec, recipe=replace(spec.recipe, micro_batch=4))


def test_a_second_machine_joins_with_the_command_of_the_readme(
    runs: Runs, base: ResolvedBase, export: Export, config: Path
) -> None:
    config.write_text(
        TWO_ON_CPU.replace("num_machines: 1", "num_machines: 2")
        + f"main_process_port: {free_port()}\n"
    )
    options = TrainingOptions("sft", steps=2, where="accelerate")
    run = runs.start(options, base=base, export=export)
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(config))
    joins = ("--machine_rank", "1", "--multi_gpu", "-m", "alignment.train", str(run.folder.path))
    environment = child_environment() | {"CUDA_VISIBLE_DEVICES": ""}
    with run.folder.path.with_name("second.txt").open("wb") as log:
        second = subprocess.Popen(
            [sys.executable, *launcher, *joins], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        done = runs.wait(run.id, timeout_s=150)
        assert done.state is RunState.DONE, done.reason
        assert second.wait(30) == 0
    finally:
        second.kill()
        second.wait(10)
    assert [m.step for m in runs.metrics(run.id)] == [1, 2]


def test_a_cancel_ends_every_process_within_two_seconds(
    runs: Runs, base: ResolvedBase, export: Export, tmp_path: Path
) -> None:
    options = TrainingOptions("dpo", steps=1000, where="accelerate")
    run = runs.start(options, base=base, export=export)
    until(lambda: runs.get(run.id).status.step >= 2)
    members = processes_of(run)
    assert len(members) == 3
    before = time.monotonic()
    cancelled = runs.cancel(run.id)
    assert time.monotonic() - before < 2
    assert (cancelled.state, cancelled.reason) == (RunState.CANCELLED, "Cancelled by an admin.")
    assert processes_of(run) == []

    # While the launcher still imports there is nothing to wait for.
    again = runs.start(options, base=base, export=export)
    before = time.monotonic()
    assert runs.cancel(again.id).state is RunState.CANCELLED
    assert time.monotonic() - before < 2
    assert processes_of(again) == []


def test_processes_whose_launcher_was_killed_are_found_and_ended(
    runs: Runs, base: ResolvedBase, export: Export
) -> None:
    options = TrainingOptions("orpo", steps=1000, where="accelerate")
    run = runs.start(options, base=base, export=export)
    until(lambda: len(processes_of(run)) == 3)
    assert run.status.pid is not None
    psutil.Process(run.status.pid).kill()
    until(lambda: len(processes_of(run)) == 2, timeout_s=5)
    # Two trainers in one folder is what must never be.
    assert runs.get(run.id).is_active
    with pytest.raises(RunError, match="one run goes at a time"):
        runs.start(TrainingOptions("dpo"), base=base, export=export)
    runs.cancel(run.id)
    assert processes_of(run) == []
    assert not runs.get(run.id).is_active


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", "can't be read"),
        ("- one\n- two\n", "is no accelerate config"),
        ("num_processes: 2\n", "is no accelerate config"),
        (TWO_ON_CPU.replace("MULTI_CPU", "FSDP"), "wants FSDP, which is not supported here"),
        (TWO_ON_CPU.replace("processes: 2", "processes: two"), "has num_processes: 'two'"),
        (TWO_ON_CPU.replace("processes: 2", "processes: 3"), "can't share a batch of 8 pairs"),
        (TWO_ON_CPU.replace("machines: 1", "machines: 2"), "no main_process_ip and main_process"),
        (TWO_ON_CPU.replace("rank: 0", "rank: 1"), "start the run on the machine with machine_ra"),
    ],
)
def test_a_bad_config_is_one_line_and_starts_nothing(
    runs: Runs, base: ResolvedBase, export: Export, config: Path, text: str, line: str
) -> None:
    config.write_text(text)
    with pytest.raises(RunError) as refused:
        runs.start(TrainingOptions("dpo", where="accelerate"), base=base, export=export)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    assert ": " in str(refused.value)
    assert runs.list() == []


def test_without_a_config_the_line_says_how_to_get_one(
    tmp_path: Path, base: ResolvedBase, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(tmp_path, {"accelerate": Accelerated(None)})
    with pytest.raises(RunError, match="`accelerate config --config_file FILE` and set ACCEL"):
        runs.start(TrainingOptions("dpo", where="accelerate"), base=base, export=export)
    monkeypatch.setenv("ACCELERATE_CONFIG", str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match=r"ACCELERATE_CONFIG=.* can't be used \(not a readable"):
        load_settings(AlignmentSettings)


def test_several_machines_are_read_as_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "four.yaml"
    file.write_text(
        "distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 4\nmachine_rank: 0\n"
        "main_process_ip: 10.0.0.1\nmain_process_port: 29501\n"
    )
    launch = read_launch(file)
    assert (launch.machines, launch.processes, launch.port) == (2, 4, 29501)
    assert not launch.on_cpu


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "shares"),
    # 8 pairs: 4 in each of 2; 2 in each of 2, twice; 6 by 4 at once would be 3 and 3.
    [(8, 8, 1, (8, 1)), (8, 8, 2, (4, 1)), (8, 2, 2, (2, 2)), (6, 4, 1, (3, 2)), (8, 1, 8, (1, 1))],
)
def test_all_processes_together_take_the_recipes_batch(
    batch: int, micro: int, processes: int, shares: tuple[int, int]
) -> None:
    recipe = Recipe(learning_rate=1e-3, beta=1.0, batch_size=batch, micro_batch=micro)
    assert split_batch(recipe, processes) == shares
    with pytest.raises(TrainingError, match="can't share a batch"):
        split_batch(recipe, batch + 1)
