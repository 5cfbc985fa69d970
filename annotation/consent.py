"""What voters were told before they voted: the licences under which their votes may be published.

Owns the journal's note of them. An owner who changes DATA_LICENCE changes it for votes to come, so
an earlier one stays beside it.
"""

from annotation.journal.journal import Journal
from annotation.journal.reader import JournalReader

DEFAULT_LICENCE = "Apache-2.0"
_NOTE = "data.licences"


def note_licence(journal: Journal, licence: str) -> None:
    """From now on the page names `licence`."""
    told = (journal.note(_NOTE) or "").splitlines()
    if licence not in told:
        journal.set_note(_NOTE, "\n".join([*told, licence])).result()


def licences_told(journal: JournalReader) -> tuple[str, ...]:
    """Every licence that the page has named, the first one first."""
    return tuple((journal.note(_NOTE) or DEFAULT_LICENCE).splitlines())
