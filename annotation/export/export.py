"""Votes become a preference dataset: who preferred what, sorted, hashed, the same every time.

Owns the files of an export; what is a preference is the business of `preferences`. Keeps no time
and no voter's name: the same votes give the same bytes, in whatever order and on whatever day they
were cast.
"""

import errno
import filecmp
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from annotation.export.card import ExportCounts, export_card
from annotation.export.lines import from_line, to_line
from annotation.export.preferences import (
    Contents,
    Examples,
    ExportError,
    vote_line,
    voted_pairs,
    write_lines,
)
from annotation.journal.journal import JournalReader
from annotation.quality.votes_measured import Figure, VotesMeasured
from annotation.schema import Choice, PairKind, PreferenceExample, Vote
from annotation.whole_files import abandoned_drafts, draft_folder

SCHEMA_VERSION = 1
_KIND = "votetune preferences"
_ASIDE = "earlier"
EXPORT_FILES = ("train.jsonl", "dataset.json", "README.md")

__all__ = [
    "EXPORT_FILES",
    "Export",
    "ExportCounts",
    "ExportError",
    "PreparedExport",
    "copy_export",
    "count_export",
    "export_preferences",
    "export_to_home",
    "live_votes",
    "load_examples",
    "load_export",
    "prepare_export",
    "sha256_of_votes",
    "votes_behind",
    "write_about",
]


@dataclass(frozen=True, slots=True)
class PreparedExport:
    """A dataset that is looked at and not written: all its examples, and its sha256."""

    examples: tuple[PreferenceExample, ...]
    counts: ExportCounts
    sha256: str


@dataclass(frozen=True, slots=True)
class Export:
    """A dataset on disk. `sha256` is that of train.jsonl, `examples` the number of its lines.

    `votes_sha256` is that of the votes it was made from (see `sha256_of_votes`), `measured` what
    they say of themselves; both None in an export from before they were kept.
    """

    directory: Path
    sha256: str
    examples: int
    counts: ExportCounts
    votes_sha256: str | None = None
    measured: VotesMeasured | None = None


def prepare_export(journal: JournalReader) -> PreparedExport:
    """Resolve every live vote of the journal into examples and count what became of them."""
    examples, digest = Examples(), hashlib.sha256()
    found: list[PreferenceExample] = []
    for pair, votes in voted_pairs(journal):
        example = examples.take(pair, votes)
        if example is not None:
            found.append(example)
            digest.update(to_line(example))
    return PreparedExport(tuple(found), examples.counts(), digest.hexdigest())


def count_export(journal: JournalReader) -> ExportCounts:
    """The counts of the export that would be written now."""
    examples = Examples()
    for pair, votes in voted_pairs(journal):
        examples.take(pair, votes)
    return examples.counts()


def live_votes(journal: JournalReader) -> list[Vote]:
    """The votes that an export rests on: they count and are no skip; oldest first.

    Votes that compared models are none of them: they judge, and teach nothing.
    """
    compared = {vote.id for vote in journal.votes_on(PairKind.COMPARE)}
    return [
        v
        for v in journal.votes()
        if v.counts and v.choice is not Choice.SKIP and v.id not in compared
    ]


def sha256_of_votes(votes: Iterable[Vote]) -> str:
    """The sha256 over a line of id, pair and choice (in the record's order) a vote, sorted."""
    lines = sorted(map(vote_line, votes))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def votes_behind(journal: JournalReader, export: Export) -> list[Vote] | None:
    """The votes that `export` was made from, or None where the journal has them no more as they
    were: undone, deleted or set aside since, or cast elsewhere before the last of them.
    """
    exported = {vote.id for _, votes in voted_pairs(journal) for vote in votes}
    votes = [vote for vote in live_votes(journal) if vote.id in exported]
    votes = votes[: export.counts.votes]
    return votes if sha256_of_votes(votes) == export.votes_sha256 else None


def export_preferences(journal: JournalReader, directory: Path) -> Export:
    """Write the journal's preferences to `directory`, or leave everything as it was.

    An earlier export there is replaced; a folder that holds anything else is refused.
    """
    directory = directory.absolute()
    _refuse_foreign(directory)
    return _write(journal, directory.parent, lambda _: directory)


def export_to_home(journal: JournalReader, home: Path) -> Export:
    """Write the journal's preferences to `home`/exports/<first 12 hex of the sha256>."""
    exports = home.absolute() / "exports"
    return _write(journal, exports, lambda sha256: exports / sha256[:12])


def write_about(contents: Contents, directory: Path) -> None:
    """Write dataset.json and README.md beside the train.jsonl in `directory`."""
    (directory / "dataset.json").write_text(_manifest(contents), encoding="utf-8")
    card = export_card(
        contents.counts,
        contents.sha256,
        contents.licences,
        measured=contents.measured,
        votes_sha256=contents.votes_sha256,
        chosen_by=contents.chosen_by,
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def _write(journal: JournalReader, parent: Path, named: Callable[[str], Path]) -> Export:
    """Write the files beside where they belong, then rename them to what `named` makes of their
    sha256.
    """
    directory = parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        with _scratch(parent) as scratch:
            fresh, votes = scratch / "new", scratch / "votes"
            fresh.mkdir()
            votes.mkdir()
            contents = write_lines(journal, fresh / "train.jsonl", votes)
            write_about(contents, fresh)
            directory = named(contents.sha256)
            _refuse_foreign(directory)
            _put(fresh, directory, aside=scratch / _ASIDE)
    except OSError as error:
        raise ExportError(
            f"The export can't be written to {directory} ({error.strerror}): choose another folder."
        ) from error
    return _to_export(contents, directory)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    scratch = draft_folder(parent, "export")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """What a killed export put aside takes its place again; the rest of it goes."""
    for draft in abandoned_drafts(parent, "export"):
        for earlier in (draft / _ASIDE).glob("*"):
            if not (parent / earlier.name).exists():
                earlier.rename(parent / earlier.name)
        shutil.rmtree(draft, ignore_errors=True)


def _put(fresh: Path, directory: Path, *, aside: Path) -> None:
    """Rename `fresh` to `directory`; what was there goes into `aside`, and back where that fails.

    The same bytes stay where they are: somebody may be reading them, a run that copies them or
    another process that has just written them.
    """
    try:
        fresh.rename(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    if not any(filecmp.cmpfiles(fresh, directory, EXPORT_FILES, shallow=False)[1:]):
        return
    aside.mkdir()
    directory.rename(aside / directory.name)
    try:
        fresh.rename(directory)
    except OSError:
        (aside / directory.name).rename(directory)
        raise


def _to_export(contents: Contents, directory: Path) -> Export:
    counts = contents.counts
    return Export(
        directory,
        contents.sha256,
        counts.examples,
        counts,
        contents.votes_sha256,
        contents.measured,
    )


def load_export(directory: Path) -> Export:
    """The export in `directory` by its dataset.json; raises ExportError when there is none."""
    manifest = _read_manifest(directory)
    if manifest is None:
        raise ExportError(f"{directory} holds no export of Votetune: make one with `export`.")
    try:
        counts = ExportCounts(**manifest["counts"])
        told = manifest.get("measured")
        return Export(
            directory,
            str(manifest["sha256"]),
            counts.examples,
            counts,
            manifest.get("votes_sha256"),
            _to_measured(told) if told else None,
        )
    except (KeyError, TypeError, AttributeError):
        raise ExportError(
            f"{directory / 'dataset.json'} was changed after the export: export again."
        ) from None


def load_examples(directory: Path) -> list[PreferenceExample]:
    """The examples in `directory`, after checking train.jsonl against the sha256 beside it."""
    export = load_export(directory)
    try:
        data = (directory / "train.jsonl").read_bytes()
    except OSError as error:
        raise ExportError(
            f"{directory} has no readable train.jsonl ({error.strerror}): export again."
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != export.sha256:
        raise ExportError(
            f"{directory / 'train.jsonl'} has sha256 {found[:12]} and dataset.json says "
            f"{export.sha256[:12]}: it was changed after the export, so export again."
        )
    return list(_examples_of(data, directory / "train.jsonl"))


def _examples_of(data: bytes, file: Path) -> Iterator[PreferenceExample]:
    # Not splitlines(): a text may hold U+2028, which is a line end only to Python.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line:
            try:
                yield from_line(line.decode())
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ExportError(
                    f"Line {number} of {file} is no preference of Votetune "
                    f"({type(error).__name__}): export again."
                ) from None


def copy_export(export: Export, directory: Path) -> None:
    """Copy the three files of `export` to the new folder `directory`."""
    directory.mkdir(parents=True)
    for name in EXPORT_FILES:
        shutil.copyfile(export.directory / name, directory / name)


def _refuse_foreign(directory: Path) -> None:
    if not directory.exists() and not directory.is_symlink():
        return
    if directory.is_symlink() or not directory.is_dir():
        raise ExportError(f"{directory} is not a plain folder: choose a new or empty one.")
    names = {entry.name for entry in directory.iterdir()}
    if names and _read_manifest(directory) is None:
        raise ExportError(
            f"{directory} is not empty and holds no export of Votetune: choose a new or empty one."
        )
    if foreign := sorted(names - {*EXPORT_FILES}):
        raise ExportError(
            f"{directory} holds {foreign[0]} beside an export: choose a new or empty folder."
        )


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    try:
        manifest = json.loads((directory / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.get("kind") == _KIND
    return manifest if ours and manifest.get("schema_version") == SCHEMA_VERSION else None


def _manifest(contents: Contents) -> str:
    manifest = {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "sha256": contents.sha256,
        "votes_sha256": contents.votes_sha256,
        "votes_sha256_of": "a line of `vote id, pair id, choice` for each vote, sorted",
        "synthetic": contents.counts.synthetic_votes > 0,
        "counts": asdict(contents.counts),
        "measured": asdict(contents.measured),
    }
    return json.dumps(manifest, indent=2) + "\n"


def _to_measured(row: dict[str, Any]) -> VotesMeasured:
    figures: dict[str, Any] = {
        name: Figure(**held) if isinstance(held, dict) else held for name, held in row.items()
    }
    return VotesMeasured(**figures)
