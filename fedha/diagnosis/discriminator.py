"""A discriminator that says which domain and class an example is of, trained with sums of gradients alone.

A softmax over 2 C pairs (domain, class), linear in a basis that both domains share. Each domain answers a loss and a
gradient at weights that somebody names; who fits learns the sums. Every pair of domain and class has the same mass,
which removes label shift without dropping examples.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedha.diagnosis import stairs
from fedha.diagnosis.shapes import Seen
from fedha.randomness import generator

Summed = Callable[[Tensor], tuple[Tensor, Tensor]]  # weights [2 C, k] to a loss and its gradient
Basis = Callable[[Tensor], Tensor]  # [n, d] to [n, k], the first column ones

WAVES = 128
BINS = 64  # of each coordinate, where there are one or two
WIDTHS = (1.0, 0.3)  # of the waves, beside the median distance
RIDGES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5)
SHAPES_RIDGES = (0.1, 0.03, 0.01, 3e-3, 1e-3)
SHAPES_FITTED, SHAPES_ITERATIONS, SHAPES_PARTS = 20_000, 60, 4
_ITERATIONS = 40
_APART = 99.0  # see `fit`
_BUDGET, _FEWEST = 2**21, 16  # numbers of the examples that steps are fitted on, and examples of a pair at least
_LOOKED_AT = 500  # examples of each side whose distances set the scale


def bases(first: Tensor, second: Tensor, seed: int) -> list[Basis]:
    """What discriminators may be linear in: the space itself, and waves over it; bins where it has one axis or two.

    Args:
        first: One side, [n, d].
        second: The other, [m, d].
        seed: Of the waves.
    """
    both = torch.cat([first, second])
    if both.shape[1] <= 2:
        return [_bins(both)]
    mean, spread = both.mean(0), both.std(0)
    spread = spread.clamp_min(float(spread.max()) / 20 or 1.0)

    def scaled(given: Tensor) -> Tensor:
        return (given - mean) / spread

    def straight(given: Tensor) -> Tensor:
        return torch.cat([given.new_ones(len(given), 1), scaled(given)], 1)

    drawn = generator(seed, "diagnosis", "waves")
    turns = torch.randn(both.shape[1], WAVES, dtype=both.dtype, generator=drawn)
    phases = torch.rand(WAVES, dtype=both.dtype, generator=drawn) * 2 * math.pi
    looked = scaled(torch.cat([_some(first, drawn), _some(second, drawn)]))
    middle = float(torch.pdist(looked).median()) if len(looked) > 1 else 1.0

    def waves(width: float) -> Basis:
        def made(given: Tensor) -> Tensor:
            wave = torch.cos(scaled(given) @ turns / (width * middle or 1.0) + phases)
            return torch.cat([straight(given), math.sqrt(2) * wave], 1)

        return made

    return [straight, *(waves(width) for width in WIDTHS)]


def summed(rows: Tensor, pairs: Tensor, weights: Tensor) -> Summed:
    """What one domain answers.

    Args:
        rows: Its examples in the basis, [n, k].
        pairs: Of domain and class, [n].
        weights: Of the examples, [n].
    """

    def answer(at: Tensor) -> tuple[Tensor, Tensor]:
        logs = (rows @ at.T.to(rows.dtype)).double().log_softmax(1)
        own = functional.one_hot(pairs, at.shape[0]).double()
        loss = -(weights * (logs * own).sum(1)).sum()
        pulls = (logs.exp() - own) * weights[:, None]
        return loss, (pulls.T.to(rows.dtype) @ rows).double()

    return answer


def fit(
    answers: Sequence[Summed],
    start: Tensor,
    ridge: float,
    *,
    iterations: int = _ITERATIONS,
    shared: int | None = None,
) -> Tensor:
    """Weights that make the summed loss small, by L-BFGS; an exchange an evaluation.

    Args:
        answers: Of every domain, in client order.
        start: [2 C, k].
        ridge: Half of it times the squared weights is added, those of the column of ones left out.
        iterations: At most.
        shared: The column from which on weights that differ between the domains cost a hundred times more than those
            that both have: what makes the class of a shape is learned from all examples. None: no column.
    """
    # here, as torch's own minimiser imports its compiler, which takes longer than the fit
    from scipy.optimize import minimize

    def told(flat: NDArray[numpy.float64]) -> tuple[float, NDArray[numpy.float64]]:
        at = torch.from_numpy(flat).view_as(start)
        answered = [answer(at) for answer in answers]
        held = at.clone()
        held[:, 0] = 0
        pull = held.clone()
        if shared is not None:
            ours, theirs = held[:, shared:].view(2, len(at) // 2, -1)
            apart = _APART * (ours - theirs) / 2
            pull[:, shared:] += torch.cat([apart, -apart])
        gradient = sum((one for _, one in answered), start=ridge * pull)
        loss = sum((one for one, _ in answered), start=ridge / 2 * (held * pull).sum())
        return float(loss), gradient.flatten().numpy()

    options = {"maxiter": iterations, "ftol": 1e-9, "gtol": 1e-6}
    found = minimize(told, start.flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).view_as(start)


@dataclass(frozen=True)
class Sides:
    """Two domains' examples in one space.

    Attributes:
        space: [n, d]: the first's, then the second's.
        sides: 0 or 1, [n].
        labels: Class indices, [n]; of classes that both have.
        classes: C.
        seen: By a network that knows shapes; None: there is none.
    """

    space: Tensor
    sides: Tensor
    labels: Tensor
    classes: int
    seen: Seen | None = None

    @property
    def pairs(self) -> Tensor:
        """Of domain and class, [n]."""
        return self.sides * self.classes + self.labels

    def masses(self, chosen: Tensor) -> Tensor:
        """Weights of chosen examples, [m]: every pair has the same mass, all together 1."""
        own = self.pairs[chosen]
        counts = torch.bincount(own, minlength=2 * self.classes).clamp_min(1)
        return 1.0 / (2 * self.classes * counts[own].double())


def cross_fitted(both: Sides, seed: int, most: int) -> Tensor:
    """Probabilities of every pair for every example, by discriminators that have not seen it, [n, 2 C].

    Basis and ridge are those with the smallest loss on the halves that were not fitted on. Then sides alone are told
    apart by steps along the coordinates, which takes the place of the pairs' own answer where it does so better.

    Args:
        both: Two domains.
        seed: Of halves and waves.
        most: Examples of each pair that are fitted on; all are predicted.
    """
    known = _by_pairs(both, seed, most)
    return calibrated(both, _by_sides(both, _folds(both, seed), known, most))


@dataclass(frozen=True)
class _Form:
    """What a discriminator is linear in, and how it is fitted."""

    rows: Tensor  # [n, k], the first column ones
    ridges: tuple[float, ...]
    most: int
    iterations: int = _ITERATIONS
    shared: int | None = None
    parts: int = 2  # of the examples, each predicted by what the others say


def _forms(both: Sides, seed: int, most: int) -> Iterator[_Form]:
    first, second = (both.space[both.sides == side] for side in (0, 1))
    for basis in bases(first, second, seed):
        yield _Form(basis(both.space), RIDGES, most)
    if both.seen is not None:
        colours = both.seen.colours
        rows = torch.cat([colours.new_ones(len(colours), 1), colours, both.seen.units], 1)
        yield _Form(
            rows, SHAPES_RIDGES, max(most, SHAPES_FITTED), SHAPES_ITERATIONS, 1 + colours.shape[1], SHAPES_PARTS
        )


def _by_pairs(both: Sides, seed: int, most: int) -> Tensor:
    best, found = math.inf, torch.full((len(both.pairs), 2 * both.classes), 0.5 / both.classes, dtype=torch.float64)
    for form in _forms(both, seed, most):
        folds = _folds(both, seed, form.parts)
        fitted = [torch.zeros(2 * both.classes, form.rows.shape[1], dtype=torch.float64) for _ in range(form.parts)]
        before = math.inf
        for ridge in form.ridges:
            known = torch.empty_like(found)
            for fold in range(form.parts):
                known[folds == fold], fitted[fold] = _without(fold, both, folds, form, fitted[fold], ridge)
            loss = _loss(both, known, both.pairs)
            if loss < best:
                best, found = loss, known
            if loss > before:  # less of a ridge is worse from here on
                break
            before = loss
    return found


def _without(fold: int, both: Sides, folds: Tensor, form: _Form, start: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Probabilities of a fold's examples by a discriminator that has not seen them, and its weights."""
    train = _limited(both, folds != fold, form.most)
    masses = both.masses(train)
    answers = [
        summed(form.rows[train[own]], both.pairs[train[own]], masses[own])
        for own in (both.sides[train] == side for side in (0, 1))
    ]
    weights = fit(answers, start, ridge, iterations=form.iterations, shared=form.shared)
    return (form.rows[folds == fold] @ weights.T.to(form.rows.dtype)).double().softmax(1), weights


def _by_sides(both: Sides, folds: Tensor, known: Tensor, most: int) -> Tensor:
    """The same, with the side's share by steps where that is better; labels given the side stay as they are."""
    count, wide = both.classes, both.space.shape[1]
    parted = known.view(-1, 2, count)
    given = parted / parted.sum(2, keepdim=True).clamp_min(1e-12)
    edges = stairs.edges(both.space)
    placed, size = stairs.places(both.space, edges), max(len(one) for one in edges)
    most = max(_FEWEST, min(most, _BUDGET // (wide * 2 * count)))
    trained = [_limited(both, folds != fold, most) for fold in (0, 1)]
    told, curvatures = [], []
    for train in trained:
        masses, sides = both.masses(train), both.sides[train]
        own = [sides == side for side in (0, 1)]
        told.append([stairs.answers(placed[train[one]], sides[one], masses[one], size) for one in own])
        curvatures.append(stairs.steepest(placed[train], masses, size))
    fitted = [stairs.Stairs(torch.zeros(wide, size, dtype=torch.float64), 0.0)] * 2
    best, scores, masses = math.inf, known.new_zeros(len(known)), both.masses(torch.arange(len(known)))
    for penalty in stairs.PENALTIES:
        told_of = torch.empty_like(scores)
        for fold in (0, 1):
            fitted[fold] = stairs.descend(told[fold], fitted[fold], penalty, curvatures[fold])
            test = torch.nonzero(folds == fold)[:, 0]
            told_of[test] = fitted[fold].scores(placed[test])
        loss = float((masses * functional.softplus((1 - 2 * both.sides) * told_of)).sum())
        if loss > best:  # more steps are worse from here on
            break
        best, scores = loss, told_of
    if best >= _loss(both, parted.sum(2), both.sides):
        return known
    return (given * torch.stack([-scores, scores], 1).sigmoid()[:, :, None]).flatten(1)


def _loss(both: Sides, known: Tensor, what: Tensor) -> float:
    """Of held-out probabilities, [n, k], of what each example is, [n]."""
    masses = both.masses(torch.arange(len(what)))
    return -float((masses * known.gather(1, what[:, None])[:, 0].clamp_min(1e-6).log()).sum())


def calibrated(both: Sides, known: Tensor) -> Tensor:
    """Held-out probabilities, scaled so that the side's share rises with its score as it does among the examples.

    Pool adjacent violators: what a ridge has flattened becomes steep again, and where only one side is, its share is
    one. Labels given the side stay as they are.

    Args:
        both: Two domains.
        known: Of every pair, [n, 2 C].
    """
    from sklearn.isotonic import IsotonicRegression

    count = both.classes
    score = known[:, :count].sum(1)
    masses = both.masses(torch.arange(len(both.pairs)))
    first, share = (both.sides == 0).double(), torch.empty_like(score)
    for turn in (0, 1):  # what is counted has no say in where it is counted
        fitted, told = (torch.arange(len(score)) % 2 == one for one in (turn, 1 - turn))
        rising = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        rising.fit(score[fitted].numpy(), first[fitted].numpy(), sample_weight=masses[fitted].numpy())
        share[told] = torch.from_numpy(rising.predict(score[told].numpy()))
    ours = known[:, :count] / score[:, None].clamp_min(1e-12) * share[:, None]
    theirs = known[:, count:] / (1 - score)[:, None].clamp_min(1e-12) * (1 - share)[:, None]
    return torch.cat([ours, theirs], 1)


def _folds(both: Sides, seed: int, parts: int = 2) -> Tensor:
    drawn = generator(seed, "diagnosis", "folds")
    folds = torch.zeros(len(both.pairs), dtype=torch.long)
    for pair in range(2 * both.classes):
        own = torch.nonzero(both.pairs == pair)[:, 0]
        shuffled = own[torch.randperm(len(own), generator=drawn)]
        for part in range(1, parts):
            folds[shuffled[part * len(own) // parts :]] = part
    return folds


def _limited(both: Sides, chosen: Tensor, most: int) -> Tensor:
    parts = [torch.nonzero(chosen & (both.pairs == pair))[:most, 0] for pair in range(2 * both.classes)]
    return torch.cat(parts).sort().values


def _some(given: Tensor, drawn: torch.Generator) -> Tensor:
    return given[torch.randperm(len(given), generator=drawn)[:_LOOKED_AT]]


def _bins(both: Tensor) -> Basis:
    """Truth values of quantile bins of each coordinate, and of both coordinates together where there are few values."""
    shares = torch.linspace(0, 1, BINS + 1, dtype=both.dtype)[1:-1]
    edges = [torch.unique(torch.quantile(column[:: max(1, len(column) // 100_000)], shares)) for column in both.T]

    def made(given: Tensor) -> Tensor:
        placed = [
            torch.bucketize(column.contiguous(), edge, right=True) for column, edge in zip(given.T, edges, strict=True)
        ]
        columns = [functional.one_hot(one, len(edge) + 1) for one, edge in zip(placed, edges, strict=True)]
        return torch.cat([given.new_ones(len(given), 1), *(one.to(given.dtype) for one in columns)], 1)

    return made
