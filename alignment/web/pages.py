"""What the app answers with: the voters' routes, the public page, the admin page behind its gate.

Composes them over one Site. Builds no service and starts nothing.
"""

import logging

import fastapi
import gradio as gr
from fastapi_offline import FastAPIOffline

from alignment.contest.rounds import RoundDesk
from alignment.web.admin.admin_doors import ADMIN_PATH, AccountDoor, AdminDoor
from alignment.web.admin.admin_gate import AdminGate
from alignment.web.admin.admin_tab import ADMIN_CSS, AdminHandlers, build_admin_page
from alignment.web.admin.audit_tab import AuditHandlers
from alignment.web.admin.own_prompts_tab import OwnPromptHandlers
from alignment.web.admin.quality_tab import QualityHandlers
from alignment.web.compare.blind_tab import BlindHandlers
from alignment.web.compare.changes_tab import ChangeHandlers
from alignment.web.compare.compare_tab import build_compare_tab
from alignment.web.contest.leaderboard_tab import LeaderboardHandlers, build_leaderboard_tab
from alignment.web.contest.rounds_tab import RoundHandlers
from alignment.web.site import Site
from alignment.web.training.bakeoff_tab import BakeoffHandlers
from alignment.web.training.checkup import Checkup
from alignment.web.training.training_tab import TrainingHandlers
from annotation.voting import Voting
from annotation.web.api_errors import install_api_errors
from annotation.web.callers import Callers
from annotation.web.frugal import UNWATCHED, let_queue_rest
from annotation.web.origin_guard import OriginGuard
from annotation.web.page_files import build_page_routes
from annotation.web.page_headers import PageHeaders
from annotation.web.page_weight import CompressedPages
from annotation.web.prompt_routes import build_prompt_routes
from annotation.web.routes import build_vote_routes
from annotation.web.sign_in import SignIn, build_sign_in_routes
from annotation.web.tab import VOTE_CSS, build_theme, build_vote_tab, vote_head
from annotation.web.voters import Caller, VoterCookies

log = logging.getLogger(__name__)

MAX_UPLOAD = "1kb"
"""Nothing on the public page takes a file, and Gradio's upload route can't be left out."""
MOUNT: dict[str, object] = {
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
}


def build_app(site: Site, door: AdminDoor) -> fastapi.FastAPI:
    """The routes, the public page and the admin page on one FastAPI app, /admin behind its gate."""
    app = FastAPIOffline(
        docs_url="/api/docs",
        redoc_url=None,
        openapi_url="/api/openapi.json",
        static_url="/api/docs-assets",
        title="Votetune",
        description="Routes for voters: signed-in Hub users, else bearers of the signed cookie.",
        telemetry=UNWATCHED,
    )
    cookies = VoterCookies(
        site.identity.secret("cookie_secret"), site.identity.sessions, framed=site.on_space
    )
    app.include_router(build_vote_routes(site.voting, cookies, site.health, not_yet=site.not_yet))
    callers = Callers(cookies, site.voting)
    app.include_router(build_prompt_routes(site.own_prompts, callers.elected))
    app.include_router(build_page_routes())
    if site.identity.provider and site.identity.sessions:
        state_secret = site.identity.secret("login_secret")
        sign_in = SignIn(
            site.identity.provider,
            site.identity.sessions,
            state_secret,
            framed=site.on_space,
            on_sign_in=door.note_sign_in if isinstance(door, AccountDoor) else lambda account: None,
        )
        app.include_router(build_sign_in_routes(sign_in))
    install_api_errors(app)
    theme = build_theme()
    rounds = RoundDesk(site.pipeline.registry, site.pipeline.runs, site.journal)
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
                trouble=lambda: site.journal.trouble,
                sampling=site.sampling_error,
                missing=lambda: site.contest.trouble,
            ),
            QualityHandlers(site.pipeline, site.journal, door),
            OwnPromptHandlers(site.journal, door),
            TrainingHandlers(
                site.pipeline, door, Checkup(site.pipeline, site.home.root), site.alignment
            ),
            BakeoffHandlers(site.pipeline, door, site.prompts),
            LeaderboardHandlers(site.contest, site.pipeline.registry, rounds, door),
            AuditHandlers(site.audit, door),
            RoundHandlers(rounds, site.pipeline.registry, door),
        ),
        path=ADMIN_PATH,
        auth_dependency=lambda request: _admin_name(door, request),
        theme=theme,
        css_paths=[ADMIN_CSS],
        allowed_paths=[str(site.home.exports)],
        **MOUNT,
    )
    gr.mount_gradio_app(
        app,
        build_public_page(site, cookies),
        path="/",
        theme=theme,
        css_paths=[*VOTE_CSS, ADMIN_CSS],
        head=vote_head(),
        max_file_size=MAX_UPLOAD,
        **MOUNT,
    )
    app.add_middleware(AdminGate, door=door)
    app.add_middleware(OriginGuard)
    app.add_middleware(CompressedPages)
    # Outermost, so that whatever answers carries them.
    app.add_middleware(PageHeaders, on_space=site.on_space)
    _warn_where_nobody_may_vote(cookies, site.voting)
    return app


def _admin_name(door: AdminDoor, request: fastapi.Request) -> str | None:
    """What Gradio asks of its own accord, beside the gate: None is nobody."""
    admin = door.admin(request.headers.get("cookie"))
    return admin.name if admin else None


def _warn_where_nobody_may_vote(cookies: VoterCookies, voting: Voting) -> None:
    if not cookies.has_sign_in and not voting.takes(signed_in=False):
        log.warning(
            "ANONYMOUS_VOTES=refuse and nobody can sign in here, so nobody can vote: "
            "set it to count or store."
        )


def build_public_page(site: Site, cookies: VoterCookies) -> gr.Blocks:
    """The page that voters see: vote, compare, and what was decided."""

    def who(request: gr.Request) -> Caller:
        return cookies.caller(request.request)

    blind = BlindHandlers(site.tries, site.voting, who)
    changes = ChangeHandlers(site.comparison, who)
    with gr.Blocks(title="Votetune", analytics_enabled=False) as page:
        with gr.Tab("Vote", id="vote"):
            build_vote_tab(site.vote_page)
        with gr.Tab("Compare", id="compare") as tab:
            build_compare_tab(site.comparison, blind, changes, tab)
        with gr.Tab("Leaderboard", id="leaderboard") as tab:
            build_leaderboard_tab(site.contest, site.pipeline.registry, tab)
    page.queue(default_concurrency_limit=4, max_size=64)
    let_queue_rest(page)
    return page
