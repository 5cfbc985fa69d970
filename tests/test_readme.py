"""The README is true where a test can tell: its tree, its settings, its commands."""

import re
from pathlib import Path

from typer.testing import CliRunner

import app
from alignment.commands.hub import hub_commands
from alignment.settings import AlignmentSettings
from annotation.settings import AnnotationSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def tree_paths() -> set[str]:
    """Every path that the README's tree names, from its indentation."""
    block = re.search(r"```\n(app\.py .*?)```", README, re.DOTALL)
    assert block
    paths, folders = set(), {0: ""}
    for line in block[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = folders[depth] + name
        folders[depth + 1] = path
        paths.add(path.rstrip("/"))
    return paths


def test_the_tree_names_every_module_and_nothing_else() -> None:
    modules = {
        str(path.relative_to(ROOT))
        for side in ("annotation", "alignment")
        for path in (ROOT / side).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= tree_paths()
    assert [path for path in tree_paths() if not (ROOT / path).exists()] == []


def test_every_setting_is_in_the_table() -> None:
    for kind in (AnnotationSettings, AlignmentSettings):
        for field in kind.model_fields:
            # Set by a Space itself.
            if field != "system":
                assert f"`{field.upper()}`" in README, field


def test_every_command_is_in_the_table() -> None:
    told = CliRunner().invoke(app.cli, ["--help"]).output
    for command in (*app.cli.registered_commands, *hub_commands.registered_commands):
        assert command.callback is not None
        name = command.name or command.callback.__name__
        assert name in told
        assert re.search(rf"`(python app\.py )?{name}\b", README), name


def test_every_picture_exists() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) >= 2
    assert [p for p in pictures if not (ROOT / p).is_file()] == []
