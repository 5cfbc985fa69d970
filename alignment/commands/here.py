"""What commands share: the home that they work on, and the line each leaves in its audit log."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from alignment.audit import COMMAND_LINE, Action, AuditLog
from annotation.home import Home
from annotation.settings import AnnotationSettings, load_settings

RunId = Annotated[str, typer.Argument(help="A run's id, as `runs` lists it.")]


def this_home() -> Home:
    """The home that the environment names; nothing is made."""
    return Home(load_settings(AnnotationSettings).votetune_home)


@contextmanager
def logged(what: str, *on: str) -> Iterator[Action]:
    """Leave a line in the home's audit log. A home that is not there has nothing done to it."""
    home = this_home()
    if not home.root.is_dir():
        yield Action()
        return
    with AuditLog(home).action(COMMAND_LINE, what, *on) as action:
        yield action
