"""`python app.py lineage MODEL`: the way from a model back to the votes, in a terminal."""

from collections.abc import Sequence

from alignment.pipeline import Pipeline
from alignment.publishing.trace import Link, trace_model
from alignment.settings import AlignmentSettings
from annotation.home import Home
from annotation.journal.journal import JournalReader


def load_trace(
    home: Home, settings: AlignmentSettings, pipeline: Pipeline, journal: JournalReader, model: str
) -> tuple[Link, ...]:
    """The chain of `model`, by the name of one that is here. Raises Fault."""
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    ref = pipeline.registry.get(model, pull=False).ref
    return trace_model(ref, pipeline.registry, home.root, journal, token=token)


def to_text(links: Sequence[Link]) -> str:
    """A line for each thing, each ending with the hash of the next."""
    lines = []
    for link in links:
        source = f"  made from {link.made_from[:12]}" if link.made_from else ""
        lines.append(f"{link.kind:<16}{link.hash[:12]}  {link.name}, {link.where}{source}")
    return "\n".join(lines)
