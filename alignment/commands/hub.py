"""The commands that talk with the Hub: publish, deploy, pull, and the way back from a model.

Parses, calls one service, prints. Each leaves its line in the audit log unless it only looks.
"""

from typing import Annotated

import typer

from alignment.commands.here import RunId, logged, this_home
from alignment.settings import AlignmentSettings
from annotation.settings import AnnotationSettings, load_settings

hub_commands = typer.Typer()


@hub_commands.command("publish-dataset")
def publish_dataset(
    repo: Annotated[str, typer.Option(help="Name on the Hub, bare or with its owner.")],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Of a new repository; the Hub's default if unset."),
    ] = None,
) -> None:
    """Push the preference dataset and its card to the Hub, in one commit."""
    from alignment.pipeline import open_pipeline

    with (
        open_pipeline(this_home(), load_settings(AlignmentSettings)) as pipeline,
        logged("publish the dataset", repo),
    ):
        published = pipeline.publish_dataset(repo, private=private)
    print(f"{published.repo}@{published.commit}")
    print(published.url)


@hub_commands.command()
def publish(
    run_id: RunId,
    repo: Annotated[str, typer.Option(help="Name on the Hub, bare or with its owner.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="One whole model: the adapter added to its base.")
    ] = False,
    dataset: Annotated[
        str | None, typer.Option(help="Push what it was trained on too, to this dataset.")
    ] = None,
) -> None:
    """Push a finished run's weights and card to the Hub."""
    from alignment.pipeline import open_pipeline

    with (
        open_pipeline(this_home(), load_settings(AlignmentSettings)) as pipeline,
        logged("publish", run_id, repo),
    ):
        published = pipeline.publish(run_id, repo, merged=merged, dataset=dataset)
    print(f"{published.repo}@{published.revision}")
    print(published.url)


@hub_commands.command()
def deploy(
    space: Annotated[str, typer.Argument(metavar="NAMESPACE/NAME", help="The Space.")],
    hardware: Annotated[
        str | None, typer.Option(help="Its machine, such as cpu-upgrade; cpu-basic where new.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Private, if it is new.")] = False,
    bucket: Annotated[
        str | None, typer.Option(help="A bucket to keep downloaded weights in, mounted at /data.")
    ] = None,
    renew: Annotated[
        list[str] | None, typer.Option(help="A secret to set anew, by name; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without being asked.")] = False,
) -> None:
    """Put this app on a Space, or bring the Space up to date; says what it will do and asks."""
    from alignment.commands.deploy import DeployOptions, plan_deployment

    options = DeployOptions(space, private, hardware, bucket, tuple(renew or ()))
    plan = plan_deployment(
        options, load_settings(AnnotationSettings), load_settings(AlignmentSettings)
    )
    if plan.changes_nothing:
        print(f"The Space {space} is up to date: nothing to change.")
        return
    print("\n".join(plan.lines()), flush=True)
    if not yes:
        typer.confirm("Do it?", abort=True, err=True)
    with logged("deploy", space):
        address = plan.carry_out(print)
    print(address)


@hub_commands.command()
def pull(
    repo: Annotated[str, typer.Argument(help="owner/name[@revision] on the Hub.")],
) -> None:
    """Fetch an adapter or a fine-tuned model of this base from the Hub; its size comes first."""
    from alignment.base import resolve_base
    from alignment.commands.pull import pull_here
    from alignment.pipeline import count_votes
    from alignment.pulls import Pulls
    from alignment.registry import Registry

    home, settings = this_home(), load_settings(AlignmentSettings)
    base = resolve_base(settings, home.root, has_votes=count_votes(home) > 0)
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    with logged("pull a model", repo):
        pulled = pull_here(Pulls(Registry(home.root, base, token=token)), repo)
    print(pulled.name)


@hub_commands.command()
def lineage(
    model: Annotated[str, typer.Argument(help="policy, a run's id or a Hub repo[@revision].")],
) -> None:
    """Walk from a model back to its votes, and check each hash on the way."""
    from alignment.commands.lineage import load_trace, to_text
    from alignment.pipeline import open_pipeline, open_reader

    home, settings = this_home(), load_settings(AlignmentSettings)
    with open_reader(home) as journal, open_pipeline(home, settings) as pipeline:
        print(to_text(load_trace(home, settings, pipeline, journal, model)))


@hub_commands.command()
def reproduce(
    model: Annotated[str, typer.Argument(help="A run's id, or repo[@revision] on the Hub.")],
) -> None:
    """Train a model again from what it pins; exit status 1 unless it comes out the same."""
    from alignment.commands.reproduce import check_reproduced
    from alignment.commands.reproduce import reproduce as train_again

    with logged("reproduce", model):
        found = train_again(this_home(), load_settings(AlignmentSettings), model)
    check_reproduced(found)
    print(found.line)
