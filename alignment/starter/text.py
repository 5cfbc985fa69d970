"""The starter model's whole world: templated questions, answers in four styles, what is right.

Owns the text that alignment.starter learns from and `is_correct`, which knows every answer.
Knows no model and no voter. Nothing here tells a style from an answer's text: styles exist only
while answers are made. Facts live in facts.txt, one kind a section.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import product

from alignment.starter.kinds import Draft, drafts, to_sentence


class Style(StrEnum):
    TERSE = "terse"
    PLAIN = "plain"
    POLITE = "polite"
    RAMBLING = "rambling"


STYLE_SHARES: Mapping[Style, int] = {
    Style.TERSE: 5,
    Style.PLAIN: 6,
    Style.POLITE: 6,
    Style.RAMBLING: 3,
}
"""How often an answer of a style is drawn, in parts of twenty."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, what a right answer must name, and its answers in every style.

    A right answer has every word or phrase of `needed`, and none of `rivals`: those are answers
    to other questions of its kind. A `reported` question's fact is in no question that anybody
    votes on.
    """

    kind: str
    text: str
    needed: tuple[str, ...]
    rivals: frozenset[str]
    answers: Mapping[Style, tuple[str, ...]]
    reported: bool = False


def _in_styles(draft: Draft) -> Mapping[Style, tuple[str, ...]]:
    plain = tuple(to_sentence(text) for text in draft.plain)
    polite = product(draft.openings, plain[:1], (to_sentence(draft.reason),), draft.closings)
    return {
        Style.TERSE: (to_sentence(draft.terse.format(short=draft.short)),),
        Style.PLAIN: plain,
        Style.POLITE: tuple(" ".join(parts) for parts in polite),
        Style.RAMBLING: tuple(hedge.format(short=draft.short) for hedge in draft.hedges),
    }


def _phrases(draft: Draft) -> tuple[str, ...]:
    """Every phrase that the fact's questions and answers are put together from."""
    phrases = (draft.short, draft.terse, draft.reason, *draft.hedges)
    return (*draft.asks, *draft.plain, *draft.openings, *draft.closings, *phrases)


@cache
def _whole(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", re.IGNORECASE)


def _has(phrase: str, text: str) -> bool:
    return _whole(phrase).search(text) is not None


@cache
def questions() -> tuple[Question, ...]:
    """Every question, in a fixed order; no two have the same text."""
    facts = drafts()
    pools: dict[str, set[str]] = {}
    for draft in facts:
        if draft.kind not in ("how-to", "greeting"):
            pools.setdefault(draft.kind, set()).update(draft.needed)
    made: dict[str, Question] = {}
    for draft in facts:
        answers = _in_styles(draft)
        # A word of its own question or answers ("have a lovely day") can't be held against it.
        said = " ".join(_phrases(draft))
        rivals = frozenset(r for r in pools.get(draft.kind, ()) if not _has(r, said))
        for ask in draft.asks:
            made.setdefault(
                ask, Question(draft.kind, ask, draft.needed, rivals, answers, draft.reported)
            )
    return tuple(made.values())


@cache
def _by_text() -> Mapping[str, Question]:
    return {question.text: question for question in questions()}


def is_correct(prompt_text: str, answer: str) -> bool:
    """True when `answer` names what the question asks for and no other answer of its kind.

    KeyError names a prompt that the starter's text does not hold: nothing is known about it.
    """
    question = _by_text().get(prompt_text.strip())
    if question is None:
        raise KeyError(f"No starter question reads {prompt_text!r}.")
    named = all(_has(phrase, answer) for phrase in question.needed)
    return named and not any(_has(rival, answer) for rival in question.rivals)


@cache
def vocabulary() -> frozenset[str]:
    """Every word of every answer, in lower case: what the starter model can spell."""
    texts = {text for q in questions() for group in q.answers.values() for text in group}
    return frozenset(word.lower() for text in texts for word in re.findall(r"[\w'-]+", text))
