"""What a run is said to take beforehand: by hand on a made-up shape, and against a real run."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from alignment.base import ResolvedBase
from alignment.runs import estimate
from alignment.runs.estimate import (
    STARTUP_S,
    Estimate,
    check_room,
    count_tokens,
    describe_estimate,
    disk_bytes,
    estimate_run,
)
from alignment.runs.memory import Hardware, PairSize, Shape, has_bf16, load_shape, memory_bytes
from alignment.runs.plan import plan_run
from alignment.runs.recipes import Recipe, TrainingOptions, TrainingSpec
from alignment.runs.run_store import FinalMetrics, RunError, RunFolder, RunState, Status
from annotation.export.export import Export, copy_export, load_examples
from tests.preferences import WHEN, export_of, tiny_base
from tests.tiny import make_tiny_model

SHAPE = Shape(
    parameters=1000,
    linear=600,
    lora_sides=70,
    hidden=10,
    intermediate=20,
    layers=3,
    vocabulary=50,
    window=100,
)
FULL = Recipe(learning_rate=1e-3, beta=0.1, tuning="full")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return tiny_base(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("votes"), 24)


@pytest.fixture(scope="module")
def spec(base: ResolvedBase, export: Export) -> TrainingSpec:
    options = TrainingOptions("dpo", steps=20)
    return plan_run(options, base=base, dataset_sha256=export.sha256, examples=export.examples)


def test_the_estimate_computes_twice_where_memory_wants_it(
    spec: TrainingSpec, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = load_examples(export.directory)
    # Of two layers there is little to save.
    deep = replace(load_shape(spec.base_path), layers=12)
    monkeypatch.setattr(estimate, "load_shape", lambda _: deep)
    wide = estimate_run(spec, examples=examples, home=tmp_path)
    monkeypatch.setattr(estimate, "free_memory_bytes", lambda: wide.memory_bytes)
    assert estimate_run(spec, examples=examples, home=tmp_path).memory_bytes < wide.memory_bytes


def test_disk_counts_three_checkpoints_and_the_weights() -> None:
    # 1,000 weights of 4 bytes with two moments, three times, and twice without.
    assert disk_bytes(FULL, SHAPE) == 3 * 12_000 + 2 * 4_000 + 5_000_000


def test_tokens_are_counted_by_the_bases_own_tokenizer(base: ResolvedBase, export: Export) -> None:
    examples = load_examples(export.directory)
    lengths = count_tokens(base.path, examples, 1024)
    # One byte a token here: prompt, space, answer, and a dozen for the template.
    longest = max(
        len(e.prompt.messages[0].content) + 1 + len(answer) + 12
        for e in examples
        for answer in (e.chosen, e.rejected)
    )
    assert lengths.longest == longest
    assert lengths.pairs[0] == PairSize(
        len(examples[0].prompt.messages[0].content) + 12,
        1 + len(examples[0].chosen),
        1 + len(examples[0].rejected),
    )
    assert lengths.longest == max(pair.longest for pair in lengths.pairs)
    cut = count_tokens(base.path, examples, 30)
    assert cut.longest == 30
    assert all(pair.longest <= 30 for pair in cut.pairs)


def test_an_earlier_run_is_believed_more_than_the_formula(
    spec: TrainingSpec, export: Export, tmp_path: Path
) -> None:
    examples = load_examples(export.directory)
    guess = estimate_run(spec, examples=examples, home=tmp_path)
    assert not guess.from_earlier_run
    final = FinalMetrics(0.1, 1.0, 1.0, seconds=STARTUP_S + 30, steps=10)
    other = replace(spec, method="orpo")
    known = estimate_run(
        spec, examples=examples, home=tmp_path, earlier=[(spec, final), (other, final)]
    )
    assert known.from_earlier_run
    # Three seconds a step there, twenty steps here.
    assert known.seconds == pytest.approx(STARTUP_S + 60)


def test_the_estimate_is_of_the_batch_that_the_trainer_would_hold(
    spec: TrainingSpec, export: Export, tmp_path: Path
) -> None:
    examples = load_examples(export.directory)
    found = estimate_run(spec, examples=examples, home=tmp_path)
    assert found.memory_bytes == memory_bytes(
        spec,
        load_shape(spec.base_path),
        count_tokens(spec.base_path, examples, 1024).pairs,
        Hardware(on_gpu=False, bf16=has_bf16()),
        checkpointing=False,
    )


@pytest.mark.slow
def test_a_whole_run_holds_at_most_what_is_said_and_not_much_less(
    spec: TrainingSpec, export: Export, tmp_path: Path
) -> None:
    said = estimate_run(spec, examples=load_examples(export.directory), home=tmp_path)
    folder = RunFolder(tmp_path / "run")
    copy_export(export, folder.dataset)
    folder.checkpoints.mkdir()
    folder.write_spec(spec)
    folder.write_status(Status(RunState.PREPARING, WHEN, WHEN))
    command = [sys.executable, "-W", "ignore", "-m", "alignment.train", str(folder.path)]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    final = folder.status().final
    assert final is not None
    assert final.peak_memory_bytes is not None
    assert final.peak_memory_bytes <= said.memory_bytes <= 1.4 * final.peak_memory_bytes


def room(**changed: int) -> Estimate:
    whole = Estimate(
        seconds=10.0,
        memory_bytes=2_000_000_000,
        disk_bytes=1_000_000_000,
        free_memory_bytes=8_000_000_000,
        free_disk_bytes=8_000_000_000,
        on_gpu=False,
        from_earlier_run=False,
    )
    return replace(whole, **changed)


def test_too_little_room_is_one_clear_line() -> None:
    check_room(room())
    with pytest.raises(RunError) as memory:
        check_room(room(free_memory_bytes=2_100_000_000))
    assert str(memory.value) == (
        "The run needs about 2.3 GB of memory and this machine has 2.1 GB free: "
        "choose LoRA, a smaller base model, or a bigger machine."
    )
    with pytest.raises(RunError, match=r"1\.1 GB of disk and the home has 0\.5 GB free: free"):
        check_room(room(free_disk_bytes=500_000_000))


def test_an_estimate_is_told_in_one_line() -> None:
    assert describe_estimate(room()) == (
        "About 10 s (by a formula, ± half); 2.0 GB of memory, 8.0 GB free; 1.0 GB of disk, "
        "8.0 GB free."
    )
    told = describe_estimate(replace(room(), seconds=7 * 60.0, from_earlier_run=True))
    assert told.startswith("About 7 min (as an earlier run did);")
    assert describe_estimate(replace(room(), seconds=None)).startswith("How long it takes, the")


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < estimate.free_memory_bytes() <= psutil.virtual_memory().available * 1.1
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(estimate, "CGROUP", tmp_path)
    assert estimate.free_memory_bytes() == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert estimate.free_memory_bytes() > 3_000_000


def test_an_estimate_costs_no_training_import() -> None:
    program = (
        "import sys, alignment.runs.estimate;"
        "print([m for m in ('torch', 'trl', 'transformers', 'peft') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
