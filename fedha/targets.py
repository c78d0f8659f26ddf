"""Soft targets: what label smoothing and class weights make of a label.

An example of class y has the row ``t = w_y ((1 - s) e_y + s / C)``, s the smoothing, w the class weights, C classes.
Its loss is ``-<t, log p>``, so that every closed form stays one: where p is the softmax and ``w = sum_c t_c``, the
derivative in the logits is ``w p - t``, the Hessian ``w (diag p - p p^T)``. A mean stays one over examples: it is not
divided by the sum of the weights.
"""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fedha.config import TrainingConfig
from fedha.data.examples import Examples
from fedha.errors import FedhaError
from fedha.inputs import Form
from fedha.models.check import check_inputs
from fedha.models.split import SplitModel

Soften = Callable[[Tensor], Tensor]

_classes: WeakKeyDictionary[SplitModel, dict[Form, int]] = WeakKeyDictionary()  # a trial takes a while


def softens(training: TrainingConfig) -> bool:
    """Whether targets are other than the labels."""
    return bool(training.label_smoothing) or training.class_weights is not None


def softening(training: TrainingConfig, model: SplitModel, examples: Examples, *, always: bool = False) -> Soften:
    """What makes targets of labels, [...] to [..., C]; labels stay as they are where nothing is asked for.

    Args:
        training: Its smoothing and class weights.
        model: Tells the number of classes.
        examples: All that a client trains on: of these are balanced weights made.
        always: Whether targets are wanted even where they are the labels.

    Raises:
        FedhaError: There is another number of classes than of weights.
    """
    if not (softens(training) or always):
        return as_they_are
    form, like = examples.form, next(model.parameters())
    rows = target_rows(training, class_count(model, form), examples.labels).to(like.device, like.dtype)
    return rows.__getitem__


def target_rows(training: TrainingConfig, classes: int, labels: Tensor) -> Tensor:
    """The target of each class, [C, C], in float64; arguments as in `softening`.

    Raises:
        FedhaError: As there.
    """
    smooth = training.label_smoothing
    rows = (1 - smooth) * torch.eye(classes, dtype=torch.float64) + smooth / classes
    return rows * class_weights(training, classes, labels)[:, None]


def class_weights(training: TrainingConfig, classes: int, labels: Tensor) -> Tensor:
    """The weight of each class, [C], in float64: balanced ones are ``n / (K n_c)``, K the classes that a client has.

    Raises:
        FedhaError: As in `softening`.
    """
    given = training.class_weights
    if given is None:
        return torch.ones(classes, dtype=torch.float64)
    if given != "balanced":
        check_weights(training, classes)
        return torch.tensor(given, dtype=torch.float64)
    counts = torch.bincount(labels.cpu(), minlength=classes).double()
    return len(labels) / ((counts > 0).sum() * counts.clamp(min=1))


def check_weights(training: TrainingConfig, classes: int) -> None:
    """Look whether each class has a weight.

    Raises:
        FedhaError: There are more, or fewer.
    """
    given = training.class_weights
    if isinstance(given, list) and len(given) != classes:
        raise FedhaError(
            f"training.class_weights has {len(given)} weights but the network tells {classes} classes apart; give one "
            "a class, in the order of the labels"
        )


def class_count(model: SplitModel, form: Form) -> int:
    """C, as the network has been tried on inputs of a form, once."""
    known = _classes.setdefault(model, {})
    if form not in known:
        known[form] = check_inputs(model, "the clients", form)
    return known[form]


def as_they_are(labels: Tensor) -> Tensor:
    """Labels that are their own targets."""
    return labels
