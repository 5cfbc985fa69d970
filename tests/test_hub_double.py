"""The Hub double answers the real huggingface_hub client as the Hub does."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hub_double import READER, WRITER, HubDouble
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = bytes(range(256)) * 40


def push(repo: str, files: dict[str, bytes], parent: str | None = None) -> str:
    api = HfApi(token=WRITER)
    api.create_repo(repo, exist_ok=True)
    return api.create_commit(
        repo,
        [CommitOperationAdd(name, data) for name, data in files.items()],
        commit_message="Add",
        parent_commit=parent,
    ).oid


def test_a_commit_comes_back_by_branch_tag_and_sha(hub_double: HubDouble, tmp_path: Path) -> None:
    oid = push("ada/m", {"model.safetensors": WEIGHTS, "README.md": b"---\ntags: [a]\n---\nHi"})
    HfApi(token=WRITER).create_tag("ada/m", tag="v1", revision=oid)
    push("ada/m", {"README.md": b"---\ntags: [b]\n---\nHi"})
    for revision, text in (("main", b"[b]"), ("v1", b"[a]"), (oid, b"[a]")):
        folder = Path(snapshot_download("ada/m", revision=revision))
        assert text in (folder / "README.md").read_bytes()
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    refs = HfApi().list_repo_refs("ada/m")
    assert [(t.name, t.target_commit) for t in refs.tags] == [("v1", oid)]
    listed = HfApi().get_paths_info("ada/m", ["model.safetensors"])[0]
    assert listed.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()


def test_the_token_never_reaches_the_storage_host(hub_double: HubDouble) -> None:
    push("ada/m", {"model.safetensors": WEIGHTS})
    hf_hub_download("ada/m", "model.safetensors", token=WRITER)
    stored = [r for r in hub_double.requests if r.host == "localhost"]
    assert {r.method for r in stored} == {"PUT", "GET"}
    assert all(r.authorization is None for r in stored)


def test_a_stale_parent_is_refused(hub_double: HubDouble) -> None:
    first = push("ada/m", {"a.txt": b"1"})
    push("ada/m", {"a.txt": b"2"})
    with pytest.raises(HfHubHTTPError, match="412"):
        push("ada/m", {"a.txt": b"3"}, parent=first)
    assert hub_double.repo("ada/m").head.files["a.txt"].data == b"2"


def test_ids_are_case_insensitive(hub_double: HubDouble) -> None:
    oid = hub_double.add_repo("Ada/Model", {"a.txt": b"1"})
    info = HfApi().model_info("ada/model")
    assert (info.id, info.sha) == ("Ada/Model", oid)


def test_errors_are_those_of_the_hub(hub_double: HubDouble) -> None:
    hub_double.add_repo("eve/closed", {"config.json": b"{}"}, gated=True)
    hub_double.add_repo("ada/open", {"config.json": b"{}"})
    hub_double.add_repo("eve/private", {"config.json": b"{}"}, private=True)
    with pytest.raises(GatedRepoError):
        hf_hub_download("eve/closed", "config.json", token=READER)
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("eve/private")
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("nobody/nothing")
    with pytest.raises(RevisionNotFoundError):
        HfApi().model_info("ada/open", revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("ada/open", "absent.json")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_unknown").whoami()
    with pytest.raises(HfHubHTTPError, match="403"):
        HfApi(token=READER).create_repo("ada/new")


def test_a_tree_of_many_pages_is_whole(hub_double: HubDouble) -> None:
    hub_double.page_size = 3
    hub_double.add_repo("ada/many", {f"{i}.txt": b"x" for i in range(8)})
    assert len(list(HfApi().list_repo_tree("ada/many", recursive=True))) == 8


def test_faults_are_served_as_often_as_asked(hub_double: HubDouble) -> None:
    hub_double.add_repo("ada/m", {"a.txt": b"1"})
    hub_double.fail(r"GET /api/models", 503)
    with pytest.raises(HfHubHTTPError, match="503"):
        HfApi().model_info("ada/m")
    hub_double.tear(r"GET /api/models")
    with pytest.raises(Exception, match=r"closed|incomplete|peer"):
        HfApi().model_info("ada/m")
    assert HfApi().model_info("ada/m").id == "ada/m"


def test_a_child_process_is_served_by_environment(hub_double: HubDouble, tmp_path: Path) -> None:
    oid = hub_double.add_repo("ada/m", {"a.txt": b"1"})
    code = "import huggingface_hub as h; print(h.HfApi().model_info('ada/m').sha)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=hub_double.environment(tmp_path / "child"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == oid, done.stderr
