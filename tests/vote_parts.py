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


HONEST = tuple(f"anon-{n:08x}{n:08x}" for n in range(0x3F2A9C1B, 0xFFFFFFFF, 0x1B0E5D37))[:5]
LEFT, CARELESS = "anon-left000000000000", "anon-careless00000000"
RING = ("anon-ring-one00000000", "anon-ring-two00000000")
REPEATS = 6


def crowd_at_work(pairs_count: int = 60, seed: int = 4) -> tuple[list[Pair], list[Vote]]:
    """Five honest voters who err 15 % of the time, one who always presses left, one who flips
    coins and two who vote as one. All vote on every pair, ten gold pairs and six repeats, over
    five days; the first answer is the better one. One ties on every sixth pair.
    """
    draw = random.Random(seed)
    pairs = [pair_of(f"p{n}", longer_first=n % 2 == 0) for n in range(pairs_count)]
    golds = [pair_of(f"gold{n}", kind=PairKind.GOLD, expected=Choice.A) for n in range(10)]
    ring = {pair.id: draw.random() < 0.85 for pair in (*pairs, *golds)}
    made, votes = [*pairs, *golds], []
    for name in (*HONEST, LEFT, CARELESS, *RING):
        again = [
            replace(
                pair_of(f"again-{name}-{n}", kind=PairKind.REPEAT, repeats=pair.id, only_for=name),
                completions=pair.completions,
            )
            for n, pair in enumerate(pairs[:REPEATS])
        ]
        made += again
        moment = NOON + timedelta(minutes=draw.randrange(600))
        for n, pair in enumerate((*pairs, *golds, *again)):
            is_check = pair.kind is not PairKind.POOL
            right = 0.5 if name == CARELESS else 0.93 if pair.kind is PairKind.GOLD else 0.85
            first = ring[pair.repeats or pair.id] if name in RING else draw.random() < right
            flipped = draw.random() < 0.5
            choice = Choice.A if first != flipped or name == LEFT else Choice.B
            if name == HONEST[0] and n % 6 == 5 and not is_check:
                choice = Choice.TIE
            read_s = 1.2 if name in (LEFT, CARELESS) else draw.uniform(4, 20)
            issued = moment + timedelta(days=n % 15 == 14)
            moment = issued + timedelta(seconds=read_s)
            vote = vote_on(pair.id, name, choice, flipped=flipped, counted=not is_check)
            votes.append(replace(vote, created_at=moment, issued_at=issued))
    return made, votes
