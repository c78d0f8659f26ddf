"""What a client counts on the examples that it evaluates: of all of them, and of each group apart."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedha.errors import FedhaError
from fedha.metrics.asked import Asked
from fedha.metrics.metric import BINS, NOT_FINITE
from fedha.metrics.table import metric
from fedha.schema import shown

Numbers = dict[str, Any]  # by name: a number, or a count's numbers

GROUP = "@"  # before a group's name, in the names of numbers
MOST_GROUPS = 1000
_ROWS = 2**16  # whose probabilities are held at once


def numbers_of(
    losses: Tensor, hits: Tensor, logits: Tensor, labels: Tensor, wanted: Asked, groups: NDArray[Any] | None = None
) -> Numbers:
    """Accuracy, risk and number of some examples, and what more is asked for.

    Args:
        losses: Negative log-likelihoods, [n], n > 0.
        hits: Whether each label has the largest logit, [n].
        logits: [n, C], or [n, 1].
        labels: [n].
        wanted: What more.
        groups: The group of each, [n]; None: they are not told apart.

    Returns:
        By name; of group g ``@g/name``.
    """
    found: Numbers = {
        "accuracy": float(hits.sum()) / len(labels),
        "risk": float(losses.double().sum()) / len(labels),
        "examples": len(labels),
    }
    if not wanted:
        return found
    if "confusion" in wanted.counts:
        found["confusion"] = confusion(logits, labels, max(2, logits.shape[1])).flatten().tolist()
    if "bins" in wanted.counts:
        found["bins"] = bins(logits, hits).flatten().tolist()
    if wanted.scores:
        probabilities = probabilities_of(logits)
        found |= {name: of_scores(name, probabilities, labels)[0] for name in wanted.scores}
    for group, rows in _apart(groups):
        some, plain = rows.to(labels.device), replace(wanted, groups="")
        own = numbers_of(losses[some], hits[some], logits[some], labels[some], plain)
        found |= {f"{GROUP}{group}/{name}": value for name, value in own.items()}
    return found


def nested(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same with what is of a group in ``groups``, by the group's name."""
    found: dict[str, Any] = {}
    for key, value in numbers.items():
        if key.startswith(GROUP):
            group, _, name = key.removeprefix(GROUP).rpartition("/")
            found.setdefault("groups", {}).setdefault(group, {})[name] = value
        else:
            found[key] = value
    return found


def probabilities_of(logits: Tensor) -> Tensor:
    """Of each class, [n, C], float64; one logit speaks for class 1 of two."""
    own = logits.double()
    if own.shape[1] == 1:
        return torch.cat([torch.sigmoid(-own), torch.sigmoid(own)], 1)
    return torch.softmax(own, 1)


def predictions(logits: Tensor) -> Tensor:
    """The class that each example is taken for, [n], as accuracy has it."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def confusion(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """How many examples of each class (rows) are taken for each, [C, C]."""
    places = labels * classes + predictions(logits)
    return torch.bincount(places, minlength=classes**2).reshape(classes, classes)


def bins(logits: Tensor, hits: Tensor) -> Tensor:
    """Of each bin of confidence the examples, those that are right, and the sum of their confidence, [15, 3]."""
    confidence = torch.cat([probabilities_of(some).amax(1) for some in logits.split(_ROWS)])
    if not bool(confidence.isfinite().all()):
        return torch.full((BINS, 3), torch.nan, dtype=torch.float64)
    places = ((confidence * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    weights = (None, hits.double(), confidence)
    return torch.stack([torch.bincount(places, one, BINS).double() for one in weights], 1)


def of_scores(name: str, probabilities: Tensor, labels: Tensor) -> tuple[float, str]:
    """A metric of single examples' probabilities; NaN and why, where it has no value.

    Raises:
        FedhaError: Somebody's own function fails, or gives no number.
    """
    one = metric(name)
    have: dict[str, Any] = {"probabilities": probabilities.cpu().numpy(), "labels": labels.cpu().numpy()}
    if others := [need for need in one.needs if need not in have]:
        raise FedhaError(f"metric {name!r} takes probabilities and {others[0]}; let it take one kind alone")
    return called(name, one.function, {need: have[need] for need in one.needs})


def called(name: str, function: Any, arguments: dict[str, Any]) -> tuple[float, str]:
    """What a metric's function gives: a number, or NaN and the reason.

    Raises:
        FedhaError: It fails, or gives something else.
    """
    try:
        given = function(**arguments)
    except ValueError as error:
        return numpy.nan, str(error) or "it has no value there"
    except Exception as error:
        raise FedhaError(f"metric {name!r} fails with {type(error).__name__}: {error}; mend it") from error
    try:
        value = float(given)
    except (TypeError, ValueError) as error:
        raise FedhaError(f"metric {name!r} gives {shown(given)}; let it give a number") from error
    return (value, "") if numpy.isfinite(value) else (numpy.nan, NOT_FINITE)


def _apart(groups: NDArray[Any] | None) -> Iterator[tuple[str, Tensor]]:
    """Each group's name and which examples it has, [n]."""
    if groups is None:
        return
    known, places = numpy.unique(groups, return_inverse=True)
    if len(known) > MOST_GROUPS:
        raise FedhaError(
            f"evaluation.groups tells {len(known):,} groups apart, and {MOST_GROUPS:,} are the most; name a column "
            "with fewer"
        )
    for place, name in enumerate(known.tolist()):
        yield str(name), torch.from_numpy(places.reshape(-1) == place)
