"""A voter who follows written rules: for the demo, the tests, and telling whether training worked.

Judges nothing but the text of an answer: right or wrong, well formed or not, then what its taste
asks for: courteous and explained, short, free of courtesy, and others. It never learns which style
or model an answer came from; whether an answer is right it looks up in alignment.starter.text, so
it can judge the starter's questions only. Its votes are synthetic, and whoever stores them must say
so. Knows no journal and no torch.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from alignment.starter import text as starter_text
from annotation.schema import Choice

_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_WORD = re.compile(r"[\w'-]+")
_COURTESY = re.compile(
    r"\b(thank(s| you) for|good (question|to hear)|happy to help|of course|glad|welcome"
    r"|i hope that|feel free|(have a )?lovely day|i wish you|please)\b",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(well, hmm|let me see|i guess|i think|i suppose|not (really )?sure|maybe|may be"
    r"|or something|count on me|what to say|did not see you)\b",
    re.IGNORECASE,
)
_LONGEST_WORDS = 60

Taste = Literal["polite", "short", "plain", "explained", "sure", "whole", "correct"]
"""What decides between two right and well-formed answers; `appeal` has each one's rule."""


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in _BETWEEN_SENTENCES.split(text.strip()) if sentence]


def correctness(prompt: str, text: str) -> bool:
    """True when `text` gives the known answer to the starter question `prompt`, and no other.

    KeyError for a prompt that is no starter question.
    """
    return starter_text.is_correct(prompt, text)


def well_formed(text: str) -> bool:
    """True for whole sentences of known words.

    Every sentence starts with a capital or a digit, the last one ends with a mark, no word comes
    twice in a row within one, no sentence comes twice, no word is unknown to the starter's
    vocabulary, and there are at most 60 words.
    """
    sentences = _sentences(text)
    if not sentences or sentences[-1][-1] not in ".!?":
        return False
    spoken = [[word.lower() for word in _WORD.findall(sentence)] for sentence in sentences]
    words = [word for sentence in spoken for word in sentence]
    return (
        all(s[0].isupper() or s[0].isdigit() for s in sentences)
        and len({s.lower() for s in sentences}) == len(sentences)
        and all(first != second for row in spoken for first, second in pairwise(row))
        and len(words) <= _LONGEST_WORDS
        and starter_text.vocabulary().issuperset(words)
    )


def politeness(text: str) -> int:
    """0, 1 or 2: how many of the first and the last sentence are courteous."""
    sentences = _sentences(text)
    edges = {0, len(sentences) - 1} if sentences else set()
    return sum(1 for edge in edges if _COURTESY.search(sentences[edge]))


def explained(text: str) -> bool:
    """True when at least two sentences say something beyond courtesy and doubt."""
    told = (s for s in _sentences(text) if not _COURTESY.search(s) and not _DOUBT.search(s))
    return sum(1 for _ in told) >= 2


def doubtful(text: str) -> bool:
    """True when any of it hedges: "I guess", "or something like that"."""
    return _DOUBT.search(text) is not None


def restates(prompt: str, text: str) -> bool:
    """True when `text` takes up a word of the question: a number, or one of four letters or more.

    "A frog lives in a pond." does to "Where does a frog live?", and "In a pond." does not.
    """
    asked = {word.lower() for word in _WORD.findall(prompt) if len(word) > 3 or word.isdigit()}
    return not asked.isdisjoint(word.lower() for word in _WORD.findall(text))


def appeal(prompt: str, text: str, taste: Taste = "polite") -> int:
    """How much this voter likes an answer: 0 wrong, 1 right but malformed, from 2 right and whole.

    What adds 1, by taste; nothing else adds anything:

    - polite: each courteous end, and an explanation
    - short: each word under 60
    - plain: no courtesy at either end, and no doubt
    - explained: an explanation, in whatever tone
    - sure: no doubt
    - whole: taking up the words of the question
    - correct: nothing
    """
    if not correctness(prompt, text):
        return 0
    if not well_formed(text):
        return 1
    return 2 + _DELIGHT[taste](prompt, text)


_DELIGHT: Mapping[Taste, Callable[[str, str], int]] = {
    "polite": lambda _, text: politeness(text) + explained(text),
    "short": lambda _, text: _LONGEST_WORDS - word_count(text),
    "plain": lambda _, text: (politeness(text) == 0) + (not doubtful(text)),
    "explained": lambda _, text: int(explained(text)),
    "sure": lambda _, text: int(not doubtful(text)),
    "whole": lambda prompt, text: int(restates(prompt, text)),
    "correct": lambda *_: 0,
}


def word_count(text: str) -> int:
    """How many words and numbers `text` has."""
    return len(_WORD.findall(text))


@dataclass(frozen=True, slots=True)
class ScriptedVoter:
    """Prefers right, then well-formed answers, then those to its taste; errs with chance `noise`.

    The same seed, prompt and two texts always get the same vote, whichever side each is on.
    ValueError when `noise` is not within 0 to 1.
    """

    seed: int
    noise: float = 0.0
    taste: Taste = "polite"

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise ValueError(f"ScriptedVoter noise is {self.noise}: set it from 0 to 1.")

    def choose(self, prompt: str, a: str, b: str) -> Choice:
        """A or B, TIE for equal appeal, BOTH_BAD when both are wrong; noise swaps A and B."""
        left, right = (appeal(prompt, text, self.taste) for text in (a, b))
        if left == right:
            return Choice.BOTH_BAD if left == 0 else Choice.TIE
        prefers_a = (left > right) != self._errs(prompt, a, b)
        return Choice.A if prefers_a else Choice.B

    def _errs(self, prompt: str, a: str, b: str) -> bool:
        key = "\0".join((str(self.seed), prompt, *sorted((a, b))))
        drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        return drawn / 2**64 < self.noise


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares, 0 to 1, of answers that are right, well formed, and courteous at either end.

    `words` is their mean length.
    """

    correct: float
    well_formed: float
    polite: float
    words: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One voter's verdict on two models over `n` prompts.

    `win_rate` is the aligned model's, a tie or both-bad counting half; `margin` is the half-width
    of its 95 % normal interval.
    """

    n: int
    wins: int
    losses: int
    ties: int
    win_rate: float
    margin: float
    base: Quality
    aligned: Quality


def quality(prompts: Sequence[str], completions: Sequence[str]) -> Quality:
    """Measure one completion a prompt; ValueError when there are none or the lengths differ."""
    if not prompts or len(prompts) != len(completions):
        raise ValueError(
            f"{len(prompts)} prompts and {len(completions)} completions can't be measured: "
            "give one completion for each of at least one prompt."
        )
    n = len(prompts)
    return Quality(
        correct=sum(map(correctness, prompts, completions)) / n,
        well_formed=sum(map(well_formed, completions)) / n,
        polite=sum(politeness(text) > 0 for text in completions) / n,
        words=sum(map(word_count, completions)) / n,
    )


def best_of(prompt: str, texts: Sequence[str], taste: Taste = "polite") -> str:
    """The answer that this taste likes best, the first of equals; ValueError without any."""
    return max(texts, key=lambda text: appeal(prompt, text, taste))


def evaluate(
    prompts: Sequence[str], base: Sequence[str], aligned: Sequence[str], voter: ScriptedVoter
) -> Evaluation:
    """Let `voter` compare `aligned[i]` with `base[i]` on `prompts[i]`; equal texts tie.

    ValueError when there are no prompts or the lengths differ.
    """
    base_quality, aligned_quality = quality(prompts, base), quality(prompts, aligned)
    choices = [voter.choose(*row) for row in zip(prompts, aligned, base, strict=True)]
    n, wins, losses = len(choices), choices.count(Choice.A), choices.count(Choice.B)
    ties = n - wins - losses
    rate = (wins + ties / 2) / n
    # Variance of a vote worth 1, 1/2 or 0.
    variance = (wins + ties / 4) / n - rate**2
    margin = 1.96 * math.sqrt(max(variance, 0.0) / n)
    return Evaluation(n, wins, losses, ties, rate, margin, base_quality, aligned_quality)
