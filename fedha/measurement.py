"""Statistics by name, for whatever head a model has."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedha import nonlinear, sketches, statistics
from fedha.errors import FedhaError
from fedha.inputs import Form, arguments
from fedha.models.split import SplitModel, head_matrix, with_bias
from fedha.registry import statistic
from fedha.statistic import Owner, Space

LARGEST_HESSIAN = 4096  # weights of a head up to which its whole Hessian is held


@dataclass(frozen=True)
class HeadView:
    """A head at some parameters, ready to be measured.

    Attributes:
        functions: The module of statistics that fits the head: closed forms, or torch.func.
        arguments: What those functions take before the features.
        shape: Shape of a direction in head space: [C, D] for a linear head, [P] for another.
        prepare: Turns the featurizer's output into the features of the statistics.
    """

    functions: Any
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    prepare: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Circumstances:
    """What a statistic may depend on beside head and data.

    Attributes:
        seed: The run's seed.
        round: The round, from 1.
        client: Whose statistic it is; None for a reference.
        probes: Sign vectors of the Hutchinson statistics.
        references: References of earlier exchanges.
        signs: Sign vectors that were drawn before, [m, ...], by owner; others are drawn when they are asked for.
    """

    seed: int
    round: int
    client: str | None
    probes: int
    references: Mapping[str, Tensor]
    signs: Mapping[Owner, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """Some rows of a batch at a head: what a statistic's functions are given (`fedha.statistic`).

    Attributes:
        view: The head.
        features: The view's prepared features, [n, D]; those of a linear head end with a column of ones.
        labels: Class indices, [n].
        around: Signs, and references of earlier exchanges.
        directions: Means of the whole batch, by name, along which others are taken.
    """

    view: HeadView
    features: Tensor
    labels: Tensor
    around: Circumstances
    directions: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """[n, C]; a single one speaks for class 1."""
        return self.call("logits")

    @property
    def losses(self) -> Tensor:
        """Negative log-likelihoods, [n]."""
        return statistics.losses(self.logits, self.labels)

    @property
    def representation(self) -> Tensor:
        """What the featurizer gave, [n, D - 1], whatever the head."""
        return self.features[:, :-1] if self.view.functions is statistics else self.features

    def call(self, name: str, *extra: Tensor) -> Tensor:
        """A function of the head's own kind, `fedha.statistics` or `fedha.nonlinear`, on these rows."""
        value: Tensor = getattr(self.view.functions, name)(*self.view.arguments, self.features, self.labels, *extra)
        return value

    def probed(self, owner: Owner) -> Tensor:
        """Hutchinson's estimate of the Hessian's diagonal, with the signs of the client or of the round."""
        functions = sketches if self.view.functions is statistics else nonlinear
        known = self.around.signs.get(owner)
        signs = draw_signs(owner, self.view, self.around, self.features) if known is None else known
        value: Tensor = functions.hutchinson_diagonal(*self.view.arguments, self.features, self.labels, signs)
        return value

    def refuse_large(self, name: str, advice: str) -> None:
        """Refuse a head whose whole Hessian is too large.

        Raises:
            FedhaError: It is; names the statistic.
        """
        size = torch.Size(self.view.shape).numel()
        if size > LARGEST_HESSIAN:
            raise FedhaError(
                f"statistic {name!r} would hold {size} x {size} numbers for this head; it is for heads of up to "
                f"{LARGEST_HESSIAN} weights: {advice}"
            )


def view_head(model: SplitModel, parameters: Mapping[str, Tensor]) -> HeadView:
    """The head of a model at the given parameters (the whole model's, by name).

    A linear head with a bias gets the closed forms. One without has no bias column, and one whose weight is computed
    from other parameters is not linear in them: these go through torch.func.
    """
    own = {name.removeprefix("head."): value for name, value in parameters.items() if name.startswith("head.")}
    if isinstance(model.head, nn.Linear) and own.keys() == {"weight", "bias"}:
        matrix = head_matrix(own["weight"], own["bias"])
        return HeadView(statistics, (matrix,), tuple(matrix.shape), with_bias)
    size = sum(value.numel() for value in own.values())
    return HeadView(nonlinear, (partial(_call, model.head), own), (size,), lambda features: features)


def measure(name: str, view: HeadView, features: Tensor, labels: Tensor, around: Circumstances) -> Tensor:
    """One statistic of one client, of all its rows at once.

    Args:
        name: As in `fedha.registry.statistic`.
        view: The head.
        features: The view's prepared features, [n, D].
        labels: Class indices, [n].
        around: Signs and references.

    Raises:
        FedhaError: There is no such statistic, or it is too large for this head.
    """
    row, piece = statistic(name), Piece(view, features, labels, around)
    if row.at_once is not None:
        return row.at_once(piece)
    means: dict[str, Tensor] = {}
    for mean in row.means:
        means[mean.name] = mean.of(piece if mean.along is None else replace(piece, directions=means))
    return row.formula.derive(means, len(labels))


def space_of(view: HeadView, rows: int, probes: int) -> Space:
    """A head's sizes, and a batch's, for counting numbers."""
    weights, closed = torch.Size(view.shape).numel(), view.functions is statistics
    classes, width = view.shape if closed else (1, weights)
    return Space(rows, weights, classes, width, probes, closed)


def shapes(model: SplitModel, form: Form | Sequence[int], names: Iterable[str], probes: int) -> dict[str, torch.Size]:
    """The shape of each of these statistics for a model.

    Args:
        model: Its structure.
        form: Of its inputs, or the shape of one.
        names: As for `measure`.
        probes: As in `Circumstances`.
    """
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    some = next(iter(parameters.values()))
    view = view_head(model, parameters)
    around = Circumstances(0, 1, None, probes, {"gradient": some.new_zeros(view.shape)})
    with torch.no_grad(), statistics.shared():
        by_place, by_name = arguments(Form.of(form, some.dtype).zeros(2, device=some.device))
        features = view.prepare(model.featurizer(*by_place, **by_name))
        labels = torch.zeros(2, dtype=torch.int64, device=some.device)
        return {name: measure(name, view, features, labels, around).shape for name in names}


def draw_signs(owner: Owner, view: HeadView, around: Circumstances, like: Tensor) -> Tensor:
    """The sign vectors of a client, or of a round, [m, ...], like some tensor."""
    mine = "reference" if around.client is None else f"client {around.client}"
    whose = None if owner == "round" else mine
    return sketches.draw_signs(around.seed, around.round, around.probes, torch.Size(view.shape), whose).to(like)


def _call(head: nn.Module, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
    logits: Tensor = functional_call(head, dict(parameters), (features,))
    return logits
