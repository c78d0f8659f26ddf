"""Layers that pass single examples through a sum: imprinting featurizers and trap weights, and the rows they give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedha.audit.adversary_bench import Bench, NotPlayedError, Outcome, refused_by
from fedha.audit.network import some_of
from fedha.data.examples import Examples
from fedha.errors import FedhaError
from fedha.models.split import SplitModel
from fedha.optimizers import is_decayed
from fedha.placement import placed
from fedha.randomness import generator

_CLOSE = 0.01  # relative distance under which a recovered row is a row of the data
_SPREAD = 0.1  # deviation of what a crafted layer measures, over public examples

Craft = Callable[["Body", Mapping[str, Tensor], Tensor, int, int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Body:
    """A featurizer that begins with a linear layer and a ReLU, and has linear layers and ReLUs alone.

    Attributes:
        first: Its first layer's name among the parameters.
        second: The next layer's, which may be the head.
        width: Units of the first.
        size: Numbers of an input.
    """

    first: str
    second: str
    width: int
    size: int


def body_of(model: SplitModel) -> Body:
    """The layers that can be made to pass single examples.

    Raises:
        NotPlayedError: There are none of this kind.
    """
    leaves = [(name, one) for name, one in model.named_modules() if not list(one.children())]
    leaves = [(name, one) for name, one in leaves if not isinstance(one, nn.Flatten | nn.Identity)]
    plain = all(isinstance(one, nn.Linear | nn.ReLU) for _, one in leaves)
    linear = [(name, one) for name, one in leaves if isinstance(one, nn.Linear)]
    if not plain or len(linear) < 2 or any(one.bias is None for _, one in linear):
        raise NotPlayedError("the network is not made of linear layers and ReLUs, and this imprint is for those")
    (first, layer), (second, _) = linear[:2]
    return Body(first, second, layer.out_features, layer.in_features)


def imprint(body: Body, parameters: Mapping[str, Tensor], public: Tensor, seed: int, rows: int) -> dict[str, Tensor]:
    """A first layer whose units measure one direction against ever higher thresholds, and next weights that are alike.

    The difference of two neighbours' gradients is then of the examples between their thresholds alone. Where there are
    fewer units than examples the thresholds lie so far up that one example is expected between two.

    Args:
        body: The layers.
        parameters: The rest.
        public: Inputs that the server has, [n, d]: thresholds are quantiles of a normal law with their moments.
        seed: Of the direction.
        rows: How many examples the clients have together.
    """
    draws = generator(seed, "imprint")
    direction = torch.randn(body.size, generator=draws).to(public)
    direction = direction * (_SPREAD / (public @ direction).std().clamp_min(1e-12))
    measured = (public @ direction).double()
    share = min(1.0, body.width / rows)
    levels = 1 - share * (1 - (torch.arange(body.width, dtype=torch.float64) + 0.5) / body.width)
    thresholds = (measured.mean() + measured.std() * torch.special.ndtri(levels)).to(public)
    following = parameters[f"{body.second}.weight"]
    scale = torch.randn(len(following), 1, generator=draws).to(following)
    if not body.second.startswith("head"):
        scale = scale.abs()  # units that are on, so that they pass a gradient back
    return {
        **parameters,
        f"{body.first}.weight": direction.expand(body.width, -1).clone(),
        f"{body.first}.bias": -thresholds,
        f"{body.second}.weight": (scale / body.width**0.5).expand_as(following).clone(),
        f"{body.second}.bias": torch.zeros_like(parameters[f"{body.second}.bias"]),
    }


def disguised(body: Body, parameters: Mapping[str, Tensor], public: Tensor, seed: int, rows: int) -> dict[str, Tensor]:
    """An imprint in two fifths of the units; the others are honest, and so is what most of them do.

    Args:
        body, parameters, public, seed, rows: As in `imprint`.
    """
    count = _disguised_units(body.width)
    crafted = imprint(replace(body, width=count), _first_units(body, parameters, count), public, seed, rows)
    names = {f"{body.first}.weight": 0, f"{body.first}.bias": 0, f"{body.second}.weight": 1}
    joined = {
        name: torch.cat([crafted[name], parameters[name].narrow(axis, count, body.width - count)], axis)
        for name, axis in names.items()
    }
    return {**crafted, **joined}


def traps(body: Body, parameters: Mapping[str, Tensor], public: Tensor, seed: int, rows: int) -> dict[str, Tensor]:
    """A first layer whose units are on for hardly any example, in as many directions; the rest as it was.

    Args:
        body: The layers.
        parameters: The rest.
        public: Inputs that the server has: a unit is on for one of the clients', by a normal law with their moments.
        seed: Of the directions.
        rows: How many examples the clients have together.
    """
    weight = torch.randn(body.width, body.size, generator=generator(seed, "traps")).to(public) / body.size**0.5
    measured = public @ weight.T
    level = torch.special.ndtri(torch.tensor(1 - 1 / rows, dtype=torch.float64)).to(public)
    return {
        **parameters,
        f"{body.first}.weight": weight,
        f"{body.first}.bias": -(measured.mean(0) + level * measured.std(0)),
    }


def between(weight: Tensor, bias: Tensor) -> Tensor:
    """Rows from the gradients of a layer whose units stand for thresholds: of what lies between two of them."""
    end = torch.zeros_like(bias[:1])
    inside = weight - torch.cat([weight[1:], torch.zeros_like(weight[:1])])
    return _divided(inside, bias - torch.cat([bias[1:], end]))


def between_disguised(weight: Tensor, bias: Tensor) -> Tensor:
    """As `between`, of the units that `disguised` crafts."""
    count = _disguised_units(len(bias))
    return between(weight[:count], bias[:count])


def alone(weight: Tensor, bias: Tensor) -> Tensor:
    """Rows from the gradients of single units."""
    return _divided(weight, bias)


def found_rows(recovered: Tensor, rows: Tensor) -> set[int]:
    """Which rows of the data were recovered, to a hundredth of their length.

    Args:
        recovered: What was read, [m, d].
        rows: The data, [n, d].
    """
    lengths = rows.norm(dim=1).clamp_min(1e-12)
    found: set[int] = set()
    for one in recovered:
        if bool(one.isfinite().all()):
            off = (rows - one).norm(dim=1) / lengths
            found |= {int(off.argmin())} if float(off.min()) < _CLOSE else set()
    return found


@dataclass(frozen=True)
class Imprint:
    """An attack on the first layer, read from what a round tells of all clients together.

    Attributes:
        craft: The model that is sent.
        read: Rows, from the layer's gradients.
        rounds: How many rounds, each with other units.
        what: What is asked, in words.
    """

    craft: Craft
    read: Callable[[Tensor, Tensor], Tensor]
    rounds: int
    what: str

    def play(self, bench: Bench) -> Outcome:
        """So many rounds, and which rows came out of them."""
        body, rows, grid = body_of(bench.model), rows_of(bench), bench.grid()
        public, found = public_of(bench), set[int]()
        count = min(self.rounds, bench.config.training.rounds)
        asked = f"{count} honest round{'s' if count > 1 else ''} of {len(bench.clients)} clients {self.what}"
        for number in range(1, count + 1):
            crafted = self.craft(body, bench.parameters, public, bench.config.seed[0] + number, len(rows))
            try:
                told = bench.sum(crafted, round=number, grid=grid)
            except FedhaError as error:
                return Outcome(asked, refused_by(str(error)), str(error), float(len(found)), float(len(rows)))
            weight, bias = (gradient_of(bench, told, crafted, f"{body.first}.{part}") for part in ("weight", "bias"))
            found |= found_rows(self.read(weight, bias), rows)
        return Outcome(asked, gain=float(len(found)), most=float(len(rows)))


def unchanged(
    body: Body, parameters: Mapping[str, Tensor], public: Tensor, seed: int, rows: int
) -> Mapping[str, Tensor]:
    """An honest model, beside which the others are held."""
    return parameters


def rows_of(bench: Bench) -> Tensor:
    """All clients' training inputs, flat.

    Raises:
        NotPlayedError: An example has several inputs, or whole numbers.
    """
    return torch.cat([flat_inputs(bench, one.train) for one in bench.clients])


def public_of(bench: Bench) -> Tensor:
    """Inputs that the server has: of the target that it evaluates on.

    Raises:
        NotPlayedError: It has none.
    """
    if not bench.domains.targets:
        raise NotPlayedError("the server has no examples of its own, from which it would choose thresholds")
    return flat_inputs(bench, bench.domains.targets[0].held_out.select(slice(0, 500)))


def _disguised_units(width: int) -> int:
    return width * 2 // 5


def _first_units(body: Body, parameters: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Parameters as if the first layer had the first units alone."""
    some = {f"{body.first}.weight": 0, f"{body.first}.bias": 0, f"{body.second}.weight": 1}
    return {name: value.narrow(some[name], 0, count) if name in some else value for name, value in parameters.items()}


def gradient_of(bench: Bench, told: Mapping[str, Tensor], at: Mapping[str, Tensor], name: str) -> Tensor:
    """A parameter's gradient of the risk; in local mode what local steps changed stands for it."""
    training = bench.config.training
    if training.mode == "local" or not is_decayed(name, at[name], training.decay):
        return told[name]
    return told[name] - 2 * training.weight_decay * at[name]


def _divided(weight: Tensor, bias: Tensor) -> Tensor:
    some = bias.abs() > torch.finfo(bias.dtype).eps * bias.abs().max().clamp_min(1e-30)
    return weight[some] / bias[some, None]


def flat_inputs(bench: Bench, examples: Examples) -> Tensor:
    there = placed(examples, bench.model, some_of(bench.parameters))
    if not there.form.alone or not there.form.kinds[0].is_floating_point:
        raise NotPlayedError("an example is no tensor of numbers, and rows are read of those")
    rows: Tensor = there.take(slice(None))
    return rows.flatten(1).to(some_of(bench.parameters))
