"""Blind sides, what counts, who a voter is and how fast: the service without HTTP."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from annotation.journal.journal import Journal, JournalFull, NotYours, UnknownPair, VoteConflict
from annotation.schema import Choice, Reason, VoteSource
from annotation.voting import IssuedPair, Voting
from annotation.web.voters import TokenBuckets, VoterCookies
from tests.journal_parts import (
    FIRST_MODEL,
    LEASE,
    NOON,
    SECOND_MODEL,
    fill_disk,
    free_disk,
    make_pair,
    make_vote,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3", clock=lambda: NOON)
    made.add_pairs([make_pair(f"p{n}") for n in range(12)]).result()
    yield made
    made.close()


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self):
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def voting(journal: Journal, clock: Clock) -> Voting:
    return Voting(journal, votes_per_pair=1, side_secret=b"side", clock=clock)


def next_pair(voting: Voting, voter: str = "ann") -> IssuedPair:
    issued = asyncio.run(voting.next_pair(voter))
    assert issued is not None
    return issued


@pytest.mark.parametrize("press", [Choice.A, Choice.B])
def test_the_side_that_was_pressed_is_the_chosen_one(
    voting: Voting, journal: Journal, press: Choice
) -> None:
    flips = set()
    for number in range(12):
        voter = f"voter-{number}"
        issued = next_pair(voting, voter)
        receipt = asyncio.run(voting.vote(voter, issued.id, press))
        (vote,) = journal.votes(voter=voter)
        preference = journal.pair(issued.id).resolve(vote.choice, vote.flipped)
        assert preference is not None
        assert preference.chosen.text == (issued.a if press is Choice.A else issued.b)
        shown = {issued.a: receipt.models[0], issued.b: receipt.models[1]}
        assert shown == {"first ": FIRST_MODEL, "second ": SECOND_MODEL}
        flips.add(vote.flipped)
    assert flips == {False, True}


@given(pair=st.text(), voter=st.text(), flipped=st.booleans(), press=st.sampled_from(Choice))
def test_swapping_sides_keeps_chosen(pair: str, voter: str, flipped: bool, press: Choice) -> None:
    other = {Choice.A: Choice.B, Choice.B: Choice.A}.get(press, press)
    made = make_pair("p")
    assert made.resolve(press, flipped) == made.resolve(other, not flipped)
    one = make_vote("v", "p", choice=press, flipped=flipped)
    two = make_vote("v", "p", choice=other, flipped=not flipped)
    assert one.record_choice is two.record_choice


def test_sides_are_fair_fixed_and_follow_the_key(journal: Journal) -> None:
    def sides(secret: bytes) -> list[bool]:
        voting = Voting(journal, votes_per_pair=1, side_secret=secret)
        return [voting.flipped(f"p{n // 50}", f"voter-{n % 50}") for n in range(4000)]

    one, two = sides(b"one"), sides(b"two")
    assert one == sides(b"one")
    # Binomial with n = 4000: the standard deviation is 31.6, and 160 is five of them.
    assert abs(sum(one) - 2000) < 160
    assert abs(sum(a != b for a, b in zip(one, two, strict=True)) - 2000) < 160


def test_an_issued_pair_tells_nothing_of_the_models(voting: Voting) -> None:
    shown = repr(next_pair(voting))
    for word in (FIRST_MODEL.base_revision, "run-7", "seed", "starter"):
        assert word not in shown


def test_a_skip_is_stored_uncounted_and_reveals_nothing(voting: Voting, journal: Journal) -> None:
    issued = next_pair(voting)
    receipt = asyncio.run(voting.vote("ann", issued.id, Choice.SKIP))
    assert (receipt.counted, receipt.why, receipt.models) == (False, "skipped", None)
    assert journal.vote_count() == 0
    asyncio.run(voting.undo("ann", receipt.id))
    again = asyncio.run(voting.vote("ann", issued.id, Choice.TIE))
    assert (again.counted, again.why, again.replayed) == (True, None, False)


def test_only_an_issued_pair_takes_a_vote(voting: Voting, journal: Journal) -> None:
    issued = next_pair(voting)
    with pytest.raises(NotYours):
        asyncio.run(voting.vote("bob", issued.id, Choice.A))
    with pytest.raises(UnknownPair):
        asyncio.run(voting.vote("ann", "nope", Choice.A))
    assert journal.votes(include_superseded=True) == []


def test_a_late_vote_is_stored_and_counted(voting: Voting, clock: Clock) -> None:
    issued = next_pair(voting)
    clock.now = NOON + 10 * LEASE
    receipt = asyncio.run(voting.vote("ann", issued.id, Choice.A))
    assert (receipt.counted, receipt.created_at) == (True, NOON + 10 * LEASE)


def test_failed_write_keeps_models_hidden(voting: Voting, journal: Journal) -> None:
    issued = next_pair(voting)
    words = {"reasons": (Reason.CORRECT,), "comment": "x" * 2000}
    fill_disk(journal)
    with pytest.raises(JournalFull):
        for _ in range(50):
            spare = next_pair(voting, f"other-{_}")
            asyncio.run(voting.vote(f"other-{_}", spare.id, Choice.B, **words))
    stored = len(journal.votes())
    with pytest.raises(JournalFull):
        asyncio.run(voting.vote("ann", issued.id, Choice.A, **words))
    assert journal.votes(voter="ann") == []
    assert len(journal.votes()) == stored
    free_disk(journal)
    assert asyncio.run(voting.vote("ann", issued.id, Choice.A, **words)).models is not None


def test_an_undone_vote_says_so_and_stays_undone(voting: Voting) -> None:
    issued = next_pair(voting)
    receipt = asyncio.run(voting.vote("ann", issued.id, Choice.A))
    undone = asyncio.run(voting.undo("ann", receipt.id))
    assert (undone.counted, undone.why, undone.undone_at) == (False, "undone", NOON)
    with pytest.raises(VoteConflict):
        asyncio.run(voting.vote("ann", issued.id, Choice.A))
    assert [r.id for r in asyncio.run(voting.receipts("ann"))] == [receipt.id]


def test_a_receipt_speaks_of_the_pages_sides_wherever_the_vote_was_cast(
    voting: Voting, journal: Journal
) -> None:
    for number in range(8):
        pair = f"p{number}"
        cast = make_vote(f"r{number}", pair, "bob", Choice.A, source=VoteSource.ARGILLA)
        journal.mirror([], [cast]).result()
    receipts = asyncio.run(voting.receipts("bob"))
    assert {receipt.choice for receipt in receipts} == {Choice.A, Choice.B}
    for receipt in receipts:
        side = 0 if receipt.choice is Choice.A else 1
        assert receipt.models[side] == FIRST_MODEL  # a of the record is its first completion


def test_votes_carry_their_source(journal: Journal) -> None:
    voting = Voting(journal, votes_per_pair=1, side_secret=b"side", source=VoteSource.SYNTHETIC)
    issued = next_pair(voting)
    asyncio.run(voting.vote("ann", issued.id, Choice.A))
    assert [vote.source for vote in journal.votes()] == [VoteSource.SYNTHETIC]


def test_many_voters_at_once_each_get_their_own_and_all_count(
    voting: Voting, journal: Journal
) -> None:
    async def go(voter: str) -> None:
        for _ in range(5):
            issued = await voting.next_pair(voter)
            both = [voting.vote(voter, issued.id, choice) for choice in (Choice.A, Choice.B)]
            answers = await asyncio.gather(*both, return_exceptions=True)
            assert sum(isinstance(answer, VoteConflict) for answer in answers) == 1

    async def all_of_them() -> None:
        await asyncio.gather(*(go(f"voter-{n}") for n in range(30)))

    asyncio.run(all_of_them())
    votes = journal.votes()
    assert len(votes) == len({(v.pair_id, v.voter) for v in votes}) == 150


# Who a voter is, and how fast


def request_with(cookie: str | None) -> Request:
    headers = [] if cookie is None else [(b"cookie", f"votetune_voter={cookie}".encode())]
    return Request({"type": "http", "headers": headers})


def test_a_signed_cookie_names_its_voter_and_a_forged_one_nobody() -> None:
    cookies = VoterCookies(b"secret")
    new = cookies.caller(request_with(None))
    assert new.is_new
    assert len(new.voter.removeprefix("anon-")) == 16
    value = cookies.value(new.voter)
    known = cookies.caller(request_with(value))
    assert (known.voter, known.is_new) == (new.voter, False)
    forged = [
        new.voter,
        value[:-1],
        value.replace(new.voter, "anon-0000000000000000"),
        VoterCookies(b"other").value(new.voter),
        "",
        ".",
        "é\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
        cookies.value("Someone Else"),
        "x" * 5000,
    ]
    for cookie in forged:
        caller = cookies.caller(request_with(cookie))
        assert caller.is_new
        assert caller.voter != new.voter


def test_a_bucket_gives_a_burst_and_then_five_a_second() -> None:
    now = [0.0]
    buckets = TokenBuckets(rate_per_s=5, burst=20, clock=lambda: now[0])
    assert [buckets.take("ann") for _ in range(20)] == [0.0] * 20
    assert math.isclose(buckets.take("ann"), 0.2)
    assert buckets.take("bob") == 0.0
    now[0] = 0.1
    assert math.isclose(buckets.take("ann"), 0.1)  # a refusal costs nothing
    now[0] = 1.0
    assert [buckets.take("ann") == 0.0 for _ in range(6)] == [True] * 5 + [False]


def test_buckets_forget_the_idle_and_never_outgrow_their_bound() -> None:
    now = [0.0]
    buckets = TokenBuckets(rate_per_s=5, burst=20, most=100, clock=lambda: now[0])
    for number in range(1000):
        buckets.take(f"voter-{number}")
    assert len(buckets) == 100
    now[0] = 4.0  # 20 / 5 seconds: every bucket is full again
    buckets.take("ann")
    assert len(buckets) == 1
