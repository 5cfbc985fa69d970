"""How often the 95 % intervals cover the truth: `python -m tests.benchmarks.bench_ratings`.

1,000 simulated leaderboards of four models with known strengths, 500 votes by 100 voters, a fifth
of them ties by Davidson's model; seed 42. Beside it half-a-win ties, as many arenas have them.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from alignment.contest.comparisons import Comparison, Outcome
from alignment.contest.ratings import ELO, strengths
from annotation.schema import ModelRef

RUNS, VOTES, VOTERS, RESAMPLES, SEED = 1000, 500, 100, 200, 42
TRUTH = (0.0, 0.3, 0.6, -0.3)
TIE_WEIGHT = 0.5
BASE = ModelRef("starter", "1" * 40)
MODELS = [BASE, *(ModelRef("starter", "1" * 40, f"run-{n}", str(n) * 40) for n in (1, 2, 3))]


def draw_votes(generator: np.random.Generator, taste: float) -> list[Comparison]:
    """Votes by VOTERS voters, each with own strengths that differ by `taste` (sd, in θ)."""
    tastes = np.array(TRUTH) + generator.normal(0, taste, (VOTERS, len(TRUTH)))
    names: list[Outcome] = ["win", "loss", "tie"]
    found = []
    for n in range(VOTES):
        voter = n % VOTERS
        first, second = generator.choice(len(TRUTH), 2, replace=False)
        half = (tastes[voter, first] - tastes[voter, second]) / 2
        shares = np.array([np.exp(half), np.exp(-half), TIE_WEIGHT])
        outcome = names[generator.choice(3, p=shares / shares.sum())]
        found.append(Comparison(f"v{voter}", MODELS[first], MODELS[second], outcome))
    return found


def halve_ties(found: list[Comparison], generator: np.random.Generator) -> list[Comparison]:
    """A tie as a win for either side at even odds: what "half a win each" estimates."""
    return [
        replace(c, outcome="win" if generator.random() < 0.5 else "loss")
        if c.outcome == "tie"
        else c
        for c in found
    ]


def coverage(draw: Callable[[np.random.Generator], list[Comparison]]) -> tuple[float, float]:
    """Share of intervals that hold the true strength, and their median width in Elo points."""
    held, widths = [], []
    for run in range(RUNS):
        generator = np.random.default_rng((SEED, run))
        for strength in strengths(draw(generator), BASE, resamples=RESAMPLES, seed=run):
            if strength.model == BASE:
                continue
            truth = TRUTH[MODELS.index(strength.model)] * ELO
            held.append(strength.low <= truth <= strength.high)
            widths.append(strength.high - strength.low)
    return float(np.mean(held)), float(np.median(widths))


def main() -> None:
    print(f"Intervals: {RUNS} leaderboards, {VOTES} votes, {VOTERS} voters, seed {SEED}")
    print("| ties | voters' taste (sd of θ) | covered | median width, Elo |\n|---|---|---|---|")
    for taste in (0.0, 0.3):
        share, width = coverage(lambda g, t=taste: draw_votes(g, t))  # type: ignore[misc]
        print(f"| Davidson | {taste} | {share:.1%} | {width:.0f} |", flush=True)
    share, width = coverage(lambda g: halve_ties(draw_votes(g, 0.0), g))
    print(f"| half a win | 0.0 | {share:.1%} | {width:.0f} |")


if __name__ == "__main__":
    main()
