"""Pairs that compare two models blind: an answer of each to eval prompts, drawn ahead of voters.

Owns that both answers come from one draw, so that neither model gets more tries than the other,
and that equal answers are no pair: they would be a tie, which decides nothing. Which models are
compared is the caller's business.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from annotation.journal.journal import Journal
from annotation.sampling import Generator, PairPool, keep_different
from annotation.schema import Completion, ModelRef, PairKind, Prompt, Sampling, Split, utc_now

TARGET = 16
Models = tuple[ModelRef, ModelRef]


class ComparisonPool(PairPool):
    """Keeps TARGET comparisons of what `models` names in the journal; none while it gives None.

    Else as PairPool. Only prompts of the eval split are asked: no model was trained on them.
    """

    KIND = PairKind.COMPARE
    SPLIT = Split.EVAL
    SEED_NOTE = "comparing.next_draw"
    ERROR_NOTE = "comparing.error"

    def __init__(
        self,
        journal: Journal,
        prompts: Sequence[Prompt],
        generator: Generator,
        *,
        models: Callable[[], Models | None],
        sampling: Sampling,
        target: int = TARGET,
        first_draw: int | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(
            journal,
            prompts,
            generator,
            model=lambda: self._compared[0],
            sampling=sampling,
            votes_per_pair=1,
            target=target,
            first_draw=first_draw,
            clock=clock,
        )
        self._models = models
        self._compared: Models

    def _ready(self) -> int:
        models = self._models()
        if models is None:
            return self._target
        self._compared = models
        return self._journal.comparisons_ready(now=self._clock())

    def _answers(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        return self._generator.sample_each(prompts, models=self._compared, sampling=sampling)

    def _kept(self, before: list[Completion], some: Sequence[Completion]) -> list[Completion]:
        return keep_different([], some)
