"""Weights from a folder into memory: a base, a fine-tuned model, an adapter on top of a base.

Owns in which type and on which device they lie, and that what is missing or left over in a file is
an error. Refuses pickled weights and a repository's code. Keeps nothing and draws nothing.
"""

from pathlib import Path
from typing import Literal

from alignment.chat import end_of_turn_ids
from alignment.sampling.loaded_model import LoadedModel

DType = Literal["bfloat16", "float32"]


def load_model(folder: Path, *, device: str | None, dtype: DType | None) -> LoadedModel:
    """A whole model and its tokenizer. `device` None: a GPU if there is one; `dtype` None: bf16
    where that device computes fast in it, else fp32. Raises one of `load_errors()`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = dtype or ("bfloat16" if _fast_in_bf16(device) else "float32")
    safe = {"trust_remote_code": False, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
    model, found = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, wanted),
        use_safetensors=True,
        output_loading_info=True,
        **safe,
    )
    # transformers only warns, and would answer from random weights in their place.
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")
    end_ids = end_of_turn_ids(tokenizer, folder)
    # What a person set is what is drawn: no penalties or cuts from the repository's file.
    model.generation_config = GenerationConfig()
    return LoadedModel(
        tokenizer=tokenizer,
        model=model.to(device).eval(),
        device=device,
        window=int(getattr(model.config, "max_position_embeddings", None) or 1_000_000),
        end_ids=end_ids,
    )


def load_to_draw(folder: Path, *, device: str | None, dtype: DType | None) -> LoadedModel:
    """As `load_model`; a Llama on a CPU is made ready for the decode loop that draws from it."""
    from alignment.sampling.llama import llama_of

    loaded = load_model(folder, device=device, dtype=dtype)
    loaded.llama = llama_of(loaded.model)
    return loaded


def load_adapter(loaded: LoadedModel, name: str, folder: Path) -> None:
    """The LoRA adapter in `folder` beside the others of `loaded`, as `name` to PEFT.

    Raises one of `load_errors()`; half an adapter may then hang in `loaded`.
    """
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    if str(config.peft_type.value) != "LORA":
        raise ValueError(f"its type is {config.peft_type.value}")
    config.inference_mode = True
    # In the type of the base: PEFT would hold adapters of a bf16 base in fp32.
    as_base = {"autocast_adapter_dtype": False}
    if not isinstance(loaded.model, PeftModel):
        loaded.model = PeftModel(loaded.model, config, adapter_name=name, **as_base)
    found = loaded.model.load_adapter(str(folder), name, torch_device=loaded.device, **as_base)
    # PEFT only warns where names differ, and the base would answer under the adapter's name.
    if strangers := [*found.missing_keys, *found.unexpected_keys]:
        raise ValueError(f"{len(strangers)} of its weights fit nowhere, such as {strangers[0]}")
    loaded.model.eval()


def load_errors() -> tuple[type[Exception], ...]:
    """What loading a torn, foreign, unsupported or too large folder raises."""
    from safetensors import SafetensorError

    return OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError


def _fast_in_bf16(device: str) -> bool:
    if not device.startswith("cpu"):
        return True
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16"})
