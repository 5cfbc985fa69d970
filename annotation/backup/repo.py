"""The dataset repository that votes are backed up to: append, read, and forget.

Owns the layout (`events/<counter>-<random>.jsonl`, a card) and what is tried again. A file is never
changed: new ones are added, and on a voter's wish some give way to others without that voter and
the history goes. May raise HubError, and BackupError for a file that can't be read.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_session,
    hf_hub_url,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from annotation.backup.events import (
    BackupError,
    Event,
    EventFile,
    Header,
    Wish,
    forget,
    from_file,
    to_files,
)
from annotation.hub.client import HubError, RemoteRepo, Trouble, call_again, look_up
from annotation.hub.commits import holds, make_repo, oids_of

CARD = "README.md"
_EVENTS = re.compile(r"events/(\d{10})-[0-9a-f]{12}\.jsonl")
_READERS = 8
_Answer = TypeVar("_Answer")
_CARD = """---
pretty_name: Votes of a Votetune app
tags:
- votetune
---

# Votes of a Votetune app

The backup of one Votetune app: every pair of answers that it showed and every vote that it took, as
append-only files of JSON lines in `events/`. The app writes them, and restores its votes from them
when its disk is gone.

It names voters, so it is **private**: keep it so. It is no dataset to train on; the app exports
one. Do not change or delete files here: a voter who asks to be forgotten is removed by the app,
from the files and from their history; a hash of the name and the time of the wish remain.
"""


class BackupRepo:
    """One repository, `owner/name`, of the Hub."""

    def __init__(
        self,
        repo: str,
        token: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        deadline_s: float = 30.0,
    ) -> None:
        """Passing trouble is tried again with back-off, for `deadline_s` at most."""
        self.repo = repo
        self.sleep, self.deadline_s = sleep, deadline_s
        self._token = token
        self._api = HfApi(token=token)
        self._is_made = False

    def look(self) -> RemoteRepo:
        """What is there now; the repository is made, private, where it is missing."""
        if not self._is_made:
            make_repo(self.repo, kind="dataset", token=self._token, sleep=self.sleep)
            self._is_made = True
        return self._again(self._head)

    def newest_header(self, timeout_s: float) -> Header | None:
        """What the last file says of the home that wrote it, None of an empty repository.

        In `timeout_s` of wall time, or a passing HubError. May raise BackupError.
        """
        box: list[Header | Exception | None] = []

        def ask() -> None:
            try:
                remote = self.look()
                last = event_names(remote)[-1:]
                box.append(self.read(remote, last)[last[0]].header if last else None)
            except (HubError, BackupError) as error:
                box.append(error)

        # As in hub.client.probe: no library can be told to give up on a resolver.
        asking = threading.Thread(target=ask, name="backup-base", daemon=True)
        asking.start()
        asking.join(timeout_s)
        if not box:
            reason = f"the Hub did not answer within {timeout_s:.0f} s"
            raise HubError(Trouble.UNREACHABLE, reason, passing=True)
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]

    def append(self, header: Header, events: Sequence[Event], *, after: str | None) -> list[str]:
        """Add `events` as new files, numbered after the file `after`, in one commit; their names.

        A commit whose answer was lost is recognised by its files and not made again.
        """
        counter = _counter(after) + 1 if after else 1
        files = {_name(counter): content for content in to_files(header, events)}
        oids = {name: oids_of(content) for name, content in files.items()}

        def attempt() -> None:
            head = self._head()
            if holds(head, oids):
                return
            card = {} if head.file(CARD) else {CARD: _CARD.encode()}
            self._commit({**files, **card}, (), f"Add {len(events)} events", None)
            if not holds(self._head(), oids):
                raise HubError(Trouble.REFUSED, "not every file arrived", passing=False)

        self._again(attempt)
        return list(files)

    def read(
        self,
        remote: RemoteRepo,
        names: Sequence[str],
        progress: Callable[[int], None] = lambda done: None,
    ) -> dict[str, EventFile]:
        """The files `names` at that commit, whole and checked; `progress` hears how many are."""
        found: dict[str, EventFile] = {}

        def fetch(name: str) -> EventFile:
            return from_file(name, self._again(lambda: self._download(remote, name)))

        pool = ThreadPoolExecutor(_READERS, thread_name_prefix="backup-read")
        try:
            for name, file in zip(names, pool.map(fetch, names), strict=True):
                found[name] = file
                progress(len(found))
        finally:
            pool.shutdown(cancel_futures=True)
        return found

    def forget(self, wishes: Sequence[Wish]) -> None:
        """Put files without the voters of `wishes` in the place of those with them, in one commit.

        Then the branch becomes one commit, so that its history holds nothing of them either. Torn
        in between, it can be called again.
        """

        def attempt() -> None:
            head = self._head()
            gone, fresh = _without(self.read(head, event_names(head)), wishes)
            if gone:
                self._commit(fresh, gone, "Forget what voters asked to delete", head.commit)
                left = self._head()
                if any(left.file(name) for name in gone):
                    raise HubError(Trouble.BUSY, "an old file is still there", passing=True)
            self._api.super_squash_history(
                self.repo, repo_type="dataset", commit_message="Forget what voters asked to delete"
            )

        self._again(attempt)

    def _again(self, request: Callable[[], _Answer]) -> _Answer:
        return call_again(request, attempts=5, deadline_s=self.deadline_s, sleep=self.sleep)

    def _head(self) -> RemoteRepo:
        return look_up(self.repo, None, token=self._token, kind="dataset")

    def _commit(
        self, added: Mapping[str, bytes], gone: Iterable[str], message: str, parent: str | None
    ) -> None:
        self._api.create_commit(
            self.repo,
            [
                *(CommitOperationDelete(name) for name in gone),
                *(CommitOperationAdd(name, content) for name, content in added.items()),
            ],
            repo_type="dataset",
            commit_message=message,
            parent_commit=parent,
        )

    def _download(self, remote: RemoteRepo, name: str) -> bytes:
        # One request a file, where hf_hub_download takes two and a folder.
        answer = get_session().get(
            hf_hub_url(self.repo, name, repo_type="dataset", revision=remote.commit),
            headers=build_hf_headers(token=self._token),
        )
        hf_raise_for_status(answer)
        content: bytes = answer.content
        known = remote.file(name)
        if known is None or known.oid not in oids_of(content):
            raise HubError(Trouble.BUSY, f"{name} came damaged", passing=True)
        return content


def event_names(remote: RemoteRepo) -> list[str]:
    """The event files of a repository, in the order that they were numbered."""
    return sorted(file.name for file in remote.files if _EVENTS.fullmatch(file.name))


def _without(
    files: Mapping[str, EventFile], wishes: Sequence[Wish]
) -> tuple[list[str], dict[str, bytes]]:
    """Names of the files that hold something of the voters of `wishes`, and what replaces them."""
    gone: list[str] = []
    fresh: dict[str, bytes] = {}
    for name, file in files.items():
        kept = forget(file.events, wishes)
        if tuple(kept) != file.events:
            gone.append(name)
            fresh |= {_name(_counter(name)): text for text in to_files(file.header, kept)}
    return gone, fresh


def _counter(name: str) -> int:
    match = _EVENTS.fullmatch(name)
    return int(match[1]) if match else 0


def _name(counter: int) -> str:
    # Two instances of an app may take the same number, and never the same name.
    return f"events/{counter:010d}-{secrets.token_hex(6)}.jsonl"
