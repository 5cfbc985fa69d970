"""The training page in a real browser: check the data, press the button, watch, reload.

Real pipeline, doctor, training child and starter; no Argilla and no sampler, which it needs not.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from admin_app import serve_page
from conftest import DESKTOP, PHONE
from playwright.sync_api import Browser, Page, expect

from alignment.base import resolve_base
from alignment.pipeline import Pipeline
from alignment.runs.run_store import RunFolder, RunState
from alignment.runs.runs import Run
from alignment.settings import AlignmentSettings
from alignment.starter.starter import starter_prompts
from alignment.web.training import training_tab
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.schema import Choice, Completion, Pair, Sampling, Split, Vote, utc_now

pytestmark = [pytest.mark.browser, pytest.mark.slow]
VOTES = 40
HOSTILE = "<img src=x onerror=alert(1)>\u202e"


def vote(journal: Journal, pipeline: Pipeline, count: int) -> None:
    """Decided votes on train prompts; one answer tries to be HTML and to turn the line around."""
    ref = pipeline.base.ref
    prompts = [p for p in starter_prompts() if p.split is Split.TRAIN][:count]
    for n, prompt in enumerate(prompts):
        texts = (f"It is number {n}, I think. {HOSTILE if n < 5 else ''}", f"number {n}")
        if n % 2:
            texts = (texts[1], texts[0])
        completions = tuple(Completion(text, ref, Sampling()) for text in texts)
        pair = Pair(f"pair-{n}", prompt, completions, utc_now())
        journal.add_pairs([pair]).result(10)
        choice = Choice.B if n % 2 else Choice.A
        journal.add_vote(Vote(pair.id, pair.id, "anon-1", choice, False, utc_now())).result(10)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Pipeline]]:
    """The address of the admin page over a home with votes, and its pipeline."""
    home = Home(tmp_path_factory.mktemp("training") / "home")
    home.prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASE_MODEL", "starter")
        settings = AlignmentSettings(base_model="starter", min_examples=10)
        patch.setenv("MIN_EXAMPLES", "10")
        base = resolve_base(settings, home.root, has_votes=False)
        journal = Journal(home.journal)
        pipeline = Pipeline(home, settings, base, journal)
        vote(journal, pipeline, VOTES)
        with closing(journal), serve_page(pipeline, journal, home, settings) as url:
            yield url, pipeline


@pytest.fixture
def page(browser: Browser, site: tuple[str, Pipeline]) -> Iterator[Page]:
    """A tab with the admin page; it may fetch nothing from elsewhere and throw nothing."""
    url, _ = site
    origin = url.partition("/admin")[0]
    context = browser.new_context(viewport=DESKTOP)
    trouble: list[str] = []
    context.on("weberror", lambda error: trouble.append(str(error.error)))
    context.on("dialog", lambda dialog: trouble.append(dialog.message))
    context.on(
        "console",
        lambda m: trouble.append(m.text) if m.type == "error" and "<path>" in m.text else None,
    )
    context.on(
        "request",
        lambda r: None if r.url.startswith((origin, "data:", "blob:")) else trouble.append(r.url),
    )
    tab = context.new_page()
    tab.goto(url)
    yield tab
    context.close()
    assert trouble == []


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def choose_trained_run(page: Page) -> None:
    # Gradio pins an open list to the window: what loads above it must be there before.
    expect(page.locator("#admin-voters table")).to_be_visible()
    expect(page.locator("#admin-gate")).to_contain_text("policy")
    expect(page.locator("#admin-plan")).not_to_be_empty()
    page.locator("#admin-run").evaluate("box => box.scrollIntoView({ block: 'center' })")
    page.locator("#admin-run input").click()
    page.get_by_role("option", name=re.compile("dpo-20(?!99)")).click()


def test_one_button_from_the_check_to_the_pictures(page: Page, site: tuple[str, Pipeline]) -> None:
    findings, start = page.locator("#admin-findings"), page.locator("#admin-start")
    expect(findings).to_contain_text(re.compile(r"\d+ examples\. .*"))
    expect(page.locator("#admin-plan")).to_contain_text(re.compile(r"DPO with the sigmoid loss on"))
    expect(page.locator("#admin-plan")).to_contain_text(re.compile(r"About \d+ s.*of memory"))
    expect(start).to_be_enabled()

    page.locator("#admin-look-deeper").click()
    tokens = page.locator("#admin-tokens .vta-example")
    expect(tokens.first).to_be_visible(timeout=60_000)
    counted = tokens.first.locator(".vta-side", has_text="Prompt").locator(".vta-counts")
    expect(counted).to_have_count(0)
    assert tokens.first.locator(".vta-side", has_text="Chosen").locator(".vta-counts").count() > 3

    page.locator("#admin-options button").first.click()
    page.locator("#admin-steps input").fill("8")
    expect(page.locator("#admin-plan")).to_contain_text("8 steps")
    start.click()
    progress = page.locator("#admin-progress")
    expect(progress).to_contain_text(re.compile("is (queued|preparing|training)"))
    expect(start).to_be_disabled()
    expect(page.locator("#admin-plan")).to_contain_text("one run goes at a time")
    page.reload()
    expect(progress).to_contain_text("is done", timeout=200_000)

    (run,) = site[1].runs.list()
    expect(progress).to_contain_text(run.id)
    for name in ("loss", "reward-accuracy", "reward-margin", "logps"):
        expect(page.locator(f"#admin-plot-{name} svg path").first).to_be_attached()
    expect(page.locator("#admin-samples .vta-sample").first).to_be_visible()
    expect(page.locator("#admin-runs tbody tr")).to_have_count(1)
    for button in ("cancel", "resume"):
        expect(page.locator(f"#admin-{button}")).to_be_disabled()
    assert fits(page)
    page.set_viewport_size(PHONE)
    assert fits(page)
    assert page.locator("#admin-plot-loss svg").bounding_box()["width"] > 250


def test_a_stopped_run_says_why_and_offers_to_go_on(page: Page, site: tuple[str, Pipeline]) -> None:
    runs = site[1].runs
    (done,) = runs.list()
    # A run that was interrupted with a whole checkpoint, as `Runs` would find it.
    folder = RunFolder(done.folder.path.with_name("dpo-20990101-0000-beef"))
    (folder.path / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    (folder.path / "checkpoints" / "checkpoint-4" / "complete").touch()
    folder.write_spec(done.spec)
    stopped = done.status.__class__(
        RunState.INTERRUPTED, utc_now(), utc_now(), step=4, reason="The machine <b>restarted</b>."
    )
    folder.write_status(stopped)
    page.reload()
    expect(page.locator("#admin-run input")).to_have_value(folder.path.name)
    expect(page.locator("#admin-progress")).to_contain_text("The machine <b>restarted</b>.")
    expect(page.locator("#admin-resume")).to_be_enabled()
    expect(page.locator("#admin-cancel")).to_be_disabled()
    (folder.path / "checkpoints" / "checkpoint-4" / "complete").unlink()
    expect(page.locator("#admin-resume")).to_be_disabled()


def test_a_run_chosen_while_the_page_looks_is_the_one_that_is_shown(
    page: Page, site: tuple[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, pictures = page.locator("#admin-run input"), page.locator("#admin-pictures svg")
    expect(chosen).to_have_value("dpo-20990101-0000-beef")
    begun, go_on = threading.Event(), threading.Event()
    draw = training_tab.draw_run

    def slow(run: Run | None) -> dict[str, str]:
        begun.set()
        assert go_on.wait(60)
        return draw(run)

    monkeypatch.setattr(training_tab, "draw_run", slow)
    # A new run makes the page offer them all anew: asked for before the choice, drawn after it.
    runs = site[1].runs
    stopped = runs.get("dpo-20990101-0000-beef")
    folder = RunFolder(stopped.folder.path.with_name("dpo-20990101-0000-ca1f"))
    folder.path.mkdir()
    folder.write_spec(stopped.spec)
    folder.write_status(stopped.status)
    assert begun.wait(60)
    choose_trained_run(page)
    name = chosen.input_value()
    assert name in {run.id for run in runs.list()} - {stopped.id, folder.path.name}
    go_on.set()
    expect(pictures.first).to_be_visible()
    expect(page.locator("#admin-runs tbody tr")).to_have_count(3)
    expect(chosen).to_have_value(name)


def test_the_page_reads_by_keyboard_and_names_what_it_draws(page: Page) -> None:
    choose_trained_run(page)
    loss = page.get_by_role("img", name=re.compile(r"^Loss, loss: training [\d.]+ at step 8"))
    expect(loss).to_be_visible()
    bar = page.get_by_role("progressbar", name="Steps done")
    expect(bar).to_have_attribute("aria-valuenow", "100")
