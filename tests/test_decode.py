"""The decode loop: `generate`'s tokens where the best is taken, the softmax's chances elsewhere."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from tiny import make_tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from alignment.sampling.batches import Row, draw_rows
from alignment.sampling.decode import Decoding
from alignment.sampling.draw import draw_tokens
from alignment.sampling.llama import Llama, llama_of
from alignment.sampling.loaded_model import LoadedModel
from alignment.sampling.loading import load_adapter, load_to_draw
from annotation.schema import ModelRef, Sampling

STARTER = Path(__file__).parent.parent / "alignment" / "starter" / "weights"
BASE = "__base__"
GREEDY = Sampling(temperature=0.0, max_new_tokens=24)


def random_llama(**changes: object) -> LlamaForCausalLM:
    """SmolLM2-135M's ratios, narrow and shallow: 9 heads on 3, tied; seeded."""
    shape = {
        "vocab_size": 499,
        "hidden_size": 72,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return LlamaForCausalLM(LlamaConfig(**shape | changes)).float().eval()


def loaded_of(model: Any, end_ids: Sequence[int] = (2,)) -> LoadedModel:
    class Padded:
        pad_token_id = 0

    return LoadedModel(Padded(), model, "cpu", 2048, frozenset(end_ids), llama=llama_of(model))  # type: ignore[arg-type]


def prompts(lengths: Sequence[int], vocabulary: int, seed: int = 0) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (n,), generator=drawn).tolist() for n in lengths]


def rows_of(ids: Sequence[list[int]], adapters: Sequence[str] = (BASE,)) -> list[Row]:
    each = [(one, adapter) for one in ids for adapter in adapters]
    return [Row(place, one, adapter) for place, (one, adapter) in enumerate(each)]


def until_end(loaded: LoadedModel, drawn: Sequence[int]) -> list[int]:
    """Up to and with the end of turn: what `generate` pads behind is not an answer."""
    end = loaded.length(drawn)
    return list(drawn[: end + 1])


def both_ways(loaded: LoadedModel, rows: Sequence[Row]) -> tuple[list[list[int]], list[list[int]]]:
    """Greedy answers in the order of `rows`: by the loop, and by `generate`, padded."""
    assert loaded.llama is not None
    stock = dataclasses.replace(loaded, llama=None)
    ways = []
    for way in (loaded, stock):
        drawn = {row.place: until_end(way, ids) for row, ids in draw_rows(way, rows, GREEDY)}
        ways.append([drawn[row.place] for row in rows])
    return ways[0], ways[1]


# Greedy tokens.


def test_greedy_tokens_of_the_starter_are_those_of_generate() -> None:
    loaded = load_to_draw(STARTER, device="cpu", dtype="float32")
    asked = ["What is the capital of France?", "Say hello.", "2 + 3?", "Name three fruits, please."]
    rendered = [
        loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in asked
    ]
    rows = rows_of([*rendered, *prompts((1, 70), 1536)], [BASE, BASE])
    by_loop, by_generate = both_ways(loaded, rows)
    assert by_loop == by_generate
    ended = [ids[-1] in loaded.end_ids for ids in by_loop]
    assert any(ended)
    assert len({len(ids) for ids in by_loop}) > 3


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_greedy_tokens_of_a_deeper_shape_are_those_of_generate_in_any_slots(
    slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignment.sampling.batches.MAX_ROWS", slots)
    # Several ends, so that rows end at different steps and others take their places.
    loaded = loaded_of(random_llama(), end_ids=range(2, 40))
    by_loop, by_generate = both_ways(loaded, rows_of(prompts((5, 1, 33, 12, 5, 19, 2), 499)))
    assert by_loop == by_generate
    assert len({len(ids) for ids in by_loop}) > 3


def adapted(folder: Path, **options: object) -> LoadedModel:
    """A tiny base with two adapters; `options` are the first one's."""
    from peft import LoraConfig, get_peft_model

    base = make_tiny_model(folder / "base")
    loaded = load_to_draw(base, device="cpu", dtype="float32")
    for seed, (name, its) in enumerate(
        {"first": options, "second": {"target_modules": ["q_proj", "v_proj"]}}.items()
    ):
        every = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
        model = AutoModelForCausalLM.from_pretrained(base)
        model = get_peft_model(model, LoraConfig(**every | its))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for kind, weight in model.named_parameters():
                if "lora_" in kind and "magnitude" not in kind:
                    weight.normal_(std=0.2)
        model.save_pretrained(folder / name)
        load_adapter(loaded, name, folder / name)
        loaded.adapters[ModelRef("tiny", "0" * 40, name, "f" * 40)] = name
    return loaded


def test_adapters_and_base_in_one_batch_draw_what_peft_draws(tmp_path: Path) -> None:
    loaded = adapted(tmp_path, lora_alpha=24, rank_pattern={"k_proj": 2})
    ids = prompts((9, 20, 3), 259)
    for adapters in ([BASE, "first", "second", "first"], ["first"], ["second", BASE]):
        by_loop, by_generate = both_ways(loaded, rows_of(ids, adapters))
        assert by_loop == by_generate
    assert len({str(answer) for answer in by_loop}) == len(by_loop)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
)
def test_what_is_more_than_plain_lora_is_left_to_generate(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = adapted(tmp_path, **options)
    by_generate: list[Row] = []

    def recorded(_loaded: object, rows: Sequence[Row], *_: object) -> list[list[int]]:
        by_generate.extend(rows)
        return [[2] for _ in rows]

    monkeypatch.setattr("alignment.sampling.batches.generate_rows", recorded)
    ids = prompts((9, 4), 259)
    assert len(list(draw_rows(loaded, rows_of(ids, [BASE, "second"]), GREEDY))) == 4
    assert by_generate == []
    rows = rows_of(ids, [BASE, "first"])
    assert len(list(draw_rows(loaded, rows, GREEDY))) == 4
    assert sorted(by_generate, key=lambda row: row.place) == rows


# Which models.


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
    ],
)
def test_a_llama_of_another_make_is_left_to_generate(change: dict[str, object]) -> None:
    assert llama_of(random_llama()) is not None
    assert llama_of(random_llama(**change)) is None


def test_other_architectures_and_types_are_left_to_generate() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    assert llama_of(Qwen2ForCausalLM(Qwen2Config(**small, **heads))) is None
    assert llama_of(random_llama().half()) is None


def test_a_llama_that_computes_otherwise_is_found_out() -> None:
    model = random_llama()
    # As a later version of transformers might: every layer's output, a little louder.
    model.model.layers[2].mlp.down_proj.register_forward_hook(lambda _m, _x, out: out * 1.5)
    assert llama_of(model) is None


def test_no_weight_is_held_twice() -> None:
    def held(*tensors: torch.Tensor) -> int:
        stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(stores.values())

    model = random_llama()
    before = held(*model.parameters())
    want = model(torch.tensor([[5, 6, 7]])).logits
    llama = llama_of(model)
    assert llama is not None
    fused = [weight for layer in llama.layers for weight in layer.fused]
    assert held(*model.parameters(), *fused, llama.head, llama.embedding) == before
    assert torch.allclose(model(torch.tensor([[5, 6, 7]])).logits, want, atol=1e-5)


# What is computed once.


def test_a_prompt_is_read_once_for_all_of_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_of(random_llama(), end_ids=())
    read: list[int] = []
    hidden = Llama.hidden

    def counted(self: Llama, ids: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        read.append(len(ids))
        return hidden(self, ids, *args, **options)

    monkeypatch.setattr(Llama, "hidden", counted)
    drawn = list(draw_rows(loaded, rows_of(prompts((30, 10), 499), [BASE] * 3), GREEDY))
    # 24 tokens: one after the prompts, then 23 steps of 6 rows.
    assert read == [40] + [6] * 23
    assert len(drawn) == 6


def test_ended_rows_cost_nothing_and_waiting_rows_take_their_slots(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("alignment.sampling.batches.MAX_ROWS", 4)
    loaded = loaded_of(random_llama(), end_ids=range(2, 60))
    steps: list[int] = []
    step = Decoding._step

    def counted(self: Decoding) -> None:
        steps.append(len(self._seats))
        step(self)

    monkeypatch.setattr(Decoding, "_step", counted)
    drawn = list(draw_rows(loaded, rows_of(prompts(range(3, 23), 499)), GREEDY))
    new = sum(len(ids) for _, ids in drawn)
    # Each step draws one token a seat, and each row's first is drawn as its prompt is read.
    assert sum(steps) == new - len(drawn)
    assert max(steps) == 4
    # Full while anybody waits: only the last rows sit alone.
    assert steps[: len(steps) // 2].count(4) > len(steps) // 3


# Chances.


def drawn_counts(logits: torch.Tensor, sampling: Sampling, times: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        tokens = draw_tokens(logits[:, None].expand(-1, times).clone(), sampling)
    return torch.bincount(tokens, minlength=len(logits))


def chances(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The definition, sorted: softmax at a temperature, cut to the best that reach top_p."""
    shares = torch.softmax(logits.double() / sampling.temperature, 0)
    order = torch.argsort(shares, descending=True, stable=True)
    ahead = shares[order].cumsum(0) - shares[order]
    keep = ahead < sampling.top_p
    keep[0] = True
    kept = torch.zeros_like(shares)
    kept[order[keep]] = shares[order[keep]]
    return kept / kept.sum()


@pytest.mark.parametrize("vocabulary", [30, 601, 1536])
@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.6, 1.0), (1.0, 0.9), (0.8, 0.5), (1, 0.1)]
)
def test_tokens_are_drawn_with_the_chances_of_the_softmax(
    vocabulary: int, temperature: float, top_p: float
) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p)
    logits = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    want = chances(logits, sampling)
    counts = drawn_counts(logits, sampling, 40_000)
    assert counts[want == 0].sum() == 0
    # Rare ones together: chi-square wants at least five of each kind.
    expected = want * 40_000
    often = expected >= 5
    seen, hoped = counts[often].tolist(), expected[often].tolist()
    if (rare := expected[~often].sum()) > 1:
        seen, hoped = [*seen, int(counts[~often].sum())], [*hoped, float(rare)]
    hoped = [one * sum(seen) / sum(hoped) for one in hoped]
    assert len(seen) == 1 or chisquare(seen, hoped).pvalue > 1e-4


def test_of_equal_tokens_no_more_are_kept_than_top_p_needs() -> None:
    logits = torch.zeros(10)
    counts = drawn_counts(logits, Sampling(temperature=1.0, top_p=0.35), 4000)
    assert (counts > 0).tolist() == [True] * 4 + [False] * 6


def test_impossible_tokens_are_never_drawn_and_a_sure_one_always() -> None:
    logits = torch.full((700,), -math.inf)
    logits[[0, 699]] = torch.tensor([-math.inf, 3.0])
    for top_p in (1.0, 0.5, 1e-9):
        counts = drawn_counts(logits, Sampling(temperature=1.0, top_p=top_p), 500)
        assert counts[699] == 500


def test_what_no_token_can_be_drawn_by_is_refused() -> None:
    for temperature, top_p in ((-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, 1.1), (0.0, -1.0)):
        with pytest.raises(ValueError, match="top_p"):
            draw_tokens(torch.zeros(9, 2), Sampling(temperature=temperature, top_p=top_p))
    for broken in (math.nan, math.inf):
        for temperature in (1.0, 0.0):
            with pytest.raises(ValueError, match="not numbers"):
                draw_tokens(torch.full((9, 2), broken), Sampling(temperature=temperature))


@pytest.mark.parametrize("temperature", [1e-30, 1e-46, 5e-324])
def test_a_temperature_next_to_nothing_takes_the_best(temperature: float) -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 1.0], [-math.inf, 0.0]])
    assert draw_tokens(logits, Sampling(temperature=temperature)).tolist() == [1, 0]


def test_tokens_of_several_columns_are_drawn_apart() -> None:
    logits = torch.full((64, 3), -30.0)
    logits[[5, 63, 0], [0, 1, 2]] = 30.0
    for sampling in (Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.9), GREEDY):
        assert draw_tokens(logits.clone(), sampling).tolist() == [5, 63, 0]
