"""What a Space still needs from its owner: the one list of missing secrets and foreign variables.

Pure. A duplicated Space gets its original's variables and none of its secrets; the setup page and
whoever refuses to start read this list, so that both say the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from annotation.settings import SpaceEnvironment


@dataclass(frozen=True, slots=True)
class Need:
    """A secret or variable to set. Without a `required` one the app does not start."""

    name: str
    kind: Literal["secret", "variable"]
    required: bool
    why: str
    how: str


def space_needs(space: SpaceEnvironment) -> tuple[Need, ...]:
    """What is missing on a Space, the required first; nothing anywhere else."""
    if not space.on_space:
        return ()
    return tuple(sorted(_needs(space), key=lambda need: not need.required))


def _needs(space: SpaceEnvironment) -> Iterator[Need]:
    if space.oauth_client_id and space.cookie_secret is None:
        yield Need(
            "COOKIE_SECRET",
            "secret",
            required=True,
            why="Signs the cookies that say who is signed in. A Space's disk is wiped at each "
            "restart: without it every restart would make every voter a stranger.",
            how='32 random characters or more, as python -c "import secrets; '
            'print(secrets.token_hex(32))" makes them.',
        )
    yield from _argilla_needs(space)
    yield from _backup_needs(space)
    named = [name.strip().lower() for name in (space.admin_users or "").split(",")]
    author = space.space_author_name
    if space.admin_users and author and author.lower() not in named:
        yield Need(
            "ADMIN_USERS",
            "variable",
            required=False,
            why=f"It is {space.admin_users}: they may open this Space's admin page. A copy of a "
            "Space keeps its original's variables.",
            how=f"Those who may, {author} say; deleted, it is the Space's owner.",
        )
    if space.generation_url and space.generation_api_key is None:
        yield Need(
            "GENERATION_API_KEY",
            "secret",
            required=False,
            why="The key of the server in GENERATION_URL, which writes the answers.",
            how="Ask whoever runs it; leave it out if that server wants none.",
        )


def _argilla_needs(space: SpaceEnvironment) -> Iterator[Need]:
    if space.argilla_api_url and space.argilla_api_key is None:
        yield Need(
            "ARGILLA_API_KEY",
            "secret",
            required=True,
            why="Opens the Argilla in ARGILLA_API_URL, which keeps the votes.",
            how="An owner's API key, from that Argilla's own settings page. Without an Argilla of "
            "your own, delete the variable ARGILLA_API_URL: one comes along.",
        )


def _backup_needs(space: SpaceEnvironment) -> Iterator[Need]:
    if space.hf_token is None:
        yield Need(
            "HF_TOKEN",
            "secret",
            required=space.votes_repo is not None,
            why="Backs the votes up to VOTES_REPO and publishes models, so that both outlive a "
            "restart.",
            how="A token of yours that may write, from https://huggingface.co/settings/tokens.",
        )
    owner = space.votes_repo.split("/", maxsplit=1)[0].lower() if space.votes_repo else None
    author = (space.space_author_name or "").lower()
    if owner is None and space.argilla_api_url is None:
        yield Need(
            "VOTES_REPO",
            "variable",
            required=False,
            why="The dataset that votes are backed up to, made private. With neither it nor "
            "ARGILLA_API_URL, votes vanish when the Space restarts.",
            how=f"{space.space_author_name or 'you'}/votes, say; needs HF_TOKEN.",
        )
    elif owner and author and owner != author:
        yield Need(
            "VOTES_REPO",
            "variable",
            required=space.hf_token is None,
            why=f"It is {space.votes_repo}, which is not of {space.space_author_name}: a copy of "
            "a Space keeps its original's variables. Two Spaces must not share one.",
            how=f"{space.space_author_name}/votes, say, unless HF_TOKEN may write to this one and "
            "no other Space does.",
        )
