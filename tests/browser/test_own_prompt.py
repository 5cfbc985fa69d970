"""A question of the voter's own: streamed, voted on like any other, cancelled, refused."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Watched
from page_parts import (
    SIDES,
    answer,
    press_and_save,
    prompt,
    shown_number,
    status,
    wait_until_settled,
)
from playwright.sync_api import Page, Route, expect
from vote_site import MODEL_WORDS, Site, build_pair

pytestmark = pytest.mark.browser
QUESTION = "Why do **cats** purr? <b>Tell</b> me."


def ask_own(page: Page, text: str = QUESTION) -> None:
    page.get_by_text("Ask your own").click()
    page.get_by_label("Your question").fill(text)
    page.get_by_role("button", name="Ask", exact=True).click()


def refusal(code: int) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=code, json={"detail": f"No: {code}."})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    served = Site(tmp_path, own_prompts="open")
    served.start()
    yield served
    served.close()


def test_both_answers_stream_in_and_are_voted_on_like_any_pair(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 6)))
    page = voter.open_ready()
    before = shown_number(page)
    ask_own(page)
    expect(status(page)).to_have_text("Both answers are being written…")
    expect(prompt(page)).to_have_text("Why do cats purr? <b>Tell</b> me.")
    site.writer.say("First words", "Other words")
    for text in ("First words", "Other words"):
        expect(page.locator(".vt-answers")).to_contain_text(text)
    # Half an answer is not voted on.
    page.keyboard.press("1")
    expect(page.get_by_role("button", name="Tie")).to_have_attribute("aria-disabled", "true")
    assert site.votes() == []
    site.writer.end("First words, whole.", "Other words, **whole**.")
    expect(status(page)).to_have_text("Both answers to your question are here: vote as usual.")
    texts = sorted(answer(page, side).inner_text() for side in SIDES)
    assert texts == ["First words, whole.", "Other words, whole."]
    assert not any(word in page.content() for word in MODEL_WORDS)
    press_and_save(page, "1")
    # The pair that was on screen comes back.
    assert shown_number(page) == before
    (vote,) = site.votes()
    assert site.journal.pair(vote.pair_id).prompt.messages[-1].content == QUESTION


def test_a_cancelled_question_stops_the_writing_and_brings_the_pair_back(
    site: Site, voter: Watched
) -> None:
    site.add(*(build_pair(n) for n in range(1, 6)))
    page = voter.open_ready()
    before = shown_number(page)
    ask_own(page)
    site.writer.say("First words", "Other words")
    expect(page.locator(".vt-answers")).to_contain_text("First words")
    page.get_by_role("button", name="Cancel").click()
    expect(status(page)).to_have_text("Your question was cancelled.")
    assert shown_number(page) == before
    # It is still there to be changed and asked again.
    expect(page.get_by_label("Your question")).to_have_value(QUESTION)
    press_and_save(page, "1")
    assert site.writer.was_left(timeout_s=60)


def test_a_refusal_and_a_failure_are_one_line_and_the_pair_comes_back(
    site: Site, voter: Watched
) -> None:
    site.add(*(build_pair(n) for n in range(1, 6)))
    page = voter.open_ready()
    before = shown_number(page)
    page.get_by_text("Ask your own").click()
    page.get_by_label("Your question").fill(QUESTION)

    def asked_while(answer: Callable[[Route], None], said: str) -> None:
        page.route("**/api/prompts", answer, times=1)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(status(page)).to_have_text(f"Your question was not answered: {said}")
        assert shown_number(page) == before

    for code in (401, 403, 422, 429, 503):
        asked_while(refusal(code), f"No: {code}.")
    asked_while(lambda route: route.abort(), "The server can’t be reached.")
    halfway = '{"a": "x", "b": "y"}\n'
    asked_while(
        lambda route: route.fulfill(status=200, body=halfway),
        "The answers stopped halfway: ask again.",
    )
    failed = halfway + '{"error": "The model gave no answer."}\n'
    asked_while(lambda route: route.fulfill(status=200, body=failed), "The model gave no answer.")
    press_and_save(page, "1")


def test_the_question_is_counted_and_says_who_sees_it(site: Site, voter: Watched) -> None:
    site.add(build_pair(1))
    page = voter.open_ready()
    page.get_by_text("Ask your own").click()
    own = page.locator("[data-vt=own]")
    expect(own).to_contain_text("Others may see your question and vote on its answers.")
    expect(own).to_contain_text("0 / 2000")
    ask = page.get_by_role("button", name="Ask", exact=True)
    expect(ask).to_have_attribute("aria-disabled", "true")
    page.get_by_label("Your question").fill("x" * 1999)
    page.get_by_label("Your question").press_sequentially("123su")
    expect(own).to_contain_text("2000 / 2000")
    expect(ask).to_have_attribute("aria-disabled", "false")
    wait_until_settled(page)
    assert site.votes() == []


def test_where_own_prompts_are_off_nothing_offers_them(tmp_path, new_voter) -> None:
    home = tmp_path / "off"
    home.mkdir()
    served = Site(home)
    served.add(build_pair(1))
    served.start()
    try:
        page = new_voter(served).open_ready()
        expect(page.get_by_text("Ask your own")).to_be_hidden()
        assert re.search("own", page.locator("[data-vt=consent]").inner_text()) is None
    finally:
        served.close()
