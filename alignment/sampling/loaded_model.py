"""A model in memory, and what may be asked of it: prompts that fit, answers as text.

Owns where an answer ends and which prompts are too long. Loads nothing and draws nothing.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alignment.chat import Tokenizer, UnaskablePrompt, encode_prompt
from annotation.prompts import clean_text
from annotation.schema import Finish, ModelRef, Prompt, Sampling

if TYPE_CHECKING:
    from alignment.sampling.llama import Llama


@dataclass(slots=True)
class LoadedModel:
    """Weights and tokenizer of one base. `model` becomes a PeftModel with its first adapter.

    `window` is the longest sequence in tokens; `adapters` are PEFT's names, least used first.
    `llama` is the base where a decode loop of our own can draw from it, else `generate` does.
    """

    tokenizer: Tokenizer
    model: Any
    device: str
    window: int
    end_ids: frozenset[int]
    adapters: OrderedDict[ModelRef, str] = field(default_factory=OrderedDict)
    adapters_ever: int = 0
    llama: "Llama | None" = None

    @property
    def pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        # Any id will do where there is no pad token: padding is masked.
        return int(pad) if pad is not None else 0

    def prompt_ids(self, prompt: Prompt, sampling: Sampling) -> list[int]:
        """Ids to answer from.

        Raises UnaskablePrompt where they do not fit the window beside `max_new_tokens`, ChatError
        where the chat template refuses the conversation.
        """
        ids = encode_prompt(self.tokenizer, prompt.messages)
        room = max(0, self.window - sampling.max_new_tokens)
        if len(ids) > room:
            raise UnaskablePrompt(
                f"The prompt has {len(ids):,} tokens and this model takes {room:,} beside "
                f"{sampling.max_new_tokens:,} for the answer: shorten it."
            )
        return ids

    def answer(self, ids: Sequence[int]) -> tuple[str, Finish]:
        """Text up to the end of turn, and whether there was one."""
        end = next((i for i, token in enumerate(ids) if token in self.end_ids), None)
        text = clean_text(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=True))
        return text, "length" if end is None else "stop"

    def text(self, ids: Sequence[int]) -> str:
        return self.answer(ids)[0]

    def length(self, ids: Sequence[int]) -> int:
        """How many tokens of an answer come before its end of turn."""
        return next((i for i, token in enumerate(ids) if token in self.end_ids), len(ids))
