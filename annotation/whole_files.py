"""Files that are there whole or not at all: written beside their place, then renamed to it.

Owns the names of drafts, that none stays where the writing failed, and how to tell those whose
process was killed. A reader meanwhile finds what was there before.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil


def write_whole(file: Path, text: str) -> None:
    """Make `text` all that is in `file`. Raises OSError, and `file` is then as it was.

    For one writer a process at a time. What must outlive a power cut or hide from other accounts
    is the business of `annotation.home.write_private`.
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    finally:
        # Renamed, it is there no more.
        draft.unlink(missing_ok=True)


def draft_folder(parent: Path, kind: str) -> Path:
    """A path in `parent` for this process's next draft of `kind`; nothing lies there."""
    return parent / f".{kind}-{os.getpid()}-{uuid.uuid4().hex}"


def abandoned_drafts(parent: Path, kind: str) -> Iterator[Path]:
    """Drafts of `kind` in `parent` whose process is gone from this machine, killed on the way."""
    for draft in sorted(parent.glob(f".{kind}-*-*")):
        pid = draft.name.split("-")[1]
        if not (pid.isdigit() and psutil.pid_exists(int(pid))):
            yield draft
