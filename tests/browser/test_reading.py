"""What is read on the vote page: text as it was written, Markdown, size, conversations."""

from collections.abc import Callable

import pytest
from conftest import Watched
from page_parts import (
    SIDES,
    answer,
    press_and_save,
    prompt,
    wait_until_settled,
)
from playwright.sync_api import Page, expect
from vote_site import Site, build_chat_pair, build_pair

from annotation.schema import Message

pytestmark = pytest.mark.browser

# ------------------------------------------------------------------------------- inert text


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


@pytest.mark.parametrize("other", ["\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627"])
def test_each_line_runs_in_its_own_direction(site: Site, voter: Watched, other: str) -> None:
    lines = f"Hello.\n{other}.\nHello again."
    site.add(build_pair(1, lines, "Only one way, and\nas ever.", prompt=f"Question 1:\n{other}"))
    page = voter.open_ready()
    boxes = page.locator(".vt-text, .vt-words")
    edges = boxes.evaluate_all(
        """(boxes) => Object.fromEntries(boxes.map((box) => {
             const text = box.firstChild, range = document.createRange(), begins = [];
             const middle = box.getBoundingClientRect().left + box.clientWidth / 2;
             for (const { index } of text.data.matchAll(/^/gm)) {
               range.setStart(text, index); range.setEnd(text, index + 1);
               begins.push(range.getBoundingClientRect().left < middle ? 'left' : 'right');
             }
             return [text.data.split('\\n')[0], begins]; }))"""
    )
    assert edges == {
        "Hello.": ["left", "right", "left"],
        "Only one way, and": ["left", "left"],
        "Question 1:": ["left", "right"],
    }


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


# --------------------------------------------------------------------------------- Markdown

ANSWER = """# A heading

Some *soft* and **strong** and ~~struck~~ words with `code`.

3. third
4. fourth
   - nested

> quoted

| left | right |
|------|------:|
| one  |     2 |

```python
def area(r):
    return 3.14 * r ** 2  # round
```

---

A [link](https://evil.example/page) and <think>a thought</think>.
Next line: \\(a_1 * b_1\\) costs \\$5 and \\*stars\\*.
"""


def test_markdown_is_drawn_in_answers_and_prompts(site: Site, voter: Watched) -> None:
    site.add(build_pair(1, ANSWER, ANSWER + "!", prompt="Question 1: what is `x` in **this**?"))
    page = voter.open_ready()
    pane = answer(page, "a")
    expect(pane.locator("table")).to_have_count(1)
    assert prompt(page).locator("code, strong").all_inner_texts() == ["x", "this"]
    assert pane.get_by_role("heading", level=3).inner_text() == "A heading"
    found = {
        tag: pane.locator(tag).first.inner_text() for tag in ("em", "strong", "s", "blockquote")
    }
    assert found == {"em": "soft", "strong": "strong", "s": "struck", "blockquote": "quoted"}
    # Numbered as the model did.
    assert pane.locator("ol > li").evaluate_all("items => items.map((i) => i.value)") == [3, 4]
    assert pane.locator("td").all_inner_texts() == ["one", "2"]
    text = pane.inner_text()
    for words in (
        "link (https://evil.example/page)",
        "<think>a thought</think>",
        "*stars*",
        "\\$5",
    ):
        assert words in text
    # Formulas stay as written: nothing in them is emphasis.
    assert pane.locator(".vt-formula").first.inner_text() == "\\(a_1 * b_1\\)"
    expect(pane.locator("pre .hljs-keyword").first).to_have_text("def")
    assert (
        pane.locator("pre code").inner_text()
        == ANSWER.split("```")[1].removeprefix("python\n").rstrip()
    )


def test_the_plain_text_switch_is_remembered(site: Site, voter: Watched) -> None:
    site.add(build_pair(1, ANSWER, ANSWER + "!"), build_pair(2))
    page = voter.open_ready()
    expect(answer(page, "a").locator("table")).to_have_count(1)
    switch = page.get_by_role("button", name="Plain text")
    switch.click()
    expect(answer(page, "a").locator("table")).to_have_count(0)
    page.reload()
    expect(answer(page, "a")).not_to_be_empty()
    expect(switch).to_have_attribute("aria-pressed", "true")
    assert answer(page, "a").text_content().rstrip("!") == ANSWER
    # Read as plain text, the page never loads the parser.
    page.wait_for_load_state("networkidle")
    loaded = [reply.url for reply in voter.answers if "markdown-it" in reply.url]
    assert len(loaded) == 1
    switch.click()
    expect(answer(page, "a").locator("table")).to_have_count(1)


def test_text_size_is_remembered_and_has_ends(site: Site, voter: Watched) -> None:
    site.add(build_pair(1), build_pair(2))
    page = voter.open_ready()

    def size() -> float:
        return float(answer(page, "a").evaluate("n => parseFloat(getComputedStyle(n).fontSize)"))

    assert size() == 16
    larger, smaller = (page.get_by_role("button", name=n) for n in ("Larger text", "Smaller text"))
    larger.click()
    assert size() == 18
    page.reload()
    expect(answer(page, "a")).not_to_be_empty()
    assert size() == 18
    for _ in range(9):
        larger.click(force=True)
    assert size() == 28
    expect(larger).to_have_attribute("aria-disabled", "true")
    for _ in range(9):
        smaller.click(force=True)
    assert size() == 14
    heights = [answer(page, side).bounding_box()["height"] for side in SIDES]
    assert heights[0] == heights[1]


def test_text_stays_plain_where_the_libraries_never_come(site: Site, voter: Watched) -> None:
    site.add(build_pair(1, ANSWER, ANSWER + "!"), build_pair(2))
    page = voter.context.new_page()
    page.route("**/page-files/*/markdown-it.js", lambda route: route.abort())
    page.goto(f"{site.url}/")
    expect(answer(page, "a")).not_to_be_empty()
    assert answer(page, "a").text_content().rstrip("!") == ANSWER
    press_and_save(page, "1")


# ----------------------------------------------------------------------------------- limits

HEAVY = {
    "100,000 characters": "A word of a long answer, " * 4000,
    "100,000 without a space": "x" * 100_000,
    "100,000 of Markdown": "**bold** `code` *soft* [a](b)\n" * 3300,
    "1,500 fractions": "".join(f"\\frac{{{n}}}{{{n + 1}}} + " for n in range(1500)),
    "1,500 formulas": "".join(f"$$\\frac{{{n}}}{{2}}$$ " for n in range(1500)),
    "500 by 50 table": "\n".join(
        ["|" + " h |" * 50, "|" + "---|" * 50, *["|" + " 12 |" * 50 for _ in range(500)]]
    ),
    "a table at the limit": "\n".join(
        ["|" + " h |" * 9, "|" + "---|" * 9, *["|" + " 12 |" * 9 for _ in range(190)]]
    ),
    "Markdown at the limit": "**bold** `code` words to read and *soft* ones 1. 2.\n" * 380,
    "code at the limit": "```python\n" + "def f(x): return x + 1  # one\n" * 330 + "```",
    "open emphasis": "*a **b " * 1000,
    "open brackets": "[" * 399 + "a",
    "nested lists": "\n".join("  " * level + "- level" for level in range(15)),
    "20,000 invisible": "a\u200b" * 20_000,
    "combining characters": ("Z" + "\u0335\u0489\u0341" * 20) * 1000,
}
STILL_DRAWN = {name for name in HEAVY if "at the limit" in name} | {
    "nested lists",
    "open emphasis",
    "open brackets",
}
TWO_FRAMES = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))"""


class MainThread:
    """What the page's main thread spends: its own time, whatever else runs on these cores."""

    def __init__(self, page: Page) -> None:
        self._devtools = page.context.new_cdp_session(page)
        self._devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent_ms(self) -> float:
        metrics = self._devtools.send("Performance.getMetrics")["metrics"]
        return next(1000 * m["value"] for m in metrics if m["name"] == "TaskDuration")


def milliseconds_to_draw_the_next(page: Page, thread: MainThread) -> float:
    """From the key until the pair was parsed, laid out, painted and its code coloured."""
    before = thread.spent_ms()
    page.keyboard.press("3")
    page.evaluate(TWO_FRAMES)
    return thread.spent_ms() - before


def test_heavy_output_is_drawn_within_200_ms(site: Site, voter: Watched) -> None:
    """Twice each, between light pairs: the better one, since the browser has chores of its own."""
    took: dict[str, list[float]] = {name: [] for name in HEAVY}
    heavy = [(name, text) for name, text in HEAVY.items() for _ in range(2)]
    for number, (_, text) in enumerate(heavy):
        site.add(build_pair(2 * number, prompt=f"Question {2 * number}: light"))
        site.add(build_pair(2 * number + 1, text, "Short.", prompt=f"Question {2 * number + 1}:"))
    site.add(*(build_pair(1000 + number) for number in range(2)))
    page = voter.open_ready()
    thread = MainThread(page)
    for number, (name, _) in enumerate(heavy):
        expect(prompt(page)).to_contain_text(f"Question {2 * number}:")
        page.wait_for_function("JSON.parse(sessionStorage['votetune.tab']).open.length >= 2")
        wait_until_settled(page)
        took[name].append(milliseconds_to_draw_the_next(page, thread))
        expect(prompt(page)).to_contain_text(f"Question {2 * number + 1}:")
        drawn = page.locator("[data-vt=pair] .vt-md").count()
        assert drawn == (name in STILL_DRAWN), name
        page.wait_for_function("JSON.parse(sessionStorage['votetune.tab']).open.length >= 2")
        page.keyboard.press("3")
    best = {name: min(times) for name, times in took.items()}
    print({name: round(ms) for name, ms in best.items()})
    assert {name: ms for name, ms in best.items() if ms > 200} == {}
