"""What a home knows of a finished run's model: read from votes, samples and bake-offs.

Owns which models it is measured against: the base, the policy that it met, and whatever else it was
compared with. The figures are alignment.hub.evidence's.
"""

from collections.abc import Sequence

from alignment.bakeoff.store import Bakeoff
from alignment.contest.contest import Field, load_comparisons, look_at_field
from alignment.contest.promotions import Promotion
from alignment.hub.evidence import Evidence, correctness_of, judge_duels, lengths_of
from alignment.registry import Registry
from alignment.runs.runs import Run
from annotation.journal.journal import JournalReader
from annotation.schema import ModelRef


def load_evidence(
    run: Run, registry: Registry, journal: JournalReader, bakeoffs: Sequence[Bakeoff]
) -> Evidence:
    """The evidence on `run`'s model; without duels where the run has left none here."""
    model = next((m.ref for m in registry.models() if m.name == run.id), None)
    lengths = lengths_of(run.folder.samples())
    correctness = correctness_of(run.id, bakeoffs)
    if model is None:
        return Evidence((), lengths, correctness)
    comparisons = load_comparisons(journal)
    field = look_at_field(registry, journal)
    met = _policy_met(model, field, registry.promotions.history())
    names = {field.base: "the base"}
    if met is not None and met not in (field.base, model):
        names[met] = f"the policy, `{met.label}`"
    for comparison in comparisons:
        sides = (comparison.first, comparison.second)
        if model in sides:
            (other,) = (side for side in sides if side != model)
            names.setdefault(other, f"`{other.label}`")
    opponents = [(name, other, field.is_open(model, other)) for other, name in names.items()]
    return Evidence(judge_duels(comparisons, model, opponents), lengths, correctness)


def _policy_met(model: ModelRef, field: Field, promotions: Sequence[Promotion]) -> ModelRef | None:
    """The policy that `model` had to beat: the one before its promotion, else today's."""
    before: ModelRef | None = field.base
    for promotion in promotions:
        if promotion.model == model:
            return before
        before = promotion.model
    return field.policy
