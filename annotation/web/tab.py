"""The vote page as Gradio shows it, and the look that every page shares.

Owns the markup, script and style of `vote_page/`, which talk to the routes of `routes.py` and to
nothing else. Knows no voter, pair or vote: a page is the same for everyone until its script asks.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gradio as gr

from annotation.web.page_files import PAGE, load_page_files

VOTE_CSS: tuple[Path, ...] = tuple(PAGE / name for name in ("vote.css", "reading.css", "views.css"))
"""Goes to `mount_gradio_app(css_paths=[*VOTE_CSS])`, beside the routes of `page_files`."""

# The script is a file of its own, so that the page itself stays small and the browser keeps it.
# A server that restarts just then is asked again; the query makes it a new module.
_LOADER = """
const root = new URL(window.gradio_config?.root || "/", window.location.href);
const path = window.location.origin + root.pathname.replace(/\\/+$/, "") + %s;
const load = (tries) => import(tries ? `${path}?${tries}` : path).then(
  (page) => page.default(element, props),
  () => setTimeout(load, Math.min(8, 2 ** tries) * 500, tries + 1),
);
load(0);
"""


@dataclass(frozen=True, slots=True)
class VotePage:
    """What the vote page says about this app.

    `notice` is one plain line on top, as text, such as why the starter model is in use.
    `own_prompts` says whether voters may ask questions of their own; `licence` is the one that
    published votes carry.
    """

    notice: str | None = None
    own_prompts: Literal["open", "moderated", "off"] = "off"
    licence: str = "Apache-2.0"


# Unquoted, as generic families must be: gradio's Font would put quotes around "system-ui".
_SYSTEM_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_SYSTEM_MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def build_theme() -> gr.themes.Base:
    """Calm: one accent, system fonts, nothing fetched from elsewhere. For every page of the app."""
    accent = gr.themes.Color(
        name="lagoon",
        c50="#f0f7f8",
        c100="#dcecef",
        c200="#bcdae0",
        c300="#8fbfca",
        c400="#5b9dac",
        c500="#3f8292",
        c600="#316a79",
        c700="#2a5763",
        c800="#264954",
        c900="#223e47",
        c950="#12272f",
    )
    theme = gr.themes.Default(
        primary_hue=accent,
        secondary_hue=accent,
        neutral_hue=gr.themes.colors.slate,
        font=gr.themes.Font("sans-serif"),
        font_mono=gr.themes.Font("monospace"),
    )
    theme.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
        color_accent="*primary_600",
        # What explains a field is to be read, too: 4.5:1.
        block_info_text_color="*neutral_600",
        body_text_color_subdued="*neutral_600",
    )
    # `set` knows no dark accent; the stylesheet is written from attributes. 4.5:1 needs both.
    theme.color_accent_dark = "*primary_300"
    theme.font = _SYSTEM_FONT
    theme.font_mono = _SYSTEM_MONO
    return theme


def vote_head() -> str:
    """Goes to `mount_gradio_app(head=vote_head())`: the script is on its way before Gradio runs."""
    return f'<link rel="modulepreload" href=".{load_page_files()[0].path}">'


def build_vote_tab(page: VotePage) -> None:
    """Put the vote page into the Blocks or Tab that is open.

    The page needs the routes under /api and /page-files on its own origin, below the same root.
    """
    gr.HTML(
        html_template=(PAGE / "vote.html").read_text("utf-8"),
        js_on_load=_LOADER % json.dumps(load_page_files()[0].path),
        apply_default_css=False,
        elem_id="vote-page",
        # Read by the script and set as text: a template would run a "${" in it.
        **asdict(page),
    )
