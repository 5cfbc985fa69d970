"""The whole loop without a browser: scripted votes through the routes become a better model.

Votes, Argilla, journal, training and weights are real; the voter follows written rules.
"""

import json
import re
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from hub_double import WRITER, HubDouble
from running_app import RunningApp, run_command, submitted_votes

from alignment.commands.demo import judge
from alignment.scripted_voter import Evaluation, evaluate
from annotation.export.export import load_examples
from annotation.home import Home
from annotation.schema import Split
from tests.processes import command_of

pytestmark = [pytest.mark.slow, pytest.mark.argilla]
VOTES = 200
TOLERANCE = 0.05
DRAWS = 3
"""Answers to each eval prompt: one alone would leave ±.04 of chance around the bounds below."""


def train_and_judge(app: RunningApp, method: str) -> tuple[str, Evaluation]:
    done = run_command(app.home, "train", "--method", method, "--wait")
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.split()[0]
    final = json.loads(done.stdout.split("\n", 1)[1])
    assert final["seconds"] > 0
    return run_id, judge(Home(app.home), run_id, draws=DRAWS)


@pytest.fixture(scope="module")
def dpo(voted_app: RunningApp) -> tuple[str, Evaluation]:
    return train_and_judge(voted_app, "dpo")


def test_every_vote_of_the_routes_is_in_argilla(voted_app: RunningApp) -> None:
    status = json.loads(run_command(voted_app.home, "status", "--json").stdout)
    # Other tests of the shared app may have cast some more.
    assert status["votes"] >= VOTES
    assert status["undelivered"] == 0
    submitted = submitted_votes(voted_app.home)
    assert len(submitted) == status["votes"]
    assert set(submitted) <= {"a", "b", "tie", "both_bad"}


def test_dpo_on_200_votes_wins_on_prompts_nobody_voted_on(dpo: tuple[str, Evaluation]) -> None:
    _, verdict = dpo
    print(f"DPO {verdict}")
    assert verdict.n >= 200 * DRAWS
    assert verdict.win_rate >= 0.72
    assert verdict.aligned.correct >= verdict.base.correct - TOLERANCE
    assert verdict.aligned.well_formed >= verdict.base.well_formed - TOLERANCE


def test_orpo_on_200_votes_wins_on_prompts_nobody_voted_on(voted_app: RunningApp) -> None:
    _, verdict = train_and_judge(voted_app, "orpo")
    print(f"ORPO {verdict}")
    assert verdict.n >= 200 * DRAWS
    assert verdict.win_rate >= 0.65
    assert verdict.aligned.correct >= verdict.base.correct - TOLERANCE
    assert verdict.aligned.well_formed >= verdict.base.well_formed - TOLERANCE


def test_no_eval_prompt_was_shown_or_exported(
    voted_app: RunningApp, dpo: tuple[str, Evaluation]
) -> None:
    examples = load_examples(voted_app.home / "runs" / dpo[0] / "dataset")
    assert len(examples) >= 20
    assert all(example.prompt.split is Split.TRAIN for example in examples)


def test_base_against_itself_is_even(voted_app: RunningApp, tmp_path: Path) -> None:
    """The judge is fair: two draws of the base win about half against each other."""
    from alignment.scripted_voter import ScriptedVoter
    from alignment.starter.starter import starter_prompts

    prompts = [p.messages[-1].content for p in starter_prompts() if p.split is Split.EVAL]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(prompts))
    draws = []
    for seed in ("11", "500"):
        out = tmp_path / f"{seed}.jsonl"
        done = run_command(
            voted_app.home,
            *("sample", "--model", "base", "--prompts", str(file), "--out", str(out)),
            *("--seed", seed),
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["prompt"] for row in rows] == prompts
        draws.append([row["completion"] for row in rows])
    verdict = evaluate(prompts, draws[0], draws[1], ScriptedVoter(seed=3))
    assert abs(verdict.win_rate - 0.5) < 2 * verdict.margin


def test_the_app_answers_with_the_aligned_model_beside_the_base(
    voted_app: RunningApp, dpo: tuple[str, Evaluation]
) -> None:
    """The compare tab's own endpoint, streamed, in the app that was voted in."""
    from gradio_client import Client

    client = Client(voted_app.url, verbose=False)
    assert {"base", dpo[0]} <= set(client.predict(api_name="/compare_models"))
    # Hot, so that it is long: the starter's usual answer is whole before anybody has looked twice.
    job = client.submit("What is the opposite of hot?", "base", dpo[0], 5.0, 7, api_name="/compare")
    base, aligned = job.result(timeout=120)[:2]
    assert base.strip()
    assert aligned.strip()
    assert len(job.outputs()) > 1, "the answers are streamed"


def test_published_and_pulled_by_revision_it_answers_the_same(
    voted_app: RunningApp, dpo: tuple[str, Evaluation], hub_double: HubDouble, tmp_path: Path
) -> None:
    hub = hub_double.environment(tmp_path / "cache")
    owner = {"HF_TOKEN": WRITER, "HUB_NAMESPACE": "ada"} | hub
    done = run_command(voted_app.home, "publish", dpo[0], "--repo", "polite", **owner)
    assert done.returncode == 0, done.stderr
    published = done.stdout.splitlines()[0]
    assert re.fullmatch(r"ada/polite@[0-9a-f]{40}", published)
    assert WRITER not in done.stdout + done.stderr
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is the opposite of hot?\nHello\nWhat sound does a cow make?\n")
    answers = []
    for name, env in ((dpo[0], {}), (published, hub)):
        out = tmp_path / "out.jsonl"
        files = ("--prompts", str(prompts), "--out", str(out), "--seed", "4")
        done = run_command(voted_app.home, "sample", "--model", name, *files, **env)
        assert done.returncode == 0, done.stderr
        answers.append(out.read_text())
    assert answers[0] == answers[1]
    assert answers[0].count("\n") == 3


def test_secrets_stay_out_of_logs(voted_app: RunningApp) -> None:
    key = json.loads((voted_app.home / "argilla" / "credentials.json").read_text())["api_key"]
    token = (voted_app.home / "admin_token").read_text().strip()
    logs = [*voted_app.home.rglob("*.log"), *voted_app.home.rglob("log.txt")]
    assert logs
    for log in logs:
        text = log.read_text(errors="replace")
        assert key not in text, log
        assert token not in text, log
    arguments = str([command_of(process) for process in psutil.process_iter()])
    assert sys.executable in arguments
    assert key not in arguments
    assert token not in arguments
    assert key not in httpx.get(voted_app.url).text
