"""Seconds from a command to its first round, and from a client's process to its first answer, beside bare imports.

    python benchmarks/startup.py [--quick]

Each is a process of its own, from its start: `python -c "import torch, flwr"`, which none of the others can do without;
the quickstart until its first round is done, in this process; and the ClientApp of a
deployment until it has introduced itself, which a node that forks its apps pays once and any other with every message.
Wall clock and the CPU of the process itself; the sides take turns, medians over the turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sides.processes import machine

ROOT = Path(__file__).resolve().parents[1]

_RUN = """
import sys
from pathlib import Path
from fedha.cli import launch
from fedha.run import execute
from fedha.runs.listener import Silent

class First(Silent):
    def round_done(self, record):
        sys.stdout.write("done\\n")
        sys.stdout.flush()

wanted = ["seed=0", "recipe=hgp", "training.rounds=1", "evaluation.leave_one_domain_out=false", *sys.argv[2:]]
execute(launch.find_config("quickstart", wanted), Path(sys.argv[1]) / "run", First())
"""

_CLIENT = """
import sys, tomllib
from pathlib import Path
import clients.app
from fedha.config import load
from fedha.engine.inline import InlineGrid
from fedha.flower import HessianAlignment
from fedha.privacy.contract import contract_of

told = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
config = load(Path(told["config"]), told["overrides"].split())  # what the client's contract is of
strategy = HessianAlignment(config.recipe[0], config.training, seed=config.seed[0], clients=2, privacy=config.privacy)
strategy.talk.contract = contract_of(config).digest
strategy.talk.meet(InlineGrid(clients.app.app, 2, told), 1)
sys.stdout.write("done\\n")
sys.stdout.flush()
"""

SIDES: dict[str, tuple[str, tuple[str, ...]]] = {
    "import torch, flwr": ("import torch, flwr; print('done', flush=True)", ()),
    "fedha run, first round": (_RUN, ("engine.name=inline",)),
    "client, first answer": (_CLIENT, ()),
}


def once(program: str, arguments: tuple[str, ...]) -> tuple[float, float]:
    """Seconds until a program says that it is done, and the CPU seconds of the whole of it."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        running = subprocess.Popen(
            [sys.executable, "-c", program, folder, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert running.stdout is not None
        said, seconds = running.stdout.readline(), time.perf_counter() - begun
        running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if not said.startswith("done") or running.returncode:
        raise SystemExit(f"a side ended with {running.returncode} and said {said!r}")
    return seconds, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, print a line a side, and all of it as JSON in the last one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn")
    turns = 1 if parser.parse_args().quick else 5
    print(machine())
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    for _ in range(turns):
        for name, (program, arguments) in SIDES.items():
            seen[name].append(once(program, arguments))
    found = {name: [statistics.median(column) for column in zip(*both, strict=True)] for name, both in seen.items()}
    print(f"{'':26}{'seconds':>9}{'CPU s':>9}")
    for name, (seconds, cpu) in found.items():
        print(f"{name:26}{seconds:9.2f}{cpu:9.2f}")
    print(json.dumps({"startup": {name: {"seconds": one, "cpu_seconds": cpu} for name, (one, cpu) in found.items()}}))


if __name__ == "__main__":
    main()
