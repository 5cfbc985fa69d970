"""The checks beside votes: each figure by hand, and what is said of it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignment.runs.answer_checks import remarks
from alignment.runs.run_store import AnswerFigures, FinalMetrics
from alignment.training.rows.data import split_held_out
from alignment.training.watch.answers import (
    MAX_NEW_TOKENS,
    kl_per_token,
    measure_answers,
    prompts_to_ask,
    repetition,
)
from annotation.export.export import Export, load_examples
from tests.preferences import export_of
from tests.trainer_fixture import MakeTrainer, shake, spec_of


def test_repetition_is_the_share_of_four_grams_said_before() -> None:
    # abcd bcda cdab dabc abcd: five 4-grams, four of them distinct.
    assert repetition(list("abcdabcd")) == pytest.approx(1 - 4 / 5)
    # aaaa seven times: one distinct of seven.
    assert repetition(list("a" * 10)) == pytest.approx(1 - 1 / 7)
    assert repetition(list("abcdefgh")) == 0
    assert repetition(list("aaa")) == 0


def test_kl_is_schulmans_k3_with_the_error_of_a_ratio() -> None:
    # r = q/p is 1/2, 2 in the first answer, 1 in the second. k3 = r - 1 - ln r:
    # 1/2 - 1 + ln 2 = .19315, 2 - 1 - ln 2 = .30685, 0; their sum is exactly 1/2.
    mine = [[math.log(0.8), math.log(0.2)], [math.log(0.5)]]
    bases = [[math.log(0.4), math.log(0.4)], [math.log(0.5)]]
    mean, error = kl_per_token(mine, bases)
    assert mean == pytest.approx(0.5 / 3)
    # R = 1/6: residuals 1/2 - 2/6 = 1/6 and 0 - 1/6, squares 1/36 each; times m/(m-1) = 2: 1/9.
    assert error == pytest.approx(math.sqrt(1 / 9) / 3)
    assert kl_per_token(mine, mine) == (0, 0)
    assert kl_per_token(mine[:1], bases[:1])[1] is None


def test_k3_is_unbiased_and_never_below_zero() -> None:
    # Over all outcomes of p, weighted by p, k3's mean is KL(p ‖ q) = Σ p ln(p/q).
    p, q = (0.7, 0.2, 0.1), (0.4, 0.4, 0.2)
    k3 = [kl_per_token([[math.log(x)]], [[math.log(y)]])[0] for x, y in zip(p, q, strict=True)]
    assert min(k3) > 0
    exact = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    assert sum(x * k for x, k in zip(p, k3, strict=True)) == pytest.approx(exact)


def test_held_out_prompts_are_asked_first(tmp_path_factory: pytest.TempPathFactory) -> None:
    examples = load_examples(export_of(tmp_path_factory.mktemp("many"), 120).directory)
    held_out = {e.prompt.id for e in split_held_out(examples)[1]}
    asked = [p.id for p in prompts_to_ask(examples)]
    assert held_out
    assert set(asked[: len(held_out)]) == held_out
    assert len(asked) == len(set(asked)) == len({e.prompt.id for e in examples})


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_an_untrained_model_is_its_base_and_a_moved_one_is_not(
    make_trainer: MakeTrainer, tiny_export: Export, tuning: Any
) -> None:
    import torch

    trainer = make_trainer("dpo", 1, tuning=tuning)
    base_path = Path(trainer.model.config._name_or_path)
    spec = spec_of("dpo", base_path, tiny_export, tuning=tuning)
    examples = load_examples(tiny_export.directory)
    state, was_training = torch.get_rng_state(), trainer.model.training
    before = measure_answers(trainer, spec, examples)
    assert before is not None
    assert before.kl_per_token == pytest.approx(0, abs=1e-6)
    assert (before.tokens, before.repetition) == (before.base_tokens, before.base_repetition)
    assert before.answers == len({e.prompt.id for e in examples})
    assert before.tokens <= MAX_NEW_TOKENS
    shake(trainer)
    after = measure_answers(trainer, spec, examples)
    assert after is not None
    assert after.base_tokens == before.base_tokens
    assert after.kl_error is not None
    assert after.kl_per_token > 3 * after.kl_error > 0
    # The same again: nothing of the run is disturbed, nothing is left to chance.
    assert measure_answers(trainer, spec, examples) == after
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.model.training == was_training


SEEN = AnswerFigures(32, 21.0, 20.0, 0.02, 0.02, 0.1, 0.01)
FINAL = FinalMetrics(0.2, 1.0, 3.0, 61.0, 20, 0.3, 0.8, 2.0, answered=SEEN)


def test_a_sound_run_is_not_remarked_on() -> None:
    assert remarks(FINAL) == []
    assert remarks(replace(FINAL, answered=None, eval_pairs=0, eval_reward_accuracy=None)) == []
    # Four tokens more are nothing, however short the base answers.
    assert remarks(replace(FINAL, answered=replace(SEEN, tokens=8, base_tokens=4))) == []
    # An accuracy two errors of .5 below one half can be chance: .3 of 20 pairs is within .224.
    assert remarks(replace(FINAL, eval_reward_accuracy=0.3)) == []


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"tokens": 30.0}, "longer", "1.5 times as long as the base's: look whether it wins by"),
        ({"tokens": 12.0}, "shorter", "0.6 times as long as the base's"),
        ({"repetition": 0.2}, "repeats", "20% of its runs of four tokens were said before"),
        ({"kl_per_token": 1.02}, "far", "1.02 nats a token from its base"),
    ],
)
def test_what_looks_off_is_said(changes: dict[str, float], name: str, says: str) -> None:
    (found,) = remarks(replace(FINAL, answered=replace(SEEN, **changes)))
    assert found.name == name
    assert says in found.says


def test_repetition_counts_beyond_the_bases_and_distance_beyond_its_error() -> None:
    both = replace(SEEN, repetition=0.4, base_repetition=0.35)
    unsure = replace(SEEN, kl_per_token=1.1, kl_error=0.06)
    assert remarks(replace(FINAL, answered=both)) == []
    assert remarks(replace(FINAL, answered=unsure)) == []


def test_ranking_below_chance_is_said_first() -> None:
    (first, second) = remarks(
        replace(FINAL, eval_reward_accuracy=0.2, answered=replace(SEEN, tokens=60.0))
    )
    assert (first.name, second.name) == ("against_votes", "longer")
    assert "20% of 20 held-out pairs" in first.says
