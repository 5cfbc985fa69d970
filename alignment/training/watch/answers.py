"""What the trained model answers beside its base: length, repetition, and how far it has moved.

Owns how these are measured, on few prompts and bounded tokens; what they mean is said in
alignment.runs.answer_checks. Leaves the model, its mode and the random state as they were.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from alignment.chat import encode_prompt, end_of_turn_ids
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import AnswerFigures
from alignment.training.rows.data import split_held_out
from alignment.training.watch.samples import undisturbed
from alignment.training.weights.warm_start import load_whole
from annotation.schema import PreferenceExample, Prompt

MAX_NEW_TOKENS = 96
PROMPTS, PROMPTS_OF_LARGE = 32, 8
LARGE_FROM_PARAMETERS = 20_000_000
LONGEST_PROMPT = 512
"""Tokens; a longer one is passed over, so that the whole takes bounded time."""
NGRAM = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer's ids, its end of turn included, after its prompt's."""

    prompt_ids: list[int]
    ids: list[int]


def measure_answers(
    trainer: Any, spec: TrainingSpec, examples: Sequence[PreferenceExample]
) -> AnswerFigures | None:
    """Answers of the model and of the base to the held-out prompts, at temperature 1.

    Where too few prompts are held out, trained ones take their place. None where no prompt is
    short enough.
    """
    import torch

    model, tokenizer = trainer.model, trainer.processing_class
    ends = end_of_turn_ids(tokenizer, spec.base_path)
    large = model.num_parameters() >= LARGE_FROM_PARAMETERS
    count = PROMPTS_OF_LARGE if large else PROMPTS
    found = (encode_prompt(tokenizer, p.messages) for p in prompts_to_ask(examples))
    asked = [ids for ids in found if len(ids) <= LONGEST_PROMPT][:count]
    if not asked:
        return None
    with undisturbed(model), torch.no_grad(), trainer.accelerator.autocast():
        torch.manual_seed(spec.seed)
        answers = _draw(model, tokenizer, asked, ends, trainer.accelerator.device)
        logps = [_logps(model, answer) for answer in answers]
        with _base_of(trainer, spec) as base:
            bases = [_logps(base, answer) for answer in answers]
            torch.manual_seed(spec.seed)
            of_base = _draw(base, tokenizer, asked, ends, trainer.accelerator.device)
    kl, error = kl_per_token(logps, bases)
    mine, its = ([_text_ids(a.ids, ends) for a in some] for some in (answers, of_base))
    return AnswerFigures(
        answers=len(answers),
        tokens=_mean([len(ids) for ids in mine]),
        base_tokens=_mean([len(ids) for ids in its]),
        repetition=_mean([repetition(ids) for ids in mine]),
        base_repetition=_mean([repetition(ids) for ids in its]),
        kl_per_token=kl,
        kl_error=error,
    )


def prompts_to_ask(examples: Sequence[PreferenceExample]) -> list[Prompt]:
    """The held-out prompts by hash, then, where these are few, the trained ones."""
    train, held_out = split_held_out(examples)
    found: dict[str, Prompt] = {}
    for some in (held_out, train):
        by_id = {e.prompt.id: e.prompt for e in some}
        found |= {name: by_id[name] for name in sorted(by_id) if name not in found}
    return list(found.values())


def repetition(ids: Sequence[int], n: int = NGRAM) -> float:
    """The share of an answer's n-grams that it has said before, 0 to 1: seq-rep-n of
    arXiv 1908.04319, 1 − |distinct n-grams| / |n-grams|. An answer under n tokens repeats nothing.
    """
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def kl_per_token(
    logps: Sequence[Sequence[float]], base_logps: Sequence[Sequence[float]]
) -> tuple[float, float | None]:
    """KL(model ‖ base) in nats a token on the model's own answers, and its standard error.

    Schulman's k3 at each token, r − 1 − ln r with r = p_base / p_model: unbiased, never below 0.
    Answers are drawn independently, tokens within one are not, so the error is that of a ratio of
    sums over answers: with totals K_i of k3 over n_i tokens and R = ΣK / Σn, its square is
    m/(m−1) Σ(K_i − R n_i)² / (Σn)². None for a single answer.
    """
    totals = [
        sum(math.expm1(q - p) - (q - p) for p, q in zip(mine, its, strict=True))
        for mine, its in zip(logps, base_logps, strict=True)
    ]
    sizes = [len(mine) for mine in logps]
    m, tokens = len(sizes), sum(sizes)
    mean = sum(totals) / tokens
    squares = sum((k - mean * n) ** 2 for k, n in zip(totals, sizes, strict=True))
    error = math.sqrt(m / (m - 1) * squares) / tokens if m > 1 else None
    return mean, error


def _draw(
    model: Any, tokenizer: Any, asked: Sequence[list[int]], ends: frozenset[int], device: Any
) -> list[Answer]:
    """One answer to each prompt, all in one batch."""
    import torch
    from transformers import GenerationConfig

    width, pad = max(map(len, asked)), tokenizer.pad_token_id
    window = getattr(model.config, "max_position_embeddings", None) or 1_000_000
    output = model.generate(
        input_ids=torch.tensor([[pad] * (width - len(i)) + i for i in asked], device=device),
        attention_mask=torch.tensor(
            [[0] * (width - len(i)) + [1] * len(i) for i in asked], device=device
        ),
        generation_config=GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max(1, min(MAX_NEW_TOKENS, window - width)),
            eos_token_id=sorted(ends),
            pad_token_id=pad,
            use_cache=True,
        ),
    )
    answers = []
    for ids, row in zip(asked, output[:, width:].tolist(), strict=True):
        end = next((n + 1 for n, token in enumerate(row) if token in ends), len(row))
        answers.append(Answer(ids, row[:end]))
    return answers


def _logps(model: Any, answer: Answer) -> list[float]:
    """The log-prob of each token of an answer, one row at a time: no padding plays a part."""
    import torch

    start = len(answer.prompt_ids)
    ids = torch.tensor([answer.prompt_ids + answer.ids], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1].float()
    picked = torch.log_softmax(logits, dim=-1).gather(1, ids[0, start:, None])
    return [float(value) for value in picked[:, 0].tolist()]


@contextmanager
def _base_of(trainer: Any, spec: TrainingSpec) -> Iterator[Any]:
    """The base: the model without its adapter, or loaded beside a model tuned in full."""
    if spec.recipe.tuning == "lora":
        with trainer.model.disable_adapter():
            yield trainer.model
        return
    yield load_whole(spec.base_path).to(trainer.accelerator.device).eval()


def _text_ids(ids: Sequence[int], ends: frozenset[int]) -> list[int]:
    return [token for token in ids if token not in ends]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
