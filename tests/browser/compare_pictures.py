"""Takes the pictures of Compare and Leaderboard: `python tests/browser/compare_pictures.py`.

The answers and votes are written here; pages, routes, registry and journal are real.
"""

import sys
import tempfile
from pathlib import Path

# Run as a script: neither the repository's root nor tests/ is on the path then.
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2]))

from compare_site import BASE, CompareSite, LeaderSite, judge, many
from conftest import FLAGS, find_chromium
from page_parts import answer
from playwright.sync_api import Browser, Page, expect, sync_playwright
from take_screenshots import OUT, SCHEMES, SIZES, shrink
from vote_site import build_pair

PLAIN = "Cats purr when they are content, and sometimes to calm themselves when they are hurt."
TUNED = "Cats purr when they are content. Some also purr to calm themselves, or to ask for food."


def open_tab(page: Page, site: CompareSite, name: str) -> None:
    page.goto(site.url)
    expect(answer(page, "a")).not_to_be_empty()
    page.get_by_role("tab", name=name).click()


def shoot_compare(page: Page, site: CompareSite) -> None:
    open_tab(page, site, "Compare")
    page.locator("#compare-prompt textarea").fill("Why do cats purr?")
    page.locator("#compare-ask").click()
    for words in range(1, len(PLAIN.split())):
        site.writer.say(*(" ".join(text.split()[:words]) for text in (PLAIN, TUNED)))
        page.wait_for_timeout(40)
    site.writer.end(PLAIN, TUNED)
    expect(page.locator("#compare-status")).to_have_text("Done.")
    page.get_by_label("Show what differs").check()


def shoot_blind(page: Page, site: CompareSite) -> None:
    open_tab(page, site, "Compare")
    page.get_by_label("Blind, then vote").check()
    page.locator("#blind-prompt textarea").fill("Why do cats purr?")
    site.writer.end(PLAIN, TUNED)
    page.locator("#blind-ask").click()
    page.locator("#blind-a").click()
    expect(page.locator("#blind-status")).to_contain_text("Saved.")


def shoot_leaderboard(page: Page, site: CompareSite) -> None:
    assert isinstance(site, LeaderSite)
    first, second = (site.registry.get(run).ref for run in site.runs)
    judge(site.journal, first, BASE, many(10, 3, 1))
    judge(site.journal, second, BASE, many(41, 19, 8))
    site.contest.dismiss()
    open_tab(page, site, "Leaderboard")
    expect(page.locator("#leaderboard table").first).to_be_visible()


SHOTS = {
    "compare": (CompareSite, shoot_compare),
    "blind": (CompareSite, shoot_blind),
    "leaderboard": (LeaderSite, shoot_leaderboard),
}


def shoot(browser: Browser, scratch: Path) -> None:
    for name, (kind, prepare) in SHOTS.items():
        for width, size in SIZES.items():
            for scheme in SCHEMES:
                home = Path(tempfile.mkdtemp(dir=scratch))
                site = kind(home)
                site.add(*(build_pair(n) for n in range(4)))
                site.start()
                context = browser.new_context(viewport=size, color_scheme=scheme)
                page = context.new_page()
                prepare(page, site)
                page.mouse.move(1, 1)
                page.wait_for_timeout(500)
                path = OUT / f"{name}-{width}-{scheme}.png"
                page.screenshot(path=str(path), full_page=True)
                shrink(path)
                context.close()
                site.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        shoot(
            playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS), Path(scratch)
        )


if __name__ == "__main__":
    main()
