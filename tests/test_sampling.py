"""The pool: full at the right size, fair to prompts, never the same draw twice, never killed."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tiny import make_tiny_model

import annotation.sampling as sampling_module
from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator, SamplerProcess
from annotation.choosing import Chosen
from annotation.comparing import ComparisonPool
from annotation.journal.journal import Journal
from annotation.sampling import COMFORT, REDRAWS, Generator, PairPool, SamplingError
from annotation.schema import (
    Choice,
    Completion,
    ModelRef,
    Pair,
    Prompt,
    Sampling,
    Split,
    Vote,
    utc_now,
)

REF = ModelRef("tiny", "0" * 40)
SAMPLING = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=12)
PROMPTS = [Prompt.from_text(f"What is {n} and {n}?") for n in range(60)]
TRAIN = [p for p in PROMPTS if p.split is Split.TRAIN]


class Recorder:
    """Draws as told, or with real weights, and remembers what it was asked."""

    def __init__(self, inner: Generator | Callable[..., list[list[Completion]]]) -> None:
        self.inner = inner
        self.asked: list[tuple[list[Prompt], Sampling]] = []

    def sample(
        self, prompts: Sequence[Prompt], *, model: ModelRef, sampling: Sampling, per_prompt: int
    ) -> list[list[Completion]]:
        self.asked.append((list(prompts), sampling))
        draw = self.inner.sample if hasattr(self.inner, "sample") else self.inner
        return draw(prompts, model=model, sampling=sampling, per_prompt=per_prompt)

    @property
    def seeds(self) -> list[int]:
        return [sampling.seed for _, sampling in self.asked]


def answering(texts: Callable[[Prompt, int], str]) -> Recorder:
    """A Generator that says `texts(prompt, how many answers it got before)`."""
    given: Counter[str] = Counter()

    def draw(prompts, *, model, sampling, per_prompt):
        answers = []
        for prompt in prompts:
            answers.append([])
            for _ in range(per_prompt):
                text = texts(prompt, given[prompt.id])
                answers[-1].append(Completion(text, model, sampling))
                given[prompt.id] += 1
        return answers

    return Recorder(draw)


def distinct() -> Recorder:
    return answering(lambda prompt, n: f"{prompt.messages[0].content} {n}")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> LocalGenerator:
    base = ResolvedBase(REF, make_tiny_model(tmp_path_factory.mktemp("tiny")), False, None)
    return LocalGenerator(base, weights_path=lambda _: None, device="cpu", dtype="float32")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3")
    yield opened
    opened.close()


@contextmanager
def pool(journal: Journal, generator: Generator, **options: object) -> Iterator[PairPool]:
    settings = {
        "prompts": PROMPTS,
        "model": lambda: REF,
        "sampling": SAMPLING,
        "votes_per_pair": 1,
        "first_draw": 1,
        **options,
    }
    running = PairPool(journal, generator=generator, **settings)  # type: ignore[arg-type]
    running.start()
    try:
        yield running
    finally:
        running.stop()


def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def ready(journal: Journal, votes_per_pair: int = 1) -> int:
    return journal.ready_count(votes_per_pair=votes_per_pair, now=utc_now())


def vote(journal: Journal, pair: Pair, voter: str) -> None:
    identity = hashlib.sha256(f"{pair.id}{voter}".encode()).hexdigest()[:32]
    journal.add_vote(Vote(identity, pair.id, voter, Choice.A, False, utc_now())).result(10)


def test_the_pool_fills_with_pairs_from_real_weights_and_stops_there(
    journal: Journal, weights: LocalGenerator
) -> None:
    generator = Recorder(weights)
    with pool(journal, generator) as running:
        until(lambda: ready(journal) >= 43)
        time.sleep(3 * sampling_module.POLL_S)
        # 48 less the eighth (6) that a new batch waits for.
        assert 43 <= ready(journal) <= 48
        assert running.error is None
        drawn = len(generator.asked)
        time.sleep(3 * sampling_module.POLL_S)
        assert len(generator.asked) == drawn
    for pair in journal.pairs():
        assert pair.prompt.split is Split.TRAIN
        for completion in pair.completions:
            assert completion.model == REF
            assert completion.text == completion.text.rstrip()
            assert replace(completion.sampling, seed=0) == SAMPLING
            assert completion.sampling.seed in generator.seeds


def test_the_first_pair_waits_for_a_small_batch_only(journal: Journal) -> None:
    generator = distinct()
    with pool(journal, generator):
        until(lambda: ready(journal) == 48)
    # Dry: 4; then as many as there are, up to what is missing of 48.
    assert [len(prompts) for prompts, _ in generator.asked] == [4, 4, 8, 16, 16]


def test_eval_prompts_are_never_sampled(journal: Journal) -> None:
    generator = distinct()
    with pool(journal, generator, target=3 * len(TRAIN)):
        until(lambda: ready(journal) > 2 * len(TRAIN))
    asked = {prompt.id for prompts, _ in generator.asked for prompt in prompts}
    assert asked == {prompt.id for prompt in TRAIN}
    evals = [p for p in PROMPTS if p.split is Split.EVAL]
    with pytest.raises(SamplingError, match="train split"):
        PairPool(
            journal,
            evals,
            generator,
            model=lambda: REF,
            sampling=SAMPLING,
            votes_per_pair=1,
        )


def test_prompts_come_round_again_in_a_new_order_with_new_seeds(journal: Journal) -> None:
    few = TRAIN[:8]
    generator = distinct()
    with pool(journal, generator, prompts=few, target=32):
        until(lambda: ready(journal) == 32)
    assert journal.pairs_per_prompt() == {prompt.id: 4 for prompt in few}
    assert len(set(generator.seeds)) == len(generator.seeds)
    order = [pair.prompt.id for pair in journal.pairs()]
    rounds = [tuple(order[start : start + 8]) for start in range(0, 32, 8)]
    assert all(set(some) == {p.id for p in few} for some in rounds)
    assert len(set(rounds)) > 1


def test_a_restart_goes_on_with_the_round_and_repeats_no_seed(tmp_path: Path) -> None:
    seeds: list[int] = []
    for run in (1, 2, 3):
        journal = Journal(tmp_path / "journal.sqlite3")
        generator = distinct()
        # Each run finds 12 pairs more wanted than the last; a given first draw is for empty homes.
        with pool(journal, generator, target=12 * run, first_draw=7):
            until(lambda j=journal, r=run: ready(j) == 12 * r)
        seeds += generator.seeds
        made = journal.pairs_per_prompt()
        journal.close()
        assert set(made.values()) == {1}
    assert len(made) == 36 <= len(TRAIN)
    assert len(set(seeds)) == len(seeds)


def test_homes_without_a_given_first_draw_do_not_share_seeds(tmp_path: Path) -> None:
    seeds = []
    for name in ("one", "two"):
        journal = Journal(tmp_path / name)
        generator = distinct()
        with pool(journal, generator, first_draw=None):
            until(lambda j=journal: ready(j) == 48)
        journal.close()
        seeds.append(set(generator.seeds))
    assert not seeds[0] & seeds[1]


def test_equal_and_empty_completions_are_drawn_again(journal: Journal) -> None:
    # First both are equal but for white space, then one is empty, then they differ.
    said = ["same", "same \n", "", "  ", "same", "other \ud800\x00 \n"]
    generator = answering(lambda _, n: said[n])
    with pool(journal, generator, prompts=TRAIN[:2], target=2):
        until(lambda: ready(journal) == 2)
    assert len(generator.asked) == 3
    for pair in journal.pairs():
        assert {c.text for c in pair.completions} == {"same", "other \ufffd\ufffd"}
        # Each completion keeps the seed of the draw that it came from.
        assert {c.text: c.sampling.seed for c in pair.completions} == {
            "same": generator.seeds[0],
            "other \ufffd\ufffd": generator.seeds[2],
        }


def test_a_prompt_that_never_gives_two_answers_waits_for_the_next_round(journal: Journal) -> None:
    stuck = TRAIN[0]
    generator = answering(
        lambda prompt, n: "Always this." if prompt == stuck else f"{prompt.id} {n}"
    )
    with pool(journal, generator, prompts=TRAIN[:4], target=8) as running:
        until(lambda: ready(journal) == 8)
        assert running.error is None
        assert running.passed_over >= 1
    asked = Counter(prompt.id for prompts, _ in generator.asked for prompt in prompts)
    assert asked[stuck.id] % (1 + REDRAWS) == 0
    assert stuck.id not in journal.pairs_per_prompt()
    assert sum(journal.pairs_per_prompt().values()) == 8


def test_a_model_that_never_differs_is_an_error_to_see(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_module, "BACK_OFF_S", (0.02, 0.1))
    with pool(journal, answering(lambda *_: "Always this.")) as running:
        until(lambda: running.error)
        assert running.error is not None
        assert running.error.startswith("tiny@00000000 gives the same answer twice")
        assert ready(journal) == 0


def test_prompts_that_the_model_cannot_be_asked_are_left_out(
    journal: Journal, weights: LocalGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_module, "BACK_OFF_S", (0.02, 0.1))
    long = [Prompt.from_text(f"{n} " + "x" * 2000) for n in range(40)]
    long = [p for p in long if p.split is Split.TRAIN]
    generator = Recorder(weights)
    with pool(journal, generator, prompts=[*long, *TRAIN[:3]], target=12):
        until(lambda: ready(journal) == 12)
    assert set(journal.pairs_per_prompt()) == {p.id for p in TRAIN[:3]}
    asked = Counter(prompt.id for prompts, _ in generator.asked for prompt in prompts)
    assert all(asked[p.id] <= 1 for p in long)
    with pool(journal, generator, prompts=long, target=100) as running:
        until(lambda: running.error)
        assert running.error is not None
        assert "none of the" in running.error


def test_errors_are_shown_retried_and_forgotten(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_module, "BACK_OFF_S", (0.05, 0.1))
    works = threading.Event()
    good = distinct()

    def draw(prompts, **options):
        if not works.is_set():
            raise OSError("No weights here\nand a second line")
        return good.sample(prompts, **options)

    generator = Recorder(draw)
    with pool(journal, generator) as running:
        until(lambda: len(generator.asked) >= 4)
        assert running.error == "No weights here"
        assert ready(journal) == 0
        works.set()
        until(lambda: ready(journal) == 48)
        until(lambda: running.error is None)
    assert len(set(generator.seeds)) == len(generator.seeds)


def test_votes_are_made_up_for_and_many_votes_a_pair_do_not_overshoot(journal: Journal) -> None:
    with pool(journal, distinct(), votes_per_pair=3, target=16) as running:
        until(lambda: ready(journal, 3) == 16)
        pairs = journal.pairs()
        # Two votes of three leave a pair wanted; the third takes it out.
        for voter in ("anon-1", "anon-2"):
            for pair in pairs[:8]:
                vote(journal, pair, voter)
        time.sleep(3 * sampling_module.POLL_S)
        assert len(journal.pairs()) == 16
        for pair in pairs[:8]:
            vote(journal, pair, "anon-3")
        running.wake()
        until(lambda: ready(journal, 3) == 16)
        time.sleep(3 * sampling_module.POLL_S)
        assert len(journal.pairs()) == 24


def test_the_order_within_a_pair_is_no_clue(journal: Journal) -> None:
    generator = answering(lambda prompt, n: f"{prompt.id} {'second' if n % 2 else 'first'}{n}")
    with pool(journal, generator, prompts=TRAIN, target=400):
        until(lambda: ready(journal) > 350)
    # Binomial(351, 1/2) has mean 175.5 and a standard deviation of 9.4: five of them.
    firsts = sum("first" in pair.completions[0].text for pair in journal.pairs()[:351])
    assert 128 < firsts < 223


def test_the_clock_dates_the_pairs(journal: Journal) -> None:
    then = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    with pool(journal, distinct(), target=4, clock=lambda: then):
        until(lambda: ready(journal) == 4)
    assert {pair.created_at for pair in journal.pairs()} == {then}


class LastTwo:
    """Wants six answers to a prompt and shows the last two of those it gets."""

    draws = 6

    def choose(self, prompt, answers, *, more):
        count = len(answers)
        return None if more or count < 2 else Chosen(count - 2, count - 1, "edit_distance")


def numbers(pair: Pair) -> list[int]:
    """Which answers to its prompt `distinct` counted the pair's two as."""
    return sorted(int(c.text.rsplit(" ", 1)[1]) for c in pair.completions)


def test_a_strategy_chooses_once_there_is_time(journal: Journal) -> None:
    generator = distinct()
    with pool(journal, generator, prompts=TRAIN, target=24, strategy=LastTwo()):
        until(lambda: ready(journal) == 24)
    pairs = journal.pairs()
    # A quarter of 24 is 6: a dry pool makes 4 and 4 with what comes first.
    assert COMFORT * 24 == 6
    assert [numbers(pair) for pair in pairs[:8]] == [[0, 1]] * 8
    assert [numbers(pair) for pair in pairs[8:]] == [[4, 5]] * 16
    said = [{c.sampling.chosen_by for c in pair.completions} for pair in pairs]
    assert said == [{"random"}] * 8 + [{"edit_distance"}] * 16
    # Three answers for each of random's one, and batches a third as long but for the least.
    assert [len(prompts) for prompts, _ in generator.asked] == [4, 4, *[4] * 12]
    assert len(set(generator.seeds)) == len(generator.seeds)


def test_a_pool_that_runs_low_meanwhile_settles_for_what_is_drawn(journal: Journal) -> None:
    good = distinct()

    def draw(prompts, **options):
        if len(generator.asked) == 3:
            # In the midst of the first choice voters take all that is ready.
            for pair in journal.pairs():
                vote(journal, pair, "anon-1")
        return good.sample(prompts, **options)

    generator = Recorder(draw)
    with pool(journal, generator, prompts=TRAIN, target=24, strategy=LastTwo()):
        until(lambda: len(journal.pairs()) >= 12)
    assert [numbers(pair) for pair in journal.pairs()[8:12]] == [[0, 1]] * 4
    assert [c.sampling.chosen_by for c in journal.pairs()[8].completions] == ["edit_distance"] * 2


def test_comparisons_are_never_chosen(journal: Journal) -> None:
    evals = [p for p in PROMPTS if p.split is Split.EVAL]
    inner = distinct()

    class Two(Recorder):
        def sample_each(self, prompts, *, models, sampling):
            drawn = self.sample(prompts, model=REF, sampling=sampling, per_prompt=len(models))
            return [
                [replace(c, model=m) for c, m in zip(some, models, strict=True)] for some in drawn
            ]

    other = replace(REF, adapter="run", adapter_revision="1" * 40)
    compared = ComparisonPool(
        journal, evals, Two(inner), models=lambda: (REF, other), sampling=SAMPLING, target=4
    )
    compared.start()
    try:
        until(lambda: journal.comparisons_ready(now=utc_now()) == 4)
    finally:
        compared.stop()
    for pair in journal.pairs():
        assert numbers(pair) == [0, 1]
        assert {c.model for c in pair.completions} == {REF, other}
        assert {c.sampling.chosen_by for c in pair.completions} == {"random"}


def test_the_pool_fills_from_a_child_process_and_both_end(
    journal: Journal, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = ResolvedBase(REF, make_tiny_model(tmp_path_factory.mktemp("tiny")), False, None)
    process = SamplerProcess(base, weights_path=lambda _: None, log=tmp_path / "sampler.log")
    with pool(journal, process) as running:
        until(lambda: ready(journal) >= 43)
        assert running.error is None
        process.stop()
    assert process.pid is None
    assert not [t for t in threading.enumerate() if t.name == "pair-pool"]
