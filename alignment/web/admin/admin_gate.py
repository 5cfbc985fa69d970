"""What stands before /admin: one ASGI middleware in front of everything under that path.

Gradio's own `auth_dependency` leaves /cancel, /heartbeat and /stream open, so the whole path is
shut here, before any route is looked up. Asks the door who comes, and knows nothing of what is
behind it.
"""

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from alignment.web.admin.admin_doors import ADMIN_PATH, AdminDoor, admin_page, admin_path


class AdminGate:
    """Lets a request or socket under /admin through only where the door knows its admin."""

    def __init__(self, app: ASGIApp, *, door: AdminDoor) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or admin_path(scope) is None:
            await self._app(scope, receive, send)
        elif self._door.admin(HTTPConnection(scope).headers.get("cookie")):
            # Gradio's mount answers below the path only, and people type it without the slash.
            bare = scope["type"] == "http" and scope["path"] == ADMIN_PATH
            answer = RedirectResponse(admin_page(scope), status_code=307) if bare else self._app
            await answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            answer = await self._door.answer_stranger(scope)
            await answer(scope, receive, send)
