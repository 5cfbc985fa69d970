"""axe finds nothing serious or critical in what we draw: each view, both schemes, both sizes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DESKTOP, PHONE, Watched
from page_parts import answer, press_and_save, wait_until_still
from playwright.sync_api import Page, expect
from test_reading import ANSWER
from vote_site import Site, build_chat_pair, build_pair

from annotation.schema import Message

pytestmark = pytest.mark.browser
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
RUN = """async () => (await axe.run('.vt', { resultTypes: ['violations'] })).violations
  .filter(({ impact }) => ['serious', 'critical'].includes(impact))
  .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 160)}`))"""
LOOKS = [
    pytest.param(size, scheme, id=f"{size['width']}-{scheme}")
    for size in (DESKTOP, PHONE)
    for scheme in ("light", "dark")
]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    served = Site(tmp_path, own_prompts="open", notice="The hub can't be reached.")
    turns = [
        Message("system", "Be brief."),
        Message("user", "Hello"),
        Message("assistant", "Hi!"),
        Message("user", "What is `x` in **this**?"),
    ]
    for number in range(4):
        served.add(build_chat_pair(number, turns, ANSWER, ANSWER + "Marked\u200b. " * 200))
    served.start()
    yield served
    served.close()


def look(page: Page) -> list[str]:
    """Serious and critical findings."""
    wait_until_still(page)
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=AXE)
    return page.evaluate(RUN)


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_the_vote_page_with_markdown_is_accessible(
    site: Site, new_voter, size: dict[str, int], scheme: str
) -> None:
    page = new_voter(viewport=size, color_scheme=scheme).open_ready()
    expect(page.locator(".hljs-keyword").first).to_be_visible()
    assert look(page) == []
    press_and_save(page, "1")
    page.get_by_role("button", name="clear").click()
    assert look(page) == []
    page.get_by_role("button", name="Plain text").click()
    assert look(page) == []


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_my_votes_is_accessible(site: Site, new_voter, size: dict[str, int], scheme: str) -> None:
    page = new_voter(viewport=size, color_scheme=scheme).open_ready()
    press_and_save(page, "1")
    press_and_save(page, "s")
    page.get_by_role("button", name="My votes").click()
    mine = page.get_by_role("dialog", name="My votes")
    expect(mine.get_by_role("listitem")).to_have_count(2)
    mine.get_by_text("Both answers").first.click()
    mine.get_by_role("button", name="Delete all my votes").click()
    assert look(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = mine.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"]


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_asking_your_own_is_accessible(
    site: Site, new_voter, size: dict[str, int], scheme: str
) -> None:
    page = new_voter(viewport=size, color_scheme=scheme).open_ready()
    page.get_by_text("Ask your own").click()
    page.get_by_label("Your question").fill("Why do cats purr?")
    assert look(page) == []
    page.get_by_role("button", name="Ask", exact=True).click()
    site.writer.say("Because", "Cats")
    expect(answer(page, "a")).to_have_text(re.compile("Because|Cats"))
    assert look(page) == []


def test_everything_is_reached_and_done_by_keyboard_alone(site: Site, voter: Watched) -> None:
    page = voter.open_ready()
    page.evaluate("document.querySelector('[data-vt=mine-open]').focus()")
    reached = []
    for _ in range(30):
        reached.append(
            page.evaluate(
                """() => document.activeElement.dataset.vt ?? document.activeElement.dataset.choice
                  ?? document.activeElement.getAttribute('aria-label')
                  ?? document.activeElement.textContent"""
            )
        )
        page.keyboard.press("Tab")
    wanted = ["mine-open", "smaller", "larger", "plain", "Ask your own", "prompt", "answer-a"]
    wanted += ["answer-b", "a", "b", "tie", "both_bad", "skip"]
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted
    page.evaluate("document.querySelector('[data-vt=answer-b]').focus()")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelector('[data-vt=answer-b]').scrollTop > 0")
    page.evaluate("document.querySelector('[data-vt=mine-open]').focus()")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="My votes")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="My votes")).to_be_hidden()
    press_and_save(page, "2")
    assert len(site.votes()) == 1


def test_a_new_pair_and_a_saved_vote_are_told_to_a_screen_reader(
    site: Site, voter: Watched
) -> None:
    site.add(build_pair(9))
    page = voter.open_ready()
    press_and_save(page, "1")
    expect(answer(page, "a")).to_be_visible()
    tree = page.locator(".vt").aria_snapshot()
    for told in (
        'heading "Which answer is better?" [level=1]',
        'region "Prompt"',
        'region "Answer A"',
        'region "Answer B"',
        'group "Your vote"',
        "status: Saved.",
    ):
        assert told in tree, tree
