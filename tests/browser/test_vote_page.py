"""The vote page in a real browser, over the real routes and a real journal."""

import json
import re
from collections.abc import Callable

import pytest
from conftest import PHONE, Watched
from playwright.sync_api import Page, Route, expect
from vote_site import MODEL_WORDS, Site, build_chat_pair, build_pair

from annotation.schema import Choice, Message, Reason

pytestmark = pytest.mark.browser

SIDES = ("a", "b")
FOUR_KEYS = {"1": Choice.A, "2": Choice.B, "3": Choice.TIE, "4": Choice.BOTH_BAD}


def answer(page: Page, side: str):
    return page.locator(f"[data-vt=answer-{side}]")


def prompt(page: Page):
    return page.locator("[data-vt=prompt]")


def status(page: Page):
    return page.locator("[data-vt=status]")


def press(page: Page, key: str) -> None:
    """Press on a pair that is on screen, as a person would."""
    expect(answer(page, "a")).to_be_visible()
    page.keyboard.press(key)


def press_and_save(page: Page, key: str) -> None:
    press(page, key)
    wait_until_settled(page)
    expect(status(page)).to_contain_text(re.compile(r"^(Saved|Skipped)\."))


def wait_until_settled(page: Page) -> None:
    """Until no vote waits to be saved: a press puts it there before it returns."""
    page.wait_for_function("() => !Object.keys(localStorage).some(k => k.includes('outbox'))")


def wait_until_full(page: Page) -> None:
    """Until one pair is on screen and two are ahead."""
    page.wait_for_function("JSON.parse(sessionStorage['votetune.tab']).open.length === 3")


def shown_number(page: Page) -> int:
    """The number of the pair on screen, from its prompt "Question <n>: …"."""
    text = prompt(page).inner_text()
    found = re.search(r"Question (\d+)", text)
    assert found, text
    return int(found.group(1))


def in_browser_storage(page: Page) -> str:
    return page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
    )


def waiting_votes(page: Page) -> int:
    return page.evaluate(
        "Object.keys(localStorage).filter((k) => k.startsWith('votetune.outbox.')).length"
    )


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
        page.keyboard.press("1", delay=30)
        page.wait_for_timeout(70)
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


def refuse_with(code: int, refusals: list[int]) -> Callable[[Route], None]:
    def refuse(route: Route) -> None:
        refusals.append(code)
        route.fulfill(status=code, headers={"Retry-After": "1"}, json={"detail": "no"})

    return refuse


def test_failed_save_keeps_models_hidden_and_the_vote(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 9)))
    page = voter.open_ready()
    for code in (503, 507, 429, 500):
        refusals: list[int] = []
        page.route("**/api/votes", refuse_with(code, refusals), times=2)
        press(page, "1")
        expect(status(page)).to_contain_text("Not saved yet, retrying")
        assert not any(word in page.content() for word in MODEL_WORDS)
        expect(status(page)).to_contain_text("Saved.")
        assert (refusals, waiting_votes(page)) == ([code, code], 0)
    assert [vote.choice for vote in site.votes()] == [Choice.A] * 4


def test_skip_reveals_no_model(site: Site, voter: Watched) -> None:
    site.add(build_pair(1), build_pair(2))
    page = voter.open_ready()
    press_and_save(page, "s")
    expect(prompt(page)).to_contain_text("Question 2:")
    assert not any(word in page.content() for word in MODEL_WORDS)
    assert [vote.choice for vote in site.votes()] == [Choice.SKIP]


# ------------------------------------------------------------------------------- inert text

HOSTILE = {
    "script": "<script>alert(1)</script><script src='https://evil.example/x.js'></script>",
    "onerror": '<img src="https://evil.example/i.png" onerror="alert(1)">',
    "markdown": "![pixel](https://evil.example/p.png) [go](javascript:alert(1)) `${alert(1)}`",
    "think": "<think>secret reasoning</think> visible",
    "overlay": '<div style="position:fixed;inset:0;z-index:9999"><form action="https://evil.example">'
    '<input type="password" name="p"><button>Vote A</button></form></div>',
    "templates": "${alert(1)} {{constructor.constructor('alert(1)')()}} @children",
    "html": '</div></div><h1>Hi</h1><style>*{display:none}</style><iframe src="//evil.example">',
}
ACTIVE = ":is(img, script, form, input, button, iframe, a, style, h1)"


def test_hostile_completions_stay_text(site: Site, voter: Watched) -> None:
    for number, text in enumerate(HOSTILE.values()):
        site.add(build_pair(number, text, "The other.", prompt=f"Question {number}: {text}"))
    page = voter.open_ready()
    for number, text in enumerate(HOSTILE.values()):
        expect(prompt(page)).to_contain_text(f"Question {number}:")
        assert prompt(page).text_content() == f"Question {number}: {text}"
        texts = [answer(page, side).text_content() for side in SIDES]
        assert sorted(texts) == sorted([text, "The other."])
        assert page.locator("[data-vt=pair]").locator(ACTIVE).count() == 0
        # Nothing covers the buttons: a real click reaches one. Requests and dialogs are watched.
        page.get_by_role("button", name="Tie").click()
        wait_until_settled(page)
    assert len(site.votes()) == len(HOSTILE)


def test_hidden_characters_are_shown_as_marks(site: Site, voter: Watched) -> None:
    family = "\U0001f469‍\U0001f4bb"  # woman, joiner, laptop: one picture
    persian = "می‌خواهم"
    first = f"\u202evote A\u202c zero\u200b\u200b\u200bwidth\x07 soft\xad {family} {persian}"
    site.add(build_pair(1, first, "Plain."))
    page = voter.open_ready()
    side = "a" if answer(page, "b").inner_text() == "Plain." else "b"
    marks = answer(page, side).locator(".vt-mark").all_inner_texts()
    assert marks == ["RLO", "PDF", "ZWSP×3", "U+0007", "SHY"]
    shown = answer(page, side).text_content()
    assert family in shown
    assert persian in shown
    assert not set("\u202e\u202c\u200b\x07\xad") & set(shown)


def test_a_very_long_answer_is_whole_and_in_its_pane(site: Site, voter: Watched) -> None:
    long = "x" * 60_000 + "\u200b\u200c" * 20_000
    site.add(build_pair(1, long, "Short."))
    page = voter.open_ready()
    side = "a" if answer(page, "b").inner_text() == "Short." else "b"
    assert answer(page, side).text_content().startswith("x" * 60_000)
    assert answer(page, side).locator(".vt-mark").count() <= 400
    heights = [answer(page, s).bounding_box()["height"] for s in SIDES]
    assert heights[0] == heights[1] < 600
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    press_and_save(page, "1")


def test_notice_is_shown_as_text(tmp_path, new_voter: Callable[..., Watched]) -> None:
    notice = "The hub can't be reached. ${alert(1)} {{notice}} <b>bold</b> `"
    home = tmp_path / "with-notice"
    home.mkdir()
    served = Site(home, notice=notice)
    served.start()
    try:
        served.add(build_pair(1))
        page = new_voter(served).open_ready()
        assert page.locator("[data-vt=notice]").text_content() == notice
    finally:
        served.close()


def test_a_conversation_shows_every_turn(site: Site, voter: Watched) -> None:
    turns = [
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi!"),
        Message("user", "Bye"),
    ]
    site.add(build_chat_pair(1, turns, "First.", "Second."))
    page = voter.open_ready()
    assert prompt(page).locator("h3").all_inner_texts() == [
        "Instructions",
        "Person",
        "Assistant",
        "Person",
    ]
    assert prompt(page).locator(".vt-words").all_inner_texts() == [m.content for m in turns]


# ---------------------------------------------------------------------- nothing gets lost


def test_a_vote_made_offline_is_saved_once_after_reconnecting(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 6)))
    page = voter.open_ready()
    wait_until_full(page)
    voter.context.set_offline(True)
    press(page, "1")
    press(page, "2")
    expect(status(page)).to_contain_text("Not saved yet, retrying. 2 votes are kept here.")
    assert site.votes() == []
    voter.context.set_offline(False)
    expect(status(page)).to_contain_text("Saved.")
    wait_until_settled(page)
    assert [vote.choice for vote in site.votes()] == [Choice.A, Choice.B]


def test_a_lost_answer_is_asked_for_again_and_stored_once(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()

    def lose(route: Route) -> None:
        assert route.fetch().status == 201
        route.abort()

    page.route("**/api/votes", lose, times=1)
    press(page, "3")
    expect(status(page)).to_contain_text("Saved.")
    assert [vote.choice for vote in site.votes(include_superseded=True)] == [Choice.TIE]


def test_votes_survive_a_server_restart_and_a_reload(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    wait_until_full(page)
    site.stop()
    press(page, "4")
    expect(status(page)).to_contain_text("Not saved yet, retrying. The server can’t be reached.")
    site.start()
    page.reload()
    expect(status(page)).to_contain_text("Saved.")
    assert [vote.choice for vote in site.votes()] == [Choice.BOTH_BAD]


def test_a_closed_tab_leaves_its_votes_to_the_next(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    first = voter.open_ready()
    other = voter.context.new_page()
    other.goto(f"{site.url}/api/health")
    voter.context.set_offline(True)
    press(first, "1")
    expect(status(first)).to_contain_text("Not saved yet")
    first.close()
    voter.context.set_offline(False)
    # As if that tab had been closed ten minutes ago.
    other.evaluate(
        """() => { for (const key of Object.keys(localStorage).filter(k => k.includes('outbox'))) {
             const entry = JSON.parse(localStorage[key]);
             localStorage[key] = JSON.stringify({...entry, touched: Date.now() - 6e5}); } }"""
    )
    other.goto(f"{site.url}/")
    expect(status(other)).to_contain_text("Saved.")
    assert [vote.choice for vote in site.votes()] == [Choice.A]


def test_a_refused_vote_says_why_once_and_the_page_goes_on(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    number = shown_number(page)
    elsewhere = voter.context.request.post(
        f"{site.url}/api/votes", data={"pair": f"pair-{number}", "choice": "b"}
    )
    assert elsewhere.status == 201
    press(page, "1")
    expect(status(page)).to_contain_text("That vote was not saved: You already voted otherwise")
    assert waiting_votes(page) == 0
    press_and_save(page, "1")
    assert [vote.choice for vote in site.votes()] == [Choice.B, Choice.A]


def test_pairs_of_a_journal_that_is_gone_are_let_go(site: Site, voter: Watched, tmp_path) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    wait_until_full(page)
    site.stop()
    home = tmp_path / "empty"
    home.mkdir()
    fresh = Site(home, port=site.port)
    fresh.add(build_pair(50), build_pair(51))
    fresh.start()
    try:
        press(page, "1")
        expect(status(page)).to_contain_text("That vote was not saved: No pair has the id")
        # The pair on screen stays until it is judged; only unseen ones are dropped.
        press(page, "1")
        expect(prompt(page)).to_contain_text(re.compile("Question 5[01]:"))
        press_and_save(page, "1")
        assert len(fresh.votes()) == 1
    finally:
        fresh.close()


# -------------------------------------------------------------------------------- undo


def test_undo_takes_the_saved_vote_back(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    press_and_save(page, "1")
    expect(page.locator("[data-vt=today]")).to_have_text("1 vote from you today")
    page.keyboard.press("u")
    expect(status(page)).to_have_text("Taken back.")
    expect(page.locator("[data-vt=today]")).to_have_text("0 votes from you today")
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

    page.route("**/api/votes", lose, times=1)
    press(page, "1")
    expect(status(page)).to_contain_text("Not saved yet")
    page.keyboard.press("u")
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
    page.route("**/api/pairs", lambda route: route.abort(), times=2)
    page.goto(f"{site.url}/")
    expect(page.locator("[data-vt=empty]")).to_contain_text("The server can’t be reached.")
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
    site.journal.retire_unvoted_pairs().result(timeout=5)
    press(page, "1")
    expect(status(page)).to_contain_text(
        "It does not count, because its base model is no longer in use."
    )


# ------------------------------------------------------------------------------- the look

CONTRASTS = """() => {
  const channel = (v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const rgba = (css) => { const c = document.createElement('canvas').getContext('2d');
    c.fillStyle = css; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (node) => { for (let n = node; n; n = n.parentElement) {
    const c = rgba(getComputedStyle(n).backgroundColor); if (c[3] === 255) return c; }
    return rgba('white'); };
  const texts = [...document.querySelectorAll('.vt *, [role=tab]')].filter((n) =>
    n.checkVisibility() && [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim()));
  return texts.map((n) => { const a = light(rgba(getComputedStyle(n).color)), b = light(ground(n));
    return [n.className || n.tagName, n.textContent.slice(0, 30),
            (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(
    site: Site, new_voter: Callable[..., Watched], scheme: str
) -> None:
    site.add(build_pair(1), build_pair(2, "Marked\u200b.", "Marked\u200b too."))
    page = new_voter(color_scheme=scheme).open_ready()
    press_and_save(page, "1")
    page.get_by_role("button", name="clear").click()
    page.mouse.move(1, 1)
    dark = (
        sum(
            page.evaluate(
                "[...getComputedStyle(document.body).backgroundColor.matchAll(/\\d+/g)].map(Number)"
            )[:3]
        )
        < 200
    )
    assert dark == (scheme == "dark")
    page.wait_for_timeout(300)  # Gradio fades its colours
    faint = [found for found in page.evaluate(CONTRASTS) if found[2] < 4.5]
    assert faint == []


def test_on_a_phone_answers_stack_and_the_vote_bar_stays_on_screen(
    site: Site, new_voter: Callable[..., Watched]
) -> None:
    long = "A long line of words that has to wrap on a phone. " * 60
    site.add(build_pair(1, long, long + "!"), build_pair(2, long, long + "!"))
    page = new_voter(viewport=PHONE).open_ready()
    boxes = [answer(page, side).bounding_box() for side in SIDES]
    assert boxes[0]["x"] == boxes[1]["x"]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert boxes[0]["width"] == boxes[1]["width"] > 340
    for scroll in (0, 100_000):
        page.evaluate(f"window.scrollTo(0, {scroll})")
        for button in page.locator("[data-vt=buttons] button").all():
            box = button.bounding_box()
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= PHONE["height"]
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE["width"]
            assert box["height"] >= 44
    tops = [b.bounding_box()["y"] for b in page.locator("[data-vt=buttons] button").all()]
    assert tops[0] == tops[1] < tops[2] == tops[3] == tops[4] == tops[5]
    # Scrolled to its end, the page shows the last answer above the bar.
    bar = page.locator(".vt-bar").bounding_box()
    last = answer(page, "b").bounding_box()
    assert last["y"] + last["height"] <= bar["y"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The next pair is read from its beginning, however far below the vote was cast.
    press_and_save(page, "1")
    assert 0 <= page.get_by_role("heading", name="Prompt").bounding_box()["y"] < 300


def test_answers_keep_a_readable_measure(site: Site, new_voter: Callable[..., Watched]) -> None:
    site.add(build_pair(1, "0" * 400, "1" * 400))
    page = new_voter(viewport={"width": 1920, "height": 1000}).open_ready()
    # A zero is as wide as one "ch", so the first line holds as many zeros as the measure.
    per_line = page.evaluate(
        """() => { const text = document.querySelector('[data-vt=answer-a]').firstChild;
             const range = document.createRange(); let n = 0, top = null;
             for (; n < 400; n += 1) { range.setStart(text, n); range.setEnd(text, n + 1);
               const y = range.getClientRects()[0].top; top ??= y; if (y > top + 2) break; }
             return n; }"""
    )
    assert 60 <= per_line <= 74


def test_headings_labels_and_live_region(site: Site, voter: Watched) -> None:
    site.add(build_pair(1))
    page = voter.open_ready()
    assert page.locator("h1").all_inner_texts() == ["Which answer is better?"]
    assert page.locator("h2:visible").all_inner_texts() == ["Prompt", "Answer A", "Answer B"]
    assert status(page).get_attribute("aria-live") == "polite"
    for name in ("Prompt", "Answer A", "Answer B"):
        expect(page.get_by_role("region", name=name)).to_have_attribute("tabindex", "0")
    page.keyboard.press("Tab")
    focused = "getComputedStyle(document.activeElement).outlineStyle"
    page.get_by_role("button", name="Tie").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "solid"


def test_the_page_works_below_a_root_path(tmp_path, new_voter: Callable[..., Watched]) -> None:
    home = tmp_path / "below"
    home.mkdir()
    served = Site(home, root_path="/spaces/votetune")
    served.add(build_pair(1), build_pair(2))
    served.start()
    try:
        watched = new_voter(served)
        page = watched.open_ready()
        press_and_save(page, "1")
        expect(page.locator("[data-vt=today]")).to_contain_text("today")
        calls = {reply.url for reply in watched.answers if "/api/" in reply.url}
        assert {url.removeprefix(served.url) for url in calls} == {
            "/api/pairs",
            "/api/votes",
            "/api/me/votes",
        }
        assert len(served.votes()) == 1
    finally:
        served.close()


def test_nothing_that_the_page_keeps_outlives_its_use(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 9)))
    page = voter.open_ready()
    for _ in range(4):
        press_and_save(page, "1")
    kept = json.loads(in_browser_storage(page))
    assert sorted(key.split(".")[1] for key in kept[0] if key.startswith("votetune")) == ["holds"]
    tab = json.loads(kept[1]["votetune.tab"])
    assert [past["shown"] for past in tab["past"]] == [None] * 4
    assert kept[2] == ""  # the voter's cookie is out of the script's reach
