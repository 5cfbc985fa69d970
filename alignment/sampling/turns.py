"""Whose turn it is to draw, and with which random state: torch has one a process.

Owns seeds and turns. Generations that take turns, token by token, never compute at once, and each
finds the random state that it left: it draws what it would draw alone.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
PassOn = Callable[[], None]
"""Called after each token; returns when it is one's turn again."""


@contextmanager
def seeded(device: str, seed: int) -> Iterator[None]:
    """A random state of its own for what is drawn within, on `device` too."""
    import torch

    devices = [torch.cuda.current_device()] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def draw_in_turns(
    draws: Sequence[Callable[[PassOn], T]], *, device: str, stop: Callable[[], None]
) -> list[T]:
    """What each of `draws` returns, in their order; all begin with the random state of now.

    When one raises, `stop` is called so that the others end, and its exception is raised. The
    random state is afterwards that of whoever ended last.
    """
    if len(draws) == 1:
        return [draws[0](lambda: None)]
    table = _Table(len(draws), device)
    with ThreadPoolExecutor(len(draws), thread_name_prefix="turns") as pool:
        drawn = [pool.submit(table.sit, place, draw) for place, draw in enumerate(draws)]
        ended, _ = wait(drawn, return_when=FIRST_EXCEPTION)
        if any(one.exception() for one in ended):
            stop()
        return [one.result() for one in drawn]


class _Table:
    """Places around a table; the first in the queue has the turn."""

    def __init__(self, places: int, device: str) -> None:
        self._queue = deque(range(places))
        self._moved = threading.Condition()
        self._device = device
        self._start = _random_state(device)

    def sit(self, place: int, draw: Callable[[PassOn], T]) -> T:
        """Wait for the first turn, draw, and leave the table."""
        self._await_turn(place)
        try:
            _set_random_state(self._start, self._device)
            return draw(lambda: self._pass_on(place))
        finally:
            with self._moved:
                self._queue.remove(place)
                self._moved.notify_all()

    def _pass_on(self, place: int) -> None:
        state = _random_state(self._device)
        with self._moved:
            self._queue.rotate(-1)
            self._moved.notify_all()
        self._await_turn(place)
        _set_random_state(state, self._device)

    def _await_turn(self, place: int) -> None:
        with self._moved:
            self._moved.wait_for(lambda: self._queue[0] == place)


def _random_state(device: str) -> tuple[Any, Any]:
    import torch

    of_device = torch.cuda.get_rng_state() if device.startswith("cuda") else None
    return torch.get_rng_state(), of_device


def _set_random_state(state: tuple[Any, Any], device: str) -> None:
    import torch

    torch.set_rng_state(state[0])
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(state[1])
