"""A run's checkpoints on disk: which are whole, which one to go on from, and the best weights.

Owns the marker of a checkpoint that was written to its end, with a digest of each of its files,
so that a damaged one is never trained on. The trainer writes the files themselves.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignment.runs.run_store import COMPLETE, RunFolder
from alignment.training.watch.progress import TrainingError
from annotation.whole_files import write_whole

BEST = "best.safetensors"
"""The weights of the best scored step so far, for a run that is stopped early."""
_RESERVE, _RESERVE_BYTES = ".reserve", 65_536


def seal(checkpoint: Path) -> None:
    """Mark `checkpoint` as written to its end, with a digest of each of its files."""
    write_whole(checkpoint / COMPLETE, json.dumps(_digests(checkpoint), indent=1) + "\n")


def is_whole(checkpoint: Path) -> bool:
    """Whether `checkpoint` was sealed and each of its files is still what it was then."""
    try:
        sealed = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return isinstance(sealed, dict) and bool(sealed) and sealed == _digests(checkpoint)
    except (OSError, ValueError):
        return False


def checkpoint_to_resume(folder: RunFolder) -> Path | None:
    """The newest whole checkpoint; None for a run that never finished one.

    Raises TrainingError when checkpoints were finished and every one is damaged since.
    """
    finished = [path for path in _newest_first(folder) if (path / COMPLETE).exists()]
    for checkpoint in finished:
        if is_whole(checkpoint):
            return checkpoint
        print(f"{checkpoint.name} is damaged and left out")  # noqa: T201
    if finished:
        raise TrainingError(
            f"No checkpoint of this run can be read ({finished[0].name} is damaged): "
            "start a new run."
        )
    return None


def step_of(checkpoint: Path | None) -> int:
    """Optimizer steps behind a checkpoint; 0 without one."""
    return int(checkpoint.name.split("-")[1]) if checkpoint else 0


def tidy(folder: RunFolder, keep: Path | None) -> None:
    """Drop what no run can go on from: checkpoints after `keep`, damaged or half-written ones.

    Puts some space aside too, so that a full disk leaves room to say that it is full.
    """
    for checkpoint in _newest_first(folder):
        if step_of(checkpoint) > step_of(keep) or not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint, ignore_errors=True)
    (folder.checkpoints / BEST).unlink(missing_ok=True)
    if keep is not None and (keep / BEST).exists():
        _link(keep / BEST, folder.checkpoints / BEST)
    (folder.checkpoints / _RESERVE).write_bytes(bytes(_RESERVE_BYTES))


def make_room(folder: RunFolder) -> None:
    """Free what was put aside, and half a checkpoint that a full disk left; whole ones stay."""
    with contextlib.suppress(OSError):
        (folder.checkpoints / _RESERVE).unlink(missing_ok=True)
    for checkpoint in _newest_first(folder):
        if not (checkpoint / COMPLETE).exists():
            shutil.rmtree(checkpoint, ignore_errors=True)


def clear(folder: RunFolder) -> None:
    """Remove all of a finished run's checkpoints."""
    for entry in folder.checkpoints.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def keep_best(model: Any, folder: RunFolder) -> None:
    """Write the weights that are being trained as the best so far, all at once."""
    from safetensors.torch import save_file

    draft = folder.checkpoints / f".{BEST}"
    tensors = {name: p.detach().cpu().contiguous() for name, p in _trained(model).items()}
    save_file(tensors, draft)
    draft.replace(folder.checkpoints / BEST)


def attach_best(checkpoint: Path, folder: RunFolder) -> None:
    """Give `checkpoint` the best weights so far, which a resumed run may have to go back to."""
    best = folder.checkpoints / BEST
    if best.exists():
        _link(best, checkpoint / BEST)


def restore_best(model: Any, folder: RunFolder) -> None:
    """Put the best weights back into `model`."""
    import torch
    from safetensors.torch import load_file

    best = load_file(folder.checkpoints / BEST)
    with torch.no_grad():
        for name, parameter in _trained(model).items():
            parameter.copy_(best[name])


def _trained(model: Any) -> Mapping[str, Any]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _newest_first(folder: RunFolder) -> list[Path]:
    found = folder.checkpoints.glob("checkpoint-*")
    return sorted(found, key=step_of, reverse=True)


def _digests(checkpoint: Path) -> dict[str, str]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return {
        str(path.relative_to(checkpoint)): _digest(path) for path in files if path.name != COMPLETE
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, target: Path) -> None:
    # A link costs nothing; the best weights are replaced later, never written into.
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
