"""The pages themselves travel compressed, as Gradio's scripts do and its pages do not.

Compresses what is asked for at a path that ends in a slash, and nothing else: a stream of answers
must reach its reader line by line.
"""

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class CompressedPages:
    """gzip for `GET /` and `GET /admin/`, where the browser takes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressed = GZipMiddleware(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = (
            scope["type"] == "http" and scope["method"] == "GET" and scope["path"].endswith("/")
        )
        await (self._compressed if is_page else self._app)(scope, receive, send)
