"""The vote page as one would build it of Gradio's components: two answers, five buttons, SQLite.

A program: `python -m tests.benchmarks.peers.stock_page FOLDER PORT LIMIT`, where LIMIT is Gradio's
`default_concurrency_limit`, "none" for no limit, or "unqueued" for events past the queue. It reads
FOLDER/pairs.jsonl and writes FOLDER/votes.sqlite3. Knows nothing of Votetune.
"""

import itertools
import json
import random
import sqlite3
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr

CHOICES = {"a": "A", "b": "B", "tie": "Tie", "both_bad": "Both bad", "skip": "Skip"}
REASONS = ("correct", "clear", "complete", "short", "kind", "safe")
TABLE = """CREATE TABLE IF NOT EXISTS votes (
    id TEXT PRIMARY KEY, pair TEXT, voter TEXT, choice TEXT, flipped INTEGER,
    reasons TEXT, comment TEXT, created_at REAL)"""
Shown = tuple[str, bool]
"""The pair on a page, and whether its sides are swapped."""


class Votes:
    """One file, one connection behind a lock: no writer waits in SQLite's own busy loop."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        # A vote outlives a power cut, as one does in Votetune.
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", TABLE):
            self._db.execute(statement)

    def add(
        self, shown: Shown, voter: str, choice: str, reasons: Sequence[str], comment: str
    ) -> str:
        """The new vote's id, once it is on disk."""
        vote = uuid.uuid4().hex
        row = (vote, shown[0], voter, choice, shown[1], json.dumps(reasons), comment, time.time())
        with self._lock:
            self._db.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return vote


class VotePage:
    """What the buttons do. Pairs come from a ready list, one after the other."""

    def __init__(self, folder: Path) -> None:
        lines = (folder / "pairs.jsonl").read_text().splitlines()
        self._pairs = [json.loads(line) for line in lines]
        self._turn = itertools.count()
        self._votes = Votes(folder / "votes.sqlite3")

    def next_pair(self) -> tuple[Shown, str, str, str]:
        pair = self._pairs[next(self._turn) % len(self._pairs)]
        flipped = random.random() < 0.5
        a, b = pair["answers"][::-1] if flipped else pair["answers"]
        return (pair["id"], flipped), pair["prompt"], a, b

    def button(self, choice: str) -> Callable[..., tuple[object, ...]]:
        """What a button does: store, then the next pair with the form cleared."""

        def vote(
            shown: Shown, reasons: list[str], comment: str, request: gr.Request
        ) -> tuple[object, ...]:
            voter = request.session_hash or "nobody"
            saved = self._votes.add(shown, voter, choice, reasons, comment)
            return (*self.next_pair(), [], "", f"Saved as {saved}.")

        return vote

    def build(self, *, queue: bool) -> gr.Blocks:
        with gr.Blocks(title="Which answer is better?", analytics_enabled=False) as blocks:
            gr.Markdown("# Which answer is better?")
            shown = gr.State()
            prompt = gr.Markdown(label="Prompt", container=True)
            with gr.Row():
                a = gr.Markdown(label="Answer A", container=True, elem_id="answer-a")
                b = gr.Markdown(label="Answer B", container=True, elem_id="answer-b")
            with gr.Row():
                buttons = {choice: gr.Button(label) for choice, label in CHOICES.items()}
            reasons = gr.CheckboxGroup(REASONS, label="Why?")
            comment = gr.Textbox(label="Comment")
            status = gr.Markdown()
            pair = [shown, prompt, a, b]
            blocks.load(self.next_pair, None, pair, api_name="next_pair", queue=queue)
            for choice, button in buttons.items():
                button.click(
                    self.button(choice),
                    [shown, reasons, comment],
                    [*pair, reasons, comment, status],
                    api_name=f"vote_{choice}",
                    queue=queue,
                    show_progress="hidden",
                )
        return blocks


def main(folder: str, port: str, limit: str) -> None:
    """Serve until ended."""
    queued = limit != "unqueued"
    blocks = VotePage(Path(folder)).build(queue=queued)
    if queued:
        blocks.queue(default_concurrency_limit=None if limit == "none" else int(limit))
    blocks.launch(server_name="127.0.0.1", server_port=int(port), share=False, quiet=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
