"""The rows that a trainer is fed: a run's examples in tokens, and as a dataset of the library.

Owns how several processes share them. Loads no weights; heavy imports happen inside functions.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.chat import end_of_turn_ids
from alignment.runs.memory import load_shape
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunFolder
from alignment.training.forward.losses import IGNORED
from alignment.training.rows.data import TokenizedPair, split_held_out, tokenize_examples
from alignment.training.watch.progress import TrainingError
from annotation.export.export import load_examples


def load_rows(
    folder: RunFolder, spec: TrainingSpec, tokenizer: Any
) -> tuple[list[TokenizedPair], list[TokenizedPair]]:
    """What is trained on and what is held out, in tokens.

    Raises TrainingError where no pair fits that could be trained on.
    """
    train, held_out = split_held_out(load_examples(folder.dataset))
    window = load_shape(spec.base_path).window
    max_length = min(spec.recipe.max_length, window)
    ends = end_of_turn_ids(tokenizer, spec.base_path)
    train_rows, eval_rows = (
        tokenize_examples(tokenizer, examples, end_ids=ends, max_length=max_length)
        for examples in (train, held_out)
    )
    left_out = len(train) - len(train_rows)
    print(f"{len(train_rows)} pairs to train on, {len(eval_rows)} held out, {left_out} too long")  # noqa: T201
    if not train_rows:
        raise TrainingError(
            f"No example fits into {max_length} tokens: use shorter prompts or a base "
            "model with a longer window."
        )
    return train_rows, eval_rows


def to_dataset(rows: Sequence[TokenizedPair], shared: Path) -> Any:
    """`rows` as TRL takes them, read from `shared` where several processes train on them."""
    from accelerate import PartialState
    from datasets import Dataset, load_from_disk

    # ORPO's constructor looks for text columns before it tokenizes; ours are there already.
    empty = {"prompt": "", "chosen": "", "rejected": ""}
    dataset = Dataset.from_list([dataclasses.asdict(row) | empty for row in rows])
    processes = PartialState()
    if processes.num_processes == 1:
        return dataset
    # TRL keeps reference log-probs beside the rows: a place that every process must share.
    if processes.is_main_process:
        shutil.rmtree(shared, ignore_errors=True)
        dataset.save_to_disk(str(shared))
    processes.wait_for_everyone()
    return load_from_disk(str(shared))


def labelled(row: Mapping[str, Any], side: str) -> dict[str, list[int]]:
    """A tokenized pair's `side` as a model takes it, labelled on the completion alone."""
    prompt_ids, ids = row["prompt_ids"], row[f"{side}_ids"]
    return {
        "input_ids": prompt_ids + ids,
        "attention_mask": [1] * (len(prompt_ids) + len(ids)),
        "labels": [IGNORED] * len(prompt_ids) + ids,
    }
