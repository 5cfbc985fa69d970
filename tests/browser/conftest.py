"""A real Chromium against a real site. Every page is watched for errors and stray requests."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)
from vote_site import Site

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}

# Long, for a machine with two cores and other work: it bounds a hang and promises nothing.
expect.set_options(timeout=60_000)


def find_chromium() -> str | None:
    """The browser's path, from CHROMIUM or the PATH; None for the one Playwright installed."""
    named = os.environ.get("CHROMIUM")
    return named or next((found for name in CHROMIUM_NAMES if (found := shutil.which(name))), None)


# A module at a time: an open Playwright keeps an event loop that other tests' asyncio can't have.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Watched:
    """A voter's browser; `trouble` is what no page may cause."""

    context: BrowserContext
    site: Site
    trouble: list[str] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.on("request", self._saw_request)
        self.context.on("console", self._saw_console)
        self.context.on("weberror", lambda error: self.trouble.append(f"error: {error.error}"))
        self.context.on("dialog", lambda dialog: self.trouble.append(f"dialog: {dialog.message}"))
        self.context.on("response", self._saw_response)

    def open(self) -> Page:
        """A new tab with the vote page; the pair may not be there yet."""
        page = self.context.new_page()
        page.goto(f"{self.site.url}/")
        return page

    def open_ready(self) -> Page:
        """A new tab with a pair on screen."""
        page = self.open()
        expect(page.locator("[data-vt=answer-a]")).not_to_be_empty()
        return page

    def _saw_request(self, request: Request) -> None:
        url = request.url
        if not url.startswith((self.site.url, "data:", "blob:")):
            self.trouble.append(f"request to {url}")

    def _saw_console(self, message: ConsoleMessage) -> None:
        kind, text = message.type, message.text
        # Chromium reports every refused or failed request so; tests cause them on purpose.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.trouble.append(f"console: {text}")

    def _saw_response(self, response: Response) -> None:
        self.answers.append(response)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    served = Site(tmp_path)
    served.start()
    yield served
    served.close()


@pytest.fixture
def new_voter(browser: Browser, site: Site) -> Iterator[Callable[..., Watched]]:
    """Makes voters, each in a browser profile of its own; none may end in trouble."""
    voters: list[Watched] = []

    def build(at: Site = site, **options) -> Watched:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        voters.append(Watched(context, at))
        return voters[-1]

    yield build
    for voter in voters:
        voter.context.close()
    assert [trouble for voter in voters for trouble in voter.trouble] == []


@pytest.fixture
def voter(new_voter: Callable[..., Watched]) -> Watched:
    return new_voter()
