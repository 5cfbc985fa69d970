"""The home folder: one app at a time, private secrets, and no stale word about who serves."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from annotation.home import Home, HomeError, HomeLock, running_app, write_private


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


def test_naming_a_home_touches_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert running_app(home) is None
    assert not home.root.exists()


def test_only_one_app_serves_a_home(home: Home) -> None:
    lock = HomeLock(home)
    lock.announce("http://127.0.0.1:7860")
    with pytest.raises(HomeError, match=r"7860 \(process \d+\): stop it, or set another"):
        HomeLock(home)
    lock.release()
    HomeLock(home).release()


def test_what_a_dead_app_left_is_not_believed(home: Home) -> None:
    """Its process id may be somebody else's by now: here, this very process's."""
    home.app.write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": os.getpid()}))
    assert running_app(home) is None
    lock = HomeLock(home)
    lock.announce("http://127.0.0.1:2")
    found = running_app(home)
    assert found is not None
    assert (found.url, found.pid) == ("http://127.0.0.1:2", os.getpid())
    lock.release()
    assert running_app(home) is None


def test_a_killed_app_lets_go_of_the_lock(home: Home) -> None:
    held = (
        "import sys; from pathlib import Path; from annotation.home import Home, HomeLock\n"
        f"lock = HomeLock(Home(Path({str(home.root)!r}))); lock.announce('http://x')\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert running_app(home) is not None
        child.kill()
    assert running_app(home) is None
    HomeLock(home).release()


def test_secrets_are_made_once_and_for_the_owner_only(home: Home) -> None:
    secret = home.secret("cookie_secret")
    assert len(secret) == 32
    assert home.secret("cookie_secret") == secret
    assert home.secret("side_secret") != secret
    assert stat.S_IMODE((home.root / "cookie_secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_writing_over_a_private_file_keeps_it_private(home: Home) -> None:
    file = home.root / "token"
    write_private(file, "one")
    write_private(file, "two")
    assert file.read_text() == "two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [p.name for p in home.root.iterdir()] == ["token"]


def test_a_home_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(HomeError, match=r"VOTETUNE_HOME=.*name a folder"):
        Home(tmp_path / "home").prepare()
