"""A process's own peak of memory: not its parent's, and in the unit that the system counts in."""

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignment.training.watch import peak
from alignment.training.watch.peak import peak_resident_bytes

LARGE = 300_000_000
CHILD = """
import resource
from alignment.training.watch.peak import peak_resident_bytes
print(peak_resident_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
PARENT = f"""
import subprocess, sys
held = bytearray({LARGE})
held[::4096] = b"x" * len(held[::4096])
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


def test_the_peak_grows_with_what_is_held_and_stays_when_it_is_gone() -> None:
    held = bytearray(b"x" * LARGE)
    grown = peak_resident_bytes()
    del held
    assert grown >= LARGE
    assert peak_resident_bytes() >= grown


if peak.STATUS.exists():

    def test_a_small_child_of_a_large_process_has_a_small_peak() -> None:
        root = Path(__file__).parent.parent
        command = [sys.executable, "-c", PARENT]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        own, inherited = map(int, done.stdout.split())
        assert own < LARGE / 3
        # What it would have said of itself otherwise.
        assert inherited > LARGE


@pytest.mark.parametrize(("platform", "expected"), [("linux", 5000 * 1024), ("darwin", 5000)])
@pytest.mark.parametrize("told", [None, "VmRSS:\t  70 kB\n"])
def test_without_proc_the_systems_own_unit_counts(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    told: str | None,
    platform: str,
    expected: int,
) -> None:
    status = tmp_path / "status"
    if told is not None:
        status.write_text(told)
    monkeypatch.setattr(peak, "STATUS", status)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    assert peak_resident_bytes() == expected


def test_proc_is_believed_in_kibibytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  900 kB\nVmHWM:\t  120 kB\nVmRSS:\t  70 kB\n")
    monkeypatch.setattr(peak, "STATUS", status)
    assert peak_resident_bytes() == 120 * 1024
