"""What the training child computes, by numbers: tokens, both losses, the reference, the adapter."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from alignment.chat import end_of_turn_ids, render_chat
from alignment.runs.recipes import Method, Tuning
from alignment.training.forward.losses import completion_nll
from alignment.training.rows.data import split_held_out, tokenize_example, tokenize_examples
from alignment.training.weights.weights import save_adapter
from annotation.export.export import Export, load_examples
from annotation.schema import Message, PreferenceExample
from tests.preferences import TINY, export_of
from tests.tiny import EOS_ID
from tests.trainer_fixture import (
    EXAMPLES,
    STEPS,
    MakeTrainer,
    batch_of,
    rows_of,
    shake,
    token_logps,
    tokenizer_of,
)

# Tokens


@pytest.mark.parametrize("method", ["dpo", "orpo", "sft"])
def test_training_sees_the_rendered_chat_with_one_end_of_turn(
    method: Method, make_trainer: MakeTrainer, tiny_folder: Path, tiny_export: Export
) -> None:
    tokenizer = tokenizer_of(tiny_folder)
    trainer = make_trainer(method)
    rows = rows_of(trainer)
    assert len(rows) == EXAMPLES
    for row, example in zip(rows, load_examples(tiny_export.directory), strict=True):
        prompt = render_chat(tokenizer, example.prompt.messages, add_generation_prompt=True)
        assert tokenizer.decode(row["prompt"]) == prompt
        for side, text in (("chosen", example.chosen), ("rejected", example.rejected)):
            said = (*example.prompt.messages, Message("assistant", text))
            whole = render_chat(tokenizer, said, add_generation_prompt=False)
            # The newline that the template puts behind a turn is never sampled.
            assert tokenizer.decode(row["prompt"] + row[side]) == whole.removesuffix("\n")
            assert row[side].count(EOS_ID) == 1
            assert row[side][-1] == EOS_ID


def test_orpo_batches_carry_those_tokens_and_no_others(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("orpo")
    batch = batch_of(trainer)
    for n, row in enumerate(rows_of(trainer)[:4]):
        for side in ("chosen", "rejected"):
            attended = batch[f"{side}_attention_mask"][n].bool()
            assert batch[f"{side}_input_ids"][n][attended].tolist() == row["prompt"] + row[side]
            labels = batch[f"{side}_labels"][n]
            assert labels[labels != -100].tolist() == row[side]


def test_dpo_batches_carry_those_tokens_and_no_others(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("dpo")
    batch = batch_of(trainer)
    rows = rows_of(trainer)[:4]
    sides = [(row["prompt"], row[side]) for side in ("chosen", "rejected") for row in rows]
    for n, (prompt, completion) in enumerate(sides):
        attended = batch["attention_mask"][n].bool()
        assert batch["input_ids"][n][attended].tolist() == prompt + completion
        answered = batch["completion_mask"][n].bool()
        assert batch["input_ids"][n][answered].tolist() == completion


def test_an_example_is_cut_at_the_maximum_length_and_dropped_without_room(
    tiny_folder: Path, tiny_export: Export
) -> None:
    tokenizer = tokenizer_of(tiny_folder)
    ends = end_of_turn_ids(tokenizer, tiny_folder)
    examples = load_examples(tiny_export.directory)
    whole = tokenize_example(tokenizer, examples[0], end_ids=ends, max_length=1024)
    assert whole is not None
    room = len(whole.prompt_ids)
    cut = tokenize_example(tokenizer, examples[0], end_ids=ends, max_length=room + 3)
    assert cut is not None
    assert cut.chosen_ids == whole.chosen_ids[:3]
    assert tokenize_example(tokenizer, examples[0], end_ids=ends, max_length=room) is None
    assert tokenize_examples(tokenizer, examples, end_ids=ends, max_length=5) == []


# What is held out


def test_a_prompt_is_never_on_both_sides_and_a_tenth_is_held_out(tmp_path: Path) -> None:
    examples = load_examples(export_of(tmp_path, 300).directory)
    twice = [*examples, *(replace(e, pair_id=f"{e.pair_id}-again") for e in examples)]
    train, held_out = split_held_out(twice)
    assert len(train) + len(held_out) == 600
    assert not {e.prompt.id for e in train} & {e.prompt.id for e in held_out}
    # 300 prompts at a tenth: 30 expected, standard deviation 5.2, and each comes twice.
    assert 30 <= len(held_out) <= 90
    assert split_held_out(list(reversed(twice)))[1] == list(reversed(held_out))


def test_few_examples_are_all_trained_on(tiny_export: Export) -> None:
    examples: list[PreferenceExample] = load_examples(tiny_export.directory)
    assert split_held_out(examples) == (examples, [])


# Losses


# Five steps of 8 go over 24 pairs more than once, so the reference is computed beforehand.
@pytest.mark.parametrize(("steps", "beta", "sft_weight"), [(STEPS, 0.1, 0.0), (2, 0.3, 0.2)])
def test_dpo_loss_is_the_papers_equation(
    make_trainer: MakeTrainer, steps: int, beta: float, sft_weight: float
) -> None:
    trainer = make_trainer("dpo", steps, beta=beta, sft_weight=sft_weight)
    assert trainer.precompute_ref_logps is (steps == STEPS)
    shake(trainer)
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, batch_of(trainer)).item()

    margins, chosen_tokens = [], []
    for row in rows_of(trainer)[:4]:
        ratios = []
        for side in ("chosen", "rejected"):
            policy = token_logps(trainer.model, row["prompt"], row[side])
            with trainer.model.disable_adapter():
                reference = token_logps(trainer.model, row["prompt"], row[side])
            ratios.append((policy.sum() - reference.sum()).item())
            if side == "chosen":
                chosen_tokens += policy.tolist()
        margins.append(ratios[0] - ratios[1])
    # Rafailov et al. 2023, eq. 7: -log sigmoid(beta (log-ratio chosen - log-ratio rejected)).
    expected = sum(math.log1p(math.exp(-beta * m)) for m in margins) / len(margins)
    expected -= sft_weight * sum(chosen_tokens) / len(chosen_tokens)
    assert max(abs(m) for m in margins) > 0.1
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_reference_of_dpo_is_the_base(make_trainer: MakeTrainer, tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    trainer = make_trainer("dpo")
    shake(trainer)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="float32", local_files_only=True)
    row = rows_of(trainer)[0]
    stored = trainer.train_dataset[0]["ref_chosen_logps"]
    own = token_logps(base.eval(), row["prompt"], row["chosen"]).sum().item()
    assert stored == pytest.approx(own, rel=1e-5)
    moved = token_logps(trainer.model.eval(), row["prompt"], row["chosen"]).sum().item()
    assert abs(moved - own) > 0.1


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_orpo_loss_is_the_papers_with_its_nll_on_the_completion_only(
    make_trainer: MakeTrainer, tuning: Tuning
) -> None:
    weight = 0.7
    trainer = make_trainer("orpo", beta=weight, tuning=tuning)
    shake(trainer)
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, batch_of(trainer)).item()

    chosen_tokens: list[float] = []
    ratios = []
    for row in rows_of(trainer)[:4]:
        log_odds = []
        for side in ("chosen", "rejected"):
            tokens = token_logps(trainer.model, row["prompt"], row[side])
            if side == "chosen":
                chosen_tokens += tokens.tolist()
            mean = tokens.mean().item()
            # odds = p / (1 - p), with p the geometric mean over the completion's tokens.
            log_odds.append(mean - math.log(1 - math.exp(mean)))
        ratios.append(math.log1p(math.exp(-(log_odds[0] - log_odds[1]))))
    nll = -sum(chosen_tokens) / len(chosen_tokens)
    # Hong et al. 2024, eq. 6: L_SFT + λ L_OR.
    expected = nll + weight * sum(ratios) / len(ratios)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert trainer._stored_metrics["train"]["nll_loss"][0] == pytest.approx(nll, rel=1e-4)


def test_orpo_gradient_ignores_what_the_prompt_says_of_itself(make_trainer: MakeTrainer) -> None:
    from trl.experimental.orpo import ORPOTrainer

    # Were the prompt in the NLL, its own tokens' log-probs would push the loss about.
    trainer = make_trainer("orpo")
    trainer.model.eval()
    batch = batch_of(trainer)
    ours = trainer.concatenated_forward(trainer.model, batch)[4]
    stock = ORPOTrainer.concatenated_forward(trainer, trainer.model, batch)[4]
    assert abs(ours.item() - stock.item()) > 1e-3


def test_completion_nll_by_hand() -> None:
    # Rows of 2 and 3 labelled tokens with mean log-probs -1 and -2: (2·1 + 3·2) / 5 = 1.6.
    labels = torch.tensor([[-100, -100, 7, 8, -100], [-100, -100, 4, 5, 6]])
    assert completion_nll(torch.tensor([-1.0, -2.0]), labels).item() == pytest.approx(1.6)
    # A label at position 0 is never predicted, so it is no token of the mean.
    labels = torch.tensor([[3, 7, 8], [-100, 4, -100]])
    assert completion_nll(torch.tensor([-3.0, -6.0]), labels).item() == pytest.approx(4.0)


def test_losses_do_not_depend_on_padding(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("orpo")
    trainer.model.eval()
    alone = [
        trainer.concatenated_forward(trainer.model, trainer.data_collator([row]))[0].item()
        for row in (trainer.train_dataset[n] for n in range(4))
    ]
    together = trainer.concatenated_forward(trainer.model, batch_of(trainer))[0]
    assert functional.l1_loss(together, torch.tensor(alone)).item() < 1e-5


# What is trained and saved


def test_lora_is_on_every_linear_layer_and_on_nothing_else(make_trainer: MakeTrainer) -> None:
    names = {n for n, p in make_trainer("dpo").model.named_parameters() if p.requires_grad}
    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert all("lora_" in name for name in names)
    # Two layers of seven linear maps, a matrix A and a matrix B each.
    assert len(names) == 2 * len(linear) * 2
    assert all(any(part in name for name in names) for part in linear)


def test_a_saved_adapter_gives_the_trained_model_on_its_base(
    make_trainer: MakeTrainer, tiny_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trainer = make_trainer("orpo")
    shake(trainer)
    save_adapter(trainer.model, TINY, tmp_path / "adapter")
    assert sorted(f.name for f in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == TINY.base
    assert config["revision"] == TINY.base_revision
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="float32", local_files_only=True)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    row = rows_of(trainer)[0]
    again = token_logps(loaded, row["prompt"], row["chosen"])
    trained = token_logps(trainer.model.eval(), row["prompt"], row["chosen"])
    assert torch.allclose(again, trained, atol=1e-5)


def test_training_lowers_the_loss_and_the_same_seed_repeats_it(make_trainer: MakeTrainer) -> None:
    losses = []
    for _ in range(2):
        trainer = make_trainer("orpo")
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS
    assert losses[0][-1] < losses[0][0]
