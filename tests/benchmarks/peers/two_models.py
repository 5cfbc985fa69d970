"""Base and aligned answers to one prompt: one call on a shared base, or two whole models.

`python -m tests.benchmarks.peers two_models`, under two minutes of CPU. Both sides in bf16 on one
thread, temperature 1, 64 new tokens, no end of turn. The peer's aligned model has the same adapter
merged. Seeds: weights 0, adapter 1, draws by round.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator
from alignment.sampling.loaded_model import LoadedModel
from alignment.starter.starter import starter_prompts
from annotation.schema import ModelRef, Sampling
from tests.benchmarks.peers.machine import cpu_seconds, measure_machine
from tests.benchmarks.peers.sampling import REF, make_135m, stock, stock_answers
from tests.benchmarks.peers.table import Goal, Row

ROUNDS = 5
NEW_TOKENS = 64
CHECKED_TOKENS = 16
ALIGNED = ModelRef(REF.base, REF.base_revision, "aligned", "f" * 40)


def rows() -> Iterator[Row]:
    """Time and memory of weights."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        base = make_135m(Path(name) / "base")
        adapter = _make_adapter(base, Path(name) / "adapter")
        same = _tokens_agree(base, adapter)
        generator, loaded = _ours(base, adapter, "bfloat16")
        models = [stock(base, torch.bfloat16), _merged(base, adapter, torch.bfloat16)]
        yield _time_row(generator, loaded, models, same)
        yield _memory_row(loaded, models)


def _make_adapter(base: Path, folder: Path) -> Path:
    """r 16 on every product, as the presets train, random and small."""
    torch.manual_seed(1)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(stock(base, torch.float32), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.02)
    model.save_pretrained(folder)
    return folder


def _merged(base: Path, adapter: Path, dtype: torch.dtype) -> Any:
    return PeftModel.from_pretrained(stock(base, dtype), adapter).merge_and_unload().eval()


def _ours(base: Path, adapter: Path, dtype: Any) -> tuple[LocalGenerator, LoadedModel]:
    resolved = ResolvedBase(REF, base, is_starter=False, notice=None)
    generator = LocalGenerator(resolved, weights_path=lambda _: adapter, device="cpu", dtype=dtype)
    generator.load()
    loaded = generator._loaded
    assert loaded is not None
    loaded.end_ids = frozenset()
    return generator, loaded


def _tokens_agree(base: Path, adapter: Path) -> str:
    """Both texts in fp32, the best tokens, as two whole models give them."""
    greedy = Sampling(temperature=0.0, max_new_tokens=CHECKED_TOKENS)
    generator, loaded = _ours(base, adapter, "float32")
    prompts = starter_prompts()[:2]
    got = generator.sample_each(prompts, models=[REF, ALIGNED], sampling=greedy)
    whole = [stock(base, torch.float32), _merged(base, adapter, torch.float32)]
    for prompt, answers in zip(prompts, got, strict=True):
        ids = loaded.prompt_ids(prompt, greedy)
        for model, answer in zip(whole, answers, strict=True):
            [want] = stock_answers(model, ids, answers=1, tokens=CHECKED_TOKENS, greedy=True)
            if loaded.text(want) != answer.text:
                raise AssertionError(f"{answer.model.label} does not say what a whole model says")
    return f"greedy texts in fp32 equal, {len(prompts)} prompts × 2 × {CHECKED_TOKENS} tokens"


def _time_row(
    generator: LocalGenerator, loaded: LoadedModel, models: list[Any], checked: str
) -> Row:
    prompts = starter_prompts()[:ROUNDS]
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW_TOKENS)

    def answer(turn: int, tokens: int) -> None:
        how = dataclasses.replace(sampling, seed=turn, max_new_tokens=tokens)
        [both] = generator.sample_each([prompts[turn]], models=[REF, ALIGNED], sampling=how)
        if [one.finish for one in both] != ["length", "length"]:
            raise AssertionError("an answer of ours ended early")

    def ask(turn: int, tokens: int) -> None:
        ids = loaded.prompt_ids(prompts[turn], sampling)
        for model in models:
            stock_answers(model, ids, answers=1, tokens=tokens)

    answer(0, 4)
    ask(0, 4)
    ours, peer = [], []
    for turn in range(ROUNDS):
        ours.append(cpu_seconds(lambda turn=turn: answer(turn, NEW_TOKENS)))
        peer.append(cpu_seconds(lambda turn=turn: ask(turn, NEW_TOKENS)))
    read = sum(one.numel() * one.element_size() for one in models[0].parameters()) / 1e9
    share = NEW_TOKENS * read / sorted(ours)[ROUNDS // 2] / measure_machine().memory_gb
    return Row(
        f"base and aligned answers to one prompt, 135M, {NEW_TOKENS} new tokens each",
        "two models loaded, one `generate` each, bf16",
        "CPU-s",
        ours,
        peer,
        "less is better",
        Goal("at most", 0.85),
        checked,
        f"{share:.0%} of the memory read's peak, which bounds two rows: a step reads all weights",
    )


def _memory_row(loaded: LoadedModel, models: list[Any]) -> Row:
    llama = loaded.llama
    assert llama is not None
    held = [*loaded.model.parameters(), *loaded.model.buffers(), llama.head, llama.embedding]
    held += [weight for layer in llama.layers for weight in layer.fused]
    theirs = [one for model in models for one in (*model.parameters(), *model.buffers())]
    return Row(
        "memory of those weights",
        "two models loaded",
        "MB",
        [_megabytes(held)],
        [_megabytes(theirs)],
        "less is better",
        Goal("at most", 0.55),
        "every storage counted once",
        "weights are not packed: that would hold them twice for 4 % of a full batch's time",
    )


def _megabytes(tensors: list[torch.Tensor]) -> float:
    stores = {one.untyped_storage().data_ptr(): one.untyped_storage() for one in tensors}
    return sum(store.nbytes() for store in stores.values()) / 1e6


if __name__ == "__main__":
    for _row in rows():
        print(_row, flush=True)
    sys.exit(0)
