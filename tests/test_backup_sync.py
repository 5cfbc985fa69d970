"""Votes reach the backup and come home again, over real HTTP, whatever the Hub does meanwhile."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import hub_double as double
import psutil
import pytest
from hub_double import READER, STRANGER, WRITER, HubDouble
from journal_parts import (
    FIRST_MODEL,
    NOON,
    fill_disk,
    free_disk,
    give,
    make_pair,
    make_vote,
    on_writer,
)

from annotation.argilla_server.launcher import Credentials
from annotation.argilla_store.store import ArgillaConnection, ArgillaStore
from annotation.backup.events import (
    BackupBase,
    BackupError,
    Header,
    StoredPair,
    StoredVote,
    to_files,
)
from annotation.backup.journal_backup import JournalBackup
from annotation.backup.repo import BackupRepo
from annotation.backup.sync import BackupSync
from annotation.journal.deletion import ARGILLA_NOTE
from annotation.journal.journal import Journal
from annotation.schema import Choice, Pair, PairKind, Reason, Vote, VoteSource

REPO = "ada/votes"
BASE = BackupBase(FIRST_MODEL.base, FIRST_MODEL.base_revision)
COMMIT = rf"POST /api/datasets/{REPO}/commit"


class Home:
    """A journal with its backup's thread, as an app has them."""

    def __init__(
        self, folder: Path, *, base: BackupBase = BASE, token: str = WRITER, repo: str = REPO
    ) -> None:
        self.path = folder / "journal.sqlite3"
        self.journal = Journal(self.path, has_backup=True)
        self.opened, self.broken = threading.Event(), threading.Event()
        self.why = ""
        self.sync = BackupSync(
            JournalBackup(self.journal, self.path),
            BackupRepo(repo, token),
            base,
            on_open=self.opened.set,
            on_broken=self._break,
            every_s=0.1,
            patience_s=1.0,
        )

    def _break(self, why: BackupError) -> None:
        self.why = str(why)
        self.broken.set()

    def start(self) -> "Home":
        self.sync.start()
        return self

    def settle(self, timeout_s: float = 20) -> "Home":
        """Stay until the backup has everything."""
        wait_until(lambda: self.sync.status().state == "ready", timeout_s, self.sync.status)
        wait_until(lambda: self.sync.status().waiting == 0, timeout_s, self.sync.status)
        return self

    def stop(self) -> None:
        self.sync.stop()
        self.journal.close()

    def votes(self) -> dict[str, Vote]:
        return {vote.id: vote for vote in self.journal.votes(include_superseded=True)}


def wait_until(
    is_true: Callable[[], bool], timeout_s: float = 20, say: Callable[[], object] = lambda: ""
) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, say()
        time.sleep(0.02)


@pytest.fixture
def make_home(tmp_path: Path) -> Iterator[Callable[..., Home]]:
    homes: list[Home] = []

    def make(name: str = "one", **more: object) -> Home:
        (tmp_path / name).mkdir(exist_ok=True)
        homes.append(Home(tmp_path / name, **more))  # type: ignore[arg-type]
        return homes[-1]

    yield make
    for home in homes:
        home.stop()


MakeHome = Callable[..., Home]


def fill(journal: Journal) -> None:
    """Two pairs, an own prompt, a vote with words, an undone one, one set aside, a skip."""
    own = replace(make_pair("own"), kind=PairKind.OWN, author="ann", only_for="ann")
    journal.add_pairs([make_pair("p1"), make_pair("p2"), own]).result()
    for voter in ("ann", "bob", "eve"):
        give(journal, voter)
    journal.add_vote(make_vote("v1", "p1", issued_at=NOON)).result()
    journal.amend_vote("v1", voter="ann", reasons=(Reason.SAFE,), comment="née\r\n\u2028").result()
    journal.add_vote(make_vote("v2", "p1", "bob", Choice.B, flipped=True)).result()
    journal.undo_vote("v2", voter="bob").result()
    journal.add_vote(make_vote("v3", "p2", "eve")).result()
    journal.set_aside("eve", "always left").result()
    journal.add_vote(make_vote("v4", "p2", "ann", Choice.SKIP)).result()
    journal.add_vote(make_vote("v5", "own", "ann", Choice.BOTH_BAD)).result()


def history(journal: Journal) -> list[tuple[object, ...]]:
    rows = on_writer(journal, lambda db: db.execute("SELECT * FROM vote_history").fetchall())
    return [tuple(row) for row in rows]


def event_files(hub: HubDouble) -> list[str]:
    return sorted(n for n in hub.repo(REPO, "datasets").head.files if n.startswith("events/"))


def everything(hub: HubDouble) -> bytes:
    """Every byte of every commit."""
    repo = hub.repo(REPO, "datasets")
    return b"\n".join(blob.data for commit in repo.commits for blob in commit.files.values())


def test_all_of_a_home_comes_back_on_an_empty_one(hub_double: HubDouble, make_home: MakeHome):
    one = make_home().start()
    fill(one.journal)
    one.settle().stop()
    repo = hub_double.repo(REPO, "datasets")
    assert repo.private
    assert b"private" in repo.head.files["README.md"].data

    other = make_home("other").start()
    assert other.opened.wait(10)
    kept, back = make_home(), other
    assert back.votes() == kept.votes()
    assert back.votes()["v3"].set_aside == "always left"
    assert back.votes()["v2"].superseded_at is not None
    assert back.journal.pairs() == kept.journal.pairs()
    assert back.journal.set_aside_voters() == {"eve": "always left"}
    assert history(back.journal) == history(kept.journal)
    assert back.journal.vote_count() == kept.journal.vote_count() == 1
    assert back.sync.status().waiting == 0, "what came from the backup does not go there again"
    # It goes on: nobody is shown a pair twice, what was set aside stays so, bring-back works.
    assert give(back.journal, "ann") is None
    back.journal.add_vote(make_vote("v6", "p1", "eve")).result()
    assert back.votes()["v6"].set_aside == "always left"
    back.journal.bring_back("eve").result()
    assert back.journal.vote_count() == 3
    back.journal.approve_pair("own").result()
    assert back.journal.vote_count() == 4


def test_a_restored_vote_is_delivered_to_argilla_again_but_no_replaced_one(
    hub_double: HubDouble, make_home: MakeHome
):
    one = make_home().start()
    fill(one.journal)
    # Decided again in Argilla: the page's vote gave way to one that lives there.
    one.journal.mark_votes_delivered(list(one.votes().values())).result()
    there = make_vote("there", "p1", "ann", Choice.B, source=VoteSource.ARGILLA)
    one.journal.mirror([], [there]).result()
    one.settle().stop()
    back = make_home("other").start()
    assert back.opened.wait(10)
    # v1 would wipe Argilla's own vote of ann's, which never goes back; v2's undo must get
    # there; v5 is on a prompt that waits for approval.
    assert {v.id for v in back.journal.undelivered_votes(99)} == {"v2", "v3"}
    assert {p.id for p in back.journal.undelivered_pairs(99)} == {"p1", "p2"}


def test_a_restart_reads_nothing_again_and_sends_only_what_is_new(
    hub_double: HubDouble, make_home: MakeHome
):
    one = make_home().start()
    fill(one.journal)
    one.settle().stop()
    files = event_files(hub_double)
    hub_double.requests.clear()
    again = make_home().start().settle()
    assert again.opened.is_set()
    assert hub_double.lines("resolve/") == []
    assert event_files(hub_double) == files
    again.journal.amend_vote("v1", voter="ann", comment="more").result()
    again.settle()
    wait_until(lambda: len(event_files(hub_double)) == len(files) + 1)
    assert event_files(hub_double)[:-1] == files, "no old file is touched"


@pytest.mark.parametrize("status", [409, 412, 429, 500, 503])
def test_passing_trouble_costs_no_vote_and_no_second_file(
    hub_double: HubDouble, make_home: MakeHome, status: int
):
    hub_double.fail(COMMIT, status, times=2)
    hub_double.fail(rf"GET /api/datasets/{REPO}", status, times=1)
    one = make_home().start()
    fill(one.journal)
    one.settle()
    assert [fault.times for fault in hub_double.faults] == [0, 0]
    kept = one.votes()
    one.stop()
    back = make_home("other").start()
    assert back.opened.wait(10)
    assert back.votes() == kept


def test_a_wait_that_the_hub_asks_for_is_kept(hub_double: HubDouble, make_home: MakeHome):
    hub_double.fail(COMMIT, 429, Retry_After="2")
    began = time.monotonic()
    one = make_home()
    fill(one.journal)
    one.start().settle()
    assert time.monotonic() - began >= 2


def test_a_commit_whose_answer_was_lost_is_not_made_again(
    hub_double: HubDouble, make_home: MakeHome
):
    one = make_home()
    fill(one.journal)
    hub_double.tear(COMMIT, after=True)
    one.start().settle()
    assert [fault.times for fault in hub_double.faults] == [0]
    titles = [c.title for c in hub_double.repo(REPO, "datasets").commits]
    assert titles[0] == "initial commit"
    assert len(titles) == len(event_files(hub_double)) + 1


def test_a_torn_download_is_read_again(hub_double: HubDouble, make_home: MakeHome):
    one = make_home().start()
    fill(one.journal)
    one.settle().stop()
    hub_double.tear(rf"GET /datasets/{REPO}/resolve", times=2)
    back = make_home("other").start()
    assert back.opened.wait(15)
    assert set(back.votes()) == {"v1", "v2", "v3", "v4", "v5"}


def test_what_waits_is_sent_at_the_end(hub_double: HubDouble, tmp_path: Path):
    (tmp_path / "one").mkdir()
    one = Home(tmp_path / "one")
    one.sync._every_s = one.sync._pause_s = 3600.0
    one.start()
    assert one.opened.wait(10)
    wait_until(lambda: one.sync.status().state == "ready")
    fill(one.journal)
    assert event_files(hub_double) == []
    one.stop()
    assert len(event_files(hub_double)) == 1


def test_the_end_does_not_wait_for_a_dead_hub(
    hub_double: HubDouble, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "one").mkdir()
    one = Home(tmp_path / "one")
    fill(one.journal)
    hub_double.fail("datasets", 503, times=10_000)
    one.start()
    wait_until(lambda: one.sync.status().state == "unreachable")
    began = time.monotonic()
    one.stop()
    assert time.monotonic() - began < 12
    assert "8 pairs and votes are not in the backup ada/votes" in caplog.text


def test_without_a_hub_voting_opens_and_later_all_converges(
    hub_double: HubDouble, make_home: MakeHome
):
    before = make_home("before").start()
    fill(before.journal)
    before.settle().stop()
    hub_double.fail("datasets", 503, times=10_000)
    home = make_home()
    home.start()
    assert "Restoring votes" in str(home.sync.restoring)
    assert home.opened.wait(10), "after its patience"
    assert home.sync.restoring is None
    home.journal.add_pairs([make_pair("p9")]).result()
    home.journal.add_vote(make_vote("v9", "p9", "zoe")).result()
    wait_until(lambda: home.sync.status().state == "unreachable")
    status = home.sync.status()
    assert status.last_error == (
        "The backup ada/votes can't be used now: the Hub is busy or in trouble (HTTP 503)."
    )
    assert (status.waiting, status.last_sync) == (2, None)
    hub_double.faults.clear()
    home.settle(30)
    assert set(home.votes()) == {"v1", "v2", "v3", "v4", "v5", "v9"}
    assert home.sync.status().last_error is None
    home.stop()
    back = make_home("other").start()
    assert back.opened.wait(10)
    assert set(back.votes()) == {"v1", "v2", "v3", "v4", "v5", "v9"}


def test_two_instances_append_side_by_side_and_lose_nothing(
    hub_double: HubDouble, make_home: MakeHome
):
    old = make_home("old").start()
    fill(old.journal)
    old.settle()
    new = make_home("new").start()
    assert new.opened.wait(10)
    for number in range(12):
        for home, name in ((old, "old"), (new, "new")):
            home.journal.add_pairs([make_pair(f"{name}{number}")]).result()
            home.journal.add_vote(make_vote(f"v-{name}{number}", f"{name}{number}")).result()
        time.sleep(0.05)
    # Both decide the same pair while both run.
    old.journal.add_vote(make_vote("twice-old", "p2", "zoe")).result()
    new.journal.add_vote(make_vote("twice-new", "p2", "zoe", Choice.B)).result()
    old.settle().stop()
    wanted = {f"v-{name}{number}" for name in ("old", "new") for number in range(12)}
    wait_until(lambda: wanted <= set(new.votes()))
    new.settle().stop()
    files = event_files(hub_double)
    assert len(set(files)) == len(files)
    back = make_home("other").start()
    assert back.opened.wait(10)
    assert wanted | {"twice-old", "twice-new", "v1"} <= set(back.votes())
    live = [v for v in back.journal.votes() if (v.pair_id, v.voter) == ("p2", "zoe")]
    assert len(live) == 1


def test_gold_pairs_of_this_start_stay_and_earlier_ones_come_back_retired(
    hub_double: HubDouble, make_home: MakeHome
):
    def gold(name: str) -> Pair:
        return replace(make_pair(name), kind=PairKind.GOLD, expected=Choice.A)

    one = make_home().start()
    fill(one.journal)
    one.journal.set_gold_pairs([gold("same"), gold("earlier")]).result()
    one.journal.add_vote(make_vote("v6", "earlier", "ann")).result()
    one.settle().stop()
    back = make_home("other")
    back.journal.set_gold_pairs([gold("same"), gold("now")]).result()
    back.start()
    assert not back.opened.is_set(), "a home with nothing but its gold pairs waits for its votes"
    assert back.opened.wait(10)
    in_play = on_writer(
        back.journal,
        lambda db: db.execute(
            "SELECT id FROM pairs WHERE kind = 'gold' AND retired_at IS NULL ORDER BY id"
        ).fetchall(),
    )
    assert [row["id"] for row in in_play] == ["now", "same"]
    assert "v6" in back.votes()


def test_another_repository_gets_everything_too(hub_double: HubDouble, make_home: MakeHome):
    hub_double.add_repo("ada/before", {}, kind="datasets", private=True)
    one = make_home(repo="ada/before").start()
    fill(one.journal)
    one.settle().stop()
    moved = make_home().start().settle()
    kept = moved.votes()
    moved.stop()
    back = make_home("other").start()
    assert back.opened.wait(10)
    assert back.votes() == kept


def test_a_full_disk_passes_and_the_thread_goes_on(hub_double: HubDouble, make_home: MakeHome):
    pairs = [StoredPair(make_pair(f"p{n}", size=100)) for n in range(300)]
    (content,) = to_files(Header(NOON, BASE, votes=0), pairs)
    name = "events/0000000001-0123456789ab.jsonl"
    hub_double.add_repo(REPO, {name: content}, kind="datasets", private=True)
    one = make_home()
    fill_disk(one.journal)
    one.start()
    wait_until(lambda: one.sync.status().state == "unreachable")
    assert "is full" in str(one.sync.status().last_error)
    assert one.journal.pairs() == [], "all or nothing"
    free_disk(one.journal)
    one.settle()
    assert one.opened.is_set()
    assert len(one.journal.pairs()) == 300
    assert one.sync.status().last_error is None


@pytest.mark.parametrize("harm", ["cut", "emptied", "no utf-8"])
def test_a_broken_file_stops_an_empty_home_and_touches_nothing(
    hub_double: HubDouble, make_home: MakeHome, harm: str
):
    one = make_home().start()
    fill(one.journal)
    one.settle().stop()
    repo = hub_double.repo(REPO, "datasets")
    name = event_files(hub_double)[-1]
    whole = repo.head.files[name].data
    broken = {"cut": whole[: len(whole) // 2], "emptied": b"", "no utf-8": b"\xff" + whole}[harm]
    repo.commit("Harm", repo.head.files | {name: double.Blob(broken, lfs=False)})
    commits = len(repo.commits)
    home = make_home("other").start()
    assert home.broken.wait(10)
    assert home.why.startswith(f"The backup's file {name} is damaged")
    assert "\n" not in home.why
    assert not home.opened.is_set()
    assert home.journal.pairs() == []
    home.stop()
    assert len(repo.commits) == commits
    # Mended by hand, all of it comes home.
    repo.commit("Mend", repo.head.files | {name: double.Blob(whole, lfs=False)})
    back = make_home("third").start()
    assert back.opened.wait(10)
    assert set(back.votes()) == {"v1", "v2", "v3", "v4", "v5"}


def test_a_home_in_use_goes_on_beside_a_broken_file_and_says_so(
    hub_double: HubDouble, make_home: MakeHome
):
    hub_double.add_repo(REPO, {"events/0000000007-0123456789ab.jsonl": b"{}"}, kind="datasets")
    one = make_home()
    fill(one.journal)
    one.start()
    wait_until(lambda: one.sync.status().state == "refused" and one.sync.status().waiting == 0)
    assert "events/0000000007-0123456789ab.jsonl is damaged" in str(one.sync.status().last_error)
    assert len(event_files(hub_double)) == 2


def test_votes_of_another_base_are_neither_mixed_in_nor_added_to(
    hub_double: HubDouble, make_home: MakeHome
):
    one = make_home().start()
    fill(one.journal)
    one.settle().stop()
    commits = len(hub_double.repo(REPO, "datasets").commits)
    other = make_home("other", base=BackupBase("ada/chat", "9" * 40)).start()
    assert other.broken.wait(10)
    assert "belong to starter@111111111111, and this home speaks ada/chat@999999999999" in other.why
    assert "BASE_MODEL=starter" in other.why
    used = make_home("used", base=BackupBase("ada/chat", "9" * 40))
    used.journal.add_pairs([make_pair("p9")]).result()
    used.start()
    wait_until(lambda: used.sync.status().state == "refused")
    other.stop()
    used.stop()
    assert len(hub_double.repo(REPO, "datasets").commits) == commits


@pytest.mark.parametrize("token", [READER, STRANGER, "hf_unknown_0000000000000000000000"])
def test_a_token_that_may_not_write_is_one_clear_line_without_it(
    hub_double: HubDouble, make_home: MakeHome, token: str, caplog: pytest.LogCaptureFixture
):
    hub_double.add_repo(REPO, {"README.md": b"there"}, kind="datasets", private=True)
    one = make_home(token=token)
    fill(one.journal)
    one.start()
    wait_until(lambda: one.sync.status().state == "refused")
    error = str(one.sync.status().last_error)
    assert error.startswith("The backup ada/votes can't be used now: ")
    assert "HF_TOKEN" in error
    one.stop()
    assert token not in caplog.text + error


def test_the_token_reaches_neither_storage_nor_the_repository(
    hub_double: HubDouble, make_home: MakeHome, monkeypatch: pytest.MonkeyPatch
):
    # As if the Hub kept our files as large ones: then they lie on another host.
    monkeypatch.setattr(double, "LFS_NAMES", (".jsonl",))
    one = make_home().start()
    fill(one.journal)
    one.settle().stop()
    back = make_home("other").start()
    assert back.opened.wait(10)
    assert set(back.votes()) == {"v1", "v2", "v3", "v4", "v5"}
    stored = [seen for seen in hub_double.requests if seen.host == "localhost"]
    assert {seen.method for seen in stored} == {"PUT", "GET"}
    assert all(seen.authorization is None for seen in stored)
    assert not any(WRITER in seen.path for seen in hub_double.requests)
    assert WRITER.encode() not in everything(hub_double)


def ask_to_forget(journal: Journal) -> None:
    """Ann asks, on the page; her own prompt, on which nobody else voted, goes with her votes."""
    assert journal.delete_voter("ann").result() == 3


def test_a_deleted_voter_is_gone_from_files_and_history(hub_double: HubDouble, make_home: MakeHome):
    one = make_home().start()
    fill(one.journal)
    one.settle()
    one.journal.add_vote(make_vote("v6", "p1", "zoe")).result()
    one.settle()
    assert b'"ann"' in everything(hub_double)
    ask_to_forget(one.journal)
    wait_until(lambda: not JournalBackup(one.journal, one.path).wishes())
    assert len(hub_double.repo(REPO, "datasets").commits) == 1, "the history is squashed"
    for trace in (b'"ann"', b"n\xc3\xa9e", b"What is own?"):
        assert trace not in everything(hub_double)
    one.journal.add_vote(make_vote("v7", "p2", "zoe")).result()
    one.settle().stop()
    back = make_home("other").start()
    assert back.opened.wait(10)
    assert set(back.votes()) == {"v2", "v3", "v6", "v7"}
    assert {pair.id for pair in back.journal.pairs()} == {"p1", "p2"}


@pytest.mark.parametrize("torn", [COMMIT, "super-squash"])
@pytest.mark.parametrize("after", [False, True])
def test_a_deletion_that_was_torn_goes_on_at_the_next_start(
    hub_double: HubDouble, make_home: MakeHome, torn: str, after: bool
):
    one = make_home().start()
    fill(one.journal)
    one.settle().stop()
    gone = make_home()
    ask_to_forget(gone.journal)
    hub_double.tear(torn, after=after, times=1)
    hub_double.fail(r"super-squash", 503, times=10_000)
    gone.start()
    wait_until(lambda: gone.sync.status().state == "unreachable")
    gone.stop()
    assert JournalBackup(gone.journal, gone.path).wishes()
    # A restore in between honours the wish, and takes it on.
    between = make_home("between").start()
    assert between.opened.wait(10)
    assert set(between.votes()) == {"v2", "v3"}
    hub_double.faults.clear()
    again = make_home().start()
    wait_until(lambda: not JournalBackup(again.journal, again.path).wishes())
    wait_until(lambda: not JournalBackup(between.journal, between.path).wishes())
    again.settle()
    assert b'"ann"' not in everything(hub_double)


def test_a_deletion_is_known_at_once_and_followed_once_argilla_has(
    hub_double: HubDouble, make_home: MakeHome
):
    one = make_home().start()
    fill(one.journal)
    one.settle()
    # It has been delivered somewhere, so Argilla has to follow first.
    one.journal.set_note(ARGILLA_NOTE, "some dataset").result()
    ask_to_forget(one.journal)
    wait_until(lambda: b'"deletion"' in everything(hub_double))
    back = make_home("other").start()
    assert back.opened.wait(10)
    assert set(back.votes()) == {"v2", "v3"}
    (wish,) = JournalBackup(back.journal, back.path).wishes()
    assert (wish.voter, wish.in_argilla, wish.removed) == ("ann", False, ("own",))
    back.stop()
    (asked,) = one.journal.deletions("in_argilla")
    one.journal.finish_deletion(asked, "in_argilla").result()
    wait_until(lambda: not JournalBackup(one.journal, one.path).wishes())
    assert b'"ann"' not in everything(hub_double)


def test_another_instance_follows_a_deletion_that_it_reads(
    hub_double: HubDouble, make_home: MakeHome
):
    old = make_home("old").start()
    fill(old.journal)
    old.settle()
    new = make_home("new").start()
    assert new.opened.wait(10)
    assert "v1" in new.votes()
    ask_to_forget(old.journal)
    wait_until(lambda: set(new.votes()) == {"v2", "v3"})
    assert {pair.id for pair in new.journal.pairs()} == {"p1", "p2"}


@pytest.mark.slow
@pytest.mark.argilla
def test_backup_and_argilla_together_bring_every_vote_once(
    hub_double: HubDouble, make_home: MakeHome, argilla_server: Credentials
):
    """Argilla has one vote that the backup missed, and the backup what Argilla never gets."""
    one = make_home().start()
    fill(one.journal)
    one.settle().stop()
    late = make_home()
    late.journal.add_vote(make_vote("late", "p2", "zoe", Choice.B, comment="late")).result()
    with argilla_of(argilla_server, late.journal) as store:
        store.deliver()
        assert late.journal.undelivered_count() == 0

    back = make_home("other").start()
    assert back.opened.wait(10)
    assert "late" not in back.votes()
    with argilla_of(argilla_server, back.journal) as store:
        store.pull(thorough=True)
        store.deliver()
        store.pull(thorough=True)
        assert set(back.votes()) == {"v1", "v2", "v3", "v4", "v5", "late"}
        assert back.votes()["v2"].superseded_at is not None
        for vote_id in ("v1", "v2", "v3", "v4", "v5"):
            assert back.votes()[vote_id] == late.votes()[vote_id]
        assert store.deliver() == 0
        store.pull(thorough=True)
        assert len(back.votes()) == 6, "and once more changes nothing"
    back.settle().stop()

    # With Argilla alone, what it holds comes home; undone votes and skips were never there.
    alone = make_home("alone")
    with argilla_of(argilla_server, alone.journal) as store:
        store.pull(thorough=True)
    assert {"v1", "v3", "late"} <= set(alone.votes())
    assert not {"v2", "v4"} & set(alone.votes())
    assert make_home("third").start().opened.wait(10)


@contextmanager
def argilla_of(server: Credentials, journal: Journal) -> Iterator[ArgillaStore]:
    where = ArgillaConnection(server.api_url, server.api_key, "backup", "both")
    with closing(ArgillaStore(where, journal, votes_per_pair=1)) as store:
        yield store


@pytest.mark.slow
def test_20000_votes_come_home_in_reasonable_time_and_memory(
    hub_double: HubDouble, make_home: MakeHome, caplog: pytest.LogCaptureFixture
):
    votes, text = 20_000, 8
    events = [
        event
        for n in range(votes)
        for event in (
            StoredPair(make_pair(f"p{n}", prompt=f"What is {n}? " + "word " * 20, size=text * 10)),
            StoredVote(make_vote(f"v{n}", f"p{n}", f"voter-{n % 300}")),
        )
    ]
    header = Header(NOON, BASE, votes=votes)
    names = (f"events/{n + 1:010d}-{n:012x}.jsonl" for n in range(10_000))
    files = {
        name: content
        for start, name in zip(range(0, len(events), 200), names, strict=False)
        for content in to_files(header, events[start : start + 200])
    }
    del events
    hub_double.add_repo(REPO, files, kind="datasets", private=True)
    caplog.set_level(logging.INFO)
    home = make_home()
    before_mib = psutil.Process().memory_info().rss / 2**20
    began, cpu = time.monotonic(), time.process_time()
    home.start()
    assert home.opened.wait(200)
    took_s = time.monotonic() - began
    cpu_s = time.process_time() - cpu
    grown_mib = psutil.Process().memory_info().rss / 2**20 - before_mib
    print(
        f"{votes} votes in {len(files)} files: {took_s:.1f} s, {cpu_s:.1f} CPU-s with the double,"
        f" {grown_mib:.0f} MiB more"
    )
    assert home.journal.vote_count() == votes
    assert took_s < 120
    assert grown_mib < 500
