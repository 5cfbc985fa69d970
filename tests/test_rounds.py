"""Rounds in a row: whose votes are whose, what a policy won, and what the page says where it can't.

The story of `told`: four votes on the base's pairs, a first model promoted by the gate, two votes
on its pairs, a second one promoted by an admin and rolled back, one vote since, a third that waits.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from journal_parts import NOON, make_pair, make_vote
from rich.console import Console
from small_files import write_run

from alignment.base import ResolvedBase
from alignment.commands.rounds import print_rounds, to_json
from alignment.contest.promotions import Promotion
from alignment.contest.rounds import Round, RoundDesk, build_rounds, known_answer
from alignment.registry import Registry
from alignment.runs.run_store import AnswerFigures, FinalMetrics, RunFolder
from alignment.runs.runs import Runs
from alignment.starter.starter import report_prompts
from alignment.web.contest.rounds_view import ROUND_COLUMNS, draw_checks, draw_remarks, draw_rounds
from annotation.journal.journal import Journal
from annotation.schema import Choice, Completion, ModelRef, Pair, PairKind, Sampling, Vote
from tests.test_contest import judge

BASE = ModelRef("ada/chat", "b" * 40)
FIRST, SECOND, THIRD = (replace(BASE, adapter=n, adapter_revision=n * 40) for n in "123")
HOUR = timedelta(hours=1)
HISTORY = [
    Promotion(FIRST, NOON + HOUR, "gate", 20, 3),
    Promotion(SECOND, NOON + 2 * HOUR, "override"),
    Promotion(FIRST, NOON + 3 * HOUR, "roll-back"),
]


def pair_at(name: str, hours: float) -> Pair:
    return replace(make_pair(name), created_at=NOON + hours * HOUR)


@pytest.fixture
def told() -> list[Round]:
    pairs = [pair_at("a", 0), pair_at("b", 0.5), pair_at("c", 1), pair_at("d", 3.5)]
    pairs.append(replace(pair_at("x", 0), kind=PairKind.COMPARE))
    votes = [
        make_vote("1", "a", "ann", Choice.A),
        make_vote("2", "a", "bob", Choice.A),
        make_vote("3", "a", "eve", Choice.B),
        # Cast after the promotion, on a pair from before it.
        make_vote("4", "b", "ann", Choice.TIE, created_at=NOON + 2 * HOUR),
        make_vote("5", "c", "ann"),
        make_vote("6", "c", "bob", counted=False, why="set aside"),
        make_vote("7", "d", "ann"),
        make_vote("8", "x", "ann"),
    ]
    return build_rounds(HISTORY, BASE, THIRD, votes, {p.id: p for p in pairs}, [], {})


def test_a_vote_belongs_to_the_round_in_which_its_pair_was_made(told: list[Round]) -> None:
    assert [r.by for r in told] == ["start", "gate", "override", "roll-back", "waits"]
    assert [r.model for r in told] == [BASE, FIRST, SECOND, FIRST, THIRD]
    # Votes that don't count, and comparisons, are none of them.
    assert [r.votes for r in told] == [4, 1, 0, 1, 0]


def test_agreement_is_with_the_others_on_the_pair(told: list[Round]) -> None:
    # Vote 1 sees one for and one against, and so does vote 2: neither tells. Vote 3 is against two.
    agreement = told[0].agreement
    assert agreement is not None
    assert (agreement.count, agreement.total) == (0, 1)
    assert told[1].agreement is None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def journal(home: Path) -> Iterator[Journal]:
    with closing(Journal(home / "journal.sqlite3")) as opened:
        yield opened


def test_a_home_tells_its_rounds_with_what_each_run_said(home: Path, journal: Journal) -> None:
    base = ResolvedBase(BASE, home / "base", is_starter=False, notice=None)
    registry, runs = Registry(home, base), Runs(home)
    desk = RoundDesk(registry, runs, journal)
    assert [r.by for r in desk.rounds()] == ["start"]
    first, second = "dpo-20260301-1200-00aa", "dpo-20260301-1300-00bb"
    write_run(home, first, BASE, seed=1)
    (waiting,) = desk.rounds()[1:]
    assert (waiting.by, waiting.over_last and waiting.over_last.n) == ("waits", 0)
    model = registry.get(first).ref
    judge(journal, model, BASE, 20, tag="a")
    judge(journal, BASE, model, 5, tag="b")
    registry.promotions.promote(model, "gate", wins=20, losses=5)
    write_run(home, second, BASE, seed=2)
    judge(journal, registry.get(second).ref, model, 3, tag="c")
    base_round, policy, candidate = desk.rounds()
    assert base_round.over_base is None
    assert policy.over_last == policy.over_base
    assert policy.over_base is not None
    # 20 of 25: .8, and Wilson's interval for it is .609 to .911.
    assert (policy.over_base.wins, policy.over_base.rate) == (20, 0.8)
    assert policy.over_base.low == pytest.approx(0.6087, abs=1e-4)
    assert policy.over_base.high == pytest.approx(0.9114, abs=1e-4)
    assert policy.training is not None
    assert (policy.training.run, policy.training.start) == (first, None)
    assert policy.correct is None
    assert (candidate.over_last and candidate.over_last.over) == model
    html = draw_rounds(desk.rounds(), {model: first})
    assert "<b>0.80</b><br><small>0.61 to 0.91</small>" in html
    assert "not enough votes<br><small>3 of 20</small>" in html
    assert "never compared" in html
    assert desk.rounds() is desk.rounds()


def test_the_command_says_the_same_and_its_json_has_no_nan(
    home: Path, journal: Journal, told: list[Round]
) -> None:
    rows = json.loads(to_json(told), parse_constant=pytest.fail)
    assert [row["by"] for row in rows] == [r.by for r in told]
    assert rows[1]["over_last"]["rate"] is None
    console = Console(record=True, width=160)
    print_rounds(told, console)
    lines = console.export_text().splitlines()
    assert len(lines) == 1 + len(told)
    assert "never compared" in lines[2]
    assert lines[-1].startswith("next")


def test_what_the_run_started_from_is_told(home: Path, journal: Journal) -> None:
    base = ResolvedBase(BASE, home / "base", is_starter=False, notice=None)
    run = "dpo-20260301-1200-00aa"
    folder = RunFolder(write_run(home, run, BASE))
    row = folder.spec_file.read_text()
    start = '{"name": "dpo-0", "model": {"base": "ada/chat", "base_revision": "x"}, '
    folder.spec_file.write_text(
        row.replace('"start": null', f'"start": {start}"reference": "base"}}')
    )
    desk = RoundDesk(Registry(home, base), Runs(home), journal)
    assert "dpo-0<br><small>kept close to the base" in draw_rounds(desk.rounds(), {})


def test_right_answers_are_counted_where_right_is_known() -> None:
    prompt = report_prompts()[0]
    pair = Pair(
        "x",
        prompt,
        (Completion("Nonsense.", FIRST, Sampling()), Completion("More.", BASE, Sampling())),
        NOON,
        kind=PairKind.COMPARE,
    )
    votes: list[Vote] = []
    rounds = build_rounds(HISTORY[:1], BASE, None, votes, {"x": pair}, [], {}, known_answer)
    correct = rounds[1].correct
    assert correct is not None
    assert (correct.count, correct.total) == (0, 1)
    assert known_answer("What do people here think of it?", "Nothing.") is None


def test_every_round_has_a_cell_for_every_column(told: list[Round]) -> None:
    html = draw_rounds(told, {SECOND: "<b>hostile</b>"})
    assert html.count('<th scope="col">') == len(ROUND_COLUMNS)
    assert html.count("<td>") == len(told) * (len(ROUND_COLUMNS) - 1)
    assert "rolled back" in html
    assert "&lt;b&gt;hostile" in html
    assert "the next round begins when a model becomes the policy" in draw_rounds(told[:1], {})


SEEN = AnswerFigures(32, 60.0, 20.0, 0.02, 0.01, 0.25, 0.03)
FINAL = FinalMetrics(0.2, 1.0, 3.0, 61.0, 20, 0.3, 0.8, 2.0, answered=SEEN)


def test_checks_stand_with_their_errors_and_what_looks_off() -> None:
    html = draw_checks([("dpo-1", FINAL), ("dpo-2", replace(FINAL, answered=None, eval_pairs=0))])
    for said in (
        "<b>0.80</b> <small>of 20 pairs</small>",
        "<b>60</b> <small>tokens, base 20</small>",
        "<b>2%</b> <small>base 1%</small>",
        "<b>0.25</b> <small>± 0.03</small>",
        '<span class="vta-tag">longer</span>',
        "none held out",
        "not measured",
    ):
        assert said in html
    assert draw_checks([]) == ""
    assert "look whether it wins by length" in draw_remarks(FINAL)
    assert draw_remarks(None) == ""
