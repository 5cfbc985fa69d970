"""The lines of train.jsonl: a preference example as a row of JSON, and back. Pure."""

import json
from dataclasses import asdict
from functools import lru_cache

import orjson

from annotation.schema import Message, ModelRef, PreferenceExample, Prompt


def to_line(example: PreferenceExample) -> bytes:
    """The example as one line of UTF-8, its end included."""
    row = {
        "prompt": [{"role": m.role, "content": m.content} for m in example.prompt.messages],
        "chosen": [{"role": "assistant", "content": example.chosen}],
        "rejected": [{"role": "assistant", "content": example.rejected}],
        "pair_id": example.pair_id,
        "votes": example.votes,
        "agreement": example.agreement,
        "chosen_model": _model_row(example.chosen_model),
        "rejected_model": _model_row(example.rejected_model),
        "chosen_finish": example.chosen_finish,
        "rejected_finish": example.rejected_finish,
    }
    # The bytes of json.dumps without ASCII escapes and spaces, in a third of its time.
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def from_line(line: str) -> PreferenceExample:
    """The example that `to_line` was given."""
    row = json.loads(line)
    return PreferenceExample(
        prompt=Prompt(tuple(Message(m["role"], m["content"]) for m in row["prompt"])),
        chosen=row["chosen"][0]["content"],
        rejected=row["rejected"][0]["content"],
        pair_id=row["pair_id"],
        votes=row["votes"],
        agreement=row["agreement"],
        chosen_model=ModelRef(**row["chosen_model"]),
        rejected_model=ModelRef(**row["rejected_model"]),
        # Exports from before these columns existed still load.
        chosen_finish=row.get("chosen_finish", "stop"),
        rejected_finish=row.get("rejected_finish", "stop"),
    )


@lru_cache(maxsize=64)
def _model_row(model: ModelRef) -> dict[str, str | None]:
    return asdict(model)
