"""From 200 scripted votes to an aligned starter model: win rate, correctness and form, three seeds.

Run as `python -m tests.benchmarks.bench_alignment`. Each seed draws its own 200 train prompts,
pairs and adapter; the win rate is against the base on eval prompts, which nobody can vote into
an export, a tie counting half. Votes are synthetic.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator
from alignment.pipeline import default_sampling
from alignment.recipes import Method, TrainingOptions
from alignment.runs import Runs, RunState
from alignment.scripted_voter import Evaluation, ScriptedVoter, evaluate
from alignment.starter import STARTER_DIR, starter_prompts, starter_revision
from annotation.export import Export, export_to_home
from annotation.journal import Journal
from annotation.schema import (
    ModelRef,
    Pair,
    Prompt,
    Split,
    Vote,
    VoteSource,
    utc_now,
)

VOTES = 200
LIMITS: dict[Method, float] = {"dpo": 0.72, "orpo": 0.65}
MAX_LOSS = 0.05
"""How much correctness and form may fall short of the base's."""


@dataclass(frozen=True, slots=True)
class Result:
    """One trained adapter against its base, with the seconds that training took."""

    method: Method
    seed: int
    examples: int
    steps: int
    seconds: float
    evaluation: Evaluation


def starter_base() -> ResolvedBase:
    ref = ModelRef("starter", starter_revision())
    return ResolvedBase(ref, STARTER_DIR, is_starter=True, notice=None)


def cast_votes(home: Path, generator: LocalGenerator, base: ResolvedBase, seed: int) -> Export:
    """Draw 200 pairs from the base at temperature 1, let the voter judge them, and export."""
    prompts = [p for p in starter_prompts() if p.split is Split.TRAIN]
    random.Random(seed).shuffle(prompts)
    pairs = _draw_pairs(generator, base, prompts[:VOTES], seed)
    voter = ScriptedVoter(seed)
    journal = Journal(home / "journal.sqlite3")
    try:
        journal.add_pairs(pairs).result()
        for pair in pairs:
            choice = voter.choose(_text(pair.prompt), *(c.text for c in pair.completions))
            vote = Vote(
                f"vote-{pair.id}",
                pair.id,
                f"scripted-{seed}",
                choice,
                flipped=False,
                created_at=utc_now(),
                source=VoteSource.SYNTHETIC,
            )
            journal.add_vote(vote).result()
        return export_to_home(journal, home)
    finally:
        journal.close()


def _draw_pairs(
    generator: LocalGenerator, base: ResolvedBase, prompts: Sequence[Prompt], seed: int
) -> list[Pair]:
    pairs: dict[str, Pair] = {}
    for attempt in range(20):
        missing = [p for p in prompts if p.id not in pairs]
        sampling = default_sampling(base, seed=1000 * seed + attempt)
        drawn = generator.sample(missing, model=base.ref, sampling=sampling, per_prompt=2)
        for prompt, (first, second) in zip(missing, drawn, strict=True):
            if first.text and second.text and first.text != second.text:
                pairs[prompt.id] = Pair(f"pair-{prompt.id}", prompt, (first, second), utc_now())
    return [pairs[p.id] for p in prompts if p.id in pairs]


def align(
    runs: Runs, base: ResolvedBase, export: Export, method: Method, seed: int, prompts: list[Prompt]
) -> Result:
    """Train with the defaults of the app, then compare on `prompts`, one answer each."""
    run = runs.wait(runs.start(TrainingOptions(method, seed=seed), base=base, export=export).id)
    if run.state is not RunState.DONE or run.status.final is None:
        raise SystemExit(f"Run {run.id} is {run.state}: {run.reason}")
    aligned = ModelRef(base.ref.base, base.ref.base_revision, run.id, "0" * 40)
    generator = LocalGenerator(base, weights_path=lambda _: run.folder.weights)
    answers = [
        [
            completions[0].text
            for completions in generator.sample(
                prompts,
                model=model,
                sampling=default_sampling(base, seed=answer_seed),
                per_prompt=1,
            )
        ]
        for model, answer_seed in ((base.ref, 5000 + seed), (aligned, 6000 + seed))
    ]
    evaluation = evaluate([_text(p) for p in prompts], *answers, ScriptedVoter(seed))
    seconds = run.status.final.seconds
    return Result(method, seed, export.examples, run.spec.steps, seconds, evaluation)


def report(results: Sequence[Result]) -> str:
    """A Markdown table with 95 % intervals, and a line a method that says whether it suffices."""
    lines = [
        "| method | seed | examples | steps | s | win rate | correct | well formed | polite |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        e = r.evaluation
        lines.append(
            f"| {r.method} | {r.seed} | {r.examples} | {r.steps} | {r.seconds:.0f} "
            f"| {e.win_rate:.3f} ± {e.margin:.3f} (n {e.n}) "
            f"| {e.base.correct:.3f} → {e.aligned.correct:.3f} "
            f"| {e.base.well_formed:.3f} → {e.aligned.well_formed:.3f} "
            f"| {e.base.polite:.2f} → {e.aligned.polite:.2f} |"
        )
    return "\n".join([*lines, "", *(_verdict(m, results) for m in get_args(Method))])


def _verdict(method: Method, results: Sequence[Result]) -> str:
    mine = [r.evaluation for r in results if r.method == method]
    if not mine:
        return f"{method}: not run"
    wins = sum(e.win_rate for e in mine) / len(mine)
    correct = sum(e.aligned.correct - e.base.correct for e in mine) / len(mine)
    form = sum(e.aligned.well_formed - e.base.well_formed for e in mine) / len(mine)
    met = wins >= LIMITS[method] and min(correct, form) >= -MAX_LOSS
    return (
        f"{method}: mean win rate {wins:.3f} (wanted {LIMITS[method]}), correctness {correct:+.3f},"
        f" form {form:+.3f} (wanted no less than -{MAX_LOSS}): {'met' if met else 'NOT met'}"
    )


def _text(prompt: Prompt) -> str:
    return prompt.messages[-1].content


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line a run as it ends, then the whole table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--method", choices=get_args(Method), action="append")
    options = parser.parse_args(arguments)
    base = starter_base()
    held_out = [p for p in starter_prompts() if p.split is Split.EVAL]
    results: list[Result] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(prefix="votetune-bench-") as folder:
            home = Path(folder)
            generator = LocalGenerator(base, weights_path=lambda _: None)
            export = cast_votes(home, generator, base, seed)
            for method in options.method or get_args(Method):
                results.append(align(Runs(home), base, export, method, seed, held_out))
                print(report(results[-1:]).splitlines()[2], flush=True)
    print("\n" + report(results))


if __name__ == "__main__":
    main()
