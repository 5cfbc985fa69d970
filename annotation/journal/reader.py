"""What can be read from the journal, by any process and while another one writes.

Owns its own connections, handed from thread to thread. Writes nothing.
"""

import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from annotation.journal.rows import (
    JournalError,
    UnknownVote,
    VoteOutcome,
    is_in_argilla,
    open_reader,
    pair_from_row,
    to_text,
    translate,
    vote_from_row,
)
from annotation.journal.tables import COMPARISONS, IN_PLAY, LEASES, WAITING_PAIRS
from annotation.schema import Pair, PairKind, Prompt, Vote

# SQLite's own default limit on bound values was 999 for long; ids are fetched in slices of this.
IDS_PER_QUERY = 500
_IDLE_CONNECTIONS = 8
_WANTING = f"SELECT count(*) FROM pairs WHERE {IN_PLAY} AND pairs.votes < :wanted"  # noqa: S608
_UNDELIVERED = (
    "delivered_revision < revision AND counted AND choice <> 'skip' AND source <> 'argilla'"
)


def quarter(moment: datetime) -> str:
    """The quarter of an hour, UTC, that `moment` lies in; in text order as in time."""
    text = to_text(moment)
    return f"{text[:14]}{int(text[14:16]) // 15}"


class JournalReader:
    """Reads one journal; safe to share between threads. Every call sees the last commit.

    Raises JournalError where the file is missing, foreign, or of a newer Votetune.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._closed = False
        self._idle.append(open_reader(path))

    def pair(self, pair_id: str) -> Pair | None:
        """The pair with this id, retired ones included."""
        found = self.pairs([pair_id])
        return found[0] if found else None

    def pairs(self, ids: Sequence[str] | None = None) -> list[Pair]:
        """All pairs, or those of `ids` that exist; oldest first, retired ones included."""
        if ids is None:
            return [pair_from_row(row) for row in self._rows("SELECT * FROM pairs ORDER BY seq")]
        rows: list[sqlite3.Row] = []
        wanted = list(dict.fromkeys(ids))
        for start in range(0, len(wanted), IDS_PER_QUERY):
            some = wanted[start : start + IDS_PER_QUERY]
            marks = ",".join("?" * len(some))
            rows += self._rows(f"SELECT * FROM pairs WHERE id IN ({marks})", some)  # noqa: S608
        return [pair_from_row(row) for row in sorted(rows, key=lambda row: int(row["seq"]))]

    def votes(self, *, voter: str | None = None, include_superseded: bool = False) -> list[Vote]:
        """Votes of everybody or of `voter`, skips included, oldest first."""
        conditions = "(:every OR superseded_at IS NULL)"
        if voter is not None:
            conditions += " AND voter = :voter"
        rows = self._rows(
            f"SELECT * FROM votes WHERE {conditions} ORDER BY created_at, seq",  # noqa: S608
            {"every": include_superseded, "voter": voter},
        )
        return [vote_from_row(row) for row in rows]

    def pairs_with_votes(self) -> Iterator[tuple[Pair | None, list[Vote]]]:
        """Every pair with votes that count, no skips, and those votes; in the order of pair ids.

        All of one commit, and one pair at a time: memory stays flat. None for a pair that is gone.
        """
        live = "superseded_at IS NULL AND counted AND set_aside IS NULL AND choice <> 'skip'"
        with self._connection() as connection:
            # While this is open, all that the connection reads is of the same commit.
            cursor = connection.execute(f"SELECT * FROM votes WHERE {live} ORDER BY pair_id")  # noqa: S608
            with closing(cursor):
                for pair_id, rows in groupby(cursor, key=itemgetter("pair_id")):
                    votes = [vote_from_row(row) for row in rows]
                    found = connection.execute("SELECT * FROM pairs WHERE id = ?", (pair_id,))
                    row = found.fetchone()
                    yield (pair_from_row(row) if row else None), votes

    def receipts(
        self,
        voter: str,
        *,
        limit: int | None = None,
        before: str | None = None,
        newest_first: bool = False,
    ) -> list[VoteOutcome]:
        """Votes of `voter`, undone ones too, each with its pair; at most `limit`.

        With `before`, only those cast before that vote; UnknownVote where it is not theirs.
        """
        cast = self._cast(before, voter) if before is not None else None
        earlier = " AND (created_at, seq) < (:at, :seq)" if cast else ""
        order = "created_at DESC, seq DESC" if newest_first else "created_at, seq"
        rows = self._rows(
            f"SELECT * FROM votes WHERE voter = :voter{earlier} ORDER BY {order} LIMIT :most",  # noqa: S608
            {"voter": voter, "most": -1 if limit is None else limit, **(cast or {})},
        )
        pairs = {pair.id: pair for pair in self.pairs([row["pair_id"] for row in rows])}
        return [
            VoteOutcome(vote_from_row(row), pairs[row["pair_id"]], is_in_argilla(row))
            for row in rows
        ]

    def _cast(self, vote_id: str, voter: str) -> dict[str, object]:
        rows = self._rows(
            "SELECT created_at, seq FROM votes WHERE id = ? AND voter = ?", (vote_id, voter)
        )
        if not rows:
            raise UnknownVote(f"You have no vote with the id {vote_id!r}: leave it out.")
        return {"at": rows[0]["created_at"], "seq": rows[0]["seq"]}

    def live_by_quarter(self, since: datetime, voter: str | None = None) -> dict[str, int]:
        """Live votes, no skips, of everybody or `voter`, by the quarter of an hour they came in.

        A quarter is written as `quarter` does; all before `since` are under "".
        """
        mine = " AND voter = :voter" if voter is not None else ""
        live = f"FROM votes WHERE superseded_at IS NULL AND choice <> 'skip'{mine} AND created_at"
        rows = self._rows(
            f"SELECT '' AS slot, count(*) AS votes {live} < :since UNION ALL"
            " SELECT substr(created_at, 1, 14) || (substr(created_at, 15, 2) / 15) AS slot,"
            f" count(*) AS votes {live} >= :since GROUP BY slot",
            {"since": to_text(since), "voter": voter},
        )
        return {row["slot"]: row["votes"] for row in rows}

    def wanted_count(self, votes_per_pair: int) -> int:
        """Pairs for everybody that have fewer votes than wanted."""
        return self._number(_WANTING, {"wanted": votes_per_pair})

    def vote_count(self) -> int:
        """Votes that count: live, and no skip."""
        return self._number(
            "SELECT count(*) FROM votes"
            " WHERE superseded_at IS NULL AND counted AND set_aside IS NULL"
        )

    def vote_mark(self) -> tuple[str, str]:
        """What changes whenever a vote does, and what does when a voter is set aside or back.

        Costs little however many votes there are: two milliseconds for ten thousand.
        """
        (row,) = self._rows(
            "SELECT count(*), max(seq), sum(revision), sum(counted), count(set_aside) FROM votes"
        )
        (decided,) = self._rows("SELECT count(set_aside), max(changed_at) FROM voters")
        return str(tuple(row)), str(tuple(decided))

    def set_aside_voters(self) -> dict[str, str]:
        """Voter to why their votes are set aside."""
        rows = self._rows("SELECT voter, set_aside FROM voters WHERE set_aside IS NOT NULL")
        return {row["voter"]: row["set_aside"] for row in rows}

    def ready_count(self, *, votes_per_pair: int, now: datetime) -> int:
        """Pairs that still want votes after the votes and the running leases they have."""
        held = f"pairs.leased_until > :now AND pairs.votes + {LEASES} < :wanted"
        # Apart, so that those that nobody holds are counted from the index alone.
        return self._number(
            f"SELECT ({_WANTING} AND pairs.leased_until <= :now) + ({_WANTING} AND {held})",
            {"wanted": votes_per_pair, "now": to_text(now)},
        )

    def comparisons_ready(self, *, now: datetime) -> int:
        """Comparisons in play without a vote, and leased to nobody."""
        return self._number(
            f"SELECT count(*) FROM pairs WHERE {COMPARISONS} AND votes = 0"  # noqa: S608
            " AND leased_until <= :now",
            {"now": to_text(now)},
        )

    def comparison_votes(self) -> int:
        """How many live votes on comparisons count."""
        return self._number(
            "SELECT coalesce(sum(votes), 0) FROM pairs WHERE kind <> 'pool' AND kind = 'compare'"
        )

    def votes_on(self, kind: PairKind) -> list[Vote]:
        """The live votes on pairs of one kind other than the pool's, oldest first."""
        rows = self._rows(
            "SELECT votes.* FROM pairs JOIN votes ON votes.pair_id = pairs.id"
            " WHERE kind <> 'pool' AND kind = ? AND superseded_at IS NULL"
            " ORDER BY votes.created_at, votes.seq",
            (kind.value,),
        )
        return [vote_from_row(row) for row in rows]

    def pairs_per_prompt(self, kind: PairKind = PairKind.POOL) -> dict[str, int]:
        """Prompt id to the number of pairs ever sampled of it, retired ones included."""
        rows = self._rows(
            "SELECT prompt_id, count(*) AS made FROM pairs WHERE kind = ? GROUP BY prompt_id",
            (kind.value,),
        )
        return {row["prompt_id"]: row["made"] for row in rows}

    def waiting_pairs(self) -> list[Pair]:
        """Pairs on voters' own prompts that the owner has yet to approve; oldest first."""
        rows = self._rows(f"SELECT * FROM pairs WHERE {WAITING_PAIRS} ORDER BY seq")  # noqa: S608
        return [pair_from_row(row) for row in rows]

    def prompts_of(self, voter: str, limit: int) -> list[Prompt]:
        """What `voter` asked, the newest first, each once; at most `limit`."""
        rows = self._rows(
            "SELECT * FROM pairs WHERE kind <> 'pool' AND kind IN ('own', 'tried') AND author = ?"
            " ORDER BY seq DESC",
            (voter,),
        )
        asked: dict[str, Prompt] = {}
        for pair in map(pair_from_row, rows):
            asked.setdefault(pair.prompt.id, pair.prompt)
        return list(asked.values())[:limit]

    def undelivered_pairs(self, limit: int) -> list[Pair]:
        """The oldest pairs that Argilla has not got; retired ones never go there."""
        rows = self._rows(
            "SELECT * FROM pairs WHERE delivered = 0 AND retired_at IS NULL ORDER BY seq LIMIT ?",
            (limit,),
        )
        return [pair_from_row(row) for row in rows]

    def undelivered_votes(self, limit: int) -> list[Vote]:
        """The oldest votes whose revision Argilla has not got, superseded ones too.

        What does not count, a skip above all, never goes there, nor what came from there.
        """
        rows = self._rows(
            f"SELECT * FROM votes WHERE {_UNDELIVERED} ORDER BY seq LIMIT ?",  # noqa: S608
            (limit,),
        )
        return [vote_from_row(row) for row in rows]

    def undelivered_count(self) -> int:
        """How many votes `undelivered_votes` would give without a limit."""
        return self._number(f"SELECT count(*) FROM votes WHERE {_UNDELIVERED}")  # noqa: S608

    def note(self, key: str) -> str | None:
        """A small durable fact, or None where it was never set."""
        rows = self._rows("SELECT value FROM notes WHERE key = ?", (key,))
        return str(rows[0]["value"]) if rows else None

    def close(self) -> None:
        """Close every idle connection; later reads raise JournalError."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if self._closed:
            raise JournalError(f"The journal {self._path} is closed.")
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = open_reader(self._path)
        try:
            yield connection
        except sqlite3.Error as error:
            raise translate(error, self._path) from error
        finally:
            if self._closed or len(self._idle) >= _IDLE_CONNECTIONS:
                connection.close()
            else:
                self._idle.append(connection)

    def _rows(
        self, sql: str, values: Sequence[object] | dict[str, object] = ()
    ) -> list[sqlite3.Row]:
        with self._connection() as connection:
            return connection.execute(sql, values).fetchall()

    def _number(self, sql: str, values: dict[str, object] | None = None) -> int:
        return int(self._rows(sql, values or {})[0][0])
