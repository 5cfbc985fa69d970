"""Questions whose better answer is known: a file that the owner writes, and its pairs.

Owns what a usable file is and refuses the rest with one line that names the line. Keyed ids and
sides, so that a voter who has the file's format and not the key cannot tell a gold pair. Stores
nothing.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from annotation.checks import is_flipped, keyed_id
from annotation.faults import Fault
from annotation.prompts import BadRow, clean_text, to_prompt
from annotation.schema import Choice, Completion, ModelRef, Pair, PairKind, Prompt, Sampling

GOLD_MODEL = "gold"
"""The base of a prepared answer's ModelRef; its revision is the sha256 of its row."""
MAX_ANSWER_CHARACTERS = 20_000
_FIELDS = ("prompt", "better", "worse")


class GoldError(Fault):
    """A file of gold pairs that cannot be used; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class GoldRow:
    """A question with a known answer. Equal rows have equal digests."""

    prompt: Prompt
    better: str
    worse: str

    @property
    def digest(self) -> str:
        """sha256 of the row, as 64 hex digits."""
        messages = [asdict(message) for message in self.prompt.messages]
        canonical = json.dumps([messages, self.better, self.worse], separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_gold(path: Path) -> list[GoldRow]:
    """The rows of a .jsonl file, in order and without repeats; raises GoldError."""
    rows: dict[str, GoldRow] = {}
    # Not splitlines(): an answer may hold U+2028 or a form feed.
    for number, line in enumerate(_read(path).replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            try:
                row = _to_row(line)
            except BadRow as error:
                raise GoldError(f"GOLD_PAIRS: {path}, line {number}: {error}") from None
            rows.setdefault(row.digest, row)
    if not rows:
        raise GoldError(f"GOLD_PAIRS: {path} holds no gold pair: write one, or unset it.")
    return list(rows.values())


def gold_pairs(rows: Sequence[GoldRow], secret: bytes, now: datetime) -> list[Pair]:
    """The pairs of `rows`, the same from the same rows and key; either side is the better one."""
    pairs = []
    for row in rows:
        model = ModelRef(GOLD_MODEL, row.digest)
        better, worse = (Completion(text, model, Sampling()) for text in (row.better, row.worse))
        pair_id = keyed_id(secret, GOLD_MODEL, row.digest)
        second = is_flipped(secret, pair_id, GOLD_MODEL)
        pairs.append(
            Pair(
                id=pair_id,
                prompt=row.prompt,
                completions=(worse, better) if second else (better, worse),
                created_at=now,
                kind=PairKind.GOLD,
                expected=Choice.B if second else Choice.A,
            )
        )
    return pairs


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise GoldError(
            f"GOLD_PAIRS: {path} can't be read ({error.strerror}): set a .jsonl file, or unset it."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise GoldError(f"GOLD_PAIRS: {path}, line {line}: not UTF-8: save it as UTF-8.") from None


def _to_row(line: str) -> GoldRow:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRow("not JSON: write one object a line.") from None
    if not isinstance(fields, dict) or sorted(fields) != sorted(_FIELDS):
        raise BadRow('write {"prompt": "...", "better": "...", "worse": "..."} and nothing else.')
    prompt = to_prompt(fields["prompt"])
    if prompt is None:
        raise BadRow("the prompt is empty: ask something.")
    better, worse = (_answer(name, fields[name]) for name in ("better", "worse"))
    if better.strip() == worse.strip():
        raise BadRow("both answers are equal: make one of them worse.")
    return GoldRow(prompt, better, worse)


def _answer(name: str, text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f'"{name}" is no text: write an answer.')
    if len(text) > MAX_ANSWER_CHARACTERS:
        raise BadRow(
            f'"{name}" has {len(text):,} characters: shorten it to {MAX_ANSWER_CHARACTERS:,}.'
        )
    return clean_text(text).rstrip()
