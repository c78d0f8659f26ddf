"""Flower's own simulation, by `run_simulation`, the quicker of its two ways to start.

    python -m sides.flower exchange --clients N --workers W
    python -m sides.flower cohort --data FOLDER --cohort N --workers W

An exchange is `grid.send_and_receive` with the trivial client of `sides.trivial`. A cohort is Flower's FedAvg
(sampling, aggregation, its weighted metrics) around the autograd loop of `sides.loops`, with data and model kept in
each worker process; evaluation is off.
"""

import argparse
import functools
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from sides import federation, loops, trivial
from sides.federation import EXAMPLES
from sides.gate import Gate


@functools.cache
def loaded(data: Path) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Sequential]:
    """The data and a model to train, once a worker process."""
    torch.set_num_threads(1)
    return (*federation.read(data), federation.network())


def averaging_client(data: Path) -> ClientApp:
    """Trains one epoch on its 60 images."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        inputs, labels, model = loaded(data)
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        place = int(context.node_config["partition-id"])
        rows = slice(place * EXAMPLES, (place + 1) * EXAMPLES)
        loops.train_autograd(model, inputs[rows], labels[rows], torch.randperm(EXAMPLES))
        metrics = MetricRecord({"num-examples": EXAMPLES})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    return app


def exchanging_server(clients: int) -> ServerApp:
    """Exchanges as they are asked for."""
    app, gate = ServerApp(), Gate()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        wait_for_nodes(grid, clients)
        trivial.exchange(grid, gate)

    return app


def averaging_server(population: int, cohort: int) -> ServerApp:
    """Rounds of FedAvg as they are asked for, without Flower's log lines between them."""
    app, gate = ServerApp(), Gate()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        wait_for_nodes(grid, population)
        strategy = FedAvg(fraction_train=cohort / population, fraction_evaluate=0.0, min_available_nodes=population)
        arrays, number = ArrayRecord(federation.network().state_dict()), 0
        while gate.wants_round():
            begun, number = time.perf_counter(), number + 1
            messages = list(strategy.configure_train(number, arrays, ConfigRecord(), grid))
            replies = list(grid.send_and_receive(messages))
            trivial.check(replies, cohort)
            averaged, _ = strategy.aggregate_train(number, replies)
            arrays = averaged or arrays
            gate.passed(time.perf_counter() - begun)

    return app


def wait_for_nodes(grid: Grid, clients: int) -> None:
    """Flower starts the server before its virtual nodes are there."""
    while len(list(grid.get_node_ids())) < clients:
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["exchange", "cohort"])
    parser.add_argument("--clients", type=int)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cohort", type=int)
    parser.add_argument("--workers", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.kind == "exchange":
        clients, server, client = given.clients, exchanging_server(given.clients), trivial.client()
    else:
        clients = len(federation.read(given.data)[1]) // EXAMPLES
        server, client = averaging_server(clients, given.cohort), averaging_client(given.data)
    backend = {
        "init_args": {"num_cpus": given.workers, "include_dashboard": False, "log_to_driver": False},
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    }
    run_simulation(server, client, clients, backend_config=backend)


if __name__ == "__main__":
    from sides import flower  # under its own name, by which the workers find what they are sent

    flower.main()
