"""What the parts of the Compare tab share: prompt box, switch, Stop, and what is said meanwhile."""

import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr

from alignment.web.compare.compare_view import draw_answers, draw_status
from annotation.asking import (
    MAX_PROMPT_CHARACTERS,
    STOPPED,
    Answer,
    Asking,
    Draft,
    Line,
    Shown,
    Unanswered,
)

WAITS = "Waiting for its turn: one question is answered at a time, and the first loads the model…"
WRITES = "Both answers are being written…"
DONE = "Done."
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# They wait for their turn in the one queue of `annotation.asking`, not in Gradio's. Asked again
# while Gradio has yet to hear that the last one is over, they run after it: it would drop them.
WATCHED: dict[str, Any] = {**PRIVATE, "concurrency_limit": None, "trigger_mode": "always_last"}
_MOST_PAGES = 10_000


class UnderWay:
    """What each open page waits for, so that its Stop finds it.

    Gradio's own cancelling can lose the race with a token that comes, and then shows an error.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, Asking | None] = OrderedDict()

    def begin(self, request: gr.Request) -> bool:
        """Whether the page's question is on the way now: not while its last one is under way."""
        page = str(request.session_hash)
        with self._lock:
            if self._asked.get(page) is not None:
                return False
            self._asked[page] = None
            while len(self._asked) > _MOST_PAGES:
                self._asked.popitem(last=False)
            return True

    def is_wanted(self, request: gr.Request) -> bool:
        """Whether the page has asked, and not pressed Stop since."""
        with self._lock:
            return str(request.session_hash) in self._asked

    @contextmanager
    def watch(self, request: gr.Request, asking: Asking) -> Iterator[Asking]:
        """Leave `asking` at the end; until then Stop ends it, also if it was pressed before."""
        page = str(request.session_hash)
        with asking:
            with self._lock:
                is_wanted = page in self._asked
                self._asked[page] = asking
            if not is_wanted:
                asking.stop()
            try:
                yield asking
            finally:
                with self._lock:
                    # Stopped, the page may have asked again already.
                    if self._asked.get(page) is asking:
                        del self._asked[page]

    def stop(self, request: gr.Request) -> Any:
        """What is said; nothing new where nothing is under way."""
        page = str(request.session_hash)
        with self._lock:
            if page not in self._asked:
                return gr.skip()
            asking = self._asked.pop(page)
        if asking is not None:
            asking.stop()
        return draw_status(STOPPED)


async def watch_answers(asking: Asking, titles: Sequence[str]) -> AsyncIterator[tuple[str, str]]:
    """The answers as HTML and what is said of them, until they are whole or given up."""
    so_far: tuple[Answer, ...] = ()
    async for line in asking.lines():
        so_far = answers_of(line) or so_far
        over = isinstance(line, Unanswered)
        drawn = draw_answers(titles, so_far, stopped=over) if so_far else ""
        yield drawn, says_of(line)


def answers_of(line: Line) -> tuple[Answer, ...]:
    """The answers so far; none where there are none."""
    return line.answers if isinstance(line, Draft | Shown) else ()


def says_of(line: Line) -> str:
    if isinstance(line, Unanswered):
        return draw_status(line.why)
    return draw_status(WRITES if isinstance(line, Draft) else DONE)


def build_prompt_box(elem_id: str) -> gr.Textbox:
    return gr.Textbox(
        label="Prompt",
        placeholder="What is the opposite of hot?",
        lines=2,
        max_lines=8,
        max_length=MAX_PROMPT_CHARACTERS,
        interactive=True,
        elem_id=elem_id,
    )


def build_diff_switch() -> None:
    """Pure style: what differs is marked in every pair of whole answers, shown where this is on."""
    gr.Checkbox(
        False, label="Show what differs", elem_id="compare-diff", container=False, interactive=True
    )
