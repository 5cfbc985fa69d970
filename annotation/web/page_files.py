"""The scripts of the vote page, as the browser loads them from our own origin.

Owns their names, addresses and compression: each stands under a hash of its content, so a browser
keeps it for good and a new version is a new address. Serves these files and no others.
"""

import gzip
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import brotli
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

PAGE = Path(__file__).parent / "vote_page"
PREFIX = "/page-files"

# One function of `element` and `props`, in this order; each file says what it owns.
_SCRIPTS = (
    "text.js",
    "markdown.js",
    "keep.js",
    "reading.js",
    "vote.js",
    "who.js",
    "my_votes.js",
    "own_prompt.js",
    "page.js",
)
_IMMUTABLE = "public, max-age=31536000, immutable"
_COMMENT_LINE = re.compile(r"^\s*//.*\n", re.MULTILINE)
_CORE_EXPORT = re.compile(r"export\{(\w+) as default\};\s*$")


@dataclass(frozen=True, slots=True)
class PageFile:
    """One script. `path` is below the app's root and names the content."""

    name: str
    body: bytes

    @property
    def path(self) -> str:
        return f"{PREFIX}/{sha256(self.body).hexdigest()[:16]}/{self.name}"


@lru_cache(maxsize=1)
def load_page_files() -> tuple[PageFile, ...]:
    """The page's own script first, then the libraries that it loads beside the first pair."""
    markdown = (PAGE / "vendor" / "markdown-it" / "markdown-it.umd.min.js").read_text("utf-8")
    libraries = (
        PageFile("markdown-it.js", markdown.encode()),
        PageFile("highlight.js", _join_highlight(PAGE / "vendor" / "highlight").encode()),
    )
    return (PageFile("page.js", _join_page(libraries).encode()), *libraries)


def build_page_routes() -> APIRouter:
    """`GET /page-files/{hash}/{name}`: the file, compressed where the browser takes it, or 404.

    Include it before anything is mounted on "/".
    """
    router = APIRouter()
    files = {file.path: file for file in load_page_files()}

    @router.get(PREFIX + "/{digest}/{name}", include_in_schema=False)
    def get_page_file(digest: str, name: str, request: Request) -> Response:
        file = files.get(f"{PREFIX}/{digest}/{name}")
        if file is None:
            return PlainTextResponse("No such file: reload the page.", 404)
        headers = {"Cache-Control": _IMMUTABLE, "Vary": "Accept-Encoding"}
        body = file.body
        encoding = _best_encoding(request.headers.get("accept-encoding", ""))
        if encoding:
            body = _compressed(file, encoding)
            headers["Content-Encoding"] = encoding
        return Response(body, headers=headers, media_type="text/javascript")

    return router


def _best_encoding(accepted: str) -> str | None:
    taken = {part.split(";")[0].strip() for part in accepted.split(",")}
    return next((name for name in ("br", "gzip") if name in taken), None)


@lru_cache(maxsize=16)
def _compressed(file: PageFile, encoding: str) -> bytes:
    """Once a file: its first visitor waits a tenth of a second, and nobody after."""
    if encoding == "br":
        return bytes(brotli.compress(file.body, quality=11))
    return gzip.compress(file.body, 9, mtime=0)


def _join_page(libraries: tuple[PageFile, ...]) -> str:
    """The page's scripts as one module: its default export draws the page into an element."""
    paths = json.dumps({file.name: file.path for file in libraries})
    parts = "\n".join((PAGE / name).read_text("utf-8") for name in _SCRIPTS)
    parts = _COMMENT_LINE.sub("", parts)  # a sixth of what would travel
    return f"const FILES = {paths};\nexport default function (element, props) {{\n{parts}\n}}\n"


def _join_highlight(folder: Path) -> str:
    """highlight.js as one module: its core, then its languages, which ask for a name `hljs`."""
    core = (folder / "core.min.js").read_text("utf-8")
    export = _CORE_EXPORT.search(core)
    if export is None:
        raise ValueError(f"{folder / 'core.min.js'} ends in no default export: vendor it anew.")
    languages = [
        path.read_text("utf-8") for path in sorted((folder / "languages").glob("*.min.js"))
    ]
    return "\n".join(
        [core[: export.start()], f"const hljs={export[1]};", *languages, "export default hljs;\n"]
    )
