"""A tiny random chat model on disk, for every test that wants real weights and a real tokenizer.

Byte-level (no merges), ChatML-like template that ends a turn with `<|im_end|>` and a newline, as
SmolLM2's does. It knows nothing, but it answers in printable ASCII and ends its turns.
"""

from pathlib import Path

SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")
EOS_ID = 2
WINDOW = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write config, tokenizer, template and safetensors (fp32, about 60k parameters) to `folder`.

    The same seed gives the same weights. Under a second once torch and transformers are imported.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer().save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(SPECIAL) + 256,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.2,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=EOS_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    _speak_ascii(model)
    model.generation_config = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=0)
    model.save_pretrained(folder)
    return folder


def _tokenizer():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=WINDOW,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _speak_ascii(model) -> None:
    # Hidden channel 0 is a constant that nothing writes to, so the head can favour letters by it.
    import torch

    printable = [len(SPECIAL) + i for i, c in enumerate(_alphabet()) if " " < c <= "~" or c == "Ġ"]
    with torch.no_grad():
        weights = model.model
        weights.embed_tokens.weight[0].normal_(std=0.2)  # a zero pad row makes gradients overflow
        weights.embed_tokens.weight[:, 0] = 1.0
        for layer in weights.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = -30.0
        model.lm_head.weight[printable, 0] = 0.0
        model.lm_head.weight[EOS_ID] *= 0.0


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
