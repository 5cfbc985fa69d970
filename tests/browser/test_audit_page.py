"""The audit log in a real browser: a line appears by itself, newest first, on a phone too."""

from collections.abc import Iterator

import pytest
from conftest import DESKTOP, PHONE
from playwright.sync_api import Browser, Page, expect
from quality_site import serve_admin, store, watched_tab
from vote_parts import pair_of

from alignment.audit import Actor, AuditLog, voter_tag
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.schema import PairKind

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Journal, AuditLog]]:
    folder = tmp_path_factory.mktemp("audit")
    with serve_admin(folder) as (url, journal):
        yield url, journal, AuditLog(Home(folder / "quality"))


@pytest.fixture
def page(browser: Browser, site: tuple[str, Journal, AuditLog]) -> Iterator[Page]:
    with watched_tab(browser, site[0]) as tab:
        yield tab


def test_an_action_appears_newest_first_and_older_ones_fold(
    page: Page, site: tuple[str, Journal, AuditLog]
) -> None:
    _, journal, log = site
    lines = page.locator("#admin-audit li")
    expect(lines.first).to_contain_text("admin token: signed in")
    own = pair_of("own", kind=PairKind.OWN, author="ann", only_for="ann")
    store(journal, [own], [])
    expect(page.locator("#admin-approve")).to_be_enabled(timeout=30_000)
    page.locator("#admin-approve").click()
    expect(lines.first).to_contain_text("admin token: approve an own prompt own")
    expect(lines.first).to_contain_text("done")

    for number in range(12):
        with log.action(Actor(f"<img src=x onerror=alert({number})>", "hub-1"), "train") as action:
            action.touched(f"dpo-20261128-0102-{number:04d}")
    expect(lines.first).to_contain_text("dpo-20261128-0102-0011")
    expect(page.locator("#admin-audit .vta-log > ol > li")).to_have_count(10)
    expect(page.locator("#admin-audit img")).to_have_count(0)
    page.locator("#admin-audit summary").click()
    expect(lines.last).to_contain_text("admin token: signed in")
    expect(lines.last).to_be_visible()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_the_window_and_every_line_is_whole(
    page: Page, site: tuple[str, Journal, AuditLog], size: dict[str, int]
) -> None:
    _, _, log = site
    who = Actor("a-rather-long-user-name-on-the-hub", "hub-2")
    with log.action(who, "set flagged voters aside") as action:
        action.touched_voters(*(f"anon-{number:016x}" for number in range(4)))
        action.touched("someorganisation/some-aligned-model-of-a-very-long-name@0123456789abcdef")
    page.set_viewport_size(size)
    lines = page.locator("#admin-audit li")
    expect(lines.first).to_contain_text("a-rather-long")
    expect(lines.first).to_contain_text(voter_tag(f"anon-{3:016x}"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for part in lines.first.locator("> *").all():
        box = part.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size["width"]
        # Nothing is cut off inside a part.
        assert part.evaluate("e => e.scrollWidth <= e.clientWidth + 1 || e.clientWidth === 0")
