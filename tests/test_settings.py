"""Settings: read once, refused in one line that names variable, value and remedy."""

import pytest

from alignment.settings import AlignmentSettings
from annotation.settings import (
    AnnotationSettings,
    SettingsError,
    check_sign_in,
    load_settings,
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (AnnotationSettings, AlignmentSettings):
        for field in kind.model_fields:
            monkeypatch.delenv(field.upper(), raising=False)


def test_unset_and_empty_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_PORT", "")
    monkeypatch.setenv("PROMPTS", "")
    settings = load_settings(AnnotationSettings)
    assert settings.gradio_server_port == 7860
    assert settings.gradio_server_name == "127.0.0.1"
    assert settings.prompts is None
    assert str(settings.votetune_home) == ".votetune"


@pytest.mark.parametrize(
    ("argilla", "forgets"), [({}, True), ({"URL": "http://a", "KEY": "k"}, False)]
)
def test_a_space_listens_to_its_proxy_and_says_where_votes_are(
    monkeypatch: pytest.MonkeyPatch, argilla: dict[str, str], forgets: bool
) -> None:
    monkeypatch.setenv("SYSTEM", "spaces")
    for name, value in argilla.items():
        monkeypatch.setenv(f"ARGILLA_API_{name}", value)
    settings = load_settings(AnnotationSettings)
    assert settings.gradio_server_name == "0.0.0.0"
    assert settings.forgets_at_restart is forgets


def test_a_laptop_forgets_nothing() -> None:
    assert load_settings(AnnotationSettings).forgets_at_restart is False


@pytest.mark.parametrize(
    ("kind", "variable", "value"),
    [
        (AnnotationSettings, "GRADIO_SERVER_PORT", "0"),
        (AnnotationSettings, "GRADIO_SERVER_NAME", "a b"),
        (AnnotationSettings, "VOTES_PER_PAIR", "many"),
        (AnnotationSettings, "ARGILLA_API_URL", "ftp://somewhere"),
        (AnnotationSettings, "ARGILLA_DATASET", "a/b"),
        (AnnotationSettings, "ANONYMOUS_VOTES", "sometimes"),
        (AnnotationSettings, "PAIR_STRATEGY", "best"),
        (AlignmentSettings, "BASE_REVISION", "a b"),
        (AlignmentSettings, "HUB_NAMESPACE", "a/b"),
        (AlignmentSettings, "ADMIN_USERS", "ada grace"),
        (AlignmentSettings, "ADMIN_USERS", "ada,a/b"),
        (AlignmentSettings, "ADMIN_USERS", " , "),
        (AlignmentSettings, "MIN_EXAMPLES", "1"),
        (AlignmentSettings, "JOBS_FLAVOR", "L4 x1"),
        (AlignmentSettings, "JOBS_TIMEOUT", "soon"),
    ],
)
def test_a_bad_value_is_one_line_with_name_value_and_remedy(
    monkeypatch: pytest.MonkeyPatch, kind: type, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings(kind)
    line = str(refused.value)
    assert line.startswith(f"{variable}={value!r} can't be used")
    assert ": set " in line
    assert "\n" not in line


def test_secrets_are_in_no_message_and_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "sesame")
    with pytest.raises(SettingsError) as refused:
        load_settings(AlignmentSettings)
    assert "sesame" not in str(refused.value)
    monkeypatch.setenv("ADMIN_TOKEN", "open-sesame-0123456789")
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    assert "sesame" not in repr(load_settings(AlignmentSettings))


def test_one_of_argillas_two_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGILLA_API_KEY", "key")
    with pytest.raises(SettingsError, match="ARGILLA_API_URL"):
        load_settings(AnnotationSettings)


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = load_settings(AnnotationSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.votes_per_pair = 3  # type: ignore[misc]


def test_a_short_cookie_secret_is_refused_and_never_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COOKIE_SECRET", "x7" * 15 + "z")
    with pytest.raises(SettingsError, match=r"COOKIE_SECRET=\(hidden\).*32 characters") as told:
        load_settings(AnnotationSettings)
    assert "x7x7" not in str(told.value)
    monkeypatch.setenv("COOKIE_SECRET", "x7" * 16)
    assert "x7x7" not in repr(load_settings(AnnotationSettings))


def test_admins_are_names_with_commas_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(AlignmentSettings).admin_users is None
    monkeypatch.setenv("ADMIN_USERS", " Ada, grace.h ,ADA,")
    assert load_settings(AlignmentSettings).admin_users == {"ada", "grace.h"}


def test_sign_in_needs_a_secret_for_its_cookies_where_the_app_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_sign_in(load_settings(AnnotationSettings))
    monkeypatch.setenv("OAUTH_CLIENT_ID", "id")
    monkeypatch.setenv("OAUTH_CLIENT_SECRET", "secret")
    settings = load_settings(AnnotationSettings)
    with pytest.raises(SettingsError, match=r"COOKIE_SECRET is not set.* 32 random characters"):
        check_sign_in(settings)
    monkeypatch.setenv("COOKIE_SECRET", "x7" * 16)
    check_sign_in(load_settings(AnnotationSettings))
