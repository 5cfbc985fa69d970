"""What goes on beside the steps of a run: metrics out, held-out pairs scored, samples, the stop.

Owns the callback that a trainer calls, and what a run remembers from one child to the next. The
numbers of a step do not depend on any of it. Knows no loss.
"""

import json
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import Metric, RunFolder, RunState
from alignment.training.watch.checkpoints import attach_best, keep_best, seal
from alignment.training.watch.early_stop import (
    HeldOut,
    Judgement,
    judge,
    sampled_steps,
    scored_steps,
)
from alignment.training.watch.peak import peak_resident_bytes
from alignment.training.watch.progress import (
    Stopped,
    StopSignal,
    enter,
    is_main_process,
    to_metric,
    write_metric,
)
from alignment.training.watch.samples import Sampler, undisturbed

MEMORY = "watch.json"
_REWARDS = ("rewards/accuracies", "rewards/margins")


class NothingLeft(Exception):
    """A resumed run has no step to take any more; its weights are those of its checkpoint."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a checkpoint knows beside the trainer's own state.

    `measured_step` is the last scored step whose figures are written; `tokens` went through the
    model in `busy_s` seconds of steps alone; `peak_bytes` is the most memory of any child.
    """

    judgement: Judgement = field(default_factory=Judgement)
    measured_step: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    peak_bytes: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        return round(self.tokens / self.busy_s, 1) if self.busy_s else None


class Watch:
    """Follows one trainer through one child. With no `held_out` pairs nothing is scored."""

    def __init__(
        self,
        folder: RunFolder,
        spec: TrainingSpec,
        trainer: Any,
        held_out: int,
        sampler: Sampler,
        stop: StopSignal,
    ) -> None:
        self.memory = Memory()
        self._folder, self._spec, self._trainer = folder, spec, trainer
        self._held_out, self._sampler, self._stop = held_out, sampler, stop
        self._scored, self._sampled = scored_steps(spec.steps), sampled_steps(spec.steps)
        # Plain SFT never looks at a rejected answer, so its reward accuracy is no goal of it.
        self._may_stop_early = spec.method != "sft" and held_out > 0
        self._began = self._step_began = time.monotonic()
        self._step_s, self._step_tokens = 0.0, 0
        self._batches: dict[str, list[float]] = defaultdict(list)
        trainer.args.logging_nan_inf_filter = False
        trainer.model.register_forward_pre_hook(self._count_tokens, with_kwargs=True)

    def resume(self, checkpoint: Path | None) -> None:
        """Remember what `checkpoint` does; the folder holds no step after it."""
        if checkpoint is None:
            return
        row = json.loads((checkpoint / MEMORY).read_text(encoding="utf-8"))
        self.memory = Memory(**row | {"judgement": Judgement(**row["judgement"])})

    def begin(self, step: int) -> None:
        """Before the first step of this child; NothingLeft when there is none to take."""
        done = [m for m in self._folder.metrics() if m.step <= step]
        self._began = time.monotonic() - ((done[-1].seconds or 0.0) if done else 0.0)
        if step == 0 and self._may_stop_early and not self._starts_at_its_reference:
            found = self._score()
            if found.reward_accuracy is not None and found.reward_margin is not None:
                untrained = Judgement(found.reward_accuracy, found.reward_margin)
                self.memory = replace(self.memory, judgement=untrained)
        if step == 0:
            self._sample_untrained()
        if step in self._scored and self.memory.measured_step < step:
            if is_main_process():
                self._folder.keep_samples(step - 1)
            metric = self._measured(done[-1])
            if is_main_process():
                self._folder.keep_metrics(step - 1)
                write_metric(self._folder, replace(metric, seconds=self._seconds))
        if self.memory.judgement.stop or step >= self._spec.steps:
            raise NothingLeft

    @property
    def _starts_at_its_reference(self) -> bool:
        """Whether the untrained model has no accuracy of its own; ORPO has no reference at all."""
        start = self._spec.start
        return self._spec.method == "dpo" and (start is None or start.reference == "start")

    def _sample_untrained(self) -> None:
        """What training starts from, for the eye to compare with."""
        samples = self._sampler.sample(0, stopping=self._alone_and_told)
        # Told to stop meanwhile, they would be cut short.
        if is_main_process() and not self._stop.requested:
            self._folder.keep_samples(-1)
            self._folder.append_samples(samples)

    def step_begins(self) -> None:
        self._step_began, self._step_tokens = time.monotonic(), 0

    def step_ended(self, control: Any) -> None:
        requested, tokens = self._agreed(self._stop.requested, self._step_tokens)
        busy_s = time.monotonic() - self._step_began
        self._step_s, self._step_tokens = busy_s, tokens
        self.memory = replace(
            self.memory, tokens=self.memory.tokens + tokens, busy_s=self.memory.busy_s + busy_s
        )
        if requested:
            control.should_save = control.should_training_stop = True

    def logged(self, step: int, control: Any, logs: dict[str, float]) -> None:
        """Write the step's metric, with its held-out figures and samples where they are due."""
        metric = replace(
            to_metric(step, logs),
            tokens_per_s=round(self._step_tokens / self._step_s, 1) if self._step_s else None,
        )
        if step in self._scored:
            try:
                metric = self._measured(metric)
            except Stopped:
                # The checkpoint knows that this step was not measured: a resumed run does it.
                control.should_save = control.should_training_stop = True
            if self.memory.judgement.stop:
                control.should_save = control.should_training_stop = True
        if is_main_process():
            write_metric(self._folder, replace(metric, seconds=self._seconds))

    def batch_scored(self) -> None:
        """After each batch of held-out pairs: take its figures, or leave off when told to stop."""
        for name in _REWARDS:
            if (value := _newest(self._trainer, name)) is not None:
                self._batches[name].append(value)
        if self._agreed(self._stop.requested, 0)[0]:
            raise Stopped

    def saved(self, checkpoint: Path) -> None:
        """Complete the checkpoint that the trainer has written."""
        # Every process writes its own random state.
        self._trainer.accelerator.wait_for_everyone()
        if is_main_process():
            self.memory = replace(self.memory, peak_bytes=self.peak_bytes)
            (checkpoint / MEMORY).write_text(json.dumps(asdict(self.memory)), encoding="utf-8")
            attach_best(checkpoint, self._folder)
            seal(checkpoint)

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 3)

    @property
    def peak_bytes(self) -> int:
        """The most memory that the run has held so far: the GPU's where there is one."""
        import torch

        on_gpu = torch.cuda.is_available()
        used = int(torch.cuda.max_memory_allocated()) if on_gpu else peak_resident_bytes()
        return max(used, self.memory.peak_bytes)

    def _measured(self, metric: Metric) -> Metric:
        """`metric` with the figures and samples of its step; Stopped leaves all as it was."""
        step, sampled = metric.step, metric.step in self._sampled
        if step == self._spec.steps:
            enter(self._folder, RunState.EVALUATING)
        found = self._score() if self._held_out else None
        samples = self._sampler.sample(step, stopping=self._alone_and_told) if sampled else []
        if self._agreed(self._stop.requested, 0)[0]:
            raise Stopped
        if found is not None:
            metric = replace(
                metric,
                # JSON has no word for a number that is not finite.
                eval_loss=found.loss if math.isfinite(found.loss) else None,
                eval_reward_accuracy=found.reward_accuracy,
                eval_reward_margin=found.reward_margin,
            )
        if samples:
            mean = sum(s.tokens for s in samples) / len(samples)
            metric = replace(metric, sample_tokens=round(mean, 2))
        self.memory = replace(self.memory, measured_step=step)
        if found is not None and self._may_stop_early:
            self._take(found, step)
        if is_main_process():
            self._folder.append_samples(samples)
        return metric

    def _take(self, found: HeldOut, step: int) -> None:
        steps, pairs = self._spec.steps, self._held_out
        judgement = judge(self.memory.judgement, found, step=step, steps=steps, pairs=pairs)
        self.memory = replace(self.memory, judgement=judgement)
        if is_main_process() and judgement.best_step == step < steps:
            keep_best(self._trainer.model, self._folder)

    def _score(self) -> HeldOut:
        """Score every held-out pair once; means over pairs, where TRL's are over batches."""
        self._batches.clear()
        with undisturbed(self._trainer.model):
            found = self._trainer.evaluate()
        at_once = self._trainer.args.eval_batch_size * self._trainer.accelerator.num_processes
        starts = range(0, self._held_out, at_once)
        sizes = [min(at_once, self._held_out - start) for start in starts]
        means = {
            name: sum(n * v for n, v in zip(sizes, values, strict=True)) / self._held_out
            for name, values in self._batches.items()
        }
        accuracy, margin = (means.get(name) for name in _REWARDS)
        return HeldOut(float(found["eval_loss"]), accuracy, margin)

    def _agreed(self, requested: bool, tokens: Any) -> tuple[bool, int]:
        """Over all processes: whether any was told to stop, and the sum of `tokens`.

        Every process calls this at the same places, so that none waits for one that left.
        """
        import torch

        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return requested, int(tokens)
        both = torch.tensor([int(requested), int(tokens)], device=accelerator.device)
        told, total = accelerator.reduce(both, "sum").tolist()
        return told > 0, total

    def _alone_and_told(self) -> bool:
        # Of several processes each goes on to where they agree.
        return self._stop.requested and self._trainer.accelerator.num_processes == 1

    def _count_tokens(self, model: Any, _inputs: Any, named: dict[str, Any]) -> None:
        """Before each forward pass: its tokens count where they are trained on, padding left out.

        Passes without a gradient, a reference's or held-out pairs', are no steps.
        """
        import torch

        mask = named.get("attention_mask")
        if mask is not None and model.training and torch.is_grad_enabled():
            self._step_tokens = self._step_tokens + mask.sum()


def watch_callback(watch: Watch) -> Any:
    """`watch` as a callback of a transformers trainer."""
    from transformers import TrainerCallback

    class WatchCallback(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            watch.begin(state.global_step)

        def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
            watch.step_begins()

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
            watch.step_ended(control)

        def on_log(self, _args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            # An evaluation and the end of training log too.
            if logs and "loss" in logs:
                watch.logged(state.global_step, control, logs)

        def on_prediction_step(self, *_: Any, **__: Any) -> None:
            watch.batch_scored()

        def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
            watch.saved(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    return WatchCallback()


def _newest(trainer: Any, name: str) -> float | None:
    """TRL's metric `name` of the batch just scored; its trainers keep them under two names."""
    for store in ("_metrics", "_stored_metrics"):
        kept = getattr(trainer, store, {}).get("eval", {})
        if values := kept.get(name) or kept.get(f"eval_{name}"):
            return float(values[-1])
    return None
