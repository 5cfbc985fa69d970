"""Leaderboard and promotion in a real browser: every state, by every look, axe, and one click."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compare_site import ALSO_APART, APART, BASE, LeaderSite, judge, many
from conftest import DESKTOP, PHONE
from page_parts import wait_until_still
from playwright.sync_api import Browser, Page, expect
from quality_site import serve_admin
from small_files import write_run

from alignment.base import bound_base, resolve_base
from alignment.contest.contest import Contest
from alignment.registry import Registry
from alignment.settings import AlignmentSettings
from annotation.journal.journal import Journal
from annotation.schema import ModelRef

pytestmark = pytest.mark.browser
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
RUN_AXE = """async (within) => (await axe.run(within, { resultTypes: ['violations'] })).violations
  .filter(({ impact }) => ['serious', 'critical'].includes(impact))
  .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 160)}`))"""
TOO_LONG = """(cells) => cells.map((cell) => {
  cell.textContent = 'dpo-20261128-0341-7d57';
  return cell.scrollWidth - cell.clientWidth;
}).filter((over) => over > 0)"""
LOOKS = [(size, scheme) for size in (DESKTOP, PHONE) for scheme in ("light", "dark")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[LeaderSite]:
    served = LeaderSite(tmp_path)
    served.start()
    yield served
    served.close()


def reopen(page: Page) -> None:
    page.get_by_role("tab", name="Vote").click()
    page.get_by_role("tab", name="Leaderboard").click()


def open_board(page: Page, site: LeaderSite) -> None:
    """Open the tab and wait for its answer: what lay there before may say the same."""
    answered = site.answered()
    reopen(page)
    while site.answered() == answered:
        page.wait_for_timeout(20)


def row(page: Page, name: str):
    return page.locator("#leaderboard tr", has=page.get_by_role("rowheader", name=name)).first


def check_looks(page: Page, within: str) -> None:
    wait_until_still(page)
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=AXE)
    assert page.evaluate(RUN_AXE, within) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # A run's whole name breaks where it is too long, and never lies over the next column.
    names = page.locator(f"{within} .vta-table tbody th")
    assert names.evaluate_all(TOO_LONG) == []


def test_voters_see_each_state_of_a_model_in_words_and_nothing_of_an_open_comparison(
    site: LeaderSite, new_voter: Callable[..., object]
) -> None:
    first, second = (site.registry.get(run).ref for run in site.runs)
    page = new_voter().open()
    open_board(page, site)
    board = page.locator("#leaderboard")
    expect(board).to_contain_text("No comparison is closed yet")
    # The newest model waits for its gate, so what is said of it is not shown.
    judge(site.journal, second, BASE, many(25, 5))
    open_board(page, site)
    expect(board).to_contain_text("No comparison is closed yet")
    assert not any(b"dpo-second" in body for body in site.sent)

    judge(site.journal, first, BASE, many(12, 2))
    judge(site.journal, APART, ALSO_APART, many(20, 4))
    open_board(page, site)
    expect(row(page, "dpo-first")).to_contain_text("not enough votes")
    expect(row(page, "dpo-apart")).to_contain_text("never compared with the base")
    assert "the measure" not in row(page, "dpo-apart").inner_text()
    expect(row(page, "base")).to_contain_text("the measure")
    # The winner comes first, whichever model is the later one.
    duels = page.locator("#leaderboard [aria-label='Pairs of models'] tbody tr")
    expect(duels.nth(1)).to_contain_text(re.compile("^dpo-apart.*dpo-also-apart.*0.83.*20 to 4"))
    assert "dpo-second" not in board.inner_text()

    site.contest.dismiss()
    open_board(page, site)
    expect(row(page, "dpo-second")).to_contain_text(re.compile(r"\+\d+.*0\.83"))
    for n in range(7):
        site.journal.set_aside(f"voter-{n}", "a ring").result()
    open_board(page, site)
    expect(board).to_contain_text("21 votes of voters who are set aside are left out.")
    expect(row(page, "dpo-second")).to_contain_text("0.78")


def test_a_model_that_never_lost_has_words_instead_of_a_number(
    site: LeaderSite, new_voter: Callable[..., object]
) -> None:
    first, _ = (site.registry.get(run).ref for run in site.runs)
    judge(site.journal, first, BASE, many(24))
    page = new_voter().open()
    open_board(page, site)
    expect(row(page, "dpo-first")).to_contain_text("never lost")
    assert not re.search(r"[+−]\d", row(page, "dpo-first").inner_text())


def test_a_tab_opened_again_before_its_answer_came_shows_what_is_true_then(
    site: LeaderSite, new_voter: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    draw = Contest.leaderboard

    def slow(contest: Contest, **options):
        found = draw(contest, **options)
        begun.set()
        assert go_on.wait(60)
        return found

    monkeypatch.setattr(Contest, "leaderboard", slow)
    page = new_voter().open()
    reopen(page)
    assert begun.wait(60)
    judge(site.journal, APART, ALSO_APART, many(20, 4))
    reopen(page)
    go_on.set()
    expect(row(page, "dpo-apart")).to_contain_text("never compared with the base")


@pytest.mark.parametrize(
    ("size", "scheme"), LOOKS, ids=[f"{size['width']}-{scheme}" for size, scheme in LOOKS]
)
def test_the_leaderboard_is_accessible_and_fits(
    site: LeaderSite, new_voter: Callable[..., object], size, scheme, tmp_path: Path
) -> None:
    first, second = (site.registry.get(run).ref for run in site.runs)
    judge(site.journal, first, BASE, many(40, 22, 6))
    judge(site.journal, second, BASE, many(25, 9, 3))
    judge(site.journal, APART, ALSO_APART, many(20, 4))
    site.journal.set_aside("voter-0", "a ring").result()
    site.contest.dismiss()
    page = new_voter(viewport=size, color_scheme=scheme).open()
    open_board(page, site)
    expect(row(page, "dpo-second")).to_be_visible()
    check_looks(page, "#leaderboard")
    page.screenshot(path=str(tmp_path / f"board-{size['width']}-{scheme}.png"), full_page=True)


Admin = tuple[str, Journal, Path]


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    folder = tmp_path_factory.mktemp("promotion")
    with serve_admin(folder) as (url, journal):
        yield url, journal, folder / "quality"


def test_the_admin_watches_promotes_and_rolls_back(
    admin: Admin, browser: Browser, tmp_path: Path
) -> None:
    url, journal, home = admin
    base = bound_base(home)
    assert base
    page = browser.new_page(viewport=DESKTOP)
    page.goto(url)
    gate, board = page.locator("#admin-gate"), page.locator("#admin-leaderboard")
    history, told = page.locator("#admin-promotions"), page.locator("#admin-promotion-told")
    expect(gate).to_contain_text("No model waits: train one")
    expect(board).to_contain_text("No blind vote compared models yet.")
    expect(history).to_contain_text("The base is the policy")
    for name in ("promote", "dismiss", "roll-back"):
        expect(page.locator(f"#admin-{name}")).to_be_disabled()

    write_run(home, "dpo-1", base)
    expect(gate).to_contain_text("dpo-1 against the policy, base.")
    expect(gate).to_contain_text("At least 20 deciding votes are wanted.")
    judge(journal, _ref(home, base, "dpo-1"), base, many(9, 4, 2))
    expect(gate).to_contain_text("9 for it")
    expect(board).to_contain_text("not enough votes")
    look_at(browser, url, tmp_path)

    page.locator("#admin-promote").click()
    expect(told).to_contain_text("dpo-1 is the policy now")
    expect(history).to_contain_text("by an admin, against or before the votes")
    expect(page.locator("#admin-promote")).to_be_disabled()
    weights = home / "runs" / "dpo-1"
    weights.rename(home / "elsewhere")
    expect(gate).to_contain_text("Nothing is compared or promoted now")
    expect(gate).to_contain_text("so the base answers meanwhile")
    page.locator("#admin-roll-back").click()
    expect(told).to_contain_text("base is the policy now")
    expect(gate).to_contain_text("No model waits")
    (home / "elsewhere").rename(weights)
    page.close()


def look_at(browser: Browser, url: str, folder: Path) -> None:
    """The section in each look: axe finds nothing, nothing sticks out."""
    for size, scheme in LOOKS:
        page = browser.new_page(viewport=size, color_scheme=scheme)
        page.goto(url)
        expect(page.locator("#admin-leaderboard")).to_contain_text("not enough votes")
        for part in ("gate", "leaderboard", "promotions"):
            check_looks(page, f"#admin-{part}")
        top = page.get_by_role("heading", name="Promotion", exact=True).bounding_box()
        end = page.locator("#admin-promotions").bounding_box()
        clip = {"x": 0, "y": top["y"] - 12, "width": size["width"]}
        clip["height"] = end["y"] + end["height"] + 24 - clip["y"]
        name = f"promotion-{size['width']}-{scheme}.png"
        page.screenshot(path=str(folder / name), full_page=True, clip=clip)
        page.close()


def _ref(home: Path, base: ModelRef, run: str) -> ModelRef:
    """The registry's own name for a run of the starter."""
    found = resolve_base(AlignmentSettings(base_model="starter"), home, has_votes=False)
    assert found.ref == base
    return Registry(home, found).get(run).ref
