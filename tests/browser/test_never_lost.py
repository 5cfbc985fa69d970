"""No vote is lost on its way: offline, restarts, refusals, full disks, closed tabs."""

import re
import secrets
from collections.abc import Callable

import pytest
from conftest import Watched
from journal_parts import fill_disk, free_disk, make_vote
from page_parts import (
    press,
    press_and_save,
    prompt,
    shown_number,
    status,
    wait_until_full,
    wait_until_settled,
    waiting_votes,
)
from playwright.sync_api import Route, expect
from vote_site import MODEL_WORDS, Site, build_pair

from annotation.journal.journal import JournalFull
from annotation.schema import Choice

pytestmark = pytest.mark.browser

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
    # Not by the page that is about to go.
    page.route("**/api/votes", lambda route: route.abort())
    site.start()
    page.reload()
    expect(status(page)).to_contain_text("Not saved yet, retrying.")
    page.unroute("**/api/votes")
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


# ------------------------------------------------------------------------- refused for now


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
        page.route("**/api/votes", refuse_with(code, refusals))
        press(page, "1")
        expect(status(page)).to_contain_text("Not saved yet, retrying")
        assert not any(word in page.content() for word in MODEL_WORDS)
        # And once more refused.
        while len(refusals) < 2:
            page.wait_for_timeout(20)
        page.unroute("**/api/votes")
        expect(status(page)).to_contain_text("Saved.")
        assert waiting_votes(page) == 0
    assert [vote.choice for vote in site.votes()] == [Choice.A] * 4


def fill_pages_with_votes(site: Site) -> set[str]:
    """Votes of others until no page has room for one of that size; gives their voters."""
    names: set[str] = set()
    refused_in_a_row = 0
    while refused_in_a_row < 60:
        # As long, and as random, as what the page's own vote will be stored under.
        name = f"anon-{secrets.token_hex(8)}"
        vote = make_vote(secrets.token_hex(16), "pair-99", name)
        try:
            site.journal.add_vote(vote).result(timeout=60)
        except JournalFull:
            refused_in_a_row += 1
        else:
            names.add(name)
            refused_in_a_row = 0
    return names


def test_a_full_disk_is_said_and_the_vote_is_stored_once_there_is_room(
    site: Site, voter: Watched
) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    wait_until_full(page)
    site.add(build_pair(99))
    fill_disk(site.journal)
    others = fill_pages_with_votes(site)
    press(page, "2")
    expect(status(page)).to_have_text("Not saved yet, retrying. The server’s disk is full.")
    assert not any(word in page.content() for word in MODEL_WORDS)
    free_disk(site.journal)
    expect(status(page)).to_contain_text("Saved.")
    assert waiting_votes(page) == 0
    mine = [vote for vote in site.votes(include_superseded=True) if vote.voter not in others]
    assert [vote.choice for vote in mine] == [Choice.B]


def test_a_server_that_comes_back_gets_the_vote_without_a_reload(
    site: Site, voter: Watched
) -> None:
    site.add(*(build_pair(n) for n in range(1, 4)))
    page = voter.open_ready()
    wait_until_full(page)
    site.stop()
    press(page, "3")
    expect(status(page)).to_have_text("Not saved yet, retrying. The server can’t be reached.")
    site.start()
    expect(status(page)).to_contain_text("Saved.")
    assert [vote.choice for vote in site.votes(include_superseded=True)] == [Choice.TIE]
