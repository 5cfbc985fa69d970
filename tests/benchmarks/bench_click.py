"""Seconds from the click that starts a run to the aligned model's first answer, part by part.

Run as `python -m tests.benchmarks.bench_click`. The starter with 200 scripted votes; a cold child
and the warm one that the app keeps, in turn, medians of 3. Nothing but the page is left out: this
process stands for the app. CPU seconds and the load stand beside, since others may use the cores.
"""

import argparse
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import psutil

from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator, SamplerProcess
from alignment.pipeline import Pipeline, default_sampling
from alignment.places.warm import WarmWorker
from alignment.recipes import TrainingOptions
from alignment.run_store import RunState
from alignment.scripted_voter import ScriptedVoter
from alignment.settings import AlignmentSettings
from alignment.starter import STARTER_DIR, starter_prompts, starter_revision
from annotation.home import Home
from annotation.journal.journal import Journal, JournalReader
from annotation.schema import ModelRef, Pair, Prompt, Split, Vote, VoteSource, utc_now

VOTES = 200
ASKED = Prompt.from_text("What is the opposite of hot?")
GOAL_S = 20.0
IDLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Click:
    """One run's parts in seconds, in order; `total` is their sum, `cpu` what its process used."""

    check_and_export: float
    to_training: float
    training: float
    evaluate_and_save: float
    first_answer: float
    total: float
    cpu: float


def measure_click(home: Path, base: ResolvedBase, *, warm: bool) -> Click:
    """Start a run as the admin page does and stay until the aligned model has answered."""
    home_files = Home(home)
    journal = JournalReader(home_files.journal)
    worker = WarmWorker(lambda: True) if warm else None
    pipeline = Pipeline(home_files, AlignmentSettings(), base, journal, warm=worker)
    comparer = SamplerProcess(
        base, weights_path=pipeline.registry.weights_path, log=home / "comparer.log"
    )
    try:
        used = _warmed(worker) if worker else 0.0
        clicked = time.monotonic()
        run = pipeline.train(TrainingOptions("dpo"))
        started = time.monotonic()
        if worker is not None:
            assert worker.pid is None, "the run did not take the warm process"
        child = psutil.Process(run.status.pid)

        def state() -> RunState:
            nonlocal used_at_end
            with_time = child.cpu_times() if child.is_running() else None
            if with_time and sum(with_time[:2]) > used_at_end:
                used_at_end = sum(with_time[:2])
            return run.folder.status().state

        used_at_end = 0.0
        training = _when(lambda: state() is not RunState.PREPARING)
        evaluating = _when(lambda: state() is not RunState.TRAINING)
        done = _when(lambda: state() not in (RunState.TRAINING, RunState.EVALUATING))
        found = pipeline.runs.wait(run.id, timeout_s=10)
        if found.state is not RunState.DONE:
            raise SystemExit(f"Run {run.id} is {found.state}: {found.reason}")
        models = [base.ref, pipeline.registry.get(run.id).ref]
        (_, aligned), *_ = reversed(list(comparer.stream(ASKED, models, default_sampling(base))))
        assert aligned.strip()
        answered = time.monotonic()
    finally:
        comparer.stop()
        journal.close()
        if worker is not None:
            worker.stop()
    moments = (clicked, started, training, evaluating, done, answered)
    parts = [after - before for before, after in itertools.pairwise(moments)]
    return Click(*parts, total=answered - clicked, cpu=used_at_end - used)


def vote(home: Path, base: ResolvedBase, seed: int) -> None:
    """Give the home 200 votes of the scripted voter on pairs drawn from the base."""
    prompts = [p for p in starter_prompts() if p.split is Split.TRAIN]
    random.Random(seed).shuffle(prompts)
    generator = LocalGenerator(base, weights_path=lambda _: None)
    sampling = default_sampling(base, seed=seed)
    # Some pairs are two of the same answer, so more are drawn than voted on.
    asked = prompts[: 2 * VOTES]
    drawn = generator.sample(asked, model=base.ref, sampling=sampling, per_prompt=2)
    pairs = [
        Pair(f"pair-{prompt.id}", prompt, (first, second), utc_now())
        for prompt, (first, second) in zip(asked, drawn, strict=True)
        if first.text and second.text and first.text != second.text
    ][:VOTES]
    voter = ScriptedVoter(seed)
    journal = Journal(home / "journal.sqlite3")
    journal.add_pairs(pairs).result()
    for pair in pairs:
        choice = voter.choose(pair.prompt.messages[-1].content, *(c.text for c in pair.completions))
        made = Vote(
            f"vote-{pair.id}",
            pair.id,
            f"scripted-{seed}",
            choice,
            flipped=False,
            created_at=utc_now(),
            source=VoteSource.SYNTHETIC,
        )
        journal.add_vote(made).result()
    journal.close()


def _warmed(worker: WarmWorker) -> float:
    """Wait until the warm process is idle; the CPU seconds that its imports took."""
    worker.start()
    _when(lambda: worker.pid is not None)
    process = psutil.Process(worker.pid)
    began, before = time.monotonic(), -1.0
    while (used := sum(process.cpu_times()[:2])) != before or used < 1:
        before = used
        time.sleep(IDLE_S)
    memory = process.memory_full_info()
    print(
        f"  warm after {time.monotonic() - began:.1f} s and {used:.1f} CPU-s; it holds "
        f"{memory.rss / 2**20:.0f} MiB, {memory.uss / 2**20:.0f} of them its own",
        flush=True,
    )
    return used


def _when(is_true: Callable[[], bool]) -> float:
    while not is_true():
        time.sleep(0.01)
    return time.monotonic()


def report(name: str, clicks: Sequence[Click]) -> str:
    """Medians, and every total."""
    medians = [statistics.median(column) for column in zip(*map(astuple, clicks), strict=True)]
    parts = ", ".join(
        f"{field.name.replace('_', ' ')} {value:.1f}"
        for field, value in zip(fields(Click), medians, strict=True)
    )
    totals = sorted(round(click.total, 1) for click in clicks)
    verdict = "met" if statistics.median(totals) <= GOAL_S else "NOT met"
    return f"{name}: {parts}; totals {totals}, wanted {GOAL_S:.0f}: {verdict}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for cold and one for warm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args(arguments).times
    ref = ModelRef("starter", starter_revision())
    base = ResolvedBase(ref, STARTER_DIR, is_starter=True, notice=None)
    print(f"Click to live adapter, medians of {times} (load {os.getloadavg()[0]:.1f})", flush=True)
    found: dict[str, list[Click]] = {"cold": [], "warm": []}
    for index in range(times):
        for name, clicks in found.items():
            with tempfile.TemporaryDirectory(prefix="votetune-click-") as folder:
                home = Path(folder)
                vote(home, base, index)
                clicks.append(measure_click(home, base, warm=name == "warm"))
                print(report(f"  {name} {index + 1}", clicks[-1:]), flush=True)
    for name, clicks in found.items():
        print(report(name, clicks))
    print(f"load now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
