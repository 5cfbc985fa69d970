"""`python app.py sample` writes what the model that was named says, whatever its weights are."""

import json
from dataclasses import replace
from pathlib import Path

from small_files import write_run
from tiny import make_tiny_model

from alignment.base import ResolvedBase, resolve_base
from alignment.commands.sample import sample_to_file
from alignment.generation import LocalGenerator
from alignment.pipeline import default_sampling
from alignment.settings import AlignmentSettings
from annotation.home import Home
from annotation.schema import Prompt

PROMPTS = [Prompt.from_text(text) for text in ("Hi", "Why is the sky blue?")]


def test_a_run_tuned_in_full_is_sampled_by_its_id(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "base")
    settings = AlignmentSettings(_env_file=None, base_model=str(folder))
    home = Home(tmp_path / "home")
    base = resolve_base(settings, home.root, has_votes=False)
    tuned = make_tiny_model(tmp_path / "tuned", seed=9)
    write_run(home.root, "dpo-full", base.ref, model=tuned)
    out = tmp_path / "out.jsonl"
    for name, weights in (("dpo-full", tuned), ("base", folder)):
        assert (
            sample_to_file(
                home, settings, name, PROMPTS, out, per_prompt=2, temperature=1.0, seed=3
            )
            == len(PROMPTS) * 2
        )
        alone = LocalGenerator(ResolvedBase(base.ref, weights, False, None), weights_path={}.get)
        drawn = alone.sample(
            PROMPTS, model=base.ref, sampling=replace(default_sampling(base), seed=3), per_prompt=2
        )
        assert [json.loads(line) for line in out.read_text().splitlines()] == [
            {"prompt": prompt.messages[0].content, "completion": completion.text}
            for prompt, some in zip(PROMPTS, drawn, strict=True)
            for completion in some
        ]
