"""The formulas of fedha's own metrics. Counts may have further axes in front; where there is no value stands NaN."""

from typing import Any

import numpy
from numpy.typing import NDArray

Numbers = NDArray[numpy.float64]


def accuracy(accuracy: float) -> float:
    """Share of examples whose label has the largest probability."""
    return accuracy


def log_loss(risk: float) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return risk


def recalls(confusion: Numbers) -> Numbers:
    """Share of each class' examples that is taken for it, [..., C]; NaN for a class without examples."""
    return _quotient(_diagonal(confusion), confusion.sum(-1))


def balanced_accuracy(confusion: Numbers) -> Numbers:
    """Mean recall over the classes that have examples."""
    return _mean(recalls(confusion))


def worst_class(confusion: Numbers) -> Numbers:
    """Least recall of the classes that have examples."""
    found = recalls(confusion)
    return numpy.where(numpy.isnan(found).all(-1), numpy.nan, numpy.where(numpy.isnan(found), 2.0, found).min(-1))


def macro_f1(confusion: Numbers) -> Numbers:
    """Mean over classes of ``2 TP / (2 TP + FP + FN)``; a class that nothing is, nor is taken for, does not count."""
    both = confusion.sum(-1) + confusion.sum(-2)
    return _mean(_quotient(2 * _diagonal(confusion), both))


def expected_calibration_error(bins: Numbers) -> Numbers:
    """Mean over examples of how far their bin's confidence is from its accuracy.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017: fifteen bins of equal width.
    """
    gaps = numpy.abs(bins[..., 1] - bins[..., 2]).sum(-1)
    return _quotient(gaps, bins[..., 0].sum(-1))


def auroc(probabilities: Numbers, labels: NDArray[numpy.int64]) -> float:
    """Area under the ROC curve; of more than two classes the mean over one against the rest, ties counted half.

    Raises:
        ValueError: No class has examples of its own and of others.
    """
    return _one_against_rest(_area_under_roc, probabilities, labels)


def auprc(probabilities: Numbers, labels: NDArray[numpy.int64]) -> float:
    """Area under the curve of precision over recall, as average precision; of several classes as in `auroc`.

    Raises:
        ValueError: As in `auroc`.
    """
    return _one_against_rest(_average_precision, probabilities, labels)


def _one_against_rest(area: Any, probabilities: Numbers, labels: NDArray[numpy.int64]) -> float:
    if not numpy.isfinite(probabilities).all():
        raise ValueError("its probabilities are not finite")
    classes = range(probabilities.shape[1]) if probabilities.shape[1] > 2 else [1]
    found = [area(probabilities[:, one], labels == one) for one in classes if 0 < (labels == one).sum() < len(labels)]
    if not found:
        raise ValueError("all its examples are of one class")
    return float(numpy.mean(found))


def _area_under_roc(scores: Numbers, positive: NDArray[numpy.bool_]) -> float:
    above, below = _by_threshold(scores, positive)
    # of each pair of a positive and a negative the share that is in order, ties half
    later = numpy.concatenate([[0.0], numpy.cumsum(above)[:-1]])
    pairs = (below * (later + above / 2)).sum()
    return float(pairs / (above.sum() * below.sum()))


def _average_precision(scores: Numbers, positive: NDArray[numpy.bool_]) -> float:
    above, below = _by_threshold(scores, positive)
    right, wrong = numpy.cumsum(above), numpy.cumsum(below)
    return float((above * right / (right + wrong)).sum() / above.sum())


def _by_threshold(scores: Numbers, positive: NDArray[numpy.bool_]) -> tuple[Numbers, Numbers]:
    """Positives and negatives at each distinct score, the highest first."""
    _, places = numpy.unique(-scores, return_inverse=True)
    right = numpy.bincount(places, weights=positive).astype(float)
    return right, numpy.bincount(places) - right


def _diagonal(confusion: Numbers) -> Numbers:
    return numpy.diagonal(confusion, axis1=-2, axis2=-1)


def _quotient(above: Numbers, below: Numbers) -> Numbers:
    return numpy.divide(  # type: ignore[no-any-return]
        above, below, out=numpy.full(numpy.shape(above), numpy.nan), where=below > 0
    )


def _mean(values: Numbers) -> Numbers:
    there = ~numpy.isnan(values)
    return _quotient(numpy.where(there, values, 0.0).sum(-1), there.sum(-1))
