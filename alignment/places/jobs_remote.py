"""The job's side: fetch dataset and base, train as any run here does, tell it, hand the weights in.

Started by jobs_bootstrap on a machine of the Hub. Its own run folder is told line by line through
the log (jobs_report); in the end weights and folder go to the run's private model repository as one
commit. The training child has neither token nor network, and one GPU of however many there are.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from pydantic import SecretStr

from alignment.base import ResolvedBase, resolve_base
from alignment.hub.tuned import LINEAGE
from alignment.places.here import Here
from alignment.places.jobs_bundle import BASE, SPEC
from alignment.places.jobs_report import FolderReporter, to_line
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import ACTIVE, RunError, RunFolder, RunState, Status
from alignment.settings import AlignmentSettings
from annotation.export.export import load_export
from annotation.faults import Fault
from annotation.hub.client import HubError, call_again
from annotation.hub.commits import commit_files
from annotation.schema import utc_now

POLL_S = 0.5
DATASET_FILES = ("train.jsonl", "dataset.json", "README.md")


@dataclass(frozen=True, slots=True)
class Errand:
    """What this job was started for: the run, its dataset at a commit, where its weights go."""

    run: str
    dataset: str
    commit: str
    weights: str
    token: str


def main() -> int:
    """Carry the errand out; the exit status is 0 when the weights are on the Hub."""
    environ = os.environ
    errand = Errand(
        environ["VOTETUNE_RUN"],
        environ["VOTETUNE_DATASET"],
        environ["VOTETUNE_COMMIT"],
        environ["VOTETUNE_WEIGHTS"],
        environ["HF_TOKEN"],
    )
    home = Path("home").absolute()
    try:
        folder = prepare(errand, home)
        _train(folder, errand.token)
        if folder.status().state is not RunState.DONE:
            return 1
        _say(to_line("result", {"commit": hand_in(errand, folder)}))
    except (Fault, HubError) as error:
        row = {"state": RunState.FAILED, "step": 0, "reason": f"{error}"}
        _say(to_line("state", row).replace(errand.token, "…"))
        return 1
    return 0


def prepare(errand: Errand, home: Path) -> RunFolder:
    """The run's folder on this machine, queued, its dataset and base beside it.

    Raises RunError where the dataset is not the spec's, BaseModelError and HubError otherwise.
    """
    folder = RunFolder(home / "runs" / errand.run)
    folder.dataset.mkdir(parents=True)
    folder.checkpoints.mkdir()
    for name in (*DATASET_FILES, SPEC):
        path = _fetch(errand, name)
        target = folder.spec_file if name == SPEC else folder.dataset / name
        target.write_bytes(path.read_bytes())
    spec = folder.spec()
    if load_export(folder.dataset).sha256 != spec.dataset_sha256:
        raise RunError(f"The dataset at {errand.commit[:12]} is not the one that the run names.")
    _say(f"Base {spec.base.label}: fetching.")
    base = _resolve(errand, spec, home)
    folder.write_spec(replace(spec, base_path=base.path))
    folder.write_status(Status(RunState.QUEUED, created_at=utc_now(), updated_at=utc_now()))
    return folder


def hand_in(errand: Errand, folder: RunFolder) -> str:
    """Commit the weights and what the run told to the run's model repository; the commit."""
    spec = folder.spec()
    lineage = {
        "run": errand.run,
        "base": spec.base.base,
        "base_revision": spec.base.base_revision,
        "dataset": f"{errand.dataset}@{errand.commit}",
    }
    files: dict[str, bytes | Path] = {
        path.name: path for path in sorted(folder.weights.iterdir()) if path.is_file()
    }
    files[LINEAGE] = json.dumps(lineage, indent=2).encode()
    for file in (folder.state_file, folder.metrics_file, folder.samples_file):
        if file.is_file():
            files[f"run/{file.name}"] = file
    title = f"Add what run {errand.run} made"
    return commit_files(errand.weights, files, kind="model", message=title, token=errand.token)


def _fetch(errand: Errand, name: str) -> Path:
    return call_again(
        lambda: Path(
            hf_hub_download(
                errand.dataset,
                name,
                repo_type="dataset",
                revision=errand.commit,
                token=errand.token,
            )
        )
    )


def _resolve(errand: Errand, spec: TrainingSpec, home: Path) -> ResolvedBase:
    """The base at the spec's revision: sent along under base/, or from the Hub by its name."""
    named = spec.base.base
    if spec.base_path == Path(BASE):
        sent = call_again(
            lambda: snapshot_download(
                errand.dataset,
                repo_type="dataset",
                revision=errand.commit,
                allow_patterns=[f"{BASE}/*"],
                token=errand.token,
            )
        )
        named = str(Path(sent) / BASE)
    settings = AlignmentSettings(
        base_model=named,
        base_revision=spec.base.base_revision,
        hf_token=SecretStr(errand.token),
    )
    return resolve_base(settings, home, has_votes=False)


def _train(folder: RunFolder, token: str) -> None:
    """Train `folder` in a child and tell what it tells, until it has ended."""
    here = Here()
    # Of several GPUs transformers would make one slow DataParallel.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    with folder.locked():
        handle = here.spawn(folder)
        moved = folder.move(RunState.PREPARING)
        folder.write_status(replace(moved, pid=handle.pid, process_started=handle.process_started))
    reporter = FolderReporter(folder, hide=token)
    while folder.status().state in ACTIVE:
        alive = here.is_alive(folder, folder.status())
        _say(*reporter.news())
        if not alive and folder.status().state in ACTIVE:
            with folder.locked():
                folder.move(
                    RunState.FAILED,
                    reason="The training process was killed on the job's machine, most likely "
                    "for want of memory: choose a larger JOBS_FLAVOR.",
                )
        time.sleep(POLL_S)
    _say(*reporter.news())


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
