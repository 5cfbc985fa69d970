"""What looks wrong in a run, in plain words with what to do, from its metrics and samples alone.

Pure. Knows a run that goes well from one that doesn't; starts, stops and reads nothing.
"""

import math
import statistics
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import Metric, Sample

SMALLEST_WINDOW = 4
"""Steps that a figure is averaged over, at least: one batch of 8 pairs says little."""
TOO_EASY_ACCURACY = 0.99
MEMORISED_ACCURACY, MEMORISED_GAP = 0.97, 0.1
"""The gap counts beyond two standard errors: ten held-out pairs say little."""
HELD_OUT_SHARE = 0.1
"""Of the examples, as alignment.training.rows.data holds them out."""
HELD_OUT_FALL, HELD_OUT_FALLEN_PAIRS = 0.1, 3
UNLEARNED_NATS = 0.1
"""Less than this between chosen and rejected, and odds of drawing either change by under 10 %."""
UNLEARNED_LOSS, UNLEARNED_MARGIN = 0.02, 1.1
CHOSEN_FALL_FACTOR, CHOSEN_FALL_NATS = 2.0, 10.0
CHOSEN_FALL_NATS_PER_TOKEN = 0.5
LONGER_FACTOR, LONGER_TOKENS = 2.0, 30
EXPLODED_FACTOR, EXPLODED_STEPS, EXPLODED_PAST = 10.0, 5, 50
DIVERGED_FACTOR = 2.0
REPEATED_TAIL, REPEATED_SHORTEST, REPEATED_RATIO = 400, 80, 0.3
"""English prose of 400 characters deflates to about .6 of its size, a loop to under .2."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that looks wrong: `name` for code, `says` what is seen and what it means,
    `do` what to do. A `serious` one means that the model is probably no better than the base.
    """

    name: str
    says: str
    do: str
    serious: bool = False


def alarms(metrics: Sequence[Metric], samples: Sequence[Sample], spec: TrainingSpec) -> list[Alarm]:
    """What looks wrong so far, serious ones first; empty for a healthy run and for none yet.

    Works at any point of a run, on steps in order. Log-probs are in nats, DPO's a sum over a
    completion, ORPO's a mean per token (`Metric`).
    """
    run = _Seen(metrics, samples, spec)
    checks: tuple[Callable[[_Seen], Alarm | None], ...] = (
        _not_finite,
        _exploded,
        _repeats,
        _memorised,
        _held_out_falls,
        _too_easy,
        _unlearned,
        _chosen_falls,
        _longer,
    )
    found = [alarm for check in checks if (alarm := check(run)) is not None]
    return sorted(found, key=lambda alarm: not alarm.serious)


@dataclass(frozen=True, slots=True)
class _Seen:
    metrics: Sequence[Metric]
    samples: Sequence[Sample]
    spec: TrainingSpec

    @property
    def window(self) -> int:
        """Steps to average over: a tenth of what the run has done."""
        return max(SMALLEST_WINDOW, len(self.metrics) // 10)

    @property
    def is_past_half(self) -> bool:
        done = self.metrics[-1].step if self.metrics else 0
        return done >= max(2 * SMALLEST_WINDOW, self.spec.steps / 2)

    @property
    def held_out_pairs(self) -> int:
        """About how many pairs are held out; a run's metrics do not say."""
        return max(1, round(self.spec.examples * HELD_OUT_SHARE))

    def first(self, name: str) -> float | None:
        """The mean of a figure over the first window, None when it was never logged."""
        return _mean(_values(self.metrics[: self.window], name))

    def last(self, name: str) -> float | None:
        return _mean(_values(self.metrics[-self.window :], name))

    def evaluated(self) -> list[tuple[int, float]]:
        """(step, reward accuracy on held-out pairs), where that was measured."""
        return [
            (m.step, m.eval_reward_accuracy)
            for m in self.metrics
            if m.eval_reward_accuracy is not None
        ]

    def samples_at(self, index: int) -> list[Sample]:
        """The samples of the first (0) or last (-1) step that has any."""
        steps = sorted({sample.step for sample in self.samples})
        return [s for s in self.samples if steps and s.step == steps[index]]


def _not_finite(run: _Seen) -> Alarm | None:
    for m in run.metrics:
        for name, value in (("loss", m.loss), ("gradient norm", m.grad_norm)):
            if value is not None and not math.isfinite(value):
                return Alarm(
                    "not_finite",
                    f"The {name} stopped being a number at step {m.step}: the weights are lost.",
                    "Start again with a tenth of the learning rate. If that fails too, check the "
                    "data for special tokens inside prompts.",
                    serious=True,
                )
    return None


def _exploded(run: _Seen) -> Alarm | None:
    """Five steps in a row at ten times the median of the fifty before, or a loss twice the base's.

    One rough batch is no alarm.
    """
    norms = [(m.step, m.grad_norm) for m in run.metrics if m.grad_norm is not None]
    for end in range(3 * EXPLODED_STEPS, len(norms) + 1):
        recent = [norm for _, norm in norms[end - EXPLODED_STEPS : end]]
        before = norms[max(0, end - EXPLODED_STEPS - EXPLODED_PAST) : end - EXPLODED_STEPS]
        usual = statistics.median(norm for _, norm in before)
        if usual > 0 and min(recent) > EXPLODED_FACTOR * usual:
            seen = f"gradient norm went from about {usual:.2g} to {recent[-1]:.2g}"
            return _off_the_road(seen, norms[end - 1][0])
    loss = run.last("loss")
    at_first = run.metrics[0].loss if run.metrics else 0.0
    if loss is not None and loss > DIVERGED_FACTOR * at_first > 0:
        return _off_the_road(f"loss went from {at_first:.2f} to {loss:.2f}", run.metrics[-1].step)
    return None


def _off_the_road(seen: str, step: int) -> Alarm:
    return Alarm(
        "exploded",
        f"The {seen} by step {step}: training has come off the road.",
        "Start again with a fifth of the learning rate.",
        serious=True,
    )


def _repeats(run: _Seen) -> Alarm | None:
    before, now = run.samples_at(0), run.samples_at(-1)
    looping = sum(_is_repetitive(s.completion) for s in now)
    at_first = sum(_is_repetitive(s.completion) for s in before)
    same = len(now) >= 3 and len({s.completion for s in now}) == 1
    was_same = len({s.completion for s in before}) == 1
    if (3 * looping < len(now) or looping <= at_first) and (not same or was_same):
        return None
    seen = (
        "Every sample has become the same text"
        if same and not was_same
        else f"{looping} of {len(now)} samples now repeat themselves"
    )
    return Alarm(
        "repeats",
        f"{seen}: the model is collapsing.",
        "Use fewer steps or a lower learning rate; in DPO a higher beta holds it nearer to the "
        "base.",
        serious=True,
    )


def _memorised(run: _Seen) -> Alarm | None:
    train, evaluated = run.last("reward_accuracy"), run.evaluated()
    if train is None or not evaluated or train < MEMORISED_ACCURACY:
        return None
    held_out = evaluated[-1][1]
    error = math.sqrt(held_out * (1 - held_out) / run.held_out_pairs)
    if train - held_out < MEMORISED_GAP + 2 * error:
        return None
    return Alarm(
        "memorised",
        f"It ranks {train:.0%} of the training pairs right and {held_out:.0%} of the held-out "
        "ones: it learns these pairs by heart, not what voters like.",
        "Use fewer steps, or collect more votes on more prompts.",
        serious=True,
    )


def _held_out_falls(run: _Seen) -> Alarm | None:
    evaluated = run.evaluated()
    if len(evaluated) < 3:
        return None
    best_step, best = max(evaluated, key=lambda found: found[1])
    last = evaluated[-1][1]
    then = _mean(_values([m for m in run.metrics if m.step <= best_step][-run.window :], _ACCURACY))
    train = run.last(_ACCURACY)
    enough = max(HELD_OUT_FALL, HELD_OUT_FALLEN_PAIRS / run.held_out_pairs)
    if best - last < enough or then is None or train is None or train <= then:
        return None
    return Alarm(
        "held_out_falls",
        f"Held-out accuracy fell from {best:.0%} at step {best_step} to {last:.0%} while the "
        "training accuracy rose: what it learns now no longer carries over.",
        f"Train again with about {best_step} steps.",
    )


def _too_easy(run: _Seen) -> Alarm | None:
    """DPO starts at chance by construction; ORPO starts where the base stands, so it is exempt."""
    if run.spec.method != "dpo":
        return None
    half_a_pass = run.spec.examples // (2 * run.spec.recipe.batch_size)
    # Step 1 is before any update: chosen and rejected are level there.
    early = [m for m in run.metrics if 2 <= m.step <= max(SMALLEST_WINDOW + 1, half_a_pass)]
    accuracy = _mean(_values(early, _ACCURACY))
    if len(early) < SMALLEST_WINDOW or accuracy is None or accuracy < TOO_EASY_ACCURACY:
        return None
    return Alarm(
        "too_easy",
        "Training accuracy was 100 % at once, before it had seen half of the pairs: either one "
        "simple cue tells chosen from rejected (length, a phrase, the same pair many times), or "
        "the learning rate is so high that it memorises.",
        "Check the data for length and duplicates; believe held-out accuracy only. If the data "
        "is sound, try half the learning rate.",
    )


def _unlearned(run: _Seen) -> Alarm | None:
    if not run.is_past_half:
        return None
    margin, accuracy = run.last("reward_margin"), run.last(_ACCURACY)
    evaluated = run.evaluated()
    if run.spec.method == "dpo" and margin is not None and accuracy is not None:
        nats = margin / run.spec.recipe.beta
        best = max([accuracy, *(found for _, found in evaluated)])
        if abs(nats) >= UNLEARNED_NATS and best >= 0.55:
            return None
        seen = f"The reward margin is still {margin:+.3f} and accuracy {accuracy:.2f}"
    else:
        before, after = run.first("loss"), run.last("loss")
        if before is None or after is None or _improved(run, before, after):
            return None
        seen = f"The loss is still {after:.3f}, from {before:.3f}"
    return Alarm(
        "unlearned",
        f"{seen}: nothing was learned, and the answers will be the base's.",
        "Raise the learning rate ten times, or take more steps; 1e-6, which many guides name, "
        "does nothing with LoRA.",
        serious=True,
    )


def _improved(run: _Seen, before: float, after: float) -> bool:
    """Whether the loss fell, on training or held-out pairs, or the margin rose: any one will do."""
    if after < before * (1 - UNLEARNED_LOSS):
        return True
    held_out = _values(run.metrics, "eval_loss")
    if len(held_out) > 1 and held_out[-1] < held_out[0] * (1 - UNLEARNED_LOSS):
        return True
    margin, at_first = run.last("reward_margin"), run.first("reward_margin")
    return margin is not None and at_first is not None and margin > UNLEARNED_MARGIN * at_first > 0


def _chosen_falls(run: _Seen) -> Alarm | None:
    """DPO lowers the chosen answers too, less than the rejected; a tenth to a half is usual.

    Twice the negative log-prob is the square of the perplexity: those answers are being
    forgotten. Both bounds must be passed, so that short answers raise no alarm.
    """
    before, after = run.first("chosen_logps"), run.last("chosen_logps")
    if before is None or after is None:
        return None
    per_token = run.spec.method == "orpo"
    enough = CHOSEN_FALL_NATS_PER_TOKEN if per_token else CHOSEN_FALL_NATS
    if before - after < enough or after > CHOSEN_FALL_FACTOR * before:
        return None
    return Alarm(
        "chosen_falls",
        f"The chosen answers' log-prob fell from {before:.1f} to {after:.1f}. Some fall is usual "
        "in DPO, this much is not: the model forgets how to write what voters chose.",
        "Use a lower learning rate, fewer steps or a higher beta.",
        serious=True,
    )


def _longer(run: _Seen) -> Alarm | None:
    before = _mean(s.tokens for s in run.samples_at(0))
    now = _mean(s.tokens for s in run.samples_at(-1))
    if before is None or now is None:
        return None
    if now < LONGER_FACTOR * before or now - before < LONGER_TOKENS:
        return None
    return Alarm(
        "longer",
        f"Sampled answers grew from {before:.0f} to {now:.0f} tokens on average. Preference "
        "training easily takes length for quality.",
        "Read the samples: if they only ramble, collect votes where the shorter answer wins, or "
        "use fewer steps.",
    )


_ACCURACY = "reward_accuracy"


def _values(metrics: Iterable[Metric], name: str) -> list[float]:
    return [value for m in metrics if (value := getattr(m, name)) is not None]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.fmean(found) if found else None


def _is_repetitive(text: str) -> bool:
    """Whether the end of a text is a loop: it deflates to less than three tenths."""
    tail = text[-REPEATED_TAIL:].encode("utf-8", "replace")
    if len(tail) < REPEATED_SHORTEST:
        return False
    return len(zlib.compress(tail, 9)) < REPEATED_RATIO * len(tail)
