"""The one door to the Hugging Face Hub: look a repository up, and say what went wrong in one line.

Owns time limits, what may be tried again, and that no token or header reaches a message. Knows
nothing of models, votes and pages.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeVar

import httpx2
from huggingface_hub import DatasetInfo, HfApi, ModelInfo, SpaceInfo, get_session
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from annotation.faults import Fault

PROBE_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = 60.0
COMMIT = re.compile(r"[0-9a-f]{40}")

# What huggingface_hub and the transport raise; an LFS upload fails as ValueError or RuntimeError.
HUB_ERRORS = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
)

T = TypeVar("T")
RepoKind = Literal["model", "dataset", "space"]


class Trouble(StrEnum):
    """What kind of thing went wrong; UNREACHABLE and BUSY may pass, the others stay."""

    UNREACHABLE = "unreachable"
    BUSY = "busy"
    MISSING = "missing"
    REVISION = "revision"
    FILE = "file"
    GATED = "gated"
    TOKEN = "token"  # noqa: S105
    FORBIDDEN = "forbidden"
    PAYMENT = "payment"
    REFUSED = "refused"
    DISK = "disk"


class HubError(RuntimeError):
    """A request to the Hub that failed. The message is the reason, without the repository's name.

    `retry_after_s` is the wait that the Hub asked for, or None.
    """

    def __init__(
        self, trouble: Trouble, reason: str, *, passing: bool, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.trouble = trouble
        self.passing = passing
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. `oid` is the sha256 of an LFS file, else git's sha1 of the blob."""

    name: str
    size: int | None
    oid: str | None


@dataclass(frozen=True, slots=True)
class RemoteRepo:
    """A repository at one commit; `license` is the card's, or None."""

    id: str
    commit: str
    files: tuple[RemoteFile, ...]
    license: str | None

    def file(self, name: str) -> RemoteFile | None:
        return next((f for f in self.files if f.name == name), None)


def is_repo_id(name: str) -> bool:
    """Whether `name` can be a repository of the Hub, with or without its owner."""
    return (
        len(name) <= 96
        and re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name, re.ASCII) is not None
        and not re.search(r"--|\.\.|[.-](/|$)|\.git$", name)
    )


def look_up(
    repo: str,
    revision: str | None,
    *,
    token: str | None,
    timeout_s: float = REQUEST_TIMEOUT_S,
    kind: RepoKind = "model",
) -> RemoteRepo:
    """What the Hub holds at `revision` (None: its main branch). Raises HubError."""
    api = HfApi(token=token)
    asks: dict[RepoKind, Callable[..., ModelInfo | DatasetInfo | SpaceInfo]] = {
        "model": api.model_info,
        "dataset": api.dataset_info,
        "space": api.space_info,
    }
    ask = asks[kind]
    info = call(lambda: ask(repo, revision=revision, timeout=timeout_s, files_metadata=True))
    if info.sha is None or not COMMIT.fullmatch(info.sha):
        raise HubError(Trouble.REFUSED, "the Hub named no commit", passing=False)
    files = tuple(
        RemoteFile(s.rfilename, s.size, s.lfs.sha256 if s.lfs else s.blob_id)
        for s in info.siblings or ()
    )
    name = info.card_data.get("license") if info.card_data else None
    return RemoteRepo(info.id, info.sha, files, name if isinstance(name, str) else None)


def probe(repo: str, revision: str | None, *, token: str | None) -> RemoteRepo:
    """`look_up` within PROBE_TIMEOUT_S of wall time, name resolution included. Raises HubError."""
    box: list[RemoteRepo | HubError] = []

    def ask() -> None:
        try:
            box.append(look_up(repo, revision, token=token, timeout_s=PROBE_TIMEOUT_S))
        except HubError as error:
            box.append(error)

    # A resolver can't be given a timeout, so the wait is on a thread that may be left behind.
    asking = threading.Thread(target=ask, name="hub-probe", daemon=True)
    asking.start()
    asking.join(PROBE_TIMEOUT_S)
    answer = (
        box[0]
        if box
        else HubError(
            Trouble.UNREACHABLE,
            f"the Hub did not answer within {PROBE_TIMEOUT_S:.0f} s",
            passing=True,
        )
    )
    if isinstance(answer, HubError):
        raise answer
    return answer


def call(request: Callable[[], T]) -> T:
    """Run one request of huggingface_hub; whatever it raises becomes a HubError of one line."""
    # huggingface_hub sets no time limit on most requests: a dead peer would hold us for ever.
    get_session().timeout = httpx2.Timeout(REQUEST_TIMEOUT_S)
    try:
        return request()
    except Fault:
        # Of the caller's own making, and not the Hub's.
        raise
    except (*HUB_ERRORS, EntryNotFoundError) as error:
        # The cause is dropped on purpose: a server's words could repeat the token.
        raise to_hub_error(error) from None


def call_again(
    request: Callable[[], T],
    *,
    attempts: int = 6,
    deadline_s: float = 120.0,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """`call`, tried again with back-off (0.5 s doubling to 8 s, or what the Hub asks) while the
    trouble is of the passing kind, `attempts` times at most and never past `deadline_s`.
    """
    start = time.monotonic()
    for attempt in range(1, attempts + 1):
        try:
            return call(request)
        except HubError as error:
            wait_s = min(8.0, 0.5 * 2 ** (attempt - 1))
            wait_s = max(wait_s, error.retry_after_s or 0.0)
            spent_s = time.monotonic() - start
            if not error.passing or attempt == attempts or spent_s + wait_s > deadline_s:
                raise
            sleep(wait_s)
    raise AssertionError("unreachable: the last attempt returns or raises")


_PASSING = (Trouble.UNREACHABLE, Trouble.BUSY)
_ANSWER_SAYS: tuple[tuple[type[BaseException], Trouble, str], ...] = (
    (
        GatedRepoError,
        Trouble.GATED,
        "access is gated: accept its terms on the Hub and set an HF_TOKEN that may read it",
    ),
    (RevisionNotFoundError, Trouble.REVISION, "there is no such revision"),
    (EntryNotFoundError, Trouble.FILE, "a file is missing there"),
    (
        RepositoryNotFoundError,
        Trouble.MISSING,
        "the Hub has no such repository, or this HF_TOKEN may not see it",
    ),
    (HFValidationError, Trouble.REFUSED, "that is no name of a repository"),
)
_TRANSPORT_SAYS: tuple[tuple[type[BaseException], Trouble, str], ...] = (
    (httpx2.TimeoutException, Trouble.UNREACHABLE, "the Hub did not answer in time"),
    (httpx2.HTTPError, Trouble.UNREACHABLE, "the connection to the Hub failed"),
    (ConnectionError, Trouble.UNREACHABLE, "the connection to the Hub failed"),
)
_STATUS_SAYS = {
    401: (Trouble.TOKEN, "the Hub refused HF_TOKEN: set one that is valid"),
    402: (
        Trouble.PAYMENT,
        "the account has no credit for it: add credit or a payment method on the Hub",
    ),
    403: (
        Trouble.FORBIDDEN,
        "HF_TOKEN lacks the permission: give it write access, or use another name",
    ),
    404: (Trouble.MISSING, "the Hub has no such thing, or this HF_TOKEN may not see it"),
}


def to_hub_error(error: BaseException) -> HubError:
    """The reason behind an exception of huggingface_hub, in words without tokens or addresses."""
    if isinstance(error, HubError):
        return error
    return next(
        (found for link in _chain(error) if (found := _from_link(link))),
        # A body cut short: JSON that does not parse, a file of another size than announced.
        HubError(
            Trouble.BUSY,
            f"the Hub's answer was cut short or makes no sense ({type(error).__name__})",
            passing=True,
        ),
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    # An LFS upload wraps its cause in a RuntimeError, a lost download in a LocalEntryNotFoundError.
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _from_link(link: BaseException) -> HubError | None:
    if isinstance(link, OfflineModeIsEnabled):
        return HubError(Trouble.UNREACHABLE, "HF_HUB_OFFLINE is set", passing=False)
    if isinstance(link, LocalEntryNotFoundError):
        reason = "the Hub can't be reached"
        return None if link.__cause__ else HubError(Trouble.UNREACHABLE, reason, passing=True)
    table = _ANSWER_SAYS
    if not isinstance(link, HfHubHTTPError):
        table += _TRANSPORT_SAYS
    for kind, trouble, reason in table:
        if isinstance(link, kind):
            return HubError(trouble, reason, passing=trouble in _PASSING)
    if isinstance(link, HfHubHTTPError):
        return _from_status(link)
    if isinstance(link, OSError) and link.errno is not None:
        return HubError(Trouble.DISK, f"the disk refused it ({link.strerror})", passing=False)
    return None


def _from_status(error: HfHubHTTPError) -> HubError:
    status = error.response.status_code
    if status in (408, 409, 412, 429) or status >= 500:
        wait = error.response.headers.get("Retry-After", "")
        wait_s = float(wait) if wait.isdigit() else None
        reason = f"the Hub is busy or in trouble (HTTP {status})"
        return HubError(Trouble.BUSY, reason, passing=True, retry_after_s=wait_s)
    fallback = (Trouble.REFUSED, f"the Hub refused it (HTTP {status})")
    trouble, reason = _STATUS_SAYS.get(status, fallback)
    return HubError(trouble, reason, passing=False)
