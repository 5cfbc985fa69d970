"""What every handler of the admin page does first and last: ask the door, write it down.

Every public method of a `Guarded` class is either one that `looks` or one that `acts`; a class
with another kind is refused when it is made, so that no handler is open and no action unwritten.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from hashlib import sha256
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, TypeVar

import gradio as gr

from alignment.audit import Action, Actor
from alignment.web.admin.admin_doors import AdminDoor
from annotation.faults import Fault

POLL_S = 2.0
QUIET: dict[str, Any] = {"show_progress": "hidden"}
"""For what runs by itself: nothing on the page may flicker every two seconds."""
_action: ContextVar[Action] = ContextVar("action")
_KIND = "__votetune_action__"
_LOOKS = ""
T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
GuardedT = TypeVar("GuardedT", bound="Guarded")
Handler = Callable[Concatenate[GuardedT, P], R]


class Guarded:
    """Handlers behind the door. Each is marked `@looks` or `@acts(…)`."""

    def __init__(self, door: AdminDoor) -> None:
        self._door = door

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, member in vars(cls).items():
            is_handler = isinstance(member, FunctionType) and not name.startswith("_")
            if is_handler and not hasattr(member, _KIND):
                raise TypeError(f"{cls.__name__}.{name} is neither @looks nor @acts.")

    def _require_admin(self, request: gr.Request) -> Actor:
        # The gate has asked already; asked again so that no new mount can leave a handler open.
        admin = self._door.admin(request.headers.get("cookie"))
        if admin is None:
            raise gr.Error("Only an admin may do this: open /admin anew.", print_exception=False)
        return admin

    @property
    def _doing(self) -> Action:
        """The action under way, to say what it touches."""
        return _action.get()

    @contextmanager
    def _written(self, admin: Actor, what: str) -> Iterator[None]:
        """Leave lines in the audit log around an action; a Fault becomes what the page shows."""
        try:
            with self._door.audit.action(admin, what, refusals=(Fault, gr.Error)) as action:
                token = _action.set(action)
                try:
                    yield
                finally:
                    _action.reset(token)
        except Fault as fault:
            raise gr.Error(str(fault), print_exception=False) from None


def looks(handler: Handler[GuardedT, P, R]) -> Handler[GuardedT, P, R]:
    """A handler that changes nothing: it asks the door first."""
    asks = inspect.signature(handler)

    @wraps(handler)
    def guarded(self: GuardedT, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._require_admin(asks.bind(self, *args, **kwargs).arguments["request"])
        return handler(self, *args, **kwargs)

    setattr(guarded, _KIND, _LOOKS)
    return guarded


def acts(what: str) -> Callable[[Handler[GuardedT, P, R]], Handler[GuardedT, P, R]]:
    """A handler that does `what`: it asks the door first and is written down."""

    def guard(handler: Handler[GuardedT, P, R]) -> Handler[GuardedT, P, R]:
        asks = inspect.signature(handler)

        @wraps(handler)
        def guarded(self: GuardedT, /, *args: P.args, **kwargs: P.kwargs) -> R:
            admin = self._require_admin(asks.bind(self, *args, **kwargs).arguments["request"])
            with self._written(admin, what):
                return handler(self, *args, **kwargs)

        setattr(guarded, _KIND, what)
        return guarded

    return guard


def action_of(handler: Callable[..., object]) -> str | None:
    """What a handler writes down, "" where it only looks, None where it is no admin's."""
    return getattr(handler, _KIND, None)


def shown(action: Callable[[], T]) -> T:
    """Run `action`; a Fault becomes the one line that the page shows."""
    try:
        return action()
    except Fault as fault:
        raise gr.Error(str(fault), print_exception=False) from None


def changed(parts: dict[str, str], seen: dict[str, str]) -> list[Any]:
    """Each part's new text, or a skip where the page shows it already, so that folds stay open.

    `seen` are the `digests` of what it shows.
    """
    new = digests(parts)
    return [gr.skip() if seen.get(name) == new[name] else parts[name] for name in parts]


def digests(parts: dict[str, str]) -> dict[str, str]:
    """What a page remembers of its parts: pictures of a long run are too much to keep for each."""
    return {name: sha256(text.encode()).hexdigest() for name, text in parts.items()}
