"""What the rounds section and the checks beside votes show, as HTML. Pure: draws what it is given.

A rate stands beside its interval and what it counts; where there is no number there are words.
"""

from collections.abc import Mapping, Sequence
from html import escape

from alignment.contest.leaderboard import MIN_DECIDED, WinRate
from alignment.contest.rounds import Round
from alignment.runs.answer_checks import remarks
from alignment.runs.run_store import AnswerFigures, FinalMetrics
from alignment.web.markup import count_of, draw_table
from annotation.quality.quality import Share
from annotation.schema import ModelRef

Names = Mapping[ModelRef, str]
_HOW = {
    "start": "from the start",
    "gate": "by the votes",
    "override": "by an admin",
    "roll-back": "rolled back",
    "waits": "waits for its gate",
}
ROUND_COLUMNS = (
    "Round",
    "Policy",
    "How",
    "Over the last",
    "Over the base",
    "Answers",
    "Correct",
    "Trained from",
    "Votes",
    "Agreement",
)
ROUNDS_NOTE = (
    "A round is one policy, and the votes on the pairs that it answered. It is told how often "
    "blind votes prefer it to the policy before and to the base, a tie half a win to each side, "
    "with 95 % intervals; and of the votes on its pairs, how many side with the others on their "
    "pair. Answers are to prompts held out of the run's training."
)
CHECK_COLUMNS = (
    "Model",
    "Held-out accuracy",
    "Length",
    "Said before",
    "From the base",
    "Looks off",
)
CHECKS_NOTE = (
    "Made at each run's end. Length is in tokens, of answers to held-out "
    "prompts; “said before” is the share of an answer's runs of four tokens that it repeats. "
    "From the base: KL in nats a token (Schulman's k3, ± its standard error), 0 for the base."
)


def draw_rounds(rounds: Sequence[Round], names: Names) -> str:
    """Every round, the first at the top; one calm line while there is but the base."""
    rows = [_round(number, each, names) for number, each in enumerate(rounds, 1)]
    alone = (
        '<p class="vta-note">So far every pair is of the base: the next round begins when a model '
        "becomes the policy.</p>"
        if len(rounds) == 1
        else ""
    )
    return (
        f'<div class="vta-quality">{draw_table("Rounds", ROUND_COLUMNS, rows)}'
        f'{alone}<p class="vta-note">{ROUNDS_NOTE}</p></div>'
    )


def draw_checks(finals: Sequence[tuple[str, FinalMetrics]]) -> str:
    """The automatic checks of each finished run beside one another; empty without any."""
    if not finals:
        return ""
    rows = [_checks(name, final) for name, final in finals]
    return (
        f'<div class="vta-quality"><h3>Checks without voters</h3>'
        f"{draw_table('Automatic checks', CHECK_COLUMNS, rows)}"
        f'<p class="vta-note">{CHECKS_NOTE}</p></div>'
    )


def draw_remarks(final: FinalMetrics | None) -> str:
    """What looks off in a run's answers, a note each."""
    return "".join(
        f'<div class="vta-finding" role="note"><p>{escape(remark.says)}</p></div>'
        for remark in (remarks(final) if final else ())
    )


def say_win_rate(rate: WinRate | None) -> str:
    """A rate with its interval, or why there is none."""
    if rate is None:
        return "–"
    if not rate.n:
        return "never compared"
    decided = rate.wins + rate.losses
    if decided < MIN_DECIDED:
        return f"not enough votes<br><small>{decided} of {MIN_DECIDED}</small>"
    return f"<b>{rate.rate:.2f}</b><br><small>{rate.low:.2f} to {rate.high:.2f}</small>"


def say_share(share: Share | None, unknown: str) -> str:
    """A share with its interval and what it counts, or words."""
    if share is None:
        return unknown
    return (
        f"<b>{share.rate:.2f}</b> of {share.total:,}<br>"
        f"<small>{share.low:.2f} to {share.high:.2f}</small>"
    )


def say_length(seen: AnswerFigures | None) -> str:
    if seen is None:
        return "–"
    return f"<b>{seen.tokens:.0f}</b> <small>tokens, base {seen.base_tokens:.0f}</small>"


def _round(number: int, each: Round, names: Names) -> tuple[str, ...]:
    since = each.since.strftime("%d %b %H:%M UTC") if each.since else ""
    final = each.training.final if each.training else None
    waits = each.by == "waits"
    return (
        "next" if waits else str(number),
        escape(names.get(each.model, each.model.label)),
        f"{_HOW[each.by]}<br><small>{since}</small>",
        say_win_rate(each.over_last),
        say_win_rate(each.over_base),
        say_length(final.answered if final else None).replace(" <small>", "<br><small>"),
        say_share(each.correct, "–" if each.by == "roll-back" else "unknown"),
        _trained_from(each),
        "–" if waits else f"{each.votes:,}",
        "–" if waits else say_share(each.agreement, "one vote a pair" if each.votes else "–"),
    )


def _trained_from(each: Round) -> str:
    if each.training is None:
        return "–" if each.model.adapter is None else "elsewhere"
    if each.training.start is None:
        return "the base"
    kept = {"base": "kept close to the base", "start": "kept close to it"}
    reference = each.training.reference
    told = f"<br><small>{kept[reference]}</small>" if reference else ""
    return f"{escape(each.training.start)}{told}"


def _checks(name: str, final: FinalMetrics) -> tuple[str, ...]:
    seen, accuracy = final.answered, final.eval_reward_accuracy
    ranked = "none held out"
    if accuracy is not None and final.eval_pairs:
        pairs = count_of(final.eval_pairs, "pair")
        ranked = f"<b>{accuracy:.2f}</b> <small>of {pairs}</small>"
    off = "".join(f'<span class="vta-tag">{escape(r.tag)}</span> ' for r in remarks(final))
    if seen is None:
        return (escape(name), ranked, "not measured", "", "", off or "nothing")
    error = "" if seen.kl_error is None else f" <small>± {seen.kl_error:.2f}</small>"
    return (
        escape(name),
        ranked,
        say_length(seen),
        f"<b>{seen.repetition:.0%}</b> <small>base {seen.base_repetition:.0%}</small>",
        f"<b>{seen.kl_per_token:.2f}</b>{error}",
        off or "nothing",
    )
