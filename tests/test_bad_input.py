"""Bad input gets one clear line, changes nothing and loses nothing."""

import json
import shutil
import socket
import sqlite3
from pathlib import Path

import httpx
import pytest
from running_app import RunningApp, run_command, start_app

pytestmark = [pytest.mark.slow]


def one_line(done: object) -> str:
    """The refusal: status 1, one line on standard error, nothing on standard output."""
    assert done.returncode == 1, done  # type: ignore[attr-defined]
    lines = done.stderr.strip().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 1, lines
    return str(lines[0])


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("GRADIO_SERVER_PORT", "eighty", "GRADIO_SERVER_PORT='eighty'"),
        ("GRADIO_SERVER_PORT", "70000", "GRADIO_SERVER_PORT"),
        ("VOTES_PER_PAIR", "0", "VOTES_PER_PAIR='0'"),
        ("ARGILLA_API_URL", "http://127.0.0.1:1", "ARGILLA_API_KEY"),
        ("PROMPTS", "/nowhere/prompts.txt", "/nowhere/prompts.txt"),
        ("GOLD_PAIRS", "/nowhere/gold.jsonl", "GOLD_PAIRS: /nowhere/gold.jsonl can't be read"),
        ("REPEAT_SHARE", "0.9", "REPEAT_SHARE='0.9'"),
        ("BASE_MODEL", "/nowhere/model", "/nowhere/model"),
        ("BASE_MODEL", "not a model!", "BASE_MODEL"),
        ("GENERATION_URL", "http://127.0.0.1:1", "GENERATION_URL"),
        ("ADMIN_TOKEN", "short", "ADMIN_TOKEN"),
        ("HUB_NAMESPACE", "a/b", "HUB_NAMESPACE"),
    ],
)
def test_bad_variable_stops_the_start(tmp_path: Path, variable: str, value: str, said: str) -> None:
    home = tmp_path / "home"
    line = one_line(run_command(home, **{variable: value}))
    assert said in line
    assert not (home / "journal.sqlite3").exists()
    if variable == "ADMIN_TOKEN":
        assert "short" not in line


def test_commands_on_an_empty_home_say_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "no votes yet" in one_line(run_command(home, "export", str(tmp_path / "out")))
    assert "no votes yet" in one_line(run_command(home, "train", "--method", "dpo"))
    assert "no run" in one_line(run_command(home, "cancel", "dpo-1"))
    assert run_command(home, "status").returncode == 0
    assert run_command(home, "runs").returncode == 0
    assert not home.exists()


def test_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = one_line(run_command(tmp_path / "home", GRADIO_SERVER_PORT=port))
    assert port in line
    assert "GRADIO_SERVER_PORT" in line
    assert not (tmp_path / "home").exists()


@pytest.mark.argilla
class TestVotedHome:
    def test_second_app_on_the_same_home(self, voted_app: RunningApp) -> None:
        before = votes(voted_app.home)
        line = one_line(run_command(voted_app.home, GRADIO_SERVER_PORT="1"))
        assert str(voted_app.process.pid) in line
        assert "VOTETUNE_HOME" in line
        assert votes(voted_app.home) == before
        assert voted_app.health()["status"] == "ok"

    def test_another_base_model_on_a_home_with_votes(
        self, voted_app: RunningApp, tmp_path: Path
    ) -> None:
        from tiny import make_tiny_model

        other = make_tiny_model(tmp_path / "other")
        copy = tmp_path / "home"
        copy.mkdir()
        shutil.copy(voted_app.home / "base.json", copy)
        with sqlite3.connect(voted_app.home / "journal.sqlite3") as live:
            live.execute("VACUUM INTO ?", (str(copy / "journal.sqlite3"),))
        before = (copy / "base.json").read_bytes()
        line = one_line(run_command(copy, BASE_MODEL=str(other)))
        assert "starter" in line
        assert str(other) in line
        assert (copy / "base.json").read_bytes() == before
        assert votes(copy) == votes(voted_app.home)

    def test_too_few_examples(self, voted_app: RunningApp) -> None:
        before = run_command(voted_app.home, "runs").stdout
        done = run_command(voted_app.home, "train", "--method", "dpo", MIN_EXAMPLES="5000")
        line = one_line(done)
        assert "5000" in line
        assert "MIN_EXAMPLES" in line
        assert run_command(voted_app.home, "runs").stdout == before

    @pytest.mark.parametrize(
        ("body", "status", "said"),
        [
            ({"pair": "unknown", "choice": "a"}, 404, "unknown"),
            ({"pair": "PAIR", "choice": "left"}, 422, "choice"),
            ({"pair": "PAIR"}, 422, "choice"),
            ({"choice": "a"}, 422, "pair"),
            ({"pair": "PAIR", "choice": "a", "comment": "\ud800"}, 422, "comment"),
            ({"pair": "PAIR", "choice": "a", "comment": "x" * 2001}, 422, "comment"),
            ({"pair": "PAIR", "choice": "a", "reasons": ["pretty"]}, 422, "reasons"),
            ({"pair": "PAIR", "choice": "a", "voter": "me"}, 422, "voter"),
            ([1], 422, ""),
        ],
    )
    def test_malformed_vote(
        self, voted_app: RunningApp, body: object, status: int, said: str
    ) -> None:
        with httpx.Client(base_url=voted_app.url) as voter:
            pair = voter.post("/api/pairs").json()["id"]
            text = json.dumps(body).replace("PAIR", pair)
            answer = voter.post(
                "/api/votes", content=text, headers={"content-type": "application/json"}
            )
            assert answer.status_code == status
            detail = answer.json()["detail"]
            assert isinstance(detail, str)
            assert "\n" not in detail
            assert said in detail
            assert voter.get("/api/me/votes").json() == []

    def test_somebody_elses_pair(self, voted_app: RunningApp) -> None:
        with (
            httpx.Client(base_url=voted_app.url) as one,
            httpx.Client(base_url=voted_app.url) as two,
        ):
            pair = one.post("/api/pairs").json()["id"]
            two.post("/api/pairs")
            answer = two.post("/api/votes", json={"pair": pair, "choice": "a"})
            assert answer.status_code == 403
            assert two.get("/api/me/votes").json() == []

    def test_export_refuses_a_folder_of_other_things(
        self, voted_app: RunningApp, tmp_path: Path
    ) -> None:
        (tmp_path / "letter.txt").write_text("dear")
        line = one_line(run_command(voted_app.home, "export", str(tmp_path)))
        assert str(tmp_path) in line
        assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]

    def test_unknown_models_and_files(self, voted_app: RunningApp, tmp_path: Path) -> None:
        prompts = tmp_path / "p.txt"
        prompts.write_text("Hello\n")
        out = tmp_path / "o.jsonl"
        asked = ("sample", "--prompts", str(prompts), "--out", str(out), "--model")
        assert "dpo-1" in one_line(run_command(voted_app.home, *asked, "dpo-1"))
        missing = ("sample", "--model", "base", "--prompts", "/nowhere.txt", "--out", str(out))
        assert "/nowhere.txt" in one_line(run_command(voted_app.home, *missing))
        assert not out.exists()


def votes(home: Path) -> int:
    with sqlite3.connect(f"file:{home / 'journal.sqlite3'}?mode=ro", uri=True) as journal:
        return int(journal.execute("SELECT count(*) FROM votes").fetchone()[0])


def test_a_default_home_without_a_hub_says_it_is_the_starter(tmp_path: Path) -> None:
    """BASE_MODEL unset and no hub: the starter model, and the page says so plainly."""
    app = start_app(
        tmp_path / "home",
        env={"BASE_MODEL": "", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path)},
    )
    try:
        assert "starter" in str(app.health()["base_model"])
        assert "starter model" in app.said
        assert "starter model" in httpx.get(app.url).text
    finally:
        app.stop()
