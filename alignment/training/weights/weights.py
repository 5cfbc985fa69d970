"""What a run leaves behind: the trained weights, named after the base that they belong to.

Owns which files those are. Nothing else of what TRL and PEFT save goes with them.
"""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from alignment.base import SMALL_FILES
from alignment.hub.model_files import INDEX, weight_files
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunFolder
from annotation.schema import ModelRef

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MODEL = "model.safetensors"
_ONE_FILE = "1000TB"


def save_weights(model: Any, spec: TrainingSpec, folder: RunFolder) -> None:
    """Write what `spec` trained: `folder`.adapter, or the whole model to `folder`.model.

    `model` is not to be trained or asked any more: a whole one is cast to the base's dtype.
    """
    if spec.recipe.tuning == "full":
        save_model(model, spec.base_path, folder.model)
    else:
        save_adapter(model, spec.base, folder.adapter)


def save_adapter(model: Any, base: ModelRef, directory: Path) -> None:
    """Write adapter_config.json, naming `base` at its revision, and adapter_model.safetensors.

    Both files appear at once; nothing else of what TRL and PEFT save goes with them.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path = base.base
    config.revision = base.base_revision
    draft = _draft(directory)
    # Without this PEFT asks the Hub whether the base's vocabulary was changed.
    model.save_pretrained(draft, save_embedding_layers=False)
    _keep(draft, ADAPTER_FILES)
    _publish(draft, directory)


def save_model(model: Any, base_path: Path, directory: Path) -> None:
    """Write a whole model that loads by itself: the base's own configuration, tokenizer and
    template, byte for byte, and model.safetensors in the dtype of most of the base's weights.

    All files appear at once; `model` is cast in place.
    """
    draft = _draft(directory)
    _cast(model, base_path)
    model.save_pretrained(draft, max_shard_size=_ONE_FILE)
    _keep(draft, (MODEL,))
    for pattern in SMALL_FILES:
        for file in base_path.glob(pattern):
            if file.name != INDEX:
                shutil.copyfile(file, draft / file.name)
    _publish(draft, directory)


def _cast(model: Any, base_path: Path) -> None:
    from safetensors import safe_open

    dtypes: Counter[str] = Counter()
    for file in weight_files(base_path):
        with safe_open(file, "numpy") as held:
            dtypes.update(held.get_slice(name).get_dtype() for name in held.keys())  # noqa: SIM118
    (dtype, _), *_ = dtypes.most_common(1)
    # Any other dtype was loaded as float32, which is what training holds.
    casts = {"BF16": model.bfloat16, "F16": model.half}
    casts.get(dtype, model.float)()


def _draft(directory: Path) -> Path:
    draft = directory.with_name(f".{directory.name}")
    shutil.rmtree(draft, ignore_errors=True)
    return draft


def _keep(draft: Path, names: tuple[str, ...]) -> None:
    for extra in draft.iterdir():
        if extra.name not in names:
            extra.unlink()


def _publish(draft: Path, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    draft.rename(directory)
