"""The first thing that a job runs: `python -c` with this file's text, on a machine with nothing.

Fetches Votetune's own code from the run's repository at its commit, refuses it unless its sha256 is
the one that the job was started with, installs what training imports, and becomes
`alignment.places.jobs_remote`. Standard library only; HF_TOKEN goes into one header and nowhere
else, and not to where the Hub redirects.
"""

import hashlib
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ATTEMPTS = 5


def main() -> None:
    """Fetch, check, install, go on. Any failure ends the job with one line."""
    code = fetch(
        "{}/datasets/{}/resolve/{}/code.tar.gz".format(
            os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            os.environ["VOTETUNE_DATASET"],
            os.environ["VOTETUNE_COMMIT"],
        )
    )
    if hashlib.sha256(code).hexdigest() != os.environ["VOTETUNE_CODE_SHA256"]:
        sys.exit("The code in the run's repository is not what this job was started with.")
    with tarfile.open(fileobj=io.BytesIO(code)) as archive:
        archive.extractall("votetune", filter="data")
    os.chdir("votetune")
    install()
    module = "alignment.places.jobs_remote"
    os.execv(sys.executable, [sys.executable, "-u", "-m", module])  # noqa: S606


def fetch(url: str) -> bytes:
    """The file at `url`, tried ATTEMPTS times while the Hub is in trouble."""
    for attempt in range(1, ATTEMPTS + 1):
        request = urllib.request.Request(url)  # noqa: S310 -- the Hub, as this job was told
        request.add_unredirected_header("Authorization", "Bearer " + os.environ["HF_TOKEN"])
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                sys.exit(f"The run's code can't be fetched (HTTP {error.code}).")
        except OSError:
            pass
        if attempt < ATTEMPTS:
            time.sleep(2**attempt)
    sys.exit("The run's code can't be fetched: the Hub does not answer.")


def install() -> None:
    """Install the packages of packages.txt at constraints.txt's versions, where any is missing."""
    pins = Path("packages.txt").read_text().split()
    wanted = [pin.split("==") for pin in pins]
    if all(is_there(name, version) for name, version in wanted):
        return
    tool = ["uv", "pip", "install", "--python", sys.executable]
    if shutil.which("uv") is None:
        tool = [sys.executable, "-m", "pip", "install", "--progress-bar", "off"]
    # The installer needs no token, and packages run code of their own.
    clean = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    done = subprocess.run(
        [*tool, "-r", "packages.txt", "-c", "constraints.txt"], env=clean, check=False
    )
    if done.returncode:
        sys.exit("The packages that training needs can't be installed: see the lines above.")


def is_there(name: str, version: str) -> bool:
    """Whether the package is installed at this version, whatever its build (torch's +cpu)."""
    try:
        return importlib.metadata.version(name).partition("+")[0] == version
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
