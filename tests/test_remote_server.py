"""The whole app on answers of a chat server: a real one, and one that misbehaves on order."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from chat_double import by_seed, chat_double
from running_app import RunningApp, free_port, run_command, start_app

from alignment.chat import GenerationError
from alignment.sampling.remote import RemoteGenerator, RemoteSettings
from alignment.starter.starter import STARTER_DIR, starter_prompts
from annotation.schema import ModelRef, Sampling, Split
from tests.processes import command_of, environment_of

pytestmark = [pytest.mark.slow]
KEY = "sk-do-not-tell-anybody"
BASE = ModelRef("starter", "1" * 40)
SAMPLING = Sampling(max_new_tokens=48, seed=3)
PROMPTS = [p for p in starter_prompts() if p.split is Split.TRAIN][:12]
NO_ARGILLA = {"ARGILLA_API_URL": "http://127.0.0.1:9", "ARGILLA_API_KEY": "owner.apikey"}


@contextmanager
def served(model: Path, log: Path) -> Iterator[str]:
    """`transformers serve` with `model` on loopback; its address."""
    port = free_port()
    program = Path(sys.executable).with_name("transformers")
    words = ["serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    alone = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(program), *words], env=os.environ | alone, stdout=out, stderr=out
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _is_up(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(STARTER_DIR, tmp_path_factory.mktemp("served") / "log") as url:
        yield url


def generator_of(url: str, model: Path) -> RemoteGenerator:
    return RemoteGenerator(BASE, RemoteSettings(url, str(model), {}, None, 4, None))


def test_a_real_server_answers_twice_and_differently(real_server: str) -> None:
    generator = generator_of(real_server, STARTER_DIR)
    try:
        drawn = generator.sample(PROMPTS, model=BASE, sampling=SAMPLING, per_prompt=2)
        streamed = list(generator.stream(PROMPTS[0], [BASE, BASE], SAMPLING))
        with closing(generator.stream(PROMPTS[1], [BASE, BASE], SAMPLING)) as left:
            next(left)
        again = generator.sample(PROMPTS[:1], model=BASE, sampling=SAMPLING, per_prompt=1)
        with pytest.raises(GenerationError, match="lists no model dpo-1"):
            run = ModelRef("starter", "1" * 40, "dpo-1", "2" * 40)
            generator.sample(PROMPTS[:1], model=run, sampling=SAMPLING, per_prompt=1)
    finally:
        generator.stop()
    texts = [[c.text for c in some] for some in drawn]
    assert all(len(some) == 2 and all(some) for some in texts)
    assert sum(first != second for first, second in texts) > len(PROMPTS) / 2
    assert all(c.finish == "stop" for some in drawn for c in some)
    grown = [" ".join(texts) for texts in streamed]
    assert len(grown) > 2
    assert [len(text) for text in grown] == sorted(len(text) for text in grown)
    assert again[0][0].text


def test_a_real_server_that_does_not_sample_is_named(tmp_path: Path) -> None:
    greedy = tmp_path / "greedy"
    shutil.copytree(STARTER_DIR, greedy)
    held = json.loads((greedy / "generation_config.json").read_text())
    (greedy / "generation_config.json").write_text(json.dumps(held | {"do_sample": False}))
    with served(greedy, tmp_path / "log") as url:
        generator = generator_of(url, greedy)
        try:
            with pytest.raises(GenerationError, match="seems to ignore temperature"):
                generator.sample(PROMPTS, model=BASE, sampling=SAMPLING, per_prompt=2)
        finally:
            generator.stop()


def remote_app(home: Path, url: str, model: str, *, wait: bool = True) -> RunningApp:
    env = {
        "GENERATION_URL": url,
        "GENERATION_MODEL": model,
        "GENERATION_API_KEY": KEY,
        "OMP_NUM_THREADS": "1",
    }
    return start_app(home, env=NO_ARGILLA | env, wait=wait)


def test_the_app_draws_from_a_real_server_and_keeps_its_key(
    real_server: str, tmp_path: Path
) -> None:
    app = remote_app(tmp_path / "home", real_server, str(STARTER_DIR))
    try:
        with httpx.Client(base_url=app.url, timeout=60) as voter:
            pair = voter.post("/api/pairs").json()
            assert pair["a"] != pair["b"]
            vote = voter.post("/api/votes", json={"pair": pair["id"], "choice": "a"}).json()
            assert vote["saved"] is True
            # One of those to which the starter hardly ever says the same twice.
            asked = voter.post("/api/prompts", json={"text": "How do birds fly?"})
        last = json.loads(asked.text.strip().splitlines()[-1])
        assert last.get("pair"), last
        children = psutil.Process(app.process.pid).children(recursive=True)
        # No weights are loaded here, and nobody but the app has the key.
        assert not [c for c in children if "alignment.sampling.worker" in command_of(c)]
        assert not [c for c in children if KEY in str((command_of(c), environment_of(c)))]
        assert KEY not in str(psutil.Process(app.process.pid).cmdline())
    finally:
        app.stop()
    said = [app.said, *(p.read_text(errors="ignore") for p in app.home.rglob("*.log"))]
    assert not [text for text in said if KEY in text]


def test_a_server_that_ignores_temperature_is_reported_and_no_pair_is_shown(tmp_path: Path) -> None:
    with chat_double() as double:
        double.say = lambda body: "Always this."
        app = remote_app(tmp_path / "home", double.url, "served", wait=False)
        try:
            app.wait_for("word", lambda h: "ignore temperature" in str(h["sampling"]))
            assert app.health()["pairs_ready"] == 0
            status = run_command(app.home, "status", **NO_ARGILLA).stdout
            assert "ignore temperature" in status
            with app.admin_client() as admin:
                told = admin.post("/admin/gradio_api/run/votes", json={"data": []}).text
            assert "New pairs wait" in told
            double.say = by_seed
            app.wait_for("pairs", lambda h: h["pairs_ready"] > 0 and h["sampling"] is None)
            assert "sampling" not in run_command(app.home, "status", **NO_ARGILLA).stdout
            assert KEY not in told + status + json.dumps(app.health()) + app.said
        finally:
            app.stop()


def test_sample_writes_answers_of_the_server(tmp_path: Path) -> None:
    prompts, out = tmp_path / "p.txt", tmp_path / "out.jsonl"
    prompts.write_text("One?\nTwo?\n")
    with chat_double() as double:
        words = ("sample", "--model", "base", "--prompts", str(prompts), "--out", str(out))
        env = {"GENERATION_URL": double.url, "GENERATION_MODEL": "served"}
        done = run_command(tmp_path / "home", *words, **env)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["One?", "Two?"]
    assert all(row["completion"].startswith("served says ") for row in rows)
