"""Pairs and votes made by hand, for the tests of quality."""

from datetime import UTC, datetime
from typing import Any

from annotation.schema import (
    Choice,
    Completion,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Sampling,
    Vote,
)

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MODELS = (ModelRef("one", "1" * 40), ModelRef("two", "2" * 40))


def pair_of(
    pair_id: str,
    *,
    longer_first: bool = True,
    models: tuple[ModelRef, ModelRef] = (MODELS[0], MODELS[0]),
    kind: PairKind = PairKind.POOL,
    **more: Any,
) -> Pair:
    """Two answers, of which the first is the longer one, or the second."""
    texts = (f"A long answer to {pair_id}.", f"{pair_id}.")
    ordered = texts if longer_first else texts[::-1]
    first, second = (
        Completion(text, model, Sampling()) for text, model in zip(ordered, models, strict=True)
    )
    prompt = Prompt.from_text(f"What of {pair_id}?")
    return Pair(pair_id, prompt, (first, second), NOON, kind=kind, **more)


def vote_on(
    pair_id: str, voter: str, choice: Choice, *, flipped: bool = False, counted: bool = True
) -> Vote:
    return Vote(
        id=f"{pair_id}-{voter}",
        pair_id=pair_id,
        voter=voter,
        choice=choice,
        flipped=flipped,
        created_at=NOON,
        counted=counted,
    )
