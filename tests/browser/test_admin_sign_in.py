"""Admin by account in a real browser: to the provider and back, and one line for everybody else."""

import re
from collections.abc import Iterator

import pytest
from admin_site import ADA, BOB, AdminSite
from conftest import PHONE
from playwright.sync_api import Browser, Page, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    # Gradio leaves event loops unclosed where Blocks are built.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminSite]:
    made = AdminSite(tmp_path_factory.mktemp("accounts"), admin_users="ada")
    yield made
    made.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=PHONE)
    trouble: list[str] = []
    context.on("weberror", lambda error: trouble.append(str(error.error)))
    context.on("console", lambda told: trouble.append(told.text) if "Policy" in told.text else None)
    yield context.new_page()
    context.close()
    assert trouble == []


def test_an_admin_signs_in_on_the_way_and_signing_out_shuts_the_door(
    page: Page, accounts: AdminSite
) -> None:
    accounts.provider.user = ADA
    page.goto(f"{accounts.url}/admin")
    expect(page).to_have_url(f"{accounts.url}/admin/")
    expect(page.get_by_role("heading", name="Votetune admin")).to_be_visible(timeout=30_000)
    expect(page.locator("#admin-audit li").first).to_contain_text("ada: signed in")
    page.evaluate("fetch('/logout', {method: 'POST'})")
    accounts.provider.user = BOB
    page.goto(f"{accounts.url}/admin")
    expect(page.get_by_role("heading", name="This page is for admins")).to_be_visible()


def test_a_voter_reads_one_line_and_finds_the_way_back(page: Page, accounts: AdminSite) -> None:
    accounts.provider.user = BOB
    answer = page.goto(f"{accounts.url}/admin")
    assert answer
    assert answer.status == 403
    expect(page.locator("p").first).to_have_text(
        "You are signed in as bob, who is no admin here: ask the owner to add you to ADMIN_USERS."
    )
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="Go and vote").click()
    expect(page).to_have_url(re.compile(rf"{accounts.url}/?$"))
