"""Releases of real rounds: fedha's own clients answer, what they send is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedha import data
from fedha.answers import answer_measure, answer_train
from fedha.audit.sent import Sent
from fedha.client import Client
from fedha.config import DataConfig, LocalConfig, ModelConfig, TrainingConfig
from fedha.data.domain import Domain, Examples
from fedha.exchange import Request, Task
from fedha.federation import Server
from fedha.models import SplitModel, build, head_matrix
from fedha.recipes import RECIPES, Recipe, Term

EVERYTHING = ("gradient", "hessian_diagonal", "gradient_variance", "feature_mean")


@dataclass(frozen=True)
class Played:
    """A few rounds: what was sent, by whom, and where training ended."""

    sent: list[Sent]
    domains: dict[int, Domain]
    model: SplitModel
    final: dict[str, Tensor]


def digits(sources: int = 2, seed: int = 0) -> list[Domain]:
    """Coloured digits, in float64."""
    flips = [0.1 + 0.1 * place for place in range(sources)]
    loaded = data.load(DataConfig(name="colored_digits", color_flips=flips, split="random"), seed).sources
    return [replace(one, train=wide(one.train), held_out=wide(one.held_out)) for one in loaded]


def wide(examples: Examples) -> Examples:
    return Examples(examples.inputs.double(), examples.labels)


def first(domain: Domain, count: int) -> Domain:
    """The domain with so many training examples; 120 of the others are held out."""
    train, rest = domain.train.select(slice(0, count)), domain.train.select(slice(count, None))
    held_out = Examples(
        torch.cat([rest.inputs, domain.held_out.inputs]), torch.cat([rest.labels, domain.held_out.labels])
    )
    return replace(domain, train=train, held_out=held_out.select(slice(0, 120)))


def network(domain: Domain, classes: int = 2, seed: int = 0, **options: object) -> SplitModel:
    shape = tuple(domain.train.inputs.shape[1:])
    settings = {"name": "mlp", "hidden": [64], "precision": "float64", **options}
    return build(ModelConfig.model_validate(settings), shape, classes, seed)


def play(
    domains: Sequence[Domain],
    model: SplitModel,
    *,
    rounds: int = 2,
    measure: Sequence[str] = EVERYTHING,
    recipe: Recipe = RECIPES["erm"],
    mode: str = "synchronous",
    learning_rate: float = 0.1,
    local: LocalConfig | None = None,
    weight_decay: float = 0.0,
) -> Played:
    """Rounds of SGD in which every client also sends these statistics; the aggregate weighs the domains alike."""
    training = TrainingConfig.model_validate(
        {
            "mode": mode,
            "rounds": rounds,
            "optimizer": "sgd" if mode == "synchronous" else "fedavg",
            "learning_rate": learning_rate if mode == "synchronous" else 1.0,
            "local": (local or LocalConfig()).model_dump(),
            "weight_decay": weight_decay,
        }
    )
    task = Task(recipe, training, seed=0)
    server = Server(task, {name: value.detach() for name, value in model.named_parameters()})
    clients = [Client(place, domain, model) for place, domain in enumerate(domains)]
    sent: list[Sent] = []
    for round in range(1, rounds + 1):
        server.gather(round, [client.member for client in clients])
        parameters = {name: value.clone() for name, value in server.parameters.items()}
        asked = Request(task, round, parameters, {}, tuple(measure))
        statistics = [answer_measure(client, asked).tensors for client in clients]
        references = {name: sum(one[name] for one in statistics) / len(clients) for name in measure}
        replies = [answer_train(client, replace(asked, measure=(), references=references)) for client in clients]
        for place, reply in enumerate(replies):
            sent.append(release(round, place, parameters, statistics[place], reply.tensors, reply.examples, mode))
        sent.append(mean_of(sent[-len(clients) :]))
        server.step(round, replies)
    final = {name: value.clone() for name, value in server.parameters.items()}
    return Played(sent, dict(enumerate(domains)), model, final)


def release(round, client, parameters, statistics, update, examples, mode):  # type: ignore[no-untyped-def]
    head = head_matrix(parameters["head.weight"], parameters["head.bias"])
    return Sent(round, client, head, statistics, update, examples, parameters, mode)


def mean_of(parts: Sequence[Sent]) -> Sent:
    """The aggregate of clients that count alike."""

    def mean(each: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: sum(one[name] for one in each) / len(each) for name in each[0]}

    return replace(
        parts[0],
        client=None,
        statistics=mean([one.statistics for one in parts]),
        update=mean([one.update for one in parts]) if parts[0].update is not None else None,
        examples=sum(one.examples for one in parts),
        averaging_weights={one.client: 1 / len(parts) for one in parts},
    )


def with_term(*names: str) -> Recipe:
    """A recipe that aligns these statistics."""
    return Recipe("made", tuple(Term(name) for name in names))
