"""The page of a Space that can't start yet: what is missing, what each does, how to set it.

Served in place of the app, on its port, until a setting changes: the Hub then restarts the Space.
Shows names and reasons, and no value of any secret, which it is never given.
"""

import html
from collections.abc import Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from annotation.settings import SpaceEnvironment
from annotation.space_needs import Need
from annotation.web.page_headers import PageHeaders

DEFAULT_PORT = 7860
_STYLE = """
:root { color-scheme: light dark; --soft: #6b7280; --line: #d1d5db; }
@media (prefers-color-scheme: dark) { :root { --soft: #9ca3af; --line: #374151; } }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
dt { font-weight: 600; margin-top: 1rem; } dd { margin: 0; }
.soft { color: var(--soft); } .said { border-left: 3px solid var(--line); padding-left: 1rem; }
"""


def build_setup_app(space: SpaceEnvironment, needs: Sequence[Need], said: str | None) -> Starlette:
    """Every address answers: pages with this page, /api with 503 and one line."""
    page = setup_html(space, needs, said)
    line = said or f"This Space needs {', '.join(n.name for n in needs if n.required)} to start."

    def api(request: Request) -> Response:
        return JSONResponse({"detail": line}, 503)

    def show(request: Request) -> Response:
        return HTMLResponse(page)

    app = Starlette(routes=[Route("/api/{path:path}", api), Route("/{path:path}", show)])
    app.add_middleware(PageHeaders, on_space=True)
    return app


def serve_setup_page(space: SpaceEnvironment, needs: Sequence[Need], said: str | None) -> None:
    """Serve it until the Space is restarted. `said` is why the start was refused, if it was."""
    port = space.gradio_server_port or ""
    uvicorn.run(
        build_setup_app(space, needs, said),
        host="0.0.0.0",  # noqa: S104 - a Space's proxy reaches it from outside the container
        port=int(port) if port.isdigit() else DEFAULT_PORT,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )


def setup_html(space: SpaceEnvironment, needs: Sequence[Need], said: str | None) -> str:
    """The page. `said` comes first, then what must be set, then what should be."""
    where = f"https://huggingface.co/spaces/{space.space_id}/settings" if space.space_id else ""
    link = f'<a href="{html.escape(where)}" target="_blank">its settings</a>' if where else "those"
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Votetune: set up</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style><main><h1>This Space is not set up yet</h1>",
        f'<p class="said">{html.escape(said)}</p>' if said else "",
        f"<p>Its owner sets secrets and variables in {link}, under “Variables and secrets”. The "
        "Space restarts by itself and goes on from there. Nobody’s votes are touched.</p>",
        _section("Needed to start", [n for n in needs if n.required]),
        _section("Worth a look", [n for n in needs if not n.required]),
        "</main></html>",
    ]
    return "".join(parts)


def _section(title: str, needs: Sequence[Need]) -> str:
    if not needs:
        return ""
    rows = "".join(
        f'<dt><code>{need.name}</code> <span class="soft">{need.kind}</span></dt>'
        f"<dd>{html.escape(need.why)}<br><span class='soft'>{html.escape(need.how)}</span></dd>"
        for need in needs
    )
    return f"<h2>{title}</h2><dl>{rows}</dl>"
