"""Votetune: votes in, aligned model out. The command line; without a command it serves the app.

Parses, calls one service, prints. What is served is composed in `alignment.web`, whose `serve` is
imported to serve and for nothing else, so that a command need not wait for Gradio.
"""

import json
import logging
import sys
import warnings
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alignment.commands.here import RunId, logged, this_home
from alignment.commands.hub import hub_commands
from alignment.runs.recipes import DEFAULT_START, Loss, Method, Reference, Where
from alignment.settings import AlignmentSettings
from annotation.faults import Fault
from annotation.settings import AnnotationSettings, load_settings

if TYPE_CHECKING:
    from alignment.runs.runs import Runs

cli = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Votes in, aligned model out. Without a command: serve the app.",
)
Wait = Annotated[
    bool, typer.Option("--wait", help="Stay until the run ends and print its metrics.")
]


class MethodName(StrEnum):
    DPO = "dpo"
    ORPO = "orpo"


@cli.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", hidden=True, help="Label every vote synthetic.")
    ] = False,
) -> None:
    """Serve the app on GRADIO_SERVER_NAME and GRADIO_SERVER_PORT."""
    if context.invoked_subcommand is None:
        from alignment.web.start import start_app

        start_app(synthetic=synthetic)


@cli.command()
def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="As JSON, with Argilla's address and key.")
    ] = False,
) -> None:
    """Base, policy, votes, undelivered, runs, Argilla's address."""
    from alignment.commands.status import load_status

    found = load_status(load_settings(AnnotationSettings))
    print(found.to_json() if as_json else found.to_text())


@cli.command()
def export(directory: Annotated[Path, typer.Argument(help="Folder to write.")]) -> None:
    """Write the preference dataset: train.jsonl, dataset.json, card."""
    from alignment.pipeline import open_reader
    from annotation.export.export import export_preferences

    with open_reader(this_home()) as journal, logged("export") as action:
        done = export_preferences(journal, directory)
        action.touched(done.sha256)
    print(f"{done.examples} examples of {done.counts.votes} votes in {done.directory}")
    print(f"sha256 {done.sha256}")


@cli.command()
def quality(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say how far the votes can be trusted, and which voters deserve a look and why."""
    from rich.console import Console

    from alignment.commands.quality import load_quality, print_quality

    found = load_quality(this_home())
    if as_json:
        print(found.to_json())
    else:
        print_quality(found, Console())


@cli.command()
def doctor(
    method: Annotated[
        Literal["dpo", "orpo", "sft"], typer.Option(help="The method that would be trained.")
    ] = "dpo",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what is wrong with the data before a run, down to the tokens, and what to do."""
    from rich.console import Console

    from alignment.commands.doctor import print_diagnosis, refuse_blocked
    from alignment.pipeline import open_pipeline

    with open_pipeline(this_home(), load_settings(AlignmentSettings)) as pipeline:
        found = pipeline.diagnose(method)
    if as_json:
        print(found.to_json())
    else:
        print_diagnosis(found, Console())
    refuse_blocked(found)


@cli.command()
def train(
    method: Annotated[Method, typer.Option(help="The method.")],
    loss: Annotated[
        Loss | None, typer.Option(help="A loss of DPO, by TRL's name; sigmoid if unset.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Train all weights, not LoRA.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps; by the number of examples if unset.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="By the preset if unset.")] = None,
    beta: Annotated[float | None, typer.Option(help="DPO's β or ORPO's λ.")] = None,
    flip_rate: Annotated[
        float | None,
        typer.Option(help="Share of examples thought to be swapped; measured if unset (robust)."),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            help="DPO's length guard a token: above 0 against growing answers, below 0 "
            "against shrinking ones."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the data order and of LoRA's start.")] = 0,
    start: Annotated[
        str,
        typer.Option("--from", help="Go on from: base, policy, a run's id or a pulled owner/name."),
    ] = DEFAULT_START,
    reference: Annotated[
        Reference | None,
        typer.Option(help="Of DPO: base, or start for the model that --from names."),
    ] = None,
    where: Annotated[
        Where, typer.Option(help="A process here, several by accelerate, or a job on the Hub.")
    ] = "here",
    yes: Annotated[bool, typer.Option("--yes", help="Pay for a job without being asked.")] = False,
    wait: Wait = False,
) -> None:
    """Start a run on the votes as they are now and print its id."""
    from alignment.pipeline import open_pipeline
    from alignment.runs.estimate import describe_estimate
    from alignment.runs.recipes import TrainingOptions

    options = TrainingOptions(
        method,
        loss=loss,
        tuning="full" if full else "lora",
        steps=steps,
        seed=seed,
        learning_rate=learning_rate,
        beta=beta,
        length_penalty=length_penalty,
        flip_rate=flip_rate,
        where=where,
        start=start,
        reference=reference,
    )
    with open_pipeline(this_home(), load_settings(AlignmentSettings)) as pipeline:
        estimate = pipeline.estimate(options)
        if where == "jobs":
            print(pipeline.quote(options).line, file=sys.stderr)
            if not yes:
                typer.confirm("Start it?", abort=True, err=True)
        with logged("train") as action:
            run = pipeline.train(options)
            action.touched(run.id)
        # After the start, so that a refused one says one line.
        if where != "jobs":
            print(describe_estimate(estimate), file=sys.stderr)
        print(run.id, flush=True)
        if wait:
            _finish(pipeline.runs, run.id)


@cli.command()
def rounds(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say what each policy won, how it came to be, and how many votes its pairs have."""
    from rich.console import Console

    from alignment.commands.rounds import load_rounds, print_rounds, to_json

    found = load_rounds(this_home(), load_settings(AlignmentSettings))
    if as_json:
        print(to_json(found))
    else:
        print_rounds(found, Console())


@cli.command()
def runs() -> None:
    """List every run, oldest first."""
    found = _runs().list()
    if not found:
        print("No run yet: start one with `python app.py train --method dpo`.")
    for run in found:
        why = f"  {run.reason}" if run.reason else ""
        print(f"{run.id}  {run.state:<11}  step {run.status.step}/{run.spec.steps}{why}")


@cli.command()
def cancel(run_id: RunId) -> None:
    """Stop a run."""
    found = _runs()
    with logged("cancel a run", run_id):
        run = found.cancel(run_id)
    print(f"{run.id} cancelled")


@cli.command()
def resume(run_id: RunId, wait: Wait = False) -> None:
    """Go on with a run that was stopped, from its last checkpoint."""
    found = _runs()
    with logged("resume a run", run_id):
        run = found.resume(run_id)
    print(f"{run.id} goes on", flush=True)
    if wait:
        _finish(found, run_id)


@cli.command()
def sample(
    model: Annotated[str, typer.Option(help="base, policy, a run's id or a Hub repo[@revision].")],
    prompts: Annotated[Path, typer.Option(help="File of prompts.")],
    out: Annotated[Path, typer.Option(help="JSONL to write.")],
    per_prompt: Annotated[int, typer.Option(min=1, max=64, help="Completions a prompt.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, max=5.0)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write completions of one model as JSONL of {"prompt", "completion"}."""
    from alignment.commands.sample import sample_to_file
    from annotation.prompts import read_prompts

    count = sample_to_file(
        this_home(),
        load_settings(AlignmentSettings),
        model,
        read_prompts(str(prompts)),
        out,
        per_prompt=per_prompt,
        temperature=temperature,
        seed=seed,
    )
    print(f"{count} completions in {out}")


@cli.command()
def bakeoff(
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each run; by the examples if unset.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every run and of the answers.")] = 0,
) -> None:
    """Train DPO, ORPO and plain SFT on the same votes and print one table."""
    from rich.console import Console

    from alignment.commands.bakeoff import print_table, watch_bakeoff
    from alignment.pipeline import open_pipeline
    from annotation.prompts import read_prompts

    settings, home = load_settings(AnnotationSettings), this_home()
    prompts = read_prompts(settings.prompts) if settings.prompts else None
    with (
        open_pipeline(home, load_settings(AlignmentSettings)) as pipeline,
        logged("start a bake-off") as action,
    ):
        started = pipeline.start_bakeoff(prompts, steps=steps, seed=seed)
        action.touched(started.id)
    print(f"{started.id} goes on if you leave", file=sys.stderr)
    print_table(Console(), watch_bakeoff(home, started.id))


@cli.command()
def demo(
    votes: Annotated[int, typer.Option(min=40, max=2000, help="Votes to cast a round.")] = 200,
    method: Annotated[MethodName, typer.Option(help="dpo or orpo.")] = MethodName.DPO,
) -> None:
    """Walk the whole loop twice with scripted voters, labelled synthetic, in some minutes."""
    from alignment.commands.demo import run_demo

    run_demo(load_settings(AnnotationSettings), votes=votes, method=method.value)


cli.add_typer(hub_commands)


def _runs() -> "Runs":
    from alignment.places.known import known_places
    from alignment.runs.runs import Runs

    return Runs(this_home().root, known_places(load_settings(AlignmentSettings)))


def _finish(found: "Runs", run_id: str) -> None:
    """Show a run's progress until it ends; exit 1 unless it is done."""
    from alignment.commands.progress import watch_run

    final = watch_run(found, run_id)
    print(json.dumps(asdict(final), indent=2))


def main() -> None:
    """Run the command line; a Fault is one line on standard error and exit status 1."""
    # Of transformers to its own callers: nothing that a person at a terminal could act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        cli()
    except Fault as fault:
        print(" ".join(str(fault).split()), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
