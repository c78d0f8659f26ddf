"""A server that crafts what it sends in an agreed round: heads, layers that pass single examples, layers that mix them.

A contract cannot hold this off, for parameters are what a round is about. Noise covers it; guards stop what is crude.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedha.audit.adversary_bench import Answer, Bench, Family, NotPlayed, Outcome, refused_by
from fedha.audit.network import some_of
from fedha.data.domain import Domain
from fedha.data.examples import Examples
from fedha.errors import FedhaError
from fedha.models.split import SplitModel
from fedha.optimizers import is_decayed
from fedha.placement import placed
from fedha.privacy.contract import contract_of
from fedha.randomness import generator

_CLOSE = 0.01  # relative distance under which a recovered row is a row of the data
_ROUNDS = 5  # of attacks that go on
_SPREAD = 0.1  # deviation of what a crafted layer measures, over public examples
_SHARP = 900.0  # norm of a row that the head guard lets through


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
        NotPlayed: There are none of this kind.
    """
    leaves = [(name, one) for name, one in model.named_modules() if not list(one.children())]
    leaves = [(name, one) for name, one in leaves if not isinstance(one, nn.Flatten | nn.Identity)]
    plain = all(isinstance(one, nn.Linear | nn.ReLU) for _, one in leaves)
    linear = [(name, one) for name, one in leaves if isinstance(one, nn.Linear)]
    if not plain or len(linear) < 2 or any(one.bias is None for _, one in linear):
        raise NotPlayed("the network is not made of linear layers and ReLUs, and this imprint is for those")
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
    """Rows from the gradients of a layer whose units stand for thresholds: of what lies between two, and over the last."""
    end = torch.zeros_like(bias[:1])
    inside = weight - torch.cat([weight[1:], torch.zeros_like(weight[:1])])
    return _divided(inside, bias - torch.cat([bias[1:], end]))


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

    craft: Callable[[Body, Mapping[str, Tensor], Tensor, int, int], Mapping[str, Tensor]]
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
            weight, bias = (_gradient(bench, told, crafted, f"{body.first}.{part}") for part in ("weight", "bias"))
            found |= found_rows(self.read(weight, bias), rows)
        return Outcome(asked, gain=float(len(found)), most=float(len(rows)))


def unchanged(
    body: Body, parameters: Mapping[str, Tensor], public: Tensor, seed: int, rows: int
) -> Mapping[str, Tensor]:
    """An honest model, beside which the others are held."""
    return parameters


def equal_rows(bench: Bench) -> Outcome:
    """A head whose rows are all alike: its bias' gradient is the classes' shares; counted is who is placed, in percent."""
    name, parameters = _linear_head(bench), bench.parameters
    first = parameters[f"{name}.weight"][:1]
    same = torch.zeros_like(first) if len(parameters[f"{name}.weight"]) == 1 else first
    crafted = {
        **parameters,
        f"{name}.weight": same.expand_as(parameters[f"{name}.weight"]).clone(),
        f"{name}.bias": torch.zeros_like(parameters[f"{name}.bias"]),
    }
    asked = "a head with equal rows"
    try:
        told = bench.sum(crafted)
    except FedhaError as error:
        return Outcome(asked, refused_by(str(error)), str(error))
    bias = _gradient(bench, told, crafted, f"{name}.bias").double()
    shares = torch.stack([1 - (0.5 - bias[0]), 0.5 - bias[0]]) if len(bias) == 1 else 1 / len(bias) - bias
    true = torch.stack([_shares(one, bench.domains.classes) for one in bench.clients]).mean(0)
    placed_there = float(1 - (shares - true).abs().sum() / 2)
    guess = float(1 - (1 / len(true) - true).abs().sum() / 2)
    return Outcome(asked, gain=100 * max(0.0, placed_there), most=100 * guess)


def sharp_head(bench: Bench) -> Outcome:
    """A head so steep, within the guard, that the diagonal holds those at its threshold alone; counted are lone examples.

    Raises:
        NotPlayed: The recipe measures no diagonal, or the head is not linear.
    """
    if "hessian_diagonal" not in contract_of(bench.config).measured:
        raise NotPlayed("the recipe measures no Hessian diagonal, and a steep head's gradient is zero or a sum of many")
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
        NotPlayed: No noise covers single examples.
    """
    if bench.config.privacy.protect != "examples":
        raise NotPlayed("no noise covers single examples in this config, so that a layer may mix them")
    network = SplitModel(Mixing(bench.model.featurizer), bench.model.head)
    parameters = {
        name.replace("featurizer.", "featurizer.inner.", 1): value for name, value in bench.parameters.items()
    }
    answer: Answer = bench.ask(bench.honest("train", parameters=parameters), grid=bench.grid(model=network))
    asked = "an update of a network that centres its features, without an introduction"
    return Outcome(asked, answer.refused, answer.sentence, float(answer.numbers))


def rows_of(bench: Bench) -> Tensor:
    """All clients' training inputs, flat.

    Raises:
        NotPlayed: An example has several inputs, or whole numbers.
    """
    return torch.cat([_flat(bench, one.train) for one in bench.clients])


def public_of(bench: Bench) -> Tensor:
    """Inputs that the server has: of the target that it evaluates on.

    Raises:
        NotPlayed: It has none.
    """
    if not bench.domains.targets:
        raise NotPlayed("the server has no examples of its own, from which it would choose thresholds")
    return _flat(bench, bench.domains.targets[0].held_out.select(slice(0, 500)))


def features_in(bench: Bench, parameters: Mapping[str, Tensor], *, public: bool = False) -> Tensor:
    """Features of the clients' examples, or of the server's, without the column of ones."""
    from fedha.audit.network import features_at

    if public and not bench.domains.targets:
        raise NotPlayed("the server has no examples of its own, from which it would choose thresholds")
    parts = [bench.domains.targets[0].held_out] if public else [one.train for one in bench.clients]
    return torch.cat([features_at(bench.model, parameters, one)[:, :-1].detach() for one in parts])


FAMILIES: tuple[Family, ...] = (
    Family("head", "a head of equal rows", "docs/privacy.md", "labels placed, % (beside equal classes)", equal_rows),
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
        "traps",
        "trap weights",
        "Boenisch et al. (EuroS&P 2023)",
        "rows of the data that came out",
        Imprint(traps, alone, 1, "at a crafted model").play,
    ),
    Family("mixing", "a layer that mixes examples", "docs/privacy.md", "numbers answered", mixing),
)


def _gradient(bench: Bench, told: Mapping[str, Tensor], at: Mapping[str, Tensor], name: str) -> Tensor:
    """A parameter's gradient of the risk; in local mode what local steps changed stands for it."""
    training = bench.config.training
    if training.mode == "local" or not is_decayed(name, at[name], training.decay):
        return told[name]
    return told[name] - 2 * training.weight_decay * at[name]


def _divided(weight: Tensor, bias: Tensor) -> Tensor:
    some = bias.abs() > torch.finfo(bias.dtype).eps * bias.abs().max().clamp_min(1e-30)
    return weight[some] / bias[some, None]


def _flat(bench: Bench, examples: Examples) -> Tensor:
    there = placed(examples, bench.model, some_of(bench.parameters))
    if not there.form.alone or not there.form.kinds[0].is_floating_point:
        raise NotPlayed("an example is no tensor of numbers, and rows are read of those")
    rows: Tensor = there.take(slice(None))
    return rows.flatten(1).to(some_of(bench.parameters))


def _linear_head(bench: Bench) -> str:
    if not isinstance(bench.model.head, nn.Linear) or bench.model.head.bias is None:
        raise NotPlayed("the head is no linear layer with a bias")
    return "head"


def _shares(domain: Domain, classes: int) -> Tensor:
    counts = torch.bincount(domain.train.labels.flatten().long(), minlength=classes).double()
    return counts / counts.sum()
