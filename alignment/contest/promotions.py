"""Which model is the policy: every promotion and roll-back of a home, oldest first.

Owns the file policy.json. Decides nothing: the gate does, or an admin who overrides it. Nothing is
overwritten, so that the way to today's policy can be read and walked back.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from annotation.faults import Fault
from annotation.home import write_private
from annotation.schema import ModelRef, utc_now

By = Literal["gate", "override", "roll-back"]


class PromotionError(Fault):
    """A promotion that can't be made; the message is the one line that a person reads."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """`model` became the policy at `at`, after `wins` and `losses` of blind votes, if any."""

    model: ModelRef
    at: datetime
    by: By
    wins: int = 0
    losses: int = 0


class Promotions:
    """The promotions of one home. Reads the disk at every question; safe to share by threads."""

    def __init__(self, home: Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._file = home / "policy.json"
        self._clock = clock
        self._lock = threading.Lock()

    def history(self) -> list[Promotion]:
        """Oldest first; empty while the base is the policy. Raises PromotionError on a bad file."""
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            return [_from_json(row) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PromotionError(
                f"{self._file} can't be read ({type(error).__name__}): restore it, or remove it to "
                "make the base the policy."
            ) from error

    def current(self) -> ModelRef | None:
        """The policy, or None for the base."""
        made = self.history()
        return made[-1].model if made and made[-1].model.adapter is not None else None

    def promote(self, model: ModelRef, by: By, *, wins: int = 0, losses: int = 0) -> Promotion:
        """Make `model` the policy. Raises PromotionError where it is already."""
        with self._lock:
            made = self.history()
            if made and made[-1].model == model:
                raise PromotionError(f"{model.label} is the policy already: nothing was changed.")
            promotion = Promotion(model, self._clock(), by, wins, losses)
            self._save([*made, promotion])
        return promotion

    def roll_back(self, base: ModelRef) -> Promotion:
        """Make what was the policy before today's the policy again, the base before any.

        Raises PromotionError where the base is the policy and there is nothing before it.
        """
        with self._lock:
            made = self.history()
            standing = _standing(made)
            if not standing:
                raise PromotionError("The base is the policy: there is nothing to roll back to.")
            before = standing[-2].model if len(standing) > 1 else base
            promotion = Promotion(before, self._clock(), "roll-back")
            self._save([*made, promotion])
        return promotion

    def _save(self, made: list[Promotion]) -> None:
        rows = [{**asdict(p), "at": p.at.isoformat()} for p in made]
        write_private(self._file, json.dumps(rows, indent=2) + "\n")


def _standing(made: list[Promotion]) -> list[Promotion]:
    """The promotions that no roll-back has taken back."""
    standing: list[Promotion] = []
    for promotion in made:
        if promotion.by == "roll-back":
            standing.pop()
        else:
            standing.append(promotion)
    return standing


def _from_json(row: dict[str, Any]) -> Promotion:
    return Promotion(
        model=ModelRef(**row["model"]),
        at=datetime.fromisoformat(row["at"]),
        by=row["by"],
        wins=int(row["wins"]),
        losses=int(row["losses"]),
    )
