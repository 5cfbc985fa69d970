"""What `python app.py status` tells, read from the home alone, whether or not an app runs.

Reads and never creates. The Argilla key is in `to_json` only, as interface.md promises.
"""

import json
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime

from alignment.base import bound_base
from alignment.contest.promotions import Promotions
from alignment.pipeline import open_reader
from alignment.registry import why_base_answers
from alignment.runs.runs import Runs
from annotation.argilla_server.launcher import load_credentials
from annotation.backup.journal_backup import BackupReader
from annotation.comparing import ComparisonPool
from annotation.export.card import ExportCounts
from annotation.export.export import count_export
from annotation.home import Home, running_app
from annotation.sampling import PairPool
from annotation.settings import AnnotationSettings


@dataclass(frozen=True, slots=True)
class RunLine:
    id: str
    method: str
    state: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class BackupLine:
    """`waiting` are pairs and votes that the repository has not got."""

    repo: str
    last_sync: datetime | None
    waiting: int
    last_error: str | None

    @property
    def line(self) -> str:
        last = f"{self.last_sync:%Y-%m-%d %H:%M:%S} UTC" if self.last_sync else "not yet"
        trouble = f"; {self.last_error}" if self.last_error else ""
        return f"{self.repo}, last sync {last}, {self.waiting} waiting{trouble}"


@dataclass(frozen=True, slots=True)
class HomeStatus:
    """`base` and `policy` are labels, None before the first start; `app_url` where it is served.

    `sampling` is what keeps a running app from drawing pairs.
    `trouble` says in one line that the policy is not here.
    """

    home: str
    app_url: str | None
    base: str | None
    policy: str | None
    trouble: str | None
    pairs: int
    counts: ExportCounts | None
    comparisons: int
    undelivered: int
    runs: tuple[RunLine, ...]
    argilla_api_url: str | None
    argilla_api_key: str | None
    backup: BackupLine | None
    sampling: str | None = None

    def to_json(self) -> str:
        row = asdict(self) | {"votes": self.counts.votes if self.counts else 0}
        if self.backup and self.backup.last_sync:
            row["backup"]["last_sync"] = self.backup.last_sync.isoformat()
        return json.dumps(row, indent=2)

    def to_text(self) -> str:
        counts = self.counts
        votes = (
            f"{counts.votes} by {counts.voters} voters on {counts.pairs_voted} pairs, "
            f"{counts.examples} preference examples"
            if counts
            else "none yet"
        )
        lines = [
            ("home", self.home),
            ("app", self.app_url or "not running"),
            ("base", self.base or "chosen at the first start"),
            ("policy", self.policy or "the base"),
            *([("trouble", self.trouble)] if self.trouble else []),
            ("pairs", str(self.pairs)),
            ("votes", votes),
            *([("sampling", self.sampling)] if self.sampling else []),
            ("comparisons", f"{self.comparisons} blind votes between models"),
            ("undelivered", str(self.undelivered)),
            ("Argilla", self.argilla_api_url or "not running"),
            ("backup", self.backup.line if self.backup else "none: set VOTES_REPO"),
            *(("run", f"{r.id} {r.state}, step {r.step} of {r.steps}") for r in self.runs),
        ]
        return "\n".join(f"{name:<12}{value}" for name, value in lines)


def load_status(settings: AnnotationSettings) -> HomeStatus:
    """The state of the home that `settings` names."""
    home = Home(settings.votetune_home)
    running = running_app(home)
    base = bound_base(home.root)
    promoted = Promotions(home.root).current()
    pairs, counts, undelivered, comparisons, sampling = 0, None, 0, 0, None
    if home.journal.exists():
        with open_reader(home) as journal:
            pairs = sum(journal.pairs_per_prompt().values())
            counts, undelivered = count_export(journal), journal.undelivered_count()
            comparisons = journal.comparison_votes()
            if running:
                notes = (PairPool.ERROR_NOTE, ComparisonPool.ERROR_NOTE)
                sampling = next((line for note in notes if (line := journal.note(note))), None)
    url, key = _argilla(settings, home)
    runs = Runs(home.root).list()
    return HomeStatus(
        home=str(home.root),
        app_url=running.url if running else None,
        base=base.label if base else None,
        policy=(promoted or base).label if base else None,
        trouble=why_base_answers(home.root),
        pairs=pairs,
        counts=counts,
        comparisons=comparisons,
        undelivered=undelivered,
        runs=tuple(
            RunLine(r.id, r.spec.method, str(r.state), r.status.step, r.spec.steps) for r in runs
        ),
        argilla_api_url=url,
        argilla_api_key=key,
        backup=_backup(settings, home),
        sampling=sampling,
    )


def _backup(settings: AnnotationSettings, home: Home) -> BackupLine | None:
    if settings.votes_repo is None:
        return None
    if not home.journal.exists():
        return BackupLine(settings.votes_repo, None, 0, None)
    with closing(BackupReader(home.journal)) as journal:
        return BackupLine(
            repo=settings.votes_repo,
            last_sync=journal.last_sync(),
            waiting=journal.waiting_count(),
            last_error=journal.last_error(),
        )


def _argilla(settings: AnnotationSettings, home: Home) -> tuple[str | None, str | None]:
    if settings.argilla_api_url and settings.argilla_api_key:
        return settings.argilla_api_url, settings.argilla_api_key.get_secret_value()
    found = load_credentials(home.root)
    return (found.api_url, found.api_key) if found else (None, None)
