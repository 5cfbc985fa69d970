"""What a step of a run holds in memory at most, from the model's shape and the pairs' lengths.

Owns the arithmetic: what a layer keeps for its way back, what the head and its logits take, how
much more a process holds than is in use. Reads file headers and config.json; loads no weights and
no torch.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.runs.recipes import Recipe, TrainingSpec, tensor_shapes
from alignment.runs.run_store import RunError

LIBRARIES_BYTES = 600_000_000
"""torch, transformers, peft and trl in one process, before any weights."""
HEADROOM = 1.15
BF16_FROM_PARAMETERS = 20_000_000
"""Below this a processor gains nothing from bf16: casting costs what the products save."""
_CPUINFO = Path("/proc/cpuinfo")
_FLOAT, _HALF, _ADAM = 4, 2, 2
_PORTION, _TILE_TOKENS, _TILE_VOCABULARY = 1 << 23, 4096, 32768
"""Logits that training.forward.token_logps holds at a time, and TRL's head on a processor."""
_ONE_ROW = frozenset({"gemma", "llama", "olmo2", "qwen2", "qwen3", "smollm3"})
"""Families known to take a pair as one row (training.forward.shared_prompt)."""


@dataclass(frozen=True, slots=True)
class _Copies:
    """How many times over each part is held: in use at once, or freed and not yet used again.

    `kept` is what all layers keep; `layer` the one on its way back, for which there is room where
    others before it have gone, and `again` the same with checkpointing, where there is none. `head`
    is the head's weights in the dtype of products. Of logits, all in fp32: `portion` is our head's,
    `tile` TRL's on a processor, `whole` those of every token.
    """

    kept: float
    layer: float
    again: float
    head: float
    portion: float
    tile: float
    whole: float


_PROCESSOR = _Copies(kept=1.46, layer=1.2, again=4.5, head=1.65, portion=8.0, tile=11.5, whole=3.0)
"""Fitted to the peaks of 51 processes: 1.03 to 1.37 times what each was measured to hold."""
_GPU = _Copies(kept=1.0, layer=0.0, again=1.0, head=1.0, portion=3.0, tile=3.0, whole=3.0)
"""By count alone: nothing was measured on one."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What of a machine memory depends on. `bf16` is for a model that is not tiny."""

    on_gpu: bool
    bf16: bool


@dataclass(frozen=True, slots=True)
class PairSize:
    """Tokens of one example: the prompt, turns included, and both answers."""

    prompt: int
    chosen: int
    rejected: int

    @property
    def longest(self) -> int:
        return self.prompt + max(self.chosen, self.rejected)

    @property
    def whole(self) -> int:
        """As one row, the prompt once."""
        return self.prompt + self.chosen + self.rejected


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory depends on. `parameters` counts tied embeddings once, `linear` the weights of
    the blocks' linear maps, `lora_sides` the sum of their two sides, of which rank r trains r;
    `one_row` says that DPO and ORPO take a pair as one row on a processor.
    """

    parameters: int
    linear: int
    lora_sides: int
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    window: int
    one_row: bool = False


@dataclass(frozen=True, slots=True)
class _Batch:
    """The most that goes through the model at once: `tokens` of all rows, `masked` the entries of
    their attention masks, `logits_bytes` what the head holds of logits and its gradient.
    """

    tokens: int
    masked: int
    logits_bytes: float


def load_shape(folder: Path) -> Shape:
    """The shape of the model in `folder`, from config.json and the safetensors headers.

    Raises RunError for a config.json that doesn't say how wide and how deep the model is.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config") or config

    def say(*names: str, default: int | None = None) -> int:
        found = next((config[name] for name in names if config.get(name)), default)
        if found is None:
            raise RunError(
                f"The base model's config.json names no {names[0]}: choose another base model."
            )
        return int(found)

    shapes = tensor_shapes(folder)
    hidden = say("hidden_size", "n_embd", "d_model")
    linear = [s for name, s in shapes.items() if len(s) == 2 and not _is_embedding(name)]
    return Shape(
        parameters=sum(math.prod(s) for s in shapes.values()),
        linear=sum(math.prod(s) for s in linear),
        lora_sides=sum(sum(s) for s in linear),
        hidden=hidden,
        intermediate=say("intermediate_size", "n_inner", default=4 * hidden),
        layers=say("num_hidden_layers", "n_layer"),
        vocabulary=say("vocab_size"),
        window=say("max_position_embeddings", "n_positions", default=1_000_000),
        one_row=_takes_pairs(config),
    )


def _is_embedding(name: str) -> bool:
    return any(part in name for part in ("embed", "lm_head", "wte", "wpe"))


def trained_parameters(recipe: Recipe, shape: Shape) -> int:
    """All of them, or r times both sides of each linear map (LoRA, arXiv 2106.09685)."""
    return shape.parameters if recipe.tuning == "full" else recipe.lora_r * shape.lora_sides


def memory_bytes(
    spec: TrainingSpec,
    shape: Shape,
    pairs: Sequence[PairSize],
    hardware: Hardware,
    *,
    checkpointing: bool,
) -> int:
    """Peak memory of a step over the longest of `pairs`, the libraries included.

    Weights in fp32; gradient and two moments of AdamW for what is trained, fp32 adapters besides.
    Per layer and token backward wants 9 hidden floats (inputs, residuals, attention in fp32) and 4
    intermediate values in the dtype of products; with checkpointing one hidden vector a layer. In
    bf16 a frozen weight's cast is kept as well, and every weight's in full tuning.
    """
    recipe, full = spec.recipe, spec.recipe.tuning == "full"
    bf16 = hardware.bf16 and (hardware.on_gpu or shape.parameters >= BF16_FROM_PARAMETERS)
    copies = _GPU if hardware.on_gpu else _PROCESSOR
    batch = _largest_batch(spec, shape, pairs, copies, on_gpu=hardware.on_gpu)
    product = _HALF if bf16 else _FLOAT
    hidden = batch.tokens * shape.hidden * _FLOAT
    layer = 9 * hidden + 4 * batch.tokens * shape.intermediate * product
    layer += batch.masked * _FLOAT
    casts = _HALF * shape.linear if bf16 and not full else 0
    kept = hidden * shape.layers if checkpointing else layer * shape.layers + casts
    trained = trained_parameters(recipe, shape)
    weights = shape.parameters * (_FLOAT + (_HALF if bf16 and full else 0))
    states = trained * _FLOAT * (1 + _ADAM) + (0 if full else trained * _FLOAT)
    head = copies.head * shape.vocabulary * shape.hidden * product + batch.logits_bytes
    one = (copies.again if checkpointing else copies.layer) * (layer + casts / shape.layers)
    return LIBRARIES_BYTES + weights + states + math.ceil(copies.kept * kept + one + head)


def needs_checkpointing(
    spec: TrainingSpec,
    shape: Shape,
    pairs: Sequence[PairSize],
    hardware: Hardware,
    *,
    free_bytes: int,
) -> bool:
    """Whether activations must be computed twice because they don't fit into `free_bytes`."""
    plain = memory_bytes(spec, shape, pairs, hardware, checkpointing=False)
    return plain * HEADROOM > free_bytes


def has_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether this processor multiplies bf16 fast; False where the kernel does not tell."""
    try:
        return "avx512_bf16" in cpuinfo.read_text(encoding="utf-8").split()
    except OSError:
        return False


def _largest_batch(
    spec: TrainingSpec,
    shape: Shape,
    pairs: Sequence[PairSize],
    copies: _Copies,
    *,
    on_gpu: bool,
) -> _Batch:
    """The longest of `pairs` at once: in one row each, or padded to the longest of them all."""
    at_once, vocabulary = spec.recipe.micro_batch, shape.vocabulary
    # Several processes may split the model, and then keep TRL's forward.
    in_rows = shape.one_row and not on_gpu and spec.method != "sft" and spec.where != "accelerate"
    if in_rows:
        some = sorted(pairs, key=lambda pair: pair.whole)[-at_once:]
        read = sum(sorted(pair.chosen + pair.rejected for pair in pairs)[-at_once:])
        portion = min(read * vocabulary, max(_PORTION, vocabulary))
        return _Batch(
            tokens=sum(pair.whole for pair in some),
            masked=sum(pair.rejected * (pair.prompt + pair.rejected) for pair in some),
            logits_bytes=(copies.portion * portion + read * shape.hidden) * _FLOAT,
        )
    longest = max(pair.longest for pair in pairs)
    tokens = at_once * (1 if spec.method == "sft" else 2) * longest
    if on_gpu or spec.method == "orpo":
        logits = copies.whole * tokens * vocabulary
    else:
        tile = min(tokens, _TILE_TOKENS) * min(vocabulary, _TILE_VOCABULARY)
        logits = copies.tile * tile
    return _Batch(tokens, masked=tokens * longest, logits_bytes=logits * _FLOAT)


def _takes_pairs(config: dict[str, Any]) -> bool:
    """Whether the family is one of _ONE_ROW, and this model attends to all earlier tokens."""
    slides = config.get("sliding_window") and config.get("use_sliding_window", True)
    kinds = config.get("layer_types") or ["full_attention"]
    return config.get("model_type") in _ONE_ROW and not slides and set(kinds) == {"full_attention"}
