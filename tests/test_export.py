"""Votes in a real journal become files: what counts as a preference, and the same bytes always."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from annotation.consent import note_licence
from annotation.export.card import export_card
from annotation.export.export import (
    ExportError,
    export_preferences,
    export_to_home,
    load_examples,
    load_export,
    prepare_export,
    write_about,
)
from annotation.export.preferences import Contents
from annotation.journal.journal import Journal
from annotation.schema import (
    Choice,
    Completion,
    Message,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Sampling,
    Split,
    Vote,
    VoteSource,
)
from annotation.whole_files import draft_folder
from tests.journal_parts import on_writer

BASE = ModelRef("base/model", "c" * 40)
TUNED = ModelRef("base/model", "c" * 40, "dpo-run", "d" * 40)
MONDAY = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def prompts_of(split: Split, count: int) -> list[Prompt]:
    every = (Prompt.from_text(f"What is thing number {n}?") for n in range(10_000))
    matching = (prompt for prompt in every if prompt.split is split)
    return [next(matching) for _ in range(count)]


def pair_of(prompt: Prompt, pair_id: str) -> Pair:
    first = Completion(f"First answer to {pair_id}.", BASE, Sampling(seed=1))
    second = Completion(f"Second answer to {pair_id}.", TUNED, Sampling(seed=2))
    return Pair(pair_id, prompt, (first, second), MONDAY)


def vote_of(pair_id: str, choice: Choice, voter: str = "v0", **more: object) -> Vote:
    vote = Vote(f"{pair_id}-{voter}", pair_id, voter, choice, flipped=False, created_at=MONDAY)
    return replace(vote, **more)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3")
    yield opened
    opened.close()


def fill(journal: Journal, pairs: Sequence[Pair], votes: Sequence[Vote]) -> None:
    journal.add_pairs(pairs).result(10)
    for vote in votes:
        journal.add_vote(vote).result(10)


def one_pair(journal: Journal, *choices: Choice) -> None:
    votes = [vote_of("p", choice, f"v{n}") for n, choice in enumerate(choices)]
    fill(journal, [pair_of(prompts_of(Split.TRAIN, 1)[0], "p")], votes)


def test_the_card_says_what_chose_the_pairs(journal: Journal, tmp_path: Path) -> None:
    prompts = prompts_of(Split.TRAIN, 4)
    pairs = [pair_of(prompt, f"p{n}") for n, prompt in enumerate(prompts)]
    for n in (1, 2):
        farthest = (
            replace(c, sampling=replace(c.sampling, chosen_by="edit_distance"))
            for c in pairs[n].completions
        )
        pairs[n] = replace(pairs[n], completions=tuple(farthest))
    # Nobody votes on the last: it is no part of the dataset.
    fill(journal, pairs, [vote_of(f"p{n}", Choice.TIE) for n in range(3)])
    assert journal.pairs()[1] == pairs[1]
    export = export_preferences(journal, tmp_path / "export")
    card = (export.directory / "README.md").read_text()
    assert (
        "\nWhich answers to a prompt were shown: the first two different ones (1 pair); "
        "of up to four the two farthest apart in words (2 pairs).\n"
    ) in card


def test_a_pair_from_before_strategies_was_chosen_at_random(journal: Journal) -> None:
    one_pair(journal, Choice.A)
    forget = "UPDATE pairs SET first = json_remove(first, '$.sampling.chosen_by')"
    on_writer(journal, lambda db: db.execute(forget))
    (pair,) = journal.pairs()
    assert pair.completions[0].sampling.chosen_by == "random"


def test_a_vote_for_the_first_side_prefers_the_first_completion(journal: Journal) -> None:
    one_pair(journal, Choice.A)
    (example,) = prepare_export(journal).examples
    assert (example.chosen, example.rejected) == ("First answer to p.", "Second answer to p.")
    assert (example.chosen_model, example.rejected_model) == (BASE, TUNED)
    assert (example.votes, example.agreement) == (1, 1.0)


def test_swapping_sides_keeps_chosen(journal: Journal) -> None:
    (prompt,) = prompts_of(Split.TRAIN, 1)
    # Side a of a flipped voter is the pair's second completion.
    fill(journal, [pair_of(prompt, "p")], [vote_of("p", Choice.A, flipped=True)])
    (example,) = prepare_export(journal).examples
    assert example.chosen == "Second answer to p."


@pytest.mark.parametrize("flipped", [False, True])
def test_an_answer_cut_at_the_limit_says_so_on_its_side(
    journal: Journal, tmp_path: Path, flipped: bool
) -> None:
    pair = pair_of(prompts_of(Split.TRAIN, 1)[0], "p")
    cut = replace(pair.completions[1], finish="length")
    pair = replace(pair, completions=(pair.completions[0], cut))
    fill(journal, [pair], [vote_of("p", Choice.A, flipped=flipped)])
    (example,) = load_examples(export_preferences(journal, tmp_path / "out").directory)
    finishes = (example.chosen_finish, example.rejected_finish)
    # Side a is the second completion, the cut one, for a flipped voter.
    assert finishes == (("length", "stop") if flipped else ("stop", "length"))


def test_an_export_from_before_the_finish_columns_loads(journal: Journal, tmp_path: Path) -> None:
    one_pair(journal, Choice.A)
    directory = export_preferences(journal, tmp_path / "out").directory
    row = json.loads((directory / "train.jsonl").read_text())
    del row["chosen_finish"], row["rejected_finish"]
    older = (json.dumps(row) + "\n").encode()
    (directory / "train.jsonl").write_bytes(older)
    manifest = json.loads((directory / "dataset.json").read_text())
    manifest["sha256"] = hashlib.sha256(older).hexdigest()
    (directory / "dataset.json").write_text(json.dumps(manifest))
    (example,) = load_examples(directory)
    assert (example.chosen_finish, example.rejected_finish) == ("stop", "stop")


def test_no_check_and_nothing_unapproved_is_ever_exported(journal: Journal) -> None:
    own, *prompts = prompts_of(Split.TRAIN, 5)
    pairs = [
        replace(pair_of(own, "own"), kind=PairKind.OWN, author="v0"),
        replace(pair_of(prompts[0], "wait"), kind=PairKind.OWN, author="v0", only_for="v0"),
        replace(pair_of(prompts[1], "gold"), kind=PairKind.GOLD, expected=Choice.A),
        replace(pair_of(own, "again"), kind=PairKind.REPEAT, repeats="own", only_for="v0"),
    ]
    fill(journal, pairs, [vote_of(pair.id, Choice.A) for pair in pairs])
    for _ in range(2):
        prepared = prepare_export(journal)
        assert [example.pair_id for example in prepared.examples] == ["own"]
        assert (prepared.counts.votes, prepared.counts.pairs_voted) == (1, 1)
        # The same where such a vote has come to count in whatever way.
        on_writer(journal, lambda db: db.execute("UPDATE votes SET counted = 1"))


def test_the_card_explains_every_column(journal: Journal, tmp_path: Path) -> None:
    one_pair(journal, Choice.A)
    directory = export_preferences(journal, tmp_path / "out").directory
    card = (directory / "README.md").read_text()
    for column in json.loads((directory / "train.jsonl").read_text()):
        assert f"`{column}`" in card
    assert "made before that can't be called back" in card


@pytest.mark.parametrize(
    ("choices", "votes", "agreement"),
    [
        ((Choice.A, Choice.A, Choice.B), 3, 2 / 3),
        ((Choice.A, Choice.A, Choice.TIE), 3, 1.0),
        ((Choice.A, Choice.A, Choice.A, Choice.B), 4, 3 / 4),
    ],
)
def test_the_majority_is_preferred_with_its_agreement(
    journal: Journal, choices: tuple[Choice, ...], votes: int, agreement: float
) -> None:
    one_pair(journal, *choices)
    (example,) = prepare_export(journal).examples
    assert example.chosen == "First answer to p."
    assert (example.votes, example.agreement) == (votes, agreement)


@pytest.mark.parametrize(
    ("choices", "fate"),
    [
        ((Choice.TIE,), "ties"),
        ((Choice.TIE, Choice.TIE, Choice.A), "ties"),
        ((Choice.BOTH_BAD,), "both_bad"),
        ((Choice.A, Choice.B), "conflicts"),
        ((Choice.A, Choice.TIE), "conflicts"),
        ((Choice.A, Choice.B, Choice.TIE), "conflicts"),
        ((Choice.A, Choice.A, Choice.B, Choice.TIE), "conflicts"),
    ],
)
def test_ties_both_bad_and_even_splits_are_counted_and_never_preferred(
    journal: Journal, choices: tuple[Choice, ...], fate: str
) -> None:
    one_pair(journal, *choices)
    prepared = prepare_export(journal)
    assert prepared.examples == ()
    fates = {name: getattr(prepared.counts, name) for name in ("ties", "both_bad", "conflicts")}
    assert fates == {"ties": 0, "both_bad": 0, "conflicts": 0} | {fate: 1}


def test_skipped_uncounted_and_undone_votes_are_out(journal: Journal) -> None:
    pairs = [pair_of(p, f"p{n}") for n, p in enumerate(prompts_of(Split.TRAIN, 4))]
    votes = [
        vote_of("p0", Choice.SKIP),
        vote_of("p1", Choice.A, counted=False, why="too fast to have read it"),
        vote_of("p2", Choice.A),
        vote_of("p3", Choice.B),
    ]
    fill(journal, pairs, votes)
    journal.undo_vote("p2-v0", voter="v0").result(10)
    prepared = prepare_export(journal)
    assert [example.pair_id for example in prepared.examples] == ["p3"]
    assert (prepared.counts.votes, prepared.counts.pairs_voted) == (1, 1)


def test_eval_prompt_never_exported(journal: Journal, tmp_path: Path) -> None:
    (held_out,) = prompts_of(Split.EVAL, 1)
    (open_prompt,) = prompts_of(Split.TRAIN, 1)
    pairs = [pair_of(held_out, "held"), pair_of(open_prompt, "open")]
    fill(journal, pairs, [vote_of("held", Choice.A), vote_of("open", Choice.A)])
    export = export_preferences(journal, tmp_path / "out")
    assert [e.pair_id for e in load_examples(export.directory)] == ["open"]
    assert export.counts.eval_left_out == 1
    written = b"".join(file.read_bytes() for file in export.directory.iterdir())
    assert held_out.messages[0].content.encode() not in written


def test_every_voted_pair_has_one_fate(journal: Journal) -> None:
    pairs = [pair_of(p, f"t{n}") for n, p in enumerate(prompts_of(Split.TRAIN, 4))]
    pairs += [pair_of(p, f"e{n}") for n, p in enumerate(prompts_of(Split.EVAL, 2))]
    votes = [
        vote_of("t0", Choice.A),
        vote_of("t1", Choice.TIE),
        vote_of("t2", Choice.BOTH_BAD, source=VoteSource.SYNTHETIC),
        vote_of("t3", Choice.A, "v1"),
        vote_of("t3", Choice.B, "v2"),
        vote_of("e0", Choice.A),
        vote_of("e1", Choice.TIE),
    ]
    fill(journal, pairs, votes)
    counts = prepare_export(journal).counts
    assert (counts.votes, counts.voters, counts.synthetic_votes) == (7, 3, 1)
    assert (counts.examples, counts.ties, counts.both_bad) == (1, 1, 1)
    assert (counts.conflicts, counts.eval_left_out, counts.pairs_voted) == (1, 2, 6)


def test_the_same_votes_give_the_same_bytes_in_any_order_on_any_day(tmp_path: Path) -> None:
    pairs = [pair_of(p, f"p{n:02d}") for n, p in enumerate(prompts_of(Split.TRAIN, 12))]
    votes = [
        vote_of(pair.id, choice, f"v{n}")
        for pair in pairs
        for n, choice in enumerate((Choice.A, Choice.B, Choice.B))
    ]
    files: list[dict[str, bytes]] = []
    for seed in range(3):
        shuffled = random.Random(seed)
        later = [replace(v, created_at=MONDAY + timedelta(days=seed)) for v in votes]
        journal = Journal(tmp_path / f"journal-{seed}")
        fill(journal, shuffled.sample(pairs, len(pairs)), shuffled.sample(later, len(later)))
        export = export_preferences(journal, tmp_path / f"out-{seed}")
        journal.close()
        files.append({f.name: f.read_bytes() for f in export.directory.iterdir()})
    assert files[0] == files[1] == files[2]
    assert set(files[0]) == {"train.jsonl", "dataset.json", "README.md"}
    assert [json.loads(x)["pair_id"] for x in files[0]["train.jsonl"].splitlines()] == [
        p.id for p in pairs
    ]


def test_lines_are_trls_explicit_prompt_conversations(journal: Journal, tmp_path: Path) -> None:
    one_pair(journal, Choice.A)
    directory = export_preferences(journal, tmp_path / "out").directory
    row = json.loads((directory / "train.jsonl").read_text())
    assert row["prompt"][-1] == {"role": "user", "content": row["prompt"][-1]["content"]}
    assert row["chosen"] == [{"role": "assistant", "content": "First answer to p."}]
    assert row["rejected"] == [{"role": "assistant", "content": "Second answer to p."}]


def test_export_then_load_loses_nothing(journal: Journal, tmp_path: Path) -> None:
    # A system turn, a line separator and an emoji: what a careless reader of lines would break.
    odd = (Message("system", "Be brief."), Message("user", "Zeile\u2028zwei\nund 🐈 drei"))
    prompt = next(
        p
        for n in range(1000)
        if (p := Prompt((odd[0], Message("user", f"{odd[1].content} {n}")))).split is Split.TRAIN
    )
    fill(
        journal, [pair_of(prompt, "p")], [vote_of("p", c, f"v{c}") for c in (Choice.A, Choice.TIE)]
    )
    journal.add_vote(vote_of("p", Choice.A, "v9")).result(10)
    prepared = prepare_export(journal)
    export = export_preferences(journal, tmp_path / "out")
    assert tuple(load_examples(export.directory)) == prepared.examples
    assert load_export(export.directory) == export


def test_the_hash_is_of_the_file_and_a_changed_file_is_refused(
    journal: Journal, tmp_path: Path
) -> None:
    one_pair(journal, Choice.A)
    export = export_preferences(journal, tmp_path / "out")
    file = export.directory / "train.jsonl"
    assert export.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_bytes(file.read_bytes().replace(b"First", b"Other"))
    with pytest.raises(ExportError, match="changed after the export"):
        load_examples(export.directory)


def test_a_foreign_folder_is_refused_and_untouched(journal: Journal, tmp_path: Path) -> None:
    one_pair(journal, Choice.A)
    foreign = tmp_path / "letters"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("dear")
    with pytest.raises(ExportError, match="not empty"):
        export_preferences(journal, foreign)
    assert [f.name for f in foreign.iterdir()] == ["letter.txt"]
    somebody = tmp_path / "somebodys"
    somebody.mkdir()
    (somebody / "dataset.json").write_text('{"kind": "something else"}')
    with pytest.raises(ExportError, match="not empty"):
        export_preferences(journal, somebody)
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".export")] == []


def test_a_file_added_to_an_export_is_never_lost(journal: Journal, tmp_path: Path) -> None:
    one_pair(journal, Choice.A)
    directory = export_preferences(journal, tmp_path / "out").directory
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"notes\.txt"):
        export_preferences(journal, directory)
    assert (directory / "notes.txt").read_text() == "mine"


def test_a_path_that_is_a_file_is_one_clear_line(journal: Journal, tmp_path: Path) -> None:
    one_pair(journal, Choice.A)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ExportError) as caught:
            export_preferences(journal, path)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "x"


def test_an_earlier_export_is_replaced_whole(journal: Journal, tmp_path: Path) -> None:
    one_pair(journal, Choice.A)
    first = export_preferences(journal, tmp_path / "out")
    journal.undo_vote("p-v0", voter="v0").result(10)
    second = export_preferences(journal, tmp_path / "out")
    assert (first.examples, second.examples) == (1, 0)
    assert load_examples(tmp_path / "out") == []


def test_an_export_that_cannot_take_its_place_leaves_the_earlier_one(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_pair(journal, Choice.A)
    earlier = export_preferences(journal, tmp_path / "out")
    journal.undo_vote("p-v0", voter="v0").result(10)
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        # The earlier one is out of the way by then.
        if self.name == "new" and not target.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(ExportError, match="No space left"):
        export_preferences(journal, tmp_path / "out")
    assert load_export(tmp_path / "out") == earlier
    assert len(load_examples(tmp_path / "out")) == 1
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".export")] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from annotation.export.export import export_preferences
from annotation.journal.journal import JournalReader

rename = Path.rename

def until_the_last(self, target):
    if self.name == "new" and not target.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)

Path.rename = until_the_last
export_preferences(JournalReader(Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_an_export_killed_as_it_took_its_place_is_swept_up_and_the_earlier_one_is_back(
    journal: Journal, tmp_path: Path
) -> None:
    one_pair(journal, Choice.A)
    earlier = export_preferences(journal, tmp_path / "out")
    journal.undo_vote("p-v0", voter="v0").result(10)
    command = [sys.executable, "-c", KILLED, tmp_path / "journal.sqlite3", tmp_path / "out"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    running = draft_folder(tmp_path, "export")
    running.mkdir()
    export_preferences(journal, tmp_path / "another")
    assert load_export(tmp_path / "out") == earlier
    assert [f for f in tmp_path.iterdir() if f.name.startswith(".export")] == [running]


@pytest.mark.parametrize(
    "change", [{"counts": None}, {"counts": {"votes": 1}}, {"sha256": None}, {"measured": [1]}]
)
def test_a_dataset_json_that_says_too_little_is_one_line(
    journal: Journal, tmp_path: Path, change: dict[str, object]
) -> None:
    one_pair(journal, Choice.A)
    directory = export_preferences(journal, tmp_path / "out").directory
    file = directory / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ExportError) as caught:
        load_examples(directory)
    assert "dataset.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["{}", "[]", '{"prompt": ', '{"prompt": [{"role": "user"}]}'])
def test_a_line_that_is_no_preference_is_named(journal: Journal, tmp_path: Path, line: str) -> None:
    one_pair(journal, Choice.A)
    directory = export_preferences(journal, tmp_path / "out").directory
    data = (directory / "train.jsonl").read_bytes() + f"{line}\n".encode()
    (directory / "train.jsonl").write_bytes(data)
    told = json.loads((directory / "dataset.json").read_text())
    told["sha256"] = hashlib.sha256(data).hexdigest()
    (directory / "dataset.json").write_text(json.dumps(told))
    with pytest.raises(ExportError, match=r"Line 2 of .*train\.jsonl") as caught:
        load_examples(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("examples", "category"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (1_000_000, "1M<n<10M"),
        (123_456_789, "100M<n<1B"),
    ],
)
def test_the_card_names_the_size_that_the_hub_has_for_it(
    examples: int, category: str, journal: Journal, tmp_path: Path
) -> None:
    export = export_preferences(journal, tmp_path / "out")
    assert export.measured is not None
    card = export_card(
        replace(export.counts, examples=examples),
        export.sha256,
        ("CC0-1.0",),
        measured=export.measured,
        votes_sha256=str(export.votes_sha256),
        chosen_by={},
    )
    assert f"size_categories:\n- {category}\n" in card


def test_the_home_keeps_exports_by_hash(journal: Journal, tmp_path: Path) -> None:
    one_pair(journal, Choice.A)
    export = export_to_home(journal, tmp_path)
    assert export.directory == tmp_path / "exports" / export.sha256[:12]
    assert export_to_home(journal, tmp_path) == export


def test_the_same_votes_leave_an_export_as_it_is_for_who_reads_it(
    journal: Journal, tmp_path: Path
) -> None:
    one_pair(journal, Choice.A)
    directory = export_to_home(journal, tmp_path).directory
    written = directory.stat().st_ino
    export_to_home(journal, tmp_path)
    assert directory.stat().st_ino == written
    for name in ("train.jsonl", "README.md"):
        (directory / name).unlink()
        assert load_examples(export_to_home(journal, tmp_path).directory)
        changed = (directory / "train.jsonl").read_bytes().replace(b"First", b"Other")
        (directory / "train.jsonl").write_bytes(changed)
        assert load_examples(export_to_home(journal, tmp_path).directory)


def test_two_first_exports_at_once_are_one(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer's files are in place before ours are: they stay, and are what we return."""
    one_pair(journal, Choice.A)
    other = []

    def overtaken(contents: Contents, directory: Path) -> None:
        if not other:
            other.append(None)
            other[0] = export_to_home(journal, tmp_path)
            other.append(other[0].directory.stat().st_ino)
        write_about(contents, directory)

    monkeypatch.setattr("annotation.export.export.write_about", overtaken)
    assert export_to_home(journal, tmp_path) == other[0]
    assert other[0].directory.stat().st_ino == other[1]
    assert list(other[0].directory.parent.iterdir()) == [other[0].directory]


def test_the_card_says_synthetic_only_when_so(journal: Journal, tmp_path: Path) -> None:
    pairs = [pair_of(p, f"p{n}") for n, p in enumerate(prompts_of(Split.TRAIN, 2))]
    fill(journal, pairs, [vote_of("p0", Choice.A)])
    people = export_preferences(journal, tmp_path / "people").directory
    assert "synthetic" not in (people / "README.md").read_text().lower()
    assert json.loads((people / "dataset.json").read_text())["synthetic"] is False
    journal.add_vote(vote_of("p1", Choice.A, source=VoteSource.SYNTHETIC)).result(10)
    mixed = export_preferences(journal, tmp_path / "mixed").directory
    assert "1 of 2 votes are synthetic" in (mixed / "README.md").read_text()
    assert json.loads((mixed / "dataset.json").read_text())["synthetic"] is True


def test_no_voter_is_named_in_an_export(journal: Journal, tmp_path: Path) -> None:
    (prompt,) = prompts_of(Split.TRAIN, 1)
    fill(journal, [pair_of(prompt, "p")], [vote_of("p", Choice.A, "anon-0123456789abcdef")])
    directory = export_preferences(journal, tmp_path / "out").directory
    assert b"anon-" not in b"".join(f.read_bytes() for f in directory.iterdir())


def test_an_empty_journal_gives_an_empty_dataset(journal: Journal, tmp_path: Path) -> None:
    export = export_preferences(journal, tmp_path / "out")
    assert export.examples == 0
    assert load_examples(export.directory) == []
    with pytest.raises(ExportError, match="no export"):
        load_examples(tmp_path)


def test_the_card_names_every_licence_that_voters_were_told(
    journal: Journal, tmp_path: Path
) -> None:
    def card() -> str:
        export_preferences(journal, tmp_path / "out")
        return (tmp_path / "out" / "README.md").read_text()

    assert "license: apache-2.0" in card()
    note_licence(journal, "CC-BY-4.0")
    assert "license: cc-by-4.0" in card()
    assert "CC-BY-4.0 for the votes and their arrangement. The answers" in card()
    note_licence(journal, "CC0-1.0")
    note_licence(journal, "CC-BY-4.0")
    assert "license: other" in card()
    assert "CC-BY-4.0 and CC0-1.0 for the votes and their arrangement: by the time" in card()
