"""`fedha study privacy`: accuracy against epsilon against what attacks gain."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedha.cli import audit, launch, publish
from fedha.cli.options import ConfigName, Overrides, Quiet
from fedha.errors import FedhaError, UnwrittenError
from fedha.report.formats import Column, Table
from fedha.runs import folders, own_files, owner, runfolder
from fedha.study.cells import Cell, cells_of, noise_text, read_aggregations, read_noises

if TYPE_CHECKING:  # torch and Flower: slow to import, and help should come at once
    from fedha.audit.settings import Settings

app = typer.Typer(
    name="study", no_args_is_help=True, help="Many runs that differ on purpose, and what follows from them."
)


@app.callback()
def describe() -> None:
    """Many runs that differ on purpose, and what follows from them."""


@app.command()
def privacy(
    config: ConfigName,
    overrides: Overrides = None,
    noise: Annotated[
        str, typer.Option("--noise", metavar="LIST", help="Noise multipliers of example-level privacy, and none.")
    ] = "none,1,10",
    aggregation: Annotated[
        str, typer.Option("--aggregation", metavar="LIST", help="plain, secure, or both: what the server gets to see.")
    ] = "plain",
    attacks: Annotated[
        str, typer.Option("--attacks", metavar="LIST", help="As in fedha audit.")
    ] = "labels,features,tracing,membership",
    rounds: Annotated[str, typer.Option("--rounds", metavar="LIST", help="As in fedha audit.")] = "",
    shadows: Annotated[int, typer.Option("--shadows", metavar="N", help="As in fedha audit; 0: the loss alone.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The study's folder; default: runs/NAME-privacy.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which runs there would be, and their state.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train every recipe with every noise, aggregation and seed, audit each run, and set the results side by side.

    CONFIG names recipes and seeds; KEY=VALUE changes it. The same command goes on where it was stopped: finished runs
    and audits are not made again, and a longer list of noises adds to the study. A combination that the config refuses
    (such as noise on a statistic that no noise can cover) is left out, and the table says why.

    The study's folder gets study.json, study.md, study.csv, study.svg and report.html; docs/audit.md tells how to read
    them.

    [bold]Examples[/bold]

    [cyan]fedha study privacy quickstart 'recipe=\\[erm, iga, exact_diagonal]' --noise none,10,30 --dry-run[/cyan]

    [cyan]fedha study privacy configs/heart.yaml data.root=heart --noise none,10 --aggregation plain,secure[/cyan]

    [cyan]fedha study privacy quickstart 'recipe=\\[erm, hgp]' --noise none --shadows 8 --out runs/leaks[/cyan]
    """
    from fedha.audit.settings import Settings, chosen_attacks
    from fedha.study import files

    console = publish.terminal()
    wanted = launch.find_config(config, overrides or [])
    settings = Settings(rounds, chosen_attacks(audit.names(attacks)), shadows, ())
    cells = cells_of(wanted, read_noises(noise), read_aggregations(aggregation))
    folder = out or launch.RUNS / f"{folders.folder_name(wanted.name)}-privacy"
    if dry_run:
        publish.show(_plan_table(cells, folder, settings), console)
        return
    new = not folder.exists()
    with launch.leaving_nothing(folder) as made, owner.owning(runfolder.make_folder(folder)):
        files.take(folder, wanted)
        own_files.claim(folder, *(f"{one.name}/" for one in cells))
        made += [folder, *(folder / one.name for one in cells)] if new else []
        refused = _work(cells, folder, settings, console, quiet=quiet, again=_command(config, overrides or []))
        _conclude(cells, refused, folder, console)


def _work(
    cells: Sequence[Cell], folder: Path, settings: "Settings", console: Console, *, quiet: bool, again: str
) -> dict[str, str]:
    """Train and audit what is not done; returns why cells could not be run, by name."""
    refused = {one.name: one.refused for one in cells if one.config is None}
    first: FedhaError | None = None
    for number, cell in enumerate(cells, 1):
        place = folder / cell.name
        if cell.config is None or (runfolder.is_finished(place) and audit.done(place, settings)):
            continue
        if not quiet:
            publish.say(f"[{number}/{len(cells)}] {_title(cell)}", console)
        try:
            launch.train([(cell.config, place)], console, quiet=quiet, common=folder, again=again)
            audit.work({place: place}, settings, console, quiet=quiet)
        except UnwrittenError:
            raise  # of the disk, not of the combination: the others would be left out alike
        except FedhaError as error:
            refused[cell.name], first = str(error), first or error
            if not quiet:
                publish.say(f"  left out: {error}", console)
    if first is not None and len(refused) == len(cells):
        raise first
    return refused


def _conclude(cells: Sequence[Cell], refused: dict[str, str], folder: Path, console: Console) -> None:
    from dataclasses import replace

    from fedha.report.comparison import read_runs
    from fedha.report.page import write_report
    from fedha.report.section import Section
    from fedha.study import files
    from fedha.study.figure import study_figure
    from fedha.study.outcome import grouped, leak_table, study_table
    from fedha.study.points import read_point

    done, points = [], []
    for cell in cells:
        try:
            if cell.name not in refused:
                points.append(read_point(cell, folder / cell.name))
                done.append(cell)
        except FedhaError as error:
            refused[cell.name] = str(error)
    if not done:
        raise FedhaError(f"no combination of this study can be run; the first: {next(iter(refused.values()))}")
    groups = grouped(points)
    left_out = [replace(one, refused=refused[one.name]) for one in cells if one.name in refused]
    leaks = leak_table(groups)
    tables = (study_table(groups, left_out), *([leaks] if leaks else []))
    figure = study_figure("study0", groups)
    files.write(folder, points, tables, figure)
    part = Section("Accuracy, epsilon, attacks", _EXPLANATION, tables, (("", figure),) if figure else (), first=True)
    runs, _ = read_runs([folder / one.name for one in done])
    publish.check_page(folder / runfolder.REPORT)
    write_report(runs, folder / runfolder.REPORT, sections=[part])
    for table in tables:
        publish.show(table, console)
    publish.say(f"Report: {folder / runfolder.REPORT}", console)


_EXPLANATION = (
    "Up is better for who uses the model, right is better for who attacks it: how far the strongest attack on what was "
    "sent, or on the final model, comes beyond its guess. A mark is a recipe with one noise and one aggregation, the "
    "mean over its seeds; filled: plain messages, hollow: secure sums. Each run's own report has its whole audit."
)


def _plan_table(cells: Sequence[Cell], folder: Path, settings: "Settings") -> Table:
    columns = tuple(Column(head) for head in ("recipe", "noise", "sums", "seed", "state"))
    rows = tuple(
        (one.recipe, noise_text(one.noise), one.aggregation, str(one.seed), _state(one, folder / one.name, settings))
        for one in cells
    )
    return Table(f"The study in {folder}: {len(cells)} runs", columns, rows)


def _state(cell: Cell, place: Path, settings: "Settings") -> str:
    if cell.config is None:
        return f"refused: {cell.refused}"
    if not runfolder.is_finished(place):
        return "begun" if runfolder.holds_run(place) else "to do"
    return "done" if audit.done(place, settings) else "to audit"


def _title(cell: Cell) -> str:
    return f"{cell.recipe}, noise {noise_text(cell.noise)}, {cell.aggregation} sums, seed {cell.seed}"


def _command(config: str, overrides: Sequence[str]) -> str:
    return " ".join(["fedha study privacy", *map(shlex.quote, (config, *overrides)), "… --out"])
