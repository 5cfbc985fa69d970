"""What the admin page says of the votes and the backup, in each of their states."""

from dataclasses import fields
from datetime import UTC, datetime

import pytest

from alignment.web.admin.admin_view import ArgillaStatus, describe_backup, describe_votes
from annotation.backup.sync import BackupStatus
from annotation.export.export import ExportCounts

AT = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (
            BackupStatus("ada/votes", "ready", AT, 0, None),
            "The backup `ada/votes` works. Last sync: 2026-03-01 12:30:05 UTC. It has everything.",
        ),
        (
            BackupStatus("ada/votes", "restoring", None, 0, None),
            "The backup `ada/votes` is being read. Last sync: not yet.",
        ),
        (
            BackupStatus("ada/votes", "unreachable", AT, 1200, "The Hub is away."),
            "The backup `ada/votes` can't be reached; no vote is lost. Last sync: 2026-03-01"
            " 12:30:05 UTC. 1,200 votes and pairs wait here until it has them."
            " Last error: The Hub is away.",
        ),
        (
            BackupStatus("ada/votes", "refused", None, 3, "HF_TOKEN lacks the permission."),
            "The backup `ada/votes` **needs you**. Last sync: not yet. 3 votes and pairs wait here"
            " until it has them. Last error: HF_TOKEN lacks the permission.",
        ),
    ],
)
def test_every_state_of_the_backup_is_said(status: BackupStatus, said: str) -> None:
    assert describe_backup(status) == said


def test_a_policy_that_is_gone_is_said_before_the_votes() -> None:
    counts = ExportCounts(**dict.fromkeys((f.name for f in fields(ExportCounts)), 0))
    quiet = ArgillaStatus("ready", None, "", 0, None)
    line = "The policy run-7 is not here any more, so the base answers meanwhile: roll back."
    told = describe_votes(counts, 3, quiet, missing=line)
    assert told.startswith(f"**Pairs come from the base.** {line}\n\n")
    assert "Pairs come from the base" not in describe_votes(counts, 3, quiet)
