"""The page's scripts: one address for one content, kept for good, compressed as asked."""

import gzip
import re
from hashlib import sha256

import brotli
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from annotation.web.page_files import PAGE, build_page_routes, load_page_files


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    app.include_router(build_page_routes())
    return TestClient(app)


def test_every_file_is_served_whole_in_every_encoding(client: TestClient) -> None:
    opened = {"br": brotli.decompress, "gzip": gzip.decompress, "identity": bytes}
    for file in load_page_files():
        assert sha256(file.body).hexdigest().startswith(file.path.split("/")[2])
        for encoding, decompress in opened.items():
            with client.stream("GET", file.path, headers={"Accept-Encoding": encoding}) as answer:
                raw = b"".join(answer.iter_raw())
            assert answer.status_code == 200
            assert answer.headers.get("content-encoding", "identity") == encoding
            assert decompress(raw) == file.body
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers["content-type"].startswith("text/javascript")
            assert answer.headers["vary"] == "Accept-Encoding"


def test_another_content_or_name_is_not_found(client: TestClient) -> None:
    path = load_page_files()[0].path
    for wrong in (
        path.replace(path.split("/")[2], "0" * 16),
        path.replace("page.js", "vote.html"),
        "/page-files/../annotation/web/tab.py",
        "/page-files/x/%2e%2e%2fREADME.md",
    ):
        assert client.get(wrong).status_code == 404, wrong


def test_the_page_knows_the_addresses_of_its_libraries() -> None:
    page, *libraries = load_page_files()
    for library in libraries:
        assert library.path in page.body.decode()


def test_the_page_never_hands_words_to_the_html_parser() -> None:
    """But for highlight.js's own answer, which goes to a document that no page shows."""
    own = "\n".join(path.read_text() for path in PAGE.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|setHTML", own)
    assert own.count("DOMParser") == 1
    assert not re.search(r"\beval\(|new Function\(", own)
