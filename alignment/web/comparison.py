"""Comparing in the open: one prompt, the base and an aligned model, streamed in one batch.

Owns what may be asked: how long a prompt, and which models. Draws nothing, loads no weights.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from alignment.registry import RegisteredModel, Registry
from annotation.faults import Fault
from annotation.schema import ModelRef, Prompt, Sampling

MAX_PROMPT_CHARACTERS = 2000


class Streamer(Protocol):
    """What answers: `alignment.generation`, handed in by the app."""

    def stream(
        self, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling
    ) -> Iterator[tuple[str, ...]]: ...

    def start(self) -> None: ...


class CompareError(Fault):
    """A comparison that cannot be made; the message is the one line that a person reads."""


class Comparison:
    """What the tab asks: the aligned models by name, and streamed answers of two models."""

    def __init__(self, registry: Registry, streamer: Streamer, *, max_new_tokens: int) -> None:
        self._registry = registry
        self._streamer = streamer
        self._max_new_tokens = max_new_tokens

    def warm_up(self) -> None:
        """Load the weights now, in the background: somebody is about to ask."""
        self._streamer.start()

    def aligned_names(self) -> list[str]:
        """Newest first."""
        return [m.name for m in reversed(self._registry.models()) if m.tuning is not None]

    def answers(
        self, text: str, aligned: str | None, temperature: float, seed: int
    ) -> Iterator[tuple[str, str]]:
        """Yield (base so far, aligned so far); the second is empty where no model is aligned.

        Raises CompareError for an empty or overlong prompt or a model that is not here.
        """
        if not text.strip():
            raise CompareError("The prompt is empty: ask something first.")
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise CompareError(
                f"The prompt has {len(text):,} characters: shorten it to {MAX_PROMPT_CHARACTERS:,}."
            )
        models = [self._registry.get("base").ref]
        if aligned:
            models.append(self._local(aligned).ref)
        sampling = Sampling(
            temperature=temperature, top_p=1.0, max_new_tokens=self._max_new_tokens, seed=seed
        )
        for texts in self._streamer.stream(Prompt.from_text(text), models, sampling):
            yield texts[0], texts[1] if len(texts) > 1 else ""

    def _local(self, name: str) -> RegisteredModel:
        # A visitor's request never pulls from the Hub: only what is registered answers.
        for model in self._registry.models():
            if model.name == name:
                return model
        raise CompareError(f"Model {name} is not here: choose one from the list.")
