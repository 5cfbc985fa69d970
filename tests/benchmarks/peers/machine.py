"""What this machine can do at best, measured: the rooflines that rows are held against.

Owns nothing of Votetune. Figures are per CPU-second of one thread, so that they compare with rates
taken the same way on shared cores.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Machine:
    """Peaks of one thread: matrix products in GFLOP and memory read in GB, a CPU-second."""

    fp32_gflops: float
    bf16_gflops: float
    memory_gb: float

    def __str__(self) -> str:
        return (
            f"one thread at best: {self.fp32_gflops:.0f} GFLOP a CPU-s in fp32, "
            f"{self.bf16_gflops:.0f} in bf16, {self.memory_gb:.1f} GB read a CPU-s; "
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        )


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds that `work` takes in this process, all its threads together."""
    began = time.process_time()
    work()
    return time.process_time() - began


def process_seconds(pid: int) -> float:
    """CPU seconds that another process has taken so far, all its threads together.

    By its own clock, to the nanosecond: /proc counts in steps of 10 ms.
    """
    # How Linux names the clock of a process, as clock_getcpuclockid does.
    return time.clock_gettime(~pid << 3 | 2)


@cache
def measure_machine() -> Machine:
    """Medians over a product of 1024 × 1024 matrices and a read of 256 MB, on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Machine(_gflops(torch.float32), _gflops(torch.bfloat16), _gb_read())
    finally:
        torch.set_num_threads(threads)


def _gflops(dtype: "torch.dtype") -> float:
    import torch

    side = 1024
    left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
    left @ right
    times = [cpu_seconds(lambda: [left @ right for _ in range(8)]) for _ in range(ROUNDS)]
    return 8 * 2 * side**3 / statistics.median(times) / 1e9


def _gb_read() -> float:
    import torch

    # Far past any cache.
    numbers = torch.ones(64_000_000)
    numbers.sum()
    times = [cpu_seconds(lambda: [numbers.sum() for _ in range(4)]) for _ in range(ROUNDS)]
    return 4 * numbers.numel() * 4 / statistics.median(times) / 1e9
