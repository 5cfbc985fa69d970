"""The embedded Argilla for tests: one real server, shared, started at its first use."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from annotation.argilla_server.launcher import Credentials, EmbeddedArgilla


def wait_ready(server: EmbeddedArgilla, timeout_s: float = 180) -> Credentials:
    """Credentials once the server answers; fails with its own words when it does not."""
    deadline = time.monotonic() + timeout_s
    while (credentials := server.credentials()) is None:
        assert time.monotonic() < deadline, f"{server.state}: {server.last_error}"
        time.sleep(0.05)
    return credentials


@pytest.fixture(scope="session")
def argilla_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Credentials]:
    """Address and keys of a real embedded Argilla; use a workspace or dataset of your own."""
    home: Path = tmp_path_factory.mktemp("argilla-home")
    server = EmbeddedArgilla(home)
    server.start()
    try:
        yield wait_ready(server)
    finally:
        server.stop()
