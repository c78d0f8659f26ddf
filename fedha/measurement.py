"""Statistics by name, for whatever head a model has."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fedha import cross_entropy, nonlinear, random_features, sketches, statistics
from fedha.errors import FedhaError, brief, failing_line
from fedha.inputs import Form, arguments
from fedha.models.calls import call_with
from fedha.models.gaussian import information, mean_square
from fedha.models.random_layers import DrawSource, drawing
from fedha.models.split import SplitModel, evaluating, head_matrix, with_bias
from fedha.registry import statistic
from fedha.statistic import Owner, Space
from fedha.table import COUNTED, STATISTICS

LARGEST_HESSIAN = 4096  # weights of a head up to which its whole Hessian is held
_ONE_BY_ONE = {
    *("hessian_diagonal", "hutchinson_diagonal", "hessian", "hessian_off_diagonal"),
    *("off_diagonal_energy", "gradient_variance", "squared_gradient"),
}


@dataclass(frozen=True)
class HeadView:
    """A head at some parameters, ready to be measured.

    Attributes:
        functions: The module of statistics that fits the head: closed forms, or torch.func.
        arguments: What those functions take before the features.
        shape: Shape of a direction in head space: [C, D] for a linear head, [P] for another.
        prepare: Turns the featurizer's output into the features of the statistics.
        draws: Whether the head is called with draws of its own, the same in each call.
    """

    functions: Any
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    prepare: Callable[[Tensor], Tensor]
    draws: bool = False


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
        targets: Class indices, [n], or soft targets, [n, C], where labels are smoothed or classes weighted.
        around: Signs, and references of earlier exchanges.
        directions: Means of the whole batch, by name, along which others are taken.
    """

    view: HeadView
    features: Tensor
    targets: Tensor
    around: Circumstances
    directions: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """[n, C]; a single one speaks for class 1."""
        return self.call("logits")

    @property
    def labels(self) -> Tensor:
        """Class indices, [n]."""
        return cross_entropy.hard(self.targets)

    @property
    def losses(self) -> Tensor:
        """Negative log-likelihoods of the targets, [n]."""
        return cross_entropy.losses(self.logits, self.targets)

    @property
    def representation(self) -> Tensor:
        """What the featurizer gave, [n, D - 1], whatever the head."""
        return self.features[:, :-1] if self.view.functions is statistics else self.features

    def call(self, name: str, *extra: Tensor) -> Tensor:
        """A function of the head's own kind, `fedha.statistics` or `fedha.nonlinear`, on these rows."""
        refuse_random_layers(name, self.view)
        function = getattr(self.view.functions, name)
        with _differentiable(name):
            value: Tensor = function(*self.view.arguments, self.features, self.targets, *extra)
        return value

    def probed(self, owner: Owner) -> Tensor:
        """Hutchinson's estimate of the Hessian's diagonal, with the signs of the client or of the round."""
        refuse_random_layers("hutchinson_diagonal", self.view)
        functions = sketches if self.view.functions is statistics else nonlinear
        known = self.around.signs.get(owner)
        signs = draw_signs(owner, self.view, self.around, self.features) if known is None else known
        with _differentiable("hutchinson_diagonal"):
            value: Tensor = functions.hutchinson_diagonal(*self.view.arguments, self.features, self.targets, signs)
        return value

    def random_features(self, what: str) -> Tensor:
        """Means over these rows of random Fourier features of their `representation`, or of their `losses`."""
        values = self.representation.flatten(1) if what == "representation" else self.losses[:, None]
        around, kernels = self.around, random_features.KERNELS[what]
        drawn = random_features.drawn(around.seed, around.round, what, kernels, around.probes, values.shape[1])
        return random_features.fourier(values, drawn.to(values)).mean(0)

    def feature_size(self) -> Tensor:
        """Mean square of one of a row's features, the one of the bias among them, and of all of a row together: [2].

        Raises:
            FedhaError: The head is not linear, and its derivatives do not grow with the features' powers.
        """
        if self.view.functions is not statistics:
            raise FedhaError(
                "recipe.units is 'features', which are units of a linear head with a bias, and this head is another "
                "one; set recipe.units: raw"
            )
        squares = self.features.square()
        return torch.stack([squares.mean(), squares.sum(1).mean()])

    def gaussian_norm(self) -> Tensor:
        """The expected squared norm of what a head draws of these rows (`fedha.models.gaussian`)."""
        self._gaussian()
        return mean_square(self.features)

    def gaussian_information(self) -> Tensor:
        """How far these rows' Gaussians are from their classes'."""
        head = self._gaussian()
        return information(self.features, self.labels, head["reference_mean"], head["reference_spread"])

    def _gaussian(self) -> Mapping[str, Tensor]:
        """The head's parameters, if it draws of a Gaussian.

        Raises:
            FedhaError: It does not.
        """
        own = {} if self.view.functions is statistics else self.view.arguments[1]
        if not {"reference_mean", "reference_spread"} <= own.keys():
            raise FedhaError(
                "the recipe aligns Gaussians of examples, and this network gives points; take "
                "fedha.models.gaussian(network), or in a config model.representation: gaussian"
            )
        found: Mapping[str, Tensor] = own
        return found

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


def view_head(model: SplitModel, parameters: Mapping[str, Tensor], source: DrawSource | None = None) -> HeadView:
    """The head of a model at the given parameters (the whole model's, by name); those left out are the model's own.

    A linear head with a bias gets the closed forms. One without has no bias column, and one whose weight is computed
    from other parameters is not linear in them: these go through torch.func. Statistics are of the whole head, whatever
    of it is frozen.

    Args:
        model: Its structure, and what is frozen.
        parameters: What is trained.
        source: By what a head that draws at random draws, in each call.
    """
    own = {name: parameters.get(f"head.{name}", value.detach()) for name, value in model.head.named_parameters()}
    if isinstance(model.head, nn.Linear) and own.keys() == {"weight", "bias"}:
        matrix = head_matrix(own["weight"], own["bias"])
        return HeadView(statistics, (matrix,), tuple(matrix.shape), with_bias)
    size = sum(value.numel() for value in own.values())
    call = partial(_call, model.head, source)
    return HeadView(nonlinear, (call, own), (size,), lambda features: features, source is not None)


def measure(name: str, view: HeadView, features: Tensor, labels: Tensor, around: Circumstances) -> Tensor:
    """One statistic of one client, of all its rows at once.

    Args:
        name: As in `fedha.registry.statistic`.
        view: The head.
        features: The view's prepared features, [n, D].
        labels: Class indices, [n].
        around: Signs and references.

    Raises:
        FedhaError: There is no such statistic, it is too large for this head, or not of one that
            draws at random.
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
    some = next(model.parameters())
    view = view_head(model, {})
    around = Circumstances(0, 1, None, probes, {"gradient": some.new_zeros(view.shape)})
    with torch.no_grad(), cross_entropy.shared(), evaluating(model):
        by_place, by_name = arguments(Form.of(form, some.dtype).zeros(2, device=some.device))
        features = view.prepare(model.featurizer(*by_place, **by_name))
        labels = torch.zeros(2, dtype=torch.int64, device=some.device)
        return {name: _tried(name, view, features, labels, around) for name in names}


def _tried(name: str, view: HeadView, features: Tensor, labels: Tensor, around: Circumstances) -> torch.Size:
    """A statistic's shape; somebody's own may fail, and whose it is is said."""
    try:
        return measure(name, view, features, labels, around).shape
    except FedhaError:
        raise
    except Exception as error:
        if name in (*STATISTICS, *COUNTED):
            raise
        raise FedhaError(
            f"statistic {name!r} fails with {type(error).__name__}: {brief(error)} ({failing_line(error)}); mend it"
        ) from error


@contextmanager
def _differentiable(name: str) -> Iterator[None]:
    """Say of a head's layer that torch cannot take such derivatives of it."""
    try:
        yield
    except NotImplementedError as error:
        raise FedhaError(
            f"{name} cannot be taken of this head: {str(error).splitlines()[0]} Give the head plain layers (of a "
            "weight-normed one, remove the parametrization), or take a recipe that does not ask for it, such as erm"
        ) from error


def refuse_random_layers(name: str, view: HeadView) -> None:
    """Refuse what calls a head once for each direction or example, where the head draws at random.

    Raises:
        FedhaError: It does; says what to do.
    """
    if view.draws and name in _ONE_BY_ONE:
        raise FedhaError(
            f"{name!r} calls the head once for each example or direction, and the head draws at random (dropout?): "
            "each call would be of another head. Let the featurizer end with what draws, as in "
            "SplitModel(nn.Sequential(backbone, nn.Dropout(0.5)), nn.Linear(512, 10))"
        )


def draw_signs(owner: Owner, view: HeadView, around: Circumstances, like: Tensor) -> Tensor:
    """The sign vectors of a client, or of a round, [m, ...], like some tensor."""
    mine = "reference" if around.client is None else f"client {around.client}"
    whose = None if owner == "round" else mine
    return sketches.draw_signs(around.seed, around.round, around.probes, torch.Size(view.shape), whose).to(like)


def _call(head: nn.Module, source: DrawSource | None, parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
    with drawing(source, features.device):
        logits: Tensor = call_with(head, parameters, (features,))
    return logits
