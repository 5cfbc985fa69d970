"""What a model's folder must hold before anything loads it. Reads JSON and headers, no weights.

Owns the rule that only safetensors are read and that no repository's own code is ever run.
"""

import hashlib
import json
from pathlib import Path

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
INDEX = "model.safetensors.index.json"
_CHUNK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 25_000_000


class ModelFilesError(ValueError):
    """Why a folder can't be used: a clause without the folder's name and without a full stop."""


def check_model_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise ModelFilesError unless `folder` holds a chat model that loads without code of its own.

    Wanted: config.json, a tokenizer, a chat template, and (with `weights`) every safetensors
    file that it names, each whole by its own header.
    """
    config = read_json(folder / "config.json")
    tokenizer_file = folder / "tokenizer_config.json"
    tokenizer = read_json(tokenizer_file) if tokenizer_file.exists() else {}
    if config.get("auto_map") or tokenizer.get("auto_map"):
        raise ModelFilesError("it needs code of its own (auto_map), which Votetune never runs")
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise ModelFilesError("it has no tokenizer: wanted is tokenizer.json")
    if "chat_template" not in tokenizer and not any((folder / n).exists() for n in TEMPLATES):
        raise ModelFilesError("it has no chat template: choose an instruct or chat model")
    if weights:
        for file in weight_files(folder):
            check_safetensors(file)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model, sorted by name; an index decides where there is one."""
    index = folder / INDEX
    if index.exists() and not (folder / "model.safetensors").exists():
        mapping = read_json(index).get("weight_map")
        names = sorted(set(mapping.values())) if isinstance(mapping, dict) else []
        if any(not isinstance(n, str) or "/" in n or not n.endswith(".safetensors") for n in names):
            raise ModelFilesError(f"{INDEX} names something else than safetensors beside it")
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            raise ModelFilesError(f"{name} is missing, and pickled weights are never read")
    if not names:
        raise ModelFilesError(f"{INDEX} names no weights")
    return [folder / name for name in names]


def weights_sha256(folder: Path) -> str:
    """First 40 hex digits of the sha256 over the safetensors files, in the order of their names."""
    return sha256_of(*weight_files(folder))[:40]


def sha256_of(*files: Path) -> str:
    """The sha256 over the bytes of `files`, one after the other, as 64 hex digits."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def check_safetensors(file: Path) -> None:
    """Raise ModelFilesError unless `file` is whole by its own header (safetensors' format:
    8 bytes little-endian header length, JSON header with data_offsets, data to the last byte).
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise ModelFilesError(f"{file.name} is no safetensors file")
        try:
            header = json.loads(stream.read(length))
            ends = [t["data_offsets"][1] for name, t in header.items() if name != "__metadata__"]
            whole = max(ends, default=0) == size - 8 - length
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise ModelFilesError(f"{file.name} is no safetensors file") from None
    if not whole:
        raise ModelFilesError(f"{file.name} is cut short: fetch or copy it again")


def read_json(file: Path) -> dict[str, object]:
    """The JSON object in `file`, or ModelFilesError naming it."""
    try:
        held = json.loads(file.read_text())
    except FileNotFoundError:
        raise ModelFilesError(f"{file.name} is missing") from None
    except (OSError, ValueError):
        raise ModelFilesError(f"{file.name} can't be read as JSON") from None
    if not isinstance(held, dict):
        raise ModelFilesError(f"{file.name} holds no JSON object")
    return held
