"""Which of a voter's pairs are checks or compare models, and which side is which.

Owns the keyed draws, so that nothing a voter can see or compute tells a check from any other pair.
Pure: knows no journal, no page and no model.
"""

import hmac
import uuid
from dataclasses import dataclass
from typing import Literal

Check = Literal["gold", "repeat"]
MOST_CHECKS = 0.5
"""The largest share of a voter's pairs that checks take together."""
FIRST_WITHOUT = 3
"""How many pairs a new voter is given before there is any check."""
VOTES_BETWEEN = 5
"""How many votes a voter casts after one before it may be asked again."""


def is_flipped(secret: bytes, pair_id: str, voter: str) -> bool:
    """Whether this voter's side a is the pair's second completion; fair, and fixed by key."""
    return hmac.digest(secret, f"{pair_id}\0{voter}".encode(), "sha256")[0] & 1 == 1


def keyed_id(secret: bytes, *names: str) -> str:
    """An id as random as any other to whoever lacks the key, and always the same from `names`."""
    return uuid.UUID(bytes=_draw(secret, "id", *names)[:16], version=4).hex


@dataclass(frozen=True, slots=True)
class Checks:
    """The shares of a voter's pairs that are gold pairs and repeats, drawn with a key.

    Where both together would take more than half, each gives way in proportion.
    """

    secret: bytes
    repeat_share: float = 0.0
    gold_share: float = 0.0

    def drawn(self, voter: str, given: int) -> Check | None:
        """What the pair after the `given` that `voter` had is to be; None for an ordinary one."""
        if given < FIRST_WITHOUT:
            return None
        total = self.repeat_share + self.gold_share
        scale = min(1.0, MOST_CHECKS / total) if total else 0.0
        point = self._point("check", voter, given)
        if point < scale * self.gold_share:
            return "gold"
        return "repeat" if point < scale * total else None

    def compares(self, voter: str, given: int, share: float) -> bool:
        """Whether the pair after the `given` that `voter` had compares models, in a `share`."""
        return self._point("compare", voter, given) < share

    def place(self, voter: str, given: int, of: int) -> int:
        """Which of `of` candidates it is."""
        return min(of - 1, int(of * self._point("place", voter, given)))

    def _point(self, what: str, voter: str, given: int) -> float:
        drawn = _draw(self.secret, what, voter, str(given))
        return int.from_bytes(drawn[:6], "big") / (1 << 48)


def _draw(secret: bytes, *names: str) -> bytes:
    # A label of its own: this key also signs sides, by messages of another form.
    return hmac.digest(secret, "\0".join(("checks", *names)).encode(), "sha256")
