"""`fedha predict`: what a finished run's network says of examples."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedha.cli import publish
from fedha.errors import FedhaError
from fedha.report.formats import Format, render
from fedha.runs import own_files, runfolder
from fedha.runs.files import PREDICTIONS


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="WHAT", help="A domain, a config, a file or a folder; default: the targets."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="A .csv or .parquet; default: predictions.csv in RUN."),
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", metavar="NAME", help="Whose round's model: final, or one that was kept.")
    ] = "final",
    round: Annotated[int | None, typer.Option("--round", min=1, metavar="N", help="The model of this round.")] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="LIST", help="Where there are labels; default: the run's.")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", "-f", help="Print the table so: text, markdown, latex or csv.")
    ] = None,
) -> None:
    """Predict the class of every example with a finished run's network, and evaluate it where there are labels.

    RUN is the folder of a finished run. WHAT is the name of one of its domains, the file of a config whose data are
    taken, or files in the form of the run's data: an .npz file with inputs, a folder of images, a table. Labels may be
    missing. A row of the output has id, domain, part, label, prediction, and the probability of each class.

    Models of other rounds than the last are there where checkpoint.keep says so.

    [bold]Examples[/bold]

    [cyan]fedha predict runs/quickstart/hgp-seed0[/cyan]

    [cyan]fedha predict runs/pacs --data new-photos --output photos.parquet[/cyan]

    [cyan]fedha predict runs/heart --data ward.csv --rule training_domain_validation --metrics auroc,macro_f1[/cyan]
    """
    from fedha.predictions import predict as predicted
    from fedha.predictions.writing import check_ending
    from fedha.report.domains import told_table

    console, place = publish.terminal(), output or run / PREDICTIONS
    names = None if metrics is None else _names(metrics)
    check_ending(place)
    if round is not None and rule != "final":
        raise FedhaError(f"--round is {round} and --rule is {rule!r}, which names a round too; give one of them")
    if output is None:
        if not runfolder.holds_run(run):
            raise FedhaError(f"there is no run in {run}; name the folder of a finished one")
        own_files.claim(run, PREDICTIONS)
    elif place.exists():
        raise FedhaError(f"{place} is there already and nothing is overwritten; choose another --output")
    found = predicted(run, place, data, rule=rule, round=round, metrics=names)
    table = told_table(found.domains)
    if form is not None:
        sys.stdout.write("" if table is None else render(table, form))
        return
    if table is None:
        publish.say("No example has a label, so nothing is evaluated.", console)
    else:
        publish.show(table, console)
    publish.say(f"{found.rows:,} predictions: {place}", console)


def _names(metrics: str) -> list[str]:
    from fedha.metrics.table import check_name

    names = [one.strip() for one in metrics.split(",") if one.strip()]
    try:
        for name in names:
            check_name(name)
    except ValueError as error:
        raise FedhaError(f"--metrics: {error}") from error
    return names
