"""Clients a second in federated averaging: fedha's engines, their peers, and the limit of the processor.

    python benchmarks/cohort.py [--quick] [--data FOLDER] [--workers W] [--pfl-python PYTHON] [--sides NAME ...]

A client trains a 784-200-10 MLP for one epoch on its 60 MNIST images, batch 10, SGD. A round draws a cohort of 10, 100
or 1,000 from 1,000 clients of 10 domains (Flower: 10 and 100 only), trains and averages. fedha's sides are whole runs
with their metrics; the peers keep none. Everybody has one thread a process. What fedha also changes in a process,
`fedha.numerics`, is on in fedha's sides, and of the peers in the loops called "+ numerics" only.

Each side is a process of its own; they take turns in blocks of rounds. Before that fedha's sides run until nearly every
client has been drawn: its first round brings its data into memory. Clients a second are wall clock, of the median
round; clients a core second divide by the CPU time of the side's process tree instead, which makes one process and
several comparable. The limit is what a client's products take, counted by torch, at the rate of a 1024 x 1024 float32
product in as many processes at once as fedha has workers, measured before and after the turns.
"""

import argparse
import copy
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from sides import federation, loops
from sides.driving import Side, Summary, alternate, running, say
from sides.processes import cores, machine
from torch.utils.flop_counter import FlopCounterMode

OURS = {
    "together": ("ray", "--together"),
    "one by one": ("ray",),
    "inline together": ("inline", "--together"),
    "inline": ("inline",),
}
FLOWER, PFL = "flower", "pfl"
LOOPS = {
    "autograd": ("autograd",),
    "autograd + numerics": ("autograd", "--fedha-numerics"),
    "by hand": ("by_hand",),
    "by hand + numerics": ("by_hand", "--fedha-numerics"),
}
SIDES = (*OURS, FLOWER, PFL, *LOOPS)
PFL_PYTHON = Path(__file__).resolve().parents[1] / ".venv-pfl/bin/python"
CLIENTS = 1000
ROUNDS = {10: 30, 100: 5, 1000: 1}  # of a block, by cohort


def start(name: str, data: Path, cohort: int, given: argparse.Namespace) -> Side:
    """One side at this cohort."""
    size = ("--data", data, "--cohort", cohort)
    if name in LOOPS:
        return Side("loops", *LOOPS[name], *size)
    if name == PFL:
        return Side("pfl_research", *size, python=given.pfl_python.absolute())
    if name == FLOWER:
        return Side("flower", "cohort", *size, "--workers", given.workers)
    return Side("ours", "cohort", "--engine", *OURS[name], *size, "--workers", given.workers)


def check_agreement() -> None:
    """The two hand-written loops must do the same, or there is nothing to compare."""
    start, order = federation.network(), torch.randperm(federation.EXAMPLES)
    inputs, labels = torch.rand(federation.EXAMPLES, federation.INPUTS), torch.arange(federation.EXAMPLES) % 10
    ends = []
    for train in loops.TRAINERS.values():
        model = copy.deepcopy(start)
        train(model, inputs, labels, order)
        ends.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
    apart = float((ends[0] - ends[1]).abs().max())
    if apart > 1e-5:
        raise SystemExit(f"the autograd loop and the one written by hand end {apart:.1e} apart; nothing to compare")


def client_operations() -> int:
    """Float operations of one client's products, forward and backward, as torch counts them."""
    inputs, labels = torch.rand(federation.EXAMPLES, federation.INPUTS), torch.arange(federation.EXAMPLES) % 10
    with FlopCounterMode(display=False) as counter:
        loops.train_autograd(federation.network(), inputs, labels, torch.arange(federation.EXAMPLES))
    return counter.get_total_flops()


def product_rate(processes: int, quick: bool) -> float:
    """Float operations a second of large products in this many processes at once, all together."""
    names = [str(place) for place in range(processes)]
    with running({name: Side("loops", "product", "--fedha-numerics") for name in names}) as sides:
        rates = []
        for rounds in (2, 5 if quick else 100):
            for side in sides.values():
                side.begin(rounds)
            seconds = [statistics.median(side.end().seconds) for side in sides.values()]
            rates.append(sum(2 * loops.SQUARE**3 / one for one in seconds))
    return rates[-1]


def report(cohort: int, seen: dict[str, Summary], limit: float) -> None:
    """The table of one cohort; how many times faster than each other side the first one is."""
    first, ours = next(iter(seen.items()))
    print(f"\ncohort of {cohort:,}; the limit is {limit:,.0f} clients/s")
    print(f"{'':22}{'clients/s':>10}{'cores':>7}{'a core s':>10}{'of the limit':>14}{first + ' is':>15}{'a core':>8}")
    for name, one in seen.items():
        rate, of_core = cohort / one.seconds, cohort / one.cpu_seconds
        text = f"{name:22}{rate:10,.0f}{one.cpu_seconds / one.seconds:7.2f}{of_core:10,.0f}{rate / limit:14.1%}"
        if one is not ours:
            text += f"{one.seconds / ours.seconds:14.1f}x{one.cpu_seconds / ours.cpu_seconds:7.1f}x"
        print(text, flush=True)


def available(names: Sequence[str], python: Path) -> list[str]:
    """The sides that can run here; says which cannot."""
    known = python.exists() and not subprocess.run([python, "-c", "import pfl"], capture_output=True).returncode
    if PFL in names and not known:
        print(f"pfl is left out: {python} is not there or cannot import it; see benchmarks/README.md")
        return [name for name in names if name != PFL]
    return list(names)


def compare(given: argparse.Namespace, names: Sequence[str], data: Path) -> dict[int, dict[str, Summary]]:
    """All cohorts."""
    found, operations = {}, client_operations()
    for cohort in (10,) if given.quick else (10, 100, 1000):
        present = [name for name in names if name != FLOWER or cohort <= 100]
        rates = [product_rate(given.workers, given.quick)]
        with running({name: start(name, data, cohort, given) for name in present}) as sides:
            rounds = dict.fromkeys(present, 2 if given.quick else ROUNDS[cohort])
            if FLOWER in rounds:
                rounds[FLOWER] = -(-rounds[FLOWER] // 5)
            once = 2 if given.quick else -(-3 * CLIENTS // cohort)
            warm_up = {name: once if name in OURS else rounds[name] for name in present}
            found[cohort] = alternate(sides, rounds, 1 if given.quick else 7, warm_up)
        if not given.quick:
            rates.append(product_rate(given.workers, given.quick))
        span = f"{min(rates) / 1e9:.0f} to {max(rates) / 1e9:.0f} GFLOP/s"
        print(f"\n{operations / 1e6:.1f} MFLOP a client; {span}", end="")
        report(cohort, found[cohort], max(rates) / operations)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a cohort of 10 out of 20 clients, a few rounds")
    parser.add_argument("--data", type=Path, help="a folder with mnist/; default: FEDHA_TEST_DATA; else random numbers")
    parser.add_argument("--workers", type=int, default=cores(), help="worker processes of fedha and of Flower")
    parser.add_argument("--pfl-python", type=Path, default=PFL_PYTHON, help="an interpreter that has pfl and torch")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    check_agreement()
    folder = given.data or (Path(os.environ["FEDHA_TEST_DATA"]) if "FEDHA_TEST_DATA" in os.environ else None)
    mnist = folder / "mnist" if folder and (folder / "mnist").is_dir() else None
    print(f"{machine()}; {given.workers} workers, one thread each")
    names = available(given.sides, given.pfl_python)
    with tempfile.TemporaryDirectory(prefix="cohort-") as data:
        print(federation.write(Path(data), 20 if given.quick else CLIENTS, mnist))
        say("cohort", compare(given, names, Path(data)))


if __name__ == "__main__":
    main()
