"""Which pairs to show voters: 80 votes, a run with the shipped preset, its win rate over the base.

Run as `python -m tests.benchmarks.bench_pairs --out results.jsonl`; `--table results.jsonl` prints
what a file holds. A job is one strategy (pair_strategies), one scripted voter with 10 % noise and
one seed: the strategy chooses 80 pairs from the seed's pool of train prompts, the voter votes once
on each, ties use up votes, and what is decided is exported and trained on as the app does, steps
by the number of examples (fewer than 20 start no run, as in the app, and the base stands). A judge
of the same taste that never errs compares aligned and base answers to the report prompts. With
`--tune` no report prompt is touched: judged are train prompts whose facts are in no pair.

Nothing stops a run early here: that takes ten held-out pairs, and 80 votes hold out fewer.
"""

import argparse
import contextlib
import json
import os
import pickle
import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from alignment.base import ResolvedBase
from alignment.chat import encode_completion, encode_prompt
from alignment.generation import LocalGenerator
from alignment.pipeline import default_sampling
from alignment.runs.plan import plan_run
from alignment.runs.recipes import TrainingOptions
from alignment.runs.run_store import RunFolder
from alignment.sampling.loading import load_model
from alignment.scripted_voter import Evaluation, ScriptedVoter, Taste, evaluate
from alignment.starter.starter import STARTER_DIR, starter_revision
from annotation.export.export import copy_export, export_preferences
from annotation.journal.journal import Journal
from annotation.schema import Choice, Completion, ModelRef, Pair, Prompt, Vote, VoteSource, utc_now
from tests.benchmarks.bench_alignment import prompts_of
from tests.benchmarks.pair_strategies import ADAPTIVE, DRAWN, STRATEGIES, Asked
from tests.benchmarks.pairs_table import TASTES, Result, load_results, report

SHOWN = 80
POOL = 200
"""Prompts with drawn answers; a strategy passes over those whose answers are all the same."""
MIN_EXAMPLES = 20
NOISE = 0.1
DRAWS, TUNING_DRAWS = 2, 1
"""Answers to each judged prompt."""
FIRST_SEED = 601


@dataclass(frozen=True, slots=True)
class Ground:
    """What all jobs of a seed share: pool and answers, what is judged and the base's answers."""

    seed: int
    tuning: bool
    prompts: tuple[Prompt, ...]
    completions: tuple[tuple[Completion, ...], ...]
    pool: tuple[Asked, ...]
    judged: tuple[Prompt, ...]
    base_answers: tuple[str, ...]

    @property
    def draws(self) -> int:
        return TUNING_DRAWS if self.tuning else DRAWS


def the_base() -> ResolvedBase:
    ref = ModelRef("starter", starter_revision())
    return ResolvedBase(ref, STARTER_DIR, is_starter=True, notice=None)


def prepare(seed: int, file: Path, *, tuning: bool) -> None:
    """Draw the pool and the base's answers of `seed` once, into `file`."""
    base = the_base()
    generator = LocalGenerator(base, weights_path=lambda _: None, device="cpu")
    voted, judged = prompts_of(seed, tuning=tuning)
    draw = partial(generator.sample, model=base.ref)
    sampling = default_sampling(base, seed=1000 * seed)
    completions = draw(voted[:POOL], sampling=sampling, per_prompt=DRAWN)
    again = default_sampling(base, seed=5000 + seed)
    answers = draw(judged, sampling=again, per_prompt=TUNING_DRAWS if tuning else DRAWS)
    pool = tuple(_asked(voted[:POOL], completions))
    ground = Ground(
        seed,
        tuning,
        tuple(voted[:POOL]),
        tuple(map(tuple, completions)),
        pool,
        tuple(judged),
        tuple(completion.text for some in answers for completion in some),
    )
    file.write_bytes(pickle.dumps(ground))


def _asked(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[Completion]]
) -> Iterator[Asked]:
    """What the base thinks of its answers, beside them: log-prob, and mean last hidden state."""
    import torch

    loaded = load_model(STARTER_DIR, device="cpu", dtype="float32")
    for prompt, some in zip(prompts, completions, strict=True):
        texts = tuple(completion.text for completion in some)
        start = encode_prompt(loaded.tokenizer, prompt.messages)
        tails = [
            encode_completion(loaded.tokenizer, prompt.messages, text, end_ids=loaded.end_ids)
            for text in texts
        ]
        longest = max(map(len, tails))
        ids = [start + tail + [loaded.pad_id] * (longest - len(tail)) for tail in tails]
        with torch.inference_mode():
            out = loaded.model(torch.tensor(ids), output_hidden_states=True)
        said = torch.log_softmax(out.logits[:, len(start) - 1 : -1], dim=-1)
        logps, hidden = [], []
        for row, tail in enumerate(tails):
            logps.append(float(said[row, range(len(tail)), tail].sum()))
            of_answer = out.hidden_states[-1][row, len(start) : len(start) + len(tail)]
            hidden.append(of_answer.mean(dim=0).double().numpy())
        yield Asked(prompt.messages[-1].content, texts, tuple(logps), np.stack(hidden))


def measure(file: Path, strategy: str, taste: Taste) -> Result:
    """Choose, vote, train and judge; the seed of everything is the ground's."""
    began = time.process_time()
    ground: Ground = pickle.loads(file.read_bytes())
    voter = ScriptedVoter(ground.seed, NOISE, taste)
    if strategy in ADAPTIVE:
        chosen = ADAPTIVE[strategy](ground.pool, SHOWN, partial(_opinion, voter))
    else:
        chosen = STRATEGIES[strategy](ground.pool, SHOWN, random.Random(ground.seed))
    pairs = [
        Pair(
            f"pair-{p.index}",
            ground.prompts[p.index],
            (ground.completions[p.index][p.first], ground.completions[p.index][p.second]),
            utc_now(),
        )
        for p in chosen.pairs
    ]
    with tempfile.TemporaryDirectory(prefix="votetune-pairs-") as scratch:
        folder = RunFolder(Path(scratch) / "run")
        examples = cast_votes(Path(scratch), folder, pairs, voter)
        steps, answers = 0, ground.base_answers
        if examples >= MIN_EXAMPLES:
            steps, answers = _train(folder, ground, examples)
    asks = [prompt.messages[-1].content for prompt in ground.judged for _ in range(ground.draws)]
    verdict = evaluate(asks, ground.base_answers, answers, ScriptedVoter(ground.seed, 0, taste))
    cpu_s = time.process_time() - began
    kept = (len(pairs), chosen.drawn, examples, steps)
    return _result(ground, strategy, taste, kept, verdict, cpu_s)


def _result(
    ground: Ground,
    strategy: str,
    taste: Taste,
    kept: tuple[int, int, int, int],
    verdict: Evaluation,
    cpu_s: float,
) -> Result:
    base, aligned = verdict.base, verdict.aligned
    return Result(
        strategy,
        taste,
        ground.seed,
        ground.tuning,
        *kept,
        win=verdict.win_rate,
        correct=aligned.correct,
        correct_lost=base.correct - aligned.correct,
        form_lost=base.well_formed - aligned.well_formed,
        words=aligned.words,
        cpu_s=round(cpu_s, 1),
    )


def cast_votes(
    scratch: Path, folder: RunFolder, pairs: Sequence[Pair], voter: ScriptedVoter
) -> int:
    """A vote on each of `pairs`, through a journal into the run's dataset; how many examples."""
    journal = Journal(scratch / "journal.sqlite3")
    try:
        journal.add_pairs(pairs).result()
        stored = [journal.add_vote(_vote(pair, voter)) for pair in pairs]
        for vote in stored:
            vote.result()
        export = export_preferences(journal, scratch / "export")
    finally:
        journal.close()
    if export.examples:
        copy_export(export, folder.dataset)
        folder.checkpoints.mkdir()
    return export.examples


def _opinion(voter: ScriptedVoter, asked: Asked, a: int, b: int) -> float:
    choice = voter.choose(asked.prompt, asked.answers[a], asked.answers[b])
    return {Choice.A: 1.0, Choice.B: 0.0}.get(choice, 0.5)


def _vote(pair: Pair, voter: ScriptedVoter) -> Vote:
    texts = (completion.text for completion in pair.completions)
    return Vote(
        f"vote-{pair.id}",
        pair.id,
        f"scripted-{voter.seed}",
        voter.choose(pair.prompt.messages[-1].content, *texts),
        flipped=False,
        created_at=utc_now(),
        source=VoteSource.SYNTHETIC,
    )


def _train(folder: RunFolder, ground: Ground, examples: int) -> tuple[int, tuple[str, ...]]:
    """DPO with its preset on the folder's dataset: the steps taken, and the answers after them."""
    from alignment.training.trainers import build_trainer
    from alignment.training.weights.weights import save_adapter
    from annotation.export.export import load_export

    base = the_base()
    spec = plan_run(
        TrainingOptions("dpo", seed=ground.seed),
        base=base,
        dataset_sha256=load_export(folder.dataset).sha256,
        examples=examples,
    )
    # One checkpoint, at the end: nobody resumes these.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        trainer, _ = build_trainer(folder, replace(spec, checkpoint_steps=spec.steps))
        trainer.train()
    save_adapter(trainer.model, base.ref, folder.adapter)
    model = replace(base.ref, adapter="aligned", adapter_revision="0")
    generator = LocalGenerator(base, weights_path=lambda _: folder.adapter, device="cpu")
    sampling = default_sampling(base, seed=6000 + ground.seed)
    drawn = generator.sample(ground.judged, model=model, sampling=sampling, per_prompt=ground.draws)
    return spec.steps, tuple(completion.text for some in drawn for completion in some)


def run_jobs(
    jobs: Sequence[tuple[int, str, Taste]], out: Path, *, tuning: bool, processes: int
) -> None:
    """Append each job's result to `out` as it ends."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="votetune-pairs-") as scratch,
        ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool,
    ):
        files = {seed: Path(scratch) / f"{seed}.pickle" for seed in {job[0] for job in jobs}}
        grounds = [pool.submit(prepare, seed, f, tuning=tuning) for seed, f in files.items()]
        for ground in grounds:
            ground.result()
        print(f"{len(files)} grounds in {time.monotonic() - started:.0f} s", flush=True)
        ends = [pool.submit(measure, files[seed], *rest) for seed, *rest in jobs]
        for number, end in enumerate(as_completed(ends), 1):
            said = f"{number}/{len(ends)} {time.monotonic() - started:.0f} s: "
            # One job that breaks must not take along what the others have found.
            try:
                result = end.result()
            except Exception as error:  # noqa: BLE001
                print(f"{said}FAILED, {error!r}", flush=True)
                continue
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            print(
                f"{said}{result.strategy}, {result.taste}, {result.seed}: {result.examples} "
                f"examples, win {result.win:.3f}, correct {-result.correct_lost:+.3f}, "
                f"{result.cpu_s} CPU-s",
                flush=True,
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what `--out` lacks, then print its table; `--table FILE` only prints one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="the first of them")
    parser.add_argument(
        "--strategy", choices=[*STRATEGIES, *ADAPTIVE], action="append", help="repeatable"
    )
    parser.add_argument("--voter", choices=TASTES, action="append", help="repeatable")
    parser.add_argument("--tune", action="store_true", help="judge on train prompts")
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--out", type=Path, help="JSONL: what is there is not run again")
    parser.add_argument("--table", type=Path, help="print the table of this JSONL and end")
    options = parser.parse_args(arguments)
    if options.table:
        print(report(load_results(options.table)))
        return
    if not options.out:
        parser.error("give --out FILE or --table FILE")
    done = {(r.seed, r.strategy, r.taste) for r in load_results(options.out)}
    seeds = range(options.first, options.first + options.seeds)
    jobs: list[tuple[int, str, Taste]] = [
        (seed, strategy, taste)
        for seed in seeds
        for strategy in options.strategy or [*STRATEGIES, *ADAPTIVE]
        for taste in options.voter or TASTES
    ]
    _settle_process()
    todo = [job for job in jobs if job not in done]
    if todo:
        run_jobs(todo, options.out, tuning=options.tune, processes=options.jobs)
    print("\n" + report(load_results(options.out)))


def _settle_process() -> None:
    """Load everything once, before the workers fork; one thread each, and no GPU."""
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    os.environ |= offline | {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
    warnings.simplefilter("ignore")
    import torch

    import alignment.training.trainers
    import alignment.training.weights.weights  # noqa: F401

    torch.set_num_threads(1)
    from peft import LoraConfig  # noqa: F401
    from trl import DPOConfig, DPOTrainer  # noqa: F401


if __name__ == "__main__":
    main()
