"""Which places this home's settings name, each ready to be asked.

The only module that knows every place. Reads nothing and reaches nothing by itself.
"""

from collections.abc import Mapping

from alignment.places.accelerated import Accelerated
from alignment.places.here import Here
from alignment.places.jobs import Jobs
from alignment.places.place import Place
from alignment.places.warm import WarmWorker
from alignment.runs.recipes import Where
from alignment.settings import AlignmentSettings


def known_places(
    settings: AlignmentSettings, warm: WarmWorker | None = None
) -> Mapping[Where, Place]:
    """Every place; one that lacks a setting says so in its `check`."""
    return {
        "here": Here(warm),
        "accelerate": Accelerated(settings.accelerate_config),
        "jobs": Jobs(settings),
    }
