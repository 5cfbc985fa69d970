"""What a job needs of this machine, as files: the export, the spec, the code, and a base of ours.

Owns what leaves this machine for a job: the export as it is, and beside it no token, no vote, no
voter and no path of this machine. The same run gives the same bytes.
"""

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from alignment.base import SMALL_FILES, WEIGHTS
from alignment.places.child import ROOT
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunFolder
from alignment.settings import STARTER
from annotation.schema import ModelRef

CODE, SPEC, BASE = "code.tar.gz", "spec.json", "base"
PACKAGES = (
    "accelerate",
    "datasets",
    "httpx2",
    "huggingface-hub",
    "jinja2",
    "numpy",
    "orjson",
    "peft",
    "psutil",
    "pydantic",
    "pydantic-settings",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)
"""What training imports; constraints.txt pins everything below them."""
_SUFFIXES = frozenset({".py", ".txt"})


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files by their name in the run's repository, and the sha256 of the code among them."""

    files: Mapping[str, bytes | Path]
    code_sha256: str


def build_bundle(folder: RunFolder) -> Bundle:
    """The files of the queued run in `folder`.

    A base of the Hub is left out, for the job fetches it by name and commit; the starter, or a
    folder of this machine, goes along under base/.
    """
    spec = folder.spec()
    code = pack_code()
    files: dict[str, bytes | Path] = {
        path.name: path for path in sorted(folder.dataset.iterdir()) if path.is_file()
    }
    files |= {SPEC: spec_for_job(spec), CODE: code}
    if is_ours(spec.base):
        patterns = (*SMALL_FILES, WEIGHTS)
        paths = {path for pattern in patterns for path in spec.base_path.glob(pattern)}
        files |= {f"{BASE}/{path.name}": path for path in sorted(paths)}
    return Bundle(files, hashlib.sha256(code).hexdigest())


def is_ours(base: ModelRef) -> bool:
    """Whether the Hub does not have this base: the starter, or a folder here."""
    return base.base == STARTER or base.base.startswith("/")


def spec_for_job(spec: TrainingSpec) -> bytes:
    """spec.json without this machine's paths; base_path is BASE where the base goes along."""
    ours = is_ours(spec.base)
    base = replace(spec.base, base=Path(spec.base.base).name) if ours else spec.base
    told = replace(spec, base=base, where="here")
    return json.dumps(asdict(told) | {"base_path": BASE if ours else "."}, indent=2).encode()


def pack_code(root: Path = ROOT) -> bytes:
    """Votetune's own modules with their pins as a .tar.gz, the same bytes for the same files."""
    pins = read_pins((root / "requirements.txt").read_text())
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for side in ("alignment", "annotation")
        for path in (root / side).rglob("*")
        if path.suffix in _SUFFIXES and path.is_file()
    }
    files["packages.txt"] = _lines({name: pins[name] for name in PACKAGES})
    files["constraints.txt"] = _lines(pins)
    packed = io.BytesIO()
    # No name and no time: the bytes say what the code is and nothing else.
    with (
        gzip.GzipFile("", "wb", fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, data in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def read_pins(requirements: str) -> dict[str, str]:
    """Version by package of every exact pin, extras dropped: constraints may name none."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", requirements, re.MULTILINE)
    return dict(found)


def _lines(pins: Mapping[str, str]) -> bytes:
    return "".join(f"{name}=={version}\n" for name, version in pins.items()).encode()
