"""What the admin page says of the backup, in each of its states."""

from datetime import UTC, datetime

import pytest

from alignment.web.admin_view import describe_backup
from annotation.backup.sync import BackupStatus

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
