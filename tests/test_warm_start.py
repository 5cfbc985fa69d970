"""A run that goes on from a tuned model: its weights, its reference, its resume and its lineage."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignment.base import ResolvedBase
from alignment.hub.model_files import sha256_of
from alignment.hub.tuned import check_tuned
from alignment.pipeline import Pipeline
from alignment.publishing.lineage import load_lineage, public_spec
from alignment.registry import RegisteredModel, Registry, RegistryError
from alignment.runs.plan import plan_run
from alignment.runs.recipes import Reference, Start, TrainingOptions, Tuning
from alignment.runs.run_store import RunError, RunFolder, RunState
from alignment.runs.runs import Runs
from alignment.settings import AlignmentSettings
from alignment.training.weights.weights import save_weights
from annotation.export.export import Export
from annotation.home import Home
from annotation.journal.journal import Journal
from annotation.schema import ModelRef
from tests.preferences import TINY
from tests.test_runs import child_of, until
from tests.trainer_fixture import (
    MakeTrainer,
    batch_of,
    rows_of,
    shake,
    spec_of,
    token_logps,
)

BETA = 0.1


def soft(margin: float) -> float:
    """-log sigmoid."""
    return math.log1p(math.exp(-margin))


@pytest.fixture
def parent(make_trainer: MakeTrainer, tiny_export: Export, tmp_path: Path) -> Path:
    """An adapter of rank 4, away from the base."""
    return _saved(make_trainer, tiny_export, tmp_path / "parent", "lora", lora_r=4, lora_alpha=8)


@pytest.fixture
def whole_parent(make_trainer: MakeTrainer, tiny_export: Export, tmp_path: Path) -> Path:
    return _saved(make_trainer, tiny_export, tmp_path / "whole", "full")


def _saved(
    make_trainer: MakeTrainer, export: Export, path: Path, tuning: Tuning, **recipe: Any
) -> Path:
    trainer = make_trainer("sft", 1, tuning=tuning, **recipe)
    shake(trainer)
    folder = RunFolder(path)
    folder.path.mkdir()
    base_path = Path(trainer.model.config._name_or_path)
    save_weights(trainer.model, spec_of("sft", base_path, export, tuning=tuning), folder)
    return folder.weights


def loaded(base: Path, weights: Path | None) -> Any:
    """The base, or what `weights` make of it, read by the libraries alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    whole = weights is not None and not (weights / "adapter_config.json").exists()
    model = AutoModelForCausalLM.from_pretrained(weights if whole else base, dtype="float32")
    if weights is not None and not whole:
        model = PeftModel.from_pretrained(model, str(weights))
    return model.eval()


def ratio(trainer: Any, reference: Any, row: dict[str, list[int]]) -> float:
    """log π/π_ref of the chosen answer minus that of the rejected one, without any trainer."""
    chosen, rejected = (
        token_logps(trainer.model.eval(), row["prompt"], row[side]).sum()
        - token_logps(reference, row["prompt"], row[side]).sum()
        for side in ("chosen", "rejected")
    )
    return float(chosen - rejected)


@pytest.mark.parametrize("method", ["dpo", "orpo", "sft"])
@pytest.mark.parametrize("reference", ["base", "start"])
def test_training_begins_at_the_model_that_it_starts_from(
    make_trainer: MakeTrainer, tiny_folder: Path, parent: Path, method: Any, reference: Reference
) -> None:
    import torch

    trainer = make_trainer(method, 2, start=(parent, reference))
    row = rows_of(trainer)[0] if method == "dpo" else {"prompt": [5, 6, 7], "chosen": [8, 9, 2]}
    mine, its, bases = (
        token_logps(model, row["prompt"], row["chosen"])
        for model in (trainer.model.eval(), loaded(tiny_folder, parent), loaded(tiny_folder, None))
    )
    assert torch.allclose(mine, its, atol=1e-5)
    assert not torch.allclose(mine, bases, atol=1e-2)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".default." in name and "lora_" in name for name in trained)
    assert list(trainer.model.peft_config) == ["default"]
    assert trainer.model.peft_config["default"].r == 4


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("reference", ["base", "start"])
def test_the_reference_is_the_one_that_was_asked_for(
    make_trainer: MakeTrainer,
    tiny_folder: Path,
    parent: Path,
    whole_parent: Path,
    tuning: Tuning,
    reference: Reference,
) -> None:
    import torch

    weights = parent if tuning == "lora" else whole_parent
    trainer = make_trainer("dpo", 1, tuning=tuning, beta=BETA, start=(weights, reference))
    assert trainer.ref_model is None
    kept = loaded(tiny_folder, weights if reference == "start" else None)
    rows = rows_of(trainer)[:4]
    at_start = [ratio(trainer, kept, row) for row in rows]
    # Against itself a model has no margin; against the base it brings what it has learned.
    assert (max(map(abs, at_start)) < 1e-3) == (reference == "start")
    shake(trainer)
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model.eval(), batch_of(trainer)).item()
    expected = [soft(BETA * ratio(trainer, kept, row)) for row in rows]
    assert loss == pytest.approx(sum(expected) / 4, rel=1e-4)


@pytest.mark.parametrize("reference", ["base", "start"])
def test_a_resumed_run_ends_with_the_same_bytes(
    make_trainer: MakeTrainer,
    tiny_export: Export,
    tmp_path: Path,
    tiny_folder: Path,
    parent: Path,
    reference: Reference,
) -> None:
    found = []
    whole = make_trainer("dpo", 4, start=(parent, reference), learning_rate=5e-3)
    whole.args.save_steps = 2
    whole.train()
    resumed = make_trainer("dpo", 4, start=(parent, reference), learning_rate=5e-3)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-2")
    for name, trainer in (("whole", whole), ("resumed", resumed)):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        save_weights(trainer.model, spec_of("dpo", tiny_folder, tiny_export), folder)
        found.append((folder.adapter / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]
    assert found[0] != (parent / "adapter_model.safetensors").read_bytes()


def test_what_is_saved_loads_on_the_same_base(
    make_trainer: MakeTrainer, tiny_export: Export, tmp_path: Path, tiny_folder: Path, parent: Path
) -> None:
    import torch

    trainer = make_trainer("dpo", 3, start=(parent, "start"), learning_rate=5e-3)
    trainer.train()
    row = rows_of(trainer)[0]
    trained = token_logps(trainer.model.eval(), row["prompt"], row["chosen"])
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    save_weights(trainer.model, spec_of("dpo", tiny_folder, tiny_export), folder)
    check_tuned(folder.adapter, ResolvedBase(TINY, tiny_folder, is_starter=False, notice=None))
    assert sorted(f.name for f in folder.adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    again = token_logps(loaded(tiny_folder, folder.adapter), row["prompt"], row["chosen"])
    assert torch.allclose(again, trained, atol=1e-5)


# What a run says of it


def registered(weights: Path, tuning: Tuning) -> RegisteredModel:
    model = replace(TINY, adapter="dpo-1", adapter_revision="c" * 40)
    return RegisteredModel("dpo-1", model, weights, tuning)


def test_the_spec_names_the_model_and_takes_its_rank(tiny_folder: Path, parent: Path) -> None:
    base = ResolvedBase(TINY, tiny_folder, is_starter=False, notice=None)
    asked = {"base": base, "dataset_sha256": "d" * 64, "examples": 30}
    spec = plan_run(TrainingOptions("dpo"), **asked, start=registered(parent, "lora"))
    assert spec.start == Start("dpo-1", registered(parent, "lora").ref, "base")
    assert spec.recipe.learning_rate == pytest.approx(0.15 * 2e-3)
    assert (spec.recipe.lora_r, spec.recipe.lora_alpha) == (4, 8)
    assert plan_run(TrainingOptions("dpo"), **asked).start is None


@pytest.mark.parametrize(("tuning", "kind"), [("lora", "full"), ("full", "lora")])
def test_an_adapter_goes_on_from_no_whole_model_and_the_other_way_round(
    tiny_folder: Path, parent: Path, tuning: Tuning, kind: Tuning
) -> None:
    base = ResolvedBase(TINY, tiny_folder, is_starter=False, notice=None)
    with pytest.raises(RunError, match="can't go on from it: start from the base, or train") as no:
        plan_run(
            TrainingOptions("dpo", tuning=tuning),
            base=base,
            dataset_sha256="d" * 64,
            examples=30,
            start=registered(parent, kind),
        )
    assert "\n" not in str(no.value)


def test_a_start_that_can_not_be_had_is_one_clear_line(
    tmp_path: Path, tiny_folder: Path, parent: Path
) -> None:
    base = ResolvedBase(TINY, tiny_folder, is_starter=False, notice=None)
    home = Home(tmp_path / "home")
    home.prepare()
    journal = Journal(home.journal)
    pipeline = Pipeline(home, AlignmentSettings(hf_token=None), base, journal)
    # While the base is the policy, to start from either is the same.
    assert pipeline.starts_from(TrainingOptions("dpo", start="policy")) is None
    pipeline.registry.promotions.promote(registered(parent, "lora").ref, "override")
    with pytest.raises(RegistryError, match="is not here any more: pull it again, or roll back"):
        pipeline.starts_from(TrainingOptions("dpo", start="policy"))
    with pytest.raises(RegistryError, match="Model dpo-9 is not here: use base, policy"):
        pipeline.starts_from(TrainingOptions("dpo", start="dpo-9"))
    pipeline.registry.get = lambda name, *, pull: registered(parent, "lora")  # type: ignore[method-assign]
    with pytest.raises(RunError, match="A job on the Hub can't go on from dpo-1"):
        pipeline.starts_from(TrainingOptions("dpo", start="dpo-1", where="jobs"))
    journal.close()


def test_a_run_is_not_made_again_from_another_start(
    tmp_path: Path, tiny_folder: Path, tiny_export: Export, parent: Path
) -> None:
    base = ResolvedBase(TINY, tiny_folder, is_starter=False, notice=None)
    spec = plan_run(
        TrainingOptions("dpo"),
        base=base,
        dataset_sha256=tiny_export.sha256,
        examples=tiny_export.examples,
        start=registered(parent, "lora"),
    )
    with pytest.raises(RunError, match="starts from dpo-1, which is not here: get it first"):
        Runs(tmp_path).start_as(spec, tiny_export)
    assert not (tmp_path / "runs").exists()


def test_no_path_of_this_machine_is_told(tiny_folder: Path, parent: Path) -> None:
    here = ModelRef(str(tiny_folder), "b" * 40)
    start = replace(registered(parent, "lora"), ref=replace(here, adapter="dpo-1"))
    spec = plan_run(
        TrainingOptions("dpo"),
        base=ResolvedBase(here, tiny_folder, is_starter=False, notice=None),
        dataset_sha256="d" * 64,
        examples=30,
        start=start,
    )
    told = json.dumps(public_spec(spec))
    assert str(tiny_folder.parent) not in told
    assert '"name": "dpo-1"' in told


def test_a_killed_run_goes_on_though_its_parent_is_gone_and_names_it_by_hash(
    tmp_path: Path, tiny_folder: Path, tiny_export: Export
) -> None:
    base = ResolvedBase(TINY, tiny_folder, is_starter=False, notice=None)
    home = tmp_path / "home"
    runs, registry = Runs(home), Registry(home, base)
    first = runs.wait(runs.start(TrainingOptions("dpo", steps=3), base=base, export=tiny_export).id)
    parent = registry.get(first.id)
    digest = sha256_of(first.folder.adapter / "adapter_model.safetensors")[:40]
    options = TrainingOptions("dpo", steps=60, reference="start")
    run = runs.start(options, base=base, export=tiny_export, start=parent)
    until(lambda: runs.get(run.id).status.step >= 20)
    child_of(run).kill()
    until(lambda: not runs.get(run.id).is_active, timeout_s=5)
    shutil.rmtree(first.folder.path)
    done = runs.wait(runs.resume(run.id).id, timeout_s=120)
    assert done.state is RunState.DONE, done.reason
    assert [m.step for m in runs.metrics(run.id)] == list(range(1, 61))
    # It begins at its reference, and the copy of it goes with the checkpoints.
    assert runs.metrics(run.id)[0].reward_margin == pytest.approx(0, abs=1e-4)
    assert not done.folder.start.exists()
    lineage = load_lineage(done.folder, token=None)
    assert (lineage.started_from, lineage.reference) == (first.id, "start")
    assert json.loads(lineage.to_json())["started_from_revision"] == digest
    with pytest.raises(RegistryError, match="is not here"):
        registry.get(first.id)
