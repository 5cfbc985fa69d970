"""What the three parts of the Compare tab share: the switch, Stop, and what is said meanwhile."""

from typing import Any

import gradio as gr

from alignment.web.compare_view import draw_status
from alignment.web.comparison import Question
from annotation.asking import Answer, Draft, Line, Shown, Unanswered

# One generation at a time for everybody: it shares two cores with sampling and training.
ONE_FOR_EVERYBODY: dict[str, Any] = {"concurrency_id": "generation", "concurrency_limit": 1}
WAITS = "Waiting for its turn: one question is answered at a time for everybody…"
WRITES = "Both answers are being written…"
DONE = "Done."
STOPPED = "Stopped."


def answers_of(line: Line, question: Question) -> tuple[Answer, ...]:
    """The answers so far, one for each name."""
    told = line.answers if isinstance(line, Draft | Shown) else ()
    return told or (Answer(),) * len(question.names)


def says_of(line: Line) -> str:
    if isinstance(line, Unanswered):
        return draw_status(line.why)
    return draw_status(WRITES if isinstance(line, Draft) else DONE)


def build_diff_switch() -> None:
    """Pure style: what differs is marked in every pair of whole answers, shown where this is on."""
    gr.Checkbox(
        False, label="Show what differs", elem_id="compare-diff", container=False, interactive=True
    )


def draw_stop(stop: gr.Button, status: gr.HTML, asked: list[Any]) -> None:
    """Stop whatever of `asked` is under way, and say so."""
    stop.click(
        lambda: draw_status(STOPPED),
        None,
        status,
        cancels=asked,
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )
