"""One Argilla dataset over one journal: how it is set up, and the two ways votes go.

The only importer of the argilla SDK, which makes and checks the dataset. Delivery is
`argilla_delivery`, reading back `argilla_readback`, the record's layout `argilla_records`. Blocks
while it talks: nothing that a voter waits for may call it.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from annotation.argilla_store.api import (
    LOOPBACK,
    TIMEOUT_S,
    ArgillaApi,
    ArgillaRefused,
    ArgillaUnavailable,
)
from annotation.argilla_store.deletion import ArgillaDeletion
from annotation.argilla_store.delivery import Delivery
from annotation.argilla_store.readback import Readback
from annotation.faults import Fault
from annotation.journal.journal import Journal
from annotation.schema import Reason

_GUIDELINES = (
    "Which answer is better for this prompt? Judge the answers alone: where they come from is "
    "hidden on purpose. Choose *Tie* where both are about as good, *Both are bad* where you "
    "would send neither. Reasons and a comment are welcome, never needed."
)
_CHOICES = {"a": "A is better", "b": "B is better", "tie": "Tie", "both_bad": "Both are bad"}
_REASONS = {reason.value: reason.value.capitalize() for reason in Reason}
_TERMS = (
    *("split", "source", "models", "model_a", "model_b", "revision_a", "revision_b"),
    *("finish_a", "finish_b"),
)
_FLOATS = ("temperature", "top_p")
_INTEGERS = ("max_new_tokens", "seed")


class ArgillaStoreError(Fault):
    """Argilla can't be used as it is set up; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ArgillaConnection:
    """Where the votes go. The key must be an owner's: it writes in the voters' names."""

    api_url: str
    api_key: str = field(repr=False)
    workspace: str
    dataset: str


class ArgillaStore:
    """Delivers one journal to one dataset and reads that dataset back.

    Every method may raise a Fault: ArgillaUnavailable (try again later), ArgillaStoreError or
    ArgillaRefused (somebody has to act). After one, make a new store.
    """

    def __init__(
        self,
        connection: ArgillaConnection,
        journal: Journal,
        *,
        votes_per_pair: int,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._connection = connection
        self._journal = journal
        self._votes_per_pair = votes_per_pair
        self._stopping = stopping
        self._api = ArgillaApi(connection.api_url, connection.api_key)
        self._delivery: Delivery | None = None
        self._readback: Readback | None = None
        self._deletion: ArgillaDeletion | None = None

    def close(self) -> None:
        """End the connection, also under a call that another thread is waiting in."""
        self._api.close()

    def refused_count(self) -> int:
        """Pairs, votes and deletions that Argilla refused and that wait for a while."""
        parts = (self._delivery, self._deletion)
        return sum(part.refused_count() for part in parts if part)

    def ensure_dataset(self) -> None:
        """Make workspace and dataset where they are missing, check them where they are not."""
        self._check_owner()
        dataset_id = _ensure_dataset(self._connection, self._votes_per_pair)
        distribution = self._api.dataset(dataset_id)["distribution"]
        if distribution["min_submitted"] != self._votes_per_pair:
            self._api.set_min_submitted(dataset_id, self._votes_per_pair)
        self._delivery = Delivery(self._api, self._journal, dataset_id)
        self._readback = Readback(self._api, self._journal, dataset_id)
        self._deletion = ArgillaDeletion(self._api, self._journal, dataset_id)

    def deliver(self) -> int:
        """Delete whom the journal forgot, then send what Argilla has not got: pairs, then votes.

        How many pairs and votes went.
        """
        if self._delivery is None or self._deletion is None:
            self.ensure_dataset()
            return self.deliver()
        if forgotten := self._deletion.run(self._stopping):
            self._delivery.forget_users(forgotten)
        return self._delivery.run(self._stopping)

    def pull(self, *, thorough: bool = False) -> int:
        """Take over what was voted, changed or removed in Argilla; how many votes moved.

        `thorough` reads every record at once, not only where something seems to have changed.
        """
        if self._readback is None:
            self.ensure_dataset()
            return self.pull(thorough=thorough)
        return self._readback.pull(self._stopping, thorough=thorough)

    def _check_owner(self) -> None:
        try:
            me = self._api.me()
        except ArgillaRefused as error:
            if error.status not in (401, 403):
                raise
            raise ArgillaStoreError(
                f"Argilla at {self._connection.api_url} does not know this ARGILLA_API_KEY: "
                "set an owner's key."
            ) from error
        if me["role"] != "owner":
            raise ArgillaStoreError(
                f"ARGILLA_API_KEY is the key of {me['username']!r}, whose role is {me['role']!r}: "
                "set an owner's key, which may write votes in the voters' names."
            )


def _ensure_dataset(connection: ArgillaConnection, votes_per_pair: int) -> str:
    """Id of the dataset, made by the SDK where it is missing."""
    import argilla as rg
    from argilla._exceptions import ArgillaError

    try:
        client = rg.Argilla(
            api_url=connection.api_url,
            api_key=connection.api_key,
            timeout=int(TIMEOUT_S),
            trust_env=urlsplit(connection.api_url).hostname not in LOOPBACK,
        )
        with closing(client.http_client):
            return _found_or_made(rg, client, connection, votes_per_pair)
    except httpx.HTTPError as error:
        raise ArgillaUnavailable(
            f"Argilla at {connection.api_url} does not answer ({type(error).__name__})."
        ) from error
    except ArgillaError as error:
        raise ArgillaStoreError(
            f"Argilla at {connection.api_url} refuses the dataset {connection.dataset!r}: {error}"
        ) from error


def _found_or_made(rg: Any, client: Any, connection: ArgillaConnection, votes_per_pair: int) -> str:
    named = [w for w in client.workspaces if w.name == connection.workspace]
    workspace = named[0] if named else rg.Workspace(connection.workspace, client=client).create()
    wanted = _settings(rg, votes_per_pair)
    for dataset in workspace.datasets:
        if dataset.name == connection.dataset:
            if _is_finished(client, dataset, wanted, connection):
                return str(dataset.id)
            # Left half-made by an app that was killed; a draft holds no record.
            dataset.delete()
    made = rg.Dataset(connection.dataset, workspace=workspace, settings=wanted, client=client)
    return str(made.create().id)


def _is_finished(client: Any, dataset: Any, wanted: Any, connection: ArgillaConnection) -> bool:
    """Whether a dataset of our name can be used; False for a draft of ours.

    Raises ArgillaStoreError for a dataset of another make, before anything is changed.
    """
    found = dataset.get().settings
    draft = client.api.http_client.get(f"/api/v1/datasets/{dataset.id}").json()["status"] == "draft"
    problem = _problem(found, wanted, draft=draft)
    if problem:
        raise ArgillaStoreError(
            f"The dataset {connection.dataset!r} in Argilla's workspace "
            f"{connection.workspace!r} is not one of Votetune's ({problem}): "
            "set ARGILLA_DATASET to another name."
        )
    if draft:
        return False
    missing = [p for p in wanted.metadata if p.name not in {m.name for m in found.metadata}]
    if missing or not found.allow_extra_metadata:
        for metadata_property in missing:
            found.metadata.add(metadata_property)
        found.allow_extra_metadata = True
        dataset.update()
    return True


def _problem(found: Any, wanted: Any, *, draft: bool) -> str | None:
    """What keeps our records and responses from fitting in; a draft may lack things."""
    for kind in ("fields", "questions"):
        theirs = {item.name: item for item in getattr(found, kind)}
        ours = {item.name: item for item in getattr(wanted, kind)}
        for name, item in ours.items():
            other = theirs.pop(name, None)
            if other is None:
                if not draft:
                    return f"its {kind} lack {name!r}"
            elif type(other) is not type(item) or _labels(other) != _labels(item):
                return f"its {kind} have another {name!r}"
        for name, item in theirs.items():
            if item.required or draft:
                return f"its {kind} have {name!r} besides"
    return None


def _labels(item: Any) -> set[str]:
    return set(getattr(item, "labels", ()))


def _settings(rg: Any, votes_per_pair: int) -> Any:
    """What an annotator sees, and the metadata that annotators do not see."""
    hidden = {"visible_for_annotators": False}
    return rg.Settings(
        guidelines=_GUIDELINES,
        fields=[
            rg.ChatField(name="prompt", title="Prompt", use_markdown=False),
            rg.TextField(name="completion_a", title="Answer A", use_markdown=False),
            rg.TextField(name="completion_b", title="Answer B", use_markdown=False),
        ],
        questions=[
            rg.LabelQuestion(name="preference", title="Which is better?", labels=_CHOICES),
            rg.MultiLabelQuestion(name="reasons", title="Why?", labels=_REASONS, required=False),
            rg.TextQuestion(name="comment", title="Anything else?", required=False),
        ],
        metadata=[
            *(rg.TermsMetadataProperty(name, **hidden) for name in _TERMS),
            *(rg.FloatMetadataProperty(name, **hidden) for name in _FLOATS),
            *(rg.IntegerMetadataProperty(name, **hidden) for name in _INTEGERS),
        ],
        allow_extra_metadata=True,
        distribution=rg.TaskDistribution(min_submitted=votes_per_pair),
    )
