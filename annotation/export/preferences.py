"""One pass over a journal's votes, pair by pair: all that an export says, in flat memory.

Owns the rules of what is a preference. An eval prompt, a tie, "both bad" and an even split never
become one. Writes train.jsonl as it goes; knows nothing of the folder that it becomes part of.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from annotation.consent import licences_told
from annotation.export.card import ExportCounts
from annotation.export.lines import to_line
from annotation.export.sorted_hash import SortedHash
from annotation.faults import Fault
from annotation.journal.journal import JournalReader
from annotation.quality.votes_measured import VotesMeasured
from annotation.schema import (
    Choice,
    ChosenBy,
    Pair,
    PairKind,
    PreferenceExample,
    Split,
    Vote,
    VoteSource,
)


class ExportError(Fault):
    """An export that can't be written or read; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What an export's files say of its examples.

    `sha256` is that of train.jsonl, `votes_sha256` that of `vote_line`s, sorted; `chosen_by` is how
    many of the pairs voted on were chosen by what, `licences` are those that voters were told.
    """

    counts: ExportCounts
    sha256: str
    votes_sha256: str
    measured: VotesMeasured
    chosen_by: Mapping[ChosenBy, int]
    licences: tuple[str, ...]


class Examples:
    """Turns pairs with the votes that count on them into examples, and counts what became of them.

    Every pair is given once.
    """

    def __init__(self) -> None:
        self._votes = self._synthetic = self._pairs = self._examples = 0
        self._voters: set[str] = set()
        self._fates: Counter[str] = Counter()

    def take(self, pair: Pair, votes: Sequence[Vote]) -> PreferenceExample | None:
        """The example that `votes`, one at least, make of `pair`, where they make one."""
        self._votes += len(votes)
        self._synthetic += sum(vote.source is VoteSource.SYNTHETIC for vote in votes)
        self._pairs += 1
        self._voters.update(vote.voter for vote in votes)
        outcome = _outcome(pair, votes)
        if isinstance(outcome, PreferenceExample):
            self._examples += 1
            return outcome
        self._fates[outcome] += 1
        return None

    def counts(self) -> ExportCounts:
        """Of all that was taken so far."""
        return ExportCounts(
            votes=self._votes,
            voters=len(self._voters),
            synthetic_votes=self._synthetic,
            pairs_voted=self._pairs,
            examples=self._examples,
            ties=self._fates["tie"],
            both_bad=self._fates["both_bad"],
            conflicts=self._fates["conflict"],
            eval_left_out=self._fates["eval"],
        )


def voted_pairs(journal: JournalReader) -> Iterator[tuple[Pair, list[Vote]]]:
    """Every pair that an export rests on with its votes, in the order of the pairs' ids.

    Checks, comparisons of models and prompts that wait for approval are none of them. Holds one
    pair at a time. Raises ExportError for a vote on a pair that is not there.
    """
    for pair, votes in journal.pairs_with_votes():
        if pair is None:
            raise ExportError(
                f"Vote {votes[0].id} is on pair {votes[0].pair_id}, which the journal does not "
                "have: restore the journal from a copy or undo the vote."
            )
        if pair.is_public and pair.kind is not PairKind.COMPARE:
            yield pair, votes


def write_lines(journal: JournalReader, file: Path, scratch: Path) -> Contents:
    """Write the examples of every live vote of `journal` to `file`, by pair id.

    `scratch` is a folder for the time of the call. May raise OSError.
    """
    # Here for its numpy, which commands that only look at the types need not wait for.
    from annotation.quality.votes_meter import VotesMeter

    examples, meter, digest = Examples(), VotesMeter(), hashlib.sha256()
    votes_hash = SortedHash(scratch)
    chosen_by: Counter[ChosenBy] = Counter()
    with file.open("wb") as out:
        for pair, votes in voted_pairs(journal):
            meter.take(pair, votes)
            chosen_by[pair.completions[0].sampling.chosen_by] += 1
            for vote in votes:
                votes_hash.add(vote_line(vote))
            example = examples.take(pair, votes)
            if example is not None:
                line = to_line(example)
                digest.update(line)
                out.write(line)
    return Contents(
        counts=examples.counts(),
        sha256=digest.hexdigest(),
        votes_sha256=votes_hash.hexdigest(),
        measured=meter.measured(),
        chosen_by=chosen_by,
        licences=licences_told(journal),
    )


def vote_line(vote: Vote) -> str:
    """What the hash of an export's votes takes of one: id, pair, choice in the record's order."""
    return f"{vote.id} {vote.pair_id} {vote.record_choice}\n"


def _outcome(pair: Pair, votes: Sequence[Vote]) -> PreferenceExample | str:
    """What the counted votes on one pair amount to: an example, or why there is none.

    The majority is strict and over all counted votes: one for a side and one tie decide nothing.
    """
    if pair.prompt.split is Split.EVAL:
        return "eval"
    tally = Counter(vote.record_choice for vote in votes)
    winner, support = max(tally.items(), key=lambda item: (item[1], item[0]))
    if 2 * support <= len(votes):
        return "conflict"
    preference = pair.resolve(winner, flipped=False)
    if preference is None:
        return winner.value
    return PreferenceExample(
        prompt=pair.prompt,
        chosen=preference.chosen.text,
        rejected=preference.rejected.text,
        pair_id=pair.id,
        votes=len(votes),
        agreement=support / (tally[Choice.A] + tally[Choice.B]),
        chosen_model=preference.chosen.model,
        rejected_model=preference.rejected.model,
        chosen_finish=preference.chosen.finish,
        rejected_finish=preference.rejected.finish,
    )
