"""Pairs sampled, tokens a CPU-second: the product's generator against stock `generate`.

`python -m tests.benchmarks.peers sampling`, about four minutes of CPU. One thread on both sides,
temperature 1, the same prompts and as many new tokens; ends of turn are off on both sides, so that
every answer has all its tokens. Seeds: weights 0, prompts in the starter's order, draws by round.
"""

import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator
from alignment.sampling import decode
from alignment.sampling.batches import Row, draw_rows, generate_rows
from alignment.sampling.llama import llama_of
from alignment.sampling.loaded_model import LoadedModel
from alignment.starter.starter import STARTER_DIR, starter_prompts, starter_revision
from annotation.sampling import LARGEST_BATCH, PER_DRAW
from annotation.schema import ModelRef, Prompt, Sampling
from tests.benchmarks.peers.machine import cpu_seconds, measure_machine
from tests.benchmarks.peers.table import Goal
from tests.benchmarks.peers.table import Row as TableRow

ROUNDS = 3
NEW_TOKENS = 128
REF = ModelRef("random/135m", "0" * 40)
BASE_ADAPTER = "__base__"
MOST_LOGP_GAP, MEAN_LOGP_GAP = 0.1, 0.02
"""How far log-probs in bf16 may be from an fp32 forward pass, over all tokens drawn."""


def make_135m(folder: Path) -> Path:
    """SmolLM2-135M's shape with random weights (seed 0), in bf16, and the starter's tokenizer."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        pad_token_id=0,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(STARTER_DIR).save_pretrained(folder)
    return folder


def endless(base: ResolvedBase, *, dtype: Any = None) -> tuple[LocalGenerator, LoadedModel]:
    """The product's generator on a CPU, loaded, with no end of turn; and what it has loaded."""
    generator = LocalGenerator(base, weights_path=lambda _: None, device="cpu", dtype=dtype)
    generator.load()
    loaded = generator._loaded
    assert loaded is not None
    loaded.end_ids = frozenset()
    return generator, loaded


def stock(folder: Path, dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.generation_config = GenerationConfig()
    return model


def stock_answers(
    model: Any, ids: Sequence[int], *, answers: int, tokens: int, greedy: bool = False
) -> list[list[int]]:
    """What the stock call gives for one prompt: `answers` of `tokens` new ids."""
    how: dict[str, Any] = {"do_sample": False}
    if not greedy:
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=tokens, num_return_sequences=answers, pad_token_id=0, **how
    )
    with torch.inference_mode():
        drawn = model.generate(torch.tensor([ids]), generation_config=config)
    new: list[list[int]] = drawn[:, len(ids) :].tolist()
    if any(len(one) != tokens for one in new):
        raise AssertionError("an answer of the peer ended early")
    return new


def rows() -> Iterator[TableRow]:
    """The 135M shape by our loop, by `generate` well fed, and the starter."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = make_135m(Path(name))
        yield from _rows_135m(ResolvedBase(REF, folder, is_starter=False, notice=None))
    starter = ModelRef("starter", starter_revision())
    yield _starter_row(ResolvedBase(starter, STARTER_DIR, is_starter=True, notice=None))


def _rows_135m(base: ResolvedBase) -> Iterator[TableRow]:
    generator, loaded = endless(base)
    model = stock(base.path, torch.float32)
    prompts = starter_prompts()[:LARGEST_BATCH]
    ours, peer = _rates(generator, loaded, model, prompts, rounds=ROUNDS)
    share = statistics.median(ours) * 2 * _parameters(model) / 1e9 / measure_machine().bf16_gflops
    same = _greedy_tokens_agree(model, loaded, prompts[:4])
    logps = _logps_agree(model, loaded, prompts[:4])
    yield TableRow(
        f"sample pairs, 135M, {NEW_TOKENS} new tokens, {LARGEST_BATCH} prompts × {PER_DRAW} a call",
        f"`generate`, fp32, one prompt × {PER_DRAW} a call",
        "tokens a CPU-s",
        ours,
        peer,
        "more is better",
        Goal("at least", 15),
        f"{same}; {logps}",
        f"{share:.0%} of the bf16 matrix product's peak; {_where_time_goes(loaded, prompts)}",
    )
    yield TableRow(
        "the same by `generate` well fed, as other architectures are drawn, one round",
        f"`generate`, fp32, one prompt × {PER_DRAW} a call",
        "tokens a CPU-s",
        [_rate_well_fed(loaded, prompts)],
        peer[:1],
        "more is better",
        Goal("at least", 10),
        "one padded batch",
    )


def _rates(
    generator: LocalGenerator,
    loaded: LoadedModel,
    model: Any,
    prompts: Sequence[Prompt],
    *,
    rounds: int,
    peer_calls: int = 1,
) -> tuple[list[float], list[float]]:
    """Tokens a CPU-second of both, in rounds in which they take turns, after a warm-up.

    Ours answers all prompts at a round; the peer, whose calls are all alike, `peer_calls` of them.
    """
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW_TOKENS)
    ids = [loaded.prompt_ids(prompt, sampling) for prompt in prompts]

    def sample(seed: int, tokens: int) -> None:
        how = dataclasses.replace(sampling, seed=seed, max_new_tokens=tokens)
        drawn = generator.sample(prompts, model=generator._base.ref, sampling=how, per_prompt=2)
        if any(one.finish != "length" for some in drawn for one in some):
            raise AssertionError("an answer of ours ended early")

    def ask(first: int, calls: int, tokens: int) -> None:
        for call in range(first, first + calls):
            stock_answers(model, ids[call % len(ids)], answers=PER_DRAW, tokens=tokens)

    sample(0, 4)
    ask(0, 1, 4)
    ours, peer = [], []
    for turn in range(rounds):
        took = cpu_seconds(lambda turn=turn: sample(turn, NEW_TOKENS))
        ours.append(len(prompts) * PER_DRAW * NEW_TOKENS / took)
        took = cpu_seconds(lambda turn=turn: ask(turn * peer_calls, peer_calls, NEW_TOKENS))
        peer.append(peer_calls * PER_DRAW * NEW_TOKENS / took)
    return ours, peer


def _rate_well_fed(loaded: LoadedModel, prompts: Sequence[Prompt]) -> float:
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW_TOKENS)
    asked = _table_rows(loaded, prompts, sampling)
    took = cpu_seconds(lambda: generate_rows(loaded, asked, sampling))
    return len(asked) * NEW_TOKENS / took


def _starter_row(base: ResolvedBase) -> TableRow:
    generator, loaded = endless(base)
    model = stock(base.path, torch.float32)
    prompts = starter_prompts()[:LARGEST_BATCH]
    ours, peer = _rates(generator, loaded, model, prompts, rounds=5, peer_calls=4)
    return TableRow(
        f"sample pairs, starter, {NEW_TOKENS} new tokens, {LARGEST_BATCH} prompts × {PER_DRAW}",
        f"`generate`, fp32, one prompt × {PER_DRAW} a call",
        "tokens a CPU-s",
        ours,
        peer,
        "more is better",
        Goal("at least", 10),
        _greedy_tokens_agree(model, loaded, prompts[:8]),
    )


def _table_rows(
    loaded: LoadedModel, prompts: Sequence[Prompt], sampling: Sampling, each: int = PER_DRAW
) -> list[Row]:
    ids = [loaded.prompt_ids(prompt, sampling) for prompt in prompts for _ in range(each)]
    return [Row(place, its, BASE_ADAPTER) for place, its in enumerate(ids)]


def _greedy_tokens_agree(model: Any, loaded: LoadedModel, prompts: Sequence[Prompt]) -> str:
    """Our loop on the peer's own fp32 weights takes the tokens that the peer took."""
    greedy = Sampling(temperature=0.0, max_new_tokens=24)
    asked = _table_rows(loaded, prompts, greedy, each=1)
    want = [stock_answers(model, row.ids, answers=1, tokens=24, greedy=True)[0] for row in asked]
    same = dataclasses.replace(loaded, model=model, llama=llama_of(model))
    if same.llama is None:
        raise AssertionError("our loop does not take this model")
    if [ids for _, ids in draw_rows(same, asked, greedy)] != want:
        raise AssertionError("greedy tokens in fp32 are not those of generate")
    return f"greedy tokens in fp32 equal on {len(prompts)} prompts × 24"


def _logps_agree(model: Any, loaded: LoadedModel, prompts: Sequence[Prompt]) -> str:
    """Log-probs of tokens as our loop draws them in bf16, against a plain fp32 forward pass."""
    sampling = Sampling(temperature=1.0, max_new_tokens=32)
    asked = _table_rows(loaded, prompts, sampling, each=1)
    seen: list[torch.Tensor] = []
    draw = decode.draw_tokens

    def noted(logits: torch.Tensor, how: Sampling) -> torch.Tensor:
        shares = logits.float().log_softmax(0)
        tokens = draw(logits, how)
        seen.append(shares.gather(0, tokens[None])[0])
        return tokens

    decode.draw_tokens = noted
    try:
        drawn = [ids for _, ids in draw_rows(loaded, asked, sampling)]
    finally:
        decode.draw_tokens = draw
    gaps = []
    for column, (row, new) in enumerate(zip(asked, drawn, strict=True)):
        with torch.inference_mode():
            logits = model(torch.tensor([[*row.ids, *new[:-1]]])).logits[0, len(row.ids) - 1 :]
        want = logits.log_softmax(-1).gather(1, torch.tensor(new)[:, None])[:, 0]
        gaps.append(torch.stack([step[column] for step in seen]) - want)
    gap = torch.cat(gaps).abs()
    most, mean = float(gap.max()), float(gap.mean())
    if most > MOST_LOGP_GAP or mean > MEAN_LOGP_GAP:
        raise AssertionError(f"log-probs differ by {most:.3f} at most and {mean:.3f} on average")
    return (
        f"log-probs of {len(gap)} tokens in bf16 within {MOST_LOGP_GAP} of an fp32 pass "
        f"(mean {mean:.3f}, most {most:.3f})"
    )


def _where_time_goes(loaded: LoadedModel, prompts: Sequence[Prompt]) -> str:
    """Shares of the processor's time in a few full steps, by kind of work."""
    from torch.profiler import ProfilerActivity, profile

    sampling = Sampling(temperature=1.0, max_new_tokens=24)
    asked = _table_rows(loaded, prompts, sampling)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        list(draw_rows(loaded, asked, sampling))
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    kinds: dict[str, Callable[[str], bool]] = {
        "products with weights": lambda key: key in ("aten::mm", "aten::addmm"),
        "attention": lambda key: key in ("aten::bmm", "aten::_softmax", "aten::masked_fill_"),
        "copies and casts": lambda key: key in ("aten::copy_", "aten::_index_put_impl_"),
    }
    total = sum(spent.values())
    shares = {
        kind: sum(time for key, time in spent.items() if belongs(key)) / total
        for kind, belongs in kinds.items()
    }
    shares["all else"] = 1 - sum(shares.values())
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    told = ", ".join(f"{kind} {share:.0%}" for kind, share in ranked)
    return f"a step is {told}: next bottleneck, {ranked[0][0]}"


def _parameters(model: Any) -> int:
    return sum(one.numel() for one in model.parameters())


if __name__ == "__main__":
    for _row in rows():
        print(_row, flush=True)
    sys.exit(0)
