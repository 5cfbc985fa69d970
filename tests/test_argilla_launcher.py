"""The embedded server as a process: where its parts lie, how it starts, dies and ends."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from argilla_fixture import wait_ready

from annotation.argilla_server import environment
from annotation.argilla_server.environment import (
    BuildCancelledError,
    EnvironmentBuildError,
    ensure_environment,
    environment_dir,
)
from annotation.argilla_server.launcher import Credentials, EmbeddedArgilla

ROOT = Path(__file__).parent.parent


def eventually(holds: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_requirements_pin_the_whole_closure() -> None:
    lines = [
        line
        for line in environment.REQUIREMENTS.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(re.match(r"^[a-z0-9-]+==[0-9][^ ]*( ; .+)?$", line) for line in lines)
    names = {line.split("==")[0] for line in lines}
    assert {"argilla-server", "fakeredis", "sqlalchemy", "uvicorn", "pydantic-core"} <= names


def test_other_requirements_mean_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = environment_dir(tmp_path)
    other = tmp_path / "requirements.txt"
    other.write_text("argilla-server==2.8.0\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", other)
    assert environment_dir(tmp_path) != before
    assert environment_dir(tmp_path).parent == before.parent == tmp_path


@pytest.fixture
def tiny_requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Requirements with nothing to install, so that a build takes a second."""
    file = tmp_path / "requirements.txt"
    file.write_text("# nothing\n")
    monkeypatch.setattr(environment, "REQUIREMENTS", file)
    return file


@pytest.mark.usefixtures("tiny_requirements")
def test_two_apps_at_once_build_once(tmp_path: Path) -> None:
    log, cache = tmp_path / "uv.log", tmp_path / "cache"
    built: list[Path] = []

    def build() -> None:
        built.append(ensure_environment(log=log, cancelled=threading.Event(), cache=cache))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 3 and len(set(built)) == 1
    assert subprocess.run([built[0], "-c", ""], check=False).returncode == 0
    assert log.read_text().count("Creating virtual environment") == 1
    assert [p.name for p in cache.iterdir() if "draft" in p.name] == []


@pytest.mark.usefixtures("tiny_requirements")
def test_a_torn_build_is_never_used(tmp_path: Path) -> None:
    log = tmp_path / "uv.log"
    folder = environment_dir(tmp_path)
    # What a build leaves that was killed halfway, and a cache whose Python went away.
    torn = folder.with_name(f"{folder.name}.draft-1-1")
    for half in (torn, folder):
        (half / "bin").mkdir(parents=True)
        (half / "bin" / "python").symlink_to(tmp_path / "gone")
    os.utime(torn, (0, 0))
    python = ensure_environment(log=log, cancelled=threading.Event(), cache=tmp_path)
    assert subprocess.run([python, "-c", ""], check=False).returncode == 0
    assert not torn.exists()


def test_a_failing_build_says_why_in_one_line(tmp_path: Path, tiny_requirements: Path) -> None:
    tiny_requirements.write_text("argilla-server==2.8.0\nno such line ==\n")
    log = tmp_path / "uv.log"
    with pytest.raises(EnvironmentBuildError, match=r"can't be built: .+uv\.log") as told:
        ensure_environment(log=log, cancelled=threading.Event(), cache=tmp_path / "cache")
    assert "\n" not in str(told.value)
    assert not environment_dir(tmp_path / "cache").exists()


@pytest.mark.usefixtures("tiny_requirements")
def test_a_build_ends_with_the_app(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(BuildCancelledError):
        ensure_environment(log=tmp_path / "uv.log", cancelled=cancelled, cache=tmp_path / "cache")
    assert not environment_dir(tmp_path / "cache").exists()


def test_a_server_that_cannot_be_built_is_unreachable_and_says_why(
    tmp_path: Path, tiny_requirements: Path
) -> None:
    tiny_requirements.write_text("no such line ==\n")
    server = EmbeddedArgilla(tmp_path, cache=tmp_path / "cache")
    assert server.state == "starting"
    server.start()
    eventually(lambda: server.state == "unreachable")
    assert "can't be built" in (server.last_error or "")
    assert server.credentials() is None and server.pid is None
    server.stop()


@pytest.mark.argilla
def test_its_web_pages_and_its_sign_in_work(argilla_server: Credentials) -> None:
    with httpx.Client(base_url=argilla_server.api_url) as browser:
        page = browser.get("/sign-in")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
        scripts = re.findall(r'src="(/_nuxt/[^"]+\.js)"', page.text)
        assert scripts
        for script in scripts:
            answer = browser.get(script)
            assert answer.status_code == 200 and "javascript" in answer.headers["content-type"]
            assert "@@baseUrl@@" not in answer.text
        login = {"username": argilla_server.username, "password": argilla_server.password}
        token = browser.post("/api/v1/token", data=login).json()["access_token"]
        me = browser.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).json()
        assert (me["username"], me["role"]) == ("owner", "owner")
        wrong = browser.post("/api/v1/token", data=login | {"password": "guess"})
        assert wrong.status_code == 401


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedArgilla]:
    server = EmbeddedArgilla(tmp_path / "home")
    yield server
    server.stop()


@pytest.mark.argilla
def test_it_starts_in_the_background_keeps_its_secrets_and_ends_clean(
    server: EmbeddedArgilla, tmp_path: Path
) -> None:
    began = time.monotonic()
    server.start()
    assert time.monotonic() - began < 0.5
    assert server.state == "starting" and server.credentials() is None
    known = wait_ready(server)
    folder = tmp_path / "home" / "argilla"
    assert mode(folder) == 0o700
    assert mode(folder / "credentials.json") == 0o600
    assert mode(folder / "server.log") == 0o600
    secrets = json.loads((folder / "credentials.json").read_text())
    assert (secrets["api_key"], secrets["password"]) == (known.api_key, known.password)
    told = json.loads((folder / "server.json").read_text())
    assert told == {"url": known.api_url, "pid": server.pid}
    assert known.api_key not in repr(known) and known.password not in repr(known)
    process = psutil.Process(server.pid)
    seen = " ".join(process.cmdline()) + " ".join(process.environ().values())
    seen += (folder / "server.log").read_text()
    for secret in ("api_key", "password", "secret_key"):
        assert secrets[secret] not in seen
    assert {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}
    server.stop()
    assert not process.is_running()
    assert server.credentials() is None


@pytest.mark.argilla
def test_a_server_that_dies_is_started_again_at_the_same_address(server: EmbeddedArgilla) -> None:
    server.start()
    first, pid = wait_ready(server), server.pid
    assert pid is not None
    # An UI login of before must stay good: its token is signed with a kept key.
    login = {"username": first.username, "password": first.password}
    token = httpx.post(f"{first.api_url}/api/v1/token", data=login).json()["access_token"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: server.pid not in (None, pid) and server.credentials() is not None)
    assert server.state == "ready" and server.last_error is None
    assert server.credentials() == first
    bearer = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{first.api_url}/api/v1/me", headers=bearer).status_code == 200


@pytest.mark.argilla
def test_an_app_killed_outright_leaves_no_server_behind(
    server: EmbeddedArgilla, tmp_path: Path
) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from annotation.argilla_server.launcher import EmbeddedArgilla\n"
        "server = EmbeddedArgilla(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "while server.credentials() is None: time.sleep(0.05)\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    home = tmp_path / "home"
    with subprocess.Popen(
        [sys.executable, "-c", script, home], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as app:
        assert app.stdout is not None
        orphan = psutil.Process(int(app.stdout.readline()))
        app.kill()
        # The next app on this home, at once: it must not take the dying server for its own.
        server.start()
        known = wait_ready(server)
    assert server.pid != orphan.pid
    assert not psutil.pid_exists(orphan.pid)
    assert httpx.get(f"{known.api_url}/api/v1/version").status_code == 200


@pytest.mark.argilla
def test_new_secrets_on_an_old_home_open_the_old_data(
    server: EmbeddedArgilla, tmp_path: Path
) -> None:
    server.start()
    first = wait_ready(server)
    key = {"X-Argilla-Api-Key": first.api_key}
    httpx.post(f"{first.api_url}/api/v1/workspaces", headers=key, json={"name": "kept"})
    server.stop()
    (tmp_path / "home" / "argilla" / "credentials.json").unlink()
    again = EmbeddedArgilla(tmp_path / "home")
    again.start()
    try:
        second = wait_ready(again)
        assert second.api_key != first.api_key
        key = {"X-Argilla-Api-Key": second.api_key}
        path = f"{second.api_url}/api/v1/me/workspaces"
        names = [w["name"] for w in httpx.get(path, headers=key).json()["items"]]
        assert names == ["kept"]
    finally:
        again.stop()
