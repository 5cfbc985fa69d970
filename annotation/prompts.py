"""Where prompts come from: the shipped list, a file, or a dataset on the Hub.

Owns what a usable source is: UTF-8, the right column, no repeats, nothing overlong, at least one
prompt of the train split. Refuses the rest with one line that says where and what to do. Samples
nothing and stores nothing.
"""

import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, cast

from annotation.faults import Fault
from annotation.schema import Message, Prompt, Split

SHIPPED_PROMPTS = Path(__file__).parent / "shipped_prompts.txt"
MAX_PROMPT_CHARACTERS = 8_000
HUB_TIMEOUT_S = 5.0

Source = Iterator[tuple[int, object]]
"""Line or row number, from 1, and what stands there: a text or a list of messages."""

_KINDS = (".txt", ".jsonl", ".csv", ".parquet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_ROLES = ("system", "user", "assistant")
_log = logging.getLogger(__name__)


class PromptsError(Fault):
    """A source of prompts that cannot be used; the message is the one line that a person reads."""


class BadRow(ValueError):
    """What is wrong with one row; the caller knows which row it is."""


def clean_text(text: str) -> str:
    """`text` with NUL and lone surrogates, which no store takes, replaced by U+FFFD."""
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


def one_line(error: BaseException) -> str:
    """The first line of `error`, at most 300 characters, or its type where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def load_prompts(source: str | None) -> list[Prompt]:
    """The prompts to vote on: those of `read_prompts`, some of them of the train split.

    Raises PromptsError as `read_prompts` does, and where every prompt falls to evaluation.
    """
    prompts = read_prompts(source)
    if all(p.split is Split.EVAL for p in prompts):
        raise PromptsError(
            f"{source}: all {len(prompts)} prompts fall, by their hash, to evaluation, and none "
            "is left to vote on: add more prompts."
        )
    return prompts


def read_prompts(source: str | None) -> list[Prompt]:
    """The prompts of `source` in order, without repeats (by Prompt.id) and empty rows.

    `source` is None for the shipped prompts, a .txt file (a prompt a line), a .jsonl, .csv or
    .parquet file with `prompt` (text, or a list of {role, content}) or `messages`, or the id of
    a Hub dataset with such a column. Answers after the last user turn are dropped.

    Raises PromptsError: the file is missing, unreadable or not UTF-8; a row is malformed or over
    MAX_PROMPT_CHARACTERS (on the Hub, where nobody can mend it, such a row is left out and
    logged); the Hub can't be reached; there is no prompt.
    """
    if source is None:
        return _collect(_text_lines(SHIPPED_PROMPTS), str(SHIPPED_PROMPTS), "line", strict=True)
    path = Path(source)
    kind = path.suffix.lower()
    if kind not in _KINDS and not path.exists() and _HUB_ID.fullmatch(source):
        return _collect(_hub_rows(source), source, "row", strict=False)
    if not path.is_file():
        raise PromptsError(
            f"Prompts file {source} {'is a folder' if path.is_dir() else 'does not exist'}: set "
            "PROMPTS to a .txt, .jsonl, .csv or .parquet file or a Hub dataset id."
        )
    readers = {
        ".txt": _text_lines,
        ".jsonl": _json_lines,
        ".csv": _csv_rows,
        ".parquet": _parquet_rows,
    }
    if kind not in readers:
        raise PromptsError(
            f"Prompts file {source} has an unknown ending: use .txt, .jsonl, .csv or .parquet."
        )
    return _collect(readers[kind](path), source, _unit(kind), strict=True)


def _unit(kind: str) -> str:
    return "row" if kind == ".parquet" else "line"


def _collect(rows: Source, name: str, unit: str, *, strict: bool) -> list[Prompt]:
    prompts: dict[str, Prompt] = {}
    left_out = 0
    for number, row in rows:
        try:
            prompt = to_prompt(row)
        except BadRow as error:
            if strict:
                raise PromptsError(f"{name}, {unit} {number}: {error}") from None
            left_out += 1
            continue
        if prompt is not None:
            prompts.setdefault(prompt.id, prompt)
    if left_out:
        _log.warning("%s: left out %d rows that are malformed or overlong", name, left_out)
    if not prompts:
        raise PromptsError(f"{name} holds no usable prompt: give it at least one.")
    return list(prompts.values())


def to_prompt(row: object) -> Prompt | None:
    """The prompt in `row`, or None where it is blank; raises BadRow."""
    if row is None:
        return None
    turns = [Message("user", row.strip())] if isinstance(row, str) else _to_turns(row)
    while turns and turns[-1].role != "user":
        turns.pop()
    if not turns or not turns[-1].content.strip():
        return None
    turns = [Message(turn.role, clean_text(turn.content)) for turn in turns]
    size = sum(len(turn.content) for turn in turns)
    if size > MAX_PROMPT_CHARACTERS:
        raise BadRow(
            f"the prompt has {size:,} characters: shorten it to {MAX_PROMPT_CHARACTERS:,}."
        )
    return Prompt(tuple(turns))


def _to_turns(row: object) -> list[Message]:
    if not isinstance(row, list):
        raise BadRow("the prompt is neither a text nor a list of messages: write one of them.")
    turns = []
    for turn in row:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            raise BadRow('a message has no text: write {"role": "user", "content": "..."}.')
        role = turn.get("role")
        if role not in _ROLES:
            raise BadRow(f"the role {role!r} is unknown: use system, user or assistant.")
        role = cast(Literal["system", "user", "assistant"], role)
        turns.append(Message(role, turn["content"]))
    return turns


def _read_utf8(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PromptsError(
            f"Prompts file {path} can't be read ({error.strerror}): check its permissions."
        ) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PromptsError(f"{path}, line {line}: not UTF-8 text: save it as UTF-8.") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Not splitlines(): a prompt may hold U+2028 or a form feed.
    text = _read_utf8(path).replace("\r\n", "\n").replace("\r", "\n")
    return enumerate(text.split("\n"), start=1)


def _text_lines(path: Path) -> Source:
    yield from _lines(path)


def _json_lines(path: Path) -> Source:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise PromptsError(
                f"{path}, line {number}: not JSON: write one object a line."
            ) from None
        if not isinstance(row, dict) or not ({"prompt", "messages"} & row.keys()):
            raise PromptsError(
                f'{path}, line {number}: no "prompt": write {{"prompt": "..."}} on each line.'
            )
        yield number, row["prompt"] if "prompt" in row else row["messages"]


def _csv_rows(path: Path) -> Source:
    text = _read_utf8(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if "prompt" not in (reader.fieldnames or ()):
            raise PromptsError(
                f'{path}, line 1: no column "prompt": name the column of the prompts "prompt".'
            )
        for row in reader:
            yield reader.line_num, row["prompt"]
    except csv.Error as error:
        raise PromptsError(
            f"{path}, line {reader.reader.line_num}: not CSV ({error}): check its quotes."
        ) from None


def _parquet_rows(path: Path) -> Source:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            column = _column(file.schema_arrow.names, str(path))
            rows: list[object] = file.read(columns=[column]).column(column).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise PromptsError(f"{path} is not a Parquet file ({one_line(error)}).") from None
    yield from enumerate(rows, start=1)


def _hub_rows(name: str) -> Source:
    import datasets
    import httpx2

    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() not in ("1", "TRUE", "YES", "ON"):
            _probe(name)
        loaded = datasets.load_dataset(name, streaming=False)
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise PromptsError(
            f"Prompts: {name} is no file here, and as a Hub dataset it can't be loaded "
            f"({one_line(error)}): check the name and the network, or set PROMPTS to a file."
        ) from None
    split = loaded["train"] if "train" in loaded else loaded[next(iter(loaded))]
    column = _column(split.column_names, name)
    yield from enumerate(cast(Iterable[object], split[column]), start=1)


def _probe(name: str) -> None:
    # load_dataset retries an unreachable hub for minutes; one short question answers at once.
    from huggingface_hub import HfApi

    HfApi().dataset_info(name, timeout=HUB_TIMEOUT_S)


def _column(names: Iterable[str], source: str) -> str:
    present = list(names)
    for wanted in ("prompt", "messages"):
        if wanted in present:
            return wanted
    raise PromptsError(
        f'{source} has no column "prompt" or "messages" but {", ".join(map(repr, present))}: '
        "rename one."
    )
