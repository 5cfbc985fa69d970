"""Trackio beside a run's own metrics: what a trainer is told, and where the figures go.

Always offline, into the folder `trackio` of the home: a training child has no token. The app
sends them on to a Space (alignment.runs.tracking).
"""

import os
from pathlib import Path
from typing import Any

from alignment.runs.tracking import TRACKIO_FOLDER

# Trackio would report over the network with any of these.
_ELSEWHERE = (
    "TRACKIO_SPACE_ID",
    "TRACKIO_SERVER_URL",
    "TRACKIO_WRITE_TOKEN",
    "TRACKIO_WEBHOOK_URL",
    "TRACKIO_BUCKET_ID",
    "TRACKIO_DATASET_ID",
)


def tracking_arguments(run: Path) -> dict[str, Any]:
    """Arguments of a trainer that report to Trackio when TRACKIO_PROJECT is set, else nothing.

    `run` is the run's folder; its name is the run's in Trackio, so that a resumed run goes on in
    one line. Sets this process's environment, which Trackio reads when it is imported.
    """
    project = os.environ.get("TRACKIO_PROJECT")
    if not project:
        return {"report_to": "none"}
    for name in _ELSEWHERE:
        os.environ.pop(name, None)
    os.environ["TRACKIO_DIR"] = str(run.parent.parent / TRACKIO_FOLDER)
    return {
        "report_to": "trackio",
        "project": project,
        "run_name": run.name,
        "trackio_space_id": None,
        "trackio_static_space_id": False,
    }
