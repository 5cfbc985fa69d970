"""Which models are compared blind now, and what follows from the votes.

Owns the choice of the candidate, the closing of comparisons, and that a candidate becomes the
policy through the gate or by an admin's word. Draws nothing and counts nothing itself: pairs come
from `annotation.comparing`, figures from `gate` and `leaderboard`.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from alignment.contest.comparisons import Comparison, comparisons_of
from alignment.contest.gate import Gate, decide
from alignment.contest.leaderboard import Leaderboard, build_leaderboard
from alignment.contest.promotions import Promotion, PromotionError
from alignment.registry import RegisteredModel, Registry
from annotation.comparing import Models
from annotation.faults import Fault
from annotation.journal.journal import Journal, JournalReader
from annotation.schema import ModelRef, PairKind

CONTEST_NOTE = "contest"
"""The journal's note of the models that its comparisons in play are of."""
DISMISSED_NOTE = "contest.dismissed"
WAITING_SHARE = 0.5
"""Of a voter's pairs while a candidate waits for its gate."""
GATE_TURNS = 4
"""Of so many batches, all but one are of the candidate against the policy."""
LOOK_EVERY_S = 2.0
COMMIT_TIMEOUT_S = 60.0
_log = logging.getLogger(__name__)


class ContestError(Fault):
    """A step that can't be taken; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Field:
    """The models in play: `candidate` is None while none waits.

    `trouble` says that the policy is not here. Then nothing is compared or promoted: a candidate
    that beats the base may yet lose to the policy.
    """

    base: ModelRef
    policy: ModelRef
    candidate: RegisteredModel | None
    trouble: str | None = None

    @property
    def contests(self) -> tuple[Models, ...]:
        """What is compared: the candidate with the policy first; the base as the measure of all."""
        return () if self.trouble else self.open

    @property
    def open(self) -> tuple[Models, ...]:
        """What hangs on votes, whether or not it can be compared just now."""
        found: list[Models] = []
        if self.candidate:
            found.append((self.candidate.ref, self.policy))
            if self.policy != self.base:
                found.append((self.candidate.ref, self.base))
        elif self.policy != self.base:
            found.append((self.policy, self.base))
        return tuple(found)

    def is_open(self, one: ModelRef, other: ModelRef) -> bool:
        """Whether a vote on these two may still be swayed by what the others say.

        Without a candidate nothing hangs on the votes: the base only measures the policy.
        """
        return self.candidate is not None and {one, other} in [{*pair} for pair in self.open]


def look_at_field(registry: Registry, journal: JournalReader) -> Field:
    """The models in play now. Raises what Registry does."""
    base = registry.get("base").ref
    policy = registry.promotions.current() or base
    was_policy = {promotion.model for promotion in registry.promotions.history()}
    dismissed = _dismissed(journal)
    tuned = [
        model
        for model in registry.models()
        if model.tuning and model.ref not in was_policy and model.ref.label not in dismissed
    ]
    trouble = registry.why_base_answers()
    return Field(base, policy, tuned[-1] if tuned else None, trouble)


def load_comparisons(journal: JournalReader) -> list[Comparison]:
    """Every vote that compared models and counts, oldest first."""
    votes = journal.votes_on(PairKind.COMPARE)
    pairs = journal.pairs(sorted({vote.pair_id for vote in votes}))
    return comparisons_of(votes, {pair.id: pair for pair in pairs})


def _dismissed(journal: JournalReader) -> set[str]:
    return set((journal.note(DISMISSED_NOTE) or "").splitlines())


class Contest:
    """The contest of one home. Safe to share between threads."""

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        *,
        share: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._share = share
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0
        self._seen: tuple[float, Field] | None = None

    def field(self, *, fresh: bool = False) -> Field:
        """The models in play, as they were at most LOOK_EVERY_S ago. Raises what Registry does."""
        seen = self._seen
        if fresh or seen is None or self._clock() - seen[0] > LOOK_EVERY_S:
            seen = self._seen = (self._clock(), look_at_field(self._registry, self._journal))
        return seen[1]

    def models(self) -> Models | None:
        """The two models that the next comparisons are of; None while there is but one."""
        field = self.field()
        if field.trouble:
            return None
        self._close_others(field)
        contests = field.contests
        if not contests:
            return None
        with self._lock:
            self._turn += 1
            rare = len(contests) > 1 and self._turn % GATE_TURNS == 0
        return contests[1] if rare else contests[0]

    def compare_share(self) -> float:
        """Share of a voter's pairs that compare models: more while a candidate waits."""
        field = self._seen[1] if self._seen else None
        if not self._share or field is None or not field.contests:
            return 0.0
        return max(self._share, WAITING_SHARE) if field.candidate else self._share

    def comparisons(self) -> list[Comparison]:
        """Every vote that compared models and counts, oldest first."""
        return load_comparisons(self._journal)

    @property
    def trouble(self) -> str | None:
        """Why nothing is compared though a model may wait, in one line; None where all is well."""
        return self.field().trouble

    def left_out(self) -> int:
        """Votes on comparisons that do not count because their voters are set aside."""
        votes = self._journal.votes_on(PairKind.COMPARE)
        return sum(vote.counted and vote.set_aside is not None for vote in votes)

    def gate(self) -> Gate | None:
        """Where the candidate stands; None while none waits, or while the policy is not here."""
        field = self.field(fresh=True)
        if field.candidate is None or field.trouble:
            return None
        return decide(self.comparisons(), field.candidate.ref, field.policy)

    def leaderboard(self, *, closed_only: bool) -> Leaderboard:
        """All comparisons, or for voters only those that no vote can be swayed by any more."""
        field = self.field(fresh=True)
        found = self.comparisons()
        if closed_only:
            found = [c for c in found if not field.is_open(c.first, c.second)]
        return build_leaderboard(found, field.base)

    def settle(self) -> Promotion | None:
        """Promote the candidate if the gate says so."""
        gate = self.gate()
        if gate is None or gate.verdict != "promote":
            return None
        return self._promote(gate.candidate, gate, by_gate=True)

    def override(self) -> Promotion:
        """Promote the candidate on an admin's word, whatever the votes say."""
        gate = self.gate()
        if gate is None:
            raise ContestError(self.trouble or "No model waits for promotion: train one first.")
        return self._promote(gate.candidate, gate, by_gate=False)

    def dismiss(self) -> RegisteredModel:
        """Compare the candidate no more; it stays in the registry, and its votes stay."""
        field = self.field(fresh=True)
        if field.candidate is None:
            raise ContestError("No model waits for promotion: there is none to dismiss.")
        gone = sorted({*_dismissed(self._journal), field.candidate.ref.label})
        self._journal.set_note(DISMISSED_NOTE, "\n".join(gone)).result(COMMIT_TIMEOUT_S)
        self._seen = None
        return field.candidate

    def roll_back(self) -> Promotion:
        """Make the policy before this one the policy again."""
        promotion = self._registry.promotions.roll_back(self._registry.get("base").ref)
        self._after_promotion(promotion)
        return promotion

    def _close_others(self, field: Field) -> None:
        """Take comparisons of models that are no longer in play out of it."""
        now = " | ".join(f"{a.label} {b.label}" for a, b in field.contests)
        before = self._journal.note(CONTEST_NOTE) or ""
        if now == before:
            return
        retired = self._journal.retire_comparisons().result(COMMIT_TIMEOUT_S)
        self._journal.set_note(CONTEST_NOTE, now).result(COMMIT_TIMEOUT_S)
        _log.info("compared now: %s; %d earlier comparisons are closed", now or "none", retired)

    def _promote(self, model: ModelRef, gate: Gate, *, by_gate: bool) -> Promotion:
        try:
            promotion = self._registry.promotions.promote(
                model, "gate" if by_gate else "override", wins=gate.wins, losses=gate.losses
            )
        except PromotionError as error:
            raise ContestError(str(error)) from error
        self._after_promotion(promotion)
        return promotion

    def _after_promotion(self, promotion: Promotion) -> None:
        # The next votes are to be on what the policy says, not on what another model said.
        self._journal.retire_waiting_pairs().result(COMMIT_TIMEOUT_S)
        self._seen = None
        _log.warning("%s is the policy now (%s)", promotion.model.label, promotion.by)


class GateWatch:
    """A thread that looks at the gate whenever there are new votes on comparisons."""

    def __init__(self, contest: Contest, journal: Journal) -> None:
        self._contest = contest
        self._journal = journal
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        seen = -1
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                count = self._journal.comparison_votes()
                if count != seen:
                    self._contest.settle()
                    seen = count
            # A thread's boundary: a fault is told, and the next look may work.
            except Exception:  # noqa: BLE001
                _log.exception("the gate could not be looked at")
