"""`fedha doctor`: what this machine offers, how a config's run would be spread over it, and whether that works."""

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fedha.config import Config
from fedha.errors import FedhaError
from fedha.progress import byte_count
from fedha.runs.versions import versions

if TYPE_CHECKING:  # torch and Flower: slow to import, and help should come at once
    from fedha.data.domain import DomainSet
    from fedha.engine.machine import Machine
    from fedha.engine.plan import Plan
    from fedha.engine.ray_session import RaySession

Rows = list[tuple[str, str]]

_DRIVERS = ("proc/driver/nvidia/version", "dev/nvidia0", "dev/dxg")
_SMALL_SHARED_BYTES = 2**30


@dataclass
class Findings:
    """What is wrong, each with its remedy.

    Attributes:
        obstacles: The run cannot go on.
        remarks: It can, but could be better.
    """

    obstacles: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def examine(config: Config | None, console: Console) -> int:
    """Report on this machine, on a config's plan, and on a Ray that is really started for it.

    Args:
        config: An experiment, of which the first run is looked at; None: the machine and Ray alone.
        console: Where the report is shown.

    Returns:
        The exit code: 0, or 1 if the run cannot go on.
    """
    from fedha.engine.machine import look

    here, findings = look(), Findings()
    _show("This machine", machine_rows(here), console)
    findings.remarks += machine_remarks(here)
    plan, session = None, None
    try:
        if config is not None:
            session = _joined(config)
            plan = _show_run(config.runs()[0], here, session, console, findings)
        if plan is None or plan.engine == "ray":
            _show_ray(plan, here, session, console)
    except FedhaError as error:
        findings.obstacles.append(str(error))
    _conclude(findings, config, console)
    return 1 if findings.obstacles else 0


def machine_rows(here: "Machine") -> Rows:
    """What a process may use, and the versions of what uses it."""
    import torch

    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    gpus = [f"{gpu.name}, {byte_count(gpu.memory_bytes)}" for gpu in here.gpus]
    return [
        ("cores", f"{here.cpus} of {os.cpu_count()}, by affinity and quota"),
        ("memory", f"{byte_count(here.memory_bytes)} free, within the limits of its control groups"),
        ("/dev/shm", f"{byte_count(here.shared_memory_bytes)} free"),
        ("GPUs", "; ".join(gpus) or "none that torch sees"),
        ("torch", f"{torch.__version__}, {cuda}"),
        ("others", ", ".join(f"{name} {number}" for name, number in versions().items() if name != "torch")),
    ]


def machine_remarks(here: "Machine", root: Path = Path("/")) -> list[str]:
    """What of this machine goes unused, or is small, with the remedy.

    Args:
        here: What was found.
        root: Where proc and dev are.
    """
    import torch

    remarks = []
    driver = any((root / one).exists() for one in _DRIVERS) or shutil.which("nvidia-smi") is not None
    if driver and not torch.version.cuda:
        remarks.append(
            "there is an NVIDIA driver, but torch is built without CUDA; install its CUDA build (pytorch.org)"
        )
    elif driver and not here.gpus and os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        remarks.append("CUDA_VISIBLE_DEVICES hides every GPU; unset it to use them")
    elif driver and not here.gpus:
        remarks.append(f"torch sees no GPU behind the NVIDIA driver; is that older than CUDA {torch.version.cuda}?")
    if sys.platform == "linux" and here.shared_memory_bytes < _SMALL_SHARED_BYTES:
        remarks.append(
            f"/dev/shm has {byte_count(here.shared_memory_bytes)}: Ray's store will be small or in files; "
            "in Docker, start the container with --shm-size=4g"
        )
    return remarks


def run_rows(config: Config, plan: "Plan", domains: "DomainSet") -> Rows:
    """A run's plan in numbers."""
    from fedha.data.partition import client_domains
    from fedha.engine.estimate import batching_note, data_bytes, memory_bytes, model_bytes
    from fedha.engine.plan import count

    parts = client_domains(domains, config.data, config.seed[0])
    each = -(-plan.clients // plan.workers)
    sizes = [data_bytes(part) for part in parts]
    model = model_bytes(config, domains)
    workers = f"{count(plan.workers, 'worker')} of {count(plan.threads, 'thread')}"
    needed = memory_bytes(plan, config, parts, domains)
    rows = [
        ("engine", f"{plan.engine}: {plan.reason}"),
        ("clients", f"{plan.clients:,} from {count(len(domains.sources), 'domain')}, up to {each} a worker"),
        ("workers", workers if plan.engine != "inline" else "this process"),
        ("device", f"{count(plan.gpus, 'GPU')}, {plan.gpu_share:.4g} a worker" if plan.gpu_share else plan.device),
        ("data", f"up to {byte_count(max(sizes))} a client, {byte_count(sum(sizes))} in all"),
        ("model", f"{byte_count(model)}, once a round to each worker and back from each client"),
        ("memory", f"about {byte_count(needed)} a worker"),
    ]
    if plan.batching or plan.engine == "ray":
        rows.append(("batching", batching_note(config, parts[:each], domains, plan.device)))
    return rows


def _joined(config: Config) -> "RaySession | None":
    from fedha.engine import ray_session

    address = config.engine.address
    return None if address is None else ray_session.start(0, 0, address)


def _show_run(
    config: Config, here: "Machine", session: "RaySession | None", console: Console, findings: Findings
) -> "Plan":
    from fedha.data.partition import client_count
    from fedha.engine.estimate import run_operations
    from fedha.engine.plan import make_plan
    from fedha.flower.serve import load_domains

    domains = load_domains(config)
    clients = client_count(domains, config.data, config.seed[0])
    plan = make_plan(config, clients, here, session, run_operations(config, domains))
    rows = run_rows(config, plan, domains)
    _show(f"The plan of {config.name}", rows, console)
    findings.remarks += plan.warnings
    return plan


def _show_ray(plan: "Plan | None", here: "Machine", session: "RaySession | None", console: Console) -> None:
    from fedha.engine import ray_session
    from fedha.engine.plan import count
    from fedha.engine.ray_trial import ask_workers

    workers, gpus = (1, len(here.gpus)) if plan is None else (plan.workers, plan.gpus)
    with console.status("starting Ray"):
        session = session or ray_session.start(workers, gpus)
        answers = ask_workers(
            workers, *((1, 0.0, 1) if plan is None else (plan.cpu_share, plan.gpu_share, plan.threads))
        )
    whose = "started" if session.ours and session.address == "local" else "joined"
    has = [count(session.cpus, "CPU"), count(session.gpus, "GPU"), count(session.nodes, "node")]
    rows = [(whose, f"in {session.seconds:.1f} s: {', '.join(has)}")]
    rows += [(f"worker {place}", answer) for place, answer in enumerate(answers)]
    _show("Ray", rows, console)


def _show(title: str, rows: Rows, console: Console) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=9)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, text)
    console.print(title, style="bold", markup=False, highlight=False)
    console.print(table, markup=False, highlight=False)
    console.print()


def _conclude(findings: Findings, config: Config | None, console: Console) -> None:
    for mark, style, texts in (("cannot run", "red", findings.obstacles), ("note", "yellow", findings.remarks)):
        for text in texts:
            console.print(f"{mark}: {text}", style=style, markup=False, highlight=False, soft_wrap=True)
    if not findings.obstacles:
        well = "Ray works here." if config is None else f"{config.name} can run here."
        console.print(well, style="green", markup=False, highlight=False)
