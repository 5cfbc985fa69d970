"""What tests ask of other processes, which may end between any two looks at them."""

import psutil


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more: gone, or a zombie that nobody has fetched yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def command_of(process: psutil.Process) -> list[str]:
    """Its words; none where it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def environment_of(process: psutil.Process) -> dict[str, str]:
    """Its environment; empty where it has ended."""
    try:
        return process.environ()
    except psutil.NoSuchProcess:
        return {}
