"""Seconds from `python app.py` on an empty home to the page, the first pair and Argilla; sizes.

Three starts, medians; the machine's load stands beside them, since it moves every figure.
"""

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.running_app import ROOT, start_app

STARTS = 3
TIMEOUT_S = 240


@dataclass(frozen=True, slots=True)
class Start:
    page_s: float
    pair_s: float
    argilla_s: float


def measure_start(home: Path) -> Start:
    """One start on an empty home."""
    began = time.monotonic()
    app = start_app(home, wait=False, env={"WARM_TRAINER": "true"})
    seen: dict[str, float] = {}
    try:
        while len(seen) < 3 and time.monotonic() - began < TIMEOUT_S:
            time.sleep(0.05)
            try:
                if "page" not in seen and httpx.get(app.url, timeout=5).status_code == 200:
                    seen["page"] = time.monotonic() - began
                health = app.health()
            except httpx.HTTPError:
                continue
            if health["pairs_ready"]:
                seen.setdefault("pair", time.monotonic() - began)
            if health["argilla"] == "ready":
                seen.setdefault("argilla", time.monotonic() - began)
    finally:
        app.stop()
    return Start(seen["page"], seen["pair"], seen["argilla"])


def folder_mib(folder: Path) -> float:
    """What the files of `folder` take, hard links counted once."""
    seen: dict[int, int] = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            stat = path.stat()
            seen[stat.st_ino] = stat.st_size
    return sum(seen.values()) / 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        starts = [measure_start(Path(scratch) / f"home{index}") for index in range(STARTS)]
    print(f"Start on an empty home, median of {STARTS} (load {os.getloadavg()[0]:.1f})")
    for name in ("page_s", "pair_s", "argilla_s"):
        values = [getattr(start, name) for start in starts]
        print(f"  {name:<10} {statistics.median(values):.1f}  of {sorted(values)}")
    print(f"  .venv      {folder_mib(ROOT / '.venv'):,.0f} MiB")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "votetune"
    print(f"  Argilla    {folder_mib(cache):,.0f} MiB in {cache}")


if __name__ == "__main__":
    main()
