"""A finished run goes to the Hub as one commit, once, and comes back by id and revision."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_double import READER, STRANGER, WRITER, HubDouble, point_client
from huggingface_hub import HfApi
from pydantic import SecretStr
from small_files import write_model, write_run
from tiny import make_tiny_model

from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator
from alignment.hub.card import BaseKind, Lineage, build_card
from alignment.hub.model_files import sha256_of
from alignment.pipeline import Pipeline
from alignment.publish import Published, PublishError, load_published, publish_run
from alignment.registry import Registry
from alignment.run_store import RunState
from alignment.settings import AlignmentSettings
from alignment.starter import STARTER_DIR, starter_revision
from annotation.home import Home
from annotation.journal.deletion import was_published
from annotation.journal.journal import Journal
from annotation.schema import ModelRef, Prompt, Sampling

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
    [*((step, 503) for step in STEPS), *(("/commit/main", s) for s in (409, 412, 429, 500))],
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
    hub_double.ignored.add("adapter_model.safetensors")
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

    from alignment.training.weights import save_adapter

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
