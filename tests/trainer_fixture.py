"""A trainer on a tiny model and a real export, for every test of what training computes."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignment.runs.recipes import Method, Recipe, Reference, Start, TrainingSpec
from alignment.runs.run_store import RunFolder
from alignment.training.trainers import build_trainer
from annotation.export.export import Export, copy_export
from tests.preferences import TINY, export_of
from tests.tiny import make_tiny_model

EXAMPLES, STEPS = 24, 5
MakeTrainer = Callable[..., Any]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums are taken in one order in every run of a file's tests, also in a child of theirs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("votes"), EXAMPLES)


@pytest.fixture
def make_trainer(
    tiny_folder: Path, tiny_export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeTrainer:
    made = itertools.count()
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # as the training child has it

    def make(
        method: Method,
        steps: int = STEPS,
        *,
        export: Export = tiny_export,
        base_path: Path = tiny_folder,
        flip_rate: float | None = None,
        start: tuple[Path, Reference] | None = None,
        **recipe: Any,
    ) -> Any:
        folder = RunFolder(tmp_path / f"run-{next(made)}")
        copy_export(export, folder.dataset)
        folder.checkpoints.mkdir()
        spec = spec_of(method, base_path, export, steps=steps, flip_rate=flip_rate, **recipe)
        if start is not None:
            shutil.copytree(start[0], folder.start)
            model = replace(TINY, adapter="parent", adapter_revision="a" * 40)
            spec = replace(spec, start=Start("parent", model, start[1]))
        return build_trainer(folder, spec)[0]

    return make


def spec_of(
    method: Method,
    base_path: Path,
    export: Export,
    *,
    steps: int = STEPS,
    flip_rate: float | None = None,
    **recipe: Any,
) -> TrainingSpec:
    return TrainingSpec(
        method=method,
        recipe=replace(Recipe(learning_rate=1e-3, beta=0.1), **recipe),
        steps=steps,
        checkpoint_steps=100,
        seed=0,
        base=TINY,
        base_path=base_path,
        dataset_sha256=export.sha256,
        examples=export.examples,
        code_revision=None,
        versions=(),
        flip_rate=flip_rate,
    )


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def rows_of(trainer: Any) -> list[dict[str, list[int]]]:
    """Prompt, chosen and rejected ids as the trainer's own dataset has them."""
    return [
        {side: row[f"{side}_ids"] for side in ("prompt", "chosen", "rejected")}
        for row in trainer.train_dataset
    ]


def batch_of(trainer: Any, count: int = 4) -> Any:
    """The first `count` pairs, on the trainer's device."""
    rows = [trainer.train_dataset[n] for n in range(count)]
    return trainer._prepare_inputs(trainer.data_collator(rows))


def shake(trainer: Any) -> None:
    """Move what is trained off its start, where an adapter changes nothing."""
    import torch

    generator = torch.Generator().manual_seed(1)
    is_lora = any("lora_B" in name for name, _ in trainer.model.named_parameters())

    def drawn(like: Any) -> Any:
        # On the processor, wherever the model is: the same move on every machine.
        return torch.randn(like.shape, generator=generator).to(like.device)

    for name, parameter in trainer.model.named_parameters():
        if is_lora and "lora_B" in name:
            parameter.data = drawn(parameter) * 0.05
        elif not is_lora:
            parameter.data += drawn(parameter) * 0.01


def token_logps(model: Any, prompt: list[int], completion: list[int]) -> Any:
    """log p of each completion token, one row at a time: no padding, no trainer."""
    import torch

    ids = torch.tensor([prompt + completion], device=next(model.parameters()).device)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float().cpu()
    logps = torch.log_softmax(logits, dim=-1)
    start = len(prompt)
    return torch.stack([logps[start - 1 + n, token] for n, token in enumerate(completion)])
