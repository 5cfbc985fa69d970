"""Trackio: a real run writes its losses offline; what has ended goes to the Space, once."""

import json
import os
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from alignment.runs import tracking
from alignment.runs.recipes import TrainingOptions
from alignment.runs.run_store import RunState
from alignment.runs.runs import Run, Runs
from alignment.runs.tracking import SENT, TRACKIO_FOLDER, SpaceMirror, TrackingError, send_to_space
from alignment.settings import AlignmentSettings
from alignment.training.watch.tracking import tracking_arguments
from annotation.settings import load_settings
from tests.preferences import export_of, tiny_base
from tests.tiny import make_tiny_model

STEPS = 3
PYTHON = sys.executable
TOKEN = "hf_secret-of-the-owner"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Run]:
    """A run of three steps of an app that has TRACKIO_PROJECT, a Space and a token set."""
    home = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_PROJECT", "votes")
        patch.setenv("TRACKIO_SPACE_ID", "owner/board")
        patch.setenv("HF_TOKEN", TOKEN)
        runs = Runs(home)
        run = runs.start(
            TrainingOptions("dpo", steps=STEPS),
            base=tiny_base(make_tiny_model(home / "tiny")),
            export=export_of(home, 24),
        )
    return runs, runs.wait(run.id, timeout_s=200)


@pytest.mark.slow
def test_a_run_writes_its_losses_into_a_project_of_the_home(tracked: tuple[Runs, Run]) -> None:
    runs, run = tracked
    assert run.state is RunState.DONE, run.reason
    database = run.folder.path.parent.parent / TRACKIO_FOLDER / "votes.db"
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, metrics FROM metrics ORDER BY id").fetchall()
    logged = [json.loads(metrics) for name, metrics in rows if name == run.id]
    told = [row["train/loss"] for row in logged if "train/loss" in row]
    assert told == [m.loss for m in runs.metrics(run.id)]
    assert len(told) == STEPS
    assert TOKEN not in run.folder.log.read_text()
    assert TOKEN.encode() not in database.read_bytes()


def test_a_training_child_reports_nowhere_but_to_its_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = tmp_path / "home" / "runs" / "dpo-1"
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    assert tracking_arguments(run) == {"report_to": "none"}
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_DIR"):
        monkeypatch.setenv(name, "https://elsewhere")
    monkeypatch.setenv("TRACKIO_PROJECT", "votes")
    told = tracking_arguments(run)
    assert (told["report_to"], told["project"], told["run_name"]) == ("trackio", "votes", "dpo-1")
    assert told["trackio_space_id"] is None
    assert told["trackio_static_space_id"] is False
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "home" / "trackio")
    assert not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & set(os.environ)


@pytest.mark.slow
def test_the_space_gets_each_ended_run_once(tracked: tuple[Runs, Run]) -> None:
    runs, run = tracked
    folder = run.folder.path.parent.parent / TRACKIO_FOLDER
    sends: list[str] = []

    def refuse() -> None:
        raise TrackingError("no")

    with pytest.raises(TrackingError):
        SpaceMirror(runs, folder, refuse).send_new()
    assert not (folder / SENT).exists()
    mirror = SpaceMirror(runs, folder, lambda: sends.append("sent"))
    assert [mirror.send_new(), mirror.send_new()] == [True, False]
    assert (folder / SENT).read_text() == f"{run.id}\n"
    again = SpaceMirror(runs, folder, lambda: sends.append("again"))
    assert again.send_new() is False
    assert sends == ["sent"]


def stand_in(folder: Path, code: int) -> Path:
    """Something that takes Python's place: notes how it was called and ends with `code`."""
    program = folder / f"python-{code}"
    program.write_text(
        f"#!{PYTHON}\nimport json, os, sys\n"
        f"json.dump([sys.argv[1:], dict(os.environ)], open({str(folder / 'call.json')!r}, 'w'))\n"
        f"sys.stderr.write('403 for ' + os.environ['HF_TOKEN'])\nsys.exit({code})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_the_token_goes_by_environment_and_into_no_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "not-for-trackio")
    monkeypatch.setattr(tracking.sys, "executable", str(stand_in(tmp_path, 0)))
    send_to_space(tmp_path, "votes", "owner/board", TOKEN)
    words, environment = json.loads((tmp_path / "call.json").read_text())
    assert words[:3] == ["-m", "trackio.cli", "sync"]
    assert "--private" in words
    assert words[-4:] == ["--project", "votes", "--space-id", "owner/board"]
    assert TOKEN not in " ".join(words)
    assert environment["HF_TOKEN"] == TOKEN
    assert environment["TRACKIO_DIR"] == str(tmp_path)
    assert "ADMIN_TOKEN" not in environment

    monkeypatch.setattr(tracking.sys, "executable", str(stand_in(tmp_path, 1)))
    with pytest.raises(TrackingError, match="owner/board took no Trackio data") as refused:
        send_to_space(tmp_path, "votes", "owner/board", TOKEN)
    assert TOKEN not in str(refused.value)
    assert "403 for ***" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"TRACKIO_SPACE_ID": "a/b"}, True), ({"TRACKIO_PROJECT": "p"}, False)],
)
def test_a_space_needs_a_project_and_a_token(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], missing: bool
) -> None:
    for name in ("TRACKIO_PROJECT", "TRACKIO_SPACE_ID", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    if missing:
        with pytest.raises(Exception, match="TRACKIO_SPACE_ID needs TRACKIO_PROJECT"):
            load_settings(AlignmentSettings)
    else:
        assert load_settings(AlignmentSettings).trackio_project == "p"


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    tracking.check_trackio()
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrackingError, match="trackio is not installed: run `pip install -r"):
        tracking.check_trackio()
