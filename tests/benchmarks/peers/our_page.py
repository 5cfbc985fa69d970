"""Votetune's vote page alone: its routes, its journal and its Gradio page, no model and no Argilla.

A program: `python -m tests.benchmarks.peers.our_page FOLDER PORT`, over FOLDER/journal.sqlite3,
served as the app serves itself.
"""

import sys
from pathlib import Path

import uvicorn

from alignment.web.serve import KEEP_ALIVE_S
from tests.browser.vote_site import Site


def main(folder: str, port: str) -> None:
    """Serve until ended."""
    site = Site(Path(folder))
    uvicorn.run(
        site.build_app(),
        port=int(port),
        log_level="warning",
        access_log=False,
        loop="uvloop",
        http="httptools",
        timeout_keep_alive=KEEP_ALIVE_S,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
