"""`python app.py pull REPO[@REV]`: its size first, then the download with its progress."""

import sys

from alignment.commands.progress import POLL_S, download_bars
from alignment.pulls import Pulls, PullsError, PullState, PullStatus

CANCEL_S = 3.0


def pull_here(pulls: Pulls, name: str) -> PullStatus:
    """Pull `name` and show how far it is; an interrupt cancels it, and nothing is kept.

    Raises RegistryError or PullsError where it can't be had.
    """
    size = pulls.size_up(name)
    print(size.line, file=sys.stderr)  # noqa: T201
    pulls.start(name)
    try:
        with download_bars() as bars:
            bar = bars.add_task(size.name, total=size.bytes)
            while (status := pulls.wait(POLL_S)) and status.state is PullState.PULLING:
                bars.update(bar, completed=status.done_bytes)
            if status and status.state is PullState.DONE:
                bars.update(bar, completed=size.bytes)
    except KeyboardInterrupt:
        pulls.cancel()
        # A network that stalls lets go late; the next pull sweeps up what then is left.
        pulls.wait(CANCEL_S)
        raise
    if status is None or status.state is not PullState.DONE:
        raise PullsError(status.line if status else f"{size.name} was not pulled.")
    return status
