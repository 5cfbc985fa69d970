"""A duplicated Space says which secrets are missing, on a page, and goes on once they are set."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from running_app import ROOT, clean_environment, free_port

from alignment.web.setup_page import setup_html
from annotation.settings import AnnotationSettings, SpaceEnvironment, load_settings
from annotation.space_needs import Need, space_needs

SPACE = {
    "SYSTEM": "spaces",
    "SPACE_ID": "bob/votes",
    "SPACE_AUTHOR_NAME": "bob",
    "SPACE_HOST": "bob-votes.hf.space",
    "OAUTH_CLIENT_ID": "client",
    "OAUTH_CLIENT_SECRET": "oauth-secret-of-the-space",
}
COOKIE = "c" * 40
TOKEN = "hf_token_of_the_new_owner"


def needs(monkeypatch: pytest.MonkeyPatch, **env: str) -> tuple[Need, ...]:
    with monkeypatch.context() as here:
        for field in (*SpaceEnvironment.model_fields, *AnnotationSettings.model_fields):
            here.delenv(field.upper(), raising=False)
        for name, value in env.items():
            here.setenv(name, value)
        return space_needs(load_settings(SpaceEnvironment))


def required(found: tuple[Need, ...]) -> list[str]:
    return [need.name for need in found if need.required]


def advised(found: tuple[Need, ...]) -> list[str]:
    return [need.name for need in found if not need.required]


def test_nothing_is_needed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs(monkeypatch, VOTES_REPO="ada/votes", OAUTH_CLIENT_ID="client") == ()


def test_a_fresh_copy_needs_what_login_needs_and_is_better_with_a_backup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = needs(monkeypatch, **SPACE)
    assert required(found) == ["COOKIE_SECRET"]
    assert advised(found) == ["HF_TOKEN", "VOTES_REPO"]
    # Where nobody signs in, the start is not refused.
    anonymous = {"SYSTEM": "spaces", "SPACE_AUTHOR_NAME": "bob"}
    assert required(needs(monkeypatch, **anonymous)) == []


def test_a_variable_that_came_along_needs_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACE | {"COOKIE_SECRET": COOKIE}
    argilla = {"ARGILLA_API_URL": "https://a.example"}
    assert required(needs(monkeypatch, **space, **argilla)) == ["ARGILLA_API_KEY"]
    # No backup is advised where an Argilla keeps the votes.
    assert advised(needs(monkeypatch, **space, **argilla)) == ["HF_TOKEN"]
    served = {"GENERATION_URL": "https://g.example"}
    assert "GENERATION_API_KEY" in advised(needs(monkeypatch, **space, **served))


def test_another_owners_backup_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACE | {"COOKIE_SECRET": COOKIE, "VOTES_REPO": "ada/votes"}
    found = needs(monkeypatch, **space)
    assert required(found) == ["HF_TOKEN", "VOTES_REPO"]
    assert "ada/votes, which is not of bob" in found[1].why
    with_token = needs(monkeypatch, **space, HF_TOKEN=TOKEN)
    assert (required(with_token), advised(with_token)) == ([], ["VOTES_REPO"])
    own = needs(monkeypatch, **space | {"VOTES_REPO": "Bob/votes"}, HF_TOKEN=TOKEN)
    assert own == ()


def test_another_owners_admins_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACE | {"COOKIE_SECRET": COOKIE, "VOTES_REPO": "bob/votes", "HF_TOKEN": TOKEN}
    found = needs(monkeypatch, **space, ADMIN_USERS="ada")
    assert (required(found), advised(found)) == ([], ["ADMIN_USERS"])
    assert "they may open this Space's admin page" in found[0].why
    assert needs(monkeypatch, **space, ADMIN_USERS="ada, Bob") == ()


def test_the_page_is_inert_text(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {**SPACE, "VOTES_REPO": "<script>/x", "SPACE_ID": '"><script>'}
    found = needs(monkeypatch, **env)
    with monkeypatch.context() as here:
        for name, value in env.items():
            here.setenv(name, value)
        page = setup_html(load_settings(SpaceEnvironment), found, "<b>broken</b>")
    assert "<script" not in page
    assert "&lt;b&gt;broken&lt;/b&gt;" in page


class Running:
    """`python app.py` as a Space runs it, and what it printed."""

    def __init__(self, home: Path, **env: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = home.with_name(f"{home.name}-{self.port}.log")
        no_argilla = {"ARGILLA_API_URL": "http://127.0.0.1:9", "ARGILLA_API_KEY": "k"}
        given = {**no_argilla, **env, "GRADIO_SERVER_PORT": str(self.port)}
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py")],
                env={k: v for k, v in clean_environment(home, **given).items() if v},
                stdout=out,
                stderr=out,
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> httpx.Response:
        """Once it answers."""
        deadline = time.monotonic() + 90
        while True:
            try:
                return httpx.get(f"{self.url}{path}", timeout=5)
            except httpx.HTTPError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.said
                time.sleep(0.1)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.mark.slow
def test_a_copy_shows_what_is_missing_and_goes_on_once_it_is_set(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Running(home, **SPACE) as copy:
        page = copy.get("/")
        api = copy.get("/api/health")
        admin = copy.get("/admin")
    assert page.status_code == 200
    assert "COOKIE_SECRET" in page.text
    assert "https://huggingface.co/spaces/bob/votes/settings" in page.text
    assert admin.text == page.text
    assert (
        "frame-ancestors 'self' https://huggingface.co" in page.headers["content-security-policy"]
    )
    assert (api.status_code, "COOKIE_SECRET" in api.json()["detail"]) == (503, True)
    assert not home.exists()
    said = page.text + api.text + copy.said
    assert "Traceback" not in said
    assert SPACE["OAUTH_CLIENT_SECRET"] not in said
    with Running(home, **SPACE, COOKIE_SECRET=COOKIE) as whole:
        health = whole.get("/api/health")
    assert health.status_code == 200, whole.said
    assert health.json()["base_model"].startswith("starter@")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"COOKIE_SECRET": "tiny-one"}, "COOKIE_SECRET=(hidden)"),
        ({"COOKIE_SECRET": COOKIE, "VOTES_PER_PAIR": "many"}, "VOTES_PER_PAIR="),
        ({"COOKIE_SECRET": COOKIE, "BASE_MODEL": "/nowhere/model"}, "BASE_MODEL=/nowhere/model"),
    ],
)
def test_a_refused_start_is_a_page_on_a_space(
    tmp_path: Path, env: dict[str, str], said: str
) -> None:
    with Running(tmp_path / "home", **SPACE, **env) as refused:
        page = refused.get("/")
    assert "not set up yet" in page.text
    assert said in page.text
    assert "tiny-one" not in page.text + refused.said
    assert "Traceback" not in refused.said + page.text
    assert said in refused.said
