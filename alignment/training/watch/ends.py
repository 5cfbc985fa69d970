"""Why a run ended, in the one line that a person reads.

Owns the words for what happens to processes and machines: a full disk, no memory left, a child
that is gone without having said anything. Imports no library of training.
"""

import errno
from collections.abc import Iterator
from pathlib import Path

import psutil

from alignment.runs.run_store import Status
from alignment.training.watch.progress import one_line

# What torch and safetensors say of a full disk, having dropped the errno.
_DISK_FULL = ("No space left on device", "PytorchStreamWriter failed", "inline_container.cc")
_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "Cannot allocate memory")
_VMSTAT = Path("/proc/vmstat")


def failure_line(error: BaseException, resume_step: int) -> str:
    """Why `error` ended a run that can go on from `resume_step`, or not at all if that is 0."""
    again = f"resume the run from step {resume_step}" if resume_step else "start a new run"
    if is_disk_full(error):
        return f"The disk is full: free some space, then {again}."
    if is_out_of_memory(error):
        return (
            f"Memory ran out: use a smaller base model, or a machine with more memory, then {again}"
            " (traceback in log.txt)."
        )
    return one_line(error)


def is_disk_full(error: BaseException) -> bool:
    return any(
        getattr(each, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        or any(words in str(each) for words in _DISK_FULL)
        for each in _chain(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    return any(
        isinstance(each, MemoryError)
        or type(each).__name__ == "OutOfMemoryError"
        or getattr(each, "errno", None) == errno.ENOMEM
        or (isinstance(each, RuntimeError) and any(words in str(each) for words in _NO_MEMORY))
        for each in _chain(error)
    )


def kernel_kills() -> int | None:
    """Processes that this machine's kernel has killed for want of memory; None if it won't say."""
    try:
        lines = _VMSTAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    counts = (int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return next(counts, None)


def vanished_line(status: Status) -> str:
    """Why the process of an active run is gone without a word, as far as the machine can tell.

    A child reports its own errors and SIGTERM, so it was killed, or it crashed in native code.
    """
    again = " for the second time" if status.recoveries else ""
    if status.process_started is not None and psutil.boot_time() > status.process_started:
        return f"The machine restarted{again} while the run was {status.state}: resume it."
    killed = f"The training process was killed{again} while {status.state}"
    before, now = status.kernel_kills, kernel_kills()
    if before is not None and now is not None and now > before:
        return (
            f"{killed}, probably for want of memory: use a smaller base model or end other "
            "programs, and resume it."
        )
    return f"{killed}, by someone or for want of memory: see log.txt, and resume it."


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
