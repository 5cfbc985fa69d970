"""Which base a home must speak whose votes are still in the backup, found before one is chosen.

Owns the asking of the backup at a start. Restores nothing: `annotation.backup.sync` does.
"""

import logging
from pathlib import Path

from alignment.base import ResolvedBase, bind_base, bound_base, bound_revision_asked
from annotation.backup.events import BackupBase, BackupError
from annotation.backup.repo import BackupRepo
from annotation.hub.client import HubError
from annotation.settings import AnnotationSettings

TIMEOUT_S = 10.0
"""How long a start waits for the backup's word before it goes on without."""
_log = logging.getLogger(__name__)


def backup_repo(settings: AnnotationSettings) -> BackupRepo | None:
    """The backup that the settings name, None where they name none."""
    repo, token = settings.votes_repo, settings.hf_token
    return BackupRepo(repo, token.get_secret_value()) if repo and token else None


def bind_to_backup(repo: BackupRepo | None, home: Path, *, has_votes: bool) -> bool:
    """Bind a home that lost its votes, or its base.json, to the base of the votes in the backup.

    Whether the home has votes, or will have them back. A Hub that can't be reached now is no
    reason not to start. Raises BackupError where the backup can't be read, or not with this token.
    """
    if repo is None or (has_votes and bound_base(home) is not None):
        return has_votes
    try:
        header = repo.newest_header(TIMEOUT_S)
    except HubError as error:
        if error.passing:
            _log.warning("The backup %s can't be read yet: %s.", repo.repo, error)
            return has_votes
        raise BackupError(f"VOTES_REPO={repo.repo} can't be used: {error}.") from None
    if header is None or not header.votes:
        return has_votes
    bind_base(home, header.base.base, header.base.revision, header.base.asked)
    return True


def base_for_backup(base: ResolvedBase, home: Path) -> BackupBase:
    """`base` as the backup names it."""
    return BackupBase(base.ref.base, base.ref.base_revision, bound_revision_asked(home))
