"""The Hub's section of admin in a real browser: size first, progress, cancel, and the dataset."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from admin_app import serve_page
from conftest import DESKTOP, PHONE
from hub_double import WRITER, HubDouble
from huggingface_hub import constants
from playwright.sync_api import Browser, Page, expect
from pydantic import SecretStr
from small_files import write_model, write_run
from test_pull import big_adapter

from alignment.base import ResolvedBase
from alignment.pipeline import Pipeline
from alignment.settings import AlignmentSettings
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.schema import Choice, ModelRef, Split
from tests.test_export import fill, pair_of, prompts_of, vote_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def page(
    browser: Browser, hub_double: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Page]:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    folder = write_model(tmp_path / "base")
    ref = ModelRef("ada/chat", hub_double.add_repo("ada/chat", folder))
    home = Home(tmp_path / "home")
    write_run(home.root, "dpo-20260301-1200-00aa", ref)
    hub_double.add_repo("eve/tuned", big_adapter(tmp_path / "a", ref))
    journal = Journal(home.journal)
    fill(journal, [pair_of(p, "p") for p in prompts_of(Split.TRAIN, 1)], [vote_of("p", Choice.A)])
    settings = AlignmentSettings(hf_token=SecretStr(WRITER))
    base = ResolvedBase(ref, folder, is_starter=False, notice=None)
    pipeline = Pipeline(home, settings, base, journal)
    with closing(journal), serve_page(pipeline, journal, home, settings) as url:
        context = browser.new_context(viewport=DESKTOP)
        tab = context.new_page()
        tab.goto(url)
        yield tab
        context.close()


def test_a_model_is_sized_up_watched_cancelled_and_pulled(page: Page, hub_double: HubDouble):
    told = page.locator("#admin-pulled")
    page.locator("#admin-remote textarea, #admin-remote input").fill("eve/tuned")
    page.locator("#admin-size-up").click()
    expect(told).to_contain_text("an adapter, 65.8 kB in 2 files.")
    assert hub_double.lines("GET /get/") == []
    held = hub_double.hold("GET /get/")
    page.locator("#admin-pull").click()
    expect(told).to_contain_text("kB of 65.8 kB (")
    page.reload()
    # Another tab, or the same one loaded again, sees how far it is.
    expect(told).to_contain_text("kB of 65.8 kB (")
    page.locator("#admin-cancel-pull").click()
    expect(told).to_contain_text("being cancelled")
    held.set()
    expect(told).to_contain_text("cancelled, and nothing of it is kept")
    page.locator("#admin-remote textarea, #admin-remote input").fill("eve/tuned")
    page.locator("#admin-pull").click()
    expect(told).to_contain_text("is here: choose it in the Compare tab")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_dataset_is_published_by_a_button_and_all_of_it_fits(
    page: Page, hub_double: HubDouble, size: dict[str, int], tmp_path: Path
):
    page.set_viewport_size(size)
    page.locator("#admin-dataset-repo textarea, #admin-dataset-repo input").fill("votes")
    page.locator("#admin-publish-dataset").click()
    told = page.locator("#admin-dataset-published")
    expect(told).to_contain_text("Published as ada/votes")
    assert sorted(hub_double.repo("ada/votes", "datasets").head.files) == [
        ".gitattributes",
        "README.md",
        "dataset.json",
        "train.jsonl",
    ]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for name in ("dataset-repo", "publish-dataset", "repo", "merged", "publish", "remote"):
        box = page.locator(f"#admin-{name}").bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size["width"]
    page.locator("#admin-pulled").scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "hub.png")
