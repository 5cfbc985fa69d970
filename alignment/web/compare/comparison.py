"""What may be compared: any two models that are here, and a voter's prompts before and after.

Owns which models and prompts may be asked, and the one line that says why not. Draws no page,
loads no weights, and never fetches from the Hub at a visitor's request.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from alignment.registry import RegisteredModel, Registry
from annotation.asking import Asking, AskQueue, Line, Shown, Unanswered, to_askable
from annotation.faults import Fault
from annotation.schema import ModelRef, Prompt, Sampling

SEEDS = 1 << 31
MOST_PROMPTS = 50
"""Of a voter's own prompts, the newest, that may be asked again."""


class CompareError(Fault):
    """A comparison that cannot be made; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for, drawn one after the other; `names` are those of its answers in order."""

    asking: Asking
    names: tuple[str, ...]


class Comparison:
    """What the Compare tab asks.

    `prompts_of` gives a voter's own prompts, the newest first; `warm_up` has the weights loaded,
    in the background, when somebody is about to ask.
    """

    def __init__(
        self,
        registry: Registry,
        queue: AskQueue,
        *,
        sampling: Sampling,
        prompts_of: Callable[[str, int], Sequence[Prompt]],
        warm_up: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._queue = queue
        self._sampling = sampling
        self._prompts_of = prompts_of
        self.warm_up = warm_up

    def names(self) -> list[str]:
        """The base, then the others, newest first."""
        base, *others = (model.name for model in self._registry.models())
        return [base, *reversed(others)]

    def refs(self) -> list[ModelRef]:
        """Every model that is here."""
        return [model.ref for model in self._registry.models()]

    def policy_name(self) -> str | None:
        """What the policy is called, None where it is not here."""
        promoted = self._registry.promotions.current()
        return next((m.name for m in self._registry.models() if m.ref == promoted), None)

    def ask(
        self, text: str, names: Sequence[str | None], temperature: float, seed: int
    ) -> Question:
        """Ask the models of `names`, None for nobody, the same with the same seed.

        For an event loop, at once: a model that is not here is told as Unanswered. Raises
        CompareError for no model or a bad seed, BadPrompt, TooManyAsking.
        """
        asked = tuple(name for name in names if name)
        if not asked:
            raise CompareError("No model is chosen: choose two from the lists.")
        if not 0 <= seed < SEEDS:
            raise CompareError(f"Seed {seed:,} is out of range: take one from 0 to {SEEDS - 1:,}.")
        sampling = replace(self._sampling, temperature=temperature, seed=seed)
        # Anybody's, and nothing is stored of it, so nobody's name stands on it.
        asking = self._queue.ask(
            f"compare-{uuid.uuid4().hex}",
            to_askable(text),
            lambda asking: self._draw(asking, asked, sampling),
            paced=False,
        )
        return Question(asking, asked)

    def prompts(self, voter: str) -> list[Prompt]:
        """What `voter` asked, the newest first, each once."""
        return list(self._prompts_of(voter, MOST_PROMPTS))

    def why_no_change(self, voter: str) -> str | None:
        """Why nothing can have changed for this voter's prompts yet; None where it can."""
        if self.policy_name() is None:
            return (
                "The base still answers everybody, so nothing has changed yet. Once votes have "
                "made a model the policy, this shows what that did to your own prompts."
            )
        if not self.prompts(voter):
            return (
                "You have asked nothing of your own yet: do so under “Ask your own” in the Vote "
                "tab, or blind in this one, and come back."
            )
        return None

    def find_again(self, voter: str, prompt_id: str | None) -> tuple[Prompt, tuple[str, str]]:
        """A prompt of this voter's, and who answers it before and after. Reads the disk.

        Raises CompareError.
        """
        if why := self.why_no_change(voter):
            raise CompareError(why)
        prompt = next((p for p in self.prompts(voter) if p.id == prompt_id), None)
        if prompt is None:
            raise CompareError("That is no prompt of yours: choose one from the list.")
        return prompt, ("base", self.policy_name() or "base")

    def ask_again(self, voter: str, prompt: Prompt, names: tuple[str, str], seed: int) -> Question:
        """Have what `find_again` found answered, paced as own prompts are.

        Raises AlreadyAsking, TooManyAsking or AskedTooOften.
        """
        sampling = replace(self._sampling, seed=seed)
        asking = self._queue.ask(voter, prompt, lambda asking: self._draw(asking, names, sampling))
        return Question(asking, names)

    def _draw(self, asking: Asking, names: Sequence[str], sampling: Sampling) -> Line | None:
        try:
            # Not before: a model may go while others are answered.
            models = [self._local(name).ref for name in names]
        except CompareError as gone:
            return Unanswered(str(gone))
        answers = self._queue.follow(asking, models, sampling)
        return None if answers is None else Shown(answers)

    def _local(self, name: str) -> RegisteredModel:
        try:
            return self._registry.get(name, pull=False)
        except Fault as fault:
            raise CompareError(str(fault)) from None
