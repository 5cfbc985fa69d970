"""The Compare tab: two models side by side, two of them blind, one's own prompts before and after.

Only draws and passes on. Which models and prompts may be asked is `Comparison`'s business, the
blind pair `BlindTries`'s and the vote on it `Voting`'s. Each part is drawn when it is chosen, so
that the blind one never stands beside a list of names.
"""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from alignment.web.compare.blind_tab import BlindHandlers, draw_blind
from alignment.web.compare.changes_tab import ChangeHandlers, draw_changes
from alignment.web.compare.compare_parts import (
    PRIVATE,
    WAITS,
    WATCHED,
    UnderWay,
    answers_of,
    build_diff_switch,
    build_prompt_box,
    watch_answers,
)
from alignment.web.compare.compare_view import draw_status
from alignment.web.compare.comparison import SEEDS, Comparison
from annotation.asking import Answer, Unanswered
from annotation.faults import Fault

OPEN, BLIND, MINE = "Two models", "Blind, then vote", "My prompts, before and after"
ONE_MODEL = (
    "Only the base is here, so it answers alone. Once an admin has trained a model on the votes, "
    "it appears in the lists."
)
Look = tuple[str, tuple[tuple[str, str], ...], str]
"""Which part is drawn, what its lists offer as (label, value), and why it offers nothing."""


def build_compare_tab(
    comparison: Comparison, blind: BlindHandlers, changes: ChangeHandlers, tab: gr.Tab
) -> None:
    """Draw a part when it is first looked at: most voters never do, and their page stays lighter.

    Scripts have `/compare` and `/compare_models` from the start.
    """
    handlers = OpenHandlers(comparison)
    gr.Markdown("## Compare")
    part = gr.Radio([OPEN, BLIND, MINE], value=OPEN, label="What", elem_id="compare-part")
    look = gr.State(None)

    def choose(chosen: str, request: gr.Request) -> Look:
        if chosen == OPEN:
            return OPEN, handlers.choices(), ""
        if chosen == BLIND:
            return BLIND, (), blind.why_not(request) or ""
        return MINE, changes.choices(request), changes.why_not(request) or ""

    # As one event, answered in turn: what was chosen last is drawn last, and no click is dropped.
    gr.on(
        [tab.select, part.change],
        choose,
        part,
        look,
        api_name="open_compare",
        show_progress="hidden",
        trigger_mode="always_last",
    )

    def draw(chosen: Look | None) -> None:
        if chosen is None:
            return
        what, offered, why = chosen
        if what == OPEN:
            _draw_open(handlers, offered)
        elif what == BLIND:
            draw_blind(blind, why)
        else:
            draw_changes(changes, offered, why)

    gr.render(inputs=[look], triggers=[look.change])(draw)
    gr.api(handlers.compare, api_name="compare", concurrency_limit=1)
    gr.api(handlers.models, api_name="compare_models")


class OpenHandlers:
    """What the open part and scripts ask of the comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self.under_way = UnderWay()

    def models(self) -> list[str]:
        """The models by name, the base first; the weights are loaded meanwhile."""
        self._comparison.warm_up()
        return self._comparison.names()

    def choices(self) -> tuple[tuple[str, str], ...]:
        policy = self._comparison.policy_name() or "base"
        return tuple(
            (f"{name}, the policy" if name == policy else name, name) for name in self.models()
        )

    def begin(self, seed: float | None, is_new: bool, request: gr.Request) -> tuple[Any, ...]:
        """The seed that is used, no answers, and what is said until it is one's turn."""
        if not self.under_way.begin(request):
            return gr.skip(), gr.skip(), gr.skip()
        drawn = secrets.randbelow(SEEDS) if is_new or seed is None else int(seed)
        return drawn, "", draw_status(WAITS)

    async def show(
        self,
        text: str,
        left: str | None,
        right: str | None,
        heat: float,
        seed: float,
        request: gr.Request,
    ) -> AsyncIterator[tuple[str, str]]:
        """The answers as HTML, and what is said of them; nothing where nothing was asked."""
        if not self.under_way.is_wanted(request):
            yield gr.skip(), gr.skip()
            return
        yield "", draw_status(WAITS)
        try:
            question = self._comparison.ask(text, (left, right), heat, int(seed))
        except Fault as fault:
            yield "", draw_status(str(fault))
            return
        with self.under_way.watch(request, question.asking) as asking:
            async for drawn, said in watch_answers(asking, question.names):
                yield drawn, said

    async def compare(
        self, text: str, left: str | None, right: str | None, heat: float, seed: int | None
    ) -> AsyncIterator[tuple[str, str]]:
        """The answers as text; the second is empty where but one model is asked."""
        drawn = secrets.randbelow(SEEDS) if seed is None else seed
        try:
            question = self._comparison.ask(text, (left, right), heat, drawn)
        except Fault as fault:
            raise gr.Error(str(fault), print_exception=False) from None
        with question.asking as asking:
            async for line in asking.lines():
                if isinstance(line, Unanswered):
                    raise gr.Error(line.why, print_exception=False)
                first, second = (*answers_of(line), Answer(), Answer())[:2]
                yield first.text, second.text


def _draw_open(handlers: OpenHandlers, offered: tuple[tuple[str, str], ...]) -> None:
    gr.Markdown("Ask two models the same thing with the same seed.")
    if len(offered) == 1:
        gr.Markdown(ONE_MODEL, elem_id="compare-empty")
    prompt = build_prompt_box("compare-prompt")
    with gr.Row():
        left, right = (
            gr.Dropdown(
                list(offered),
                value=value,
                label=label,
                elem_id=f"compare-{key}",
                min_width=260,
                interactive=True,
            )
            for label, key, value in (
                ("Left", "left", offered[0][1]),
                ("Right", "right", offered[1][1] if len(offered) > 1 else None),
            )
        )
    with gr.Row():
        heat = gr.Slider(
            0.0, 1.5, 1.0, step=0.1, label="Temperature", min_width=220, interactive=True
        )
        seed = gr.Number(
            secrets.randbelow(SEEDS),
            label="Seed",
            info="The same seed gives these two models the same answers again.",
            precision=0,
            minimum=0,
            maximum=SEEDS - 1,
            elem_id="compare-seed",
            interactive=True,
            min_width=220,
        )
        is_new = gr.Checkbox(
            True,
            label="A new seed each time",
            elem_id="compare-new-seed",
            min_width=220,
            interactive=True,
        )
    with gr.Row():
        ask = gr.Button("Compare", variant="primary", elem_id="compare-ask")
        stop = gr.Button("Stop", elem_id="compare-stop")
    build_diff_switch()
    status = gr.HTML(elem_id="compare-status", padding=False)
    answers = gr.HTML(elem_id="compare-answers", padding=False)

    begun = gr.on(
        [ask.click, prompt.submit],
        handlers.begin,
        [seed, is_new],
        [seed, answers, status],
        **PRIVATE,
    )
    begun.then(handlers.show, [prompt, left, right, heat, seed], [answers, status], **WATCHED)
    stop.click(handlers.under_way.stop, None, status, **PRIVATE)
