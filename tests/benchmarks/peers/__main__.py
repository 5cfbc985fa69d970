"""Every comparison, one table: `python -m tests.benchmarks.peers [NAME...]`.

Each comparison runs in a process of its own, so that none finds another's memory, threads or
libraries, and its rows are printed as soon as it has them.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from tests.benchmarks.peers.ends import leave_on_sigterm, run_and_end
from tests.benchmarks.peers.machine import measure_machine
from tests.benchmarks.peers.table import HEAD
from tests.running_app import ROOT

NAMES: tuple[str, ...] = (
    "sampling",
    "training",
    "voting",
    "argilla",
    "export",
    "start",
    "click",
    "two_models",
)


def main(arguments: Sequence[str]) -> int:
    """Print the table of those named, or of all; 1 where a comparison failed to run."""
    leave_on_sigterm()
    if arguments[:1] == ["--one"]:
        module = importlib.import_module(f"tests.benchmarks.peers.{arguments[1]}")
        for row in module.rows():
            print(row, flush=True)
        return 0
    print(f"{measure_machine()}\n\n{HEAD}", flush=True)
    failed = []
    for name in arguments or NAMES:
        words = ["-m", "tests.benchmarks.peers", "--one", name]
        # A table is read: no library's bars between its rows.
        calm = os.environ | {"TQDM_DISABLE": "1"}
        if run_and_end([sys.executable, *words], cwd=ROOT, env=calm):
            failed.append(name)
    if failed:
        print(f"These comparisons did not finish: {', '.join(failed)}.", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
