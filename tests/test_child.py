"""The training child: what it measures on the way, when it stops, and how it goes on after an end.

Runs happen in this process through `alignment.train.main`, on a tiny model; one child is killed.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import alignment.train
from alignment.runs.recipes import Method, Recipe, TrainingSpec
from alignment.runs.run_store import (
    COMPLETE,
    FinalMetrics,
    Metric,
    RunFolder,
    RunState,
    Sample,
    Status,
)
from alignment.training.rows.data import HOLD_OUT_FROM, MAX_HELD_OUT, split_held_out
from alignment.training.trainers import build_trainer
from alignment.training.watch import ends
from alignment.training.watch.checkpoints import BEST, checkpoint_to_resume, is_whole
from alignment.training.watch.early_stop import (
    HeldOut,
    Judgement,
    judge,
    sampled_steps,
    scored_steps,
    tolerated_drop,
)
from alignment.training.watch.progress import StopSignal, TrainingError, is_main_process, to_metric
from alignment.training.watch.samples import PROMPTS, Sampler, sample_prompts
from alignment.training.watch.watch import Watch
from annotation.export.export import Export, copy_export, load_examples
from annotation.schema import PreferenceExample
from tests.preferences import TINY, WHEN, export_of
from tests.tiny import make_tiny_model

ROOT = Path(__file__).parent.parent
STEPS, CHECKPOINT_STEPS = 16, 5
MakeRun = Callable[..., RunFolder]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("votes"), 60)


@pytest.fixture(scope="module")
def make_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, export: Export
) -> MakeRun:
    def make(
        method: Method = "dpo",
        steps: int = STEPS,
        *,
        export: Export = export,
        base_path: Path = tiny_folder,
        **recipe: Any,
    ) -> RunFolder:
        folder = RunFolder(tmp_path_factory.mktemp("home") / "run")
        folder.path.mkdir()
        copy_export(export, folder.dataset)
        folder.checkpoints.mkdir()
        settings: dict[str, Any] = {"learning_rate": 1e-3, "beta": 0.5} | recipe
        spec = TrainingSpec(
            method=method,
            recipe=Recipe(**settings),
            steps=steps,
            checkpoint_steps=CHECKPOINT_STEPS,
            seed=3,
            base=TINY,
            base_path=base_path,
            dataset_sha256=export.sha256,
            examples=export.examples,
            code_revision=None,
            versions=(),
        )
        folder.write_spec(spec)
        folder.write_status(Status(RunState.PREPARING, WHEN, WHEN))
        return folder

    return make


@pytest.fixture(scope="module")
def unbroken(make_run: MakeRun) -> RunFolder:
    return trained(make_run())


@pytest.fixture(scope="module")
def unbroken_orpo(make_run: MakeRun) -> RunFolder:
    return trained(make_run("orpo"))


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


def final_of(folder: RunFolder) -> FinalMetrics:
    final = folder.status().final
    assert final is not None
    return final


def steady(metrics: list[Metric]) -> list[Metric]:
    """What a clock has no part in."""
    return [replace(m, seconds=None, tokens_per_s=None) for m in metrics]


def assert_same_run(found: RunFolder, expected: RunFolder) -> None:
    """Bit for bit: losses, held-out figures, samples, the ends, the weights."""
    assert steady(found.metrics()) == steady(expected.metrics())
    assert found.samples() == expected.samples()
    clocks: dict[str, Any] = dict.fromkeys(("tokens_per_s", "peak_memory_bytes", "disk_bytes"))
    clocks["seconds"] = 0.0
    assert replace(final_of(found), **clocks) == replace(final_of(expected), **clocks)
    weights = "adapter_model.safetensors"
    assert (found.adapter / weights).read_bytes() == (expected.adapter / weights).read_bytes()


# What is held out


def test_a_tenth_is_held_out_from_enough_examples_on_and_never_too_many(export: Export) -> None:
    examples = load_examples(export.directory)
    assert split_held_out(examples[: HOLD_OUT_FROM - 1])[1] == []
    train, held_out = split_held_out(examples)
    # 60 prompts: 6 expected, standard deviation 2.3.
    assert 2 <= len(held_out) <= 12
    assert {e.pair_id for e in train} | {e.pair_id for e in held_out} == {
        e.pair_id for e in examples
    }
    # A prompt stays where it is when others come.
    names = {e.prompt.id for e in held_out}
    assert {e.prompt.id for e in split_held_out(examples[:55])[1]} <= names


def test_what_is_held_out_has_a_ceiling_and_splits_no_prompt(export: Export) -> None:
    examples = load_examples(export.directory)
    many = [replace(e, pair_id=f"{e.pair_id}-{n}") for n in range(90) for e in examples]
    train, held_out = split_held_out(many)
    assert 0 < len(held_out) <= MAX_HELD_OUT
    assert len(held_out) % 90 == 0
    assert not {e.prompt.id for e in train} & {e.prompt.id for e in held_out}


# When a run is scored, and when it stops


def test_a_run_is_scored_eight_times_and_at_its_end() -> None:
    # 75 / 8 = 9.375, 18.75, 28.125, 37.5, 46.875, 56.25, 65.625, 75, each rounded up.
    assert scored_steps(75) == (10, 19, 29, 38, 47, 57, 66, 75)
    assert sampled_steps(75) == (19, 38, 57, 75)
    assert scored_steps(5) == (1, 2, 3, 4, 5)
    assert sampled_steps(5) == (1, 3, 5)
    assert scored_steps(1) == sampled_steps(1) == (1,)


def judged(accuracies: list[float], margins: list[float], pairs: int, **past: Any) -> list[bool]:
    """Whether each of eight scored steps of a run of 80 says stop."""
    judgement, said = Judgement(**past), []
    for step, accuracy, margin in zip(scored_steps(80), accuracies, margins, strict=True):
        found = HeldOut(0.0, accuracy, margin)
        judgement = judge(judgement, found, step=step, steps=80, pairs=pairs)
        said.append(judgement.stop)
    return said


def test_three_scored_steps_in_a_row_below_by_a_standard_error_stop_a_run() -> None:
    assert tolerated_drop(25) == pytest.approx(0.1)
    accuracies = [0.72, 0.80, 0.64, 0.64, 0.60, 0.60, 0.60, 0.60]
    margins = [0.5, 0.6, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1]
    # Worse at the third to fifth; the fifth is step 50 of 80, past half.
    assert judged(accuracies, margins, 25)[4]
    assert not any(judged(accuracies, margins, 25)[:4])


def test_a_run_that_does_harm_from_the_start_gets_its_fair_share_of_steps() -> None:
    # Below chance from the first scored step on: three in a row at step 30, half at step 40.
    said = judged([0.2] * 8, [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7, -0.8], 20)
    assert said.index(True) == 3


@pytest.mark.parametrize(
    ("accuracies", "margins"),
    [
        # Of 20 pairs one or two go back and forth: .05 or .1, less than sqrt(.25 / 20) = .112.
        ([0.9, 0.8, 0.85, 0.8, 0.8, 0.85, 0.8, 0.8], [0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]),
        # Three pairs go, but come back before a third time.
        ([0.9, 0.75, 0.75, 0.8, 0.75, 0.75, 0.9, 0.75], [0.5] + [0.4] * 7),
        # Pairs cross zero while the mean margin grows.
        ([0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]),
        # Nothing is learned: that is no harm.
        ([0.5, 0.45, 0.5, 0.55, 0.45, 0.5, 0.4, 0.45], [0.0, -0.1, 0.0, 0.1, 0.0, -0.1, 0.0, 0.0]),
    ],
)
def test_noise_stops_no_run(accuracies: list[float], margins: list[float]) -> None:
    assert not any(judged(accuracies, margins, 20))


def test_few_pairs_stop_no_run_and_the_last_step_is_no_early_stop() -> None:
    assert not any(judged([0.0] * 8, [-1.0] * 8, 9))
    accuracies, margins = [0.9] * 5 + [0.3] * 3, [1.0] * 5 + [0.0] * 3
    assert not any(judged(accuracies, margins, 100))


def test_an_untrained_model_may_rank_badly() -> None:
    # ORPO's base has an accuracy of its own: .1 here, so .2 is no harm.
    assert not any(judged([0.2] * 8, [-0.1] * 8, 20, baseline_accuracy=0.1))


# What a run measures


def test_held_out_figures_stand_at_the_scored_steps_and_samples_at_every_second(
    unbroken: RunFolder,
) -> None:
    metrics = unbroken.metrics()
    assert [m.step for m in metrics] == list(range(1, STEPS + 1))
    scored = [m for m in metrics if m.eval_loss is not None]
    assert tuple(m.step for m in scored) == scored_steps(STEPS)
    assert all(m.eval_reward_accuracy is not None for m in scored)
    assert all(m.eval_reward_margin is not None for m in scored)
    lengths = {m.step: m.sample_tokens for m in metrics if m.sample_tokens is not None}
    assert tuple(lengths) == sampled_steps(STEPS)
    samples = unbroken.samples()
    # Once more before the first step: what the base itself answers.
    assert [s.step for s in samples[:PROMPTS]] == [0] * PROMPTS
    assert len(samples) == (1 + len(lengths)) * PROMPTS
    for step, length in lengths.items():
        tokens = [s.tokens for s in samples if s.step == step]
        assert length == pytest.approx(sum(tokens) / PROMPTS, abs=0.01)
    # The same prompts every time, so that answers can be compared.
    assert len({s.prompt for s in samples}) == PROMPTS
    assert samples[0].prompt == samples[PROMPTS].prompt


def test_held_out_figures_are_those_of_each_pair_with_the_weights_that_were_kept(
    unbroken: RunFolder, tiny_folder: Path
) -> None:
    margins = kept_margins(unbroken, tiny_folder, beta=0.5)
    final = final_of(unbroken)
    assert final.eval_pairs == len(margins)
    # TRL's mean over batches would weigh the last, smaller batch more.
    assert len(margins) % unbroken.spec().recipe.micro_batch
    assert final.eval_reward_margin == pytest.approx(sum(margins) / len(margins), rel=1e-3)
    right = sum(m > 0 for m in margins)
    assert final.eval_reward_accuracy == pytest.approx(right / len(margins))
    assert final.eval_loss == unbroken.metrics()[-1].eval_loss


def kept_margins(folder: RunFolder, base: Path, beta: float) -> list[float]:
    """Implicit reward margins of held-out pairs: Rafailov et al. 2023, below eq. 7."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alignment.chat import end_of_turn_ids
    from alignment.training.rows.data import tokenize_examples

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype="float32"), folder.adapter
    ).eval()
    _, held_out = split_held_out(load_examples(folder.dataset))
    ends_of_turn = end_of_turn_ids(tokenizer, base)

    def logp(prompt: list[int], answer: list[int]) -> float:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        logps = torch.log_softmax(logits.float(), -1)[len(prompt) - 1 : -1]
        return logps[torch.arange(len(answer)), torch.tensor(answer)].sum().item()

    margins = []
    for pair in tokenize_examples(tokenizer, held_out, end_ids=ends_of_turn, max_length=1024):
        sides = (pair.chosen_ids, pair.rejected_ids)
        policy = [logp(pair.prompt_ids, side) for side in sides]
        with model.disable_adapter():
            reference = [logp(pair.prompt_ids, side) for side in sides]
        margins.append(beta * (policy[0] - policy[1] - reference[0] + reference[1]))
    return margins


def test_orpo_has_held_out_figures_of_whole_pairs_too(unbroken_orpo: RunFolder) -> None:
    final = final_of(unbroken_orpo)
    assert final.eval_reward_accuracy is not None
    right = final.eval_reward_accuracy * final.eval_pairs
    assert right == pytest.approx(round(right), abs=1e-4)
    assert len([m for m in unbroken_orpo.metrics() if m.eval_loss is not None]) == 8


def test_scoring_and_sampling_leave_the_training_as_it_is(
    unbroken: RunFolder, make_run: MakeRun
) -> None:
    folder = make_run()
    trainer, _ = build_trainer(folder, folder.spec())
    trainer.train()
    plain = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert [m.loss for m in unbroken.metrics()] == plain


def test_time_memory_and_tokens_are_measured(unbroken: RunFolder) -> None:
    metrics, final = unbroken.metrics(), final_of(unbroken)
    seconds = [m.seconds or 0.0 for m in metrics]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] < final.seconds
    assert (final.steps, final.kept_step, final.stopped_early) == (STEPS, STEPS, False)
    # This process alone has torch in it.
    assert 100e6 < (final.peak_memory_bytes or 0) < 20e9
    # Two checkpoints were there beside what is left now.
    assert unbroken.disk_bytes() < (final.disk_bytes or 0) < 20e6
    assert all(m.tokens_per_s for m in metrics)
    rates = [m.tokens_per_s or 0.0 for m in metrics]
    assert min(rates) <= (final.tokens_per_s or 0.0) <= max(rates)


def test_tokens_are_those_of_both_sides_with_their_prompts(make_run: MakeRun) -> None:
    folder = make_run(steps=1)
    trainer, _ = build_trainer(folder, folder.spec())
    prompts = sample_prompts(load_examples(folder.dataset))
    sampler = Sampler(trainer, folder.spec().base_path, prompts)
    watch = Watch(folder, folder.spec(), trainer, 9, sampler, StopSignal())
    rows = [trainer.train_dataset[n] for n in range(3)]
    trainer.model.train()
    watch.step_begins()
    trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    watch.step_ended(type("Control", (), {})())
    sides = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    assert watch.memory.tokens == sides + 2 * sum(len(row["prompt_ids"]) for row in rows)


def test_samples_are_greedy_and_end_at_the_end_of_the_turn(
    make_run: MakeRun, tiny_folder: Path
) -> None:
    folder = make_run(steps=1)
    trainer, _ = build_trainer(folder, folder.spec())
    examples: list[PreferenceExample] = load_examples(folder.dataset)
    prompts = sample_prompts(examples)
    assert prompts == sample_prompts(list(reversed(examples)))
    sampler = Sampler(trainer, tiny_folder, prompts)
    trainer.model.train()
    state = torch.random.get_rng_state()
    samples = sampler.sample(1, stopping=lambda: False)
    assert samples == sampler.sample(1, stopping=lambda: False)
    assert torch.equal(state, torch.random.get_rng_state())
    assert trainer.model.training
    # A prompt alone is answered as it is beside longer ones.
    alone = Sampler(trainer, tiny_folder, prompts[:1]).sample(1, stopping=lambda: False)
    assert alone == samples[:1]
    cut = sampler.sample(1, stopping=lambda: True)
    assert all(s.tokens <= 1 for s in cut)


# Early stop


def flipped(export: Export, directory: Path) -> Export:
    """`export` with the sides of its held-out pairs swapped."""
    copy_export(export, directory)
    _, held_out = split_held_out(load_examples(directory))
    names = {e.pair_id for e in held_out}
    lines = []
    for line in (directory / "train.jsonl").read_text().split("\n"):
        row = json.loads(line) if line else None
        if row and row["pair_id"] in names:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        lines.append(json.dumps(row, separators=(",", ":")) if row else "")
    data = "\n".join(lines).encode()
    (directory / "train.jsonl").write_bytes(data)
    about = json.loads((directory / "dataset.json").read_text())
    about["sha256"] = hashlib.sha256(data).hexdigest()
    (directory / "dataset.json").write_text(json.dumps(about))
    return replace(export, directory=directory, sha256=about["sha256"])


@pytest.fixture(scope="module")
def larger_export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("more"), 120)


def test_held_out_pairs_that_say_the_opposite_stop_a_run_with_its_best_weights(
    make_run: MakeRun, larger_export: Export, tmp_path: Path, tiny_folder: Path
) -> None:
    against = flipped(larger_export, tmp_path / "against")
    folder = trained(make_run(steps=32, export=against))
    final = final_of(folder)
    assert final.eval_pairs >= 10
    assert final.stopped_early
    # Worse than chance at steps 4, 8 and 12, but every run gets half of its steps.
    assert final.steps == len(folder.metrics()) == folder.status().step == 16
    scored = [m for m in folder.metrics() if m.eval_reward_accuracy is not None]
    best = max(scored, key=lambda m: (m.eval_reward_accuracy, m.step))
    assert final.kept_step == best.step
    assert final.eval_reward_margin == best.eval_reward_margin
    margins = kept_margins(folder, tiny_folder, beta=0.5)
    assert best.eval_reward_margin == pytest.approx(sum(margins) / len(margins), rel=1e-3)


@pytest.mark.parametrize("method", ["dpo", "orpo", "sft"])
def test_a_run_that_learns_what_its_held_out_pairs_say_goes_to_its_end(
    make_run: MakeRun, larger_export: Export, method: Method
) -> None:
    folder = trained(make_run(method, 12, export=larger_export))
    final = final_of(folder)
    assert (final.steps, final.stopped_early, final.kept_step) == (12, False, 12)
    assert final.eval_reward_accuracy is not None
    assert (final.reward_accuracy is None) is (method == "sft")
    assert list(folder.checkpoints.iterdir()) == []


# Ends, and what comes after


# By itself: whoever looks from outside may look too late, at eight short steps before the end.
KILLED_IN_STEP_9 = f"""
import os, signal, sys
import alignment.train
from {Watch.__module__} import Watch

def step_ended(self, control, ended=Watch.step_ended):
    if self._folder.status().step == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    ended(self, control)

Watch.step_ended = step_ended
sys.exit(alignment.train.main(sys.argv[1:]))
"""


def test_a_run_killed_on_the_way_ends_as_if_nothing_had_happened(
    make_run: MakeRun, unbroken: RunFolder
) -> None:
    folder = make_run()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", KILLED_IN_STEP_9, str(folder.path)]
    with folder.log.open("ab") as log:
        child = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False
        )
    assert child.returncode == -signal.SIGKILL, folder.log.read_text()
    assert folder.status().step == 8
    before = folder.metrics()
    # What came after the checkpoint is taken again, whatever the file says.
    folder.append_metric(replace(before[-1], step=STEPS, loss=99.0))
    folder.move(RunState.INTERRUPTED)
    resumed(folder)
    assert_same_run(folder, unbroken)
    seconds = [m.seconds or 0.0 for m in folder.metrics()]
    assert seconds == sorted(seconds)


class SigtermOnce:
    """Stands before a method and sends this process SIGTERM the `count`-th time it is called."""

    def __init__(self, method: Callable[..., Any], count: int) -> None:
        self._method, self._count, self.sent_at = method, count, 0.0

    def __get__(self, owner: Any, _kind: Any = None) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self._count -= 1
            if self._count == 0:
                self.sent_at = time.monotonic()
                os.kill(os.getpid(), signal.SIGTERM)
            return self._method(owner, *arguments, **named)

        return called


@pytest.mark.parametrize(
    ("where", "count", "step"),
    [
        # The third time that held-out pairs are scored is step 6, the third samples are step 8's.
        ("_score", 3, 6),
        ("_generate", 3, 8),
        ("_score", 8, STEPS),
    ],
)
def test_sigterm_while_measuring_keeps_the_step_and_measures_it_later(
    make_run: MakeRun,
    unbroken: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    count: int,
    step: int,
) -> None:
    owner = Watch if where == "_score" else Sampler
    told = SigtermOnce(getattr(owner, where), count)
    monkeypatch.setattr(owner, where, told)
    folder = make_run()
    assert run_child(folder) is RunState.INTERRUPTED
    assert time.monotonic() - told.sent_at < 2
    assert folder.last_checkpoint() == folder.checkpoints / f"checkpoint-{step}"
    assert folder.metrics()[-1] == replace(
        folder.metrics()[-1], step=step, eval_loss=None, sample_tokens=None
    )
    assert all(s.step < step for s in folder.samples())
    # As if the child had been killed between the samples and their metric.
    folder.append_samples([Sample(step, "What?", "That.", 1)])
    monkeypatch.undo()
    assert_same_run(resumed(folder), unbroken)


def test_a_run_stopped_again_and_again_ends_as_if_nothing_had_happened(
    make_run: MakeRun, unbroken_orpo: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run("orpo")
    # Mid-epoch, at an epoch's end, at a checkpoint's step: 51 pairs are 7 batches.
    for step in (3, 7, 10):
        told = SigtermOnce(Watch.step_ended, step - folder.status().step)
        monkeypatch.setattr(Watch, "step_ended", told)
        assert run_child(folder) is RunState.INTERRUPTED
        assert folder.status().step == step
        folder.move(RunState.QUEUED)
        folder.move(RunState.PREPARING)
        monkeypatch.undo()
    assert_same_run(trained(folder), unbroken_orpo)


@pytest.fixture(scope="module")
def stopped_at_13(make_run: MakeRun) -> RunFolder:
    """A run that was told to end after step 13, with checkpoints at 10 and 13."""
    folder = make_run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "step_ended", SigtermOnce(Watch.step_ended, 13))
        assert run_child(folder) is RunState.INTERRUPTED
    assert sorted(c.name for c in folder.checkpoints.glob("checkpoint-*")) == [
        "checkpoint-10",
        "checkpoint-13",
    ]
    return folder


@pytest.fixture
def interrupted(stopped_at_13: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it, to damage."""
    return RunFolder(shutil.copytree(stopped_at_13.path, tmp_path / "run"))


def test_a_damaged_checkpoint_is_left_out_for_the_one_before(
    interrupted: RunFolder, unbroken: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = interrupted.checkpoints / "checkpoint-13"
    assert is_whole(newest)
    optimizer = newest / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    assert (newest / COMPLETE).exists()
    assert not is_whole(newest)
    assert_same_run(resumed(interrupted), unbroken)
    printed = capsys.readouterr().out
    assert "checkpoint-13 is damaged and left out" in printed
    assert "training from step 10" in printed


def test_a_run_whose_checkpoints_are_all_damaged_says_so_in_one_line(
    interrupted: RunFolder,
) -> None:
    for checkpoint in interrupted.checkpoints.glob("checkpoint-*"):
        (checkpoint / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match="checkpoint-13 is damaged"):
        checkpoint_to_resume(interrupted)
    interrupted.move(RunState.QUEUED)
    interrupted.move(RunState.PREPARING)
    assert run_child(interrupted) is RunState.FAILED
    assert interrupted.status().reason == (
        "No checkpoint of this run can be read (checkpoint-13 is damaged): start a new run."
    )


def test_a_checkpoint_remembers_the_best_weights_so_far(interrupted: RunFolder) -> None:
    best = {c.name: (c / BEST).read_bytes() for c in interrupted.checkpoints.glob("checkpoint-*")}
    # Every scored step ranks all pairs right, and the later of equals is the better one.
    scored = [m for m in interrupted.metrics() if m.eval_reward_accuracy is not None]
    assert {m.eval_reward_accuracy for m in scored} == {1.0}
    assert best["checkpoint-10"] != best["checkpoint-13"]
    assert (interrupted.checkpoints / BEST).read_bytes() == best["checkpoint-13"]


def test_a_gradient_that_is_not_finite_stops_the_run_though_the_loss_is(
    make_run: MakeRun, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    base = make_tiny_model(tmp_path / "tiny-row")
    tensors = load_file(base / "model.safetensors")
    # Every prompt begins with token 1. The square of its row is 0 in fp32, so that the backward of
    # each norm multiplies by 1 / sqrt(eps); a row of zeros would be refused before the run.
    tensors["model.embed_tokens.weight"][1] = 1e-25
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-30}))
    folder = make_run("sft", base_path=base, tuning="full")
    assert run_child(folder) is RunState.FAILED
    reason = folder.status().reason or ""
    assert reason.startswith("The gradient norm became nan at step 1: no weight had moved yet")
    assert "special tokens" in reason
    assert not folder.weights.exists()
    assert folder.last_checkpoint() is None
    assert folder.metrics() == []


def test_a_learning_rate_far_too_high_is_named_as_the_likely_cause(make_run: MakeRun) -> None:
    folder = make_run(learning_rate=1e30)
    assert run_child(folder) is RunState.FAILED
    reason = folder.status().reason or ""
    assert "lower the learning rate" in reason
    assert not folder.adapter.exists()


def test_a_gradient_that_nobody_logged_counts_as_not_finite() -> None:
    with pytest.raises(TrainingError, match="gradient norm became nan at step 4: lower"):
        to_metric(4, {"loss": 0.0})
    assert to_metric(4, {"loss": 0.0, "grad_norm": 0.0}).loss == 0.0


def test_a_full_disk_fails_in_one_line_and_keeps_the_last_good_checkpoint(
    make_run: MakeRun, unbroken: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run()
    save = torch.save

    def full(content: Any, file: Any, *rest: Any, **named: Any) -> None:
        if "checkpoint-10" in str(file):
            Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        save(content, file, *rest, **named)

    monkeypatch.setattr(torch, "save", full)
    assert run_child(folder) is RunState.FAILED
    assert folder.status().reason == (
        "The disk is full: free some space, then resume the run from step 5."
    )
    names = {path.name for path in folder.checkpoints.iterdir()}
    assert names == {"checkpoint-5", BEST}
    monkeypatch.undo()
    assert_same_run(resumed(folder), unbroken)


@pytest.mark.parametrize("early", [True, False])
def test_a_run_that_failed_after_its_last_step_takes_no_step_more(
    make_run: MakeRun,
    larger_export: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    early: bool,
) -> None:
    data = flipped(larger_export, tmp_path / "against") if early else larger_export
    folder, whole = (make_run(steps=16, export=data) for _ in range(2))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(alignment.train, "save_weights", full)
        assert run_child(folder) is RunState.FAILED
    assert not folder.weights.exists()
    assert_same_run(resumed(folder), trained(whole))
    final = final_of(folder)
    assert final.stopped_early is early
    assert final.steps == len(folder.metrics()) == (8 if early else 16)


def test_what_libraries_say_of_a_full_disk_and_of_no_memory_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert ends.failure_line(caught.value, 0).startswith("Memory ran out: use a smaller")
    assert "start a new run" in ends.failure_line(MemoryError(), 0)
    assert "resume the run from step 8" in ends.failure_line(torch.OutOfMemoryError("x"), 8)
    told = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
    assert ends.failure_line(told, 0).startswith("The disk is full")
    wrapped = ValueError("can't save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert ends.failure_line(wrapped, 25) == (
        "The disk is full: free some space, then resume the run from step 25."
    )
    assert ends.failure_line(ValueError("two\nlines"), 0) == (
        "ValueError: two lines (traceback in log.txt)"
    )


def test_no_memory_left_is_one_line(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hungry(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(alignment.train, "build_trainer", hungry)
    folder = make_run()
    assert run_child(folder) is RunState.FAILED
    assert (folder.status().reason or "").startswith("Memory ran out")
    assert "MemoryError" in capsys.readouterr().err


def test_a_child_gone_without_a_word_was_killed_and_the_kernel_tells_whether_for_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 12\noom_kill 4\n")
    monkeypatch.setattr(ends, "_VMSTAT", vmstat)
    assert ends.kernel_kills() == 4
    now = psutil.boot_time() + 60
    status = Status(RunState.TRAINING, WHEN, WHEN, process_started=now, kernel_kills=4)
    killed = "The training process was killed while training"
    unknown = f"{killed}, by someone or for want of memory: see log.txt, and resume it."
    assert ends.vanished_line(status) == unknown
    vmstat.write_text("oom_kill 5\n")
    assert ends.vanished_line(status) == (
        f"{killed}, probably for want of memory: use a smaller base model or end other programs, "
        "and resume it."
    )
    vmstat.unlink()
    assert ends.vanished_line(status) == unknown
    earlier = replace(status, process_started=psutil.boot_time() - 60)
    assert ends.vanished_line(earlier) == (
        "The machine restarted while the run was training: resume it."
    )


def test_only_the_first_of_several_processes_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_main_process()
    monkeypatch.setenv("RANK", "0")
    assert is_main_process()
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process()


def test_the_signal_handler_goes_when_the_run_ends(unbroken: RunFolder) -> None:
    assert unbroken.status().state is RunState.DONE
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
