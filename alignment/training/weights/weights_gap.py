"""The comparing child: `python -m alignment.training.weights.weights_gap BASE ONE OTHER`

Says how far two models are apart that should be the same.

Owns what is compared: every weight, and the next-token logits on the same tokens. Computes in
float32 on the CPU, reaches no network and prints one line of JSON.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignment.hub.tuned import tuned_weight_files, tuning_of
from alignment.publishing.weights_gap import Gap
from alignment.sampling.loading import load_adapter, load_errors, load_model
from annotation.prompts import one_line

ROWS, LENGTH = 8, 24


def measure(base_path: Path, one: Path, other: Path) -> Gap:
    """How far `one` and `other`, two adapters or two whole models, are apart.

    Raises one of `load_errors()` where they can't be compared.
    """
    import torch

    weights, others = _weights(one), _weights(other)
    if weights.keys() != others.keys():
        raise ValueError("they do not have the same weights")
    gaps = {
        name: float((weights[name].double() - others[name].double()).abs().max())
        for name in weights
    }
    largest = max(gaps, key=lambda name: gaps[name])
    logits, other_logits = _logits(base_path, one), _logits(base_path, other)
    same = logits.argmax(-1) == other_logits.argmax(-1)
    return Gap(
        weight=gaps[largest],
        weight_name=largest,
        logit=float((logits - other_logits).abs().max()),
        same_next_token=float(same.to(torch.float64).mean()),
        positions=same.numel(),
    )


def _weights(folder: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    return {k: v for file in tuned_weight_files(folder) for k, v in load_file(file).items()}


def _logits(base_path: Path, weights: Path) -> Any:
    """Logits at each position of ROWS rows of tokens, the same for every model of a vocabulary."""
    import torch

    whole = tuning_of(weights) == "full"
    loaded = load_model(weights if whole else base_path, device="cpu", dtype="float32")
    if not whole:
        load_adapter(loaded, "compared", weights)
        loaded.model.set_adapter("compared")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(loaded.tokenizer), (ROWS, LENGTH), generator=generator)
    with torch.no_grad():
        return loaded.model(input_ids=rows).logits.float()


def main(arguments: Sequence[str]) -> int:
    """Exit status 1, with one line on standard error, where it can't be done."""
    base_path, one, other = map(Path, arguments)
    try:
        print(json.dumps(asdict(measure(base_path, one, other))))  # noqa: T201
    except load_errors() as error:
        print(one_line(error), file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
