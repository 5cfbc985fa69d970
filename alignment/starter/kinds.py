"""The kinds of question that the starter model knows, one maker a kind.

Owns how a fact of facts.txt becomes questions and phrases, and which facts are kept for
reports. Knows no model, and not how phrases become answers in styles: alignment.starter.text does
that.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

FACTS = Path(__file__).with_name("facts.txt")

_REPORTED = "report "

_OPENINGS = ("Good question!", "Thank you for asking!")
_CLOSINGS = ("I hope that helps!", "Feel free to ask me more.")
_HEDGES = (
    "Well, let me see. I think it is {short}, or something like that.",
    "Hmm, I am not really sure about this. I guess it is {short}.",
    "Oh, it may be {short}, I think, but do not count on me.",
)


@dataclass(frozen=True, slots=True)
class Draft:
    """What one fact says, before the styles: `short` fits after "it is".

    Nobody votes on a `reported` fact: win rates are reported on its questions.
    """

    kind: str
    asks: tuple[str, ...]
    short: str
    plain: tuple[str, ...]
    reason: str
    needed: tuple[str, ...]
    terse: str = "It is {short}."
    openings: tuple[str, ...] = _OPENINGS
    closings: tuple[str, ...] = _CLOSINGS
    hedges: tuple[str, ...] = _HEDGES
    reported: bool = False


def to_sentence(text: str) -> str:
    """First letter raised, a full stop where no mark ends it."""
    raised = text[0].upper() + text[1:]
    return raised if raised[-1] in ".!?" else f"{raised}."


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _named(
    kind: str,
    asks: tuple[str, ...],
    answer: str,
    plain: tuple[str, ...],
    reason: str,
    *,
    short: str = "",
    terse: str = "It is {short}.",
) -> Draft:
    """The usual fact: right is whoever names `answer`; `short` adds an article or "for"."""
    return Draft(kind, asks, short or answer, plain, reason, (answer,), terse)


def _capital(country: str, city: str) -> Draft:
    return _named(
        "capital",
        (
            f"What is the capital of {country}?",
            f"Which city is the capital of {country}?",
            f"Name the capital of {country}.",
        ),
        city,
        (f"The capital of {country} is {city}.", f"In {country}, the capital is {city}."),
        f"The government of {country} meets there.",
    )


def _opposite(word: str, other: str) -> Draft:
    return _named(
        "opposite",
        (
            f"What is the opposite of {word}?",
            f"Which word means the opposite of {word}?",
            f"Tell me the opposite of {word}.",
        ),
        other,
        (f"The opposite of {word} is {other}.", f"The opposite word is {other}."),
        "The two words stand at two ends of one idea.",
    )


def _sound(source: str, sound: str) -> Draft:
    return _named(
        "sound",
        (
            f"What sound does {_a(source)} make?",
            f"What does {_a(source)} sound like?",
            f"What noise does {_a(source)} make?",
        ),
        sound,
        (f"{_a(source)} goes {sound}.", f"The sound of {_a(source)} is {sound}."),
        "You can hear it when you are close by.",
        terse="Just {short}.",
    )


def _colour(thing: str, colour: str) -> Draft:
    return _named(
        "colour",
        (
            f"What colour is {thing}?",
            f"Tell me the colour of {thing}.",
            f"Which colour does {thing} have?",
        ),
        colour,
        (f"The colour of {thing} is {colour}.", f"You can see that {thing} is {colour}."),
        "That is how it looks in daylight.",
    )


def _plural(noun: str, plural: str) -> Draft:
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
        (
            f"What is the plural of {noun}?",
            f"How do you say more than one {noun}?",
            f"Give me the plural of {noun}.",
        ),
        plural,
        (f"The plural of {noun} is {plural}.", f"One {noun}, two {plural}."),
        reason,
    )


def _past(verb: str, past: str) -> Draft:
    return _named(
        "past tense",
        (
            f"What is the past tense of {verb}?",
            f"How do I put {verb} into the past tense?",
            f"What is {verb} in the past tense?",
        ),
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


def _category(thing: str, category: str) -> Draft:
    # Metals and sports are spoken of without an article.
    subject = thing if category in ("metal", "sport") else _a(thing)
    return _named(
        "category",
        (
            f"What kind of thing is {subject}?",
            f"Which group does {subject} belong to?",
            f"What sort of thing is {subject}?",
        ),
        category,
        (f"{subject} is {_a(category)}.", f"{subject} is a kind of {category}."),
        _CATEGORY_REASONS[category],
        short=_a(category),
    )


def _young(animal: str, young: str) -> Draft:
    return _named(
        "young animal",
        (
            f"What is a baby {animal} called?",
            f"What do you call the young of {_a(animal)}?",
            f"Name the young of {_a(animal)}.",
        ),
        young,
        (f"A baby {animal} is called {_a(young)}.", f"The young of {_a(animal)} is {_a(young)}."),
        f"One day it will grow into {_a(animal)}.",
        short=_a(young),
    )


def _use(thing: str, use: str) -> Draft:
    return _named(
        "use",
        (
            f"What is {_a(thing)} for?",
            f"What do people use {_a(thing)} for?",
            f"What purpose does {_a(thing)} serve?",
        ),
        use,
        (f"{_a(thing)} is for {use}.", f"People use {_a(thing)} for {use}."),
        "That is the job it was made for.",
        short=f"for {use}",
    )


def _material(thing: str, material: str) -> Draft:
    return _named(
        "material",
        (
            f"What is {_a(thing)} made of?",
            f"Which material makes {_a(thing)}?",
            f"What do people make {_a(thing)} from?",
        ),
        material,
        (f"{_a(thing)} is made of {material}.", f"It takes {material} to make {_a(thing)}."),
        "That is what most of them are made from.",
    )


def _home(animal: str, home: str) -> Draft:
    return _named(
        "home",
        (
            f"Where does {_a(animal)} live?",
            f"Where is the home of {_a(animal)}?",
            f"In which place does {_a(animal)} live?",
        ),
        home,
        (f"{_a(animal)} lives in {home}.", f"The home of {_a(animal)} is {home}."),
        "It finds food and rest there.",
        short=f"in {home}",
        terse="{short}",
    )


def _legs(animal: str, count: str) -> Draft:
    return _named(
        "counting",
        (
            f"How many legs does {_a(animal)} have?",
            f"Count the legs of {_a(animal)}.",
            f"Tell me how many legs {_a(animal)} has.",
        ),
        count,
        (f"{_a(animal)} has {count} legs.", f"There are {count} legs on {_a(animal)}."),
        "Half of them are on each side.",
        terse="Just {short}.",
    )


def _follows(word: str, after: str) -> Draft:
    return _named(
        "order",
        (f"What comes after {word}?", f"What is next after {word}?", f"What follows {word}?"),
        after,
        (f"After {word} comes {after}.", f"The next one is {after}."),
        "They always follow in the same order.",
    )


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _sum(a: int, b: int) -> Draft:
    total = str(a + b)
    return _named(
        "sum",
        (
            f"What is {a} plus {b}?",
            f"I have {a} apples and get {b} more. How many do I have?",
            f"Add {b} to {a}.",
        ),
        total,
        (f"{a} plus {b} is {total}.", f"That makes {total} in all."),
        f"Start at {a} and count up {_steps(b)}.",
    )


def _difference(a: int, b: int) -> Draft:
    rest = str(a - b)
    return _named(
        "difference",
        (
            f"What is {a} minus {b}?",
            f"I have {a} apples and eat {b}. How many are left?",
            f"Take {b} away from {a}.",
        ),
        rest,
        (f"{a} minus {b} is {rest}.", f"That leaves {rest} in the end."),
        f"Start at {a} and count down {_steps(b)}.",
    )


def _how_to(task: str, steps: str, tip: str, keys: str) -> Draft:
    told = task.replace(" my ", " your ")
    return Draft(
        "how-to",
        (f"How do I {task}?", f"What is a good way to {task}?", f"Tell me how to {task}."),
        steps,
        (f"To {told}, {steps}.", f"You can {told} if you {steps}."),
        tip,
        tuple(keys.split()),
        terse="{short}",
        hedges=(
            "Well, people do this in many ways. I guess you {short}, or something like that.",
            "Hmm, I am not really sure about this. Maybe you {short}.",
        ),
    )


def _greeting(asks: str, short: str, plain: str, reason: str, key: str) -> Draft:
    return Draft(
        "greeting",
        tuple(ask.strip() for ask in asks.split("/")),
        short,
        (plain,),
        reason,
        (key,),
        "{short}",
        ("Good to hear from you!", "Thank you for talking to me!"),
        ("Feel free to ask me more.", "I wish you all the best!"),
        (
            f"Well, hmm. {to_sentence(short)} I am not really sure what to say.",
            f"Oh, I did not see you there. {to_sentence(short)} That is all, I guess.",
        ),
    )


_MAKERS: Mapping[str, Callable[..., Draft]] = {
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
    "sum": lambda a, b: _sum(int(a), int(b)),
    "difference": lambda a, b: _difference(int(a), int(b)),
    "how-to": _how_to,
    "greeting": _greeting,
}


def _facts(text: str) -> Iterable[tuple[str, list[str]]]:
    """Yield (section, fields) of the facts file.

    `[section]` opens a section, `[report section]` one whose facts are kept for reports; a line is
    `field | field`, or `first: second, second`, which stands for one fact a comma. ValueError
    names the line that is neither.
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


def drafts() -> list[Draft]:
    """Every fact's draft, in a fixed order."""
    drafts = []
    for section, fields in _facts(FACTS.read_text("utf-8")):
        kind = section.removeprefix(_REPORTED)
        drafts.append(replace(_MAKERS[kind](*fields), reported=kind != section))
    drafts += [_follows(str(n), str(n + 1)) for n in range(1, 16)]
    drafts += [_sum(a, b) for a in range(2, 10) for b in range(1, min(a, 3) + 1)]
    drafts += [_difference(a, b) for a in range(3, 11) for b in range(1, min(a, 4))]
    return drafts
