"""The comparisons of `make bench` end as they are told to, what they started with them."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.running_app import ROOT


@pytest.mark.parametrize("words", [[".voting"], ["", "voting"]], ids=["alone", "in the table"])
def test_a_signal_ends_the_served_page_too(words: list[str]) -> None:
    module, *rest = words
    command = [sys.executable, "-m", f"tests.benchmarks.peers{module}", *rest]
    bench = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 120
        while not any(_serves(one) for one in started) and time.monotonic() < deadline:
            assert bench.poll() is None
            started = psutil.Process(bench.pid).children(recursive=True)
            time.sleep(0.05)
        assert any(_serves(one) for one in started)
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(60) == 128 + signal.SIGTERM
        assert psutil.wait_procs(started, timeout=10)[1] == []
    finally:
        bench.kill()
        for one in started:
            if one.is_running():
                one.kill()


def _serves(process: psutil.Process) -> bool:
    try:
        return any(word.endswith(".our_page") for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False
