"""Takes the README's pictures from a real app: `python tests/browser/take_screenshots.py`.

Scripted votes and one DPO run first, so that every page has something to show.
"""

import re
import sys
import tempfile
from pathlib import Path

# Run as a script: neither the repository's root nor tests/ is on the path then.
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2]))

from conftest import FLAGS, find_chromium
from playwright.sync_api import Browser, Page, expect, sync_playwright
from running_app import RunningApp, run_command, start_app

from alignment.commands.demo import cast_votes

OUT = Path(__file__).parent / "screenshots"
SIZES = {"1280": {"width": 1280, "height": 800}, "390": {"width": 390, "height": 844}}
SCHEMES = ("light", "dark")
VOTES = 120


def shoot_vote(page: Page, app: RunningApp) -> None:
    page.goto(app.url)
    expect(page.locator("[data-vt=answer-a]")).not_to_be_empty(timeout=30_000)
    page.keyboard.press("1")
    expect(page.locator("[data-vt=status]")).to_contain_text("Saved", timeout=15_000)


def shoot_compare(page: Page, app: RunningApp) -> None:
    page.goto(app.url)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-prompt textarea").fill("What is the opposite of hot?")
    expect(page.locator("#compare-model input")).not_to_have_value("", timeout=30_000)
    page.locator("#compare-ask").click()
    expect(page.locator("#compare-aligned textarea")).to_have_value(
        re.compile(r"\w{2,}"), timeout=60_000
    )
    page.wait_for_timeout(1500)


def shoot_admin(page: Page, app: RunningApp) -> None:
    page.goto(app.admin_url)
    expect(page.locator("#admin-progress")).to_contain_text("is done", timeout=30_000)
    page.locator("#admin-preview").click()
    expect(page.locator("#admin-export-summary")).to_contain_text("examples", timeout=15_000)
    page.wait_for_timeout(3000)


SHOTS = {"vote": shoot_vote, "compare": shoot_compare, "admin": shoot_admin}


def shoot(browser: Browser, app: RunningApp) -> None:
    for width, size in SIZES.items():
        for scheme in SCHEMES:
            context = browser.new_context(viewport=size, color_scheme=scheme)
            for name, prepare in SHOTS.items():
                page = context.new_page()
                prepare(page, app)
                path = OUT / f"{name}-{width}-{scheme}.png"
                page.screenshot(path=str(path), full_page=name == "admin")
                page.close()
            context.close()


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        app = start_app(Path(scratch) / "home")
        try:
            cast_votes(app.url, VOTES)
            app.wait_for("delivery", lambda h: h["argilla"] == "ready" and not h["undelivered"])
            done = run_command(app.home, "train", "--method", "dpo", "--wait", timeout_s=600)
            assert done.returncode == 0, done.stderr
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
                shoot(browser, app)
        finally:
            app.stop()


if __name__ == "__main__":
    main()
