"""The quality section of the admin page: how good the votes are, and whose to set aside.

Only draws and passes on; every handler first asks the door. Setting aside deletes nothing.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import gradio as gr

from alignment.pipeline import Pipeline
from alignment.web.admin.admin_doors import AdminDoor
from alignment.web.admin.admin_guard import QUIET, Guarded, acts, changed, digests, looks, shown
from alignment.web.admin.quality_view import SHOWN_SPLITS, draw_figures, draw_splits, draw_voters
from annotation.faults import Fault
from annotation.journal.journal import Journal
from annotation.quality.flags import short_name
from annotation.quality.quality import Quality
from annotation.quality.report import QualityReport
from annotation.quality.voter_health import VoterHealth

INTRO = (
    "How far the votes can be trusted, and who votes strangely. Setting a voter aside takes their "
    "votes out of every figure, dataset and run; nothing is deleted, and one click brings them "
    "back."
)
BY_OWNER = "set aside by the owner"
OFFERED_VOTERS = 200
WRITE_S = 30
T = TypeVar("T")
Seen = dict[str, str]


class QualityHandlers(Guarded):
    """What each control of the section does: ask the door, read or write the journal, render."""

    def __init__(self, pipeline: Pipeline, journal: Journal, door: AdminDoor) -> None:
        super().__init__(door)
        self._pipeline = pipeline
        self._journal = journal
        self._drawn: tuple[QualityReport | None, dict[str, str]] = (None, {})

    @looks
    def watch(self, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """Figures, voters, split pairs, whom one may choose; skips what is shown already."""
        return self._show(seen, fresh=False)

    @looks
    def look_again(self, seen: Seen, request: gr.Request) -> tuple[Any, ...]:
        """The same with figures of this moment."""
        return self._show(seen, fresh=True)

    @acts("set a voter aside")
    def set_aside(self, voter: str | None, why: str, request: gr.Request) -> str:
        found = self._chosen(voter)
        self._doing.touched_voters(found.voter)
        said = " ".join(why.split()) or ", ".join(f.told for f in found.flags) or BY_OWNER
        _written(self._journal.set_aside(found.voter, said))
        return f"**{short_name(found.voter)}** is set aside, {_votes(found.votes)}: {said}."

    @acts("bring a voter back")
    def bring_back(self, voter: str | None, request: gr.Request) -> str:
        found = self._chosen(voter)
        self._doing.touched_voters(found.voter)
        if found.set_aside is None:
            return f"**{short_name(found.voter)}** counts already."
        _written(self._journal.bring_back(found.voter))
        return f"**{short_name(found.voter)}** counts again, {_votes(found.votes)}."

    @acts("set flagged voters aside")
    def set_aside_flagged(self, request: gr.Request) -> str:
        suspects = self._pipeline.quality.report(fresh=True).suspects
        self._doing.touched_voters(*(v.voter for v in suspects))
        futures = [
            self._journal.set_aside(v.voter, ", ".join(f.told for f in v.flags)) for v in suspects
        ]
        if not futures:
            return "No voter who counts is flagged."
        for future in futures:
            _written(future)
        count = sum(voter.votes for voter in suspects)
        some = f"{len(suspects)} flagged voter{'s are' if len(suspects) > 1 else ' is'}"
        return f"{some} set aside, {_votes(count)}. Bring one back whenever you like."

    def _show(self, seen: Seen, *, fresh: bool) -> tuple[Any, ...]:
        report = self._pipeline.quality.report(fresh=fresh)
        parts = self._draw(report)
        choices = _choices(report.voters)
        now = digests(parts | {"choices": str(choices)})
        if seen == now:
            return *[gr.skip()] * 5, now
        return (
            *changed(parts, seen),
            gr.update(choices=choices, interactive=bool(choices)),
            gr.update(interactive=bool(report.suspects)),
            now,
        )

    def _draw(self, report: QualityReport) -> dict[str, str]:
        # The desk keeps a report while votes stay, and so does its drawing stay.
        drawn, parts = self._drawn
        if drawn is not report:
            parts = {
                "figures": draw_figures(report, self._pipeline.measured_flip_rate()),
                "voters": draw_voters(report.voters),
                "splits": self._draw_splits(report.overall),
            }
            self._drawn = (report, parts)
        return parts

    def _draw_splits(self, overall: Quality) -> str:
        splits = overall.split_pairs
        pairs = self._journal.pairs([split.pair_id for split in splits[:SHOWN_SPLITS]])
        return draw_splits(splits, {pair.id: pair for pair in pairs})

    def _chosen(self, voter: str | None) -> VoterHealth:
        voters = self._pipeline.quality.report(fresh=True).voters
        found = next((v for v in voters if v.voter == voter), None)
        return shown(lambda: _known(found))


def _known(found: VoterHealth | None) -> VoterHealth:
    if found is None:
        raise Fault("No voter is chosen: choose one first.")
    return found


def _written(future: "Future[T]") -> T:
    return shown(lambda: future.result(WRITE_S))


def _votes(count: int) -> str:
    return f"{count:,} vote{'' if count == 1 else 's'}"


def _choices(voters: Sequence[VoterHealth]) -> list[tuple[str, str]]:
    """Flagged voters, those set aside, then the others by number of votes."""
    ordered = sorted(voters, key=lambda v: (not v.is_flagged, v.set_aside is None))
    return [(_label(voter), voter.voter) for voter in ordered[:OFFERED_VOTERS]]


def _label(voter: VoterHealth) -> str:
    state = "set aside" if voter.set_aside is not None else "flagged" if voter.is_flagged else ""
    return f"{short_name(voter.voter)}, {_votes(voter.votes)}{f', {state}' if state else ''}"


def build_quality_section(handlers: QualityHandlers, page: gr.Blocks, timer: gr.Timer) -> None:
    """Figures, voters with their buttons, pairs without agreement: layout first, then events."""
    gr.Markdown("## Quality")
    gr.Markdown(INTRO)
    figures = gr.HTML(elem_id="admin-quality", padding=False)
    gr.Markdown("### Voters")
    voters = gr.HTML(elem_id="admin-voters", padding=False)
    with gr.Row(equal_height=True):
        voter = gr.Dropdown(
            label="Voter", choices=[], elem_id="admin-voter", interactive=False, min_width=260
        )
        why = gr.Textbox(
            label="Why, as the voter will read it",
            placeholder="the flags in plain words",
            max_length=200,
            min_width=260,
            elem_id="admin-why",
        )
    with gr.Row():
        aside, back, all_flagged, again = (
            gr.Button(name, elem_id=f"admin-{name.lower().replace(' ', '-')}", min_width=150)
            for name in ("Set aside", "Bring back", "Set aside all flagged", "Look again")
        )
    told = gr.Markdown(elem_id="admin-quality-told")
    gr.Markdown("### Pairs without agreement")
    splits = gr.HTML(elem_id="admin-splits", padding=False)
    seen = gr.State({})

    looking = ([seen], [figures, voters, splits, voter, all_flagged, seen])
    page.load(handlers.watch, *looking, api_name="quality", **QUIET)
    timer.tick(handlers.watch, *looking, api_name="poll_quality", **QUIET)
    again.click(handlers.look_again, *looking, api_name="look_again")
    for button, action, inputs, name in (
        (aside, handlers.set_aside, [voter, why], "set_aside"),
        (back, handlers.bring_back, [voter], "bring_back"),
        (all_flagged, handlers.set_aside_flagged, None, "set_aside_flagged"),
    ):
        done = button.click(action, inputs, told, api_name=name)
        done.then(handlers.look_again, *looking, api_name=f"{name}_shown", **QUIET)
