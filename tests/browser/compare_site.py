"""The real Compare and Leaderboard tabs over a registry of small files; a slow writer answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import gradio as gr
from quality_site import store
from small_files import write_model, write_run
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vote_parts import pair_of, vote_on
from vote_site import SECRET, Site

from alignment.base import ResolvedBase
from alignment.contest.contest import Contest
from alignment.registry import Registry
from alignment.web.compare.blind_tab import BlindHandlers
from alignment.web.compare.changes_tab import ChangeHandlers
from alignment.web.compare.compare_tab import build_compare_tab
from alignment.web.compare.comparison import Comparison
from alignment.web.contest.leaderboard_tab import build_leaderboard_tab
from annotation.asking import AskQueue
from annotation.journal.journal import Journal
from annotation.schema import Choice, ModelRef, PairKind, Sampling
from annotation.trying import BlindTries
from annotation.voting import Voting
from annotation.web.tab import VotePage, build_vote_tab
from annotation.web.voters import Caller, VoterCookies

BASE = ModelRef("zebra/chat", "c0ffee12" * 5)
APART = ModelRef(BASE.base, BASE.base_revision, "dpo-apart", "a" * 40)
ALSO_APART = ModelRef(BASE.base, BASE.base_revision, "dpo-also-apart", "d" * 40)
"""Models that are not here any more."""
RUNS = ("dpo-first", "dpo-second")
NAMES = ("zebra", "c0ffee12", *RUNS)
"""What nothing may hold before a blind vote is saved."""


@dataclass(slots=True)
class CompareSite(Site):
    """`runs` are the trained models that are here."""

    runs: tuple[str, ...] = RUNS
    sent: list[bytes] = field(default_factory=list)
    """Every body that the server sent, streams included, as plain bytes."""
    registry: Registry = field(init=False)

    def __post_init__(self) -> None:
        Site.__post_init__(self)
        base = write_model(self.home / "base")
        for seed, run in enumerate(self.runs):
            write_run(self.home, run, BASE, seed=seed)
        self.registry = Registry(self.home, ResolvedBase(BASE, base, is_starter=False, notice=None))

    def promote(self, run: str) -> None:
        self.registry.promotions.promote(self.registry.get(run).ref, "override")

    def answered(self) -> int:
        """Gradio events that were answered, whatever they said."""
        return sum(body.count(b"process_completed") for body in self.sent)

    def build_app(self) -> ASGIApp:
        app = Site.build_app(self)

        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            async def keep(message: Message) -> None:
                self.sent.append(message.get("body", b""))
                await send(message)

            if scope["type"] == "http":
                headers = [h for h in scope["headers"] if h[0] != b"accept-encoding"]
                scope = {**scope, "headers": headers}
            await app(scope, receive, keep)

        return recorded

    def _build_page(self, voting: Voting, cookies: VoterCookies, queue: AskQueue) -> gr.Blocks:
        def who(request: gr.Request) -> Caller:
            return cookies.caller(request.request)

        comparison = Comparison(
            self.registry,
            queue,
            sampling=Sampling(),
            prompts_of=self.journal.prompts_of,
            warm_up=lambda: None,
        )
        tries = BlindTries(
            self.journal,
            queue,
            models=comparison.refs,
            sampling=Sampling(),
            flipped=voting.flipped,
            secret=SECRET,
        )
        with gr.Blocks(title="Votetune", analytics_enabled=False) as blocks, gr.Tabs():
            with gr.Tab("Vote"):
                build_vote_tab(VotePage(self.notice, self.own_prompts))
            with gr.Tab("Compare") as tab:
                build_compare_tab(
                    comparison,
                    BlindHandlers(tries, voting, who),
                    ChangeHandlers(comparison, who),
                    tab,
                )
        blocks.queue(default_concurrency_limit=4, max_size=64)
        return blocks


@dataclass(slots=True)
class LeaderSite(CompareSite):
    """The vote page and the Leaderboard tab."""

    contest: Contest = field(init=False)

    def _build_page(self, voting: Voting, cookies: VoterCookies, queue: AskQueue) -> gr.Blocks:
        self.contest = Contest(self.registry, self.journal, share=0.2)
        with gr.Blocks(title="Votetune", analytics_enabled=False) as blocks, gr.Tabs():
            with gr.Tab("Vote"):
                build_vote_tab(VotePage())
            with gr.Tab("Leaderboard") as tab:
                build_leaderboard_tab(self.contest, self.registry, tab)
        return blocks


def judge(journal: Journal, first: ModelRef, second: ModelRef, choices: Sequence[Choice]) -> None:
    """Blind votes on `first` (side a) and `second`, one of each voter."""
    for n, choice in enumerate(choices):
        pair = pair_of(
            f"{first.label}-{second.label}-{n}",
            kind=PairKind.COMPARE,
            models=(first, second),
            longer_first=n % 2 == 0,
        )
        store(journal, [pair], [vote_on(pair.id, f"voter-{n}", choice)])


def many(a: int, b: int = 0, ties: int = 0) -> list[Choice]:
    return [Choice.A] * a + [Choice.B] * b + [Choice.TIE] * ties
