"""ZeroGPU: the decorator is applied where the Space says that it lends, and nowhere else."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import make_tiny_model

from alignment.base import ResolvedBase
from alignment.sampling.sampler_process import SamplerProcess
from alignment.sampling.zero_gpu import Lending
from annotation.schema import ModelRef, Prompt, Sampling

REF = ModelRef("tiny", "0" * 40)
PROMPTS = [Prompt.from_text("Hi"), Prompt.from_text("Tell me about rain.")]
SAMPLING = Sampling(max_new_tokens=12, seed=4)
# As the real one: what crosses to the process with the GPU is pickled, and so is what comes back.
STAND_IN = """
import inspect, os, pickle
from pathlib import Path

told = Path(os.environ["STAND_IN_LOG"])

def tell(line):
    with told.open("a") as log:
        log.write(line + "\\n")

def over(value):
    return pickle.loads(pickle.dumps(value))

def GPU(task=None, *, duration=None):
    tell(f"lend {task.__name__} {duration}")
    def drawn(*args):
        tell(f"draw {task.__name__}")
        return over(task(*over(args)))
    def followed(*args):
        tell(f"draw {task.__name__}")
        for value in task(*over(args)):
            yield over(value)
    return followed if inspect.isgeneratorfunction(task) else drawn
"""
STARTUP = "from spaces import tell\n\ndef startup():\n    tell('begin')\n"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `spaces` package that child processes can import; the file in which it notes its calls."""
    package = tmp_path / "packages" / "spaces"
    (package / "zero").mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "zero" / "__init__.py").write_text(STARTUP)
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{Path(__file__).parent.parent}")
    log = tmp_path / "calls"
    log.touch()
    monkeypatch.setenv("STAND_IN_LOG", str(log))
    return log


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return ResolvedBase(REF, make_tiny_model(tmp_path_factory.mktemp("tiny")), False, None)


def drawn_by(process: SamplerProcess) -> tuple[list[list[str]], tuple[str, ...]]:
    drawn = process.sample(PROMPTS, model=REF, sampling=SAMPLING, per_prompt=2)
    *_, last = process.stream(PROMPTS[1], [REF, REF], SAMPLING)
    return [[c.text for c in some] for some in drawn], last


@pytest.fixture
def plain(base: ResolvedBase, tmp_path: Path) -> Iterator[SamplerProcess]:
    process = SamplerProcess(base, weights_path=lambda _: None, log=tmp_path / "plain.log")
    yield process
    process.stop()


def test_a_lending_space_lends_for_drawing(
    base: ResolvedBase, tmp_path: Path, stand_in: Path, plain: SamplerProcess
) -> None:
    lent = SamplerProcess(
        base, weights_path=lambda _: None, log=tmp_path / "lent.log", zero_gpu=True
    )
    try:
        answers = drawn_by(lent)
        long = Sampling(temperature=0.0, max_new_tokens=200)
        stream = lent.stream(PROMPTS[0], [REF], long)
        next(stream)
        stream.close()
        assert lent.sample(PROMPTS[:1], model=REF, sampling=SAMPLING, per_prompt=1)
    finally:
        lent.stop()
    calls = stand_in.read_text().splitlines()
    # Lent before the report of what is loaded, and each asked once a request.
    assert calls[:3] == ["lend draw 60", "lend follow 60", "begin"]
    assert calls[3:] == ["draw draw", "draw follow", "draw follow", "draw draw"]
    stand_in.write_text("")
    assert drawn_by(plain) == answers
    # Importable is not enough: this Space does not lend.
    assert stand_in.read_text() == ""


def test_without_the_package_a_lending_space_draws_on_the_cpu(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert "spaces" not in sys.modules
    lending = Lending(zero_gpu=True)

    def draw() -> int:
        return 1

    assert lending.lend(draw) is draw
    lending.begin()
    assert "`spaces` is missing" in caplog.text


def test_elsewhere_nothing_is_imported_nor_wrapped(
    monkeypatch: pytest.MonkeyPatch, stand_in: Path
) -> None:
    monkeypatch.syspath_prepend(str(stand_in.parent / "packages"))
    lending = Lending(zero_gpu=False)
    assert lending.lend(drawn_by) is drawn_by
    lending.begin()
    assert "spaces" not in sys.modules
    assert stand_in.read_text() == ""
