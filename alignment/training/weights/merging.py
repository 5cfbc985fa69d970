"""The merging child: `python -m alignment.training.weights.merging BASE ADAPTER OUT`

Adds an adapter's weights to its base's.

Owns that what comes out is a whole model in the base's dtype, with the base's own configuration,
tokenizer and template. Computes in float32 on the CPU and reaches no network.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from alignment.sampling.loading import load_adapter, load_errors, load_model
from alignment.training.weights.weights import save_model
from annotation.prompts import one_line


def merge(base_path: Path, adapter: Path, directory: Path) -> None:
    """Write base plus adapter to `directory`. Raises one of `load_errors()`, or OSError."""
    loaded = load_model(base_path, device="cpu", dtype="float32")
    load_adapter(loaded, "merged", adapter)
    # Safe: an adapter that overflows must not become a model of nans.
    model = loaded.model.merge_and_unload(safe_merge=True, adapter_names=["merged"])
    save_model(model, base_path, directory)


def main(arguments: Sequence[str]) -> int:
    """Exit status 1, with one line on standard error, where it can't be done."""
    base_path, adapter, directory = map(Path, arguments)
    try:
        merge(base_path, adapter, directory)
    except load_errors() as error:
        print(one_line(error), file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
