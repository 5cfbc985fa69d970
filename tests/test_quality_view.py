"""The quality section as text and by its handlers, over a real journal: what it says and does."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest
from rich.console import Console
from vote_parts import CARELESS, HONEST, LEFT, NOON, RING, crowd_at_work, pair_of, vote_on

from alignment.audit import AuditLog
from alignment.commands.quality import load_quality, print_quality
from alignment.pipeline import Pipeline
from alignment.web.admin.admin_doors import COOKIE, TokenDoor
from alignment.web.admin.own_prompts_tab import OwnPromptHandlers
from alignment.web.admin.quality_tab import QualityHandlers
from alignment.web.admin.quality_view import (
    SHOWN_DAYS,
    draw_days,
    draw_figures,
    draw_interval,
    draw_splits,
    draw_voters,
    draw_waiting,
)
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.quality.report import PATIENCE_S, QualityDesk, report_quality
from annotation.schema import Choice, PairKind

HOSTILE = "<script>alert(1)</script>\u202eevil"
A, B = Choice.A, Choice.B
ROOT = Path(__file__).parent.parent


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


@pytest.fixture
def journal(home: Home) -> Iterator[Journal]:
    made = Journal(home.journal)
    yield made
    made.close()


def fill(journal: Journal) -> None:
    pairs, votes = crowd_at_work()
    journal.add_pairs(pairs).result(10)
    for future in [journal.add_vote(vote) for vote in votes]:
        future.result(10)


def plain(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


# What it says


def test_no_vote_says_what_to_do() -> None:
    empty = report_quality([], {})
    assert "open the Vote tab" in draw_figures(empty, None)
    assert draw_voters(empty.voters) == ""
    assert "two or more people voted" in draw_splits((), {})
    assert "No prompt waits" in draw_waiting([], 0)


def test_without_overlap_it_says_how_to_get_some() -> None:
    said = plain(
        draw_figures(report_quality([vote_on("p0", "ann", A)], {"p0": pair_of("p0")}), None)
    )
    assert "set VOTES_PER_PAIR=2" in said
    assert "Training needs 20 pairs with two votes each" in said
    assert said.startswith("1 vote of 1 voter on 1 pair.")


def test_figures_have_intervals_and_say_what_training_makes_of_them() -> None:
    pairs, votes = crowd_at_work()
    report = report_quality(votes, {pair.id: pair for pair in pairs})
    assert {v.voter for v in report.suspects} == {LEFT, CARELESS, *RING}
    drawn = draw_figures(report, 0.12)
    said = plain(drawn)
    assert "4 voters are flagged and still in" in said
    assert "12 % of training examples the wrong way round. The doctor advises" in said
    assert "Without the flagged voters" in said
    assert drawn.count('class="vta-interval"') == 4
    share = report.overall.side_a
    assert share is not None
    assert f"{100 * share.low:.0f} % – {100 * share.high:.0f} %" in said
    calm = plain(draw_figures(report, 0.02))
    assert "Below 10 %, training needs no correction" in calm


def test_an_interval_lies_where_its_figures_say() -> None:
    drawn = draw_interval(0.5, 0.25, 0.75, middle=0.5)
    # From 6 to 154 of 160: a quarter is at 43, half at 80, three quarters at 117.
    assert 'd="M43.0 12H117.0"' in drawn
    assert 'cx="80.0"' in drawn
    assert 'aria-label="50 %, between 25 % and 75 %"' in drawn


def test_days_are_bars_and_a_table() -> None:
    days = [((NOON + timedelta(days=n)).date(), n) for n in range(3)]
    drawn = draw_days(days)
    assert drawn.count("<rect") == 3
    assert "3 votes in 3 days" in drawn
    assert '<th scope="row">25 Nov 2026</th><td>2</td>' in drawn
    many = [((NOON + timedelta(days=n)).date(), 1) for n in range(SHOWN_DAYS + 40)]
    assert f"in the last {SHOWN_DAYS} days" in draw_days(many)
    assert "1 vote in 1 day" in draw_days(days[1:2])


def test_voters_stand_with_their_reasons_and_the_limits() -> None:
    pairs, votes = crowd_at_work()
    votes = [replace(v, set_aside="pressed left") if v.voter == LEFT else v for v in votes]
    report = report_quality(votes, {pair.id: pair for pair in pairs})
    said = plain(draw_voters(report.voters))
    assert "60 of 60 votes went to the left answer." in said
    assert "set aside 60 of 60" in said
    assert "Told: pressed left." in said
    assert "flagged Votes like coin flips: with the majority of others" in said
    assert "Votes alone can't tell a careless voter from an honest one" in said


def test_many_split_pairs_wait_behind_a_fold() -> None:
    pairs = {f"p{n}": pair_of(f"p{n}") for n in range(30)}
    votes = [vote_on(p, who, c) for p in pairs for who, c in (("ann", A), ("bob", B))]
    splits = report_quality(votes, pairs).overall.split_pairs
    drawn = draw_splits(splits, {s.pair_id: pairs[s.pair_id] for s in splits[:20]})
    assert "<summary>27 more, 17 of them here</summary>" in drawn
    assert drawn.count("<article") == 20
    assert draw_splits(splits[:3], pairs).count("<details") == 0


def test_what_others_wrote_is_escaped_everywhere() -> None:
    hostile = replace(
        pair_of(f"p {HOSTILE}", kind=PairKind.OWN, author=HOSTILE),
        only_for=HOSTILE,
    )
    votes = [
        replace(vote_on(hostile.id, HOSTILE, A), set_aside=HOSTILE),
        vote_on(hostile.id, "bob", A),
        vote_on(hostile.id, "cid", B),
    ]
    report = report_quality(votes, {hostile.id: hostile})
    drawn = "".join(
        (
            draw_voters(report.voters),
            draw_splits(report.overall.split_pairs, {hostile.id: hostile}),
            draw_waiting([hostile], 1),
        )
    )
    assert "<script" not in drawn
    assert drawn.count("&lt;script&gt;") >= 4
    assert "1 for the first, 1 for the second" in drawn


# The desk


def test_figures_are_taken_again_only_when_votes_changed(journal: Journal) -> None:
    now = [0.0]
    desk = QualityDesk(journal, clock=lambda: now[0])
    journal.add_pairs([pair_of("p0"), pair_of("p1")]).result(10)
    journal.add_vote(vote_on("p0", "ann", A)).result(10)
    first = desk.report()
    now[0] = 10 * PATIENCE_S
    assert desk.report() is first, "nothing changed, however long ago"
    again = desk.report(fresh=True)
    journal.add_vote(vote_on("p1", "ann", A)).result(10)
    assert desk.report().overall.votes == 2, "the last one is old"
    journal.add_vote(vote_on("p0", "bob", A)).result(10)
    assert desk.report().overall.votes == 2, "votes come in: a little patience"
    assert desk.report(fresh=True).overall.votes == 3
    journal.set_aside("ann", "why not").result(10)
    assert desk.report().overall.votes == 1, "a click is seen at once"
    journal.bring_back("ann").result(10)
    assert desk.report().overall.votes == 3
    assert again is first


def test_suspects_are_those_of_the_report_with_or_without_one(journal: Journal) -> None:
    fill(journal)
    alone, beside = QualityDesk(journal), QualityDesk(journal)
    report = beside.report()
    assert alone.suspects() == beside.suspects() == report.suspects
    journal.set_aside(LEFT, "pressed left").result(10)
    assert {v.voter for v in alone.suspects()} == {CARELESS, *RING}


def test_a_data_check_loads_no_pandas(home: Home, journal: Journal) -> None:
    fill(journal)
    code = (
        "import sys; from pathlib import Path;"
        "from annotation.journal.journal import JournalReader;"
        "from annotation.quality.report import QualityDesk;"
        f"print(len(QualityDesk(JournalReader(Path({str(home.journal)!r}))).suspects()));"
        "sys.exit('pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.stdout.strip(), done.returncode) == ("4", 0), done.stderr


# What its buttons do


TOKEN = "token-of-the-owner-here"


class Page:
    """The handlers as the owner's browser calls them."""

    def __init__(self, home: Home, journal: Journal) -> None:
        door = TokenDoor(TOKEN, AuditLog(home))
        pipeline = SimpleNamespace(quality=QualityDesk(journal), measured_flip_rate=lambda: 0.12)
        self.handlers = QualityHandlers(cast("Pipeline", pipeline), journal, door)
        self.request = gr.Request(headers={"cookie": f"{COOKIE}={door.cookie}"}, session_hash="x")

    def __getattr__(self, name: str) -> Any:
        handler = getattr(self.handlers, name)
        return lambda *arguments: handler(*arguments, request=self.request)


def test_setting_aside_and_bringing_back_say_what_changed(home: Home, journal: Journal) -> None:
    fill(journal)
    page = Page(home, journal)
    said = page.set_aside(LEFT, "")
    assert said == "**anon-left0000…** is set aside, 60 votes: nearly all votes went to one side."
    assert journal.set_aside_voters() == {LEFT: "nearly all votes went to one side"}
    assert page.bring_back(LEFT) == "**anon-left0000…** counts again, 60 votes."
    assert page.bring_back(LEFT) == "**anon-left0000…** counts already."
    assert page.set_aside(HONEST[0], " asked  to be ").endswith("60 votes: asked to be.")
    with pytest.raises(gr.Error, match="No voter is chosen"):
        page.set_aside(None, "")


def test_all_flagged_go_at_once_and_the_figures_follow(home: Home, journal: Journal) -> None:
    fill(journal)
    page = Page(home, journal)
    figures, voters, splits, choice, button, seen = page.watch({})
    assert "4 voters are flagged" in figures
    assert [value for _, value in choice["choices"]][:4] == [
        v.voter for v in QualityDesk(journal).report().suspects
    ]
    assert button["interactive"]
    assert all(part["__type__"] == "update" and len(part) == 1 for part in page.watch(seen)[:5])
    assert page.set_aside_flagged().startswith("4 flagged voters are set aside, 240 votes.")
    figures, voters, _, _, button, _ = page.look_again(seen)
    assert "No voter who counts is flagged" in figures
    assert voters.count("vta-away") == 4
    assert not button["interactive"]
    assert page.set_aside_flagged() == "No voter who counts is flagged."
    assert "None." in splits


def test_a_reason_for_the_voter_names_nobody_else(home: Home, journal: Journal) -> None:
    fill(journal)
    page = Page(home, journal)
    page.set_aside(RING[0], "")
    (why,) = journal.set_aside_voters().values()
    assert why == "votes were the same as another voter's"


def test_own_prompts_wait_until_they_are_approved_or_rejected(home: Home, journal: Journal) -> None:
    asked = [pair_of(f"own{n}", kind=PairKind.OWN, author="ann", only_for="ann") for n in range(3)]
    journal.add_pairs(asked).result(10)
    door = TokenDoor(TOKEN, AuditLog(home))
    handlers = OwnPromptHandlers(journal, door)
    request = gr.Request(headers={"cookie": f"{COOKIE}={door.cookie}"}, session_hash="x")
    drawn, choice, approve, _, seen = handlers.watch({}, None, request)
    assert drawn.count("asked by ann") == 3
    assert (choice["value"], len(choice["choices"])) == ("own0", 3)
    assert approve["interactive"]
    said = handlers.approve("own0", request)
    assert plain(said) == "Approved, and others will see it now: What of own0?"
    assert "Rejected, and nobody else" in handlers.reject("own1", request)
    # What the owner chose stays chosen, whoever else's went.
    _, choice, *_ = handlers.watch(seen, "own2", request)
    assert choice["choices"] == [("What of own2?", "own2")]
    assert "value" not in choice
    assert handlers.watch(seen, "own1", request)[1]["value"] == "own2"
    only_for = {pair.id: pair.only_for for pair in journal.pairs()}
    assert only_for == {"own0": None, "own1": "ann", "own2": "ann"}
    with pytest.raises(gr.Error, match="own0"):
        handlers.approve("own0", request)
    with pytest.raises(gr.Error, match="No prompt is chosen"):
        handlers.reject(None, request)


# The command


def test_the_command_says_the_same(home: Home, journal: Journal) -> None:
    fill(journal)
    journal.set_aside(LEFT, "pressed left").result(10)
    report = load_quality(home)
    told = StringIO()
    print_quality(report, Console(file=told, width=110))
    said = told.getvalue()
    assert "480 votes that count, 8 voters, 60 pairs" in said
    assert re.search(r"anon-left0000… +60 .*set aside", said)
    assert re.search(r"anon-careless… +60 .*flagged", said)
    assert "60 of 60 votes went to the left answer." in said
    row = json.loads(report.to_json())
    assert row["overall"]["votes"] == 480
    assert row["voters"][0]["flags"][0]["reason"]


def test_the_command_without_votes_says_what_to_do(home: Home, journal: Journal) -> None:
    told = StringIO()
    print_quality(load_quality(home), Console(file=told, width=100))
    assert told.getvalue().startswith("No vote yet: start the app and vote")
