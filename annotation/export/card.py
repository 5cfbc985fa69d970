"""What a stranger reads of a preference dataset: counts, how they came about, how far the votes
agree and lean, what voters were told, the licence. Pure.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from annotation.quality.votes_measured import Figure, VotesMeasured
from annotation.schema import ChosenBy

_HOW_CHOSEN: Mapping[ChosenBy, str] = {
    "random": "the first two different ones",
    "edit_distance": "of up to four the two farthest apart in words",
}


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What became of the votes.

    `votes` counts live votes (no skips, nothing undone, nothing uncounted), `synthetic_votes`
    those of scripted voters among them. Every voted pair falls into exactly one of `examples`,
    `ties`, `both_bad`, `conflicts` (no majority) and `eval_left_out` (its prompt is kept for
    evaluation), so these five add up to `pairs_voted`.
    """

    votes: int
    voters: int
    synthetic_votes: int
    pairs_voted: int
    examples: int
    ties: int
    both_bad: int
    conflicts: int
    eval_left_out: int


def export_card(
    counts: ExportCounts,
    sha256: str,
    licences: tuple[str, ...],
    *,
    measured: VotesMeasured,
    votes_sha256: str,
    chosen_by: Mapping[ChosenBy, int],
) -> str:
    """The README.md of a dataset whose train.jsonl has `sha256`, from votes with `votes_sha256`."""
    title = "Preferences collected with Votetune"
    warning = ""
    if counts.synthetic_votes:
        title = "Synthetic preferences made with Votetune"
        warning = (
            f"**{counts.synthetic_votes} of {counts.votes} votes are synthetic**: scripted voters "
            "cast them, not people. They show that the loop works and say nothing about what "
            "people prefer.\n\n"
        )
    tags = ("preference", "dpo", *(("synthetic",) if warning else ()))
    return _CARD.format(
        title=title,
        warning=warning,
        size=_size_category(counts.examples),
        tags="\n".join(f"- {tag}" for tag in tags),
        sha=sha256,
        votes_sha=votes_sha256,
        c=counts,
        voters="1 voter" if counts.voters == 1 else f"{counts.voters} voters",
        twice=measured.pairs_judged_twice,
        measured="\n".join(f"- {line}" for line in _measured_lines(measured)),
        # The Hub's ids are in lower case; one field has room for one.
        licence_id=licences[0].lower() if len(licences) == 1 else "other",
        licences=" and ".join(licences),
        chosen="; ".join(_chosen_lines(chosen_by)) or "none yet",
        told="" if len(licences) == 1 else ": by the time of the vote, in this order",
    )


def _chosen_lines(chosen_by: Mapping[ChosenBy, int]) -> Iterator[str]:
    for by, how in _HOW_CHOSEN.items():
        if count := chosen_by.get(by):
            yield f"{how} ({count} pair{'' if count == 1 else 's'})"


def describe_alpha(alpha: Figure | None) -> str:
    """Krippendorff's α with its interval, or why there is none."""
    if alpha is None:
        return "not known: no pair was judged by two voters in a way that could differ"
    pairs = f"{alpha.count} pair{'' if alpha.count == 1 else 's'} that several voters judged"
    if alpha.low is None or alpha.high is None:
        return f"{alpha.value:.2f} on {pairs}; no two of these votes differ, so it has no interval"
    return f"{alpha.value:.2f} (95 % {alpha.low:.2f} to {alpha.high:.2f}) on {pairs}"


def _measured_lines(measured: VotesMeasured) -> Iterator[str]:
    yield f"Agreement, Krippendorff's α (1 full, 0 chance): {describe_alpha(measured.alpha)}."
    shares = (
        ("Votes for the answer shown first", measured.side_a, "decided votes"),
        ("Votes for the longer answer", measured.longer, "decided votes on answers of two lengths"),
        (
            "Chance that a decided vote names the worse side",
            measured.flip_rate,
            "pairs with two decided votes or more",
        ),
    )
    for name, figure, of in shares:
        if figure is None or figure.low is None or figure.high is None:
            yield f"{name}: not known, for there are no {of}."
        else:
            interval = f"95 % {figure.low:.1%} to {figure.high:.1%}"
            yield f"{name}: {figure.value:.1%} ({interval}) over {figure.count} {of}."


def _size_category(examples: int) -> str:
    """The Hub's name for it, a power of ten wide."""
    bounds = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
    for power, (least, most) in enumerate(itertools.pairwise(("", *bounds)), start=3):
        if examples < 10**power:
            return f"{least}<n<{most}" if least else f"n<{most}"
    return "1B<n<10B"


_CARD = """\
---
license: {licence_id}
pretty_name: {title}
task_categories:
- text-generation
size_categories:
- {size}
tags:
{tags}
configs:
- config_name: default
  data_files:
  - split: train
    path: train.jsonl
---
# {title}

{warning}{c.examples} preferences out of {c.votes} votes by {voters} on {c.pairs_voted} \
pairs of generations.

- sha256 of `train.jsonl`: `{sha}`
- sha256 of the votes that it was made from: `{votes_sha}`; `dataset.json` says how it is made

## How the votes were collected
Which answers to a prompt were shown: {chosen}.

A voter saw a prompt and two answers without knowing which model wrote which; the sides were drawn
per voter, and models were revealed only after the vote was saved. A vote was for one answer, a tie
or "both are bad"; {twice} of the {c.pairs_voted} pairs were judged by two voters or more. A pair
becomes a preference when more than half of its counted votes prefer the same answer. Left out: \
{c.ties} pairs that ended in a tie, {c.both_bad} where both answers were bad, {c.conflicts} \
without a majority, and {c.eval_left_out} whose prompt is kept for evaluation. Votes that were \
undone, skipped or not counted are not in it, nor are questions with a known answer and pairs \
shown twice, which only check the votes. A prompt that a voter asked is treated as any other.

## How far the votes can be trusted
{measured}

These voters are no sample of anybody but themselves. What leans above is in the preferences too:
a model trained on votes that went to the longer answer learns length.

## Schema
| column | type | meaning |
|---|---|---|
| `prompt` | list of `role`, `content` | the messages, ending with the user's turn |
| `chosen`, `rejected` | list of `role`, `content` | one assistant message each |
| `pair_id` | string | the pair in the journal and in Argilla |
| `votes` | integer | counted votes on the pair |
| `agreement` | number, 0.5 to 1 | share of the decided votes that agree with the majority |
| `chosen_model`, `rejected_model` | `base`, `base_revision`, `adapter`, `adapter_revision` | \
which model wrote the answer, at which commit or sha256; no adapter is the base itself |
| `chosen_finish`, `rejected_finish` | string | `stop`, or `length`: cut at the token limit |

The format is TRL's conversational preference format with an explicit prompt.

## Splits
Only `train`. A fifth of all prompts, by hash, is kept for comparing models blind; votes on those
are never exported, so that no model is trained on its own exam.

## Consent and licence
Voters read beside the vote buttons that votes and comments are stored and may be published as
open data under the licence below. No voter is named here and no comment is in it. A voter may
delete their votes at any time; a copy of this dataset
made before that can't be called back.

{licences} for the votes and their arrangement{told}. The answers come from the models \
named in each row, whose own terms apply to them.
"""
