"""What a source of prompts may be, and the one line that says why another cannot be used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_double import HubDouble

from annotation.prompts import MAX_PROMPT_CHARACTERS, PromptsError, clean_text, load_prompts
from annotation.schema import Message, Prompt, Split

ROOT = Path(__file__).parent.parent
TEXTS = [f"What is {n} and {n}?" for n in range(1, 13)]


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.messages[-1].content for prompt in prompts]


def write(path: Path, lines: list[str], newline: str = "\n") -> str:
    path.write_bytes(newline.join(lines).encode())
    return str(path)


def parquet(path: Path, columns: dict[str, list[object]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return str(path)


def sources(folder: Path, rows: list[str]) -> dict[str, str]:
    csv = ["id,prompt", *(f'{i},"{row}"' for i, row in enumerate(rows))]
    return {
        "txt": write(folder / "p.txt", rows),
        "windows": write(folder / "w.txt", ["\ufeff" + rows[0], *rows[1:]], "\r\n"),
        "jsonl": write(folder / "p.jsonl", [json.dumps({"prompt": row}) for row in rows]),
        "csv": write(folder / "p.csv", csv),
        "parquet": parquet(folder / "p.parquet", {"id": [0] * len(rows), "prompt": rows}),
    }


@pytest.mark.parametrize("kind", ["txt", "windows", "jsonl", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_prompts(tmp_path: Path, kind: str) -> None:
    assert texts(load_prompts(sources(tmp_path, TEXTS)[kind])) == TEXTS


def test_conversations_keep_their_turns_and_lose_the_last_answer(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "And now?"},
    ]
    answered = [*turns, {"role": "assistant", "content": "Now nothing."}]
    want = Prompt(tuple(Message(t["role"], t["content"]) for t in turns))
    rest = [json.dumps({"prompt": text}) for text in TEXTS]
    lines = [json.dumps({"prompt": turns}), json.dumps({"messages": answered}), *rest]
    assert load_prompts(write(tmp_path / "p.jsonl", lines))[0] == want
    column = [answered, *([{"role": "user", "content": text}] for text in TEXTS)]
    loaded = load_prompts(parquet(tmp_path / "p.parquet", {"messages": column}))
    assert loaded[0] == want
    assert len(loaded) == 1 + len(TEXTS)


def test_repeats_and_empty_rows_are_dropped_in_order(tmp_path: Path) -> None:
    lines = ["", TEXTS[1], "   ", TEXTS[0], f"  {TEXTS[1]} ", *TEXTS, ""]
    want = [TEXTS[1], TEXTS[0], *TEXTS[2:]]
    assert texts(load_prompts(write(tmp_path / "p.txt", lines))) == want
    rows = [None, "", *TEXTS]
    assert texts(load_prompts(parquet(tmp_path / "p.parquet", {"prompt": rows}))) == TEXTS


def test_text_that_no_store_takes_is_replaced(tmp_path: Path) -> None:
    lines = ['{"prompt": "a\\ud800b\\u0000c"}', *(json.dumps({"prompt": t}) for t in TEXTS)]
    assert texts(load_prompts(write(tmp_path / "p.jsonl", lines)))[0] == "a\ufffdb\ufffdc"
    assert clean_text("\udfffé😀\x00") == "\ufffdé😀\ufffd"


def test_a_quoted_csv_field_may_span_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(('prompt\r\n"two\nlines\u2028here"\r\n' + "\r\n".join(TEXTS)).encode())
    assert texts(load_prompts(str(path))) == ["two\nlines\u2028here", *TEXTS]


def test_the_shipped_prompts_load_and_serve_both_splits() -> None:
    prompts = load_prompts(None)
    assert len({p.id for p in prompts}) == len(prompts) >= 100
    assert {p.split for p in prompts} == {Split.TRAIN, Split.EVAL}


def bad_sources(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Name to (source, what the one line must say)."""
    long = "x" * (MAX_PROMPT_CHARACTERS + 1)
    evals = [t for n in range(400) if Prompt.from_text(t := f"Say {n}").split is Split.EVAL]
    (folder / "a folder").mkdir()
    (folder / "latin.txt").write_bytes("fine\nna\xefve".encode("latin-1"))
    (folder / "fake.parquet").write_bytes(b"not parquet at all")
    return {
        "missing": (str(folder / "no.txt"), ["no.txt", "does not exist", "PROMPTS"]),
        "folder": (str(folder / "a folder"), ["is a folder"]),
        "ending": (write(folder / "p.json", ["{}"]), ["p.json", "unknown ending", ".jsonl"]),
        "encoding": (str(folder / "latin.txt"), ["latin.txt", "line 2", "UTF-8"]),
        "empty": (write(folder / "e.txt", ["", "  "]), ["e.txt", "no usable prompt"]),
        "long": (write(folder / "l.txt", ["ok", long]), ["l.txt, line 2", "8,001", "8,000"]),
        "all eval": (write(folder / "v.txt", evals[:3]), ["v.txt", "all 3", "add more"]),
        "no json": (write(folder / "b.jsonl", ['{"prompt": "a"}', "{"]), ["b.jsonl, line 2"]),
        "no key": (write(folder / "k.jsonl", ['{"text": "a"}']), ["k.jsonl, line 1", '"prompt"']),
        "role": (
            write(folder / "r.jsonl", ['{"prompt": [{"role": "tool", "content": "a"}]}']),
            ["r.jsonl, line 1", "'tool'", "user"],
        ),
        "number": (write(folder / "n.jsonl", ['{"prompt": 5}']), ["n.jsonl, line 1", "neither"]),
        "csv column": (write(folder / "c.csv", ["text", "a"]), ["c.csv", 'column "prompt"']),
        "csv quotes": (write(folder / "q.csv", ["prompt", '"a" b']), ["q.csv, line 2", "CSV"]),
        "parquet column": (
            parquet(folder / "c.parquet", {"text": ["a"]}),
            ["c.parquet", '"prompt"', "'text'"],
        ),
        "parquet": (str(folder / "fake.parquet"), ["fake.parquet", "not a Parquet file"]),
    }


BAD = [
    *("missing", "folder", "ending", "encoding", "empty", "long", "all eval", "no json"),
    *("no key", "role", "number", "csv column", "csv quotes", "parquet column", "parquet"),
]


@pytest.mark.parametrize("name", BAD)
def test_a_source_that_cannot_be_used_gets_one_clear_line(tmp_path: Path, name: str) -> None:
    source, wanted = bad_sources(tmp_path)[name]
    with pytest.raises(PromptsError) as caught:
        load_prompts(source)
    line = str(caught.value)
    assert "\n" not in line
    for part in wanted:
        assert part in line


def test_a_hub_dataset_is_read_by_its_column_and_its_bad_rows_are_left_out(
    hub_double: HubDouble, tmp_path: Path
) -> None:
    rows = [*TEXTS, "x" * (MAX_PROMPT_CHARACTERS + 1), TEXTS[0]]
    file = Path(parquet(tmp_path / "p.parquet", {"prompt": rows})).read_bytes()
    hub_double.add_repo("someone/questions", {"train.parquet": file}, kind="datasets")
    code = (
        "from annotation.prompts import load_prompts\n"
        "for prompt in load_prompts('someone/questions'):\n    print(prompt.messages[0].content)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=hub_double.environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines() == TEXTS, done.stderr


def test_a_dataset_on_a_hub_that_cannot_be_reached_is_one_line_within_seconds(
    tmp_path: Path,
) -> None:
    # A process of its own: the Hub's address is read when its client is imported.
    code = (
        "import sys, time\n"
        "from annotation.prompts import PromptsError, load_prompts\n"
        "import datasets\n"
        "begun = time.monotonic()\n"
        "try:\n    load_prompts('someone/questions')\n"
        "except PromptsError as error:\n    print(time.monotonic() - begun, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    took, line = done.stdout.strip().split(" ", 1)
    assert "\n" not in line
    assert "someone/questions" in line
    assert "set PROMPTS to a file" in line
    assert float(took) < 15
