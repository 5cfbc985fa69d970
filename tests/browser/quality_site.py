"""The real admin page over a real journal, for its quality section; nothing is trained here."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from admin_app import serve_page
from conftest import DESKTOP
from playwright.sync_api import Browser, Page

from alignment.base import resolve_base
from alignment.pipeline import Pipeline
from alignment.settings import AlignmentSettings
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.schema import Pair, Vote


def store(journal: Journal, pairs: Sequence[Pair], votes: Sequence[Vote]) -> None:
    journal.add_pairs(pairs).result(30)
    for future in [journal.add_vote(vote) for vote in votes]:
        future.result(30)


@contextmanager
def serve_admin(folder: Path) -> Iterator[tuple[str, Journal]]:
    """The address that opens the page, and the journal that it shows."""
    home = Home(folder / "quality")
    home.prepare()
    settings = AlignmentSettings(base_model="starter", min_examples=10)
    base = resolve_base(settings, home.root, has_votes=False)
    journal = Journal(home.journal)
    pipeline = Pipeline(home, settings, base, journal)
    with closing(journal), serve_page(pipeline, journal, home, settings) as url:
        yield url, journal


@contextmanager
def watched_tab(browser: Browser, url: str) -> Iterator[Page]:
    """A tab with `url`, which may throw nothing and ask nothing while it is there."""
    context = browser.new_context(viewport=DESKTOP)
    trouble: list[str] = []
    context.on("weberror", lambda error: trouble.append(str(error.error)))
    context.on("dialog", lambda dialog: trouble.append(dialog.message))
    tab = context.new_page()
    tab.goto(url)
    yield tab
    context.close()
    assert trouble == []
