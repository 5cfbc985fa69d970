"""A Llama in a CPU's memory: its weights, fused, and its forward pass over columns of tokens.

Owns which models and which LoRA adapters it can compute, and refuses all others, which `generate`
draws from. Activations are (features, tokens): a weight times those needs no reordered copy of the
weight, which would double the memory. Keeps no cache and draws nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW_TOKENS = 16
"""Below so many, a product with the tokens first is the faster one."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2}
"""How far the logits of a probe may be from the model's own, as a share of the largest."""
PROBE = (5, 9, 2, 7, 1)
_QKV, _OUT, _GATE_UP, _DOWN = range(4)
_FUSED = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


class Attend(Protocol):
    """What the tokens' queries find: (heads × dim, tokens)."""

    def __call__(self, layer: int, /, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`q` is (heads, dim, tokens); `k` and `v`, of the same tokens, (kv heads, dim, tokens)."""
        ...


@dataclass(frozen=True, slots=True)
class LoraPart:
    """What an adapter adds to some features of a fused product."""

    features: slice
    down: Tensor
    up: Tensor
    scale: float


Lora = list[tuple[list[LoraPart], ...]]
"""An adapter's parts, by layer and by fused product."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """Tokens that an adapter answers for; `columns` None for all of them."""

    lora: Lora
    columns: Tensor | None


@dataclass(frozen=True, slots=True)
class _Layer:
    before_attention: Tensor
    before_mlp: Tensor
    fused: tuple[Tensor, ...]
    modules: tuple[tuple[nn.Module, str], ...]
    """Where PEFT hangs adapters: the parent and the name of each product, in the fused order."""


@dataclass(frozen=True, slots=True)
class Llama:
    """Weights shared with the model they come from; nothing is held twice."""

    layers: tuple[_Layer, ...]
    embedding: Tensor
    norm: Tensor
    head: Tensor
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    frequencies: Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    def hidden(
        self, ids: Tensor, positions: Tensor, attend: Attend, adapted: Sequence[Adapted] = ()
    ) -> Tensor:
        """The last layer's output (features, tokens), normed, for token `ids` at `positions`."""
        x = functional.embedding(ids, self.embedding).t().contiguous()
        angles = self.frequencies[:, None] * positions.float()
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        rotated = self.heads + self.kv_heads
        for number, layer in enumerate(self.layers):
            loras = [(one.lora[number], one.columns) for one in adapted]
            normed = _norm(x, layer.before_attention, self.eps)
            qkv = _product(layer, _QKV, normed, loras).reshape(-1, self.head_dim, len(ids))
            qk = _rotate(qkv[:rotated], cos, sin)
            found = attend(number, qk[: self.heads], qk[self.heads :], qkv[rotated:])
            x = x + _product(layer, _OUT, found, loras)
            normed = _norm(x, layer.before_mlp, self.eps)
            gate, up = _product(layer, _GATE_UP, normed, loras).chunk(2)
            x = x + _product(layer, _DOWN, functional.silu(gate) * up, loras)
        return _norm(x, self.norm, self.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """(vocabulary, tokens)."""
        return _times(self.head, hidden)

    def lora(self, model: Any, name: str) -> Lora | None:
        """The adapter `name` of `model`; None where it is more than LoRA on these products."""
        config = model.peft_config[name]
        if config.modules_to_save or config.trainable_token_indices or config.target_parameters:
            return None
        # On products it hangs as lora_A, on the embedding as lora_embedding_A.
        hung = sum(
            name in getattr(module, kind, ())
            for module in model.modules()
            for kind in ("lora_A", "lora_embedding_A")
        )
        lora = []
        for layer in self.layers:
            modules = iter(layer.modules)
            parts = tuple(list(_parts(name, [next(modules) for _ in names])) for names in _FUSED)
            hung -= sum(len(some) for some in parts)
            lora.append(parts)
        return None if hung else lora


def llama_of(model: Any) -> Llama | None:
    """`model` as a Llama whose logits are the model's own; None for any that is not.

    The model's weights become views of the fused ones.
    """
    config = model.config
    if type(model).__name__ != "LlamaForCausalLM" or model.device.type != "cpu":
        return None
    if config.rope_parameters["rope_type"] != "default" or config.hidden_act != "silu":
        return None
    products = [one for one in model.modules() if isinstance(one, nn.Linear)]
    # A quantised or biased product, or half precision, which CPUs compute slowly.
    if any(type(one) is not nn.Linear or one.bias is not None for one in products):
        return None
    if {one.weight.dtype for one in products} - TOLERANCE.keys():
        return None
    llama = _fused(model)
    return llama if _is_faithful(llama, model) else None


def _fused(model: Any) -> Llama:
    inner, config = model.model, model.config
    return Llama(
        layers=tuple(_fused_layer(layer) for layer in inner.layers),
        embedding=inner.embed_tokens.weight.data,
        norm=inner.norm.weight.data[:, None],
        head=model.lm_head.weight.data,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        eps=config.rms_norm_eps,
        frequencies=inner.rotary_emb.inv_freq.float(),
    )


def _fused_layer(layer: Any) -> _Layer:
    parents = (layer.self_attn, layer.self_attn, layer.mlp, layer.mlp)
    fused = []
    for parent, names in zip(parents, _FUSED, strict=True):
        products = [getattr(parent, name) for name in names]
        weight = torch.cat([one.weight.data for one in products]) if names[1:] else None
        fused.append(products[0].weight.data if weight is None else weight)
        if weight is not None:
            rows = torch.split(weight, [one.weight.shape[0] for one in products])
            for product, its in zip(products, rows, strict=True):
                product.weight.data = its
    return _Layer(
        before_attention=layer.input_layernorm.weight.data[:, None],
        before_mlp=layer.post_attention_layernorm.weight.data[:, None],
        fused=tuple(fused),
        modules=tuple(
            (parent, name) for parent, names in zip(parents, _FUSED, strict=True) for name in names
        ),
    )


@torch.inference_mode()
def _is_faithful(llama: Llama, model: Any) -> bool:
    """Whether both say the same of a few tokens: another version may compute a Llama otherwise."""
    ids = torch.tensor(PROBE) % llama.embedding.shape[0]
    want = model(input_ids=ids[None], use_cache=False).logits[0].float()

    def attend(_layer: int, /, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_causally(q, k, v)

    got = llama.logits(llama.hidden(ids, torch.arange(len(ids)), attend)).t().float()
    most = TOLERANCE[llama.dtype] * want.abs().max()
    return bool((got - want).abs().max() <= most)


def attend_causally(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention within one sequence of tokens; shapes as in `Attend`."""
    q, k, v = (one.transpose(1, 2)[None] for one in (q, k, v))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out[0].transpose(1, 2).flatten(0, 1)


def _product(
    layer: _Layer, place: int, x: Tensor, loras: Sequence[tuple[Any, Tensor | None]]
) -> Tensor:
    out = _times(layer.fused[place], x)
    for parts, columns in loras:
        some = x if columns is None else x.index_select(1, columns)
        for part in parts[place]:
            added = part.up @ (part.down @ some.to(part.down.dtype))
            added = (added * part.scale).to(out.dtype)
            if columns is None:
                out[part.features] += added
            else:
                out[part.features].index_add_(1, columns, added)
    return out


def _times(weight: Tensor, x: Tensor) -> Tensor:
    if x.shape[1] < FEW_TOKENS:
        return functional.linear(x.t(), weight).t()
    return weight @ x


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(0, keepdim=True) + eps)
    return wide.to(x.dtype).mul_(weight)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=1)


def _parts(name: str, modules: Sequence[tuple[nn.Module, str]]) -> Iterator[LoraPart]:
    """What adapter `name` adds to one fused product; what is not plain LoRA is left out."""
    from peft.tuners.lora import Linear

    start = 0
    for parent, child in modules:
        module: Any = getattr(parent, child)
        end = start + module.weight.shape[0]
        if type(module) is Linear and name in module.lora_A:
            plain = name not in module.lora_variant and not module.lora_bias[name]
            if plain:
                yield LoraPart(
                    features=slice(start, end),
                    down=module.lora_A[name].weight.data,
                    up=module.lora_B[name].weight.data,
                    scale=module.scaling[name],
                )
        start = end
