"""What the backup's files hold comes back whole, merged in any order, without whoever asked."""

import json
import random
from dataclasses import replace
from datetime import timedelta

import pytest
from journal_parts import NOON, SECOND_MODEL, make_pair, make_vote

from annotation.backup.events import (
    MAX_FILE_BYTES,
    BackupBase,
    BackupError,
    EarlierState,
    Event,
    Header,
    StoredPair,
    StoredVote,
    VoterState,
    Wish,
    forget,
    from_file,
    merge,
    to_files,
)
from annotation.schema import Choice, Message, PairKind, Prompt, Reason, VoteSource

HEADER = Header(NOON, BackupBase("starter", "1" * 40, "main"), votes=3)
LATER = NOON + timedelta(hours=1)
ODD = 'é "quoted" \u2028 line\r\nbreak \U0001f600 {"end": 1}'


def own_pair(name: str = "p-own", author: str = "ann", only_for: str | None = "ann") -> StoredPair:
    pair = make_pair(name, prompt=ODD)
    return StoredPair(replace(pair, kind=PairKind.OWN, author=author, only_for=only_for))


def every_kind() -> list[Event]:
    """One event with every field set to something else than its default."""
    pair = make_pair("p1")
    turns = (Message("system", "Be brief."), Message("user", ODD))
    return [
        StoredPair(replace(pair, prompt=Prompt(turns)), retired_at=LATER),
        own_pair(),
        StoredPair(replace(make_pair("p2"), kind=PairKind.GOLD, expected=Choice.B)),
        StoredPair(replace(make_pair("p3"), kind=PairKind.REPEAT, repeats="p1", only_for="bob")),
        StoredVote(
            make_vote(
                "v1",
                "p1",
                choice=Choice.TIE,
                flipped=True,
                reasons=(Reason.SAFE, Reason.CLEAR),
                comment=ODD,
                source=VoteSource.ARGILLA,
                superseded_at=LATER,
                counted=False,
                why="its base model is no longer in use",
                revision=3,
                issued_at=NOON - timedelta(microseconds=7),
                set_aside="always left",
            ),
            (EarlierState(1, (Reason.STYLE,), "before", None, NOON),),
        ),
        VoterState("ann", "always left", LATER),
        VoterState("bob", None, NOON),
        Wish.of("eve", LATER, votes=2, voted=["p1"], removed=["p9"], in_argilla=False),
        Wish.of("eve", LATER).nameless,
    ]


def test_every_field_of_every_event_comes_back() -> None:
    events = every_kind()
    (content,) = to_files(HEADER, events)
    found = from_file("f", content)
    assert found.header == HEADER
    assert list(found.events) == events
    assert content.count(b"\n") == len(events) + 2, "one line an event, a header and an end"


def test_a_long_history_becomes_files_of_bounded_size() -> None:
    events: list[Event] = [StoredPair(make_pair(f"p{n}", size=2000)) for n in range(200)]
    files = list(to_files(HEADER, events))
    assert len(files) > 2
    assert all(len(content) < MAX_FILE_BYTES + 1000 for content in files)
    assert [e for n, content in enumerate(files) for e in from_file(str(n), content).events] == (
        events
    )


def test_a_file_cut_anywhere_is_refused() -> None:
    (content,) = to_files(HEADER, every_kind())
    for cut in [0, 1, *range(50, len(content) - 1, 97), len(content) - 2]:
        with pytest.raises(BackupError, match=r"events/7\.jsonl is damaged"):
            from_file("events/7.jsonl", content[:cut])


def test_a_changed_or_lost_line_is_refused() -> None:
    (content,) = to_files(HEADER, every_kind())
    lines = content.splitlines(keepends=True)
    changed = content.replace(b"always left", b"always lost")
    for broken in (changed, b"".join(lines[:3] + lines[4:])):
        with pytest.raises(BackupError, match="damaged"):
            from_file("f", broken)


def test_a_newer_format_is_named() -> None:
    (content,) = to_files(HEADER, every_kind())
    row = json.loads(content.splitlines()[0]) | {"votetune_backup": 2}
    newer = json.dumps(row).encode() + b"\n" + b"".join(content.splitlines(keepends=True)[1:])
    with pytest.raises(BackupError, match="newer Votetune"):
        from_file("f", newer)


def test_files_merge_to_the_same_state_in_any_order_and_twice() -> None:
    vote, first = make_vote("v1", "p1"), EarlierState(1, (), "", None, NOON)
    events: list[Event] = [
        StoredPair(make_pair("p1")),
        StoredPair(make_pair("p1"), retired_at=LATER),
        own_pair(),
        own_pair(only_for=None),
        StoredVote(vote),
        StoredVote(replace(vote, comment="more", revision=2), (first,)),
        StoredVote(make_vote("v2", "p1", "bob")),
        VoterState("bob", "bot", NOON),
        VoterState("bob", None, LATER),
        Wish.of("eve", NOON),
        Wish.of("eve", LATER, removed=["p8"]),
        StoredVote(make_vote("v3", "p1", "eve", created_at=LATER)),
        StoredVote(make_vote("v4", "p1", "eve", created_at=LATER + timedelta(seconds=1))),
    ]
    wanted = merge(events)
    assert {i: v.vote.revision for i, v in wanted.votes.items()} == {"v1": 2, "v2": 1, "v4": 1}
    assert wanted.votes["v1"].history[0].revision == 1
    assert wanted.pairs["p1"].retired_at == LATER
    assert wanted.pairs["p-own"].pair.only_for is None
    assert wanted.voters["bob"].set_aside is None
    draw = random.Random(5)
    for _ in range(20):
        shuffled = [*events, *draw.sample(events, 4)]
        draw.shuffle(shuffled)
        assert merge(shuffled) == wanted


def test_two_live_votes_of_one_voter_on_one_pair_become_one() -> None:
    early = make_vote("v2", "p1", choice=Choice.B)
    late = make_vote("v1", "p1", created_at=LATER)
    held = merge([StoredPair(make_pair("p1")), StoredVote(late), StoredVote(early)])
    live = [s.vote.id for s in held.votes.values() if s.vote.superseded_at is None]
    assert live == ["v2"]
    assert set(held.votes) == {"v1", "v2"}, "the other stays, undone"


def test_a_deletion_wins_over_all_that_was_before_it_and_nothing_after() -> None:
    shared, alone = own_pair("shared", "eve"), own_pair("alone", "eve", "eve")
    events: list[Event] = [
        StoredPair(make_pair("p1")),
        shared,
        alone,
        StoredVote(make_vote("mine", "p1", "eve")),
        StoredVote(make_vote("hers", "shared", "ann")),
        StoredVote(make_vote("again", "p1", "eve", created_at=LATER + timedelta(hours=1))),
        VoterState("eve", "bot", NOON),
    ]
    wish = Wish.of("eve", LATER, votes=1, voted=["p1"], removed=["alone"])
    for held in (merge([wish, *events]), merge(events, [wish]), merge([*events, wish.nameless])):
        assert set(held.votes) == {"hers", "again"}
        assert set(held.pairs) == {"p1", "shared"}
        assert held.pairs["shared"].pair.author is None
        assert held.voters == {}
        assert set(held.wishes) == {wish.voter_sha256}


def test_what_is_forgotten_names_nobody() -> None:
    wish = Wish.of("eve@hub", LATER, votes=1, voted=["p1"], removed=["alone"], in_argilla=False)
    events: list[Event] = [
        StoredPair(make_pair("p1")),
        own_pair("shared", "eve@hub", None),
        own_pair("alone", "eve@hub", "eve@hub"),
        StoredVote(make_vote("mine", "p1", "eve@hub", comment="my secret")),
        VoterState("eve@hub", "bot", NOON),
        wish,
    ]
    kept = forget(events, [wish])
    (content,) = to_files(HEADER, kept)
    assert b"eve@hub" not in content
    assert b"my secret" not in content
    assert forget(kept, [wish]) == kept, "forgetting again changes nothing"
    assert merge(kept).wishes[wish.voter_sha256].requested_at == LATER


def test_a_base_is_told_by_its_commit() -> None:
    base = BackupBase("Ada/Chat", "2" * 40)
    assert base.is_same(BackupBase("ada/chat", "2" * 40, "main"))
    assert not base.is_same(BackupBase("ada/chat", "3" * 40))
    assert BackupBase("starter", "1" * 40).is_of(SECOND_MODEL)
