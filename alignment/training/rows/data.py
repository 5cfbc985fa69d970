"""From the examples of an export to what a trainer is fed: what is held out, and the tokens.

Owns the hold-out within an export. The tokens are those of alignment.chat, so sampling, training
and scoring agree. Loads no weights.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from alignment.chat import Tokenizer, encode_completion, encode_prompt
from annotation.schema import Finish, Message, PreferenceExample

HOLD_OUT_FROM = 50
"""Examples from which on a tenth of the prompts, by hash, is held out to evaluate on.

Of fewer, a tenth is under five pairs: an accuracy in steps of more than .2 says nothing, and the
run can spare them less.
"""
MAX_HELD_OUT = 256
"""Held-out examples at most: a standard error of .03; more cost time and training examples."""


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """Token ids of one example: the prompt as it is sampled from, and both completions.

    A completion ends with exactly one end-of-turn token, unless it was cut: at the token limit when
    it was drawn, or at the maximum length here.
    """

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def split_held_out(
    examples: Sequence[PreferenceExample],
) -> tuple[list[PreferenceExample], list[PreferenceExample]]:
    """(train, held out): a tenth of the prompts by hash, once there are `HOLD_OUT_FROM` examples.

    Other hex digits of the prompt's id than those that keep eval prompts out of every export. By
    prompt alone, so that no later run trains on what an earlier one was stopped by.
    """
    if len(examples) < HOLD_OUT_FROM:
        return list(examples), []
    count = Counter(e.prompt.id for e in examples)
    tenth = sorted(name for name in count if int(name[8:16], 16) % 10 == 0)
    sizes = itertools.accumulate(count[name] for name in tenth)
    names = {name for name, size in zip(tenth, sizes, strict=True) if size <= MAX_HELD_OUT}
    train = [e for e in examples if e.prompt.id not in names]
    return train, [e for e in examples if e.prompt.id in names]


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
        _encode_answer(tokenizer, messages, text, finish, end_ids)[:room]
        for text, finish in (
            (example.chosen, example.chosen_finish),
            (example.rejected, example.rejected_finish),
        )
    )
    return TokenizedPair(prompt_ids, chosen_ids, rejected_ids)


def _encode_answer(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    text: str,
    finish: Finish,
    end_ids: frozenset[int],
) -> list[int]:
    ids = encode_completion(tokenizer, messages, text, end_ids=end_ids)
    # A cut answer did not end where it stops: no end of turn is learned there.
    return ids[:-1] if finish == "length" and ids[-1] in end_ids else ids


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
