"""The vote page as Gradio shows it, and the look that every page shares.

Owns the markup, script and style of `vote_page/`, which talk to the routes of `routes.py` and to
nothing else. Knows no voter, pair or vote: a page is the same for everyone until its script asks.
"""

from pathlib import Path

import gradio as gr

_PAGE = Path(__file__).parent / "vote_page"
_SCRIPTS = ("text.js", "keep.js", "vote.js", "page.js")

VOTE_CSS: Path = _PAGE / "vote.css"
"""Goes to `mount_gradio_app(css_paths=[VOTE_CSS])`."""

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
    )
    # `set` knows no dark accent; the stylesheet is written from attributes. 4.5:1 needs both.
    theme.color_accent_dark = "*primary_300"
    theme.font = _SYSTEM_FONT
    theme.font_mono = _SYSTEM_MONO
    return theme


def build_vote_tab(notice: str | None) -> None:
    """Put the vote page into the Blocks or Tab that is open.

    `notice` is one plain line shown on top, as text, such as why the starter model is in use.
    The page needs the routes under /api on its own origin, below the same root path.
    """
    gr.HTML(
        html_template=(_PAGE / "vote.html").read_text("utf-8"),
        js_on_load="\n".join((_PAGE / name).read_text("utf-8") for name in _SCRIPTS),
        apply_default_css=False,
        elem_id="vote-page",
        # Read by the script and set as text: a template would run a "${" in it.
        notice=notice or "",
    )
