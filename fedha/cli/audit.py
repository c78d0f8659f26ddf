"""`fedha audit`: attacks on what runs really sent, their table, and their part of the report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedha import config as configs
from fedha.cli import adversary as cheats
from fedha.cli import launch, publish, stopping
from fedha.cli.exits import EndedError
from fedha.cli.options import Overrides, Quiet
from fedha.cli.steps import Steps
from fedha.config import Config
from fedha.errors import FedhaError, StoppedError
from fedha.runs import own_files, owner, runfolder
from fedha.runs.wording import run_title

if TYPE_CHECKING:  # torch and Flower: slow to import, and help should come at once
    from fedha.audit.settings import Settings

Places = Mapping[Path, Path]  # of each run, where its audit is written


def audit(
    target: Annotated[str, typer.Argument(metavar="RUN|CONFIG")],
    overrides: Overrides = None,
    rounds: Annotated[
        str,
        typer.Option("--rounds", metavar="LIST", help="Such as 1,10-20,last, or all; default: some, early ones first."),
    ] = "",
    attacks: Annotated[
        str,
        typer.Option(
            "--attacks",
            metavar="LIST",
            help="labels, features, inputs, tracing, membership, or single attacks by name; default: all.",
        ),
    ] = "",
    small: Annotated[
        str,
        typer.Option("--small", metavar="LIST", help="Also audit a first round of clients with so many examples each."),
    ] = "1,4",
    shadows: Annotated[
        int, typer.Option("--shadows", metavar="N", help="Shadow models, each a training of its own; 0: none.")
    ] = 8,
    noise: Annotated[
        float,
        typer.Option(
            "--noise", metavar="X", help="Drown what was sent in noise of X times its size: a check of the attacks."
        ),
    ] = 0.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Where to write; default: the run's folder, or runs/NAME of a CONFIG."
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also audit runs that have such an audit already.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was sent as safetensors files in sent/.")] = False,
    adversary: Annotated[
        bool,
        typer.Option("--adversary", help="Play a server that cheats against the clients instead; trains nothing."),
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(
            "--table", metavar="FILE", help="With --adversary: also write its table there: .txt, .md, .tex or .csv."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Attack what runs really sent: what could an honest-but-curious server read, beside a guess?

    RUN is the folder of a finished run, or one that holds some. One seed gives one answer, so a run is not recorded but
    done again from its config, in this process, through the real messages; the command says whether the replay ended
    with the run's model to the bit. CONFIG (a YAML file, or the name of one that fedha ships) is trained first, as with
    fedha run; so is a RUN with KEY=VALUE, which is then another run.

    The attacks: [bold]labels[/bold], how many examples of each class, in closed form; [bold]features[/bold], the
    backbone's outputs; [bold]inputs[/bold], images by gradient inversion, of small batches; [bold]tracing[/bold],
    who is in the batch, from the statistics; [bold]membership[/bold], who was trained on, from the final model. Results
    go to audit.json, to a table, and into report.html. docs/audit.md tells how to read them.

    [bold]Examples[/bold]

    [cyan]fedha audit runs/quickstart/hgp-seed0[/cyan]

    [cyan]fedha audit quickstart seed=0 recipe=exact_diagonal training.rounds=60 --out runs/leaks[/cyan]

    [cyan]fedha audit runs/quickstart --attacks labels,tracing --rounds 1-10,last[/cyan]

    [cyan]fedha audit quickstart --adversary --table cheats.md[/cyan]   (a server that cheats)

    [cyan]fedha audit runs/leaks --noise 1000 --out runs/drowned[/cyan]   (every attack must fall to its guess)
    """
    from fedha.audit.settings import Settings, chosen_attacks

    console = publish.terminal()
    wanted = Settings(rounds, chosen_attacks(names(attacks)), shadows, _numbers(small), noise)
    if noise and out is None:
        raise FedhaError("--noise drowns what was sent, so its audit is not the run's; give it a place with --out")
    if table is not None and not adversary:
        raise FedhaError(f"--table {table} is for --adversary alone; the table of attacks is in the report")
    cheats.check(table)
    if Path(target).is_dir() and not overrides:
        runs = publish.finished(Path(target), console)
        places = {one: out / one.relative_to(target) if out else one for one in runs}
        common = out or Path(target)
        if adversary:
            with _stops_well():
                cheats.of_runs(places, console, quiet=quiet, again=again, table=table)
            return
    else:
        config = _config(target, overrides or [])
        if adversary:  # of seeds the first: another one changes no answer to whether something is refused
            _, plan = launch.plan_new(config.model_copy(update={"seed": config.seed[:1]}), out)
            with _stops_well():
                cheats.of_config(plan, console, quiet=quiet, table=table)
            return
        common, plan = launch.plan_new(config, out)
        launch.train(plan, console, quiet=quiet, common=common)
        places = {folder: folder for _, folder in plan}
    work(places, wanted, console, quiet=quiet, again=again, keep=keep)
    conclude(places, common / runfolder.REPORT, console)


def work(
    places: Places, settings: "Settings", console: Console, *, quiet: bool, again: bool = False, keep: bool = False
) -> None:
    """Audit runs one after the other; those that have such an audit already are passed over.

    Args:
        places: Finished runs, and where each one's audit is written.
        settings: Scope and budget.
        console: Where progress is shown.
        quiet: Whether none is.
        again: Whether audits that are there are made anew.
        keep: Whether the releases are left as files.

    Raises:
        FedhaError: A run cannot be done again here.
        EndedError: A signal; the audits that were made are kept.
    """
    pending = {run: place for run, place in places.items() if again or not done(place, settings)}
    if not pending:
        publish.say("Nothing to audit: every run has such an audit; --again makes it anew.", console)
        return
    for place in pending.values():
        own_files.check_free(place, (runfolder.AUDIT, runfolder.REPORT))
    with _stops_well(), Steps(console, quiet) as steps:
        for number, (run, place) in enumerate(pending.items(), 1):
            steps.begin(
                f"Audit of {run_title(configs.load_written(run / runfolder.CONFIG), number, len(pending))}, in {run}"
            )
            with owner.owning(runfolder.make_folder(place)):
                _audit(run, place, settings, steps, keep)


def _audit(run: Path, place: Path, settings: "Settings", steps: Steps, keep: bool) -> None:
    from fedha.audit import record
    from fedha.audit.examine import examine

    config, kept = configs.load_written(run / runfolder.CONFIG), place if keep else None
    ended = int(runfolder.read_results(run)["rounds"])
    found = examine(config, settings, steps.watched, trained=runfolder.read_model(run), keep=kept, ended=ended)
    record.write(place, found)
    steps.note(f"  {found.made['replay']}")
    for count, reason in found.made["not_small"].items():
        steps.note(f"  clients of {count}: {reason}")
    publish.write([run], place / runfolder.REPORT, {run: place})


def done(place: Path, settings: "Settings") -> bool:
    """Whether a folder has an audit that was made with these settings."""
    from dataclasses import asdict

    from fedha.audit import record

    if not record.exists(place):
        return False
    made: Any = record.read(place).made.get("settings")
    return bool(made == json.loads(json.dumps(asdict(settings))))


def conclude(places: Places, output: Path, console: Console) -> None:
    """Write the page of some runs with their audits, print a table for each recipe, and say where the page is."""
    runs = list(places)
    publish.write(runs, output, places)
    for part in publish.audit_sections(runs, places):
        publish.say(f"\n{part.heading}", console)
        for table in part.tables:
            publish.show(table, console)
    publish.say(f"Report: {output}", console)


def _config(target: str, overrides: Sequence[str]) -> Config:
    """The config of a name, a file, or a folder of runs."""
    folder = Path(target)
    held = [folder / name for name in (runfolder.EXPERIMENT, runfolder.CONFIG) if (folder / name).is_file()]
    if held:
        return configs.load_written(held[0], overrides)
    if folder.is_dir() and target not in launch.shipped_configs():
        raise FedhaError(
            f"{folder} holds neither {runfolder.EXPERIMENT} nor {runfolder.CONFIG}; name a run or a config"
        )
    return launch.find_config(target, overrides)


def names(text: str) -> list[str]:
    """Names with commas between."""
    return [one.strip() for one in text.split(",") if one.strip()]


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(one) for one in names(text)}))
    except ValueError as error:
        raise FedhaError(f"--small is {text!r}; give numbers of examples with commas between, such as 1,4") from error


@contextmanager
def _stops_well() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, StoppedError) as error:
        raise EndedError(
            "stopped; audits that were made are kept, the same command goes on", stopping.exit_code()
        ) from error
