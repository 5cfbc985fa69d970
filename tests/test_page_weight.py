"""Pages are compressed, streams are not."""

import gzip
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse, StreamingResponse

from annotation.web.page_weight import CompressedPages

PAGE = "<p>A page that says the same again and again.</p>" * 100


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    @app.get("/")
    @app.get("/admin/")
    def page() -> PlainTextResponse:
        return PlainTextResponse(PAGE)

    @app.get("/api/prompts")
    def stream() -> StreamingResponse:
        def lines() -> Iterator[str]:
            yield "one\n" * 500
            yield "two\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    app.add_middleware(CompressedPages)
    return TestClient(app)


@pytest.mark.parametrize("path", ["/", "/admin/"])
def test_a_page_is_a_tenth_of_its_size_and_whole(client: TestClient, path: str) -> None:
    with client.stream("GET", path, headers={"Accept-Encoding": "br, gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(raw).decode() == PAGE
    assert len(raw) * 10 < len(PAGE)


def test_a_page_is_plain_for_who_takes_no_compression(client: TestClient) -> None:
    answer = client.get("/", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in answer.headers
    assert answer.text == PAGE


def test_a_stream_is_left_as_it_is(client: TestClient) -> None:
    answer = client.get("/api/prompts", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert answer.text.endswith("two\n")
