"""The most memory that this process has held.

Owns where the system says it, and in which unit. Knows no GPU and no run.
"""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_resident_bytes() -> int:
    """Resident memory of this process at its highest.

    By VmHWM where there is a /proc that tells it. ru_maxrss elsewhere, which on Linux a child takes
    over from the process that started it: a small run in a large app would be said to be large.
    """
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    # Kibibytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
