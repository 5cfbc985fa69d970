"""A finished run's adapter merged into its base, for who wants one whole model.

Owns `home`/runs/<id>/merged and when it has to be made anew. A child process does the work: whoever
serves the page loads no weights.
"""

import json
from pathlib import Path

from alignment.hub.model_files import ModelFilesError, check_model_folder, sha256_of
from alignment.hub.tuned import tuned_weight_files
from alignment.places.child import StepError, run_step
from alignment.runs.run_store import RunFolder
from annotation.faults import Fault
from annotation.home import write_private

RECORD = "merged.json"


class MergeError(Fault):
    """An adapter that can't be merged; the message is the one line that a person reads."""


def ensure_merged(folder: RunFolder, base_path: Path) -> Path:
    """The folder of the whole model that the done run in `folder` gives with the base in
    `base_path`; made unless it is there. Takes room for the base once more. Raises MergeError.
    """
    name = folder.path.name
    if folder.model.is_dir():
        raise MergeError(
            f"Run {name} was tuned in full and left a whole model: publish it without --merged."
        )
    adapter_sha256 = sha256_of(*tuned_weight_files(folder.adapter))
    if _is_made(folder, adapter_sha256):
        return folder.merged
    try:
        run_step("alignment.training.weights.merging", base_path, folder.adapter, folder.merged)
    except StepError as error:
        raise MergeError(
            f"The adapter of run {name} can't be merged into its base: {error}"
        ) from None
    write_private(folder.path / RECORD, json.dumps({"adapter_sha256": adapter_sha256}) + "\n")
    return folder.merged


def _is_made(folder: RunFolder, adapter_sha256: str) -> bool:
    try:
        check_model_folder(folder.merged)
        row = json.loads((folder.path / RECORD).read_text())
        return bool(row["adapter_sha256"] == adapter_sha256)
    except (ModelFilesError, OSError, ValueError, KeyError, TypeError):
        return False
