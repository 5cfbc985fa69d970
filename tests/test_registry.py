"""Which models a home has, by name; an adapter loads only on the base revision that it names."""

import json
from pathlib import Path

import pytest
from hub_double import READER, HubDouble, point_client
from small_files import write_adapter, write_model, write_run

from alignment.base import ResolvedBase
from alignment.hub.model_files import sha256_of
from alignment.registry import Registry, RegistryError
from alignment.runs.run_store import RunState
from annotation.schema import ModelRef

BASE = ModelRef("ada/chat", "b" * 40)
OTHER = ModelRef("ada/chat", "e" * 40)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(home, ResolvedBase(BASE, home / "base", is_starter=False, notice=None))


def names(registry: Registry) -> list[str]:
    return [m.name for m in registry.models()]


def test_an_empty_home_has_its_base(registry: Registry):
    (base,) = registry.models()
    assert (base.name, base.ref, base.weights_path, base.tuning) == ("base", BASE, None, None)
    assert registry.get("base") == registry.get("policy") == registry.policy() == base
    assert registry.weights_path(BASE) is None


def test_a_run_is_named_by_its_id_and_weights(registry: Registry, home: Path):
    path = write_run(home, "dpo-1", BASE)
    found = registry.get("dpo-1")
    digest = sha256_of(path / "adapter" / "adapter_model.safetensors")[:40]
    assert found.ref == ModelRef("ada/chat", "b" * 40, "dpo-1", digest)
    assert (found.weights_path, found.tuning) == (path / "adapter", "lora")
    assert registry.weights_path(found.ref) == found.weights_path
    assert names(registry) == ["base", "dpo-1"]


def test_a_run_counts_once_it_is_done_and_fits(registry: Registry, home: Path):
    write_run(home, "dpo-going", BASE, state=RunState.TRAINING)
    write_run(home, "dpo-other", OTHER)
    torn = write_run(home, "dpo-torn", BASE) / "adapter" / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-4])
    (home / "runs" / "dpo-odd").mkdir()
    (home / "runs" / "dpo-odd" / "state.json").write_text('{"state": "dancing"}')
    assert names(registry) == ["base"]
    for name, reason in {
        "dpo-going": "is not done",
        "dpo-odd": "is not done",
        "dpo-other": r"belongs to ada/chat@eeeeeeeeeeee and this home's base is ada/chat@bbbb",
        "dpo-torn": "is cut short",
        "nothing": "is not here: use base, policy",
        "../runs": "owner/name",
    }.items():
        with pytest.raises(RegistryError, match=reason) as caught:
            registry.get(name, pull=False)
        assert "\n" not in str(caught.value)


def test_a_run_that_ends_later_is_there_at_once(registry: Registry, home: Path):
    assert names(registry) == ["base"]
    write_run(home, "dpo-1", BASE)
    assert names(registry) == ["base", "dpo-1"]


def test_a_replaced_adapter_has_another_revision(registry: Registry, home: Path):
    path = write_run(home, "dpo-1", BASE, seed=1)
    before = registry.get("dpo-1").ref
    write_adapter(path / "adapter", BASE, seed=2)
    assert registry.get("dpo-1").ref != before
    with pytest.raises(RegistryError, match="is not in"):
        registry.weights_path(before)


def test_pull_pins_the_commit_and_keeps_only_what_belongs(
    hub_double: HubDouble, registry: Registry, home: Path, tmp_path: Path
):
    adapter = write_adapter(tmp_path / "a", BASE, seed=3)
    for name in ("README.md", "votetune.json", "optimizer.bin", "train.py"):
        (adapter / name).write_text("{}")
    commit = hub_double.add_repo("eve/tuned", adapter)
    pulled = registry.pull("Eve/Tuned", None)
    assert pulled.name == f"eve/tuned@{commit[:12]}"
    assert pulled.ref == ModelRef("ada/chat", "b" * 40, "eve/tuned", commit)
    assert sorted(p.name for p in pulled.weights_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "pulled.json",
        "votetune.json",
    ]
    kept = (pulled.weights_path / "adapter_model.safetensors").read_bytes()
    assert kept == (adapter / "adapter_model.safetensors").read_bytes()
    assert registry.weights_path(pulled.ref) == pulled.weights_path
    assert names(registry) == ["base", pulled.name]
    assert [p.name for p in (home / "models").iterdir()] == ["eve--tuned"]


def test_names_with_and_without_a_revision(
    hub_double: HubDouble, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = hub_double.add_repo("eve/tuned", write_adapter(tmp_path / "a", BASE, seed=1))
    second = hub_double.add_repo("eve/tuned", write_adapter(tmp_path / "a", BASE, seed=2))
    hub_double.repo("eve/tuned").tags["run-1"] = first
    with pytest.raises(RegistryError, match="was not pulled yet"):
        registry.get("eve/tuned", pull=False)
    assert registry.get("eve/tuned@run-1").ref.adapter_revision == first
    assert registry.get("eve/tuned").ref.adapter_revision == second
    hub_double.requests.clear()
    assert registry.get(f"eve/tuned@{first[:8]}").ref.adapter_revision == first
    assert registry.get("eve/tuned@run-1", pull=False).ref.adapter_revision == first
    assert registry.get("eve/tuned", pull=False).ref.adapter_revision == second
    assert hub_double.requests == [], "what is here by its commit is not asked for again"
    point_client(monkeypatch, "http://127.0.0.1:9", tmp_path / "other-cache")
    assert registry.get("eve/tuned").ref.adapter_revision == second
    assert registry.get("eve/tuned@run-1").ref.adapter_revision == first
    with pytest.raises(RegistryError, match=r"eve/tuned@run-2 .* try again online"):
        registry.get("eve/tuned@run-2")


def test_a_second_pull_fetches_nothing(hub_double: HubDouble, registry: Registry, tmp_path: Path):
    hub_double.add_repo("eve/tuned", write_adapter(tmp_path / "a", BASE))
    first = registry.pull("eve/tuned", None)
    hub_double.requests.clear()
    assert registry.pull("eve/tuned", None) == first
    assert hub_double.lines("resolve|GET /get") == []


REFUSED = {
    "other-revision": (OTHER, {}, "this home's base is ada/chat@bbbbbbbbbbbb"),
    "other-base": (ModelRef("ada/big", "b" * 40), {}, "belongs to ada/big@bbbbbbbbbbbb"),
    "no-revision": (BASE, {"revision": None}, "names ada/chat without a revision"),
    "ia3": (BASE, {"peft_type": "IA3"}, "loads LoRA only"),
    "dora": (BASE, {"use_dora": True}, "it uses use_dora"),
    "biased": (BASE, {"bias": "all"}, "trains biases"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_does_not_fit_is_refused(
    hub_double: HubDouble, registry: Registry, home: Path, tmp_path: Path, name: str
):
    base, changes, reason = REFUSED[name]
    hub_double.add_repo(f"eve/{name}", write_adapter(tmp_path / "a", base, **changes))
    with pytest.raises(RegistryError, match=f"eve/{name} can't be used: .*{reason}"):
        registry.pull(f"eve/{name}", None)
    assert hub_double.lines("GET /get/") == [], "its weights were never fetched"
    assert [p for p in home.rglob("*") if p.is_file()] == []
    assert names(registry) == ["base"]


def test_what_cannot_be_pulled_gets_one_line(
    hub_double: HubDouble, registry: Registry, home: Path, tmp_path: Path
):
    adapter = write_adapter(tmp_path / "a", BASE)
    hub_double.add_repo("eve/closed", adapter, gated=True)
    hub_double.add_repo("eve/tuned", adapter)
    hub_double.add_repo("eve/nothing", {"README.md": b"hello"})
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    hub_double.add_repo("eve/pickled", adapter)
    for repo, revision, reason in (
        ("nobody/none", None, "no such repository"),
        ("eve/tuned", "v9", "no such revision"),
        ("eve/closed", None, "access is gated"),
        ("eve/nothing", None, "no adapter in it"),
        ("eve/pickled", None, "pickled weights are never read"),
        ("no-owner", None, "use owner/name"),
        ("a/b/c", None, "use owner/name"),
        ("../../etc", None, "use owner/name"),
    ):
        with pytest.raises(RegistryError, match=reason) as caught:
            registry.pull(repo, revision)
        assert repo in str(caught.value)
        assert "\n" not in str(caught.value)
    assert [p for p in home.rglob("*") if p.is_file()] == []


def test_oversized_files_are_refused(hub_double: HubDouble, registry: Registry, tmp_path: Path):
    adapter = write_adapter(tmp_path / "a", BASE)
    (adapter / "README.md").write_bytes(b"x" * (1024**2 + 1))
    hub_double.add_repo("eve/tuned", adapter)
    with pytest.raises(RegistryError, match=r"1048577 bytes and at most 1,048,576 are taken"):
        registry.pull("eve/tuned", None)


def test_damaged_bytes_are_thrown_away(
    hub_double: HubDouble, registry: Registry, home: Path, tmp_path: Path
):
    adapter = write_adapter(tmp_path / "a", BASE)
    hub_double.add_repo("eve/tuned", adapter)
    (oid,) = hub_double.storage
    good = hub_double.storage[oid]
    hub_double.storage[oid] = good[:-1] + b"\x99"
    with pytest.raises(RegistryError, match="came damaged"):
        registry.pull("eve/tuned", None)
    assert [p for p in home.rglob("*") if p.is_file()] == []
    hub_double.storage[oid] = good
    assert registry.pull("eve/tuned", None).weights_path is not None


def test_passing_trouble_is_tried_again(hub_double: HubDouble, registry: Registry, tmp_path: Path):
    hub_double.add_repo("eve/tuned", write_adapter(tmp_path / "a", BASE))
    hub_double.fail(r"GET /api/models", 503)
    hub_double.tear(r"GET /get/")
    assert registry.pull("eve/tuned", None).ref.adapter == "eve/tuned"


def test_a_hub_that_stays_busy_is_one_line(
    hub_double: HubDouble, registry: Registry, tmp_path: Path
):
    hub_double.add_repo("eve/tuned", write_adapter(tmp_path / "a", BASE))
    hub_double.fail(r"GET /api/models", 503, times=9)
    with pytest.raises(RegistryError, match=r"HTTP 503\): try again in a while"):
        registry.pull("eve/tuned", None)


def test_a_private_adapter_needs_the_token_and_it_stays_with_the_hub(
    hub_double: HubDouble, registry: Registry, home: Path, tmp_path: Path
):
    hub_double.add_repo("ada/secret", write_adapter(tmp_path / "a", BASE), private=True)
    with pytest.raises(RegistryError, match="no such repository"):
        registry.pull("ada/secret", None)
    base = ResolvedBase(BASE, home / "base", is_starter=False, notice=None)
    assert Registry(home, base, token=READER).pull("ada/secret", None).ref.adapter == "ada/secret"
    stored = [r for r in hub_double.requests if r.host == "localhost"]
    assert stored
    assert all(r.authorization is None for r in stored)
    assert READER not in "".join(p.read_text("latin-1") for p in home.rglob("*.json"))


def test_a_folder_base_is_known_by_its_weights(home: Path, tmp_path: Path):
    here = ModelRef("/data/chat", "f" * 40)
    write_run(home, "dpo-1", ModelRef("chat", "f" * 40))
    write_run(home, "dpo-2", ModelRef("chat", "0" * 40))
    registry = Registry(home, ResolvedBase(here, home, is_starter=False, notice=None))
    assert names(registry) == ["base", "dpo-1"]


def test_a_cut_record_hides_only_its_adapter(
    hub_double: HubDouble, registry: Registry, tmp_path: Path
):
    hub_double.add_repo("eve/one", write_adapter(tmp_path / "a", BASE, seed=1))
    hub_double.add_repo("eve/two", write_adapter(tmp_path / "b", BASE, seed=2))
    one, two = registry.pull("eve/one", None), registry.pull("eve/two", None)
    assert names(registry) == ["base", one.name, two.name]
    (one.weights_path / "pulled.json").write_text('{"repo": 3')
    assert names(registry) == ["base", two.name]
    assert registry.pull("eve/one", None) == one, "a broken copy is fetched anew"
    assert json.loads((two.weights_path / "pulled.json").read_text())["asked"] == ["main"]


# Whole models, tuned in full.


@pytest.fixture
def speaking(home: Path) -> Registry:
    """A registry whose base lies on the disk, as it does in an app."""
    folder = write_model(home / "base", **SHAPE)
    return Registry(home, ResolvedBase(BASE, folder, is_starter=False, notice=None))


SHAPE = {"architectures": ["LlamaForCausalLM"], "vocab_size": 768}


def tuned(folder: Path, seed: int = 1, **changes: object) -> Path:
    return write_model(folder, seed, **SHAPE | changes)


def lineage(folder: Path, made_from: ModelRef = BASE, **changes: object) -> Path:
    """`folder` with the file that says what it was tuned from, as publish writes it."""
    row = {"base": made_from.base, "base_revision": made_from.base_revision} | changes
    (folder / "votetune.json").write_text(json.dumps(row))
    return folder


def test_a_run_tuned_in_full_is_named_by_its_id_and_weights(
    speaking: Registry, home: Path, tmp_path: Path
):
    write_run(home, "dpo-1", BASE)
    path = write_run(home, "dpo-full", BASE, model=tuned(tmp_path / "m"))
    found = speaking.get("dpo-full")
    digest = sha256_of(path / "model" / "model.safetensors")[:40]
    assert found.ref == ModelRef("ada/chat", "b" * 40, "dpo-full", digest)
    assert (found.weights_path, found.tuning) == (path / "model", "full")
    assert speaking.weights_path(found.ref) == path / "model"
    assert sorted(names(speaking)) == ["base", "dpo-1", "dpo-full"]
    tuned(path / "model", seed=2)
    assert speaking.get("dpo-full").ref != found.ref


@pytest.mark.parametrize(
    ("changes", "base", "reason"),
    [
        ({"vocab_size": 769}, BASE, r"another architecture \(vocab_size 769\) than .* \(768\)"),
        ({"architectures": ["QwenForCausalLM"]}, BASE, "QwenForCausalLM"),
        ({"auto_map": {"AutoModel": "evil.py"}}, BASE, "needs code of its own"),
        ({}, OTHER, r"belongs to ada/chat@eeeeeeeeeeee and this home's base is ada/chat@bbbb"),
    ],
)
def test_a_whole_model_that_does_not_fit_is_refused_and_what_is_live_stays(
    speaking: Registry, home: Path, tmp_path: Path, changes: dict, base: ModelRef, reason: str
):
    write_run(home, "dpo-1", BASE)
    before = speaking.models()
    write_run(home, "dpo-odd", base, model=tuned(tmp_path / "m", **changes))
    with pytest.raises(RegistryError, match=f"The model of run dpo-odd can't be used: .*{reason}"):
        speaking.get("dpo-odd")
    assert speaking.models() == before


def test_a_whole_model_without_whole_safetensors_is_refused(
    speaking: Registry, home: Path, tmp_path: Path
):
    weights = write_run(home, "f1", BASE, model=tuned(tmp_path / "m")) / "model/model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-4])
    with pytest.raises(RegistryError, match="is cut short"):
        speaking.get("f1")
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(RegistryError, match="pickled weights are never read"):
        speaking.get("f1")
    (weights.parent / "config.json").unlink()
    with pytest.raises(RegistryError, match=r"The model of run f1 .*config\.json is missing"):
        speaking.get("f1")


def test_a_whole_model_is_pulled_by_its_lineage(
    hub_double: HubDouble, speaking: Registry, tmp_path: Path
):
    model = lineage(tuned(tmp_path / "m"))
    for name in ("train.py", "training_args.bin", "model.txt"):
        (model / name).write_text("{}")
    commit = hub_double.add_repo("eve/whole", model)
    pulled = speaking.pull("eve/whole", None)
    assert pulled.ref == ModelRef("ada/chat", "b" * 40, "eve/whole", commit)
    assert pulled.tuning == "full"
    assert sorted(p.name for p in pulled.weights_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "pulled.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "votetune.json",
    ]
    kept = (pulled.weights_path / "model.safetensors").read_bytes()
    assert kept == (model / "model.safetensors").read_bytes()
    assert names(speaking) == ["base", pulled.name]
    hub_double.requests.clear()
    assert speaking.pull("eve/whole", None) == pulled
    assert hub_double.lines("resolve|GET /get") == []


@pytest.mark.parametrize(
    ("changes", "named", "reason"),
    [
        ({}, None, r"whole model without a votetune\.json that names its base at a revision"),
        ({}, {"base_revision": None}, "names ada/chat without a revision"),
        ({}, {"base_revision": "e" * 40}, "belongs to ada/chat@eeeeeeeeeeee"),
        ({}, {"base": "ada/big"}, "belongs to ada/big@bbbbbbbbbbbb"),
        ({"vocab_size": 9}, {}, r"another architecture \(vocab_size 9\)"),
        ({"auto_map": {"AutoModel": "evil.py"}}, {}, "needs code of its own"),
        ({"pickled": True}, {}, r"no model\.safetensors, and pickled weights are never read"),
        ({"bytes": 2000}, {}, r"model\.safetensors has 2\d\d\d bytes and at most"),
    ],
)
def test_a_whole_model_of_the_hub_that_does_not_fit_is_refused_before_its_weights_come(
    hub_double: HubDouble,
    speaking: Registry,
    home: Path,
    tmp_path: Path,
    changes: dict,
    named: dict | None,
    reason: str,
):
    model = tuned(tmp_path / "m", **changes)
    weights = model / "model.safetensors"
    if "pickled" in changes:
        weights.rename(weights.with_suffix(".bin"))
    if "bytes" in changes:
        weights.write_bytes(weights.read_bytes() + b"x" * changes["bytes"])
    if named is not None:
        lineage(model, **named)
    hub_double.add_repo("eve/whole", model)
    with pytest.raises(RegistryError, match=f"eve/whole can't be used: .*{reason}") as caught:
        speaking.pull("eve/whole", None)
    assert "\n" not in str(caught.value)
    assert hub_double.lines("GET /get/") == [], "its weights were never fetched"
    assert list((home / "models").glob("*")) == []
    assert names(speaking) == ["base"]


def test_a_refused_pull_leaves_what_was_pulled_before(
    hub_double: HubDouble, speaking: Registry, tmp_path: Path
):
    hub_double.add_repo("eve/whole", lineage(tuned(tmp_path / "m")))
    hub_double.add_repo("eve/other", lineage(tuned(tmp_path / "o"), OTHER))
    live = speaking.pull("eve/whole", None)
    with pytest.raises(RegistryError, match="eve/other can't be used: it belongs to"):
        speaking.pull("eve/other", None)
    assert names(speaking) == ["base", live.name]
    assert speaking.get("eve/whole", pull=False) == live
