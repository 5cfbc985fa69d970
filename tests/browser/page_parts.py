"""What a test finds and does on the vote page, by the names that the page gives its parts."""

import re

from playwright.sync_api import Page, expect

SIDES = ("a", "b")
STILL = """async () => {
  const moving = () => document.getAnimations().filter(({ playState, effect }) =>
    playState === 'running' && effect.getComputedTiming().endTime < Infinity);
  // What a style starts, a frame begins.
  for (let calm = 0; calm < 2; calm += 1) {
    await new Promise(requestAnimationFrame);
    for (const motion of moving()) await motion.finished.then(() => (calm = -1), () => (calm = -1));
  }
}"""


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


def wait_until_still(page: Page) -> None:
    """Until Gradio has faded its colours in, with the mouse over nothing."""
    page.mouse.move(1, 1)
    page.evaluate(STILL)


def wait_until_settled(page: Page) -> None:
    """Until no vote waits to be saved: a press puts it there before it returns."""
    page.wait_for_function("() => !Object.keys(localStorage).some(k => k.includes('outbox'))")


def wait_until_full(page: Page) -> None:
    """Until one pair is on screen and two are ahead."""
    page.wait_for_function("JSON.parse(sessionStorage['votetune.tab']).open.length === 3")


def shown_number(page: Page) -> int:
    """The number of the pair on screen, from its prompt "Question <n>: …"."""
    # Where none is there just now, the last one's words still lie beneath.
    expect(prompt(page)).to_be_visible()
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
