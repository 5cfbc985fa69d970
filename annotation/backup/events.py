"""What the backup of votes holds: events as lines of JSON, and how many files become one state.

Pure: knows no repository and no journal. A file opens with a header (format, base) and closes with
the count and hash of its lines, so that a torn one is told from a whole one. Files are merged in
any order and as often as one likes with the same result. Refuses what it can't read as a whole.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from annotation.faults import Fault
from annotation.schema import ModelRef, Pair, Reason, Vote

FORMAT = 1
MAX_FILE_BYTES = 2 * 1024**2
"""Small enough to be kept as text, whose history a squash can remove, and not as a large file."""


class BackupError(Fault):
    """A backup that can't be used; the message is the one line that a person reads."""


class OtherBase(BackupError):
    """The votes of the backup belong to another base than this home's."""


@dataclass(frozen=True, slots=True)
class StoredPair:
    pair: Pair
    retired_at: datetime | None = None
    kind: Literal["pair"] = "pair"


@dataclass(frozen=True, slots=True)
class EarlierState:
    """What a vote was before a change of its words, or before it was undone."""

    revision: int
    reasons: tuple[Reason, ...]
    comment: str
    superseded_at: datetime | None
    replaced_at: datetime


@dataclass(frozen=True, slots=True)
class StoredVote:
    """A vote as it stands at its revision, with every earlier state."""

    vote: Vote
    history: tuple[EarlierState, ...] = ()
    kind: Literal["vote"] = "vote"


@dataclass(frozen=True, slots=True)
class VoterState:
    """Why the owner has set a voter's votes aside, None where they were brought back."""

    voter: str
    set_aside: str | None
    changed_at: datetime
    kind: Literal["voter"] = "voter"


@dataclass(frozen=True, slots=True)
class Wish:
    """A voter's wish to be forgotten: nothing of theirs from before `requested_at` comes back.

    Named until Argilla and the backup have followed; then `voter` is None and the hash remains.
    `voted` are the pairs that they had votes on, `removed` those that went with them.
    """

    voter: str | None
    voter_sha256: str
    requested_at: datetime
    votes: int = 0
    voted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    in_argilla: bool = True
    kind: Literal["deletion"] = "deletion"

    @classmethod
    def of(
        cls,
        voter: str,
        requested_at: datetime,
        *,
        votes: int = 0,
        voted: Sequence[str] = (),
        removed: Sequence[str] = (),
        in_argilla: bool = True,
    ) -> "Wish":
        """The wish of `voter`, by name."""
        sha256 = sha256_of_voter(voter)
        return cls(voter, sha256, requested_at, votes, tuple(voted), tuple(removed), in_argilla)

    @property
    def nameless(self) -> "Wish":
        return replace(self, voter=None, votes=0, voted=(), in_argilla=True)


Event = StoredPair | StoredVote | VoterState | Wish


@dataclass(frozen=True, slots=True)
class BackupBase:
    """The base that the votes belong to, as base.json holds it. `asked` is BASE_REVISION."""

    base: str
    revision: str
    asked: str | None = None

    @property
    def label(self) -> str:
        return f"{self.base}@{self.revision[:12]}"

    def is_same(self, other: "BackupBase") -> bool:
        """Whether both name one base, whatever was asked for to find it."""
        # Ids of the Hub are case-insensitive; their commits tell bases apart.
        return (self.base.lower(), self.revision) == (other.base.lower(), other.revision)

    def is_of(self, model: ModelRef) -> bool:
        """Whether `model` is this base, or was tuned from it."""
        return self.is_same(BackupBase(model.base, model.base_revision))


@dataclass(frozen=True, slots=True)
class Header:
    """Of a file: the base of the home that wrote it, and how many votes that home held then."""

    written_at: datetime
    base: BackupBase
    votes: int
    votetune_backup: int = FORMAT


@dataclass(frozen=True, slots=True)
class EventFile:
    header: Header
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a backup holds, merged. Wishes are by the hash of their voter."""

    pairs: Mapping[str, StoredPair]
    votes: Mapping[str, StoredVote]
    voters: Mapping[str, VoterState]
    wishes: Mapping[str, Wish]


_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
_HEADER = TypeAdapter(Header)


def sha256_of_voter(voter: str) -> str:
    return hashlib.sha256(voter.encode()).hexdigest()


def to_files(header: Header, events: Iterable[Event]) -> Iterator[bytes]:
    """`events` in order, as the contents of as many files as MAX_FILE_BYTES asks for."""
    lines: list[bytes] = []
    size = 0
    for event in events:
        line = _EVENT.dump_json(event) + b"\n"
        if lines and size + len(line) > MAX_FILE_BYTES:
            yield _file(header, lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield _file(header, lines)


def from_file(name: str, content: bytes) -> EventFile:
    """What `to_files` was given. Raises BackupError, naming the file, for anything less."""
    lines = content.splitlines(keepends=True)
    try:
        header = _header(name, lines[0])
        end = json.loads(lines[-1])["end"]
        body = lines[1:-1]
        if end != _end(lines[:-1]):
            raise BackupError(_damaged(name, "its lines are not those that were written"))
        return EventFile(header, tuple(_EVENT.validate_json(line) for line in body))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise BackupError(_damaged(name, f"it breaks off ({type(error).__name__})")) from None


def read_header(name: str, content: bytes) -> Header:
    """The header of a file alone. Raises BackupError."""
    return from_file(name, content).header


def merge(events: Iterable[Event], wishes: Iterable[Wish] = ()) -> Snapshot:
    """One state of all `events`, whatever their order, without what `wishes` and theirs forbid.

    Of a vote the highest revision stays, of two live ones by one voter on one pair the earlier.
    A pair stays retired, approved or without its author once it was so anywhere.
    """
    pairs: dict[str, StoredPair] = {}
    votes: dict[str, StoredVote] = {}
    voters: dict[str, VoterState] = {}
    asked: dict[str, Wish] = {}
    for wish in wishes:
        _keep_wish(asked, wish)
    for event in events:
        if isinstance(event, StoredPair):
            known = pairs.get(event.pair.id)
            pairs[event.pair.id] = _joined(known, event) if known else event
        elif isinstance(event, StoredVote):
            before = votes.get(event.vote.id)
            if before is None or _age(before.vote) < _age(event.vote):
                votes[event.vote.id] = event
        elif isinstance(event, VoterState):
            state = voters.get(event.voter)
            if state is None or state.changed_at < event.changed_at:
                voters[event.voter] = event
        else:
            _keep_wish(asked, event)
    if asked:
        kept: list[Event] = [*pairs.values(), *votes.values(), *voters.values()]
        return replace(merge(forget(kept, asked.values())), wishes=asked)
    return Snapshot(pairs, _one_live(votes), voters, {})


def forget(events: Iterable[Event], wishes: Iterable[Wish]) -> list[Event]:
    """`events` without anything of the voters of `wishes` from before they asked.

    A pair of theirs that others voted on stays, without its author, as in the journal. The wish
    itself stays, nameless.
    """
    asked = {wish.voter_sha256: wish for wish in wishes}
    removed = {pair_id for wish in asked.values() for pair_id in wish.removed}
    hashes: dict[str, str] = {}

    def is_asked(voter: str | None, at: datetime) -> bool:
        if voter is None:
            return False
        wish = asked.get(hashes.setdefault(voter, sha256_of_voter(voter)))
        return wish is not None and at <= wish.requested_at

    kept: list[Event] = []
    for event in events:
        if isinstance(event, StoredVote):
            vote = event.vote
            if vote.pair_id not in removed and not is_asked(vote.voter, vote.created_at):
                kept.append(event)
        elif isinstance(event, VoterState):
            if not is_asked(event.voter, event.changed_at):
                kept.append(event)
        elif isinstance(event, Wish):
            kept.append(event.nameless if is_asked(event.voter, event.requested_at) else event)
        elif event.pair.id not in removed:
            pair = event.pair
            if is_asked(pair.author, pair.created_at):
                pair = replace(pair, author=None)
            if is_asked(pair.only_for, pair.created_at):
                pair = replace(pair, only_for=None)
            kept.append(event if pair is event.pair else replace(event, pair=pair))
    return kept


def _file(header: Header, lines: Sequence[bytes]) -> bytes:
    whole = [_HEADER.dump_json(header) + b"\n", *lines]
    end = json.dumps({"end": _end(whole)}, sort_keys=True).encode()
    return b"".join(whole) + end + b"\n"


def _end(lines: Sequence[bytes]) -> dict[str, object]:
    """What the last line says of all before it."""
    return {"events": len(lines) - 1, "sha256": hashlib.sha256(b"".join(lines)).hexdigest()}


def _header(name: str, line: bytes) -> Header:
    row = json.loads(line)
    if int(row["votetune_backup"]) > FORMAT:
        raise BackupError(
            f"The backup's file {name} is of a newer Votetune (format {row['votetune_backup']}, "
            f"this one knows {FORMAT}): use that Votetune, or another VOTES_REPO."
        )
    return _HEADER.validate_python(row)


def _damaged(name: str, how: str) -> str:
    return (
        f"The backup's file {name} is damaged ({how}): restore it from the repository's history, "
        "or delete it there to go on without what it held."
    )


def _joined(one: StoredPair, other: StoredPair) -> StoredPair:
    """A pair as two files tell it: the later state, which is always the one that lacks more."""
    pair = replace(
        one.pair,
        only_for=one.pair.only_for if other.pair.only_for else None,
        author=one.pair.author if other.pair.author else None,
    )
    times = [at for at in (one.retired_at, other.retired_at) if at]
    return StoredPair(pair, min(times) if times else None)


def _age(vote: Vote) -> tuple[int, bool]:
    # Two instances may have made the same revision: an undo is never taken back.
    return vote.revision, vote.superseded_at is not None


def _keep_wish(asked: dict[str, Wish], wish: Wish) -> None:
    """Keep the later of two wishes of one voter, and the pairs of both."""
    known = asked.get(wish.voter_sha256)
    if known is None:
        asked[wish.voter_sha256] = wish
        return
    # Of the same wish, by name and without, the nameless one is the later state.
    later = max(known, wish, key=lambda w: (w.requested_at, w.voter is None))
    removed = tuple(sorted({*known.removed, *wish.removed}))
    asked[wish.voter_sha256] = replace(later, removed=removed)


def _one_live(votes: Mapping[str, StoredVote]) -> dict[str, StoredVote]:
    """At most one live vote of a voter on a pair, where two instances of an app took one each."""
    live: dict[tuple[str, str], Vote] = {}
    kept = dict(votes)
    for stored in sorted(votes.values(), key=lambda s: (s.vote.created_at, s.vote.id)):
        vote = stored.vote
        if vote.superseded_at is not None:
            continue
        if (vote.pair_id, vote.voter) in live:
            undone = replace(vote, superseded_at=vote.created_at)
            kept[vote.id] = replace(stored, vote=undone)
        else:
            live[vote.pair_id, vote.voter] = vote
    return kept
