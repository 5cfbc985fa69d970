"""Takes the vote page's pictures over a small site: `python tests/browser/page_pictures.py`.

Its pairs are written here, since the starter model writes no Markdown; everything else is real.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

# Run as a script: neither the repository's root nor tests/ is on the path then.
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2]))

from conftest import FLAGS, find_chromium
from page_parts import answer, press_and_save, prompt
from playwright.sync_api import Page, expect, sync_playwright
from take_screenshots import OUT, SCHEMES, SIZES, shrink
from vote_site import Site, build_chat_pair, build_pair

from annotation.schema import Message

FIRST = """Here is a small function that does it:

```python
def fizzbuzz(n: int) -> list[str]:
    \"\"\"Numbers, with words for multiples.\"\"\"
    out = []
    for i in range(1, n + 1):  # from one
        word = "Fizz" * (i % 3 == 0) + "Buzz" * (i % 5 == 0)
        out.append(word or str(i))
    return out
```

**Why it works**

1. `i % 3 == 0` is true for multiples of three.
2. A string times `False` is empty.

| n | answer |
|--:|:-------|
| 3 | Fizz |
| 15 | FizzBuzz |
"""
SECOND = """<think>They want FizzBuzz. Keep it short.</think>

Use a loop and *two* checks:

- multiples of 3 are **Fizz**
- multiples of 5 are **Buzz**

```js
for (let i = 1; i <= 100; i++) {
  console.log((i % 3 ? "" : "Fizz") + (i % 5 ? "" : "Buzz") || i);
}
```

See [the docs](https://example.org/loops) for more\u200b.
"""
ASKED = ("Why is the sky blue?", "Name three uses of vinegar.", "What is a good first sentence?")


def shoot_markdown(page: Page, site: Site) -> None:
    expect(page.locator(".hljs-keyword").first).to_be_visible()


def shoot_my_votes(page: Page, site: Site) -> None:
    for key in ("1", "3", "2", "s"):
        shown = prompt(page).inner_text()
        press_and_save(page, key)
        expect(prompt(page)).not_to_have_text(shown)
    page.get_by_role("button", name="My votes").click()
    expect(page.get_by_role("listitem")).to_have_count(4)


def shoot_own_prompt(page: Page, site: Site) -> None:
    page.get_by_text("Ask your own").click()
    page.get_by_label("Your question").fill("Why do cats purr?")
    page.get_by_role("button", name="Ask", exact=True).click()
    site.writer.say(
        "Cats purr when they are **content**,", "A cat purrs for several reasons:\n\n1. it"
    )
    expect(page.locator(".vt-answers")).to_contain_text("several reasons")


SHOTS: Mapping[str, Callable[[Page, Site], None]] = {
    "markdown": shoot_markdown,
    "my-votes": shoot_my_votes,
    "own-prompt": shoot_own_prompt,
}


def build_site(home: Path) -> Site:
    site = Site(home, votes_per_pair=99, own_prompts="open")
    turns = [
        Message("user", "Hello!"),
        Message("assistant", "Hi, what can I do?"),
        Message("user", "Write **FizzBuzz** in a language of `your` choice."),
    ]
    site.add(build_chat_pair(0, turns, FIRST, SECOND))
    for number, text in enumerate(ASKED * 2, start=1):
        site.add(build_pair(number, f"First answer to: {text}", f"Second: {text}", prompt=text))
    site.start()
    return site


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        for width, size in SIZES.items():
            for scheme in SCHEMES:
                for name, prepare in SHOTS.items():
                    site = build_site(Path(tempfile.mkdtemp(dir=scratch)))
                    context = browser.new_context(viewport=size, color_scheme=scheme)
                    page = context.new_page()
                    page.goto(site.url)
                    expect(answer(page, "a")).not_to_be_empty()
                    prepare(page, site)
                    page.wait_for_timeout(500)
                    path = OUT / f"{name}-{width}-{scheme}.png"
                    page.screenshot(path=str(path))
                    shrink(path)
                    context.close()
                    site.close()


if __name__ == "__main__":
    main()
