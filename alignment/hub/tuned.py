"""What tuned weights in a folder must hold before anything loads them beside a base.

Two kinds: a LoRA adapter, or a whole model that was fine-tuned. Owns that both name the base at its
revision, that only safetensors are read, and that no model's own code runs. Reads JSON and headers.
"""

from pathlib import Path

from alignment.base import ResolvedBase
from alignment.hub.model_files import (
    ModelFilesError,
    check_model_folder,
    check_safetensors,
    read_json,
    weight_files,
)
from alignment.runs.recipes import Tuning
from annotation.schema import ModelRef

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
CARD, LINEAGE = "README.md", "votetune.json"
# A fine-tune changes none of these, so weights under other values are no fine-tune of the base.
_SHAPE = (
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


def tuning_of(folder: Path) -> Tuning:
    """Which kind of weights `folder` holds; an adapter's config decides, as it does in PEFT."""
    whole = (folder / MODEL_CONFIG).is_file() and not (folder / CONFIG).exists()
    return "full" if whole else "lora"


def check_tuned(folder: Path, base: ResolvedBase) -> None:
    """Raise ModelFilesError unless `folder` holds whole weights that say they belong to `base`:
    an adapter in its config, a fine-tuned model in the votetune.json beside it.
    """
    if tuning_of(folder) == "full":
        check_whole_model(folder, base, made_from=None)
        return
    check_adapter_config(folder, base.ref)
    check_adapter_files(folder)


def check_adapter_files(folder: Path) -> None:
    """Raise ModelFilesError unless `folder` has an adapter's config and whole weights."""
    read_json(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise ModelFilesError(f"{WEIGHTS} is missing, and pickled weights are never read")
    check_safetensors(folder / WEIGHTS)


def tuned_weight_files(folder: Path) -> list[Path]:
    """The safetensors of either kind, sorted by name; ModelFilesError where one is missing."""
    return weight_files(folder) if tuning_of(folder) == "full" else [folder / WEIGHTS]


def check_adapter_config(folder: Path, base: ModelRef) -> None:
    """Raise ModelFilesError unless adapter_config.json describes a plain LoRA adapter of `base`."""
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ModelFilesError(f"it is {config.get('peft_type')!r} and Votetune loads LoRA only")
    # Mixed batches of PEFT refuse these, or they would change the shared base for every adapter.
    for key in ("use_dora", "target_parameters", "auto_mapping"):
        if config.get(key):
            raise ModelFilesError(f"it uses {key}, which can't be loaded beside other adapters")
    if config.get("bias", "none") != "none":
        raise ModelFilesError("it trains biases, which can't be loaded beside other adapters")
    _check_belongs(config.get("base_model_name_or_path"), config.get("revision"), base)


def check_whole_model(
    folder: Path, base: ResolvedBase, *, made_from: ModelRef | None, weights: bool = True
) -> None:
    """Raise ModelFilesError unless `folder` holds a fine-tune of `base` that needs no code.

    `made_from` is the base that its run's spec names; None takes the one in votetune.json. With
    `weights` False only its small files are looked at.
    """
    if made_from is None:
        lineage = _load_lineage(folder, base.ref)
        _check_belongs(lineage.get("base"), lineage.get("base_revision"), base.ref)
    else:
        _check_belongs(made_from.base, made_from.base_revision, base.ref)
    check_model_folder(folder, weights=weights)
    mine, bases = read_json(folder / MODEL_CONFIG), read_json(base.path / MODEL_CONFIG)
    for key in _SHAPE:
        if mine.get(key) != bases.get(key):
            raise ModelFilesError(
                f"it is another architecture ({key} {_shown(mine.get(key))}) than the base "
                f"{base.ref.label} ({_shown(bases.get(key))})"
            )


def _load_lineage(folder: Path, base: ModelRef) -> dict[str, object]:
    if not (folder / LINEAGE).is_file():
        raise ModelFilesError(
            f"it is a whole model without a {LINEAGE} that names its base at a revision, so "
            f"nothing says that it was tuned from {_here(base)}"
        )
    return read_json(folder / LINEAGE)


def _check_belongs(named: object, revision: object, base: ModelRef) -> None:
    if not isinstance(revision, str) or not revision:
        raise ModelFilesError(
            f"it names {named} without a revision, so nothing says that it fits {_here(base)}"
        )
    # A folder's revision is the hash of its weights, and its path means nothing elsewhere.
    same_name = base.base.startswith("/") or str(named).lower() == base.base.lower()
    if not same_name or revision != base.base_revision:
        raise ModelFilesError(
            f"it belongs to {named}@{revision[:12]} and this home's base is {_here(base)}"
        )


def _here(base: ModelRef) -> str:
    return f"{base.base}@{base.base_revision[:12]}"


def _shown(value: object) -> str:
    # What a stranger's file says stays one short line.
    return " ".join(str(value).split())[:60]
