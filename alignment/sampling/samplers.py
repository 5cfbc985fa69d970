"""What draws a home's pairs, and what answers the people who ask: a server, or two processes here.

Owns which of them there are, and when the one for people starts. Draws nothing itself.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alignment.base import ResolvedBase
from alignment.chat import GenerationError
from alignment.runs.estimate import free_memory_bytes
from alignment.sampling.remote import RemoteGenerator, remote_settings
from alignment.sampling.sampler_process import SamplerProcess
from alignment.settings import AlignmentSettings
from annotation.schema import ModelRef

SMALL_FOR = 10
"""A base so many times smaller than free memory is loaded before anybody asks it."""
Sampler = SamplerProcess | RemoteGenerator
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Samplers:
    """`drawing` makes the pairs; `answering` speaks to people who wait. May be one and the same."""

    drawing: Sampler
    answering: Sampler


def build_samplers(
    base: ResolvedBase,
    settings: AlignmentSettings,
    *,
    weights_path: Callable[[ModelRef], Path | None],
    logs: Path,
) -> Samplers:
    """The server that `settings` name, or two processes, which write into the folder `logs`.

    Starts none of them.
    """
    if remote := remote_settings(settings, base.ref):
        both = RemoteGenerator(base.ref, remote)
        return Samplers(both, both)

    def process(name: str, *, patient: bool = False) -> SamplerProcess:
        return SamplerProcess(
            base,
            weights_path=weights_path,
            log=logs / f"{name}.log",
            patient=patient,
            zero_gpu=settings.spaces_zero_gpu,
        )

    # The second starts when somebody asks, in the midst of others' voting.
    return Samplers(process("sampler"), process("comparer", patient=True))


def expect_questions(answering: Sampler, base: ResolvedBase) -> None:
    """For when a run has begun, so its model will be asked: what answers people loads meanwhile."""
    # Not where that might take memory that the run counts on.
    if SMALL_FOR * base.weights_bytes() > free_memory_bytes():
        return
    try:
        answering.start()
    except (GenerationError, OSError) as error:
        _log.warning("what answers people starts when they ask: %s", error)
