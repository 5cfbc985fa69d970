"""The sift before a run on flipped votes: a first pass, and the pairs that it ranks against them.

Owns which pairs are left out, and the file by which a resumed run leaves out the same. A pass too
short to learn votes by heart learns what most of them have in common, so that the pairs which it
still ranks the other way round are mostly the flipped ones. Knows the trainer that it is handed.
"""

import dataclasses
import gc
import json
from collections.abc import Callable, Sequence
from typing import Any

from alignment.runs.recipes import TrainingSpec, sift_steps
from alignment.runs.run_store import RunFolder
from alignment.training.forward.losses import IGNORED
from alignment.training.rows.data import TokenizedPair
from alignment.training.watch.progress import is_main_process, to_metric
from annotation.whole_files import write_whole

SIFTED = "sifted.json"
SIDES = ("chosen", "rejected")


def sift(
    folder: RunFolder,
    spec: TrainingSpec,
    rows: Sequence[TokenizedPair],
    build: Callable[[TrainingSpec], Any],
) -> list[TokenizedPair]:
    """Those of `rows` that the run proper trains on, in their order; all where `spec` has no sift.

    `build` makes a trainer on all of `rows`, by the spec of the first pass. What that pass said is
    kept in the folder: a run that goes on trains on the same pairs, whatever it would say now.
    """
    if not sift_steps(spec):
        return list(rows)
    out = left_out(folder)
    if out is None:
        out = _rank(spec, build)
        if is_main_process():
            _remember(folder, out)
    print(f"{len(out)} of {len(rows)} pairs are left out: a first pass ranks them the other way")  # noqa: T201
    gone = set(out)
    return [row for n, row in enumerate(rows) if n not in gone]


def first_pass(spec: TrainingSpec) -> TrainingSpec:
    """The spec of the pass that ranks: plain DPO with the same rate, for `sift_steps` steps.

    Without the length guards: what is asked of it is a ranking, and no model of it is kept.
    """
    recipe = dataclasses.replace(
        spec.recipe, loss="sigmoid", sift=False, length_penalty=0.0, ld_alpha=None
    )
    return dataclasses.replace(spec, recipe=recipe, steps=sift_steps(spec), flip_rate=None)


def against_their_votes(margins: Sequence[float], flip_rate: float) -> list[int]:
    """Which pairs of these reward margins to leave out, ascending: the lowest of those below 0.

    At most `flip_rate` of all, so that a taste of few voters outlives a sift of few flips.
    """
    most = round(flip_rate * len(margins))
    lowest = sorted(range(len(margins)), key=lambda n: margins[n])[:most]
    return sorted(n for n in lowest if margins[n] < 0)


def reward_margins(trainer: Any) -> list[float]:
    """log π/π_ref of the chosen answer minus that of the rejected one, a training pair each."""
    import torch

    model, rows = trainer.model.eval(), trainer.train_dataset
    at_once = trainer.args.per_device_eval_batch_size
    margins: list[float] = []
    for start in range(0, len(rows), at_once):
        some = [rows[n] for n in range(start, min(start + at_once, len(rows)))]
        batch = trainer._prepare_inputs(trainer.data_collator(some))
        with torch.no_grad(), trainer.compute_loss_context_manager():
            references = [batch.get(f"ref_{side}_logps") for side in SIDES]
            if references[0] is None:
                references = trainer.compute_ref_log_probs(model, batch)
            outputs = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED),
                use_cache=False,
                fused_lm_head=True,
            )
        chosen, rejected = outputs.log_probs.float().sum(-1).chunk(2)
        margins += (chosen - rejected - references[0] + references[1]).tolist()
    return margins


def _rank(spec: TrainingSpec, build: Callable[[TrainingSpec], Any]) -> list[int]:
    """Take the first pass; every process of a run gets the main one's answer."""
    from accelerate.utils import broadcast_object_list

    trainer = build(first_pass(spec))
    trainer.add_callback(_finite_callback())
    trainer.train()
    answer = [against_their_votes(reward_margins(trainer), spec.flip_rate or 0.0)]
    broadcast_object_list(answer)
    # Trainer and model hold each other: without this both would stay beside those of the run.
    del trainer
    gc.collect()
    return answer[0]


def _finite_callback() -> Any:
    from transformers import TrainerCallback

    class FiniteCallback(TrainerCallback):  # type: ignore[misc]
        def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                to_metric(state.global_step, logs)

    return FiniteCallback()


def _remember(folder: RunFolder, out: Sequence[int]) -> None:
    write_whole(folder.checkpoints / SIFTED, json.dumps(out) + "\n")


def left_out(folder: RunFolder) -> list[int] | None:
    """Which pairs the run's sift has left out; None where there was none yet."""
    try:
        out: list[int] = json.loads((folder.checkpoints / SIFTED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return out
