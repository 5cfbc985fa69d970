"""The Compare tab's blind part: two models answer unnamed, a vote, and then their names.

Only draws and passes on. Who votes is read from the request's cookie, never from what was sent; the
models and the sides are drawn on the server, and named by the receipt of a vote that is on disk.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import gradio as gr

from alignment.web.compare.compare_parts import (
    PRIVATE,
    WAITS,
    WATCHED,
    WRITES,
    UnderWay,
    build_diff_switch,
    build_prompt_box,
)
from alignment.web.compare.compare_view import draw_answers, draw_status
from annotation.asking import Answer, Answered, Draft, Unanswered
from annotation.faults import Fault
from annotation.schema import Choice
from annotation.trying import BlindTries
from annotation.voting import Receipt, Voting
from annotation.web.voters import Caller

Who = Callable[[gr.Request], Caller]
SIDES = ("Answer A", "Answer B")
CHOICES = {
    Choice.A: "A is better",
    Choice.B: "B is better",
    Choice.TIE: "Tie",
    Choice.BOTH_BAD: "Both bad",
}
INTRO = (
    "Ask, and two of the models here answer without their names. Vote, and you are told who was "
    "who. Such a vote is for you: it trains nothing and decides nothing."
)
STRANGER = (
    "This browser has no name to vote under yet: open the Vote tab once, with cookies allowed."
)
SIGN_IN = "Votes without sign-in are not taken here: sign in first, in the Vote tab."
VOTE_NOW = "Both answers are here: vote, and the names are shown."


class BlindHandlers:
    """Ask and vote, in the name of whoever sent the request."""

    def __init__(self, tries: BlindTries, voting: Voting, who: Who) -> None:
        self._tries = tries
        self._voting = voting
        self._who = who
        self.under_way = UnderWay()

    def begin(self, request: gr.Request) -> tuple[Any, ...]:
        """No answers, what is said until it is one's turn, no pair and no vote yet."""
        if not self.under_way.begin(request):
            return _nothing_new()
        return "", draw_status(WAITS), "", *may_vote(False)

    def why_not(self, request: gr.Request) -> str | None:
        """Why nothing can be asked blind just now, None where it can."""
        return self._tries.why_not() or self._why_no_voter(self._who(request))

    async def show(self, text: str, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """The answers, what is said of them, the pair's id, and whether one may vote.

        Nothing where nothing was asked.
        """
        if not self.under_way.is_wanted(request):
            yield _nothing_new()
            return
        yield "", draw_status(WAITS), "", *may_vote(False)
        caller = self._who(request)
        if why := self._why_no_voter(caller):
            yield "", draw_status(why), "", *may_vote(False)
            return
        try:
            asking = self._tries.ask(caller.voter, text)
        except Fault as fault:
            yield "", draw_status(str(fault)), "", *may_vote(False)
            return
        so_far: tuple[Answer, ...] = ()
        with self.under_way.watch(request, asking):
            async for line in asking.lines():
                if isinstance(line, Answered):
                    pair = line.pair
                    whole = [Answer(words, finish="stop") for words in (pair.a, pair.b)]
                    drawn = draw_answers(SIDES, whole, figures=False)
                    yield drawn, draw_status(VOTE_NOW), pair.id, *may_vote(True)
                elif isinstance(line, Draft):
                    so_far = line.answers
                    drawn = draw_answers(SIDES, so_far, figures=False)
                    yield drawn, draw_status(WRITES), "", *may_vote(False)
                elif isinstance(line, Unanswered):
                    drawn = draw_answers(SIDES, so_far, figures=False, stopped=True)
                    yield drawn if so_far else "", draw_status(line.why), "", *may_vote(False)

    async def vote(
        self, choice: Choice, pair_id: str, request: gr.Request
    ) -> tuple[str, *tuple[Any, ...]]:
        """Who was who, once the vote is on disk, or why it is not."""
        caller = self._who(request)
        if why := self._why_no_voter(caller):
            return draw_status(why), *may_vote(True)
        try:
            receipt = await self._voting.vote(
                caller.voter, pair_id, choice, signed_in=caller.signed_in
            )
        except Fault as fault:
            return draw_status(f"That vote was not saved: {fault}"), *may_vote(True)
        return draw_status(told(receipt)), *may_vote(False)

    def voting_for(self, choice: Choice) -> Callable[[str, gr.Request], Awaitable[Any]]:
        """`vote` for one button."""

        async def vote(pair_id: str, request: gr.Request) -> tuple[str, *tuple[Any, ...]]:
            return await self.vote(choice, pair_id, request)

        return vote

    def _why_no_voter(self, caller: Caller) -> str | None:
        if not self._voting.takes(signed_in=caller.signed_in):
            return SIGN_IN
        # A handler of Gradio's can set no cookie, and a vote must be its voter's to take back.
        return STRANGER if caller.is_new else None


def told(receipt: Receipt) -> str:
    """Who was who, and what becomes of the vote."""
    assert receipt.models
    a, b = (model.label for model in receipt.models)
    counts = "It counts." if receipt.why is None else f"It does not count, because {receipt.why}."
    return f"Saved. A was {a}, B was {b}. {counts}"


def may_vote(now: bool) -> list[Any]:
    """The vote's buttons, which wait for both answers."""
    return [gr.update(interactive=now) for _ in CHOICES]


def _nothing_new() -> tuple[Any, ...]:
    """Answers, status, pair and buttons as they are."""
    return tuple(gr.skip() for _ in range(3 + len(CHOICES)))


def draw_blind(handlers: BlindHandlers, why: str) -> None:
    gr.Markdown(INTRO)
    if why:
        gr.Markdown(why, elem_id="blind-empty")
        return
    prompt = build_prompt_box("blind-prompt")
    with gr.Row():
        ask = gr.Button("Ask both", variant="primary", elem_id="blind-ask")
        stop = gr.Button("Stop", elem_id="blind-stop")
    build_diff_switch()
    answers = gr.HTML(elem_id="blind-answers", padding=False)
    status = gr.HTML(elem_id="blind-status", padding=False)
    pair_id = gr.Textbox(visible=False)
    with gr.Row():
        buttons = {
            choice: gr.Button(
                label, interactive=False, elem_id=f"blind-{choice.value}", min_width=120
            )
            for choice, label in CHOICES.items()
        }

    every = list(buttons.values())
    begun = gr.on(
        [ask.click, prompt.submit],
        handlers.begin,
        None,
        [answers, status, pair_id, *every],
        **PRIVATE,
    )
    begun.then(handlers.show, prompt, [answers, status, pair_id, *every], **WATCHED)
    stop.click(handlers.under_way.stop, None, status, **PRIVATE)
    for choice, button in buttons.items():
        button.click(handlers.voting_for(choice), pair_id, [status, *every], **PRIVATE)
