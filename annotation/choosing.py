"""Which two of the answers drawn to a prompt voters are shown: strategies that spend votes.

Pure: a prompt and texts in, two places out. Owns what the names of PAIR_STRATEGY mean. A strategy
sees no vote, no voter and no model. What each is worth is in tests/benchmarks/pairs_results.md.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from annotation.schema import ChosenBy, PairStrategy, Prompt

_WORD = re.compile(r"[\w'-]+|[^\w\s]")
MOST_WORDS = 256
"""What of an answer is compared: where answers run on longer, they differ before."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The places of two answers, and what chose them."""

    first: int
    second: int
    by: ChosenBy


class Strategy(Protocol):
    """How a pool chooses, after at most `draws` answers to a prompt."""

    @property
    def draws(self) -> int: ...

    def choose(self, prompt: Prompt, answers: Sequence[str], *, more: bool) -> Chosen | None:
        """Two of `answers`, which all differ and stand in the order of drawing.

        None where there are not two; and, only where `more` can be had, to have more drawn.
        """
        ...


@dataclass(frozen=True, slots=True)
class Random:
    """The first two answers that differ, as the model happens to give them."""

    draws: int = 2

    def choose(self, prompt: Prompt, answers: Sequence[str], *, more: bool) -> Chosen | None:
        return Chosen(0, 1, "random") if len(answers) > 1 else None


@dataclass(frozen=True, slots=True)
class EditDistance:
    """The two of `draws` answers with the most words to change, put in or leave out."""

    draws: int = 4

    def choose(self, prompt: Prompt, answers: Sequence[str], *, more: bool) -> Chosen | None:
        if more or len(answers) < 2:
            return None
        said = [words(text)[:MOST_WORDS] for text in answers]
        first, second = max(_places(answers), key=lambda p: edit_distance(said[p[0]], said[p[1]]))
        return Chosen(first, second, "edit_distance")


@dataclass(frozen=True, slots=True)
class Mixed:
    """Half of the prompts to edit distance and half to random, by the prompt's hash."""

    by_distance: EditDistance = EditDistance()

    @property
    def draws(self) -> int:
        return self.by_distance.draws

    def choose(self, prompt: Prompt, answers: Sequence[str], *, more: bool) -> Chosen | None:
        # A hash of its own: the id's digits say already which prompts are kept for what.
        half = hashlib.sha256(f"mixed:{prompt.id}".encode()).digest()[0] & 1
        return (self.by_distance if half else Random()).choose(prompt, answers, more=more)


def strategy_named(name: PairStrategy) -> Strategy:
    """The strategy that PAIR_STRATEGY calls `name`."""
    named: dict[PairStrategy, Strategy] = {
        "random": Random(),
        "edit_distance": EditDistance(),
        "mixed": Mixed(),
    }
    return named[name]


def words(text: str) -> list[str]:
    """Words and marks, in lower case."""
    return _WORD.findall(text.lower())


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Levenshtein's over words: the fewest to change, put in or leave out."""
    code = {word: number for number, word in enumerate({*first, *second})}
    across = np.array([code[word] for word in second], dtype=np.int64)
    steps = np.arange(len(second) + 1)
    row = steps
    for number, word in enumerate(first, 1):
        # Changed or left out; what is put in runs along the row, one step a word.
        kept = np.minimum(row[1:] + 1, row[:-1] + (across != code[word]))
        row = np.minimum.accumulate(np.concatenate(([number], kept)) - steps) + steps
    return int(row[-1])


def _places(answers: Sequence[str]) -> Iterator[tuple[int, int]]:
    return ((a, b) for b in range(len(answers)) for a in range(b))
