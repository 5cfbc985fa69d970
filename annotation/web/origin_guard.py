"""Only this app's own pages may change anything: one ASGI middleware in front of every route.

Owns the check of a request's origin, Gradio's routes included, and that no answer invites another
site to read it. A request without an origin (a script, a command line) passes: it carries no
browser's cookies that its sender does not hold already. Knows no voter and no admin.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REFUSED = "Another site asked for this: open Votetune itself and do it there.\n"
_SAFE = ("GET", "HEAD", "OPTIONS")
_PORTS = {"http": 80, "https": 443}


class OriginGuard:
    """Refuses what another site's page asks to change, and takes back CORS that invites one.

    Gradio reflects any origin on a *.hf.space host, with credentials (gradio #10276, #13594).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_own(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["method"] not in _SAFE:
            await PlainTextResponse(REFUSED, 403)(scope, receive, send)
        else:
            await self._app(scope, receive, _without_cors(send))


def is_own(headers: Headers) -> bool:
    """Whether a request comes from a page of this host, or from no page at all."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") != "cross-site"
    parts = urlsplit(origin)
    return parts.scheme in _PORTS and _same_host(
        parts.netloc, headers.get("host", ""), parts.scheme
    )


def _same_host(one: str, other: str, scheme: str) -> bool:
    default = f":{_PORTS[scheme]}"
    return one.lower().removesuffix(default) == other.lower().removesuffix(default)


def _without_cors(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [n for n in headers if n.startswith("access-control-")]:
                del headers[name]
        await send(message)

    return sent
