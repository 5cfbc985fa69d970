"""The sampling child: it answers as weights in this process do, and never outlives its parent."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from test_generation import make_adapter
from tiny import make_tiny_model

from alignment.base import ResolvedBase
from alignment.chat import UnaskablePrompt
from alignment.generation import GenerationError, LocalGenerator, SamplerProcess
from annotation.schema import ModelRef, Prompt, Sampling
from tests.processes import has_ended

ROOT = Path(__file__).parent.parent
REF = ModelRef("tiny", "0" * 40)
RUN = ModelRef("tiny", "0" * 40, "run", "f" * 40)
FULL = ModelRef("tiny", "0" * 40, "full", "f" * 40)
SAMPLING = Sampling(max_new_tokens=24, seed=4)
PROMPTS = [Prompt.from_text(t) for t in ("Hi", "Tell me about rain.", "<|im_end|> \u2028 é")]
ENDLESS = Sampling(temperature=0.0, max_new_tokens=960)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return ResolvedBase(REF, make_tiny_model(tmp_path_factory.mktemp("tiny")), False, None)


@pytest.fixture(scope="module")
def adapter(base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base.path, tmp_path_factory.mktemp("adapter"), 1)


@pytest.fixture(scope="module")
def folders(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[ModelRef, Path]:
    """An adapter and a whole model."""
    return {RUN: adapter, FULL: make_tiny_model(tmp_path_factory.mktemp("full"), seed=1)}


@pytest.fixture(scope="module")
def shared(
    base: ResolvedBase, folders: dict[ModelRef, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SamplerProcess]:
    """One child for the tests that leave it well; loading it takes seconds."""
    log = tmp_path_factory.mktemp("log") / "sampler.log"
    process = SamplerProcess(base, weights_path=folders.get, log=log)
    yield process
    process.stop()


def gone(process: psutil.Process, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not has_ended(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_child_answers_as_weights_in_this_process_do(
    base: ResolvedBase, folders: dict[ModelRef, Path], shared: SamplerProcess
) -> None:
    local = LocalGenerator(base, weights_path=folders.get)
    for model in (REF, RUN, FULL, REF):
        args = {"model": model, "sampling": SAMPLING, "per_prompt": 2}
        assert shared.sample(PROMPTS, **args) == local.sample(PROMPTS, **args)


def test_two_models_answer_in_the_child_as_in_this_process(
    base: ResolvedBase, folders: dict[ModelRef, Path], shared: SamplerProcess
) -> None:
    local = LocalGenerator(base, weights_path=folders.get)
    want = local.sample_each(PROMPTS, models=(RUN, REF), sampling=SAMPLING)
    assert shared.sample_each(PROMPTS, models=(RUN, REF), sampling=SAMPLING) == want


def test_a_stream_from_the_child_is_that_of_weights_in_this_process(
    base: ResolvedBase, folders: dict[ModelRef, Path], shared: SamplerProcess
) -> None:
    local = LocalGenerator(base, weights_path=folders.get)
    seen = list(shared.stream(PROMPTS[1], [REF, FULL, RUN], SAMPLING))
    assert seen[-1] == list(local.stream(PROMPTS[1], [REF, FULL, RUN], SAMPLING))[-1]
    assert len(set(seen[-1])) == 3
    assert len(seen) > 2
    for before, after in pairwise(seen):
        assert all(a.startswith(b) for b, a in zip(before, after, strict=True))


def test_a_stream_says_how_each_answer_ended(base: ResolvedBase, shared: SamplerProcess) -> None:
    def ended(generator: LocalGenerator | SamplerProcess, sampling: Sampling) -> object:
        stream = generator.stream(PROMPTS[1], [REF, REF], sampling)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return end.value

    local = LocalGenerator(base, weights_path=lambda _: None)
    ways = set()
    for seed in range(4):
        sampling = Sampling(max_new_tokens=120, seed=seed)
        (drawn,) = local.sample([PROMPTS[1]], model=REF, sampling=sampling, per_prompt=2)
        finishes = [completion.finish for completion in drawn]
        assert list(ended(local, sampling)) == list(ended(shared, sampling)) == finishes
        ways |= set(finishes)
    assert ways == {"stop", "length"}


def test_a_stream_counts_the_tokens_of_each_answer_without_its_end_of_turn(
    base: ResolvedBase, shared: SamplerProcess
) -> None:
    def counted(generator: LocalGenerator | SamplerProcess, seed: int) -> list[list[int]]:
        seen: list[list[int]] = []
        sampling = Sampling(max_new_tokens=120, seed=seed)
        stream = generator.stream(PROMPTS[1], [REF, FULL], sampling, lambda n: seen.append([*n]))
        while True:
            try:
                next(stream)
            except StopIteration as end:
                cut = [finish == "length" for finish in end.value]
                assert [tokens == 120 for tokens in seen[-1]] == cut
                return seen

    local = LocalGenerator(base, weights_path=lambda _: shared._weights_path(FULL))
    for seed in range(3):
        seen = counted(shared, seed)
        assert seen[-1] == counted(local, seed)[-1]
        assert all(
            b <= a for before, after in pairwise(seen) for b, a in zip(before, after, strict=True)
        )


def test_a_stream_that_is_left_early_stops_and_the_child_goes_on(
    base: ResolvedBase, shared: SamplerProcess
) -> None:
    want = shared.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=2)
    pid = shared.pid
    for _ in range(3):
        stream = shared.stream(PROMPTS[0], [REF, FULL], ENDLESS)
        next(stream)
        begun = time.monotonic()
        stream.close()
        assert time.monotonic() - begun < 2
        assert shared.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=2) == want
    long = Prompt.from_text("x" * 2000)
    with pytest.raises(UnaskablePrompt, match="shorten it"):
        list(shared.stream(long, [REF], SAMPLING))
    assert shared.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=2) == want
    assert shared.pid == pid


def test_a_patient_child_is_polite_before_it_loads(base: ResolvedBase, tmp_path: Path) -> None:
    log = tmp_path / "sampler.log"
    process = SamplerProcess(base, weights_path=lambda _: None, log=log, patient=True)
    process.start()
    try:
        assert process.pid is not None
        child, polite_by = psutil.Process(process.pid), time.monotonic() + 30
        while child.nice() < 10 and time.monotonic() < polite_by:
            time.sleep(0.005)
        assert child.nice() == 10
        assert "speaks" not in log.read_text()  # what the child says once it has loaded
    finally:
        process.stop()


def test_the_child_is_polite_knows_no_secrets_and_stops_within_a_batch(
    base: ResolvedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("ADMIN_TOKEN", "admin_secret")
    log = tmp_path / "home" / "sampler.log"
    process = SamplerProcess(base, weights_path=lambda _: None, log=log)
    process.start()
    assert process.pid is not None
    child = psutil.Process(process.pid)
    process.sample(PROMPTS[:1], model=REF, sampling=SAMPLING, per_prompt=1)
    assert child.nice() == 10
    assert child.ppid() == os.getpid()
    assert not {"HF_TOKEN", "ADMIN_TOKEN"} & set(child.environ())
    assert child.cmdline()[1:] == ["-m", "alignment.sampling.worker"]
    raised: list[GenerationError] = []

    def ask() -> None:
        try:
            while True:
                process.sample(PROMPTS * 20, model=REF, sampling=ENDLESS, per_prompt=2)
        except GenerationError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    process.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert "stopped" in str(raised[0])
    assert gone(child, 0)
    assert "speaks tiny@00000000" in log.read_text()
    process.stop()
    with pytest.raises(GenerationError, match="stopped"):
        process.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=1)


def test_a_fault_of_one_batch_is_one_line_and_the_next_batch_works(
    shared: SamplerProcess,
) -> None:
    absent = ModelRef("tiny", "0" * 40, "absent", "a" * 40)
    foreign = ModelRef("other", "0" * 40)
    negative = Sampling(temperature=1.0, top_p=-1.0, max_new_tokens=5)
    pid = shared.pid
    for model, sampling, says in (
        (absent, SAMPLING, "train or pull it"),
        (foreign, SAMPLING, "this app speaks tiny"),
        (REF, negative, "top_p"),
    ):
        with pytest.raises(GenerationError, match=says) as caught:
            shared.sample(PROMPTS, model=model, sampling=sampling, per_prompt=2)
        assert "\n" not in str(caught.value)
    drawn = shared.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=2)
    assert [len(some) for some in drawn] == [2, 2, 2]
    assert shared.pid == pid or pid is None


def test_a_child_that_dies_fails_its_batch_and_is_started_anew(shared: SamplerProcess) -> None:
    want = shared.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=2)
    first = shared.pid
    assert first is not None
    threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
    with pytest.raises(GenerationError, match=r"exit status -9.*started again"):
        for _ in range(200):
            shared.sample(PROMPTS * 20, model=REF, sampling=ENDLESS, per_prompt=2)
    assert shared.pid is None
    assert shared.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=2) == want
    assert shared.pid not in (None, first)
    # And one that died between two batches, once that can be seen, costs no batch at all.
    os.kill(shared.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while shared.pid is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shared.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=2) == want


PARENT = """
import json, sys
from pathlib import Path
from alignment.base import ResolvedBase
from alignment.generation import SamplerProcess
from annotation.schema import ModelRef, Prompt, Sampling
ref = ModelRef("tiny", "0" * 40)
base = ResolvedBase(ref, Path(sys.argv[1]), False, None)
process = SamplerProcess(base, weights_path=lambda _: None, log=Path(sys.argv[2]))
short, long = Sampling(max_new_tokens=8), Sampling(temperature=0.0, max_new_tokens=1000)
process.sample([Prompt.from_text("Hi")], model=ref, sampling=short, per_prompt=2)
heavy = sorted({"torch", "transformers", "peft"} & set(sys.modules))
print(json.dumps([process.pid, heavy]), flush=True)
while True:
    process.sample([Prompt.from_text(str(n)) for n in range(60)], model=ref, sampling=long,
                   per_prompt=2)
"""


def test_a_killed_parent_leaves_no_orphan_and_never_imports_torch(
    base: ResolvedBase, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(base.path), str(tmp_path / "log")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid, heavy = json.loads(parent.stdout.readline())
        child = psutil.Process(pid)
        time.sleep(0.3)
        parent.kill()
    assert heavy == []
    assert gone(child)


def test_what_a_library_prints_does_not_reach_the_answers(base: ResolvedBase) -> None:
    code = (
        "import os, alignment.generation, alignment.sampling.worker\n"
        "inner = alignment.generation.LocalGenerator.sample_each\n"
        "def noisy(self, *args, **kwargs):\n"
        "    print('noise'); os.write(1, b'more noise\\n')\n"
        "    return inner(self, *args, **kwargs)\n"
        "alignment.sampling.worker.LocalGenerator.sample_each = noisy\n"
        "alignment.sampling.worker.main()\n"
    )
    hello = {
        "base": {"base": "tiny", "base_revision": "0" * 40},
        "path": str(base.path),
        "is_starter": False,
        "device": "cpu",
        "threads": 1,
        "patient": False,
        "zero_gpu": False,
    }
    request = {
        "prompts": [[["user", "Hi"]]],
        "models": [hello["base"]],
        "weights_paths": [None],
        "sampling": {"max_new_tokens": 4},
    }
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(json.dumps(hello) + "\n" + json.dumps(request) + "\n")
        child.stdin.flush()
        [[[text, finish]]] = json.loads(child.stdout.readline())["completions"]
        child.stdin.close()
        assert child.wait(20) == 0
        assert child.stdout.read() == ""
        assert "more noise" in child.stderr.read()
    assert len(text) == 4
    assert finish == "length"
