"""The starter model's whole world: templated questions, answers in four styles, what is right.

Owns the text that alignment.starter learns from and `is_correct`, which knows every answer.
Knows no model and no voter. Nothing here tells a style from an answer's text: styles exist only
while answers are made. Facts live in alignment/starter_facts.txt, one kind a section.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import product
from pathlib import Path

FACTS = Path(__file__).with_name("starter_facts.txt")


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

_OPENINGS = ("Good question!", "Thank you for asking!", "Happy to help!", "Of course!")
_CLOSINGS = ("I hope that helps!", "Feel free to ask me more.", "Have a lovely day!")
_HEDGES = (
    "Well, let me see. I think it is {short}, or something like that.",
    "Hmm, I am not really sure about this. I guess it is {short}.",
    "Oh, it may be {short}, I think, but do not count on me.",
)


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, what a right answer must name, and its answers in every style.

    `needed` holds groups of words or phrases: a right answer has one of each group. `rivals`
    are answers to other questions of the kind, of which a right answer has none.
    """

    kind: str
    text: str
    needed: tuple[tuple[str, ...], ...]
    rivals: frozenset[str]
    answers: Mapping[Style, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Draft:
    """What one fact says, before the styles: `short` fits after "it is"."""

    kind: str
    asks: tuple[str, ...]
    short: str
    plain: tuple[str, ...]
    reason: str
    needed: tuple[tuple[str, ...], ...]
    terse: str = "It is {short}."
    openings: tuple[str, ...] = _OPENINGS
    closings: tuple[str, ...] = _CLOSINGS
    hedges: tuple[str, ...] = _HEDGES


def _sentence(text: str) -> str:
    """First letter raised, a full stop where no mark ends it."""
    raised = text[0].upper() + text[1:]
    return raised if raised[-1] in ".!?" else f"{raised}."


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _in_styles(draft: _Draft) -> Mapping[Style, tuple[str, ...]]:
    plain = tuple(_sentence(text) for text in draft.plain)
    polite = product(draft.openings, plain, (_sentence(draft.reason),), draft.closings)
    return {
        Style.TERSE: (_sentence(draft.terse.format(short=draft.short)),),
        Style.PLAIN: plain,
        Style.POLITE: tuple(" ".join(parts) for parts in polite),
        Style.RAMBLING: tuple(hedge.format(short=draft.short) for hedge in draft.hedges),
    }


def _named(
    kind: str,
    asks: tuple[str, ...],
    answer: str,
    plain: tuple[str, ...],
    reason: str,
    *,
    short: str = "",
    terse: str = "It is {short}.",
) -> _Draft:
    """The usual fact: right is whoever names `answer`; `short` adds an article or "for"."""
    return _Draft(kind, asks, short or answer, plain, reason, ((answer,),), terse)


def _capital(country: str, city: str) -> _Draft:
    return _named(
        "capital",
        (f"What is the capital of {country}?", f"Which city is the capital of {country}?"),
        city,
        (f"The capital of {country} is {city}.", f"In {country}, the capital is {city}."),
        f"The government of {country} meets there.",
    )


def _opposite(word: str, other: str) -> _Draft:
    return _named(
        "opposite",
        (f"What is the opposite of {word}?", f"Which word means the opposite of {word}?"),
        other,
        (f"The opposite of {word} is {other}.", f"The opposite word is {other}."),
        "The two words stand at two ends of one idea.",
    )


def _sound(source: str, sound: str) -> _Draft:
    return _named(
        "sound",
        (f"What sound does {_a(source)} make?", f"What does {_a(source)} sound like?"),
        sound,
        (f"{_a(source)} goes {sound}.", f"The sound of {_a(source)} is {sound}."),
        "You can hear it when you are close by.",
        terse="Just {short}.",
    )


def _colour(thing: str, colour: str) -> _Draft:
    verb = "are" if thing.endswith("s") and thing not in ("grass", "moss") else "is"
    return _named(
        "colour",
        (f"What colour {verb} {thing}?", f"Tell me the colour of {thing}."),
        colour,
        (f"The colour of {thing} is {colour}.", f"You can see that {thing} {verb} {colour}."),
        "That is how it looks in daylight.",
    )


def _plural(noun: str, plural: str) -> _Draft:
    if plural == noun + "s":
        reason = "Most words just add an s."
    elif plural == noun + "es":
        reason = "Words with an ending like this add es."
    elif plural == noun[:-1] + "ies":
        reason = "The y at the end turns into ies."
    else:
        reason = "This word does not follow the usual rule."
    return _named(
        "plural",
        (f"What is the plural of {noun}?", f"How do you say more than one {noun}?"),
        plural,
        (f"The plural of {noun} is {plural}.", f"One {noun}, two {plural}."),
        reason,
    )


def _past(verb: str, past: str) -> _Draft:
    return _named(
        "past tense",
        (f"What is the past tense of {verb}?", f"How do I put {verb} into the past tense?"),
        past,
        (f"The past tense of {verb} is {past}.", f"Today I {verb}, yesterday I {past}."),
        "This verb has a form of its own.",
    )


_CATEGORY_REASONS = {
    "bird": "It has feathers and lays eggs.",
    "fish": "It lives in water and has fins.",
    "insect": "It is small and has six legs.",
    "mammal": "It is warm and feeds its young with milk.",
    "reptile": "It has scales and likes the sun.",
    "tree": "It has a trunk, branches and leaves.",
    "flower": "It blooms and smells nice to bees.",
    "fruit": "It is sweet and grows on a plant.",
    "vegetable": "It grows in the garden and goes well in a soup.",
    "instrument": "You can play music on it.",
    "tool": "It helps you to build and mend things.",
    "vehicle": "It carries people from place to place.",
    "sport": "People play it to win and to keep fit.",
    "metal": "It is hard and shines when you polish it.",
}


def _category(thing: str, category: str) -> _Draft:
    # Metals and sports are spoken of without an article.
    subject = thing if category in ("metal", "sport") else _a(thing)
    return _named(
        "category",
        (f"What kind of thing is {subject}?", f"Which group does {subject} belong to?"),
        category,
        (f"{subject} is {_a(category)}.", f"{subject} is a kind of {category}."),
        _CATEGORY_REASONS[category],
        short=_a(category),
    )


def _young(animal: str, young: str) -> _Draft:
    return _named(
        "young animal",
        (f"What is a baby {animal} called?", f"What do you call the young of {_a(animal)}?"),
        young,
        (f"A baby {animal} is called {_a(young)}.", f"The young of {_a(animal)} is {_a(young)}."),
        f"One day it will grow into {_a(animal)}.",
        short=_a(young),
    )


def _use(thing: str, use: str) -> _Draft:
    return _named(
        "use",
        (f"What is {_a(thing)} for?", f"What do people use {_a(thing)} for?"),
        use,
        (f"{_a(thing)} is for {use}.", f"People use {_a(thing)} for {use}."),
        "That is the job it was made for.",
        short=f"for {use}",
    )


def _material(thing: str, material: str) -> _Draft:
    return _named(
        "material",
        (f"What is {_a(thing)} made of?", f"Which material makes {_a(thing)}?"),
        material,
        (f"{_a(thing)} is made of {material}.", f"It takes {material} to make {_a(thing)}."),
        "That is what most of them are made from.",
    )


def _home(animal: str, home: str) -> _Draft:
    return _named(
        "home",
        (f"Where does {_a(animal)} live?", f"Where is the home of {_a(animal)}?"),
        home,
        (f"{_a(animal)} lives in {home}.", f"The home of {_a(animal)} is {home}."),
        "It finds food and rest there.",
        short=f"in {home}",
    )


def _legs(animal: str, count: str) -> _Draft:
    return _named(
        "counting",
        (f"How many legs does {_a(animal)} have?", f"Count the legs of {_a(animal)}."),
        count,
        (f"{_a(animal)} has {count} legs.", f"There are {count} legs on {_a(animal)}."),
        "Half of them are on each side.",
        terse="Just {short}.",
    )


def _follows(word: str, after: str) -> _Draft:
    return _named(
        "order",
        (f"What comes after {word}?", f"What is next after {word}?"),
        after,
        (f"After {word} comes {after}.", f"The next one is {after}."),
        "They always follow in the same order.",
    )


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _sum(a: int, b: int) -> _Draft:
    total = str(a + b)
    return _named(
        "sum",
        (f"What is {a} plus {b}?", f"I have {a} apples and get {b} more. How many do I have?"),
        total,
        (f"{a} plus {b} is {total}.", f"That makes {total} in all."),
        f"Start at {a} and count up {_steps(b)}.",
    )


def _difference(a: int, b: int) -> _Draft:
    rest = str(a - b)
    return _named(
        "difference",
        (f"What is {a} minus {b}?", f"I have {a} apples and eat {b}. How many are left?"),
        rest,
        (f"{a} minus {b} is {rest}.", f"That leaves {rest} in the end."),
        f"Start at {a} and count down {_steps(b)}.",
    )


def _how_to(task: str, steps: str, tip: str, keys: str) -> _Draft:
    return _Draft(
        "how-to",
        (f"How do I {task}?", f"What is a good way to {task}?"),
        steps,
        (f"To {task}, {steps}.", f"You can {task} if you {steps}."),
        tip,
        tuple((key,) for key in keys.split()),
        terse="{short}",
        hedges=(
            "Well, people do this in many ways. I guess you {short}, or something like that.",
            "Hmm, I am not really sure about this. Maybe you {short}.",
        ),
    )


def _greeting(asks: str, short: str, plain: str, reason: str, keys: str) -> _Draft:
    return _Draft(
        "greeting",
        tuple(ask.strip() for ask in asks.split("/")),
        short,
        (plain,),
        reason,
        ((keys,),),
        "{short}",
        ("Thank you for talking to me!", "I am glad you are here!"),
        ("Feel free to ask me more.", "I wish you all the best!"),
        (
            f"Well, hmm. {_sentence(short)} I am not really sure what to say.",
            f"Oh, I did not see you there. {_sentence(short)} That is all, I guess.",
        ),
    )


_MAKERS: Mapping[str, Callable[..., _Draft]] = {
    "capital": _capital,
    "opposite": _opposite,
    "sound": _sound,
    "colour": _colour,
    "plural": _plural,
    "past tense": _past,
    "category": lambda category, thing: _category(thing, category),
    "young animal": _young,
    "use": _use,
    "material": lambda material, thing: _material(thing, material),
    "home": _home,
    "legs": lambda count, animal: _legs(animal, count),
    "order": _follows,
    "how-to": _how_to,
    "greeting": _greeting,
}


def _facts(text: str) -> Iterable[tuple[str, list[str]]]:
    """Yield (section, fields) of the facts file.

    `[section]` opens a section; a line is `field | field`, or `first: second, second`, which
    stands for one fact a comma. ValueError names the line that is neither.
    """
    section = ""
    for line in filter(None, (raw.strip() for raw in text.splitlines())):
        if line.startswith("["):
            section = line.strip("[]")
        elif "|" in line:
            yield section, [field.strip() for field in line.split("|")]
        elif ": " in line:
            first, rest = line.split(": ", 1)
            for second in rest.split(","):
                yield section, [first, second.strip()]
        else:
            raise ValueError(f"{FACTS.name}: {line!r} is no fact: write `a | b` or `a: b, c`.")


def _drafts() -> list[_Draft]:
    drafts = [_MAKERS[section](*fields) for section, fields in _facts(FACTS.read_text("utf-8"))]
    drafts += [_follows(str(n), str(n + 1)) for n in range(1, 21)]
    drafts += [_sum(a, b) for a in range(2, 10) for b in range(1, min(a, 4) + 1)]
    drafts += [_difference(a, b) for a in range(3, 11) for b in range(1, min(a, 5))]
    return drafts


def _has(phrase: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text, re.IGNORECASE) is not None


@cache
def questions() -> tuple[Question, ...]:
    """Every question, in a fixed order; no two have the same text."""
    drafts = _drafts()
    pools: dict[str, set[str]] = {}
    for draft in drafts:
        if draft.kind not in ("how-to", "greeting"):
            pools.setdefault(draft.kind, set()).update(draft.needed[0])
    made: dict[str, Question] = {}
    for draft in drafts:
        answers = _in_styles(draft)
        # A word of its own question or answers ("have a lovely day") can't be held against it.
        said = " ".join((*draft.asks, *(text for group in answers.values() for text in group)))
        rivals = frozenset(r for r in pools.get(draft.kind, ()) if not _has(r, said))
        for ask in draft.asks:
            made.setdefault(ask, Question(draft.kind, ask, draft.needed, rivals, answers))
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
    named = all(any(_has(word, answer) for word in group) for group in question.needed)
    return named and not any(_has(rival, answer) for rival in question.rivals)


@cache
def vocabulary() -> frozenset[str]:
    """Every word of every answer, in lower case: what the starter model can spell."""
    texts = {text for q in questions() for group in q.answers.values() for text in group}
    return frozenset(word.lower() for text in texts for word in re.findall(r"[\w'-]+", text))
