"""The penalty: how far a client's statistics are from their references."""

from collections.abc import Mapping

from torch import Tensor

from fedha.measurement import Circumstances, HeadView, measure
from fedha.recipes import STATISTICS, Recipe, Term


def penalty_terms(
    recipe: Recipe,
    view: HeadView,
    features: Tensor,
    labels: Tensor,
    around: Circumstances,
    offsets: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    share: float,
) -> dict[str, Tensor]:
    """Each term of a recipe's penalty, unweighted, for one batch of one client.

    References are constants. With the clients' mean as the reference, the gradient summed over clients is the one of
    the live penalty, because the clients' differences to their mean sum to zero.

    Args:
        recipe: Which terms.
        view: The head, live.
        features: Prepared features, live, [n, D].
        labels: Class indices, [n].
        around: Signs, and this round's references.
        offsets: What a moving average adds to a client's statistic, by statistic.
        own: The client's statistics at the round's start, for terms that look at the other clients.
        share: The client's weight in the references.

    Returns:
        {statistic: scalar}, in recipe order; terms of weight zero are left out.
    """
    terms = {}
    for term in recipe.terms:
        if term.weight == 0 or (term.target == "others" and share >= 1):
            continue
        value = measure(term.statistic, view, features, labels, around)
        if term.statistic in offsets:
            value = value + offsets[term.statistic]
        terms[term.statistic] = term_value(term, value, around.references, own, share)
    return terms


def term_value(
    term: Term, value: Tensor, references: Mapping[str, Tensor], own: Mapping[str, Tensor], share: float
) -> Tensor:
    """One term of a penalty, unweighted, from a client's statistic.

    Args:
        term: Which.
        value: The statistic, live.
        references: This round's.
        own, share: As in `penalty_terms`.
    """
    return _distance(term, value, _reference(term, references, own, share))


def term_weight(recipe: Recipe, term: Term) -> float:
    """A term's own weight, before the schedule."""
    return term.weight / recipe.probes if term.per_probe else term.weight


def _reference(term: Term, references: Mapping[str, Tensor], own: Mapping[str, Tensor], share: float) -> Tensor | None:
    if term.target == "zero":
        return None
    mean = references[STATISTICS[term.statistic].reference]
    if term.target == "others":
        return (mean - share * own[term.statistic]) / (1 - share)
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
