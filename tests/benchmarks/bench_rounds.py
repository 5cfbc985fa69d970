"""What a second round gains: the next run from the policy or from the base, on new votes or on all.

Run as `python -m tests.benchmarks.bench_rounds --jobs 2 --out FILE`; `--table FILE` prints what is
there. Each setup (taste, votes, seed) first takes round one: so many votes on the base's pairs
train model 1, which then answers other prompts for as many votes of round two. Each variant trains
on these in its own way, or on as many votes of the base's pairs alone. A tie uses up a vote. Votes
and judge are the scripted voter; 5 % of votes press the wrong side, the judge never errs.

Setups and variants are jobs of their own, shared out over `--jobs` processes of one thread each; a
setup takes some 40 CPU-seconds, a variant some 18. With `--tune` no report prompt is touched: a
third of the train prompts' facts is kept out of the votes, and judged on.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from alignment import train
from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator
from alignment.pipeline import default_sampling
from alignment.registry import RegisteredModel, Registry
from alignment.runs.recipes import Reference, TrainingOptions
from alignment.runs.runs import Run, Runs, RunState
from alignment.scripted_voter import Quality, ScriptedVoter, Taste, quality
from alignment.starter.starter import STARTER_DIR, starter_revision
from annotation.export.export import Export, export_to_home
from annotation.journal.journal import Journal
from annotation.sampling import keep_different
from annotation.schema import Choice, ModelRef, Pair, Prompt, Vote, VoteSource, utc_now
from tests.benchmarks.bench_alignment import InProcess, interval, prompts_of

FIRST_SEED = 501
DRAWS = 2
REDRAWS = 4
NOISE = 0.05
REPORT = (("polite", 100), ("polite", 200), ("short", 100))

VoteSet = Literal["one", "new", "all", "base"]
"""Round one's votes, round two's, both, or as many as both on the base's pairs alone."""


@dataclass(frozen=True, slots=True)
class Variant:
    """How the second run is trained. `reference` is None where it starts from the base."""

    votes: VoteSet
    reference: Reference | None = None
    learning_rate: float | None = None


MODEL_1 = "model 1 (half the votes)"
ONE_ROUND = "one round, all votes on the base's pairs"
FROM_BASE = "from the base, all votes"
RATES = (1e-3, 3e-4)
"""Of what has learned already; at the preset's 2e-3 a first look (seed 901) lost .06 of form."""
VARIANTS = {ONE_ROUND: Variant("base"), FROM_BASE: Variant("all")} | {
    f"from model 1, reference {said}, {votes} votes, rate {rate:g}": Variant(votes, reference, rate)
    for reference, said in (("start", "model 1"), ("base", "base"))
    for votes in ("all", "new")
    for rate in RATES
}


@dataclass(frozen=True, slots=True)
class Setup:
    taste: Taste
    votes: int
    seed: int
    tuning: bool = False

    @property
    def name(self) -> str:
        return f"{self.taste}-{self.votes}-{self.seed}{'-tuning' if self.tuning else ''}"


@dataclass(frozen=True, slots=True)
class Result:
    """One variant of one setup. Scores have a number from 0 to 1 a judged prompt, in their order.

    `decided` of the votes became examples; `cpu_s` is what the whole job took.
    """

    setup: Setup
    variant: str
    decided: int
    steps: int
    cpu_s: float
    over_base: tuple[float, ...]
    over_model_1: tuple[float, ...]
    before: Quality
    quality: Quality


class Bench:
    """One setup in a folder of its own: what its jobs share is on disk, so that each runs alone."""

    def __init__(self, setup: Setup, work: Path) -> None:
        self._setup, self._home = setup, work / setup.name
        self._base = ResolvedBase(
            ModelRef("starter", starter_revision()), STARTER_DIR, is_starter=True, notice=None
        )
        self._voted, self._judged = prompts_of(setup.seed, tuning=setup.tuning)

    def prepare(self) -> Result:
        """Round one, its model, and the votes of round two."""
        began = time.process_time()
        self._home.mkdir(parents=True)
        n = self._setup.votes
        base = self._base.ref
        generator = LocalGenerator(self._base, weights_path=lambda _: None)
        pairs = self._pairs(generator, base, self._voted, 2 * n, 1)
        self._save_answers("base", self._answers(generator, base, 5000))
        one = self._cast("one", pairs[:n])
        self._cast("base", pairs)
        run = self._train(self._home / "model-1", one, TrainingOptions("dpo"), None)
        model, generator = self._registered(self._home / "model-1", run)
        asked = {pair.prompt.id for pair in pairs[:n]}
        others = [p for p in self._voted if p.id not in asked]
        new = self._pairs(generator, model.ref, others, n, 2)
        self._cast("new", new)
        self._cast("all", [*pairs[:n], *new])
        self._save_answers("model-1", self._answers(generator, model.ref, 5500))
        answers = self._answers(generator, model.ref, 6000)
        return self._judge(MODEL_1, answers, one, run, time.process_time() - began)

    def measure(self, name: str) -> Result:
        """Train the variant `name` of a prepared setup and judge it."""
        began = time.process_time()
        variant = VARIANTS[name]
        home = self._home / f"variant-{list(VARIANTS).index(name)}"
        (run_1,) = Runs(self._home / "model-1", {"here": InProcess()}).list()
        model_1, _ = self._registered(self._home / "model-1", run_1)
        options = TrainingOptions(
            "dpo",
            reference=variant.reference,
            learning_rate=variant.learning_rate,
        )
        export = self._export(variant.votes)
        run = self._train(home, export, options, model_1 if variant.reference else None)
        model, generator = self._registered(home, run)
        answers = self._answers(generator, model.ref, 6000)
        return self._judge(name, answers, export, run, time.process_time() - began)

    def _pairs(
        self,
        generator: LocalGenerator,
        model: ModelRef,
        prompts: Sequence[Prompt],
        count: int,
        round_: int,
    ) -> list[Pair]:
        """The first `count` of `prompts` that `model` gives two different answers, as the app."""
        pairs: list[Pair] = []
        for start in range(0, len(prompts), 50):
            drawn = {p.id: [] for p in prompts[start : start + 50]}
            for attempt in range(REDRAWS):
                left = [p for p in prompts[start : start + 50] if len(drawn[p.id]) < 2]
                seed = 100_000 * round_ + 1000 * self._setup.seed + start + attempt
                sampling = default_sampling(self._base, seed=seed)
                some = generator.sample(left, model=model, sampling=sampling, per_prompt=2)
                for prompt, answers in zip(left, some, strict=True):
                    drawn[prompt.id] = keep_different(drawn[prompt.id], answers)
            for prompt in prompts[start : start + 50]:
                if len(drawn[prompt.id]) == 2:
                    first, second = drawn[prompt.id]
                    name = f"pair-{round_}-{prompt.id}"
                    pairs.append(Pair(name, prompt, (first, second), utc_now()))
            if len(pairs) >= count:
                return pairs[:count]
        raise SystemExit(f"Only {len(pairs)} of {count} pairs could be drawn: ask for fewer votes.")

    def _cast(self, name: str, pairs: Sequence[Pair]) -> Export:
        """One vote on each of `pairs`; a tie is a vote like any other."""
        home = self._home / name
        home.mkdir()
        voter = ScriptedVoter(self._setup.seed, NOISE, self._setup.taste)
        journal = Journal(home / "journal.sqlite3")
        try:
            for pair in pairs:
                choice = voter.choose(_text(pair.prompt), *(c.text for c in pair.completions))
                journal.add_pairs([pair]).result()
                journal.add_vote(_vote(pair, choice, voter)).result()
            return export_to_home(journal, home)
        finally:
            journal.close()

    def _export(self, name: VoteSet) -> Export:
        journal = Journal(self._home / name / "journal.sqlite3")
        try:
            return export_to_home(journal, self._home / name)
        finally:
            journal.close()

    def _train(
        self, home: Path, export: Export, options: TrainingOptions, start: RegisteredModel | None
    ) -> Run:
        runs = Runs(home, {"here": InProcess()})
        options = dataclasses.replace(options, seed=self._setup.seed)
        run = runs.start(options, base=self._base, export=export, start=start)
        train.main([str(run.folder.path)])
        run = runs.get(run.id)
        if run.state is not RunState.DONE:
            raise SystemExit(f"Run {run.folder.path} is {run.state}: {run.reason}")
        return run

    def _registered(self, home: Path, run: Run) -> tuple[RegisteredModel, LocalGenerator]:
        registry = Registry(home, self._base)
        return registry.get(run.id), LocalGenerator(self._base, weights_path=registry.weights_path)

    def _answers(self, generator: LocalGenerator, model: ModelRef, seed: int) -> list[str]:
        sampling = default_sampling(self._base, seed=seed + self._setup.seed)
        drawn = generator.sample(self._judged, model=model, sampling=sampling, per_prompt=DRAWS)
        return [completion.text for some in drawn for completion in some]

    def _save_answers(self, name: str, answers: list[str]) -> None:
        (self._home / f"{name}.json").write_text(json.dumps(answers), encoding="utf-8")

    def _judge(
        self, variant: str, answers: list[str], export: Export, run: Run, cpu_s: float
    ) -> Result:
        asks = [_text(prompt) for prompt in self._judged for _ in range(DRAWS)]
        base, model_1 = (
            json.loads((self._home / f"{name}.json").read_text("utf-8"))
            for name in ("base", "model-1")
        )
        voter = ScriptedVoter(self._setup.seed, taste=self._setup.taste)
        return Result(
            setup=self._setup,
            variant=variant,
            decided=export.examples,
            steps=run.spec.steps,
            cpu_s=round(cpu_s, 1),
            over_base=_scores(voter, asks, answers, base),
            over_model_1=_scores(voter, asks, answers, model_1),
            before=quality(asks, base),
            quality=quality(asks, answers),
        )


def _text(prompt: Prompt) -> str:
    return prompt.messages[-1].content


def _vote(pair: Pair, choice: Choice, voter: ScriptedVoter) -> Vote:
    return Vote(
        f"vote-{pair.id}",
        pair.id,
        f"scripted-{voter.seed}",
        choice,
        flipped=False,
        created_at=utc_now(),
        source=VoteSource.SYNTHETIC,
    )


def _scores(
    voter: ScriptedVoter, asks: list[str], answers: list[str], others: list[str]
) -> tuple[float, ...]:
    """1, ½ or 0 for each of `answers` against the other, means over the draws of a prompt."""
    votes = [voter.choose(*row) for row in zip(asks, answers, others, strict=True)]
    worth = [{Choice.A: 1.0, Choice.B: 0.0}.get(vote, 0.5) for vote in votes]
    return tuple(np.array(worth).reshape(-1, DRAWS).mean(axis=1).tolist())


def prepare(setup: Setup, work: Path) -> Result:
    """A job: `setup` made ready for its variants, judged as model 1."""
    return Bench(setup, work).prepare()


def measure(setup: Setup, variant: str, work: Path) -> Result:
    """A job: one variant of a setup that is ready."""
    return Bench(setup, work).measure(variant)


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers end when this process is told to: no job that runs is waited for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def run_jobs(setups: Sequence[Setup], names: Sequence[str], jobs: int) -> Iterator[Result]:
    """Every result as it comes; a setup's variants begin when it is ready."""
    # Before torch is imported anywhere: one thread a process, and no accelerator.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (
        tempfile.TemporaryDirectory(prefix="votetune-rounds-") as folder,
        _workers(jobs) as pool,
    ):
        work = Path(folder)
        waiting: set[Future[Result]] = {pool.submit(prepare, setup, work) for setup in setups}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                if result.variant == MODEL_1:
                    waiting |= {pool.submit(measure, result.setup, n, work) for n in names}
                yield result


def report(results: Sequence[Result]) -> str:
    """Markdown, a table a taste and number of votes, a row a variant, means over the seeds."""
    kinds = dict.fromkeys((r.setup.taste, r.setup.votes, r.setup.tuning) for r in results)
    return "\n\n".join(
        _table([r for r in results if (r.setup.taste, r.setup.votes, r.setup.tuning) == kind])
        for kind in kinds
    )


def _table(mine: Sequence[Result]) -> str:
    setup = mine[0].setup
    base = _mean(r.before for r in mine)
    lines = [
        f"{setup.taste}, {setup.votes} votes a round{', tuning' * setup.tuning}. The base: "
        f"correct {base.correct:.3f}, well formed {base.well_formed:.3f}, {base.words:.1f} words.",
        "",
        "| | seeds | win over the base [95 %] | each seed | minus one round [95 %] "
        "| win over model 1 [95 %] | correct | well formed | words | examples | steps | CPU-s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (MODEL_1, *VARIANTS):
        rows = sorted((r for r in mine if r.variant == name), key=lambda r: r.setup.seed)
        if rows:
            one = {r.setup.seed: r.over_base for r in mine if r.variant == ONE_ROUND}
            lines.append(_line(name, rows, one))
    return "\n".join(lines)


def _line(name: str, rows: Sequence[Result], one: dict[int, tuple[float, ...]]) -> str:
    after = _mean(r.quality for r in rows)
    gains = [np.array(r.over_base) - one[r.setup.seed] for r in rows if r.setup.seed in one]
    each = " ".join(f"{np.mean(r.over_base):.3f}" for r in rows)
    gain = _said([tuple(g) for g in gains], rows[0].setup, "+") if name != ONE_ROUND else ""
    return (
        f"| {name} | {len(rows)} | {_said([r.over_base for r in rows], rows[0].setup)} | {each} "
        f"| {gain} | {_said([r.over_model_1 for r in rows], rows[0].setup)} "
        f"| {after.correct:.3f} | {after.well_formed:.3f} | {after.words:.1f} "
        f"| {np.mean([r.decided for r in rows]):.0f} | {np.mean([r.steps for r in rows]):.0f} "
        f"| {np.mean([r.cpu_s for r in rows]):.0f} |"
    )


def _said(scores: Sequence[tuple[float, ...]], setup: Setup, sign: str = "") -> str:
    """The mean with its interval; in tuning, where each seed judges prompts of its own, ± a
    standard error over seeds.
    """
    if not scores:
        return ""
    means = [float(np.mean(s)) for s in scores]
    mean = f"**{np.mean(means):{sign}.3f}**"
    if setup.tuning:
        return f"{mean} ± {np.std(means, ddof=1) / len(means) ** 0.5:.3f}" if means[1:] else mean
    low, high = interval(np.array(scores))
    return f"{mean} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _mean(qualities: Iterable[Quality]) -> Quality:
    return Quality(*np.mean([dataclasses.astuple(q) for q in qualities], axis=0).tolist())


def load_results(file: Path) -> list[Result]:
    """The results in a JSONL file."""
    return [_result(**json.loads(line)) for line in file.read_text("utf-8").splitlines()]


def _result(**row: object) -> Result:
    made = {"setup": Setup, "before": Quality, "quality": Quality}
    read = {name: kind(**row[name]) for name, kind in made.items()}  # type: ignore[arg-type]
    scores = {name: tuple(row[name]) for name in ("over_base", "over_model_1")}  # type: ignore[arg-type]
    return Result(**row | read | scores)  # type: ignore[arg-type]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every job and print the tables, or print those of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first of them")
    parser.add_argument("--taste", choices=("polite", "short"), help="only this one")
    parser.add_argument("--votes", type=int, help="a round; with --taste, instead of the report's")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="repeatable")
    parser.add_argument("--tune", action="store_true", help="judge on train prompts")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--out", type=Path, help="JSONL to which results are added")
    parser.add_argument("--table", type=Path, help="print the tables of this JSONL and run nothing")
    options = parser.parse_args(arguments)
    if options.table:
        print(report(load_results(options.table)))
        return
    kinds = [(options.taste, options.votes)] if options.taste and options.votes else REPORT
    seeds = range(options.first, options.first + options.seeds)
    setups = [Setup(t, n, seed, options.tune) for t, n in kinds for seed in seeds]
    results = []
    for result in run_jobs(setups, options.variant or list(VARIANTS), options.jobs):
        results.append(result)
        win = float(np.mean(result.over_base))
        print(f"{result.setup.name} {result.variant}: {win:.3f}, {result.cpu_s} s", flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
    print("\n" + report(results))


if __name__ == "__main__":
    main()
