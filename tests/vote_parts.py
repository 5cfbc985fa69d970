"""Pairs and votes made by hand, for the tests of quality."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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


HONEST = tuple(f"anon-{n:016x}" for n in range(0x3F2A9C1B, 0x3F2A9C1B + 5))
LEFT, CARELESS = "anon-left000000000000", "anon-careless00000000"
RING = ("anon-ring-one00000000", "anon-ring-two00000000")


def crowd_at_work(pairs_count: int = 60, seed: int = 4) -> tuple[list[Pair], list[Vote]]:
    """Five honest voters who err 15 % of the time, one who always presses left, one who flips
    coins and two who vote as one, all on every pair and on ten gold pairs, over five days.
    """
    draw = random.Random(seed)
    pairs = [pair_of(f"p{n}", longer_first=n % 2 == 0) for n in range(pairs_count)]
    golds = [pair_of(f"gold{n}", kind=PairKind.GOLD, expected=Choice.A) for n in range(10)]
    shared = [draw.random() < 0.85 for _ in (*pairs, *golds)]
    votes: list[Vote] = []
    for name in (*HONEST, LEFT, CARELESS, *RING):
        moment = NOON + timedelta(minutes=draw.randrange(600))
        for n, pair in enumerate((*pairs, *golds)):
            is_gold = pair.kind is PairKind.GOLD
            first = (
                shared[n]
                if name in RING
                else draw.random() < (0.5 if name == CARELESS else 0.93 if is_gold else 0.85)
            )
            flipped = draw.random() < 0.5
            choice = Choice.A if first != flipped or name == LEFT else Choice.B
            read_s = 1.2 if name in (LEFT, CARELESS) else draw.uniform(4, 20)
            if n % 15 == 14:
                moment += timedelta(days=1)
            moment += timedelta(seconds=read_s)
            made = vote_on(pair.id, name, choice, flipped=flipped, counted=not is_gold)
            issued = moment - timedelta(seconds=read_s)
            votes.append(replace(made, created_at=moment, issued_at=issued))
    return [*pairs, *golds], votes
