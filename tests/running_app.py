"""The real app as a child process on a home of its own, for tests that go through its address."""

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import argilla as rg
import httpx
import pytest

from alignment.commands.demo import cast_votes

ROOT = Path(__file__).parent.parent
FOREIGN = (
    *("ARGILLA_", "HF_", "HUB_", "PROMPTS", "BASE_", "VOTES_", "ADMIN_", "MIN_", "GRADIO_"),
    *("REPEAT_", "GOLD_", "OWN_", "ANONYMOUS_", "COMPARE_", "COOKIE_", "DATA_"),
    *("OAUTH_", "OPENID_", "SPACE_", "SYSTEM", "GENERATION_"),
)
START_TIMEOUT_S = 90


def clean_environment(home: Path, **extra: str) -> dict[str, str]:
    """The environment of a person who set nothing but the home and the starter model."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    # Few of these apps train: five CPU seconds each for nothing.
    calm = {"WARM_TRAINER": "false"}
    return own | calm | {"VOTETUNE_HOME": str(home), "BASE_MODEL": "starter"} | extra


def run_command(
    home: Path, *words: str, timeout_s: float = 240, **extra: str
) -> subprocess.CompletedProcess[str]:
    """`python app.py words…` on this home."""
    return subprocess.run(
        [sys.executable, str(ROOT / "app.py"), *words],
        env=clean_environment(home, **extra),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def submitted_votes(home: Path) -> list[str]:
    """The value of every submitted preference in the home's Argilla, read with its SDK."""
    status = json.loads(run_command(home, "status", "--json").stdout)
    client = rg.Argilla(api_url=status["argilla_api_url"], api_key=status["argilla_api_key"])
    try:
        dataset = client.datasets(name="preferences", workspace="votetune")
        return sorted(
            str(response.value)
            for record in dataset.records(with_responses=True)
            for response in record.responses
            if response.question_name == "preference" and response.status == "submitted"
        )
    finally:
        client.http_client.close()


PORTS = itertools.count(random.randrange(11_000, 25_000))
"""Below those that Linux and macOS give to whoever names none: such a one can go to somebody else,
as to the Argilla that an app starts, before the one that it is for has come to its socket.
"""


def free_port() -> int:
    """A port that nobody listens on, given once."""
    while True:
        port = next(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class RunningApp:
    """A served home. `said` is what the app printed."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def admin_url(self) -> str:
        return next(line.split()[1] for line in self.said.splitlines() if "Admin" in line)

    def health(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/api/health", timeout=10).json())

    @contextmanager
    def admin_client(self) -> Iterator[httpx.Client]:
        """A client that has exchanged the token for the cookie."""
        with httpx.Client(base_url=self.url, follow_redirects=True, timeout=60) as client:
            assert client.get(self.admin_url).status_code == 200
            yield client

    def wait_for(
        self, what: str, is_true: Callable[[dict[str, Any]], bool], timeout_s: float = 90
    ) -> None:
        """Poll the health until `is_true(health)`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.said
            try:
                if is_true(self.health()):
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"no {what} within {timeout_s} s: {self.health()} {self.said}")

    def stop(self) -> None:
        """As Ctrl-C does; the exit must be clean."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) in (0, -signal.SIGTERM), self.said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def start_app(
    home: Path,
    *words: str,
    port: int | None = None,
    env: Mapping[str, str] | None = None,
    wait: bool = True,
) -> RunningApp:
    """Start `python app.py` and, with `wait`, stay until it has a pair to show."""
    port = port or free_port()
    home.parent.mkdir(parents=True, exist_ok=True)
    log = home.with_name(f"{home.name}.app.log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), *words],
            env=clean_environment(home, GRADIO_SERVER_PORT=str(port), **(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    app = RunningApp(f"http://127.0.0.1:{port}", home, process, log)
    if wait:
        try:
            app.wait_for("pair", lambda health: health["pairs_ready"] > 0, START_TIMEOUT_S)
        except BaseException:
            app.kill()
            raise
    return app


@pytest.fixture(scope="session")
def voted_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """One app with its real Argilla, and 200 votes of scripted voters that Argilla has got."""
    app = start_app(tmp_path_factory.mktemp("voted") / "home")
    try:
        cast_votes(app.url, 200, noise=0)
        app.wait_for("delivery", lambda h: h["argilla"] == "ready" and h["undelivered"] == 0, 240)
        yield app
    finally:
        app.stop()
