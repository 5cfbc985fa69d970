"""The served app asks of Gradio and FastAPI only what voters need."""

from collections.abc import Iterator

import pytest
from admin_site import AdminSite
from fastapi.telemetry import _asgi
from starlette.routing import Mount

from annotation.web.frugal import REST_S

# Gradio leaves event loops unclosed where Blocks are built.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminSite]:
    made = AdminSite(tmp_path_factory.mktemp("frugal"), admin_users="Ada")
    yield made
    made.close()


def test_the_idle_queue_of_each_page_rests(served: AdminSite) -> None:
    mounts = [r.app for r in served.app.routes if isinstance(r, Mount)]
    pages = [app.get_blocks() for app in mounts if hasattr(app, "get_blocks")]
    assert [page._queue.sleep_when_free for page in pages] == [REST_S, REST_S]


def test_no_request_looks_for_opentelemetry(
    served: AdminSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for module, name in (
        (_asgi.trace, "get_tracer_provider"),
        (_asgi.metrics, "get_meter_provider"),
        (_asgi._logs, "get_logger_provider"),
    ):
        monkeypatch.setattr(module, name, lambda name=name: asked.append(name))
    with served.browser() as browser:
        assert browser.get("/api/health").status_code == 200
    assert asked == []
