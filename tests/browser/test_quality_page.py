"""The quality section in a real browser: figures, flags, set aside, bring back, on a phone too."""

import re
from collections.abc import Iterator

import pytest
from conftest import PHONE
from playwright.sync_api import Browser, Page, expect
from quality_site import serve_admin, store, watched_tab
from vote_parts import LEFT, crowd_at_work, pair_of, vote_on

from annotation.journal.journal import Journal
from annotation.schema import Choice, PairKind

pytestmark = [pytest.mark.browser, pytest.mark.slow]
Site = tuple[str, Journal]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve_admin(tmp_path_factory.mktemp("quality")) as (url, journal):
        yield url, journal


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    with watched_tab(browser, site[0]) as tab:
        yield tab


def test_from_no_vote_to_a_voter_set_aside_and_back(page: Page, site: Site) -> None:
    _, journal = site
    figures, voters, told = (
        page.locator(name) for name in ("#admin-quality", "#admin-voters", "#admin-quality-told")
    )
    expect(figures).to_contain_text("No vote yet")
    store(journal, *crowd_at_work())
    page.locator("#admin-look-again").click()
    expect(figures).to_contain_text("4 voters are flagged and still in")
    expect(figures.locator("svg.vta-interval")).to_have_count(4)
    expect(voters).to_contain_text("60 of 60 votes went to the left answer.")

    page.locator("#admin-voter input").click()
    page.get_by_role("option", name=re.compile("anon-left")).click()
    page.locator("#admin-set-aside").click()
    expect(told).to_contain_text("is set aside, 60 votes: nearly all votes went to one side.")
    expect(figures).to_contain_text("3 voters are flagged and still in")
    assert set(journal.set_aside_voters()) == {LEFT}
    page.locator("#admin-bring-back").click()
    expect(told).to_contain_text("counts again, 60 votes.")
    expect(figures).to_contain_text("4 voters are flagged and still in")

    page.locator("#admin-set-aside-all-flagged").click()
    expect(told).to_contain_text("4 flagged voters are set aside")
    expect(figures).to_contain_text("No voter who counts is flagged")
    expect(page.locator("#admin-set-aside-all-flagged")).to_be_disabled()
    page.reload()
    expect(voters.locator(".vta-away")).to_have_count(4)


def test_a_pair_without_agreement_is_inert_and_everything_fits_a_phone(
    page: Page, site: Site
) -> None:
    _, journal = site
    hostile = pair_of("<img src=x onerror=alert(1)>")
    store(
        journal,
        [hostile],
        [vote_on(hostile.id, "ann", Choice.A), vote_on(hostile.id, "bob", Choice.B)],
    )
    page.locator("#admin-look-again").click()
    splits = page.locator("#admin-splits")
    expect(splits).to_contain_text("1 for the first, 1 for the second")
    expect(splits.locator("img")).to_have_count(0)
    page.set_viewport_size(PHONE)
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
    days = page.locator("#admin-plot-days")
    days.locator("summary").click()
    expect(days.locator("table")).to_contain_text("23 Nov 2026")


def test_the_section_is_reachable_by_keyboard_and_named(page: Page) -> None:
    expect(page.locator("#admin-voters table")).to_be_visible(timeout=30_000)
    expect(page.locator("#admin-quality svg").first).to_be_visible()
    regions, pictures = page.locator("#admin-voters [role=region]"), "#admin-quality svg"
    expect(regions.first).to_have_attribute("tabindex", "0")
    for drawn in (regions, page.locator(pictures)):
        named = drawn.evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
        assert named
        assert all(named)
    assert set(regions.evaluate_all("all => all.map(one => one.tabIndex)")) == {0}


def test_a_waiting_prompt_is_approved_by_one_click(page: Page, site: Site) -> None:
    _, journal = site
    own = pair_of("own <b>bold</b>", kind=PairKind.OWN, author="ann", only_for="ann")
    waiting, told = page.locator("#admin-waiting"), page.locator("#admin-own-told")
    expect(waiting).to_contain_text("No prompt waits")
    store(journal, [own], [])
    expect(waiting).to_contain_text("What of own <b>bold</b>?")
    page.locator("#admin-approve").click()
    expect(told).to_contain_text("Approved, and others will see it now: What of own <b>bold</b>?")
    expect(waiting).to_contain_text("No prompt waits")
    expect(page.locator("#admin-approve")).to_be_disabled()
    assert journal.waiting_pairs() == []
