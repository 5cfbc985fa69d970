"""The compare tab: one prompt, the base and an aligned model side by side, streamed.

Only draws and passes on. Which models exist is the registry's business; how they answer, the
sampler's. Names are shown here: blind comparison goes through the vote path.
"""

import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr

from alignment.web.comparison import MAX_PROMPT_CHARACTERS, Comparison
from annotation.faults import Fault

WAITING = "…"
SEEDS = 1 << 31
# One generation at a time for everybody: it shares two cores with sampling and training.
ONE_FOR_EVERYBODY: dict[str, Any] = {"concurrency_id": "generation", "concurrency_limit": 1}
NO_ALIGNED_MODEL = (
    "No aligned model yet. Once an admin has trained one on the votes, it appears here; "
    "until then the base answers alone."
)


def build_compare_tab(comparison: Comparison, tab: gr.Tab) -> None:
    """Draw the tab when it is first opened: most voters never do, and their page stays lighter.

    Scripts have `/compare` and `/compare_models` from the start.
    """
    opened = gr.State(False)
    tab.select(lambda: True, None, opened, api_name="open_compare", show_progress="hidden")
    handlers = _Handlers(comparison)

    def draw(is_open: bool) -> None:
        if is_open:
            _draw(handlers, tab)

    gr.render(inputs=[opened], triggers=[opened.change])(draw)
    gr.api(handlers.compare, api_name="compare", **ONE_FOR_EVERYBODY)
    gr.api(handlers.models, api_name="compare_models")


class _Handlers:
    """What the tab and scripts ask of the comparison."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison

    def models(self) -> list[str]:
        """The aligned models by name; the weights are loaded meanwhile."""
        self._comparison.warm_up()
        return list(self._comparison.aligned_names())

    def refresh(self, chosen: str | None) -> tuple[Any, Any]:
        names = self.models()
        kept = chosen if chosen in names else next(iter(names), None)
        return gr.update(choices=names, value=kept), gr.update(visible=not names)

    def compare(self, text: str, name: str | None, heat: float) -> Iterator[tuple[str, str]]:
        yield WAITING, WAITING if name else ""
        try:
            yield from self._comparison.answers(text, name, heat, secrets.randbelow(SEEDS))
        except Fault as fault:
            yield "", ""
            raise gr.Error(str(fault), print_exception=False) from None


def _draw(handlers: _Handlers, tab: gr.Tab) -> None:
    """The models are listed, and the weights loaded, each time the tab is opened."""
    names = handlers.models()
    gr.Markdown("## Compare")
    gr.Markdown("Ask both models the same thing. The answers are drawn afresh each time.")
    empty = gr.Markdown(NO_ALIGNED_MODEL, visible=not names, elem_id="compare-empty")
    prompt = gr.Textbox(
        label="Prompt",
        placeholder="What is the opposite of hot?",
        lines=2,
        max_lines=8,
        max_length=MAX_PROMPT_CHARACTERS,
        elem_id="compare-prompt",
    )
    with gr.Row():
        aligned = gr.Dropdown(
            names,
            value=next(iter(names), None),
            label="Aligned model",
            elem_id="compare-model",
            scale=2,
            min_width=260,
        )
        temperature = gr.Slider(0.0, 1.5, value=1.0, step=0.1, label="Temperature", min_width=260)
    with gr.Row():
        ask = gr.Button("Compare", variant="primary", elem_id="compare-ask")
        stop = gr.Button("Stop", elem_id="compare-stop")
    with gr.Row(equal_height=True):
        base_answer = gr.Textbox(
            label="Base", lines=5, interactive=False, min_width=300, elem_id="compare-base"
        )
        aligned_answer = gr.Textbox(
            label="Aligned", lines=5, interactive=False, min_width=300, elem_id="compare-aligned"
        )

    inputs, outputs = [prompt, aligned, temperature], [base_answer, aligned_answer]
    asked = gr.on(
        [ask.click, prompt.submit],
        handlers.compare,
        inputs,
        outputs,
        api_visibility="private",
        show_progress="hidden",
        **ONE_FOR_EVERYBODY,
    )
    stop.click(None, None, None, cancels=[asked], api_visibility="private")
    tab.select(
        handlers.refresh,
        aligned,
        [aligned, empty],
        api_visibility="private",
        show_progress="hidden",
    )
