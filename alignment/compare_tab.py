"""The compare tab: one prompt, the base and an aligned model side by side, streamed.

Only draws and passes on. Which models exist is the registry's business; how they answer, the
sampler's. Names are shown here: blind comparison goes through the vote path.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from alignment.compare import MAX_PROMPT_CHARACTERS, CompareError, Comparison
from alignment.registry import RegistryError

WAITING = "…"
NO_ALIGNED_MODEL = (
    "No aligned model yet. Once an admin has trained one on the votes, it appears here; "
    "until then the base answers alone."
)


def build_compare_tab(comparison: Comparison) -> Callable[[gr.Blocks], None]:
    """Draw the tab inside the current Blocks; the returned function wires its load event."""
    gr.Markdown("Ask both models the same thing. The answers are drawn afresh each time.")
    empty = gr.Markdown(NO_ALIGNED_MODEL, visible=False, elem_id="compare-empty")
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
            [], label="Aligned model", elem_id="compare-model", scale=2, min_width=260
        )
        temperature = gr.Slider(0.0, 1.5, value=1.0, step=0.1, label="Temperature", min_width=260)
    with gr.Row():
        ask = gr.Button("Compare", variant="primary", elem_id="compare-ask")
        stop = gr.Button("Stop", elem_id="compare-stop")
    with gr.Row(equal_height=True):
        base_answer = gr.Textbox(
            label="Base", lines=8, interactive=False, min_width=300, elem_id="compare-base"
        )
        aligned_answer = gr.Textbox(
            label="Aligned", lines=8, interactive=False, min_width=300, elem_id="compare-aligned"
        )
    seed = gr.State(0)

    def refresh() -> tuple[Any, Any]:
        names = comparison.aligned_names()
        return (
            gr.update(choices=names, value=names[0] if names else None),
            gr.update(visible=not names),
        )

    def compare(
        text: str, name: str | None, heat: float, count: int
    ) -> Iterator[tuple[str, str, int]]:
        yield WAITING, WAITING if name else "", count + 1
        try:
            for base_text, aligned_text in comparison.answers(text, name, heat, count + 1):
                yield base_text, aligned_text, count + 1
        except (CompareError, RegistryError) as error:
            yield "", "", count
            raise gr.Error(str(error), print_exception=False) from None

    inputs, outputs = [prompt, aligned, temperature, seed], [base_answer, aligned_answer, seed]
    # One generation at a time for everybody: it shares two cores with sampling and training.
    wiring: dict[str, Any] = {"concurrency_id": "generation", "concurrency_limit": 1}
    asked = gr.on(
        [ask.click, prompt.submit],
        compare,
        inputs,
        outputs,
        api_name="compare",
        show_progress="hidden",
        **wiring,
    )
    stop.click(None, None, None, cancels=[asked], api_name="stop_compare")

    def on_load(page: gr.Blocks) -> None:
        page.load(
            refresh, None, [aligned, empty], api_name="compare_models", show_progress="hidden"
        )

    return on_load
