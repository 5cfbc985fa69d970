"""What the leaderboard and the gate show, as HTML. Pure: draws what it is given.

A rate stands beside its interval and what it counts; a model without enough votes has words
instead of a number. Model names are escaped here.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape

from alignment.contest.gate import ALPHA, HORIZON, MIN_DECIDED, VOTER_CAP, Gate
from alignment.contest.leaderboard import Leaderboard, Row, Standing, WinRate
from alignment.contest.promotions import Promotion
from alignment.contest.ratings import Strength
from alignment.web.markup import count_of, draw_bar, draw_table
from annotation.schema import ModelRef

NOTHING_YET = (
    '<p class="vta-note">No comparison is closed yet. Once a model is trained on the votes, some '
    "of the pairs that you vote on are the new model against the old one, unnamed; when that is "
    "decided, the result appears here.</p>"
)
NO_CANDIDATE = (
    '<p class="vta-note">No model waits: train one, and it is compared blind with the policy on '
    "prompts that it was not trained on.</p>"
)
_FAR = 800
"""Elo points beyond which a bound says only that it is far away."""
_BY = {
    "gate": "by the votes",
    "override": "by an admin, against or before the votes",
    "roll-back": "rolled back",
}
_SHOWN_PROMOTIONS = 10
Names = Mapping[ModelRef, str]


def draw_leaderboard(
    board: Leaderboard, names: Names, *, empty: str = NOTHING_YET, left_out: int = 0
) -> str:
    """Every model with its strength, then every pair of models that was judged.

    `left_out` counts votes of voters who are set aside.
    """
    aside = f'<p class="vta-note">{_left_out(left_out)}</p>' if left_out else ""
    if not board.duels:
        return empty + aside
    titles = ("Model", "Strength", "Without length", "Wins over the base", "Votes", "Voters")
    rows = [_row(row, names) for row in board.rows]
    duels = [_duel(_winner_first(duel), names) for duel in board.duels]
    return (
        '<div class="vta-quality">'
        f"{draw_table('Models', titles, rows)}"
        '<p class="vta-note">Strength is in Elo points over the base, by Bradley-Terry with ties '
        "as a result of their own; the range is a 95 % interval over voters. “Without length” "
        "takes a taste for long or formatted answers out. Votes count those that decided.</p>"
        f"{draw_table('Pairs of models', ('Preferred', 'Over', 'Win rate', 'Votes'), duels)}"
        '<p class="vta-note">A tie gives half a win to each side; the range is a 95 % Wilson '
        f"interval.</p>{aside}</div>"
    )


def draw_gate(gate: Gate | None, names: Names, trouble: str | None = None) -> str:
    """Where the candidate stands, and what it still takes; `trouble` is why nothing is compared."""
    if trouble:
        return (
            '<div class="vta-finding vta-serious"><span class="vta-level-name">Nothing is compared '
            f"or promoted now</span><span>{escape(trouble)}</span></div>"
        )
    if gate is None:
        return NO_CANDIDATE
    decided = gate.wins + gate.losses
    candidate, policy = _name(gate.candidate, names), _name(gate.policy, names)
    share = min(1.0, max(0.0, math.log(max(gate.evidence, 1.0)) / math.log(gate.needed)))
    facts = [
        f"<b>{gate.wins}</b> for it",
        f"<b>{gate.losses}</b> against",
        f"<b>{count_of(gate.ties, 'tie')}</b>",
        f"by <b>{count_of(gate.voters, 'voter')}</b>",
        f"evidence <b>{gate.evidence:.2g}</b> of {gate.needed:.0f}",
    ]
    return (
        f'<div class="vta-progress"><p><b>{candidate}</b> against the policy, <b>{policy}</b>.</p>'
        f"{draw_bar('Evidence that voters prefer it', share)}"
        f'<p class="vta-facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</p>'
        f'<p class="vta-note">{_outlook(gate, decided)}</p></div>'
    )


def draw_promotions(promotions: Sequence[Promotion], names: Names) -> str:
    """How the policy became what it is, the latest first."""
    if not promotions:
        return '<p class="vta-note">The base is the policy; nothing was promoted yet.</p>'
    rows = [
        (
            _name(p.model, names),
            escape(p.at.strftime("%Y-%m-%d %H:%M UTC")),
            _BY[p.by],
            f"{p.wins} to {p.losses}" if p.wins + p.losses else "–",
        )
        for p in reversed(promotions[-_SHOWN_PROMOTIONS:])
    ]
    return draw_table("Promotions", ("Policy", "Since", "How", "Votes"), rows)


def _outlook(gate: Gate, decided: int) -> str:
    if gate.chance is None:
        return "Voters prefer it: it becomes the policy now."
    said = [
        f"The chance that the next {HORIZON} deciding votes promote it is <b>{gate.chance:.0%}</b>."
    ]
    if decided < MIN_DECIDED:
        said.append(f"At least {MIN_DECIDED} deciding votes are wanted.")
    if gate.voters_needed:
        said.append(
            f"It takes {count_of(gate.voters_needed, 'more voter')} at least: "
            f"one person gives {VOTER_CAP} deciding votes to a comparison, so that one taste "
            "can't promote."
        )
    if gate.capped:
        said.append(f"{count_of(gate.capped, 'vote')} beyond that are left out.")
    said.append(
        f"An equal model passes in at most {ALPHA:.0%} of comparisons, however often one looks."
    )
    return " ".join(said)


def _left_out(votes: int) -> str:
    are = "is" if votes == 1 else "are"
    return f"{count_of(votes, 'vote')} of voters who are set aside {are} left out."


def _row(row: Row, names: Names) -> tuple[str, ...]:
    is_apart = row.standing is Standing.NEVER_COMPARED
    measure = "–" if is_apart else "the measure"
    over = measure if row.over_base is None else _rate(row.over_base)
    if row.standing is not Standing.PLACED:
        told = f'<span class="vta-tag">{row.standing.value}</span>'
        return (_name(row.model, names), told, "", over, str(row.decided), str(row.voters))
    return (
        _name(row.model, names),
        _elo(row.strength),
        _elo(row.controlled),
        over,
        str(row.decided),
        str(row.voters),
    )


def _winner_first(duel: WinRate) -> WinRate:
    """The same votes, told of the model that more of them preferred."""
    if duel.wins >= duel.losses:
        return duel
    return WinRate(
        model=duel.over,
        over=duel.model,
        wins=duel.losses,
        losses=duel.wins,
        ties=duel.ties,
        rate=1 - duel.rate,
        low=1 - duel.high,
        high=1 - duel.low,
    )


def _duel(duel: WinRate, names: Names) -> tuple[str, ...]:
    first, second = _name(duel.model, names), _name(duel.over, names)
    told = f"{duel.wins} to {duel.losses}, {count_of(duel.ties, 'tie')}"
    return (first, second, _rate(duel), told)


def _rate(rate: WinRate) -> str:
    return f"<b>{rate.rate:.2f}</b> <small>{rate.low:.2f} to {rate.high:.2f}</small>"


def _elo(strength: Strength | None) -> str:
    if strength is None:
        return ""
    if strength.low == strength.high == strength.elo == 0:
        return "<b>0</b>"
    low, high = _bound(strength.low), _bound(strength.high)
    return f"<b>{strength.elo:+.0f}</b> <small>{low} to {high}</small>"


def _bound(points: float) -> str:
    if abs(points) > _FAR:
        return f"under −{_FAR}" if points < 0 else f"over +{_FAR}"
    return f"{points:+.0f}"


def _name(model: ModelRef, names: Names) -> str:
    return escape(names.get(model, model.label))
