"""Pieces of HTML that the admin page's views share: safe text, a bar, a table. Pure."""

from collections.abc import Sequence
from html import escape

_UNSEEN = [0x061C, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_MARKS = {code: f'<span class="vta-mark">U+{code:04X}</span>' for code in _UNSEEN}


def safe_text(text: str) -> str:
    """`text` for HTML; characters that would hide or turn other text are made visible."""
    return escape(text).translate(_MARKS)


def draw_bar(label: str, share: float) -> str:
    """A bar filled to `share`, 0 to 1."""
    filled = 100 * min(1.0, max(0.0, share))
    return (
        f'<div class="vta-bar" role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{filled:.0f}">'
        f'<i style="width:{filled:.1f}%"></i></div>'
    )


def draw_table(
    label: str, titles: Sequence[str], rows: Sequence[Sequence[str]], chosen: int | None = None
) -> str:
    """A table that scrolls sideways where it must. Cells are HTML, the first names its row."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(_row(row, index == chosen) for index, row in enumerate(rows))
    return (
        f'<div class="vta-scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f'<table class="vta-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def count_of(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _row(cells: Sequence[str], is_chosen: bool) -> str:
    mark = ' aria-current="true"' if is_chosen else ""
    first, *others = cells
    told = "".join(f"<td>{cell}</td>" for cell in others)
    return f'<tr{mark}><th scope="row">{first}</th>{told}</tr>'
