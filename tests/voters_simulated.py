"""Crowds of simulated voters, honest and not, over pairs whose better answer is known.

Seeded and pure: the same plan and seed give the same crowd. Pairs go to voters in the order that
the app issues them. What the rules make of a crowd is for the tests and `bench_voters` to say.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import numpy as np

from annotation.schema import (
    Choice,
    Completion,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Sampling,
    Vote,
    VoteSource,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MODELS = (ModelRef("starter", "1" * 40), ModelRef("starter", "1" * 40, "run-7", "2" * 40))
LEAN = 0.1
"""What an answer of the second model is better by on the average; quality has a spread of 1."""
GOLD_RIGHT = 0.93
COPIED = 0.97


class Kind(StrEnum):
    """How a voter votes. Of a ring the first is honest by itself, and the others copy it."""

    HONEST = "honest"
    CARELESS = "careless"
    LEFT = "always left"
    LENGTH = "always the longer"
    BACKER = "always one model"
    RING = "vote as one"


CHEATS = tuple(Kind)[1:]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a crowd is made of: how many voters of a kind, votes each, and the share on gold.

    An honest vote names the worse answer by a slip, with chance `slips`, or by taste: what length
    is worth to a voter spreads by `taste`. As set here both together make 15 %. The longer answer
    is better by `longer` on the average.
    """

    votes_each: int
    gold_share: float = 0.0
    votes_per_pair: int = 3
    honest: int = 30
    cheats_of_a_kind: int = 2
    slips: float = 0.11
    taste: float = 0.15
    longer: float = 0.1

    @property
    def gold_each(self) -> int:
        return round(self.votes_each * self.gold_share)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        cheats = [kind for kind in CHEATS for _ in range(self.cheats_of_a_kind)]
        return (Kind.HONEST,) * self.honest + tuple(cheats)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Votes in the order they were cast, the pairs that they are on, and who is what in truth.

    `right` is the share of honest votes on ordinary pairs that name the better answer.
    """

    votes: tuple[Vote, ...]
    pairs: Mapping[str, Pair]
    kinds: Mapping[str, Kind]
    right: float


def simulate(plan: Plan, seed: int) -> Crowd:
    """Let the crowd of `plan` vote; every draw comes from `seed`."""
    booth = _Booth(plan, np.random.default_rng(seed))
    votes = tuple(booth.cast(voter, is_gold=gold) for voter, gold in booth.turns())
    pairs = {vote.pair_id: booth.pairs[vote.pair_id] for vote in votes}
    kinds = {_name(voter): kind for voter, kind in enumerate(plan.kinds)}
    return Crowd(votes, pairs, kinds, float(np.mean(booth.right)))


def _name(voter: int) -> str:
    return f"voter-{voter:03d}"


class _Booth:
    """One crowd at work. An answer is +1 for a pair's first completion and -1 for its second."""

    def __init__(self, plan: Plan, draw: np.random.Generator) -> None:
        self._plan, self._draw = plan, draw
        self._kinds = plan.kinds
        self._taste = draw.normal(0, plan.taste, len(self._kinds))
        self._answers: dict[tuple[int, str], int] = {}
        self._quality: dict[str, float] = {}
        self._wanting: list[tuple[int, int]] = []
        self._cast = 0
        self.pairs: dict[str, Pair] = {}
        self.right: list[bool] = []

    def turns(self) -> Iterator[tuple[int, bool]]:
        """Whose turn it is, and whether with a gold pair. A ring's copiers follow its first."""
        ring = [v for v, kind in enumerate(self._kinds) if kind is Kind.RING]
        alone = [v for v in range(len(self._kinds)) if v not in ring[1:]]
        each, gold_each = self._plan.votes_each, self._plan.gold_each
        gold = {v: set(self._draw.permutation(each)[:gold_each].tolist()) for v in alone}
        done = dict.fromkeys(alone, 0)
        for voter in self._draw.permutation(np.repeat(alone, each)).tolist():
            is_gold = done[voter] in gold[voter]
            done[voter] += 1
            for one in ring if voter in ring else [voter]:
                yield one, is_gold

    def cast(self, voter: int, *, is_gold: bool) -> Vote:
        pair = self._next_gold(voter) if is_gold else self._next_pair(voter)
        self.pairs[pair.id] = pair
        flipped = bool(self._draw.random() < 0.5)
        answer = self._answer(voter, pair, flipped)
        self._answers[voter, pair.id] = answer
        self._cast += 1
        if self._kinds[voter] is Kind.HONEST and not is_gold:
            self.right.append(answer * self._quality[pair.id] > 0)
        return Vote(
            id=f"vote-{self._cast}",
            pair_id=pair.id,
            voter=_name(voter),
            choice=Choice.A if (answer > 0) != flipped else Choice.B,
            flipped=flipped,
            created_at=NOON + timedelta(seconds=self._cast),
            source=VoteSource.SYNTHETIC,
            counted=not is_gold,
        )

    def _next_gold(self, voter: int) -> Pair:
        return next(p for p in map(gold_pair, itertools.count()) if self._is_new(voter, p))

    def _next_pair(self, voter: int) -> Pair:
        """As the app: the pair nearest to the votes that it wants, oldest first, none twice."""
        fits = (p for p, (_, n) in enumerate(self._wanting) if self._is_new(voter, _pool_pair(-n)))
        place = next(fits, None)
        if place is not None:
            votes, number = self._wanting.pop(place)
            pair = _pool_pair(-number)
        else:
            votes, number = 0, -len(self._quality)
            pair = _pool_pair(-number)
            longer, second = _signs(pair)
            better = self._plan.longer * longer + LEAN * second
            self._quality[pair.id] = self._draw.normal() + better
        if votes + 1 < self._plan.votes_per_pair:
            # Numbers are negative here, so that the oldest comes first in falling order.
            self._wanting.append((votes + 1, number))
            self._wanting.sort(reverse=True)
        return pair

    def _is_new(self, voter: int, pair: Pair) -> bool:
        return (voter, pair.id) not in self._answers

    def _answer(self, voter: int, pair: Pair, flipped: bool) -> int:
        kind = self._kinds[voter]
        longer, second = _signs(pair)
        if kind is Kind.CARELESS:
            return 1 if self._draw.random() < 0.5 else -1
        if kind is Kind.LEFT:
            return -1 if flipped else 1
        if kind is Kind.LENGTH:
            return longer
        if kind is Kind.BACKER and pair.kind is PairKind.POOL:
            return second
        first = self._kinds.index(Kind.RING) if kind is Kind.RING else voter
        if first != voter:
            told = self._answers.get((first, pair.id))
            if told is None:
                return 1 if self._draw.random() < 0.5 else -1
            return told if self._draw.random() < COPIED else -told
        return self._honest(voter, pair, longer)

    def _honest(self, voter: int, pair: Pair, longer: int) -> int:
        if pair.kind is PairKind.GOLD:
            best, slips = (1 if pair.expected is Choice.A else -1), 1 - GOLD_RIGHT
        else:
            felt = self._quality[pair.id] + self._taste[voter] * longer
            best, slips = (1 if felt > 0 else -1), self._plan.slips
        return -best if self._draw.random() < slips else best


def _signs(pair: Pair) -> tuple[int, int]:
    """Which of the two answers is the longer one, and which is the second model's."""
    first, second = pair.completions
    longer = 1 if len(first.text) > len(second.text) else -1
    return longer, 1 if first.model == MODELS[1] else -1


@functools.cache
def _pool_pair(number: int) -> Pair:
    return _pair(f"pair-{number}", number % 2 == 0, number // 2 % 2 == 0)


@functools.cache
def gold_pair(number: int) -> Pair:
    """The gold pair of this number; over four in a row neither side nor length is better."""
    expected = Choice.A if number // 2 % 2 == 0 else Choice.B
    return _pair(f"gold-{number}", number % 2 == 0, True, kind=PairKind.GOLD, expected=expected)


def _pair(
    pair_id: str,
    longer_first: bool,
    second_model_first: bool,
    *,
    kind: PairKind = PairKind.POOL,
    expected: Choice | None = None,
) -> Pair:
    texts = ("A long and wordy answer.", "A short one.")
    models = MODELS[::-1] if second_model_first else MODELS
    first, second = (
        Completion(text, model, Sampling())
        for text, model in zip(texts if longer_first else texts[::-1], models, strict=True)
    )
    prompt = Prompt.from_text(f"Question {pair_id}")
    return Pair(pair_id, prompt, (first, second), NOON, kind=kind, expected=expected)
