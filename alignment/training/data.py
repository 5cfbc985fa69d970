"""From the examples of an export to what a trainer is fed: what is held out, and the tokens.

Owns the hold-out within an export. The tokens are those of alignment.chat, so sampling, training
and scoring agree. Loads no weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from alignment.chat import Tokenizer, encode_completion, encode_prompt
from annotation.schema import PreferenceExample

HOLD_OUT_FROM = 300
"""Examples from which on a tenth of the prompts, by hash, is held out to evaluate on."""


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """Token ids of one example: the prompt as it is sampled from, and both completions.

    A completion ends with exactly one end-of-turn token, unless it was cut at the maximum length.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def split_held_out(
    examples: Sequence[PreferenceExample],
) -> tuple[list[PreferenceExample], list[PreferenceExample]]:
    """(train, held out): a tenth of the prompts by hash, once there are enough examples.

    Other hex digits of the prompt's id than those that keep eval prompts out of every export.
    """
    if len(examples) < HOLD_OUT_FROM:
        return list(examples), []
    held_out = [e for e in examples if int(e.prompt.id[8:16], 16) % 10 == 0]
    names = {e.prompt.id for e in held_out}
    return [e for e in examples if e.prompt.id not in names], held_out


def tokenize_example(
    tokenizer: Tokenizer,
    example: PreferenceExample,
    *,
    end_ids: frozenset[int],
    max_length: int,
) -> TokenizedPair | None:
    """The tokens that sampling and scoring see; None when the prompt alone fills `max_length`."""
    messages = example.prompt.messages
    prompt_ids = encode_prompt(tokenizer, messages)
    room = max_length - len(prompt_ids)
    if room <= 0:
        return None
    chosen_ids, rejected_ids = (
        encode_completion(tokenizer, messages, text, end_ids=end_ids)[:room]
        for text in (example.chosen, example.rejected)
    )
    return TokenizedPair(prompt_ids, chosen_ids, rejected_ids)


def tokenize_examples(
    tokenizer: Tokenizer,
    examples: Sequence[PreferenceExample],
    *,
    end_ids: frozenset[int],
    max_length: int,
) -> list[TokenizedPair]:
    """Those of `examples` whose prompt leaves room for an answer within `max_length` tokens."""
    pairs = [
        tokenize_example(tokenizer, example, end_ids=end_ids, max_length=max_length)
        for example in examples
    ]
    return [pair for pair in pairs if pair is not None]
