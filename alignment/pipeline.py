"""From a home's votes to a published adapter: what the admin page, the commands and the demo share.

Owns the order of the steps (export → run → publish) and the state that people ask for. How each
step works is the business of export, runs, publish and registry.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from alignment.bakeoff.bakeoffs import METHODS, Bakeoffs
from alignment.bakeoff.store import Bakeoff
from alignment.base import ResolvedBase, resolve_base
from alignment.checks.material import Material
from alignment.checks.votes import measure_flips
from alignment.doctor import Diagnosis, diagnose, examine
from alignment.hub.meter import Meter
from alignment.places.jobs import JobQuote, jobs_quote
from alignment.places.known import known_places
from alignment.places.warm import WarmWorker
from alignment.publishing.publish import Published, publish_run
from alignment.pulls import Pulls, parse_name
from alignment.registry import RegisteredModel, Registry
from alignment.runs.estimate import Estimate, check_room, estimate_run
from alignment.runs.plan import plan_run
from alignment.runs.recipes import Method, TrainingOptions, TrainingSpec
from alignment.runs.runs import Run, RunError, Runs
from alignment.settings import AlignmentSettings
from alignment.starter.starter import starter_prompts
from annotation.export.export import (
    Export,
    PreparedExport,
    export_preferences,
    export_to_home,
    live_votes,
    load_export,
    prepare_export,
)
from annotation.faults import Fault
from annotation.home import Home
from annotation.hub.dataset import PublishedDataset, publish_dataset
from annotation.journal.deletion import note_published
from annotation.journal.journal import JournalReader
from annotation.prompts import load_prompts
from annotation.quality.report import QualityDesk
from annotation.schema import Prompt, Sampling, Split

STARTER_MAX_NEW_TOKENS = 64
MAX_NEW_TOKENS = 160


class NoVotesYet(Fault):
    """A command that needs votes met a home that has none."""


class Pipeline:
    """The steps after voting, over one home and one base."""

    def __init__(
        self,
        home: Home,
        settings: AlignmentSettings,
        base: ResolvedBase,
        journal: JournalReader,
        *,
        warm: WarmWorker | None = None,
    ) -> None:
        """Runs here take the process that `warm` keeps, where the app has one."""
        self._home = home
        self._settings = settings
        self.journal = journal
        self.base = base
        self.quality = QualityDesk(journal)
        token = settings.hf_token
        self._token = token.get_secret_value() if token else None
        self.registry = Registry(home.root, base, token=self._token)
        self.pulls = Pulls(self.registry)
        self.runs = Runs(home.root, known_places(settings, warm))
        self.bakeoffs = Bakeoffs(home.root)

    def preview(self) -> PreparedExport:
        """The dataset that an export would write now."""
        return prepare_export(self.journal)

    def export(self, directory: Path | None = None) -> Export:
        """Write the dataset to `directory`, or into the home under its hash."""
        if directory is None:
            return export_to_home(self.journal, self._home.root)
        return export_preferences(self.journal, directory)

    def diagnose(self, method: Method = "dpo", *, tokens: bool = True) -> Diagnosis:
        """What the data doctor says before a run of `method` on the votes as they are now.

        With `tokens` it loads a tokenizer, which the web app must not.
        """
        return diagnose(self._material(), self.base, method=method, tokens=tokens)

    def measured_flip_rate(self) -> float | None:
        """The share of examples whose sides are thought to be swapped, or None with too little
        overlap of votes to measure it.
        """
        flips = measure_flips(self._material())
        return flips.of_examples if flips else None

    def estimate(self, options: TrainingOptions) -> Estimate:
        """What a run on the votes as they are now would take on this machine.

        Raises RunError where `train` would: options that make no sense, a finding of the data
        doctor that blocks, too little memory or disk.
        """
        for finding in examine(self._material(), self.base.path):
            if finding.level == "blocking":
                raise RunError(finding.line)
        prepared = self.preview()
        spec = self._plan(options, prepared)
        finished = [(r.spec, r.status.final) for r in self.runs.list()]
        estimate = estimate_run(
            spec,
            examples=prepared.examples,
            home=self._home.root,
            earlier=[(spec, final) for spec, final in finished if final is not None],
        )
        if options.where != "jobs":
            check_room(estimate)
        return estimate

    def quote(self, options: TrainingOptions) -> JobQuote:
        """What a job on the Hub for these options costs at most. Raises RunError."""
        return jobs_quote(self._settings, self._plan(options, self.preview()))

    def train(self, options: TrainingOptions) -> Run:
        """Export the votes as they are now and start a run on them; returns at once.

        The robust loss takes the measured flip rate where none is given. Raises RunError, with
        nothing made, when a run is active or `estimate` refuses.
        """
        self.estimate(options)
        run = self.runs.start(
            self._settled(options),
            base=self.base,
            export=self.export(),
            start=self.starts_from(options),
            min_examples=self._settings.min_examples,
        )
        if options.where == "jobs":
            # The job reads the dataset from a repository on the Hub.
            note_published(self._home.journal)
        return run

    def _plan(self, options: TrainingOptions, prepared: PreparedExport) -> TrainingSpec:
        return plan_run(
            self._settled(options),
            base=self.base,
            dataset_sha256=prepared.sha256,
            examples=len(prepared.examples),
            start=self.starts_from(options),
        )

    def starts_from(self, options: TrainingOptions) -> RegisteredModel | None:
        """The tuned model that a run goes on from; None for the base.

        Raises RegistryError for a model that is not here, RunError where a job would need it.
        """
        model = self.registry.get(options.start, pull=False)
        if model.weights_path is None:
            return None
        if options.where == "jobs":
            raise RunError(
                f"A job on the Hub can't go on from {model.name}, which is here alone: start from "
                "the base, or train here."
            )
        return model

    def _settled(self, options: TrainingOptions) -> TrainingOptions:
        if options.loss == "robust" and options.flip_rate is None:
            return replace(options, flip_rate=self.measured_flip_rate())
        return options

    def _material(self) -> Material:
        return Material(
            self.preview(),
            live_votes(self.journal),
            self._settings.min_examples,
            self.quality.suspects(),
        )

    def start_bakeoff(
        self, prompts: Sequence[Prompt] | None, *, steps: int | None = None, seed: int = 0
    ) -> Bakeoff:
        """Start DPO, ORPO and SFT on the votes as they are now; compared on eval prompts.

        `prompts` are the home's own; None means those that come with the base. Raises
        BakeoffError, or RunError where this machine has too little room.
        """
        for method in METHODS:
            self.estimate(TrainingOptions(method, steps=steps, seed=seed))
        asked = prompts or (starter_prompts() if self.base.is_starter else load_prompts(None))
        return self.bakeoffs.start(
            base=self.base,
            export=self.export(),
            prompts=[p for p in asked if p.split is Split.EVAL],
            seed=seed,
            steps=steps,
            min_examples=self._settings.min_examples,
        )

    def publish(
        self, run_id: str, repo: str, *, merged: bool = False, dataset: str | None = None
    ) -> Published:
        """Push a finished run's weights and card to the Hub as `repo`, and with `dataset` what it
        was trained on to the dataset repository of that name first.

        `merged` makes one whole model of base and adapter. A bare name goes under HUB_NAMESPACE.
        Raises PublishError without HF_TOKEN. The journal notes it: a voter who deletes is told that
        what was published can't be called back.
        """
        # Here for its time: nothing else that commands do needs ratings.
        from alignment.publishing.evidence import load_evidence

        run = self.runs.get(run_id)
        if dataset:
            self._push_dataset(load_export(run.folder.dataset), dataset)
        published = publish_run(
            run.folder.path,
            repo=repo,
            namespace=self._settings.hub_namespace,
            token=self._token,
            merged_into=self._base_of(run) if merged else None,
            evidence=load_evidence(run, self.registry, self.journal, self.bakeoffs.list()),
        )
        note_published(self._home.journal)
        return published

    def publish_dataset(self, repo: str, *, private: bool | None = None) -> PublishedDataset:
        """Push the preferences as they are now to the Hub as the dataset `repo`.

        A run on these very votes pins the commit. Named, noted and refused as in `publish`.
        """
        return self._push_dataset(self.export(), repo, private=private)

    def _push_dataset(
        self, export: Export, repo: str, *, private: bool | None = None
    ) -> PublishedDataset:
        published = publish_dataset(
            export,
            home=self._home.root,
            repo=repo,
            namespace=self._settings.hub_namespace,
            token=self._token,
            private=private,
        )
        note_published(self._home.journal)
        return published

    def _base_of(self, run: Run) -> Path:
        """The folder of the base of `run`: this home's own where it is the same."""
        return self.base.path if run.spec.base == self.base.ref else run.spec.base_path

    def pull(self, name: str, *, meter: Meter | None = None) -> RegisteredModel:
        """Register the aligned model `owner/name[@revision]` of the Hub. Raises RegistryError, or
        Cancelled where `meter` was told so.
        """
        return self.registry.pull(*parse_name(name), meter=meter)


def default_sampling(base: ResolvedBase, *, seed: int = 0) -> Sampling:
    """How pairs are drawn from a base: at temperature 1, so that the two answers differ."""
    limit = STARTER_MAX_NEW_TOKENS if base.is_starter else MAX_NEW_TOKENS
    return Sampling(max_new_tokens=limit, seed=seed)


@contextmanager
def open_pipeline(home: Home, settings: AlignmentSettings) -> Iterator[Pipeline]:
    """The pipeline of a home for a command, beside a running app or without one."""
    with open_reader(home) as journal:
        base = resolve_base(settings, home.root, has_votes=journal.vote_count() > 0)
        yield Pipeline(home, settings, base, journal)


@contextmanager
def open_reader(home: Home) -> Iterator[JournalReader]:
    """The journal of a home for a command. Raises NoVotesYet where no app has run yet."""
    if not home.journal.exists():
        raise NoVotesYet(
            f"The home {home.root} has no votes yet: start the app with `python app.py` and vote."
        )
    journal = JournalReader(home.journal)
    try:
        yield journal
    finally:
        journal.close()


def count_votes(home: Home) -> int:
    """Live votes in a home's journal, 0 where there is none."""
    if not home.journal.exists():
        return 0
    with open_reader(home) as journal:
        return journal.vote_count()
