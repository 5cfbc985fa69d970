"""The served app, composed: settings → services → page → serve.

Builds every service once and hands each what it needs; here `alignment` gives its models to
`annotation`'s sampling, which closes the loop. What a handler does lives in the tabs' services.
"""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Literal, NoReturn

import fastapi
import gradio as gr
import uvicorn
from fastapi_offline import FastAPIOffline

from alignment.base import resolve_base
from alignment.generation import SamplerProcess
from alignment.pipeline import Pipeline, count_votes, default_sampling
from alignment.places.warm import WarmWorker
from alignment.restored_base import backup_repo, base_for_backup, bind_to_backup
from alignment.settings import AlignmentSettings
from alignment.starter import starter_prompts
from alignment.tracking import TRACKIO_FOLDER, SpaceMirror, check_trackio, send_to_space
from alignment.web.admin_gate import ADMIN_PATH, AdminDoor, AdminGate, load_admin_token
from alignment.web.admin_tab import ADMIN_CSS, AdminHandlers, build_admin_page
from alignment.web.admin_view import ArgillaStatus
from alignment.web.bakeoff_tab import BakeoffHandlers
from alignment.web.checkup import Checkup
from alignment.web.compare_tab import build_compare_tab
from alignment.web.comparison import Comparison
from alignment.web.own_prompts_tab import OwnPromptHandlers
from alignment.web.quality_tab import QualityHandlers
from alignment.web.training_tab import TrainingHandlers
from annotation.api_errors import install_api_errors
from annotation.argilla_server.launcher import EmbeddedArgilla
from annotation.argilla_store import ArgillaConnection
from annotation.argilla_sync import ArgillaSync
from annotation.backup import BackupError
from annotation.backup_sync import BackupStatus, BackupSync
from annotation.callers import Callers
from annotation.gold import GoldRow, gold_pairs, load_gold
from annotation.home import Home, HomeError, HomeLock, derived_secret, running_app
from annotation.journal import Journal
from annotation.journal_backup import JournalBackup
from annotation.own_prompts import OwnPrompts
from annotation.page_files import build_page_routes
from annotation.page_headers import PageHeaders
from annotation.prompt_routes import build_prompt_routes
from annotation.prompts import load_prompts
from annotation.routes import Health, build_vote_routes
from annotation.sampling import PairPool
from annotation.schema import Prompt, VoteSource, utc_now
from annotation.settings import AnnotationSettings
from annotation.tab import VOTE_CSS, VotePage, build_theme, build_vote_tab
from annotation.voters import VoterCookies
from annotation.voting import Voting

log = logging.getLogger(__name__)

GRACE_S = 3
FORGETS = (
    "Votes are kept on this Space's own disk only and vanish when it restarts: "
    "its owner can set VOTES_REPO, or ARGILLA_API_URL and ARGILLA_API_KEY, to keep them."
)
MAX_UPLOAD = "1kb"
"""Nothing on the public page takes a file, and Gradio's upload route can't be left out."""
BASE_NOTE = "base"
"""The journal's note of the base that its waiting pairs were sampled from."""
MOUNT: dict[str, object] = {
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
}


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
        self._retire_pairs_of_another_base()
        self.warm = WarmWorker(self._may_warm) if alignment.warm_trainer else None
        self.pipeline = Pipeline(self.home, alignment, self.base, self.journal, warm=self.warm)
        if run := self.pipeline.runs.recover():
            log.warning("run %s was interrupted and goes on", run.id)
        self.sampling = default_sampling(self.base)
        self._votes_per_pair = annotation.votes_per_pair
        self.sampler = self._sampler("sampler")
        # It starts when somebody asks, in the midst of others' voting.
        self.comparer = self._sampler("comparer", patient=True)
        self.pool = PairPool(
            self.journal,
            prompts or (starter_prompts() if self.base.is_starter else load_prompts(None)),
            self.sampler,
            model=lambda: self.pipeline.registry.policy().ref,
            sampling=self.sampling,
            votes_per_pair=annotation.votes_per_pair,
        )
        secret = self.secret("side_secret")
        self.journal.set_gold_pairs(gold_pairs(gold, secret, utc_now())).result()
        self.voting = Voting(
            self.journal,
            votes_per_pair=annotation.votes_per_pair,
            side_secret=secret,
            source=VoteSource.SYNTHETIC if synthetic else VoteSource.PAGE,
            anonymous=annotation.anonymous_votes,
            repeat_share=annotation.repeat_share,
            gold_share=annotation.gold_share if gold else 0.0,
        )
        self.own_prompts = OwnPrompts(
            self.journal,
            self.comparer,
            mode=annotation.own_prompts,
            model=lambda: self.pipeline.registry.policy().ref,
            sampling=self.sampling,
            flipped=self.voting.flipped,
        )
        self.embedded = None if annotation.argilla_api_url else EmbeddedArgilla(self.home.root)
        self.sync = ArgillaSync(
            self.journal, self._argilla, votes_per_pair=annotation.votes_per_pair
        )
        self.broken: BackupError | None = None
        self.leave: Callable[[], None] = lambda: None
        self.backup = self._backup_sync()

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

    def secret(self, name: str) -> bytes:
        """One of the app's secrets: of COOKIE_SECRET where it is set, else the home's own."""
        configured = self._annotation.cookie_secret
        if configured is None:
            return self.home.secret(name)
        return derived_secret(configured.get_secret_value(), name)

    def _retire_pairs_of_another_base(self) -> None:
        # Only a home without votes may change its base; its waiting pairs are of the old one.
        ref = self.base.ref
        spoken = f"{ref.base}@{ref.base_revision}"
        if self.journal.note(BASE_NOTE) not in (None, spoken):
            retired = self.journal.retire_unvoted_pairs().result()
            log.info("%d pairs of another base are retired", retired)
        self.journal.set_note(BASE_NOTE, spoken).result()

    def _sampler(self, name: str, *, patient: bool = False) -> SamplerProcess:
        return SamplerProcess(
            self.base,
            weights_path=self.pipeline.registry.weights_path,
            log=self.home.root / f"{name}.log",
            patient=patient,
        )

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
        """Pairs first, then Argilla: voting begins before Argilla is up.

        Both wait for a backup that has to be restored: what is read back comes on top of it.
        """
        self.sampler.start()
        self._closing.callback(self.comparer.stop)
        self._closing.callback(self.own_prompts.stop)
        # Left in reverse: a stopped sampler fails the batch that the pool would wait for.
        self._closing.callback(self.pool.stop)
        self._closing.callback(self.sampler.stop)
        if self.embedded is not None:
            self.embedded.start()
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

    def _open(self) -> None:
        self.pool.start()
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

    def stop(self) -> None:
        self._closing.close()

    @property
    def notice(self) -> str | None:
        """What voters should know about this app, in plain words."""
        said = [self.base.notice, FORGETS if self._annotation.forgets_at_restart else None]
        return " ".join(text for text in said if text) or None

    @property
    def vote_page(self) -> VotePage:
        return VotePage(self.notice, self._annotation.own_prompts)

    @property
    def on_space(self) -> bool:
        return self._annotation.system == "spaces"

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

    def backup_status(self) -> BackupStatus | None:
        return self.backup.status() if self.backup else None

    def health(self) -> Health:
        return Health(
            status="restoring" if self.not_yet() else "ok",
            pairs_ready=self.pairs_ready(),
            argilla=self.argilla_state(),
            undelivered=self.journal.undelivered_count(),
            base_model=self.base.ref.label,
        )


def build_app(site: Site, door: AdminDoor) -> fastapi.FastAPI:
    """The routes, the public page and the admin page on one FastAPI app, /admin behind its gate."""
    app = FastAPIOffline(
        docs_url="/api/docs",
        redoc_url=None,
        openapi_url="/api/openapi.json",
        static_url="/api/docs-assets",
        title="Votetune",
        description="Routes for voters: signed-in Hub users, else bearers of the signed cookie.",
    )
    cookies = VoterCookies(site.secret("cookie_secret"))
    app.include_router(build_vote_routes(site.voting, cookies, site.health, not_yet=site.not_yet))
    callers = Callers(cookies, site.voting)
    app.include_router(build_prompt_routes(site.own_prompts, callers.elected))
    app.include_router(build_page_routes())
    install_api_errors(app)
    theme = build_theme()
    # Gradio's mount at / would swallow /admin, so /admin comes first.
    gr.mount_gradio_app(
        app,
        build_admin_page(
            AdminHandlers(
                site.pipeline,
                door,
                argilla=site.argilla_status,
                pairs_ready=site.pairs_ready,
                backup=site.backup_status,
            ),
            QualityHandlers(site.pipeline, site.journal, door),
            OwnPromptHandlers(site.journal, door),
            TrainingHandlers(
                site.pipeline, door, Checkup(site.pipeline, site.home.root), site.alignment
            ),
            BakeoffHandlers(site.pipeline, door, site.prompts),
        ),
        path=ADMIN_PATH,
        theme=theme,
        css_paths=[ADMIN_CSS],
        allowed_paths=[str(site.home.exports)],
        **MOUNT,
    )
    gr.mount_gradio_app(
        app,
        build_public_page(site),
        path="/",
        theme=theme,
        css_paths=[*VOTE_CSS],
        max_file_size=MAX_UPLOAD,
        **MOUNT,
    )
    app.add_middleware(AdminGate, door=door)
    # Outermost, so that whatever answers carries them.
    app.add_middleware(PageHeaders, on_space=site.on_space)
    _warn_where_nobody_may_vote(cookies, site.voting)
    return app


def _warn_where_nobody_may_vote(cookies: VoterCookies, voting: Voting) -> None:
    if not cookies.has_sign_in and not voting.takes(signed_in=False):
        log.warning(
            "ANONYMOUS_VOTES=refuse and nobody can sign in here, so nobody can vote: "
            "set it to count or store."
        )


def build_public_page(site: Site) -> gr.Blocks:
    """The page that voters see: vote, and compare."""
    comparison = Comparison(
        site.pipeline.registry, site.comparer, max_new_tokens=site.sampling.max_new_tokens
    )
    with gr.Blocks(title="Votetune", analytics_enabled=False) as page:
        with gr.Tab("Vote", id="vote"):
            build_vote_tab(site.vote_page)
        with gr.Tab("Compare", id="compare") as tab:
            build_compare_tab(comparison, tab)
    page.queue(default_concurrency_limit=4, max_size=64)
    return page


def serve_app(
    annotation: AnnotationSettings, alignment: AlignmentSettings, *, synthetic: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM.

    Everything that can be wrong with the settings is found before the home is touched: raises
    Fault for a bad prompts or gold file, a home in use, a taken port, a base that can't be had.
    """
    signal.signal(signal.SIGTERM, _leave)
    prompts = load_prompts(annotation.prompts) if annotation.prompts else None
    gold = load_gold(annotation.gold_pairs) if annotation.gold_pairs else []
    if alignment.trackio_project:
        check_trackio()
    home = Home(annotation.votetune_home)
    if running := running_app(home):
        raise HomeError(
            f"Another app already serves the home {home.root} at {running.url} "
            f"(process {running.pid}): stop it, or set another VOTETUNE_HOME."
        )
    listener = _listen(annotation.gradio_server_name, annotation.gradio_server_port)
    home.prepare()
    lock = HomeLock(home)
    url = f"http://{annotation.gradio_server_name}:{annotation.gradio_server_port}"
    try:
        site = Site(annotation, alignment, prompts, gold, synthetic=synthetic)
        try:
            site.start()
            configured = alignment.admin_token.get_secret_value() if alignment.admin_token else None
            token = load_admin_token(configured, home.admin_token)
            config = uvicorn.Config(
                build_app(site, AdminDoor(token)),
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                # Trackio brings uvloop and httptools, which uvicorn would take unasked.
                loop="asyncio",
                http="h11",
                timeout_graceful_shutdown=GRACE_S,
            )

            def on_ready() -> None:
                lock.announce(url)
                _greet(site, url, token)

            server = _Server(config, on_ready)
            site.leave = server.leave
            if site.broken:
                server.leave()
            server.run(sockets=[listener])
        finally:
            site.stop()
        if site.broken:
            raise site.broken
    finally:
        lock.release()
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn that says when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    def leave(self) -> None:
        """End as after a signal, from any thread."""
        self.should_exit = True


def _leave(number: int, frame: object) -> NoReturn:
    # uvicorn raises the signal again when it is done; the default would skip every `finally`.
    sys.exit(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named: asyncio asks for it before it turns Nagle's 40 ms off.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise HomeError(
            f"Port {port} on {host} can't be used ({error.strerror}): stop what listens there, "
            "or set GRADIO_SERVER_PORT to another port."
        ) from None
    return listener


def _greet(site: Site, url: str, token: str) -> None:
    print(f"Vote   {url}", flush=True)  # noqa: T201
    print(f"Admin  {url}{ADMIN_PATH}?token={token}", flush=True)  # noqa: T201
    if site.notice:
        print(site.notice, flush=True)  # noqa: T201
