"""`fedha sweep` and `fedha table`: many runs, and what is chosen among them."""

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedha.cli import launch, publish, stopping
from fedha.cli.exits import EndedError
from fedha.config import read_content
from fedha.errors import FedhaError
from fedha.report.formats import Format
from fedha.runs import folders

if TYPE_CHECKING:  # torch and Flower: slow to import, and help should come at once
    from fedha.cli.sweep_display import Progress
    from fedha.sweep.jobs import Job
    from fedha.sweep.store import Store
    from fedha.sweep.tables import Found
    from fedha.sweep.work import Outcome


def sweep(
    config: Annotated[str, typer.Argument(metavar="CONFIG")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The sweep's folder; default: runs/NAME-sweep.")
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option("--draws", min=1, metavar="N", help="Draws of the distributions, for each recipe, target, seed."),
    ] = None,
    ranges: Annotated[
        str | None, typer.Option("--ranges", metavar="NAME", help="Distributions by name: domainbed, domainbed-small.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help="Runs side by side; default: one a core.")
    ] = None,
    worker: Annotated[
        str | None, typer.Option("--worker", metavar="I/N", help="Be the I-th of N processes that share the sweep.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train the first run alone, and say what all cost.")
    ] = False,
    slurm: Annotated[
        int | None, typer.Option("--slurm", min=1, metavar="N", help="Print a Slurm array script of N workers.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress, only the tables at the end.")] = False,
) -> None:
    """Train every recipe with every hyperparameter, target and seed, side by side, and choose among them.

    In CONFIG a list where one value belongs is a grid; a value that is a list itself varies as {choice: \\[…]}.
    Values are drawn from {log_uniform: \\[-5, -3.5]} (ten to that power), {uniform: …}, {int_uniform: …},
    {int_log_uniform: …}, {int_exp2_uniform: …} and, with draws, {choice: …}: `--draws N` times for each recipe, target
    and seed. With data.target=all each domain is the unseen one in turn.

    The same command goes on where it was stopped: what has run is not run again, what failed is tried again, and more
    recipes, values, draws, targets or seeds add to the sweep. `fedha table DIR` shows what there is at any time.

    [bold]Examples[/bold]

    [cyan]fedha sweep configs/heart.yaml data.root=heart data.target=all 'seed=\\[0, 1, 2]'[/cyan]

    [cyan]fedha sweep heart data.root=heart 'training.learning_rate={log_uniform: \\[-3, -1]}' --draws 20[/cyan]

    [cyan]fedha sweep mine.yaml --ranges domainbed --draws 20 --slurm 16 > array.sh[/cyan]
    """
    console = publish.terminal()
    again = " ".join(["fedha sweep", *map(shlex.quote, (config, *(overrides or [])))])
    content = read_content(launch.config_path(config), overrides or [])
    first, of = _share(worker)
    folder = out or launch.RUNS / f"{folders.folder_name(str(content.get('name', 'experiment')))}-sweep"
    if slurm is not None:
        given = [
            ("--out", folder),
            *((name, value) for name, value in (("--draws", draws), ("--ranges", ranges)) if value),
        ]
        options = [str(one) for pair in given for one in pair]
        sys.stdout.write(_array(slurm, folder, ["fedha", "sweep", config, *(overrides or []), *options]))
        return
    store, wanted = _opened(content, folder, draws, ranges)
    if dry_run:
        _estimate(store, wanted, console, quiet=quiet)
        return
    _work(store, wanted, console, quiet=quiet, many=_processes(wanted, jobs, worker), share=(first, of), again=again)
    publish_tables([folder], None, None, None, console)


def table(
    paths: Annotated[list[Path], typer.Argument(metavar="SWEEP...")],
    form: Annotated[
        Format | None, typer.Option("--format", "-f", metavar="FORMAT", help="text, markdown, latex or csv.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; default: the terminal.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", metavar="NAME", help="One selection rule alone; default: all.")
    ] = None,
) -> None:
    """Print the tables of sweeps: accuracies under each selection rule, the comparison with ERM, and the cost.

    Runs that are still to come are left out; the tables say what is there.

    [bold]Examples[/bold]

    [cyan]fedha table runs/heart-sweep[/cyan]

    [cyan]fedha table runs/heart-sweep --rule training_domain_validation --format latex --output table.tex[/cyan]
    """
    publish_tables(paths, form, output, rule, publish.terminal())


def publish_tables(
    paths: Sequence[Path], form: Format | None, output: Path | None, rule: str | None, console: Console
) -> None:
    """Write or show the tables of sweeps.

    Raises:
        FedhaError: A path holds no sweep, nothing has finished, there is no such rule, or the output is somebody's.
    """
    from fedha.atomic import write_text
    from fedha.report.formats import render
    from fedha.schema import nearest
    from fedha.sweep.selection import RULES
    from fedha.sweep.tables import sweep_tables

    if rule is not None and rule not in RULES:
        raise FedhaError(f"there is no rule {rule!r}{nearest(rule, RULES)}")
    found = read_found(paths)
    tables = sweep_tables(found, [rule] if rule else ())
    if not tables:
        raise FedhaError(f"no run of {', '.join(map(str, paths))} has finished yet; go on with the same fedha sweep")
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


def read_found(paths: Sequence[Path]) -> "Found":
    """What some sweeps have found so far.

    Raises:
        FedhaError: A path holds no sweep, or a file is damaged.
    """
    from fedha.sweep.store import Store, entries, settings, summaries
    from fedha.sweep.tables import Found

    jobs: dict[str, Any] = {}
    done: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for path in paths:
        store, here = Store(path), entries(path)
        jobs |= {one.name: one for one in here}
        done |= summaries(store, here)
        failures |= {one.name: why for one in here if one.name not in done and (why := store.failure(one.name))}
    given = [settings(path) for path in paths]
    keys = dict.fromkeys(key for one in given for key in one)
    apart = [key for key in keys if any(one.get(key) != given[0].get(key) for one in given)]
    return Found(list(jobs.values()), done, failures, apart)


def _opened(content: dict[str, Any], folder: Path, draws: int | None, ranges: str | None) -> "tuple[Store, list[Job]]":
    from fedha.sweep.data import check_data
    from fedha.sweep.jobs import make_jobs
    from fedha.sweep.ranges import with_ranges
    from fedha.sweep.space import SECTION, expand, read_space, settings_of
    from fedha.sweep.store import open_sweep
    from fedha.sweep.targets import with_targets

    asked = settings_of(content)
    count = draws if draws is not None else asked.get("draws")
    rest = {key: value for key, value in content.items() if key != SECTION}
    named = with_ranges(with_targets(rest), ranges or asked.get("ranges"))
    space = read_space(named, draws=count)
    wanted = make_jobs(list(expand(space, count)))
    store = open_sweep(folder, space, wanted)
    check_data(store, wanted)
    return store, wanted


def _work(
    store: "Store",
    wanted: "Sequence[Job]",
    console: Console,
    *,
    quiet: bool,
    many: int,
    share: tuple[int, int],
    again: str,
) -> None:
    from fedha.cli.sweep_display import choose
    from fedha.sweep.work import Worker, here, in_order

    pending = [one for one in in_order(wanted, *share) if not store.finished(one.name)]
    with stopping.patiently(), choose(console, store, wanted, pending, quiet=quiet) as shown:
        if pending:
            outcomes = (
                here(Worker(store, stopping.asked), pending) if many < 2 else _side_by_side(store, pending, many, shown)
            )
            for outcome in outcomes:
                shown.took(outcome)
        left = sum(not store.finished(one.name) for one in wanted)
        if stopping.asked() and left:
            raise EndedError(
                f"stopped with {left} of {len(wanted)} runs left; continue with: {again} --out {store.folder}",
                stopping.exit_code(),
            )
    if pending and not any(store.finished(one.name) for one in wanted):
        raise FedhaError(f"no run of this sweep ended; the first: {store.failure(pending[0].name)}")


def _side_by_side(store: "Store", pending: "Sequence[Job]", many: int, shown: "Progress") -> "Iterator[Outcome | None]":
    from fedha.engine.machine import look
    from fedha.sweep.pool import on_ray

    config = next(one.config for one in pending if one.config is not None)
    engine, machine = config.engine, look()
    gpus = len(machine.gpus) if engine.device != "cpu" else 0
    return on_ray(
        store,
        pending,
        many,
        threads=engine.threads,
        gpu_share=gpus / many if gpus else 0.0,
        stop=stopping.asked,
        ready=shown.ready,
    )


def _processes(wanted: "Sequence[Job]", jobs: int | None, worker: str | None) -> int:
    """How many runs go side by side."""
    if worker is not None:
        return jobs or 1
    from fedha.engine.machine import look

    config = next((one.config for one in wanted if one.config is not None), None)
    engine, machine = (config.engine if config else None), look()
    usual = machine.cpus // (engine.threads if engine else 1)
    if engine is not None and engine.device != "cpu" and machine.gpus:
        usual = min(usual, len(machine.gpus) * engine.clients_per_gpu)
    return max(1, min(jobs or (engine.workers if engine and engine.workers else usual), len(wanted)))


def _share(worker: str | None) -> tuple[int, int]:
    """Which worker of how many, from 0."""
    if worker is None:
        return 0, 1
    first, slash, of = worker.partition("/")
    if not (slash and first.isdecimal() and of.isdecimal() and 1 <= int(first) <= int(of)):
        raise FedhaError(f"--worker is {worker!r}; give which one of how many, such as 1/4 … 4/4")
    return int(first) - 1, int(of)


def _estimate(store: "Store", wanted: "Sequence[Job]", console: Console, *, quiet: bool) -> None:
    from fedha.progress import duration
    from fedha.sweep.work import FAILED, Worker, in_order

    finished = [one for one in wanted if store.finished(one.name)]
    if not finished:
        first = next(one for one in in_order(wanted) if one.config is not None)
        if not quiet:
            publish.say(f"Training the first of {len(wanted)} runs; it counts: {first.name}", console)
        begun = time.perf_counter()
        outcome = Worker(store).work(first)
        if outcome.state == FAILED:
            raise FedhaError(f"the first run failed: {outcome.why}")
        finished, seconds = [first], time.perf_counter() - begun
    else:
        from fedha.sweep import summary

        known = [summary.read(store.place(one.name)) for one in finished]
        seconds = sum(float(one["seconds"]) for one in known if one) / max(1, sum(one is not None for one in known))
    left, many = len(wanted) - len(finished), _processes(wanted, None, None)
    refused = sum(one.config is None for one in wanted)
    told = f"; {refused} are refused by the schema" if refused else ""
    publish.say(
        f"{len(wanted)} runs, {left} of them to do{told}; a run takes about {duration(seconds)}, so all take about "
        f"{duration(left * seconds / many)} with {many} side by side ({duration(left * seconds)} of one process).",
        console,
    )


def _array(workers: int, folder: Path, command: Sequence[str]) -> str:
    """A Slurm script: each task a worker of its own; a killed one's job is taken by the next that looks."""
    return (
        "#!/usr/bin/env bash\n"
        f"#SBATCH --job-name={folders.folder_name(folder.name)}\n"
        f"#SBATCH --array=1-{workers}\n"
        "#SBATCH --cpus-per-task=1\n"
        "# Every task works on whatever no other has; submit it again to go on after a time limit.\n"
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1\n"
        f'srun {shlex.join(command)} --quiet --worker "$SLURM_ARRAY_TASK_ID/{workers}"\n'
    )
