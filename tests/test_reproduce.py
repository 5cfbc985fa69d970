"""From a leaderboard row back to the votes by hash, and a model trained again from what it pins."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hub_double import WRITER, HubDouble
from pydantic import SecretStr
from safetensors.numpy import load_file, save_file
from test_publish import compare
from tiny import make_tiny_model

from alignment.base import BaseModelError, ResolvedBase
from alignment.commands.lineage import to_text
from alignment.commands.reproduce import NotReproducedError, check_reproduced, reproduce
from alignment.contest.contest import load_comparisons
from alignment.contest.leaderboard import build_leaderboard
from alignment.pipeline import Pipeline
from alignment.publishing.origin import OriginError
from alignment.publishing.trace import TraceError, trace_model
from alignment.registry import Registry
from alignment.runs.recipes import TrainingOptions
from alignment.runs.run_store import RunFolder, RunState
from alignment.settings import AlignmentSettings
from annotation.export.export import live_votes, sha256_of_votes
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.schema import Choice, Completion, ModelRef, Pair, Sampling, Vote
from tests.preferences import WHEN, train_prompts

ROOT = Path(__file__).parent.parent


@dataclass
class Trained:
    """A home whose one run is done, on a base of the Hub double."""

    home: Home
    journal: Journal
    pipeline: Pipeline
    base: ResolvedBase
    settings: AlignmentSettings
    run: str

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.home.root / "runs" / self.run)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 24 votes and a run of 6 steps on them, trained once for all tests."""
    place = tmp_path_factory.mktemp("trained")
    model = make_tiny_model(place / "tiny")
    with HubDouble() as hub:
        ref = ModelRef("ada/tiny", hub.add_repo("ada/tiny", model))
    (place / "home").mkdir()
    journal = Journal(Home(place / "home").journal)
    fill(journal, ref)
    base = ResolvedBase(ref, model, is_starter=False, notice=None)
    pipeline = Pipeline(Home(place / "home"), AlignmentSettings(), base, journal)
    run = pipeline.train(TrainingOptions("dpo", steps=6))
    done = pipeline.runs.wait(run.id, timeout_s=200)
    assert done.state is RunState.DONE, done.reason
    journal.close()
    return place


def fill(journal: Journal, ref: ModelRef) -> None:
    for n, prompt in enumerate(train_prompts(24)):
        texts = (f"It is {n}, thank you.", f"{n} no")
        sides = tuple(Completion(text, ref, Sampling()) for text in texts)
        journal.add_pairs([Pair(f"pair-{n:03d}", prompt, sides, WHEN)]).result(10)
        vote = Vote(f"vote-{n}", f"pair-{n:03d}", "anon-1", Choice.A, False, WHEN)
        journal.add_vote(vote).result(10)


@pytest.fixture
def trained(kept: Path, hub_double: HubDouble, tmp_path: Path):
    place = tmp_path / "mine"
    shutil.copytree(kept, place)
    commit = hub_double.add_repo("ada/tiny", place / "tiny")
    base = ResolvedBase(ModelRef("ada/tiny", commit), place / "tiny", is_starter=False, notice=None)
    home = Home(place / "home")
    journal = Journal(home.journal)
    settings = AlignmentSettings(hf_token=SecretStr(WRITER))
    pipeline = Pipeline(home, settings, base, journal)
    (run,) = pipeline.runs.list()
    assert run.spec.base == base.ref
    yield Trained(home, journal, pipeline, base, settings, run.id)
    journal.close()


def promoted_row(trained: Trained, model: ModelRef) -> ModelRef:
    """The model of the leaderboard's row, after 25 blind votes."""
    compare(trained.journal, model, trained.base.ref, 20, 5)
    board = build_leaderboard(load_comparisons(trained.journal), trained.base.ref)
    return next(row.model for row in board.rows if row.model != trained.base.ref)


def test_the_way_from_a_leaderboard_row_to_the_votes_is_walked_by_hash(
    hub_double: HubDouble, trained: Trained, tmp_path: Path
):
    done = trained.pipeline.publish(trained.run, "ada/tuned", dataset="ada/votes")
    pulled = trained.pipeline.pull(f"ada/tuned@{done.revision}")
    row = promoted_row(trained, pulled.ref)
    assert (row.adapter, row.adapter_revision) == ("ada/tuned", done.revision)
    links = trace_model(
        row, trained.pipeline.registry, trained.home.root, trained.journal, token=None
    )
    assert [link.kind for link in links] == [
        "leaderboard row",
        "weights",
        "run",
        "dataset",
        "votes",
    ]
    assert all(one.made_from == other.hash for one, other in itertools.pairwise(links))
    # Each hash again, from the bytes on the Hub and the votes in the journal.
    files = hub_double.repo("ada/tuned").head.files
    lineage = json.loads(files["votetune.json"].data)
    dataset = hub_double.repo("ada/votes", "datasets").at(lineage["dataset_commit"]).files
    assert links[0].hash == hub_double.repo("ada/tuned").head.oid
    assert links[1].hash == files["adapter_model.safetensors"].sha256
    assert links[2].hash == lineage["spec_sha256"]
    assert links[3].hash == dataset["train.jsonl"].sha256 == lineage["dataset_sha256"]
    assert links[4].hash == sha256_of_votes(live_votes(trained.journal))
    assert links[3].where == f"ada/votes@{lineage['dataset_commit']}"
    assert links[4].where == "in this home, as they were"
    told = to_text(links).splitlines()
    assert len(told) == 5
    for line, following in itertools.pairwise(told):
        assert line.endswith(f"made from {hash_in(following)}")
    # Where a vote is undone since, the chain still holds and says so.
    trained.journal.undo_vote("vote-3", voter="anon-1").result(10)
    later = trace_model(
        row, trained.pipeline.registry, trained.home.root, trained.journal, token=None
    )
    assert later[:4] == links[:4]
    assert later[4].where.startswith("no more in this home as they were")


def hash_in(line: str) -> str:
    """The hash that a printed link begins with."""
    return line[16:28]


def test_a_run_of_the_home_is_walked_without_the_hub(hub_double: HubDouble, trained: Trained):
    row = promoted_row(trained, trained.pipeline.registry.get(trained.run).ref)
    hub_double.requests.clear()
    links = trace_model(
        row, trained.pipeline.registry, trained.home.root, trained.journal, token=None
    )
    assert links[1].hash.startswith(row.adapter_revision)
    assert all(one.made_from == other.hash for one, other in itertools.pairwise(links))
    assert hub_double.requests == []


def test_a_chain_that_does_not_hold_is_refused(hub_double: HubDouble, trained: Trained):
    trained.pipeline.publish(trained.run, "ada/tuned", dataset="ada/votes")
    pulled = trained.pipeline.pull("ada/tuned")
    told = pulled.weights_path / "votetune.json"
    row = json.loads(told.read_text())

    def walk():
        registry = Registry(trained.home.root, trained.base)
        return trace_model(pulled.ref, registry, trained.home.root, trained.journal, token=None)

    for change, says in (
        ({"weights_sha256": "0" * 64}, "The weights of ada/tuned"),
        ({"spec": row["spec"] | {"seed": 9}}, "The spec of run"),
        ({"dataset_commit": "0" * 40}, "there is no such revision"),
        ({"spec": {}}, "does not say what it was made from"),
    ):
        told.write_text(json.dumps(row | change))
        with pytest.raises(TraceError, match=says) as caught:
            walk()
        assert "\n" not in str(caught.value)
    told.write_text(json.dumps(row))
    assert len(walk()) == 5
    with pytest.raises(TraceError, match="is the base: no votes went into it"):
        trace_model(
            trained.base.ref,
            trained.pipeline.registry,
            trained.home.root,
            trained.journal,
            token=None,
        )


@pytest.mark.slow
def test_a_run_of_the_home_is_reproduced_byte_for_byte(trained: Trained):
    before = sorted(p.name for p in (trained.home.root / "runs").iterdir())
    found = reproduce(trained.home, trained.settings, trained.run)
    check_reproduced(found)
    assert "the weights are the same, byte for byte" in found.line
    mine = trained.folder.adapter / "adapter_model.safetensors"
    assert (found.weights / mine.name).read_bytes() == mine.read_bytes()
    assert found.weights.is_relative_to(trained.home.root / "reproductions")
    assert sorted(p.name for p in (trained.home.root / "runs").iterdir()) == before
    assert [m.name for m in trained.pipeline.registry.models()] == ["base", trained.run]


@pytest.mark.slow
def test_a_run_that_went_on_from_another_is_reproduced_where_that_one_is(trained: Trained):
    options = TrainingOptions("dpo", steps=4, start=trained.run)
    run = trained.pipeline.runs.wait(trained.pipeline.train(options).id, timeout_s=200)
    assert run.state is RunState.DONE, run.reason
    check_reproduced(reproduce(trained.home, trained.settings, run.id))
    trained.folder.path.rename(trained.home.root / "elsewhere")
    with pytest.raises(OriginError, match="which this home does not have as it was") as caught:
        reproduce(trained.home, trained.settings, run.id)
    assert trained.run in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("merged", [False, True], ids=["adapter", "merged"])
def test_what_is_on_the_hub_is_reproduced_by_a_stranger(
    hub_double: HubDouble, trained: Trained, tmp_path: Path, merged: bool
):
    done = trained.pipeline.publish(trained.run, "ada/tuned", merged=merged, dataset="ada/votes")
    shutil.rmtree(trained.home.root / "runs")
    stranger = Home(tmp_path / "stranger")
    stranger.prepare()
    found = reproduce(stranger, AlignmentSettings(), f"ada/tuned@{done.revision}")
    check_reproduced(found)
    assert found.name == f"ada/tuned@{done.revision[:12]}"
    asked = hub_double.lines("^GET .*/resolve/")
    assert any("/datasets/ada/votes/resolve/" in line for line in asked), "data from the Hub"
    assert any("/ada/tiny/resolve/" in line for line in asked), "base from the Hub"
    assert {p.name for p in stranger.root.iterdir()} == {"reproductions"}


@pytest.mark.slow
def test_other_weights_are_not_the_same_and_the_line_says_by_how_much(
    trained: Trained, tmp_path: Path
):
    weights = trained.folder.adapter / "adapter_model.safetensors"
    held = load_file(weights)
    name = next(n for n in held if "lora_B" in n)
    held[name] = held[name] + 0.25
    save_file(held, weights, metadata={"format": "pt"})
    spec = trained.folder.spec()
    versions = tuple((n, "0.0.1" if n == "trl" else v) for n, v in spec.versions)
    trained.folder.write_spec(replace(spec, versions=versions))
    found = reproduce(trained.home, trained.settings, trained.run)
    assert found.gap is not None
    assert found.gap.weight == pytest.approx(0.25, rel=1e-4)
    assert found.gap.weight_name == name
    assert found.gap.logit > 0
    assert found.gap.positions == 8 * 24
    with pytest.raises(NotReproducedError) as caught:
        check_reproduced(found)
    line = str(caught.value)
    assert "\n" not in line
    assert (
        f"{trained.run} came out otherwise on other code or packages than then (trl 0.0.1" in line
    )
    assert f"weights differ by up to 0.25 (in {name})" in line


def test_what_cannot_be_reproduced_is_one_line(
    hub_double: HubDouble, trained: Trained, tmp_path: Path
):
    hub_double.add_repo("ada/plain", {"README.md": b"hello"})
    trained.pipeline.publish(trained.run, "ada/alone")

    def refused(model: str, says: str, kind: type[Exception] = OriginError):
        with pytest.raises(kind, match=says) as caught:
            reproduce(trained.home, trained.settings, model)
        assert "\n" not in str(caught.value)

    refused("dpo-20200101-0000-0000", "There is no whole run dpo-20200101-0000-0000 here")
    refused("ada/nothing", "the Hub has no such repository")
    refused("ada/alone@nowhere", "there is no such revision")
    refused("ada/plain", r"there is no votetune\.json in it that Votetune wrote")
    refused("ada/alone", "was trained on a dataset that was never published")
    row = json.loads(hub_double.repo("ada/alone").head.files["votetune.json"].data)
    files = {n: b.data for n, b in hub_double.repo("ada/alone").head.files.items()}
    for change, says in (
        ({"weights_sha256": "0" * 64}, "they were changed after it was published"),
        ({"spec": row["spec"] | {"seed": 5}}, "names another spec than it holds"),
        ({"spec": 3}, "says too little of its origin"),
        ({"base_kind": "folder"}, "was a folder of the machine that trained on it"),
    ):
        told = json.dumps(row | change).encode()
        hub_double.add_repo("ada/alone", files | {"votetune.json": told})
        refused("ada/alone", says)
    spec = trained.folder.spec()
    lost = replace(spec, base=replace(spec.base, base_revision="0" * 40))
    trained.folder.write_spec(lost)
    refused(trained.run, "there is no such revision", BaseModelError)


@pytest.mark.slow
def test_the_command_says_so_and_an_interrupt_ends_its_training(
    hub_double: HubDouble, trained: Trained, tmp_path: Path
):
    environment = hub_double.environment(tmp_path / "cache") | {
        "VOTETUNE_HOME": str(trained.home.root),
        "BASE_MODEL": "ada/tiny",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    command = [sys.executable, "app.py", "reproduce", trained.run]
    spec = trained.folder.spec()
    trained.folder.write_spec(replace(spec, steps=2000))
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    reproductions = trained.home.root / "reproductions"
    deadline = time.monotonic() + 120
    while not (begun := [*reproductions.glob("*/runs/*/metrics.jsonl")]):
        assert time.monotonic() < deadline, "waited in vain"
        assert child.poll() is None, child.communicate()[1].decode()
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 130
    assert RunFolder(begun[0].parent).status().state is RunState.CANCELLED
    trained.folder.write_spec(spec)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{trained.run} is reproduced: the weights are the same")
    assert "training" in done.stderr


@pytest.mark.slow
def test_the_commands_publish_what_belongs_together_and_walk_it_back(
    hub_double: HubDouble, trained: Trained, tmp_path: Path
):
    environment = hub_double.environment(tmp_path / "cache") | {
        "VOTETUNE_HOME": str(trained.home.root),
        "BASE_MODEL": "ada/tiny",
        "HF_TOKEN": WRITER,
    }

    def told(*arguments: str) -> list[str]:
        command = [sys.executable, "app.py", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert WRITER not in done.stdout + done.stderr
        return done.stdout.splitlines()

    data, url = told("publish-dataset", "--repo", "votes", "--private")
    dataset = hub_double.repo("ada/votes", "datasets")
    assert data == f"ada/votes@{dataset.head.oid}"
    assert url == f"{hub_double.endpoint}/datasets/ada/votes/tree/{dataset.head.oid}"
    assert dataset.private
    told("publish", trained.run, "--repo", "tuned", "--dataset", "votes")
    assert len(dataset.commits) == 2, "the same dataset is not pushed again"
    told("publish", trained.run, "--repo", "whole", "--merged")
    for repo, kind in (("ada/tuned", "adapter"), ("ada/whole", "model")):
        row = json.loads(hub_double.repo(repo).head.files["votetune.json"].data)
        assert row["kind"] == f"votetune {kind}"
        assert (row["dataset_repo"], row["dataset_commit"]) == ("ada/votes", dataset.head.oid)
    name = told("pull", "ada/tuned")[0]
    assert name == f"ada/tuned@{hub_double.repo('ada/tuned').head.oid[:12]}"
    walked = told("lineage", name)
    assert [line.split("  ")[0].strip() for line in walked][3] == "dataset"
    assert walked[-1].endswith("24 votes of 1 voter, in this home, as they were")
