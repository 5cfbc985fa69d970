"""Under autocast an adapted layer casts its input once, and computes the same bits."""

import torch

from alignment.training.hardware import cast_inputs_once


def adapted() -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.SiLU(), torch.nn.Linear(32, 8))
    config = LoraConfig(r=4, lora_dropout=0.0, target_modules=["0", "2"], init_lora_weights=False)
    wrapped: torch.nn.Module = get_peft_model(model, config)
    return wrapped


def test_the_output_under_autocast_is_the_same_to_the_bit_and_so_are_other_calls() -> None:
    plain, once = adapted(), adapted()
    cast_inputs_once(once)
    cast_inputs_once(once)
    layers = [layer for layer in once.modules() if hasattr(layer, "cast_input_dtype_enabled")]
    assert [len(layer._forward_pre_hooks) for layer in layers] == [1, 1]
    inputs = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain(inputs), once(inputs))
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = plain(inputs), once(inputs)
    assert torch.equal(theirs, ours)
    for found in (theirs, ours):
        found.float().sum().backward()
    grads = dict(once.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, grads[name].grad, rtol=0.02, atol=0.02), name
