"""`fedha table`: what sweeps have found, as tables and as a page with pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedha.cli import publish
from fedha.errors import FedhaError
from fedha.report.formats import Format

if TYPE_CHECKING:  # torch: slow to import, and help should come at once
    from fedha.sweep.found import Found


def table(
    paths: Annotated[list[Path], typer.Argument(metavar="SWEEP...")],
    form: Annotated[
        Format | None, typer.Option("--format", "-f", metavar="FORMAT", help="text, markdown, latex or csv.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write; .html: a page. Default: the terminal."),
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="NAME", help="One selection rule alone; default: all.")
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help="One of evaluation.metrics; default: accuracy.")
    ] = "accuracy",
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows",
            metavar="KEY",
            help="A key whose values have rows of their own, so that none is chosen by; may be given again.",
        ),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Write a page with pictures: report.html in the sweep's folder, or --output.")
    ] = False,
) -> None:
    """Print the tables of sweeps: accuracies under each selection rule, the comparison with ERM, and the cost.

    Runs that are still to come are left out; the tables say what is there. The page adds pictures: accuracy against
    rounds, bytes and seconds, and against each hyperparameter, and which recipes cannot be told apart.

    [bold]Examples[/bold]

    [cyan]fedha table runs/heart-sweep[/cyan]

    [cyan]fedha table runs/heart-sweep --page[/cyan]

    [cyan]fedha table runs/heart-sweep runs/heart-scaffold --rows training.optimizer[/cyan]

    [cyan]fedha table runs/heart-sweep --rule training_domain_validation --format latex --output table.tex[/cyan]
    """
    console = publish.terminal()
    if page or (output is not None and output.suffix == ".html"):
        if form is not None:
            raise FedhaError(f"--format is {form}, but a page has a form of its own; leave one of them out")
        publish_page(paths, output, rule, console, metric, rows or ())
    else:
        publish_tables(paths, form, output, rule, console, metric, rows or ())


def publish_tables(
    paths: Sequence[Path],
    form: Format | None,
    output: Path | None,
    rule: str | None,
    console: Console,
    metric: str = "accuracy",
    rows: Sequence[str] = (),
) -> None:
    """Write or show the tables of sweeps.

    Raises:
        FedhaError: A path holds no sweep, nothing has finished, there is no such rule, metric or key, or the output is
            somebody's.
    """
    from fedha.atomic import write_text
    from fedha.report.formats import render
    from fedha.sweep.found import read_found
    from fedha.sweep.tables import sweep_tables

    rules, found = _rules(rule), read_found(paths, rows)
    _check_metric(metric, found, paths)
    tables = sweep_tables(found, rules, metric)
    if not tables:
        raise FedhaError(_nothing(", ".join(map(str, paths)), found, rule, metric))
    form = form or (publish.form_of(output) if output else None)
    if form is None and output is None:
        for one in tables:
            publish.show(one, console)
            publish.say("", console)
        return
    text = "\n".join(render(one, form or "text") for one in tables)
    if output is None:
        sys.stdout.write(text)
        return
    publish.check_table(output, text)
    write_text(output, text)
    publish.say(f"Tables: {output}", console)


def publish_page(
    paths: Sequence[Path],
    output: Path | None,
    rule: str | None,
    console: Console,
    metric: str = "accuracy",
    rows: Sequence[str] = (),
) -> None:
    """Write the page of sweeps; arguments and errors as in `publish_tables`."""
    from fedha.atomic import write_text
    from fedha.sweep.found import read_found
    from fedha.sweep.page import render_page
    from fedha.sweep.store import PAGE

    rules, found = _rules(rule), read_found(paths, rows)
    _check_metric(metric, found, paths)
    if not found.summaries:
        raise FedhaError(_nothing(", ".join(map(str, paths)), found, rule, metric))
    place = output or paths[0] / PAGE
    publish.check_page(place)
    write_text(place, render_page(found, [path.resolve().name for path in paths], rules, metric))
    publish.say(f"Page: {place}", console)


def _check_metric(metric: str, found: "Found", paths: Sequence[Path]) -> None:
    from fedha.sweep.summary import metrics_of

    known = {name for one in found.summaries.values() for name in metrics_of(one)}
    if metric != "accuracy" and found.summaries and metric not in known:
        told = ", ".join(sorted(known)) or "none: name them in evaluation.metrics"
        raise FedhaError(f"no run of {', '.join(map(str, paths))} has the metric {metric!r}; they have {told}")


def _nothing(where: str, found: "Found", rule: str | None, metric: str) -> str:
    """Why there is no table."""
    if not found.summaries:
        return f"no run of {where} has finished yet; go on with the same fedha sweep"
    apart = [one["diverged"] for one in found.summaries.values() if one["diverged"]]
    if len(apart) == len(found.summaries):
        return f"every run of {where} that ended came apart, the first: {apart[0]}; lower training.learning_rate"
    if rule is None:
        return f"no run of {where} has a value of {metric}; its metrics.jsonl says why"
    return f"no run of {where} has what the rule {rule} looks at; `fedha table` without --rule shows those that do"


def _rules(rule: str | None) -> list[str]:
    """The rules that are asked for.

    Raises:
        FedhaError: There is none of that name.
    """
    from fedha.schema import nearest
    from fedha.sweep.selection import RULES

    if rule is not None and rule not in RULES:
        raise FedhaError(f"there is no rule {rule!r}{nearest(rule, RULES)}")
    return [rule] if rule else []
