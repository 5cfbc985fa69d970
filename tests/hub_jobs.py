"""Hugging Face Jobs for the Hub double: each job is a real child process of this machine.

A job runs exactly the posted command with the posted environment and secrets, in an empty folder
and with an otherwise bare environment, as a container would. Logs are SSE with keep-alive and can
be cut; flavors, stages, labels, timeouts and cancelling are answered as huggingface_hub reads them.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

DEFAULT_TIMEOUT_S = 1800
LABEL = re.compile(r"[a-zA-Z0-9._-]*")
ENDED = ("COMPLETED", "CANCELED", "ERROR", "DELETED")
# (name, micro-dollars a minute), as the pricing page has them: $0.01, $0.03, $0.80, $1.80 an hour.
HARDWARE = (("cpu-basic", 167), ("cpu-upgrade", 500), ("l4x1", 13333), ("l40sx1", 30000))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Job:
    """One job: what was posted, where it stands, what it wrote."""

    id: str
    owner: str
    posted: dict
    stage: str = "SCHEDULING"
    message: str | None = None
    created: str = field(default_factory=now)
    started: str | None = None
    finished: str | None = None
    running_s: float = 0.0
    events: list[dict] = field(default_factory=list)
    process: subprocess.Popen | None = None

    def say(self, line: str) -> None:
        self.events.append({"data": line, "timestamp": now()})

    def finish(self, stage: str, message: str | None = None) -> None:
        if self.stage not in ENDED:
            self.stage, self.message, self.finished = stage, message, now()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def info(self) -> dict:
        posted = self.posted
        return {
            "id": self.id,
            "createdAt": self.created,
            "startedAt": self.started,
            "finishedAt": self.finished,
            "dockerImage": posted.get("dockerImage"),
            "spaceId": posted.get("spaceId"),
            "command": posted["command"],
            "arguments": posted.get("arguments", []),
            "environment": posted.get("environment", {}),
            # Never the values: a secret can't be read back.
            "secrets": dict.fromkeys(posted.get("secrets", {}), ""),
            "flavor": posted["flavor"],
            "labels": posted.get("labels", {}),
            "status": {"stage": self.stage, "message": self.message},
            "durations": {
                "schedulingSecs": 0,
                "runningSecs": round(self.running_s),
                "totalSecs": round(self.running_s),
            },
            "owner": {"id": "0" * 24, "name": self.owner, "type": "user"},
            "initiator": {"type": "user", "id": "0" * 24, "name": self.owner},
        }


class Jobs:
    """All jobs of a double. `machine` is the environment that every container begins with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, Job] = {}
        self.has_credit = True
        self.keep_alive_s = 0.5
        self.scheduling_s = 0.1
        self.cut_logs_after: list[int] = []  # each stream takes one: events before it breaks
        self.stand_in: str | None = None  # Python that runs in the container in the command's place
        self.machine: dict[str, str] = {}
        self._threads: list[threading.Thread] = []

    def close(self) -> None:
        for job in self.jobs.values():
            job.finish("CANCELED")
            job.kill()
        for thread in self._threads:
            thread.join(10)

    @property
    def only(self) -> Job:
        (job,) = self.jobs.values()
        return job

    def answer(
        self, request: Request, parts: list[str], held: dict, user: str | None, role: str
    ) -> Response:
        """`parts` follow /api/jobs/. Errors are (status, message) in the Hub's shape."""
        if parts == ["hardware"]:
            return JSONResponse([hardware(name, cost) for name, cost in HARDWARE])
        if user is None:
            return refused(401, "Invalid username or password.")
        if parts[0].lower() != user or role != "write":
            return refused(403, "You don't have the required permissions: job.write")
        if len(parts) == 1:
            return self._start(parts[0], held) if request.method == "POST" else self._list(request)
        job = self.jobs.get(parts[1])
        if job is None:
            return refused(404, "Job not found")
        verb = parts[2] if len(parts) > 2 else ""
        if verb == "cancel" and request.method == "POST":
            job.finish("CANCELED")
            job.kill()
        elif verb == "logs":
            return self._logs(job)
        return JSONResponse(job.info())

    def _start(self, owner: str, held: dict) -> Response:
        if held["flavor"] not in [name for name, _ in HARDWARE]:
            return refused(400, f"Invalid flavor: {held['flavor']}")
        if not held["command"] or not (held.get("dockerImage") or held.get("spaceId")):
            return refused(400, "A job needs an image and a command")
        if any(not LABEL.fullmatch(v) for v in held.get("labels", {}).values()):
            return refused(400, "Invalid label")
        if not self.has_credit:
            return refused(402, "Pre-paid credit balance is insufficient")
        job = Job(f"{len(self.jobs) + 1:024x}", owner, held)
        self.jobs[job.id] = job
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return JSONResponse(job.info())

    def _list(self, request: Request) -> Response:
        query = request.query_params
        wanted = [label.split("=", 1) for label in query.getlist("label")]
        stages = query.getlist("stage")
        found = [
            job.info()
            for job in reversed(self.jobs.values())
            if all(job.posted.get("labels", {}).get(k) == v for k, v in wanted)
            and (not stages or job.stage in stages)
        ]
        return JSONResponse(found)

    def _run(self, job: Job) -> None:
        time.sleep(self.scheduling_s)
        if job.stage != "SCHEDULING":
            return
        folder = self.folder / job.id
        folder.mkdir(parents=True)
        posted = job.posted
        command = [sys.executable, "-uc", self.stand_in] if self.stand_in else posted["command"]
        venv = Path(sys.executable).parent
        bare = {"PATH": f"{venv}:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
        child = subprocess.Popen(
            command + posted.get("arguments", []),
            cwd=folder,
            env=bare | self.machine | posted.get("environment", {}) | posted.get("secrets", {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        job.process, job.started, job.stage = child, now(), "RUNNING"
        job.say(f"===== Job started at {job.started} =====")
        began = time.monotonic()
        limit_s = posted.get("timeoutSeconds", DEFAULT_TIMEOUT_S)
        timer = threading.Timer(limit_s, self._time_out, (job,))
        timer.start()
        with child:
            assert child.stdout is not None
            for line in child.stdout:
                job.say(line.decode(errors="replace").rstrip("\n"))
        code = child.returncode
        timer.cancel()
        job.running_s = time.monotonic() - began
        failed = f"Job failed with exit code: {code}. Reason: Error"
        job.finish("ERROR" if code else "COMPLETED", failed if code else None)

    @staticmethod
    def _time_out(job: Job) -> None:
        job.finish("ERROR", "Job timeout")
        job.kill()

    def _logs(self, job: Job) -> Response:
        limit = self.cut_logs_after.pop(0) if self.cut_logs_after else None

        async def stream() -> AsyncIterator[bytes]:
            sent, quiet_since = 0, time.monotonic()
            while True:
                ended = job.stage in ENDED
                for event in job.events[sent:]:
                    if limit is not None and sent >= limit:
                        raise ConnectionResetError("cut on purpose")
                    yield b"data: " + json.dumps(event).encode() + b"\n\n"
                    sent, quiet_since = sent + 1, time.monotonic()
                if ended and sent == len(job.events):
                    return
                if time.monotonic() - quiet_since > self.keep_alive_s:
                    quiet_since = time.monotonic()
                    yield b": keep-alive\n\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(stream(), media_type="text/event-stream")


def hardware(name: str, micro_usd_per_minute: int) -> dict:
    return {
        "name": name,
        "prettyName": name.title(),
        "cpu": "2 vCPU",
        "ram": "16 GB",
        "ephemeralStorage": "50 GB",
        "accelerator": None,
        "unitCostMicroUSD": micro_usd_per_minute,
        "unitCostUSD": micro_usd_per_minute / 1e6,
        "unitLabel": "minute",
    }


def refused(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status, {"X-Error-Message": message})
