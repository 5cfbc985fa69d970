"""What the data check shows: findings, worst first, and the exact tokens of examples. Pure.

Strings of HTML; what people and models wrote is escaped here.
"""

from collections.abc import Sequence
from html import escape

from alignment.checks.diagnosis import LEVELS, Diagnosis, ExampleTokens, Finding, TokenPiece
from alignment.web.markup import count_of, safe_text

CHECKING = '<p class="vta-note">Checking the data: some seconds.</p>'
SHOWN_EXAMPLES = 3
_WORDS = {
    "blocking": "Stops training",
    "warning": "Look at this",
    "note": "Good to know",
    "ok": "Fine",
}
_COLUMNS = (
    ("prompt", "Prompt, the same for both"),
    ("chosen", "Chosen answer"),
    ("rejected", "Rejected answer"),
)
_LEGEND = (
    ("template", "the chat template"),
    ("text", "what a person or a model wrote"),
    ("end", "end of turn"),
)


def draw_diagnosis(diagnosis: Diagnosis) -> str:
    """A line that sums up, then what needs a look; what is fine waits behind a fold."""
    ordered = sorted(diagnosis.findings, key=lambda f: -LEVELS.index(f.level))
    look = [f for f in ordered if f.level in ("blocking", "warning")]
    rest = [f for f in ordered if f.level not in ("blocking", "warning")]
    fold = (
        f"<details><summary>{count_of(len(rest), 'more check')}</summary>"
        f"{''.join(map(_finding, rest))}</details>"
        if rest
        else ""
    )
    return (
        f'<div class="vta-doctor"><p class="vta-sum">{_summary(diagnosis)}</p>'
        f"{''.join(map(_finding, look))}{fold}</div>"
    )


def _summary(diagnosis: Diagnosis) -> str:
    examples = f"<b>{count_of(diagnosis.examples, 'example')}</b>"
    if diagnosis.blocking:
        return f"{examples}. Training can't start yet; here is why and what to do."
    warned = len(diagnosis.at("warning"))
    if warned:
        deserve = "thing deserves" if warned == 1 else "things deserve"
        return f"{examples}. Training can start; {warned} {deserve} a look first."
    return f"{examples}. Nothing stands in the way of training."


def _finding(finding: Finding) -> str:
    serious = " vta-serious" if finding.level == "blocking" else ""
    calm = " vta-calm" if finding.level in ("ok", "note") else ""
    advice = f"<p>{escape(_sentence(finding.advice))}</p>" if finding.advice else ""
    return (
        f'<div class="vta-finding{serious}{calm}"><p><span class="vta-level-name">'
        f"{_WORDS[finding.level]}</span> <b>{escape(finding.title)}</b></p>"
        f"<p>{escape(finding.meaning)}</p>{advice}</div>"
    )


def _sentence(advice: str) -> str:
    """Advice follows a colon elsewhere, so it comes without capital and full stop."""
    return f"What to do: {advice[0].lower()}{advice[1:]}{'' if advice.endswith('.') else '.'}"


def draw_tokens(examples: Sequence[ExampleTokens], max_length: int | None) -> str:
    """The first examples token by token; underlined is what the loss looks at."""
    if not examples:
        return ""
    legend = "".join(
        f'<span><i class="vta-token vta-{role}">abc</i> {said}</span>' for role, said in _LEGEND
    )
    cut = f" Longer examples are cut at {max_length:,} tokens." if max_length else ""
    shown = "".join(map(_example, examples[:SHOWN_EXAMPLES]))
    return (
        '<p class="vta-note">Exactly what the model will read, token by token. The loss looks at '
        f"the underlined tokens only: it learns answers, not prompts.{cut}</p>"
        f'<p class="vta-legend">{legend}<span><i class="vta-token vta-counts">abc</i> counts'
        f"</span></p>{shown}"
    )


def _example(example: ExampleTokens) -> str:
    columns = "".join(
        f'<div class="vta-side"><p class="vta-when">{title} · '
        f"{count_of(len(pieces), 'token')}{_cut(example, side)}</p>"
        f'<p class="vta-tokens">{"".join(map(_piece, pieces))}</p></div>'
        for side, title in _COLUMNS
        if (pieces := getattr(example, side)) is not None
    )
    return f'<article class="vta-example">{columns}</article>'


def _cut(example: ExampleTokens, side: str) -> str:
    was_cut = getattr(example, f"{side}_cut", False)
    return ", cut: it has no end of turn" if was_cut else ""


def _piece(piece: TokenPiece) -> str:
    counts = " vta-counts" if piece.counts else ""
    shown = safe_text(piece.text).replace("\n", "↵\n").replace(" ", "·") or "∅"
    # The dot keeps a space visible; lines break between tokens, not in them.
    kind = f"vta-token vta-{piece.role}{counts}"
    return f'<span class="{kind}" title="id {piece.id}">{shown}</span><wbr>'
