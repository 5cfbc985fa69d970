"""The whole app, walked: who is no admin changes nothing by any route, and every act is written."""

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from admin_site import ADA, BOB, AdminSite
from starlette.routing import Mount
from starlette.testclient import TestClient
from vote_parts import LEFT, MODELS, crowd_at_work, pair_of

from alignment.audit import AuditLog, voter_tag
from alignment.web.admin.admin_guard import Guarded, action_of
from annotation.schema import PairKind

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
API = "/gradio_api"
HEADERS = (
    "content-security-policy",
    "x-content-type-options",
    "referrer-policy",
    "permissions-policy",
)
OTHER_ROUTES = [
    *(("GET", path) for path in ("/", "", "/config", "/theme.css", "/manifest.json", "/logout")),
    *(("GET", path) for path in ("/robots.txt", "/pwa_icon", "/favicon.ico", "/assets/index.js")),
    *(("GET", path) for path in ("/static/img/logo.svg", "/svelte/x.js", "/monitoring")),
    *(("GET", path) for path in ("/monitoring/summary", "/monitoring/x", "/login")),
    *(
        ("GET", API + path)
        for path in (
            *("/info", "/openapi.json", "/user", "/token", "/app_id", "/login_check", "/runs"),
            *("/queue/data?session_hash=x", "/queue/status", "/heartbeat/x", "/startup-events"),
            *("/stream/x/0/0/playlist.m3u8", "/stream/x/0/0/playlist-file", "/theme.css"),
            *("/file=/etc/hostname", "/proxy=http://127.0.0.1/", "/upload_progress?upload_id=x"),
            *("/call/votes/x", "/call/export/x", "/dev/reload", "/vibe-code", "/deep_link"),
        )
    ),
    *(
        ("POST", API + path)
        for path in (
            *("/upload", "/cancel", "/reset", "/component_server", "/stream/x", "/stream/x/close"),
            *("/process_recording", "/vibe-edit", "/run-history/connect", "/profiling/clear"),
        )
    ),
    ("POST", "/login"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminSite]:
    made = AdminSite(tmp_path_factory.mktemp("closed"), admin_users="Ada")
    pairs, votes = crowd_at_work()
    own = [
        pair_of(f"own{n}", kind=PairKind.OWN, author="ann", only_for="ann", models=MODELS)
        for n in range(2)
    ]
    made.site.journal.add_pairs([*pairs, *own]).result(30)
    for future in [made.site.journal.add_vote(vote) for vote in votes]:
        future.result(30)
    yield made
    made.close()


@pytest.fixture(scope="module")
def admin(served: AdminSite) -> Iterator[httpx.Client]:
    with served.sign_in(ADA) as browser:
        yield browser


@pytest.fixture(scope="module")
def voter(served: AdminSite) -> Iterator[httpx.Client]:
    with served.sign_in(BOB) as browser:
        assert browser.get("/api/me").json()["name"] == "bob"
        yield browser


@pytest.fixture(scope="module")
def nobody(served: AdminSite) -> Iterator[httpx.Client]:
    with served.browser() as browser:
        browser.follow_redirects = False
        yield browser


def mounted(served: AdminSite, path: str) -> Any:
    """Gradio's own app under `path`, without what stands before it."""
    return next(r.app for r in served.app.routes if isinstance(r, Mount) and r.path == path)


def dependencies(served: AdminSite, path: str) -> list[tuple[dict[str, Any], Any]]:
    """Each endpoint as the page's config names it, with the function behind it."""
    blocks = mounted(served, path).get_blocks()
    return [
        (dependency, blocks.fns[dependency["id"]].fn)
        for dependency in blocks.config["dependencies"]
        if dependency["backend_fn"]
    ]


def calls(dependency: dict[str, Any], data: list[Any] | None = None) -> Iterator[tuple[str, Any]]:
    """Every way to call an endpoint that Gradio serves: queue, call, run, its old name api."""
    name, index = dependency["api_name"], dependency["id"]
    given = [None] * len(dependency["inputs"]) if data is None else data
    body = {"data": given, "fn_index": index, "session_hash": "guess"}
    for route in ("/run", "/api", "/call"):
        yield f"{API}{route}/{name}", body
        yield f"{API}{route}/{name}/", body
    yield f"{API}/call/v2/{name}", {}
    yield f"{API}/run/predict", body
    yield f"{API}/queue/join", body | {"trigger_id": None, "event_data": None}


def test_nobody_and_a_plain_voter_reach_no_endpoint_of_admin_by_any_route(
    served: AdminSite, nobody: httpx.Client, voter: httpx.Client
) -> None:
    found = dependencies(served, "/admin")
    assert len(found) >= 35
    before = served.snapshot()
    for dependency, _ in found:
        for route, body in calls(dependency):
            refused = nobody.post(f"/admin{route}", json=body)
            assert (refused.status_code, refused.text.count("\n")) == (401, 1), route
            refused = voter.post(f"/admin{route}", json=body)
            assert (refused.status_code, refused.text.count("\n")) == (403, 1), route
            assert "bob, who is no admin" in refused.text
    assert served.snapshot() == before


def test_nobody_and_a_plain_voter_reach_no_other_route_of_admin(
    served: AdminSite, nobody: httpx.Client, voter: httpx.Client
) -> None:
    before = served.snapshot()
    files = {"files": ("a.txt", b"mine")}
    for method, route in OTHER_ROUTES:
        more: dict[str, Any] = {"files": files} if route == f"{API}/upload" else {}
        answer = nobody.request(method, f"/admin{route}", **more)
        expected = 303 if route in ("", "/") else 401
        assert answer.status_code == expected, route
        answer = voter.request(method, f"/admin{route}", **more)
        assert answer.status_code == 403, route
    assert served.snapshot() == before


def test_gradios_own_check_stands_without_the_gate(served: AdminSite, nobody: httpx.Client) -> None:
    """`auth_dependency` by itself, as a request that came past the gate would meet it."""
    inner = TestClient(mounted(served, "/admin"), base_url="http://inner")
    for dependency, _ in dependencies(served, "/admin"):
        for route, body in calls(dependency):
            assert inner.post(route, json=body).status_code == 401, route
    for route in ("/", "/config", f"{API}/info", f"{API}/file=/etc/hostname"):
        assert inner.get(route).status_code == 401, route
    assert inner.post(f"{API}/upload", files={"files": ("a", b"b")}).status_code == 401


def test_the_same_walk_reaches_every_endpoint_as_an_admin_and_every_act_is_written(
    served: AdminSite, admin: httpx.Client
) -> None:
    """The control of the walks above: it is the door that refuses them, not the route."""
    log = AuditLog(served.home)
    acts = 0
    for dependency, handler in dependencies(served, "/admin"):
        assert isinstance(handler.__self__, Guarded), dependency["api_name"]
        written = log.latest(1000)
        answer = admin.post(
            f"/admin{API}/run/{dependency['api_name']}",
            json={"data": data_for(dependency), "session_hash": "ada"},
        )
        assert answer.status_code in (200, 500), answer.text
        assert "Only an admin" not in answer.text
        what = action_of(handler)
        new = log.latest(1000)[: len(log.latest(1000)) - len(written)]
        assert [(line.who.name, line.who.id, line.what) for line in new] == (
            [("ada", "hub-65f0c0ffee", what)] if what else []
        ), dependency["api_name"]
        acts += bool(what)
    assert acts >= 15
    ends = {line.what: (line.ended, line.on) for line in reversed(log.latest(1000))}
    assert ends["set a voter aside"] == ("done", (voter_tag(LEFT),))
    assert ends["approve an own prompt"] == ("done", ("own0",))
    assert ends["reject an own prompt"] == ("done", ("own1",))
    assert ends["export"][0] == "done"
    assert ends["pull a model"] == ("refused", ("nowhere",))
    assert ends["cancel a run"] == ("refused", ())
    assert ends["train"][0] == ends["publish"][0] == ends["roll back the policy"][0] == "refused"
    assert "failed" not in {ended for ended, _ in ends.values()}


def test_an_admin_reaches_it_by_queue_and_by_call_too(
    served: AdminSite, admin: httpx.Client
) -> None:
    by_name = {d["api_name"]: d for d, _ in dependencies(served, "/admin")}
    base = f"/admin{API}"
    event = admin.post(f"{base}/call/votes", json={"data": []}).json()["event_id"]
    assert "wait for a vote" in admin.get(f"{base}/call/votes/{event}").text
    body = {"data": [], "fn_index": by_name["votes"]["id"], "session_hash": "q"}
    assert admin.post(f"{base}/queue/join", json=body).status_code == 200
    with admin.stream("GET", f"{base}/queue/data", params={"session_hash": "q"}) as stream:
        told = "".join(itertools.takewhile(lambda part: "close_stream" not in part, parts(stream)))
    assert "wait for a vote" in told


def parts(stream: httpx.Response) -> Iterator[str]:
    for line in stream.iter_lines():
        yield line
        if "process_completed" in line:
            return


def test_no_endpoint_of_the_public_page_does_what_an_admin_does(
    served: AdminSite, nobody: httpx.Client, voter: httpx.Client
) -> None:
    found = dependencies(served, "")
    assert len(found) >= 5
    before = served.snapshot()
    for dependency, handler in found:
        assert action_of(handler) is None
        assert not isinstance(getattr(handler, "__self__", None), Guarded)
        for browser in (nobody, voter):
            for route, body in calls(dependency):
                assert browser.post(route, json=body).status_code < 501, route
    assert served.snapshot() == before


def test_the_public_page_calls_no_handler_of_admin_by_its_name_or_number(
    served: AdminSite, nobody: httpx.Client
) -> None:
    before = served.snapshot()
    public = [dependency for dependency, _ in dependencies(served, "")]
    names, numbers = ({d[key] for d in public} for key in ("api_name", "id"))
    for dependency, _ in dependencies(served, "/admin"):
        name, number = dependency["api_name"], dependency["id"]
        if name not in names:
            for route in ("/run", "/api", "/call"):
                answer = nobody.post(f"{API}{route}/{name}", json={"data": []})
                assert answer.status_code in (404, 500), answer.text
        if number not in numbers:
            body = {"data": [], "fn_index": number, "session_hash": "guess"}
            for route in ("/run/predict", "/queue/join"):
                assert nobody.post(f"{API}{route}", json=body).status_code >= 400, route
    assert served.snapshot() == before


def test_monitoring_run_history_and_analytics_are_off(
    served: AdminSite, admin: httpx.Client
) -> None:
    for base in ("", "/admin"):
        blocks = mounted(served, base).get_blocks()
        assert (blocks.analytics_enabled, blocks.enable_monitoring) == (False, False)
        assert not blocks.run_history
        assert not blocks.ssr_mode
        config = admin.get(f"{base}/config").json()
        assert config["footer_links"] == []
        assert not config.get("run_history")
        for route in ("/monitoring", "/monitoring/summary", "/monitoring/x"):
            assert admin.get(f"{base}{route}").status_code in (403, 404), base + route
        for route in ("/runs", "/run-history/buckets", "/run-history/records"):
            assert admin.get(f"{base}{API}{route}").status_code == 404, base + route


def test_every_answer_of_admin_carries_the_same_headers_as_the_public_page(
    served: AdminSite, admin: httpx.Client, nobody: httpx.Client, voter: httpx.Client
) -> None:
    public = nobody.get("/").headers
    assert "frame-ancestors 'self'" in public["content-security-policy"]
    for browser in (admin, nobody, voter):
        for route in ("/admin/", "/admin/config", f"/admin{API}/info", "/admin/assets/x.js"):
            headers = browser.get(route).headers
            assert {n: headers.get(n) for n in HEADERS} == {n: public[n] for n in HEADERS}, route


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.io"])
def test_another_sites_page_can_use_no_admins_session(
    served: AdminSite, admin: httpx.Client, origin: str
) -> None:
    before = served.snapshot()
    for dependency, _ in dependencies(served, "/admin"):
        for route, body in calls(dependency):
            answer = admin.post(f"/admin{route}", json=body, headers={"Origin": origin})
            assert (answer.status_code, answer.text.count("\n")) == (403, 1), route
    answer = admin.get("/admin/config", headers={"Origin": origin})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = admin.options(f"/admin{API}/run/export", headers=asked)
    assert "access-control-allow-origin" not in preflight.headers
    assert served.snapshot() == before


def data_for(dependency: dict[str, Any]) -> list[Any]:
    """What the page would send for a choice that is there, else nothing chosen."""
    return {
        "set_aside": [LEFT, "pressed left"],
        "bring_back": [LEFT],
        "approve": ["own0"],
        "reject": ["own1"],
        "pull": ["nowhere"],
    }.get(dependency["api_name"], [None] * len(dependency["inputs"]))
