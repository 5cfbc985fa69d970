"""What is wrong with examples before a run, as far as it shows without a tokenizer.

Owns the thresholds and the words of these findings. Pure: reads no journal and no model.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence

from alignment.checks.diagnosis import Finding, Level
from alignment.checks.material import RARE, Material, count_of, percent
from alignment.training.rows.data import HOLD_OUT_FROM, split_held_out
from annotation.quality.quality import share_of

ENOUGH_EXAMPLES = 100
"""About 200 votes; on the starter half of that won clearly less (README)."""
LENGTH_LEAN = 0.15
"""Distance from one half below which a lean, real or not, hardly moves what is learned."""
MAX_DUPLICATES, MAX_OF_ONE_TEXT, RECURRENCES = 0.05, 0.1, 5
MAX_DEGENERATE, MAX_CUT = 0.02, 0.1
FEW_PROMPTS = 20
LOOP_SHORTEST, LOOP_RATIO = 80, 0.3
"""English prose of 80 characters deflates to about .9 of its size, a loop to under .3."""


def check_examples(material: Material) -> list[Finding]:
    """Every finding on the examples of `material`; only their number where there are none."""
    checks: tuple[Callable[[Material], Finding | None], ...] = (
        _count,
        _empty,
        _length,
        _duplicates,
        _recurring,
        _cut,
        _degenerate,
        _prompts,
        _held_out,
    )
    return [finding for check in checks if (finding := check(material)) is not None]


def length_finding(lengths: Sequence[tuple[int, int]], unit: str) -> Finding | None:
    """How often the chosen side is the longer one, of (chosen, rejected) lengths in `unit`."""
    longer = sum(chosen > rejected for chosen, rejected in lengths)
    share = share_of(longer, sum(chosen != rejected for chosen, rejected in lengths))
    if share is None:
        return None
    means = [sum(side) / len(lengths) for side in zip(*lengths, strict=True)]
    said = f"{means[0]:.0f} {unit} against {means[1]:.0f} on average"
    leans = share.p_value < RARE
    if not leans:
        level: Level = "ok"
        title = f"Chosen answers are longer in {percent(share.rate)} of examples"
        meaning, advice = f"No lean that chance would not give; {said}.", ""
    else:
        level = "warning" if abs(share.rate - 0.5) >= LENGTH_LEAN else "note"
        word, share_said = (
            ("longer", share.rate) if share.rate > 0.5 else ("shorter", 1 - share.rate)
        )
        title = f"Chosen answers are {word} in {percent(share_said)} of examples"
        grown = "grow, and past what voters wanted they ramble"
        shrunk = "shrink, and right ones can get lost on the way"
        meaning = (
            f"Whether voters meant length or not ({said}), the model learns it: answers will "
            f"{grown if word == 'longer' else shrunk}."
        )
        advice = "watch the length of samples, and use DPO's length guard where it runs away"
    return Finding("length", level, title, meaning, advice, share.rate, share.low, share.high)


def is_degenerate(text: str) -> bool:
    """Whether `text` repeats itself, holds no letter or digit, or has a broken character."""
    said = text.strip()
    if "\ufffd" in said or not any(character.isalnum() for character in said):
        return True
    raw = said.encode()
    return len(raw) >= LOOP_SHORTEST and len(zlib.compress(raw, 9)) < LOOP_RATIO * len(raw)


def _count(m: Material) -> Finding:
    found = len(m.examples)
    what = "An example is a pair of answers of which most voters preferred the same one."
    if found < m.min_examples:
        title = f"Run needs at least {m.min_examples} preference examples and found {found}"
        advice = "collect more votes or lower MIN_EXAMPLES"
        return Finding("examples", "blocking", title, what, advice, found)
    if found >= ENOUGH_EXAMPLES:
        return Finding("examples", "ok", f"{found} examples", what, value=found)
    meaning = (
        f"{what} On so few a run gains less: on the starter, 20 examples won .58 of comparisons "
        "and 100 won .77 (tests/benchmarks/alignment_results.md)."
    )
    advice = f"collect votes until there are about {ENOUGH_EXAMPLES} examples, or expect little"
    return Finding("examples", "warning", f"{found} examples are few", meaning, advice, found)


def _empty(m: Material) -> Finding | None:
    empty = sum(not e.chosen.strip() or not e.rejected.strip() for e in m.examples)
    if not empty:
        return None
    return Finding(
        "empty",
        "blocking",
        f"{count_of(empty, 'example')} with an empty answer",
        "An empty answer teaches the model to say nothing.",
        "export again from the votes, which hold no empty answers",
        empty,
    )


def _length(m: Material) -> Finding | None:
    return length_finding([(len(e.chosen), len(e.rejected)) for e in m.examples], "characters")


def _duplicates(m: Material) -> Finding | None:
    if not m.examples:
        return None
    seen = Counter((e.prompt.id, e.chosen.strip(), e.rejected.strip()) for e in m.examples)
    opposed = sum(min(n, seen[p, r, c]) for (p, c, r), n in seen.items() if c < r)
    again = len(m.examples) - len(seen)
    share = (again + 2 * opposed) / len(m.examples)
    if not again and not opposed:
        meaning = "No two examples hold the same prompt and answers."
        return Finding("duplicates", "ok", "No duplicates", meaning, value=0.0)
    title = f"{count_of(again, 'duplicate')}, {count_of(opposed, 'contradiction')}"
    meaning = (
        "A duplicate repeats prompt and both answers and weighs twice; a contradiction prefers "
        "the other of the same two answers, and the two cancel."
    )
    level: Level = "warning" if share >= MAX_DUPLICATES else "note"
    return Finding("duplicates", level, title, meaning, "use more prompts", share)


def _recurring(m: Material) -> Finding | None:
    prompts_of: dict[str, set[str]] = {}
    for example in m.examples:
        prompts_of.setdefault(example.chosen.strip(), set()).add(example.prompt.id)
    if not prompts_of:
        return None
    text, prompts = max(prompts_of.items(), key=lambda item: (len(item[1]), item[0]))
    share = len(prompts) / len({e.prompt.id for e in m.examples})
    if len(prompts) < RECURRENCES or share < MAX_OF_ONE_TEXT:
        title = "No answer is chosen again and again"
        return Finding("recurring", "ok", title, "Chosen answers differ.", value=share)
    said = "".join(c if c.isprintable() else " " for c in text)
    shown = said if len(said) <= 40 else f"{said[:39]}…"
    return Finding(
        "recurring",
        "warning",
        f"“{shown}” is the chosen answer to {len(prompts)} prompts",
        "The model may learn to say this whatever it is asked.",
        "leave out prompts that all have one answer, or check that voters mean it",
        share,
    )


def _cut(m: Material) -> Finding | None:
    if not m.examples:
        return None
    cut = sum(e.chosen_finish == "length" for e in m.examples)
    share = cut / len(m.examples)
    meaning = "Where an answer was cut at the token limit, the model never sees how it ends."
    title = f"{cut} of {len(m.examples)} chosen answers were cut at the token limit"
    if not cut:
        return Finding("cut", "ok", title, meaning, value=share)
    level: Level = "warning" if share >= MAX_CUT else "note"
    advice = "let answers be longer when they are sampled, or ask for short ones"
    return Finding("cut", level, title, meaning, advice, share)


def _degenerate(m: Material) -> Finding | None:
    if not m.examples:
        return None
    bad = sum(is_degenerate(e.chosen) for e in m.examples)
    title = f"{bad} of {len(m.examples)} chosen answers loop or hold broken characters"
    share = bad / len(m.examples)
    if not bad:
        return Finding("degenerate", "ok", title, "Chosen answers read as text.", value=share)
    level: Level = "warning" if share >= MAX_DEGENERATE else "note"
    meaning = "A run makes the like of every chosen answer more likely, such answers too."
    return Finding("degenerate", level, title, meaning, "look at them and undo such votes", share)


def _prompts(m: Material) -> Finding | None:
    if not m.examples:
        return None
    uses = Counter(e.prompt.id for e in m.examples)
    left_out = m.prepared.counts.eval_left_out
    title = f"{count_of(len(uses), 'prompt')} for {count_of(len(m.examples), 'example')}"
    meaning = (
        f"{count_of(left_out, 'more voted pair')} wait for the evaluation: a fifth of all "
        "prompts, by hash, is never trained on."
    )
    if len(uses) >= FEW_PROMPTS:
        return Finding("prompts", "ok", title, meaning, value=len(uses))
    meaning = f"What is learned on so few prompts may hold for these alone. {meaning}"
    return Finding("prompts", "warning", title, meaning, "vote on more prompts", len(uses))


def _held_out(m: Material) -> Finding | None:
    if not m.examples:
        return None
    train, held_out = split_held_out(m.examples)
    if not train:
        title = f"All {len(held_out)} examples are held out"
        meaning = (
            "A tenth of the prompts, by hash, is for evaluation, and there is no other prompt."
        )
        return Finding(
            "held_out", "blocking", title, meaning, "vote on more prompts", len(held_out)
        )
    if held_out:
        title = f"{len(train)} examples to train on, {len(held_out)} held out"
        meaning = "The run watches the held-out ones to tell learning from memorising."
        return Finding("held_out", "ok", title, meaning, value=len(held_out))
    meaning = (
        f"With fewer than {HOLD_OUT_FROM} examples all are trained on, so the run's own accuracy "
        "says how well it remembers, not how well it learned."
    )
    advice = "judge by blind comparisons"
    return Finding("held_out", "note", "No example is held out", meaning, advice, 0)
