"""What is wrong with a base model before anything is trained on it: its tokens and its embedding.

Owns which faults block a run. Reads JSON and single rows of safetensors; loads no weights, no
torch and no tokenizer library.
"""

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from alignment.hub.model_files import ModelFilesError, read_json, weight_files

_ORDINARY = re.compile(r"[\w\s.,;:!?'\"()&%/\\+*=#@$^~`-]+")
"""Text that people write. Marks such as <|im_end|>, [PAD] or </s> hold another character."""
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_NAMED = ("pad_token", "eos_token", "bos_token", "unk_token", "sep_token", "cls_token")
# Bits of a number but for its sign, by bytes: -0.0 is zero too.
_MAGNITUDE = {1: 0x7F, 2: 0x7FFF, 4: 0x7FFFFFFF, 8: 0x7FFFFFFFFFFFFFFF}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True, slots=True)
class BaseProblem:
    """A fault of a base model: what it is, what it means, what to do, whether a run may start."""

    name: str
    title: str
    meaning: str
    advice: str
    blocking: bool

    @property
    def line(self) -> str:
        return f"{self.title}: {self.advice}."


def check_base(folder: Path) -> list[BaseProblem]:
    """The faults of the model in `folder` that a run would meet, the blocking ones first.

    Looked for: no chat template; a special token that ordinary text spells; an embedding row of
    zeros under a token that may come first in a chat, which overflows a deep model's gradient, or
    under the padding, which does not; token ids beyond the embedding. A file that is missing or
    can't be read leaves out what it would tell: alignment.hub.model_files refuses such folders.
    """
    tokens = _Tokens(folder)
    rows = _Rows.of(folder)
    problems = [*_template(tokens), *_spelled(tokens)]
    if rows is not None:
        problems += [*_beyond(tokens, rows), *_zeros(tokens, rows)]
    return sorted(problems, key=lambda problem: not problem.blocking)


class _Tokens:
    """What a folder's JSON says of its tokenizer: ids by text, special texts, the template."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _json(folder / "tokenizer.json")
        self._settings = _json(folder / "tokenizer_config.json")
        self._older = _json(folder / "special_tokens_map.json")
        self._folder = folder

    @cached_property
    def template(self) -> str:
        file = self._folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        held = _json(self._folder / "chat_template.json").get("chat_template")
        held = held or self._settings.get("chat_template") or ""
        # Some tokenizers name several templates.
        named = held if isinstance(held, list) else [{"template": held}]
        return "".join(str(entry.get("template", "")) for entry in named)

    @cached_property
    def added(self) -> dict[str, int]:
        """Special tokens, text to id."""
        added = self._tokenizer.get("added_tokens", [])
        return {token["content"]: token["id"] for token in added if token.get("special")}

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """What ordinary text becomes: token to id, special tokens left out."""
        held = self._tokenizer.get("model", {}).get("vocab", {})
        pairs = held.items() if isinstance(held, dict) else ((t[0], n) for n, t in enumerate(held))
        return {token: number for token, number in pairs if token not in self.added}

    def named(self, role: str) -> str | None:
        """The text of the token with that role, such as "pad_token"."""
        held = self._settings.get(role, self._older.get(role))
        text = held.get("content") if isinstance(held, dict) else held
        return text or None

    @property
    def special(self) -> list[str]:
        roles = (self.named(role) for role in _NAMED)
        return sorted({*self.added, *(text for text in roles if text is not None)})

    def id_of(self, text: str | None) -> int | None:
        if text is None:
            return None
        return self.added.get(text, self.vocabulary.get(text))

    def may_come_first(self, text: str) -> bool:
        """Whether a rendered chat may begin with `text`; an end of turn never does."""
        if text == self.named("bos_token"):
            return True
        return text in self.template and text != self.named("eos_token")


@dataclass(frozen=True, slots=True)
class _Rows:
    """The input embedding inside a safetensors file: where its rows lie."""

    file: Path
    offset: int
    count: int
    width: int
    number_bytes: int

    @classmethod
    def of(cls, folder: Path) -> "_Rows | None":
        try:
            files = weight_files(folder)
        except ModelFilesError:
            return None
        for file in files:
            for name, entry, start in _tensors(file):
                if name.endswith(_EMBEDDINGS) and entry["dtype"] in _BYTES:
                    count, width = entry["shape"]
                    return cls(file, start, count, width, _BYTES[entry["dtype"]])
        return None

    def is_zero(self, row: int) -> bool:
        length = self.width * self.number_bytes
        with self.file.open("rb") as handle:
            handle.seek(self.offset + row * length)
            numbers = numpy.frombuffer(handle.read(length), dtype=f"<u{self.number_bytes}")
        return not numpy.any(numbers & _MAGNITUDE[self.number_bytes])


def _template(tokens: _Tokens) -> Iterator[BaseProblem]:
    if not tokens.template:
        yield BaseProblem(
            name="template",
            title="The base model has no chat template",
            meaning="Nothing says how a question and its answer become one text.",
            advice="choose an instruct or chat model",
            blocking=True,
        )


def _spelled(tokens: _Tokens) -> Iterator[BaseProblem]:
    pad, end = tokens.named("pad_token"), tokens.named("eos_token")
    for text in tokens.special:
        if not _ORDINARY.fullmatch(text):
            continue
        role = "padding" if text == pad else "end-of-turn" if text == end else "special"
        yield BaseProblem(
            name="spelled",
            title=f"The {role} token {text!r} looks like ordinary text",
            meaning=(
                "Wherever a prompt or an answer says it, the tokenizer sees that token and not the "
                "word; Votetune breaks it up with a space, so the model never reads what was said. "
                "As padding inside a text it can overflow the gradient of a deep model."
            ),
            advice=(
                "name a token that no text contains, such as <|pad|>, in tokenizer_config.json, "
                "or choose another base model"
            ),
            blocking=text in (pad, end),
        )


def _beyond(tokens: _Tokens, rows: _Rows) -> Iterator[BaseProblem]:
    roles = {tokens.named("pad_token"), tokens.named("bos_token"), tokens.named("eos_token")}
    read = {i for text, i in tokens.added.items() if text in roles or text in tokens.template}
    read.update(tokens.vocabulary.values())
    spare = set(tokens.added.values()) - read
    for numbers, blocking in ((read, True), (spare, False)):
        beyond = [number for number in numbers if number >= rows.count]
        if beyond:
            yield BaseProblem(
                name="embedding",
                title=(
                    f"The tokenizer knows id {max(beyond)} and the embedding has {rows.count} rows"
                ),
                meaning=(
                    "A text with such a token stops the run with an index error."
                    if blocking
                    else "Only special tokens that neither text nor template writes lie beyond it."
                ),
                advice="use the tokenizer that was saved with these weights",
                blocking=blocking,
            )


def _zeros(tokens: _Tokens, rows: _Rows) -> Iterator[BaseProblem]:
    pad = tokens.named("pad_token")
    for text in tokens.special:
        number = tokens.id_of(text)
        if number is None or number >= rows.count or not rows.is_zero(number):
            continue
        if tokens.may_come_first(text):
            yield BaseProblem(
                name="zero row",
                title=f"The token {text!r} of the chat template has a row of zeros",
                meaning=(
                    "At the beginning of a text it stays zero through every layer, and the "
                    "gradient of a deep model, from 16 to 32 layers on, is not finite."
                ),
                advice="give that row small random numbers, or choose another base model",
                blocking=True,
            )
        elif text == pad:
            # Measured at 4 to 32 layers, fp32 and bf16: finite wherever the row is not attended.
            yield BaseProblem(
                name="zero row",
                title=f"The padding token {text!r} has a row of zeros",
                meaning="Harmless: no position of padding is ever attended in training here.",
                advice="nothing to do",
                blocking=False,
            )


def _tensors(file: Path) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """(name, header entry, first byte in the file) of every tensor of a safetensors file."""
    with file.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        header: dict[str, Any] = json.loads(handle.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            offsets: Sequence[int] = entry["data_offsets"]
            yield name, entry, 8 + length + offsets[0]


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(read_json(file))
    except ModelFilesError:
        return {}
