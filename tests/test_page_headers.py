"""The headers stand on every answer, whoever gives it."""

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse, StreamingResponse

from annotation.web.page_headers import PageHeaders

NAMES = (
    "content-security-policy",
    "x-content-type-options",
    "referrer-policy",
    "permissions-policy",
)


def build_client(*, on_space: bool) -> TestClient:
    app = FastAPI()

    @app.get("/page")
    def page() -> PlainTextResponse:
        return PlainTextResponse("page")

    @app.get("/own")
    def own() -> PlainTextResponse:
        return PlainTextResponse("own", headers={"Referrer-Policy": "no-referrer"})

    @app.get("/stream")
    def stream() -> StreamingResponse:
        def lines() -> Iterator[bytes]:
            yield b"one\n"
            yield b"two\n"

        return StreamingResponse(lines())

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("broken")

    app.add_middleware(PageHeaders, on_space=on_space)
    return TestClient(app, raise_server_exceptions=False)


def rules(client: TestClient) -> dict[str, list[str]]:
    policy = client.get("/page").headers["content-security-policy"]
    return {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}


@pytest.mark.parametrize("path", ["/page", "/own", "/stream", "/nowhere", "/docs"])
def test_every_answer_carries_every_header(path: str) -> None:
    headers = build_client(on_space=False).get(path).headers
    assert [name for name in NAMES if name not in headers] == []
    assert headers["x-content-type-options"] == "nosniff"


def test_a_header_that_is_already_set_stays() -> None:
    client = build_client(on_space=False)
    assert client.get("/own").headers["referrer-policy"] == "no-referrer"
    assert client.get("/page").headers["referrer-policy"] == "same-origin"


def test_a_stream_comes_through_whole() -> None:
    assert build_client(on_space=False).get("/stream").text == "one\ntwo\n"


def test_nothing_comes_from_elsewhere_and_nothing_goes_there() -> None:
    said = rules(build_client(on_space=False))
    own = {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", "data:", "blob:"}
    assert {source for sources in said.values() for source in sources} == own
    for name in ("object-src", "frame-src", "media-src"):
        assert said[name] == ["'none'"]
    for name in ("default-src", "connect-src", "base-uri", "form-action", "frame-ancestors"):
        assert said[name] == ["'self'"]
    assert "'unsafe-eval'" not in said["style-src"] + said["default-src"]


def test_only_on_a_space_may_the_hub_frame_the_app() -> None:
    said = rules(build_client(on_space=True))
    assert said.pop("frame-ancestors") == [
        "'self'",
        "https://huggingface.co",
        "https://*.hf.space",
    ]
    elsewhere = rules(build_client(on_space=False))
    assert elsewhere.pop("frame-ancestors") == ["'self'"]
    assert said == elsewhere
