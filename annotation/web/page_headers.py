"""What every answer of the app tells a browser that it may do: one small ASGI middleware.

Owns the content-security policy and its companions. They are a second wall: the page draws a
model's words as text that can do nothing, and if that ever failed, nothing could be fetched from
elsewhere, sent elsewhere or framed by a stranger.
"""

from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = {
    "default-src": "'self'",
    # Gradio's pages start from an inline script and build functions from strings.
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "media-src": "'none'",
    "connect-src": "'self'",
    "worker-src": "'self' blob:",
    "frame-src": "'none'",
    "object-src": "'none'",
    "base-uri": "'self'",  # Gradio names its own root
    "form-action": "'self'",
}
SPACE_FRAMERS = ("https://huggingface.co", "https://*.hf.space")
"""Who shows a Space in a frame: the Hub's own pages."""
_UNUSED = ("camera", "display-capture", "geolocation", "microphone", "payment", "serial", "usb")


def content_security_policy(framers: Iterable[str] = ()) -> str:
    """The policy, with `framers` beside our own origin allowed to show the app in a frame."""
    frames = " ".join(["'self'", *framers])
    rules = {**_POLICY, "frame-ancestors": frames}
    return "; ".join(f"{name} {value}" for name, value in rules.items())


class PageHeaders:
    """Adds the headers to every HTTP answer, whoever gives it; one already set stays.

    On a Space the Hub's pages may frame the app, elsewhere only the app itself.
    """

    def __init__(self, app: ASGIApp, *, on_space: bool) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": content_security_policy(SPACE_FRAMERS if on_space else ()),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Permissions-Policy": ", ".join(f"{name}=()" for name in _UNUSED),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
