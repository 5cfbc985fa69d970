"""What a start does first, and what it leaves for later: somebody waits for a page and a pair."""

import gc
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running_app import ROOT

from alignment.base import resolve_base
from alignment.generation import SamplerProcess
from alignment.pipeline import default_sampling
from alignment.settings import AlignmentSettings
from alignment.starter.starter import starter_prompts
from alignment.web.site import Site
from annotation.quick_imports import uncollected
from annotation.settings import AnnotationSettings

NEVER_IN_THE_APP = {"torch", "transformers", "peft", "trl", "datasets", "pandas", "scipy"}


def told_by(code: str) -> set[str]:
    """The words that `code` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_serving_starts_its_services_before_gradio_is_imported() -> None:
    loaded = told_by("import sys, alignment.web.serve; print(*sys.modules)")
    assert "alignment.web.site" in loaded
    assert not loaded & (NEVER_IN_THE_APP | {"gradio", "argilla", "alignment.web.pages"})


def test_the_pages_bring_no_library_of_models_into_the_app() -> None:
    loaded = told_by("import sys, alignment.web.pages; print(*sys.modules)")
    assert "gradio" in loaded
    # Gradio's own.
    assert loaded & NEVER_IN_THE_APP <= {"pandas"}


@pytest.mark.parametrize("patient", [False, True])
def test_the_samplers_process_imports_nothing_of_adapters_training_or_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, patient: bool
) -> None:
    """But what compares models has PEFT before anybody asks for an adapter."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    log = tmp_path / "sampler.log"
    base = resolve_base(AlignmentSettings(base_model="starter"), tmp_path, has_votes=False)
    sampler = SamplerProcess(base, weights_path=lambda _: None, log=log, patient=patient)
    try:
        asked = starter_prompts()[:1]
        [answers] = sampler.sample(
            asked, model=base.ref, sampling=default_sampling(base), per_prompt=2
        )
    finally:
        sampler.stop()
    assert len(answers) == 2
    imported = set(re.findall(r"\| +(\w+)\.?\S*$", log.read_text(), re.MULTILINE))
    assert {"torch", "transformers"} <= imported
    assert ("peft" in imported) is patient
    assert not imported & {"trl", "datasets", "pandas", "scipy", "gradio"}


def test_gradio_is_imported_without_touching_its_stubs_and_has_all_its_events() -> None:
    code = """
import sys
def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".pyi"):
        print("stub", arguments[0])
sys.addaudithook(watch)
{quickly}
import gradio
print("click" if callable(gradio.Button().click) else "", "change", gradio.__version__)
"""
    hook = "from annotation.quick_imports import without_gradio_stubs; without_gradio_stubs()"
    quick, stock = told_by(code.format(quickly=hook)), told_by(code.format(quickly=""))
    assert "stub" in stock
    assert "stub" not in quick
    assert {"click", "change"} <= quick


def test_the_collector_runs_again_after_imports_even_where_one_failed() -> None:
    with pytest.raises(ModuleNotFoundError), uncollected():
        assert not gc.isenabled()
        __import__("votetune_has_no_such_module")
    assert gc.isenabled()


def test_a_run_has_what_answers_people_started_where_memory_is_ample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AnnotationSettings(votetune_home=tmp_path / "home", argilla_api_url=None)
    alignment = AlignmentSettings(base_model="starter", warm_trainer=True)
    site = Site(settings, alignment, None, [], synthetic=False)
    assert site.warm is not None
    assert isinstance(site.comparer, SamplerProcess)
    try:
        enough = 10 * site.base.weights_bytes()
        monkeypatch.setattr("alignment.sampling.samplers.free_memory_bytes", lambda: enough - 1)
        site.warm.on_taken()
        assert site.comparer.pid is None
        monkeypatch.setattr("alignment.sampling.samplers.free_memory_bytes", lambda: enough)
        site.warm.on_taken()
        assert site.comparer.pid is not None
    finally:
        site.comparer.stop()
        site.stop()
    # An app that ends meanwhile fails no run.
    site.warm.on_taken()
    assert site.comparer.pid is None


def test_argilla_waits_for_its_turn_after_the_page(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = AnnotationSettings(votetune_home=home, argilla_api_url=None)
    site = Site(settings, AlignmentSettings(base_model="starter"), None, [], synthetic=False)
    try:
        site.start()
        assert site.embedded is not None
        assert site.embedded.state == "starting"
        assert not site.embedded.log.exists()
        site.start_argilla()
        site.embedded.start()  # a second time starts no second one
    finally:
        site.stop()
    assert site.embedded.pid is None
