"""A pair as one row: the log-probs, losses, gradients and metrics of TRL's own forward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from alignment.runs.recipes import Loss, Method
from alignment.training.forward import pair_rows, shared_prompt
from alignment.training.forward.pair_rows import to_row
from alignment.training.forward.shared_prompt import ATTENTION, share_prompts
from tests.trainer_fixture import MakeTrainer, shake

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")


def pairs_of(*, longest: int) -> dict[str, torch.Tensor]:
    """Pairs of uneven lengths, a batch as TRL's collator makes it.

    Besides ordinary ones: answers that begin alike, one that is the beginning of the other, the
    same twice, and one of a single token.
    """
    draw = torch.Generator().manual_seed(3)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 259, (count,), generator=draw).tolist()

    answer = ids(longest // 3)
    answers = [
        (ids(longest // 2), ids(longest // 4)),
        (ids(3), ids(longest // 2)),
        (answer + ids(9), answer + ids(4)),
        (answer, answer[:5]),
        (answer[:5], answer),
        (answer, answer),
        (ids(1), ids(1)),
    ]
    rows = [
        {"prompt_ids": ids(1 + n * longest // 14), "chosen_ids": c, "rejected_ids": r}
        for n, (c, r) in enumerate(answers)
    ]
    return DataCollatorForPreference(pad_token_id=0)(rows)


def load(folder: Path, **config: Any) -> Any:
    """The tiny model with TRL's head."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, **config).float()
    add_fused_lm_head(model, outputs=FIELDS)
    return model


def ask(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    return model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        labels=labels,
        use_cache=False,
        fused_lm_head=True,
    )


# The row


@pytest.mark.parametrize("longest", [24, 300])
def test_a_row_holds_every_sequence_and_what_two_share_once(longest: int) -> None:
    batch = pairs_of(longest=longest)
    ids, attended = batch["input_ids"], batch["attention_mask"]
    row = to_row(ids, attended)
    assert (row.mask is None) is (longest == 300)
    tokens = 0
    for n in range(7):
        chosen, rejected = (ids[m][attended[m].bool()].tolist() for m in (n, n + 7))
        alike = [a == b for a, b in zip(chosen, rejected, strict=False)] + [False]
        tokens += len(chosen) + len(rejected) - alike.index(False)
    assert row.ids.shape == row.positions.shape == (1, tokens)
    for n in range(14):
        places = row.places[n][attended[n].bool()]
        assert torch.equal(row.ids[0, places], ids[n][attended[n].bool()])
        assert row.positions[0, places].tolist() == list(range(len(places)))


def test_a_token_attends_to_its_own_sequence_up_to_itself() -> None:
    batch = pairs_of(longest=24)
    row = to_row(batch["input_ids"], batch["attention_mask"])
    assert row.mask is not None
    seen = torch.zeros_like(row.mask[0, 0])
    for places, attended in zip(row.places, batch["attention_mask"].bool(), strict=True):
        mine = places[attended]
        for n, place in enumerate(mine):
            seen[place, mine[: n + 1]] = True
    assert torch.equal(row.mask[0, 0], seen)


# The model


@pytest.mark.parametrize("longest", [24, 300])
def test_log_probs_and_gradients_are_those_of_trls_forward(tiny_folder: Path, longest: int) -> None:
    stock, ours = load(tiny_folder), load(tiny_folder)
    assert share_prompts(ours, FusedCausalLMOutput)
    batch = pairs_of(longest=longest)
    theirs, mine = ask(stock, batch), ask(ours, batch)
    for field in FIELDS:
        assert torch.allclose(theirs[field].float(), mine[field].float(), atol=2e-4), field
    weights = torch.randn(theirs.log_probs.shape, generator=torch.Generator().manual_seed(0))
    for found in (theirs, mine):
        (found.log_probs * weights).sum().backward()
    grads = dict(ours.named_parameters())
    for name, parameter in stock.named_parameters():
        near = torch.cosine_similarity(parameter.grad.flatten(), grads[name].grad.flatten(), dim=0)
        assert near > 1 - 1e-6, name
        assert torch.allclose(parameter.grad.norm(), grads[name].grad.norm(), rtol=1e-3), name


def test_everything_else_that_a_model_does_stays_as_it_was(tiny_folder: Path) -> None:
    stock, ours = load(tiny_folder), load(tiny_folder)
    assert share_prompts(ours, FusedCausalLMOutput)
    ids = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14]])
    attended = (ids != 0).long()
    answers = [
        model.generate(
            input_ids=ids,
            attention_mask=attended,
            max_new_tokens=12,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        for model in (stock, ours)
    ]
    assert torch.equal(answers[0].sequences, answers[1].sequences)
    assert torch.equal(torch.stack(answers[0].logits), torch.stack(answers[1].logits))
    with torch.no_grad():
        assert torch.equal(stock(input_ids=ids).logits, ours(input_ids=ids).logits)


def test_a_batch_without_a_label_has_log_probs_of_0_and_a_gradient(tiny_folder: Path) -> None:
    model = load(tiny_folder)
    assert share_prompts(model, FusedCausalLMOutput)
    batch = pairs_of(longest=24)
    batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
    logps = ask(model, batch).log_probs
    assert not logps.any()
    logps.sum().backward()


def forget_branches(model: Any) -> None:
    """Something that no config tells: only the trial can."""
    attention = model.model.layers[0].self_attn
    before = attention.forward

    def forward(*args: Any, pair_branches: Any = None, **named: Any) -> Any:
        return before(*args, **named)

    attention.forward = forward


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.config, "layer_types", ["full_attention", "sliding_attention"]),
        lambda model: setattr(model.config, "sliding_window", 16),
        lambda model: setattr(model.config, "final_logit_softcapping", 30.0),
        lambda model: setattr(model.config, "_attn_implementation", "eager"),
        forget_branches,
    ],
)
def test_a_model_that_attends_or_scores_otherwise_keeps_trls_forward(
    tiny_folder: Path, change: Callable[[Any], None]
) -> None:
    model = load(tiny_folder)
    change(model)
    forward, implementation = model.forward, model.config._attn_implementation
    assert not share_prompts(model, FusedCausalLMOutput)
    assert model.forward == forward
    assert model.config._attn_implementation == implementation != ATTENTION


# The trainers


def histories(
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    method: Method,
    steps: int,
    **wanted: Any,
) -> list[list[dict[str, float]]]:
    """What a run logs, step by step, with TRL's forward and with ours."""
    found = []
    for share in (False, True):
        with monkeypatch.context() as patch:
            if not share:
                patch.setattr(shared_prompt, "share_prompts", lambda *_: False)
            trainer = make_trainer(method, steps, **wanted)
        shake(trainer)
        trainer.train()
        assert trainer.accelerator.unwrap_model(trainer.model).config._attn_implementation == (
            ATTENTION if share else "sdpa"
        )
        found.append([log for log in trainer.state.log_history if "loss" in log])
    return found


def assert_alike(stock: list[dict[str, float]], ours: list[dict[str, float]]) -> None:
    assert [log.keys() for log in stock] == [log.keys() for log in ours]
    for theirs, mine in zip(stock, ours, strict=True):
        for name, value in theirs.items():
            assert mine[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name


@pytest.mark.parametrize("loss", get_args(Loss))
def test_every_loss_of_dpo_logs_what_it_logs_with_trls_forward(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    assert_alike(*histories(make_trainer, monkeypatch, "dpo", 3, loss=loss, flip_rate=0.1))


@pytest.mark.parametrize("one_mask_tokens", [0, 10_000])
@pytest.mark.parametrize(
    "wanted",
    [
        {"sft_weight": 0.5},
        {"ld_alpha": 0.4},
        {"length_penalty": 0.02},
        {"tuning": "full"},
        {"gradient_checkpointing": True},
        {"micro_batch": 2},
        {"steps": 8},
    ],
    ids=lambda wanted: next(iter(wanted)),
)
def test_every_way_of_dpo_logs_what_it_logs_with_trls_forward(
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict[str, Any],
    one_mask_tokens: int,
) -> None:
    monkeypatch.setattr(pair_rows, "ONE_MASK_TOKENS", one_mask_tokens)
    # Two steps ask the reference as they go, eight compute it beforehand.
    assert_alike(*histories(make_trainer, monkeypatch, "dpo", **{"steps": 2} | wanted))


@pytest.mark.parametrize("one_mask_tokens", [0, 10_000])
@pytest.mark.parametrize(
    "wanted", [{}, {"tuning": "full"}, {"gradient_checkpointing": True, "beta": 1.0}]
)
def test_orpo_logs_what_it_logs_with_trls_forward_but_for_logits(
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict[str, Any],
    one_mask_tokens: int,
) -> None:
    monkeypatch.setattr(pair_rows, "ONE_MASK_TOKENS", one_mask_tokens)
    found = histories(make_trainer, monkeypatch, "orpo", 3, **wanted)
    for log in (log for logs in found for log in logs):
        # TRL's are means over prompt and padding too, ours over the answers.
        assert {log.pop("logits/chosen"), log.pop("logits/rejected")}
    assert_alike(*found)


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_held_out_pairs_are_scored_as_with_trls_forward(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    found = []
    for share in (False, True):
        with monkeypatch.context() as patch:
            if not share:
                patch.setattr(shared_prompt, "share_prompts", lambda *_: False)
            trainer = make_trainer(method, beta=0.5, micro_batch=4)
        shake(trainer)
        trainer.eval_dataset = trainer.train_dataset
        found.append(trainer.evaluate())
    for name in ("loss", "rewards/chosen", "rewards/margins", "logps/rejected"):
        assert found[1][f"eval_{name}"] == pytest.approx(found[0][f"eval_{name}"], rel=1e-3)
