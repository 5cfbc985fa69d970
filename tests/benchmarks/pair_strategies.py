"""Ways to choose the pairs that voters see, to be measured by bench_pairs.

A strategy gets a pool of prompts in their order, each with the answers drawn to it, and names
`shown` pairs of different answers. It sees texts and what the base thinks of them, never a vote, a
taste or a style. `draws` is how many answers it lets itself see of a prompt: what it costs.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np

from annotation.choosing import Mixed, edit_distance, words
from annotation.choosing import Strategy as AppStrategy
from annotation.schema import Prompt

DRAWN = 6
"""Answers to a prompt in the pool; no strategy sees more."""
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and its answers, with the base's log-prob and mean hidden state of each."""

    prompt: str
    answers: tuple[str, ...]
    logps: tuple[float, ...]
    hidden: Array


@dataclass(frozen=True, slots=True)
class Chosen:
    """Answers `first` and `second` to prompt `index` of the pool."""

    index: int
    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The pairs in the order in which they are shown, and how many answers were drawn for them."""

    pairs: tuple[Chosen, ...]
    drawn: int


Strategy = Callable[[Sequence[Asked], int, random.Random], Choice]
Score = Callable[[Asked, int, int], float]


def different(asked: Asked, draws: int) -> list[tuple[int, int]]:
    """The pairs of different answers among the first `draws`, in the order of drawing."""
    texts = [text.strip() for text in asked.answers[:draws]]
    ordered = sorted(itertools.combinations(range(len(texts)), 2), key=lambda pair: pair[::-1])
    return [(a, b) for a, b in ordered if texts[a] and texts[b] and texts[a] != texts[b]]


def first_that(
    pool: Sequence[Asked],
    shown: int,
    _rng: random.Random,
    *,
    enough: Callable[[Asked, int, int], bool],
) -> Choice:
    """Draws two answers, and another until some two of them are `enough` apart."""
    pairs: list[Chosen] = []
    drawn = 0
    for index, asked in enumerate(pool):
        if len(pairs) == shown:
            break
        found = next((p for p in different(asked, DRAWN) if enough(asked, *p)), None)
        drawn += DRAWN if found is None else max(2, found[1] + 1)
        if found is not None:
            pairs.append(Chosen(index, *found))
    return Choice(tuple(pairs), drawn)


def best_of(
    pool: Sequence[Asked], shown: int, _rng: random.Random, *, draws: int, score: Score
) -> Choice:
    """Of each prompt the pair of `draws` answers with the highest score."""
    pairs: list[Chosen] = []
    drawn = 0
    for index, asked in enumerate(pool):
        if len(pairs) == shown:
            break
        drawn += draws
        if candidates := different(asked, draws):
            pairs.append(Chosen(index, *max(candidates, key=lambda p: score(asked, *p))))
    return Choice(tuple(pairs), drawn)


def best_half(
    pool: Sequence[Asked], shown: int, _rng: random.Random, *, draws: int, score: Score
) -> Choice:
    """Of twice as many prompts as are shown, those whose best pair of `draws` scores highest."""
    asked = list(enumerate(pool[: 2 * shown]))
    found = {
        index: max(candidates, key=lambda p, a=a: score(a, *p))
        for index, a in asked
        if (candidates := different(a, draws))
    }
    best = sorted(found, key=lambda index: -score(pool[index], *found[index]))[:shown]
    return Choice(tuple(Chosen(i, *found[i]) for i in sorted(best)), draws * len(asked))


def edit(asked: Asked, a: int, b: int) -> float:
    return edit_distance(words(asked.answers[a]), words(asked.answers[b]))


def edit_share(asked: Asked, a: int, b: int) -> float:
    """By the longer one's length: 1 where no word is kept."""
    one, other = words(asked.answers[a]), words(asked.answers[b])
    return edit_distance(one, other) / max(len(one), len(other))


def edit_beyond_length(asked: Asked, a: int, b: int) -> float:
    """What the difference in length does not account for."""
    one, other = words(asked.answers[a]), words(asked.answers[b])
    return edit_distance(one, other) - abs(len(one) - len(other))


def content(asked: Asked, a: int, b: int) -> float:
    """1 - Jaccard over the words that are not the prompt's."""
    known = set(words(asked.prompt))
    one, other = (set(words(asked.answers[i])) - known for i in (a, b))
    return 1 - len(one & other) / max(1, len(one | other))


def all_words(asked: Asked, a: int, b: int) -> float:
    """1 - Jaccard over all words."""
    one, other = (set(words(asked.answers[i])) for i in (a, b))
    return 1 - len(one & other) / max(1, len(one | other))


def embedding(asked: Asked, a: int, b: int) -> float:
    """1 - cosine of the mean hidden states."""
    one, other = asked.hidden[a], asked.hidden[b]
    return 1 - float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def logp(asked: Asked, a: int, b: int) -> float:
    return abs(asked.logps[a] - asked.logps[b])


Features = Callable[[Asked], Array]


def hashed_words(asked: Asked, *, size: int = 64, unit: bool = False) -> Array:
    """(answers, size): which words and marks an answer has that are not the prompt's, hashed, and
    two columns of its own for its length and for how much of the prompt it takes up.
    """
    known = set(words(asked.prompt))
    rows = np.zeros((len(asked.answers), size + 2))
    for row, text in zip(rows, asked.answers, strict=True):
        said = set(words(text))
        for word in said - known:
            code = crc32(word.encode())
            row[code % size] += 1 if code >> 16 & 1 else -1
        row[size] = np.log1p(len(words(text)))
        row[size + 1] = len(said & known) / max(1, len(known))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9) if unit else rows


def whitened_hidden(pool: Sequence[Asked], size: int = 16) -> dict[str, Array]:
    """Each prompt's answers on the main axes along which two answers to one prompt differ."""
    centred = [asked.hidden - asked.hidden.mean(axis=0) for asked in pool]
    _, lengths, axes = np.linalg.svd(np.concatenate(centred), full_matrices=False)
    scale = lengths[:size] / np.sqrt(sum(len(rows) for rows in centred))
    return {a.prompt: c @ axes[:size].T / scale for a, c in zip(pool, centred, strict=True)}


def d_optimal(
    pool: Sequence[Asked],
    shown: int,
    _rng: random.Random,
    *,
    draws: int,
    features: Callable[[Sequence[Asked]], Features],
    ridge: float = 1.0,
) -> Choice:
    """Of each prompt the pair whose difference adds most to log det of what was shown so far.

    The greedy D-optimal design of a Bradley-Terry model that is linear in the features.
    """
    of = features(pool)
    inverse: Array | None = None
    pairs: list[Chosen] = []
    drawn = 0
    for index, asked in enumerate(pool):
        if len(pairs) == shown:
            break
        drawn += draws
        if not (candidates := different(asked, draws)):
            continue
        rows = of(asked)
        if inverse is None:
            inverse = np.eye(rows.shape[1]) / ridge
        moved = [rows[a] - rows[b] for a, b in candidates]
        gains = [float(x @ inverse @ x) for x in moved]
        best = int(np.argmax(gains))
        x = inverse @ moved[best]
        inverse = inverse - np.outer(x, x) / (1 + gains[best])
        pairs.append(Chosen(index, *candidates[best]))
    return Choice(tuple(pairs), drawn)


def _hidden_features(pool: Sequence[Asked]) -> Features:
    found = whitened_hidden(pool)
    return lambda asked: found[asked.prompt]


def _word_features(_pool: Sequence[Asked], **options: Any) -> Features:
    return partial(hashed_words, **options)


def in_turns(
    pool: Sequence[Asked], shown: int, rng: random.Random, *, of: Sequence[Strategy]
) -> Choice:
    """Each of the strategies chooses from every so manieth prompt; the pairs are shown in turns."""
    count = len(of)
    pairs: list[Chosen] = []
    drawn = 0
    for turn, strategy in enumerate(of):
        mine = list(range(turn, len(pool), count))
        chosen = strategy([pool[i] for i in mine], shown // count, rng)
        pairs += [Chosen(mine[p.index], p.first, p.second) for p in chosen.pairs]
        drawn += chosen.drawn
    return Choice(tuple(sorted(pairs, key=lambda p: p.index)), drawn)


def as_the_app_does(
    pool: Sequence[Asked], shown: int, _rng: random.Random, *, strategy: AppStrategy
) -> Choice:
    """What PAIR_STRATEGY chooses once its pool has time: answers come two by two."""
    pairs: list[Chosen] = []
    drawn = 0
    for index, asked in enumerate(pool):
        if len(pairs) == shown:
            break
        for count in range(2, DRAWN + 1, 2):
            places = {text.strip(): n for n, text in reversed([*enumerate(asked.answers[:count])])}
            kept = sorted(place for text, place in places.items() if text)
            texts = [asked.answers[place] for place in kept]
            more = count < strategy.draws
            found = strategy.choose(Prompt.from_text(asked.prompt), texts, more=more)
            if found is not None:
                pairs.append(Chosen(index, kept[found.first], kept[found.second]))
                break
        drawn += count
    return Choice(tuple(pairs), drawn)


Vote = Callable[[Asked, int, int], float]
"""1 where the first answer won, 0 where the second did, 1/2 where neither."""


def best_so_far(
    pool: Sequence[Asked],
    shown: int,
    vote: Vote,
    *,
    draws: int,
    ahead: int,
    learned_from: int = 12,
    typical: bool = False,
) -> Choice:
    """Of each prompt the answer that the votes so far would like best, and another: the one least
    like it, or with `typical` the first drawn that is not nearly the same.

    What they like is a Bradley-Terry model, linear in `hashed_words` and shrunk to nothing. The
    pool is filled `ahead` of the votes: those on the last pairs are not in yet. Before
    `learned_from` votes are, as random.
    """
    moved: list[Array] = []
    votes: list[float] = []
    pairs: list[Chosen] = []
    drawn = 0
    for index, asked in enumerate(pool):
        if len(pairs) == shown:
            break
        known = len(pairs) - ahead
        sees = draws if known >= learned_from else 2
        if not (candidates := different(asked, sees)):
            drawn += DRAWN
            continue
        drawn += sees
        rows = hashed_words(asked)
        if known < learned_from:
            a, b = candidates[0]
        else:
            liked = rows @ bradley_terry(np.array(moved[:known]), np.array(votes[:known]))
            best = max({i for pair in candidates for i in pair}, key=lambda i: liked[i])
            with_it = [pair for pair in candidates if best in pair]
            apart = [pair for pair in with_it if edit_share(asked, *pair) >= 0.5]
            if typical and apart:
                a, b = apart[0]
            else:
                a, b = max(with_it, key=lambda pair: edit_share(asked, *pair))
        pairs.append(Chosen(index, a, b))
        moved.append(rows[a] - rows[b])
        votes.append(vote(asked, a, b))
    return Choice(tuple(pairs), drawn)


def bradley_terry(moved: Array, votes: Array, *, ridge: float = 1.0) -> Array:
    """Weights w that make sigmoid(moved @ w) fit `votes`, with ridge |w|² / 2; by Newton."""
    weights = np.zeros(moved.shape[1])
    for _ in range(8):
        chance = 1 / (1 + np.exp(-moved @ weights))
        slope = moved.T @ (chance - votes) + ridge * weights
        curve = moved.T @ (moved * (chance * (1 - chance))[:, None])
        weights = weights - np.linalg.solve(curve + ridge * np.eye(len(weights)), slope)
    return weights


RANDOM = "random"
_edit_4 = partial(best_of, draws=4, score=edit)
_words_4 = partial(d_optimal, draws=4, features=_word_features)
STRATEGIES: dict[str, Strategy] = {
    RANDOM: partial(first_that, enough=lambda *_: True),
    "distinct (half the words)": partial(first_that, enough=lambda *p: edit_share(*p) >= 0.5),
    "distinct (nearly all words)": partial(first_that, enough=lambda *p: edit_share(*p) >= 0.8),
    "edit distance of 4": _edit_4,
    "edit distance by length of 4": partial(best_of, draws=4, score=edit_share),
    "edit distance beyond length of 4": partial(best_of, draws=4, score=edit_beyond_length),
    "content words of 4": partial(best_of, draws=4, score=content),
    "all words of 4": partial(best_of, draws=4, score=all_words),
    "content words of 2, best half": partial(best_half, draws=2, score=content),
    "all words of 2, best half": partial(best_half, draws=2, score=all_words),
    "content words of 4, best half": partial(best_half, draws=4, score=content),
    "all words of 4, best half": partial(best_half, draws=4, score=all_words),
    "embedding of 4": partial(best_of, draws=4, score=embedding),
    "log-prob of 4": partial(best_of, draws=4, score=logp),
    "d-optimal words of 4": _words_4,
    "d-optimal unit words of 4": partial(
        d_optimal, draws=4, features=partial(_word_features, unit=True), ridge=0.1
    ),
    "d-optimal hidden of 4": partial(d_optimal, draws=4, features=_hidden_features),
    "PAIR_STRATEGY=mixed": partial(as_the_app_does, strategy=Mixed()),
    "edit distance and random in turns": partial(
        in_turns, of=(_edit_4, partial(first_that, enough=lambda *_: True))
    ),
}
ADAPTIVE: dict[str, Callable[[Sequence[Asked], int, Vote], Choice]] = {
    "best so far of 4, 16 ahead": partial(best_so_far, draws=4, ahead=16),
    "best so far of 6, 16 ahead": partial(best_so_far, draws=6, ahead=16),
    "best so far of 6, none ahead": partial(best_so_far, draws=6, ahead=0),
    "best so far of 6 against a typical one, 16 ahead": partial(
        best_so_far, draws=6, ahead=16, typical=True
    ),
}
"""Strategies that learn from the votes so far."""
