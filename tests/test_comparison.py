"""Comparing: any two models that are here, and a voter's prompts before and after."""

import asyncio
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count as counting
from pathlib import Path

import pytest
from journal_parts import make_pair
from small_files import write_model, write_run

from alignment.base import ResolvedBase
from alignment.registry import Registry
from alignment.web.compare.compare_view import ALIKE, draw_answers, mark_differences
from alignment.web.compare.comparison import CompareError, Comparison, Question
from annotation.asking import (
    MAX_UNPACED,
    Answer,
    AskedTooOften,
    AskQueue,
    BadPrompt,
    Draft,
    Line,
    Shown,
    TooManyAsking,
    Unanswered,
)
from annotation.journal.journal import Journal
from annotation.schema import Finish, ModelRef, PairKind, Prompt, Sampling

BASE = ModelRef("ada/chat", "b" * 40)
SAMPLING = Sampling(max_new_tokens=9)


class Echo:
    """Says which models it was asked for, one word at a time; `before` runs ahead of each."""

    def __init__(self) -> None:
        self.asked: list[tuple[Prompt, list[ModelRef], Sampling]] = []
        self.before: Callable[[], None] = lambda: None

    def stream(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        count: Callable[[Sequence[int]], None],
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        self.asked.append((prompt, list(models), sampling))
        said = [
            f"{m.adapter or 'base'} says: {prompt.messages[-1].content}".split() for m in models
        ]
        for size in range(1, max(map(len, said)) + 1):
            self.before()
            count([min(size, len(words)) for words in said])
            yield tuple(" ".join(words[:size]) for words in said)
        return ("stop", "length")[: len(models)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    base = ResolvedBase(BASE, write_model(home / "base"), is_starter=False, notice=None)
    write_run(home, "dpo-full", BASE, model=write_model(tmp_path / "tuned", 1))
    write_run(home, "dpo-lora", BASE)
    write_run(home, "dpo-other", ModelRef("ada/chat", "e" * 40))
    return Registry(home, base)


@pytest.fixture
def journal(home: Path) -> Iterator[Journal]:
    with closing(Journal(home / "journal.sqlite3")) as opened:
        yield opened


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def queue(echo: Echo) -> Iterator[AskQueue]:
    # Each look at the clock is half a second later than the one before.
    ticks = counting()
    made = AskQueue(echo, clock=lambda: next(ticks) / 2)
    yield made
    made.stop()


@pytest.fixture
def comparison(registry: Registry, queue: AskQueue, journal: Journal) -> Comparison:
    return Comparison(
        registry, queue, sampling=SAMPLING, prompts_of=journal.prompts_of, warm_up=lambda: None
    )


def told(ask: Callable[[], Question]) -> list[Line]:
    """Everything that is said to who asks, until the end."""

    async def read() -> list[Line]:
        return [line async for line in ask().asking.lines()]

    return asyncio.run(asyncio.wait_for(read(), 20))


def test_any_two_models_answer_the_same_prompt_with_the_same_seed(
    comparison: Comparison, echo: Echo, registry: Registry
) -> None:
    assert comparison.names()[0] == "base"
    assert sorted(comparison.names()) == ["base", "dpo-full", "dpo-lora"]
    for names in (("dpo-full", "dpo-lora"), ("dpo-lora", "base"), ("base", "base")):
        *drafts, whole = told(lambda names=names: comparison.ask("Hi you", names, 0.5, 4))
        assert isinstance(whole, Shown)
        assert [a.text for a in whole.answers] == [f"{name} says: Hi you" for name in names]
        assert [a.finish for a in whole.answers] == ["stop", "length"]
        assert all(isinstance(line, Draft) for line in drafts)
        _, models, sampling = echo.asked[-1]
        assert models == [registry.get(name).ref for name in names]
        assert sampling == Sampling(temperature=0.5, max_new_tokens=9, seed=4)
    whole = told(lambda: comparison.ask("Hi", ("base", None), 1.0, 4))[-1]
    assert [a.text for a in whole.answers] == ["base says: Hi"]


def test_lengths_and_tokens_a_second_are_told_for_each_side(
    comparison: Comparison, echo: Echo, queue: AskQueue
) -> None:
    moments = iter([0.0, 0.25, 0.5, 0.75] + [9.0] * 20)
    now = [100.0]

    def step() -> None:
        now[0] = 100 + next(moments)

    echo.before, queue._clock = step, lambda: now[0]
    whole = told(lambda: comparison.ask("Hi you", ("base", "dpo-lora"), 1.0, 4))[-1]
    # "base says: Hi you": the first token at 100.0, three more by 100.75.
    assert [(a.tokens, a.tokens_per_s) for a in whole.answers] == [(4, 4.0), (4, 4.0)]
    drawn = draw_answers(["base", "dpo-lora"], whole.answers)
    assert drawn.count("<span>4 tokens</span>") == 2
    assert drawn.count("<span>4.0 tokens a second</span>") == 2
    assert "<span>17 characters</span>" in drawn
    assert drawn.count("cut at the limit") == 1


def test_what_cannot_be_asked_is_one_line(
    comparison: Comparison, registry: Registry, home: Path
) -> None:
    both = ("base", "dpo-full")
    for text, names, seed, kind, says in (
        (" ", both, 4, BadPrompt, "The prompt is empty"),
        ("x" * 2001, both, 4, BadPrompt, "has 2,001 characters"),
        ("Hi", (None, None), 4, CompareError, "No model is chosen: choose two"),
        ("Hi", both, -1, CompareError, "Seed -1 is out of range"),
    ):
        with pytest.raises(kind, match=says) as refused:
            told(lambda t=text, n=names, s=seed: comparison.ask(t, n, 1.0, s))
        assert "\n" not in str(refused.value)


def test_models_that_are_not_here_or_of_another_base_are_one_line(
    comparison: Comparison, home: Path
) -> None:
    (home / "runs" / "dpo-lora").rename(home / "gone")
    assert comparison.names() == ["base", "dpo-full"]
    for name, says in (
        ("dpo-other", "belongs to ada/chat@eeeeeeeeeeee and this home's base is ada/chat@bbbb"),
        ("eve/elsewhere", "was not pulled yet: pull it"),
        ("dpo-lora", "Model dpo-lora is not here"),
    ):
        (last,) = told(lambda name=name: comparison.ask("Hi", ("base", name), 1.0, 4))
        assert isinstance(last, Unanswered)
        assert says in last.why
        assert "\n" not in last.why


def test_a_model_that_goes_while_one_waits_for_its_turn_is_one_line(
    comparison: Comparison, queue: AskQueue, home: Path
) -> None:
    async def read() -> Line:
        first = queue.ask("somebody", Prompt.from_text("Hi"), lambda _: _gone(home))
        asking = comparison.ask("Hi", ("base", "dpo-lora"), 1.0, 4).asking
        assert [line async for line in first.lines()]
        return [line async for line in asking.lines()][-1]

    last = asyncio.run(asyncio.wait_for(read(), 20))
    assert isinstance(last, Unanswered)
    assert "Model dpo-lora is not here" in last.why


def _gone(home: Path) -> Line:
    (home / "runs" / "dpo-lora").rename(home / "gone")
    return Unanswered("moved away")


def test_stopping_ends_the_drawing_and_many_waiting_are_told(
    comparison: Comparison, echo: Echo, queue: AskQueue
) -> None:
    async def read() -> None:
        echo.before = lambda: asyncio.run(asyncio.sleep(0.05))
        many = " ".join(["word"] * 300)
        with comparison.ask(many, ("base", "dpo-lora"), 1.0, 4).asking as asking:
            async for _ in asking.lines():
                break
        # Left: the next is answered without the 300 words being said.
        nxt = comparison.ask("Hi", ("base", None), 1.0, 4).asking
        async with asyncio.timeout(2):
            assert isinstance([line async for line in nxt.lines()][-1], Shown)
        waiting = [comparison.ask(many, ("base", None), 1.0, n).asking for n in range(MAX_UNPACED)]
        with pytest.raises(TooManyAsking, match="try again in 10 seconds"):
            comparison.ask("Hi", ("base", None), 1.0, 4)
        # Whoever asks by name still may, and who was stopped is told and takes no place.
        named = queue.ask("ann", Prompt.from_text("Hi"), lambda _: Unanswered("by name"))
        waiting[-1].stop()
        assert [line async for line in waiting[-1].lines()] == [Unanswered("Stopped.")]
        waiting.append(comparison.ask(many, ("base", None), 1.0, 4).asking)
        named.leave()
        for asking in waiting:
            asking.leave()

    asyncio.run(asyncio.wait_for(read(), 30))


def store_prompts(journal: Journal, voter: str, *texts: str) -> None:
    for n, text in enumerate(texts):
        pair = replace(
            make_pair(f"{voter}-{n}"),
            prompt=Prompt.from_text(text),
            kind=PairKind.OWN,
            author=voter,
        )
        journal.add_pairs([pair]).result()


def test_a_voters_own_prompts_are_answered_by_base_and_policy(
    comparison: Comparison, registry: Registry, journal: Journal, echo: Echo
) -> None:
    assert "The base still answers everybody" in (comparison.why_no_change("ann") or "")
    registry.promotions.promote(registry.get("dpo-lora").ref, "override")
    assert "You have asked nothing of your own" in (comparison.why_no_change("ann") or "")
    store_prompts(journal, "ann", "Why cats?", "Why dogs?", "Why cats?")
    store_prompts(journal, "bob", "Secret?")
    assert comparison.why_no_change("ann") is None
    mine = comparison.prompts("ann")
    assert [p.messages[-1].content for p in mine] == ["Why cats?", "Why dogs?"]
    found = comparison.find_again("ann", mine[1].id)
    assert found == (mine[1], ("base", "dpo-lora"))
    whole = told(lambda: comparison.ask_again("ann", *found, 7))[-1]
    assert isinstance(whole, Shown)
    said = [a.text for a in whole.answers]
    assert said == ["base says: Why dogs?", "dpo-lora says: Why dogs?"]
    theirs = Prompt.from_text("Secret?").id
    for other in (theirs, None, "nonsense"):
        with pytest.raises(CompareError, match="no prompt of yours"):
            comparison.find_again("ann", other)
    assert len(echo.asked) == 1


def test_before_and_after_is_paced_like_own_prompts(
    comparison: Comparison, registry: Registry, journal: Journal
) -> None:
    registry.promotions.promote(registry.get("dpo-lora").ref, "override")
    store_prompts(journal, "ann", "Why cats?")
    found = comparison.find_again("ann", Prompt.from_text("Why cats?").id)
    for _ in range(3):
        told(lambda: comparison.ask_again("ann", *found, 7))
    with pytest.raises(AskedTooOften, match="One prompt in 10 seconds"):
        told(lambda: comparison.ask_again("ann", *found, 7))


def test_words_that_differ_are_marked_and_nothing_in_them_runs() -> None:
    left, right = mark_differences("The cat sat.", "The dog sat.")
    plain = re.compile(r"<[^>]*>")
    assert plain.sub("", left) == "The [only here: cat] sat."
    assert plain.sub("", right) == "The [only here: dog] sat."
    assert left.count("<mark") == right.count("<mark") == 1
    evil = "<img src=x onerror=alert(1)> & \u202eyes"
    for drawn in mark_differences(evil, "no"), (draw_answers(["A"], [Answer(evil, 3)]),):
        assert "<img" not in "".join(drawn)
        assert "&lt;img" in drawn[0]
        assert "U+202E" in drawn[0]
        assert "\u202e" not in drawn[0]
    left, right = mark_differences("Yes,  a small cat\n sat.", "Yes, two big dogs sat.")
    assert plain.sub("", left) == "Yes,  [only here: a small cat]\n sat."
    assert plain.sub("", right) == "Yes, [only here: two big dogs] sat."
    # Scripts without spaces are compared sign by sign.
    assert plain.sub("", mark_differences("猫が好き", "犬が好き")[0]) == "[only here: 猫]が好き"


def test_equal_answers_say_so_and_growing_ones_are_not_compared() -> None:
    same = [Answer("Yes.", 2, 3.0, "stop")] * 2
    assert ALIKE in draw_answers(["A", "B"], same)
    assert "<mark" not in draw_answers(["A", "B"], same)
    grow = draw_answers(["A", "B"], [Answer("Yes", 1), Answer("No", 1)])
    assert grow.count('aria-busy="true"') == 2
    halted = draw_answers(["A", "B"], [Answer("Yes", 1), Answer("No", 1)], stopped=True)
    assert "aria-busy" not in halted
    assert "<mark" not in grow
    assert draw_answers(["A", "B"], [Answer(), Answer()]).count("…") == 2
