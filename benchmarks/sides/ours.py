"""fedha's side: the Grid of an engine with the trivial client, or a whole run of federated averaging.

    python -m sides.ours exchange --engine inline|ray --clients N --workers W
    python -m sides.ours cohort --engine inline|ray [--together] --data FOLDER --cohort N --workers W

A cohort is a run as `fedha run` does it: sampling, the clients' risk and accuracy on their whole data at the round's
start, the mean risk of their steps, aggregation, the line of metrics.jsonl. Only the evaluation rounds are left out.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedha import run
from fedha.config import Config, parse
from fedha.engine.inline import InlineGrid
from sides import federation, trivial
from sides.federation import BATCH, HIDDEN, RATE, TARGET
from sides.gate import Gate

ENDLESS = 10**9


def inline_grid(clients: int, workers: int) -> Grid:
    """Every client in this process."""
    return InlineGrid(trivial.client(), clients)


def ray_grid(clients: int, workers: int) -> Grid:
    """The clients spread over worker processes."""
    from fedha.engine import ray_session

    ray_session.start(workers)  # it protects what it starts only where ray was not imported before
    from fedha.engine.ray_grid import RayGrid

    return RayGrid(trivial_clients, clients, workers=workers)


def trivial_clients(data: Mapping[int, Any]) -> ClientApp:
    """What a worker process makes of its clients' data: none is needed."""
    return trivial.client()


GRIDS = {"inline": inline_grid, "ray": ray_grid}


class Rounds:
    """Times the run's rounds from one to the next, and ends the run when no more are wanted."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._begun = gate, 0.0

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Wait for the first round to be wanted."""
        self._continue()

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Count the round."""
        self._gate.passed(time.perf_counter() - self._begun, record["bytes_down"] + record["bytes_up"])
        self._continue()

    def finished(self, results: Mapping[str, Any]) -> None:
        """Never comes: the run is endless."""

    def note(self, text: str) -> None:
        """Keep it in the log."""
        print(text)

    def _continue(self) -> None:
        if not self._gate.wants_round():
            raise SystemExit(0)
        self._begun = time.perf_counter()


def averaging(data: Path, cohort: int, engine: Mapping[str, Any]) -> Config:
    """Federated averaging of the benchmark's network over the clients of this folder."""
    population = len(federation.read(data)[1]) // federation.EXAMPLES
    return parse(
        {
            "name": "cohort",
            "data": {
                "name": "arrays",
                "root": str(data),
                "target": TARGET,
                "held_out": 0.0,
                "clients_per_domain": population // federation.DOMAINS,
            },
            "model": {"name": "mlp", "hidden": [HIDDEN]},
            "recipe": "erm",
            "training": {
                "mode": "local",
                "rounds": ENDLESS,
                "averaging": "clients",
                "clients_per_round": cohort,
                "local": {"epochs": 1, "batch_size": BATCH, "learning_rate": RATE},
            },
            "evaluation": {"every": ENDLESS},
            "checkpoint": {"every": ENDLESS},
            "engine": dict(engine),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["exchange", "cohort"])
    parser.add_argument("--engine", choices=["inline", "ray"], required=True)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cohort", type=int)
    parser.add_argument("--together", action="store_true", help="with batching")
    given = parser.parse_args()
    gate = Gate()
    if given.kind == "exchange":
        trivial.exchange(GRIDS[given.engine](given.clients, given.workers), gate)
        return
    engine: dict[str, Any] = {"name": given.engine, "batching": given.together}
    if given.engine == "ray":
        engine["workers"] = given.workers
    with tempfile.TemporaryDirectory() as folder:
        run.execute(averaging(given.data, given.cohort, engine), Path(folder, "run"), Rounds(gate))


if __name__ == "__main__":
    from sides import ours  # under its own name, by which the workers find what they are sent

    ours.main()
