"""Seconds from the click that starts a run to the aligned model's first answer, part by part.

The starter with 200 scripted votes. Ours is what the app does: a training process that waits with
its imports done, and one that answers, started when the run is. The peer is this code with neither:
cold child processes. Nothing but the page is left out, for which this process stands.
"""

import itertools
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator, SamplerProcess
from alignment.pipeline import Pipeline, default_sampling
from alignment.places.warm import WarmWorker
from alignment.registry import Registry
from alignment.runs.recipes import TrainingOptions
from alignment.runs.run_store import RunState
from alignment.runs.runs import Run
from alignment.scripted_voter import ScriptedVoter
from alignment.settings import AlignmentSettings
from alignment.starter.starter import STARTER_DIR, starter_prompts, starter_revision
from annotation.home import Home
from annotation.journal.journal import Journal, JournalReader
from annotation.schema import ModelRef, Pair, Prompt, Split, Vote, VoteSource, utc_now
from tests.benchmarks.peers.table import Goal, Row

VOTES = 200
ROUNDS = 3
ASKED = Prompt.from_text("What is the opposite of hot?")
GOAL = Goal("at least", 1.7)
IDLE_S = 0.5
TOLERANCE = 1e-4
"""Of the loss: one run's two children compute the same on as many threads."""


@dataclass(frozen=True, slots=True)
class Click:
    """One run's parts in seconds, in order; `total` is their sum.

    `loss` is the run's last, `answer` the aligned model's, both for comparing. `waiting_mib` is
    what the warm process holds for itself alone while it waits.
    """

    check_and_export: float
    to_training: float
    training: float
    evaluate_and_save: float
    first_answer: float
    total: float
    waiting_mib: float
    loss: float
    answer: str


def rows() -> Iterator[Row]:
    """One row: ROUNDS rounds, warm and cold in turn, on the same votes within a round."""
    ref = ModelRef("starter", starter_revision())
    base = ResolvedBase(ref, STARTER_DIR, is_starter=True, notice=None)
    found: dict[bool, list[Click]] = {True: [], False: []}
    for index in range(ROUNDS):
        # Whoever is first in one round is second in the next.
        for warm in (True, False) if index % 2 else (False, True):
            with tempfile.TemporaryDirectory(prefix="votetune-click-") as folder:
                vote(Path(folder), base, index)
                found[warm].append(measure_click(Path(folder), base, warm=warm))
        _compare(*(clicks[-1] for clicks in found.values()))
    warm_clicks, cold_clicks = found[True], found[False]
    yield Row(
        what=f"last vote → aligned model answers, starter, {VOTES} votes",
        against="the same in cold child processes",
        unit="s",
        ours=[click.total for click in warm_clicks],
        peer=[click.total for click in cold_clicks],
        direction="less is better",
        goal=GOAL,
        checked=f"final losses within {TOLERANCE:g} and the same answer at the same seed",
        notes=f"ours: {_parts(warm_clicks)}; cold: {_parts(cold_clicks)}; "
        f"the process that waits holds {_median(warm_clicks, 'waiting_mib'):.0f} MiB of its own; "
        f"load {os.getloadavg()[0]:.1f}; the next bottleneck is training itself",
    )


def measure_click(home: Path, base: ResolvedBase, *, warm: bool) -> Click:
    """Start a run as the admin page does and stay until the aligned model has answered."""
    journal = JournalReader(Home(home).journal)
    found = Registry(home, base).weights_path
    comparer = SamplerProcess(base, weights_path=found, log=home / "comparer.log", patient=True)
    # As Site composes them: the run that takes the warm process has the other one started.
    worker = WarmWorker(lambda: True, comparer.start) if warm else None
    pipeline = Pipeline(Home(home), AlignmentSettings(), base, journal, warm=worker)
    try:
        waiting_mib = _wait_until_warm(worker) if worker is not None else 0.0
        clicked = time.monotonic()
        run = pipeline.train(TrainingOptions("dpo"))
        if worker is not None and worker.pid is not None:
            raise RuntimeError("the run did not take the warm process")
        moments = [clicked, time.monotonic(), *_follow(pipeline, run)]
        models = [base.ref, pipeline.registry.get(run.id).ref]
        *_, (_, aligned) = comparer.stream(ASKED, models, default_sampling(base))
        moments.append(time.monotonic())
    finally:
        comparer.stop()
        journal.close()
        if worker is not None:
            worker.stop()
    if not aligned.strip():
        raise RuntimeError("the aligned model said nothing")
    parts = [after - before for before, after in itertools.pairwise(moments)]
    loss = pipeline.runs.metrics(run.id)[-1].loss
    return Click(
        *parts,
        total=moments[-1] - clicked,
        waiting_mib=waiting_mib,
        loss=loss,
        answer=aligned,
    )


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


def _follow(pipeline: Pipeline, run: Run) -> list[float]:
    """When it began to train, to evaluate at its end, and when it was done."""

    def state() -> RunState:
        return run.folder.status().state

    moments = [
        _when(lambda: state() is not RunState.PREPARING),
        _when(lambda: state() is not RunState.TRAINING),
        _when(lambda: state() not in (RunState.TRAINING, RunState.EVALUATING)),
    ]
    found = pipeline.runs.wait(run.id, timeout_s=10)
    if found.state is not RunState.DONE:
        raise RuntimeError(f"run {run.id} is {found.state}: {found.reason}")
    return moments


def _wait_until_warm(worker: WarmWorker) -> float:
    """Its own memory, in MiB."""
    worker.start()
    _when(lambda: worker.pid is not None)
    process, before = psutil.Process(worker.pid), -1.0
    # Its imports are behind it once it uses no CPU any more.
    while (used := sum(process.cpu_times()[:2])) != before or used < 1:
        before = used
        time.sleep(IDLE_S)
    return float(process.memory_full_info().uss) / 2**20


def _when(is_true: Callable[[], bool]) -> float:
    while not is_true():
        time.sleep(0.01)
    return time.monotonic()


def _compare(warm: Click, cold: Click) -> None:
    """Raise where the two have not made the same model."""
    if not math.isclose(warm.loss, cold.loss, abs_tol=TOLERANCE):
        raise ValueError(f"the final losses differ: {warm.loss} warm, {cold.loss} cold")
    if warm.answer != cold.answer:
        raise ValueError(f"the answers differ: {warm.answer!r} warm, {cold.answer!r} cold")


def _parts(clicks: Sequence[Click]) -> str:
    """Medians of the parts, in order."""
    names = [field.name for field in fields(Click)]
    parts = names[: names.index("total")]
    return ", ".join(f"{name.replace('_', ' ')} {_median(clicks, name):.1f}" for name in parts)


def _median(clicks: Sequence[Click], name: str) -> float:
    return statistics.median(getattr(click, name) for click in clicks)


if __name__ == "__main__":
    for row in rows():
        print(row)
