"""What a job made comes home: weights, figures and samples of one commit into the run's folder.

Owns that nothing is taken unchecked: the weights pass the same checks as any that are pulled, the
figures must parse. A fetch that fails leaves the run's folder as it was.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download

from alignment.base import ResolvedBase
from alignment.hub.pull import RECORD, Pulled, PullError, pull_tuned
from alignment.hub.tuned import CARD, CONFIG, LINEAGE, tuning_of
from alignment.places.jobs_report import is_sound
from alignment.runs.run_store import FinalMetrics, RunError, RunFolder
from alignment.settings import STARTER
from annotation.hub.client import call_again, look_up

DEADLINE_S = 900.0
"""How long a Hub in trouble is asked again for weights that cost money."""
MAX_FILE_BYTES = 64 * 1024**2
_NOT_WEIGHTS = frozenset({RECORD, CARD, LINEAGE})


@dataclass(frozen=True, slots=True)
class Results:
    """What came home, from which commit; `step` steps were trained."""

    commit: str
    step: int
    final: FinalMetrics


def fetch_results(folder: RunFolder, repo: str, commit: str | None, *, token: str) -> Results:
    """Fetch what the job committed to `repo`, at `commit` or else at its head.

    Raises RunError for weights that can't be had or don't fit the run's base and for a commit
    without figures, HubError where the Hub refuses.
    """
    scratch = folder.path / ".incoming"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        pulled = _pull(folder, scratch, repo, commit, token)
        told = _fetch_told(scratch / "told", pulled, token)
        results = _read(told, pulled)
        _keep_rows(folder, told)
        _adopt(folder, pulled)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return results


def _pull(folder: RunFolder, scratch: Path, repo: str, commit: str | None, token: str) -> Pulled:
    spec = folder.spec()
    base = ResolvedBase(spec.base, spec.base_path, spec.base.base == STARTER, None)
    try:
        return _patiently(lambda: pull_tuned(scratch, base, repo, commit, token=token))
    except PullError as error:
        reason = str(error).rpartition(": ")[0] or str(error)
        raise RunError(f"The job's weights are not taken: {reason}: start a new run.") from None


def _patiently(pull: Callable[[], Pulled]) -> Pulled:
    """`pull`, tried again for DEADLINE_S while the Hub can't be reached."""
    deadline, wait_s = time.monotonic() + DEADLINE_S, 2.0
    while True:
        try:
            return pull()
        except PullError as error:
            if not error.unreachable or time.monotonic() + wait_s > deadline:
                raise
        time.sleep(wait_s)
        wait_s = min(60.0, 2 * wait_s)


def _fetch_told(target: Path, pulled: Pulled, token: str) -> RunFolder:
    """run/ of the commit: what the run's folder on the job's machine said."""
    remote = call_again(lambda: look_up(pulled.repo, pulled.commit, token=token))
    for file in remote.files:
        if file.name.startswith("run/") and (file.size or 0) <= MAX_FILE_BYTES:
            call_again(
                lambda name=file.name: hf_hub_download(  # type: ignore[misc]
                    pulled.repo, name, revision=pulled.commit, local_dir=target, token=token
                )
            )
    return RunFolder(target / "run")


def _read(told: RunFolder, pulled: Pulled) -> Results:
    try:
        status = told.status()
    except (OSError, ValueError, KeyError, TypeError):
        status = None
    if status is None or status.final is None:
        raise RunError(
            f"The job left no figures at {pulled.repo}@{pulled.commit[:12]}: start a new run."
        )
    return Results(pulled.commit, status.step, status.final)


def _keep_rows(folder: RunFolder, told: RunFolder) -> None:
    """The whole metrics and samples in place of what the log told, which may have gaps."""
    metrics = [metric for metric in told.metrics() if is_sound(metric)]
    if len(metrics) >= len(folder.metrics()):
        folder.write_metrics(metrics)
    samples = told.samples()
    if samples and len(samples) >= len(folder.samples()):
        folder.write_samples(samples)


def _adopt(folder: RunFolder, pulled: Pulled) -> None:
    """The weights at their place, and nothing else of the commit with them."""
    for path in pulled.path.iterdir():
        if path.name in _NOT_WEIGHTS:
            path.unlink()
    config, base = pulled.path / CONFIG, folder.spec().base
    if config.is_file():
        # The job knew a folder of this machine by its last name only.
        row = json.loads(config.read_text())
        config.write_text(json.dumps(row | {"base_model_name_or_path": base.base}, indent=2))
    target = folder.adapter if tuning_of(pulled.path) == "lora" else folder.model
    shutil.rmtree(target, ignore_errors=True)
    pulled.path.rename(target)
