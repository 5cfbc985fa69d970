"""Where the weights of a run begin: at the base, or at a tuned model that it goes on from.

Owns which model a trainer is handed, and what its reference is. A tuned model to start from lies in
the run's own folder, so that a run can be resumed when that model is gone. Heavy imports happen
inside functions.
"""

from pathlib import Path
from typing import Any

from alignment.runs.recipes import Recipe, TrainingSpec
from alignment.runs.run_store import RunFolder

_OURS, _REFERENCE = "default", "ref"
"""PEFT's name of what is trained, and TRL's of its frozen copy."""


def starting_point(folder: RunFolder, spec: TrainingSpec) -> dict[str, Any]:
    """The arguments of a trainer that say what is trained, and against which reference.

    An adapter handed over as it is becomes its own reference: TRL copies it before the first step.
    One that starts at the tuned model but keeps the base as its reference begins empty, and
    `settle` puts the weights in, once the reference's log-probs are taken.
    """
    whole = spec.recipe.tuning == "full"
    model = load_whole(folder.start if whole and spec.start else spec.base_path)
    if whole:
        against_base = spec.start is not None and spec.start.reference == "base"
        return {"model": model} | (
            {"ref_model": load_whole(spec.base_path)} if against_base else {}
        )
    if spec.start is None:
        return {"model": model, "peft_config": _fresh(spec.recipe)}
    if spec.start.reference == "base":
        return {"model": model, "peft_config": _config(folder.start)}
    return {"model": _with_adapter(model, folder.start)}


def settle(trainer: Any, folder: RunFolder, spec: TrainingSpec) -> None:
    """After a trainer is made: nothing is left in memory but what is trained, at its start."""
    if spec.start is None:
        return
    model = trainer.model
    if spec.recipe.tuning == "full":
        trainer.ref_model = None
    elif spec.start.reference == "base":
        _put_in(model, folder.start)
    elif _REFERENCE in model.peft_config:
        model.delete_adapter(_REFERENCE)


def load_whole(path: Path) -> Any:
    """A whole model from a folder, in float32, as training holds it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path,
        dtype="float32",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )


def _fresh(recipe: Recipe) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _config(adapter: Path) -> Any:
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(str(adapter))
    config.inference_mode = False
    return config


def _with_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(
        model, str(adapter), adapter_name=_OURS, is_trainable=True, config=_config(adapter)
    )


def _put_in(model: Any, adapter: Path) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(adapter / "adapter_model.safetensors")
    found = set_peft_model_state_dict(model, weights, adapter_name=_OURS)
    if found.unexpected_keys:
        raise ValueError(f"the adapter has weights that no layer takes: {found.unexpected_keys[0]}")
