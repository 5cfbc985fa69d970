"""Takes the README's pictures from a real app: `python tests/browser/take_screenshots.py`.

Votes made by hand for the quality section; scripted votes, then before, during and after a DPO
run, and after a bake-off.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

# Run as a script: neither the repository's root nor tests/ is on the path then.
sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2]))

from conftest import FLAGS, find_chromium
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, expect, sync_playwright
from quality_site import serve_admin, store
from running_app import RunningApp, run_command, start_app
from vote_parts import crowd_at_work

from alignment.commands.demo import cast_votes

OUT = Path(__file__).parent / "screenshots"
SIZES = {"1280": {"width": 1280, "height": 800}, "390": {"width": 390, "height": 844}}
SCHEMES = ("light", "dark")
VOTES = 200


def shoot_vote(page: Page, app: RunningApp) -> None:
    page.goto(app.url)
    expect(page.locator("[data-vt=answer-a]")).not_to_be_empty(timeout=30_000)
    page.keyboard.press("1")
    expect(page.locator("[data-vt=status]")).to_contain_text("Saved", timeout=15_000)


def shoot_admin(page: Page, app: RunningApp) -> None:
    """After a run: pictures, samples, the table."""
    page.goto(app.admin_url)
    expect(page.locator("#admin-progress")).to_contain_text("is done", timeout=30_000)
    expect(page.locator("#admin-plan")).to_contain_text("steps", timeout=30_000)
    page.wait_for_timeout(2500)


def shoot_check(page: Page, app: RunningApp) -> None:
    """Before a run: findings and tokens."""
    page.goto(app.admin_url)
    expect(page.locator("#admin-plan")).to_contain_text("steps", timeout=30_000)
    page.locator("#admin-look-deeper").click()
    expect(page.locator(".vta-example").first).to_be_visible(timeout=90_000)
    page.wait_for_timeout(1500)


def shoot_training(page: Page, app: RunningApp) -> None:
    """During a run."""
    page.goto(app.admin_url)
    expect(page.locator("#admin-progress")).to_contain_text("left", timeout=120_000)
    page.wait_for_timeout(2500)


def shoot_bakeoff(page: Page, app: RunningApp) -> None:
    page.goto(app.admin_url)
    expect(page.locator("#admin-bakeoff table")).to_be_visible(timeout=30_000)
    page.locator("#admin-bakeoff").scroll_into_view_if_needed()
    page.wait_for_timeout(1500)


Shots = Mapping[str, Callable[[Page, RunningApp], None]]
BEFORE: Shots = {"check": shoot_check}
DURING: Shots = {"training": shoot_training}
AFTER: Shots = {"vote": shoot_vote, "admin": shoot_admin}
LAST: Shots = {"bakeoff": shoot_bakeoff}
FULL_PAGE = ("admin", "check", "training")


def shoot(browser: Browser, app: RunningApp, shots: Shots) -> None:
    for width, size in SIZES.items():
        for scheme in SCHEMES:
            context = browser.new_context(viewport=size, color_scheme=scheme)
            for name, prepare in shots.items():
                page = context.new_page()
                prepare(page, app)
                path = OUT / f"{name}-{width}-{scheme}.png"
                page.screenshot(path=str(path), full_page=name in FULL_PAGE)
                page.close()
                shrink(path)
            context.close()


def shoot_quality(browser: Browser, scratch: Path) -> None:
    """The quality section over a crowd of honest, careless, hurried and colluding voters."""
    with serve_admin(scratch) as (url, journal):
        store(journal, *crowd_at_work())
        for width, size in SIZES.items():
            for scheme in SCHEMES:
                context = browser.new_context(viewport=size, color_scheme=scheme)
                page = context.new_page()
                page.goto(url)
                expect(page.locator("#admin-voters table")).to_be_visible(timeout=30_000)
                page.wait_for_timeout(2500)
                path = OUT / f"quality-{width}-{scheme}.png"
                page.screenshot(path=str(path), full_page=True, clip=section(page, size["width"]))
                context.close()
                shrink(path)


def section(page: Page, width: int) -> FloatRect:
    """From the heading of the quality section to the next one."""
    tops = [
        page.get_by_role("heading", name=name, exact=True).bounding_box()
        for name in ("Quality", "Dataset")
    ]
    start, end = (box["y"] for box in tops if box)
    return FloatRect(x=0, y=start - 12, width=width, height=end - start)


def shrink(path: Path) -> None:
    """A third of the size, for a page of few colours without a visible loss."""
    with Image.open(path) as picture:
        smaller = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    smaller.save(path, optimize=True)


def command(app: RunningApp, *words: str) -> str:
    done = run_command(app.home, *words, timeout_s=900)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        app = start_app(Path(scratch) / "home")
        try:
            cast_votes(app.url, VOTES)
            app.wait_for("delivery", lambda h: h["argilla"] == "ready" and not h["undelivered"])
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
                shoot_quality(browser, Path(scratch))
                shoot(browser, app, BEFORE)
                long = command(app, "train", "--method", "dpo", "--steps", "400")
                shoot(browser, app, DURING)
                command(app, "cancel", long)
                command(app, "train", "--method", "dpo", "--wait")
                shoot(browser, app, AFTER)
                command(app, "bakeoff")
                shoot(browser, app, LAST)
        finally:
            app.stop()


if __name__ == "__main__":
    main()
