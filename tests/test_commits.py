"""A tag is one commit's for good, and no token leaves by a log, a child or a storage host."""

import logging
import os
import subprocess
from pathlib import Path

import pytest
from hub_double import WRITER, HubDouble
from small_files import write_adapter, write_model, write_run

from alignment.publishing.merged import MergeError, ensure_merged
from alignment.publishing.publish import publish_run
from alignment.publishing.weights_gap import GapError, measure_gap
from alignment.registry import Registry, ResolvedBase
from alignment.runs.run_store import RunFolder
from annotation.export.export import export_to_home
from annotation.hub.client import HubError, Trouble
from annotation.hub.commits import find_revision, make_repo, put_files, put_tag
from annotation.hub.dataset import publish_dataset
from annotation.journal.journal import Journal
from annotation.schema import Choice, ModelRef, Split
from tests.test_export import fill, pair_of, prompts_of, vote_of


def push(content: bytes, repo: str = "ada/x") -> str:
    make_repo(repo, kind="model", token=WRITER)
    files = {"a.txt": content}
    return put_files(repo, files, kind="model", message="Add", token=WRITER, sleep=lambda _s: None)


def tag(name: str, commit: str, naps: list[float] | None = None) -> None:
    sleep = (naps if naps is not None else []).append
    put_tag("ada/x", name, commit, kind="model", token=WRITER, sleep=sleep)


def test_a_tag_is_made_once(hub_double: HubDouble):
    commit = push(b"one")
    tag("run-1", commit)
    tag("run-1", commit)
    assert hub_double.repo("ada/x").tags == {"run-1": commit}
    found = find_revision("ada/x", "run-1", kind="model", token=WRITER)
    assert found is not None
    assert found.commit == commit
    assert find_revision("ada/x", "run-2", kind="model", token=WRITER) is None


def test_a_tag_of_another_commit_is_never_moved(hub_double: HubDouble):
    first = push(b"one")
    tag("run-1", first)
    with pytest.raises(HubError, match="the tag run-1 was not made"):
        tag("run-1", push(b"two"))
    assert hub_double.repo("ada/x").tags == {"run-1": first}


@pytest.mark.parametrize("name", ["-run", "a b", "run..1", "run."])
def test_an_invalid_tag_is_refused_at_once(hub_double: HubDouble, name: str):
    commit, naps = push(b"one"), []
    with pytest.raises(HubError, match="the Hub refused it") as caught:
        tag(name, commit, naps)
    assert (caught.value.trouble, naps) == (Trouble.REFUSED, [])
    assert hub_double.repo("ada/x").tags == {}


def test_a_lost_answer_to_a_tag_is_no_second_tag(hub_double: HubDouble):
    commit = push(b"one")
    hub_double.tear("/tag/", after=True)
    tag("run-1", commit)
    assert hub_double.repo("ada/x").tags == {"run-1": commit}


def test_two_who_push_at_once_both_arrive(hub_double: HubDouble):
    push(b"one")
    # What a stale parent is answered, with the words of the real Hub.
    hub_double.fail("/commit/main", 412)
    done = push(b"two")
    assert hub_double.repo("ada/x").head.oid == done
    assert [c.title for c in hub_double.repo("ada/x").commits] == ["initial commit", "Add", "Add"]


def test_no_token_reaches_a_log_a_card_or_the_storage_host(
    hub_double: HubDouble,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr("hub_double.LFS_NAMES", (".jsonl", ".safetensors"))
    monkeypatch.setattr("time.sleep", lambda _s: None)
    caplog.set_level(logging.DEBUG)
    home = tmp_path / "home"
    base = ModelRef("ada/chat", hub_double.add_repo("ada/chat", write_model(tmp_path / "base")))
    run = write_run(home, "dpo-1", base)
    journal = Journal(home / "journal.sqlite3")
    pairs = [pair_of(p, "p") for p in prompts_of(Split.TRAIN, 1)]
    fill(journal, pairs, [vote_of("p", Choice.A)])
    for pattern in ("/commit/main", "PUT /put/", "/tag/"):
        hub_double.fail(pattern, 503)
    publish_dataset(export_to_home(journal, home), home=home, repo="ada/votes", token=WRITER)
    publish_run(run, repo="ada/tuned", token=WRITER, private=True)
    here = ResolvedBase(base, tmp_path / "base", is_starter=False, notice=None)
    Registry(home, here, token=WRITER).pull("ada/tuned", None)
    journal.close()
    stored = [r for r in hub_double.requests if r.host == "localhost"]
    assert {r.method for r in stored} == {"PUT", "GET"}
    assert all(r.authorization is None for r in stored)
    assert WRITER not in caplog.text
    kept = b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    pushed = b"".join(b.data for r in hub_double.repos.values() for b in r.head.files.values())
    assert WRITER.encode() not in kept + pushed


def test_no_token_reaches_a_child_that_merges_or_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    seen: list[tuple[list[str], dict[str, str]]] = []

    def run(command, *, env, **_more):
        seen.append((command, env))
        return subprocess.CompletedProcess(command, 1, "", "no such thing")

    monkeypatch.setattr(subprocess, "run", run)
    folder = RunFolder(tmp_path / "dpo-1")
    write_adapter(folder.adapter, ModelRef("ada/chat", "b" * 40))
    with pytest.raises(MergeError, match="no such thing"):
        ensure_merged(folder, tmp_path)
    with pytest.raises(GapError, match="no such thing"):
        measure_gap(tmp_path, folder.adapter, folder.adapter)
    assert os.environ["HF_TOKEN"] == WRITER
    assert len(seen) == 2
    for command, environment in seen:
        assert WRITER not in " ".join(command)
        assert WRITER not in environment.values()
