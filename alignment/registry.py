"""The models of a home by name: its base, what finished runs left, what was pulled from the Hub.

Owns which names there are and what each means; tuned weights, an adapter or a whole model, are
registered only if they belong to this home's base at its revision. Loads no weights and holds no
current model: every request names one.
"""

import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from alignment.base import BaseModelError, ResolvedBase, bound_base, resolve_base
from alignment.contest.promotions import Promotions
from alignment.hub.meter import Meter
from alignment.hub.model_files import ModelFilesError, sha256_of
from alignment.hub.pull import (
    Pulled,
    PullError,
    PullSize,
    list_pulled,
    pull_tuned,
    size_up,
)
from alignment.hub.tuned import check_tuned, check_whole_model, tuned_weight_files, tuning_of
from alignment.runs.recipes import Tuning
from alignment.runs.run_store import RunFolder, RunState
from annotation.faults import Fault
from annotation.hub.client import is_repo_id
from annotation.schema import ModelRef

__all__ = [
    "BaseModelError",
    "RegisteredModel",
    "Registry",
    "RegistryError",
    "ResolvedBase",
    "bound_base",
    "resolve_base",
]

_LOCAL_NAME = re.compile(r"\w[\w.-]*")


class RegistryError(Fault):
    """A model that is not here or can't be had; the message is the one line to read."""


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model that can be asked by name.

    `weights_path` is the folder of the weights that it has beyond the base's, None for the base
    itself. `tuning` says what lies there: a LoRA adapter, or a whole model of its own.
    """

    name: str
    ref: ModelRef
    weights_path: Path | None
    tuning: Tuning | None


class Registry:
    """The models of one home on one base. Reads the disk at every question, so that a run that
    ended in another process is there at once; only digests are remembered. Thread-safe.

    `token` reads private repositories; None leaves it to huggingface_hub (HF_TOKEN, its login).
    """

    def __init__(self, home: Path, base: ResolvedBase, *, token: str | None = None) -> None:
        self._home = home.absolute()
        self._base = base
        self._token = token
        self.promotions = Promotions(home)
        self._digests: dict[tuple[tuple[str, int, int], ...], str] = {}
        self._pulling = threading.Lock()

    @property
    def is_starter(self) -> bool:
        """Whether the base is the starter, of whose questions the answers are known."""
        return self._base.is_starter

    def models(self) -> list[RegisteredModel]:
        """The base first, then models of finished runs, then pulled ones, each oldest first.

        What belongs to another base, and runs without whole weights, are left out.
        """
        return [self._base_model(), *self._run_models(), *self._pulled_models()]

    def policy(self) -> RegisteredModel:
        """The model that pairs are sampled from: the last one promoted, the base before any.

        Raises RegistryError where the promoted model is here no more.
        """
        promoted, found = self._promoted()
        if promoted is not None and found is None:
            raise RegistryError(
                f"The policy {promoted.label} is not here any more: pull it again, or roll back."
            )
        return found or self._base_model()

    def answering(self) -> RegisteredModel:
        """What pairs are sampled from: the policy, or the base while the policy is not here."""
        return self._promoted()[1] or self._base_model()

    def why_base_answers(self) -> str | None:
        """That the base stands in for a policy that is not here, in one line; None where not."""
        promoted, found = self._promoted()
        if promoted is None or found is not None:
            return None
        return _base_stands_in(promoted)

    def get(self, name: str, *, pull: bool = True) -> RegisteredModel:
        """The model that `name` means: base, policy, a run's id, owner/name or owner/name@revision.

        A repository is asked for on the Hub unless its commit is named and already here; where the
        Hub can't be reached, what was pulled before answers. With `pull` False the network is
        never used. Raises RegistryError.
        """
        if name in ("base", "policy"):
            return self._base_model() if name == "base" else self.policy()
        repo, _, revision = name.partition("@")
        if "/" in repo:
            return self._from_repo(repo, revision or None, pull=pull)
        found = next((m for m in self._run_models() if m.name == name), None)
        if found is None:
            raise RegistryError(self._why_no_run(name))
        return found

    def size_up(self, repo: str, revision: str | None) -> PullSize:
        """What `pull` would fetch, and how much that is. Raises RegistryError as `pull` does."""
        _check_repo(repo)
        try:
            return size_up(self._home / "models", self._base, repo, revision, token=self._token)
        except PullError as error:
            raise RegistryError(str(error)) from None

    def pull(
        self, repo: str, revision: str | None, *, meter: Meter | None = None
    ) -> RegisteredModel:
        """Fetch an adapter or a fine-tuned model of the Hub, pinned to a commit; register it.

        `meter` tells how far it is and may cancel it. Raises Cancelled, or RegistryError, with
        nothing registered: no network, no such repository or revision, gated, neither plain LoRA
        nor a whole model as safetensors, too big, or of another base.
        """
        _check_repo(repo)
        models = self._home / "models"
        try:
            with self._pulling:
                found = pull_tuned(
                    models, self._base, repo, revision, token=self._token, meter=meter
                )
        except PullError as error:
            kind = _Unreachable if error.unreachable else RegistryError
            raise kind(str(error)) from None
        return self._pulled_model(found)

    def weights_path(self, ref: ModelRef) -> Path | None:
        """The folder of `ref`'s own weights, an adapter's or a whole model's; None for the base.

        Raises RegistryError for a model that is not here.
        """
        if ref == self._base.ref:
            return None
        found = next((m for m in self.models() if m.ref == ref), None)
        if found is None:
            raise RegistryError(
                f"Model {ref.label} of {ref.base} is not in {self._home} beside its base "
                f"{self._base.ref.label}: train or pull it first."
            )
        return found.weights_path

    def _promoted(self) -> tuple[ModelRef | None, RegisteredModel | None]:
        """What was promoted last, None for the base, and the model where it is here."""
        promoted = self.promotions.current()
        if promoted is None:
            return None, None
        return promoted, next((m for m in self.models() if m.ref == promoted), None)

    def _base_model(self) -> RegisteredModel:
        return RegisteredModel("base", self._base.ref, None, None)

    def _run_models(self) -> list[RegisteredModel]:
        found = []
        for path in sorted((self._home / "runs").glob("*/")):
            folder = RunFolder(path)
            if not _is_done(folder):
                continue
            try:
                self._check_run(folder)
                weights, tuning = folder.weights, tuning_of(folder.weights)
                ref = self._ref(path.name, self._digest(tuned_weight_files(weights)))
                made = weights.stat().st_mtime
            except (ModelFilesError, OSError):
                continue
            found.append((made, RegisteredModel(path.name, ref, weights, tuning)))
        return [model for _, model in sorted(found, key=lambda item: (item[0], item[1].name))]

    def _check_run(self, folder: RunFolder) -> None:
        """Raise ModelFilesError unless the run left whole weights tuned from this home's base."""
        if not folder.model.is_dir():
            check_tuned(folder.adapter, self._base)
            return
        try:
            made_from = folder.spec().base
        except (OSError, ValueError, KeyError, TypeError):
            raise ModelFilesError("its spec.json can't be read") from None
        check_whole_model(folder.model, self._base, made_from=made_from)

    def _pulled_models(self) -> list[RegisteredModel]:
        return [self._pulled_model(p) for p in self._pulled()]

    def _pulled(self) -> list[Pulled]:
        found = []
        for pulled in list_pulled(self._home / "models"):
            try:
                check_tuned(pulled.path, self._base)
            except ModelFilesError:
                continue
            found.append(pulled)
        return found

    def _pulled_model(self, pulled: Pulled) -> RegisteredModel:
        ref = self._ref(pulled.repo, pulled.commit)
        return RegisteredModel(pulled.name, ref, pulled.path, tuning_of(pulled.path))

    def _ref(self, adapter: str, revision: str) -> ModelRef:
        return replace(self._base.ref, adapter=adapter, adapter_revision=revision)

    def _from_repo(self, repo: str, revision: str | None, *, pull: bool) -> RegisteredModel:
        _check_repo(repo)
        here = [p for p in self._pulled() if p.answers_to(repo, revision)]
        pinned = [p for p in here if revision is not None and p.commit.startswith(revision)]
        if pinned or (here and not pull):
            return self._pulled_model((pinned or here)[-1])
        if not pull:
            raise RegistryError(f"{repo} was not pulled yet: pull it from the Hub first.")
        try:
            return self.pull(repo, revision)
        except _Unreachable:
            if not here:
                raise
            return self._pulled_model(here[-1])

    def _why_no_run(self, name: str) -> str:
        names = "use base, policy, a run's id or owner/name[@revision]"
        folder = RunFolder(self._home / "runs" / name)
        if not _LOCAL_NAME.fullmatch(name) or not folder.path.is_dir():
            return f"Model {name} is not here: {names}."
        if not _is_done(folder):
            return f"Run {name} is not done, so it has no weights yet: wait for it, or resume it."
        try:
            self._check_run(folder)
        except (ModelFilesError, OSError) as error:
            what = "model" if folder.model.is_dir() else "adapter"
            return f"The {what} of run {name} can't be used: {error}: {names}."
        return f"Model {name} is not here: {names}."

    def _digest(self, weights: list[Path]) -> str:
        stats = [(file, file.stat()) for file in weights]
        key = tuple((str(file), stat.st_mtime_ns, stat.st_size) for file, stat in stats)
        if key not in self._digests:
            self._digests[key] = sha256_of(*weights)[:40]
        return self._digests[key]


def why_base_answers(home: Path) -> str | None:
    """As Registry.why_base_answers, by whether there are weights at all: for a quick look."""
    promoted = Promotions(home).current()
    if promoted is None:
        return None
    pulled = [(found.repo, found.commit) for found in list_pulled(home / "models")]
    left = RunFolder(home / "runs" / str(promoted.adapter)).weights.glob("*.safetensors")
    is_here = any(left) or (promoted.adapter, promoted.adapter_revision) in pulled
    return None if is_here else _base_stands_in(promoted)


def _base_stands_in(policy: ModelRef) -> str:
    return (
        f"The policy {policy.label} is not here any more, so the base answers meanwhile: "
        "restore its files or pull it again, or roll back."
    )


class _Unreachable(RegistryError):
    """The Hub did not answer, so what is here already may stand in."""


def _check_repo(repo: str) -> None:
    if not is_repo_id(repo) or "/" not in repo:
        raise RegistryError(f"{repo} is no name of a repository: use owner/name.")


def _is_done(folder: RunFolder) -> bool:
    # A run that is being written, or was written by another version, is not done as far as we know.
    try:
        return folder.status().state is RunState.DONE
    except (OSError, ValueError, KeyError, TypeError):
        return False
