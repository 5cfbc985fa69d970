"""What a run leaves behind: the trained weights, named after the base that they belong to.

Owns which files those are. Nothing else of what TRL and PEFT save goes with them.
"""

import shutil
from pathlib import Path
from typing import Any

from annotation.schema import ModelRef


def save_adapter(model: Any, base: ModelRef, directory: Path) -> None:
    """Write adapter_config.json, naming `base` at its revision, and adapter_model.safetensors.

    Both files appear at once; nothing else of what TRL and PEFT save goes with them.
    """
    draft = directory.with_name(".adapter")
    shutil.rmtree(draft, ignore_errors=True)
    config = model.peft_config["default"]
    config.base_model_name_or_path = base.base
    config.revision = base.base_revision
    # Without this PEFT asks the Hub whether the base's vocabulary was changed.
    model.save_pretrained(draft, save_embedding_layers=False)
    for extra in draft.iterdir():
        if extra.name not in ("adapter_config.json", "adapter_model.safetensors"):
            extra.unlink()
    shutil.rmtree(directory, ignore_errors=True)
    draft.rename(directory)
