"""The imports that design.md allows, held for every product file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = [
    ROOT / "app.py",
    *sorted((ROOT / "annotation").rglob("*.py")),
    *sorted((ROOT / "alignment").rglob("*.py")),
]
TABS = {
    "annotation/web/tab.py",
    "alignment/web/admin/admin_guard.py",
    "alignment/web/admin/admin_tab.py",
    "alignment/web/admin/audit_tab.py",
    "alignment/web/training/bakeoff_tab.py",
    "alignment/web/compare/blind_tab.py",
    "alignment/web/compare/changes_tab.py",
    "alignment/web/compare/compare_parts.py",
    "alignment/web/compare/compare_tab.py",
    "alignment/web/contest/leaderboard_tab.py",
    "alignment/web/admin/own_prompts_tab.py",
    "alignment/web/admin/quality_tab.py",
    "alignment/web/contest/rounds_tab.py",
    "alignment/web/training/training_tab.py",
}
# The command line, and what it serves.
ROOTS = {
    "app.py",
    "alignment/web/site.py",
    "alignment/web/pages.py",
    "alignment/web/serve.py",
    "alignment/web/start.py",
}
WEIGHTS = {
    "alignment/checks/tokens.py",
    "alignment/generation.py",
    "alignment/sampling/batches.py",
    "alignment/sampling/decode.py",
    "alignment/sampling/draw.py",
    "alignment/sampling/llama.py",
    "alignment/sampling/loading.py",
    "alignment/sampling/turns.py",
    "alignment/sampling/worker.py",
    "alignment/training/watch/checkpoints.py",
    "alignment/training/hardware.py",
    "alignment/training/watch/answers.py",
    "alignment/training/forward/losses.py",
    "alignment/training/methods/dpo.py",
    "alignment/training/methods/sft.py",
    "alignment/training/forward/pair_rows.py",
    "alignment/training/watch/samples.py",
    "alignment/training/forward/shared_prompt.py",
    "alignment/training/rows/sift.py",
    "alignment/training/forward/token_logps.py",
    "alignment/training/trainers.py",
    "alignment/training/weights/warm_start.py",
    "alignment/training/watch/watch.py",
    "alignment/training/weights/weights_gap.py",
    "alignment/starter/starter.py",
}
ONLY_IN = {
    "gradio": TABS | ROOTS,
    "argilla": {"annotation/argilla_store/store.py"},
    "argilla_server": {
        "annotation/argilla_server/server.py",
        "annotation/argilla_server/engine.py",
        "annotation/argilla_server/votes_route.py",
        "annotation/argilla_server/votes_tables.py",
    },
    # Imported by name, where a Space lends GPUs, in alignment/sampling/zero_gpu.py.
    "spaces": set(),
    "trl": {
        "alignment/training/methods/common.py",
        "alignment/training/methods/dpo.py",
        "alignment/training/methods/orpo.py",
        "alignment/training/methods/sft.py",
        "alignment/training/trainers.py",
    },
    "torch": WEIGHTS,
    "peft": WEIGHTS,
    "transformers": WEIGHTS,
}


def imported(path: Path) -> set[str]:
    """Every dotted name that `path` imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(".relative")
    return names


def heads(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_design(path: Path) -> None:
    here = str(path.relative_to(ROOT))
    names = imported(path)
    assert ".relative" not in names, "absolute imports only, so that this test sees them"
    for package, allowed in ONLY_IN.items():
        assert package not in heads(names) or here in allowed, f"{here} imports {package}"
    if here.startswith("annotation/"):
        assert "alignment" not in heads(names), f"{here} looks back at alignment"
    if here not in ROOTS:
        roots = {root.removesuffix(".py").replace("/", ".") for root in ROOTS}
        assert not roots & (names | heads(names)), f"{here} imports a composition root"
    if here not in TABS | ROOTS:
        tabs = {tab.removesuffix(".py").replace("/", ".") for tab in TABS}
        assert not tabs & names, f"{here} is a service and imports a tab"


SURFACES = {"web", "commands"}
SERVICES = [
    p for p in PRODUCT if p.name != "app.py" and p.relative_to(ROOT).parts[:2][-1] not in SURFACES
]


@pytest.mark.parametrize("path", SERVICES, ids=lambda p: str(p.relative_to(ROOT)))
def test_services_know_no_page_and_no_command(path: Path) -> None:
    for name in imported(path):
        assert not name.startswith(("alignment.web", "alignment.commands")), name


def test_schema_stands_alone() -> None:
    names = heads(imported(ROOT / "annotation" / "schema.py"))
    assert not names & {"annotation", "alignment", "app"}


def test_the_graph_names_only_files_that_exist() -> None:
    for package, allowed in ONLY_IN.items():
        for name in allowed:
            assert (ROOT / name).exists(), f"{name}, allowed to import {package}, is gone"
