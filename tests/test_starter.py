"""The starter model: the text it is made of, the recipe, and the weights that ship."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.scripted_voter import ScriptedVoter, politeness, quality, well_formed
from alignment.starter.kinds import drafts
from alignment.starter.starter import (
    END,
    PAD,
    START,
    STARTER_DIR,
    Recipe,
    build,
    lesson_texts,
    main,
    report_prompts,
    starter_prompts,
    starter_revision,
)
from alignment.starter.text import STYLE_SHARES, Style, is_correct, questions, vocabulary
from annotation.schema import Choice, Split

EVAL_TEXTS = [p.messages[-1].content for p in starter_prompts() if p.split is Split.EVAL]


def sample(model: Any, tokenizer: Any, texts: list[str], *, seed: int) -> list[str]:
    """One answer a prompt at temperature 1, in left-padded batches."""
    torch.manual_seed(seed)
    answers: list[str] = []
    for start in range(0, len(texts), 64):
        rendered = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
            )
            for text in texts[start : start + 64]
        ]
        batch = tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=64)
        drawn = ids[:, batch["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(drawn, skip_special_tokens=True)
    return answers


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(STARTER_DIR)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(STARTER_DIR, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def drawn(model: Any, tokenizer: Any) -> tuple[list[str], list[str]]:
    """Two answers for every eval prompt."""
    first, second = (sample(model, tokenizer, EVAL_TEXTS, seed=seed) for seed in (1, 2))
    return first, second


# The text


def test_questions_are_many_and_of_many_kinds() -> None:
    assert len({q.kind for q in questions()}) >= 6
    assert len(questions()) >= 1100
    assert len(EVAL_TEXTS) >= 220


def test_no_question_is_asked_twice() -> None:
    assert len(questions()) == sum(len(draft.asks) for draft in drafts())
    assert len({p.id for p in (*starter_prompts(), *report_prompts())}) == len(questions())


def test_every_answer_is_right_well_formed_and_no_answer_to_the_others() -> None:
    for question in questions():
        for answers in question.answers.values():
            assert len(answers) == len(set(answers))
            for answer in answers:
                assert is_correct(question.text, answer), (question.text, answer)
                assert well_formed(answer), answer
    by_kind = {q.kind: q for q in questions()}
    for kind, question in by_kind.items():
        stranger = next(q for q in questions() if q.kind not in (kind, "how-to", "greeting"))
        assert not is_correct(question.text, stranger.answers[Style.TERSE][0])


def test_styles_read_differently() -> None:
    for question in questions():
        lengths = {s: max(map(len, a)) for s, a in question.answers.items()}
        assert lengths[Style.TERSE] <= lengths[Style.PLAIN] + 4 < lengths[Style.POLITE]
        assert all(politeness(a) == 2 for a in question.answers[Style.POLITE])
        texts = [a for answers in question.answers.values() for a in answers]
        assert len(texts) == len(set(texts))


def test_styles_come_in_their_shares() -> None:
    style_of = {
        (q.text, a): s for q in questions() for s, answers in q.answers.items() for a in answers
    }
    rounds = list(lesson_texts(20, random.Random(3)))
    drawn = [style_of[lesson] for lessons in rounds for lesson in lessons]
    for style, share in STYLE_SHARES.items():
        assert drawn.count(style) == share * len(questions())
    assert all(sorted(q for q, _ in r) == sorted(q.text for q in questions()) for r in rounds)


# The weights that ship


def test_shipped_weights_are_small_bf16_safetensors() -> None:
    weights = STARTER_DIR / "model.safetensors"
    assert weights.stat().st_size <= 2_000_000
    with safe_open(weights, "pt") as opened:
        assert {opened.get_tensor(name).dtype for name in opened.keys()}  # noqa: SIM118 == {torch.bfloat16}
    assert re.fullmatch("[0-9a-f]{40}", starter_revision())
    assert not list(STARTER_DIR.glob("*.bin"))


def test_revision_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    # sha256("abc"), FIPS 180-2, appendix B.1
    assert starter_revision(tmp_path) == "ba7816bf8f01cfea414140de5dae2223b00361a3"


def test_model_speaks_one_way_with_its_tokenizer(model: Any, tokenizer: Any) -> None:
    assert model.config.model_type == "llama"
    assert len(tokenizer) == model.config.vocab_size
    generation = model.generation_config
    assert (generation.do_sample, generation.temperature, generation.top_k) == (True, 1.0, 0)
    for config in (model.config, generation):
        assert (config.eos_token_id, config.pad_token_id) == (
            tokenizer.convert_tokens_to_ids(END),
            tokenizer.convert_tokens_to_ids(PAD),
        )
    assert tokenizer.padding_side == "left"
    # A zero pad row makes gradients overflow wherever a pad is attended.
    assert model.get_input_embeddings().weight[tokenizer.pad_token_id].abs().max() > 0


def test_any_text_survives_the_tokenizer(tokenizer: Any) -> None:
    for text in ("Hello, it is é 漢字 🙂.", " two  spaces\n\nand a line ", "don't ? !", "<|x|>"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_chat_template_marks_turns_and_ends_once(tokenizer: Any) -> None:
    chat = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]
    asked = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert asked == f"{START}user\nHello!{END}{START}assistant\n"
    # The completion is what training adds to the prompt: the words and one end mark.
    assert whole == f"{asked}Hi.{END}"
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    prompt_ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert ids[: len(prompt_ids)] == prompt_ids
    assert ids[len(prompt_ids) :].count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("token", [PAD, START, END])
@pytest.mark.parametrize("around", ["{}", "Say {}!", "<{}>", "{0}{0}", "<|{}|>"])
def test_text_that_spells_a_special_token_stays_text(
    tokenizer: Any, token: str, around: str
) -> None:
    special = set(tokenizer.convert_tokens_to_ids([PAD, START, END]))
    spelled, plain = (
        tokenizer(
            tokenizer.apply_chat_template(
                [{"role": role, "content": text} for role in ("user", "assistant")],
                tokenize=False,
            ),
            add_special_tokens=False,
        )["input_ids"]
        for text in (around.format(token), "plain")
    )
    assert [i for i in spelled if i in special] == [i for i in plain if i in special]


def test_no_answer_is_long(tokenizer: Any) -> None:
    answers = [a for q in questions() for group in q.answers.values() for a in group]
    assert max(map(len, tokenizer(answers, add_special_tokens=False)["input_ids"])) <= 50


def test_shipped_samples_are_right_and_mix_styles(drawn: tuple[list[str], list[str]]) -> None:
    first, second = drawn
    measured = quality(EVAL_TEXTS * 2, first + second)
    different = sum(a != b for a, b in zip(first, second, strict=True)) / len(first)
    print(f"\nstarter, {len(EVAL_TEXTS)} prompts x 2: {measured}, pairs differ {different:.3f}")
    assert measured.correct >= 0.9
    assert measured.well_formed >= 0.9
    assert 0.2 <= measured.polite <= 0.4
    assert different >= 0.8


def test_a_voter_can_decide_many_pairs(drawn: tuple[list[str], list[str]]) -> None:
    voter = ScriptedVoter(seed=0)
    choices = [voter.choose(*row) for row in zip(EVAL_TEXTS, *drawn, strict=True)]
    assert sum(c in (Choice.A, Choice.B) for c in choices) >= 0.4 * len(choices)


# The recipe


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("starter")
    return out, build(out, Recipe(steps=120))


def test_recipe_learns_from_nothing(small: tuple[Path, list[float]]) -> None:
    out, losses = small
    # Untrained, a token costs ln(1536) = 7.34 nats; far below it, the model has learned.
    assert 6.5 < losses[0] < 9
    assert sum(losses[-30:]) / 30 < 2.5
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    texts = EVAL_TEXTS[:64]
    answers = sample(model, tokenizer, texts, seed=0)
    # No untrained model ends a sentence with known words only; this one often does.
    assert quality(texts, answers).well_formed >= 0.2
    words = {word.lower() for answer in answers for word in re.findall(r"[\w'-]+", answer)}
    assert len(words & vocabulary()) > len(words) / 2


def test_recipe_writes_what_the_shipped_folder_holds(small: tuple[Path, list[float]]) -> None:
    assert {p.name for p in small[0].iterdir()} == {p.name for p in STARTER_DIR.iterdir()}
    same = ("config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja")
    for name in (*same, "tokenizer_config.json"):
        assert (small[0] / name).read_text() == (STARTER_DIR / name).read_text(), name


def test_same_seed_makes_the_same_weights(tmp_path: Path) -> None:
    revisions = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        main([str(tmp_path / name), "--steps", "3", "--seed", str(seed)])
        revisions.append(starter_revision(tmp_path / name))
    assert revisions[0] == revisions[1] != revisions[2]


def test_a_loss_that_is_not_finite_stops_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="The loss at step 2"):
        build(tmp_path, Recipe(steps=5, batch_size=4, adamw_lr=float("inf")))


def test_every_prompt_is_a_question_of_one_of_two_lists() -> None:
    texts = [[p.messages[-1].content for p in few] for few in (starter_prompts(), report_prompts())]
    asked = [q.text for q in questions()]
    assert [t for t in asked if t in texts[0]] == texts[0]
    assert [t for t in asked if t in texts[1]] == texts[1]
    assert sorted(texts[0] + texts[1]) == sorted(asked)


def test_what_is_reported_is_never_voted_on() -> None:
    """Kept apart by whole facts, over every kind of question, and enough to tell models apart."""
    reported = {p.messages[-1].content for p in report_prompts()}
    voted = {p.messages[-1].content for p in starter_prompts()}
    for draft in drafts():
        assert reported.issuperset(draft.asks) or voted.issuperset(draft.asks)
    assert len(reported) >= 270
    kinds = {q.text: q.kind for q in questions()}
    assert {kinds[text] for text in reported} == set(kinds.values())
