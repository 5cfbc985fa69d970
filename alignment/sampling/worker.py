"""The sampling child, `python -m alignment.sampling.worker`, spoken to by `sampler_process`.

The first line on standard input says which base; each later one is a request, answered by one
line on standard output. Logs go to standard error. It keeps no state beyond the loaded weights,
computes politely (nice 10) and dies with its parent.
"""

import importlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

from alignment.base import ResolvedBase
from alignment.generation import LocalGenerator
from alignment.sampling.zero_gpu import Lending
from annotation.children import lower_priority
from annotation.faults import Fault, Unaskable
from annotation.prompts import one_line
from annotation.quick_imports import uncollected
from annotation.schema import Message, ModelRef, Prompt, Sampling

NICENESS = 10
LIBRARIES = (
    "torch",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)
Reply = dict[str, object]
_log = logging.getLogger("alignment.sampling.worker")


def main() -> int:
    """Serve requests until standard input ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Only the app decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _private_stdout()
    lines = _read_ahead(sys.stdin)
    hello = json.loads(lines.get())
    lending = Lending(zero_gpu=bool(hello["zero_gpu"]))
    folders: dict[ModelRef, Path] = {}
    if hello["patient"]:
        lower_priority(os.getpid(), NICENESS)
    generator = _build(hello, folders.get)
    if not hello["patient"]:
        # Only now: while it loads, on a new home, a first voter is waiting for it.
        lower_priority(os.getpid(), NICENESS)

    @lending.lend
    def draw(request: dict[str, Any]) -> Reply:
        return _answer(generator, folders, request)

    @lending.lend
    def follow(request: dict[str, Any]) -> Generator[Reply, None, None]:
        yield from _follow(generator, folders, request)

    lending.begin()
    while True:
        request = json.loads(lines.get())
        if "stop" in request:
            continue  # it crossed the end of the stream that it was meant to stop
        replies = _until_stopped(follow(request), lines) if "stream" in request else [draw(request)]
        for reply in replies:
            answers.write(json.dumps(reply) + "\n")
            answers.flush()


def _private_stdout() -> TextIO:
    # A library that prints would break the protocol: what it prints goes to the log instead.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _read_ahead(stream: TextIO) -> "queue.SimpleQueue[str]":
    """Lines of `stream`. Its end means that the parent is gone: then so is this process."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        # Not sys.exit: the main thread may be minutes deep in a batch that nobody wants.
        os._exit(0)

    threading.Thread(target=read, name="stdin", daemon=True).start()
    return lines


def _build(
    hello: dict[str, Any], weights_path: Callable[[ModelRef], Path | None]
) -> LocalGenerator:
    base = ResolvedBase(
        ref=ModelRef(**hello["base"]),
        path=Path(hello["path"]),
        is_starter=bool(hello["is_starter"]),
        notice=None,
    )
    generator = LocalGenerator(base, weights_path=weights_path, device=hello["device"])
    _import_libraries()
    import torch

    torch.set_num_threads(int(hello["threads"]))
    try:
        generator.load()
    except Fault as error:
        # Each request meets the same fault and is told.
        _log.error("%s", error)
    else:
        _log.info("process %d speaks %s from %s", os.getpid(), base.ref.label, base.path)
    if hello["patient"]:
        # People compare models with it, and the first adapter would wait for this import.
        importlib.import_module("peft")
    return generator


def _import_libraries() -> None:
    """What loading a model imports, and no model: that must stay collectable."""
    with uncollected():
        _leave_out_scipy()
        for name in LIBRARIES:
            importlib.import_module(name)


def _leave_out_scipy() -> None:
    """Tell transformers, which wants it for the losses of object detectors, that it is not there.

    Its import takes 0.3 s from a voter who waits for a first pair.
    """
    from transformers import utils
    from transformers.utils import import_utils

    for module in (utils, import_utils):
        module.is_scipy_available = lambda: False


def _follow(
    generator: LocalGenerator, folders: dict[ModelRef, Path], request: dict[str, Any]
) -> Generator[Reply, None, None]:
    """The texts so far of a stream, and then its end."""
    models = _models(folders, request)
    prompt = Prompt(tuple(Message(*turn) for turn in request["stream"]))
    tokens: list[int] = []

    def count(of_answers: Sequence[int]) -> None:
        tokens[:] = of_answers

    try:
        stream = generator.stream(prompt, models, Sampling(**request["sampling"]), count)
        with closing(stream) as answers_so_far:
            while True:
                try:
                    texts = next(answers_so_far)
                except StopIteration as end:
                    yield {"end": True, "finishes": end.value}
                    return
                yield {"texts": texts, "tokens": [*tokens]}
    except Fault as error:
        yield {"error": str(error), "unaskable": isinstance(error, Unaskable)}
    # A process's boundary: a fault of one stream is reported, and the next may work.
    except Exception as error:  # noqa: BLE001
        _log.exception("a stream failed")
        yield {"error": f"Sampling failed ({type(error).__name__}: {one_line(error)})."}


def _until_stopped(
    following: Generator[Reply, None, None], lines: "queue.SimpleQueue[str]"
) -> Iterator[Reply]:
    # While a stream is on, the parent has nothing else to say than stop.
    with closing(following) as replies:
        while lines.empty():
            reply = next(replies)
            yield reply
            if "texts" not in reply:
                return
    yield {"end": True}


def _answer(
    generator: LocalGenerator, folders: dict[ModelRef, Path], request: dict[str, Any]
) -> Reply:
    models = _models(folders, request)
    prompts = [Prompt(tuple(Message(*turn) for turn in turns)) for turns in request["prompts"]]
    try:
        drawn = generator.sample_each(
            prompts, models=models, sampling=Sampling(**request["sampling"])
        )
    except Fault as error:
        return {"error": str(error)}
    # A process's boundary: a fault of one batch is reported, and the next may work.
    except Exception as error:  # noqa: BLE001
        _log.exception("a batch of %d prompts failed", len(prompts))
        return {"error": f"Sampling failed ({type(error).__name__}: {one_line(error)})."}
    return {"completions": [[[c.text, c.finish] for c in answers] for answers in drawn]}


def _models(folders: dict[ModelRef, Path], request: dict[str, Any]) -> list[ModelRef]:
    """The models of a request; where their weights lie goes into `folders`."""
    models = [ModelRef(**model) for model in request["models"]]
    for model, folder in zip(models, request["weights_paths"], strict=True):
        if folder is not None:
            folders[model] = Path(folder)
    return models


if __name__ == "__main__":
    sys.exit(main())
