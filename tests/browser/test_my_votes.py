"""My votes: what became of each, undo, deletion of all; the terms before the first; progress."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from conftest import Watched
from page_parts import (
    SIDES,
    answer,
    press_and_save,
    prompt,
    shown_number,
    status,
    wait_until_full,
    wait_until_settled,
)
from playwright.sync_api import APIResponse, Locator, Page, Route, expect
from vote_site import SECRET, Site, build_pair

from annotation.schema import Choice, Vote, utc_now
from annotation.web.voters import COOKIE_NAME, VoterCookies

pytestmark = pytest.mark.browser
TERMS = "may be published as open data under Apache-2.0"


def open_mine(page: Page) -> Locator:
    page.get_by_role("button", name="My votes").click()
    mine = page.get_by_role("dialog", name="My votes")
    expect(mine).to_be_visible()
    expect(mine.locator("[data-vt=mine-status]")).not_to_have_text("Loading…")
    return mine


def voter_id(watched: Watched) -> str:
    cookie = next(c for c in watched.context.cookies() if c["name"] == COOKIE_NAME)
    voter = VoterCookies(SECRET).read(cookie["value"])
    assert voter is not None
    return voter


# ------------------------------------------------------------------------- terms and progress


def test_terms_are_said_before_the_first_vote_and_never_after(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 6)))
    page = voter.open_ready()
    terms = page.locator("[data-vt=consent]")
    expect(terms).to_be_visible()
    expect(terms).to_contain_text(TERMS)
    expect(terms).to_contain_text("delete them under My votes")
    press_and_save(page, "s")
    expect(terms).to_be_visible()
    press_and_save(page, "1")
    expect(terms).to_be_hidden()
    page.reload()
    expect(page.locator("[data-vt=today]")).to_contain_text("1 vote from you today")
    expect(terms).to_be_hidden()


def test_progress_says_how_many_and_never_which_way(site: Site, voter: Watched, new_voter) -> None:
    site.add(*(build_pair(n) for n in range(1, 9)))
    other = new_voter().open_ready()
    press_and_save(other, "1")
    page = voter.open_ready()
    today = page.locator("[data-vt=today]")
    expect(today).to_have_text("0 votes from you today, 0 in all")
    press_and_save(page, "2")
    expect(today).to_have_text("1 vote from you today, 1 in all")
    yesterday = utc_now() - timedelta(days=1, hours=1)
    old = Vote("old", "pair-8", voter_id(voter), Choice.TIE, False, yesterday)
    site.journal.add_vote(old).result(timeout=60)
    page.reload()
    expect(today).to_have_text("1 vote from you today, 2 in all")
    mine = open_mine(page)
    expect(mine.locator("[data-vt=mine-progress]")).to_have_text(
        # Everyone's are counted anew every few seconds only.
        re.compile(r"^You: 1 today, 2 in all\. Everyone: \d today, \d in all\. \d pairs want votes")
    )
    # No answer of the server tells which way others voted.
    last = [reply for reply in voter.answers if "/api/progress" in reply.url][-1]
    assert set(last.json()) == {"mine", "everyone", "pairs_wanted"}
    assert set(last.json()["everyone"]) == {"today", "all"}


# ----------------------------------------------------------------------------------- the list


def test_each_vote_is_listed_newest_first_with_its_fate(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 7)))
    page = voter.open_ready()
    seen = {}
    for key in ("1", "4", "s"):
        number = shown_number(page)
        seen[key] = (number, [answer(page, side).inner_text() for side in SIDES])
        press_and_save(page, key)
        expect(prompt(page)).not_to_contain_text(f"Question {number}:")
    mine = open_mine(page)
    items = mine.get_by_role("listitem")
    expect(items).to_have_count(3)
    for item, key, label in zip(
        items.all(), ("s", "4", "1"), ("Skipped", "Both bad", "A is better"), strict=True
    ):
        number, texts = seen[key]
        expect(item).to_contain_text(label)
        expect(item).to_contain_text(f"Question {number}:")
        item.get_by_text("Both answers").click()
        assert item.locator("details .vt-words").all_inner_texts() == texts
    expect(items.nth(2)).to_contain_text("Saved. It counts. On its way to Argilla.")
    expect(items.nth(2)).to_contain_text(re.compile(r"A was \S+, B was \S+\."))
    # A skip reveals nothing, here neither.
    expect(items.nth(0)).not_to_contain_text("was")


def test_the_list_is_closed_by_escape_and_takes_no_vote_keys(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 5)))
    page = voter.open_ready()
    mine = open_mine(page)
    expect(mine.locator("[data-vt=mine-status]")).to_contain_text("No votes yet.")
    for key in ("1", "2", "s", "u"):
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    expect(mine).to_be_hidden()
    assert site.votes() == []
    expect(page.get_by_role("button", name="My votes")).to_be_focused()
    press_and_save(page, "1")
    assert len(site.votes()) == 1


def test_a_vote_is_taken_back_from_the_list(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 6)))
    page = voter.open_ready()
    for key in ("1", "2"):
        press_and_save(page, key)
    mine = open_mine(page)
    first = mine.get_by_role("listitem").nth(1)
    first.get_by_role("button", name="Undo").click()
    expect(first).to_contain_text("Taken back.")
    expect(first.get_by_role("button", name="Undo")).to_have_count(0)
    assert [vote.choice for vote in site.votes()] == [Choice.B]
    expect(page.locator("[data-vt=today]")).to_contain_text("1 vote from you today")
    page.keyboard.press("Escape")
    # The key takes back the one vote that is left.
    page.keyboard.press("u")
    expect(status(page)).to_have_text("Taken back.")
    assert site.votes() == []


def test_older_votes_come_page_by_page(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 60)))
    page = voter.open_ready()
    wait_until_full(page)
    for n in range(54):
        vote = Vote(
            f"vote-{n}",
            f"pair-{n + 5}",
            voter_id(voter),
            Choice.A,
            False,
            utc_now() - timedelta(minutes=n),
        )
        site.journal.add_vote(vote).result(timeout=60)
    mine = open_mine(page)
    items = mine.get_by_role("listitem")
    expect(items).to_have_count(50)
    mine.get_by_role("button", name="Show older votes").click()
    expect(items).to_have_count(54)
    expect(mine.get_by_role("button", name="Show older votes")).to_be_hidden()
    numbers = [int(n) for n in re.findall(r"Question (\d+)", mine.inner_text())]
    assert len(set(numbers)) == 54


def test_words_of_models_do_nothing_in_the_list(site: Site, voter: Watched) -> None:
    evil = '<img src="https://evil.example/i" onerror="alert(1)">\u202e ${alert(1)}'
    site.add(build_pair(1, evil, "Other.", prompt=f"Question 1: {evil}"), build_pair(2))
    page = voter.open_ready()
    press_and_save(page, "1")
    mine = open_mine(page)
    assert mine.locator("img, a, [style], [id]:not(h2)").count() == 0
    assert mine.locator(".vt-mark").first.inner_text() == "RLO"
    expect(mine.get_by_role("listitem")).to_contain_text('<img src="https://evil.example/i"')


def test_a_server_that_cannot_be_reached_is_named_in_the_list(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 5)))
    page = voter.open_ready()
    press_and_save(page, "1")
    page.route("**/api/me/votes**", lambda route: route.abort(), times=1)
    mine = open_mine(page)
    expect(mine.locator("[data-vt=mine-status]")).to_have_text("The server can’t be reached.")
    mine.get_by_role("button", name="Try again").click()
    expect(mine.get_by_role("listitem")).to_have_count(1)


# ------------------------------------------------------------------------------ delete them all


def test_deleting_all_asks_first_and_then_deletes(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 12)))
    page = voter.open_ready()
    for key in ("1", "2", "3"):
        press_and_save(page, key)
    before = voter_id(voter)
    mine = open_mine(page)
    mine.get_by_role("button", name="Delete all my votes").click()
    asked = mine.get_by_role("group", name="Delete all my votes?")
    expect(asked).to_contain_text("can’t be called back")
    asked.get_by_role("button", name="Keep them").click()
    expect(asked).to_be_hidden()
    assert len(site.votes()) == 3
    mine.get_by_role("button", name="Delete all my votes").click()
    asked.get_by_role("button", name="Delete them all").click()
    expect(mine.locator("[data-vt=mine-status]")).to_contain_text("3 votes deleted.")
    expect(mine.get_by_role("listitem")).to_have_count(0)
    assert site.votes(include_superseded=True) == []
    page.keyboard.press("Escape")
    # The voter is somebody new, and votes on.
    expect(answer(page, "a")).not_to_be_empty()
    expect(page.locator("[data-vt=today]")).to_have_text("0 votes from you today, 0 in all")
    expect(page.locator("[data-vt=consent]")).to_be_visible()
    press_and_save(page, "1")
    wait_until_settled(page)
    assert voter_id(voter) != before
    assert len(site.votes()) == 1


def test_a_pair_that_comes_after_the_deletion_is_let_go(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 9)))
    page = voter.open_ready()
    wait_until_full(page)
    late: list[tuple[Route, APIResponse]] = []
    # Lent to the voter of before, and on its way while that one is deleted.
    page.route("**/api/pairs", lambda route: late.append((route, route.fetch())), times=1)
    press_and_save(page, "1")
    mine = open_mine(page)
    while not late:
        page.wait_for_timeout(20)
    mine.get_by_role("button", name="Delete all my votes").click()
    mine.get_by_role("button", name="Delete them all").click()
    expect(mine.locator("[data-vt=mine-status]")).to_contain_text("1 vote deleted.")
    page.keyboard.press("Escape")
    route, answer_ = late[0]
    route.fulfill(response=answer_)
    press_and_save(page, "2")
    assert [vote.choice for vote in site.votes()] == [Choice.B]


def test_a_refused_deletion_says_so_and_keeps_the_list(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 5)))
    page = voter.open_ready()
    press_and_save(page, "1")
    mine = open_mine(page)
    page.route(
        "**/api/me/votes",
        lambda route: route.fulfill(status=507, json={"detail": "The server's disk is full."}),
    )
    mine.get_by_role("button", name="Delete all my votes").click()
    mine.get_by_role("button", name="Delete them all").click()
    expect(mine.locator("[data-vt=mine-status]")).to_have_text(
        "Nothing was deleted: The server's disk is full."
    )
    expect(mine.get_by_role("listitem")).to_have_count(1)


# ------------------------------------------------------------------------------------- sign in


def test_where_sign_in_is_needed_one_line_leads_there(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.context.new_page()
    refusal = {"detail": "Sign in with Hugging Face to vote here.", "sign_in": "/login/huggingface"}
    page.route("**/api/pairs", lambda route: route.fulfill(status=401, json=refusal))
    page.goto(site.url)
    empty = page.locator("[data-vt=empty]")
    expect(empty).to_have_text("Sign in with Hugging Face to vote here. Sign in")
    link = empty.get_by_role("link", name="Sign in")
    assert link.evaluate("a => a.href") == f"{site.url}/login/huggingface"
    # Once signed in, in another tab too, pairs come by themselves.
    page.unroute("**/api/pairs")
    expect(answer(page, "a")).not_to_be_empty()


def refusal_of(sign_in: str) -> Callable[[Route], None]:
    body = {"detail": "Sign in first.", "sign_in": sign_in}
    return lambda route: route.fulfill(status=401, json=body)


def test_a_way_to_sign_in_never_leads_to_another_site(site: Site, voter: Watched) -> None:
    page = voter.context.new_page()
    for evil in ("https://evil.example/login", "//evil.example/login", "javascript:alert(1)"):
        page.route("**/api/pairs", refusal_of(evil))
        page.goto(site.url)
        expect(page.locator("[data-vt=empty]")).to_have_text("Sign in first.")
        assert page.locator("[data-vt=empty] a").count() == 0
        page.unroute("**/api/pairs")


def test_a_vote_is_kept_while_its_voter_signs_in_again(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    wait_until_full(page)
    refusal = {"detail": "Sign in with Hugging Face to vote here."}
    page.route("**/api/votes", lambda route: route.fulfill(status=401, json=refusal))
    page.keyboard.press("1")
    expect(status(page)).to_have_text("Not saved yet, retrying. Sign in again to save it.")
    page.unroute("**/api/votes")
    expect(status(page)).to_contain_text("Saved.")
    assert [vote.choice for vote in site.votes(include_superseded=True)] == [Choice.A]


def me(**said: object) -> Callable[[Route], None]:
    body = {"signed_in": False, "name": None, "sign_in": None, "sign_out": None, **said}
    return lambda route: route.fulfill(status=200, json=body)


def test_who_is_signed_in_is_said_and_signs_out(site: Site, voter: Watched) -> None:
    site.add(*(build_pair(n) for n in range(1, 12)))
    page = voter.open_ready()
    who = page.locator("[data-vt=who]")
    page.wait_for_function("JSON.parse(sessionStorage['votetune.tab']).who === ''")
    # Nobody can sign in here, so nothing is said.
    expect(who).to_be_hidden()
    page.route("**/api/me", me(sign_in="/login/huggingface"))
    page.reload()
    assert who.get_by_role("link").evaluate("a => a.href") == f"{site.url}/login/huggingface"
    before = shown_number(page)
    page.unroute("**/api/me")
    page.route("**/api/me", me(signed_in=True, name="<b>ada</b>", sign_out="/logout"))
    page.reload()
    expect(who).to_contain_text("Signed in as <b>ada</b>")
    # The pairs were lent to nobody by name: others come.
    expect(prompt(page)).not_to_contain_text(f"Question {before}:")
    expect(answer(page, "a")).not_to_be_empty()
    asked: list[str] = []

    def log_out(route: Route) -> None:
        asked.append(route.request.method)
        route.fulfill(status=200)

    page.route("**/logout", log_out)
    with page.expect_navigation():
        who.get_by_role("button", name="Sign out").click()
    assert asked == ["POST"]
