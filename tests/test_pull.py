"""A pull from the Hub is sized up first, watched, cancelled; and one that fails changes nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hub_double import READER, HubDouble, point_client
from huggingface_hub import constants
from safetensors.numpy import save_file
from small_files import write_adapter, write_model, write_run

from alignment.base import ResolvedBase
from alignment.hub.meter import Cancelled, Meter
from alignment.hub.pull import say_bytes
from alignment.pulls import Pulls, PullsError, PullState
from alignment.registry import Registry
from alignment.starter.starter import starter_revision
from annotation.faults import Fault
from annotation.schema import ModelRef

ROOT = Path(__file__).parent.parent
BASE = ModelRef("ada/chat", "b" * 40)
OTHER = ModelRef("ada/chat", "e" * 40)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path, hub_double: HubDouble) -> Registry:
    """A home with a run, which is the policy."""
    write_run(home, "dpo-1", BASE)
    base = ResolvedBase(BASE, write_model(home / "base"), is_starter=False, notice=None)
    made = Registry(home, base)
    made.promotions.promote(made.get("dpo-1").ref, "override")
    return made


@pytest.fixture
def pulls(registry: Registry) -> Pulls:
    return Pulls(registry)


def big_adapter(folder: Path, base: ModelRef = BASE, kilobytes: int = 64) -> Path:
    write_adapter(folder, base)
    weights = {"base_model.model.q_proj.lora_A.weight": np.zeros((kilobytes, 256), np.float32)}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def left_in(home: Path) -> list[str]:
    return (
        sorted(p.name for p in (home / "models").rglob("*")) if (home / "models").exists() else []
    )


def test_the_size_is_told_before_anything_is_fetched(
    hub_double: HubDouble, pulls: Pulls, registry: Registry, tmp_path: Path
):
    folder = big_adapter(tmp_path / "a")
    commit = hub_double.add_repo("eve/tuned", folder)
    size = pulls.size_up("eve/tuned")
    assert size.bytes == sum(f.stat().st_size for f in folder.iterdir())
    assert (size.files, size.tuning, size.is_here) == (2, "lora", False)
    assert size.line == f"eve/tuned@{commit[:12]}: an adapter, 65.8 kB in 2 files."
    assert hub_double.lines("resolve|GET /get/") == []
    registry.pull("eve/tuned", None)
    assert pulls.size_up("eve/tuned").line.endswith(
        "is here already: an adapter, nothing to fetch."
    )


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (65_943, "65.9 kB"),
        (999_499, "999 kB"),
        (999_600, "1.00 MB"),
        (16_400_000_000, "16.4 GB"),
    ],
)
def test_bytes_are_said_with_three_digits(count: int, said: str):
    assert say_bytes(count) == said


def test_progress_is_told_until_it_is_here(
    hub_double: HubDouble,
    pulls: Pulls,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    commit = hub_double.add_repo("eve/tuned", big_adapter(tmp_path / "a"))
    assert pulls.status() is None
    held = hub_double.hold("GET /get/")
    begun = pulls.start("eve/tuned")
    assert (begun.state, begun.total_bytes) == (PullState.PULLING, 65_844)

    def half() -> bool:
        status = pulls.status()
        return status is not None and 0.4 < status.done_bytes / status.total_bytes < 0.6

    until(half)
    with pytest.raises(PullsError, match=f"eve/tuned@{commit[:12]} is being pulled: wait for it"):
        pulls.start("eve/tuned")
    assert "kB of 65.8 kB (" in pulls.status().line
    assert [m.name for m in registry.models()] == ["base", "dpo-1"]
    held.set()
    done = pulls.wait(30)
    assert (done.state, done.done_bytes) == (PullState.DONE, done.total_bytes)
    assert done.line == f"eve/tuned@{commit[:12]} is here: choose it in the Compare tab."
    assert [m.name for m in registry.models()][-1] == f"eve/tuned@{commit[:12]}"
    assert registry.policy().name == "dpo-1"
    with pytest.raises(PullsError, match="nothing to cancel"):
        pulls.cancel()


def test_a_cancelled_pull_keeps_nothing(
    hub_double: HubDouble,
    pulls: Pulls,
    registry: Registry,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    hub_double.add_repo("eve/tuned", big_adapter(tmp_path / "a"))
    before, policy = registry.models(), registry.policy()
    held = hub_double.hold("GET /get/")
    pulls.start("eve/tuned")
    until(lambda: (pulls.status() or pulls.start("")).done_bytes > 10_000)
    assert pulls.cancel().line.endswith("being cancelled.")
    held.set()
    done = pulls.wait(30)
    assert done.state is PullState.CANCELLED
    assert done.line.endswith("cancelled, and nothing of it is kept.")
    assert left_in(home) == []
    assert (registry.models(), registry.policy()) == (before, policy)
    pulls.start("eve/tuned")
    assert pulls.wait(30).state is PullState.DONE, "it can be pulled again"


def test_a_meter_that_was_cancelled_fetches_nothing(
    hub_double: HubDouble, registry: Registry, home: Path, tmp_path: Path
):
    hub_double.add_repo("eve/tuned", big_adapter(tmp_path / "a"))
    meter = Meter()
    meter.cancel()
    with pytest.raises(Cancelled):
        registry.pull("eve/tuned", None, meter=meter)
    assert hub_double.lines("resolve|GET /get/") == []
    assert left_in(home) == []


def test_what_a_killed_pull_left_is_swept_up(
    hub_double: HubDouble, registry: Registry, home: Path, tmp_path: Path
):
    hub_double.add_repo("eve/tuned", big_adapter(tmp_path / "a"))
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    mine = home / "models" / f".incoming-{os.getpid()}-0"
    theirs = home / "models" / f".incoming-{gone.stdout.strip()}-0"
    for folder in (mine, theirs):
        folder.mkdir(parents=True)
    registry.pull("eve/tuned", None)
    assert (mine.exists(), theirs.exists()) == (True, False)


def test_a_pull_that_can_t_be_had_is_one_line_and_what_is_live_stays_live(
    hub_double: HubDouble,
    pulls: Pulls,
    registry: Registry,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    mine, theirs = big_adapter(tmp_path / "a"), big_adapter(tmp_path / "b", OTHER)
    hub_double.add_repo("eve/tuned", mine)
    hub_double.add_repo("eve/other", theirs)
    hub_double.add_repo("eve/closed", mine, gated=True)
    hub_double.add_repo("ada/secret", mine, private=True)
    hub_double.add_repo("eve/plain", {"README.md": b"hello"})
    code = write_model(tmp_path / "code", auto_map={"AutoModel": "evil.py"})
    (code / "votetune.json").write_text('{"base": "ada/chat", "base_revision": "%s"}' % ("b" * 40))
    hub_double.add_repo("eve/code", code)
    before, policy = registry.models(), registry.policy()

    def line_of(name: str) -> str:
        """What a pull says in the end, whether before it begins or after."""
        try:
            pulls.start(name)
        except Fault as fault:
            return str(fault)
        ended = pulls.wait(30)
        assert ended.state is PullState.FAILED
        return ended.line

    def check(name: str, says: str) -> None:
        line = line_of(name)
        assert says in line
        assert "\n" not in line
        assert left_in(home) == []
        assert (registry.models(), registry.policy()) == (before, policy)

    check("eve/other", "it belongs to ada/chat@eeeeeeeeeeee and this home's base is ada/chat@bbbb")
    check("eve/tuned@v9", "there is no such revision: name a commit, tag or branch that exists")
    check("eve/closed", "access is gated: accept its terms on the Hub and set an HF_TOKEN")
    check("ada/secret", "no such repository, or this HF_TOKEN may not see it: check the name")
    check("eve/plain", "there is no adapter in it")
    check("eve/code", "it needs code of its own (auto_map), which Votetune never runs")
    check("nonsense", "use owner/name")
    point_client(monkeypatch, "http://127.0.0.1:9", tmp_path / "other-cache")
    check("eve/tuned", "the connection to the Hub failed: try again online")


@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
@pytest.mark.parametrize("step", ["GET /api/models/eve/tuned", "/resolve/", "GET /get/"])
def test_a_passing_fault_at_any_step_is_tried_again(
    hub_double: HubDouble,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    status: int,
):
    monkeypatch.setattr("time.sleep", lambda _s: None)
    hub_double.add_repo("eve/tuned", big_adapter(tmp_path / "a"))
    hub_double.fail(step, status)
    assert registry.pull("eve/tuned", None).ref.adapter == "eve/tuned"
    assert [f.times for f in hub_double.faults] == [0], "the fault was met"


def test_ids_mean_the_same_in_any_case(hub_double: HubDouble, registry: Registry, tmp_path: Path):
    hub_double.add_repo("Eve/Tuned", big_adapter(tmp_path / "a"))
    found = registry.pull("eve/tuned", None)
    assert found.ref.adapter == "Eve/Tuned", "as the Hub spells it"
    assert registry.pull("EVE/TUNED", None) == found


def test_a_token_never_reaches_the_storage_host_or_a_line(
    hub_double: HubDouble, home: Path, tmp_path: Path
):
    hub_double.add_repo("ada/secret", big_adapter(tmp_path / "a"), private=True)
    base = ResolvedBase(BASE, write_model(home / "base"), is_starter=False, notice=None)
    pulls = Pulls(Registry(home, base, token=READER))
    pulls.start("ada/secret")
    done = pulls.wait(30)
    assert done.state is PullState.DONE
    stored = [r for r in hub_double.requests if r.host == "localhost"]
    assert stored
    assert all(r.authorization is None for r in stored)
    assert READER not in done.line
    kept = "".join(p.read_text("latin-1") for p in home.rglob("*") if p.is_file())
    assert READER not in kept


def command(hub: HubDouble, home: Path, cache: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = hub.environment(cache) | {"VOTETUNE_HOME": str(home), "BASE_MODEL": "starter"}
    return subprocess.Popen(
        [sys.executable, "app.py", "pull", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_tells_the_size_and_then_the_name(hub_double: HubDouble, tmp_path: Path):
    starter = ModelRef("starter", starter_revision())
    commit = hub_double.add_repo("eve/tuned", big_adapter(tmp_path / "a", starter))
    child = command(hub_double, tmp_path / "home", tmp_path / "cache", "eve/tuned")
    out, told = child.communicate(timeout=120)
    assert child.returncode == 0, told
    assert out == f"eve/tuned@{commit[:12]}\n"
    assert told.startswith(f"eve/tuned@{commit[:12]}: an adapter, 6")
    child = command(hub_double, tmp_path / "home", tmp_path / "cache", "eve/tuned@nowhere")
    out, told = child.communicate(timeout=120)
    assert (child.returncode, out, told.count("\n")) == (1, "", 1)
    assert "there is no such revision" in told


def partial(home: Path) -> list[Path]:
    return list((home / "models").glob(".incoming-*/.cache/**/*.incomplete"))


def test_an_interrupt_keeps_nothing(hub_double: HubDouble, tmp_path: Path):
    home = tmp_path / "home"
    # Above the 10 MB that huggingface_hub reads at a time, so that the first ones arrive.
    adapter = big_adapter(tmp_path / "a", ModelRef("starter", starter_revision()), 40_000)
    hub_double.add_repo("eve/tuned", adapter)
    held = hub_double.hold("GET /get/")
    child = command(hub_double, home, tmp_path / "cache", "eve/tuned")
    until(lambda: child.poll() is not None or any(p.stat().st_size > 1e7 for p in partial(home)))
    child.send_signal(signal.SIGINT)
    # The other half hangs in the network, and a cancel is heard with the next bytes.
    held.set()
    _, told = child.communicate(timeout=60)
    assert child.returncode == 130, told
    assert "Traceback" not in told
    assert left_in(home) == []
