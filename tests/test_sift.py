"""The sift before a run on flipped votes: what it leaves out, and that a run goes on with the same.

Runs happen in this process through `alignment.train.main`, on a tiny model.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import alignment.train
import alignment.training.watch.watch
from alignment.runs.estimate import STARTUP_S, estimate_run
from alignment.runs.plan import plan_run
from alignment.runs.recipes import TrainingOptions, TrainingSpec, sift_steps
from alignment.runs.run_store import FinalMetrics, Metric, RunFolder, RunState, Status
from alignment.training.rows import sift
from alignment.training.rows.data import split_held_out
from alignment.training.rows.sift import SIFTED, against_their_votes, first_pass, reward_margins
from alignment.training.trainers import build_trainer
from annotation.export.export import Export, copy_export, load_examples
from tests.preferences import WHEN, export_of, tiny_base
from tests.trainer_fixture import MakeTrainer, rows_of, shake, spec_of, token_logps

EXAMPLES, STEPS = 60, 12
FLIPPED = range(2, EXAMPLES, 5)
"""Twelve of sixty: a fifth."""
MakeRun = Callable[..., RunFolder]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("votes"), EXAMPLES, flipped=FLIPPED)


@pytest.fixture(scope="module")
def make_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, export: Export
) -> MakeRun:
    def make(**recipe: Any) -> RunFolder:
        folder = RunFolder(tmp_path_factory.mktemp("home") / "run")
        folder.path.mkdir()
        copy_export(export, folder.dataset)
        folder.checkpoints.mkdir()
        settings: dict[str, Any] = {"beta": 0.5, "loss": "robust", "sift": True} | recipe
        spec = spec_of("dpo", tiny_folder, export, steps=STEPS, flip_rate=0.2, **settings)
        folder.write_spec(replace(spec, checkpoint_steps=5))
        folder.write_status(Status(RunState.PREPARING, WHEN, WHEN))
        return folder

    return make


@pytest.fixture(scope="module")
def unbroken(make_run: MakeRun) -> RunFolder:
    return trained(make_run())


def run_child(folder: RunFolder) -> RunState:
    alignment.train.main([str(folder.path)])
    return folder.status().state


def trained(folder: RunFolder) -> RunFolder:
    assert run_child(folder) is RunState.DONE, folder.status().reason
    return folder


def resumed(folder: RunFolder) -> RunFolder:
    folder.move(RunState.QUEUED)
    folder.move(RunState.PREPARING)
    return trained(folder)


def assert_same_run(found: RunFolder, expected: RunFolder) -> None:
    """Bit for bit: losses, held-out figures and weights; as many left out."""

    def steady(metrics: list[Metric]) -> list[Metric]:
        return [replace(m, seconds=None, tokens_per_s=None) for m in metrics]

    assert steady(found.metrics()) == steady(expected.metrics())
    assert final_of(found).left_out == final_of(expected).left_out
    weights = "adapter_model.safetensors"
    assert (found.adapter / weights).read_bytes() == (expected.adapter / weights).read_bytes()


def final_of(folder: RunFolder) -> FinalMetrics:
    final = folder.status().final
    assert final is not None
    return final


# Which pairs


def test_the_lowest_margins_below_zero_are_left_out_up_to_the_flip_rate() -> None:
    margins = [0.5, -0.2, -1.0, 0.1, -0.3]
    # Three lie below 0; .4 of five is two, .2 is one.
    assert against_their_votes(margins, 0.45) == [2, 4]
    assert against_their_votes(margins, 0.2) == [2]
    assert against_their_votes(margins, 0.0) == []
    # Of two equals the first.
    assert against_their_votes([-1.0, 0.0, -1.0, 2.0], 0.25) == [0]
    # What agrees with its vote stays, however many flips there should be.
    assert against_their_votes([0.5, 0.0, 1.0, 0.1, 0.3], 0.4) == []


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_margin_is_the_implicit_reward_of_chosen_over_rejected(
    make_trainer: MakeTrainer, tiny_folder: Path, steps: int, tuning: str
) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="float32").eval()
    # Rafailov et al. 2023, below eq. 7, without β. Two steps ask the reference as they go.
    trainer = make_trainer("dpo", steps, tuning=tuning)
    shake(trainer)
    expected = []
    for row in rows_of(trainer):
        ratios = [
            token_logps(trainer.model.eval(), row["prompt"], row[side]).sum()
            - token_logps(base, row["prompt"], row[side]).sum()
            for side in ("chosen", "rejected")
        ]
        expected.append((ratios[0] - ratios[1]).item())
    assert max(map(abs, expected)) > 0.1
    assert reward_margins(trainer) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_the_flipped_pairs_are_left_out_and_the_rest_is_trained_on_in_order(
    make_run: MakeRun, export: Export
) -> None:
    folder = make_run()
    trainer, held_out = build_trainer(folder, folder.spec())
    train, _ = split_held_out(load_examples(export.directory))
    asked = {f"pair-{n:03d}" for n in FLIPPED}
    upright = [example for example in train if example.pair_id not in asked]
    assert 8 <= len(train) - len(upright) <= 12
    assert len(trainer.train_dataset) == len(upright)
    assert held_out == EXAMPLES - len(train)
    # One byte a token in the tiny model; an answer ends with one token more.
    lengths = [(len(e.chosen.encode()) + 1, len(e.rejected.encode()) + 1) for e in upright]
    found = [(len(row["chosen"]), len(row["rejected"])) for row in rows_of(trainer)]
    assert found == lengths
    # The robust loss at a flip rate of 0 is the plain one.
    assert (trainer.loss_types[0], trainer.label_smoothing) == ("robust", 0.0)


# When there is one


def spec_with(**changes: Any) -> TrainingSpec:
    asked: dict[str, Any] = {"sift": True, "loss": "robust", "flip_rate": 0.2, "examples": 200}
    asked |= changes
    examples, flip_rate = asked.pop("examples"), asked.pop("flip_rate")
    export = Export(Path(), "0" * 64, examples, None)  # type: ignore[arg-type]
    return spec_of("dpo", Path(), export, flip_rate=flip_rate, **asked)


def test_a_first_pass_goes_twice_over_the_examples() -> None:
    # 2 x 200 / 8; two passes over 24 would be six steps, and fewer than ten teach nothing.
    assert sift_steps(spec_with()) == 50
    assert sift_steps(spec_with(batch_size=16)) == 25
    assert sift_steps(spec_with(examples=24)) == 10
    assert sift_steps(spec_with(examples=100_000)) == 2000
    assert sift_steps(spec_with(flip_rate=0.0)) == 0
    assert sift_steps(spec_with(sift=False)) == 0


def test_a_first_pass_is_plain_dpo_without_guards_at_the_same_rate() -> None:
    spec = spec_with(learning_rate=3e-3, sft_weight=2.0, ld_alpha=0.5)
    first = first_pass(replace(spec, recipe=replace(spec.recipe, length_penalty=0.1)))
    assert (first.recipe.loss, first.recipe.sift, first.flip_rate) == ("sigmoid", False, None)
    assert (first.recipe.length_penalty, first.recipe.ld_alpha) == (0.0, None)
    assert (first.recipe.learning_rate, first.recipe.sft_weight) == (3e-3, 2.0)
    assert (first.steps, first.seed) == (50, spec.seed)


def test_a_run_on_flipped_votes_sifts_by_itself_and_says_how_many_it_left_out(
    tiny_folder: Path, unbroken: RunFolder
) -> None:
    options = TrainingOptions("dpo", loss="robust", flip_rate=0.2)
    planned = plan_run(options, base=tiny_base(tiny_folder), dataset_sha256="0", examples=100)
    assert planned.recipe.sift
    train, _ = split_held_out(load_examples(unbroken.dataset))
    flips = sum(e.pair_id in {f"pair-{n:03d}" for n in FLIPPED} for e in train)
    assert final_of(unbroken).left_out == flips
    assert [m.step for m in unbroken.metrics()] == list(range(1, STEPS + 1))


def test_a_run_without_a_sift_says_nothing_of_it_and_takes_no_first_pass(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a first pass was taken")

    monkeypatch.setattr(sift, "_rank", never)
    assert final_of(trained(make_run(sift=False))).left_out is None


def test_the_estimate_counts_the_steps_of_the_first_pass(
    make_run: MakeRun, export: Export, tmp_path: Path
) -> None:
    spec = make_run().spec()
    examples = load_examples(export.directory)
    # 12 steps and 15 of the first pass: 2 x 60 / 8.
    plain = replace(spec, recipe=replace(spec.recipe, sift=False))
    with_sift, without = (
        estimate_run(s, examples=examples, home=tmp_path).seconds or 0.0 for s in (spec, plain)
    )
    assert (with_sift - STARTUP_S) / (without - STARTUP_S) == pytest.approx(27 / 12)
    # An earlier run took two seconds a step with its first pass: this one is known to the second.
    final = FinalMetrics(0.1, 1.0, 1.0, seconds=STARTUP_S + 54, steps=12)
    for wanted, seconds in ((spec, 54), (plain, 24)):
        known = estimate_run(wanted, examples=examples, home=tmp_path, earlier=[(spec, final)])
        assert known.seconds == pytest.approx(STARTUP_S + seconds)


# Ends, and what comes after


def test_sigterm_in_the_first_pass_ends_it_at_once_and_a_resumed_run_is_the_same(
    make_run: MakeRun, unbroken: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_at = 0.0

    def told_to_end(step: int, logs: Any) -> Any:
        nonlocal sent_at
        if step == 3:
            sent_at = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)

    folder = make_run()
    with monkeypatch.context() as patch:
        patch.setattr(sift, "to_metric", told_to_end)
        assert run_child(folder) is RunState.INTERRUPTED
    assert 0 < time.monotonic() - sent_at < 2
    assert folder.metrics() == []
    assert not (folder.checkpoints / SIFTED).exists()
    assert_same_run(resumed(folder), unbroken)


@pytest.mark.parametrize("step", [2, 7])
def test_a_run_that_goes_on_trains_on_the_pairs_that_its_sift_left_it(
    make_run: MakeRun, unbroken: RunFolder, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    folder = make_run()
    real = alignment.training.watch.watch.Watch.step_ended

    def told_to_end(watch: Any, control: Any) -> None:
        if len(folder.metrics()) == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real(watch, control)

    with monkeypatch.context() as patch:
        patch.setattr(alignment.training.watch.watch.Watch, "step_ended", told_to_end)
        assert run_child(folder) is RunState.INTERRUPTED
    assert folder.status().step == step
    left_out = json.loads((folder.checkpoints / SIFTED).read_text())
    assert len(left_out) == final_of(unbroken).left_out

    def never(*_: Any) -> Any:
        raise AssertionError("a first pass was taken again")

    monkeypatch.setattr(sift, "_rank", never)
    assert_same_run(resumed(folder), unbroken)


def test_a_first_pass_that_is_not_finite_fails_the_run_in_one_line(make_run: MakeRun) -> None:
    folder = make_run(learning_rate=1e30)
    assert run_child(folder) is RunState.FAILED
    reason = folder.status().reason or ""
    assert "lower the learning rate" in reason
    assert "\n" not in reason
    assert folder.metrics() == []
