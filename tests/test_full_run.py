"""All weights trained for real, then met as every later step meets them: registry and sampling."""

from pathlib import Path

import pytest

from alignment.generation import LocalGenerator
from alignment.registry import Registry
from alignment.runs.recipes import TrainingOptions
from alignment.runs.run_store import RunState
from alignment.runs.runs import Runs
from annotation.schema import ModelRef, Prompt, Sampling
from tests.preferences import export_of, tiny_base
from tests.tiny import make_tiny_model


@pytest.mark.slow
def test_a_full_run_is_a_model_beside_its_base_and_answers_otherwise(tmp_path: Path) -> None:
    base = tiny_base(make_tiny_model(tmp_path / "tiny"))
    runs = Runs(tmp_path / "home")
    options = TrainingOptions("dpo", tuning="full", steps=12, learning_rate=3e-3)
    run = runs.start(options, base=base, export=export_of(tmp_path, 24))
    done = runs.wait(run.id, timeout_s=120)
    assert (done.state, done.reason) == (RunState.DONE, None)
    assert not done.folder.adapter.exists()

    registry = Registry(tmp_path / "home", base)
    model = registry.get(run.id)
    assert (model.tuning, model.weights_path) == ("full", done.folder.model)
    assert [m.name for m in registry.models()] == ["base", run.id]

    generator = LocalGenerator(base, weights_path=registry.weights_path)
    prompt, greedy = Prompt.from_text("What is 7?"), Sampling(temperature=0, max_new_tokens=12)

    def answer(ref: ModelRef) -> str:
        drawn = generator.sample([prompt], model=ref, sampling=greedy, per_prompt=1)
        return drawn[0][0].text

    alone = (answer(base.ref), answer(model.ref))
    assert alone[0] != alone[1]
    *_, together = generator.stream(prompt, [base.ref, model.ref], greedy)
    assert together == alone
