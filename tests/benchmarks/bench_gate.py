"""How often the promotion gate errs: `python -m tests.benchmarks.bench_gate`.

4,000 runs a row, 400 decided votes each, seed 42. Voters come in random order; each gives at most
VOTER_CAP votes to the gate, whatever more they cast. "taste" is the standard deviation, between
voters, of the chance that a voter prefers the candidate: votes of one voter are alike.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alignment.contest.gate import ALPHA, MIN_DECIDED, VOTER_CAP, chance_of_promotion, log_evidence

RUNS, VOTES, SEED = 4000, 400, 42


@dataclass(frozen=True, slots=True)
class Cell:
    rate: float
    taste: float = 0.0
    voters: int | None = None  # None: a new voter for every vote


CELLS = [
    *(Cell(rate) for rate in (0.45, 0.50, 0.55, 0.60, 0.65)),
    *(Cell(0.50, 0.10, voters) for voters in (8, 20, 40, 80)),
    *(Cell(0.50, 0.20, voters) for voters in (8, 20, 40, 80)),
    *(Cell(0.60, 0.10, voters) for voters in (8, 20, 40, 80)),
]


def draw_votes(cell: Cell, cap: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """(RUNS, votes) of wins, in the order of voting, with at most `cap` votes a voter."""
    if cell.voters is None:
        return generator.random((RUNS, VOTES)) < cell.rate
    tastes = np.clip(generator.normal(cell.rate, cell.taste, (RUNS, cell.voters)), 0, 1)
    size = min(VOTES, cap * cell.voters)
    turns = np.tile(np.repeat(np.arange(cell.voters), cap), (RUNS, 1))
    order = generator.permuted(turns, axis=1)[:, :size]
    return generator.random((RUNS, size)) < np.take_along_axis(tastes, order, axis=1)


def promoted_at(won: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(RUNS,): after how many votes each run was promoted, inf for never."""
    wins = np.cumsum(won, axis=1)
    count = np.arange(1, won.shape[1] + 1)
    passed = (log_evidence(wins, count - wins) >= math.log(1 / ALPHA)) & (count >= MIN_DECIDED)
    return np.where(passed.any(axis=1), passed.argmax(axis=1) + 1.0, np.inf)


def calibration(generator: np.random.Generator) -> list[tuple[str, float, float, int]]:
    """What was forecast after 100 votes, and how often it came true within the next 100."""
    rates = generator.beta(10, 10, RUNS)
    won = generator.random((RUNS, 200)) < rates[:, None]
    at = promoted_at(won)
    wins = won[:, :100].sum(axis=1)
    open_runs = at > 100
    table = {
        w: chance_of_promotion(int(w), int(100 - w), seed=int(w)) for w in set(wins[open_runs])
    }
    said = np.array([table.get(w, np.nan) for w in wins])
    rows = []
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1.01)):
        chosen = open_runs & (said >= low) & (said < high)
        if chosen.any():
            came = float((at[chosen] <= 200).mean())
            rows.append(
                (f"{low:.1f}–{high:.1f}", float(said[chosen].mean()), came, int(chosen.sum()))
            )
    return rows


def main() -> None:
    print(f"Gate: {RUNS} runs a row, {VOTES} votes, cap {VOTER_CAP} a voter, seed {SEED}")
    print("| win rate | taste sd | voters | votes | promoted | without the cap | median votes |")
    print("|---|---|---|---|---|---|---|")
    for cell in CELLS:
        won = draw_votes(cell, VOTER_CAP, np.random.default_rng(SEED))
        at = promoted_at(won)
        open_ = promoted_at(draw_votes(cell, 50, np.random.default_rng(SEED)))
        half = np.median(at)
        print(
            f"| {cell.rate:.2f} | {cell.taste or '–'} | {cell.voters or 'new each'} "
            f"| {won.shape[1]} | {np.isfinite(at).mean():.1%} "
            f"| {'–' if cell.voters is None else f'{np.isfinite(open_).mean():.1%}'} "
            f"| {'–' if np.isinf(half) else f'{half:.0f}'} |"
        )
    print("\n| forecast after 100 votes | mean forecast | came true | runs |\n|---|---|---|---|")
    for band, said, came, count in calibration(np.random.default_rng(SEED)):
        print(f"| {band} | {said:.2f} | {came:.2f} | {count} |")


if __name__ == "__main__":
    main()
