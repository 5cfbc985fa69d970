"""The app with a backup: killed, its disk wiped, and no vote that the backup had is lost."""

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hub_double import WRITER, HubDouble
from journal_parts import NOON
from running_app import RunningApp, free_port, run_command, start_app

from annotation.backup.events import BackupBase, Header, Wish, to_files

pytestmark = [pytest.mark.slow]
REPO = "ada/votes"
FULL = 42
"""With more pairs ready than these, of 48, no new ones are drawn."""


@pytest.fixture
def hub() -> Iterator[HubDouble]:
    with HubDouble() as double:
        yield double


@pytest.fixture
def backed_up(hub: HubDouble, tmp_path: Path) -> dict[str, str]:
    """What an owner sets, beside the address of the double."""
    ours = hub.environment(tmp_path / "hf-cache")
    names = [name for name in ours if name.startswith(("HF_", "NO_PROXY"))]
    return {name: ours[name] for name in names} | {"HF_TOKEN": WRITER, "VOTES_REPO": REPO}


def vote(client: httpx.Client, choice: str = "a") -> str:
    """Vote on the next pair; the vote's id, once it is on disk."""
    deadline = time.monotonic() + 60
    while (pair := client.post("/api/pairs")).status_code != 201:
        assert time.monotonic() < deadline, pair.text
        time.sleep(0.2)
    answer = client.post("/api/votes", json={"pair": pair.json()["id"], "choice": choice})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def status(home: Path, env: dict[str, str]) -> dict[str, object]:
    done = run_command(home, "status", "--json", **env)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def wait_for_backup(home: Path, timeout_s: float = 60) -> float:
    """Stay until the journal says that the backup has everything; how long that took."""
    began = time.monotonic()
    waiting = (
        "SELECT (SELECT count(*) FROM pairs WHERE backed_up = 0)"
        " + (SELECT count(*) FROM votes WHERE backup_revision < revision)"
    )
    with sqlite3.connect(f"file:{home / 'journal.sqlite3'}?mode=ro", uri=True) as journal:
        while journal.execute(waiting).fetchone()[0]:
            assert time.monotonic() < began + timeout_s
            time.sleep(0.1)
    return time.monotonic() - began


def rows(home: Path) -> dict[str, tuple[object, ...]]:
    """Every vote with all that a voter or an owner could miss."""
    with sqlite3.connect(f"file:{home / 'journal.sqlite3'}?mode=ro", uri=True) as journal:
        found = journal.execute(
            "SELECT id, pair_id, voter, choice, flipped, created_at, reasons, comment, source,"
            " superseded_at, counted, why, revision, issued_at, set_aside FROM votes"
        ).fetchall()
    return {row[0]: row for row in found}


def admin_votes(admin: httpx.Client) -> str:
    """What the admin page says of the votes."""
    started = admin.post("/admin/gradio_api/call/votes", json={"data": []}).json()
    return admin.get(f"/admin/gradio_api/call/votes/{started['event_id']}").text


def wipe(app: RunningApp) -> None:
    shutil.rmtree(app.home)


def test_killed_and_wiped_it_comes_back_with_every_vote_and_its_base(
    hub: HubDouble, backed_up: dict[str, str], tmp_path: Path
) -> None:
    app = start_app(tmp_path / "home", env=backed_up)
    # New pairs wait for the backup as votes do: on a busy machine they would come all the while.
    app.wait_for("a full pool", lambda health: health["pairs_ready"] > FULL)
    with httpx.Client(base_url=app.url, timeout=30) as client:
        first = [vote(client, choice) for choice in ("a", "b", "tie", "skip", "both_bad")]
        client.patch(f"/api/votes/{first[0]}", json={"reasons": ["clear"], "comment": "née"})
        assert client.delete(f"/api/votes/{first[1]}").status_code == 200
    took_s = wait_for_backup(app.home)
    assert took_s < 60
    before = rows(app.home)
    told = status(app.home, backed_up)["backup"]
    assert told["repo"] == REPO  # type: ignore[index]
    assert (told["waiting"], told["last_error"]) == (0, None)  # type: ignore[index]
    assert told["last_sync"]  # type: ignore[index]
    with app.admin_client() as admin:
        page = admin_votes(admin)
    assert "The backup `ada/votes` works. Last sync: 2" in page
    assert WRITER not in page + app.said
    app.kill()
    wipe(app)

    # As on a Space whose default model can be reached again: the votes are the starter's.
    unset = {name: value for name, value in backed_up.items() if name != "BASE_MODEL"}
    again = start_app(tmp_path / "home", env=unset | {"BASE_MODEL": ""})
    try:
        assert rows(again.home) == before
        assert str(again.health()["base_model"]).startswith("starter@")
        assert again.health()["status"] == "ok"
        with httpx.Client(base_url=again.url, timeout=30) as client:
            more = vote(client)
        again.stop()
        assert more in rows(again.home)
        wipe(again)
        third = start_app(tmp_path / "home", env=backed_up)
        try:
            assert set(rows(third.home)) == {*before, more}, "the end sent what waited"
        finally:
            third.stop()
    finally:
        again.kill()
    assert all(seen.authorization is None for seen in hub.requests if seen.host == "localhost")
    assert not [seen for seen in hub.requests if WRITER in seen.path]


def test_a_broken_backup_ends_the_start_with_one_line(
    hub: HubDouble, backed_up: dict[str, str], tmp_path: Path
) -> None:
    broken = {"events/0000000001-0123456789ab.jsonl": b'{"votetune_backup": 1'}
    hub.add_repo(REPO, broken, kind="datasets", private=True)
    for token, said in ((WRITER, "is damaged"), ("hf_wrong", "VOTES_REPO=ada/votes can't be used")):
        done = run_command(
            tmp_path / "home", timeout_s=90, **(backed_up | port() | {"HF_TOKEN": token})
        )
        assert done.returncode == 1, done.stderr
        line = done.stderr.strip().splitlines()[-1]
        assert said in line, done.stderr
        assert token not in done.stderr
    assert [c.title for c in hub.repo(REPO, "datasets").commits] == ["Add files"]


def test_damage_found_while_restoring_ends_the_app_too(
    hub: HubDouble, backed_up: dict[str, str], tmp_path: Path
) -> None:
    (whole,) = to_files(Header(NOON, BackupBase("starter", "1" * 40), 0), [Wish.of("eve", NOON)])
    files = {"events/0000000001-0123456789ab.jsonl": whole[:-9], CURRENT: whole}
    hub.add_repo(REPO, files, kind="datasets", private=True)
    done = run_command(tmp_path / "home", timeout_s=90, **(backed_up | port()))
    assert done.returncode == 1, done.stderr
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("The backup's file events/0000000001-0123456789ab.jsonl is damaged")
    )
    assert len(hub.repo(REPO, "datasets").commits) == 1


CURRENT = "events/0000000002-0123456789ab.jsonl"


def port() -> dict[str, str]:
    return {"GRADIO_SERVER_PORT": str(free_port())}


def test_without_a_hub_people_vote_and_the_owner_is_told(
    backed_up: dict[str, str], tmp_path: Path
) -> None:
    dead = backed_up | {"HF_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    app = start_app(tmp_path / "home", env=dead)
    try:
        with httpx.Client(base_url=app.url, timeout=30) as client:
            vote(client)
        app.wait_for("word of it", lambda _: "can't be used now" in str(told(app, dead)))
        assert told(app, dead)["waiting"] > 0  # type: ignore[operator]
        text = run_command(app.home, "status", **dead).stdout
        assert "backup      ada/votes, last sync not yet" in text
    finally:
        app.stop()


def told(app: RunningApp, env: dict[str, str]) -> dict[str, object]:
    return dict(status(app.home, env)["backup"])  # type: ignore[call-overload]
