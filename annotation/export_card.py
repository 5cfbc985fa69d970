"""What a stranger reads of a preference dataset: counts, how they came about, the licence. Pure."""

from dataclasses import dataclass


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


def export_card(counts: ExportCounts, sha256: str, licences: tuple[str, ...]) -> str:
    """The README.md of a dataset whose train.jsonl has `sha256`."""
    title = "Preferences collected with Votetune"
    warning = ""
    if counts.synthetic_votes:
        title = "Synthetic preferences made with Votetune"
        warning = (
            f"**{counts.synthetic_votes} of {counts.votes} votes are synthetic**: scripted voters "
            "cast them, not people. They show that the loop works and say nothing about what "
            "people prefer.\n\n"
        )
    tags = "\n".join(f"- {t}" for t in ("preference", "dpo", *(("synthetic",) if warning else ())))
    return _CARD.format(
        title=title,
        warning=warning,
        tags=tags,
        sha=sha256,
        c=counts,
        # The Hub's ids are in lower case; one field has room for one.
        licence_id=licences[0].lower() if len(licences) == 1 else "other",
        licences=" and ".join(licences),
        told="" if len(licences) == 1 else ": by the time of the vote, in this order",
    )


_CARD = """\
---
license: {licence_id}
tags:
{tags}
configs:
- config_name: default
  data_files:
  - split: train
    path: train.jsonl
---
# {title}

{warning}{c.examples} preferences out of {c.votes} votes by {c.voters} voters on {c.pairs_voted} \
pairs of generations.
sha256 of `train.jsonl`: `{sha}`.

## How the votes were collected
A voter saw a prompt and two answers without knowing which model wrote which; the sides were drawn
per voter, and models were revealed only after the vote was saved. A pair becomes a preference when
more than half of its counted votes prefer the same answer. Left out: {c.ties} pairs that ended in \
a tie, {c.both_bad} where both answers were bad, {c.conflicts} without a majority, and \
{c.eval_left_out} whose prompt is kept for evaluation (a fifth of all prompts, by hash). Votes \
that were undone, skipped or not counted are not in it, nor are questions with a known answer and \
pairs shown twice, which only check the votes. A prompt that a voter asked is treated as any other.
A voter may delete their votes at any time; a copy of this dataset
made before that can't be called back.

## Schema
| column | meaning |
|---|---|
| `prompt` | messages, `role` and `content`, ending with the user's turn |
| `chosen`, `rejected` | one assistant message each |
| `pair_id` | the pair in the journal and in Argilla |
| `votes` | counted votes on the pair |
| `agreement` | share of the decided votes that agree with the majority |
| `chosen_model`, `rejected_model` | base and adapter with their revisions |
| `chosen_finish`, `rejected_finish` | `stop`, or `length`: cut at the token limit |

The format is TRL's conversational preference format with an explicit prompt.

## Licence
{licences} for the votes and their arrangement{told}. The answers come from the models \
named in each row, whose own terms apply to them.
"""
