"""`fedha diagnose`: transfer measure and bound, curvature, attributes and kinds of shift of finished runs."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from fedha import config as configs
from fedha.cli import publish, stopping
from fedha.cli.audit import names
from fedha.cli.exits import EndedError
from fedha.cli.options import Quiet
from fedha.cli.steps import Steps
from fedha.errors import FedhaError, StoppedError
from fedha.report.formats import render
from fedha.runs import own_files, owner, runfolder
from fedha.runs.files import DIAGNOSIS, PLANE
from fedha.runs.wording import run_title

if TYPE_CHECKING:  # torch: slow to import, and help should come at once
    from fedha.data.domain import DomainSet
    from fedha.diagnosis.settings import Asked, Settings
    from fedha.models import SplitModel

SWEEP_PAGE = "diagnosis.html"
Form = Literal["text", "markdown", "latex", "csv", "json"]
Ask = Callable[[Path, "Asked", Steps], None]  # a run's folder, what is asked about it, and who is told of progress

RADIUS = "0.1,0.3,1,3"
_MANY = 2**22  # numbers of features


Radius = Annotated[
    str, typer.Option("--radius", metavar="LIST", help="How far around the learned head, in logit units.")
]
Delta = Annotated[
    str, typer.Option("--delta", metavar="LIST", help="The same in weights of the head, in the place of --radius.")
]
Mode = Annotated[
    str,
    typer.Option(
        "--mode",
        metavar="MODE",
        help="pooled: sources' mean and a target; pairs: of sources; worst: of all; leave-one-out: of sources.",
    ),
]
Round = Annotated[int | None, typer.Option("--round", metavar="N", help="The model of this round; default: the last.")]
Rule = Annotated[
    str,
    typer.Option(
        "--rule",
        metavar="NAME",
        help="The round that a selection rule takes; of a sweep, the runs too (training_domain_validation).",
    ),
]
Printed = Annotated[
    Form | None, typer.Option("--format", "-f", help="Print the tables so: text, markdown, latex, csv; or json.")
]
Again = Annotated[bool, typer.Option("--again", help="Also diagnose runs that have such a diagnosis already.")]
Products = Annotated[
    str,
    typer.Option(
        "--products",
        metavar="NAME",
        help="How curvature of larger heads is asked: lanczos, close; block, all pairs in three exchanges.",
    ),
]


def diagnose(
    target: Annotated[Path, typer.Argument(metavar="RUN")],
    to: Annotated[
        str, typer.Option("--to", metavar="LIST", help="Domains that transfer is measured to; default: every target.")
    ] = "",
    radius: Radius = RADIUS,
    delta: Delta = "",
    mode: Mode = "",
    rows: Annotated[
        str, typer.Option("--rows", metavar="LIST", help="transfer, curvature, attributes, shift; default: all.")
    ] = "",
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="power, or published: the published attack beside it.")
    ] = "power",
    products: Products = "lanczos",
    round: Round = None,
    rule: Rule = "",
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="Ask the run's clients on an engine: inline, ray or flower; default: no client, features here.",
        ),
    ] = "",
    form: Printed = None,
    again: Again = False,
    quiet: Quiet = False,
) -> None:
    """Measure how domains look to a run's learned head: what would transfer, what bounds it, what is aligned.

    RUN is the folder of a finished run, or one that holds some, or a sweep's, of which the runs are taken that a
    selection rule chose. Features are computed once, then everything is measured at the head of the last round, or of
    another whose model was kept (checkpoint.keep), in float64, in this process, on the run's own data; with --engine
    the run's clients compute them, to the same bits. Sites of a deployment: `fedha deploy diagnose`.

    [bold]transfer[/bold]: the worst head in a ball around the learned one, raising one domain's risk above another's,
    beside a bound that no head of the ball can exceed. [bold]curvature[/bold]: the spectral norm of the difference of
    the head's Hessians, as an interval. [bold]attributes[/bold]: how far domains differ in what recipes align, beside
    what chance alone makes. [bold]shift[/bold]: diversity, correlation and label shift. Results go to diagnosis.json,
    diagnosis-plane.svg, to tables, and into report.html. docs/transfer.md tells how to read them.

    [bold]Examples[/bold]

    [cyan]fedha diagnose runs/quickstart/hgp-seed0[/cyan]

    [cyan]fedha diagnose runs/quickstart --rows transfer --radius 0.1,1 --mode leave-one-out[/cyan]

    [cyan]fedha diagnose runs/quickstart/hgp-seed0 --round 40 --format markdown[/cyan]

    [cyan]fedha diagnose runs/heart-sweep --rule oracle --rows transfer[/cyan]
    """
    from fedha.cli.asking import on_engine

    wanted = settings_of(to, radius, delta, mode, rows, method, products)
    work(target, wanted, on_engine(engine) if engine else None, rule, round, form, again=again, quiet=quiet)


def settings_of(to: str, radius: str, delta: str, mode: str, rows: str, method: str, products: str) -> "Settings":
    """What the options ask for.

    Raises:
        FedhaError: One cannot be read.
    """
    from fedha.diagnosis.settings import METHODS, MODES, PRODUCTS, ROWS, Settings, read_choice, read_names, read_numbers

    return Settings(
        read_numbers("--radius", radius),
        read_numbers("--delta", delta) if delta else (),
        read_choice("--mode", mode, MODES) if mode else None,
        tuple(dict.fromkeys(names(to))),
        read_names("--rows", rows, ROWS),
        read_choice("--method", method, METHODS),
        read_choice("--products", products, PRODUCTS),
    )


def work(
    target: Path,
    settings: "Settings",
    ask: Ask | None,
    rule: str,
    number: int | None,
    form: Form | None,
    *,
    again: bool,
    quiet: bool,
) -> None:
    """Diagnose what a path holds, write reports, and print the tables.

    Args:
        target: A run's folder, or one that holds some.
        settings: What is asked for.
        ask: Who asks the clients, and writes; None: nobody is asked, features are computed here.
        rule: That takes a round.
        number: The round, where no rule takes it.
        form: How tables are printed.
        again: Whether what is there already is made anew.
        quiet: Whether no progress is shown.
    """
    console = publish.terminal()
    asked = _asked(target, rule, number, console)
    _work(asked, settings, ask or _here, console, quiet=quiet or form is not None, again=again)
    _conclude([one.place for one in asked], _page(target), form, console)


@dataclass(frozen=True)
class _Asked:
    """A run's folder, a round whose model is there, and the rule that took it ("": none did)."""

    place: Path
    round: int
    rule: str


def _work(
    runs: Sequence[_Asked], settings: "Settings", ask: Ask, console: Console, *, quiet: bool, again: bool
) -> None:
    from fedha.diagnosis import record
    from fedha.diagnosis.settings import Asked

    pending = [one for one in runs if again or not _done(one, settings)]
    for one in pending:
        own_files.check_free(one.place, (DIAGNOSIS, PLANE, runfolder.REPORT))
    if not pending and not quiet:
        publish.say("Nothing to diagnose: every run has such a diagnosis; --again makes it anew.", console)
    try:
        with Steps(console, quiet) as steps:
            for number, one in enumerate(pending, 1):
                title = run_title(configs.load_written(one.place / runfolder.CONFIG), number, len(pending))
                steps.begin(f"Diagnosis of {title}, round {one.round}, in {one.place}")
                ask(one.place, Asked(settings, one.round, one.rule), steps)
                publish.write([one.place], one.place / runfolder.REPORT)
                for note in record.read(one.place)["made"]["notes"]:
                    steps.note(f"  {note}")
    except (KeyboardInterrupt, StoppedError) as error:
        raise EndedError(
            "stopped; diagnoses that were made are kept, the same command goes on", stopping.exit_code()
        ) from error


def _here(place: Path, asked: "Asked", steps: Steps) -> None:
    from fedha import numerics
    from fedha.diagnosis import record
    from fedha.diagnosis.diagnose import diagnose
    from fedha.diagnosis.subject import check_config
    from fedha.loading import load, own_domains
    from fedha.report.diagnosis.figures import plane_figure, points_of
    from fedha.report.drawing import standalone

    config = configs.load_written(place / runfolder.CONFIG)
    check_config(config)

    with owner.owning(place):
        model, domains = load(place, round=asked.round), own_domains(place, config)
        numerics.configure(_threads(model, domains))
        found = diagnose(model, config, domains, asked.settings, steps.watched, round=asked.round, rule=asked.rule)
        record.write(place, found)
        if points := points_of(found):
            own_files.write_text(place, PLANE, standalone(plane_figure("plane", points)))


def _threads(model: "SplitModel", domains: "DomainSet") -> int:
    """Every core where features are many, one where threads would wait for each other longer than they compute."""
    examples = sum(len(one.train) + len(one.held_out) for one in (*domains.sources, *domains.targets))
    width = next(iter(model.head.parameters())).shape[-1]
    if examples * width < _MANY:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _done(asked: _Asked, settings: "Settings") -> bool:
    from fedha.diagnosis import record

    if not record.exists(asked.place):
        return False
    made = record.read(asked.place)["made"]
    same = made.get("settings") == json.loads(json.dumps(asdict(settings)))
    return bool(same and (made.get("round"), made.get("rule", "")) == (asked.round, asked.rule))


def _asked(path: Path, rule: str, number: int | None, console: Console) -> list[_Asked]:
    """Which rounds of which runs are meant.

    Raises:
        FedhaError: Nothing has finished, there is no such rule or round, or a model was not kept.
    """
    from fedha.sweep.store import holds_sweep

    if number is not None and rule:
        raise FedhaError(f"--round is {number} and --rule is {rule!r}, which names a round too; leave one of them out")
    if not holds_sweep(path):
        return [_of_run(one, rule, number) for one in publish.finished(path, console)]
    if number is not None:
        raise FedhaError(f"--round is {number}, but the rounds of a sweep's runs are those that --rule takes")
    return _of_sweep(path, rule or "training_domain_validation")


def _of_run(place: Path, rule: str, number: int | None) -> _Asked:
    from fedha.runs.kept import model_of, round_of

    results = runfolder.read_results(place)
    taken = round_of(place, results, rule or "final") if number is None else number
    model_of(place, results, number=taken)
    return _Asked(place, taken, rule)


def _of_sweep(path: Path, rule: str) -> list[_Asked]:
    from fedha.runs.kept import rounds
    from fedha.schema import nearest
    from fedha.sweep.found import read_found
    from fedha.sweep.selection import RULES, choose

    if rule not in RULES:
        raise FedhaError(f"there is no rule {rule!r}{nearest(rule, RULES)}")
    found = read_found([path])
    chosen = choose(rule, found.jobs, found.summaries).values()
    if not chosen:
        raise FedhaError(f"rule {rule!r} takes no run of {path} yet; go on with the same fedha sweep, or take another")
    asked = [_Asked(found.places[one.entry.name], one.round, rule) for one in chosen]
    gone = [
        one
        for one in asked
        if one.round != runfolder.read_results(one.place)["rounds"] and one.round not in rounds(one.place)
    ]
    if gone:
        raise FedhaError(
            f"rule {rule!r} takes round {gone[0].round} of {gone[0].place}, whose model was not kept (so of "
            f"{len(gone)} of its {len(asked)} runs); sweep with checkpoint.keep: best into another folder, or take "
            "--rule final"
        )
    return asked


def _page(path: Path) -> Path:
    """Where the page of all goes; a sweep's report.html is of the sweep."""
    from fedha.sweep.store import holds_sweep

    return path / (SWEEP_PAGE if holds_sweep(path) else runfolder.REPORT)


def _conclude(runs: Sequence[Path], output: Path, form: Form | None, console: Console) -> None:
    from fedha.diagnosis import record
    from fedha.report.diagnosis.recipes import curves, curves_table
    from fedha.report.diagnosis.tables import heading, tables

    for place in runs:
        if not (place / runfolder.REPORT).exists():  # those that were made now have theirs
            publish.write([place], place / runfolder.REPORT)
    if output.parent not in runs:
        publish.write(runs, output)
    every: list[dict[str, Any]] = [record.read(place) for place in runs]
    if form == "json":
        sys.stdout.write(json.dumps(every[0] if len(every) == 1 else every, indent=1) + "\n")
        return
    known = curves(every)
    parts = [*((heading(one["made"]), tables(one)) for one in every)]
    parts += [] if known is None else [("all runs", [curves_table(known)])]
    for title, some in parts:
        if form is None:
            publish.say(f"\n{title}", console)
        for table in some:
            if form is None:
                publish.show(table, console)
            else:
                sys.stdout.write(render(table, form) + "\n")
    if form is None:
        publish.say(f"Report: {output}", console)
