"""A server that crafts what it sends in an agreed round: heads, layers that pass single examples, layers that mix them.

A contract cannot hold this off, for parameters are what a round is about. Noise covers it; guards stop what is crude.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from fedha.audit.adversary_bench import Answer, Bench, Family, NotPlayedError, Outcome, refused_by
from fedha.audit.adversary_imprint import (
    Imprint,
    alone,
    between,
    between_disguised,
    disguised,
    found_rows,
    gradient_of,
    imprint,
    traps,
    unchanged,
)
from fedha.audit.network import features_at
from fedha.data.domain import Domain
from fedha.errors import FedhaError
from fedha.models.split import SplitModel
from fedha.privacy.contract import contract_of
from fedha.randomness import generator

_ROUNDS = 5  # of attacks that go on
_APART = 1.1e-3  # of rows that the head guard lets through
_SHARP = 900.0  # norm of a row that the head guard lets through


def equal_rows(bench: Bench, apart: float = 0.0) -> Outcome:
    """A head whose rows are alike: its bias' gradient is the classes' shares; counted are labels placed, in %.

    Args:
        bench: The clients.
        apart: How far each row is from the one before.

    Raises:
        NotPlayedError: The head is not linear, or clients are drawn.
    """
    if bench.config.training.clients_per_round is not None:
        raise NotPlayedError("a round's clients are drawn, and labels are counted of all of them")
    name, parameters = _linear_head(bench), bench.parameters
    weight = parameters[f"{name}.weight"]
    first = torch.zeros_like(weight[:1]) if len(weight) == 1 else weight[:1]
    steps = torch.arange(len(weight)).to(weight)[:, None] + (len(weight) == 1)
    crafted = {
        **parameters,
        f"{name}.weight": first + steps * (apart / weight.shape[1] ** 0.5),
        f"{name}.bias": torch.zeros_like(parameters[f"{name}.bias"]),
    }
    asked = f"a head with rows {apart:g} apart" if apart else "a head with equal rows"
    try:
        told = bench.sum(crafted)
    except FedhaError as error:
        return Outcome(asked, refused_by(str(error)), str(error))
    bias = gradient_of(bench, told, crafted, f"{name}.bias").double()
    shares = torch.stack([1 - (0.5 - bias[0]), 0.5 - bias[0]]) if len(bias) == 1 else 1 / len(bias) - bias
    weights = torch.tensor([_weight(bench, one) for one in bench.clients], dtype=torch.float64)
    true = weights @ torch.stack([_shares(one, bench.domains.classes) for one in bench.clients]) / weights.sum()
    placed_there = float(1 - (shares - true).abs().sum() / 2)
    guess = float(1 - (1 / len(true) - true).abs().sum() / 2)
    return Outcome(asked, gain=100 * max(0.0, placed_there), most=100 * guess)


def sharp_head(bench: Bench) -> Outcome:
    """A head so steep, within the guard, that the diagonal holds those at its threshold alone.

    Raises:
        NotPlayedError: The recipe measures no diagonal, or the head is not linear.
    """
    if "hessian_diagonal" not in contract_of(bench.config).measured:
        raise NotPlayedError("the recipe measures no Hessian diagonal, and a steep head's gradient is a sum of many")
    name, grid, found = _linear_head(bench), bench.grid(), set[int]()
    features = features_in(bench, bench.parameters)
    squares, public = features**2, features_in(bench, bench.parameters, public=True)
    asked = f"{_ROUNDS} rounds with a head of norm {_SHARP:g}"
    count = min(_ROUNDS, bench.config.training.rounds)
    for number in range(1, count + 1):
        draws = generator(bench.config.seed[0] + number, "steep")
        row = torch.randn(features.shape[1], generator=draws).to(features)
        row = row * (_SHARP / row.norm())
        weight = bench.parameters[f"{name}.weight"]
        rows = torch.stack([row * place for place in range(len(weight))]) / max(1, len(weight) - 1)
        rows = row[None] if len(weight) == 1 else rows
        level = torch.quantile((public @ row).double(), number / (count + 1)).to(row)
        bias = -level * torch.arange(len(weight)).to(row) / max(1, len(weight) - 1) if len(weight) > 1 else -level[None]
        try:
            told = bench.sum(
                {**bench.parameters, f"{name}.weight": rows, f"{name}.bias": bias}, round=number, grid=grid
            )
        except FedhaError as error:
            return Outcome(asked, refused_by(str(error)), str(error), float(len(found)), float(len(features)))
        diagonal = told["hessian_diagonal"]
        for line in diagonal:
            if float(line[-1]) > 0:
                found |= found_rows((line[:-1] / line[-1])[None], squares)
    return Outcome(asked, gain=float(len(found)), most=float(len(features)))


class Mixing(nn.Module):
    """A featurizer after which every example's features hold the batch's mean."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        """Centred features."""
        features: Tensor = self.inner(inputs)
        return features - features.mean(0)


def mixing(bench: Bench) -> Outcome:
    """A layer that mixes examples, by a server that leaves out the introduction; counted are the numbers answered.

    Raises:
        NotPlayedError: No noise covers single examples.
    """
    if bench.config.privacy.protect != "examples":
        raise NotPlayedError("no noise covers single examples in this config, so that a layer may mix them")
    network = SplitModel(Mixing(bench.model.featurizer), bench.model.head)
    parameters = {
        name.replace("featurizer.", "featurizer.inner.", 1): value for name, value in bench.parameters.items()
    }
    answer: Answer = bench.ask(bench.honest("train", parameters=parameters), grid=bench.grid(model=network))
    asked = "an update of a network that centres its features, without an introduction"
    return Outcome(asked, answer.refused, answer.sentence, float(answer.numbers))


def features_in(bench: Bench, parameters: Mapping[str, Tensor], *, public: bool = False) -> Tensor:
    """Features of the clients' examples, or of the server's, without the column of ones."""
    if public and not bench.domains.targets:
        raise NotPlayedError("the server has no examples of its own, from which it would choose thresholds")
    parts = [bench.domains.targets[0].held_out] if public else [one.train for one in bench.clients]
    return torch.cat([features_at(bench.model, parameters, one)[:, :-1].detach() for one in parts])


FAMILIES: tuple[Family, ...] = (
    Family("head", "a head of equal rows", "docs/privacy.md", "labels placed, % (beside equal classes)", equal_rows),
    Family(
        "nearly",
        "a head of nearly equal rows",
        "docs/privacy.md",
        "labels placed, % (beside equal classes)",
        partial(equal_rows, apart=_APART),
    ),
    Family("steep", "a steep head", "docs/privacy.md", "examples whose squared features came out", sharp_head),
    Family(
        "honest",
        "none: an honest model",
        "as a guess",
        "rows of the data that came out",
        Imprint(unchanged, alone, 1, "at the initial model").play,
    ),
    Family(
        "imprint",
        "an imprinting featurizer",
        "Fowl et al. (ICLR 2022)",
        "rows of the data that came out",
        Imprint(imprint, between, 1, "at a crafted model").play,
    ),
    Family(
        "imprints",
        "the same, ever again",
        "Fowl et al. (ICLR 2022)",
        "rows of the data that came out",
        Imprint(imprint, between, _ROUNDS, "at crafted models").play,
    ),
    Family(
        "disguised",
        "an imprint in disguise",
        "docs/privacy.md",
        "rows of the data that came out",
        Imprint(disguised, between_disguised, 1, "at a crafted model").play,
    ),
    Family(
        "traps",
        "trap weights",
        "Boenisch et al. (EuroS&P 2023)",
        "rows of the data that came out",
        Imprint(traps, alone, 1, "at a crafted model").play,
    ),
    Family("mixing", "a layer that mixes examples", "docs/privacy.md", "numbers answered", mixing),
)


def _linear_head(bench: Bench) -> str:
    if not isinstance(bench.model.head, nn.Linear) or bench.model.head.bias is None:
        raise NotPlayedError("the head is no linear layer with a bias")
    return "head"


def _weight(bench: Bench, client: Domain) -> float:
    """A client's weight in the averages, but for a factor."""
    averaging = bench.config.training.averaging
    if averaging == "examples":
        return float(len(client.train))
    same = sum(one.name == client.name for one in bench.clients)
    return 1 / same if averaging == "domains" else 1.0


def _shares(domain: Domain, classes: int) -> Tensor:
    counts = torch.bincount(domain.train.labels.flatten().long(), minlength=classes).double()
    return counts / counts.sum()
