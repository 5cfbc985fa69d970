"""One commit of files to a repository of the Hub, made once however often it is tried.

Owns how a file here is recognised there. Knows nothing of what is in the files.
"""

import hashlib
import io
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import sleep as wait

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from annotation.hub.client import HubError, RemoteRepo, RepoKind, Trouble, call_again, look_up

_CHUNK_BYTES = 1 << 20


def commit_files(
    repo: str,
    files: Mapping[str, bytes | Path],
    *,
    kind: RepoKind,
    message: str,
    token: str,
    sleep: Callable[[float], None] = wait,
) -> str:
    """Make `repo`, private, unless it is there, then `put_files`; the commit. Raises HubError."""
    make_repo(repo, kind=kind, token=token, sleep=sleep)
    return put_files(repo, files, kind=kind, message=message, token=token, sleep=sleep)


def put_files(
    repo: str,
    files: Mapping[str, bytes | Path],
    *,
    kind: RepoKind,
    message: str,
    token: str,
    gone: Collection[str] = (),
    sleep: Callable[[float], None] = wait,
) -> str:
    """Add `files` to the main branch and take those called `gone` away, in one commit; its id.

    A commit whose answer was lost is recognised by its files and not made again. Raises HubError.
    """
    api = HfApi(token=token)
    oids = {name: oids_of(content) for name, content in files.items()}

    def attempt() -> str:
        head = look_up(repo, None, token=token, kind=kind)
        left = [name for name in gone if head.file(name)]
        if holds(head, oids) and not left:
            return head.commit
        done = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, content) for name, content in files.items()),
                *(CommitOperationDelete(name) for name in left),
            ],
            repo_type=kind,
            commit_message=message,
            parent_commit=head.commit,
        )
        made = look_up(repo, done.oid, token=token, kind=kind)
        if not holds(made, oids):
            raise HubError(Trouble.REFUSED, "not every file arrived", passing=False)
        return made.commit

    return call_again(attempt, sleep=sleep)


def make_repo(
    repo: str, *, kind: RepoKind, token: str, sleep: Callable[[float], None] = wait
) -> None:
    """Make `repo`, private, unless it is there. Raises HubError."""
    api = HfApi(token=token)
    call_again(
        lambda: api.create_repo(repo, repo_type=kind, private=True, exist_ok=True), sleep=sleep
    )


def oids_of(content: bytes | Path) -> tuple[str, str]:
    """sha256 of the content, which names an LFS file, and git's sha1, which names any other."""
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)  # noqa: S324
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            sha256.update(chunk)
            sha1.update(chunk)
    return sha256.hexdigest(), sha1.hexdigest()


def has_file(remote: RemoteRepo, name: str, oids: tuple[str, str]) -> bool:
    """Whether `name` is there with one of `oids`."""
    file = remote.file(name)
    return file is not None and file.oid in oids


def holds(remote: RemoteRepo, oids: Mapping[str, tuple[str, str]]) -> bool:
    """Whether every file is there as it is here."""
    return all(has_file(remote, name, known) for name, known in oids.items())
