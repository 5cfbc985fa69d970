"""Files that are there whole or not at all: written beside their place, then renamed to it.

Owns the name of the draft, and that none stays where the writing failed. A reader meanwhile finds
what was there before.
"""

import os
from pathlib import Path


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
