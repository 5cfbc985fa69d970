"""How many voters of each kind the rules flag, by gold share, votes a voter and votes a pair.

Run as `python -m tests.benchmarks.bench_voters`. Crowds of 40 simulated voters (see
`voters_simulated`), judged by the very rules of the app, 200 crowds a cell from stated seeds.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from annotation.quality.quality import Share, share_of
from annotation.quality.voter_health import assess_voters
from tests.voters_simulated import Kind, Plan, simulate

CROWDS = 200
VOTES_EACH = (15, 30, 60, 100)
GOLD_SHARES = (0.0, 0.1, 0.25)
VOTES_PER_PAIR = (1, 2, 3, 5, 40)
USUAL = Plan(votes_each=30, gold_share=0.1, votes_per_pair=3)
FIRST_SEED = 1000
OTHER_CROWDS = {
    "half of the 40 are cheats": replace(USUAL, honest=20, cheats_of_a_kind=4),
    "honest votes 25 % wrong": replace(USUAL, slips=0.22),
    "honest tastes for length differ much": replace(USUAL, slips=0.05, taste=0.5),
    "the longer answer is better 9 times in 10": replace(USUAL, longer=1.28),
    "… and half of the 40 are cheats": replace(USUAL, longer=1.28, honest=20, cheats_of_a_kind=4),
}
"""Variations of the usual plan."""

Cell = dict[Kind, Share]


def flagged(plan: Plan, crowds: int) -> Cell:
    """The share of the voters of each kind that is flagged, over so many crowds of one plan."""
    found, there = Counter[Kind](), Counter[Kind]()
    for seed in range(FIRST_SEED, FIRST_SEED + crowds):
        crowd = simulate(plan, seed)
        there.update(crowd.kinds.values())
        voters = assess_voters(crowd.votes, crowd.pairs)
        found.update(crowd.kinds[voter.voter] for voter in voters if voter.is_flagged)
    shares = {kind: share_of(found[kind], there[kind]) for kind in there}
    return {kind: share for kind, share in shares.items() if share is not None}


def table(rows: Sequence[tuple[str, Cell]]) -> str:
    """Markdown: a row a plan, a column a kind, in percent with 95 % Wilson intervals."""
    lines = ["| | " + " | ".join(Kind) + " |", "|---" * (len(Kind) + 1) + "|"]
    for name, cell in rows:
        shown = " | ".join(_percent(cell[kind]) if kind in cell else "" for kind in Kind)
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def _percent(share: Share) -> str:
    return f"**{100 * share.rate:.1f}** [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _row(plan: Plan, crowds: int, name: str = "") -> tuple[str, Cell]:
    name = name or (
        f"{plan.votes_each} votes each, {plan.gold_each} on gold, {plan.votes_per_pair} a pair"
    )
    began = time.process_time()
    row = (name, flagged(plan, crowds))
    print(f"{table([row]).splitlines()[2]} {time.process_time() - began:.0f} CPU-s", flush=True)
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a cell as it is done, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crowds", type=int, default=CROWDS, help="a cell")
    crowds = parser.parse_args(arguments).crowds
    by_gold = [
        _row(replace(USUAL, votes_each=votes, gold_share=share), crowds)
        for share in GOLD_SHARES
        for votes in VOTES_EACH
    ]
    by_overlap = [_row(replace(USUAL, votes_per_pair=n), crowds) for n in VOTES_PER_PAIR]
    others = [_row(plan, crowds, name) for name, plan in OTHER_CROWDS.items()]
    print(f"\nFlagged, % of voters of a kind [95 %], {crowds} crowds of {len(USUAL.kinds)}\n")
    print(table(by_gold) + "\n\n" + table(by_overlap + others))


if __name__ == "__main__":
    main()
