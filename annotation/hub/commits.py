"""One commit of files to a repository of the Hub, and its tag, made once however often it is tried.

Owns how a file here is recognised there. Knows nothing of what is in the files.
"""

import hashlib
import io
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import sleep as wait

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from annotation.hub.client import (
    HubError,
    RemoteRepo,
    RepoKind,
    Trouble,
    call_again,
    is_repo_id,
    look_up,
)

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
    """Add `files` to the main branch of `repo`, which is there, and take those called `gone` away,
    in one commit; its id.

    A commit whose answer was lost is recognised by its files and not made again. Raises HubError.
    """
    api = HfApi(token=token)
    oids = {name: oids_of(content) for name, content in files.items()}

    def attempt() -> str:
        # On the head as it is now, so that nobody else's commit is lost.
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
        missing = [name for name, known in oids.items() if not has_file(made, name, known)]
        if missing:
            raise HubError(
                Trouble.REFUSED,
                f"{missing[0]} did not arrive (does a .gitignore there leave it out?)",
                passing=False,
            )
        return made.commit

    return call_again(attempt, sleep=sleep)


def put_tag(
    repo: str,
    tag: str,
    commit: str,
    *,
    kind: RepoKind,
    token: str,
    sleep: Callable[[float], None] = wait,
) -> None:
    """Name `commit` of `repo` `tag`, which no other commit has. Raises HubError."""
    api = HfApi(token=token)

    def attempt() -> None:
        api.create_tag(repo, tag=tag, revision=commit, repo_type=kind, exist_ok=True)
        # A conflict may mean that the tag is there already, so it is looked up.
        try:
            made = look_up(repo, tag, token=token, kind=kind).commit
        except HubError as error:
            made = None
            if error.trouble is not Trouble.REVISION:
                raise
        if made != commit:
            raise HubError(Trouble.BUSY, f"the tag {tag} was not made", passing=True)

    call_again(attempt, sleep=sleep)


def find_revision(
    repo: str,
    revision: str,
    *,
    kind: RepoKind,
    token: str,
    sleep: Callable[[float], None] = wait,
) -> RemoteRepo | None:
    """What `repo` holds at `revision`; None where it has no such revision. Raises HubError."""
    try:
        return call_again(lambda: look_up(repo, revision, token=token, kind=kind), sleep=sleep)
    except HubError as error:
        if error.trouble is Trouble.REVISION:
            return None
        raise


def make_repo(
    repo: str,
    *,
    kind: RepoKind,
    token: str,
    private: bool | None = True,
    sleep: Callable[[float], None] = wait,
) -> None:
    """Make `repo` unless it is there; `private` None takes the Hub's default. Raises HubError."""
    api = HfApi(token=token)
    call_again(
        lambda: api.create_repo(repo, repo_type=kind, private=private, exist_ok=True), sleep=sleep
    )


def full_name(repo: str, namespace: str | None, token: str) -> str:
    """`repo` as owner/name: a bare name goes under `namespace`, else under the token's own user.

    Raises HubError where it can be no repository's name.
    """
    if not is_repo_id(repo):
        raise HubError(
            Trouble.REFUSED,
            f"{repo!r} is no name for a repository: use letters, digits, - _ and ., "
            "bare or as owner/name, at most 96 in all",
            passing=False,
        )
    if "/" in repo:
        return repo
    owner = namespace or str(call_again(lambda: HfApi(token=token).whoami())["name"])
    return f"{owner}/{repo}"


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
