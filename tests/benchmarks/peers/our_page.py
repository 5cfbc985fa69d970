"""Votetune's vote page alone: its routes, its journal and its Gradio page, no model and no Argilla.

A program: `python -m tests.benchmarks.peers.our_page FOLDER PORT`, over FOLDER/journal.sqlite3,
served as the app serves itself.
"""

import sys
from pathlib import Path

import uvicorn

from alignment.web.serve import build_config, listen
from annotation.quick_imports import uncollected


def main(folder: str, port: str) -> None:
    """Serve until ended."""
    with uncollected():
        from tests.browser.vote_site import Site

        app = Site(Path(folder)).build_app()
    with listen("127.0.0.1", int(port)) as listener:
        uvicorn.Server(build_config(app)).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
