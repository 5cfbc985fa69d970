"""Training in several processes at once, over GPUs and machines, by `accelerate launch`.

Owns what is asked of an accelerate config and how all processes of a run are found and ended. The
processes are the training child's; who of them reports is its business.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from alignment.places.child import child_environment, end_child, is_child_alive, start_child
from alignment.places.place import Handle
from alignment.runs.recipes import TrainingSpec
from alignment.runs.run_store import RunError, RunFolder, Status

CONFIG = "accelerate.yaml"
"""The config that a run was started with, in its folder."""
WHOLE_MODEL = ("MULTI_GPU", "MULTI_CPU", "NO")
"""Kinds of accelerate that keep the whole model in each process, which is what is tested here."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What an accelerate config says about the processes of a run."""

    kind: str
    processes: int
    machines: int
    machine_rank: int
    port: int | None
    on_cpu: bool


class Accelerated:
    """One `accelerate launch` a run, with the config file of the setting ACCELERATE_CONFIG."""

    def __init__(self, config: Path | None) -> None:
        self._config = config

    def check(self, spec: TrainingSpec) -> None:
        launch = read_launch(self._needed())
        if launch.machine_rank != 0:
            raise RunError(
                f"The accelerate config {self._config} is machine {launch.machine_rank}'s: "
                "start the run on the machine with machine_rank 0."
            )
        if spec.recipe.batch_size % launch.processes:
            raise RunError(
                f"{launch.processes} processes can't share a batch of {spec.recipe.batch_size} "
                "pairs evenly: set num_processes in the accelerate config to a divisor of it."
            )
        if importlib.util.find_spec("accelerate") is None:
            raise RunError(
                "accelerate is not installed: run `pip install -r requirements.txt` again."
            )

    def spawn(self, folder: RunFolder) -> Handle:
        text = self._needed().read_text(encoding="utf-8")
        config = folder.path / CONFIG
        config.write_text(text, encoding="utf-8")
        launch = read_launch(config)
        return start_child(_command(launch, config, folder), folder.log, _environment(launch))

    def is_alive(self, folder: RunFolder, status: Status) -> bool:
        # The launcher may be gone and its processes still train.
        return is_child_alive(Handle.of(status)) or bool(_members(folder))

    def end(self, folder: RunFolder, status: Status) -> None:
        # The launcher passes SIGTERM on, each process being in a session of its own.
        end_child(Handle.of(status))
        left = _members(folder)
        for member in left:
            member.kill()
        psutil.wait_procs(left, timeout=0.3)

    def _needed(self) -> Path:
        if self._config is None:
            raise RunError(
                "Training in several processes needs an accelerate config: write one with "
                "`accelerate config --config_file FILE` and set ACCELERATE_CONFIG=FILE."
            )
        return self._config


def read_launch(config: Path) -> Launch:
    """What `config` says; RunError for a file that can't be read or is no such config."""
    try:
        row = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:120]
        raise RunError(
            f"The accelerate config {config} can't be read ({said}): write it again with "
            "`accelerate config --config_file FILE`."
        ) from None
    if not isinstance(row, dict) or "distributed_type" not in row:
        raise RunError(
            f"The file {config} is no accelerate config, it names no distributed_type: write one "
            "with `accelerate config --config_file FILE`."
        )
    kind = str(row["distributed_type"])
    if kind not in WHOLE_MODEL:
        raise RunError(
            f"The accelerate config {config} wants {kind}, which is not supported here: "
            f"use {WHOLE_MODEL[0]} or {WHOLE_MODEL[1]}."
        )
    processes, machines = (
        _whole(row, name, 1, config) for name in ("num_processes", "num_machines")
    )
    rank = _whole(row, "machine_rank", 0, config)
    if machines > 1 and not (row.get("main_process_ip") and row.get("main_process_port")):
        raise RunError(
            f"The accelerate config {config} names {machines} machines and no main_process_ip "
            "and main_process_port: set both, the same on every machine."
        )
    port = row.get("main_process_port")
    on_cpu = kind == "MULTI_CPU" or bool(row.get("use_cpu"))
    return Launch(kind, processes, machines, rank, port, on_cpu)


def _whole(row: dict[str, object], name: str, least: int, config: Path) -> int:
    value = row.get(name, least)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RunError(
            f"The accelerate config {config} has {name}: {value!r}: set a whole number of "
            f"at least {least}."
        )
    return value


def _command(launch: Launch, config: Path, folder: RunFolder) -> list[str]:
    options: list[str] = []
    # Without mpirun, accelerate would start one process alone for MULTI_CPU, and say nothing.
    if launch.kind == "MULTI_CPU":
        options.append("--multi_gpu")
    if launch.machines == 1 and launch.port is None:
        options += ["--main_process_port", "0"]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)),
        *options,
        *("-m", "alignment.train", str(folder.path)),
    ]


def _environment(launch: Launch) -> dict[str, str]:
    found = child_environment()
    if launch.on_cpu:
        found["CUDA_VISIBLE_DEVICES"] = ""
        if launch.machines == 1 and sys.platform == "linux":
            # Gloo would look this machine's name up, and listen on its network.
            found["GLOO_SOCKET_IFNAME"] = "lo"
    return found


def _members(folder: RunFolder) -> Sequence[psutil.Process]:
    """The launcher and every process of the run, by what they were started to do."""
    ending = ["alignment.train", str(folder.path)]
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline", "pid", "status"]):
        words = process.info["cmdline"] or []
        if words[-2:] == ending and process.info["pid"] != os.getpid():
            found.append(process)
    return found
