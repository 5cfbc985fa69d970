"""Start to end as a person does it: vote by key, see it in Argilla, train in admin, compare.

Real app, journal, Argilla, training child, starter model and Chromium.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from running_app import RunningApp, start_app, submitted_votes

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.argilla,
    # Its parts may take that long where others work on the same cores.
    pytest.mark.timeout(1200),
]
VOTES = 30
KEYS = ["1", "2", "1", "2", "3", "1", "2", "4"]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    running = start_app(tmp_path_factory.mktemp("loop") / "home", env={"MIN_EXAMPLES": "10"})
    yield running
    running.stop()


@pytest.fixture
def page(browser: Browser, app: RunningApp) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    trouble: list[str] = []
    context.on("weberror", lambda error: trouble.append(str(error.error)))
    context.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((app.url, "data:", "blob:"))
            else trouble.append(f"request to {request.url}")
        ),
    )
    yield context.new_page()
    context.close()
    assert trouble == []


def vote_by_key(page: Page, count: int) -> None:
    answer = page.locator("[data-vt=answer-a]")
    for index in range(count):
        expect(answer).not_to_be_empty(timeout=60_000)
        shown = page.locator("[data-vt=prompt]").inner_text(), answer.inner_text()
        page.keyboard.press(KEYS[index % len(KEYS)])
        page.wait_for_function(
            """([prompt, text]) =>
                document.querySelector('[data-vt=prompt]').innerText !== prompt ||
                document.querySelector('[data-vt=answer-a]').innerText !== text""",
            arg=list(shown),
            timeout=60_000,
        )
    page.wait_for_function("() => !Object.keys(localStorage).some(k => k.includes('outbox'))")


def test_votes_by_key_become_a_model_that_answers_beside_the_base(
    app: RunningApp, page: Page, tmp_path: Path
) -> None:
    page.goto(app.url)
    expect(page.get_by_text("starter model", exact=False).first).to_be_visible(timeout=20_000)
    vote_by_key(page, VOTES)
    expect(page.locator("[data-vt=status]")).to_contain_text(re.compile(r"Saved\..*starter@"))

    app.wait_for("delivery", lambda h: h["argilla"] == "ready" and h["undelivered"] == 0, 240)
    in_argilla = submitted_votes(app.home)
    assert len(in_argilla) == VOTES
    # Sides are drawn per voter, so a key may be a or b in the record; ties stay ties.
    assert in_argilla.count("tie") == sum(KEYS[i % len(KEYS)] == "3" for i in range(VOTES))
    assert in_argilla.count("both_bad") == sum(KEYS[i % len(KEYS)] == "4" for i in range(VOTES))

    page.goto(app.admin_url)
    assert "token" not in page.url
    expect(page.locator("#admin-votes")).to_contain_text(f"{VOTES} votes by 1 voter on")
    page.locator("#admin-preview").click()
    expect(page.locator("#admin-export-summary")).to_contain_text("examples, sha256")
    expect(page.locator("#admin-start")).to_be_enabled(timeout=120_000)
    page.locator("#admin-start").click()
    progress = page.locator("#admin-progress")
    expect(progress).to_contain_text(re.compile("is (queued|preparing|training)"))
    page.reload()
    expect(progress).to_contain_text("is done", timeout=240_000)
    run_id = re.search(r"dpo-\d{8}-\d{4}-[0-9a-f]{4}", progress.inner_text())
    assert run_id
    expect(page.locator("#admin-plot-loss svg, #admin-plot-loss canvas").first).to_be_visible()
    page.screenshot(path=str(tmp_path / "admin.png"), full_page=True)

    page.goto(app.url)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-prompt textarea").fill("What is the opposite of hot?")
    expect(page.locator("#compare-right input")).to_have_value(re.compile(run_id[0]))
    page.locator("#compare-ask").click()
    expect(page.locator("#compare-status")).to_have_text("Done.", timeout=240_000)
    for name in ("base", run_id[0]):
        expect(page.get_by_role("region", name=f"Answer of {name}")).to_have_text(
            re.compile(r"\w{2,}")
        )


def test_admin_is_closed_in_a_browser_that_never_had_the_token(
    app: RunningApp, browser: Browser
) -> None:
    context = browser.new_context()
    stranger = context.new_page()
    answer = stranger.goto(f"{app.url}/admin/")
    assert answer is not None
    assert answer.status == 401
    expect(stranger.locator("body")).to_contain_text("for the owner")
    context.close()
