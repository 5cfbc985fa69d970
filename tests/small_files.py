"""Models, adapters and finished runs as files, for tests that read them and load no weights."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from alignment.runs.recipes import Loss, Method, Recipe, TrainingSpec
from alignment.runs.run_store import FinalMetrics, RunFolder, RunState, Status
from annotation.consent import DEFAULT_LICENCE
from annotation.export.export import ExportCounts, sha256_of_votes, write_about
from annotation.export.preferences import Contents
from annotation.quality.votes_meter import VotesMeter
from annotation.schema import ModelRef

AT = datetime(2026, 1, 2, tzinfo=UTC)


def write_model(folder: Path, seed: int = 0, **changes: object) -> Path:
    """A folder that has everything a chat model needs, with a few bytes of weights.

    `changes` go into its config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "seed": seed} | changes))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    save_file({"w": np.full(8, seed, dtype=np.float32)}, folder / "model.safetensors")
    return folder


def write_adapter(folder: Path, base: ModelRef, seed: int = 0, **changes: object) -> Path:
    """A LoRA adapter that names `base`; `changes` go into its config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.base,
        "revision": base.base_revision,
        "r": 1,
        "bias": "none",
        "target_modules": ["q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    weights = {"base_model.model.q_proj.lora_A.weight": np.full((1, 64), seed, dtype=np.float32)}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def write_run(
    home: Path,
    run_id: str,
    base: ModelRef,
    *,
    seed: int = 0,
    state: RunState = RunState.DONE,
    synthetic_votes: int = 0,
    method: Method = "dpo",
    loss: Loss = "sigmoid",
    flip_rate: float | None = None,
    model: Path | None = None,
) -> Path:
    """A run of 30 examples out of 40 votes, as alignment.runs.runs leaves it.

    With `model`, the folder of a whole model, it was tuned in full and left a copy of that.
    """
    folder = RunFolder(home / "runs" / run_id)
    folder.path.mkdir(parents=True)
    (folder.path / "log.txt").write_text("secret things of this machine")
    counts = ExportCounts(
        votes=40,
        voters=3,
        synthetic_votes=synthetic_votes,
        pairs_voted=38,
        examples=30,
        ties=4,
        both_bad=1,
        conflicts=1,
        eval_left_out=2,
    )
    folder.dataset.mkdir()
    (folder.dataset / "train.jsonl").touch()
    no_votes = (sha256_of_votes(()), VotesMeter().measured(), {}, (DEFAULT_LICENCE,))
    write_about(Contents(counts, "d" * 64, *no_votes), folder.dataset)
    folder.write_spec(
        TrainingSpec(
            method=method,
            recipe=Recipe(
                learning_rate=1e-3, beta=0.1, loss=loss, tuning="full" if model else "lora"
            ),
            steps=15,
            checkpoint_steps=5,
            seed=7,
            base=base,
            base_path=home / "base",
            dataset_sha256="d" * 64,
            examples=30,
            code_revision="c" * 40,
            versions=(("torch", "2.13.0"), ("trl", "1.16.0")),
            flip_rate=flip_rate,
        )
    )
    final = FinalMetrics(loss=0.25, reward_accuracy=0.75, reward_margin=0.5, seconds=9.0)
    done = state is RunState.DONE
    folder.write_status(Status(state, AT, AT, AT if done else None, final=final if done else None))
    if done and model:
        shutil.copytree(model, folder.model)
    elif done:
        write_adapter(folder.adapter, base, seed)
    return folder.path
