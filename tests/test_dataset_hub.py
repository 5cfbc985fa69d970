"""The preference dataset goes to the Hub in one commit, once, and comes back equal."""

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub_double import READER, WRITER, HubDouble, point_client
from huggingface_hub import HfApi
from small_files import write_model
from test_export import fill, pair_of, prompts_of, vote_of

from alignment.base import ResolvedBase
from alignment.pipeline import Pipeline
from alignment.runs.recipes import TrainingOptions
from alignment.runs.runs import Runs
from alignment.settings import AlignmentSettings
from annotation.consent import note_licence
from annotation.export.card import describe_alpha
from annotation.export.export import (
    Export,
    export_to_home,
    live_votes,
    sha256_of_votes,
    votes_behind,
)
from annotation.home import Home
from annotation.hub.dataset import (
    DatasetError,
    PublishedDataset,
    fetch_dataset,
    find_published,
    publish_dataset,
    published_datasets,
)
from annotation.journal.deletion import was_published
from annotation.journal.journal import Journal
from annotation.quality.alpha import alpha_with_interval
from annotation.quality.quality import krippendorff_alpha
from annotation.schema import Choice, ModelRef, Split, Vote

STEPS = (
    "POST /api/repos/create",
    "POST /api/validate-yaml",
    "POST /api/datasets/ada/votes/preupload",
    "POST /api/datasets/ada/votes/commit/main",
    "GET /api/datasets/ada/votes$",
)
ONCE = ["initial commit", "Add 2 preferences, sha256 "]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Two preferences and a tie: three voters on the first pair, one voter on the others."""
    (tmp_path / "home").mkdir()
    opened = Journal(tmp_path / "home" / "journal.sqlite3")
    pairs = [pair_of(p, f"p{n}") for n, p in enumerate(prompts_of(Split.TRAIN, 3))]
    votes = [vote_of("p0", choice, f"v{n}") for n, choice in enumerate("aab")]
    votes = [replace(v, choice=Choice(v.choice)) for v in votes]
    votes += [vote_of("p1", Choice.B, "v0"), vote_of("p2", Choice.TIE, "v0")]
    fill(opened, pairs, votes)
    yield opened
    opened.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def export(journal: Journal, home: Path) -> Export:
    return export_to_home(journal, home)


def publish(
    export: Export, home: Path, repo: str = "ada/votes", token: str | None = WRITER, **more
) -> PublishedDataset:
    naps: list[float] = []
    done = publish_dataset(export, home=home, repo=repo, token=token, sleep=naps.append, **more)
    assert sum(naps) <= 120
    return done


def titles(hub: HubDouble) -> list[str]:
    return [re.sub("[0-9a-f]{12}$", "", c.title) for c in hub.repo("ada/votes", "datasets").commits]


def card(hub: HubDouble) -> str:
    return hub.repo("ada/votes", "datasets").head.files["README.md"].data.decode()


def test_one_commit_holds_the_three_files_of_the_export(
    hub_double: HubDouble, export: Export, home: Path
) -> None:
    done = publish(export, home)
    repo = hub_double.repo("ada/votes", "datasets")
    assert titles(hub_double) == ONCE
    assert (repo.head.oid, repo.private) == (done.commit, False)
    held = {name: blob.data for name, blob in repo.head.files.items() if name[0] != "."}
    assert held == {f.name: f.read_bytes() for f in export.directory.iterdir()}
    assert done.url == f"{hub_double.endpoint}/datasets/ada/votes/tree/{done.commit}"
    assert (done.sha256, done.votes_sha256) == (export.sha256, export.votes_sha256)


def test_publishing_again_pushes_nothing(hub_double: HubDouble, export: Export, home: Path) -> None:
    first = publish(export, home)
    assert publish(export, home) == first
    assert titles(hub_double) == ONCE
    assert published_datasets(home) == [first]


LOAD = """
import json, sys
from datasets import load_dataset
loaded = load_dataset(sys.argv[1], revision=sys.argv[2])
print(json.dumps({split: list(rows) for split, rows in loaded.items()}))
"""


def test_load_dataset_gives_it_back_equal(
    hub_double: HubDouble, export: Export, home: Path, tmp_path: Path
) -> None:
    done = publish(export, home)
    told = subprocess.run(
        [sys.executable, "-c", LOAD, done.repo, done.commit],
        env=hub_double.environment(tmp_path / "stranger"),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    lines = (export.directory / "train.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(told.stdout) == {"train": [json.loads(line) for line in lines]}


def test_a_fetched_dataset_is_the_export(
    hub_double: HubDouble, export: Export, home: Path, tmp_path: Path
) -> None:
    done = publish(export, home)
    there = tmp_path / "elsewhere" / "dataset"
    found = fetch_dataset(done.repo, done.commit, there, sha256=export.sha256, token=None)
    assert replace(found, directory=export.directory) == export
    assert sorted(f.name for f in there.iterdir()) == ["README.md", "dataset.json", "train.jsonl"]


@pytest.mark.parametrize(
    ("repo", "commit", "sha256", "says"),
    [
        ("ada/nothing", "head", None, "the Hub has no such repository"),
        ("ada/votes", "0" * 40, None, "there is no such revision"),
        ("ada/votes", "head", "e" * 64, "and eeeeeeeeeeee was wanted"),
    ],
)
def test_a_dataset_that_is_not_the_one_leaves_nothing(
    hub_double: HubDouble,
    export: Export,
    home: Path,
    tmp_path: Path,
    repo: str,
    commit: str,
    sha256: str | None,
    says: str,
) -> None:
    done = publish(export, home)
    commit = done.commit if commit == "head" else commit
    with pytest.raises(DatasetError, match=says) as caught:
        fetch_dataset(
            repo, commit, tmp_path / "out" / "d", sha256=sha256 or export.sha256, token=None
        )
    assert "\n" not in str(caught.value)
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_file_changed_there_is_not_taken_for_the_dataset(
    hub_double: HubDouble, export: Export, home: Path, tmp_path: Path
) -> None:
    publish(export, home)
    HfApi(token=WRITER).upload_file(
        path_or_fileobj=b'{"prompt": []}\n',
        path_in_repo="train.jsonl",
        repo_id="ada/votes",
        repo_type="dataset",
    )
    head = hub_double.repo("ada/votes", "datasets").head.oid
    with pytest.raises(DatasetError, match="it was changed after the export"):
        fetch_dataset("ada/votes", head, tmp_path / "d", sha256=export.sha256, token=None)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("step", "status"),
    [*((step, 503) for step in STEPS), *(("/commit/main", s) for s in (409, 412, 429, 500))],
)
def test_a_passing_fault_at_any_step_is_tried_again(
    hub_double: HubDouble,
    export: Export,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    status: int,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _s: None)
    hub_double.fail(step, status)
    publish(export, home)
    assert [f.times for f in hub_double.faults] == [0], "the fault was met"
    assert titles(hub_double) == ONCE


@pytest.mark.parametrize("after", [False, True], ids=["lost request", "lost answer"])
@pytest.mark.parametrize("step", STEPS)
def test_a_torn_connection_at_any_step_leaves_one_commit(
    hub_double: HubDouble,
    export: Export,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    after: bool,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _s: None)
    hub_double.tear(step, after=after)
    publish(export, home)
    assert [f.times for f in hub_double.faults] == [0], "the fault was met"
    assert titles(hub_double) == ONCE


def test_a_torn_upload_leaves_no_commit_and_no_token_with_the_storage(
    hub_double: HubDouble, export: Export, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _s: None)
    # A file of 10 MB or more goes to the storage host, as every one does here.
    monkeypatch.setattr("hub_double.LFS_NAMES", (".jsonl",))
    hub_double.tear("PUT /put/", times=999)
    with pytest.raises(DatasetError, match="until then it is in") as caught:
        publish(export, home)
    assert "\n" not in str(caught.value)
    assert titles(hub_double) == ["initial commit"]
    assert published_datasets(home) == []
    hub_double.faults.clear()
    publish(export, home)
    assert titles(hub_double) == ONCE
    stored = [r for r in hub_double.requests if r.host == "localhost"]
    assert stored
    assert all(r.authorization is None for r in stored)


def test_a_gitignore_there_that_leaves_a_file_out_is_noticed(
    hub_double: HubDouble, export: Export, home: Path
) -> None:
    hub_double.add_repo("ada/votes", {".gitignore": b"*.log\ntrain.jsonl\n"}, kind="datasets")
    with pytest.raises(DatasetError, match=r"train\.jsonl did not arrive"):
        publish(export, home)
    assert published_datasets(home) == []


@pytest.mark.parametrize(
    ("repo", "token", "says"),
    [
        ("ada/votes", None, "nothing is published: set HF_TOKEN"),
        ("ada/votes", "hf_nobody_knows_this_token_at_all", "the Hub refused HF_TOKEN"),
        ("ada/votes", READER, "HF_TOKEN lacks the permission"),
        ("a b", WRITER, "is no name for a repository"),
        ("", WRITER, "is no name for a repository"),
    ],
)
def test_what_cannot_be_published_gets_one_line(
    hub_double: HubDouble, export: Export, home: Path, repo: str, token: str | None, says: str
) -> None:
    with pytest.raises(DatasetError, match=says) as caught:
        publish(export, home, repo, token)
    assert "\n" not in str(caught.value)
    assert not token or token not in str(caught.value)
    assert hub_double.repos == {}


def test_no_network_is_one_line(
    export: Export, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_client(monkeypatch, "http://127.0.0.1:9", tmp_path / "other-cache")
    with pytest.raises(DatasetError, match="the connection to the Hub failed: try again online"):
        publish(export, home)


def test_nothing_to_publish_is_one_line(hub_double: HubDouble, home: Path) -> None:
    home.mkdir()
    journal = Journal(home / "empty.sqlite3")
    with pytest.raises(DatasetError, match="no preference example yet"):
        publish(export_to_home(journal, home), home)
    journal.close()
    assert hub_double.requests == []


def test_ids_mean_the_same_in_any_case(hub_double: HubDouble, export: Export, home: Path) -> None:
    first = publish(export, home)
    assert publish(export, home, "Ada/Votes") == first
    assert publish(export, home, "votes", namespace="ada") == first


def test_a_run_pins_the_commit_of_a_published_dataset(
    hub_double: HubDouble, export: Export, home: Path, tmp_path: Path
) -> None:
    base = ResolvedBase(
        ModelRef("ada/chat", "c" * 40), write_model(tmp_path / "m"), is_starter=False, notice=None
    )

    class Nowhere:
        """A place that takes a run and never does anything."""

        def check(self, spec) -> None: ...

        def spawn(self, folder):
            from alignment.places.place import Handle

            return Handle(None, None)

        def is_alive(self, folder, status) -> bool:
            return False

        def end(self, folder, status) -> None: ...

    def started():
        runs = Runs(home, {"here": Nowhere()})
        return runs.start(TrainingOptions("dpo"), base=base, export=export, min_examples=2).spec

    before = started()
    assert (before.dataset_repo, before.dataset_commit) == (None, None)
    assert before.votes_sha256 == export.votes_sha256
    done = publish(export, home)
    after = started()
    assert (after.dataset_repo, after.dataset_commit) == ("ada/votes", done.commit)


def test_other_votes_are_another_dataset(
    hub_double: HubDouble, journal: Journal, export: Export, home: Path
) -> None:
    done = publish(export, home)
    assert find_published(home, export) == done
    # A second voter's tie changes no preference, and yet it is other votes that say so.
    journal.add_vote(vote_of("p2", Choice.TIE, "v1")).result(10)
    more = export_to_home(journal, home)
    assert more.sha256 == export.sha256
    assert find_published(home, more) is None


def test_the_votes_behind_an_export_are_found_again(
    journal: Journal, export: Export, home: Path
) -> None:
    assert sha256_of_votes(live_votes(journal)) == export.votes_sha256
    journal.add_vote(vote_of("p1", Choice.A, "v7", created_at=later())).result(10)
    found = votes_behind(journal, export)
    assert found is not None
    assert len(found) == 5
    journal.undo_vote("p0-v0", voter="v0").result(10)
    assert votes_behind(journal, export) is None


def later():
    from test_export import MONDAY, timedelta

    return MONDAY + timedelta(days=1)


def test_the_home_notes_that_votes_were_published(
    hub_double: HubDouble, journal: Journal, home: Path, tmp_path: Path
) -> None:
    base = ResolvedBase(ModelRef("ada/chat", "c" * 40), tmp_path, is_starter=False, notice=None)
    pipeline = Pipeline(Home(home), AlignmentSettings(hf_token=WRITER), base, journal)
    assert not was_published(journal)
    done = pipeline.publish_dataset("ada/votes", private=True)
    assert was_published(journal)
    assert hub_double.repo("ada/votes", "datasets").private
    assert find_published(home, export_to_home(journal, home)) == done


def test_the_card_tells_a_stranger_what_it_is(
    hub_double: HubDouble, journal: Journal, home: Path
) -> None:
    note_licence(journal, "CC-BY-4.0")
    export = export_to_home(journal, home)
    publish(export, home)
    told = card(hub_double)
    assert yaml.safe_load(told.split("---\n")[1]) == {
        "license": "cc-by-4.0",
        "pretty_name": "Preferences collected with Votetune",
        "task_categories": ["text-generation"],
        "size_categories": ["n<1K"],
        "tags": ["preference", "dpo"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "train.jsonl"}]}
        ],
    }
    assert export.measured is not None
    assert export.measured.alpha is not None
    for fact in (
        "2 preferences out of 5 votes by 3 voters on 3 pairs",
        export.sha256,
        str(export.votes_sha256),
        "1 of the 3 pairs were judged by two voters or more",
        "sides were drawn",
        describe_alpha(export.measured.alpha),
        # Two of four decided votes; Wilson's interval of 1/2 of 4 is 15.0 % to 85.0 %.
        "Votes for the answer shown first: 50.0% (95 % 15.0% to 85.0%) over 4 decided votes.",
        "Only `train`",
        "CC-BY-4.0 for the votes",
        "No voter is named",
    ):
        assert fact in told, fact


def votes_at_random(seed: int) -> list[Vote]:
    drawn = random.Random(seed)
    choices = list(Choice)[:4]
    return [
        vote_of(f"p{pair}", drawn.choices(choices, (6, 2, 1, 1))[0], f"v{voter}")
        for pair in range(30)
        for voter in range(drawn.randint(1, 4))
    ]


@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_evalicas_and_lies_in_its_interval(seed: int) -> None:
    votes = votes_at_random(seed)
    found, known = alpha_with_interval(votes), krippendorff_alpha(votes)
    assert found is not None
    assert known is not None
    assert (found.value, found.count) == (pytest.approx(known.value), known.pairs)
    assert found.low is not None
    assert found.high is not None
    assert -1 <= found.low < found.value < found.high <= 1
    assert alpha_with_interval(random.Random(seed).sample(votes, len(votes))) == found


def test_alphas_interval_holds_what_many_more_votes_say() -> None:
    # All draws are of one world: what 3,000 pairs say lies in most intervals from 60 pairs.
    def world(seed: int, pairs: int) -> list[Vote]:
        drawn = random.Random(seed)
        return [
            vote_of(f"p{p:04}", better if drawn.random() < 0.8 else other, f"v{v}")
            for p in range(pairs)
            for better, other in [drawn.sample([Choice.A, Choice.B], 2)]
            for v in range(2)
        ]

    truth = alpha_with_interval(world(99, 3000))
    assert truth is not None
    # Two votes that err independently at .2 differ with chance .32, and chance alone gives .5.
    assert truth.value == pytest.approx(1 - 0.32 / 0.5, abs=0.05)
    found = [alpha_with_interval(world(seed, 60)) for seed in range(40)]
    inside = [f for f in found if f and f.low and f.high and f.low <= truth.value <= f.high]
    assert len(inside) >= 34


def test_votes_that_all_agree_have_no_interval() -> None:
    votes = [vote_of(f"p{p}", c, f"v{v}") for p, c in enumerate("ab") for v in range(2)]
    votes = [replace(v, choice=Choice(v.choice)) for v in votes]
    found = alpha_with_interval(votes)
    assert found is not None
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert "no two of these votes differ" in describe_alpha(found)
    assert alpha_with_interval(votes[::2]) is None
    assert describe_alpha(None).startswith("not known")
