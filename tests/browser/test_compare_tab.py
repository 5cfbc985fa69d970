"""The Compare tab in a real browser: side by side, stopped, blind with a vote, before and after."""

import asyncio
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from compare_site import BASE, NAMES, CompareSite
from conftest import DESKTOP, PHONE, Watched
from page_parts import in_browser_storage, press_and_save, wait_until_still
from playwright.sync_api import Page, expect
from vote_site import build_pair

from alignment.web.compare import compare_tab
from annotation.journal.votes import TRIED
from annotation.schema import PairKind, Prompt

pytestmark = pytest.mark.browser
EVIL = "The cat sat <img src=x onerror=\"alert('run')\"> down"
OTHER = "The dog sat <b>quietly</b> down"
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
RUN_AXE = """async () => (await axe.run('#component-0, .gradio-container', {
    resultTypes: ['violations'] })).violations
  .filter(({ impact }) => ['serious', 'critical'].includes(impact))
  .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 160)}`))"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[CompareSite]:
    served = CompareSite(tmp_path)
    served.add(*(build_pair(n) for n in range(1, 9)))
    served.start()
    yield served
    served.close()


def open_tab(watched: Watched, part: str | None = None) -> Page:
    """The Compare tab, at one of its parts; the voter has a cookie by then."""
    page = watched.open_ready()
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-ask")).to_be_visible()
    if part:
        page.get_by_label(part).check()
        expect(page.locator("#compare-ask")).to_have_count(0)
    return page


def said(page: Page, name: str):
    return page.get_by_role("region", name=f"Answer of {name}", exact=True)


def test_two_models_stream_side_by_side_with_figures_and_differences(
    site: CompareSite, voter: Watched
) -> None:
    page = open_tab(voter)
    left, right = page.locator("#compare-left input"), page.locator("#compare-right input")
    expect(left).to_have_value("base, the policy")
    expect(right).to_have_value("dpo-second")
    page.locator("#compare-left input").click()
    expect(page.get_by_role("option")).to_have_count(3)
    page.get_by_role("option", name="dpo-first").click()
    page.locator("#compare-prompt textarea").fill("Which animal?")
    page.get_by_label("A new seed each time").uncheck()
    page.locator("#compare-seed input").fill("42")
    page.locator("#compare-ask").click()
    site.writer.say("The cat", "The dog sat")
    expect(said(page, "dpo-first")).to_have_text("The cat")
    expect(said(page, "dpo-second")).to_have_text("The dog sat")
    expect(page.locator("#compare-status")).to_have_text("Both answers are being written…")
    site.writer.end(EVIL, OTHER)
    expect(page.locator("#compare-status")).to_have_text("Done.")
    expect(page.locator("#compare-seed input")).to_have_value("42")
    columns = page.locator("#compare-answers section")
    expect(columns.first).to_contain_text(re.compile(r"\d+ tokens.*51 characters.*tokens a second"))
    # Every word is there as text, and nothing of it ran or was drawn.
    assert said(page, "dpo-first").evaluate("node => node.innerText") == EVIL
    assert page.locator("#compare-answers :is(img, b)").count() == 0
    mark = page.locator("#compare-answers mark").first
    look = "node => getComputedStyle(node).textDecorationLine"
    assert mark.evaluate(look) == "none"
    page.get_by_label("Show what differs").check()
    assert mark.evaluate(look) == "underline"
    expect(said(page, "dpo-second").locator("mark").first).to_have_text("[only here: dog]")


def test_stop_ends_it_within_two_seconds_and_voting_never_waits(
    site: CompareSite, voter: Watched, new_voter
) -> None:
    page = open_tab(voter)
    page.locator("#compare-prompt textarea").fill("Forever?")
    page.locator("#compare-ask").click()
    site.writer.say("On and", "on and")
    expect(said(page, "base")).to_have_text("On and")
    other = new_voter().open_ready()
    press_and_save(other, "1")
    expect(page.locator("#compare-status")).to_have_text("Both answers are being written…")
    # Another comparison waits for its turn, and says so.
    waiting = open_tab(new_voter())
    waiting.locator("#compare-prompt textarea").fill("Me too")
    waiting.locator("#compare-ask").click()
    expect(waiting.locator("#compare-status")).to_contain_text("Waiting for its turn")
    waiting.locator("#compare-stop").click()
    expect(waiting.locator("#compare-status")).to_have_text("Stopped.")
    waiting.locator("#compare-ask").click()
    expect(waiting.locator("#compare-status")).to_contain_text("Waiting for its turn")
    page.locator("#compare-stop").click()
    # From the press on: finding the button is the test's own business.
    assert site.writer.was_left(timeout_s=2)
    expect(page.locator("#compare-status")).to_have_text("Stopped.")
    # What was said stays, and grows no more.
    expect(said(page, "base")).to_have_text("On and")
    expect(page.locator("#compare-answers [aria-busy]")).to_have_count(0)
    site.writer.end("Your", "turn")
    expect(waiting.locator("#compare-status")).to_have_text("Done.")


def test_asking_again_before_the_stopped_one_has_ended_is_answered(
    site: CompareSite, voter: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    watch = compare_tab.watch_answers

    async def slow(*what):
        async for drawn in watch(*what):
            yield drawn
        await asyncio.to_thread(go_on.wait, 60)

    monkeypatch.setattr(compare_tab, "watch_answers", slow)
    page = open_tab(voter)
    page.locator("#compare-prompt textarea").fill("Forever?")
    page.locator("#compare-ask").click()
    site.writer.say("On and", "on and")
    expect(said(page, "base")).to_have_text("On and")
    page.locator("#compare-stop").click()
    expect(page.locator("#compare-status")).to_have_text("Stopped.")
    page.locator("#compare-ask").click()
    expect(page.locator("#compare-status")).to_contain_text("Waiting for its turn")
    go_on.set()
    site.writer.end("At", "last")
    expect(page.locator("#compare-status")).to_have_text("Done.")


def test_asking_while_one_is_written_changes_nothing_and_stop_still_ends_it(
    site: CompareSite, voter: Watched
) -> None:
    page = open_tab(voter)
    status = page.locator("#compare-status")
    page.locator("#compare-prompt textarea").fill("Forever?")
    page.locator("#compare-ask").click()
    site.writer.say("On and", "on and")
    expect(said(page, "base")).to_have_text("On and")
    seed, answered = page.locator("#compare-seed input").input_value(), site.answered()
    page.locator("#compare-ask").click()
    while site.answered() == answered:
        page.wait_for_timeout(20)
    site.writer.say("On and on", "on and on")
    expect(said(page, "base")).to_have_text("On and on")
    expect(page.locator("#compare-seed input")).to_have_value(seed)
    answered = site.answered()
    page.locator("#compare-stop").click()
    assert site.writer.was_left(timeout_s=60)
    # Stop, the question that it ended, and the second one, of which nothing is left.
    while site.answered() < answered + 3:
        page.wait_for_timeout(20)
    expect(status).to_have_text("Stopped.")
    expect(said(page, "base")).to_have_text("On and on")


def test_the_part_that_was_chosen_last_is_drawn(
    site: CompareSite, voter: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    choices = compare_tab.OpenHandlers.choices

    def slow(handlers: compare_tab.OpenHandlers):
        found = choices(handlers)
        begun.set()
        assert go_on.wait(60)
        return found

    monkeypatch.setattr(compare_tab.OpenHandlers, "choices", slow)
    page = voter.open_ready()
    page.get_by_role("tab", name="Compare").click()
    assert begun.wait(60)
    page.get_by_label("Blind, then vote").check()
    go_on.set()
    # Both choices and both drawings.
    while site.answered() < 4:
        page.wait_for_timeout(20)
    expect(page.locator("#blind-ask")).to_be_visible()
    expect(page.locator("#compare-ask")).to_have_count(0)


def test_a_model_that_is_gone_and_an_empty_prompt_are_a_line(
    site: CompareSite, voter: Watched
) -> None:
    page = open_tab(voter)
    status = page.locator("#compare-status")
    page.locator("#compare-ask").click()
    expect(status).to_contain_text("The prompt is empty: ask something first.")
    (site.home / "runs" / "dpo-second").rename(site.home / "gone")
    page.locator("#compare-prompt textarea").fill("Hello?")
    page.locator("#compare-ask").click()
    expect(status).to_contain_text("Model dpo-second is not here")
    assert "Traceback" not in page.content()


def test_names_stay_hidden_until_the_blind_vote_is_on_disk(
    site: CompareSite, voter: Watched
) -> None:
    page = open_tab(voter, "Blind, then vote")
    site.sent.clear()
    page.locator("#blind-prompt textarea").fill("Which are you?")
    page.locator("#blind-ask").click()
    site.writer.say("I am", "We are")
    expect(said(page, "Answer A")).to_have_text(re.compile("I am|We are"))
    expect(page.locator("#blind-a")).to_be_disabled()
    site.writer.end("I am one.", "We are two.")
    expect(page.locator("#blind-status")).to_contain_text("vote, and the names are shown")
    for side in "AB":
        whole = re.compile(r"I am one\.|We are two\.")
        expect(said(page, f"Answer {side}")).to_have_text(whole, use_inner_text=True)
    texts = {said(page, f"Answer {side}").inner_text() for side in "AB"}
    assert texts == {"I am one.", "We are two."}
    config = page.request.get(f"{site.url}/config").text()
    info = page.request.get(f"{site.url}/gradio_api/info").text()
    sent = b"".join(site.sent).decode()
    assert "I am" in sent
    assert "We are" in sent
    for text in (page.content(), in_browser_storage(page), config, info, sent):
        assert [name for name in NAMES if name in text] == []
    assert site.votes() == []

    page.locator("#blind-a").click()
    told = page.locator("#blind-status")
    expect(told).to_contain_text(re.compile(r"Saved\. A was .+, B was .+\. It does not count"))
    expect(told).to_contain_text(TRIED)
    (vote,) = site.votes()
    pair = site.journal.pair(vote.pair_id)
    assert (pair.kind, vote.counted, vote.why) == (PairKind.TRIED, False, TRIED)
    a, b = pair.shown(vote.flipped)
    expect(told).to_contain_text(f"A was {a.model.label}, B was {b.model.label}.")
    assert said(page, "Answer A").inner_text() == a.text
    for choice in ("a", "b", "tie", "both_bad"):
        expect(page.locator(f"#blind-{choice}")).to_be_disabled()

    page.get_by_role("tab", name="Vote").click()
    page.get_by_role("button", name="My votes").click()
    receipt = page.get_by_role("listitem").first
    expect(receipt).to_contain_text(f"It does not count, because {TRIED}.")
    assert "Argilla" not in receipt.inner_text()


def test_with_one_model_only_each_part_says_what_is_missing(tmp_path: Path, new_voter) -> None:
    home = tmp_path / "one"
    home.mkdir()
    alone = CompareSite(home, runs=())
    alone.add(build_pair(1))
    alone.start()
    try:
        page = open_tab(new_voter(alone))
        expect(page.locator("#compare-empty")).to_contain_text("Only the base is here")
        page.get_by_label("Blind, then vote").check()
        expect(page.locator("#blind-empty")).to_contain_text("Only one model is here")
        page.get_by_label("My prompts, before and after").check()
        expect(page.locator("#changes-empty")).to_contain_text("The base still answers everybody")
    finally:
        alone.close()


def test_what_changed_for_my_prompts(site: CompareSite, voter: Watched) -> None:
    site.promote("dpo-first")
    page = open_tab(voter, "My prompts, before and after")
    expect(page.locator("#changes-empty")).to_contain_text("You have asked nothing of your own")
    cookie = next(c for c in voter.context.cookies() if c["name"] == "votetune_voter")
    mine = cookie["value"].split(".")[0]
    for name, author in ((101, mine), (102, "anon-somebodyelse")):
        pair = build_pair(name, prompt=f"Asked by {author}?")
        site.add(replace(pair, kind=PairKind.OWN, author=author))
    page.get_by_label("Two models").check()
    page.get_by_label("My prompts, before and after").check()
    expect(page.locator("#changes-prompt input")).to_have_value(f"Asked by {mine}?")
    page.locator("#changes-prompt input").click()
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Escape")
    site.writer.end("As before.", "As now.")
    page.locator("#changes-ask").click()
    expect(said(page, "Before: base")).to_have_text("As before.", use_inner_text=True)
    expect(said(page, "After: dpo-first")).to_have_text("As now.", use_inner_text=True)
    assert site.journal.prompts_of(mine, 9) == [Prompt.from_text(f"Asked by {mine}?")]


LOOKS = [
    pytest.param(size, scheme, id=f"{size['width']}-{scheme}")
    for size in (DESKTOP, PHONE)
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_the_compare_tab_is_accessible_and_fits(
    site: CompareSite, new_voter, size: dict[str, int], scheme: str, tmp_path: Path
) -> None:
    page = open_tab(new_voter(viewport=size, color_scheme=scheme))
    page.locator("#compare-prompt textarea").fill("Which animal?")
    site.writer.end(EVIL * 9, OTHER * 9)
    page.locator("#compare-ask").click()
    expect(page.locator("#compare-status")).to_have_text("Done.")
    page.get_by_label("Show what differs").check()
    wait_until_still(page)
    page.add_script_tag(path=AXE)
    assert page.evaluate(RUN_AXE) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=str(tmp_path / f"open-{size['width']}-{scheme}.png"), full_page=True)
    page.get_by_label("Blind, then vote").check()
    page.locator("#blind-prompt textarea").fill("Which are you?")
    page.locator("#blind-ask").click()
    expect(page.locator("#blind-a")).to_be_enabled()
    wait_until_still(page)
    assert page.evaluate(RUN_AXE) == []
    page.screenshot(path=str(tmp_path / f"blind-{size['width']}-{scheme}.png"), full_page=True)
    assert BASE.label not in page.content()
