"""A finished run goes to the Hub as one commit, once, and comes back by id and revision."""

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub_double import READER, STRANGER, WRITER, HubDouble, point_client
from huggingface_hub import HfApi
from pydantic import SecretStr
from safetensors.numpy import load_file, save_file
from small_files import write_model, write_run
from test_export import fill, pair_of, prompts_of, vote_of
from tiny import make_tiny_model

from alignment.base import ResolvedBase
from alignment.contest.leaderboard import WinRate
from alignment.contest.promotions import Promotions
from alignment.generation import LocalGenerator
from alignment.hub.card import BaseKind, Lineage, build_card
from alignment.hub.curves import draw_curves
from alignment.hub.evidence import Correctness, Duel, DuelState, Evidence, Lengths
from alignment.hub.model_files import sha256_of
from alignment.pipeline import Pipeline
from alignment.publishing.lineage import sha256_of_row
from alignment.publishing.merged import MergeError, ensure_merged
from alignment.publishing.publish import Published, PublishError, load_published, publish_run
from alignment.registry import Registry
from alignment.runs.run_store import Metric, RunFolder, RunState, Sample
from alignment.settings import AlignmentSettings
from alignment.starter.starter import STARTER_DIR, starter_revision
from annotation.export.export import copy_export, export_to_home
from annotation.home import Home
from annotation.journal.deletion import was_published
from annotation.journal.journal import Journal
from annotation.quality.votes_measured import Figure
from annotation.schema import (
    Choice,
    Completion,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Sampling,
    Split,
    Vote,
    utc_now,
)

FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "votetune.json"]
# Every request of a publication that changes something, and what it asks to know where it stands.
STEPS = (
    "POST /api/repos/create",
    "POST /api/validate-yaml",
    "POST /api/models/ada/tuned/preupload",
    "POST /ada/tuned.git/info/lfs/objects/batch",
    "PUT /put/",
    "POST /api/models/ada/tuned/commit/main",
    "POST /api/models/ada/tuned/tag/",
    "GET /api/models/ada/tuned$",
)


@pytest.fixture
def base(hub_double: HubDouble, tmp_path: Path) -> ModelRef:
    """A base model on the Hub whose card names a licence."""
    model = write_model(tmp_path / "base")
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    return ModelRef("ada/chat", hub_double.add_repo("ada/chat", model))


@pytest.fixture
def run(base: ModelRef, tmp_path: Path) -> Path:
    return write_run(tmp_path / "home", "dpo-1", base)


def publish(run: Path, repo: str = "ada/tuned", token: str | None = WRITER, **more) -> Published:
    naps: list[float] = []
    done = publish_run(run, repo=repo, token=token, sleep=naps.append, **more)
    assert sum(naps) <= 120
    return done


def titles(hub: HubDouble, repo: str = "ada/tuned") -> list[str]:
    return [c.title for c in hub.repo(repo).commits]


ONCE = ["initial commit", "Add the adapter of run dpo-1"]


def test_a_run_comes_back_by_id_and_revision(hub_double: HubDouble, run: Path, base: ModelRef):
    done = publish(run)
    assert done.repo == "ada/tuned"
    assert done.url == f"{hub_double.endpoint}/ada/tuned/tree/{done.revision}"
    home = run.parent.parent / "another-home"
    here = ResolvedBase(base, home, is_starter=False, notice=None)
    for name in (f"ada/tuned@{done.revision}", "ada/tuned@run-dpo-1", "ada/tuned"):
        pulled = Registry(home, here).get(name)
        assert pulled.ref == ModelRef(base.base, base.base_revision, "ada/tuned", done.revision)
        mine = run / "adapter" / "adapter_model.safetensors"
        assert sha256_of(pulled.weights_path / mine.name) == sha256_of(mine)


def test_one_commit_holds_what_belongs_there_and_no_more(hub_double: HubDouble, run: Path):
    done = publish(run)
    repo = hub_double.repo("ada/tuned")
    assert titles(hub_double) == ONCE
    assert sorted(repo.head.files) == [".gitattributes", *FILES]
    assert (repo.head.oid, repo.tags) == (done.revision, {"run-dpo-1": done.revision})
    everything = b"".join(b.data for b in repo.head.files.values())
    assert str(run).encode() not in everything
    assert b"secret things" not in everything


def test_the_lineage_pins_what_the_run_was_made_from(
    hub_double: HubDouble, run: Path, base: ModelRef
):
    publish(run)
    row = json.loads(hub_double.repo("ada/tuned").head.files["votetune.json"].data)
    assert row["run"] == "dpo-1"
    assert (row["base"], row["base_revision"]) == (base.base, base.base_revision)
    assert (row["dataset_sha256"], row["votes"], row["examples"]) == ("d" * 64, 40, 30)
    assert row["settings"]["learning rate"] == "0.001"
    assert row["versions"] == {"torch": "2.13.0", "trl": "1.16.0"}
    assert row["license"] == "mit"
    weights = run / "adapter" / "adapter_model.safetensors"
    assert row["weights_sha256"] == sha256_of(weights)
    assert (row["kind"], row["method"], row["loss"]) == ("votetune adapter", "dpo", "sigmoid")
    assert (row["tuning"], row["flip_rate"]) == ("lora", None)


def test_publishing_again_pushes_nothing(hub_double: HubDouble, run: Path):
    first = publish(run)
    assert load_published(run) == first
    hub_double.requests.clear()
    assert publish(run) == first
    (run / "published.json").unlink()
    assert publish(run) == first
    assert titles(hub_double) == ONCE
    assert hub_double.lines("commit/|tag/|PUT ") == []


def test_publishing_is_noted_for_voters_who_delete_and_the_card_tells_readers(
    hub_double: HubDouble, base: ModelRef, tmp_path: Path
) -> None:
    home, name = Home(tmp_path / "home"), "dpo-20260301-1200-00aa"
    write_run(home.root, name, base)
    journal = Journal(home.journal)
    here = ResolvedBase(base, home.root, is_starter=False, notice=None)
    without = Pipeline(home, AlignmentSettings(hf_token=None), here, journal)
    with pytest.raises(PublishError):
        without.publish(name, "ada/tuned")
    assert not was_published(journal)
    settings = AlignmentSettings(hf_token=SecretStr(WRITER))
    Pipeline(home, settings, here, journal).publish(name, "ada/tuned")
    assert was_published(journal)
    card = hub_double.repo("ada/tuned").head.files["README.md"].data.decode()
    assert "A voter may delete their votes at any time" in card
    journal.close()


def test_two_runs_share_a_repository_and_keep_their_tags(
    hub_double: HubDouble, run: Path, base: ModelRef
):
    first = publish(run)
    second = publish(write_run(run.parent.parent, "orpo-2", base, seed=5))
    repo = hub_double.repo("ada/tuned")
    assert repo.tags == {"run-dpo-1": first.revision, "run-orpo-2": second.revision}
    assert repo.head.oid == second.revision
    assert publish(run) == first, "an older run is still where it was"
    assert repo.head.oid == second.revision


@pytest.mark.parametrize(
    ("step", "status"),
    [
        *((step, 503) for step in STEPS),
        *((step, s) for step in ("/commit/main", "/tag/") for s in (409, 412, 429, 500)),
    ],
)
def test_a_passing_fault_at_any_step_is_tried_again(
    hub_double: HubDouble,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    status: int,
):
    # huggingface_hub itself waits between tries of some requests.
    monkeypatch.setattr("time.sleep", lambda _s: None)
    hub_double.fail(step, status)
    done = publish(run)
    assert [f.times for f in hub_double.faults] == [0], "the fault was met"
    assert titles(hub_double) == ONCE
    assert hub_double.repo("ada/tuned").tags == {"run-dpo-1": done.revision}


@pytest.mark.parametrize("after", [False, True], ids=["lost request", "lost answer"])
@pytest.mark.parametrize("step", STEPS)
def test_a_torn_connection_at_any_step_leaves_one_commit(
    hub_double: HubDouble,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    after: bool,
):
    monkeypatch.setattr("time.sleep", lambda _s: None)
    hub_double.tear(step, after=after)
    done = publish(run)
    assert [f.times for f in hub_double.faults] == [0], "the fault was met"
    assert titles(hub_double) == ONCE
    assert hub_double.repo("ada/tuned").tags == {"run-dpo-1": done.revision}


def test_an_upload_that_never_arrives_leaves_no_commit(
    hub_double: HubDouble, run: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("time.sleep", lambda _s: None)
    hub_double.tear(r"PUT /put/", times=999)
    with pytest.raises(PublishError, match="until then the adapter is in") as caught:
        publish(run)
    assert titles(hub_double) == ["initial commit"]
    assert load_published(run) is None
    assert "\n" not in str(caught.value)


def test_somebody_elses_commit_in_between_is_kept(hub_double: HubDouble, run: Path):
    publish(run, repo="ada/tuned")
    hub_double.repo("ada/tuned").tags.clear()
    other = HfApi(token=WRITER)
    other.upload_file(path_or_fileobj=b"notes", path_in_repo="notes.txt", repo_id="ada/tuned")
    hub_double.fail(r"/commit/main", 412)
    write_again = write_run(run.parent.parent, "dpo-2", ModelRef("ada/chat", "0" * 40), seed=9)
    done = publish(write_again)
    head = hub_double.repo("ada/tuned").head
    assert head.oid == done.revision
    assert head.files["notes.txt"].data == b"notes"


def test_retry_after_is_obeyed(hub_double: HubDouble, run: Path):
    hub_double.fail(r"/commit/main", 429, Retry_After="17")
    naps: list[float] = []
    publish_run(run, repo="ada/tuned", token=WRITER, sleep=naps.append)
    assert naps == [17.0]


def test_a_file_that_a_gitignore_swallows_is_noticed(hub_double: HubDouble, run: Path):
    hub_double.add_repo("ada/tuned", {".gitignore": b"adapter_model.safetensors\n"})
    with pytest.raises(PublishError, match=r"adapter_model\.safetensors did not arrive"):
        publish(run)
    assert hub_double.repo("ada/tuned").tags == {}


def test_a_bare_name_goes_under_the_namespace(hub_double: HubDouble, run: Path):
    assert publish(run, repo="tuned").repo == "ada/tuned"
    assert publish(run, repo="tuned", namespace="ada").repo == "ada/tuned"
    assert publish(run, repo="Ada/Tuned").repo == "ada/tuned"
    with pytest.raises(PublishError, match="lacks the permission"):
        publish(run, repo="tuned", namespace="lab")


def test_a_private_repository_is_private(hub_double: HubDouble, run: Path):
    publish(run, private=True)
    assert hub_double.repo("ada/tuned").private


@pytest.mark.parametrize(
    ("repo", "token", "reason"),
    [
        ("ada/tuned", None, r"nothing is published: set HF_TOKEN .* the adapter is in /"),
        ("ada/tuned", "", "nothing is published: set HF_TOKEN"),
        ("ada/tuned", "hf_nobody_knows_this_token_at_all", "the Hub refused HF_TOKEN"),
        ("ada/tuned", READER, "HF_TOKEN lacks the permission"),
        ("ada/tuned", STRANGER, "HF_TOKEN lacks the permission"),
        ("a b", WRITER, "is no name for a repository"),
        ("a/b/c", WRITER, "is no name for a repository"),
        ("../etc", WRITER, "is no name for a repository"),
        ("x" * 97, WRITER, "is no name for a repository"),
    ],
)
def test_what_cannot_be_published_gets_one_line(
    hub_double: HubDouble, run: Path, repo: str, token: str | None, reason: str
):
    with pytest.raises(PublishError, match=reason) as caught:
        publish(run, repo=repo, token=token)
    assert "\n" not in str(caught.value)
    assert not token or token not in str(caught.value)
    assert load_published(run) is None
    assert [r.id for r in hub_double.repos.values()] == ["ada/chat"]


def test_no_network_is_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    point_client(monkeypatch, "http://127.0.0.1:9", tmp_path / "other-cache")
    with pytest.raises(PublishError, match="the connection to the Hub failed: try again online"):
        publish(run)


def test_a_run_without_an_adapter_is_not_published(
    hub_double: HubDouble, base: ModelRef, tmp_path: Path
):
    home = tmp_path / "home"
    going = write_run(home, "dpo-going", base, state=RunState.TRAINING)
    with pytest.raises(PublishError, match="Run dpo-going is training and only a run that is done"):
        publish(going)
    with pytest.raises(PublishError, match="Run dpo-none is not in"):
        publish(home / "runs" / "dpo-none")
    torn = write_run(home, "dpo-torn", base)
    (torn / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(PublishError, match="has no whole adapter"):
        publish(torn)
    assert hub_double.requests == []


def test_a_tag_of_another_adapter_is_not_overwritten(hub_double: HubDouble, run: Path):
    publish(run)
    base = ModelRef("ada/chat", "0" * 40)
    impostor = write_run(run.parent.parent / "elsewhere", "dpo-1", base, seed=8)
    with pytest.raises(PublishError, match="already has a tag run-dpo-1 of other weights"):
        publish(impostor)
    assert titles(hub_double) == ONCE


def test_the_token_stays_with_the_hub(hub_double: HubDouble, run: Path):
    publish(run)
    stored = [r for r in hub_double.requests if r.host == "localhost"]
    assert [r.method for r in stored] == ["PUT"]
    assert all(r.authorization is None for r in stored)
    kept = "".join(p.read_text("latin-1") for p in run.rglob("*") if p.is_file())
    pushed = b"".join(b.data for b in hub_double.repo("ada/tuned").head.files.values())
    assert WRITER not in kept
    assert WRITER.encode() not in pushed


def test_a_folder_base_is_named_without_its_path(hub_double: HubDouble, tmp_path: Path):
    base = ModelRef(str(tmp_path / "my-model"), "f" * 40)
    publish(write_run(tmp_path / "home", "dpo-1", base))
    files = hub_double.repo("ada/tuned").head.files
    assert str(tmp_path).encode() not in b"".join(b.data for b in files.values())
    assert json.loads(files["adapter_config.json"].data)["base_model_name_or_path"] == "my-model"
    assert b"base_model:" not in files["README.md"].data


def lineage(**changes) -> Lineage:
    values = {
        "run": "orpo-7",
        "method": "orpo",
        "loss": None,
        "flip_rate": None,
        "tuning": "lora",
        "base": "org/chat",
        "base_revision": "b" * 40,
        "base_kind": BaseKind.HUB,
        "dataset_sha256": "d" * 64,
        "votes": 40,
        "voters": 3,
        "synthetic_votes": 0,
        "examples": 30,
        "settings": (("beta", "0.1"),),
        "final": (("loss", "0.25"),),
        "versions": (("torch", "2.13.0"),),
        "code_revision": None,
        "weights_sha256": "a" * 64,
        "license": "mit",
        "votes_sha256": "e" * 64,
        "dataset_repo": None,
        "dataset_commit": None,
        "agreement": None,
        "spec": {"seed": 7},
        "spec_sha256": "f" * 64,
    }
    return Lineage(**values | changes)


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_cards_metadata_is_what_the_hub_reads():
    assert metadata(build_card(lineage(), "ada/tuned")) == {
        "base_model": "org/chat",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "mit",
        "tags": ["votetune", "trl", "orpo", "lora"],
    }


def test_the_metadata_of_a_whole_model_is_what_the_hub_reads():
    assert metadata(build_card(lineage(tuning="full"), "ada/tuned")) == {
        "base_model": "org/chat",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "mit",
        "tags": ["votetune", "trl", "orpo"],
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {
                "method": "dpo",
                "loss": "robust",
                "flip_rate": 0.2,
                "settings": (("sift", "True"),),
            },
            "have their sides swapped; those that a first pass ranked against their vote were left",
        ),
        ({"method": "orpo"}, "A LoRA adapter trained with ORPO on votes"),
        ({"method": "dpo", "loss": "ipo"}, "A LoRA adapter trained with DPO (`ipo` loss) on votes"),
        (
            {"method": "dpo", "loss": "robust", "flip_rate": 0.2},
            "DPO (`robust` loss, told that 20.0% of the examples have their sides swapped) on",
        ),
        (
            {"method": "sft", "tuning": "full"},
            "The whole model, fine-tuned with SFT (plain fine-tuning on the chosen answers) on",
        ),
    ],
)
def test_a_card_names_method_loss_and_tuning(changes: dict, says: str):
    assert says in build_card(lineage(**changes), "ada/tuned")


def test_a_card_of_a_whole_model_asks_for_no_base():
    for kind in BaseKind:
        card = build_card(lineage(tuning="full", base_kind=kind), "ada/tuned")
        assert "adapter" not in card
        assert "base/" not in card
        assert "only on the base" not in card


@pytest.mark.parametrize(
    ("method", "loss", "flip_rate", "shown", "left_out"),
    [
        ("dpo", "robust", 0.2, {"loss": "robust", "flip rate": "0.2"}, set()),
        ("orpo", "sigmoid", None, {"beta": "0.1"}, {"loss", "sft weight", "length penalty"}),
        ("sft", "sigmoid", None, {"learning rate": "0.001"}, {"loss", "sft weight", "beta"}),
    ],
)
def test_the_settings_are_those_that_the_method_used(
    hub_double: HubDouble,
    base: ModelRef,
    tmp_path: Path,
    method: str,
    loss: str,
    flip_rate: float | None,
    shown: dict[str, str],
    left_out: set[str],
):
    home = tmp_path / "home"
    publish(write_run(home, "r1", base, method=method, loss=loss, flip_rate=flip_rate))
    files = hub_double.repo("ada/tuned").head.files
    row = json.loads(files["votetune.json"].data)
    assert shown.items() <= (row["settings"] | {"method": method}).items()
    assert not left_out & row["settings"].keys()
    assert (row["method"], row["flip_rate"]) == (method, flip_rate)
    assert row["loss"] == (loss if method == "dpo" else None)
    assert f"| method | {method} |" in files["README.md"].data.decode()


def test_a_card_claims_no_base_or_licence_that_it_does_not_know():
    card = build_card(lineage(base="starter", base_kind=BaseKind.STARTER, license=None), "ada/t")
    assert not {"base_model", "base_model_relation", "license"} & metadata(card).keys()
    assert "not a model of the Hub" in card


def test_a_card_says_how_many_votes_are_synthetic():
    card = build_card(lineage(synthetic_votes=40), "ada/tuned")
    assert "**40 of 40 votes are synthetic**" in card
    assert "synthetic" in metadata(card)["tags"]
    assert "synthetic" not in build_card(lineage(), "ada/tuned")


def test_a_card_counts_and_pins():
    card = build_card(lineage(), "ada/tuned")
    for fact in (
        "30 preference examples",
        "40 votes",
        "3 voters",
        "d" * 64,
        "b" * 40,
        "run-orpo-7",
    ):
        assert fact in card
    assert "| beta | 0.1 |" in card


def test_a_card_names_a_published_dataset_and_the_agreement():
    published = lineage(
        dataset_repo="ada/votes",
        dataset_commit="7" * 40,
        agreement=Figure(0.61, 0.5, 0.7, 12),
    )
    card = build_card(published, "ada/tuned")
    assert metadata(card)["datasets"] == ["ada/votes"]
    assert f"https://huggingface.co/datasets/ada/votes/tree/{'7' * 40}" in card
    assert "0.61 (95 % 0.50 to 0.70) on 12 pairs that several voters judged" in card
    without = build_card(lineage(), "ada/tuned")
    assert "datasets" not in metadata(without)
    assert "Dataset: not published; sha256" in without


def test_a_card_tells_results_only_where_there_are_any():
    base, other = ModelRef("org/chat", "b" * 40), ModelRef("org/chat", "b" * 40, "dpo-0", "0" * 40)
    mine = ModelRef("org/chat", "b" * 40, "orpo-7", "7" * 40)
    # Wilson's 95 % interval of .7 of 40 is 54.6 % to 81.9 %.
    won = WinRate(mine, base, 26, 10, 4, 0.7, 0.5457, 0.8193)
    few = WinRate(mine, other, 3, 1, 0, 0.75, 0.3, 0.95)
    told = Evidence(
        (
            Duel("the base", DuelState.TOLD, won, 5),
            Duel("the policy", DuelState.NOT_ENOUGH_VOTES, few, 2),
            Duel("`dpo-0`", DuelState.STILL_OPEN, few, 2),
        ),
        Lengths(20.0, 25.0, 4),
        Correctness(0.8, 0.75, 341, "the starter's scripted voter"),
    )
    card = build_card(lineage(), "ada/tuned", told)
    for fact in (
        "| the base | 70.0% | 54.6% to 81.9% | 26, 10, 4 | 5 |",
        "| the policy | not enough votes | – | 3, 1, 0 | 2 |",
        "| `dpo-0` | still open | – | – | – |",
        "25.0 tokens a sample answer at the end of training, 20.0 before it (+25%), on the same 4",
        "80% of 341 answers, the base 75%; judged by the starter's scripted voter",
        "While a comparison is open no figure",
    ):
        assert fact in card, fact
    without = build_card(lineage(), "ada/tuned")
    assert "Length: not measured" in without
    assert "Correctness: not measured" in without


def test_curves_are_a_picture_with_named_axes(hub_double: HubDouble, run: Path):
    from PIL import Image

    for step in range(1, 31):
        held = 0.6 if step % 10 == 0 else None
        RunFolder(run).append_metric(
            Metric(step, 1 / step, 0.1 * step, 0.5 + step / 90, eval_loss=held)
        )
    publish(run)
    files = hub_double.repo("ada/tuned").head.files
    assert "](training_curves.png)" in files["README.md"].data.decode()
    data = files["training_curves.png"].data
    with Image.open(io.BytesIO(data)) as picture:
        # Loss, accuracy and margin, 480 by 300 each and drawn twice as large.
        assert (picture.format, picture.size) == ("PNG", (2880, 600))
        colours = {rgb for _, rgb in picture.convert("RGB").getcolors(1 << 16)}
    assert {(0, 114, 178), (213, 94, 0)} <= colours, "training and held out are drawn"
    assert draw_curves(RunFolder(run).metrics()) == data
    assert draw_curves([]) is None
    assert len(draw_curves(RunFolder(run).metrics()[:1])) > 1000


def test_curves_of_one_level_are_drawn_too():
    flat = [Metric(step, 0.0, reward_margin=-2.5) for step in range(1, 20)]
    assert len(draw_curves(flat)) > 1000


def compare(
    journal: Journal, mine: ModelRef, other: ModelRef, wins: int, losses: int, name: str = "c"
) -> None:
    """Blind votes between two models by two voters, each on a pair of its own."""
    prompts = (Prompt.from_text(f"What is number {n}?") for n in range(10_000))
    held_out = (p for p in prompts if p.split is Split.EVAL)
    for n in range(wins + losses):
        sides = (Completion("one", mine, Sampling()), Completion("another", other, Sampling()))
        pair = Pair(f"{name}{n}", next(held_out), sides, utc_now(), kind=PairKind.COMPARE)
        journal.add_pairs([pair]).result(10)
        choice = Choice.A if n < wins else Choice.B
        vote = Vote(f"v{pair.id}", pair.id, f"voter{n % 2}", choice, False, utc_now())
        journal.add_vote(vote).result(10)


def test_the_card_tells_blind_votes_once_they_can_sway_nobody(
    hub_double: HubDouble, base: ModelRef, run: Path
):
    home = Home(run.parent.parent)
    final = run.parent / "dpo-20260301-1200-00aa"
    run.rename(final)
    journal = Journal(home.journal)
    folder = RunFolder(final)
    folder.append_samples([Sample(s, "Hi", "Hello", 10 + s) for s in (0, 5)])
    here = ResolvedBase(base, home.root, is_starter=False, notice=None)
    pipeline = Pipeline(home, AlignmentSettings(hf_token=SecretStr(WRITER)), here, journal)
    mine = pipeline.registry.get(final.name).ref
    compare(journal, mine, base, 20, 5)

    def card() -> str:
        return hub_double.repo("ada/tuned").head.files["README.md"].data.decode()

    first = pipeline.publish(final.name, "ada/tuned")
    # It is the candidate: voters are still deciding whether it becomes the policy.
    assert "| the base | still open | – | – | – |" in card()
    assert "80.0%" not in card()
    assert "15.0 tokens a sample answer at the end of training, 10.0 before it (+50%)" in card()
    Promotions(home.root).promote(mine, "gate", wins=20, losses=5)
    again = pipeline.publish(final.name, "ada/tuned")
    assert again == first, "the weights are where they were"
    # 20 of 25: Wilson's 95 % interval is 60.9 % to 91.1 %.
    assert "| the base | 80.0% | 60.9% to 91.1% | 20, 5, 0 | 2 |" in card()
    repo = hub_double.repo("ada/tuned")
    assert repo.tags == {f"run-{final.name}": first.revision}
    assert [c.title for c in repo.commits][1:] == [
        f"Add the adapter of run {final.name}",
        f"Tell more of run {final.name}",
    ]
    # A later policy that lost to it is told apart from the base.
    later = write_run(home.root, "orpo-20260302-1200-00bb", base, seed=4)
    second = pipeline.registry.get(later.name).ref
    compare(journal, second, mine, 3, 1, "d")
    Promotions(home.root).promote(second, "override")
    pipeline.publish(later.name, "ada/other")
    told = hub_double.repo("ada/other").head.files["README.md"].data.decode()
    assert f"| the policy, `{mine.label}` | not enough votes | – | 3, 1, 0 | 2 |" in told
    assert "| the base | not enough votes | – | 0, 0, 0 | 0 |" in told
    journal.close()


def test_an_older_run_does_not_write_over_a_later_ones_card(
    hub_double: HubDouble, run: Path, base: ModelRef
):
    publish(run)
    publish(write_run(run.parent.parent, "orpo-2", base, seed=5))
    head = hub_double.repo("ada/tuned").head
    lengths = Evidence(lengths=Lengths(1.0, 2.0, 3))
    publish(run, evidence=lengths)
    assert hub_double.repo("ada/tuned").head == head


def test_a_dataset_published_with_a_run_is_named_by_it(
    hub_double: HubDouble, base: ModelRef, tmp_path: Path
):
    home = Home(tmp_path / "home")
    run = write_run(home.root, "dpo-20260301-1200-00aa", base)
    journal = Journal(home.journal)
    rows = prompts_of(Split.TRAIN, 2)
    fill(journal, [pair_of(p, f"p{n}") for n, p in enumerate(rows)], [vote_of("p0", Choice.A)])
    export = export_to_home(journal, home.root)
    folder = RunFolder(run)
    shutil.rmtree(folder.dataset)
    copy_export(export, folder.dataset)
    folder.write_spec(
        replace(
            folder.spec(),
            dataset_sha256=export.sha256,
            votes_sha256=export.votes_sha256,
            examples=1,
        )
    )
    here = ResolvedBase(base, home.root, is_starter=False, notice=None)
    pipeline = Pipeline(home, AlignmentSettings(hf_token=SecretStr(WRITER)), here, journal)
    pipeline.publish(run.name, "ada/tuned", dataset="ada/votes")
    dataset = hub_double.repo("ada/votes", "datasets").head
    files = hub_double.repo("ada/tuned").head.files
    row = json.loads(files["votetune.json"].data)
    assert (row["dataset_repo"], row["dataset_commit"]) == ("ada/votes", dataset.oid)
    assert row["dataset_sha256"] == sha256_of_bytes(dataset.files["train.jsonl"].data)
    assert row["votes_sha256"] == json.loads(dataset.files["dataset.json"].data)["votes_sha256"]
    assert row["spec_sha256"] == sha256_of_row(row["spec"])
    assert metadata(files["README.md"].data.decode())["datasets"] == ["ada/votes"]
    journal.close()


def sha256_of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_one_voter_is_one_voter():
    card = build_card(lineage(voters=1), "ada/tuned")
    assert "by 1 voter, each" in card
    assert "1 voters" not in card


PROBE = """
import json, sys, torch
ids = torch.tensor([[5, 6, 7, 8]])
with torch.no_grad():
    print(json.dumps(model(ids).logits[0, -1, :8].float().tolist()))
"""


def snippet(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def ask(code: str, env: dict[str, str]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", code + PROBE],
        env=env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def train_nothing(model: Path, base: ModelRef, adapter: Path) -> list[float]:
    """Save a random LoRA adapter the way a run does; what it answers before it was saved."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from alignment.training.weights.weights import save_adapter

    torch.manual_seed(3)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).eval()
    with torch.no_grad():
        logits = tuned(torch.tensor([[5, 6, 7, 8]])).logits[0, -1, :8].float().tolist()
    save_adapter(tuned, base, adapter)
    return logits


# Whole models.

MODEL_FILES = [
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "votetune.json",
]


@pytest.fixture
def tiny(hub_double: HubDouble, tmp_path: Path) -> ResolvedBase:
    """A tiny chat model of the Hub, on this disk too."""
    folder = make_tiny_model(tmp_path / "tiny")
    ref = ModelRef("ada/tiny", hub_double.add_repo("ada/tiny", folder))
    return ResolvedBase(ref, folder, is_starter=False, notice=None)


@pytest.fixture
def full(tiny: ResolvedBase, tmp_path: Path) -> Path:
    """A run tuned in full, with things beside its model that are nobody's business."""
    model = make_tiny_model(tmp_path / "tuned", seed=5)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"_name_or_path": str(tmp_path)}))
    for name in ("training_args.bin", "optimizer.pt", "notes.txt"):
        (model / name).write_text("secret things")
    return write_run(tmp_path / "home", "dpo-full", tiny.ref, model=model)


def test_a_whole_model_is_one_commit_of_what_belongs_there(
    hub_double: HubDouble, full: Path, tiny: ResolvedBase, tmp_path: Path
):
    done = publish(full)
    repo = hub_double.repo("ada/tuned")
    assert titles(hub_double) == ["initial commit", "Add the model of run dpo-full"]
    assert sorted(repo.head.files) == [".gitattributes", *MODEL_FILES]
    assert repo.tags == {"run-dpo-full": done.revision}
    everything = b"".join(b.data for b in repo.head.files.values())
    assert str(tmp_path).encode() not in everything
    assert b"secret things" not in everything
    row = json.loads(repo.head.files["votetune.json"].data)
    assert (row["kind"], row["tuning"], row["method"]) == ("votetune model", "full", "dpo")
    assert (row["base"], row["base_revision"]) == (tiny.ref.base, tiny.ref.base_revision)
    assert row["weights_sha256"] == sha256_of(full / "model" / "model.safetensors")
    assert not {"lora r", "lora alpha"} & row["settings"].keys()
    assert publish(full) == done
    assert len(repo.commits) == 2


def test_a_published_model_pulled_again_answers_the_same(full: Path, tiny: ResolvedBase):
    done = publish(full)
    prompts = [Prompt.from_text(text) for text in ("Hi", "Why is the sky blue?")]
    sampling = Sampling(max_new_tokens=30, seed=4)
    answers, kinds = [], []
    for home, name in (
        (full.parent.parent, "dpo-full"),
        (full.parent.parent.parent / "elsewhere", f"ada/tuned@{done.revision}"),
    ):
        registry = Registry(home, tiny)
        model = registry.get(name)
        kinds.append(model.tuning)
        generator = LocalGenerator(tiny, weights_path=registry.weights_path, device="cpu")
        drawn = generator.sample(prompts, model=model.ref, sampling=sampling, per_prompt=2)
        answers.append([[c.text for c in some] for some in drawn])
        base = generator.sample(prompts, model=tiny.ref, sampling=sampling, per_prompt=2)
        assert [[c.text for c in some] for some in base] != answers[0]
    assert kinds == ["full", "full"]
    assert answers[0] == answers[1]


def test_an_adapter_and_a_whole_model_share_no_repository(
    hub_double: HubDouble, full: Path, tiny: ResolvedBase
):
    adapter = write_run(full.parent.parent, "dpo-lora", tiny.ref)
    publish(full, repo="ada/whole")
    publish(adapter, repo="ada/lora")
    for run, repo, says in (
        (full, "lora", "holds an adapter already and run dpo-full left a whole model: publish"),
        (adapter, "whole", "holds a whole model already and run dpo-lora left an adapter: publish"),
    ):
        with pytest.raises(PublishError, match=says):
            publish(run, repo=f"ada/{repo}")
        assert len(hub_double.repo(f"ada/{repo}").commits) == 2


def test_a_torn_model_is_not_published(hub_double: HubDouble, full: Path):
    (full / "model" / "model.safetensors").write_bytes(b"x")
    hub_double.requests.clear()
    with pytest.raises(PublishError, match="Run dpo-full has no whole model in"):
        publish(full)
    with pytest.raises(PublishError, match="no whole model"):
        publish(full, token=None)
    assert hub_double.requests == []


@pytest.mark.slow
def test_a_stranger_loads_a_whole_model_by_the_cards_own_two_lines(
    hub_double: HubDouble, full: Path, tmp_path: Path
):
    import torch
    from transformers import AutoModelForCausalLM

    publish(full)
    code = snippet(hub_double.repo("ada/tuned").head.files["README.md"].data.decode())
    imports, lines = code.split("\n\n")
    assert (len(imports.splitlines()), len(lines.splitlines())) == (1, 2)
    mine = AutoModelForCausalLM.from_pretrained(full / "model").eval()
    with torch.no_grad():
        expected = mine(torch.tensor([[5, 6, 7, 8]])).logits[0, -1, :8].float().tolist()
    answered = ask(code, hub_double.environment(tmp_path / "stranger"))
    assert answered == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hub", "starter"])
def test_a_stranger_loads_it_by_the_cards_own_snippet(
    hub_double: HubDouble, tmp_path: Path, kind: str
):
    model, base = STARTER_DIR, ModelRef("starter", starter_revision())
    if kind == "hub":
        model = make_tiny_model(tmp_path / "tiny")
        base = ModelRef("ada/chat", hub_double.add_repo("ada/chat", model))
    run = write_run(tmp_path / "home", "dpo-1", base)
    expected = train_nothing(model, base, run / "adapter")
    publish(run)
    files = hub_double.repo("ada/tuned").head.files
    assert ("base/model.safetensors" in files) == (kind == "starter")
    code = snippet(files["README.md"].data.decode())
    answered = ask(code, hub_double.environment(tmp_path / "stranger"))
    assert answered == pytest.approx(expected, rel=1e-4, abs=1e-5)


# Merged weights.


@pytest.fixture
def trained(tiny: ResolvedBase, tmp_path: Path) -> tuple[Path, list[float]]:
    """A run whose adapter does something, and what base and adapter answer together."""
    run = write_run(tmp_path / "home", "dpo-1", tiny.ref)
    return run, train_nothing(tiny.path, tiny.ref, run / "adapter")


def logits_of(folder: Path) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]])).logits[0, -1, :8].float().tolist()


def test_merged_weights_answer_as_base_and_adapter_do(
    trained: tuple[Path, list[float]], tiny: ResolvedBase
):
    run, expected = trained
    merged = ensure_merged(RunFolder(run), tiny.path)
    assert logits_of(merged) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert logits_of(tiny.path) != pytest.approx(expected, rel=1e-2)
    names = {f.name for f in merged.iterdir()}
    assert names == {*MODEL_FILES} - {"README.md", "votetune.json"}
    before = (merged / "model.safetensors").stat().st_mtime_ns
    ensure_merged(RunFolder(run), tiny.path)
    assert (merged / "model.safetensors").stat().st_mtime_ns == before, "made once"


def test_another_adapter_is_merged_anew(trained: tuple[Path, list[float]], tiny: ResolvedBase):
    run, _ = trained
    first = sha256_of(ensure_merged(RunFolder(run), tiny.path) / "model.safetensors")
    weights = load_file(run / "adapter" / "adapter_model.safetensors")
    save_file({k: 2 * v for k, v in weights.items()}, run / "adapter" / "adapter_model.safetensors")
    second = sha256_of(ensure_merged(RunFolder(run), tiny.path) / "model.safetensors")
    assert first != second


def test_what_cannot_be_merged_is_one_line(
    trained: tuple[Path, list[float]], full: Path, tiny: ResolvedBase, tmp_path: Path
):
    run, _ = trained
    with pytest.raises(MergeError, match="left a whole model: publish it without --merged"):
        ensure_merged(RunFolder(full), tiny.path)
    with pytest.raises(MergeError, match="The adapter of run dpo-1 can't be merged") as caught:
        ensure_merged(RunFolder(run), tmp_path / "gone")
    assert "\n" not in str(caught.value)
    assert not RunFolder(run).merged.exists()


def test_merged_weights_are_published_as_a_fine_tune_and_pulled_again(
    hub_double: HubDouble, trained: tuple[Path, list[float]], tiny: ResolvedBase, tmp_path: Path
):
    run, _ = trained
    adapter = publish(run, repo="ada/lora")
    done = publish(run, repo="ada/whole", merged_into=tiny.path)
    repo = hub_double.repo("ada/whole")
    assert [c.title for c in repo.commits][1:] == ["Add the model of run dpo-1"]
    assert sorted(repo.head.files) == [".gitattributes", *MODEL_FILES]
    assert repo.tags == {"run-dpo-1": done.revision}
    told = metadata(repo.head.files["README.md"].data.decode())
    assert told["base_model"] == "ada/tiny"
    assert (told["base_model_relation"], told["library_name"]) == ("finetune", "transformers")
    assert told["tags"] == ["votetune", "trl", "dpo", "merged"]
    row = json.loads(repo.head.files["votetune.json"].data)
    assert row["adapter_sha256"] == sha256_of(run / "adapter" / "adapter_model.safetensors")
    assert row["weights_sha256"] == sha256_of(RunFolder(run).merged / "model.safetensors")
    pulled = Registry(tmp_path / "elsewhere", tiny).get(f"ada/whole@{done.revision}")
    assert pulled.tuning == "full"
    assert (load_published(run), publish(run, repo="ada/lora")) == (adapter, adapter)
    with pytest.raises(PublishError, match="holds an adapter already"):
        publish(run, repo="ada/lora", merged_into=tiny.path)


@pytest.mark.slow
def test_a_stranger_loads_merged_weights_by_the_cards_own_two_lines(
    hub_double: HubDouble, trained: tuple[Path, list[float]], tiny: ResolvedBase, tmp_path: Path
):
    run, expected = trained
    publish(run, merged_into=tiny.path)
    code = snippet(hub_double.repo("ada/tuned").head.files["README.md"].data.decode())
    assert "peft" not in code
    answered = ask(code, hub_double.environment(tmp_path / "stranger"))
    assert answered == pytest.approx(expected, rel=1e-4, abs=1e-5)
