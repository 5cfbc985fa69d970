"""The rounds benchmark ends as it is told to, its workers with it."""

import signal
import subprocess
import sys
import time

import psutil

from tests.running_app import ROOT


def test_a_signal_ends_the_workers_too() -> None:
    words = ["-m", "tests.benchmarks.bench_rounds", "--jobs", "1", "--seeds", "1"]
    bench = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 60
        while not workers and time.monotonic() < deadline:
            assert bench.poll() is None
            workers = psutil.Process(bench.pid).children(recursive=True)
            time.sleep(0.05)
        assert workers
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(30) == 128 + signal.SIGTERM
        assert psutil.wait_procs(workers, timeout=10)[1] == []
    finally:
        bench.kill()
        for worker in workers:
            if worker.is_running():
                worker.kill()
