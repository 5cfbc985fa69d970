"""The admin page is closed: its page, config and every handler, by every route."""

import inspect
import json
import re
import stat
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from running_app import RunningApp, run_command
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from alignment.audit import ADMIN_TOKEN, AuditLog
from alignment.settings import AlignmentSettings
from alignment.web.admin.admin_doors import COOKIE, TokenDoor, load_admin_token
from alignment.web.admin.admin_gate import AdminGate
from alignment.web.admin.admin_guard import Guarded, acts, looks
from alignment.web.admin.admin_tab import AdminHandlers
from alignment.web.admin.audit_tab import AuditHandlers
from alignment.web.admin.own_prompts_tab import OwnPromptHandlers
from alignment.web.admin.quality_tab import QualityHandlers
from alignment.web.contest.leaderboard_tab import LeaderboardHandlers
from alignment.web.contest.rounds_tab import RoundHandlers
from alignment.web.training.bakeoff_tab import BakeoffHandlers
from alignment.web.training.training_tab import TrainingHandlers
from annotation.faults import Fault
from annotation.home import Home

TOKEN = "right-token-of-the-owner"
PATHS = [
    "",
    "/",
    "/config",
    "/info",
    "/gradio_api/info",
    "/gradio_api/queue/data",
    "/gradio_api/heartbeat/x",
    "/gradio_api/stream/x/0/0/playlist.m3u8",
    "/gradio_api/startup-events",
    "/gradio_api/file=/etc/passwd",
    "/monitoring",
    "/assets/index.js",
    "/theme.css",
]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


@pytest.fixture
def door(home: Home) -> TokenDoor:
    return TokenDoor(TOKEN, AuditLog(home))


@pytest.fixture
def gated(door: TokenDoor) -> TestClient:
    behind = Starlette(
        routes=[
            Route(path, lambda request: PlainTextResponse("behind"), methods=["GET", "POST"])
            for path in ("/admin/", "/admin/deep", "/open")
        ]
    )
    return TestClient(AdminGate(behind, door=door), base_url="http://app")


def test_token_becomes_a_cookie_and_leaves_the_address(gated: TestClient, home: Home) -> None:
    answer = gated.get(f"/admin?token={TOKEN}", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/admin/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie
    assert gated.get("/admin/deep").text == "behind"
    assert gated.get("/admin", follow_redirects=False).headers["location"] == "/admin/"
    assert gated.get("/admin").text == "behind"
    (line,) = AuditLog(home).latest()
    assert (line.who, line.what, line.ended) == (ADMIN_TOKEN, "signed in", "done")
    assert TOKEN not in home.audit.read_text()


@pytest.mark.parametrize(
    "path", ["/admin", "/admin/", "/admin/deep", "//admin/deep", "/ADMIN/deep"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_nothing_under_admin_answers_a_stranger(gated: TestClient, path: str, method: str) -> None:
    assert gated.request(method, f"http://app{path}").status_code == 401
    assert gated.get("/open").text == "behind"


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "votetune_admin=", f"votetune_admin={TOKEN}", "votetune_admin=é", "a;=b;;"],
)
def test_forged_cookies_do_not_open(gated: TestClient, cookie: str) -> None:
    answer = gated.get("/admin/deep", headers={"cookie": cookie.encode()})
    assert answer.status_code == 401


@pytest.mark.parametrize("query", ["token=wrong", "token=", "token=%00", f"Token={TOKEN}"])
def test_wrong_tokens_do_not_open(gated: TestClient, home: Home, query: str) -> None:
    assert gated.get(f"/admin?{query}", follow_redirects=False).status_code == 401
    assert not home.audit.exists()


def test_a_strangers_socket_is_closed(gated: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), gated.websocket_connect("/admin/deep"):
        pytest.fail("opened")


def test_another_token_shuts_old_cookies_out(home: Home) -> None:
    old, new = (TokenDoor(token, AuditLog(home)) for token in (TOKEN, TOKEN + "2"))
    assert old.admin(f"{COOKIE}={old.cookie}") == ADMIN_TOKEN
    assert new.admin(f"{COOKIE}={old.cookie}") is None


def test_another_cookies_odd_name_does_not_shut_the_owner_out(door: TokenDoor) -> None:
    assert door.admin(f"a[]=1; {COOKIE}={door.cookie}; b") == ADMIN_TOKEN


def test_generated_token_is_kept_for_the_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "admin_token"
    token = load_admin_token(None, file)
    assert len(token) >= 32
    assert load_admin_token(None, file) == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert load_admin_token("configured-by-the-owner", file) == "configured-by-the-owner"


def test_every_handler_asks_the_door_itself(door: TokenDoor, home: Home) -> None:
    """Even without the gate, no handler runs: called straight, as a new mount might."""
    nothing: Any = None
    groups = [
        AdminHandlers(nothing, door, argilla=nothing, pairs_ready=nothing),
        QualityHandlers(nothing, nothing, door),
        OwnPromptHandlers(nothing, door),
        TrainingHandlers(nothing, door, nothing, AlignmentSettings()),
        RoundHandlers(nothing, nothing, door),
        BakeoffHandlers(nothing, door),
        LeaderboardHandlers(nothing, nothing, nothing, door),
        AuditHandlers(nothing, door),
    ]
    product = {c for c in Guarded.__subclasses__() if c.__module__.startswith("alignment.")}
    assert {type(group) for group in groups} == product
    stranger = gr.Request(headers={"cookie": "votetune_admin=guess"}, session_hash="x")
    asked = 0
    for group in groups:
        for name in [name for name in vars(type(group)) if not name.startswith("_")]:
            handler = getattr(group, name)
            wanted = inspect.signature(handler).parameters
            given = {p: None for p in wanted if p not in ("request", "form")}
            with pytest.raises(gr.Error, match="Only an admin may do this"):
                handler(**given, request=stranger)
            asked += 1
    assert asked >= 28
    assert not home.audit.exists()


def test_a_handler_that_is_neither_a_look_nor_an_act_is_refused_when_it_is_made() -> None:
    with pytest.raises(TypeError, match=r"Open\.wipe is neither @looks nor @acts"):

        class Open(Guarded):
            def wipe(self, request: gr.Request) -> None: ...


class Bold(Guarded):
    """Handlers that end in every way."""

    @looks
    def look(self, request: gr.Request) -> str:
        return "seen"

    @acts("do it")
    def act(self, thing: str, request: gr.Request) -> str:
        self._doing.touched(thing)
        if thing == "fault":
            raise Fault("One line: do this next.")
        if thing == "shown":
            raise gr.Error("Another line.", print_exception=False)
        return str(1 // (thing != "bug"))


def test_what_acts_leaves_a_line_however_it_ends_and_what_looks_none(
    door: TokenDoor, home: Home
) -> None:
    bold, owner = Bold(door), gr.Request(headers={"cookie": f"{COOKIE}={door.cookie}"})
    assert bold.look(owner) == "seen"
    assert not home.audit.exists()
    assert bold.act("run-1", owner) == "1"
    with pytest.raises(gr.Error, match="One line: do this next"):
        bold.act("fault", request=owner)
    with pytest.raises(gr.Error, match="Another line"):
        bold.act("shown", owner)
    with pytest.raises(ZeroDivisionError):
        bold.act("bug", owner)
    lines = AuditLog(home).latest()
    assert {(line.who, line.what) for line in lines} == {(ADMIN_TOKEN, "do it")}
    assert [(line.on, line.ended) for line in reversed(lines)] == [
        (("run-1",), "done"),
        (("fault",), "refused"),
        (("shown",), "refused"),
        (("bug",), "failed"),
    ]


def test_an_action_that_cannot_be_written_down_is_not_begun(door: TokenDoor, home: Home) -> None:
    home.audit.mkdir()
    owner = gr.Request(headers={"cookie": f"{COOKIE}={door.cookie}"})
    with pytest.raises(gr.Error, match=r"audit\.jsonl can't be written .* nothing was done"):
        Bold(door).act("bug", owner)


@pytest.mark.slow
@pytest.mark.argilla
class TestRunningAdmin:
    def test_every_path_refuses_a_stranger(self, voted_app: RunningApp) -> None:
        for path in PATHS:
            answer = httpx.get(f"{voted_app.url}/admin{path}")
            assert answer.status_code == 401, path
            assert "owner" in answer.text

    def test_every_dependency_refuses_a_stranger_by_every_route(
        self, voted_app: RunningApp
    ) -> None:
        with voted_app.admin_client() as admin:
            config = admin.get("/admin/config").json()
            assert admin.get("/admin/").status_code == 200
        dependencies = config["dependencies"]
        assert len(dependencies) >= 8
        with httpx.Client(base_url=f"{voted_app.url}/admin/gradio_api") as stranger:
            for dependency in dependencies:
                body = {"data": [], "fn_index": dependency["id"], "session_hash": "guess"}
                named = [f"/call/{dependency['api_name']}", f"/run/{dependency['api_name']}"]
                for route in ["/queue/join", "/run/predict", "/api/predict", *named]:
                    assert stranger.post(route, json=body).status_code == 401, route
            for route in ("/cancel", "/reset", "/upload", "/component_server"):
                assert stranger.post(route, json={}).status_code == 401, route
        for run in json.loads(run_command(voted_app.home, "status", "--json").stdout)["runs"]:
            assert run["state"] != "cancelled"

    def test_the_public_page_knows_nothing_of_admin(self, voted_app: RunningApp) -> None:
        public = httpx.get(f"{voted_app.url}/config").json()
        names = {d["api_name"] for d in public["dependencies"] if d["backend_fn"]}
        # "apply" draws the compare tab's parts.
        assert names == {"apply", "open_compare", "compare", "compare_models", "leaderboard"}
        token = (voted_app.home / "admin_token").read_text().strip()
        assert token not in json.dumps(public)

    def test_the_public_page_takes_no_files(self, voted_app: RunningApp) -> None:
        files = {"files": ("big.bin", b"0" * 100_000)}
        answer = httpx.post(f"{voted_app.url}/gradio_api/upload", files=files)
        assert answer.status_code == 413

    def test_the_owner_sees_state_and_no_secret(self, voted_app: RunningApp) -> None:
        with voted_app.admin_client() as admin:
            config = admin.get("/admin/config").json()
            index = next(d["id"] for d in config["dependencies"] if d["api_name"] == "votes")
            answer = call(admin, "votes", index)
        secrets = json.loads((voted_app.home / "argilla" / "credentials.json").read_text())
        assert "**200** votes by **8** voters on" in answer
        assert "Argilla](http" in answer
        assert secrets["password"] not in answer
        assert secrets["api_key"] not in answer


def call(admin: httpx.Client, name: str, index: int) -> str:
    """The first output of an endpoint, called as Gradio's client does."""
    started = admin.post(f"/admin/gradio_api/call/{name}", json={"data": []})
    assert started.status_code == 200, (index, started.text)
    event = started.json()["event_id"]
    stream = admin.get(f"/admin/gradio_api/call/{name}/{event}").text
    found = re.search(r"event: complete\ndata: (.*)", stream)
    assert found, stream
    return str(json.loads(found[1])[0])
