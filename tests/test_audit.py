"""The audit log: written before and after, whole lines only, and nothing in it that is private."""

import inspect
import json
import os
import stat
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from running_app import run_command

import app
from alignment.audit import ADMIN_TOKEN, COMMAND_LINE, Actor, AuditError, AuditLine, AuditLog
from alignment.commands.hub import hub_commands
from annotation.faults import Fault
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.schema import utc_now

ADA = Actor("ada", "hub-65f0c0ffee")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


def ends(log: AuditLog) -> list[tuple[str, str, tuple[str, ...], str | None]]:
    return [(line.who.name, line.what, line.on, line.ended) for line in log.latest()]


def test_an_action_is_on_disk_before_it_begins_and_again_with_its_end(home: Home) -> None:
    log = AuditLog(home)
    with log.action(ADA, "train") as action:
        assert ends(AuditLog(home)) == [("ada", "train", (), None)]
        action.touched("dpo-1")
    assert ends(AuditLog(home)) == [("ada", "train", ("dpo-1",), "done")]
    assert stat.S_IMODE(home.audit.stat().st_mode) == 0o600
    rows = [json.loads(line) for line in home.audit.read_text().splitlines()]
    assert [sorted(row) for row in rows] == [
        ["account", "at", "key", "on", "what", "who"],
        ["at", "ended", "key", "on"],
    ]
    assert rows[0]["account"] == "hub-65f0c0ffee"


def test_every_line_is_flushed_to_the_disk(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[bytes] = []
    sync = os.fsync

    def spy(file: int) -> None:
        flushed.append(home.audit.read_bytes())
        sync(file)

    monkeypatch.setattr(os, "fsync", spy)
    with AuditLog(home).action(ADA, "export"):
        assert flushed[0].count(b"\n") == 1
    assert flushed[-1] == home.audit.read_bytes()
    assert flushed[-1].count(b"\n") == 2


def test_a_refusal_and_a_bug_end_an_action_differently_and_are_raised_on(home: Home) -> None:
    log = AuditLog(home)
    with pytest.raises(Fault, match="secret words"), log.action(ADA, "publish", "dpo-1"):
        raise Fault("secret words")
    with pytest.raises(ZeroDivisionError), log.action(COMMAND_LINE, "cancel", "dpo-1"):
        raise ZeroDivisionError("secret words")
    with pytest.raises(KeyboardInterrupt), log.action(COMMAND_LINE, "train"):
        raise KeyboardInterrupt
    assert ends(log) == [
        ("command line", "train", (), "failed"),
        ("command line", "cancel", ("dpo-1",), "failed"),
        ("ada", "publish", ("dpo-1",), "refused"),
    ]
    assert "secret" not in home.audit.read_text()


def test_what_cannot_be_written_down_is_not_done(home: Home) -> None:
    home.audit.mkdir()
    with (
        pytest.raises(AuditError, match=r"audit\.jsonl can't be written .*nothing was done: free"),
        AuditLog(home).action(ADA, "train"),
    ):
        pytest.fail("the action began")


def test_an_end_that_cannot_be_written_takes_nothing_back(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(home)
    with log.action(ADA, "train"):
        home.audit.rename(home.root / "away")
        home.audit.mkdir()
    assert "The audit log lacks how train ended" in caplog.text


def test_what_is_no_id_and_any_token_stay_out(home: Home) -> None:
    log = AuditLog(home)
    with log.action(ADMIN_TOKEN, "publish", "dpo-1", "ada/hf_abcdefghij0123") as action:
        action.touched("an answer that a model gave", "ada/name@abc", "", "ré")
    assert log.latest()[0].on == (
        *("dpo-1", "(not an id)", "(not an id)", "ada/name@abc", "(not an id)", "(not an id)"),
    )
    assert "hf_abc" not in home.audit.read_text()


def test_a_voter_is_named_by_a_hash_only(home: Home) -> None:
    log = AuditLog(home)
    with log.action(ADA, "set aside") as action:
        action.touched_voters("anon-0123456789abcdef")
    # printf anon-0123456789abcdef | sha256sum
    assert log.latest()[0].on == ("voter 5097adb53b9f",)
    assert "0123456789abcdef" not in home.audit.read_text()


def test_the_newest_come_first_and_no_more_than_asked(home: Home) -> None:
    now = [utc_now()]
    log = AuditLog(home, clock=lambda: now[0])
    for number in range(5):
        now[0] += timedelta(minutes=1)
        log.note(ADA, f"sign-in {number}")
    found = log.latest(2)
    assert found == [
        AuditLine(now[0] - timedelta(minutes=minute), ADA, f"sign-in {number}", (), "done")
        for minute, number in ((0, 4), (1, 3))
    ]
    assert found[0].at.utcoffset() == timedelta(0)


def test_a_torn_or_foreign_line_hides_no_other(home: Home) -> None:
    log = AuditLog(home)
    log.note(ADA, "first")
    with home.audit.open("ab") as file:
        file.write(b'[]\n{"what": "no time"}\n\xff\xfe\n{"at": "2026-11-')
    log.note(ADA, "second")
    assert [line.what for line in log.latest()] == ["second", "first"]


def test_a_long_log_is_read_from_its_end_only(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.audit.TAIL_BYTES", 1000)
    log = AuditLog(home)
    for number in range(40):
        log.note(ADA, f"sign-in {number}")
    found = [line.what for line in log.latest()]
    assert 3 <= len(found) < 10
    assert found == [f"sign-in {39 - number}" for number in range(len(found))]


def test_processes_share_it_without_mixing_lines(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from annotation.home import Home\n"
        "from alignment.audit import AuditLog, COMMAND_LINE\n"
        "log = AuditLog(Home(Path(sys.argv[1])))\n"
        "for n in range(50):\n    log.note(COMMAND_LINE, f'{sys.argv[2]}-{n}')\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(home.root), name]) for name in "ab"]
    assert [process.wait(60) for process in both] == [0, 0]
    lines = AuditLog(home).latest(1000)
    assert sorted(line.what for line in lines) == sorted(
        f"{name}-{number}" for name in "ab" for number in range(50)
    )
    assert all(isinstance(line.at, datetime) for line in lines)


def test_an_empty_home_has_no_line(home: Home) -> None:
    assert AuditLog(home).latest() == []


def test_the_commands_leave_lines(home: Home) -> None:
    assert run_command(home.root, "cancel", "dpo-1").returncode == 1
    assert run_command(home.root, "resume", "dpo-1").returncode == 1
    AuditLog(home).note(ADA, "signed in")
    Journal(home.journal).close()
    for words in (
        ("export", str(home.root / "out")),
        ("publish", "dpo-1", "--repo", "name"),
        ("bakeoff",),
    ):
        assert run_command(home.root, *words).returncode in (0, 1), words
    said = [(line.who.name, line.what, line.ended) for line in reversed(AuditLog(home).latest())]
    assert said == [
        ("command line", "cancel a run", "refused"),
        ("command line", "resume a run", "refused"),
        ("ada", "signed in", "done"),
        ("command line", "export", "done"),
        ("command line", "publish", "refused"),
        ("command line", "start a bake-off", "refused"),
    ]


def test_a_command_on_no_home_makes_none(tmp_path: Path) -> None:
    assert run_command(tmp_path / "nowhere", "cancel", "dpo-1").returncode == 1
    assert not (tmp_path / "nowhere").exists()


def test_a_command_only_looks_or_leaves_a_line() -> None:
    """A new one is named here, or wraps what it changes in `logged`."""
    looks = {"status", "quality", "doctor", "rounds", "runs", "sample", "demo", "lineage"}
    logged = set()
    for command in (*app.cli.registered_commands, *hub_commands.registered_commands):
        assert command.callback is not None
        name = command.name or command.callback.__name__
        if "logged(" in inspect.getsource(command.callback):
            logged.add(name)
        else:
            assert name in looks, f"{name} changes something and leaves no line"
    assert logged >= {"export", "train", "cancel", "resume", "bakeoff"}
    assert logged >= {"publish", "publish-dataset", "pull", "deploy", "reproduce"}
