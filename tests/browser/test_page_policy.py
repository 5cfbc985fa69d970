"""The content-security policy in a real browser: no page trips over it, and it blocks."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Watched
from playwright.sync_api import Browser, Page, expect
from running_app import RunningApp, start_app
from vote_site import Site, build_pair

pytestmark = pytest.mark.browser


class Elsewhere:
    """Another origin: what is asked of it, and a page that frames the app."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.framed = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                body = f'<iframe src="{outer.framed}" width=800 height=600></iframe>'.encode()
                self.send_response(200)
                self.send_header("Access-Control-Allow-Origin", "*")
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Quiet: the test looks at `asked`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere()
    yield server
    server.close()


BLOCKED = [
    "base-uri",
    "connect-src",
    "form-action",
    "frame-src",
    "img-src",
    "media-src",
    "object-src",
    "script-src-elem",
    "style-src-elem",
]
ATTEMPTS = """async (evil) => {
  window.broken = new Set();
  document.addEventListener("securitypolicyviolation", (e) => broken.add(e.effectiveDirective));
  const put = (tag, properties) =>
    document.body.append(Object.assign(document.createElement(tag), properties));
  put("img", { src: `${evil}/img` });
  put("script", { src: `${evil}/script` });
  put("link", { rel: "stylesheet", href: `${evil}/style` });
  put("video", { src: `${evil}/video` });
  put("iframe", { src: `${evil}/iframe` });
  put("object", { data: `${evil}/object` });
  document.head.prepend(Object.assign(document.createElement("base"), { href: evil }));
  await fetch(`${evil}/fetch`).catch(() => null);
  try { new WebSocket(evil.replace("http", "ws") + "/socket"); } catch { /* refused at once */ }
  navigator.sendBeacon(`${evil}/beacon`, "x");
  const form = Object.assign(document.createElement("form"), { action: `${evil}/form` });
  document.body.append(form);
  form.submit();
}"""


def test_what_would_leave_the_page_is_blocked(
    site: Site, browser: Browser, elsewhere: Elsewhere
) -> None:
    site.add(build_pair(1))
    context = browser.new_context()
    page = context.new_page()
    page.goto(site.url)
    expect(page.locator("[data-vt=answer-a]")).not_to_be_empty()
    page.evaluate(ATTEMPTS, elsewhere.url)
    # What the browser's other processes blocked is told some time later.
    page.wait_for_function("(many) => broken.size >= many", arg=len(BLOCKED))
    assert page.evaluate("[...broken].sort()") == BLOCKED
    assert elsewhere.asked == []
    assert page.url.startswith(site.url)
    context.close()


def test_no_other_site_can_frame_the_page(
    site: Site, browser: Browser, elsewhere: Elsewhere
) -> None:
    site.add(build_pair(1))
    elsewhere.framed = f"{site.url}/"
    context = browser.new_context()
    page = context.new_page()
    with page.expect_event("requestfailed") as blocked:
        page.goto(elsewhere.url)
    assert blocked.value.url == f"{site.url}/"
    assert blocked.value.failure == "net::ERR_BLOCKED_BY_RESPONSE"
    page.frames[1].wait_for_url("chrome-error://chromewebdata/")
    context.close()


def test_the_vote_page_trips_over_nothing(site: Site, voter: Watched) -> None:
    """Console errors and requests elsewhere are watched in every test; here the header is there."""
    site.add(build_pair(1, "```python\nx = 1\n```", "**b**"))
    page = voter.open_ready()
    expect(page.locator(".hljs-number")).to_have_count(1)
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_load_state("networkidle")
    bare = [reply.url for reply in voter.answers if "content-security-policy" not in reply.headers]
    assert bare == []
    assert len(voter.answers) > 40


# ------------------------------------------------------------------------------ the whole app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    running = start_app(Path(tmp_path_factory.mktemp("policy")) / "home")
    yield running
    running.stop()


def open_vote(page: Page, app: RunningApp) -> None:
    page.goto(app.url)
    expect(page.locator("[data-vt=answer-a]")).not_to_be_empty(timeout=60_000)
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-prompt")).to_be_visible()


def open_admin(page: Page, app: RunningApp) -> None:
    page.goto(app.admin_url)
    expect(page.locator("#admin-plan")).not_to_be_empty(timeout=60_000)


def open_docs(page: Page, app: RunningApp) -> None:
    page.goto(f"{app.url}/api/docs")
    expect(page.locator(".opblock").first).to_be_visible(timeout=30_000)


@pytest.mark.slow
@pytest.mark.parametrize("opened", [open_vote, open_admin, open_docs])
def test_every_page_of_the_app_has_a_policy_and_trips_over_nothing(
    browser: Browser, app: RunningApp, opened
) -> None:
    context = browser.new_context()
    trouble: list[str] = []
    bare: list[str] = []
    context.on("weberror", lambda error: trouble.append(str(error.error)))
    context.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    context.on(
        "response",
        lambda r: None if "content-security-policy" in r.headers else bare.append(r.url),
    )
    context.on(
        "request",
        lambda r: None if r.url.startswith((app.url, "data:", "blob:")) else trouble.append(r.url),
    )
    page = context.new_page()
    opened(page, app)
    page.wait_for_timeout(1500)  # Gradio keeps a stream open, so the network is never idle
    assert (trouble, bare) == ([], [])
    context.close()
