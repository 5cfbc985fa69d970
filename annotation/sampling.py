"""Which prompts are answered next, and the pool of pairs that keeps voters from waiting.

Owns the order of prompts, the seeds, and what makes two completions a pair. Only prompts of the
train split are ever sampled to learn from. Knows no weights: a Generator draws, wherever it likes.
"""

import contextlib
import hashlib
import heapq
import logging
import secrets
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from annotation.choosing import Chosen, Random, Strategy
from annotation.faults import Fault
from annotation.journal.journal import Journal, JournalError
from annotation.prompts import clean_text, one_line
from annotation.schema import (
    Completion,
    ModelRef,
    Pair,
    PairKind,
    Prompt,
    Sampling,
    Split,
    utc_now,
)

SEEDS = 1 << 31
FIRST_BATCH = 4
LARGEST_BATCH = 32
PER_DRAW = 2
REDRAWS = 3
COMFORT = 0.25
"""The share of the target from which on the pool has time to draw more than a pair needs."""
BARREN_BATCHES = 3
POLL_S = 0.25
BACK_OFF_S = (1.0, 60.0)
COMMIT_TIMEOUT_S = 60.0
_log = logging.getLogger(__name__)


class Generator(Protocol):
    """Draws answers, from weights here, in a child process or behind an address."""

    def sample(
        self, prompts: Sequence[Prompt], *, model: ModelRef, sampling: Sampling, per_prompt: int
    ) -> list[list[Completion]]:
        """`per_prompt` answers to each prompt, in order; an empty list for a prompt that this
        model cannot be asked. May raise anything."""
        ...

    def sample_each(
        self, prompts: Sequence[Prompt], *, models: Sequence[ModelRef], sampling: Sampling
    ) -> list[list[Completion]]:
        """An answer of each of `models` to each prompt, else as `sample`."""
        ...


class SamplingError(Fault):
    """The generator answers, but pairs cannot be made of it."""


class PairPool:
    """A thread that keeps about `target` pairs in the journal that still want votes.

    What it draws (pairs of one model, to learn from) is in the methods that a pool of another kind
    overrides: `_ready`, `_answers`, `_kept`, `KIND`, `SPLIT` and the notes.

    It draws when an eighth of the target is missing, never more than is missing, small batches
    first when the pool is dry. Prompts with the fewest pairs come first, shuffled within a round
    by a hash, also after a restart. No two draws share a seed, restarts included: draws are
    numbered in the journal, from `first_draw` or a random number on an empty home.

    Which answers to a prompt make its pair, and how many are drawn for it, is the `strategy`'s
    choice while COMFORT of the target is ready; below that, as at the start, the first two that
    differ do. So no voter waits for a choice.

    A completion is stored with NUL and lone surrogates replaced and without trailing white
    space, which nobody can see and vote on. Two that are equal or one that is empty are drawn
    again REDRAWS times; then the prompt waits for the next round. A fault of the generator or
    the journal becomes `error`, and the thread goes on after a pause.
    """

    KIND = PairKind.POOL
    SPLIT = Split.TRAIN
    SEED_NOTE = "sampling.next_draw"
    ERROR_NOTE = "sampling.error"

    def __init__(
        self,
        journal: Journal,
        prompts: Sequence[Prompt],
        generator: Generator,
        *,
        model: Callable[[], ModelRef],
        sampling: Sampling,
        votes_per_pair: int,
        target: int = 48,
        strategy: Strategy | None = None,
        first_draw: int | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._journal = journal
        self._prompts = {p.id: p for p in prompts if p.split is self.SPLIT}
        if not self._prompts:
            raise SamplingError(f"No prompt is of the {self.SPLIT} split: add more prompts.")
        self._generator = generator
        self._model = model
        self._sampling = sampling
        self._votes_per_pair = votes_per_pair
        self._target = target
        self._strategy: Strategy = strategy or Random()
        self._first_draw = secrets.randbelow(SEEDS) if first_draw is None else first_draw
        self._clock = clock
        self._passed: Counter[str] = Counter()
        self._unaskable: set[str] = set()
        self._barren = 0
        self._error: str | None = None
        self._told = False
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def error(self) -> str | None:
        """What keeps the pool from filling, in one line; None while it fills or is full."""
        return self._error

    @property
    def passed_over(self) -> int:
        """How often a prompt gave no two different answers and was left for the next round."""
        return sum(self._passed.values())

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="pair-pool", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now, as after a vote, instead of at the next poll."""
        self._woken.set()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread after the batch in flight, waiting at most `timeout_s` for it.

        A generator that is stopped first fails its batch and so makes this quick.
        """
        self._stopping.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        pause = BACK_OFF_S[0]
        while not self._stopping.is_set():
            try:
                filled = self._fill()
            # A thread's boundary: whatever a generator raises, voting goes on and this retries.
            except Exception as error:  # noqa: BLE001
                if self._stopping.is_set():
                    return
                self._tell(one_line(error))
                _log.warning("sampling rests for %.0f s: %s", pause, self._error)
                self._stopping.wait(pause)
                pause = min(2 * pause, BACK_OFF_S[1])
                continue
            if filled:
                self._tell(None)
                pause = BACK_OFF_S[0]
            else:
                self._woken.wait(POLL_S)
                self._woken.clear()

    def _tell(self, error: str | None) -> None:
        """Say what is wrong, also on disk, where a command finds it."""
        if error == self._error and self._told:
            return
        self._error, self._told = error, True
        # The journal's own trouble is told elsewhere.
        with contextlib.suppress(JournalError):
            self._journal.set_note(self.ERROR_NOTE, error or "")

    def _fill(self) -> bool:
        """Draw one batch if enough is missing; False when the pool is full."""
        ready = self._ready()
        missing = self._target - ready
        if missing < max(1, self._target // 8):
            self._tell(None)
            return False
        # Dry: few at first, so that the first voter waits for a short batch only.
        size = min(missing, LARGEST_BATCH, max(FIRST_BATCH, ready))
        strategy = self._strategy if self._is_comfortable(ready) else Random()
        # As many answers a batch, whatever of them is shown: its pairs come as soon.
        size = max(min(size, FIRST_BATCH), size * PER_DRAW // strategy.draws)
        passed = self.passed_over
        made = self._draw(self._next_prompts(size), strategy)
        if made:
            self._barren = 0
        elif self.passed_over > passed:
            self._barren += 1
        if self._barren >= BARREN_BATCHES:
            raise SamplingError(
                f"{self._model().label} gives the same answer twice, or none, to every prompt: "
                "raise the temperature, or check that the model samples."
            )
        return True

    def _is_comfortable(self, ready: int) -> bool:
        return ready >= COMFORT * self._target

    def _ready(self) -> int:
        """How many pairs of this pool still want a vote."""
        return self._journal.ready_count(votes_per_pair=self._votes_per_pair, now=self._clock())

    def _answers(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """PER_DRAW answers to each prompt."""
        return self._generator.sample(
            prompts, model=self._model(), sampling=sampling, per_prompt=PER_DRAW
        )

    def _next_prompts(self, count: int) -> list[Prompt]:
        made = self._journal.pairs_per_prompt(self.KIND)

        def turn(prompt_id: str) -> tuple[int, bytes]:
            round_ = made.get(prompt_id, 0) + self._passed[prompt_id]
            return round_, hashlib.sha256(f"{round_}:{prompt_id}".encode()).digest()

        askable = self._prompts.keys() - self._unaskable
        if not askable:
            raise SamplingError(
                f"{self._model().label} can be asked none of the {len(self._prompts)} prompts: "
                "give it shorter ones."
            )
        return [self._prompts[i] for i in heapq.nsmallest(count, askable, key=turn)]

    def _draw(self, prompts: Sequence[Prompt], strategy: Strategy) -> int:
        """Draw, store what became a pair, draw the rest again; how many pairs were made."""
        model = self._model()
        drawn: dict[str, list[Completion]] = {prompt.id: [] for prompt in prompts}
        pending = list(prompts)
        made = 0
        for turn in range(1, 2 + REDRAWS):
            sampling = replace(self._sampling, seed=self._next_seed())
            answers = self._answers(pending, sampling)
            # What was asked for while there was time is settled for once there is none.
            more = turn * PER_DRAW < strategy.draws and self._is_comfortable(self._ready())
            pairs = []
            for prompt, some in zip(pending, answers, strict=True):
                if not some:
                    _log.warning("%s cannot be asked prompt %s", model.label, prompt.id)
                    self._unaskable.add(prompt.id)
                kept = drawn[prompt.id] = self._kept(drawn[prompt.id], some)
                if chosen := strategy.choose(prompt, [c.text for c in kept], more=more):
                    pairs.append(self._pair(prompt, kept, chosen))
            if pairs:
                self._journal.add_pairs(pairs).result(COMMIT_TIMEOUT_S)
                made += len(pairs)
            done = {pair.prompt.id for pair in pairs} | self._unaskable
            pending = [prompt for prompt in pending if prompt.id not in done]
            if not pending or self._stopping.is_set():
                return made
        self._passed.update(prompt.id for prompt in pending)
        _log.info("%d prompts gave no two different answers; passed over", len(pending))
        return made

    def _next_seed(self) -> int:
        """A seed that no draw of this home had; noted on disk before it is used."""
        note = self._journal.note(self.SEED_NOTE)
        draw = self._first_draw if note is None else int(note)
        self._journal.set_note(self.SEED_NOTE, str(draw + 1)).result(COMMIT_TIMEOUT_S)
        # An odd factor permutes the seeds: spread out, and no repeat before all were used.
        return (self._sampling.seed + draw * 0x9E3779B1) % SEEDS

    def _pair(self, prompt: Prompt, drawn: Sequence[Completion], chosen: Chosen) -> Pair:
        pair_id = uuid.uuid4().hex
        first, second = (
            replace(c, sampling=replace(c.sampling, chosen_by=chosen.by))
            for c in (drawn[chosen.first], drawn[chosen.second])
        )
        if hashlib.sha256(pair_id.encode()).digest()[0] & 1:
            first, second = second, first
        return Pair(pair_id, prompt, (first, second), self._clock(), kind=self.KIND)

    def _kept(self, before: list[Completion], some: Sequence[Completion]) -> list[Completion]:
        """What of the answers so far and of `some` new ones a pair can be made of."""
        return keep_different(before, some)


def keep_different(before: Sequence[Completion], some: Sequence[Completion]) -> list[Completion]:
    """Those of `before` and `some` that are neither empty nor equal, as they are stored."""
    kept = list(before)
    for completion in some:
        text = clean_text(completion.text).rstrip()
        if text and text.strip() not in {other.text.strip() for other in kept}:
            kept.append(replace(completion, text=text))
    return kept
