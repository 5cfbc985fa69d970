"""The follower of a job: `python -m alignment.places.jobs_follow RUN_DIR`, with HF_TOKEN around it.

Owns the walk of a run that trains on the Hub: send it, start its one job, follow the job into the
run's folder, fetch the weights, or have the job cancelled. May be killed and started again at any
point: job.json and state.json say how far it came, and a job is found by its label.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants

from alignment.hub.jobs import ENDED, Job, JobRequest, JobsDoor, Stage, own_namespace
from alignment.places.jobs import JobRecord, in_words, is_over, load_record
from alignment.places.jobs_bundle import build_bundle
from alignment.places.jobs_fetch import fetch_results
from alignment.places.jobs_report import FolderMirror
from alignment.runs.run_store import ACTIVE, RunError, RunFolder, RunState
from alignment.training.watch.ends import failure_line
from alignment.training.watch.progress import Stopped, StopSignal, say_failed
from annotation.faults import Fault
from annotation.hub.client import HubError, Trouble
from annotation.hub.commits import commit_files, make_repo

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
"""Python 3.12 and uv, the image that huggingface_hub itself takes for scripts."""
POLL_S = 5.0
DRAIN_S = 15.0
"""How long the log may go on after the job has ended."""
UNSEEN_POLLS = 10
"""A job that was just started may not be found for a while."""
_BOOTSTRAP = Path(__file__).with_name("jobs_bootstrap.py")


def main(arguments: Sequence[str]) -> int:
    """Follow the run to its end, whatever it is, and say so in its folder."""
    folder = RunFolder(Path(arguments[0]))
    stop = StopSignal()
    signal.signal(signal.SIGTERM, stop.handle)
    follower = Follower(folder, os.environ.pop("HF_TOKEN"), stop)
    try:
        # Held back since before this process was there: see `Jobs._follow`.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        follower.run()
    except Stopped:
        stop.deferred = True
        # Told to end without a word from an admin, the job goes on and is found again later.
        if is_over(folder):
            follower.cancel()
    except (Fault, HubError) as error:
        follower.give_up(str(error))
    except Exception as error:  # noqa: BLE001 -- the process boundary: reported in the folder
        traceback.print_exc()
        follower.give_up(failure_line(error, 0))
    return 0


class Follower:
    """One run's way through the Hub."""

    def __init__(self, folder: RunFolder, token: str, stop: StopSignal) -> None:
        self._folder = folder
        self._token = token
        self._stop = stop
        self._record = load_record(folder)
        self._mirror = FolderMirror(folder)
        self._job_ended = False

    def run(self) -> None:
        """From wherever the run stands to done, failed or cancelled.

        Raises Stopped when it shall end, RunError or HubError when it can't go on.
        """
        if is_over(self._folder):
            raise Stopped
        job_id = self._folder.status().job
        if job_id is None:
            self._send()
            job_id = self._start()
        self._settle(self._follow(job_id))

    def cancel(self) -> None:
        """Have the job cancelled, if there is one; the run's reason says where that failed."""
        reason = "Cancelled by an admin."
        try:
            self._cancel_job()
        except HubError as error:
            reason = f"Cancelled here, but the Hub could not be told ({error}): {self._where()}"
        with self._folder.locked():
            status = self._folder.status()
            if status.state in ACTIVE:
                self._folder.move(RunState.CANCELLED, reason=reason)
            elif status.state is RunState.CANCELLED:
                self._folder.write_status(replace(status, reason=reason))

    def give_up(self, reason: str) -> None:
        """Failed, for `reason`. A job that nobody follows is not left to cost money."""
        self._stop.deferred = True
        try:
            self._cancel_job()
        except HubError:
            reason = f"{reason} Its job may go on: {self._where()}"
        say_failed(self._folder, reason)

    def _cancel_job(self) -> None:
        if self._record.commit is None or self._job_ended:
            return
        job_id = self._folder.status().job
        if job_id is None:
            found = self._door().find(self._folder.path.name)
            job_id = found.id if found is not None and found.stage not in ENDED else None
        if job_id is not None:
            self._door().cancel(job_id)
            _say(f"Job {job_id} is cancelled.")

    def _where(self) -> str:
        at = self._record.url or "its page on the Hub"
        limit = in_words(self._record.timeout_s)
        return f"cancel it at {at}, or it ends by itself after {limit}."

    def _door(self) -> JobsDoor:
        return JobsDoor(self._record.namespace or own_namespace(self._token), self._token)

    def _keep(self, record: JobRecord) -> None:
        self._record = record
        record.save(self._folder)

    def _send(self) -> None:
        """The export, the spec and the code to a private dataset repository, as one commit.

        The one for the weights is made as well: a token that may not is told before it costs.
        """
        record, run = self._record, self._folder.path.name
        if record.commit is not None:
            return
        bundle = build_bundle(self._folder)
        repo = f"votetune-{run}"
        try:
            namespace = record.namespace or own_namespace(self._token)
            repo = f"{namespace}/{repo}"
            _say(f"Sending the run to {repo}, a private dataset repository.")
            commit = commit_files(
                repo,
                bundle.files,
                kind="dataset",
                message=f"Add run {run} with its dataset and code",
                token=self._token,
            )
            make_repo(repo, kind="model", token=self._token)
        except HubError as error:
            raise RunError(f"The run can't be sent to the Hub as {repo}: {error}.") from None
        self._keep(
            replace(
                record,
                namespace=namespace,
                dataset=repo,
                commit=commit,
                code_sha256=bundle.code_sha256,
                weights=repo,
            )
        )

    def _start(self) -> str:
        """The run's one job, its id in state.json before anything else may happen."""
        self._stop.deferred = True
        if is_over(self._folder):
            raise Stopped
        try:
            job = self._door().start_once(self._request())
        except HubError as error:
            raise RunError(_not_started(self._record, error)) from None
        with self._folder.locked():
            self._folder.write_status(replace(self._folder.status(), job=job.id))
        self._keep(replace(self._record, url=job.url))
        _say(
            f"Job {job.id} on {self._record.flavor}, "
            f"for {in_words(self._record.timeout_s)} at most: {job.url}"
        )
        self._stop.deferred = False
        self._stop.check()
        return job.id

    def _request(self) -> JobRequest:
        record = self._record
        env = {
            "VOTETUNE_RUN": self._folder.path.name,
            "VOTETUNE_DATASET": record.dataset or "",
            "VOTETUNE_COMMIT": record.commit or "",
            "VOTETUNE_CODE_SHA256": record.code_sha256 or "",
            "VOTETUNE_WEIGHTS": record.weights or "",
        }
        if constants.ENDPOINT != constants._HF_DEFAULT_ENDPOINT:
            env["HF_ENDPOINT"] = constants.ENDPOINT
        return JobRequest(
            run=self._folder.path.name,
            image=IMAGE,
            command=("python", "-c", _BOOTSTRAP.read_text(encoding="utf-8")),
            env=env,
            secrets={"HF_TOKEN": self._token},
            flavor=record.flavor,
            timeout_s=record.timeout_s,
        )

    def _follow(self, job_id: str) -> Job:
        """The job once it has ended, its lines in the run's folder."""
        door = self._door()
        reading = threading.Thread(target=self._read_log, args=(door, job_id), daemon=True)
        reading.start()
        unseen = 0
        while True:
            try:
                job = door.inspect(job_id)
                unseen = 0
            except HubError as error:
                unseen += error.trouble is Trouble.MISSING
                if not error.passing and (
                    error.trouble is not Trouble.MISSING or unseen > UNSEEN_POLLS
                ):
                    raise RunError(f"Job {job_id} can't be followed: {error}.") from None
            else:
                if job.stage in ENDED:
                    self._job_ended = True
                    break
            # The log ends with the job, so its end is the moment to look again.
            if reading.is_alive():
                reading.join(POLL_S)
            else:
                time.sleep(POLL_S)
            if is_over(self._folder):
                raise Stopped
        reading.join(DRAIN_S)
        return job

    def _read_log(self, door: JobsDoor, job_id: str) -> None:
        """Every line once, however often the stream breaks off: it is replayed from its start.

        The second pass is for what huggingface_hub drops when a stream breaks off at the end.
        """
        wait_s, passes = 1.0, 0
        while passes < 2:
            plain = 0
            try:
                for line in door.lines(job_id):
                    wait_s = 1.0
                    rest = self._mirror.take(line)
                    if rest is None:
                        continue
                    plain += 1
                    if plain > self._record.lines:
                        _say(rest.replace(self._token, "…"))
                        self._keep(replace(self._record, lines=plain))
                passes += 1
            except HubError as error:
                if not error.passing:
                    _say(f"The job's log can't be read any more: {error}.")
                    return
                time.sleep(wait_s)
                wait_s = min(60.0, 2 * wait_s)

    def _settle(self, job: Job) -> None:
        """What the job's end means for the run."""
        if job.stage is Stage.CANCELED:
            with self._folder.locked():
                if self._folder.status().state in ACTIVE:
                    reason = "The job was cancelled on the Hub."
                    self._folder.move(RunState.CANCELLED, reason=reason)
        elif job.stage is Stage.COMPLETED:
            self._take_results()
        else:
            say_failed(self._folder, self._why(job))

    def _take_results(self) -> None:
        record = self._record
        assert record.weights is not None
        _say(f"Fetching the weights from {record.weights}.")
        result = fetch_results(self._folder, record.weights, self._mirror.result, token=self._token)
        self._stop.deferred = True
        with self._folder.locked():
            if is_over(self._folder):
                raise Stopped
            # The log may have ended before it told how far the job was.
            self._mirror.reach(RunState.EVALUATING)
            status = replace(self._folder.status(), step=result.step)
            self._folder.write_status(status)
            self._folder.move(RunState.DONE, final=result.final)
        _say(f"Done: the weights of {record.weights} at {result.commit} are here.")

    def _why(self, job: Job) -> str:
        limit_s = self._record.timeout_s
        ran_out = job.running_s is not None and job.running_s >= limit_s - 5
        if ran_out or "timeout" in (job.message or "").lower().replace(" ", ""):
            return (
                f"The job ran past JOBS_TIMEOUT, {in_words(limit_s)}, and was ended: set a longer "
                "one, a faster JOBS_FLAVOR, or train fewer steps."
            )
        if self._mirror.reason:
            return self._mirror.reason
        if job.stage is Stage.DELETED:
            return "The job was deleted on the Hub: start a new run."
        return f"The job failed on the Hub ({job.message or 'no reason given'}): see log.txt."


def _not_started(record: JobRecord, error: HubError) -> str:
    text = f"The job on {record.flavor} can't be started: {error}"
    if error.trouble is Trouble.FORBIDDEN:
        text = (
            f"HF_TOKEN may not start jobs for {record.namespace}: give it the permission to run "
            "jobs, or set another HUB_NAMESPACE"
        )
    return f"{text}: start a new run later." if error.passing else f"{text}."


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
