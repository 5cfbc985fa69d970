"""How the vote page looks and what a screen reader meets."""

import json
from collections.abc import Callable

import pytest
from conftest import PHONE, Watched
from page_parts import (
    SIDES,
    answer,
    in_browser_storage,
    press_and_save,
    prompt,
    status,
    wait_until_still,
)
from playwright.sync_api import expect
from vote_site import Site, build_pair

pytestmark = pytest.mark.browser

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
    wait_until_still(page)
    dark = (
        sum(
            page.evaluate(
                "[...getComputedStyle(document.body).backgroundColor.matchAll(/\\d+/g)].map(Number)"
            )[:3]
        )
        < 200
    )
    assert dark == (scheme == "dark")
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
    expect(prompt(page)).to_contain_text("Question 2:")
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
        page.wait_for_function("JSON.parse(sessionStorage['votetune.tab']).who === ''")
        calls = {reply.url.split("?")[0] for reply in watched.answers if "/api/" in reply.url}
        assert {url.removeprefix(served.url) for url in calls} == {
            "/api/pairs",
            "/api/votes",
            "/api/progress",
            "/api/me",
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
