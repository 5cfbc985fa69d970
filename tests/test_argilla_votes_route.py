"""Many votes at once into a real embedded Argilla leave what its own bulk route leaves."""

import http.server
import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import argilla as rg
import httpx
import pytest
from argilla_fixture import wait_ready
from test_argilla_store import make_pair, make_vote

from annotation.argilla_server.launcher import Credentials, EmbeddedArgilla
from annotation.argilla_store.api import ArgillaApi, ArgillaRefused
from annotation.argilla_store.packed import ReceiptSort, receipts_spliced
from annotation.argilla_store.records import (
    compact,
    to_metadata,
    to_receipt,
    with_receipts,
)
from annotation.argilla_store.store import ArgillaConnection, ArgillaStore
from annotation.journal.journal import Journal
from annotation.schema import Choice, Pair, Reason, Vote, VoteSource

pytestmark = pytest.mark.argilla
Rows = dict[str, dict[Any, tuple[Any, ...]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def owner(home: Path) -> Iterator[Credentials]:
    """A server of this file's own: another's webhook would turn the route off."""
    server = EmbeddedArgilla(home)
    server.start()
    yield wait_ready(server)
    server.stop()


@dataclass
class Side:
    """One journal delivered to one dataset, by our route or by that of any Argilla."""

    name: str
    journal: Journal
    store: ArgillaStore
    dataset_id: str
    home: Path

    def rows(self) -> Rows:
        """The tables' rows of this dataset, ids as names, JSON as its text; and all their times."""
        with closing(sqlite3.connect(self.home / "argilla" / "argilla.db")) as db:

            def ask(sql: str) -> list[Any]:
                return db.execute(sql, (uuid.UUID(self.dataset_id).hex,)).fetchall()

            records = ask(
                "SELECT external_id, fields, metadata, status, inserted_at, updated_at"
                " FROM records WHERE dataset_id = ?"
            )
            responses = ask(
                'SELECT external_id, username, r."values", r.status, r.inserted_at, r.updated_at'
                " FROM responses r JOIN records ON records.id = record_id"
                " JOIN users ON users.id = user_id WHERE dataset_id = ? ORDER BY r.inserted_at"
            )
            members = ask(
                "SELECT username, d.inserted_at, d.updated_at FROM datasets_users d"
                " JOIN users ON users.id = user_id WHERE dataset_id = ?"
            )
            dataset = ask(
                "SELECT status, distribution, inserted_at, updated_at || last_activity_at"
                " FROM datasets WHERE id = ?"
            )
        return {
            "records": {row[0]: row[1:] for row in records},
            "responses": {row[:2]: row[2:] for row in responses},
            "members": {row[0]: row[1:] for row in members},
            "dataset": dict(enumerate(dataset)),
        }


def told(now: Rows, before: Rows) -> dict[str, dict[Any, tuple[Any, ...]]]:
    """Rows without their times, and whether each was touched since `before`."""
    return {
        table: {
            key: (*row[:-2], key in before[table], row[-1] != before[table].get(key, row)[-1])
            for key, row in rows.items()
        }
        for table, rows in now.items()
    }


@pytest.fixture
def sides(
    owner: Credentials, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Side, Side]]:
    """The one that uses our route, then the stock one."""
    made = []
    for name in ("ours", "stock"):
        journal = Journal(tmp_path / f"{name}.sqlite3")
        dataset = f"{name}-{uuid.uuid4().hex[:8]}"
        connection = ArgillaConnection(owner.api_url, owner.api_key, "votetune", dataset)
        store = ArgillaStore(connection, journal, votes_per_pair=2)
        with monkeypatch.context() as patched:
            if name == "stock":
                patched.setattr(ArgillaApi, "votes_at_once", lambda self: 0)
            store.ensure_dataset()
        dataset_id = _dataset_id(owner, dataset)
        made.append(Side(name, journal, store, dataset_id, home))
    yield made[0], made[1]
    for side in made:
        side.store.close()
        side.journal.close()


def _dataset_id(owner: Credentials, name: str) -> str:
    sdk = rg.Argilla(api_url=owner.api_url, api_key=owner.api_key)
    with closing(sdk.http_client):
        return str(sdk.datasets(name, workspace="votetune").id)


def packed(responses: dict[str, Any]) -> Any:
    """A response to each record of somebody without a receipt, as the route takes them."""
    users = list(dict.fromkeys(said["user_id"] for said in responses.values()))
    return {
        "voters": [[user_id, "ann"] for user_id in users],
        "answers": list(responses.values()),
        "receipts": [],
        "records": {
            key: [[users.index(said["user_id"]), n, None, "", ""]]
            for n, (key, said) in enumerate(responses.items())
        },
    }


def receipt_sort(receipt: Any) -> str:
    """As the app sends it."""
    return compact({k: value for k, value in receipt.items() if k not in ("id", "created_at")})


def nothing(*pairs: Pair) -> Any:
    """No change to the records of these."""
    records = {pair.id: [] for pair in pairs}
    return {"voters": [], "answers": [], "receipts": [], "records": records}


def both(sides: tuple[Side, Side], what: str, *more: Any, **named: Any) -> None:
    for side in sides:
        getattr(side.journal, what)(*more, **named).result(10)


def cast(pairs: list[Pair]) -> list[Vote]:
    """Votes of several people, flipped, tied, with words; pairs with none, one and two."""
    votes = []
    for n, pair in enumerate(pairs[:-1]):
        words = {"reasons": (Reason.SAFE, Reason.CLEAR), "comment": "é 🙂 “so”"} if n % 2 else {}
        choice = list(Choice)[n % 4]
        source = VoteSource.SYNTHETIC if n == 2 else VoteSource.PAGE
        votes.append(make_vote(pair, "ann", choice=choice, flipped=n % 3 == 0, **words))
        if n % 2:
            votes.append(make_vote(pair, "bob", choice=Choice.B, source=source))
    return votes


def test_the_tables_say_the_same_as_after_the_stock_route(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast: list[int] = []
    put = ArgillaApi.put_votes

    def counted(self: ArgillaApi, dataset_id: str, votes: Any) -> list[str]:
        left = put(self, dataset_id, votes)
        fast.append(len(votes["records"]) - len(left))
        return left

    monkeypatch.setattr(ArgillaApi, "put_votes", counted)
    pairs = [make_pair(n) for n in range(7)]
    votes = cast(pairs)
    before = [side.rows() for side in sides]

    def same() -> None:
        for side in sides:
            side.store.deliver()
            assert side.journal.undelivered_count() == 0
        now = [side.rows() for side in sides]
        said, wanted = (told(n, b) for n, b in zip(now, before, strict=True))
        assert said == wanted
        # Which of a record's responses came first, too.
        orders = [[k for k in n["responses"] if k[1] in ("ann", "bob", "eve")] for n in now]
        assert orders[0] == orders[1]
        before[:] = now

    both(sides, "add_pairs", pairs)
    same()
    for vote in votes:
        both(sides, "add_vote", vote)
    same()
    assert fast == [6]
    statuses = [row[2] for row in before[0]["records"].values()]
    assert statuses.count("completed") == 3
    # Undone, reworded, and voted on by one more.
    both(sides, "undo_vote", votes[1].id, voter="ann")
    both(sides, "amend_vote", votes[0].id, voter="ann", comment="more", reasons=None)
    both(sides, "add_vote", make_vote(pairs[0], "eve", choice=Choice.A))
    same()
    # Once more after a crash: nothing but the times of responses moves.
    again = "UPDATE votes SET delivered_revision = 0"
    for side in sides:
        side.journal.submit(lambda db: db.execute(again)).result(10)
    same()
    assert len(fast) == 3
    assert sum(fast) > 12
    # What another has said in Argilla stays, and so does each record's own time.
    for table in ("records", "responses"):
        assert all(row[-2] <= row[-1] for row in before[0][table].values())


def test_what_is_not_there_or_not_ours_goes_by_the_stock_route(sides: tuple[Side, Side]) -> None:
    side, _ = sides
    gone, wiped, whole = pairs = [make_pair(n) for n in range(3)]
    side.journal.add_pairs(pairs).result(10)
    side.store.deliver()
    api = side.store._api
    ids = {
        r["external_id"]: r["id"]
        for r in api.records_by_external_id(side.dataset_id, [p.id for p in pairs])
    }
    api.delete_records(side.dataset_id, [ids[gone.id]])
    api.upsert(side.dataset_id, [{"external_id": wiped.id, "metadata": {}}])
    for pair in pairs:
        side.journal.add_vote(make_vote(pair, "ann")).result(10)
    assert api.put_votes(side.dataset_id, nothing(whole, gone, wiped)) == [gone.id, wiped.id]
    assert side.store.deliver() == 3
    rows = side.rows()
    assert {key for key, _ in rows["responses"]} == {pair.id for pair in pairs}
    assert all('"pair"' in row[1] for row in rows["records"].values())


def test_other_answers_and_other_metadata_leave_what_the_stock_route_leaves(
    sides: tuple[Side, Side],
) -> None:
    """What no page of ours sends: drafts, nothing said, metadata with keys like ours in them."""
    pairs = [make_pair(n) for n in range(5)]
    both(sides, "add_pairs", pairs)
    odd = {"votes": "{}", "source": []}
    more = [
        {},
        {"deep": odd},
        {"list": [odd]},
        {'a"votes': "{}", "not": [float("nan")]},
        {"é": 'x"'},
    ]
    said = [
        {"status": "discarded", "values": None},
        {"status": "draft", "values": {}},
        {"status": "submitted", "values": {"preference": {"value": "a"}, "comment": {"value": 5}}},
        {"status": "submitted", "values": {"preference": {"value": "tie"}, "reasons": None}},
        {
            "status": "submitted",
            "values": {"comment": {"value": "é"}, "preference": {"value": "b"}},
        },
    ]
    receipt = to_receipt(make_vote(pairs[0], "ann"))
    for side in sides:
        side.store.deliver()
        side.journal.add_vote(make_vote(pairs[4], "ann")).result(10)
        side.store.deliver()
    user_id = sides[0].store._api.user_ids()["ann"]
    for n, (pair, extra, answer) in enumerate(zip(pairs, more, said, strict=True)):
        held = to_metadata(pair, {}) | extra
        if n == 1:
            held = {"deep": odd, **to_metadata(pair, {})}
        for side in sides:
            item = {"external_id": pair.id, "metadata": held}
            side.store._api.upsert(side.dataset_id, [item])
        response = {"user_id": user_id, **answer}
        ours = packed({pair.id: response}) | {"receipts": [receipt_sort(receipt)]}
        ours["records"][pair.id][0][2:] = [0, receipt["id"], receipt["created_at"]]
        stock = {
            "external_id": pair.id,
            "metadata": with_receipts(held, {"ann": receipt}),
            "responses": [response],
        }
        try:
            sides[1].store._api.upsert(sides[1].dataset_id, [stock])
        except ArgillaRefused:
            with pytest.raises(ArgillaRefused):
                sides[0].store._api.put_votes(sides[0].dataset_id, ours)
            assert n in (2, 3)
        else:
            assert sides[0].store._api.put_votes(sides[0].dataset_id, ours) == []
    found, wanted = ({k: r[:-2] for t in s.rows().values() for k, r in t.items()} for s in sides)
    assert found == wanted


def test_a_receipt_is_written_as_it_is_in_whole_metadata() -> None:
    for said in ({}, {"why": 'sa"id', "counted": False}, {"source": VoteSource.SYNTHETIC}):
        receipt = to_receipt(make_vote(make_pair(1), "ann", **said)) | {"id": 'é"'}
        made = ReceiptSort(json.loads(receipt_sort(receipt)))
        found = made(receipt["id"], receipt["created_at"])
        assert found == (compact(receipt), receipt["source"])
    # Whatever it holds: another version may say more of a vote.
    for more in ({"source": "x"}, {"source": "x", "a": [1], "z": {}, "e": None}):
        assert ReceiptSort(more)("i", "t")[0] == compact({**more, "id": "i", "created_at": "t"})


def test_a_splice_is_what_the_whole_metadata_written_anew_would_be() -> None:
    pair = make_pair(1)
    receipts = {v: to_receipt(make_vote(pair, v)) for v in ("ann", 'bo"b', "é")}
    for held in ({}, {"ann": receipts["ann"]}, receipts):
        for changes in ({}, {"zoe": receipts["é"]}, {"ann": None}, receipts, {"nobody": None}):
            before = to_metadata(pair, held)
            wanted = json.dumps(with_receipts(before, changes))
            written = {v: r and (compact(r), r["source"]) for v, r in reversed(changes.items())}
            given = (json.dumps(before), before["votes"], written)
            assert receipts_spliced(*given) == wanted
            # Whose key it is can't be told from the text.
            odd = json.dumps({"x": {"votes": before["votes"]}, **before})
            assert receipts_spliced(odd, *given[1:]) is None


_SAID = {"status": "submitted", "values": {"preference": {"value": "b"}}}
_HALF = {"status": "submitted", "values": {**_SAID["values"], "comment": {"value": "\ud800"}}}


_RECEIPT = '{"source":"page"}'
_VOTE = [0, 0, 0, "v1", "2026-01-02"]


@pytest.mark.parametrize(
    ("answers", "receipts", "votes"),
    [
        ([_SAID], ["x"], []),
        ([_SAID], ["[]"], []),
        ([_SAID], ["{}"], []),
        ([_SAID], ['{"source":1}'], []),
        ([_SAID], [1], []),
        ([_SAID], None, []),
        ([], [_RECEIPT], [_VOTE]),
        ([_SAID], [], [_VOTE]),
        ([_SAID], [_RECEIPT], [[1, *_VOTE[1:]]]),
        ([_SAID], [_RECEIPT], [[-1, *_VOTE[1:]]]),
        ([_SAID], [_RECEIPT], [[*_VOTE[:2], -1, *_VOTE[3:]]]),
        ([_SAID], [_RECEIPT], [_VOTE[:4]]),
        ([_SAID], [_RECEIPT], [[*_VOTE[:3], 1, "2026-01-02"]]),
        ([_SAID], [_RECEIPT], [[*_VOTE[:3], "\ud800", "2026-01-02"]]),
        ([_SAID, {}], [_RECEIPT], [_VOTE]),
        ([_HALF], [_RECEIPT], [_VOTE]),
    ],
)
def test_what_is_no_votes_is_refused(
    sides: tuple[Side, Side], answers: list[Any], receipts: Any, votes: list[Any]
) -> None:
    side, _ = sides
    pair = make_pair(1)
    side.journal.add_pairs([pair]).result(10)
    side.journal.add_vote(make_vote(pair, "ann")).result(10)
    side.store.deliver()
    api, before = side.store._api, side.rows()
    voters = [[api.user_ids()["ann"], "ann"]]
    body = {"voters": voters, "answers": answers, "receipts": receipts, "records": {pair.id: votes}}
    for odd in (body, body | {"records": {}}, body | {"voters": None}, [body]):
        with pytest.raises(ArgillaRefused) as refused:
            api.put_votes(side.dataset_id, odd)
        assert refused.value.status == 422
    assert side.rows() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"values": {"preference": {"value": "c"}}},
        {"values": {"reasons": {"value": ["clear"]}}},
        {"values": {"mood": {"value": "good"}, "preference": {"value": "a"}}},
        {"values": None},
        {"status": "lost"},
        {"user_id": str(uuid.uuid4())},
        {"user_id": "x"},
    ],
    ids=["label", "required", "question", "nothing", "status", "stranger", "id"],
)
def test_a_refused_response_leaves_nothing_of_its_batch(
    sides: tuple[Side, Side], changes: dict[str, Any]
) -> None:
    side, _ = sides
    first, second = pairs = [make_pair(n) for n in range(2)]
    side.journal.add_pairs(pairs).result(10)
    side.journal.add_vote(make_vote(first, "ann")).result(10)
    side.store.deliver()
    api, before = side.store._api, side.rows()
    good = {"status": "submitted", "values": {"preference": {"value": "b"}}}
    good["user_id"] = api.user_ids()["ann"]
    with pytest.raises(ArgillaRefused) as refused:
        api.put_votes(side.dataset_id, packed({first.id: good, second.id: good | changes}))
    assert refused.value.status == 422
    assert side.rows() == before


def _token(owner: Credentials, login: dict[str, str]) -> str:
    # The owner's password has a slow hash.
    answer = httpx.post(f"{owner.api_url}/api/v1/token", data=login, timeout=60)
    return str(answer.json()["access_token"])


def test_only_who_may_write_records_may_use_it(
    owner: Credentials, home: Path, sides: tuple[Side, Side]
) -> None:
    path = f"{owner.api_url}/api/v1/votetune/datasets/{sides[0].dataset_id}/votes"
    body = {"voters": [], "answers": [], "receipts": [], "records": {"x": []}}
    sdk = rg.Argilla(api_url=owner.api_url, api_key=owner.api_key)
    name = f"reader-{uuid.uuid4().hex[:8]}"
    with closing(sdk.http_client):
        rg.User(username=name, password="x" * 64, role="annotator", client=sdk).create()
    login = {"username": name, "password": "x" * 64}
    token = _token(owner, login)
    bearer = {"Authorization": f"Bearer {token}"}
    assert httpx.put(path, json=body, headers=bearer).status_code == 403
    with closing(sqlite3.connect(home / "argilla" / "argilla.db")) as db:
        found = db.execute("SELECT api_key FROM users WHERE username = ?", (name,)).fetchone()
    own = {"X-Argilla-Api-Key": found[0]}
    assert httpx.put(path, json=body, headers=own).status_code == 403
    assert httpx.put(path, json=body).status_code == 401
    for other in ("", "x" * 40):
        header = {"X-Argilla-Api-Key": other}
        assert httpx.put(path, json=body, headers=header).status_code == 401
    key = {"X-Argilla-Api-Key": owner.api_key}
    nowhere = path.replace(sides[0].dataset_id, str(uuid.uuid4()))
    assert httpx.put(nowhere, json=body, headers=key).status_code == 404
    login = {"username": owner.username, "password": owner.password}
    token = _token(owner, login)
    for header in (key, {"Authorization": f"Bearer {token}"}):
        assert httpx.put(path, json=body, headers=header).json() == {"left": ["x"]}
    assert httpx.put(path.replace("datasets/", "datasets/0"), json=body, headers=key).is_error


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (200, b"<html>"), (200, b"[]")])
def test_any_other_argilla_has_no_such_route(status: int, body: bytes) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        api = ArgillaApi(f"http://127.0.0.1:{other.server_port}", "key")
        assert api.votes_at_once() == 0
        api.close()
        other.shutdown()


def test_while_a_webhook_listens_every_vote_goes_by_the_stock_route(
    sides: tuple[Side, Side],
) -> None:
    side, _ = sides
    pair = make_pair(1)
    side.journal.add_pairs([pair]).result(10)
    side.journal.add_vote(make_vote(pair, "ann")).result(10)
    side.store.deliver()
    api = side.store._api
    hook = {"url": "http://127.0.0.1:9/", "events": ["record.updated"], "description": "test"}
    api._call("POST", "/api/v1/webhooks", hook)
    assert api.put_votes(side.dataset_id, nothing(pair)) == [pair.id]
    side.journal.add_vote(make_vote(pair, "bob")).result(10)
    assert side.store.deliver() == 1
    assert (pair.id, "bob") in side.rows()["responses"]
