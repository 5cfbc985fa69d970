"""An export told pair by pair says what all votes in memory say, in memory that stays flat."""

import hashlib
import json
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from test_export import BASE, MONDAY, TUNED, pair_of, prompts_of, vote_of

from annotation.export import sorted_hash
from annotation.export.export import (
    count_export,
    export_preferences,
    load_examples,
    prepare_export,
    sha256_of_votes,
)
from annotation.export.lines import from_line, to_line
from annotation.export.preferences import write_lines
from annotation.export.sorted_hash import SortedHash
from annotation.journal.journal import Journal
from annotation.journal.rows import connect
from annotation.quality import alpha
from annotation.quality.quality import (
    estimate_flip_rate,
    share_for_side_a,
    share_of_flags,
    went_to_longer,
)
from annotation.schema import (
    Choice,
    Completion,
    Message,
    Pair,
    PairKind,
    PreferenceExample,
    Prompt,
    Split,
    Vote,
    VoteSource,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3")
    yield opened
    opened.close()


def world(seed: int, count: int) -> tuple[list[Pair], list[Vote]]:
    """Pairs of all sorts with up to four votes of all sorts, those on checks among them."""
    drawn = random.Random(seed)
    pairs, votes = [], []
    for n in range(count):
        split = Split.EVAL if drawn.random() < 0.2 else Split.TRAIN
        prompt = Prompt.from_text(f"Ask {n} of {seed}, é?")
        while prompt.split is not split:
            prompt = Prompt.from_text(f"{prompt.messages[0].content} Say.")
        pair = pair_of(prompt, f"{drawn.getrandbits(64):x}-ü{n}")
        first, second = pair.completions
        first = replace(first, text=first.text + "!" * drawn.randint(0, 2))
        pair = replace(pair, completions=(first, second))
        if drawn.random() < 0.1:
            pair = replace(pair, kind=PairKind.GOLD, expected=Choice.A)
        elif drawn.random() < 0.1:
            pair = replace(pair, kind=PairKind.COMPARE)
        pairs.append(pair)
        for voter in drawn.sample(range(9), drawn.randint(0, 4)):
            choice = drawn.choices(list(Choice), (9, 5, 2, 1, 1))[0]
            source = VoteSource.SYNTHETIC if voter == 8 else VoteSource.PAGE
            vote = vote_of(pair.id, choice, f"v{voter}", flipped=drawn.random() < 0.5)
            votes.append(replace(vote, source=source, counted=drawn.random() < 0.9))
    return pairs, votes


def fill(journal: Journal, pairs: Sequence[Pair], votes: Sequence[Vote]) -> None:
    journal.add_pairs(pairs).result(10)
    stored: list[Future[Any]] = [journal.add_vote(vote) for vote in votes]
    for future in stored:
        future.result(10)


@pytest.mark.parametrize("seed", range(3))
def test_pair_by_pair_says_what_all_votes_at_once_say(
    journal: Journal, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_hash, "RUN", 50)
    pairs, cast = world(seed, 200)
    fill(journal, pairs, cast)
    by_id = {p.id: p for p in pairs if p.kind is PairKind.POOL}
    votes = [
        v
        for v in journal.votes()
        if v.counts and v.choice is not Choice.SKIP and v.pair_id in by_id
    ]
    export = export_preferences(journal, tmp_path / "out")
    prepared = prepare_export(journal)
    assert tuple(load_examples(export.directory)) == prepared.examples
    assert export.sha256 == prepared.sha256
    assert export.counts == prepared.counts == count_export(journal)
    assert export.votes_sha256 == sha256_of_votes(votes)
    assert (export.counts.votes, export.counts.voters) == (
        len(votes),
        len({v.voter for v in votes}),
    )
    assert [e.pair_id for e in prepared.examples] == sorted(e.pair_id for e in prepared.examples)
    measured = export.measured
    assert measured is not None
    assert measured.alpha == alpha.alpha_with_interval(votes)
    flips, to_a = estimate_flip_rate(votes), share_for_side_a(votes)
    longer = share_of_flags(went_to_longer(v, by_id[v.pair_id]) for v in votes)
    assert flips and to_a and longer and measured.flip_rate and measured.side_a and measured.longer
    assert (measured.flip_rate.value, measured.flip_rate.count) == (flips.rate, flips.pairs)
    assert (measured.side_a.value, measured.side_a.count) == (to_a.rate, to_a.total)
    assert (measured.longer.value, measured.longer.count) == (longer.rate, longer.total)
    assert (measured.longer.low, measured.longer.high) == (longer.low, longer.high)


def test_a_flip_rate_does_not_depend_on_the_order_of_votes() -> None:
    _, votes = world(5, 400)
    found = estimate_flip_rate(votes)
    assert found is not None
    for seed in range(5):
        assert estimate_flip_rate(random.Random(seed).sample(votes, len(votes))) == found


def test_a_line_has_the_bytes_that_json_gives_it() -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x11000), 0x1F408]))
    prompt = Prompt((Message("system", ""), Message("user", everything)))
    example = PreferenceExample(prompt, "c\u2028", everything, "p", 3, 2 / 3, BASE, TUNED, "length")
    for shown in (example, replace(example, agreement=1.0), replace(example, agreement=4 / 7)):
        row = {
            "prompt": [{"role": m.role, "content": m.content} for m in prompt.messages],
            "chosen": [{"role": "assistant", "content": shown.chosen}],
            "rejected": [{"role": "assistant", "content": shown.rejected}],
            "pair_id": "p",
            "votes": 3,
            "agreement": shown.agreement,
            "chosen_model": asdict(BASE),
            "rejected_model": asdict(TUNED),
            "chosen_finish": "length",
            "rejected_finish": "stop",
        }
        expected = json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
        assert to_line(shown) == expected.encode()
        assert from_line(expected) == shown


@pytest.mark.parametrize("run", [1, 7, 1000])
def test_the_hash_of_sorted_lines_needs_no_room_for_them(
    tmp_path: Path, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_hash, "RUN", run)
    drawn = random.Random(run)
    starts = "aé\uffff🐈 "
    lines = [f"{drawn.choice(starts)}{drawn.randint(0, 99)}\n" for _ in range(100)]
    kept = SortedHash(tmp_path)
    for line in lines:
        kept.add(line)
    assert kept.hexdigest() == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_draws_a_few_at_a_time_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    _, votes = world(7, 300)
    # Of three votes or fewer on a pair every number is whole, so that sums are exact.
    votes = [v for v in votes if v.voter < "v3" and v.choice is not Choice.SKIP]
    whole = alpha.alpha_with_interval(votes)
    for at_once in (1, 130, 999):
        monkeypatch.setattr(alpha, "_DRAWN_AT_ONCE", at_once)
        assert alpha.alpha_with_interval(votes) == whole


def test_an_export_is_of_one_commit(journal: Journal) -> None:
    pairs = [pair_of(p, f"p{n}") for n, p in enumerate(prompts_of(Split.TRAIN, 3))]
    fill(journal, pairs, [vote_of("p0", Choice.A), vote_of("p1", Choice.A)])
    reading = journal.pairs_with_votes()
    assert next(reading) == (pairs[0], [vote_of("p0", Choice.A)])
    journal.add_vote(vote_of("p2", Choice.A)).result(10)
    assert [pair.id for pair, _ in reading if pair] == ["p1"]
    assert [pair.id for pair, _ in journal.pairs_with_votes() if pair] == ["p0", "p1", "p2"]


def test_a_reading_that_is_given_up_holds_nothing_up(journal: Journal, tmp_path: Path) -> None:
    pairs = [pair_of(p, f"p{n}") for n, p in enumerate(prompts_of(Split.TRAIN, 2))]
    fill(journal, pairs, [vote_of("p0", Choice.A), vote_of("p1", Choice.A)])
    reading = journal.pairs_with_votes()
    next(reading)
    journal.undo_vote("p0-v0", voter="v0").result(10)
    reading.close()
    # No reader is left in the old commit: the WAL can be folded in whole.
    with closing(connect(tmp_path / "journal.sqlite3")) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    assert [pair.id for pair, _ in journal.pairs_with_votes() if pair] == ["p1"]


def test_memory_stays_flat(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sorted_hash, "RUN", 500)
    monkeypatch.setattr(alpha, "_DRAWN_AT_ONCE", 50_000)
    monkeypatch.setattr(alpha, "DRAWS", 100)
    prompts = prompts_of(Split.TRAIN, 2000)
    pairs = [
        Pair(
            f"p{n:04}",
            prompt,
            (Completion("x" * 4000, BASE, SAMPLING), Completion("y" * 4000, BASE, SAMPLING)),
            MONDAY,
        )
        for n, prompt in enumerate(prompts)
    ]
    fill(journal, pairs, [vote_of(p.id, Choice.A, f"v{n}") for p in pairs for n in range(2)])
    del pairs, prompts
    tracemalloc.start()
    try:
        contents = write_lines(journal, tmp_path / "train.jsonl", tmp_path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert contents.counts.examples == 2000
    # The texts alone are 16 MB, as is the file.
    assert (tmp_path / "train.jsonl").stat().st_size > 16_000_000
    assert most < 3_000_000


SAMPLING = pair_of(Prompt.from_text("x"), "x").completions[0].sampling
