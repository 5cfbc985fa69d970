"""`python app.py deploy` against the Hub double: checked, told, done once, and done no more."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hub_double import READER, WRITER, Blob, HubDouble, front_matter
from hub_spaces import KNOWN, space_readme_errors
from running_app import ROOT, run_command

from alignment.commands.deploy import Deployment, DeployOptions, app_files, plan_deployment
from alignment.hub.space import SpaceError
from alignment.settings import AlignmentSettings
from annotation.settings import AnnotationSettings, load_settings

SECRET = "hf_the_spaces_own_token_00000000"
FINE = "hf_fine_grained_of_the_double_0000"
Plan = Callable[..., Deployment]


@pytest.fixture
def plan(hub_double: HubDouble, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Plans a deployment in the environment given, HF_TOKEN a writer's unless told."""
    for kind in (AnnotationSettings, AlignmentSettings):
        for field in kind.model_fields:
            monkeypatch.delenv(field.upper(), raising=False)

    def made(repo: str = "ada/votes", env: dict[str, str] | None = None, **options) -> Deployment:
        with monkeypatch.context() as here:
            for name, value in {"HF_TOKEN": WRITER, **(env or {})}.items():
                here.setenv(name, value)
            return plan_deployment(
                DeployOptions(repo, **options),
                load_settings(AnnotationSettings),
                load_settings(AlignmentSettings),
            )

    return made


def test_a_new_space_gets_all_it_needs_and_a_second_run_changes_nothing(
    hub_double: HubDouble, plan: Plan
) -> None:
    env = {"ADMIN_TOKEN": "a" * 20, "BASE_MODEL": "org/base", "ADMIN_USERS": "grace,ada"}
    env |= {"WARM_TRAINER": "false", "OWN_PROMPTS": "moderated"}
    told: list[str] = []
    url = plan(env=env, hardware="cpu-upgrade").carry_out(told.append)
    assert url == "https://huggingface.co/spaces/ada/votes"
    space = hub_double.spaces.spaces["ada/votes"]
    assert space.sdk == "gradio"
    assert space.hardware == "cpu-upgrade"
    assert space.variables == {
        "ADMIN_USERS": "ada,grace",
        "BASE_MODEL": "org/base",
        "WARM_TRAINER": "false",
        "OWN_PROMPTS": "moderated",
        "HUB_NAMESPACE": "ada",
        "VOTES_REPO": "ada/votes-votes",
    }
    assert set(space.secrets) == {"HF_TOKEN", "ADMIN_TOKEN", "COOKIE_SECRET"}
    assert space.secrets["HF_TOKEN"] == WRITER
    assert len(space.secrets["COOKIE_SECRET"]) == 64
    repo = hub_double.repo("ada/votes", "spaces")
    files = repo.head.files
    assert {"app.py", "README.md", "requirements.txt", "alignment/web/site.py"} <= set(files)
    assert files["app.py"].data == (ROOT / "app.py").read_bytes()
    assert "alignment/starter/weights/model.safetensors" in files
    assert not repo.private
    again = plan(env=env, hardware="cpu-upgrade")
    assert again.changes_nothing
    assert len(repo.commits) == 2
    # What is there is not made again: the cookie secret above all.
    assert "COOKIE_SECRET" not in again.secrets


def test_only_what_belongs_there_goes_there(tmp_path: Path) -> None:
    names = set(app_files(ROOT))
    allowed = re.compile(
        r"(app\.py|README\.md|LICENSE|requirements\.txt|(alignment|annotation)/.+)"
    )
    others = {name for name in names if not allowed.fullmatch(name)}
    assert others
    assert all(name.startswith("tests/browser/screenshots/") for name in others)
    # Every picture that the README shows is there.
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert set(shown) == others
    for name in names:
        assert "__pycache__" not in name
        assert not any(part.startswith(".") for part in Path(name).parts)
    folder = tmp_path / "app"
    for name in (
        "LICENSE",
        "requirements.txt",
        "app.py",
        "README.md",
        ".votetune/journal.sqlite3",
        ".venv/x.py",
        ".env",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    for name in ("alignment/a.py", "alignment/__pycache__/a.pyc", "annotation/.secret"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    assert set(app_files(folder)) == {
        "LICENSE",
        "README.md",
        "alignment/a.py",
        "app.py",
        "requirements.txt",
    }


def test_an_update_changes_what_differs_and_leaves_what_the_owner_put_there(
    hub_double: HubDouble, plan: Plan
) -> None:
    plan().carry_out(lambda _: None)
    repo = hub_double.repo("ada/votes", "spaces")
    space = hub_double.spaces.spaces["ada/votes"]
    old = dict(repo.head.files)
    old["alignment/gone.py"] = Blob(b"", lfs=False)
    old["notes.txt"] = Blob(b"mine", lfs=False)
    old["app.py"] = Blob(b"older", lfs=False)
    repo.commit("Older", old)
    space.variables["VOTES_REPO"] = "ada/elsewhere"
    space.variables["GREETING"] = "mine"
    update = plan(env={"VOTES_PER_PAIR": "3", "GENERATION_API_KEY": "k"})
    assert (list(update.files), update.gone) == (["app.py"], ("alignment/gone.py",))
    assert dict(update.variables) == {"VOTES_PER_PAIR": "3"}
    assert list(update.secrets) == ["GENERATION_API_KEY"]
    update.carry_out(lambda _: None)
    files = repo.head.files
    assert files["app.py"].data == (ROOT / "app.py").read_bytes()
    assert "alignment/gone.py" not in files
    assert files["notes.txt"].data == b"mine"
    assert space.variables["VOTES_REPO"] == "ada/elsewhere"
    assert space.variables["GREETING"] == "mine"


def test_a_secret_is_set_anew_only_where_it_is_named(hub_double: HubDouble, plan: Plan) -> None:
    plan().carry_out(lambda _: None)
    space = hub_double.spaces.spaces["ada/votes"]
    assert plan(env={"SPACE_HF_TOKEN": SECRET}).changes_nothing
    renewed = plan(env={"SPACE_HF_TOKEN": SECRET}, renew=("HF_TOKEN",))
    assert list(renewed.secrets) == ["HF_TOKEN"]
    renewed.carry_out(lambda _: None)
    assert space.secrets["HF_TOKEN"] == SECRET
    with pytest.raises(SpaceError, match="--renew NOTHING: there is no such secret: use COOKIE"):
        plan(renew=("NOTHING",))


def test_with_an_argilla_no_backup_is_set_up(hub_double: HubDouble, plan: Plan) -> None:
    env = {"ARGILLA_API_URL": "https://ada-argilla.hf.space", "ARGILLA_API_KEY": "owner.apikey"}
    plan(env=env).carry_out(lambda _: None)
    space = hub_double.spaces.spaces["ada/votes"]
    assert "VOTES_REPO" not in space.variables
    assert space.variables["ARGILLA_API_URL"] == "https://ada-argilla.hf.space"
    assert space.secrets["ARGILLA_API_KEY"] == "owner.apikey"


def test_a_bucket_keeps_weights_and_is_mounted_once(hub_double: HubDouble, plan: Plan) -> None:
    plan(bucket="ada/cache").carry_out(lambda _: None)
    space = hub_double.spaces.spaces["ada/votes"]
    mounted = [{"type": "bucket", "source": "ada/cache", "mountPath": "/data"}]
    assert hub_double.spaces.bucket_ids == ["ada/cache"]
    assert space.volumes == mounted
    assert space.variables["HF_HUB_CACHE"] == "/data/hub"
    assert plan(bucket="ada/cache").changes_nothing
    space.volumes = []
    plan(bucket="ada/cache").carry_out(lambda _: None)
    assert space.volumes == mounted


def test_a_file_of_prompts_goes_along(hub_double: HubDouble, plan: Plan, tmp_path: Path) -> None:
    prompts = tmp_path / "mine.txt"
    prompts.write_text("Why is the sky blue?\n")
    gold = tmp_path / "gold.jsonl"
    gold.write_text("")
    made = plan(env={"PROMPTS": str(prompts), "GOLD_PAIRS": str(gold)})
    assert made.variables["PROMPTS"] == "prompts/mine.txt"
    assert "GOLD_PAIRS" not in made.variables
    assert any(note.startswith("GOLD_PAIRS stays here") for note in made.notes)
    made.carry_out(lambda _: None)
    files = hub_double.repo("ada/votes", "spaces").head.files
    assert files["prompts/mine.txt"].data == b"Why is the sky blue?\n"


@pytest.mark.parametrize(
    ("repo", "env", "options", "said"),
    [
        ("votes", {}, {}, "votes is no name of a Space: use NAMESPACE/NAME"),
        ("ada/vo--tes", {}, {}, "no name of a Space"),
        ("bob/votes", {}, {}, "bob is neither you nor an organisation of yours: use ada, lab"),
        ("ada/votes", {"HF_TOKEN": ""}, {}, "HF_TOKEN is not set"),
        ("ada/votes", {"HF_TOKEN": "hf_nobody"}, {}, "the Hub refused HF_TOKEN"),
        ("ada/votes", {"HF_TOKEN": READER}, {}, "HF_TOKEN may only read"),
        ("lab/votes", {}, {}, "Your role in lab is read"),
        ("ada/votes", {}, {"hardware": "big"}, "Hardware big is not known: use cpu-basic, cpu-up"),
        ("ada/votes", {}, {"bucket": "cache"}, "cache is no name of a bucket"),
        ("ada/votes", {"BASE_MODEL": str(ROOT / "alignment")}, {}, "is a folder here"),
        (
            "ada/votes",
            {"ARGILLA_API_URL": "http://127.0.0.1:6900", "ARGILLA_API_KEY": "k"},
            {},
            "ARGILLA_API_URL is on this machine",
        ),
        (
            "ada/votes",
            {"GENERATION_URL": "http://gpu.example:8000", "BASE_MODEL": "org/base"},
            {},
            "GENERATION_URL is on port 8000, and a Space reaches only 80, 443, 8080",
        ),
    ],
)
def test_what_can_not_be_is_one_line_and_changes_nothing(
    hub_double: HubDouble, plan: Plan, repo: str, env: dict, options: dict, said: str
) -> None:
    hub_double.orgs["lab"] = {"ada": "read"}
    with pytest.raises(SpaceError) as refused:
        plan(repo, env=env, **options)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert WRITER not in str(refused.value)
    assert hub_double.repos == {}
    assert not [line for line in hub_double.lines() if not line.startswith("GET ")]


def test_an_organisation_where_i_may_write(hub_double: HubDouble, plan: Plan) -> None:
    hub_double.orgs["lab"] = {"ada": "contributor"}
    plan("Lab/votes").carry_out(lambda _: None)
    assert hub_double.spaces.spaces["lab/votes"].variables["HUB_NAMESPACE"] == "Lab"


@pytest.mark.parametrize(
    ("scope", "permissions", "may"),
    [
        ("ada", ["repo.write"], True),
        ("ada/votes", ["repo.content.read", "repo.write"], True),
        ("ada", ["repo.content.read"], False),
        ("bob", ["repo.write"], False),
        ("ada/other", ["repo.write"], False),
    ],
)
def test_a_fine_grained_token_must_be_able_to_write_there(
    hub_double: HubDouble, plan: Plan, scope: str, permissions: list[str], may: bool
) -> None:
    hub_double.users[FINE] = ("ada", "fineGrained")
    entity = {"_id": "1", "type": "user", "name": scope}
    hub_double.fine_grained[FINE] = {
        "global": [],
        "scoped": [{"entity": entity, "permissions": permissions}],
    }
    if may:
        assert plan(env={"HF_TOKEN": FINE}).is_new
    else:
        with pytest.raises(SpaceError, match="HF_TOKEN may not write to repositories of ada"):
            plan(env={"HF_TOKEN": FINE})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("whoami-v2", 503),
        ("GET /api/spaces/ada/votes", 500),
        ("repos/create", 429),
        ("repos/create", 409),
        ("/variables", 502),
        ("/commit/", 409),
        ("/commit/", 412),
        ("/preupload/", 429),
    ],
)
def test_passing_faults_are_tried_again(
    hub_double: HubDouble, plan: Plan, path: str, status: int
) -> None:
    hub_double.fail(path, status, times=2)
    plan().carry_out(lambda _: None)
    assert plan().changes_nothing
    assert set(hub_double.spaces.spaces["ada/votes"].secrets) == {"HF_TOKEN", "COOKIE_SECRET"}


@pytest.mark.parametrize("path", ["repos/create", "/commit/main"])
def test_a_lost_answer_makes_nothing_twice(hub_double: HubDouble, plan: Plan, path: str) -> None:
    hub_double.tear(path, after=True)
    plan().carry_out(lambda _: None)
    assert len(hub_double.repo("ada/votes", "spaces").commits) == 2
    assert plan().changes_nothing


def test_the_command_tells_asks_and_shows_no_secret(hub_double: HubDouble, tmp_path: Path) -> None:
    own = {"ADMIN_TOKEN": "an-admin-token-of-20", "HF_TOKEN": WRITER}
    env = {**hub_double.environment(tmp_path / "cache"), **own}
    kept = {k: v for k, v in env.items() if k.startswith(("HF_", "NO_PROXY", "ADMIN_"))}
    unasked = run_command(tmp_path / "home", "deploy", "ada/votes", **kept)
    assert unasked.returncode == 1
    assert "Make the public Space ada/votes:" in unasked.stdout
    assert (
        "secrets    ADMIN_TOKEN, COOKIE_SECRET, HF_TOKEN (values are not shown)" in unasked.stdout
    )
    assert "variable   VOTES_REPO=ada/votes-votes (public)" in unasked.stdout
    assert hub_double.repos == {}
    done = run_command(tmp_path / "home", "deploy", "ada/votes", "--private", "--yes", **kept)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "https://huggingface.co/spaces/ada/votes"
    assert hub_double.repo("ada/votes", "spaces").private
    again = run_command(tmp_path / "home", "deploy", "ada/votes", "--yes", **kept)
    assert again.stdout == "The Space ada/votes is up to date: nothing to change.\n"
    said = "".join((unasked.stdout, unasked.stderr, done.stdout, done.stderr))
    secrets = hub_double.spaces.spaces["ada/votes"].secrets
    assert not [name for name, value in secrets.items() if value in said]
    # The storage host never meets the token.
    assert {r.authorization for r in hub_double.requests if r.host == "localhost"} == {None}


def test_the_front_matter_is_complete_and_true() -> None:
    text = (ROOT / "README.md").read_text()
    held = front_matter(text)
    assert held is not None
    assert space_readme_errors(text) == []
    assert held.keys() <= KNOWN
    required = {"title", "emoji", "colorFrom", "colorTo", "short_description", "license", "tags"}
    how = {"sdk", "sdk_version", "python_version", "app_file", "hf_oauth"}
    advice = {"suggested_hardware", "startup_duration_timeout", "models"}
    assert required | how | advice <= held.keys()
    requirements = (ROOT / "requirements.txt").read_text()
    assert f"gradio[oauth]=={held['sdk_version']}\n" in requirements
    assert (ROOT / held["app_file"]).is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'python_version = "{held["python_version"]}"' in pyproject
    from alignment.settings import DEFAULT_BASE_MODEL

    assert held["models"] == [DEFAULT_BASE_MODEL]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("colorFrom", "teal"),
        ("sdk", "streamlit"),
        ("python_version", 3.1),
        ("suggested_storage", "small"),
        ("short_description", "x" * 61),
    ],
)
def test_the_double_refuses_bad_front_matter(key: str, value: object) -> None:
    held = front_matter((ROOT / "README.md").read_text())
    bad = yaml.safe_dump({**(held or {}), key: value if key != "python_version" else "2.7"})
    assert any(key in line for line in space_readme_errors(f"---\n{bad}---\n"))


def readme_commands() -> list[str]:
    """The deploy commands of the README's Deploy section, in order."""
    readme = (ROOT / "README.md").read_text()
    section = readme.split("\n## Deploy\n")[1].split("\n## ")[0]
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL))
    return [line for line in blocks.replace("YOU", "ada").splitlines() if line.strip()]


def test_every_deploy_command_of_the_readme_does_what_it_says(
    hub_double: HubDouble, tmp_path: Path
) -> None:
    env = hub_double.environment(tmp_path / "cache")
    kept = {k: v for k, v in env.items() if k.startswith(("HF_", "NO_PROXY"))}
    ran = 0
    for line in readme_commands():
        words = shlex.split(line, comments=True)
        while words and (words[0] == "export" or "=" in words[0]):
            word = words.pop(0)
            if word != "export":
                name, value = word.split("=", 1)
                kept[name] = WRITER if name == "HF_TOKEN" else value
        if not words:
            continue
        assert words[:3] == ["python", "app.py", "deploy"], line
        done = run_command(tmp_path / "home", *words[2:], "--yes", **kept)
        assert done.returncode == 0, done.stderr
        ran += 1
    space = hub_double.spaces.spaces["ada/votes"]
    assert ran == 6
    assert space.hardware == "cpu-upgrade"
    assert space.volumes[0]["source"] == "ada/votes-cache"
    assert space.variables["BASE_MODEL"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert space.variables["ARGILLA_API_URL"] == "https://ada-argilla.hf.space"
    assert set(space.secrets) == {"HF_TOKEN", "COOKIE_SECRET", "ARGILLA_API_KEY"}
