"""From 200 decided votes to an aligned starter model: win rate, correctness and form, five seeds.

Run as `python -m tests.benchmarks.bench_alignment`. Each seed draws its own train prompts, pairs
and runs; a vote that ties decides nothing and is not counted among the 200. Judged on the report
prompts alone, whose facts nobody votes or tunes by; a tie counts half. Votes are synthetic. Each
run goes the app's own way, from the options through the run's folder to the registry, but in this
process: one import of the libraries for all, which its seconds leave out.

With `--tune` no report prompt is touched: each seed keeps a third of the train prompts' facts out
of its votes and is judged on those. Whatever settles a preset is measured so.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from alignment import train
from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator
from alignment.pipeline import default_sampling
from alignment.places.place import Handle
from alignment.registry import Registry
from alignment.runs.recipes import TrainingOptions, TrainingSpec
from alignment.runs.run_store import RunFolder, Status
from alignment.runs.runs import Runs, RunState
from alignment.scripted_voter import Evaluation, Quality, ScriptedVoter, Taste, best_of, evaluate
from alignment.starter.kinds import drafts
from alignment.starter.starter import STARTER_DIR, report_prompts, starter_prompts, starter_revision
from annotation.export.export import Export, export_to_home
from annotation.journal.journal import Journal
from annotation.schema import Choice, ModelRef, Pair, Prompt, Split, Vote, VoteSource, utc_now

DECIDED = 200
DRAWS = 2
MANY = 16
FIRST_SEED = 101
TUNING_SHARE = 1 / 3
MAX_LOSS = 0.02
"""How much correctness and form may fall short of the base's."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what is trained, on whose votes, and what is wanted of it.

    `flips` is the share of decided votes that press the wrong side. Without `options` nothing is
    trained: `best_of` of that many samples of the base stand for the aligned model, 1 for itself.
    """

    options: TrainingOptions | None
    taste: Taste = "polite"
    flips: float = 0.0
    best_of: int = 1
    wanted: float | None = None
    max_wrong: float = MAX_LOSS


def _dpo(**more: object) -> TrainingOptions:
    return TrainingOptions(method="dpo", **more)  # type: ignore[arg-type]


ROWS = {
    "base against itself": Row(None),
    "best of 16": Row(None, best_of=MANY),
    "best of 16, short taste": Row(None, taste="short", best_of=MANY),
    "dpo": Row(_dpo(), wanted=0.76),
    "orpo": Row(TrainingOptions(method="orpo"), wanted=0.73),
    "sft on the chosen": Row(TrainingOptions(method="sft")),
    "dpo, ipo": Row(_dpo(loss="ipo")),
    "dpo, full": Row(_dpo(tuning="full")),
    "orpo, full": Row(TrainingOptions(method="orpo", tuning="full")),
    "dpo, 20 % flipped": Row(_dpo(), flips=0.2),
    "dpo robust, 20 % flipped": Row(_dpo(loss="robust", flip_rate=0.2), flips=0.2, wanted=0.72),
    "dpo, short taste": Row(_dpo(), taste="short"),
    # What the doctor advises where chosen answers are ten tokens shorter, as they are here.
    "dpo, short taste, guard": Row(
        _dpo(length_penalty=-0.1), taste="short", wanted=0.68, max_wrong=0.04
    ),
}
ONE_SEED = ("best of 16", "best of 16, short taste")
"""Sixteen samples a prompt take long, and their spread over seeds is small."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row under one seed. `scores` has a number from 0 to 1 a judged prompt, in their order."""

    row: str
    seed: int
    examples: int
    steps: int
    seconds: float
    evaluation: Evaluation
    scores: tuple[float, ...]
    tuning: bool = False


class InProcess:
    """A place where nothing starts by itself: whoever asked for the run trains it right here."""

    def check(self, spec: TrainingSpec) -> None:
        """Every spec can be trained here."""

    def spawn(self, folder: RunFolder) -> Handle:
        me = psutil.Process(os.getpid())
        return Handle(me.pid, me.create_time())

    def is_alive(self, folder: RunFolder, status: Status) -> bool:
        return True

    def end(self, folder: RunFolder, status: Status) -> None:
        """Nothing to end."""


class SeedBench:
    """Everything of one seed: its pairs, exports by voter, runs, and the base's own answers."""

    def __init__(self, seed: int, home: Path, *, tuning: bool = False) -> None:
        self.seed, self._home, self._tuning = seed, home, tuning
        ref = ModelRef("starter", starter_revision())
        self._base = ResolvedBase(ref, STARTER_DIR, is_starter=True, notice=None)
        self._voted, self._prompts = prompts_of(seed, tuning=tuning)
        self._texts = [_text(prompt) for prompt in self._prompts]
        self._generator = LocalGenerator(self._base, weights_path=lambda _: None)
        self._asked = self._answers(ref, DRAWS, 5000 + seed)
        self._drawn: list[list[str]] = []
        self._pairs = self._draw_pairs()
        self._exports: dict[tuple[Taste, float], Export] = {}

    def measure(self, name: str, row: Row) -> Result:
        """Train what `row` says and judge it; a run that does not end well raises SystemExit."""
        if row.options is None:
            return self._judge(name, row, self._of_the_base(row), (0, 0, 0.0))
        export = self._export(row)
        home = self._voter_home(row)
        runs = Runs(home, {"here": InProcess()})
        options = dataclasses.replace(row.options, seed=self.seed)
        run = runs.start(options, base=self._base, export=export)
        train.main([str(run.folder.path)])
        run = runs.get(run.id)
        final = run.status.final
        if run.state is not RunState.DONE or final is None:
            raise SystemExit(f"Run {run.id} is {run.state}: {run.reason}")
        registry = Registry(home, self._base)
        self._generator = LocalGenerator(self._base, weights_path=registry.weights_path)
        answers = self._answers(registry.get(run.id).ref, DRAWS, 6000 + self.seed)
        taken = (export.examples, final.steps or run.spec.steps, final.seconds)
        return self._judge(name, row, answers, taken)

    def _of_the_base(self, row: Row) -> list[list[str]]:
        base = self._base.ref
        if row.best_of == 1:
            return self._answers(base, DRAWS, 6000 + self.seed)
        if not self._drawn:
            self._drawn = self._answers(base, DRAWS * row.best_of, 6000 + self.seed)
        picked = []
        for text, some in zip(self._texts, self._drawn, strict=True):
            groups = [some[i : i + row.best_of] for i in range(0, len(some), row.best_of)]
            picked.append([best_of(text, group, row.taste) for group in groups])
        return picked

    def _judge(
        self, name: str, row: Row, answers: list[list[str]], taken: tuple[int, int, float]
    ) -> Result:
        voter = ScriptedVoter(self.seed, taste=row.taste)
        asks = [text for text in self._texts for _ in range(DRAWS)]
        base, aligned = (
            [text for some in all_ for text in some] for all_ in (self._asked, answers)
        )
        evaluation = evaluate(asks, base, aligned, voter)
        votes = [voter.choose(*row) for row in zip(asks, aligned, base, strict=True)]
        worth = [{Choice.A: 1.0, Choice.B: 0.0}.get(vote, 0.5) for vote in votes]
        scores = np.array(worth).reshape(-1, DRAWS).mean(axis=1)
        return Result(name, self.seed, *taken, evaluation, tuple(scores.tolist()), self._tuning)

    def _answers(self, model: ModelRef, draws: int, seed: int) -> list[list[str]]:
        sampling = default_sampling(self._base, seed=seed)
        drawn = self._generator.sample(
            self._prompts, model=model, sampling=sampling, per_prompt=draws
        )
        return [[completion.text for completion in some] for some in drawn]

    def _voter_home(self, row: Row) -> Path:
        home = self._home / f"{row.taste}-{row.flips}"
        home.mkdir(exist_ok=True)
        return home

    def _export(self, row: Row) -> Export:
        key = (row.taste, row.flips)
        if key not in self._exports:
            voter = ScriptedVoter(self.seed, row.flips, row.taste)
            self._exports[key] = _cast_votes(self._voter_home(row), self._pairs, voter)
        return self._exports[key]

    def _draw_pairs(self) -> list[Pair]:
        prompts = self._voted
        pairs: dict[str, Pair] = {}
        for attempt in range(20):
            missing = [p for p in prompts if p.id not in pairs]
            sampling = default_sampling(self._base, seed=1000 * self.seed + attempt)
            drawn = self._generator.sample(
                missing, model=self._base.ref, sampling=sampling, per_prompt=2
            )
            for prompt, (first, second) in zip(missing, drawn, strict=True):
                # An empty answer, or the same twice, makes no pair.
                with contextlib.suppress(ValueError):
                    pairs[prompt.id] = Pair(f"pair-{prompt.id}", prompt, (first, second), utc_now())
        return [pairs[p.id] for p in prompts if p.id in pairs]


def prompts_of(seed: int, *, tuning: bool) -> tuple[list[Prompt], list[Prompt]]:
    """(to vote on, to judge on): no fact is in both. Those to vote on are shuffled by `seed`.

    Judged are the report prompts, or in tuning what asks for a third of the train prompts' facts.
    """
    train = [p for p in starter_prompts() if p.split is Split.TRAIN]
    random.Random(seed).shuffle(train)
    if not tuning:
        return train, report_prompts()
    of = _facts(train)
    facts = sorted(set(of))
    random.Random(seed).shuffle(facts)
    kept = set(facts[: round(TUNING_SHARE * len(facts))])
    voted, judged = (
        [p for p, fact in zip(train, of, strict=True) if (fact in kept) is for_judging]
        for for_judging in (False, True)
    )
    return voted, judged


def _facts(prompts: Sequence[Prompt]) -> list[int]:
    """The number of the fact that each of `prompts` asks for."""
    number = {ask: n for n, draft in enumerate(drafts()) for ask in draft.asks}
    return [number[_text(prompt)] for prompt in prompts]


def _cast_votes(home: Path, pairs: Sequence[Pair], voter: ScriptedVoter) -> Export:
    """Vote on `pairs` in turn until 200 votes have decided one, and export."""
    journal = Journal(home / "journal.sqlite3")
    decided = 0
    try:
        for pair in pairs:
            if decided == DECIDED:
                break
            choice = voter.choose(_text(pair.prompt), *(c.text for c in pair.completions))
            decided += choice in (Choice.A, Choice.B)
            vote = Vote(
                f"vote-{pair.id}",
                pair.id,
                f"scripted-{voter.seed}",
                choice,
                flipped=False,
                created_at=utc_now(),
                source=VoteSource.SYNTHETIC,
            )
            journal.add_pairs([pair]).result()
            journal.add_vote(vote).result()
        return export_to_home(journal, home)
    finally:
        journal.close()


def report(results: Sequence[Result]) -> str:
    """A Markdown table, a row a line, means over its seeds."""
    lines = [
        "| | seeds | win rate [95 %] | each seed | correct | well formed | words | steps | s "
        "| wanted |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        mine = sorted((r for r in results if r.row == name), key=lambda r: r.seed)
        if mine:
            lines.append(_line(name, row, mine))
    return "\n".join(lines)


def _line(name: str, row: Row, mine: Sequence[Result]) -> str:
    win = float(np.mean([np.mean(r.scores) for r in mine]))
    # Tuning judges each seed on prompts of its own, and claims nothing.
    low_high = "tuning" if mine[0].tuning else _interval_said(mine)
    each = " ".join(f"{r.evaluation.win_rate:.3f}" for r in mine)
    before, after = (mean_of([getattr(r.evaluation, s) for r in mine]) for s in ("base", "aligned"))
    trained = row.options is not None
    steps = "/".join(sorted({str(r.steps) for r in mine})) if trained else ""
    seconds = f"{np.mean([r.seconds for r in mine]):.0f}" if trained else ""
    return (
        f"| {name} | {len(mine)} | **{win:.3f}** [{low_high}] | {each} "
        f"| {before.correct:.3f} → {after.correct:.3f} "
        f"| {before.well_formed:.3f} → {after.well_formed:.3f} "
        f"| {before.words:.1f} → {after.words:.1f} | {steps} | {seconds} "
        f"| {_verdict(row, win, before, after)} |"
    )


def _interval_said(mine: Sequence[Result]) -> str:
    low, high = interval(np.array([r.scores for r in mine]))
    return f"{low:.3f}, {high:.3f}"


def _verdict(row: Row, win: float, before: Quality, after: Quality) -> str:
    if row.wanted is None:
        return ""
    wrong, form = before.correct - after.correct, before.well_formed - after.well_formed
    short = [f"win {win - row.wanted:+.3f}"] if win < row.wanted else []
    short += [f"correct {-wrong:+.3f}"] if wrong > row.max_wrong else []
    short += [f"form {-form:+.3f}"] if form > MAX_LOSS and row.taste == "polite" else []
    return f"{row.wanted}: " + (f"NOT met ({', '.join(short)})" if short else "met")


def interval(scores: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> tuple[float, float]:
    """95 % percentile bootstrap of the mean of `scores` (seeds, report prompts), 0 to 1.

    Seeds and facts are drawn with replacement, 4,000 times; the questions of a fact stay together.
    """
    of = np.unique(_facts(report_prompts()), return_inverse=True)[1]
    counts = np.bincount(of)
    sums = np.stack([np.bincount(of, weights=row) for row in scores])
    rng = np.random.default_rng(0)
    seeds = rng.integers(len(scores), size=(4000, len(scores)))
    facts = rng.integers(len(counts), size=(4000, len(counts)))
    means = [
        sums[s][:, f].sum() / (counts[f].sum() * len(s)) for s, f in zip(seeds, facts, strict=True)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mean_of(qualities: Sequence[Quality]) -> Quality:
    """Their mean, share by share."""
    return Quality(*np.mean([dataclasses.astuple(q) for q in qualities], axis=0).tolist())


def _text(prompt: Prompt) -> str:
    return prompt.messages[-1].content


def load_results(file: Path) -> list[Result]:
    """The results in a JSONL file, or none where there is no file."""
    rows = map(json.loads, file.read_text("utf-8").splitlines()) if file.exists() else ()
    return [_result(**row) for row in rows]


def _result(evaluation: dict[str, object], scores: list[float], **rest: object) -> Result:
    for side in ("base", "aligned"):
        evaluation[side] = Quality(**evaluation[side])  # type: ignore[arg-type]
    return Result(**rest, evaluation=Evaluation(**evaluation), scores=tuple(scores))  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a run as it ends, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first of them")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this one; repeatable")
    parser.add_argument("--tune", action="store_true", help="judge on train prompts, for presets")
    parser.add_argument(
        "--results", type=Path, help="JSONL: what is there is not run again; the rest is added"
    )
    options = parser.parse_args(arguments)
    results = load_results(options.results) if options.results else []
    for seed in range(options.first, options.first + options.seeds):
        done = {r.row for r in results if (r.seed, r.tuning) == (seed, options.tune)}
        names = [n for n in options.row or ROWS if n not in done]
        names = [n for n in names if seed == options.first or n not in ONE_SEED]
        if names:
            results += _measure_seed(seed, names, options.results, tuning=options.tune)
    print("\n" + report([r for r in results if r.tuning == options.tune]))


def _measure_seed(
    seed: int, names: Sequence[str], kept: Path | None, *, tuning: bool
) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory(prefix="votetune-bench-") as folder:
        bench = SeedBench(seed, Path(folder), tuning=tuning)
        for name in names:
            results.append(bench.measure(name, ROWS[name]))
            print(report(results[-1:]).splitlines()[2], flush=True)
            if kept:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(dataclasses.asdict(results[-1])) + "\n")
    return results


if __name__ == "__main__":
    main()
