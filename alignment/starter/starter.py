"""The starter model: a tiny chat model made from nothing, shipped with the recipe that made it.

Owns the shipped weights' folder and `python -m alignment.starter OUT`, which remakes them from
alignment.starter.text alone. Every prompt is in the training text, so what the model gets right
is memory, not knowledge, and an eval prompt's fact is asked in other words among the train
prompts. Report prompts are no part of what is voted on, their facts neither: win rates to believe
are measured there. The starter's use is that samples mix four styles, so that votes have something
to decide where no hub can be reached. torch and transformers are imported by the recipe only.
"""

import argparse
import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alignment.starter import text as starter_text
from annotation.schema import Prompt

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

STARTER_DIR = Path(__file__).with_name("weights")

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

# `<|` opens every special token, so a space inside it keeps what people write plain text. No
# newline follows the end mark: it alone ends a completion, and trainers add no second one.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{{ message['content'] | replace('<|', '< |') + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

MAX_POSITIONS = 512


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the weights; as it stands, about 130 CPU-seconds on one thread.

    Learning rates fall to nearly zero in a straight line. The same recipe, thread count and
    library versions gave the same bytes twice.

    `loss_scale` is the constant that a batch's summed token losses are divided by: a mean over
    each length-sorted batch would starve the long polite answers.
    """

    steps: int = 1750
    seed: int = 0
    batch_size: int = 24
    vocabulary: int = 1536
    hidden: int = 144
    layers: int = 3
    heads: int = 3
    key_value_heads: int = 1
    intermediate: int = 384
    muon_lr: float = 0.01
    adamw_lr: float = 0.008
    weight_decay: float = 0.05
    loss_scale: float = 16.0


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question with one of its answers, as token ids; only `answer` is learned."""

    question: tuple[int, ...]
    answer: tuple[int, ...]


def starter_prompts() -> list[Prompt]:
    """The questions to vote on, compare on and tune by, in a fixed order, train and eval split."""
    return [Prompt.from_text(q.text) for q in starter_text.questions() if not q.reported]


def report_prompts() -> list[Prompt]:
    """The questions that win rates are reported on, in a fixed order, whatever their split.

    The starter learned them too; nobody votes, tunes or settles a rule by them.
    """
    return [Prompt.from_text(q.text) for q in starter_text.questions() if q.reported]


def starter_revision(directory: Path = STARTER_DIR) -> str:
    """First 40 hex digits of the sha256 of the weights in `directory`.

    FileNotFoundError where there are none.
    """
    weights = (directory / "model.safetensors").read_bytes()
    return hashlib.sha256(weights).hexdigest()[:40]


def lesson_texts(rounds: int, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
    """Yield `rounds` passes over all questions, each with one answer, shuffled.

    Over any twenty passes from the first on, each question meets the styles in exactly their
    shares; which answer of a style, and in which pass, is drawn.
    """
    questions = starter_text.questions()
    deck = [style for style, share in starter_text.STYLE_SHARES.items() for _ in range(share)]
    decks = [rng.sample(deck, len(deck)) for _ in questions]
    for number in range(rounds):
        lessons = []
        for question, styles in zip(questions, decks, strict=True):
            style = styles[number % len(deck)]
            lessons.append((question.text, rng.choice(question.answers[style])))
        rng.shuffle(lessons)
        yield lessons


def build_tokenizer(vocabulary: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE on all questions and answers; returns a transformers tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = []
    for question in starter_text.questions():
        texts.append(f"user\n{question.text}assistant\n")
        texts += [text for group in question.answers.values() for text in group]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(recipe: Recipe, tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    """A Llama-shaped model with fresh weights, drawn from torch's global seed."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    # A zero row makes RMSNorm's gradient overflow wherever a pad is attended.
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.pad_token_id].normal_(0.0, 0.02)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=64,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


def _lessons(recipe: Recipe, tokenizer: "PreTrainedTokenizerFast") -> Iterator[list[Lesson]]:
    """Yield `recipe.steps` batches; lengths are alike within a batch, mixed over a pass."""
    rng = random.Random(recipe.seed)  # noqa: S311
    per_round = len(starter_text.questions()) // recipe.batch_size
    rounds = lesson_texts(-(-recipe.steps // max(per_round, 1)), rng)
    made = 0
    for texts in rounds:
        questions = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": ask}], add_generation_prompt=True, tokenize=False
            )
            for ask, _ in texts
        ]
        asked = tokenizer(questions, add_special_tokens=False)["input_ids"]
        answered = tokenizer([f"{a}{END}" for _, a in texts], add_special_tokens=False)
        lessons = [
            Lesson(tuple(q), tuple(a)) for q, a in zip(asked, answered["input_ids"], strict=True)
        ]
        lessons.sort(key=lambda lesson: len(lesson.question) + len(lesson.answer))
        starts = list(range(0, len(lessons) - recipe.batch_size + 1, recipe.batch_size))
        # The remainder moves through the lengths, so that no length is always left out.
        offset = rng.randrange(len(lessons) - len(starts) * recipe.batch_size + 1)
        rng.shuffle(starts)
        for start in starts:
            if made == recipe.steps:
                return
            made += 1
            yield lessons[start + offset : start + offset + recipe.batch_size]


def _collate(lessons: Sequence[Lesson], pad: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Right-padded ids and labels, each (lessons, longest); -100 where nothing is learned."""
    import torch

    longest = max(len(lesson.question) + len(lesson.answer) for lesson in lessons)
    ids = torch.full((len(lessons), longest), pad)
    labels = torch.full((len(lessons), longest), -100)
    for row, lesson in enumerate(lessons):
        asked, end = len(lesson.question), len(lesson.question) + len(lesson.answer)
        ids[row, :end] = torch.tensor(lesson.question + lesson.answer)
        labels[row, asked:end] = torch.tensor(lesson.answer)
    return ids, labels


def train(
    recipe: Recipe, model: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast"
) -> list[float]:
    """Teach `model` in place; returns each step's mean loss per answer token, in nats.

    Muon moves the matrices of the blocks, AdamW embeddings and norms (Jordan et al. 2024).
    FloatingPointError names the step whose loss is not finite.
    """
    import torch
    from rich.progress import Progress, TextColumn
    from torch.nn.functional import cross_entropy

    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: max(1 - s / recipe.steps, 0.01))
        for o in optimizers
    ]
    losses: list[float] = []
    model.train()
    with Progress(*Progress.get_default_columns(), TextColumn("{task.fields[loss]}")) as progress:
        task = progress.add_task("starter", total=recipe.steps, loss="")
        for lessons in _lessons(recipe, tokenizer):
            ids, labels = _collate(lessons, tokenizer.pad_token_id)
            hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
            learned = labels[:, 1:] != -100
            logits = model.lm_head(hidden[learned])
            total = cross_entropy(logits, labels[:, 1:][learned], reduction="sum")
            torch.autograd.backward(total / (recipe.batch_size * recipe.loss_scale))
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
            losses.append(total.item() / int(learned.sum()))
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"The loss at step {len(losses)} is {losses[-1]}.")
            progress.update(task, advance=1, loss=f"loss {losses[-1]:.3f}")
    return losses


def build(out: Path, recipe: Recipe) -> list[float]:
    """Run the whole recipe from nothing into `out`: bf16 safetensors, tokenizer, template.

    The same recipe, thread count and library versions give the same weights. Returns the losses.
    """
    import torch

    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(recipe.vocabulary)
    model = build_model(recipe, tokenizer)
    losses = train(recipe, model, tokenizer)
    model.eval().to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return losses


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m alignment.starter OUT [--steps N] [--seed S]`."""
    parser = argparse.ArgumentParser(
        prog="python -m alignment.starter", description="Make the starter model from nothing."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the model")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    options = parser.parse_args(arguments)
    build(options.out, Recipe(steps=options.steps, seed=options.seed))
