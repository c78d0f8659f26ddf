"""`fedha sweep`: many runs, side by side."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedha.cli import launch, publish, stopping
from fedha.cli.exits import EndedError
from fedha.cli.options import ConfigName, Log, Overrides, Quiet
from fedha.cli.sweep_table import publish_tables
from fedha.config import read_content
from fedha.errors import FedhaError
from fedha.runs import folders

if TYPE_CHECKING:  # torch and Flower: slow to import, and help should come at once
    from fedha.cli.sweep_display import Progress
    from fedha.sweep.halving import Plan
    from fedha.sweep.jobs import Job
    from fedha.sweep.work import Outcome, Worker


def sweep(
    config: ConfigName,
    overrides: Overrides = None,
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
    halving: Annotated[
        int | None,
        typer.Option(
            "--halving", min=2, metavar="N", help="Of those compared, let one of N go on, at a part of the rounds."
        ),
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
    log: Log = None,
    quiet: Quiet = False,
) -> None:
    """Train every recipe with every hyperparameter, target and seed, side by side, and choose among them.

    In CONFIG a list where one value belongs is a grid; a value that is a list itself varies as {choice: \\[…]}.
    Values are drawn from {log_uniform: \\[-5, -3.5]} (ten to that power), {uniform: …}, {int_uniform: …},
    {int_log_uniform: …}, {int_exp2_uniform: …} and, with draws, {choice: …}: `--draws N` times for each recipe, target
    and seed. With data.target=all each domain is the unseen one in turn.

    The same command goes on where it was stopped: what has run is not run again, what failed is tried again, and more
    recipes, values, draws, targets or seeds add to the sweep. With `--halving 3` the hyperparameters of a recipe,
    target and seed train a part of their rounds, the best third of them by the sources goes on, and so on.
    `fedha table DIR` shows what there is at any time.

    [bold]Examples[/bold]

    [cyan]fedha sweep configs/heart.yaml data.root=heart data.target=all 'seed=\\[0, 1, 2]'[/cyan]

    [cyan]fedha sweep heart data.root=heart 'training.learning_rate={log_uniform: \\[-3, -1]}' --draws 20[/cyan]

    [cyan]fedha sweep mine.yaml --ranges domainbed --draws 20 --slurm 16 > array.sh[/cyan]
    """
    from fedha.loggers import logger
    from fedha.sweep.cost import estimate
    from fedha.sweep.data import check_data
    from fedha.sweep.halving import Plan
    from fedha.sweep.opening import Asked, jobs_of, open_jobs
    from fedha.sweep.store import Store
    from fedha.sweep.work import Worker, in_order

    console = publish.terminal()
    again = " ".join(
        ["fedha sweep", *map(shlex.quote, (config, *(overrides or []))), *_options(draws, ranges, halving, log or ())]
    )
    content = read_content(launch.config_path(config), overrides or [])
    share = _share(worker)
    folder = out or launch.RUNS / f"{folders.folder_name(str(content.get('name', 'experiment')))}-sweep"
    asked = Asked(draws, ranges, halving).before(content)
    if slurm is not None:
        jobs_of(content, asked)  # what is wrong with the config is said here, and not by every task
        sys.stdout.write(_array(slurm, folder, f"{again} --out {shlex.quote(str(folder))}"))
        return
    for name in log or ():
        logger(name)  # one that is not there is refused before anything is written
    alone = Worker(Store(folder), stopping.asked, log or ())
    store, wanted = open_jobs(content, folder, asked, alone.domains)
    check_data(store, wanted, alone.domains)  # what is compared is kept for the runs
    many = _processes(wanted, jobs, worker)

    def tell(text: str) -> None:
        if not quiet:
            publish.say(text, console)

    if repeated := sum(one.repeated for one in wanted):
        tell(f"{repeated} of the draws gave the values of an earlier one, which is trained once.")
    if dry_run:
        publish.say(estimate(alone, wanted, asked.halving, many, tell), console)
        return
    plan = Plan(store, in_order(wanted, *share), asked.halving)
    _work(plan, alone, console, quiet=quiet, many=many, address=_address(content), again=again)
    publish_tables([folder], None, None, None, console)


def _work(
    plan: "Plan", worker: "Worker", console: Console, *, quiet: bool, many: int, address: str | None, again: str
) -> None:
    from fedha.cli.sweep_display import choose
    from fedha.sweep.work import here

    store, wanted, left = plan.store, plan.jobs, plan.left()
    with stopping.patiently(), choose(console, plan, left, quiet=quiet) as shown:
        if left:
            alone = many < 2 and address is None
            outcomes = here(worker, plan.batches()) if alone else _side_by_side(plan, many, address, shown, worker.log)
            for outcome in outcomes:
                shown.took(outcome)
        if stopping.asked() and (rest := plan.left()):
            more = " before it is known which go on" if plan.factor else ""
            raise EndedError(
                f"stopped with {rest} of {len(wanted)} runs left{more}; continue with: {again} --out {store.folder}",
                stopping.exit_code(),
            )
    if left and not any(store.finished(one.name) for one in wanted):
        first = next((why for one in wanted if (why := store.failure(one.name))), "nobody knows why")
        raise FedhaError(f"no run of this sweep ended; the first: {first}")


def _side_by_side(
    plan: "Plan", many: int, address: str | None, shown: "Progress", log: Sequence[str]
) -> "Iterator[Outcome | None]":
    from fedha.engine.machine import look
    from fedha.sweep.pool import on_ray

    config = next(one.config for one in plan.jobs if one.config is not None)
    engine, machine = config.engine, look()
    gpus = len(machine.gpus) if engine.device != "cpu" and address is None else 0
    return on_ray(
        plan.store,
        plan.batches(),
        many if address is None else engine.workers,
        threads=engine.threads,
        gpu_share=gpus / many if gpus else 0.0,
        address=address,
        stop=stopping.asked,
        ready=shown.ready,
        log=log,
    )


def _address(content: dict[str, Any]) -> str | None:
    """The cluster that the config names; runs do not know it, for each is in its worker's process alone."""
    engine = content.get("engine")
    given = engine.get("address") if isinstance(engine, dict) else None
    return str(given) if given else None


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


def _options(draws: int | None, ranges: str | None, halving: int | None, log: Sequence[str]) -> list[str]:
    """What of the command line decides which runs there are and who is told of them, as it is typed again."""
    given = (("--draws", draws), ("--ranges", ranges), ("--halving", halving), *(("--log", one) for one in log))
    return [text for name, value in given if value is not None for text in (name, shlex.quote(str(value)))]


def _array(workers: int, folder: Path, command: str) -> str:
    """A Slurm script: each task a worker of its own; a killed one's job is taken by the next that looks."""
    return (
        "#!/usr/bin/env bash\n"
        f"#SBATCH --job-name={folders.folder_name(folder.name)}\n"
        f"#SBATCH --array=1-{workers}\n"
        "#SBATCH --cpus-per-task=1\n"
        "# Every task works on whatever no other has; submit it again to go on after a time limit.\n"
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1\n"
        f'srun {command} --quiet --worker "$SLURM_ARRAY_TASK_ID/{workers}"\n'
    )
