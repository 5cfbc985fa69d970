"""The Compare tab's third part: what a voter asked, answered by the base and by today's policy.

Only draws and passes on. Whose prompts are listed is read from the request's cookie.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from alignment.web.compare.compare_parts import (
    PRIVATE,
    WAITS,
    WATCHED,
    UnderWay,
    build_diff_switch,
    watch_answers,
)
from alignment.web.compare.compare_view import draw_status
from alignment.web.compare.comparison import SEEDS, Comparison
from annotation.faults import Fault
from annotation.web.voters import Caller

LABEL_CHARACTERS = 80
INTRO = (
    "Choose something that you asked earlier. The base answers it and so does the model that "
    "votes have made the policy, with the same seed."
)


class ChangeHandlers:
    """A voter's own prompts, and both answers to one of them."""

    def __init__(self, comparison: Comparison, who: Callable[[gr.Request], Caller]) -> None:
        self._comparison = comparison
        self._who = who
        self.under_way = UnderWay()

    def begin(self, request: gr.Request) -> tuple[Any, Any]:
        """No answers, and what is said until it is one's turn."""
        if not self.under_way.begin(request):
            return gr.skip(), gr.skip()
        return "", draw_status(WAITS)

    def choices(self, request: gr.Request) -> tuple[tuple[str, str], ...]:
        prompts = self._comparison.prompts(self._who(request).voter)
        return tuple((_label(prompt.messages[-1].content), prompt.id) for prompt in prompts)

    def why_not(self, request: gr.Request) -> str | None:
        """Why there is nothing to show, None where there is."""
        return self._comparison.why_no_change(self._who(request).voter)

    async def show(
        self, prompt_id: str | None, request: gr.Request
    ) -> AsyncIterator[tuple[str, str]]:
        """Both answers as HTML, and what is said of them; nothing where nothing was asked."""
        if not self.under_way.is_wanted(request):
            yield gr.skip(), gr.skip()
            return
        yield "", draw_status(WAITS)
        voter, seed = self._who(request).voter, secrets.randbelow(SEEDS)
        try:
            # The disk is read aside, and the queue joined here: its lines come to this loop.
            found = await asyncio.to_thread(self._comparison.find_again, voter, prompt_id)
            question = self._comparison.ask_again(voter, *found, seed)
        except Fault as fault:
            yield "", draw_status(str(fault))
            return
        base, policy = question.names
        titles = (f"Before: {base}", f"After: {policy}")
        with self.under_way.watch(request, question.asking) as asking:
            async for drawn, said in watch_answers(asking, titles):
                yield drawn, said


def draw_changes(handlers: ChangeHandlers, offered: tuple[tuple[str, str], ...], why: str) -> None:
    gr.Markdown(INTRO)
    if why:
        gr.Markdown(why, elem_id="changes-empty")
        return
    prompt = gr.Dropdown(
        list(offered),
        value=offered[0][1],
        label="You asked",
        elem_id="changes-prompt",
        interactive=True,
    )
    with gr.Row():
        ask = gr.Button("Show before and after", variant="primary", elem_id="changes-ask")
        stop = gr.Button("Stop", elem_id="changes-stop")
    build_diff_switch()
    status = gr.HTML(elem_id="changes-status", padding=False)
    answers = gr.HTML(elem_id="changes-answers", padding=False)

    begun = ask.click(handlers.begin, None, [answers, status], **PRIVATE)
    begun.then(handlers.show, prompt, [answers, status], **WATCHED)
    stop.click(handlers.under_way.stop, None, status, **PRIVATE)


def _label(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LABEL_CHARACTERS else f"{line[: LABEL_CHARACTERS - 1]}…"
