"""A step of DPO and ORPO with LoRA on SmolLM2-135M's shape: a run's trainer against stock TRL.

`python -m tests.benchmarks.peers training`. Ours is what the training child builds
(alignment.training.trainers), the peer TRL's own trainer as it comes on a processor: bf16,
checkpointing, the reference asked at every step. Both are fed the same tokens in the same order by
the same seed, two pairs a step, each side in a process of its own on one thread, and take turns
step by step. Fixed seeds: weights 0, texts 0, trainers 0.
"""

import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.machine import measure_machine
from tests.benchmarks.peers.table import Goal, Row
from tests.running_app import ROOT

PAIRS, BATCH, EPOCHS = 8, 2, 3
WARM_UP, ROUNDS = 1, PAIRS // BATCH
"""After one step to warm up, as many as take every pair once."""
LENGTHS = (64, 256)
SMALL_STEPS, SMALL_TOLERANCE = 20, 1e-3
BF16_TOLERANCE = 0.02
"""Absolute, on losses about .7 and 11: stock bf16 is itself as far from fp32."""
ALONE = {"OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TQDM_DISABLE": "1",
         "PYTHONWARNINGS": "ignore"}  # fmt: skip
WHEN = datetime(2026, 11, 28, tzinfo=UTC)
SHAPES = {
    "135M": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152},
    "small": {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3,
              "num_key_value_heads": 1, "intermediate_size": 256, "vocab_size": 512},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """What a pair needs: tokens of a row that shares the prompt, and those that the loss reads."""

    row_tokens: float
    read_tokens: float

    def flops(self) -> float:
        """Of the frozen weights, forward and back; LoRA's and attention's are left out."""
        shape = SHAPES["135M"]
        hidden, wide = shape["hidden_size"], shape["intermediate_size"]
        heads = hidden + 2 * hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
        layer = hidden * (heads + hidden + 3 * wide)
        body, head = layer * shape["num_hidden_layers"], hidden * shape["vocab_size"]
        return 4 * (self.row_tokens * body + self.read_tokens * head)


def rows() -> Iterator[Row]:
    """The five rows of issue 7, each when it is there."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        _prepare(place)
        for method in ("dpo", "orpo"):
            checked = _compare_small(place, method)
            yield from _compare(place, method, checked)


def _compare(place: Path, method: str, checked: str) -> Iterator[Row]:
    against = f"stock TRL {method.upper()}Trainer"
    with Side(place, method, "ours") as ours, Side(place, method, "stock") as stock:
        for side in (ours, stock):
            side.begin()
        for _ in range(WARM_UP + ROUNDS):
            for side in (ours, stock):
                side.step()
        work = Work(**ours.told["work"])
        checked += f", and in bf16 at 135M over {len(ours.losses)} steps within "
        checked += f"{_near(ours.losses, stock.losses, BF16_TOLERANCE, relative=False):.2g}"
    memory = f"peak {ours.peak_gb:.2f} GB against {stock.peak_gb:.2f}, ours not checkpointing"
    measured = [[BATCH / cpu for cpu in side.cpu[WARM_UP:]] for side in (ours, stock)]
    share = work.flops() * statistics.median(measured[0]) / measure_machine().bf16_gflops / 1e9
    notes = f"{memory}; {share:.0%} of the bf16 peak; next: attention's backward"
    what = f"{method.upper()} step, LoRA, 135M, prompts and completions {LENGTHS[0]}–{LENGTHS[1]}"
    unit, more = "pairs a CPU-s", "more is better"
    if method == "dpo":
        reference = ours.told["reference_cpu"] / PAIRS / EPOCHS
        inside = [1 / (1 / rate + reference) for rate in measured[0]]
        charged = f"{reference:.2f} CPU-s a pair of each of {EPOCHS} epochs is its reference's"
        yield Row(f"{what}, reference inside", against, unit, inside, measured[1], more,
                  Goal("at least", 2.5), checked, f"{charged}; {notes}")  # fmt: skip
        yield Row(f"{what}, reference at hand", against, unit, *measured, more,
                  Goal("at least", 3.3), checked, notes)  # fmt: skip
    else:
        yield Row(what, against, unit, *measured, more, Goal("at least", 2.5), checked, notes)
    with Side(place, method, "ours", checkpointing=True) as small:
        small.begin()
        for _ in range(WARM_UP + 1):
            small.step()
        _near(small.losses, ours.losses[: WARM_UP + 1], BF16_TOLERANCE, relative=False)
    slower = small.cpu[-1] / ours.cpu[WARM_UP]
    yield Row(
        f"{method.upper()} step, peak memory, both checkpointing", against, "GB",
        [small.peak_gb], [stock.peak_gb], "less is better", Goal("at most", 0.7),
        "losses as above",
        f"VmHWM less what the process held before any weights; ours then takes {slower:.2f}× the "
        "CPU of its step without",
    )  # fmt: skip


def _compare_small(place: Path, method: str) -> str:
    """What the losses of 20 steps in fp32 on a small Llama were compared to."""
    found = []
    for name in ("ours", "stock"):
        with Side(place, method, name, shape="small") as side:
            side.begin()
            for _ in range(SMALL_STEPS):
                side.step()
        found.append(side.losses)
    apart = _near(*found, SMALL_TOLERANCE, relative=True)
    also = "" if method == "dpo" else ", the NLL of both on the answers alone"
    return f"losses of {SMALL_STEPS} steps in fp32 on a small Llama equal within {apart:.1g}{also}"


def _near(ours: Sequence[float], stock: Sequence[float], most: float, *, relative: bool) -> float:
    """The largest distance between losses of the same step; ValueError past `most`."""
    pairs = list(zip(ours, stock, strict=True))
    apart = max(abs(a - b) / (abs(b) if relative else 1) for a, b in pairs)
    if not pairs or math.isnan(apart) or apart > most:
        raise ValueError(f"losses are {apart:.3g} apart, past {most:g}: {ours} against {stock}")
    return apart


class Side:
    """A process that holds one trainer and takes a step whenever it is told to."""

    def __init__(
        self,
        place: Path,
        method: str,
        name: str,
        *,
        shape: str = "135M",
        checkpointing: bool = False,
    ) -> None:
        words = [str(place), method, name, shape, str(int(checkpointing))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.peers.training", *words],
            cwd=ROOT,
            env=os.environ | ALONE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cpu: list[float] = []
        self.losses: list[float] = []
        self.peak_gb = math.nan
        self.told: dict[str, Any] = {}

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def begin(self) -> None:
        """Wait until the trainer stands."""
        self.told = self._answer()

    def step(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        found = self._answer()
        self.cpu.append(found["cpu"])
        self.losses.append(found["loss"])
        self.peak_gb = found["peak_gb"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("told "):
                answer: dict[str, Any] = json.loads(line.removeprefix("told "))
                return answer
        raise RuntimeError(f"the side ended with {self._process.wait()}")


# In the parent, before any side


def _prepare(place: Path) -> None:
    from tests.tiny import make_tiny_model

    for name, shape in SHAPES.items():
        base = make_tiny_model(place / name)
        _random_llama(shape).save_pretrained(base)
    _export(place)


def _random_llama(shape: dict[str, int]) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **shape, tie_word_embeddings=True, max_position_embeddings=1024, pad_token_id=0,
        bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        # A pad row of zeros makes gradients overflow at this depth.
        model.model.embed_tokens.weight[0].normal_(std=0.02)
    return model


def _export(place: Path) -> None:
    from annotation.export.export import export_preferences
    from annotation.journal.journal import Journal
    from annotation.schema import Choice, Completion, Pair, Prompt, Sampling, Split, Vote
    from tests.preferences import TINY

    draw = random.Random(0)

    def text() -> str:
        # A token a letter; the template adds some twenty more to a prompt.
        return "".join(draw.choices("abcdefghij", k=draw.randint(*LENGTHS)))

    every = (Prompt.from_text(text()) for _ in range(100 * PAIRS))
    prompts = [prompt for prompt in every if prompt.split is Split.TRAIN][:PAIRS]
    journal = Journal(place / "journal.sqlite3")
    for n, prompt in enumerate(prompts):
        sides = (Completion(text(), TINY, Sampling()), Completion(text(), TINY, Sampling()))
        journal.add_pairs([Pair(f"pair-{n}", prompt, sides, WHEN)]).result(10)
        vote = Vote(f"vote-{n}", f"pair-{n}", "anon-1", Choice.A, False, WHEN)
        journal.add_vote(vote).result(10)
    export_preferences(journal, place / "export")
    journal.close()


# In a side's own process


def _side(place: Path, method: str, name: str, shape: str, checkpointing: bool) -> None:
    import datasets
    import torch
    import trl.experimental.orpo
    from trl import DPOTrainer

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    DPOTrainer, trl.experimental.orpo  # noqa: B018 -- loaded before memory is read
    held, meter = _status("VmRSS"), _Meter()
    DPOTrainer._precompute_ref_logps = meter.timed(DPOTrainer._precompute_ref_logps)
    made = _ours if name == "ours" else _stock
    trainer = made(place, method, shape, checkpointing)
    trainer.add_callback(_turns(meter, held))
    row, read = _tokens(trainer)
    work = {"row_tokens": row / PAIRS, "read_tokens": read / PAIRS}
    _tell({"reference_cpu": meter.spent, "work": work})
    trainer.train()


def _ours(place: Path, method: str, shape: str, checkpointing: bool) -> Any:
    from alignment.training.trainers import build_trainer

    folder, spec = _run(place, method, shape, checkpointing)
    trainer, held_out = build_trainer(folder, spec)
    if held_out or trainer.args.gradient_checkpointing is not checkpointing:
        raise ValueError("the run is not what this comparison is about")
    return trainer


def _run(place: Path, method: str, shape: str, checkpointing: bool) -> tuple[Any, Any]:
    """A run's folder and spec, as `plan_run` makes one, without its home."""
    from alignment.runs.recipes import Recipe, TrainingSpec
    from alignment.runs.run_store import RunFolder
    from annotation.export.export import copy_export, load_export
    from tests.preferences import TINY

    folder = RunFolder(Path(tempfile.mkdtemp(dir=place)) / "run")
    export = load_export(place / "export")
    copy_export(export, folder.dataset)
    folder.checkpoints.mkdir()
    recipe = Recipe(
        learning_rate=1e-4 if shape == "135M" else 1e-3, beta=0.1, batch_size=BATCH,
        micro_batch=BATCH, gradient_checkpointing=checkpointing,
    )  # fmt: skip
    steps = EPOCHS * PAIRS // BATCH if shape == "135M" else SMALL_STEPS
    spec = TrainingSpec(
        method=method, recipe=recipe, steps=steps, checkpoint_steps=1000, seed=0, base=TINY,
        base_path=place / shape, dataset_sha256=export.sha256, examples=PAIRS, code_revision=None,
        versions=(),
    )  # type: ignore[arg-type]  # fmt: skip
    return folder, spec


def _stock(place: Path, method: str, shape: str, _checkpointing: bool) -> Any:
    """TRL's trainer with its defaults, the run's tokens, rate, β and LoRA."""
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from alignment.training.forward.losses import completion_nll
    from alignment.training.methods.orpo import orpo_row
    from alignment.training.rows.rows import load_rows, to_dataset
    from alignment.training.weights.warm_start import starting_point

    class StockDpo(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # in tokens already

    class StockOrpo(ORPOTrainer):  # type: ignore[misc]
        tokenize_row = staticmethod(orpo_row)

        def concatenated_forward(self, model: Any, batch: Any) -> tuple[Any, ...]:
            # The NLL that ours takes; one product of two numbers a pair.
            logps, *rest = super().concatenated_forward(model, batch)
            return (logps, *rest[:3], completion_nll(logps, batch["chosen_labels"]), *rest[4:])

    folder, spec = _run(place, method, shape, checkpointing=False)
    tokenizer = AutoTokenizer.from_pretrained(spec.base_path)
    train_rows, _ = load_rows(folder, spec, tokenizer)
    kind, config = (StockDpo, DPOConfig) if method == "dpo" else (StockOrpo, ORPOConfig)
    more = {} if method == "dpo" else {"remove_unused_columns": False}
    if shape == "small":
        more["bf16"] = False
    arguments = config(
        output_dir=str(folder.checkpoints), max_steps=spec.steps, beta=spec.recipe.beta,
        learning_rate=spec.recipe.learning_rate, per_device_train_batch_size=BATCH,
        seed=spec.seed, logging_steps=1, report_to="none", save_strategy="no", use_cpu=True,
        disable_tqdm=True, dataloader_pin_memory=False, **more,
    )  # fmt: skip
    if not arguments.gradient_checkpointing or arguments.bf16 is (shape == "small"):
        raise ValueError("TRL's defaults are not what they were: bf16 and checkpointing")
    return kind(
        args=arguments, train_dataset=to_dataset(train_rows, folder.checkpoints / "rows"),
        processing_class=tokenizer, **starting_point(folder, spec),
    )  # fmt: skip


def _tokens(trainer: Any) -> tuple[int, int]:
    """Tokens that the pairs need in all: in rows that share the prompt, and read by the loss."""
    lengths = [
        [len(row[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")]
        for row in trainer.train_dataset
    ]
    return sum(map(sum, lengths)), sum(chosen + rejected for _, chosen, rejected in lengths)


class _Meter:
    """CPU seconds of a function that is called now and then."""

    def __init__(self) -> None:
        self.spent = 0.0

    def timed(self, work: Any) -> Any:
        from time import process_time

        def watched(*arguments: Any) -> Any:
            began = process_time()
            found = work(*arguments)
            self.spent += process_time() - began
            return found

        return watched


def _turns(meter: _Meter, held: float) -> Any:
    """Each step waits for its turn; from turn to turn all counts, logging included."""
    from time import process_time

    from transformers import TrainerCallback

    class Turns(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not sys.stdin.readline():
                sys.exit(0)
            self.began = self.began or process_time()

        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if not logs or "loss" not in logs:
                return
            now = process_time()
            peak_gb = (_status("VmHWM") - held) * 1024 / 1e9
            _tell({"cpu": now - self.began, "loss": float(logs["loss"]), "peak_gb": peak_gb})
            self.began = now

    return Turns()


def _status(name: str) -> float:
    """A figure of this process in KiB, as the kernel has it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return float(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def _tell(answer: dict[str, Any]) -> None:
    print(f"told {json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    where, what, who, which, again = sys.argv[1:]
    _side(Path(where), what, who, which, again == "1")
