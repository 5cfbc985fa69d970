"""Repeats and gold pairs: how often, that nothing tells them, and that they train nothing."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from annotation.checks import MOST_CHECKS, Checks
from annotation.export.export import prepare_export
from annotation.gold import GOLD_MODEL, GoldError, gold_pairs, load_gold
from annotation.journal.issue import issue_pair
from annotation.journal.journal import Journal
from annotation.schema import Choice, Pair, PairKind
from annotation.voting import IssuedPair, Receipt, Voting
from tests.journal_parts import LEASE, NOON, make_pair, make_vote, on_writer

SECRET = b"side"
REPEATED = "it was a check that votes are steady; it trains nothing"
KNOWN = "it was a question with a known answer, to check the votes; it trains nothing"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.sqlite3", clock=lambda: NOON)
    yield made
    made.close()


def add_pool(journal: Journal, count: int) -> None:
    pairs = [
        replace(make_pair(f"{n:032x}"), prompt=make_pair(f"p{n}").prompt) for n in range(count)
    ]
    journal.add_pairs(pairs).result()


def write_gold(folder: Path, count: int) -> Path:
    file = folder / "gold.jsonl"
    rows = [{"prompt": f"What is {n}?", "better": f"{n}.", "worse": "No."} for n in range(count)]
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return file


def add_gold(journal: Journal, folder: Path, count: int) -> list[Pair]:
    pairs = gold_pairs(load_gold(write_gold(folder, count)), SECRET, NOON)
    journal.set_gold_pairs(pairs).result()
    return pairs


def vote_often(
    voting: Voting, votes: int, voter: str = "ann", choice: Choice = Choice.A
) -> list[tuple[IssuedPair, Receipt]]:
    """What `voter` was given, and what became of each vote."""

    async def all_votes() -> list[tuple[IssuedPair, Receipt]]:
        done = []
        for _ in range(votes):
            issued = await voting.next_pair(voter)
            assert issued is not None
            done.append((issued, await voting.vote(voter, issued.id, choice)))
        return done

    return asyncio.run(all_votes())


def kinds(journal: Journal, done: list[tuple[IssuedPair, Receipt]]) -> list[PairKind]:
    pairs = {pair.id: pair for pair in journal.pairs()}
    return [pairs[issued.id].kind for issued, _ in done]


# Repeats


def test_a_repeat_shows_a_decided_pair_with_its_sides_swapped(journal: Journal) -> None:
    add_pool(journal, 150)
    voting = Voting(journal, votes_per_pair=1, side_secret=SECRET, repeat_share=0.3)
    done = vote_often(voting, 150)
    seen = {issued.id: (place, issued) for place, (issued, _) in enumerate(done)}
    repeats = [pair for pair in journal.pairs() if pair.kind is PairKind.REPEAT]
    # Binomial(~145, .3): 43 on average, and three standard errors of 5.5.
    assert 27 <= len(repeats) <= 60
    assert len({pair.repeats for pair in repeats}) == len(repeats)
    flips = set()
    for pair in repeats:
        first_place, first = seen[pair.repeats or ""]
        place, again = seen[pair.id]
        assert (again.a, again.b) == (first.b, first.a)
        assert again.prompt == first.prompt
        assert place - first_place > 5
        flips.add(voting.flipped(pair.id, "ann"))
    assert flips == {False, True}


def test_nothing_in_a_repeat_tells_it_but_what_its_voter_remembers(journal: Journal) -> None:
    add_pool(journal, 60)
    voting = Voting(journal, votes_per_pair=1, side_secret=SECRET, repeat_share=0.5)
    done = vote_often(voting, 60)
    repeats = [pair for pair in journal.pairs() if pair.kind is PairKind.REPEAT]
    assert repeats
    for pair in repeats:
        assert UUID(pair.id).version == 4
        assert UUID(pair.id).hex == pair.id
        assert pair.only_for == "ann"
        assert pair.id not in {asyncio.run(voting.next_pair("bob")).id for _ in range(4)}
    labels = {model for _, receipt in done for model in receipt.models or ()}
    assert len(labels) == 2  # named after the vote as everywhere


def test_a_vote_on_a_check_counts_nowhere(journal: Journal, tmp_path: Path) -> None:
    add_pool(journal, 80)
    add_gold(journal, tmp_path, 30)
    voting = Voting(
        journal, votes_per_pair=1, side_secret=SECRET, repeat_share=0.25, gold_share=0.25
    )
    done = vote_often(voting, 80)
    ordinary = kinds(journal, done).count(PairKind.POOL)
    by_kind = {
        kind: {
            receipt.why
            for k, (_, receipt) in zip(kinds(journal, done), done, strict=True)
            if k is kind
        }
        for kind in PairKind
    }
    assert by_kind[PairKind.REPEAT] == {REPEATED}
    assert by_kind[PairKind.GOLD] == {KNOWN}
    assert by_kind[PairKind.POOL] == {None}
    assert journal.vote_count() == ordinary < 80
    assert journal.undelivered_count() == ordinary
    assert len(journal.undelivered_pairs(500)) == 80
    prepared = prepare_export(journal)
    assert prepared.counts.votes == ordinary
    trained = set(journal.pairs([e.pair_id for e in prepared.examples]))
    assert {pair.kind for pair in trained} == {PairKind.POOL}


def test_only_decided_votes_that_stand_are_asked_again(journal: Journal) -> None:
    add_pool(journal, 120)
    voting = Voting(journal, votes_per_pair=1, side_secret=SECRET, repeat_share=0.5)
    for choice in (Choice.TIE, Choice.BOTH_BAD, Choice.SKIP):
        vote_often(voting, 15, choice=choice)
    for _, receipt in vote_often(voting, 5):
        asyncio.run(voting.undo("ann", receipt.id))
    vote_often(voting, 20, choice=Choice.TIE)
    assert [pair for pair in journal.pairs() if pair.kind is PairKind.REPEAT] == []


def test_a_write_that_runs_twice_gives_the_same_check(journal: Journal, tmp_path: Path) -> None:
    add_pool(journal, 60)
    add_gold(journal, tmp_path, 20)
    voting = Voting(
        journal, votes_per_pair=1, side_secret=SECRET, repeat_share=0.25, gold_share=0.25
    )
    vote_often(voting, 20)
    checks = Checks(SECRET, 0.25, 0.25)
    kinds_seen = set()
    for _ in range(20):

        def twice(db):
            found = []
            for end in ("ROLLBACK TO again", "RELEASE again"):
                db.execute("SAVEPOINT again")
                found.append(
                    issue_pair(
                        db,
                        "ann",
                        votes_per_pair=1,
                        lease=LEASE,
                        max_open=4,
                        now=NOON,
                        checks=checks,
                    )
                )
                db.execute(end)
            return found

        first, second = on_writer(journal, twice)
        assert first == second
        kinds_seen.add(first.kind)
        journal.add_vote(make_vote(f"v-{first.id}", first.id)).result()
    assert kinds_seen == {PairKind.POOL, PairKind.REPEAT, PairKind.GOLD}


def test_drawing_a_check_reads_indexes_and_no_whole_table(journal: Journal) -> None:
    from annotation.journal.check_pairs import _CHECKS_GIVEN, _DECIDED, _GOLD, GIVEN

    values = {"voter": "ann", "between": 5}
    for sql in (GIVEN, _CHECKS_GIVEN, _GOLD, _DECIDED):
        plan = on_writer(
            journal,
            lambda db, sql=sql: [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)],
        )
        whole = [line for line in plan if line.startswith("SCAN") and "CONSTANT ROW" not in line]
        assert not whole, plan
        assert (sql != _GOLD) or "pairs_by_kind (kind=?)" in plan[0], plan


# Gold pairs


def test_gold_pairs_come_at_their_share_and_once_a_voter(journal: Journal, tmp_path: Path) -> None:
    add_pool(journal, 400)
    add_gold(journal, tmp_path, 100)
    voting = Voting(journal, votes_per_pair=1, side_secret=SECRET, gold_share=0.2)
    done = vote_often(voting, 300)
    seen = kinds(journal, done)
    # Binomial(297, .2): 59 on average, and three standard errors of 6.9.
    assert 38 <= seen.count(PairKind.GOLD) <= 80
    assert len({issued.id for issued, _ in done}) == 300
    assert PairKind.GOLD not in seen[:3]


def test_gold_pairs_run_out_and_voting_goes_on(journal: Journal, tmp_path: Path) -> None:
    add_pool(journal, 60)
    add_gold(journal, tmp_path, 3)
    voting = Voting(journal, votes_per_pair=1, side_secret=SECRET, gold_share=0.5)
    seen = kinds(journal, vote_often(voting, 60))
    assert (seen.count(PairKind.GOLD), seen.count(PairKind.POOL)) == (3, 57)


def test_checks_never_take_more_than_half_at_any_time(journal: Journal, tmp_path: Path) -> None:
    add_pool(journal, 300)
    add_gold(journal, tmp_path, 150)
    voting = Voting(journal, votes_per_pair=1, side_secret=SECRET, repeat_share=0.5, gold_share=0.5)
    seen = kinds(journal, vote_often(voting, 200))
    for count in range(1, 201):
        checks = sum(kind in (PairKind.GOLD, PairKind.REPEAT) for kind in seen[:count])
        assert checks <= MOST_CHECKS * count
    assert {PairKind.GOLD, PairKind.REPEAT} < set(seen)


def test_the_better_side_is_where_the_record_says(tmp_path: Path) -> None:
    rows = load_gold(write_gold(tmp_path, 200))
    pairs = gold_pairs(rows, SECRET, NOON)
    for row, pair in zip(rows, pairs, strict=True):
        assert pair.expected is not None
        preferred = pair.resolve(pair.expected, flipped=False)
        assert preferred is not None
        assert (preferred.chosen.text, preferred.rejected.text) == (row.better, row.worse)
        assert preferred.chosen.model.base == GOLD_MODEL
        assert preferred.chosen.model.base_revision == row.digest
    # Binomial(200, .5), three standard errors of 7.1.
    assert 79 <= sum(pair.expected is Choice.A for pair in pairs) <= 121
    assert [p.id for p in gold_pairs(rows, SECRET, NOON + timedelta(1))] == [p.id for p in pairs]
    assert not {p.id for p in gold_pairs(rows, b"another", NOON)} & {p.id for p in pairs}


def test_gold_rows_that_left_the_file_are_no_longer_asked(journal: Journal, tmp_path: Path) -> None:
    add_pool(journal, 60)
    all_ten = add_gold(journal, tmp_path, 10)
    kept = add_gold(journal, tmp_path, 2)
    assert {pair.id for pair in kept} < {pair.id for pair in all_ten}
    voting = Voting(journal, votes_per_pair=1, side_secret=SECRET, gold_share=0.5)
    seen = vote_often(voting, 30)
    given = {
        i.id for k, (i, _) in zip(kinds(journal, seen), seen, strict=True) if k is PairKind.GOLD
    }
    assert given == {pair.id for pair in kept}
    add_gold(journal, tmp_path, 10)  # and they come back with the file
    seen = vote_often(voting, 20, "bob")
    assert kinds(journal, seen).count(PairKind.GOLD) > 2


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not JSON"),
        ('["a"]', 'line 2: write {"prompt"'),
        ('{"prompt": "Q", "better": "x"}', 'line 2: write {"prompt"'),
        ('{"prompt": "Q", "better": "x", "worse": 3}', 'line 2: "worse" is no text'),
        ('{"prompt": "Q", "better": "", "worse": "y"}', 'line 2: "better" is no text'),
        ('{"prompt": "Q", "better": "x ", "worse": "x"}', "line 2: both answers are equal"),
        ('{"prompt": " ", "better": "x", "worse": "y"}', "line 2: the prompt is empty"),
        ('{"prompt": 7, "better": "x", "worse": "y"}', "line 2: the prompt is neither a text"),
        ('{"prompt": [{"role": "judge", "content": "Q"}], "better": "x", "worse": "y"}', "'judge'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = write_gold(tmp_path, 1)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(GoldError) as raised:
        load_gold(file)
    assert says in str(raised.value)
    assert str(raised.value).startswith(f"GOLD_PAIRS: {file}, line 2: ")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    with pytest.raises(GoldError, match=r"can't be read \(No such file"):
        load_gold(file)
    file.write_bytes(b'{"prompt": "Q"}\n\xff')
    with pytest.raises(GoldError, match="line 2: not UTF-8"):
        load_gold(file)
    file.write_text("\n\n")
    with pytest.raises(GoldError, match="holds no gold pair"):
        load_gold(file)


def test_gold_may_be_a_conversation(tmp_path: Path) -> None:
    file = tmp_path / "gold.jsonl"
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    file.write_text(json.dumps({"prompt": turns, "better": "Hi.", "worse": "Go\0"}))
    (row,) = load_gold(file)
    assert [message.role for message in row.prompt.messages] == ["system", "user"]
    assert row.worse == "Go\ufffd"
