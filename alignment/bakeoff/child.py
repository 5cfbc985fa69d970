"""The bake-off's child: `python -m alignment.bakeoff.child DIR` trains each method, then compares.

Owns the walk: one run at a time through alignment.runs.runs, as anybody would start it, then
answers of the base and every model to the same prompts, judged by the starter's scripted voter
where there is one. What is done already is not done again.
"""

import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from alignment.bakeoff.bakeoffs import METHODS
from alignment.bakeoff.store import Bakeoff, BakeoffFolder, BakeoffState, Rate, Row
from alignment.bakeoff.table import to_markdown
from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator
from alignment.pipeline import default_sampling
from alignment.registry import Registry
from alignment.runs.recipes import Method, TrainingOptions
from alignment.runs.run_store import RunState
from alignment.runs.runs import Run, RunError, Runs
from alignment.scripted_voter import Quality, ScriptedVoter, evaluate, quality
from annotation.export.export import load_export
from annotation.faults import Fault
from annotation.prompts import one_line

BUSY_WAIT_S = 1.0
JUDGE = "the starter's scripted voter (synthetic)"
_log = logging.getLogger("alignment.bakeoff")


def main(arguments: Sequence[str]) -> int:
    """Walk to the end and say so in bakeoff.json; exit status 0 when a table came of it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, _leave)
    folder = BakeoffFolder(Path(arguments[0]))
    with folder.locked():
        bakeoff = folder.read()
    try:
        runs = [(method, _ensure(folder, method)) for method in METHODS]
        rows = _compare(folder, bakeoff, runs)
    except Exception as error:  # noqa: BLE001 -- the process boundary: reported in the folder
        _log.exception("the bake-off failed")
        reason = str(error) if isinstance(error, Fault) else one_line(error)
        with folder.locked():
            folder.change(state=BakeoffState.FAILED, reason=reason)
        return 1
    with folder.locked():
        done = folder.change(
            state=BakeoffState.DONE, rows=tuple(rows), judge=JUDGE if bakeoff.is_starter else None
        )
    (folder.path / "table.md").write_text(to_markdown(done) + "\n", encoding="utf-8")
    return 0


def _leave(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def _ensure(folder: BakeoffFolder, method: Method) -> Run:
    """The finished run of `method`: waited for, resumed or started. Raises RunError if it fails."""
    runs = Runs(folder.home)
    run = _begun(folder, runs, method) or _start(folder, runs, method)
    _log.info("%s: run %s is %s", method, run.id, run.state)
    run = runs.wait(run.id)
    if run.state is not RunState.DONE:
        raise RunError(f"Run {run.id} is {run.state}: {run.reason or 'see its log.txt'}")
    return run


def _begun(folder: BakeoffFolder, runs: Runs, method: Method) -> Run | None:
    """The run of an earlier child, going or done; None where a new one must start."""
    run_id = dict(folder.read().runs).get(method)
    if run_id is None:
        return None
    run = runs.get(run_id)
    if run.is_active or run.state is RunState.DONE:
        return run
    if run.folder.last_checkpoint() is None:
        return None
    return runs.resume(run_id)


def _start(folder: BakeoffFolder, runs: Runs, method: Method) -> Run:
    bakeoff = folder.read()
    base = _base(bakeoff)
    options = TrainingOptions(method, steps=bakeoff.steps, seed=bakeoff.seed)
    export = load_export(folder.dataset)
    least = bakeoff.min_examples
    while True:
        try:
            with _leaving_later():
                run = runs.start(options, base=base, export=export, min_examples=least)
                with folder.locked():
                    kept = tuple(pair for pair in folder.read().runs if pair[0] != method)
                    folder.change(runs=(*kept, (method, run.id)))
        except RunError:
            # Somebody else's run came between two of ours: it goes first.
            if not any(other.is_active for other in runs.list()):
                raise
            time.sleep(BUSY_WAIT_S)
        else:
            return run


@contextmanager
def _leaving_later() -> Iterator[None]:
    """SIGTERM waits for the end of this: whoever cancels looks for the run in the folder then."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if told:
            sys.exit(0)


def _base(bakeoff: Bakeoff) -> ResolvedBase:
    return ResolvedBase(bakeoff.base, bakeoff.base_path, is_starter=bakeoff.is_starter, notice=None)


def _compare(
    folder: BakeoffFolder, bakeoff: Bakeoff, runs: Sequence[tuple[Method, Run]]
) -> list[Row]:
    base = _base(bakeoff)
    registry = Registry(folder.home, base)
    generator = LocalGenerator(base, weights_path=registry.weights_path)
    prompts = folder.prompts()
    texts = [prompt.messages[-1].content for prompt in prompts]
    answers: dict[str, list[str]] = {}
    for number, name in enumerate(("base", *(run.id for _, run in runs))):
        sampling = default_sampling(base, seed=1000 * bakeoff.seed + number)
        model = registry.get(name).ref
        drawn = generator.sample(prompts, model=model, sampling=sampling, per_prompt=1)
        answers[name] = [found[0].text if found else "" for found in drawn]
        _log.info("%s answered %d prompts", name, len(prompts))
    baseline = dict(runs)["sft"].id
    rows = [_base_row(texts, answers["base"], judged=bakeoff.is_starter)]
    for method, run in runs:
        row = _measured(method, run, answers[run.id])
        if bakeoff.is_starter:
            rival = None if run.id == baseline else answers[baseline]
            row = judged(row, bakeoff.seed, texts, answers["base"], answers[run.id], rival)
        rows.append(row)
    return rows


def _base_row(prompts: Sequence[str], answers: Sequence[str], *, judged: bool) -> Row:
    row = Row("base", None, win_rate=None, over_sft=None, words=_mean_words(answers))
    return _with_quality(row, quality(prompts, answers)) if judged else row


def _measured(method: Method, run: Run, answers: Sequence[str]) -> Row:
    final = run.status.final
    assert final is not None
    return Row(
        method=method,
        run_id=run.id,
        win_rate=None,
        over_sft=None,
        words=_mean_words(answers),
        reward_accuracy=final.eval_reward_accuracy,
        eval_pairs=final.eval_pairs,
        seconds=final.seconds,
        peak_memory_bytes=final.peak_memory_bytes,
    )


def judged(
    row: Row,
    seed: int,
    prompts: Sequence[str],
    base: Sequence[str],
    answers: Sequence[str],
    rival: Sequence[str] | None,
) -> Row:
    """`row` with what the scripted voter says; it sees two texts and never whose they are."""
    voter = ScriptedVoter(seed)
    over_base = evaluate(prompts, base, answers, voter)
    row = replace(row, win_rate=Rate(over_base.win_rate, over_base.margin, over_base.n))
    if rival is not None:
        over_sft = evaluate(prompts, rival, answers, voter)
        row = replace(row, over_sft=Rate(over_sft.win_rate, over_sft.margin, over_sft.n))
    return _with_quality(row, over_base.aligned)


def _with_quality(row: Row, found: Quality) -> Row:
    return replace(row, correct=found.correct, well_formed=found.well_formed)


def _mean_words(answers: Sequence[str]) -> float:
    return sum(len(answer.split()) for answer in answers) / len(answers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
