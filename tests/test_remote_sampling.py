"""Sampling from a chat server: what is asked, what is tried again, and what is refused."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import pytest
from chat_double import Broken, ChatDouble, chat_double

from alignment.chat import GenerationError, UnaskablePrompt
from alignment.sampling import chat_server
from alignment.sampling.chat_server import ChatServer
from alignment.sampling.remote import RemoteGenerator, RemoteSettings, remote_settings
from alignment.settings import AlignmentSettings
from annotation.schema import ModelRef, Prompt, Sampling
from annotation.settings import SettingsError, load_settings

BASE = ModelRef("org/base", "1" * 40)
RUN = ModelRef("org/base", "1" * 40, "dpo-1", "2" * 40)
PROMPTS = [Prompt.from_text(f"Question {number}?") for number in range(12)]
SAMPLING = Sampling(max_new_tokens=16, seed=7)
KEY = "sk-do-not-tell-anybody"


class FakeTime:
    """A clock that only its own sleeps move."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, wait_s: float) -> None:
        self.slept.append(wait_s)
        self.now_s += wait_s
        await asyncio.sleep(0)


@pytest.fixture
def double() -> Iterator[ChatDouble]:
    with chat_double() as server:
        yield server


@contextmanager
def remote(
    double: ChatDouble,
    *,
    names: dict[str, str] | None = None,
    at_once: int = 4,
    per_minute: int | None = None,
    fake: FakeTime | None = None,
) -> Iterator[RemoteGenerator]:
    fake = fake or FakeTime()
    settings = RemoteSettings(double.url, "served-base", names or {}, KEY, at_once, per_minute)
    server = ChatServer(
        double.url,
        key=KEY,
        at_once=at_once,
        per_minute=per_minute,
        clock=fake.clock,
        sleep=fake.sleep,
    )
    generator = RemoteGenerator(BASE, settings, server=server)
    try:
        yield generator
    finally:
        generator.stop()


def pairs(generator: RemoteGenerator, prompts: Sequence[Prompt] = PROMPTS[:2]) -> list[list[str]]:
    drawn = generator.sample(prompts, model=BASE, sampling=SAMPLING, per_prompt=2)
    return [[c.text for c in some] for some in drawn]


def last_words(generator: RemoteGenerator, models: Sequence[ModelRef]) -> tuple[str, ...]:
    return list(generator.stream(PROMPTS[0], models, SAMPLING))[-1]


def test_every_answer_has_a_seed_of_its_own_and_equal_requests_are_equal(
    double: ChatDouble,
) -> None:
    with remote(double) as generator:
        drawn = generator.sample(PROMPTS[:3], model=BASE, sampling=SAMPLING, per_prompt=2)
        again = generator.sample(PROMPTS[:3], model=BASE, sampling=SAMPLING, per_prompt=2)
    assert len({c.text for some in drawn for c in some}) == 6
    assert again == drawn
    assert all(c.model == BASE and c.sampling == SAMPLING for some in drawn for c in some)
    assert set(double.keys) == {f"Bearer {KEY}"}
    body = double.bodies[0]
    assert body["messages"] == [{"role": "user", "content": PROMPTS[0].messages[0].content}]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1.0, 1.0, 16)
    # Never asked for, so a server that ignores it costs nothing.
    assert "n" not in body


def test_a_cut_answer_says_so(double: ChatDouble) -> None:
    with remote(double) as generator:
        short = Sampling(max_new_tokens=4, seed=1)
        [[cut]] = generator.sample(PROMPTS[:1], model=BASE, sampling=short, per_prompt=1)
    assert cut.finish == "length"


@pytest.mark.parametrize("cut", ["torn", "nonsense"])
def test_a_broken_answer_is_asked_for_again(double: ChatDouble, cut: str) -> None:
    double.faults.extend([Broken(cut=cut), Broken(status=500), Broken(status=502)])
    fake = FakeTime()
    with remote(double, at_once=1, fake=fake) as generator:
        whole = pairs(generator)
    assert len(double.bodies) == 4 + 3
    assert [len(some) for some in whole] == [2, 2]
    # Half to whole of 0.5, 1 and 2 s.
    assert [0.25 <= fake.slept[0] <= 0.5, 0.5 <= fake.slept[1] <= 1, 1 <= fake.slept[2] <= 2] == [
        True
    ] * 3


def test_retry_after_is_obeyed_by_every_request(double: ChatDouble) -> None:
    double.faults.append(Broken(status=429, headers={"Retry-After": "17"}))
    fake = FakeTime()
    with remote(double, at_once=1, fake=fake) as generator:
        pairs(generator)
    assert fake.slept == [17.0]


def test_a_server_that_stays_busy_is_one_line_and_not_asked_for_ever(double: ChatDouble) -> None:
    double.faults.extend([Broken(status=503)] * 50)
    with remote(double, at_once=1) as generator, pytest.raises(GenerationError) as refused:
        generator.sample(PROMPTS[:1], model=BASE, sampling=SAMPLING, per_prompt=1)
    assert str(refused.value).startswith("The generation server does not answer now: it is busy")
    assert len(double.bodies) == chat_server.ATTEMPTS


def test_a_wait_of_an_hour_is_not_sat_out(double: ChatDouble) -> None:
    double.faults.append(Broken(status=429, headers={"Retry-After": "3600"}))
    fake = FakeTime()
    with remote(double, at_once=1, fake=fake) as generator, pytest.raises(GenerationError):
        pairs(generator)
    assert fake.slept == []


def test_no_server_is_one_line_without_its_address() -> None:
    nobody = ChatDouble("http://127.0.0.1:9")
    with remote(nobody) as generator, pytest.raises(GenerationError) as refused:
        pairs(generator)
    assert "ConnectError" in str(refused.value)
    assert "GENERATION_URL" in str(refused.value)
    assert "127.0.0.1" not in str(refused.value)


def test_a_silent_server_times_out(double: ChatDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server, "TIMEOUT", 0.05)
    double.faults.append(Broken(cut="silence"))
    with remote(double, at_once=1) as generator:
        assert len(pairs(generator)) == 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "GENERATION_API_KEY"),
        (402, "credit"),
        (403, "GENERATION_API_KEY"),
        (404, "GENERATION_MODEL"),
        (307, "GENERATION_URL"),
        (400, "Incorrect API key provided: (key)"),
    ],
)
def test_what_stays_wrong_is_asked_once_and_said_without_the_key(
    double: ChatDouble, status: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    elsewhere = {"Location": "http://127.0.0.1:9/"}
    words = {"error": {"message": f"Incorrect API key provided:\n{KEY}"}}
    double.faults.extend([Broken(status, elsewhere, words)] * 4)
    with remote(double) as generator, pytest.raises(GenerationError) as refused:
        generator.sample(PROMPTS[:1], model=BASE, sampling=SAMPLING, per_prompt=1)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert KEY not in str(refused.value)
    assert KEY not in caplog.text
    assert KEY not in repr(RemoteSettings("u", "b", {}, KEY, 1, None))
    assert len(double.bodies) == 1


def test_a_prompt_too_long_is_passed_over_and_told_to_who_asks(double: ChatDouble) -> None:
    told = {"message": "This model's maximum context length is 64 tokens."}
    double.faults.append(Broken(400, body=told))
    with remote(double, at_once=1) as generator:
        assert [len(some) for some in pairs(generator)] == [0, 2]
        double.faults.append(Broken(400, body={"error": told}))
        with pytest.raises(UnaskablePrompt, match="too long"):
            last_words(generator, [BASE])


def test_no_more_are_open_than_allowed_and_people_get_the_one_kept_free(
    double: ChatDouble,
) -> None:
    double.pause_s = 0.02
    with remote(double, at_once=3) as generator:
        pairs(generator, PROMPTS)
        assert double.most_open == 2
        batch = threading.Thread(target=pairs, args=(generator, PROMPTS))
        asked = len(double.bodies)
        batch.start()
        while len(double.bodies) == asked:
            time.sleep(0.001)
        last_words(generator, [BASE])
        answered = len(double.bodies) - asked
        batch.join()
    assert double.most_open <= 3
    # 24 in the batch: the stream did not wait for them.
    assert answered < 12


def test_so_many_a_minute(double: ChatDouble) -> None:
    fake = FakeTime()
    with remote(double, per_minute=30, fake=fake) as generator:
        pairs(generator)
    assert fake.now_s == pytest.approx(6.0)


def test_a_server_that_ignores_temperature_is_named_and_makes_no_pair(double: ChatDouble) -> None:
    double.say = lambda body: body["messages"][0]["content"]
    with remote(double) as generator:
        assert len(pairs(generator, PROMPTS[:4])) == 4
        # The same prompts again prove nothing new.
        assert len(pairs(generator, PROMPTS[:4])) == 4
        with pytest.raises(GenerationError, match="seems to ignore temperature: it answered 8"):
            pairs(generator, PROMPTS[4:8])
        cold = Sampling(temperature=0.0)
        generator.sample(PROMPTS, model=BASE, sampling=cold, per_prompt=2)
        double.say = lambda body: f"{body['seed']}"
        assert len(pairs(generator)) == 2


def test_prompts_with_one_answer_only_are_no_alarm(double: ChatDouble) -> None:
    def stubborn(body: dict) -> str:
        number = int(body["messages"][0]["content"].strip("Question?"))
        return "Four." if number else f"{body['seed']}"

    double.say = stubborn
    with remote(double) as generator:
        pairs(generator, PROMPTS)
        assert len(pairs(generator, PROMPTS[1:])) == 11


def test_an_aligned_model_answers_under_its_own_name_or_the_one_it_was_given(
    double: ChatDouble,
) -> None:
    double.models = ["served-base", "dpo-1"]
    with remote(double) as generator:
        [[base, own]] = generator.sample_each(PROMPTS[:1], models=[BASE, RUN], sampling=SAMPLING)
    assert (base.text.split()[0], own.text.split()[0]) == ("served-base", "dpo-1")
    assert (base.model, own.model) == (BASE, RUN)
    double.models = None
    with remote(double, names={"dpo-1": "lora-7"}) as generator:
        assert last_words(generator, [RUN])[0].startswith("lora-7")


@pytest.mark.parametrize("listed", [None, ["served-base"]])
def test_a_model_that_the_server_does_not_list_is_refused(
    double: ChatDouble, listed: list[str] | None
) -> None:
    double.models = listed
    with remote(double) as generator, pytest.raises(GenerationError, match="dpo-1=NAME"):
        generator.sample_each(PROMPTS[:1], models=[BASE, RUN], sampling=SAMPLING)
    assert double.bodies == []


def test_a_server_that_answers_as_the_base_for_every_name_is_refused(double: ChatDouble) -> None:
    double.answers_as = "Served-Base@main"
    with remote(double, names={"dpo-1": "lora-7"}) as generator:
        assert pairs(generator)
        for ask in (
            lambda: generator.sample_each(PROMPTS[:1], models=[BASE, RUN], sampling=SAMPLING),
            lambda: last_words(generator, [BASE, RUN]),
        ):
            with pytest.raises(GenerationError, match="answers as served-base where lora-7"):
                ask()


def test_a_model_of_another_base_is_refused(double: ChatDouble) -> None:
    with remote(double) as generator, pytest.raises(GenerationError, match="belongs to base"):
        generator.sample(
            PROMPTS[:1],
            model=ModelRef("org/other", "3" * 40),
            sampling=SAMPLING,
            per_prompt=1,
        )


def test_a_stream_grows_and_ends_whole(double: ChatDouble) -> None:
    with remote(double, names={"dpo-1": "lora-7"}) as generator:
        double.hold.set()
        stream = generator.stream(PROMPTS[0], [BASE, RUN], SAMPLING)
        seen = next(stream)
        while not all(seen):
            seen = next(stream)
        assert seen == ("served-base ", "lora-7 ")
        double.hold.clear()
        *_, whole = stream
    assert whole[0].startswith("served-base says ")
    assert whole[1].startswith("lora-7 says ")


def test_a_torn_stream_begins_anew(double: ChatDouble) -> None:
    double.faults.append(Broken(cut="torn"))
    with remote(double) as generator:
        seen = list(generator.stream(PROMPTS[0], [BASE], SAMPLING))
    assert seen[0] == ("Half an",)
    assert seen[-1][0].startswith("served-base says")


def test_leaving_a_stream_hangs_up(double: ChatDouble) -> None:
    double.hold.set()
    with remote(double) as generator:
        with closing(generator.stream(PROMPTS[0], [BASE], SAMPLING)) as stream:
            next(stream)
            assert double.open_now == 1
        deadline = time.monotonic() + 10
        while double.open_now and time.monotonic() < deadline:
            time.sleep(0.01)
    assert double.open_now == 0
    assert double.left >= 1


def test_a_stop_ends_what_is_in_flight(double: ChatDouble) -> None:
    double.faults.append(Broken(cut="silence"))
    said: list[str] = []

    def ask() -> None:
        try:
            pairs(generator)
        except GenerationError as error:
            said.append(str(error))

    with remote(double, at_once=1) as generator:
        asking = threading.Thread(target=ask)
        asking.start()
        while not double.bodies:
            time.sleep(0.005)
        generator.stop()
        asking.join(5)
        with pytest.raises(GenerationError, match="stopped"):
            pairs(generator)
    assert said == ["Sampling is stopped: start the app again."]


def test_offline_mode_of_the_hub_does_not_close_the_door(
    double: ChatDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with remote(double) as generator:
        assert len(pairs(generator)) == 2


def test_settings_say_where_to_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in AlignmentSettings.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    assert remote_settings(load_settings(AlignmentSettings), BASE) is None
    monkeypatch.setenv("GENERATION_URL", "http://127.0.0.1:8000/v1/")
    with pytest.raises(SettingsError, match="GENERATION_URL needs BASE_MODEL"):
        load_settings(AlignmentSettings)
    monkeypatch.setenv("BASE_MODEL", "starter")
    with pytest.raises(SettingsError, match="needs GENERATION_MODEL, the server's name for start"):
        load_settings(AlignmentSettings)
    monkeypatch.setenv("BASE_MODEL", "org/base")
    monkeypatch.setenv("GENERATION_API_KEY", KEY)
    plain = remote_settings(load_settings(AlignmentSettings), BASE)
    assert plain == RemoteSettings("http://127.0.0.1:8000/v1", "org/base", {}, KEY, 8, None)
    monkeypatch.setenv("GENERATION_MODEL", "served, dpo-1=lora-7, owner/adapter=lora-8")
    named = remote_settings(load_settings(AlignmentSettings), BASE)
    assert named is not None
    assert named.base_name == "served"
    assert named.names == {"dpo-1": "lora-7", "owner/adapter": "lora-8"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GENERATION_URL", "127.0.0.1:8000"),
        ("GENERATION_URL", "https://me:secret-word@host/v1"),
        ("GENERATION_URL", "https://host/v1?key=x"),
        ("GENERATION_MODEL", "a, dpo-1="),
        ("GENERATION_MODEL", "a, dpo-1=a"),
        ("GENERATION_MODEL", "a, b"),
        ("GENERATION_API_KEY", "secret-word with spaces"),
        ("GENERATION_AT_ONCE", "0"),
        ("GENERATION_PER_MINUTE", "-1"),
    ],
)
def test_a_bad_setting_is_one_line_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings(AlignmentSettings)
    assert variable in str(refused.value)
    assert "secret-word" not in str(refused.value)
