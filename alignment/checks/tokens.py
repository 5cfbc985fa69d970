"""What is wrong with examples once they are tokens, and a few of them token by token.

Goes through the functions that training goes through (alignment.training.rows.data,
alignment.chat), so that what is shown is what is trained on. Loads a tokenizer, no weights.
"""

import hashlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignment.chat import ChatError, Tokenizer, encode_prompt, end_of_turn_ids, render_chat
from alignment.checks.diagnosis import ExampleTokens, Finding, Level, Role, TokenPiece
from alignment.checks.examples import length_finding
from alignment.checks.material import count_of
from alignment.runs.recipes import Method
from alignment.starter.starter import STARTER_DIR
from alignment.training.rows.data import TokenizedPair, tokenize_example
from annotation.schema import Message, PreferenceExample

SHOWN = 3
LOOKED_AT = 2000
"""Examples that are tokenized, picked by hash: more tell no more and take seconds."""
MANY_TOO_LONG = 0.05
"""From one in twenty on, what is cut or dropped is no longer the odd one out."""


@dataclass(frozen=True, slots=True)
class TokenReport:
    """Findings on the tokens, and SHOWN of the examples token by token.

    `length_gap` is by how many tokens the two answers of an example differ on average.
    """

    findings: tuple[Finding, ...]
    shown: tuple[ExampleTokens, ...]
    length_gap: float = 0.0


@dataclass(frozen=True, slots=True)
class _Tokenized:
    """An example in tokens: `whole`, and as it `fits` the limit; None where its prompt fills it."""

    example: PreferenceExample
    whole: TokenizedPair
    fits: TokenizedPair | None


def check_tokens(
    examples: Sequence[PreferenceExample],
    folder: Path,
    *,
    method: Method,
    max_length: int,
    tokenizer: Tokenizer | None = None,
) -> TokenReport:
    """The tokens of `examples` for the base in `folder`, cut at `max_length` tokens.

    A conversation that the chat template refuses is a blocking finding, and nothing is shown.
    """
    tokenizer = tokenizer or load_tokenizer(folder)
    ends = end_of_turn_ids(tokenizer, folder)
    picked = sorted(examples, key=_hash)[:LOOKED_AT]
    try:
        rows = [_tokenize(tokenizer, example, ends, max_length) for example in picked]
        shown = tuple(
            _show(tokenizer, row.example, row.fits, ends=ends, method=method)
            for row in [row for row in rows if row.fits][:SHOWN]
            if row.fits
        )
    except ChatError as error:
        title, _, advice = " ".join(str(error).split()).rstrip(".").rpartition(": ")
        meaning = "Training renders every example in the base's chat template."
        return TokenReport((Finding("template", "blocking", title, meaning, advice),), ())
    findings = [_dropped(rows, max_length), _truncated(rows, max_length), _spelled(tokenizer, rows)]
    # Lengths before any cut, which would make the two sides of an example alike.
    lengths = [(len(row.whole.chosen_ids), len(row.whole.rejected_ids)) for row in rows]
    findings.append(length_finding(lengths, "tokens"))
    gap = sum(abs(chosen - rejected) for chosen, rejected in lengths) / max(1, len(lengths))
    return TokenReport(tuple(f for f in findings if f is not None), shown, gap)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder` as training loads it: from this disk, running none of its code."""
    if folder == STARTER_DIR:
        # The class that AutoTokenizer comes to, without the two seconds of torch on its way.
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _hash(example: PreferenceExample) -> str:
    return hashlib.sha256(example.pair_id.encode()).hexdigest()


def _tokenize(
    tokenizer: Tokenizer, example: PreferenceExample, ends: frozenset[int], max_length: int
) -> _Tokenized:
    whole = tokenize_example(tokenizer, example, end_ids=ends, max_length=sys.maxsize)
    assert whole is not None  # no prompt fills sys.maxsize
    longest = len(whole.prompt_ids) + max(len(whole.chosen_ids), len(whole.rejected_ids))
    if longest <= max_length:
        return _Tokenized(example, whole, whole)
    fits = tokenize_example(tokenizer, example, end_ids=ends, max_length=max_length)
    return _Tokenized(example, whole, fits)


def _dropped(rows: Sequence[_Tokenized], max_length: int) -> Finding | None:
    if not rows:
        return None
    dropped = sum(row.fits is None for row in rows)
    share = dropped / len(rows)
    title = f"{dropped} of {len(rows)} examples have a prompt of {max_length} tokens or more"
    if dropped == len(rows):
        title = f"No example fits into {max_length} tokens"
        meaning = "Every prompt alone fills what the model may read."
        advice = "use shorter prompts or a base model with a longer window"
        return Finding("dropped", "blocking", title, meaning, advice, share)
    meaning = "Such a prompt leaves no room for an answer, and its example is left out."
    if not dropped:
        meaning = f"Each leaves room for an answer within {max_length} tokens."
        return Finding("dropped", "ok", "Every prompt fits", meaning, value=share)
    return Finding("dropped", _level(share), title, meaning, "use shorter prompts", share)


def _truncated(rows: Sequence[_Tokenized], max_length: int) -> Finding | None:
    fitting = [(row.whole, row.fits) for row in rows if row.fits is not None]
    if not fitting:
        return None
    cut = sum(whole != fits for whole, fits in fitting)
    share = cut / len(fitting)
    meaning = (
        f"A run reads {max_length} tokens of prompt and answer; of a longer answer the model "
        "never sees the end."
    )
    if not cut:
        title = "Every answer fits"
        meaning = f"A run reads {max_length} tokens of prompt and answer, and nothing is longer."
        return Finding("truncated", "ok", title, meaning, value=share)
    title = f"{cut} of {len(fitting)} examples are cut at {max_length} tokens"
    advice = "use shorter prompts and answers, or a base model with a longer window"
    return Finding("truncated", _level(share), title, meaning, advice, share)


def _spelled(tokenizer: Tokenizer, rows: Sequence[_Tokenized]) -> Finding | None:
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    special = {*tokenizer.all_special_tokens, *added} - {""}
    spelled = sum(
        any(token in text for token in special for text in _texts(row.example)) for row in rows
    )
    if not spelled:
        return None
    title = f"{count_of(spelled, 'example')} spell a special token"
    meaning = "Text that looks like the template's own marks is broken up by a space first."
    return Finding("broken_up", "note", title, meaning, value=spelled)


def _texts(example: PreferenceExample) -> list[str]:
    return [*(m.content for m in example.prompt.messages), example.chosen, example.rejected]


def _level(share: float) -> Level:
    return "warning" if share >= MANY_TOO_LONG else "note"


def _show(
    tokenizer: Tokenizer,
    example: PreferenceExample,
    pair: TokenizedPair,
    *,
    ends: Collection[int],
    method: Method,
) -> ExampleTokens:
    roles = _prompt_roles(tokenizer, example.prompt.messages)
    prompt = [
        TokenPiece(token, text, role, counts=False)
        for token, text, role in zip(
            pair.prompt_ids, _pieces(tokenizer, pair.prompt_ids), roles, strict=True
        )
    ]
    sides = [
        tuple(
            TokenPiece(token, text, "end" if token in ends else "text", counts)
            for token, text in zip(ids, _pieces(tokenizer, ids), strict=True)
        )
        # SFT never reads the rejected answer; the other losses read both.
        for ids, counts in ((pair.chosen_ids, True), (pair.rejected_ids, method != "sft"))
    ]
    cut = [not side or side[-1].role != "end" for side in sides]
    return ExampleTokens(example.pair_id, tuple(prompt), sides[0], sides[1], cut[0], cut[1])


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token where it stands; its name where it is part of a character."""
    texts, before = [], ""
    for count, token in enumerate(ids, start=1):
        after = str(tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False))
        piece = after[len(before) :]
        whole = piece and after.startswith(before) and "\ufffd" not in piece
        texts.append(piece if whole else str(tokenizer.convert_ids_to_tokens(token)))
        before = after
    return texts


def _prompt_roles(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Role]:
    """Who wrote each token of the prompt: the template, or the one who spoke."""
    rendered = render_chat(tokenizer, messages, add_generation_prompt=True)
    ids = encode_prompt(tokenizer, messages)
    spoken = _spoken(rendered, messages)
    if spoken is None or not tokenizer.is_fast:
        special = set(tokenizer.all_special_ids)
        return ["template" if token in special else "text" for token in ids]
    offsets = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    return [
        "text" if any(low < end and start < high for low, high in spoken) else "template"
        for start, end in offsets["offset_mapping"]
    ]


def _spoken(rendered: str, messages: Sequence[Message]) -> list[tuple[int, int]] | None:
    """Where in `rendered` the messages stand; None where the template or a mark changed one."""
    spans, start = [], 0
    for message in messages:
        said = message.content.strip()
        found = rendered.find(said, start)
        if found < 0:
            return None
        start = found + len(said)
        spans.append((found, start))
    return spans
