"""The services of the served app, composed: settings → services.

Builds every service once and hands each what it needs; here `alignment` gives its models to
`annotation`'s sampling, which closes the loop. What a handler does lives in the tabs' services,
the pages are `pages`'s, and `serve` serves them.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Literal

from alignment.audit import AuditLog
from alignment.base import resolve_base
from alignment.contest.contest import Contest, GateWatch
from alignment.pipeline import Pipeline, count_votes, default_sampling
from alignment.places.warm import WarmWorker
from alignment.restored_base import backup_repo, base_for_backup, bind_to_backup
from alignment.runs.tracking import TRACKIO_FOLDER, SpaceMirror, send_to_space
from alignment.sampling.samplers import build_samplers, expect_questions
from alignment.settings import AlignmentSettings
from alignment.starter.starter import starter_prompts
from alignment.web.admin.admin_view import ArgillaStatus
from alignment.web.compare.comparison import Comparison
from alignment.web.identity import Identity
from annotation.argilla_server.launcher import EmbeddedArgilla
from annotation.argilla_store.store import ArgillaConnection
from annotation.argilla_store.sync import ArgillaSync
from annotation.asking import AskQueue
from annotation.backup.events import BackupError
from annotation.backup.journal_backup import JournalBackup
from annotation.backup.sync import BackupStatus, BackupSync
from annotation.choosing import strategy_named
from annotation.comparing import ComparisonPool
from annotation.consent import note_licence
from annotation.gold import GoldRow, gold_pairs
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.own_prompts import OwnPrompts
from annotation.prompts import load_prompts
from annotation.sampling import PairPool
from annotation.schema import Prompt, Split, VoteSource, utc_now
from annotation.settings import AnnotationSettings
from annotation.trying import BlindTries
from annotation.voting import Voting
from annotation.web.routes import Health

if TYPE_CHECKING:
    from annotation.web.tab import VotePage

log = logging.getLogger(__name__)

FORGETS = (
    "Votes are kept on this Space's own disk only and vanish when it restarts: "
    "its owner can set VOTES_REPO, or ARGILLA_API_URL and ARGILLA_API_KEY, to keep them."
)
BASE_NOTE = "base"
"""The journal's note of the base that its waiting pairs were sampled from."""


class Site:
    """Every service of one home, started together and stopped in reverse."""

    def __init__(
        self,
        annotation: AnnotationSettings,
        alignment: AlignmentSettings,
        prompts: list[Prompt] | None,
        gold: list[GoldRow],
        *,
        synthetic: bool,
    ) -> None:
        self._closing = ExitStack()
        self._annotation = annotation
        self.home = Home(annotation.votetune_home)
        self.alignment, self.prompts = alignment, prompts
        self._backup_repo = backup_repo(annotation)
        has_votes = bind_to_backup(
            self._backup_repo, self.home.root, has_votes=count_votes(self.home) > 0
        )
        self.base = resolve_base(alignment, self.home.root, has_votes=has_votes)
        self.journal = Journal(self.home.journal, has_backup=annotation.votes_repo is not None)
        self._closing.callback(self.journal.close)
        note_licence(self.journal, annotation.data_licence)
        self._retire_pairs_of_another_base()
        self.warm = (
            WarmWorker(self._may_warm, self._expect_questions) if alignment.warm_trainer else None
        )
        self.pipeline = Pipeline(self.home, alignment, self.base, self.journal, warm=self.warm)
        if run := self.pipeline.runs.recover():
            log.warning("run %s was interrupted and goes on", run.id)
        self.sampling = default_sampling(self.base)
        self._votes_per_pair = annotation.votes_per_pair
        samplers = build_samplers(
            self.base,
            alignment,
            weights_path=self.pipeline.registry.weights_path,
            logs=self.home.root,
        )
        self.sampler, self.comparer = samplers.drawing, samplers.answering
        asked = prompts or (starter_prompts() if self.base.is_starter else load_prompts(None))
        self.pool = PairPool(
            self.journal,
            asked,
            self.sampler,
            model=lambda: self.pipeline.registry.answering().ref,
            sampling=self.sampling,
            votes_per_pair=annotation.votes_per_pair,
            strategy=strategy_named(annotation.pair_strategy),
        )
        self.contest = Contest(self.pipeline.registry, self.journal, share=annotation.compare_share)
        self.comparisons = self._comparison_pool(asked)
        self.gate_watch = GateWatch(self.contest, self.journal)
        self.identity = Identity(annotation, self.home, organisation=alignment.space_author_name)
        secret = self.identity.secret("side_secret")
        self.journal.set_gold_pairs(gold_pairs(gold, secret, utc_now())).result()
        self.voting = Voting(
            self.journal,
            votes_per_pair=annotation.votes_per_pair,
            side_secret=secret,
            source=VoteSource.SYNTHETIC if synthetic else VoteSource.PAGE,
            anonymous=annotation.anonymous_votes,
            repeat_share=annotation.repeat_share,
            gold_share=annotation.gold_share if gold else 0.0,
            compare_share=self.contest.compare_share,
        )
        self.audit = AuditLog(self.home)
        self.asking = AskQueue(self.comparer)
        self.own_prompts = OwnPrompts(
            self.journal,
            self.asking,
            mode=annotation.own_prompts,
            model=lambda: self.pipeline.registry.answering().ref,
            sampling=self.sampling,
            flipped=self.voting.flipped,
        )
        self.comparison = Comparison(
            self.pipeline.registry,
            self.asking,
            sampling=self.sampling,
            prompts_of=self.journal.prompts_of,
            warm_up=self.comparer.start,
        )
        self.tries = BlindTries(
            self.journal,
            self.asking,
            models=self.comparison.refs,
            sampling=self.sampling,
            flipped=self.voting.flipped,
            secret=secret,
        )
        self.embedded = None if annotation.argilla_api_url else EmbeddedArgilla(self.home.root)
        self.sync = ArgillaSync(
            self.journal, self._argilla, votes_per_pair=annotation.votes_per_pair
        )
        self.broken: BackupError | None = None
        self.leave: Callable[[], None] = lambda: None
        self.backup = self._backup_sync()

    def _comparison_pool(self, asked: list[Prompt]) -> ComparisonPool | None:
        """Where comparisons are wanted and some prompts are kept for them."""
        if not self._annotation.compare_share or all(p.split is Split.TRAIN for p in asked):
            return None
        return ComparisonPool(
            self.journal,
            asked,
            self.sampler,
            models=self.contest.models,
            sampling=self.sampling,
        )

    def _backup_sync(self) -> BackupSync | None:
        if self._backup_repo is None:
            return None
        return BackupSync(
            JournalBackup(self.journal, self.home.journal),
            self._backup_repo,
            base_for_backup(self.base, self.home.root),
            on_open=self._open,
            on_broken=self._give_up,
        )

    def _give_up(self, why: BackupError) -> None:
        """End the app: to begin empty beside a backup that can't be read would hide the loss."""
        self.broken = why
        self.leave()

    def _retire_pairs_of_another_base(self) -> None:
        # Only a home without votes may change its base; its waiting pairs are of the old one.
        ref = self.base.ref
        spoken = f"{ref.base}@{ref.base_revision}"
        if self.journal.note(BASE_NOTE) not in (None, spoken):
            retired = self.journal.retire_unvoted_pairs().result()
            log.info("%d pairs of another base are retired", retired)
        self.journal.set_note(BASE_NOTE, spoken).result()

    def _argilla(self) -> ArgillaConnection | None:
        settings = self._annotation
        if self.embedded is None:
            assert settings.argilla_api_url and settings.argilla_api_key
            url, key = settings.argilla_api_url, settings.argilla_api_key.get_secret_value()
        elif credentials := self.embedded.credentials():
            url, key = credentials.api_url, credentials.api_key
        else:
            return None
        return ArgillaConnection(url, key, settings.argilla_workspace, settings.argilla_dataset)

    def start(self) -> None:
        """Pairs first; Argilla waits for `start_argilla`, which must not take a core from them.

        Pairs and votes wait for a backup that has to be restored: what is read back is on top.
        """
        self.sampler.start()
        self._closing.callback(self.comparer.stop)
        self._closing.callback(self.asking.stop)
        # Left in reverse: a stopped sampler fails the batch that the pool would wait for.
        self._closing.callback(self.pool.stop)
        if self.comparisons is not None:
            self._closing.callback(self.gate_watch.stop)
            self._closing.callback(self.comparisons.stop)
        self._closing.callback(self.sampler.stop)
        if self.embedded is not None:
            self._closing.callback(self.embedded.stop)
        self._closing.callback(self.sync.stop)
        if self.warm is not None:
            self.warm.start()
            self._closing.callback(self.warm.stop)
        self._start_tracking()
        if self.backup is None:
            self._open()
        else:
            # Stopped first of all: its last sync must not wait for what is slow to end.
            self._closing.callback(self.backup.stop)
            self.backup.start()

    def start_argilla(self) -> None:
        """For when the page answers: voting begins before Argilla is up."""
        if self.embedded is not None:
            self.embedded.start()

    def _open(self) -> None:
        self.pool.start()
        if self.comparisons is not None:
            self.comparisons.start()
            self.gate_watch.start()
        self.sync.start()

    def not_yet(self) -> str | None:
        """Why voting has not begun, in plain words; None once it has."""
        return self.backup.restoring if self.backup else None

    def _start_tracking(self) -> None:
        project, space = self.alignment.trackio_project, self.alignment.trackio_space_id
        if project and space and self.alignment.hf_token:
            folder, token = self.home.root / TRACKIO_FOLDER, self.alignment.hf_token
            mirror = SpaceMirror(
                self.pipeline.runs,
                folder,
                lambda: send_to_space(folder, project, space, token.get_secret_value()),
            )
            mirror.start()
            self._closing.callback(mirror.stop)

    def _may_warm(self) -> bool:
        # Voters come first: its imports would take a core from the first pairs, and from Argilla.
        return self.pairs_ready() > 0 and self.argilla_state() != "starting"

    def _expect_questions(self) -> None:
        expect_questions(self.comparer, self.base)

    def stop(self) -> None:
        self._closing.close()

    @property
    def notice(self) -> str | None:
        """What voters should know about this app, in plain words."""
        said = [self.base.notice, FORGETS if self._annotation.forgets_at_restart else None]
        return " ".join(text for text in said if text) or None

    @property
    def vote_page(self) -> "VotePage":
        # Only when the page is built: Gradio's import must not keep `start` from its turn.
        from annotation.web.tab import VotePage

        settings = self._annotation
        return VotePage(self.notice, settings.own_prompts, settings.data_licence)

    @property
    def on_space(self) -> bool:
        return self._annotation.on_space

    def pairs_ready(self) -> int:
        return self.journal.ready_count(votes_per_pair=self._votes_per_pair, now=utc_now())

    def argilla_state(self) -> Literal["starting", "ready", "unreachable"]:
        if self.embedded is not None and self.embedded.state == "unreachable":
            return "unreachable"
        return self.sync.state

    def argilla_status(self) -> ArgillaStatus:
        credentials = self.embedded.credentials() if self.embedded else None
        return ArgillaStatus(
            state=self.argilla_state(),
            url=credentials.api_url if credentials else self._annotation.argilla_api_url,
            sign_in=(
                f"Sign in as {credentials.username} with the password in "
                f"`{self.home.root / 'argilla' / 'credentials.json'}`."
                if credentials
                else ""
            ),
            undelivered=self.journal.undelivered_count(),
            last_error=self.sync.last_error
            or (self.embedded.last_error if self.embedded else None),
        )

    def sampling_error(self) -> str | None:
        """What keeps new pairs from being drawn, in one line."""
        comparing = self.comparisons.error if self.comparisons else None
        return self.pool.error or (f"Comparisons: {comparing}" if comparing else None)

    def backup_status(self) -> BackupStatus | None:
        return self.backup.status() if self.backup else None

    def health(self) -> Health:
        return Health(
            status="restoring" if self.not_yet() else "ok",
            pairs_ready=self.pairs_ready(),
            argilla=self.argilla_state(),
            undelivered=self.journal.undelivered_count(),
            base_model=self.base.ref.label,
            sampling=self.sampling_error(),
            trouble=self.contest.trouble,
        )
