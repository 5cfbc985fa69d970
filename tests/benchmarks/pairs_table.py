"""What bench_pairs found, as a table: gains over random, each paired by seed and voter.

Owns the goal's words and the interval. Runs nothing.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from alignment.scripted_voter import Taste
from tests.benchmarks.pair_strategies import ADAPTIVE, RANDOM, STRATEGIES

WANTED_GAIN, MAX_LOSS = 0.04, 0.02
FAIR_DECIDED = 0.1
"""A taste that decides less of random's pairs has nothing to teach: it counts in no mean."""
TASTES: tuple[Taste, ...] = get_args(Taste)


@dataclass(frozen=True, slots=True)
class Result:
    """One strategy with one voter and seed. `drawn` answers were paid for `shown` pairs."""

    strategy: str
    taste: Taste
    seed: int
    tuning: bool
    shown: int
    drawn: int
    examples: int
    steps: int
    win: float
    correct: float
    correct_lost: float
    form_lost: float
    words: float
    cpu_s: float


def load_results(file: Path) -> list[Result]:
    """The results in a JSONL file, or none where there is no file."""
    lines = file.read_text("utf-8").splitlines() if file.exists() else ()
    return [Result(**json.loads(line)) for line in lines]


Wins = Mapping[tuple[int, Taste], Result]


def report(results: Sequence[Result]) -> str:
    """A Markdown table, a strategy a line: what it costs, and how far it is above random."""
    by_strategy: defaultdict[str, dict[tuple[int, Taste], Result]] = defaultdict(dict)
    for result in results:
        by_strategy[result.strategy][result.seed, result.taste] = result
    base = by_strategy.get(RANDOM, {})
    fair = fair_tastes(base)
    lines = [
        f"Means over {', '.join(fair)}. Gains are over random of the same seed and voter; random's "
        "own line has win rates there.",
        "",
        f"| strategy | seeds | answers a pair | decided | win rate | gain [95 %] | worst voter "
        f"| correct | form | {' | '.join(TASTES)} | goal |",
        "|" + "---|" * (10 + len(TASTES)),
    ]
    order = [name for name in (*STRATEGIES, *ADAPTIVE) if name in by_strategy]
    lines += [_line(name, by_strategy[name], base, fair) for name in order]
    return "\n".join(lines)


def fair_tastes(base: Wins) -> list[Taste]:
    """The tastes that decide at least FAIR_DECIDED of random's pairs."""
    decided: defaultdict[Taste, list[float]] = defaultdict(list)
    for result in base.values():
        decided[result.taste].append(result.examples / result.shown)
    return [t for t in TASTES if t in decided and np.mean(decided[t]) >= FAIR_DECIDED]


def _line(name: str, mine: Wins, base: Wins, fair: Sequence[Taste]) -> str:
    all_ = [mine[key] for key in mine if key[1] in fair]
    gains = {key: mine[key].win - base[key].win for key in mine if key in base}
    by_taste = {t: [g for (_, of), g in gains.items() if of == t] for t in TASTES}
    mean = float(np.mean([np.mean(by_taste[t]) for t in fair]))
    low, high = interval({key: gain for key, gain in gains.items() if key[1] in fair})
    worst = min((float(np.mean(g)), t) for t, g in by_taste.items() if g)
    lost = {
        kind: float(np.mean([getattr(r, kind) for r in all_]))
        for kind in ("correct_lost", "form_lost")
    }
    random_lost = float(np.mean([base[key].correct_lost for key in base if key[1] in fair]))
    levels = " | ".join(_level(name, t, mine, by_taste[t]) for t in TASTES)
    return (
        f"| {name} | {len({seed for seed, _ in mine})} "
        f"| {sum(r.drawn for r in all_) / sum(r.shown for r in all_):.1f} "
        f"| {np.mean([r.examples / r.shown for r in all_]):.2f} "
        f"| {np.mean([r.win for r in all_]):.3f} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"| {worst[1]} {worst[0]:+.3f} | {-lost['correct_lost']:+.3f} | {-lost['form_lost']:+.3f} "
        f"| {levels} | {_goal(name, mean, worst[0], random_lost - lost['correct_lost'])} |"
    )


def _level(name: str, taste: Taste, mine: Wins, gains: Sequence[float]) -> str:
    wins = [result.win for (_, of), result in mine.items() if of == taste]
    if not wins:
        return ""
    return f"{np.mean(wins):.3f}" if name == RANDOM else f"{np.mean(gains):+.3f}"


def _goal(name: str, mean: float, worst: float, correct: float) -> str:
    if name == RANDOM:
        return ""
    short = [f"gain {mean - WANTED_GAIN:+.3f}"] if mean < WANTED_GAIN else []
    short += [f"worst voter {worst + MAX_LOSS:+.3f}"] if worst < -MAX_LOSS else []
    short += [f"correct {correct:+.3f}"] if correct < 0 else []
    return f"NOT met ({', '.join(short)})" if short else "met"


def interval(gains: Mapping[tuple[int, Taste], float]) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean: seeds and voters redrawn together, 4,000 times."""
    seeds, tastes = (sorted({key[place] for key in gains}) for place in (0, 1))
    table = np.array([[gains.get((s, t), np.nan) for t in tastes] for s in seeds])
    rng = np.random.default_rng(0)
    rows = rng.integers(len(seeds), size=(4000, len(seeds)))
    columns = rng.integers(len(tastes), size=(4000, len(tastes)))
    means = [np.nanmean(table[r][:, c]) for r, c in zip(rows, columns, strict=True)]
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(low), float(high)
