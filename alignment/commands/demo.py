"""The whole loop on show, twice round: a real app on a home of its own, with scripted voters.

Every vote is labelled synthetic, in the journal, in Argilla and on the card. Goes through the
same routes and commands as people do; owns only the walk and its report.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from alignment.base import resolve_base
from alignment.commands.progress import progress_bars, watch_run
from alignment.contest.contest import LOOK_EVERY_S
from alignment.contest.promotions import Promotion, Promotions
from alignment.generation import LocalGenerator
from alignment.pipeline import default_sampling
from alignment.registry import Registry
from alignment.runs.recipes import Method
from alignment.runs.runs import Runs
from alignment.scripted_voter import Evaluation, Quality, ScriptedVoter, evaluate
from alignment.settings import STARTER, AlignmentSettings
from alignment.starter.starter import starter_prompts
from annotation.faults import Fault
from annotation.home import Home
from annotation.schema import Split, utc_now
from annotation.settings import AnnotationSettings

VOTERS = 8
GATE_VOTES = 160
"""Cast at most until the first model is promoted; half of them are on other pairs."""
GATE_CHUNK = 16
NOISE = 0.05
EVAL_SEED = 1
START_TIMEOUT_S = 120
DELIVERY_TIMEOUT_S = 300
PAIR_TIMEOUT_S = 120
_APP = Path(__file__).parent.parent.parent / "app.py"
# The demo is its own world: nothing of the person's Argilla, Hub or settings is touched.
_OWN_SETTINGS = (
    *("ARGILLA_", "HF_TOKEN", "HUB_", "PROMPTS", "BASE_", "VOTES_", "ADMIN_", "MIN_"),
    *("ANONYMOUS_", "REPEAT_", "GOLD_", "COMPARE_", "OWN_", "DATA_", "COOKIE_", "OAUTH_"),
)


class DemoError(Fault):
    """The demonstration stopped; the message is the one line that a person reads."""


def run_demo(settings: AnnotationSettings, *, votes: int, method: Method) -> None:
    """Start an app, vote, train, let the gate promote, vote and train again, and say what came."""
    console = Console(stderr=True)
    home = Home(settings.votetune_home / "demo" / f"{utc_now():%Y%m%d-%H%M%S}")
    home.prepare()
    began = time.monotonic()
    said = f"Demonstration in {home.root}. Its voters are scripts, its votes synthetic."
    console.print(said, soft_wrap=True)
    with _app(home) as url, crowd(url) as voters:
        voters.cast(votes)
        runs = [_train(home, url, method)]
        promotion = _await_promotion(home, voters)
        if promotion is not None:
            voters.cast(votes)
            runs.append(_train(home, url, method))
    _report(Console(), compare(home, ("base", *runs)), promotion, time.monotonic() - began)
    look = f"Look around: VOTETUNE_HOME={home.root} BASE_MODEL={STARTER} python app.py"
    console.print(look, soft_wrap=True)


def cast_votes(url: str, votes: int, *, noise: float = NOISE) -> None:
    """Let VOTERS scripted voters vote through the routes, in turn, `votes` times in all."""
    with crowd(url, noise=noise) as voters:
        voters.cast(votes)


class Crowd:
    """VOTERS scripted voters, each with a cookie of its own, who vote in turn."""

    def __init__(self, url: str, clients: Sequence[httpx.Client], noise: float) -> None:
        self._url, self._clients = url, clients
        self._voters = [ScriptedVoter(seed=seed, noise=noise) for seed in range(len(clients))]
        self._cast = 0

    def cast(self, votes: int, what: str = "scripted votes") -> None:
        """`votes` more votes in all, through the routes, on whatever pair each is given."""
        with progress_bars() as bars:
            bar = bars.add_task(what, total=votes)
            for _ in range(votes):
                turn = self._cast % len(self._clients)
                client, voter = self._clients[turn], self._voters[turn]
                _await_pairs(self._url)
                pair = _next_pair(client)
                choice = voter.choose(pair["prompt"][-1]["content"], pair["a"], pair["b"])
                answer = client.post("/api/votes", json={"pair": pair["id"], "choice": choice})
                _expect(answer, 201)
                self._cast += 1
                bars.advance(bar)


@contextmanager
def crowd(url: str, *, noise: float = NOISE) -> Iterator[Crowd]:
    """A crowd at the app of that address; `noise` is the chance that one presses the wrong side."""
    clients = [httpx.Client(base_url=url, timeout=60) for _ in range(VOTERS)]
    try:
        yield Crowd(url, clients, noise)
    finally:
        for client in clients:
            client.close()


def _train(home: Home, url: str, method: Method) -> str:
    """Once Argilla has every vote, train on them all; the run's id."""
    _await_delivery(url)
    _command(home, "train", "--method", method)
    runs = Runs(home.root)
    run = runs.list()[-1]
    watch_run(runs, run.id)
    return run.id


def _await_promotion(home: Home, voters: Crowd) -> Promotion | None:
    """Vote on until the gate promotes the model; None where GATE_VOTES did not persuade it."""
    promotions = Promotions(home.root)
    for _ in range(0, GATE_VOTES, GATE_CHUNK):
        voters.cast(GATE_CHUNK, "votes for the gate")
        # The gate looks now and then, and comparisons are drawn meanwhile: scripts are too fast.
        deadline = time.monotonic() + 1.5 * LOOK_EVERY_S
        while not promotions.history() and time.monotonic() < deadline:
            time.sleep(0.2)
        if history := promotions.history():
            return history[-1]
    return None


@dataclass(frozen=True, slots=True)
class Answers:
    """What some models say to every eval prompt, `asked` and in the same order for each."""

    asked: list[str]
    by_model: Mapping[str, list[str]]

    def judge(self, model: str, over: str) -> Evaluation:
        """`model` against another, judged without noise by the scripted voter."""
        voter = ScriptedVoter(seed=EVAL_SEED)
        return evaluate(self.asked, self.by_model[over], self.by_model[model], voter)


def judge(home: Home, run_id: str, *, draws: int = 1) -> Evaluation:
    """Base and aligned model on every eval prompt, each answered `draws` times at temperature 1."""
    return compare(home, ("base", run_id), draws=draws).judge(run_id, "base")


def compare(home: Home, names: Sequence[str], *, draws: int = 1) -> Answers:
    """Let each of these models answer every eval prompt, `draws` times at temperature 1."""
    base = resolve_base(AlignmentSettings(base_model=STARTER), home.root, has_votes=True)
    registry = Registry(home.root, base)
    generator = LocalGenerator(base, weights_path=registry.weights_path)
    prompts = [p for p in starter_prompts() if p.split is Split.EVAL]
    answers = {}
    with progress_bars() as bars:
        bar = bars.add_task("comparing", total=len(names) * len(prompts))
        for number, name in enumerate(names):
            sampling = default_sampling(base, seed=EVAL_SEED + number)
            drawn = generator.sample(
                prompts, model=registry.get(name).ref, sampling=sampling, per_prompt=draws
            )
            answers[name] = [completion.text for some in drawn for completion in some]
            bars.advance(bar, len(prompts))
    return Answers([p.messages[-1].content for p in prompts for _ in range(draws)], answers)


@contextmanager
def _app(home: Home) -> Iterator[str]:
    """The app as a child process on a free port; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (home.root / "app.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, str(_APP), "--synthetic"],
            env=_environment(home) | {"GRADIO_SERVER_PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _until(
            lambda: child.poll() is not None or _health(url).get("pairs_ready", 0) > 0,
            START_TIMEOUT_S,
            "starting the app",
        )
        if child.returncode is not None:
            raise DemoError(f"The app did not start: see {home.root / 'app.log'}.")
        yield url
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()


def _environment(home: Home) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(_OWN_SETTINGS)}
    return own | {
        "VOTETUNE_HOME": str(home.root),
        "BASE_MODEL": STARTER,
        "GRADIO_SERVER_NAME": "127.0.0.1",
    }


def _command(home: Home, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, str(_APP), *words],
        env=_environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DemoError(done.stderr.strip())


def _await_pairs(url: str) -> None:
    # Scripts vote faster than a model writes; without this they would be given each other's pairs,
    # and 200 votes would lie on 50 of them.
    deadline = time.monotonic() + PAIR_TIMEOUT_S
    while not _health(url).get("pairs_ready") and time.monotonic() < deadline:
        time.sleep(0.05)


def _next_pair(client: httpx.Client) -> dict[str, Any]:
    """The next pair for this voter, waiting while the pool is dry."""
    for _ in range(120):
        answer = client.post("/api/pairs")
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            _expect(answer, 201)
            return dict(answer.json())
        time.sleep(float(answer.headers.get("Retry-After", "1")))
    raise DemoError("No pair came for two minutes: see sampler.log in the demo's home.")


def _await_delivery(url: str) -> None:
    _until(
        lambda: (health := _health(url)).get("argilla") == "ready" and not health["undelivered"],
        DELIVERY_TIMEOUT_S,
        "waiting until Argilla has every vote",
    )


def _until(is_done: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    with Console(stderr=True).status(what):
        while not is_done():
            if time.monotonic() > deadline:
                raise DemoError(f"Gave up {what} after {timeout_s:.0f} s: see app.log.")
            time.sleep(0.3)


def _health(url: str) -> dict[str, Any]:
    try:
        return dict(httpx.get(f"{url}/api/health", timeout=5).json())
    except (httpx.HTTPError, ValueError):
        return {}


def _expect(answer: httpx.Response, status: int) -> None:
    if answer.status_code != status:
        raise DemoError(f"{answer.request.url.path} answered {answer.status_code}: {answer.text}")


def _report(
    console: Console, answers: Answers, promotion: Promotion | None, seconds: float
) -> None:
    base, *runs = answers.by_model
    table = Table(title=f"Scripted voter on {len(answers.asked)} eval prompts (synthetic)")
    for column in ("model", "win rate", "correct", "well formed", "polite"):
        table.add_column(column)
    verdicts = [answers.judge(run, base) for run in runs]
    table.add_row(base, "", *_shares(verdicts[0].base))
    for run, verdict in zip(runs, verdicts, strict=True):
        table.add_row(run, _rate(verdict), *_shares(verdict.aligned))
    console.print(table)
    console.print("Over the base; ties count half; in brackets the 95 % interval.")
    second = answers.judge(runs[1], runs[0]) if len(runs) > 1 else None
    console.print(say_rounds(promotion, second), soft_wrap=True)
    console.print(f"The whole loop took {seconds:.0f} s.")


def say_rounds(promotion: Promotion | None, second: Evaluation | None) -> str:
    """What the gate said, and whether the second round gained, as far as its interval tells."""
    if promotion is None or second is None:
        return f"{GATE_VOTES} more votes did not persuade the gate, so no second round was begun."
    told = f"The gate promoted the first model {promotion.wins} to {promotion.losses}. "
    told += f"The second round's model against it: {_rate(second)}: "
    if second.win_rate - second.margin > 0.5:
        return told + "the second round gained."
    if second.win_rate + second.margin < 0.5:
        return told + "the second round lost."
    return told + "no gain that so many prompts could show; the interval holds one half."


def _rate(verdict: Evaluation) -> str:
    low, high = verdict.win_rate - verdict.margin, verdict.win_rate + verdict.margin
    return f"{verdict.win_rate:.2f} ({low:.2f}–{high:.2f})"


def _shares(quality: Quality) -> tuple[str, str, str]:
    return f"{quality.correct:.2f}", f"{quality.well_formed:.2f}", f"{quality.polite:.2f}"
