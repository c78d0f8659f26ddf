"""The command line: ``fedha run``, ``resume``, ``report``, ``audit``, ``diagnose``, ``study``, ``recipes`` ...

Heavy imports (torch, Flower, matplotlib) happen inside the commands, so that help and errors come at once.
"""

import inspect
import os
import sys
from pathlib import Path
from typing import Annotated

# Nothing is sent anywhere unless the user asks for it; read when flwr and ray are imported.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import typer

from fedha import progress
from fedha.cli import audit, data, deploy, diagnose, exits, predict, privacy, study, sweep, sweep_table
from fedha.cli.options import ConfigName, Log, Overrides, Quiet
from fedha.report.formats import Format

app = typer.Typer(
    name="fedha",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]fedha run quickstart[/bold]: it needs no data and takes seconds.",
)

app.add_typer(deploy.app)
app.command()(audit.audit)
app.command()(diagnose.diagnose)
app.command()(predict.predict)
app.command()(sweep.sweep)
app.command()(sweep_table.table)
app.add_typer(study.app)
app.add_typer(data.app)
app.add_typer(privacy.app)

Engine = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="Where clients run: the config's engine.name.")
]


def _say_version(wanted: bool) -> None:
    if wanted:
        from fedha import __version__

        sys.stdout.write(f"fedha {__version__}\n")
        raise typer.Exit


@app.callback()
def describe(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_say_version, help="Print fedha's version, and no more."),
    ] = False,
) -> None:
    """Train one model on several domains that may not share their data, so that it works on a domain nobody had."""


@app.command()
def run(
    config: ConfigName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write; default: runs/NAME, then NAME-2, …"),
    ] = None,
    engine: Engine = None,
    quiet: Quiet = False,
    log: Log = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the runs that are in DIR.")] = False,
) -> None:
    """Train what a config describes: every recipe with every seed, one after the other.

    CONFIG is a YAML file, or the name of one that fedha ships. KEY=VALUE changes what it says; the value is YAML.

    [bold]Examples[/bold]

    [cyan]fedha run quickstart[/cyan]

    [cyan]fedha run configs/quickstart.yaml training.rounds=20 seed=3[/cyan]

    [cyan]fedha run quickstart 'recipe=\\[erm, coral]' 'seed=\\[0, 1]' --out runs/four[/cyan]
    """
    from fedha.cli import launch, publish
    from fedha.runs.runfolder import REPORT

    console = publish.terminal()
    wanted = launch.find_config(config, overrides or [], engine)
    if overwrite:
        launch.look_at_data(wanted)  # before anything is removed
    with launch.leaving_nothing(out) as made:
        folder, plan = launch.plan_new(wanted, out, overwrite=overwrite)
        made += [folder, *(place for _, place in plan if place != folder)]
        launch.train(plan, console, quiet=quiet, common=folder, log=log or [])
    publish.conclude([place for _, place in plan], folder / REPORT, console)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    overrides: Overrides = None,
    engine: Engine = None,
    quiet: Quiet = False,
    log: Log = None,
) -> None:
    """Continue runs that were stopped, from their last checkpoint, and start those that never began.

    RUN is the folder of a run, or one that holds runs. KEY=VALUE changes what does not touch the rounds that are done:
    training.rounds, engine, checkpoint, evaluation.every, data.root, and how long missing clients are waited for. With
    more rounds a finished run goes on too.

    [bold]Examples[/bold]

    [cyan]fedha resume runs/quickstart[/cyan]

    [cyan]fedha resume runs/quickstart/hgp-seed0 training.rounds=400[/cyan]

    [cyan]fedha resume runs/large engine.address= --engine inline[/cyan]
    """
    from fedha.cli import launch, publish
    from fedha.runs.runfolder import REPORT

    console = publish.terminal()
    plan = launch.plan_again(folder, [*(overrides or []), *([f"engine.name={engine}"] if engine else [])], console)
    launch.train(plan, console, quiet=quiet, common=folder, log=log or [])
    publish.conclude([place for _, place in plan], folder / REPORT, console)


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    form: Annotated[
        Format | None, typer.Option("--format", "-f", help="Print the table instead: text, markdown, latex or csv.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write; default: report.html in the folder."),
    ] = None,
) -> None:
    """Write runs as one HTML page that needs no network, or their table in a format of your choice.

    RUN is the folder of a run, or one that holds runs.

    [bold]Examples[/bold]

    [cyan]fedha report runs/quickstart[/cyan]

    [cyan]fedha report runs/a runs/b --output comparison.html[/cyan]

    [cyan]fedha report runs/quickstart --format latex --output table.tex[/cyan]
    """
    from fedha.cli import publish

    publish.report(paths, form, output, publish.terminal())


@app.command()
def recipes(
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown.")] = False,
    classes: Annotated[int, typer.Option(min=1, help="Rows of the head: classes, or 1 for one logit.")] = 2,
    features: Annotated[int, typer.Option(min=1, help="Features before the head, without the bias.")] = 128,
    parameters: Annotated[int, typer.Option(min=1, help="Numbers in the whole model.")] = 16_770,
) -> None:
    """List the recipes, the server's rules, and what goes with any of them; what each costs, and where it comes from.

    [bold]Examples[/bold]

    [cyan]fedha recipes[/cyan]

    [cyan]fedha recipes --classes 10 --features 512 --parameters 11181642[/cyan]
    """
    from fedha.cli import publish
    from fedha.report.baselines import beside_table, rule_table
    from fedha.report.formats import render
    from fedha.report.tables import recipe_table

    tables = (recipe_table(classes, features, parameters), rule_table(), beside_table())
    if markdown:
        sys.stdout.write("\n".join(render(table, "markdown") for table in tables))
        return
    for table in tables:
        publish.show(table, publish.terminal())


@app.command()
def check(
    config: ConfigName,
    overrides: Overrides = None,
    data: Annotated[bool, typer.Option("--data/--no-data", help="Also load the data, as a run would.")] = True,
) -> None:
    """Check a config and its data, and print it with all its defaults, as YAML.

    CONFIG is a YAML file, or the name of one that fedha ships. KEY=VALUE changes what it says; the value is YAML. Where
    the data are not looked at, because the config does not say where they are or because they would be downloaded, the
    last line says so.

    [bold]Example[/bold]

    [cyan]fedha check quickstart training.rounds=20[/cyan]
    """
    from fedha.cli.launch import find_config, look_at_data, named_runs
    from fedha.config import to_yaml

    found = find_config(config, overrides or [])
    runs = len(named_runs(found)[0])
    seen = look_at_data(found) if data else "the data were not looked at"
    sys.stdout.write(to_yaml(found))
    told = f"{runs} {'run' if runs == 1 else 'runs'} of {found.training.rounds} rounds"
    sys.stderr.write(f"{config} is valid: {told}; {seen}\n")


@app.command()
def export(
    config: ConfigName,
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    overrides: Overrides = None,
) -> None:
    """Write each source domain of a config into DIR/DOMAIN: what a site of a deployment needs, and no more.

    That is domain.npz, its examples as they are used; of a folder of images the files themselves, in DOMAIN/CLASS.
    CONFIG is a YAML file, or the name of one that fedha ships. KEY=VALUE changes what it says; its seed decides what is
    held out. A site's FEDHA_DATA is then its domain's folder.

    [bold]Example[/bold]

    [cyan]fedha export deployment exported[/cyan]
    """
    from fedha.cli.launch import find_config
    from fedha.data.export import export_sources
    from fedha.errors import FedhaError
    from fedha.flower.serve import load_domains

    wanted = find_config(config, overrides or [])
    if wanted.data.id_test:
        raise FedhaError("data.id_test keeps examples for a simulation's server, which no site has; set it to 0")
    domains = load_domains(wanted)
    if wanted.data.name == "folder" and wanted.data.manifest is None and wanted.data.root is not None:
        from fedha.data.images.export import export_images

        for place, copied in export_images(domains.sources, wanted.data.root, folder).items():
            images = sum(1 for one in place.rglob("*") if one.is_file())
            sys.stdout.write(f"{place}: {images} images, {copied / 1000:,.0f} kB\n")
        return
    for domain, path in zip(domains.sources, export_sources(domains, folder), strict=True):
        size = path.stat().st_size / 1000
        sys.stdout.write(
            f"{path}: {len(domain.train)} examples to train on, {len(domain.held_out)} held out, {size:,.0f} kB\n"
        )


@app.command()
def doctor(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]")] = None,
    overrides: Overrides = None,
    engine: Engine = None,
) -> None:
    """Look at this machine, plan a config's run on it, and try the plan: actors, cores, GPUs, memory, what is missing.

    CONFIG is a YAML file, or the name of one that fedha ships; without one, the machine and Ray are looked at.
    KEY=VALUE changes what it says. Exit code 1: the run could not go on here.

    [bold]Examples[/bold]

    [cyan]fedha doctor[/cyan]

    [cyan]fedha doctor quickstart data.clients_per_domain=100 --engine ray[/cyan]
    """
    from fedha.cli.doctor import examine
    from fedha.cli.launch import find_config
    from fedha.cli.publish import terminal

    wanted = None if config is None else find_config(config, overrides or [], engine, first_of_sweep=True)
    if code := examine(wanted, terminal()):
        raise typer.Exit(code)


@app.command()
def features(
    config: ConfigName,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing and what it costs, and no more.")
    ] = False,
    remove: Annotated[
        str | None,
        typer.Option(
            "--remove",
            metavar="NAME",
            help="Remove a network's features from the cache, by the name that fedha data check tells; or stale: all "
            "that no run with the installed versions takes.",
        ),
    ] = None,
) -> None:
    """Compute the features of a frozen network ahead, into model.features.cache, and say how many there are.

    First it says what is missing, the space that it takes, and how long it takes at the rate of a first block. Runs of
    any recipe and seed, and of any target that the cache has, then find them. It goes on where it was stopped.

    [bold]Examples[/bold]

    [cyan]fedha features mine.yaml model.features.cache=features[/cyan]

    [cyan]fedha features mine.yaml data.augment=domainbed model.features.views=8 --dry-run[/cyan]
    """
    from fedha.cli.launch import find_config
    from fedha.features import ahead, kept
    from fedha.flower.apps import device
    from fedha.flower.serve import load_domains
    from fedha.progress import duration

    one = find_config(config, overrides or (), first_of_sweep=True).runs()[0]
    parts = ahead.parts_of(one, load_domains(one), device(one))
    cache = parts[0].store.folder
    if remove is not None:
        gone = kept.remove(cache, remove, kept.look(cache, parts))
        sys.stdout.write("".join(f"removed {found}\n" for found in gone) or f"nothing in {cache} is stale\n")
        return
    price = ahead.cost(parts)
    told = f"{price.missing:,} of {price.wanted:,} examples and views are missing in {cache}"
    if price.missing:
        left = duration(price.missing / price.rate)
        told += f": {price.bytes / 1e6:,.1f} MB of {price.free / 1e9:,.1f} GB free, {price.rate:,.0f} a second, {left}"
    sys.stdout.write(f"{told}\n")
    sys.stdout.flush()
    for each in () if dry_run else ahead.compute(parts):
        views = f", and {each.views} views of each that is trained on" if each.views else ""
        sys.stdout.write(f"{each.domain}: {each.examples:,} examples, {each.width:,} features each{views}\n")
    if not dry_run:
        sys.stdout.write(f"kept in {cache}\n")


@app.command()
def version() -> None:
    """Print the versions that results depend on."""
    from fedha.runs.versions import versions

    for name, number in versions().items():
        sys.stdout.write(f"{name} {number}\n")


def _reflow(group: typer.Typer) -> None:
    """Leave it to the terminal where lines of descriptions end: they would end as in the source, which is wide."""
    for command in group.registered_commands:
        paragraphs = inspect.cleandoc(getattr(command.callback, "__doc__", None) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(one.split()) for one in paragraphs)
    for below in group.registered_groups:
        if below.typer_instance is not None:
            _reflow(below.typer_instance)


_reflow(app)


def main() -> None:
    """Run the command line and exit."""
    with progress.reporting_to(lambda text: sys.stderr.write(f"{text}\n")):
        sys.exit(exits.exit_code(app))
