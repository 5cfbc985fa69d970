"""How a conversation becomes text and tokens: the one rendering of the chat template.

Sampling, training and scoring all go through here, so that they see the same tokens. Owns that
text never turns into a special token, and where a turn ends. Loads no weights.
"""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from annotation.faults import Fault, Unaskable
from annotation.schema import Message

Tokenizer = Any
"""A transformers tokenizer; its own types would cost the web app the import."""


class GenerationError(Fault):
    """Answers that could not be drawn; the message is the one line that a person reads."""


class UnaskablePrompt(GenerationError, Unaskable):
    """A prompt too long for the model."""


class ChatError(GenerationError):
    """A conversation that the chat template refuses, or a model without one."""


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool
) -> str:
    """`messages` in the tokenizer's chat template, as text to tokenise without adding specials.

    A message that spells a special token, such as "<|im_end|>", gets a space after that token's
    first character, so that only the template can speak special tokens.

    Raises ChatError where the tokenizer has no template, or its template refuses the roles.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise ChatError("The base model has no chat template: choose an instruct model.")
    special = _special_pattern(tokenizer)
    turns = [{"role": m.role, "content": _disarm(m.content, special)} for m in messages]
    try:
        rendered = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise ChatError(
            f"The base model's chat template refuses this conversation ({error}): "
            "use user messages only."
        ) from None
    return str(rendered)


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of rendered `text`, nothing added."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of the conversation up to where the assistant begins to speak."""
    return encode_text(tokenizer, render_chat(tokenizer, messages, add_generation_prompt=True))


def encode_completion(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    completion: str,
    *,
    end_ids: Collection[int],
) -> list[int]:
    """Ids that follow `encode_prompt(messages)` when the assistant says `completion`.

    They end with exactly one end of turn, the template's own where it writes one; what the
    template puts behind it is left out, because a model stops there when it samples. Where nothing
    is known to end a turn, neither template nor tokenizer nor `end_ids`, they end with the text.
    """
    answered = [*messages, Message("assistant", completion)]
    prompt = render_chat(tokenizer, messages, add_generation_prompt=True)
    full = render_chat(tokenizer, answered, add_generation_prompt=False)
    # A template that rewrites earlier turns leaves no tail: then the text stands alone.
    tail = full[len(prompt) :] if full.startswith(prompt) else ""
    tail_ids = encode_text(tokenizer, tail)
    ends = (index for index, token in enumerate(tail_ids) if token in end_ids)
    end = next(ends, None)
    said = _disarm(completion, _special_pattern(tokenizer))
    if end is not None and tail.startswith(said):
        return tail_ids[: end + 1]
    # So it does where the template adds to what was said: train on what was drawn, and its end.
    mark = tokenizer.eos_token_id if end is None else tail_ids[end]
    if mark is None:
        mark = min(end_ids, default=None)
    return [*encode_text(tokenizer, said), *([] if mark is None else [mark])]


def end_of_turn_ids(tokenizer: Tokenizer, folder: Path) -> frozenset[int]:
    """Every id that ends an answer: the tokenizer's, and those of the model's own configuration."""
    ends: set[int] = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.is_file():
            named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            ends |= set(named) if isinstance(named, list) else {named} - {None}
    return frozenset(ends)


def _special_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    spelled = {*tokenizer.all_special_tokens, *added} - {""}
    longest_first = sorted(spelled, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _disarm(content: str, special: re.Pattern[str]) -> str:
    # Again until none is left: breaking one token can leave another whole.
    while special.search(content):
        content = special.sub(_broken, content)
    return content


def _broken(match: re.Match[str]) -> str:
    token = match[0]
    # A space cannot break a token that is one character long, or made with spaces.
    if len(token) == 1 or any(character.isspace() for character in token):
        return token[1:]
    return f"{token[0]} {token[1:]}"
