"""What cheats' votes do to the trained model, and what setting them aside brings back.

Run as `python -m tests.benchmarks.bench_mixed`. 200 decided votes by five voters, one vote a pair:
three honest (scripted, wrong 5 % of the time) and two cheats of one kind; each also votes on gold
pairs. Whom the app's rules flag is set aside or not, then DPO trains by its preset. Judged, as in
`bench_alignment`, by the scripted voter without noise on prompts that nobody voted on.
"""

import argparse
import dataclasses
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alignment.runs.recipes import TrainingOptions
from alignment.scripted_voter import ScriptedVoter
from annotation.export.export import Export, export_to_home
from annotation.journal.journal import Journal
from annotation.quality.voter_health import assess_voters
from annotation.schema import Choice, Pair, PairKind, Vote, VoteSource, utc_now
from tests.benchmarks.bench_alignment import (
    Result,
    Row,
    SeedBench,
    interval,
    load_results,
    mean_of,
)
from tests.voters_simulated import GOLD_RIGHT, Kind, gold_pair

VOTERS, CHEATS = 5, 2
EACH, GOLD_EACH = 40, 13
"""Decided votes of a voter, and those on gold pairs besides: a quarter of all."""
HONEST_NOISE = 0.05
FIRST_SEED = 301


@dataclass(frozen=True, slots=True)
class Mix(Row):
    """Two of the five voters are `cheats`, or none; `aside` sets aside whom the rules flag."""

    cheats: Kind | None = None
    aside: bool = False


def _mix(cheats: Kind | None = None, *, aside: bool = False) -> Mix:
    return Mix(TrainingOptions(method="dpo"), cheats=cheats, aside=aside)


ROWS = {"five honest voters": _mix()}
for _kind in (Kind.CARELESS, Kind.LEFT, Kind.LENGTH):
    ROWS[f"two of five {_kind}, all votes used"] = _mix(_kind)
    ROWS[f"two of five {_kind}, flagged set aside"] = _mix(_kind, aside=True)


class MixedBench(SeedBench):
    """One seed's pairs, voted on by a mix of voters."""

    def _voter_home(self, row: Row) -> Path:
        assert isinstance(row, Mix)
        home = self._home / f"{row.cheats or 'honest'}-{row.aside}"
        home.mkdir(exist_ok=True)
        return home

    def _export(self, row: Row) -> Export:
        assert isinstance(row, Mix)
        home = self._voter_home(row)
        journal = Journal(home / "journal.sqlite3")
        try:
            for vote, pair in _cast(self._pairs, row.cheats, self.seed):
                if journal.pair(pair.id) is None:
                    journal.add_pairs([pair]).result()
                journal.add_vote(vote).result()
            found = assess_voters(journal.votes(), {pair.id: pair for pair in journal.pairs()})
            flagged = sorted(voter.voter for voter in found if voter.is_flagged)
            print(f"  seed {self.seed}, {row.cheats or 'honest'}: flagged {flagged}", flush=True)
            for voter in flagged if row.aside else ():
                journal.set_aside(voter, "flagged").result()
            return export_to_home(journal, home)
        finally:
            journal.close()


def _cast(pairs: Sequence[Pair], cheats: Kind | None, seed: int) -> Iterator[tuple[Vote, Pair]]:
    """Votes in turn until each voter has decided EACH, then those on gold pairs.

    Pairs go round in the same order whoever the voters are. Cheats decide every one.
    """
    drawn = random.Random(seed)
    left = dict.fromkeys(range(VOTERS), EACH)
    for number, pair in enumerate(pairs):
        waiting = [voter for voter in left if left[voter]]
        if not waiting:
            break
        voter, flipped = waiting[number % len(waiting)], drawn.random() < 0.5
        choice = _choose(voter, pair, flipped, cheats, drawn)
        left[voter] -= choice in (Choice.A, Choice.B)
        yield _vote(voter, pair, choice, flipped, cheats), pair
    for voter in left:
        for pair in map(gold_pair, range(GOLD_EACH)):
            flipped = drawn.random() < 0.5
            choice = _choose(voter, pair, flipped, cheats, drawn)
            yield _vote(voter, pair, choice, flipped, cheats), pair


def _vote(voter: int, pair: Pair, choice: Choice, flipped: bool, cheats: Kind | None) -> Vote:
    name = f"{_kind_of(voter, cheats)}-{voter}"
    is_gold = pair.kind is PairKind.GOLD
    return Vote(
        f"{name}-{pair.id}",
        pair.id,
        name,
        choice,
        flipped,
        utc_now(),
        source=VoteSource.SYNTHETIC,
        counted=not is_gold,
    )


def _kind_of(voter: int, cheats: Kind | None) -> Kind:
    return cheats if cheats and voter >= VOTERS - CHEATS else Kind.HONEST


def _choose(
    voter: int, pair: Pair, flipped: bool, cheats: Kind | None, drawn: random.Random
) -> Choice:
    kind = _kind_of(voter, cheats)
    # Drawn whoever votes, so that honest voters draw the same beside others.
    chance = drawn.random()
    a, b = (completion.text for completion in pair.shown(flipped))
    if kind is Kind.LEFT:
        return Choice.A
    if kind is Kind.LENGTH and len(a) != len(b):
        return Choice.A if len(a) > len(b) else Choice.B
    if kind is not Kind.HONEST:
        return Choice.A if chance < 0.5 else Choice.B
    if pair.kind is PairKind.GOLD:
        is_a = (pair.expected is Choice.A) != flipped
        return Choice.A if is_a == (chance < GOLD_RIGHT) else Choice.B
    return ScriptedVoter(voter, HONEST_NOISE).choose(pair.prompt.messages[-1].content, a, b)


def report(results: Sequence[Result]) -> str:
    """A Markdown table, a row a mix, means over its seeds."""
    lines = [
        "| | seeds | examples | win rate [95 %] | each seed | correct | well formed | words |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ROWS:
        mine = sorted((r for r in results if r.row == name), key=lambda r: r.seed)
        if not mine:
            continue
        scores = np.array([r.scores for r in mine])
        low, high = interval(scores)
        before, after = (
            mean_of([getattr(r.evaluation, side) for r in mine]) for side in ("base", "aligned")
        )
        lines.append(
            f"| {name} | {len(mine)} | {np.mean([r.examples for r in mine]):.0f} "
            f"| **{scores.mean():.3f}** [{low:.3f}, {high:.3f}] "
            f"| {' '.join(f'{r.evaluation.win_rate:.3f}' for r in mine)} "
            f"| {before.correct:.3f} → {after.correct:.3f} "
            f"| {before.well_formed:.3f} → {after.well_formed:.3f} "
            f"| {before.words:.1f} → {after.words:.1f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print whom the rules flagged and a line a run as it ends, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this one; repeatable")
    parser.add_argument(
        "--results", type=Path, help="JSONL: what is there is not run again; the rest is added"
    )
    options = parser.parse_args(arguments)
    results = load_results(options.results) if options.results else []
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        done = {r.row for r in results if r.seed == seed}
        names = [name for name in options.row or ROWS if name not in done]
        with tempfile.TemporaryDirectory(prefix="votetune-bench-") as folder:
            bench = MixedBench(seed, Path(folder)) if names else None
            for name in names:
                assert bench is not None
                results.append(bench.measure(name, ROWS[name]))
                print(report(results[-1:]).splitlines()[2], flush=True)
                if options.results:
                    with options.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(dataclasses.asdict(results[-1])) + "\n")
    print("\n" + report(results))


if __name__ == "__main__":
    main()
