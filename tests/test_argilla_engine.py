"""What people find, filter and still have to judge in a real Argilla on the SQL engine."""

import http.server
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import argilla as rg
import httpx
import pytest

from annotation.argilla_server.launcher import Credentials

pytestmark = pytest.mark.argilla

TOPICS = ["über Äpfel", "über Birnen", "on pears", 'on "quoted" things', "on 100% of it", "on a_b"]


@dataclass
class World:
    """Six records with ids r0-r5 that want two votes, and two annotators."""

    sdk: rg.Argilla
    dataset: Any
    people: list[httpx.Client]

    @property
    def path(self) -> str:
        return f"/datasets/{self.dataset.id}"

    def find(self, *, text: str | None = None, where: Any = None) -> list[str]:
        """Ids that the SDK finds, in the order in which it gives them."""
        query = rg.Query(query=text, filter=rg.Filter(where) if where else None)
        return [record.id for record in self.dataset.records(query=query)]

    def sorted_by(self, order: str, **scope: str) -> list[str]:
        body = {"sort": [{"scope": scope, "order": order}]}
        items = self.owner("POST", f"{self.path}/records/search", json=body)["items"]
        return [item["record"]["external_id"] for item in items]

    def owner(self, method: str, path: str, **more: Any) -> Any:
        answer = self.sdk.api.http_client.request(method, f"/api/v1{path}", **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def ids(self) -> dict[str, str]:
        items = self.owner("GET", f"{self.path}/records?limit=100")["items"]
        return {item["external_id"]: item["id"] for item in items}

    def respond(
        self, person: int, record: str, status: str = "submitted", choice: str = "a"
    ) -> None:
        body = {"status": status, "values": {"preference": {"value": choice}}}
        answer = self.people[person].post(f"/records/{self.ids()[record]}/responses", json=body)
        assert answer.status_code == 201, answer.text

    def queue(self, person: int, *statuses: str, record: str | None = "pending") -> list[str]:
        """What the annotation page asks for: one person's records in some state."""
        scopes = [({"entity": "response", "property": "status"}, list(statuses))]
        if record:
            scopes.append(({"entity": "record", "property": "status"}, [record]))
        terms = [{"type": "terms", "scope": scope, "values": v} for scope, v in scopes]
        answer = self.people[person].post(
            f"/me{self.path}/records/search?include=responses", json={"filters": {"and": terms}}
        )
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["total"] == len(found["items"])
        return [item["record"]["external_id"] for item in found["items"]]


@pytest.fixture
def world(argilla_server: Credentials) -> Iterator[World]:
    sdk = rg.Argilla(api_url=argilla_server.api_url, api_key=argilla_server.api_key)
    name = uuid.uuid4().hex[:10]
    workspace = rg.Workspace(f"engine-{name}", client=sdk).create()
    settings = rg.Settings(
        fields=[rg.ChatField(name="prompt"), rg.TextField(name="answer")],
        questions=[
            rg.LabelQuestion(name="preference", labels=["a", "b"]),
            rg.RatingQuestion(name="rating", values=[0, 1, 2, 3], required=False),
        ],
        metadata=[
            rg.TermsMetadataProperty("kinds"),
            rg.IntegerMetadataProperty("seed"),
            rg.FloatMetadataProperty("heat"),
        ],
        vectors=[rg.VectorField("place", dimensions=2)],
        distribution=rg.TaskDistribution(min_submitted=2),
    )
    dataset = rg.Dataset(name, workspace=workspace, settings=settings, client=sdk).create()
    dataset.records.log(
        [
            rg.Record(
                id=f"r{i}",
                fields={
                    "prompt": [{"role": "user", "content": f"Tell me {topic}"}],
                    "answer": f"Answer {i}",
                },
                metadata={
                    "kinds": ["even" if i % 2 == 0 else "odd", "all"],
                    "seed": i,
                    "heat": i / 2,
                },
                suggestions=[
                    rg.Suggestion("preference", "b" if i == 4 else "a", score=i / 10, agent="m1")
                ],
                vectors={"place": [1.0, float(i)]},
            )
            for i, topic in enumerate(TOPICS)
        ]
    )
    people = []
    for i in range(2):
        username, password = f"p{i}-{name}", "x" * 64
        rg.User(username=username, password=password, client=sdk).create().add_to_workspace(
            workspace
        )
        login = {"username": username, "password": password}
        token = httpx.post(f"{argilla_server.api_url}/api/v1/token", data=login).json()
        bearer = {"Authorization": f"Bearer {token['access_token']}"}
        people.append(httpx.Client(base_url=f"{argilla_server.api_url}/api/v1", headers=bearer))
    yield World(sdk, dataset, people)
    for person in people:
        person.close()
    sdk.http_client.close()


def test_text_is_found_whatever_its_case_and_accents(world: World) -> None:
    assert world.find(text="äpfel") == ["r0"]
    assert world.find(text="ÜBER BIRNEN") == ["r1"]
    assert world.find(text="ON PEARS") == ["r2"]
    assert world.find(text="über -äpfel") == ["r1"]
    assert world.find(text='"tell me on"') == ["r2", "r3", "r4", "r5"]
    # Every word counts, in any field; wildcards of SQL and roles of a chat mean nothing.
    assert world.find(text="pears 2") == ["r2"]
    assert world.find(text="100%") == ["r4"] and world.find(text="a_b") == ["r5"]
    assert world.find(text="user") == []
    searched = world.owner(
        "POST",
        f"{world.path}/records/search",
        json={"query": {"text": {"q": "3", "field": "answer"}}},
    )
    assert [item["record"]["external_id"] for item in searched["items"]] == ["r3"]


def test_filters_mean_what_they_say(world: World) -> None:
    assert world.find(where=[("metadata.kinds", "==", "odd")]) == ["r1", "r3", "r5"]
    assert world.find(where=[("metadata.kinds", "in", ["even", "odd"])]) == [
        f"r{i}" for i in range(6)
    ]
    assert world.find(where=[("metadata.seed", ">=", 4)]) == ["r4", "r5"]
    assert world.find(where=[("metadata.heat", ">=", 0.5), ("metadata.heat", "<=", 1.0)]) == [
        "r1",
        "r2",
    ]
    assert world.find(where=[("id", "in", ["r5", "r1"])]) == ["r1", "r5"]
    assert world.find(where=[("preference.suggestion", "==", "b")]) == ["r4"]
    assert world.find(where=[("preference.score", ">=", 0.4)]) == ["r4", "r5"]
    assert world.find(where=[("preference.agent", "==", "m2")]) == []
    assert world.find(where=[("status", "==", "pending")], text="pears") == ["r2"]
    world.respond(0, "r2", choice="b")
    assert world.find(where=[("preference.response", "==", "b")]) == ["r2"]
    assert world.find(where=[("response.status", "==", "submitted")]) == ["r2"]
    assert world.find(
        where=[("inserted_at", ">=", "2020-01-01T00:00:00Z"), ("metadata.seed", "<=", 0)]
    ) == ["r0"]
    assert world.find(where=[("inserted_at", "<=", "2020-01-01T00:00:00")]) == []


def test_sorting_pages_and_ties_are_stable(world: World) -> None:
    down = [f"r{i}" for i in range(5, -1, -1)]
    assert world.sorted_by("desc", entity="metadata", metadata_property="seed") == down
    assert world.sorted_by("desc", entity="record", property="inserted_at") == down
    score = {"entity": "suggestion", "question": "preference", "property": "score"}
    assert world.sorted_by("desc", **score)[0] == "r5"
    order = [{"scope": {"entity": "metadata", "metadata_property": "seed"}, "order": "desc"}]
    pages: list[str] = []
    for offset in range(0, 6, 2):
        path = f"{world.path}/records/search?offset={offset}&limit=2"
        found = world.owner("POST", path, json={"sort": order})
        assert found["total"] == 6
        pages += [item["record"]["external_id"] for item in found["items"]]
    assert pages == down
    # Those without a response come last.
    world.respond(0, "r3", choice="b")
    world.respond(0, "r1", choice="a")
    answered = {"entity": "response", "question": "preference"}
    assert world.sorted_by("desc", **answered)[:3] == ["r3", "r1", "r0"]
    world.owner(
        "PUT",
        f"{world.path}/records/bulk",
        json={"items": [{"external_id": "r3", "metadata": {"seed": 9}}]},
    )
    assert world.sorted_by("desc", entity="record", property="updated_at")[0] == "r3"


def test_each_persons_queue_holds_what_is_still_to_judge(world: World) -> None:
    everything = {f"r{i}" for i in range(6)}
    assert set(world.queue(0, "pending")) == everything
    assert world.queue(0, "pending") == world.queue(0, "pending")
    world.respond(0, "r0")
    world.respond(0, "r1", status="draft")
    world.respond(0, "r2", status="discarded")
    assert set(world.queue(0, "pending")) == {"r3", "r4", "r5"}
    assert set(world.queue(0, "pending", "draft")) == {"r1", "r3", "r4", "r5"}
    assert world.queue(0, "discarded", record=None) == ["r2"]
    # Another person's answers take nothing out of this one's queue, until the record is done.
    assert set(world.queue(1, "pending")) == everything
    world.respond(1, "r0")
    assert set(world.queue(1, "pending")) == everything - {"r0"}
    assert world.queue(0, "submitted", record="completed") == ["r0"]


def test_progress_counts_people_and_records(world: World) -> None:
    for person in (0, 1):
        world.respond(person, "r0")
    world.respond(1, "r1", status="discarded")
    progress = world.dataset.progress(with_users_distribution=True)
    assert (progress["total"], progress["completed"], progress["pending"]) == (6, 1, 5)
    mine = [person.get(f"/me{world.path}/metrics").json()["responses"] for person in world.people]
    assert mine[0] == {"total": 6, "submitted": 1, "discarded": 0, "draft": 0, "pending": 5}
    assert mine[1] == {"total": 6, "submitted": 1, "discarded": 1, "draft": 0, "pending": 4}


def test_metadata_metrics_describe_the_records(world: World) -> None:
    metrics = {
        p.name: world.owner("GET", f"/metadata-properties/{p.id}/metrics")
        for p in world.dataset.settings.metadata
    }
    assert metrics["kinds"]["values"] == [
        {"term": "all", "count": 6},
        {"term": "even", "count": 3},
        {"term": "odd", "count": 3},
    ]
    assert (metrics["seed"]["min"], metrics["seed"]["max"]) == (0, 5)
    assert (metrics["heat"]["min"], metrics["heat"]["max"]) == (0.0, 2.5)


def test_similar_records_come_nearest_first(world: World) -> None:
    vector = {"name": "place", "value": [1.0, 5.0], "order": "most_similar"}
    path = f"{world.path}/records/search?limit=3"
    found = world.owner("POST", path, json={"query": {"vector": vector}})
    assert [item["record"]["external_id"] for item in found["items"]] == ["r5", "r4", "r3"]
    assert found["items"][0]["query_score"] == pytest.approx(1.0)
    vector = {"name": "place", "record_id": world.ids()["r0"], "order": "least_similar"}
    found = world.owner("POST", path, json={"query": {"vector": vector}})
    assert [item["record"]["external_id"] for item in found["items"]] == ["r5", "r4", "r3"]
    # (1, 0) and (1, 5): cosine 1/sqrt(26), so the score is (1 + 0.19612) / 2.
    assert found["items"][0]["query_score"] == pytest.approx(0.59806, abs=1e-4)


def test_fewer_votes_wanted_completes_records_in_the_background(world: World) -> None:
    world.respond(0, "r0")
    assert world.dataset.progress()["completed"] == 0
    distribution = {"strategy": "overlap", "min_submitted": 1}
    world.owner("PATCH", world.path, json={"distribution": distribution})
    deadline = time.monotonic() + 20
    while world.dataset.progress()["completed"] != 1:
        assert time.monotonic() < deadline, "the job of the in-process Redis never ran"
        time.sleep(0.1)


def test_a_webhook_still_hears_of_every_response(world: World) -> None:
    heard: list[bytes] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listener.server_port}/"
        body = {"url": url, "events": ["response.created"], "description": "test"}
        webhook = world.owner("POST", "/webhooks", json=body)
        world.respond(0, "r0")
        deadline = time.monotonic() + 20
        while not heard:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        world.owner("DELETE", f"/webhooks/{webhook['id']}")
        listener.shutdown()
    assert b"response.created" in heard[0]
