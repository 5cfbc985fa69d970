"""Log-probs of the reference: computed once for a dataset, found by whoever asks again."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignment.runs.run_store import RunFolder
from alignment.training.rows import references, sift
from alignment.training.rows.references import FOLDER, KeptReferences, kept_references
from annotation.export.export import Export
from tests.disk import no_room_for
from tests.preferences import export_of
from tests.tiny import make_tiny_model
from tests.trainer_fixture import MakeTrainer, spec_of

ROWS = [{"prompt_ids": [n, 4], "chosen_ids": [5], "rejected_ids": [6, n]} for n in range(3)]
LOGPS = [(-1.5, -2.25), (-0.1, -7.0), (-3.0, -4.0)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a batch that a reference was asked about."""
    from trl import DPOTrainer

    made: list[int] = []
    ask = DPOTrainer.compute_ref_log_probs

    def counted(self: Any, model: Any, inputs: Any) -> Any:
        made.append(len(inputs["input_ids"]) // 2)
        return ask(self, model, inputs)

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", counted)
    return made


def columns(trainer: Any) -> list[list[float]]:
    return [list(trainer.train_dataset[f"ref_{side}_logps"]) for side in ("chosen", "rejected")]


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def test_a_second_run_on_a_dataset_asks_no_reference_and_learns_the_same_bits(
    make_trainer: MakeTrainer, passes: list[int]
) -> None:
    first = make_trainer("dpo", 8)
    assert sum(passes) == len(first.train_dataset)
    passes.clear()
    second = make_trainer("dpo", 8)
    assert passes == []
    assert columns(second) == columns(first)
    assert losses(second) == losses(first)
    # Another rate, loss or number of steps changes no reference; another seed neither.
    make_trainer("dpo", 9, loss="ipo", learning_rate=1e-4, beta=0.3)
    assert passes == []


def test_a_sift_and_the_run_after_it_ask_once(
    make_trainer: MakeTrainer, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sift, "against_their_votes", lambda *_: [3, 7])
    trainer = make_trainer("dpo", 8, loss="robust", flip_rate=0.4, sift=True)
    assert len(trainer.train_dataset) == 22
    assert sum(passes) == 24


@pytest.mark.parametrize(
    "change",
    [{"ld_alpha": 0.5}, {"micro_batch": 2}, {"max_length": 1000}],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_a_log_prob_is_computed_again(
    make_trainer: MakeTrainer, passes: list[int], change: dict[str, Any]
) -> None:
    make_trainer("dpo", 8)
    passes.clear()
    make_trainer("dpo", 8, **change)
    assert sum(passes) == 24


def test_other_weights_and_other_votes_are_computed_again(
    make_trainer: MakeTrainer, passes: list[int], tmp_path: Path
) -> None:
    make_trainer("dpo", 8)
    passes.clear()
    other = make_tiny_model(tmp_path / "other", seed=1)
    make_trainer("dpo", 8, base_path=other)
    assert sum(passes) == 24
    make_trainer("dpo", 8, export=export_of(tmp_path / "more", 16))
    assert sum(passes) == 24 + 16


def test_a_full_run_finds_what_a_lora_run_kept(
    make_trainer: MakeTrainer, passes: list[int]
) -> None:
    lora = make_trainer("dpo", 8)
    passes.clear()
    full = make_trainer("dpo", 8, tuning="full")
    assert passes == []
    assert columns(full) == columns(lora)


def test_rows_are_found_by_their_tokens_in_any_order(tmp_path: Path) -> None:
    kept = KeptReferences(tmp_path / "new" / "a.json")
    assert kept.find(ROWS) is None
    kept.keep(ROWS[:2], LOGPS[:2])
    assert kept.find([ROWS[1], ROWS[0]]) == [LOGPS[1], LOGPS[0]]
    assert kept.find(ROWS) is None
    kept.keep(ROWS[2:], LOGPS[2:])
    assert kept.find(ROWS) == LOGPS
    assert [file.name for file in kept.file.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize("torn", ["", '{"a": [1', "[]", '{"a": 1}', '{"a": [1, 2, 3]}', "\x00"])
def test_a_torn_file_counts_as_empty_and_is_written_anew(tmp_path: Path, torn: str) -> None:
    kept = KeptReferences(tmp_path / "a.json")
    kept.file.write_text(torn, encoding="utf-8")
    assert kept.find(ROWS) is None
    kept.keep(ROWS, LOGPS)
    assert kept.find(ROWS) == LOGPS


def test_a_full_disk_keeps_nothing_and_fails_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptReferences(tmp_path / "a.json")
    kept.keep(ROWS[:1], LOGPS[:1])
    many = [{"prompt_ids": [n], "chosen_ids": [5], "rejected_ids": [6]} for n in range(50)]
    with no_room_for(1000):
        kept.keep(many, [(-1.0, -2.0)] * 50)
    assert "not kept" in caplog.text
    assert kept.find(ROWS[:1]) == LOGPS[:1]
    assert kept.find(many[:1]) is None


def test_a_home_keeps_its_newest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "KEPT", 2)
    files = [KeptReferences(tmp_path / f"{n}.json") for n in range(4)]
    for kept in files:
        kept.keep(ROWS, LOGPS)
    assert [kept.find(ROWS) is not None for kept in files] == [False, False, True, True]


def test_the_file_lies_beside_the_runs_and_goes_by_what_it_depends_on(
    tiny_folder: Path, tiny_export: Export, tmp_path: Path
) -> None:
    spec = spec_of("dpo", tiny_folder, tiny_export)
    one, other = (RunFolder(tmp_path / "runs" / name) for name in ("one", "other"))
    one.path.mkdir(parents=True)
    kept = kept_references(one, spec, "cpu, fp32")
    assert kept.file.parent == tmp_path / "runs" / FOLDER
    assert kept_references(other, replace(spec, steps=77, seed=4), "cpu, fp32") == kept
    assert kept_references(one, spec, "cpu, bf16") != kept
    assert kept_references(one, replace(spec, dataset_sha256="1" * 64), "cpu, fp32") != kept
    copied = shutil.copytree(tiny_folder, tmp_path / "copied")
    assert kept_references(one, replace(spec, base_path=copied), "cpu, fp32") == kept
    config = copied / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-02'))
    assert kept_references(one, replace(spec, base_path=copied), "cpu, fp32") != kept
