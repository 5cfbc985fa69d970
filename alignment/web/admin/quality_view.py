"""What the quality section shows: figures with intervals, days, voters, split pairs. Pure.

Strings of HTML; what people and models wrote, voters' names too, is escaped here.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from html import escape

from alignment.axes import nice_ticks, number
from alignment.checks.votes import MIN_OVERLAPS, NOISY
from alignment.web.markup import count_of, draw_table, safe_text
from alignment.web.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from annotation.quality.flags import LIMITS, short_name
from annotation.quality.quality import Alpha, FlipRate, Share, SplitPair
from annotation.quality.report import QualityReport
from annotation.quality.voter_health import VoterHealth
from annotation.schema import Choice, Pair

NO_VOTES = (
    '<p class="vta-note">No vote yet, so there is nothing to measure: open the Vote tab, or send '
    "its address to some people.</p>"
)
SHOWN_DAYS, SHOWN_VOTERS, SHOWN_SPLITS, OPEN_SPLITS = 60, 40, 20, 3
SHORT = 220
MUCH, SOME = 0.667, 0.333
"""Krippendorff's own bound for tentative conclusions, and half of it."""
_CHOICES = (
    (Choice.A, "the first"),
    (Choice.B, "the second"),
    (Choice.TIE, "a tie"),
    (Choice.BOTH_BAD, "both bad"),
)


def draw_figures(report: QualityReport, examples_flip: float | None) -> str:
    """All votes together; `examples_flip` is the share of swapped examples that training takes."""
    overall = report.overall
    if not overall.votes:
        return NO_VOTES
    figures = (
        _share(
            "With the majority of others",
            overall.agreement,
            "Each vote beside the others on its pair. Half would be chance.",
            "needs pairs with two votes or more: set VOTES_PER_PAIR=2",
        ),
        _alpha(overall.alpha),
        _share(
            "For the left answer",
            overall.side_a,
            "Sides are drawn at random, so half is right.",
            "nobody has chosen a side",
        ),
        _share(
            "For the longer answer",
            overall.longer,
            "Longer may be better. Far from half, the model learns length.",
            "nobody has chosen between answers of different length",
        ),
        _flips(overall.flip_rate),
    )
    return (
        f'<div class="vta-quality"><p class="vta-sum">{_summary(report)}</p>'
        f'<dl class="vta-figures">{"".join(figures)}</dl>'
        f'<p class="vta-note">{_say_training(report, examples_flip)}</p>'
        f"{draw_days(overall.days)}</div>"
    )


def _summary(report: QualityReport) -> str:
    overall, suspects = report.overall, len(report.suspects)
    flagged = (
        f"{count_of(suspects, 'voter')} {'is' if suspects == 1 else 'are'} flagged and still in: "
        "see below why."
        if suspects
        else "No voter who counts is flagged."
    )
    return (
        f"<b>{count_of(overall.votes, 'vote')}</b> of {count_of(overall.voters, 'voter')} on "
        f"{count_of(overall.pairs, 'pair')}. {flagged}"
    )


def _figure(name: str, value: str, drawn: str, meaning: str) -> str:
    return (
        f"<div><dt>{name}</dt><dd>{value}</dd><dd>{drawn}</dd>"
        f'<dd class="vta-why">{escape(meaning)}</dd></div>'
    )


def _share(name: str, share: Share | None, meaning: str, missing: str) -> str:
    if share is None:
        return _figure(name, "–", "", f"Not yet: {missing}.")
    value = f"<b>{_percent(share.rate)}</b> <small>of {share.total:,}</small>"
    drawn = draw_interval(share.rate, share.low, share.high, middle=0.5)
    return _figure(name, value, drawn, meaning)


def _alpha(alpha: Alpha | None) -> str:
    name = "Krippendorff's α"
    if alpha is None:
        return _figure(name, "–", "", "Not yet: needs pairs with two votes or more.")
    much = "much" if alpha.value >= MUCH else "some" if alpha.value >= SOME else "little"
    value = f"<b>{number(round(alpha.value, 2))}</b> <small>on {alpha.pairs:,} pairs</small>"
    meaning = f"Agreement beyond chance, from 0 to 1, ties included: here there is {much}."
    return _figure(name, value, "", meaning)


def _flips(rate: FlipRate | None) -> str:
    name = "For the worse answer"
    if rate is None:
        return _figure(name, "–", "", "Not yet: needs pairs with two votes or more.")
    value = f"<b>{_with_error(rate)}</b> <small>on {rate.pairs:,} pairs</small>"
    drawn = draw_interval(rate.rate, rate.low, rate.high)
    return _figure(name, value, drawn, "Estimated from how often two votes on one pair differ.")


def _say_training(report: QualityReport, examples_flip: float | None) -> str:
    after = report.after_flags
    if report.overall.flip_rate is None or examples_flip is None:
        return (
            f"Training needs {MIN_OVERLAPS} pairs with two votes each to know how noisy votes are; "
            "until then it takes them as they are."
        )
    takes = (
        "The majorities of these votes leave "
        f"{_percent(examples_flip)} of training examples the wrong way round. "
    )
    takes += (
        "The doctor advises DPO's robust loss, which corrects for that."
        if examples_flip >= NOISY
        else f"Below {_percent(NOISY)}, training needs no correction."
    )
    if not report.suspects or after is None:
        return takes
    return (
        f"{takes} Without the flagged voters, {_with_error(after)} of votes would go to the worse "
        "answer: that is what training reckons with once they are set aside."
    )


def draw_days(days: Sequence[tuple[date, int]]) -> str:
    """Votes a day as bars, the last ones if there are many, and the same as a table."""
    shown = days[-SHOWN_DAYS:]
    if not shown:
        return ""
    total = sum(count for _, count in shown)
    last = f"the last {len(shown)} days" if len(days) > len(shown) else count_of(len(shown), "day")
    table = draw_table(
        "Votes a day", ("Day (UTC)", "Votes"), [[f"{day:%d %b %Y}", f"{n:,}"] for day, n in shown]
    )
    return (
        '<figure class="vta-chart vta-days" id="admin-plot-days"><figcaption><b>Votes a day</b>'
        f'<span class="vta-legend"><span>{count_of(total, "vote")} in {last}</span></span>'
        f"</figcaption>{_bars(shown)}<details><summary>As a table</summary>{table}</details>"
        "</figure>"
    )


def _bars(days: Sequence[tuple[date, int]]) -> str:
    most = max(1, *(count for _, count in days)) if len(days) > 1 else max(1, days[0][1])
    ticks = [tick for tick in nice_ticks(0, most) if tick == int(tick)]
    top = max(most, *ticks)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    slot = (right - LEFT) / max(len(days), 7)
    parts = []
    for tick in ticks:
        y = bottom - (bottom - TOP) * tick / top
        parts.append(
            f'<path class="vta-grid" d="M{LEFT} {y:.1f}H{right}"/>'
            f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for index, (day, count) in enumerate(days):
        height = (bottom - TOP) * count / top
        parts.append(
            f'<rect x="{LEFT + slot * (index + 0.15):.1f}" y="{bottom - height:.1f}" '
            f'width="{slot * 0.7:.1f}" height="{height:.1f}">'
            f"<title>{day:%d %b}: {count:,}</title></rect>"
        )
    named = {0, len(days) - 1} if len(days) > 3 else set(range(len(days)))
    for index in named:
        x, day = LEFT + slot * (index + 0.5), days[index][0]
        parts.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{day:%d %b}</text>')
    said = f"Votes a day from {days[0][0]:%d %B %Y} to {days[-1][0]:%d %B %Y}, at most {most:,}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
        f'<text class="vta-unit" x="2" y="11">votes</text>{"".join(parts)}</svg>'
    )


def draw_interval(rate: float, low: float, high: float, *, middle: float | None = None) -> str:
    """A share with its interval on a line from 0 to 1; `middle` marks what would be neutral."""
    width, pad = 160, 6
    x0, x, x1 = (pad + (width - 2 * pad) * value for value in (low, rate, high))
    mark = pad + (width - 2 * pad) * middle if middle is not None else None
    neutral = f'<path class="vta-level" d="M{mark:.1f} 2V22"/>' if mark is not None else ""
    said = f"{_percent(rate)}, between {_percent(low)} and {_percent(high)}"
    return (
        f'<svg class="vta-interval" viewBox="0 0 {width} 24" role="img" aria-label="{said}">'
        f'<path class="vta-grid" d="M{pad} 12H{width - pad}"/>{neutral}'
        f'<path d="M{x0:.1f} 12H{x1:.1f}"/><circle cx="{x:.1f}" cy="12" r="4"/></svg>'
        f"<small>{_percent(low)} – {_percent(high)}</small>"
    )


def draw_voters(voters: Sequence[VoterHealth]) -> str:
    """Every voter's figures, flagged ones first, with the reasons; then what can't be told."""
    if not voters:
        return ""
    titles = (
        "Voter",
        "Votes",
        "With others",
        "Left",
        "Longer",
        "Reads for",
        "Gold right",
        "Same again",
    )
    rows = [_voter_row(voter) for voter in voters[:SHOWN_VOTERS]]
    more = len(voters) - SHOWN_VOTERS
    rest = f'<p class="vta-note">{more:,} more, by number of votes.</p>' if more > 0 else ""
    return (
        f'<div class="vta-quality">{draw_table("Voters", titles, rows)}{rest}'
        f'<p class="vta-note">{LIMITS}</p></div>'
    )


def _voter_row(voter: VoterHealth) -> list[str]:
    why = "".join(f'<p class="vta-why">{escape(flag.reason)}</p>' for flag in voter.flags)
    if voter.set_aside is not None:
        why += f'<p class="vta-why">Told: {safe_text(voter.set_aside)}.</p>'
    name = f'<span title="{escape(voter.voter)}">{escape(short_name(voter.voter))}</span>'
    return [
        f"{name} {_state(voter)}{why}",
        f"{voter.votes:,}",
        _cell(voter.agreement),
        _cell(voter.side_a),
        _cell(voter.longer),
        _seconds(voter.reading_s),
        _cell(voter.gold),
        _cell(voter.repeats),
    ]


def _state(voter: VoterHealth) -> str:
    if voter.set_aside is not None:
        return '<span class="vta-tag vta-away">set aside</span>'
    return '<span class="vta-tag vta-flagged">flagged</span>' if voter.is_flagged else ""


def _cell(share: Share | None) -> str:
    return "–" if share is None else f"{_percent(share.rate)} <small>of {share.total}</small>"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:,.0f} s"


def draw_splits(splits: Sequence[SplitPair], pairs: Mapping[str, Pair]) -> str:
    """Pairs that no answer won, with both answers: what voters see differently.

    Those of `splits` that `pairs` has are drawn, the first of them open.
    """
    known = [split for split in splits if split.pair_id in pairs]
    if not known:
        return (
            '<p class="vta-note">None. A pair stands here when two or more people voted on it and '
            "no answer has more than half.</p>"
        )
    drawn = [_split(split, pairs[split.pair_id]) for split in known]
    more = len(splits) - OPEN_SPLITS
    fold = (
        f"<details><summary>{more:,} more{_of_which(more, len(drawn) - OPEN_SPLITS)}</summary>"
        f'<div class="vta-samples">{"".join(drawn[OPEN_SPLITS:])}</div></details>'
        if more > 0
        else ""
    )
    first = "".join(drawn[:OPEN_SPLITS])
    return f'<div class="vta-quality"><div class="vta-samples">{first}</div>{fold}</div>'


def _of_which(more: int, here: int) -> str:
    return f", {here} of them here" if here < more else ""


def _split(split: SplitPair, pair: Pair) -> str:
    tally = ", ".join(f"{n} for {name}" for c, name in _CHOICES if (n := split.tally.get(c, 0)))
    return draw_pair(pair, tally)


def draw_waiting(pairs: Sequence[Pair], total: int) -> str:
    """Voters' own prompts that nobody but their author has seen: `pairs`, the first of `total`."""
    if not pairs:
        return '<p class="vta-note">No prompt waits.</p>'
    more = total - len(pairs)
    rest = f'<p class="vta-note">{more:,} more.</p>' if more > 0 else ""
    shown = "".join(draw_pair(pair, _author(pair)) for pair in pairs)
    return f'<div class="vta-samples">{shown}</div>{rest}'


def _author(pair: Pair) -> str:
    return f"asked by {short_name(pair.author)}" if pair.author else "asked by a voter"


def draw_pair(pair: Pair, said: str) -> str:
    """A prompt, what there is to say of it, and both answers in the record's order."""
    first, second = (_short(completion.text) for completion in pair.completions)
    return (
        f'<article class="vta-sample"><h4>{_short(pair.prompt.messages[-1].content)}</h4>'
        f'<p class="vta-when">{escape(said)}</p><div class="vta-pair">'
        f'<div><p class="vta-when">First</p><p class="vta-text">{first}</p></div>'
        f'<div><p class="vta-when">Second</p><p class="vta-text">{second}</p></div></div></article>'
    )


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return safe_text(flat if len(flat) <= SHORT else f"{flat[: SHORT - 1]}…")


def _with_error(rate: FlipRate) -> str:
    error = "" if rate.standard_error is None else f" ± {_percent(rate.standard_error)}"
    return f"{_percent(rate.rate)}{error}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
