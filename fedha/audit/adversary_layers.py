"""Whether what a first layer passes tells a crafted one from an honest one: its rank, and how many share a unit.

A guard was tried with these figures and is not one: docs/privacy.md has what they are, and how they are got around.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedha.audit.adversary_bench import Bench
from fedha.audit.adversary_imprint import body_of, disguised, flat_inputs, imprint, public_of, rows_of, traps


@dataclass(frozen=True)
class Passed:
    """A first layer on one client's examples.

    Attributes:
        model: Which, in words.
        client: Its id.
        weights: Effective rank of the layer's weights: the exponential of the entropy of their singular values.
        features: That of what it passes, [n, units].
        shared: For how many of the examples a unit is on, as a share: the median over the units.
        lone: The share of units that are on for one example alone.
    """

    model: str
    client: int
    weights: float
    features: float
    shared: float
    lone: float


def layers(bench: Bench, trained: Mapping[str, Tensor] | None = None) -> tuple[Passed, ...]:
    """The figures of an honest first layer and of crafted ones, on every client's examples.

    Args:
        bench: The clients of a config.
        trained: A trained model; None where there is none.

    Raises:
        NotPlayedError: The network has no such layer, or the server no examples.
    """
    body, public, rows = body_of(bench.model), public_of(bench), len(rows_of(bench))
    seed = bench.config.seed[0] + 1
    made: dict[str, Mapping[str, Tensor]] = {"fresh": bench.parameters}
    if trained is not None:
        made["trained"] = trained
    for name, craft in (("imprinting", imprint), ("in disguise", disguised), ("trap weights", traps)):
        made[name] = craft(body, bench.parameters, public, seed, rows)
    return tuple(
        passed(name, client_id, flat_inputs(bench, one.train), *_layer(parameters, body.first))
        for name, parameters in made.items()
        for client_id, one in enumerate(bench.clients)
    )


def passed(model: str, client: int, inputs: Tensor, weight: Tensor, bias: Tensor) -> Passed:
    """The figures of one layer.

    Args:
        model, client: What they are of.
        inputs: [n, d].
        weight, bias: The layer's.
    """
    features = (inputs.double() @ weight.T.double() + bias.double()).relu()
    on = (features > 0).double()
    shared = float(on.mean(0).median())
    lone = float((on.sum(0) == 1).double().mean())
    return Passed(model, client, effective_rank(weight), effective_rank(features), shared, lone)


def effective_rank(matrix: Tensor) -> float:
    """The exponential of the entropy of the singular values (Roy and Vetterli, 2007); 0 of zeros."""
    sizes = torch.linalg.svdvals(matrix.double())
    shares = sizes[sizes > 0] / sizes.sum()
    return float(torch.exp(-(shares * shares.log()).sum())) if len(shares) else 0.0


def _layer(parameters: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return parameters[f"{name}.weight"], parameters[f"{name}.bias"]
