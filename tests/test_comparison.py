"""Comparing in the open: the base beside whatever a run left, and nothing that is not here."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from small_files import write_model, write_run

from alignment.base import ResolvedBase
from alignment.registry import Registry
from alignment.web.comparison import CompareError, Comparison
from annotation.schema import ModelRef, Prompt, Sampling

BASE = ModelRef("ada/chat", "b" * 40)


class Echo:
    """Says which models it was asked for."""

    def start(self) -> None: ...

    def stream(
        self, prompt: Prompt, models: Sequence[ModelRef], sampling: Sampling
    ) -> Iterator[tuple[str, ...]]:
        yield tuple(f"{m.adapter}: {prompt.messages[-1].content} {sampling.seed}" for m in models)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    home = tmp_path / "home"
    base = ResolvedBase(BASE, write_model(home / "base"), is_starter=False, notice=None)
    write_run(home, "dpo-full", BASE, model=write_model(tmp_path / "tuned", 1))
    write_run(home, "dpo-lora", BASE)
    write_run(home, "dpo-other", ModelRef("ada/chat", "e" * 40))
    return Comparison(Registry(home, base), Echo(), max_new_tokens=9)


def test_every_model_that_fits_the_base_can_stand_beside_it(comparison: Comparison) -> None:
    assert sorted(comparison.aligned_names()) == ["dpo-full", "dpo-lora"]
    for name in comparison.aligned_names():
        assert list(comparison.answers("Hi", name, 1.0, 4)) == [("None: Hi 4", f"{name}: Hi 4")]
    assert list(comparison.answers("Hi", None, 1.0, 4)) == [("None: Hi 4", "")]


def test_what_cannot_be_asked_is_one_line(comparison: Comparison) -> None:
    for text, name, says in (
        (" ", "dpo-full", "The prompt is empty"),
        ("x" * 2001, "dpo-full", "has 2,001 characters"),
        ("Hi", "dpo-other", "Model dpo-other is not here"),
        ("Hi", "eve/elsewhere", "Model eve/elsewhere is not here"),
    ):
        with pytest.raises(CompareError, match=says):
            list(comparison.answers(text, name, 1.0, 4))
