"""Sampling in a child process: a Generator whose weights live elsewhere.

Owns the child `python -m alignment.sampling.worker`: starts it at first use, starts it again when
it has died, ends it. JSON lines over pipes; imports no torch, so a page that waits pays nothing.
"""

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignment.base import ResolvedBase
from alignment.chat import GenerationError, UnaskablePrompt
from alignment.sampling.token_feed import Count, count_nothing
from annotation.children import without_secrets
from annotation.schema import Completion, Finish, ModelRef, Prompt, Sampling

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_LOG_BYTES = 2_000_000
MAX_THREADS = 8
STOP_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


class SamplerProcess:
    """A Generator that asks a child process, one request at a time.

    `start` spawns the child and returns at once, so that it loads while others work; `sample`
    does so itself where nobody did. A child that dies fails the request it had and is started
    anew by the next. It ends with `stop`, and when this process dies in whatever way. A `patient`
    child yields to others while it loads, too. With `zero_gpu` it draws on a GPU that the Space
    lends it each time.
    """

    def __init__(
        self,
        base: ResolvedBase,
        *,
        weights_path: Callable[[ModelRef], Path | None],
        log: Path,
        device: str | None = None,
        patient: bool = False,
        zero_gpu: bool = False,
    ) -> None:
        self._base = base
        self._patient = patient
        self._zero_gpu = zero_gpu
        self._weights_path = weights_path
        self._log_path = log
        self._device = device
        self._requests = threading.Lock()
        self._spawning = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Of the living child, or None."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def start(self) -> None:
        """Spawn the child unless one lives; raises GenerationError after `stop`."""
        self._living_child()

    def sample(
        self, prompts: Sequence[Prompt], *, model: ModelRef, sampling: Sampling, per_prompt: int
    ) -> list[list[Completion]]:
        """As LocalGenerator.sample, in the child. Raises GenerationError, also if it dies."""
        return self.sample_each(prompts, models=[model] * per_prompt, sampling=sampling)

    def sample_each(
        self, prompts: Sequence[Prompt], *, models: Sequence[ModelRef], sampling: Sampling
    ) -> list[list[Completion]]:
        """As LocalGenerator.sample_each, in the child. Raises GenerationError."""
        request = {
            "prompts": [[[m.role, m.content] for m in p.messages] for p in prompts],
            "models": [dataclasses.asdict(model) for model in models],
            "weights_paths": [self._folder(model) for model in models],
            "sampling": dataclasses.asdict(sampling),
        }
        with self._requests:
            reply = self._ask(request)
        if "error" in reply:
            raise GenerationError(str(reply["error"]))
        return [
            [
                Completion(text, model, sampling, finish)
                for model, (text, finish) in zip(models, answers, strict=False)
            ]
            for answers in reply["completions"]
        ]

    def stream(
        self,
        prompt: Prompt,
        models: Sequence[ModelRef],
        sampling: Sampling,
        count: Count = count_nothing,
    ) -> Generator[tuple[str, ...], None, tuple[Finish, ...]]:
        """As LocalGenerator.stream, in the child; other requests wait until it is over."""
        request = {
            "stream": [[m.role, m.content] for m in prompt.messages],
            "models": [dataclasses.asdict(model) for model in models],
            "weights_paths": [self._folder(model) for model in models],
            "sampling": dataclasses.asdict(sampling),
        }
        with self._requests:
            reply = self._ask(request)
            try:
                while "texts" in reply:
                    count(reply["tokens"])
                    yield tuple(reply["texts"])
                    reply = self._read()
            finally:
                # Left early: the child is told, and what it still says is read away.
                if "texts" in reply:
                    self._write({"stop": True})
                    with contextlib.suppress(GenerationError):
                        while "texts" in reply:
                            reply = self._read()
        if "error" in reply:
            kind = UnaskablePrompt if reply.get("unaskable") else GenerationError
            raise kind(str(reply["error"]))
        return tuple(reply["finishes"])

    def stop(self) -> None:
        """End the child; a request in flight fails. Harmless when called again."""
        self._stopped = True
        with self._spawning:
            child = self._child
            if child is None:
                return
            child.terminate()
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        # Its reader sees the end of the pipe first: closing under it would block.
        with self._requests, self._spawning:
            self._close()

    def _folder(self, model: ModelRef) -> str | None:
        folder = self._weights_path(model) if model.adapter is not None else None
        return None if folder is None else str(folder.resolve())

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        self._living_child()
        self._write(request)
        return self._read()

    def _write(self, request: Mapping[str, object]) -> None:
        assert self._child is not None
        assert self._child.stdin is not None
        # A child that died is noticed where its answer is missing.
        with contextlib.suppress(OSError, ValueError):
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()

    def _read(self) -> dict[str, Any]:
        """One answer of the child; GenerationError when it died instead."""
        child = self._child
        assert child is not None
        assert child.stdout is not None
        try:
            line = child.stdout.readline()
            reply: dict[str, Any] = json.loads(line) if line.endswith("\n") else {}
        except (OSError, ValueError):
            reply = {}
        if not reply:
            code = child.wait()
            if self._stopped:
                raise GenerationError("Sampling is stopped: start the app again.")
            raise GenerationError(
                f"The sampling process ended (exit status {code}) and will be started again: "
                f"{self._log_path} says why."
            )
        return reply

    def _living_child(self) -> subprocess.Popen[str]:
        with self._spawning:
            if self._stopped:
                raise GenerationError("Sampling is stopped: start the app again.")
            if self._child is None or self._child.poll() is not None:
                if self._child is not None:
                    _log.warning("sampling process %d is gone; starting another", self._child.pid)
                self._close()
                self._child = self._spawn()
            return self._child

    def _spawn(self) -> subprocess.Popen[str]:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        # A log nobody reads must not fill the disk that the votes need.
        full = self._log_path.exists() and self._log_path.stat().st_size > MAX_LOG_BYTES
        with self._log_path.open("wb" if full else "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "alignment.sampling.worker"],
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                # A session of its own, so that Linux can rank it as one against the app's.
                start_new_session=True,
            )
        assert child.stdin is not None
        hello = {
            "base": dataclasses.asdict(self._base.ref),
            "path": str(self._base.path.resolve()),
            "is_starter": self._base.is_starter,
            "device": self._device,
            "threads": worker_threads(),
            "patient": self._patient,
            "zero_gpu": self._zero_gpu,
        }
        child.stdin.write(json.dumps(hello) + "\n")
        child.stdin.flush()
        return child

    def _close(self) -> None:
        if self._child is not None:
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        _log.debug("the sampling process left a request unread")
            self._child = None


def worker_threads() -> int:
    """Threads to compute with: OMP_NUM_THREADS, else half the cores, so that pages stay quick."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(MAX_THREADS, (cores or 1) // 2))


def _environment() -> dict[str, str]:
    return without_secrets(os.environ) | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
