"""What is wrong with the data before a run, down to the tokens, and what to ask of the run.

Owns which checks are made and what follows from them. Imports nothing heavy; only
`diagnose` with tokens loads a tokenizer, which a command may and the web app must not.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alignment.base import ResolvedBase
from alignment.checks.base_checks import check_base
from alignment.checks.diagnosis import LEVELS, Diagnosis, ExampleTokens, Finding
from alignment.checks.examples import check_examples
from alignment.checks.material import Material
from alignment.checks.votes import NOISY, MeasuredFlips, check_votes, measure_flips
from alignment.runs.memory import load_shape
from alignment.runs.plan import MAX_FLIP_RATE
from alignment.runs.recipes import Method, TrainingOptions, count_parameters, default_recipe

__all__ = ["Diagnosis", "Finding", "Material", "diagnose", "examine"]

LENGTH_GUARD_NATS = 1.0
"""What an average difference in length is made to weigh in DPO's logit by the length guard."""


def examine(material: Material, base: Path) -> list[Finding]:
    """Every finding that needs no tokenizer, the worst first; the base lies in folder `base`."""
    faults = _base_findings(base)
    return _worst_first([*faults, *check_examples(material), *check_votes(material)])


def diagnose(
    material: Material, base: ResolvedBase, *, method: Method = "dpo", tokens: bool = True
) -> Diagnosis:
    """Everything that can be said before a run of `method` on `base`.

    With `tokens` the base's tokenizer is loaded, some seconds, and the examples are seen as the
    model will see them, at the maximum length that a run would take.
    """
    findings = examine(material, base.path)
    max_length: int | None = None
    shown: tuple[ExampleTokens, ...] = ()
    length_gap: float | None = None
    if tokens and material.examples:
        from alignment.checks.tokens import check_tokens

        recipe = default_recipe(method, count_parameters(base.path))
        max_length = min(recipe.max_length, load_shape(base.path).window)
        report = check_tokens(material.examples, base.path, method=method, max_length=max_length)
        # The same question in tokens, which is what a model counts in, has the better answer.
        asked_again = {finding.kind for finding in report.findings}
        findings = [f for f in findings if f.kind not in asked_again]
        findings, shown = _worst_first([*findings, *report.findings]), report.shown
        length_gap = report.length_gap
    advised, reasons = advise(findings, measure_flips(material), method, length_gap)
    return Diagnosis(
        base=base.ref.label,
        dataset_sha256=material.prepared.sha256,
        examples=len(material.examples),
        findings=tuple(findings),
        advised=advised,
        reasons=tuple(reasons),
        max_length=max_length,
        tokens=shown,
    )


def advise(
    findings: Sequence[Finding],
    flips: MeasuredFlips | None,
    method: Method,
    length_gap: float | None,
) -> tuple[TrainingOptions, list[str]]:
    """What the doctor would ask of a run of `method`, and why; the presets decide the rest.

    `length_gap` is the mean difference of lengths in tokens. The guard is advised against answers
    that shrink, which cost the starter correctness, and not against a taste for longer ones.
    """
    options = TrainingOptions(method)
    reasons: list[str] = []
    if flips and method == "dpo" and NOISY <= flips.of_examples <= MAX_FLIP_RATE:
        options = replace(options, loss="robust", flip_rate=round(flips.of_examples, 3))
        reasons.append(
            f"The robust loss, because {100 * flips.of_examples:.0f} % of examples are thought to "
            "have their sides swapped: it corrects for that."
        )
    shrinks = any(f.kind == "length" and f.level == "warning" and _below(f) for f in findings)
    if shrinks and method == "dpo" and length_gap:
        options = replace(options, length_penalty=-round(LENGTH_GUARD_NATS / length_gap, 4))
        reasons.append(
            "The length guard, because chosen answers are the shorter ones: it keeps answers from "
            "shrinking more than voters asked for."
        )
    if any(f.level == "blocking" for f in findings):
        reasons.append("Not now: the blocking findings come first.")
    elif not reasons:
        reasons.append(f"{method.upper()} with its presets: nothing here asks for more.")
    return options, reasons


def _base_findings(base: Path) -> list[Finding]:
    return [
        Finding(
            problem.name.replace(" ", "_"),
            "blocking" if problem.blocking else "note",
            problem.title,
            problem.meaning,
            problem.advice if problem.blocking else "",
        )
        for problem in check_base(base)
    ]


def _below(finding: Finding) -> bool:
    return finding.value is not None and finding.value < 0.5


def _worst_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: -LEVELS.index(finding.level))
