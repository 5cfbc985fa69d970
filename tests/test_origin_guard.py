"""What another site's page may ask of the app: nothing that changes or reads it."""

import gc
import warnings
from collections.abc import Iterator

import gradio as gr
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from annotation.web.origin_guard import OriginGuard

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
HOST = "ada-votetune.hf.space"
EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def browser() -> Iterator[TestClient]:
    """Gradio's own routes and one of ours, as a Space serves them."""
    yield TestClient(build_app(), base_url=f"https://{HOST}")
    # Gradio leaves event loops unclosed where Blocks are built outside a server: none may be
    # found by the collector in the middle of another test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def build_app() -> FastAPI:
    app = FastAPI()

    @app.post("/api/votes")
    def vote() -> dict[str, bool]:
        return {"saved": True}

    with gr.Blocks(analytics_enabled=False) as blocks:
        box, out = gr.Textbox(), gr.Textbox()
        box.submit(lambda text: text.upper(), box, out, api_name="shout")
    gr.mount_gradio_app(app, blocks, path="/")
    app.add_middleware(OriginGuard)
    return app


ROUTES = ["/api/votes", "/gradio_api/run/shout", "/gradio_api/call/shout", "/gradio_api/queue/join"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "origin", [EVIL, "null", "", f"https://{HOST}.evil.example", f"http://x@{HOST}"]
)
def test_another_sites_page_changes_nothing(browser: TestClient, route: str, origin: str) -> None:
    answer = browser.post(route, json={"data": ["a"]}, headers={"Origin": origin})
    assert (answer.status_code, answer.text.count("\n")) == (403, 1)


@pytest.mark.parametrize(
    "origin", [f"https://{HOST}", f"https://{HOST}:443", f"https://{HOST.upper()}"]
)
def test_the_apps_own_page_is_heard(browser: TestClient, origin: str) -> None:
    answer = browser.post("/api/votes", headers={"Origin": origin})
    assert answer.json() == {"saved": True}
    heard = browser.post("/gradio_api/run/shout", json={"data": ["a"]}, headers={"Origin": origin})
    assert heard.json()["data"] == ["A"]


def test_a_script_without_an_origin_is_heard(browser: TestClient) -> None:
    assert browser.post("/api/votes").status_code == 200
    form = browser.post("/api/votes", headers={"Sec-Fetch-Site": "cross-site"})
    assert form.status_code == 403


def test_no_answer_invites_another_site_to_read_it(browser: TestClient) -> None:
    answer = browser.get("/config", headers={"Origin": EVIL, "Cookie": "access-token=x"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    preflight = browser.options(
        "/gradio_api/run/shout",
        headers={"Origin": EVIL, "Access-Control-Request-Method": "POST"},
    )
    assert "access-control-allow-origin" not in preflight.headers
