"""Which base a home speaks: pinned, never mixed, and the starter only where nothing is bound."""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_double import STRANGER, HubDouble, point_client
from huggingface_hub import constants
from pydantic import SecretStr
from small_files import write_adapter, write_model

from alignment.base import BaseModelError, bound_base, resolve_base
from alignment.hub.model_files import weights_sha256
from alignment.settings import DEFAULT_BASE_MODEL, AlignmentSettings
from alignment.starter.starter import STARTER_DIR, starter_revision
from annotation.home import Home, HomeLock
from annotation.schema import ModelRef


def settings(**values: object) -> AlignmentSettings:
    names = ("base_model", "base_revision", "hf_token", "hub_namespace", "admin_token")
    return AlignmentSettings(**(dict.fromkeys(names) | values))


def held(home: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in home.rglob("*") if p.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def black_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        point_client(monkeypatch, endpoint, tmp_path / "hf-cache")
        yield


def test_a_hub_base_is_resolved_once_and_pinned(hub_double: HubDouble, home: Path, tmp_path: Path):
    first = hub_double.add_repo("ada/chat", write_model(tmp_path / "m", seed=1))
    base = resolve_base(settings(base_model="ada/chat"), home, has_votes=False)
    assert (base.ref.base, base.ref.base_revision) == ("ada/chat", first)
    assert (base.is_starter, base.notice) == (False, None)
    assert bound_base(home) == base.ref
    hub_double.add_repo("ada/chat", write_model(tmp_path / "m", seed=2))
    hub_double.requests.clear()
    again = resolve_base(settings(base_model="ada/chat"), home, has_votes=True)
    assert again == base
    assert hub_double.requests == [], "a pinned and cached base needs no network"


def test_only_config_tokenizer_and_safetensors_are_fetched(
    hub_double: HubDouble, home: Path, tmp_path: Path
):
    model = write_model(tmp_path / "m")
    for name in ("pytorch_model.bin", "modeling_x.py", "README.md", "onnx/model.safetensors"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"never fetched")
    hub_double.add_repo("ada/chat", model)
    base = resolve_base(settings(base_model="ada/chat"), home, has_votes=False)
    assert sorted(p.name for p in base.path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_torn_download_is_tried_again(hub_double: HubDouble, home: Path, tmp_path: Path):
    model = write_model(tmp_path / "m")
    hub_double.add_repo("ada/chat", model)
    hub_double.tear(r"GET /get/")
    base = resolve_base(settings(base_model="ada/chat"), home, has_votes=False)
    kept = (base.path / "model.safetensors").read_bytes()
    assert kept == (model / "model.safetensors").read_bytes()


def test_a_base_revision_is_respected(hub_double: HubDouble, home: Path, tmp_path: Path):
    first = hub_double.add_repo("ada/chat", write_model(tmp_path / "m", seed=1))
    second = hub_double.add_repo("ada/chat", write_model(tmp_path / "m", seed=2))
    hub_double.repo("ada/chat").tags["v1"] = first
    for asked, commit in ((first, first), ("v1", first), ("main", second)):
        wanted = settings(base_model="ada/chat", base_revision=asked)
        assert resolve_base(wanted, home, has_votes=False).ref.base_revision == commit
    with pytest.raises(BaseModelError, match=r"BASE_REVISION=v9 .* no such revision"):
        resolve_base(settings(base_model="ada/chat", base_revision="v9"), home, has_votes=False)


def test_a_cached_base_counts_as_reachable(
    hub_double: HubDouble, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit = hub_double.add_repo(DEFAULT_BASE_MODEL, write_model(tmp_path / "m"))
    resolve_base(settings(), home, has_votes=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fresh = resolve_base(settings(), tmp_path / "other", has_votes=False)
    assert (fresh.ref.base_revision, fresh.is_starter) == (commit, False)


def test_a_half_cached_base_does_not_count(
    hub_double: HubDouble, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub_double.add_repo(DEFAULT_BASE_MODEL, write_model(tmp_path / "m"))
    base = resolve_base(settings(), home, has_votes=False)
    (base.path / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_base(settings(), home, has_votes=False).is_starter
    with pytest.raises(BaseModelError, match="HF_HUB_OFFLINE"):
        resolve_base(settings(base_model=DEFAULT_BASE_MODEL), home, has_votes=False)


def test_a_hub_that_never_answers_costs_three_seconds(black_hole: None, home: Path):
    start = time.monotonic()
    base = resolve_base(settings(), home, has_votes=False)
    assert time.monotonic() - start < 3.5
    assert base.is_starter
    assert (base.ref.base, base.ref.base_revision) == ("starter", starter_revision())
    assert base.path == STARTER_DIR
    assert "did not answer within 3 s" in base.notice
    assert DEFAULT_BASE_MODEL in base.notice


def test_a_named_base_never_falls_back(black_hole: None, home: Path):
    with pytest.raises(BaseModelError, match=r"BASE_MODEL=ada/chat .* did not answer"):
        resolve_base(settings(base_model="ada/chat"), home, has_votes=False)
    assert not home.exists()


def test_offline_mode_fails_at_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    point_client(monkeypatch, "http://127.0.0.1:9", tmp_path / "hf-cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    assert resolve_base(settings(), home, has_votes=False).is_starter
    assert time.monotonic() - start < 1


def test_votes_keep_a_home_on_its_base(hub_double: HubDouble, home: Path, tmp_path: Path):
    commit = hub_double.add_repo("ada/chat", write_model(tmp_path / "m", seed=1))
    hub_double.add_repo("ada/other", write_model(tmp_path / "o", seed=2))
    resolve_base(settings(base_model="ada/chat"), home, has_votes=False)
    before = held(home)
    hub_double.requests.clear()
    folder = str(write_model(tmp_path / "folder", seed=3))
    for wanted in ("ada/other", folder, "starter", None):
        with pytest.raises(BaseModelError, match="This home's votes belong to ada/chat@") as caught:
            resolve_base(settings(base_model=wanted), home, has_votes=True)
        assert f"BASE_MODEL=ada/chat BASE_REVISION={commit}" in str(caught.value)
        assert "another VOTETUNE_HOME" in str(caught.value)
    assert held(home) == before
    assert hub_double.requests == []
    assert (
        resolve_base(settings(base_model="Ada/Chat"), home, has_votes=True).ref.base == "ada/chat"
    )


def test_votes_keep_a_home_on_its_revision(hub_double: HubDouble, home: Path, tmp_path: Path):
    first = hub_double.add_repo("ada/chat", write_model(tmp_path / "m", seed=1))
    resolve_base(settings(base_model="ada/chat"), home, has_votes=False)
    second = hub_double.add_repo("ada/chat", write_model(tmp_path / "m", seed=2))
    before = held(home)
    moved = settings(base_model="ada/chat", base_revision=second)
    with pytest.raises(BaseModelError, match=f"votes belong to ada/chat@{first[:12]}"):
        resolve_base(moved, home, has_votes=True)
    assert held(home) == before
    assert resolve_base(moved, home, has_votes=False).ref.base_revision == second


def test_a_home_without_votes_is_bound_anew(home: Path, tmp_path: Path):
    one, two = write_model(tmp_path / "1", seed=1), write_model(tmp_path / "2", seed=2)
    for folder in (one, two):
        base = resolve_base(settings(base_model=str(folder)), home, has_votes=False)
        assert bound_base(home) == base.ref
        assert base.ref.base == str(folder)
        assert base.ref.base_revision == weights_sha256(folder)


def test_votes_on_the_starter_stay_there_and_say_so(
    hub_double: HubDouble, home: Path, tmp_path: Path
):
    resolve_base(settings(base_model="starter"), home, has_votes=False)
    hub_double.add_repo(DEFAULT_BASE_MODEL, write_model(tmp_path / "m"))
    base = resolve_base(settings(), home, has_votes=True)
    assert base.is_starter
    assert "votes belong to it" in base.notice
    assert hub_double.requests == []
    assert not resolve_base(settings(), home, has_votes=False).is_starter


def test_votes_on_a_lost_hub_base_never_go_to_the_starter(
    hub_double: HubDouble, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub_double.add_repo(DEFAULT_BASE_MODEL, write_model(tmp_path / "m"))
    resolve_base(settings(), home, has_votes=False)
    before = held(home)
    point_client(monkeypatch, "http://127.0.0.1:9", tmp_path / "empty-cache")
    with pytest.raises(BaseModelError, match="can't be had: the connection to the Hub failed"):
        resolve_base(settings(), home, has_votes=True)
    assert held(home) == before


def test_a_changed_folder_is_another_base(home: Path, tmp_path: Path):
    folder = write_model(tmp_path / "m", seed=1)
    resolve_base(settings(base_model=str(folder)), home, has_votes=False)
    write_model(folder, seed=2)
    with pytest.raises(BaseModelError, match="votes belong to"):
        resolve_base(settings(base_model=str(folder)), home, has_votes=True)


def test_an_unreadable_binding_stops_a_home_with_votes(home: Path):
    home.mkdir()
    (home / "base.json").write_text("{cut")
    with pytest.raises(BaseModelError, match=r"base\.json can't be read"):
        resolve_base(settings(base_model="starter"), home, has_votes=True)
    assert resolve_base(settings(base_model="starter"), home, has_votes=False).is_starter


def test_pickles_code_and_adapters_are_refused(hub_double: HubDouble, home: Path, tmp_path: Path):
    def add(name: str, **replaced: bytes | None) -> None:
        model = write_model(tmp_path / name)
        for file, content in replaced.items():
            path = model / file.replace("__", ".")
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        hub_double.add_repo(f"ada/{name}", model)

    add("bin-only", model__safetensors=None, pytorch_model__bin=b"pickle")
    add("own-code", config__json=json.dumps({"auto_map": {"AutoConfig": "x.Y"}}).encode())
    add("no-template", tokenizer_config__json=b"{}")
    add("torn", model__safetensors=b"x")
    adapter = write_adapter(tmp_path / "adapter", ModelRef("starter", starter_revision()))
    hub_double.add_repo("ada/adapter", adapter)
    for name, reason in {
        "bin-only": "no safetensors weights",
        "own-code": "code of its own",
        "no-template": "no chat template",
        "torn": r"model\.safetensors is no safetensors file",
        "adapter": "is an adapter, not a base model",
    }.items():
        with pytest.raises(BaseModelError, match=f"BASE_MODEL=ada/{name} .*{reason}") as caught:
            resolve_base(settings(base_model=f"ada/{name}"), home, has_votes=False)
        assert "\n" not in str(caught.value)
    assert not home.exists()
    assert hub_double.lines(r"bin-only/resolve|own-code.*safetensors") == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nobody/nothing", "no such repository"),
        ("eve/closed", "access is gated"),
        ("eve/private", "no such repository"),
        ("./not/a/folder", "no folder here and no name"),
        ("a/b/c", "no folder here and no name"),
    ],
)
def test_a_base_that_cannot_be_had_gets_one_line(
    hub_double: HubDouble, home: Path, tmp_path: Path, name: str, reason: str
):
    hub_double.add_repo("eve/closed", write_model(tmp_path / "m"), gated=True)
    hub_double.add_repo("eve/private", write_model(tmp_path / "m"), private=True)
    with pytest.raises(BaseModelError, match=f"BASE_MODEL={name} .*{reason}") as caught:
        resolve_base(settings(base_model=name, hf_token=SecretStr(STRANGER)), home, has_votes=False)
    assert "\n" not in str(caught.value)
    assert STRANGER not in str(caught.value)
    assert not home.exists()


def test_a_refused_token_stops_the_start(hub_double: HubDouble, home: Path, tmp_path: Path):
    hub_double.add_repo(DEFAULT_BASE_MODEL, write_model(tmp_path / "m"))
    with pytest.raises(BaseModelError, match="refused HF_TOKEN"):
        resolve_base(settings(hf_token=SecretStr("hf_wrong")), home, has_votes=False)


def test_a_private_base_is_read_with_the_token(hub_double: HubDouble, home: Path, tmp_path: Path):
    hub_double.add_repo("bob/private", write_model(tmp_path / "m"), private=True, gated=True)
    wanted = settings(base_model="bob/private", hf_token=SecretStr(STRANGER))
    assert resolve_base(wanted, home, has_votes=False).ref.base == "bob/private"
    stored = [r for r in hub_double.requests if r.host == "localhost"]
    assert stored
    assert all(r.authorization is None for r in stored)


def test_a_busy_hub_counts_as_out_of_reach(hub_double: HubDouble, home: Path):
    hub_double.fail(r"GET /api/models", 503, times=9)
    base = resolve_base(settings(), home, has_votes=False)
    assert base.is_starter
    assert "HTTP 503" in base.notice


def test_a_sharded_folder_needs_every_shard(home: Path, tmp_path: Path):
    folder = write_model(tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {"weight_map": {"w": names[0], "v": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / names[0]).write_bytes(whole)
    with pytest.raises(BaseModelError, match=f"{names[1]} is missing"):
        resolve_base(settings(base_model=str(folder)), home, has_votes=False)
    (folder / names[1]).write_bytes(whole)
    resolve_base(settings(base_model=str(folder)), home, has_votes=False)
    index["weight_map"]["w"] = "../outside.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match="something else than safetensors"):
        resolve_base(settings(base_model=str(folder)), home, has_votes=False)


def test_base_revision_must_fit_what_has_no_hub(home: Path):
    revision = starter_revision()
    fits = settings(base_model="starter", base_revision=revision[:8])
    assert resolve_base(fits, home, has_votes=False).ref.base_revision == revision
    with pytest.raises(BaseModelError, match=r"BASE_REVISION=main .* unset BASE_REVISION"):
        resolve_base(settings(base_model="starter", base_revision="main"), home, has_votes=False)


def test_a_running_app_keeps_a_home_on_its_base(hub_double: HubDouble, home: Path, tmp_path: Path):
    """A command beside the app must not bind the home to another base under its feet."""
    hub_double.add_repo(DEFAULT_BASE_MODEL, write_model(tmp_path / "m"))
    resolve_base(settings(base_model="starter"), home, has_votes=False)
    lock = HomeLock(Home(home))
    app = {"url": "http://127.0.0.1:7860", "pid": os.getppid()}
    (home / "app.json").write_text(json.dumps(app))
    before = held(home)
    with pytest.raises(BaseModelError, match=r"The app running at http://127.0.0.1:7860 speaks"):
        resolve_base(settings(base_model=DEFAULT_BASE_MODEL), home, has_votes=False)
    assert resolve_base(settings(), home, has_votes=False).is_starter
    assert held(home) == before
    lock.announce(app["url"])
    assert not resolve_base(settings(), home, has_votes=False).is_starter
    lock.release()


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BaseModelError, match=r"VOTETUNE_HOME=.*/file/home can't be written"):
        resolve_base(settings(base_model="starter"), tmp_path / "file" / "home", has_votes=False)
