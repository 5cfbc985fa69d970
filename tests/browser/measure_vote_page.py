"""How fast the vote page is: `python tests/browser/measure_vote_page.py [presses]`.

Prints the time to the first pair, requests and KiB of a first visit, and key to next pair painted.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

# Run as a script: the repository's root is not on the path then.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from conftest import DESKTOP, FLAGS, find_chromium
from playwright.sync_api import Browser, Page, sync_playwright
from vote_site import Site, build_pair

# Voters may cast 5 votes a second in the long run.
PAUSE_MS = 230
TEXT = (
    "A **sentence** of an answer that has `some` length to it. " * 8
    + "\n\n1. first\n2. second\n\n```python\ndef area(r):\n    return 3.14 * r ** 2  # round\n```\n"
    + "\n| a | b |\n|---|--:|\n| one | 2 |\n"
)
WATCH = """() => {
  window.lags = [];
  let pressed = 0;
  addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
  new MutationObserver(() => {
    const from = pressed;
    requestAnimationFrame(() => setTimeout(() => window.lags.push(performance.now() - from)));
  }).observe(document.querySelector("[data-vt=answer-a]"), { childList: true });
}"""


def visit(browser: Browser, site: Site) -> tuple[Page, float, int, float]:
    """A first visit with an empty cache: page, seconds to the first pair, requests, KiB."""
    page = browser.new_context(viewport=DESKTOP).new_page()
    devtools = page.context.new_cdp_session(page)
    devtools.send("Network.enable")
    sizes: list[int] = []
    devtools.on("Network.loadingFinished", lambda done: sizes.append(done["encodedDataLength"]))
    started = time.perf_counter()
    page.goto(f"{site.url}/", wait_until="commit")
    page.wait_for_selector("[data-vt=answer-a]:not(:empty)")
    first_pair_s = time.perf_counter() - started
    page.wait_for_selector(".hljs-keyword")
    page.wait_for_load_state("networkidle")
    return page, first_pair_s, len(sizes), sum(sizes) / 1024


def press_all(page: Page, presses: int) -> list[float]:
    """Milliseconds from each key to the frame after the next pair was put in place."""
    page.evaluate(WATCH)
    for number in range(presses):
        page.keyboard.press(str(1 + number % 4))
        page.wait_for_timeout(PAUSE_MS)
    lags: list[float] = page.evaluate("window.lags")
    return lags


def main(presses: int) -> None:
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        site = Site(Path(home), votes_per_pair=9)
        site.add(*(build_pair(n, f"{n} {TEXT}", f"{n} {TEXT}!") for n in range(presses + 20)))
        site.start()
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        firsts = []
        for _ in range(5):
            page, first_s, requests, kib = visit(browser, site)
            firsts.append(first_s)
        lags = press_all(page, presses)
        cuts = statistics.quantiles(lags, n=20)
        stored = len(site.votes())
        print(f"first pair: median {statistics.median(firsts):.2f} s, slowest {max(firsts):.2f} s")
        print(f"first visit: {requests} requests, {kib:.0f} KiB")
        print(f"key to next pair: p50 {cuts[9]:.0f} ms, p95 {cuts[18]:.0f} ms of {len(lags)}")
        print(f"{presses} presses, {stored} votes stored")
        browser.close()
        site.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
