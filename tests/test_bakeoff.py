"""Bake-offs: three real runs on a tiny model in one walk, killed and gone on, cancelled, judged."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from alignment.bakeoff import child
from alignment.bakeoff.bakeoffs import METHODS, BakeoffError, Bakeoffs
from alignment.bakeoff.child import judged
from alignment.bakeoff.store import Bakeoff, BakeoffFolder, BakeoffState, Rate, Row
from alignment.bakeoff.table import COLUMNS, caveat, cells, to_markdown
from alignment.base import ResolvedBase
from alignment.runs.recipes import TrainingOptions
from alignment.runs.run_store import RunState
from alignment.runs.runs import Runs
from alignment.starter.starter import starter_prompts
from annotation.export.export import Export
from annotation.schema import Prompt
from tests.preferences import TINY, WHEN, export_of, tiny_base
from tests.tiny import make_tiny_model

PROMPTS = [Prompt.from_text(f"How much is {n} and one?") for n in range(3)]
STEPS = 3
LIMIT_S = 150


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return tiny_base(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export_of(tmp_path_factory.mktemp("votes"), 24)


def until(condition: Callable[[], bool], timeout_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_bakeoff_goes_on_where_it_was_and_ends_in_a_table(
    tmp_path: Path, base: ResolvedBase, export: Export
) -> None:
    bakeoffs, runs = Bakeoffs(tmp_path), Runs(tmp_path)
    begun = bakeoffs.start(base=base, export=export, prompts=PROMPTS, steps=STEPS)
    until(lambda: len(bakeoffs.get(begun.id).runs) == 2)
    before = bakeoffs.get(begun.id)
    assert before.pid is not None
    psutil.Process(before.pid).kill()
    until(lambda: not bakeoffs.get(begun.id).is_active, 5)
    killed = bakeoffs.get(begun.id)
    assert killed.state is BakeoffState.INTERRUPTED
    assert killed.reason is not None
    # The run that it was at is a child of its own and goes on.
    assert runs.get(before.runs[1][1]).state is not RunState.INTERRUPTED

    bakeoffs.resume(begun.id)
    until(lambda: not bakeoffs.get(begun.id).is_active)
    done = bakeoffs.get(begun.id)
    assert (done.state, done.reason) == (BakeoffState.DONE, None)
    assert done.runs[:2] == before.runs
    assert tuple(method for method, _ in done.runs) == METHODS
    found = runs.list()
    assert [run.id for run in found] == [run_id for _, run_id in done.runs]
    # One dataset, one seed, as many steps: only the method differs.
    assert {(r.spec.dataset_sha256, r.spec.seed, r.spec.steps) for r in found} == {
        (export.sha256, 0, STEPS)
    }
    assert [row.run_id for row in done.rows] == [None, *(run_id for _, run_id in done.runs)]
    for row in done.rows[1:]:
        # Nobody can judge this base's answers, so there is a state and no number.
        assert (row.win_rate, row.over_sft, row.correct) == (None, None, None)
        assert row.seconds is not None
        assert row.words > 0
    assert [row.verdict for row in done.rows] == [
        "where all start",
        "the baseline",
        "needs blind votes",
        "needs blind votes",
    ]
    table = (tmp_path / "bakeoffs" / begun.id / "table.md").read_text()
    assert table.count("\n| ") == 4
    assert "Nobody has judged" in table
    with pytest.raises(BakeoffError, match="nothing to resume"):
        bakeoffs.resume(begun.id)


@pytest.mark.slow
def test_two_starts_at_once_start_one_and_a_cancel_ends_it_with_its_run(
    tmp_path: Path, base: ResolvedBase, export: Export
) -> None:
    barrier = threading.Barrier(2)
    started: list[Bakeoff] = []
    refused: list[str] = []

    def press() -> None:
        bakeoffs = Bakeoffs(tmp_path)
        barrier.wait()
        try:
            started.append(bakeoffs.start(base=base, export=export, prompts=PROMPTS, steps=1000))
        except BakeoffError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=press) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (begun,) = started
    (line,) = refused
    assert line == f"{begun.id} is going on: wait for its end or cancel it."

    bakeoffs, runs = Bakeoffs(tmp_path), Runs(tmp_path)
    until(lambda: any(run.state is RunState.TRAINING for run in runs.list()))
    before = time.monotonic()
    cancelled = bakeoffs.cancel(begun.id)
    assert time.monotonic() - before < 4
    assert cancelled.state is BakeoffState.CANCELLED
    assert [run.state for run in runs.list()] == [RunState.CANCELLED]
    with pytest.raises(BakeoffError, match="nothing to cancel"):
        bakeoffs.cancel(begun.id)


def test_a_cancel_that_comes_while_a_run_is_started_finds_that_run(
    tmp_path: Path, base: ResolvedBase, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = SimpleNamespace(id="sft-1")

    def told_meanwhile(*_: object, **__: object) -> SimpleNamespace:
        os.kill(os.getpid(), signal.SIGTERM)
        # The handler runs between two steps of this thread.
        assert "sft" not in dict(folder.read().runs)
        return started

    no_child = SimpleNamespace(pid=os.getpid(), process_started=0.0)
    monkeypatch.setattr("alignment.bakeoff.bakeoffs.start_child", lambda *_: no_child)
    monkeypatch.setattr(Runs, "start", told_meanwhile)
    begun = Bakeoffs(tmp_path).start(base=base, export=export, prompts=PROMPTS, steps=STEPS)
    folder = BakeoffFolder(tmp_path / "bakeoffs" / begun.id)
    before = signal.signal(signal.SIGTERM, child._leave)
    try:
        with pytest.raises(SystemExit):
            child._start(folder, Runs(tmp_path), "sft")
        assert signal.getsignal(signal.SIGTERM) is child._leave
    finally:
        signal.signal(signal.SIGTERM, before)
    assert dict(folder.read().runs) == {"sft": "sft-1"}


def test_what_cannot_be_started_is_one_clear_line_and_makes_nothing(
    tmp_path: Path, base: ResolvedBase, export: Export
) -> None:
    bakeoffs = Bakeoffs(tmp_path)
    few = export_of(tmp_path, 6)
    with pytest.raises(BakeoffError, match="at least 20 preference examples and found 6"):
        bakeoffs.start(base=base, export=few, prompts=PROMPTS)
    with pytest.raises(BakeoffError, match="needs eval prompts and found none"):
        bakeoffs.start(base=base, export=export, prompts=[])
    with pytest.raises(BakeoffError, match=r"Steps can't be 0"):
        bakeoffs.start(base=base, export=export, prompts=PROMPTS, steps=0)
    with pytest.raises(BakeoffError, match="There is no bake-off"):
        bakeoffs.get("../x")
    assert bakeoffs.list() == []
    assert not (tmp_path / "bakeoffs").exists()


def test_a_bakeoff_is_refused_beside_a_run(
    tmp_path: Path, base: ResolvedBase, export: Export
) -> None:
    runs = Runs(tmp_path)
    run = runs.start(TrainingOptions("dpo", steps=1000), base=base, export=export)
    try:
        with pytest.raises(BakeoffError, match=f"Run {run.id} is"):
            Bakeoffs(tmp_path).start(base=base, export=export, prompts=PROMPTS)
    finally:
        runs.cancel(run.id)


# The judge and the table


def answers_of(style: str) -> list[str]:
    from alignment.starter.text import Style, questions

    known = {question.text: question.answers for question in questions()}
    return [known[p.messages[-1].content][Style(style)][0] for p in starter_prompts()[:8]]


def test_the_judge_prefers_the_courteous_and_ties_equal_answers() -> None:
    prompts = [p.messages[-1].content for p in starter_prompts()[:8]]
    terse, polite = answers_of("terse"), answers_of("polite")
    row = Row("dpo", "dpo-1", win_rate=None, over_sft=None, words=1.0)
    # Against terse answers the polite win on all eight; against themselves all is a tie.
    found = judged(row, 0, prompts, terse, polite, polite)
    assert found.win_rate == Rate(1.0, 0.0, 8)
    assert found.over_sft == Rate(0.5, 0.0, 8)
    assert found.verdict == "level with SFT"
    assert (found.correct, found.well_formed) == (1.0, 1.0)
    assert judged(row, 0, prompts, terse, polite, terse).verdict == "beats SFT"
    assert judged(row, 0, prompts, terse, terse, polite).verdict == "behind SFT"


def bakeoff(**changed: object) -> Bakeoff:
    rows = (
        Row("base", None, None, None, words=7.25, correct=0.98, well_formed=0.97),
        Row(
            "dpo",
            "dpo-1",
            win_rate=Rate(0.75, 0.04, 268),
            over_sft=Rate(0.53, 0.05, 268),
            words=12.0,
            correct=0.975,
            well_formed=0.96,
            reward_accuracy=0.9,
            eval_pairs=20,
            seconds=10.4,
            peak_memory_bytes=620_000_000,
        ),
    )
    whole = Bakeoff(
        id="bakeoff-20261123-2041-7f3a",
        created_at=WHEN,
        base=TINY,
        base_path=Path("/tmp/tiny"),
        is_starter=True,
        dataset_sha256="0" * 64,
        examples=102,
        min_examples=20,
        seed=3,
        steps=None,
        prompts=268,
        state=BakeoffState.DONE,
        runs=(("dpo", "dpo-1"),),
        judge="a script",
        rows=rows,
    )
    return replace(whole, **changed)  # type: ignore[arg-type]


def test_a_cell_for_each_column() -> None:
    base_row, dpo_row = (cells(row) for row in bakeoff().rows)
    assert len(base_row) == len(dpo_row) == len(COLUMNS)
    assert base_row[:3] == ("base", "", "")
    # .53 − .05 is below one half: no claim.
    assert dpo_row == (
        "DPO",
        "0.75 ± 0.04",
        "0.53 ± 0.05",
        "0.90 of 20",
        "12.0",
        "0.97",
        "0.96",
        "10 s",
        "0.6 GB",
        "level with SFT",
    )


def test_the_table_says_what_it_rests_on() -> None:
    text = to_markdown(bakeoff())
    assert text.splitlines()[0] == "| " + " | ".join(COLUMNS) + " |"
    assert "102 examples, seed 3, 268 eval prompts that nobody voted on" in text
    assert "Judged by a script." in text
    assert "need blind votes" in caveat(bakeoff(judge=None))
    going = to_markdown(bakeoff(rows=(), state=BakeoffState.RUNNING))
    assert going == "bakeoff-20261123-2041-7f3a is running; begun: DPO."


def test_a_bakeoff_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    folder = BakeoffFolder(tmp_path)
    folder.write(bakeoff())
    assert folder.read() == bakeoff()
    folder.write_prompts(PROMPTS)
    assert folder.prompts() == PROMPTS
