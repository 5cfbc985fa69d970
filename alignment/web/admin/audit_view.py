"""What the admin page shows of the audit log: who did what, when, and how it ended. Pure."""

from collections.abc import Sequence

from alignment.audit import AuditLine
from alignment.web.markup import count_of, safe_text

OPEN = 10
NOTHING = '<p class="vta-note">Nothing yet: every action on this page will leave a line here.</p>'
NO_END = "under way, or cut off"


def draw_audit(lines: Sequence[AuditLine]) -> str:
    """`lines`, newest first; the first ten open, the others folded away."""
    if not lines:
        return NOTHING
    drawn = _list(lines[:OPEN])
    if older := lines[OPEN:]:
        more = count_of(len(older), "earlier one")
        drawn += f"<details><summary>{more}</summary>{_list(older)}</details>"
    return f'<div class="vta-log">{drawn}</div>'


def _list(lines: Sequence[AuditLine]) -> str:
    return f"<ol>{''.join(_line(line) for line in lines)}</ol>"


def _line(line: AuditLine) -> str:
    ended = line.ended or NO_END
    calm = "" if ended == "done" else ' class="vta-unsaid"'
    on = ", ".join(f"<code>{safe_text(thing)}</code>" for thing in line.on)
    return (
        f'<li><time datetime="{line.at:%Y-%m-%dT%H:%M:%SZ}">{line.at:%d %b %Y %H:%M:%S}</time>'
        f"<span><b>{safe_text(line.who.name)}</b>: {safe_text(line.what)} {on}</span>"
        f"<span{calm}>{safe_text(ended)}</span></li>"
    )
