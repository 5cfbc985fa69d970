"""A real journal with decided votes, exported: what every test of training starts from."""

from collections.abc import Container
from datetime import UTC, datetime
from pathlib import Path

from alignment.base import ResolvedBase
from annotation.export.export import Export, export_preferences
from annotation.journal.journal import Journal
from annotation.schema import Choice, Completion, ModelRef, Pair, Prompt, Sampling, Split, Vote

TINY = ModelRef("tiny", "7" * 40)
WHEN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def tiny_base(folder: Path) -> ResolvedBase:
    return ResolvedBase(TINY, folder, is_starter=False, notice=None)


def train_prompts(count: int) -> list[Prompt]:
    every = (Prompt.from_text(f"What is {n} and then some?") for n in range(100 * count))
    return [prompt for prompt in every if prompt.split is Split.TRAIN][:count]


def export_of(
    folder: Path, count: int, *, cut: Container[int] = (), flipped: Container[int] = ()
) -> Export:
    """An export with `count` examples: long polite answers preferred to short ones.

    The polite answers to the prompts in `cut` were cut at the token limit; votes on the pairs in
    `flipped` went to the short ones.
    """
    journal = Journal(folder / f"journal-{count}.sqlite3")
    pairs = [
        Pair(
            f"pair-{n:03d}",
            prompt,
            (_said(f"It is {n}, thank you.", cut=n in cut), _said(f"{n} no")),
            WHEN,
        )
        for n, prompt in enumerate(train_prompts(count))
    ]
    journal.add_pairs(pairs).result(10)
    for n, pair in enumerate(pairs):
        choice = Choice.B if n in flipped else Choice.A
        journal.add_vote(Vote(pair.id, pair.id, "anon-1", choice, False, WHEN)).result(10)
    export = export_preferences(journal, folder / f"export-{count}")
    journal.close()
    return export


def _said(text: str, *, cut: bool = False) -> Completion:
    return Completion(text, TINY, Sampling(), "length" if cut else "stop")
