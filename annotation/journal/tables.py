"""The journal's tables, and how a file of an earlier Votetune becomes one of this one.

Owns the SQL schema and its version. An upgrade only adds: what earlier versions stored stays.
"""

SCHEMA_VERSION = 2

_VERSION_1 = """
CREATE TABLE pairs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    prompt_id TEXT NOT NULL,
    messages TEXT NOT NULL,
    first TEXT NOT NULL,
    second TEXT NOT NULL,
    created_at TEXT NOT NULL,
    votes INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    retired_at TEXT
) STRICT;
CREATE INDEX pairs_by_votes ON pairs (votes, seq) WHERE retired_at IS NULL;
CREATE INDEX pairs_by_prompt ON pairs (prompt_id);
CREATE INDEX pairs_undelivered ON pairs (seq) WHERE delivered = 0 AND retired_at IS NULL;

CREATE TABLE assignments (
    voter TEXT NOT NULL,
    pair_id TEXT NOT NULL REFERENCES pairs (id),
    issued_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (voter, pair_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX assignments_open ON assignments (pair_id, expires_at) WHERE done = 0;
CREATE INDEX assignments_open_by_voter ON assignments (voter, issued_at) WHERE done = 0;

CREATE TABLE votes (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    pair_id TEXT NOT NULL REFERENCES pairs (id),
    voter TEXT NOT NULL,
    choice TEXT NOT NULL,
    flipped INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    reasons TEXT NOT NULL,
    comment TEXT NOT NULL,
    source TEXT NOT NULL,
    superseded_at TEXT,
    counted INTEGER NOT NULL,
    why TEXT,
    revision INTEGER NOT NULL,
    delivered_revision INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX votes_live ON votes (pair_id, voter) WHERE superseded_at IS NULL;
CREATE INDEX votes_by_pair ON votes (pair_id, voter);
CREATE INDEX votes_by_voter ON votes (voter);
CREATE INDEX votes_undelivered ON votes (seq)
    WHERE delivered_revision < revision AND counted AND choice <> 'skip' AND source <> 'argilla';

CREATE TABLE vote_history (
    vote_id TEXT NOT NULL REFERENCES votes (id),
    revision INTEGER NOT NULL,
    reasons TEXT NOT NULL,
    comment TEXT NOT NULL,
    superseded_at TEXT,
    replaced_at TEXT NOT NULL,
    PRIMARY KEY (vote_id, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""

# A pair `only_for` a voter is given to nobody else. `delivered` and `backed_up` are 1 where there
# is nothing (more) to send. `leased_until`: when the last running lease on a pair ends, "" where
# there never was one. Pairs are chosen and counted from `pairs_in_play` alone, however many checks
# lie beside them.
_VERSION_2 = """
ALTER TABLE pairs ADD COLUMN kind TEXT NOT NULL DEFAULT 'pool';
ALTER TABLE pairs ADD COLUMN only_for TEXT;
ALTER TABLE pairs ADD COLUMN author TEXT;
ALTER TABLE pairs ADD COLUMN repeats TEXT;
ALTER TABLE pairs ADD COLUMN expected TEXT;
ALTER TABLE pairs ADD COLUMN backed_up INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pairs ADD COLUMN leased_until TEXT NOT NULL DEFAULT '';
UPDATE pairs SET leased_until = coalesce(
    (SELECT max(expires_at) FROM assignments WHERE pair_id = pairs.id AND done = 0), '');
DROP INDEX pairs_by_votes;
CREATE INDEX pairs_in_play ON pairs (votes, seq, leased_until)
    WHERE retired_at IS NULL AND only_for IS NULL AND kind IN ('pool', 'own');
CREATE INDEX pairs_only_for ON pairs (only_for, repeats) WHERE only_for IS NOT NULL;
CREATE INDEX pairs_by_kind ON pairs (kind, seq) WHERE kind <> 'pool';
CREATE INDEX pairs_to_back_up ON pairs (seq) WHERE backed_up = 0;

ALTER TABLE votes ADD COLUMN issued_at TEXT;
ALTER TABLE votes ADD COLUMN set_aside TEXT;
ALTER TABLE votes ADD COLUMN backup_revision INTEGER NOT NULL DEFAULT 0;
CREATE INDEX votes_by_time ON votes (created_at)
    WHERE superseded_at IS NULL AND choice <> 'skip';
CREATE INDEX votes_to_back_up ON votes (seq) WHERE backup_revision < revision;

CREATE TABLE voters (
    voter TEXT PRIMARY KEY,
    set_aside TEXT,
    changed_at TEXT NOT NULL,
    backed_up INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE deletions (
    voter TEXT PRIMARY KEY,
    requested_at TEXT NOT NULL,
    votes INTEGER NOT NULL,
    pairs TEXT NOT NULL,
    in_argilla INTEGER NOT NULL DEFAULT 1,
    in_backup INTEGER NOT NULL DEFAULT 1
) STRICT, WITHOUT ROWID;
"""
_UPGRADES = (_VERSION_1, _VERSION_2)
IN_PLAY = "pairs.retired_at IS NULL AND pairs.only_for IS NULL AND pairs.kind IN ('pool', 'own')"
"""Pairs that may be given to anybody, in the words of the index on them."""
LEASES = """
    (SELECT count(*) FROM assignments AS lease
     WHERE lease.pair_id = pairs.id AND lease.done = 0 AND lease.expires_at > :now)
"""
"""How many voters hold a pair at the time `:now`."""
COMPARISONS = "kind <> 'pool' AND kind = 'compare' AND retired_at IS NULL"
"""Comparisons of models in play, in the words of the index on the few pairs of other kinds."""
WAITING_PAIRS = "kind <> 'pool' AND kind = 'own' AND only_for IS NOT NULL AND retired_at IS NULL"
"""Pairs on voters' own prompts that the owner has yet to approve."""


def upgrade_script(version: int) -> str:
    """SQL that makes a file of `version` (0: an empty one) one of SCHEMA_VERSION."""
    return "".join(_UPGRADES[version:]) + f"PRAGMA user_version = {SCHEMA_VERSION};"
