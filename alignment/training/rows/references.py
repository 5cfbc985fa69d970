"""The reference's log-probs of a run's pairs, kept in the home: no pair is asked for twice.

Owns the files, and what must be the same for a kept figure to be the one that would be computed
again: the base's weights and configuration, the dataset, the tokens, how they are batched, and the
precision. Knows no trainer.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunFolder
from annotation.whole_files import write_whole

FOLDER = ".references"
KEPT = 20
"""Files that a home keeps, the newest; one takes about 60 bytes a pair."""
CONFIGS = ("config.json", "adapter_config.json")
"""What says how weights are used: their shape, their rotary base, an adapter's scale."""
_FORMAT = 1
_log = logging.getLogger(__name__)
Logps = tuple[float, float]
"""Of a chosen answer and of a rejected one, as fp32 has them."""


@dataclass(frozen=True, slots=True)
class KeptReferences:
    """The file of one dataset against one reference. Any number of its rows can be asked for."""

    file: Path

    def find(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> list[Logps] | None:
        """The log-probs of `rows`, tokenized pairs, in their order; None where one is not kept."""
        kept = self._read()
        found = [kept.get(_name(row)) for row in rows]
        return None if None in found else [logps for logps in found if logps is not None]

    def keep(self, rows: Sequence[Mapping[str, Sequence[int]]], logps: Sequence[Logps]) -> None:
        """Add those of `rows`, and let the oldest of a home's files go.

        A full disk keeps none of them and fails no run: they are computed again.
        """
        named = dict(zip(map(_name, rows), logps, strict=True))
        try:
            self._add(named)
        except OSError as error:
            _log.warning("the reference's log-probs are not kept (%s)", error.strerror)

    def _add(self, named: dict[str, Logps]) -> None:
        kept = self._read() | named
        self.file.parent.mkdir(exist_ok=True)
        write_whole(self.file, json.dumps(kept))
        files = sorted(self.file.parent.glob("*.json"), key=lambda f: f.stat().st_mtime_ns)
        for old in files[:-KEPT]:
            old.unlink(missing_ok=True)

    def _read(self) -> dict[str, Logps]:
        try:
            rows = json.loads(self.file.read_text(encoding="utf-8"))
            return {name: (float(chosen), float(bad)) for name, (chosen, bad) in rows.items()}
        # A torn or foreign file is no reason to fail a run: what it held is computed again.
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def kept_references(folder: RunFolder, spec: TrainingSpec, how: str) -> KeptReferences:
    """Where those of `spec` are kept, beside the home's runs.

    `how` says what of the way of computing is not in the spec: precision, and whose forward.
    """
    facts = [
        _FORMAT,
        how,
        spec.dataset_sha256,
        _digest(spec.base_path),
        _digest(folder.start) if spec.start and spec.start.reference == "start" else None,
        spec.recipe.ld_alpha,
        spec.recipe.max_length,
        spec.recipe.micro_batch,
        spec.recipe.batch_size,
        list(spec.versions),
    ]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return KeptReferences(folder.path.parent / FOLDER / f"{name}.json")


def _digest(folder: Path) -> str:
    """Of all weights in `folder` and how they are used, so that no name has to be believed."""
    digest = hashlib.sha256()
    used = (folder / name for name in CONFIGS)
    for file in [*sorted(folder.glob("*.safetensors")), *filter(Path.is_file, used)]:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _name(row: Mapping[str, Sequence[int]]) -> str:
    """A tokenized pair's, by its tokens."""
    tokens = [list(row[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")]
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:32]
