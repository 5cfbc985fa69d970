"""Child processes: no secret reaches them, and they and their sessions step back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from alignment.settings import AlignmentSettings
from annotation.children import SECRETS, lower_priority, without_secrets
from annotation.settings import AnnotationSettings

SLEEP = [sys.executable, "-c", "input()"]


@pytest.fixture(params=[True, False], ids=["own session", "our session"])
def child(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[bytes], bool]]:
    with subprocess.Popen(SLEEP, stdin=subprocess.PIPE, start_new_session=request.param) as child:
        yield child, request.param
        assert child.stdin is not None
        child.stdin.close()


def group_of(pid: int) -> str | None:
    """As Linux tells it, `/autogroup-12 nice 10`; None where it groups no sessions."""
    file = Path(f"/proc/{pid}/autogroup")
    return file.read_text().strip() if file.exists() else None


def test_a_child_and_its_session_step_back_and_ours_stays(
    child: tuple[subprocess.Popen[bytes], bool],
) -> None:
    process, leads = child
    ours = group_of(os.getpid())
    lower_priority(process.pid, 10)
    assert psutil.Process(process.pid).nice() == 10
    if ours is not None:
        theirs = group_of(process.pid)
        assert theirs is not None
        assert theirs.endswith("nice 10") is leads
        assert group_of(os.getpid()) == ours


def test_a_process_that_is_gone_is_no_error() -> None:
    with subprocess.Popen(SLEEP, stdin=subprocess.DEVNULL) as child:
        pass
    lower_priority(child.pid, 10)
    assert not psutil.pid_exists(child.pid)


def test_no_secret_that_the_settings_know_reaches_a_child() -> None:
    known = {
        name.upper()
        for settings in (AnnotationSettings, AlignmentSettings)
        for name, field in settings.model_fields.items()
        if "SecretStr" in repr(field.annotation)
    }
    assert {"HF_TOKEN", "COOKIE_SECRET", "GENERATION_API_KEY"} <= known <= SECRETS
    given = dict.fromkeys(SECRETS, "secret") | {"PATH": "/bin", "HF_ENDPOINT": "http://hub"}
    assert without_secrets(given) == {"PATH": "/bin", "HF_ENDPOINT": "http://hub"}
