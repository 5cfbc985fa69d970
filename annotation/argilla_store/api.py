"""The few REST calls of Argilla that the SDK cannot send, and what their failures mean.

Owns one HTTP client. Knows JSON and status codes, nothing of pairs and votes.
"""

import json
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import httpx

from annotation.argilla_store.records import Json
from annotation.faults import Fault

TIMEOUT_S = 60.0
IDS_PER_SEARCH = 250
RECORDS_PER_DELETE = 100
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ArgillaUnavailable(Fault):
    """Argilla does not answer now; the same call may go through later."""


class ArgillaRefused(Fault):
    """Argilla answered and will not do it: `status` and its own words say why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ArgillaApi:
    """Calls as the bearer of one API key. Any call may raise the two errors above."""

    def __init__(self, api_url: str, api_key: str) -> None:
        self._url = api_url
        self._client = httpx.Client(
            base_url=api_url,
            headers={"X-Argilla-Api-Key": api_key, "Content-Type": "application/json"},
            timeout=TIMEOUT_S,
            # A proxy of the environment must never see a request to loopback.
            trust_env=urlsplit(api_url).hostname not in LOOPBACK,
        )

    def close(self) -> None:
        """Safe to call from another thread: a call in flight then fails as unavailable."""
        self._client.close()

    def me(self) -> Json:
        return self._call("GET", "/api/v1/me")

    def user_ids(self) -> dict[str, str]:
        """User id by user name, for everybody."""
        users = self._call("GET", "/api/v1/users")["items"]
        return {user["username"]: user["id"] for user in users}

    def create_user(self, *, user_id: str, username: str, first_name: str, password: str) -> None:
        body = {
            "id": user_id,
            "username": username,
            "first_name": first_name,
            "password": password,
            "role": "annotator",
        }
        self._call("POST", "/api/v1/users", body)

    def dataset(self, dataset_id: str) -> Json:
        return self._call("GET", f"/api/v1/datasets/{dataset_id}")

    def set_min_submitted(self, dataset_id: str, min_submitted: int) -> None:
        distribution = {"strategy": "overlap", "min_submitted": min_submitted}
        self._call("PATCH", f"/api/v1/datasets/{dataset_id}", {"distribution": distribution})

    def upsert(self, dataset_id: str, items: Sequence[Json]) -> None:
        """All items or none; what an item leaves out stays as it is."""
        path = f"/api/v1/datasets/{dataset_id}/records/bulk"
        self._call("PUT", path, {"items": list(items)})

    def votes_at_once(self) -> int:
        """How many votes `put_votes` takes: 0 where Argilla is not the embedded server."""
        try:
            return int(self._call("GET", "/api/v1/votetune")["votes_at_once"])
        except (ArgillaRefused, LookupError, TypeError, ValueError):
            return 0

    def put_votes(self, dataset_id: str, votes: Json) -> list[str]:
        """Responses and receipts, `to_packed_votes`, on records that are there; all or none.

        The external ids of those that have to go through `upsert`.
        """
        path = f"/api/v1/votetune/datasets/{dataset_id}/votes"
        left: list[str] = self._call("PUT", path, votes)["left"]
        return left

    def records(self, dataset_id: str, page: int) -> Iterator[list[Json]]:
        """All records with all responses, oldest first, in pages."""
        offset = 0
        while True:
            query = f"include=responses&offset={offset}&limit={page}"
            path = f"/api/v1/datasets/{dataset_id}/records?{query}"
            items = self._call("GET", path)["items"]
            if items:
                yield items
            if len(items) < page:
                return
            offset += page

    def newest_records(self, dataset_id: str, page: int) -> Iterator[list[Json]]:
        """Records with responses, those that changed last first, in pages."""
        last_first = [{"scope": _property("updated_at"), "order": "desc"}]
        offset = 0
        while True:
            items = self._search(dataset_id, {"sort": last_first}, page, offset)
            if items:
                yield items
            if len(items) < page:
                return
            offset += page

    def records_by_external_id(
        self, dataset_id: str, ids: Sequence[str], *, responses: bool = True
    ) -> list[Json]:
        """Those of `ids` that exist, with or without their responses."""
        found: list[Json] = []
        for start in range(0, len(ids), IDS_PER_SEARCH):
            some = list(ids[start : start + IDS_PER_SEARCH])
            terms = {"type": "terms", "scope": _property("external_id"), "values": some}
            body = {"filters": {"and": [terms]}}
            found += self._search(dataset_id, body, IDS_PER_SEARCH, 0, responses=responses)
        return found

    def delete_response(self, response_id: str) -> None:
        """Its record waits for votes again. One that is gone is no error, here and below."""
        self._delete(f"/api/v1/responses/{response_id}")

    def delete_records(self, dataset_id: str, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), RECORDS_PER_DELETE):
            some = ",".join(ids[start : start + RECORDS_PER_DELETE])
            self._delete(f"/api/v1/datasets/{dataset_id}/records?ids={some}")

    def delete_user(self, user_id: str) -> None:
        """With all their responses, in whatever dataset."""
        self._delete(f"/api/v1/users/{user_id}")

    def _delete(self, path: str) -> None:
        try:
            self._call("DELETE", path)
        except ArgillaRefused as error:
            if error.status != 404:
                raise

    def _search(
        self, dataset_id: str, body: Json, limit: int, offset: int, *, responses: bool = True
    ) -> list[Json]:
        query = f"offset={offset}&limit={limit}{'&include=responses' * responses}"
        path = f"/api/v1/datasets/{dataset_id}/records/search?{query}"
        return [item["record"] for item in self._call("POST", path, body)["items"]]

    def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        # ASCII on the wire: a lone surrogate is then Argilla's to refuse, and no crash here.
        content = None if body is None else json.dumps(body).encode()
        try:
            answer = self._client.request(method, path, content=content)
        except (httpx.HTTPError, RuntimeError) as error:
            # httpx raises RuntimeError when the client was closed meanwhile.
            raise ArgillaUnavailable(
                f"Argilla at {self._url} does not answer ({type(error).__name__})."
            ) from error
        if answer.is_success:
            return self._json(answer)
        told = f"Argilla at {self._url} answered {answer.status_code} to {method} {path}"
        if answer.status_code in (408, 425, 429, 502, 503, 504):
            raise ArgillaUnavailable(f"{told}.")
        raise ArgillaRefused(f"{told}: {answer.text[:500]}", answer.status_code)

    def _json(self, answer: httpx.Response) -> Json:
        try:
            found: Json = answer.json() if answer.content else {}
        except ValueError as error:
            raise ArgillaRefused(
                f"{self._url} did not answer as Argilla does: check ARGILLA_API_URL.",
                answer.status_code,
            ) from error
        return found


def _property(name: str) -> Json:
    return {"entity": "record", "property": name}
