"""The card of published weights, and the lineage that it tells. Pure: facts in, text out.

Says what is known and no more: counts, settings, where the votes came from, and what was not
measured. Never a person's name, a folder of this machine, or a token.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from alignment.hub.evidence import Evidence, describe_evidence
from alignment.runs.recipes import Loss, Method, Reference, Tuning
from annotation.export.card import describe_alpha
from annotation.quality.votes_measured import Figure

BASE_FOLDER = "base"
"""Where a repository keeps the base's own files when the base is not on the Hub."""
CURVES = "training_curves.png"


class BaseKind(StrEnum):
    """Where a stranger finds the base: on the Hub, in the repository itself, or nowhere public."""

    HUB = "hub"
    STARTER = "starter"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What tuned weights were made from. `base` is a Hub id, "starter" or a folder's last name.

    `loss` is DPO's, None for another method; `flip_rate` is what the robust loss was told.
    `settings` and `versions` are names with values, in the order to show. `final` are the run's
    last figures. `license` is that of the base, None where it is unknown.

    Each thing names the one that it was made from by hash: the weights (`weights_sha256`) the run's
    spec, the `spec` (`spec_sha256`) the dataset, the dataset (`dataset_sha256`) its votes
    (`votes_sha256`, None in a run from before those were kept). `dataset_repo` and
    `dataset_commit` are None where the dataset is not on the Hub. `adapter_sha256` is that of the
    adapter in a whole model that it was merged into. `agreement` is Krippendorff's α.
    `started_from` names the tuned model whose weights the run went on from, with the hash or the
    commit of these, None for the base; `reference` is DPO's.
    """

    run: str
    method: Method
    loss: Loss | None
    flip_rate: float | None
    tuning: Tuning
    base: str
    base_revision: str
    base_kind: BaseKind
    dataset_sha256: str
    votes: int
    voters: int
    synthetic_votes: int
    examples: int
    settings: tuple[tuple[str, str], ...]
    final: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    code_revision: str | None
    weights_sha256: str
    license: str | None
    votes_sha256: str | None
    dataset_repo: str | None
    dataset_commit: str | None
    agreement: Figure | None
    spec: Mapping[str, object]
    spec_sha256: str
    adapter_sha256: str | None = None
    started_from: str | None = None
    started_from_revision: str | None = None
    reference: Reference | None = None

    @property
    def tag(self) -> str:
        return f"run-{self.run}"

    @property
    def is_whole(self) -> bool:
        """Whether the weights are those of a whole model, which needs no base beside it."""
        return self.tuning == "full" or self.is_merged

    @property
    def is_merged(self) -> bool:
        """Whether they are the base's with an adapter added to them."""
        return self.adapter_sha256 is not None

    def to_json(self) -> str:
        """The content of votetune.json; the same run gives the same bytes."""
        row = asdict(self)
        for key in ("settings", "final", "versions"):
            row[key] = dict(row[key])
        kind = "votetune model" if self.is_whole else "votetune adapter"
        return json.dumps({"kind": kind, "schema_version": 3} | row, indent=2) + "\n"


def build_card(
    lineage: Lineage, repo: str, evidence: Evidence | None = None, *, has_curves: bool = False
) -> str:
    """README.md for `repo` (owner/name): metadata that the Hub understands, then plain words.

    With `has_curves` the picture CURVES lies beside it.
    """
    title = repo.rsplit("/", maxsplit=1)[-1]
    parts = [
        _metadata(lineage),
        f"# {title}",
        _warning(lineage),
        _summary(lineage),
        _loading(lineage, repo),
        describe_evidence(evidence or Evidence()),
        _curves() if has_curves else "",
        _settings(lineage),
        _limits(lineage),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(lineage: Lineage) -> str:
    # A LoRA adapter merged into its one base is a fine-tune to the Hub: its "merge" is of models.
    relation, library = ("finetune", "transformers") if lineage.is_whole else ("adapter", "peft")
    lines = []
    if lineage.base_kind is BaseKind.HUB:
        lines += [f"base_model: {lineage.base}", f"base_model_relation: {relation}"]
    lines += [f"library_name: {library}", "pipeline_tag: text-generation"]
    if lineage.license:
        lines.append(f"license: {json.dumps(lineage.license)}")
    if lineage.dataset_repo:
        lines += ["datasets:", f"- {lineage.dataset_repo}"]
    kind = ("merged",) if lineage.is_merged else () if lineage.is_whole else ("lora",)
    synthetic = ("synthetic",) if lineage.synthetic_votes else ()
    tags = ("votetune", "trl", lineage.method, *kind, *synthetic)
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _curves() -> str:
    return (
        "## Training\n"
        f"![Loss, reward accuracy and reward margin by step, training and held out]({CURVES})\n\n"
        "Reward accuracy is the share of pairs whose chosen answer has the higher reward; believe "
        "the held-out ones. None of these is a win rate."
    )


def _warning(lineage: Lineage) -> str:
    if not lineage.synthetic_votes:
        return ""
    return (
        f"**{lineage.synthetic_votes} of {lineage.votes} votes are synthetic**: scripted voters "
        "cast them, not people. This model shows that the loop works and says nothing about "
        "what people prefer."
    )


def _summary(lineage: Lineage) -> str:
    what = "The whole model, fine-tuned" if lineage.is_whole else "A LoRA adapter trained"
    if lineage.is_merged:
        what = "The whole model: its base with a LoRA adapter merged into it, trained"
    lines = [
        f"Base: {_base(lineage)}, revision `{lineage.base_revision}`",
        *_start(lineage),
        f"Dataset: {_dataset(lineage)}",
        f"Agreement of the votes, Krippendorff's α (1 full, 0 chance): "
        f"{describe_alpha(lineage.agreement)}",
        f"Run: `{lineage.run}`, tagged `{lineage.tag}`; everything it pins is in `votetune.json`",
    ]
    return (
        f"{what} with {_training(lineage)} on votes collected with Votetune: "
        f"{lineage.examples} preference examples out of {lineage.votes} votes by "
        f"{_voters(lineage)}, each on a blind pair of answers.\n\n"
        + "\n".join(f"- {line}" for line in lines)
    )


def _dataset(lineage: Lineage) -> str:
    sha = f"sha256 of `train.jsonl` `{lineage.dataset_sha256}`"
    if lineage.dataset_repo is None:
        return f"not published; {sha}"
    where = f"https://huggingface.co/datasets/{lineage.dataset_repo}/tree/{lineage.dataset_commit}"
    return f"[{lineage.dataset_repo}]({where}) at `{lineage.dataset_commit}`; {sha}"


def _start(lineage: Lineage) -> list[str]:
    if lineage.started_from is None:
        return []
    held = {
        "start": "; what DPO kept it close to was that model (its reference)",
        "base": "; what DPO kept it close to was the base (its reference)",
    }
    reference = held[lineage.reference] if lineage.reference else ""
    return [
        f"Started from: `{lineage.started_from}`, an earlier model on this base, its weights' "
        f"hash `{lineage.started_from_revision}`{reference}"
    ]


def _voters(lineage: Lineage) -> str:
    return "1 voter" if lineage.voters == 1 else f"{lineage.voters} voters"


def _training(lineage: Lineage) -> str:
    if lineage.method == "sft":
        return "SFT (plain fine-tuning on the chosen answers)"
    if lineage.loss is None:
        return lineage.method.upper()
    flips = ""
    if lineage.flip_rate is not None:
        flips = f", told that {lineage.flip_rate:.1%} of the examples have their sides swapped"
        if "sift" in dict(lineage.settings):
            flips += "; those that a first pass ranked against their vote were left out"
    return f"{lineage.method.upper()} (`{lineage.loss}` loss{flips})"


def _base(lineage: Lineage) -> str:
    if lineage.base_kind is BaseKind.HUB:
        return f"[{lineage.base}](https://huggingface.co/{lineage.base})"
    if lineage.base_kind is BaseKind.STARTER:
        where = "" if lineage.is_whole else f": its files are in `{BASE_FOLDER}/` here"
        return f"the starter model that ships with Votetune (not a model of the Hub{where})"
    without = "" if lineage.is_whole else ": without it this adapter can't be loaded"
    return (
        f"`{lineage.base}`, a folder on the machine that trained it "
        f"(not a model of the Hub{without})"
    )


def _loading(lineage: Lineage, repo: str) -> str:
    if lineage.is_whole:
        where = f'"{repo}", revision="{lineage.tag}"'
        code = f"""\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({where})
model = AutoModelForCausalLM.from_pretrained({where})"""
    else:
        code = _adapter_code(lineage, repo)
    return (
        f"## Loading\n```python\n{code}\n```\n"
        f"In Votetune on the same base: `python app.py pull {repo}@{lineage.tag}`, then "
        f"`python app.py sample --model {repo}@{lineage.tag} …`."
    )


def _adapter_code(lineage: Lineage, repo: str) -> str:
    if lineage.base_kind is BaseKind.STARTER:
        # By folder: beside an adapter, from_pretrained takes its named base and never this one.
        where, adapter = f'f"{{folder}}/{BASE_FOLDER}"', "folder"
        first = f'folder = snapshot_download("{repo}", revision="{lineage.tag}")\n'
        imports = "from huggingface_hub import snapshot_download\n"
    else:
        where = f'"{lineage.base}", revision="{lineage.base_revision}"'
        if lineage.base_kind is BaseKind.FOLDER:
            where = f'"path/to/{lineage.base}"'
        adapter, first, imports = f'"{repo}", revision="{lineage.tag}"', "", ""
    return f"""\
{imports}from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

{first}tokenizer = AutoTokenizer.from_pretrained({where})
base = AutoModelForCausalLM.from_pretrained({where})
model = PeftModel.from_pretrained(base, {adapter})"""


def _settings(lineage: Lineage) -> str:
    rows = [*lineage.settings, *((f"final {name}", value) for name, value in lineage.final)]
    rows += [("code", lineage.code_revision or "unknown"), *lineage.versions]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## Settings\n| setting | value |\n|---|---|\n{table}"


def _limits(lineage: Lineage) -> str:
    what, bound = "adapter", " It loads only on the base revision that it names."
    if lineage.is_whole:
        what, bound = "model", ""
    few = lineage.examples < 500
    size = f" {lineage.examples} examples are few: expect style to move more than content." * few
    return (
        "## Limits\n"
        f"The {what} follows the taste of {_voters(lineage)} on the prompts voted on, "
        "and inherits what its base knows, gets wrong and must not be used for. Rewards and "
        f"margins above are training figures; they are no win rate.{bound}{size}\n\n"
        "A voter may delete their votes at any time; what was trained on them and published "
        "before that can't be called back."
    )
