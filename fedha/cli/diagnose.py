"""`fedha diagnose`: transfer measure and bound, curvature, attributes and kinds of shift of finished runs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedha import config as configs
from fedha.cli import publish, stopping
from fedha.cli.audit import names
from fedha.cli.exits import EndedError
from fedha.cli.steps import Steps
from fedha.errors import FedhaError, StoppedError
from fedha.report.formats import Format, render
from fedha.runs import folders, own_files, owner, runfolder
from fedha.runs.files import DIAGNOSIS, typed
from fedha.runs.wording import run_title

if TYPE_CHECKING:  # torch: slow to import, and help should come at once
    from fedha.data.domain import DomainSet
    from fedha.diagnosis.settings import Settings
    from fedha.models import SplitModel

_MANY = 2**22  # numbers of features


def diagnose(
    target: Annotated[Path, typer.Argument(metavar="RUN")],
    to: Annotated[
        str, typer.Option("--to", metavar="LIST", help="Domains that transfer is measured to; default: every target.")
    ] = "",
    radius: Annotated[
        str, typer.Option("--radius", metavar="LIST", help="How far around the learned head, in logit units.")
    ] = "0.1,0.3,1,3",
    delta: Annotated[
        str, typer.Option("--delta", metavar="LIST", help="The same in weights of the head, in the place of --radius.")
    ] = "",
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="pooled: sources' mean and a target; pairs: of sources; worst: of all; leave-one-out: of sources.",
        ),
    ] = "",
    rows: Annotated[
        str, typer.Option("--rows", metavar="LIST", help="transfer, curvature, attributes, shift; default: all.")
    ] = "",
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="power, or published: the published attack beside it.")
    ] = "power",
    form: Annotated[
        Format | None, typer.Option("--format", "-f", help="Print the tables so: text, markdown, latex or csv.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also diagnose runs that have such a diagnosis already.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the tables at the end.")] = False,
) -> None:
    """Measure how domains look to a run's learned head: what would transfer, what bounds it, what is aligned.

    RUN is the folder of a finished run, or one that holds some. Features are computed once, then everything is measured
    at the head that the run ended with, in float64, in this process, on the run's own data.

    [bold]transfer[/bold]: the worst head in a ball around the learned one, raising one domain's risk above another's,
    beside a bound that no head of the ball can exceed. [bold]curvature[/bold]: the spectral norm of the difference of
    the head's Hessians, as an interval. [bold]attributes[/bold]: how far domains differ in what recipes align, beside
    what chance alone makes. [bold]shift[/bold]: diversity, correlation and label shift. Results go to diagnosis.json,
    to tables, and into report.html. docs/transfer.md tells how to read them.

    [bold]Examples[/bold]

    [cyan]fedha diagnose runs/quickstart/hgp-seed0[/cyan]

    [cyan]fedha diagnose runs/quickstart --rows transfer --radius 0.1,1 --mode leave-one-out[/cyan]

    [cyan]fedha diagnose runs/quickstart/hgp-seed0 --format markdown[/cyan]
    """
    from fedha.diagnosis.settings import METHODS, MODES, ROWS, Settings, read_choice, read_names, read_numbers

    console = publish.terminal()
    wanted = Settings(
        read_numbers("--radius", radius),
        read_numbers("--delta", delta) if delta else (),
        read_choice("--mode", mode, MODES) if mode else None,
        tuple(dict.fromkeys(names(to))),
        read_names("--rows", rows, ROWS),
        read_choice("--method", method, METHODS),
    )
    runs = _finished(target, console)
    _work(runs, wanted, console, quiet=quiet or form is not None, again=again)
    _conclude(runs, target / runfolder.REPORT, form, console)


def _work(runs: Sequence[Path], settings: "Settings", console: Console, *, quiet: bool, again: bool) -> None:
    pending = [one for one in runs if again or not _done(one, settings)]
    for place in pending:
        own_files.check_free(place, (DIAGNOSIS, runfolder.REPORT))
    if not pending and not quiet:
        publish.say("Nothing to diagnose: every run has such a diagnosis; --again makes it anew.", console)
    try:
        with Steps(console, quiet) as steps:
            for number, place in enumerate(pending, 1):
                title = run_title(configs.load_written(place / runfolder.CONFIG), number, len(pending))
                steps.begin(f"Diagnosis of {title}, in {place}")
                with owner.owning(place):
                    _diagnose(place, settings, steps)
    except (KeyboardInterrupt, StoppedError) as error:
        raise EndedError(
            "stopped; diagnoses that were made are kept, the same command goes on", stopping.exit_code()
        ) from error


def _diagnose(place: Path, settings: "Settings", steps: Steps) -> None:
    from fedha import numerics
    from fedha.diagnosis import record
    from fedha.diagnosis.diagnose import diagnose
    from fedha.diagnosis.subject import check_config
    from fedha.flower.serve import load_domains
    from fedha.loading import load

    config, results = configs.load_written(place / runfolder.CONFIG), runfolder.read_results(place)
    check_config(config)

    def told(doing: str, done: int, total: int) -> None:
        stopping.check("stopped")
        steps.progress(doing, done, total)

    model, domains = load(place), load_domains(config)
    numerics.configure(_threads(model, domains))
    found = diagnose(model, config, domains, settings, told, round=int(results["rounds"]))
    record.write(place, found)
    for note in found["made"]["notes"]:
        steps.note(f"  {note}")


def _threads(model: "SplitModel", domains: "DomainSet") -> int:
    """Every core where features are many, one where threads would wait for each other longer than they compute."""
    examples = sum(len(one.train) + len(one.held_out) for one in (*domains.sources, *domains.targets))
    width = next(iter(model.head.parameters())).shape[-1]
    if examples * width < _MANY:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _done(place: Path, settings: "Settings") -> bool:
    import json
    from dataclasses import asdict

    from fedha.diagnosis import record

    if not record.exists(place):
        return False
    made = record.read(place)["made"]
    same = made.get("settings") == json.loads(json.dumps(asdict(settings)))
    return bool(same and made.get("round") == runfolder.read_results(place)["rounds"])


def _finished(path: Path, console: Console) -> list[Path]:
    found = folders.find_runs([path])
    finished = [one for one in found if runfolder.is_finished(one)]
    if not finished:
        raise FedhaError(f"no run has finished yet in {path}; continue with: fedha resume {typed(path)}")
    for folder in found:
        if folder not in finished:
            publish.say(f"Not finished, left out: {folder}", console)
    return finished


def _conclude(runs: Sequence[Path], output: Path, form: Format | None, console: Console) -> None:
    from fedha.diagnosis import record
    from fedha.report.diagnosis.tables import tables

    for place in runs:
        publish.write([place], place / runfolder.REPORT)
    if len(runs) > 1:
        publish.write(runs, output)
    for place in runs:
        found: dict[str, Any] = record.read(place)
        if form is None:
            publish.say(
                f"\n{found['made']['recipe']}, seed {found['made']['seed']}, round {found['made']['round']}", console
            )
        for table in tables(found):
            if form is None:
                publish.show(table, console)
            else:
                sys.stdout.write(render(table, form) + "\n")
    if form is None:
        publish.say(f"Report: {output}", console)
