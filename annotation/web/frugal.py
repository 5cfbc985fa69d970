"""What Gradio and FastAPI do for every page and request and need not: they share a vote's thread.

Owns two settings of theirs, each with what it cost beside 300 voters. Knows no page and no route.
"""

from typing import Protocol

from fastapi.telemetry import TelemetryConfig

REST_S = 0.05
"""How long an idle queue of Gradio's rests before it looks for events: what Gradio itself takes on
Windows. Elsewhere it looks every millisecond, for each page that is mounted: 3 % of a core, and
0.7 ms of CPU for each vote with its pair. At most so much later does a queued event begin.
"""
UNWATCHED: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI would look for OpenTelemetry's providers at every request. Nobody here has any."""


class _Queue(Protocol):
    sleep_when_free: float


class QueuedPage(Protocol):
    """A page of Gradio's, of which only the queue is touched."""

    _queue: _Queue


def let_queue_rest(page: QueuedPage) -> None:
    """Let the page's idle queue look for work 20 times a second; after any `page.queue(...)`."""
    page._queue.sleep_when_free = REST_S
