"""What the model in training answers to a few fixed prompts, so that a person can read along.

Owns which prompts those are. Greedy, in one batch; leaves the model, its mode and the random
state as they were.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alignment.chat import encode_prompt, end_of_turn_ids
from alignment.runs.run_store import Sample
from alignment.training.rows.data import split_held_out
from annotation.schema import PreferenceExample, Prompt

PROMPTS = 4
MAX_NEW_TOKENS = 96
"""Enough to see answers grow; a longer one is cut, so that samples cost little of a run."""


def sample_prompts(examples: Sequence[PreferenceExample]) -> list[Prompt]:
    """`PROMPTS` of the held-out prompts, first by hash; of all prompts where too few are held out.

    The same export gives the same prompts, in the same order.
    """
    _, held_out = split_held_out(examples)
    by_id = {e.prompt.id: e.prompt for e in held_out}
    if len(by_id) < PROMPTS:
        by_id = {e.prompt.id: e.prompt for e in examples}
    return [by_id[name] for name in sorted(by_id)[:PROMPTS]]


class Sampler:
    """Answers `prompts` with a trainer's model as it stands."""

    def __init__(self, trainer: Any, base_path: Path, prompts: Sequence[Prompt]) -> None:
        tokenizer = trainer.processing_class
        self._trainer = trainer
        self._prompts = [" ".join(p.messages[-1].content.split()) for p in prompts]
        self._ends = end_of_turn_ids(tokenizer, base_path)
        self._ids = [encode_prompt(tokenizer, p.messages) for p in prompts]

    def sample(self, step: int, *, stopping: Callable[[], bool]) -> list[Sample]:
        """One sample a prompt, `tokens` without the end of the turn.

        Ends early, with answers cut short, once `stopping` says so.
        """
        tokenizer = self._trainer.processing_class
        samples = []
        for prompt, ids in zip(self._prompts, self._generate(stopping), strict=True):
            end = next((n for n, token in enumerate(ids) if token in self._ends), len(ids))
            text = tokenizer.decode(ids[:end], skip_special_tokens=True)
            samples.append(Sample(step, prompt, text.strip(), end))
        return samples

    def _generate(self, stopping: Callable[[], bool]) -> list[list[int]]:
        """The new ids of each prompt, with whatever follows the end of the turn."""
        import torch

        trainer = self._trainer
        model, device = trainer.model, trainer.accelerator.device
        width = max(map(len, self._ids))
        pad = trainer.processing_class.pad_token_id
        padded = [[pad] * (width - len(ids)) + ids for ids in self._ids]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in self._ids]
        with undisturbed(model), torch.no_grad(), trainer.accelerator.autocast():
            output = model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=self._config(width),
                stopping_criteria=[_Until(stopping)],
            )
        return [[int(token) for token in row] for row in output[:, width:].tolist()]

    def _config(self, width: int) -> Any:
        from transformers import GenerationConfig

        window = getattr(self._trainer.model.config, "max_position_embeddings", None)
        room = MAX_NEW_TOKENS if window is None else min(MAX_NEW_TOKENS, window - width)
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=max(1, room),
            eos_token_id=sorted(self._ends),
            pad_token_id=self._trainer.processing_class.pad_token_id,
            use_cache=True,
        )


class _Until:
    """A stopping criterion: every row is done once `stopping` says so."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping

    def __call__(self, input_ids: Any, _scores: Any, **_: Any) -> Any:
        import torch

        rows, device = input_ids.shape[0], input_ids.device
        return torch.full((rows,), self._stopping(), dtype=torch.bool, device=device)


@contextlib.contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Evaluate within: `model` in eval mode, its mode and torch's random state restored after."""
    import torch

    was_training = model.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            model.train(was_training)
