"""What the data doctor finds in a real journal, by numbers derived by hand, down to the tokens."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

import app
from alignment.base import ResolvedBase, resolve_base
from alignment.checks.diagnosis import Diagnosis, DiagnosisError, Finding
from alignment.checks.examples import is_degenerate
from alignment.checks.material import Material
from alignment.checks.tokens import check_tokens, load_tokenizer
from alignment.checks.votes import check_votes, measure_flips
from alignment.commands.doctor import print_diagnosis
from alignment.doctor import diagnose, examine
from alignment.pipeline import Pipeline
from alignment.runs.recipes import Method, TrainingOptions
from alignment.runs.run_store import RunError
from alignment.settings import AlignmentSettings
from alignment.starter.starter import STARTER_DIR
from alignment.training.rows.data import HOLD_OUT_FROM
from annotation.export.export import (
    Export,
    ExportCounts,
    PreparedExport,
    live_votes,
    load_examples,
    prepare_export,
)
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.quality.flags import Flag
from annotation.quality.quality import share_of
from annotation.quality.voter_health import VoterHealth
from annotation.schema import (
    Choice,
    Completion,
    Message,
    ModelRef,
    Pair,
    Prompt,
    Sampling,
    Split,
    Vote,
    VoteSource,
)
from tests.preferences import TINY, WHEN, tiny_base, train_prompts
from tests.running_app import run_command
from tests.tiny import EOS_ID, make_tiny_model
from tests.trainer_fixture import MakeTrainer, batch_of, rows_of

A, B, TIE, BAD = Choice.A, Choice.B, Choice.TIE, Choice.BOTH_BAD
PROMPTS = train_prompts(400)
MakeMaterial = Callable[..., Material]


@dataclass(frozen=True)
class Case:
    """A voted pair: its two answers in the record's order, and one choice a voter."""

    choices: Sequence[Choice] = (A,)
    first: str | None = None
    second: str | None = None
    prompt: Prompt | None = None
    finish: Any = "stop"
    source: VoteSource = VoteSource.PAGE
    flipped: bool = False
    model: ModelRef = TINY


def fill(journal: Journal, cases: Sequence[Case]) -> None:
    """Without more said, answers of equal length on a prompt of the pair's own."""
    pairs, votes = [], []
    for n, case in enumerate(cases):
        first = Completion(case.first or f"It is {n:03d}.", case.model, Sampling(), case.finish)
        second = Completion(case.second or f"So is {n:03d}.", case.model, Sampling())
        pairs.append(Pair(f"pair-{n:03d}", case.prompt or PROMPTS[n], (first, second), WHEN))
        votes += [
            Vote(f"{n}-{v}", f"pair-{n:03d}", f"v{v}", c, case.flipped, WHEN, source=case.source)
            for v, c in enumerate(case.choices)
        ]
    journal.add_pairs(pairs).result(30)
    stored: list[Future[Any]] = [journal.add_vote(vote) for vote in votes]
    for future in stored:
        future.result(30)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def material_of(journal: Journal) -> MakeMaterial:
    def make(*cases: Case, min_examples: int = 20) -> Material:
        fill(journal, cases)
        return Material(prepare_export(journal), live_votes(journal), min_examples)

    return make


def found(material: Material, kind: str) -> Finding:
    (finding,) = [f for f in examine(material, STARTER_DIR) if f.kind == kind]
    return finding


def healthy(count: int = 120) -> list[Case]:
    """Side a and b in turn, the longer answer chosen in half of them, a third voted on twice."""
    cases = []
    for n in range(count):
        first, second = f"It is {n}, I think.", f"It is {n}."
        if n % 2:
            first, second = second, first
        choices = (A, A) if n % 3 == 0 else (A,)
        cases.append(Case(choices, first, second, flipped=n // 2 % 2 == 0))
    return [
        # Side a of a flipped voter is the second answer: all prefer the first.
        replace(case, choices=tuple(B for _ in case.choices)) if case.flipped else case
        for case in cases
    ]


# Nothing to find


def test_a_healthy_export_gives_no_warning(material_of: MakeMaterial) -> None:
    findings = examine(material_of(*healthy()), STARTER_DIR)
    assert [f.kind for f in findings if f.level != "ok"] == []


def test_every_finding_says_what_it_means_and_a_bad_one_what_to_do(
    material_of: MakeMaterial,
) -> None:
    bad = [Case((A,), "no", "a longer answer"), Case((TIE,)), Case((BAD,)), Case((A, B))]
    for finding in examine(material_of(*bad), STARTER_DIR):
        assert finding.meaning.endswith((".", ")"))
        assert finding.title[0] != finding.title[0].lower() or finding.title[0].isdigit()
        if finding.level in ("warning", "blocking"):
            assert finding.advice
            assert finding.line.endswith(".")
            assert "\n" not in finding.line


def test_an_empty_journal_says_one_thing_that_blocks(material_of: MakeMaterial) -> None:
    findings = examine(material_of(), STARTER_DIR)
    assert [f.kind for f in findings if f.level == "blocking"] == ["examples"]
    assert {f.kind for f in findings} == {"examples", "agreement"}


# Examples


def test_too_few_examples_block(material_of: MakeMaterial) -> None:
    finding = found(material_of(*healthy(6)), "examples")
    assert (finding.level, finding.value) == ("blocking", 6)
    assert finding.line == (
        "Run needs at least 20 preference examples and found 6: "
        "collect more votes or lower MIN_EXAMPLES."
    )


def test_fewer_than_a_hundred_examples_say_what_to_expect(material_of: MakeMaterial) -> None:
    finding = found(material_of(*healthy(40)), "examples")
    assert finding.level == "warning"
    assert "little" in finding.advice


def test_an_empty_answer_blocks(material_of: MakeMaterial) -> None:
    # No journal holds one, but an export may have been edited by hand.
    material = material_of(*healthy(30))
    first, *rest = material.prepared.examples
    edited = replace(material.prepared, examples=(replace(first, chosen="  "), *rest))
    finding = found(replace(material, prepared=edited), "empty")
    assert (finding.level, finding.value) == ("blocking", 1)


@pytest.mark.parametrize(
    ("longer", "level", "says"),
    [
        (70, "warning", "longer in 70 %"),
        (30, "warning", "shorter in 70 %"),
        # Two-sided binomial p of 55 and of 60 of 100: .37 and .057.
        (55, "ok", "longer in 55 %"),
        (60, "ok", "longer in 60 %"),
        # p of 64 of 100 is .007, and .64 is nearer to one half than .15.
        (64, "note", "longer in 64 %"),
    ],
)
def test_the_length_of_the_chosen(
    material_of: MakeMaterial, longer: int, level: str, says: str
) -> None:
    cases = [
        Case(first=f"It is {n} and so on.", second=f"No {n}.")
        if n < longer
        else Case(first=f"No {n}.", second=f"It is {n} and so on.")
        for n in range(100)
    ]
    # Answers of equal length have no longer one, so they are not in the share.
    finding = found(material_of(*cases, *[Case() for _ in range(20)]), "length")
    assert (finding.level, finding.value) == (level, longer / 100)
    assert says in finding.title
    assert ("guard" in finding.advice) == (level != "ok")


def test_duplicates_and_contradictions(material_of: MakeMaterial) -> None:
    same = {"prompt": PROMPTS[399], "first": "One.", "second": "Two."}
    twice = [Case((A,), **same), Case((A,), **same)]
    against = Case((B,), **same)
    finding = found(material_of(*[Case() for _ in range(37)], *twice, against), "duplicates")
    # Of 40 examples one repeats another, and one of the three contradicts: 1 + 2 of 40.
    assert finding.title == "1 duplicate, 1 contradiction"
    assert (finding.level, finding.value) == ("warning", pytest.approx(3 / 40))


def test_one_answer_chosen_for_many_prompts(material_of: MakeMaterial) -> None:
    same = [Case(first="I do not know.", second=f"It is {n}.") for n in range(12)]
    finding = found(material_of(*same, *[Case() for _ in range(88)]), "recurring")
    assert (finding.level, finding.value) == ("warning", 0.12)
    assert finding.title == "“I do not know.” is the chosen answer to 12 prompts"


def test_answers_cut_at_the_token_limit(material_of: MakeMaterial) -> None:
    cut = [Case(finish="length") for _ in range(6)]
    # The fourth of these chooses the other, whole answer.
    finding = found(material_of(*cut[:3], Case((B,), finish="length"), *healthy(36)[4:]), "cut")
    assert (finding.level, finding.value) == ("note", 3 / 36)
    assert finding.title == "3 of 36 chosen answers were cut at the token limit"


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        (
            "It is nine, and a dog says woof; ask me again whenever you like, I am always here.",
            False,
        ),
        ("yes", False),
        ("今日は晴れです。", False),
        ("ha " * 40, True),
        ("?!", True),
        ("It is \ufffd.", True),
    ],
)
def test_a_degenerate_answer_loops_or_is_broken(text: str, bad: bool) -> None:
    assert is_degenerate(text) is bad


def test_degenerate_chosen_answers_are_counted(material_of: MakeMaterial) -> None:
    loops = [Case(first=f"{n} no " * 30) for n in range(2)]
    finding = found(material_of(*loops, *healthy(50)[2:]), "degenerate")
    assert (finding.level, finding.value) == ("warning", 2 / 50)


def test_few_prompts_for_many_examples(material_of: MakeMaterial) -> None:
    cases = [replace(case, prompt=PROMPTS[n % 5]) for n, case in enumerate(healthy(40))]
    finding = found(material_of(*cases), "prompts")
    assert (finding.level, finding.value) == ("warning", 5)
    assert finding.title == "5 prompts for 40 examples"


def test_pairs_kept_for_the_evaluation_are_counted(material_of: MakeMaterial) -> None:
    every = (Prompt.from_text(f"What about {n}?") for n in range(1000))
    kept = next(p for p in every if p.split is Split.EVAL)
    finding = found(material_of(*healthy(30), Case(prompt=kept)), "prompts")
    assert "1 more voted pair wait" in finding.meaning
    assert finding.title == "30 prompts for 30 examples"


def is_held_out(prompt: Prompt) -> bool:
    return int(prompt.id[8:16], 16) % 10 == 0


def test_examples_held_out_are_told(material_of: MakeMaterial) -> None:
    held_out = sum(map(is_held_out, PROMPTS[:120]))
    finding = found(material_of(*healthy(120)), "held_out")
    assert (finding.level, finding.value) == ("ok", held_out)
    assert finding.title == f"{120 - held_out} examples to train on, {held_out} held out"


def test_none_held_out_is_noted_and_all_of_them_block(material_of: MakeMaterial) -> None:
    cases = healthy(HOLD_OUT_FROM)
    few = replace(material_of(*cases), min_examples=2)
    prompt = next(filter(is_held_out, PROMPTS))
    examples = tuple(replace(e, prompt=prompt) for e in few.examples)
    none = replace(few.prepared, examples=examples[: HOLD_OUT_FROM - 1])
    assert found(replace(few, prepared=none), "held_out").level == "note"
    every = replace(few.prepared, examples=examples)
    finding = found(replace(few, prepared=every), "held_out")
    assert finding.level == "blocking"
    assert finding.title == f"All {HOLD_OUT_FROM} examples are held out"


# Votes


@pytest.mark.parametrize(
    ("cases", "kind", "value", "level"),
    [
        ([Case((TIE,))] * 12 + [Case()] * 8, "ties", 0.6, "warning"),
        ([Case((TIE,))] * 9 + [Case()] * 11, "ties", 0.45, "ok"),
        ([Case((BAD,))] * 6 + [Case()] * 14, "both_bad", 0.3, "warning"),
        ([Case((A, B))] * 4 + [Case()] * 16, "conflicts", 0.2, "warning"),
        ([Case((A, TIE))] * 3 + [Case()] * 17, "conflicts", 0.15, "ok"),
    ],
)
def test_votes_that_decide_nothing(
    material_of: MakeMaterial, cases: list[Case], kind: str, value: float, level: str
) -> None:
    finding = found(material_of(*cases), kind)
    assert (finding.value, finding.level) == (value, level)


@pytest.mark.parametrize(
    ("to_a", "votes", "level"),
    # Two-sided binomial p: .0035, .13, and 1.1e-5 at a distance from one half below .1.
    [(65, 100, "warning"), (58, 100, "ok"), (570, 1000, "note")],
)
def test_votes_for_the_side_seen_first(to_a: int, votes: int, level: str) -> None:
    cast = [
        Vote(f"{n}", f"pair-{n}", "v", A if n < to_a else B, n % 2 == 0, WHEN) for n in range(votes)
    ]
    empty = PreparedExport((), ExportCounts(votes, 1, 0, votes, 0, 0, 0, 0, votes), "")
    (finding,) = [f for f in check_votes(Material(empty, cast, 20)) if f.kind == "side"]
    assert (finding.level, finding.value) == (level, to_a / votes)
    if to_a == 65:
        # Wilson's 95 % interval of 65 of 100.
        assert (finding.low, finding.high) == pytest.approx((0.5525, 0.7364), abs=1e-4)


def test_no_overlap_is_a_state(material_of: MakeMaterial) -> None:
    finding = found(material_of(*[Case() for _ in range(30)]), "agreement")
    assert (finding.level, finding.title, finding.value) == ("note", "No overlap yet", None)


def test_a_little_overlap_is_told_and_not_relied_on(material_of: MakeMaterial) -> None:
    material = material_of(*[Case((A, A))] * 19, *[Case()] * 11)
    assert found(material, "agreement").level == "note"
    assert measure_flips(material) is None


@pytest.mark.parametrize(("by_suspect", "level"), [(6, "warning"), (2, "note")])
def test_flagged_voters_who_are_still_in_are_named_before_a_run(
    by_suspect: int, level: str
) -> None:
    cast = [
        Vote(f"{n}", f"pair-{n}", "left" if n < by_suspect else "ann", A, False, WHEN)
        for n in range(100)
    ]
    empty = PreparedExport((), ExportCounts(100, 2, 0, 100, 0, 0, 0, 0, 100), "")
    pressed = VoterHealth(
        voter="left",
        votes=by_suspect,
        decided=by_suspect,
        agreement=None,
        side_a=share_of(by_suspect, by_suspect),
        longer=None,
        model=None,
        one_model=None,
        reading_s=None,
        repeats=None,
        gold=None,
        score=0.0,
        judged=0,
        flags=(Flag("side", "All to the left."),),
        set_aside=None,
    )
    findings = check_votes(Material(empty, cast, 20, [pressed]))
    (finding,) = [f for f in findings if f.kind == "suspects"]
    assert (finding.level, finding.value) == (level, by_suspect / 100)
    assert finding.title == "1 voter is flagged and still in"
    assert not [f for f in check_votes(Material(empty, cast, 20)) if f.kind == "suspects"]


def test_a_run_is_told_of_flagged_voters_until_they_are_set_aside(
    journal: Journal, tmp_path: Path
) -> None:
    # Three prefer the first answer wherever it stands, and the fourth presses left 30 times.
    fill(journal, [Case((A, A, A, A), flipped=False), Case((B, B, B, A), flipped=True)] * 15)
    settings = AlignmentSettings(base_model="starter")
    base = resolve_base(settings, tmp_path / "home", has_votes=False)
    pipeline = Pipeline(Home(tmp_path / "home"), settings, base, journal)
    before = {f.kind: f for f in pipeline.diagnose(tokens=False).findings}
    assert [v.voter for v in pipeline.quality.report().suspects] == ["v3"]
    assert before["suspects"].level == "warning"
    flips = pipeline.measured_flip_rate()
    journal.set_aside("v3", "presses one side").result(30)
    # At once, and not when the desk's patience is over.
    assert "suspects" not in {f.kind for f in pipeline.diagnose(tokens=False).findings}
    # d was 45 of 180, now the other three agree: training is told so.
    assert flips is not None
    assert flips > 0
    assert pipeline.measured_flip_rate() == 0


def noisy() -> list[Case]:
    """12 of 40 pairs of votes differ, and 60 pairs have one vote."""
    return [*[Case((A, B))] * 12, *[Case((A, A))] * 28, *[Case()] * 60]


def test_noise_is_measured_in_votes_and_in_examples(material_of: MakeMaterial) -> None:
    material = material_of(*noisy())
    flips = measure_flips(material)
    assert flips is not None
    # d = .3, so ε = (1 - √.4) / 2 = .18377; two that agree err ε² / (ε² + (1 - ε)²) = .04825.
    assert flips.votes.rate == pytest.approx(0.18377, abs=1e-5)
    assert flips.of_examples == pytest.approx((60 * 0.18377 + 28 * 0.04825) / 88, abs=1e-4)
    finding = found(material, "agreement")
    assert finding.level == "warning"
    assert "robust" in finding.advice


def test_votes_like_coin_flips_are_no_flip_rate_to_correct_for(material_of: MakeMaterial) -> None:
    material = material_of(*[Case((A, B))] * 15, *[Case((A, A))] * 15, *[Case()] * 20)
    finding = found(material, "agreement")
    assert finding.level == "warning"
    assert "coin flips" in finding.advice


def test_synthetic_votes_are_named(material_of: MakeMaterial) -> None:
    cases = [replace(case, source=VoteSource.SYNTHETIC) for case in healthy(30)]
    finding = found(material_of(*cases), "synthetic")
    assert (finding.level, finding.title) == ("note", "40 of 40 votes are synthetic")


def test_people_and_scripts_in_one_dataset_is_a_warning(material_of: MakeMaterial) -> None:
    finding = found(material_of(Case(source=VoteSource.SYNTHETIC), *healthy(30)[1:]), "synthetic")
    assert finding.level == "warning"


# Tokens


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def ids(pieces: Sequence[Any]) -> list[int]:
    return [piece.id for piece in pieces]


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_the_tokens_shown_are_those_of_the_trainers_own_dataset(
    method: Method, make_trainer: MakeTrainer, tiny: Path, tiny_export: Export
) -> None:
    trainer = make_trainer(method)
    examples = load_examples(tiny_export.directory)
    report = check_tokens(examples, tiny, method=method, max_length=1024)
    places = {e.pair_id: n for n, e in enumerate(examples)}
    rows, batch = rows_of(trainer), batch_of(trainer, len(examples))
    assert len(report.shown) == 3
    for shown in report.shown:
        n = places[shown.pair_id]
        assert ids(shown.prompt) == rows[n]["prompt"]
        for side, pieces in (("chosen", shown.chosen), ("rejected", shown.rejected)):
            assert ids(pieces) == rows[n][side]
            counted = [p.id for p in (*shown.prompt, *pieces) if p.counts]
            assert counted == looked_at(batch, n, side, len(examples))


def looked_at(batch: Any, n: int, side: str, pairs: int) -> list[int]:
    """The ids that the loss of a batch looks at: ORPO's labels, DPO's completion mask."""
    if f"{side}_labels" in batch:
        labels = batch[f"{side}_labels"][n]
        return list(labels[labels != -100].tolist())
    row = n + (pairs if side == "rejected" else 0)
    return list(batch["input_ids"][row][batch["completion_mask"][row].bool()].tolist())


def test_what_the_template_wrote_and_where_a_turn_ends(
    material_of: MakeMaterial, tiny: Path
) -> None:
    prompt = Prompt((Message("system", "Be brief."), Message("user", "Who is it?")))
    material = material_of(Case(prompt=prompt, first="It is é.", second="No."))
    report = check_tokens(material.examples, tiny, method="sft", max_length=1024)
    (shown,) = report.shown
    said = "".join(p.text for p in shown.prompt if p.role == "text")
    written = "".join(p.text for p in shown.prompt if p.role == "template")
    assert said == "Be brief.Who is it?"
    assert written == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [p.id for p in shown.chosen if p.role == "end"] == [EOS_ID]
    assert shown.chosen[-1].role == "end"
    # SFT reads the chosen answer alone.
    assert not any(p.counts for p in (*shown.prompt, *shown.rejected))
    assert all(p.counts for p in shown.chosen)
    # A token that is part of a character is named as the tokenizer names it: é is two of them.
    assert "".join(p.text for p in shown.chosen[:6]) == "It is "
    assert [p.text for p in shown.chosen[6:8]] == ["Ã", "©"]


def of_kind(findings: Sequence[Finding], kind: str) -> Finding:
    (finding,) = [f for f in findings if f.kind == kind]
    return finding


def test_answers_that_do_not_fit_are_counted_as_training_cuts_them(
    material_of: MakeMaterial, tiny: Path
) -> None:
    prompt = train_prompts(1)[0]
    material = material_of(
        *[Case(prompt=prompt, first=f"{n} yes " * 20, second="no.") for n in range(2)],
        *[Case(prompt=prompt, first=f"It is {n}.", second="no.") for n in range(6)],
    )
    # 20 tokens of room: more than any short answer with its end of turn, fewer than a long one.
    whole = check_tokens(material.examples, tiny, method="dpo", max_length=1024)
    assert of_kind(whole.findings, "truncated").level == "ok"
    length = len(whole.shown[0].prompt)
    report = check_tokens(material.examples, tiny, method="dpo", max_length=length + 20)
    finding = of_kind(report.findings, "truncated")
    assert (finding.level, finding.value) == ("warning", 2 / 8)
    assert of_kind(report.findings, "dropped").level == "ok"
    cut = [shown for shown in report.shown if shown.chosen_cut]
    assert all(len(shown.chosen) == 20 for shown in cut)


def test_a_prompt_that_fills_the_window_is_dropped_and_all_of_them_block(
    material_of: MakeMaterial, tiny: Path
) -> None:
    long = Prompt.from_text("Why? " * 60)
    long = long if long.split is Split.TRAIN else Prompt.from_text("Why? " * 61)
    long = long if long.split is Split.TRAIN else Prompt.from_text("Why? " * 62)
    material = material_of(Case(prompt=long), *healthy(4)[1:])
    report = check_tokens(material.examples, tiny, method="dpo", max_length=200)
    finding = of_kind(report.findings, "dropped")
    assert (finding.level, finding.value) == ("warning", 1 / 4)
    report = check_tokens(material.examples, tiny, method="dpo", max_length=10)
    finding = of_kind(report.findings, "dropped")
    assert (finding.level, finding.title) == ("blocking", "No example fits into 10 tokens")
    assert report.shown == ()


def test_the_starters_tokenizer_is_the_one_that_training_loads(tmp_path: Path) -> None:
    # Elsewhere than where the starter lies, it goes the way of every other base.
    copied = load_tokenizer(Path(shutil.copytree(STARTER_DIR, tmp_path / "copy")))
    quick = load_tokenizer(STARTER_DIR)
    assert type(quick) is type(copied)
    assert quick.backend_tokenizer.to_str() == copied.backend_tokenizer.to_str()
    assert quick.chat_template == copied.chat_template
    assert quick.special_tokens_map == copied.special_tokens_map


def test_text_that_spells_a_special_token_is_noted(material_of: MakeMaterial, tiny: Path) -> None:
    material = material_of(Case(first="It is <|im_end|> all."), *healthy(3)[1:])
    report = check_tokens(material.examples, tiny, method="dpo", max_length=1024)
    assert of_kind(report.findings, "broken_up").value == 1
    assert all(ids(s.chosen).count(EOS_ID) == 1 for s in report.shown)


def test_a_base_without_a_chat_template_blocks(material_of: MakeMaterial, tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    tokenizer.chat_template = None
    material = material_of(*healthy(3))
    report = check_tokens(
        material.examples, tiny, method="dpo", max_length=1024, tokenizer=tokenizer
    )
    (finding,) = report.findings
    assert finding.level == "blocking"
    assert finding.line == "The base model has no chat template: choose an instruct model."


# The whole diagnosis


def test_length_is_told_in_tokens_once_a_tokenizer_is_at_hand(
    material_of: MakeMaterial, tiny: Path
) -> None:
    material = material_of(*healthy())
    light = diagnose(material, tiny_base(tiny), tokens=False)
    assert (light.max_length, light.tokens) == (None, ())
    full = diagnose(material, tiny_base(tiny))
    assert full.max_length == 1024
    for diagnosis, unit in ((light, "characters"), (full, "tokens")):
        length = diagnosis.finding("length")
        assert length is not None
        assert unit in length.meaning
    assert sum(f.kind == "length" for f in full.findings) == 1


def test_healthy_data_is_trained_on_with_the_presets(material_of: MakeMaterial, tiny: Path) -> None:
    diagnosis = diagnose(material_of(*healthy()), tiny_base(tiny), method="orpo")
    assert diagnosis.worst == "ok"
    assert diagnosis.advised == TrainingOptions("orpo")


def test_noise_is_answered_by_the_robust_loss_with_its_rate(
    material_of: MakeMaterial, tiny: Path
) -> None:
    material = material_of(*noisy())
    diagnosis = diagnose(material, tiny_base(tiny), tokens=False)
    # (60 · .18377 + 28 · .04825) / 88 = .14065.
    assert diagnosis.advised == TrainingOptions("dpo", loss="robust", flip_rate=0.141)
    assert "14 %" in diagnosis.reasons[0]
    # ORPO has no loss that takes a flip rate.
    orpo = diagnose(material, tiny_base(tiny), method="orpo", tokens=False)
    assert orpo.advised == TrainingOptions("orpo")


def test_chosen_answers_that_are_shorter_turn_the_length_guard_on(
    material_of: MakeMaterial, tiny: Path
) -> None:
    cases = [Case(first=f"{n:02d}", second=f"It is {n:02d}, yes.") for n in range(60)]
    diagnosis = diagnose(material_of(*cases), tiny_base(tiny))
    # One token a byte: 2 against 14, so a gap of 12 is made to weigh 1 in the logit.
    assert diagnosis.advised == TrainingOptions("dpo", length_penalty=-round(1 / 12, 4))


def test_a_taste_for_longer_answers_is_warned_of_and_not_held_back(
    material_of: MakeMaterial, tiny: Path
) -> None:
    cases = [Case(first=f"It is {n:02d}, yes.", second=f"{n:02d}") for n in range(60)]
    diagnosis = diagnose(material_of(*cases), tiny_base(tiny))
    length = diagnosis.finding("length")
    assert length is not None
    assert length.level == "warning"
    assert diagnosis.advised == TrainingOptions("dpo")


def test_a_report_crosses_as_json_and_loses_nothing(material_of: MakeMaterial, tiny: Path) -> None:
    diagnosis = diagnose(material_of(*noisy()), tiny_base(tiny))
    assert len(diagnosis.tokens) == 3
    assert Diagnosis.from_json(diagnosis.to_json()) == diagnosis


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"findings": [{"kind": 1}]}', "null"])
def test_what_is_no_report_is_one_clear_line(text: str) -> None:
    with pytest.raises(DiagnosisError) as caught:
        Diagnosis.from_json(text)
    assert "\n" not in str(caught.value)


@pytest.fixture
def bare(tmp_path: Path, tiny: Path) -> Path:
    """The tiny base without its chat template."""
    folder = Path(shutil.copytree(tiny, tmp_path / "bare"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_what_is_wrong_with_the_base_is_found_once(material_of: MakeMaterial, bare: Path) -> None:
    diagnosis = diagnose(material_of(*healthy()), tiny_base(bare))
    (finding,) = diagnosis.blocking
    assert (finding.kind, diagnosis.tokens) == ("template", ())
    assert "Not now" in diagnosis.reasons[-1]


# Before a run


@pytest.fixture
def pipeline(journal: Journal, tmp_path: Path, tiny: Path) -> Pipeline:
    settings = AlignmentSettings(base_model=str(tiny))
    return Pipeline(Home(tmp_path / "home"), settings, tiny_base(tiny), journal)


def nothing_made(home: Path) -> bool:
    return not (home / "runs").exists() and not (home / "exports").exists()


def test_blocking_data_starts_no_run_and_leaves_nothing(
    pipeline: Pipeline, journal: Journal, tmp_path: Path
) -> None:
    fill(journal, healthy(7))
    with pytest.raises(RunError) as caught:
        pipeline.train(TrainingOptions("dpo"))
    assert str(caught.value) == (
        "Run needs at least 20 preference examples and found 7: "
        "collect more votes or lower MIN_EXAMPLES."
    )
    assert nothing_made(tmp_path / "home")


def test_prompts_that_are_all_held_out_start_no_run(
    pipeline: Pipeline, journal: Journal, tmp_path: Path
) -> None:
    prompt = next(filter(is_held_out, PROMPTS))
    fill(journal, [Case(prompt=prompt) for _ in range(HOLD_OUT_FROM)])
    with pytest.raises(RunError, match=r"^All 50 examples are held out: vote on more prompts\.$"):
        pipeline.train(TrainingOptions("dpo"))
    assert nothing_made(tmp_path / "home")


def test_a_base_that_blocks_starts_no_run(journal: Journal, tmp_path: Path, bare: Path) -> None:
    fill(journal, healthy())
    home = Home(tmp_path / "home")
    pipeline = Pipeline(home, AlignmentSettings(), tiny_base(bare), journal)
    with pytest.raises(RunError) as caught:
        pipeline.train(TrainingOptions("dpo"))
    assert str(caught.value).startswith("The base model has no chat template: choose an instruct ")
    assert nothing_made(home.root)


def test_the_robust_loss_takes_the_measured_flip_rate(pipeline: Pipeline, journal: Journal) -> None:
    fill(journal, noisy())
    assert pipeline.measured_flip_rate() == pytest.approx(0.14065, abs=1e-5)
    run = pipeline.train(TrainingOptions("dpo", loss="robust"))
    pipeline.runs.cancel(run.id)
    assert run.spec.flip_rate == pipeline.measured_flip_rate()


def test_the_robust_loss_without_overlap_is_refused(
    pipeline: Pipeline, journal: Journal, tmp_path: Path
) -> None:
    fill(journal, [Case() for _ in range(30)])
    assert pipeline.measured_flip_rate() is None
    with pytest.raises(RunError, match="needs a flip rate"):
        pipeline.train(TrainingOptions("dpo", loss="robust"))
    assert nothing_made(tmp_path / "home")


# The command


def home_of(folder: Path, cases: Sequence[Case]) -> Path:
    """A home on the starter with these votes, as an app leaves one."""
    home = Home(folder)
    home.prepare()
    base: ResolvedBase = resolve_base(
        AlignmentSettings(base_model="starter"), folder, has_votes=False
    )
    journal = Journal(home.journal)
    fill(journal, [replace(case, model=base.ref) for case in cases])
    journal.close()
    return folder


def test_the_command_reports_and_exits_by_what_blocks(tmp_path: Path) -> None:
    home = home_of(tmp_path / "home", healthy())
    done = run_command(home, "doctor", "--method", "orpo", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "120 examples" in done.stdout
    assert "<|im_end|>" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stderr == ""
    blocked = run_command(home, "doctor", "--json", MIN_EXAMPLES="500")
    assert blocked.returncode == 1
    assert blocked.stderr.count("\n") == 1
    assert "needs at least 500" in blocked.stderr
    diagnosis = Diagnosis.from_json(blocked.stdout)
    assert [f.kind for f in diagnosis.blocking] == ["examples"]
    assert len(diagnosis.tokens) == 3
    assert json.loads(blocked.stdout)["examples"] == 120


def test_what_a_model_wrote_never_steers_a_terminal(
    material_of: MakeMaterial, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [Case(first="\x1b]0;owned\x07 hi\n", second=f"It is {n}.") for n in range(20)]
    diagnosis = diagnose(material_of(*cases), tiny_base(tiny))
    assert diagnosis.finding("recurring") is not None
    print_diagnosis(diagnosis, Console(width=80, no_color=True))
    said = capsys.readouterr().out
    assert "\\u001b·" in said
    assert not {"\x1b", "\x07"} & set(said)


def test_the_advised_command_is_one_that_the_command_line_takes(
    material_of: MakeMaterial, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlap = [Case((A, B), "no", "It is.")] * 12 + [Case((A, A), "no", "It is.")] * 28
    diagnosis = diagnose(material_of(*overlap, *[Case((A,), "no", "It is.")] * 60), tiny_base(tiny))
    print_diagnosis(diagnosis, Console(width=120, no_color=True))
    line = capsys.readouterr().out.rstrip().splitlines()[-1]
    words = line.split("app.py train ")[1].split()
    assert {"--loss", "--flip-rate", "--length-penalty"} <= set(words)
    command = typer.main.get_command(app.cli).commands["train"]
    asked = command.make_context("train", words).params
    advised = diagnosis.advised
    assert (asked["method"], asked["loss"]) == ("dpo", "robust")
    assert (asked["flip_rate"], asked["length_penalty"]) == (
        advised.flip_rate,
        advised.length_penalty,
    )


def test_a_report_without_colours_says_the_same(
    material_of: MakeMaterial, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diagnosis = diagnose(material_of(*noisy()), tiny_base(tiny))
    print_diagnosis(diagnosis, Console(width=80, no_color=True))
    said = " ".join(capsys.readouterr().out.split())
    for finding in diagnosis.findings:
        assert finding.title in said
        assert finding.meaning in said
    for piece in diagnosis.tokens[0].chosen:
        assert f"·{piece.id}" in said
