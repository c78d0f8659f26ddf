"""Training the small problem in a plain loop, and over a grid of messages."""

from collections.abc import Iterable

from flwr.app import ConfigRecord, Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from torch import Tensor
from torch.testing import assert_close

from fedha.config import LocalConfig, TrainingConfig
from fedha.engine.inline import InlineGrid
from fedha.federation import run_round
from fedha.flower import HessianAlignment, client_app
from fedha.flower.wire import (
    pack_tensors,
    unpack_tensors,
)
from fedha.recipes import Recipe
from tests.problems import SEED, Problem, make_problem

SYNCHRONOUS = TrainingConfig(rounds=3, weight_decay=0.01, schedule="cosine", averaging="examples")
LOCAL = TrainingConfig(
    mode="local", rounds=3, optimizer="fedadam", local=LocalConfig(epochs=1, batch_size=5, momentum=0.5)
)


def app_of(problem: Problem) -> ClientApp:
    return client_app(lambda _: problem.model, lambda context: problem.domains[client_id_of(context)])


def client_id_of(context: Context) -> int:
    return int(context.node_config["partition-id"])


def train_over(
    grid: Grid, strategy: HessianAlignment, problem: Problem, rounds: int
) -> tuple[dict[str, Tensor], list[dict]]:
    arrays, records = pack_tensors(dict(problem.model.named_parameters())), []
    for number in range(1, rounds + 1):
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        arrays, _ = strategy.aggregate_train(number, grid.send_and_receive(messages))
        records.append(strategy.last_round)
    return unpack_tensors(arrays), records


def train_plainly(problem: Problem, recipe: Recipe, training: TrainingConfig) -> tuple[dict[str, Tensor], list[dict]]:
    server, clients = problem.server(recipe, training), problem.clients()
    records = [run_round(server, clients, number) for number in range(1, training.rounds + 1)]
    return server.parameters, records


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert_close(one, other, rtol=0, atol=0)


class FaultyGrid(InlineGrid):
    """Loses or breaks chosen exchanges as a deployment does: replies with errors, or none at all.

    Args:
        problem: Whose clients.
        faults: {(message type, round, client's place): an error's reason, or None for silence}.
        from_server: Errors come in the server's name, as where a node is gone.
    """

    def __init__(
        self, problem: Problem, faults: dict[tuple[str, int, int], str | None], *, from_server: bool = False
    ) -> None:
        super().__init__(app_of(problem), len(problem.domains))
        self.faults, self.from_server = faults, from_server

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = (
                f"{message.metadata.message_type} {number}"  # as Flower's grids do
            )
            fault = (message.metadata.message_type, int(message.metadata.group_id), message.metadata.dst_node_id - 2)
            if fault not in self.faults:
                replies += super().send_and_receive([message])
            elif (reason := self.faults[fault]) is not None:
                error = Message(Error(2, reason), reply_to=message)
                if self.from_server:
                    error.metadata.__dict__["_src_node_id"] = 1
                replies.append(error)
        return replies


def train_with(faults: dict[tuple[str, int, int], str | None], recipe: str = "hgp", **options: bool) -> None:
    problem = make_problem()
    strategy = HessianAlignment(recipe, SYNCHRONOUS, seed=SEED, clients=3)
    train_over(FaultyGrid(problem, faults, **options), strategy, problem, 3)
