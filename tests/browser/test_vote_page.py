"""The vote page in a real browser, over the real routes and a real journal."""

import re

import pytest
from conftest import Watched
from page_parts import (
    SIDES,
    answer,
    in_browser_storage,
    press,
    press_and_save,
    prompt,
    shown_number,
    status,
    wait_until_full,
    wait_until_settled,
)
from playwright.sync_api import Route, expect
from vote_site import MODEL_WORDS, Site, build_pair

from annotation.schema import Choice, Reason

pytestmark = pytest.mark.browser

FOUR_KEYS = {"1": Choice.A, "2": Choice.B, "3": Choice.TIE, "4": Choice.BOTH_BAD}


# ------------------------------------------------------------------------------------- keys


def test_buttons_stand_in_the_order_of_their_keys(site: Site, voter: Watched) -> None:
    site.add(build_pair(1))
    page = voter.open_ready()
    buttons = page.locator("[data-vt=buttons] button")
    assert buttons.all_inner_texts() == [
        "1\nA is better",
        "2\nB is better",
        "3\nTie",
        "4\nBoth bad",
        "S\nSkip",
        "U\nUndo",
    ]
    lefts = [button.bounding_box()["x"] for button in buttons.all()]
    assert lefts == sorted(lefts)
    assert answer(page, "a").bounding_box()["x"] < answer(page, "b").bounding_box()["x"]


def test_each_key_stores_its_own_choice(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 6)))
    page = voter.open_ready()
    for key, choice in FOUR_KEYS.items():
        number, seen = shown_number(page), [answer(page, side).inner_text() for side in SIDES]
        press_and_save(page, key)
        expect(prompt(page)).not_to_contain_text(f"Question {number}:")
        vote = site.votes()[-1]
        pair = site.journal.pair(vote.pair_id)
        assert (vote.pair_id, vote.choice) == (f"pair-{number}", choice)
        # What is stored as chosen is the text that was on the side that the key names.
        if choice in (Choice.A, Choice.B):
            assert pair.resolve(vote.choice, vote.flipped).chosen.text == seen[int(key) - 1]


def test_each_button_stores_its_own_choice(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 7)))
    page = voter.open_ready()
    for name in ("A is better", "B is better", "Tie", "Both bad", "Skip"):
        number = shown_number(page)
        page.get_by_role("button", name=name).click()
        expect(prompt(page)).not_to_contain_text(f"Question {number}:")
        wait_until_settled(page)
    assert [vote.choice for vote in site.votes()] == list(Choice)


def test_five_quick_presses_are_five_votes(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 9)))
    page = voter.open_ready()
    for _ in range(5):
        press(page, "1")
    wait_until_settled(page)
    votes = site.votes()
    assert len(votes) == 5
    assert len({vote.pair_id for vote in votes}) == 5


def test_presses_in_one_moment_count_only_for_pairs_on_screen(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 9)))
    page = voter.open_ready()
    wait_until_full(page)
    page.evaluate(
        """() => { for (let i = 0; i < 5; i += 1) document.body.dispatchEvent(
             new KeyboardEvent("keydown", {key: "2", bubbles: true})) }"""
    )
    expect(status(page)).to_contain_text("Saved.")
    wait_until_settled(page)
    # Three pairs were there: the other two presses met an empty screen.
    assert len({vote.pair_id for vote in site.votes()}) == 3


def test_keys_meant_for_something_else_cast_no_vote(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 5)))
    page = voter.open_ready()
    for combination in ("Control+1", "Alt+2", "Shift+s", "Meta+3"):
        page.keyboard.press(combination)
    # A key held down is one press.
    page.keyboard.down("1")
    page.keyboard.down("1")
    page.keyboard.up("1")
    expect(status(page)).to_contain_text("Saved.")
    page.locator("[data-vt=comment]").press_sequentially("1234 su")
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-prompt")).to_be_visible()
    page.keyboard.press("2")
    page.get_by_role("tab", name="Vote").click()
    expect(answer(page, "a")).to_be_visible()
    wait_until_settled(page)
    assert len(site.votes()) == 1


def test_coming_back_from_compare_goes_on_with_the_same_pair(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 5)))
    page = voter.open_ready()
    press_and_save(page, "1")
    number = shown_number(page)
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-prompt")).to_be_visible()
    page.get_by_role("tab", name="Vote").click()
    expect(answer(page, "a")).not_to_be_empty()
    assert shown_number(page) == number
    press(page, "2")
    expect(prompt(page)).not_to_contain_text(f"Question {number}:")
    wait_until_settled(page)
    assert [vote.pair_id for vote in site.votes()] == ["pair-1", f"pair-{number}"]


# ------------------------------------------------------------------------------------ blind


def test_models_are_nowhere_before_the_vote_is_saved(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    wait_until_full(page)
    page.wait_for_load_state("networkidle")
    seen = [page.content(), in_browser_storage(page)]
    seen += [reply.text() for reply in voter.answers if "/assets/" not in reply.url]
    assert [word for word in MODEL_WORDS for text in seen if word in text] == []
    press_and_save(page, "1")
    assert "starter@0a1b2c3d" in status(page).inner_text()
    assert "run-7@4e5f6a7b" in status(page).inner_text()


def test_skip_reveals_no_model(site: Site, voter: Watched) -> None:
    site.add(build_pair(1), build_pair(2))
    page = voter.open_ready()
    press_and_save(page, "s")
    expect(prompt(page)).to_contain_text("Question 2:")
    assert not any(word in page.content() for word in MODEL_WORDS)
    assert [vote.choice for vote in site.votes()] == [Choice.SKIP]


# -------------------------------------------------------------------------------- undo


def test_undo_takes_the_saved_vote_back(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    press_and_save(page, "1")
    expect(page.locator("[data-vt=today]")).to_have_text("1 vote from you today, 1 in all")
    page.keyboard.press("u")
    expect(status(page)).to_have_text("Taken back.")
    expect(page.locator("[data-vt=today]")).to_have_text("0 votes from you today, 0 in all")
    assert site.votes() == []
    assert [vote.choice for vote in site.votes(include_superseded=True)] == [Choice.A]
    # Its models were shown, so it does not come back.
    assert shown_number(page) != 1
    page.keyboard.press("u")
    expect(status(page)).to_have_text("There is no vote to take back.")


def test_undo_of_a_skip_brings_the_pair_back(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    number = shown_number(page)
    press_and_save(page, "s")
    expect(prompt(page)).not_to_contain_text(f"Question {number}:")
    page.keyboard.press("u")
    expect(status(page)).to_have_text("Taken back.")
    assert shown_number(page) == number
    press_and_save(page, "2")
    assert [(vote.pair_id, vote.choice) for vote in site.votes()] == [(f"pair-{number}", Choice.B)]


def test_undo_of_a_vote_that_waits_brings_its_pair_back(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    number = shown_number(page)
    wait_until_full(page)
    voter.context.set_offline(True)
    press(page, "1")
    expect(status(page)).to_contain_text("Not saved yet")
    page.keyboard.press("u")
    expect(status(page)).to_have_text("Taken back.")
    assert shown_number(page) == number
    press(page, "2")
    voter.context.set_offline(False)
    expect(status(page)).to_contain_text("Saved.")
    votes = site.votes(include_superseded=True)
    assert [(vote.pair_id, vote.choice) for vote in votes] == [(f"pair-{number}", Choice.B)]


def test_undo_of_a_vote_with_a_lost_answer_leaves_no_vote(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/api/votes", lose)
    press(page, "1")
    expect(status(page)).to_contain_text("Not saved yet")
    page.keyboard.press("u")
    # Until an answer comes: the page asks again every second or so.
    page.unroute("**/api/votes")
    expect(status(page)).to_have_text("Taken back.")
    assert site.votes() == []


# ---------------------------------------------------------------------------- pairs, tabs


def test_reload_keeps_the_pair(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 9)))
    page = voter.open_ready()
    press_and_save(page, "1")
    before = (shown_number(page), [answer(page, side).inner_text() for side in SIDES])
    page.reload()
    expect(answer(page, "a")).not_to_be_empty()
    assert (shown_number(page), [answer(page, side).inner_text() for side in SIDES]) == before
    page.keyboard.press("u")
    expect(status(page)).to_have_text("Taken back.")


def test_two_tabs_never_show_the_same_pair(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 13)))
    tabs = [voter.open_ready(), voter.open_ready()]
    shown: list[int] = []
    for _ in range(3):
        for page in tabs:
            shown.append(shown_number(page))
            press_and_save(page, "1")
            expect(prompt(page)).not_to_contain_text(f"Question {shown[-1]}:")
            expect(answer(page, "a")).to_be_visible()
    assert len(set(shown)) == 6
    assert len(site.votes()) == 6


def test_a_closed_tab_gives_its_pairs_back(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 5)))
    for _ in range(3):
        page = voter.open_ready()
        page.wait_for_function("JSON.parse(sessionStorage['votetune.tab']).open.length >= 2")
        page.close(run_before_unload=True)
    page = voter.open_ready()
    press_and_save(page, "1")


def test_pairs_appear_by_themselves_once_written(site: Site, voter: Watched) -> None:
    page = voter.open()
    empty = page.locator("[data-vt=empty]")
    expect(empty).to_contain_text("Writing the first answers…")
    page.keyboard.press("1")
    site.add(build_pair(1))
    expect(answer(page, "a")).not_to_be_empty()
    press_and_save(page, "1")
    expect(empty).to_contain_text("No pair is ready just now.")
    assert len(site.votes()) == 1


def test_an_unreachable_server_is_named_and_waited_for(site: Site, voter: Watched) -> None:
    site.add(build_pair(1))
    page = voter.context.new_page()
    page.route("**/api/pairs", lambda route: route.abort())
    page.goto(f"{site.url}/")
    expect(page.locator("[data-vt=empty]")).to_contain_text("The server can’t be reached.")
    page.unroute("**/api/pairs")
    expect(answer(page, "a")).not_to_be_empty()


def test_reasons_and_comment_go_to_the_vote_just_saved(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    expect(page.locator("[data-vt=last]")).to_be_hidden()
    press_and_save(page, "1")
    page.get_by_role("button", name="clear").click()
    page.get_by_role("button", name="correct").click()
    page.get_by_label("Comment").fill("It names the cause.")
    page.get_by_label("Comment").press("Enter")
    expect(status(page)).to_contain_text(re.compile(r"Saved\. A was .* Noted\.$"))
    wait_until_settled(page)
    vote = site.votes()[0]
    assert (set(vote.reasons), vote.comment) == (
        {Reason.CLEAR, Reason.CORRECT},
        "It names the cause.",
    )
    assert page.get_by_role("button", name="clear").get_attribute("aria-pressed") == "true"


def test_a_vote_that_does_not_count_says_why(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    wait_until_full(page)
    site.journal.retire_unvoted_pairs().result(timeout=60)
    press(page, "1")
    expect(status(page)).to_contain_text(
        "It does not count, because its base model is no longer in use."
    )
