"""Drawing from weights: batches, adapters and streams agree with one row drawn alone."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS_ID, SPECIAL, WINDOW, make_tiny_model

from alignment.base import ResolvedBase
from alignment.chat import (
    ChatError,
    encode_completion,
    encode_prompt,
    encode_text,
    end_of_turn_ids,
    render_chat,
)
from alignment.generation import MAX_ADAPTERS, GenerationError, LocalGenerator
from alignment.training.rows.data import tokenize_example
from annotation.schema import Completion, Message, ModelRef, PreferenceExample, Prompt, Sampling

ROOT = Path(__file__).parent.parent
REF = ModelRef("tiny", "0" * 40)
GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
PROMPTS = [Prompt.from_text(t) for t in ("Hi", "Tell me about rain, at length.", "2+2?", "é 😀")]


def adapter_ref(name: str) -> ModelRef:
    return ModelRef("tiny", "0" * 40, name, "f" * 40)


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A random LoRA adapter strong enough to change every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ResolvedBase:
    return ResolvedBase(REF, make_tiny_model(tmp_path_factory.mktemp("tiny")), False, None)


@pytest.fixture(scope="module")
def adapters(base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        f"run{n}": make_adapter(base.path, folder / f"run{n}", n) for n in range(MAX_ADAPTERS + 2)
    }


@pytest.fixture(scope="module")
def generator(base: ResolvedBase, adapters: dict[str, Path]) -> LocalGenerator:
    return build(base, adapters)


def build(base: ResolvedBase, adapters: dict[str, Path]) -> LocalGenerator:
    return LocalGenerator(
        base,
        weights_path=lambda ref: adapters.get(ref.adapter or ""),
        device="cpu",
        dtype="float32",
    )


@pytest.fixture(scope="module")
def tokenizer(base: ResolvedBase):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base.path)


def texts(answers: list[list[Completion]]) -> list[list[str]]:
    return [[c.text for c in some] for some in answers]


def last(stream: Iterator[tuple[str, ...]]) -> tuple[str, ...]:
    return list(stream)[-1]


# The chat template.


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.sampled_from([*SPECIAL, "<|", "im_end", "|>", "a", " ", "\n"]), min_size=1)
)
def test_text_never_becomes_a_special_token(tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    plain = [Message("user", "x"), Message("assistant", "x"), Message("user", "x")]
    spelled = [Message(m.role, text) for m in plain]
    specials = set(range(len(SPECIAL)))
    want = [i for i in encode_prompt(tokenizer, plain) if i in specials]
    assert [i for i in encode_prompt(tokenizer, spelled) if i in specials] == want
    said = encode_completion(tokenizer, plain, text, end_ids={EOS_ID})
    assert [i for i in said if i in specials] == [EOS_ID]


def test_ordinary_text_is_rendered_as_the_template_has_it(tokenizer) -> None:
    rendered = render_chat(tokenizer, [Message("user", "Hi <b>")], add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n"


@settings(max_examples=60, deadline=None)
@given(question=st.text(min_size=1, max_size=40), answer=st.text(max_size=40))
def test_training_sees_the_prompt_that_was_sampled_and_one_end_of_turn(
    tokenizer, question: str, answer: str
) -> None:
    messages = [Message("user", question)]
    prompt = encode_prompt(tokenizer, messages)
    completion = encode_completion(tokenizer, messages, answer, end_ids={EOS_ID})
    assert completion.count(EOS_ID) == 1
    assert completion[-1] == EOS_ID
    whole = [*messages, Message("assistant", answer)]
    rendered = encode_text(tokenizer, render_chat(tokenizer, whole, add_generation_prompt=False))
    # This template writes a newline behind the end of turn, where a model has long stopped.
    assert rendered[:-1] == prompt + completion


def test_a_drawn_answer_tokenises_to_what_was_drawn(tokenizer, generator: LocalGenerator) -> None:
    sampling = Sampling(max_new_tokens=400, seed=5)
    [drawn] = generator.sample(PROMPTS[:1], model=REF, sampling=sampling, per_prompt=16)
    # Random weights also speak broken UTF-8, which no text can give back.
    whole = [c for c in drawn if c.finish == "stop" and "\ufffd" not in c.text]
    assert len(whole) >= 3
    for completion in whole:
        ids = encode_completion(tokenizer, PROMPTS[0].messages, completion.text, end_ids={EOS_ID})
        assert tokenizer.decode(ids) == completion.text + "<|im_end|>"


def test_what_a_template_adds_to_an_answer_is_not_trained_on(base: ResolvedBase) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    turns = [Message("user", "Q")]
    plain = encode_completion(tokenizer, turns, "A <|b", end_ids={EOS_ID})
    assert tokenizer.decode(plain) == "A <|b<|im_end|>"
    # As some do: an empty thought before the answer, or the answer rewritten.
    for change in ("'<think></think>' + message['content']", "message['content'] | upper"):
        tokenizer.chat_template = (
            "{% for message in messages %}<|im_start|>{{ message['role'] }}:"
            "{{ (" + change + ") if message['role'] == 'assistant' else message['content'] }}"
            "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
        )
        assert encode_completion(tokenizer, turns, "A <|b", end_ids={EOS_ID}) == plain


def test_a_tokenizer_without_an_end_of_turn_takes_the_configurations(base: ResolvedBase) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    tokenizer.eos_token = None
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    messages = [Message("user", "q")]
    text = encode_text(tokenizer, "Yes")
    assert encode_completion(tokenizer, messages, "Yes", end_ids={7, 3}) == [*text, 3]
    assert encode_completion(tokenizer, messages, "Yes", end_ids=()) == text
    example = PreferenceExample(
        Prompt(tuple(messages)), "Yes", "Yes", "p", 1, 1.0, REF, REF, "stop", "length"
    )
    for ends, chosen in ((frozenset({7, 3}), [*text, 3]), (frozenset(), text)):
        pair = tokenize_example(tokenizer, example, end_ids=ends, max_length=99)
        assert pair is not None
        assert (pair.chosen_ids, pair.rejected_ids) == (chosen, text)


def test_ends_of_turn_are_those_of_tokenizer_and_configuration(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 9]}')
    (tmp_path / "config.json").write_text('{"eos_token_id": null}')
    assert end_of_turn_ids(tokenizer, tmp_path) == {EOS_ID, 7, 9}


def test_a_template_that_refuses_a_role_or_is_missing_is_one_line(base: ResolvedBase) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    turns = [Message("user", "a")]
    tokenizer.chat_template = "{{ raise_exception('No system role') }}"
    with pytest.raises(ChatError, match="No system role"):
        render_chat(tokenizer, turns, add_generation_prompt=True)
    tokenizer.chat_template = None
    with pytest.raises(ChatError, match="no chat template"):
        render_chat(tokenizer, turns, add_generation_prompt=True)


# Batches.


def test_a_padded_batch_answers_as_each_prompt_does_alone(generator: LocalGenerator) -> None:
    together = generator.sample(PROMPTS, model=REF, sampling=GREEDY, per_prompt=1)
    alone = [generator.sample([p], model=REF, sampling=GREEDY, per_prompt=1)[0] for p in PROMPTS]
    assert texts(together) == texts(alone)
    assert len({text for [text] in texts(together)}) == len(PROMPTS)


def test_answers_come_in_the_order_of_the_prompts_across_bounded_batches(
    generator: LocalGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generator.sample(PROMPTS, model=REF, sampling=GREEDY, per_prompt=2)
    monkeypatch.setattr("alignment.sampling.batches.MAX_ROWS", 3)
    assert generator.sample(PROMPTS, model=REF, sampling=GREEDY, per_prompt=2) == whole
    monkeypatch.setattr("alignment.sampling.batches.MAX_BATCH_TOKENS", 1)
    assert generator.sample(PROMPTS, model=REF, sampling=GREEDY, per_prompt=2) == whole


def test_the_seed_decides_the_draw_and_leaves_other_randomness_alone(
    generator: LocalGenerator,
) -> None:
    import torch

    def draw(seed: int) -> list[list[str]]:
        sampling = Sampling(max_new_tokens=30, seed=seed)
        return texts(generator.sample(PROMPTS, model=REF, sampling=sampling, per_prompt=2))

    torch.manual_seed(1)
    untouched = torch.rand(1)
    torch.manual_seed(1)
    first = draw(3)
    assert torch.equal(torch.rand(1), untouched)
    assert draw(3) == first
    assert draw(4) != first
    assert all(a != b for a, b in first)


def test_finish_says_whether_the_answer_was_cut(generator: LocalGenerator) -> None:
    sampling = Sampling(max_new_tokens=60, seed=1)
    answers = generator.sample(PROMPTS * 4, model=REF, sampling=sampling, per_prompt=2)
    drawn = [c for some in answers for c in some]
    assert {c.finish for c in drawn} == {"stop", "length"}
    assert all("<|im_end|>" not in c.text and "<|pad|>" not in c.text for c in drawn)
    assert all(len(c.text) < 60 for c in drawn if c.finish == "stop")
    assert all(c.model == REF and c.sampling == sampling for c in drawn)


def test_nothing_is_cut_from_the_distribution(base: ResolvedBase, tmp_path: Path) -> None:
    # transformers' own default keeps the 50 best tokens; the repository's file asks for fewer.
    import shutil

    folder = shutil.copytree(base.path, tmp_path / "copy")
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": 2, "top_k": 1, "repetition_penalty": 9.0, "max_length": 3}'
    )
    cut = build(ResolvedBase(REF, folder, False, None), {})
    full = build(base, {})
    sampling = Sampling(max_new_tokens=20, seed=2)
    args = {"model": REF, "sampling": sampling, "per_prompt": 2}
    assert cut.sample(PROMPTS, **args) == full.sample(PROMPTS, **args)
    hot = Sampling(temperature=50.0, max_new_tokens=200, seed=2)
    drawn = full.sample(PROMPTS, model=REF, sampling=hot, per_prompt=4)
    assert len({c for some in texts(drawn) for text in some for c in text}) > 60


def test_a_prompt_beyond_the_window_is_passed_over_in_a_batch_and_told_in_a_stream(
    generator: LocalGenerator,
) -> None:
    # One token a byte: 41 of the template around the text, WINDOW 1024, 24 for the answer.
    long = Prompt.from_text("x" * (WINDOW - 24))
    answers = generator.sample([long, PROMPTS[0]], model=REF, sampling=GREEDY, per_prompt=2)
    assert [len(some) for some in answers] == [0, 2]
    with pytest.raises(GenerationError, match=r"takes 1,000 beside 24 for the answer: shorten"):
        last(generator.stream(long, [REF], GREEDY))
    assert generator.sample([long], model=REF, sampling=GREEDY, per_prompt=2) == [[]]


# Adapters.


def test_a_mixed_batch_answers_as_separate_runs_do(
    base: ResolvedBase, adapters: dict[str, Path], generator: LocalGenerator
) -> None:
    models = [REF, adapter_ref("run0"), adapter_ref("run1"), REF]
    for prompt in PROMPTS:
        mixed = last(generator.stream(prompt, models, GREEDY))
        separate = [
            build(base, adapters)
            .sample([prompt], model=m, sampling=GREEDY, per_prompt=1)[0][0]
            .text
            for m in models[:3]
        ]
        assert list(mixed) == [*separate, separate[0]]
        assert len(set(separate)) == 3


def test_two_models_answer_the_same_prompts_in_one_batch_as_each_does_alone(
    mixed: LocalGenerator,
) -> None:
    """Base, an adapter and a whole model, in any order; a prompt too long for one is left out."""
    prompts = [*PROMPTS, Prompt.from_text("long " * 2000)]
    for models in ([REF, adapter_ref("run0")], [adapter_ref("run0"), FULL[0]], [FULL[0], REF]):
        both = mixed.sample_each(prompts, models=models, sampling=GREEDY)
        assert both[-1] == []
        for place, model in enumerate(models):
            alone = mixed.sample(PROMPTS, model=model, sampling=GREEDY, per_prompt=1)
            assert [answers[place] for answers in both[:-1]] == [one for (one,) in alone]
        assert [c.model for c in both[0]] == models


def test_adapters_beyond_the_bound_make_room_and_come_back(
    adapters: dict[str, Path], generator: LocalGenerator
) -> None:
    refs = [adapter_ref(name) for name in adapters]
    rounds = [
        [texts(generator.sample(PROMPTS, model=r, sampling=GREEDY, per_prompt=1)) for r in refs]
        for _ in range(2)
    ]
    assert rounds[0] == rounds[1]
    assert len({str(answers) for answers in rounds[0]}) == len(refs)
    assert generator._loaded is not None
    assert list(generator._loaded.adapters) == refs[-MAX_ADAPTERS:]
    assert len(generator._loaded.model.peft_config) == MAX_ADAPTERS


def test_more_adapters_at_once_than_are_held_are_refused(
    base: ResolvedBase, adapters: dict[str, Path]
) -> None:
    mine = build(base, adapters)
    refs = [adapter_ref(name) for name in adapters]
    assert len(refs) == MAX_ADAPTERS + 2
    with pytest.raises(GenerationError, match="6 adapters are asked at once"):
        mine.sample_each(PROMPTS, models=refs, sampling=GREEDY)
    with pytest.raises(GenerationError, match="6 adapters are asked at once"):
        mine.stream(PROMPTS[0], refs, GREEDY)
    [together] = mine.sample_each(PROMPTS[:1], models=[REF, *refs[2:]], sampling=GREEDY)
    assert together == [
        mine.sample(PROMPTS[:1], model=model, sampling=GREEDY, per_prompt=1)[0][0]
        for model in (REF, *refs[2:])
    ]


def test_an_adapter_that_does_not_belong_is_refused_and_the_base_still_answers(
    base: ResolvedBase, adapters: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    def copy(name: str) -> Path:
        return shutil.copytree(adapters["run0"], tmp_path / name)

    pickled, renamed, torn = copy("pickled"), copy("renamed"), copy("torn")
    weights = load_file(pickled / "adapter_model.safetensors")
    torch.save(weights, pickled / "adapter_model.bin")
    (pickled / "adapter_model.safetensors").unlink()
    other = {name.replace("layers.1", "layers.7"): w for name, w in weights.items()}
    save_file(other, renamed / "adapter_model.safetensors")
    (torn / "adapter_model.safetensors").write_bytes(b"torn")
    mine = build(base, {"pickled": pickled, "renamed": renamed, "torn": torn, **adapters})
    want = mine.sample(PROMPTS, model=REF, sampling=GREEDY, per_prompt=1)
    for name, says in {
        "pickled": "no adapter_model.safetensors",
        "renamed": "fit nowhere",
        "torn": "can't be loaded",
        "absent": "train or pull it",
    }.items():
        with pytest.raises(GenerationError, match=says) as caught:
            mine.sample(PROMPTS, model=adapter_ref(name), sampling=GREEDY, per_prompt=1)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert mine.sample(PROMPTS, model=REF, sampling=GREEDY, per_prompt=1) == want


def test_a_model_of_another_base_is_refused(generator: LocalGenerator) -> None:
    for ref in (ModelRef("other", "0" * 40), ModelRef("tiny", "1" * 40, "run0", "f" * 40)):
        with pytest.raises(GenerationError, match=r"this app speaks tiny@00000000"):
            generator.sample(PROMPTS, model=ref, sampling=GREEDY, per_prompt=1)
        with pytest.raises(GenerationError, match=r"this app speaks tiny@00000000"):
            last(generator.stream(PROMPTS[0], [REF, ref], GREEDY))


def test_a_base_that_cannot_be_loaded_is_one_line(base: ResolvedBase, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    pickled = shutil.copytree(base.path, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    for folder in (pickled, tmp_path / "nowhere"):
        broken = build(ResolvedBase(REF, folder, False, None), {})
        with pytest.raises(GenerationError, match=r"can't be loaded from .*BASE_MODEL") as caught:
            broken.sample(PROMPTS, model=REF, sampling=GREEDY, per_prompt=1)
        assert "\n" not in str(caught.value)


# Whole models.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return {f"full{n}": make_tiny_model(folder / f"full{n}", seed=n + 7) for n in range(3)}


@pytest.fixture(scope="module")
def mixed(base: ResolvedBase, adapters: dict[str, Path], whole: dict[str, Path]) -> LocalGenerator:
    """Base, adapters and whole models in one generator."""
    return build(base, adapters | whole)


FULL = [adapter_ref(f"full{n}") for n in range(3)]


def test_a_whole_model_answers_as_it_does_alone(
    whole: dict[str, Path], mixed: LocalGenerator
) -> None:
    sampling = Sampling(max_new_tokens=30, seed=6)
    for name in ("full0", "full1"):
        alone = build(ResolvedBase(REF, whole[name], False, None), {})
        want = texts(alone.sample(PROMPTS, model=REF, sampling=sampling, per_prompt=2))
        got = mixed.sample(PROMPTS, model=adapter_ref(name), sampling=sampling, per_prompt=2)
        assert texts(got) == want
        assert all(c.model == adapter_ref(name) for some in got for c in some)


def test_whole_models_are_bounded_and_the_least_used_makes_room(mixed: LocalGenerator) -> None:
    import gc
    import weakref

    def draw(model: ModelRef) -> list[list[str]]:
        return texts(mixed.sample(PROMPTS, model=model, sampling=GREEDY, per_prompt=1))

    base = draw(REF)
    first = {model: draw(model) for model in FULL}
    assert len({str(answers) for answers in (base, *first.values())}) == len(FULL) + 1
    assert list(mixed._whole) == FULL[1:]
    draw(FULL[1])
    gone = weakref.ref(mixed._whole[FULL[2]].model)
    assert draw(FULL[0]) == first[FULL[0]]
    assert list(mixed._whole) == [FULL[1], FULL[0]]
    gc.collect()
    assert gone() is None, "what made room is in memory no more"
    assert draw(REF) == base
    with pytest.raises(GenerationError, match=r"3 fine-tuned models .* holds 2: choose fewer"):
        last(mixed.stream(PROMPTS[0], FULL, GREEDY))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_over_several_weights_draws_what_each_draws_alone(
    mixed: LocalGenerator, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, max_new_tokens=30, seed=3)
    models = [FULL[0], REF, adapter_ref("run0"), FULL[1], FULL[0]]
    together = last(mixed.stream(PROMPTS[1], models, sampling))

    def alone(models: list[ModelRef]) -> tuple[str, ...]:
        return last(mixed.stream(PROMPTS[1], models, sampling))

    of_base, of_first = alone([REF, adapter_ref("run0")]), alone([FULL[0], FULL[0]])
    assert together == (of_first[0], *of_base, *alone([FULL[1]]), of_first[1])
    [[drawn]] = mixed.sample([PROMPTS[1]], model=FULL[1], sampling=sampling, per_prompt=1)
    assert together[3] == drawn.text
    assert last(mixed.stream(PROMPTS[1], models, sampling)) == together


def test_a_stream_over_several_weights_grows_on_all_sides_at_once(mixed: LocalGenerator) -> None:
    # The coldest greedy answers of both take all of their tokens.
    sampling = Sampling(temperature=0, max_new_tokens=60)
    seen = list(mixed.stream(PROMPTS[0], [REF, FULL[0]], sampling))
    assert [len(text) for text in seen[-1]] == [60, 60]
    # One token a turn: neither side is ever further ahead than the turn that is on.
    assert all(abs(len(one) - len(other)) <= 2 for one, other in seen)
    for before, after in pairwise(seen):
        assert all(a.startswith(b) for b, a in zip(before, after, strict=True))


def test_closing_a_stream_over_several_weights_stops_them_all(mixed: LocalGenerator) -> None:
    running = set(threading.enumerate())
    models = [REF, FULL[0], FULL[1]]
    stream = mixed.stream(PROMPTS[0], models, Sampling(temperature=0, max_new_tokens=900))
    next(stream)
    begun = time.monotonic()
    stream.close()
    assert time.monotonic() - begun < 1
    assert set(threading.enumerate()) <= running
    assert mixed.sample(PROMPTS, model=FULL[0], sampling=GREEDY, per_prompt=1)


@pytest.mark.parametrize("drawn_by", ["generate", "our loop"])
def test_a_fault_of_one_side_ends_the_stream_in_one_line(
    mixed: LocalGenerator, monkeypatch: pytest.MonkeyPatch, drawn_by: str
) -> None:
    last(mixed.stream(PROMPTS[0], [REF, FULL[0]], GREEDY))
    broken = mixed._whole[FULL[0]]

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no room\nleft")

    if drawn_by == "generate":
        monkeypatch.setattr(broken, "llama", None)
        monkeypatch.setattr(broken.model, "forward", fail)
    else:
        monkeypatch.setattr("alignment.sampling.decode.Decoding._step", fail)
    endless = Sampling(temperature=0, max_new_tokens=900)
    with pytest.raises(GenerationError, match=r"The answer failed \(no room\): ask") as caught:
        last(mixed.stream(PROMPTS[0], [REF, FULL[0]], endless))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert last(mixed.stream(PROMPTS[0], [REF, FULL[0]], GREEDY))


def test_a_whole_model_that_cannot_be_loaded_is_one_line_and_the_rest_still_answers(
    base: ResolvedBase, whole: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    def copy(name: str) -> Path:
        return shutil.copytree(whole["full0"], tmp_path / name)

    pickled, torn, lacking = copy("pickled"), copy("torn"), copy("lacking")
    weights = load_file(pickled / "model.safetensors")
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    (torn / "model.safetensors").write_bytes(b"torn")
    del weights["model.norm.weight"]
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    mine = build(base, {"pickled": pickled, "torn": torn, "lacking": lacking, **whole})
    want = [
        texts(mine.sample(PROMPTS, model=model, sampling=GREEDY, per_prompt=1))
        for model in (REF, FULL[1])
    ]
    for name, says in {
        "pickled": "model.safetensors",
        "torn": "can't be loaded",
        "lacking": r"1 of its weights are missing, such as model\.norm\.weight",
    }.items():
        with pytest.raises(GenerationError, match=says) as caught:
            mine.sample(PROMPTS, model=adapter_ref(name), sampling=GREEDY, per_prompt=1)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert want == [
        texts(mine.sample(PROMPTS, model=model, sampling=GREEDY, per_prompt=1))
        for model in (REF, FULL[1])
    ]


# Streams.


def test_a_stream_grows_to_what_sampling_draws(generator: LocalGenerator) -> None:
    sampling = Sampling(max_new_tokens=40, seed=8)
    seen = list(generator.stream(PROMPTS[3], [REF, REF], sampling))
    [drawn] = generator.sample([PROMPTS[3]], model=REF, sampling=sampling, per_prompt=2)
    assert seen[-1] == tuple(c.text for c in drawn)
    assert len(seen) > 2
    for before, after in pairwise(seen):
        assert all(a.startswith(b) for b, a in zip(before, after, strict=True))


def test_closing_a_stream_stops_the_generation(generator: LocalGenerator) -> None:
    running = set(threading.enumerate())
    # The coldest greedy answer would take all of 900 tokens.
    stream = generator.stream(PROMPTS[0], [REF], Sampling(temperature=0, max_new_tokens=900))
    next(stream)
    begun = time.monotonic()
    stream.close()
    assert time.monotonic() - begun < 1
    assert set(threading.enumerate()) <= running
    assert generator.sample(PROMPTS, model=REF, sampling=GREEDY, per_prompt=1)


def test_streams_take_turns_and_one_that_is_left_waiting_can_go(generator: LocalGenerator) -> None:
    wanted = last(generator.stream(PROMPTS[1], [REF], GREEDY))
    first = generator.stream(PROMPTS[0], [REF], Sampling(temperature=0, max_new_tokens=900))
    next(first)
    got: list[tuple[str, ...]] = []
    second = threading.Thread(
        target=lambda: got.append(last(generator.stream(PROMPTS[1], [REF], GREEDY)))
    )
    second.start()
    first.close()
    second.join(20)
    assert got == [wanted]


# What a light process pays.


def test_importing_costs_no_torch() -> None:
    code = (
        "import sys\n"
        "import alignment.generation, alignment.sampling.worker, annotation.sampling\n"
        "from alignment.base import ResolvedBase\n"
        "from annotation.schema import ModelRef\n"
        "from pathlib import Path\n"
        "base = ResolvedBase(ModelRef('tiny', '0' * 40), Path('/nowhere'), False, None)\n"
        "alignment.generation.LocalGenerator(base, weights_path=lambda r: None)\n"
        "sys.exit(bool({'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


if Path("/dev/nvidiactl").exists():  # Only a machine with a GPU can run it; no skip elsewhere.

    @pytest.mark.gpu
    def test_a_cuda_device_is_used_and_repeats_itself(
        base: ResolvedBase, adapters: dict[str, Path], whole: dict[str, Path]
    ) -> None:
        def cuda() -> LocalGenerator:
            folders = adapters | whole
            return LocalGenerator(base, weights_path=lambda ref: folders.get(ref.adapter or ""))

        sampling = Sampling(max_new_tokens=40, seed=3)
        for model in (REF, adapter_ref("run0"), FULL[0]):
            args = {"model": model, "sampling": sampling, "per_prompt": 2}
            first, second = cuda(), cuda()
            assert first.sample(PROMPTS, **args) == second.sample(PROMPTS, **args)
            held = [*first._whole.values()] or [first._loaded]
            assert [one.device for one in held if one] == ["cuda"]
        both = last(first.stream(PROMPTS[0], [REF, model], sampling))
        alone = [last(first.stream(PROMPTS[0], [one], sampling))[0] for one in (REF, model)]
        assert list(both) == alone
