"""The one way in which this app sets a cookie, so that every one is as strict as its place allows.

Knows no voter, session or token. On a Space the Hub shows the app in a frame of another site: a
cookie is sent there only when it is Secure, SameSite=None and, for browsers that part third-party
storage by site, Partitioned (CHIPS). Everywhere else it is SameSite=Lax.
"""

from starlette.requests import HTTPConnection
from starlette.responses import Response


def set_cookie(
    response: Response,
    name: str,
    value: str,
    *,
    max_age_s: int,
    framed: bool,
    secure: bool,
    path: str = "/",
) -> None:
    """Set an HttpOnly cookie. `framed`: the app is shown inside the Hub's pages."""
    response.set_cookie(
        name,
        value,
        max_age=max_age_s,
        path=path,
        secure=secure or framed,
        httponly=True,
        samesite="none" if framed else "lax",
    )
    if framed:
        # Starlette writes the attribute on Python 3.14 and later only.
        key, header = response.raw_headers.pop()
        response.raw_headers.append((key, header + b"; Partitioned"))


def clear_cookie(
    response: Response, name: str, *, framed: bool, secure: bool, path: str = "/"
) -> None:
    """Let the browser forget the cookie `name` that `set_cookie` set with the same arguments."""
    set_cookie(response, name, "", max_age_s=0, framed=framed, secure=secure, path=path)


def came_over_https(request: HTTPConnection) -> bool:
    """Whether the browser spoke https, to us or to the proxy before us."""
    # Forging this header only makes the forger's own cookie stricter.
    forwarded = request.headers.get("x-forwarded-proto", "").split(",")[0].strip().lower()
    return request.url.scheme in ("https", "wss") or forwarded == "https"
