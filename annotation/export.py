"""Votes become a preference dataset: who preferred what, sorted, hashed, the same every time.

Owns the rules of what is a preference and the files of an export. An eval prompt, a tie, "both
bad" and an even split never become one. Keeps no time and no voter's name: the same votes give
the same bytes, in whatever order and on whatever day they were cast.
"""

import hashlib
import json
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from annotation.consent import DEFAULT_LICENCE, licences_told
from annotation.export_card import ExportCounts, export_card
from annotation.faults import Fault
from annotation.journal.journal import JournalReader
from annotation.quality.votes_measured import Figure, VotesMeasured, measure_votes
from annotation.schema import (
    Choice,
    ChosenBy,
    Message,
    ModelRef,
    Pair,
    PairKind,
    PreferenceExample,
    Prompt,
    Split,
    Vote,
    VoteSource,
)

SCHEMA_VERSION = 1
_KIND = "votetune preferences"
EXPORT_FILES = ("train.jsonl", "dataset.json", "README.md")


class ExportError(Fault):
    """An export that can't be written or read; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class PreparedExport:
    """A dataset before it is written: its examples, its exact bytes and their sha256.

    `licences` are those that its voters were told, `votes` on `pairs` what it was made from.
    """

    examples: tuple[PreferenceExample, ...]
    counts: ExportCounts
    train_jsonl: bytes
    sha256: str
    licences: tuple[str, ...] = (DEFAULT_LICENCE,)
    votes: tuple[Vote, ...] = ()
    pairs: Mapping[str, Pair] = field(default_factory=dict)


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
    """Resolve every live vote of the journal into examples and count what became of them.

    Checks, comparisons of models and prompts that wait for approval are left out and counted
    nowhere.
    """
    votes = live_votes(journal)
    pairs = {pair.id: pair for pair in journal.pairs(sorted({v.pair_id for v in votes}))}
    votes = [v for v in votes if v.pair_id not in pairs or pairs[v.pair_id].is_public]
    by_pair: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.pair_id not in pairs:
            raise ExportError(
                f"Vote {vote.id} is on pair {vote.pair_id}, which the journal does not have: "
                "restore the journal from a copy or undo the vote."
            )
        by_pair[vote.pair_id].append(vote)
    examples: list[PreferenceExample] = []
    fates: Counter[str] = Counter()
    for pair_id in sorted(by_pair):
        outcome = _outcome(pairs[pair_id], by_pair[pair_id])
        if isinstance(outcome, PreferenceExample):
            examples.append(outcome)
        else:
            fates[outcome] += 1
    counts = ExportCounts(
        votes=len(votes),
        voters=len({v.voter for v in votes}),
        synthetic_votes=sum(v.source is VoteSource.SYNTHETIC for v in votes),
        pairs_voted=len(by_pair),
        examples=len(examples),
        ties=fates["tie"],
        both_bad=fates["both_bad"],
        conflicts=fates["conflict"],
        eval_left_out=fates["eval"],
    )
    train_jsonl = "".join(_to_line(example) for example in examples).encode()
    digest = hashlib.sha256(train_jsonl).hexdigest()
    licences = licences_told(journal)
    return PreparedExport(
        tuple(examples), counts, train_jsonl, digest, licences, tuple(votes), pairs
    )


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
    lines = sorted(f"{vote.id} {vote.pair_id} {vote.record_choice}\n" for vote in votes)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def votes_behind(journal: JournalReader, export: Export) -> list[Vote] | None:
    """The votes that `export` was made from, or None where the journal has them no more as they
    were: undone, deleted or set aside since, or cast elsewhere before the last of them.
    """
    votes = list(prepare_export(journal).votes[: export.counts.votes])
    return votes if sha256_of_votes(votes) == export.votes_sha256 else None


def export_preferences(journal: JournalReader, directory: Path) -> Export:
    """Write the journal's preferences to `directory`, or leave everything as it was.

    An earlier export there is replaced; a folder that holds anything else is refused.
    """
    return write_export(prepare_export(journal), directory)


def export_to_home(journal: JournalReader, home: Path) -> Export:
    """Write the journal's preferences to `home`/exports/<first 12 hex of the sha256>."""
    prepared = prepare_export(journal)
    return write_export(prepared, home / "exports" / prepared.sha256[:12])


def write_export(prepared: PreparedExport, directory: Path) -> Export:
    """Write train.jsonl, dataset.json and README.md beside `directory`, then rename into place."""
    directory = directory.absolute()
    _refuse_foreign(directory)
    measured = measure_votes(prepared.votes, prepared.pairs)
    votes_sha256 = sha256_of_votes(prepared.votes)
    card = export_card(
        prepared.counts,
        prepared.sha256,
        prepared.licences,
        measured=measured,
        votes_sha256=votes_sha256,
        chosen_by=_chosen_by(prepared),
    )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".export-") as scratch:
            fresh = Path(scratch) / "new"
            fresh.mkdir()
            (fresh / "train.jsonl").write_bytes(prepared.train_jsonl)
            manifest = _manifest(prepared, measured, votes_sha256)
            (fresh / "dataset.json").write_text(manifest, encoding="utf-8")
            (fresh / "README.md").write_text(card, encoding="utf-8")
            if directory.exists():
                directory.rename(Path(scratch) / "old")
            fresh.rename(directory)
    except OSError as error:
        raise ExportError(
            f"The export can't be written to {directory} ({error.strerror}): choose another folder."
        ) from error
    return Export(
        directory, prepared.sha256, len(prepared.examples), prepared.counts, votes_sha256, measured
    )


def _chosen_by(prepared: PreparedExport) -> Mapping[ChosenBy, int]:
    """How many of the pairs voted on were chosen by what."""
    voted = {vote.pair_id for vote in prepared.votes}
    return Counter(prepared.pairs[name].completions[0].sampling.chosen_by for name in voted)


def load_export(directory: Path) -> Export:
    """The export in `directory` by its dataset.json; raises ExportError when there is none."""
    manifest = _read_manifest(directory)
    if manifest is None:
        raise ExportError(f"{directory} holds no export of Votetune: make one with `export`.")
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
    # Not splitlines(): a text may hold U+2028, which is a line end only to Python.
    return [_from_line(line) for line in data.decode().split("\n") if line]


def copy_export(export: Export, directory: Path) -> None:
    """Copy the three files of `export` to the new folder `directory`."""
    directory.mkdir(parents=True)
    for name in EXPORT_FILES:
        shutil.copyfile(export.directory / name, directory / name)


def _outcome(pair: Pair, votes: Sequence[Vote]) -> PreferenceExample | str:
    """What the counted votes on one pair amount to: an example, or why there is none.

    The majority is strict and over all counted votes: one for a side and one tie decide nothing.
    """
    if pair.prompt.split is Split.EVAL:
        return "eval"
    tally = Counter(vote.record_choice for vote in votes)
    winner, support = max(tally.items(), key=lambda item: (item[1], item[0]))
    if 2 * support <= len(votes):
        return "conflict"
    preference = pair.resolve(winner, flipped=False)
    if preference is None:
        return winner.value
    return PreferenceExample(
        prompt=pair.prompt,
        chosen=preference.chosen.text,
        rejected=preference.rejected.text,
        pair_id=pair.id,
        votes=len(votes),
        agreement=support / (tally[Choice.A] + tally[Choice.B]),
        chosen_model=preference.chosen.model,
        rejected_model=preference.rejected.model,
        chosen_finish=preference.chosen.finish,
        rejected_finish=preference.rejected.finish,
    )


def _to_line(example: PreferenceExample) -> str:
    row = {
        "prompt": [{"role": m.role, "content": m.content} for m in example.prompt.messages],
        "chosen": [{"role": "assistant", "content": example.chosen}],
        "rejected": [{"role": "assistant", "content": example.rejected}],
        "pair_id": example.pair_id,
        "votes": example.votes,
        "agreement": example.agreement,
        "chosen_model": asdict(example.chosen_model),
        "rejected_model": asdict(example.rejected_model),
        "chosen_finish": example.chosen_finish,
        "rejected_finish": example.rejected_finish,
    }
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"


def _from_line(line: str) -> PreferenceExample:
    row = json.loads(line)
    return PreferenceExample(
        prompt=Prompt(tuple(Message(m["role"], m["content"]) for m in row["prompt"])),
        chosen=row["chosen"][0]["content"],
        rejected=row["rejected"][0]["content"],
        pair_id=row["pair_id"],
        votes=row["votes"],
        agreement=row["agreement"],
        chosen_model=ModelRef(**row["chosen_model"]),
        rejected_model=ModelRef(**row["rejected_model"]),
        # Exports from before these columns existed still load.
        chosen_finish=row.get("chosen_finish", "stop"),
        rejected_finish=row.get("rejected_finish", "stop"),
    )


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


def _manifest(prepared: PreparedExport, measured: VotesMeasured, votes_sha256: str) -> str:
    manifest = {
        "kind": _KIND,
        "schema_version": SCHEMA_VERSION,
        "sha256": prepared.sha256,
        "votes_sha256": votes_sha256,
        "votes_sha256_of": "a line of `vote id, pair id, choice` for each vote, sorted",
        "synthetic": prepared.counts.synthetic_votes > 0,
        "counts": asdict(prepared.counts),
        "measured": asdict(measured),
    }
    return json.dumps(manifest, indent=2) + "\n"


def _to_measured(row: dict[str, Any]) -> VotesMeasured:
    figures: dict[str, Any] = {
        name: Figure(**held) if isinstance(held, dict) else held for name, held in row.items()
    }
    return VotesMeasured(**figures)
