"""What a run is said to take beforehand: by hand on a made-up shape, and against a real run."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from alignment import estimate
from alignment.base import ResolvedBase
from alignment.estimate import (
    LIBRARIES_BYTES,
    STARTUP_S,
    Estimate,
    Shape,
    check_room,
    count_tokens,
    describe_estimate,
    disk_bytes,
    estimate_run,
    load_shape,
    memory_bytes,
    needs_checkpointing,
    trained_parameters,
)
from alignment.plan import plan_run
from alignment.recipes import Recipe, TrainingOptions, TrainingSpec
from alignment.run_store import FinalMetrics, RunError
from annotation.export.export import Export, load_examples
from tests.preferences import export_of, tiny_base
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
LORA = Recipe(learning_rate=1e-3, beta=0.1)
FULL = replace(LORA, tuning="full")


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


def test_the_shape_is_read_from_headers(base: ResolvedBase) -> None:
    shape = load_shape(base.path)
    # Each of two layers: q and o (48×48), k and v (24×48), gate, up and down (96×48).
    linear = 2 * (2 * 48 * 48 + 2 * 24 * 48 + 3 * 96 * 48)
    assert shape.linear == linear
    assert shape.lora_sides == 2 * (2 * 96 + 2 * 72 + 3 * 144)
    # Two embeddings of 259 rows, five norms of 48 besides.
    assert shape.parameters == linear + 2 * 259 * 48 + 5 * 48
    assert (shape.hidden, shape.layers, shape.vocabulary) == (48, 2, 259)


def test_the_shape_is_read_by_the_names_of_other_families(tmp_path: Path) -> None:
    config = {"n_embd": 48, "n_layer": 2, "vocab_size": 259, "n_positions": 64}
    for held in (config, {"text_config": config}):
        (tmp_path / "config.json").write_text(json.dumps(held))
        shape = load_shape(tmp_path)
        assert (shape.hidden, shape.layers, shape.window) == (48, 2, 64)
        assert shape.intermediate == 4 * 48
    (tmp_path / "config.json").write_text('{"hidden_size": 48}')
    with pytest.raises(RunError, match="names no num_hidden_layers"):
        load_shape(tmp_path)


def test_the_estimate_computes_twice_where_memory_wants_it(
    spec: TrainingSpec, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = load_examples(export.directory)
    wide = estimate_run(spec, examples=examples, home=tmp_path)
    monkeypatch.setattr(estimate, "free_memory_bytes", lambda: wide.memory_bytes)
    assert estimate_run(spec, examples=examples, home=tmp_path).memory_bytes < wide.memory_bytes


def test_memory_by_hand() -> None:
    assert trained_parameters(LORA, SHAPE) == 16 * 70
    assert trained_parameters(FULL, SHAPE) == 1000
    # A layer keeps (8·10 + 4·20)·4 = 640 bytes a token, the logits 50·4·3 = 600; 2 rows of 7.
    activations = 14 * (3 * 640 + 600)
    weights = 1000 * 6
    lora = 1120 * 12 + 1120 * 4
    plain = memory_bytes(LORA, SHAPE, rows=2, tokens=7, checkpointing=False)
    assert plain == LIBRARIES_BYTES + weights + lora + activations
    full = memory_bytes(FULL, SHAPE, rows=2, tokens=7, checkpointing=False)
    assert full == LIBRARIES_BYTES + weights + 1000 * 12 + activations
    # With checkpointing 10·4·3 = 120 bytes a token, and one whole layer.
    thrifty = memory_bytes(LORA, SHAPE, rows=2, tokens=7, checkpointing=True)
    assert thrifty == LIBRARIES_BYTES + weights + lora + 14 * (120 + 640 + 600)


def test_checkpointing_is_chosen_where_activations_do_not_fit() -> None:
    plain = memory_bytes(LORA, SHAPE, rows=2, tokens=7, checkpointing=False)
    for free, expected in ((2 * plain, False), (plain, True)):
        chosen = needs_checkpointing(LORA, SHAPE, rows=2, tokens=7, free_bytes=free)
        assert chosen is expected


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
    assert count_tokens(base.path, examples, 30).longest == 30


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


def test_memory_is_near_what_a_real_run_takes(
    spec: TrainingSpec, base: ResolvedBase, export: Export, tmp_path: Path
) -> None:
    said = estimate_run(spec, examples=load_examples(export.directory), home=tmp_path)
    program = (
        "import sys; from pathlib import Path; from dataclasses import replace;"
        "from alignment.plan import plan_run; from alignment.recipes import TrainingOptions;"
        "from alignment.run_store import RunFolder;"
        "from alignment.training.trainers import build_trainer;"
        "from annotation.export.export import copy_export, load_export;"
        "from tests.preferences import tiny_base;"
        "export = load_export(Path(sys.argv[1])); base = tiny_base(Path(sys.argv[2]));"
        "folder = RunFolder(Path(sys.argv[3])); copy_export(export, folder.dataset);"
        "spec = plan_run(TrainingOptions('dpo', steps=2), base=base,"
        " dataset_sha256=export.sha256, examples=export.examples);"
        "build_trainer(folder, spec)[0].train();"
        # Not ru_maxrss, which a child inherits from the process that started it.
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    words = [str(export.directory), str(base.path), str(tmp_path / "run")]
    command = [sys.executable, "-W", "ignore", "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    measured = int(done.stdout.split()[-1]) * 1024
    assert measured / 2 < said.memory_bytes < measured * 2


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
        "import sys, alignment.estimate;"
        "print([m for m in ('torch', 'trl', 'transformers', 'peft') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
