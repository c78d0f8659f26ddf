"""The penalty: how far a client's statistics are from their references."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedha.recipes import Recipe, Term
from fedha.registry import reference_of
from fedha.table import FEATURE_SIZE


def active_terms(recipe: Recipe, averaging_weight: float) -> tuple[Term, ...]:
    """The terms of a recipe that enter a client's loss, in recipe order.

    Args:
        recipe: Which has them.
        averaging_weight: The client's, in the references; for one that is alone there are no others to align with.
    """
    return tuple(
        term for term in recipe.terms if term.weight != 0 and not (term.target == "others" and averaging_weight >= 1)
    )


def penalty_terms(
    terms: Sequence[Term],
    values: Mapping[str, Tensor],
    references: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    averaging_weight: float,
) -> dict[str, Tensor]:
    """Each term of a recipe's penalty, unweighted, for one batch of one client.

    References are constants. With the clients' mean as the reference, the gradient summed over clients is the one of
    the live penalty, because the clients' differences to their mean sum to zero.

    Args:
        terms: Those that are active.
        values: The client's statistics, with what moving averages add.
        references: This round's.
        own: The client's statistics at the round's start, for terms that look at the other clients.
        averaging_weight: The client's weight in the references.

    Returns:
        {statistic: scalar}.
    """
    return {
        term.statistic: term_value(term, values[term.statistic], references, own, averaging_weight) for term in terms
    }


def term_value(
    term: Term, value: Tensor, references: Mapping[str, Tensor], own: Mapping[str, Tensor], averaging_weight: float
) -> Tensor:
    """One term of a penalty, unweighted, from a client's statistic.

    Args:
        term: Which.
        value: The statistic, live.
        references: This round's.
        own, averaging_weight: As in `penalty_terms`.
    """
    distance = _distance(term, value, _reference(term, references, own, averaging_weight))
    return distance / unit(term, references) if term.degree else distance


def unit(term: Term, references: Mapping[str, Tensor]) -> Tensor:
    """What a term's distance is measured in: a power of the features' mean square, a constant of the round.

    A sum over entries is held against the square of a whole row of features, a mean over them against that of one.
    With the bias among them neither is ever zero.

    Args:
        term: With a degree.
        references: This round's.
    """
    one, row = references[FEATURE_SIZE.name]
    size: Tensor = one if term.distance == "mean_squared" else row
    return size.pow(term.degree)


def term_weight(recipe: Recipe, term: Term) -> float:
    """A term's own weight, before the schedule."""
    return term.weight / recipe.probes if term.per_probe else term.weight


def loss_divisor(recipe: Recipe, round: int, terms: Sequence[Term]) -> float:
    """What a client's whole loss is divided by: the scheduled weight, over 1, where the recipe asks for it.

    Args:
        recipe: Which.
        round: From 1.
        terms: Those that are active; where there are none, there is no weight.
    """
    weight = recipe.scheduled_weight(round)
    return weight if recipe.rescale and weight > 1 and terms else 1.0


def _reference(
    term: Term, references: Mapping[str, Tensor], own: Mapping[str, Tensor], averaging_weight: float
) -> Tensor | None:
    if term.target == "zero":
        return None
    mean = references[reference_of(term.statistic)]
    if term.target == "others":
        return (mean - averaging_weight * own[term.statistic]) / (1 - averaging_weight)
    return mean


def _distance(term: Term, value: Tensor, reference: Tensor | None) -> Tensor:
    if term.distance == "value":
        return value
    if term.distance == "inner":
        # every pair of clients is seen from both sides, each taking the other as a constant: twice the gradient
        product = value if reference is None else (value * reference).sum()
        return product.detach() - 2 * product
    difference = value if reference is None else value - reference
    squares = difference.square()
    return squares.mean() if term.distance == "mean_squared" else squares.sum()
