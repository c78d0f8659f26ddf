"""The same exchanges answered one by one and together."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha import batching, training
from fedha.client import Client
from fedha.client_state import to_tensors
from fedha.config import LocalConfig, ModelConfig, TrainingConfig
from fedha.data.domain import Domain, Examples
from fedha.exchange import Reply, Request, Task
from fedha.models import SplitModel, build
from fedha.models.state import state_of
from fedha.recipes import Recipe

SEED = 7


def make_clients(
    model: SplitModel, shape: Sequence[int], sizes: Sequence[int], classes: int, precision: torch.dtype
) -> list[Client]:
    """Clients that differ in data, of the given sizes."""
    clients = []
    for place, size in enumerate(sizes):
        draws = torch.Generator().manual_seed(place)
        inputs = (1 + 0.2 * place) * torch.randn(size + 4, *shape, generator=draws, dtype=torch.float64)
        labels = torch.randint(0, classes, (size + 4,), generator=draws)
        everything = Examples(inputs.to(precision), labels)
        domain = Domain(f"d{place}", everything.select(slice(size)), everything.select(slice(size, None)))
        clients.append(Client(place, domain, model))
    return clients


def make_cohort(
    config: ModelConfig, shape: Sequence[int], sizes: Sequence[int] = (9, 11, 9, 12), classes: int = 3
) -> list[Client]:
    """Clients of one configured network."""
    precision = torch.float64 if config.precision == "float64" else torch.float32
    return make_clients(build(config, shape, classes, SEED), shape, sizes, classes, precision)


def local(**options: object) -> TrainingConfig:
    """Local mode, the rate falling over the rounds."""
    weight_decay = options.pop("weight_decay", 0.0)
    more = {name: options.pop(name) for name in ("rates", "label_smoothing", "class_weights") if name in options}
    return TrainingConfig.model_validate(
        {
            "mode": "local",
            "rounds": 10,
            "schedule": "cosine",
            "weight_decay": weight_decay,
            **more,
            "local": LocalConfig.model_validate(options),
        }
    )


@dataclass
class Answered:
    """One exchange, answered both ways."""

    alone: list[Reply]
    together: list[Reply]


def twin_rounds(clients: Sequence[Client], recipe: Recipe, settings: TrainingConfig, rounds: int) -> list[Answered]:
    """Rounds of measuring and training, the model moving by the mean update, with their answers from twin clients.

    The clients given are those who answer together.
    """
    alone = [Client(client.client_id, client.domain, client.model, deepcopy(client.state)) for client in clients]
    task = Task(recipe, settings, SEED)
    parameters = {name: value.detach().clone() for name, value in state_of(clients[0].model).trained.items()}
    share = 1 / (len(clients) + 1)
    exchanges = []
    for number in range(1, rounds + 1):
        references: dict[str, Tensor] = {}
        for names in recipe.measurements():
            request = Request(task, number, parameters, references, names, share)
            measured = _both(alone, clients, request, training.answer_measure, batching.answer_measure)
            exchanges.append(measured)
            references = references | mean_tensors(measured.alone)
        request = Request(task, number, parameters, references, (), share)
        exchanges.append(_both(alone, clients, request, training.answer_train, batching.answer_train))
        update = mean_tensors(exchanges[-1].alone)
        step = 0.1 if settings.mode == "synchronous" else 1.0
        parameters = {name: value - step * update[name] for name, value in parameters.items()}
    for one, other in zip(alone, clients, strict=True):
        torch.testing.assert_close(to_tensors(other.state), to_tensors(one.state), rtol=1e-10, atol=1e-12)
    return exchanges


def mean_tensors(replies: Sequence[Reply]) -> dict[str, Tensor]:
    return {name: torch.stack([one.tensors[name] for one in replies]).mean(0) for name in replies[0].tensors}


def _both(alone, together, request, one_by_one, at_once) -> Answered:
    answers = [one_by_one(client, request) for client in alone]
    return Answered(answers, at_once(together, [request] * len(together)))


def assert_same(exchanges: Sequence[Answered], tolerance: float = 1e-10) -> None:
    """Names, shapes and order exactly; numbers up to rounding, against the largest entry of a tensor."""
    for exchange in exchanges:
        for one, other in zip(exchange.alone, exchange.together, strict=True):
            same = [
                (x.client_name, x.domain, x.client_id, x.examples, list(x.metrics), list(x.tensors))
                for x in (one, other)
            ]
            assert same[0] == same[1]
            for name, tensor in one.tensors.items():
                size = float(tensor.abs().max())
                torch.testing.assert_close(other.tensors[name], tensor, rtol=0, atol=tolerance * max(size, 1e-3))
            for name, number in one.metrics.items():
                assert abs(other.metrics[name] - number) <= tolerance * max(abs(number), 1e-3), name
