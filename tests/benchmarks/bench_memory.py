"""The peak memory of training beside what alignment.runs.memory says of it, a process a case.

`python -m tests.benchmarks.bench_memory` prints the table that tests/test_memory.py quotes. Each
case builds what the training child builds and takes three steps on pairs of random tokens: the
first has the optimizer's states to make, the others have them. VmHWM is the kernel's word for it.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignment.runs.memory import Hardware, PairSize, has_bf16, load_shape, memory_bytes
from alignment.runs.recipes import Method, Recipe, TrainingSpec, Tuning
from tests.preferences import TINY
from tests.running_app import ROOT

STEPS = 3
QUIET = {"TRL_EXPERIMENTAL_SILENCE": "1", "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore",
         "OMP_WAIT_POLICY": "PASSIVE"}  # fmt: skip
"""The last as the app's own children have it: no core spins while others need it."""
SHAPES = {
    "starter": {"hidden_size": 144, "num_hidden_layers": 3, "num_attention_heads": 3,
                "num_key_value_heads": 1, "intermediate_size": 384, "vocab_size": 768},
    "135M": {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
             "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152},
    "wide": {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16,
             "num_key_value_heads": 8, "intermediate_size": 3072, "vocab_size": 32000},
    "wordy": {"hidden_size": 320, "num_hidden_layers": 8, "num_attention_heads": 5,
              "num_key_value_heads": 1, "intermediate_size": 896, "vocab_size": 151936},
}  # fmt: skip
"""The starter, SmolLM2-135M, few wide layers, and a vocabulary as large as Qwen's."""


@dataclass(frozen=True, slots=True)
class Case:
    """`batch` pairs at once; the first of each batch has `lengths`, the others a little less."""

    shape: str
    method: Method
    batch: int
    lengths: tuple[int, int, int]
    checkpointing: bool = False
    tuning: Tuning = "lora"
    stock: bool = False
    """A model whose pairs don't share their prompt: TRL's own forward."""

    def spec(self, base: Path) -> TrainingSpec:
        recipe = Recipe(
            learning_rate=1e-4, beta=0.1, tuning=self.tuning, batch_size=self.batch,
            micro_batch=self.batch, gradient_checkpointing=self.checkpointing,
        )  # fmt: skip
        return TrainingSpec(
            method=self.method, recipe=recipe, steps=STEPS, checkpoint_steps=1000, seed=0,
            base=TINY, base_path=base, dataset_sha256="0" * 64, examples=2 * self.batch,
            code_revision=None, versions=(),
        )  # fmt: skip

    def said_bytes(self, base: Path) -> int:
        shape = load_shape(base)
        return memory_bytes(
            self.spec(base),
            replace(shape, one_row=shape.one_row and not self.stock),
            [PairSize(*self.lengths)] * self.batch,
            Hardware(on_gpu=False, bf16=has_bf16()),
            checkpointing=self.checkpointing,
        )


CASES = (
    Case("starter", "dpo", 8, (60, 60, 60)),
    Case("starter", "dpo", 8, (300, 300, 300)),
    Case("starter", "dpo", 8, (300, 300, 300), checkpointing=True),
    Case("starter", "orpo", 8, (300, 300, 300)),
    Case("starter", "sft", 8, (300, 300, 300)),
    Case("starter", "dpo", 8, (300, 300, 300), tuning="full"),
    Case("starter", "dpo", 8, (300, 300, 300), stock=True),
    Case("starter", "orpo", 8, (300, 300, 300), stock=True),
    Case("135M", "dpo", 1, (40, 30, 30)),
    Case("135M", "dpo", 2, (128, 128, 128)),
    Case("135M", "dpo", 2, (128, 128, 128), checkpointing=True),
    Case("135M", "orpo", 2, (128, 128, 128)),
    Case("135M", "orpo", 2, (128, 128, 128), checkpointing=True),
    Case("135M", "sft", 2, (128, 128, 128)),
    Case("135M", "dpo", 1, (128, 128, 128), tuning="full"),
    Case("135M", "dpo", 2, (64, 500, 500)),
    Case("135M", "dpo", 2, (64, 500, 500), checkpointing=True),
    Case("wide", "dpo", 2, (256, 256, 256)),
    Case("wide", "dpo", 2, (256, 256, 256), checkpointing=True),
    Case("wordy", "dpo", 2, (128, 256, 256)),
    Case("wordy", "orpo", 2, (128, 256, 256), stock=True),
    Case("wordy", "sft", 2, (128, 256, 256)),
)


def measure(case: Case, base: Path) -> int:
    """Bytes that a process of its own has held at most by the end of the case."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.bench_memory", folder, str(base)]
        done = subprocess.run(
            [*command, json.dumps(asdict(case))],
            cwd=ROOT, env=os.environ | QUIET, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{case} ended with {done.returncode}: {done.stderr[-400:]}")
    return int(done.stdout.split()[-1])


def make_base(name: str, folder: Path) -> Path:
    """Random weights of that shape, with the tiny model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import make_tiny_model

    make_tiny_model(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPES[name], tie_word_embeddings=True, max_position_embeddings=2048, pad_token_id=0,
        bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        # A pad row of zeros makes gradients overflow at depth.
        model.model.embed_tokens.weight[0].normal_(std=0.02)
    model.save_pretrained(folder)
    return folder


def table() -> Iterator[str]:
    yield "| model | run | pairs × tokens | measured, GB | said, GB | said / measured |"
    yield "|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as name:
        bases: dict[str, Path] = {}
        for case in CASES:
            if case.shape not in bases:
                bases[case.shape] = make_base(case.shape, Path(name) / case.shape)
            base = bases[case.shape]
            peak, said = measure(case, base) / 1e9, case.said_bytes(base) / 1e9
            more = [case.tuning if case.tuning == "full" else "", "TRL's forward" * case.stock,
                    "checkpointing" * case.checkpointing]  # fmt: skip
            run = ", ".join([case.method, *filter(None, more)])
            lengths = "/".join(map(str, case.lengths))
            yield (
                f"| {case.shape} | {run} | {case.batch} × {lengths} | {peak:.2f} | {said:.2f} | "
                f"{said / peak:.2f} |"
            )


# In the case's own process


def _hold(case: Case, base: Path, folder: Path) -> None:
    import random

    import transformers

    from alignment.runs.run_store import RunFolder
    from alignment.training import trainers
    from alignment.training.forward import shared_prompt
    from alignment.training.rows.data import TokenizedPair
    from alignment.training.watch.peak import peak_resident_bytes

    transformers.utils.logging.set_verbosity_error()
    draw = random.Random(0)

    def pair(shorter: int) -> TokenizedPair:
        prompt, *answers = case.lengths
        sizes = (prompt, *(n - shorter for n in answers))
        return TokenizedPair(*([draw.randint(3, 250) for _ in range(n)] for n in sizes))

    rows = [pair(0 if n % case.batch == 0 else 7) for n in range(2 * case.batch)]
    changes: Any = trainers
    changes.load_rows = lambda *_: (rows, [])
    changes.wants_checkpointing = lambda *_: case.checkpointing
    if case.stock:
        shared_prompt._attends_plainly = lambda _model: False
    run = RunFolder(folder)
    run.checkpoints.mkdir()
    trainers.build_trainer(run, case.spec(base))[0].train()
    print(peak_resident_bytes())


def main(arguments: list[str]) -> None:
    if arguments:
        folder, base, words = arguments
        told = json.loads(words)
        case = Case(**told | {"lengths": tuple(told["lengths"])})
        _hold(case, Path(base), Path(folder))
        return
    for line in table():
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
