"""Completions of one model in a file: what `sample` writes. Registers and trains nothing."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from alignment.base import resolve_base
from alignment.commands.progress import progress_bars
from alignment.generation import LocalGenerator
from alignment.pipeline import count_votes, default_sampling
from alignment.registry import Registry
from alignment.sampling.remote import RemoteGenerator, remote_settings
from alignment.settings import AlignmentSettings
from annotation.faults import Fault
from annotation.home import Home
from annotation.schema import Prompt

BATCH = 16


class SampleError(Fault):
    """Completions that can't be written; the message is the one line that a person reads."""


def sample_to_file(
    home: Home,
    settings: AlignmentSettings,
    model: str,
    prompts: Sequence[Prompt],
    out: Path,
    *,
    per_prompt: int,
    temperature: float,
    seed: int,
) -> int:
    """Write `per_prompt` completions of each prompt to `out`, in the order of the prompts.

    One line each: {"prompt", "completion"}; the prompt is a string, or a list of messages where
    there are several. Batch i is drawn with seed + i. Written beside `out` and renamed, so that a
    failure leaves an earlier file alone. Returns how many; raises Fault.
    """
    if not out.absolute().parent.is_dir():
        raise SampleError(f"{out} can't be written: its folder does not exist.")
    base = resolve_base(settings, home.root, has_votes=count_votes(home) > 0)
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    registry = Registry(home.root, base, token=token)
    wanted = registry.get(model)
    remote = remote_settings(settings, base.ref)
    generator = (
        RemoteGenerator(base.ref, remote)
        if remote
        else LocalGenerator(base, weights_path=registry.weights_path)
    )
    sampling = replace(default_sampling(base), temperature=temperature)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    count = 0
    try:
        with progress_bars() as bars, draft.open("w", encoding="utf-8") as lines:
            bar = bars.add_task(f"sampling {wanted.name}", total=len(prompts))
            for index, start in enumerate(range(0, len(prompts), BATCH)):
                some = prompts[start : start + BATCH]
                drawn = generator.sample(
                    some,
                    model=wanted.ref,
                    sampling=replace(sampling, seed=seed + index),
                    per_prompt=per_prompt,
                )
                for prompt, completions in zip(some, drawn, strict=True):
                    for completion in completions:
                        row = {"prompt": _plain(prompt), "completion": completion.text}
                        lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                        count += 1
                bars.advance(bar, len(some))
        draft.replace(out)
    except OSError as error:
        raise SampleError(f"{out} can't be written ({error.strerror}): free some space.") from None
    finally:
        draft.unlink(missing_ok=True)
    return count


def _plain(prompt: Prompt) -> str | list[dict[str, str]]:
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return [asdict(message) for message in prompt.messages]
