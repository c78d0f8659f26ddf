"""Which rows a round's steps take, and which it measures: the one place where a domain is cut into minibatches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedha.config import LocalConfig
from fedha.exchange import Request, Task
from fedha.randomness import generator


def epoch_sizes(examples: int, batch_size: int | None, least: int = 1) -> list[int]:
    """Rows of the minibatches of one pass; where what is left at its end is too small, the last but one takes it in.

    Args:
        examples: n, of a domain, at least 1.
        batch_size: Rows of a minibatch; None, or more than there are: all of them.
        least: Rows without which a minibatch can say nothing (`fedha.recipes.Recipe.least_examples`).
    """
    size = min(batch_size or examples, examples)
    sizes, rest = [size] * (examples // size), examples % size
    if rest >= least:
        sizes.append(rest)
    elif rest:
        sizes[-1] += rest
    return sizes


def step_count(local: LocalConfig, batches: int) -> int:
    """Local steps of a round, where one pass has so many minibatches."""
    return local.steps if local.steps is not None else (local.epochs or 1) * batches


def minibatch_sizes(local: LocalConfig, examples: int, least: int = 1) -> list[int]:
    """Rows of each local step of a round, pass after pass; arguments as in `epoch_sizes`."""
    epoch = epoch_sizes(examples, local.batch_size, least)
    steps = step_count(local, len(epoch))
    return (epoch * -(-steps // len(epoch)))[:steps]


def step_sizes(task: Task, examples: int) -> list[int]:
    """Rows of each step that a client of so many examples takes in a round; at most, where they are drawn privately."""
    if task.training.mode == "synchronous":
        return [min(task.training.batch_size or examples, examples)]
    private = task.privacy.protect == "examples"  # its steps measure nothing, see `too_small`
    return minibatch_sizes(task.training.local, examples, 1 if private else task.recipe.least_examples)


def rows_used(request: Request, examples: int) -> int:
    """How many of a client's examples a request's answer is made of, where it is no private one.

    Args:
        request: To measure or to train.
        examples: n, of the domain.
    """
    training = request.task.training
    if request.kind == "train" or training.mode == "synchronous":
        return min(examples, sum(step_sizes(request.task, examples)))
    if training.local.measure == "batch":
        return minibatch_sizes(training.local, examples, request.task.recipe.least_examples)[0]
    return examples if training.local.measure == "all" else min(examples, training.local.measure)


def minibatches(request: Request, examples: int, client_id: int) -> Iterator[Tensor | None]:
    """The rows of each local step of a round: whole epochs in a fresh order, or steps that run through such epochs.

    Args:
        request: Of the round.
        examples: n, of the domain.
        client_id: The client's.

    Yields:
        Indices, [b]; None: all rows.
    """
    task = request.task
    sizes = minibatch_sizes(task.training.local, examples, task.recipe.least_examples)
    if sizes[0] == examples:
        yield from [None] * len(sizes)
    else:
        yield from shuffled_rows(sizes, examples, request, client_id).split(sizes)


def shuffled_rows(sizes: Sequence[int], examples: int, request: Request, client_id: int) -> Tensor:
    """The rows of a client's steps of these sizes, one step after the other."""
    draws, total = generator(request.task.seed, "batches", request.round, client_id), sum(sizes)
    epochs = range(-(-total // examples))
    return torch.cat([torch.randperm(examples, generator=draws) for _ in epochs])[:total]


def measured_rows(request: Request, examples: int, client_id: int) -> Tensor | None:
    """The rows that a client measures in a round, the same in all its exchanges; in synchronous mode also its step's.

    Args, Returns: As `minibatches`; without replacement.
    """
    training = request.task.training
    if training.mode == "synchronous":
        return _drawn(training.batch_size, examples, request, client_id)
    if training.local.measure == "batch":
        return next(minibatches(request, examples, client_id))
    return _drawn(None if training.local.measure == "all" else training.local.measure, examples, request, client_id)


def _drawn(size: int | None, examples: int, request: Request, client_id: int) -> Tensor | None:
    if size is None or size >= examples:
        return None
    draws = generator(request.task.seed, "measured rows", request.round, client_id)
    return torch.randperm(examples, generator=draws)[:size]


def too_small(task: Task, examples: int) -> str | None:
    """Why a domain of so many training examples cannot take part, in a sentence's end; None if it can.

    A private step measures nothing of its minibatch, which may be empty: there the domain alone must be large enough.
    """
    recipe, local = task.recipe, task.training.local
    least = recipe.least_examples
    needs = f"recipe {recipe.name!r} aligns {recipe.most_demanding}, which needs {least}"
    if examples < least:
        fewer = f"fewer than {least} training examples" if least > 1 else "no training example"
        why = f", and {needs}" if least > 1 else ""
        return f"it has {fewer}{why}; add data, leave the domain out, or lower data.clients_per_domain"
    given = {"training.batch_size": task.training.batch_size, "training.local.measure": local.measure}
    if task.privacy.protect != "examples":
        given["training.local.batch_size"] = local.batch_size
    for key, size in given.items():
        if isinstance(size, int) and size < least and (task.training.mode == "local") == (".local." in key):
            return f"{key} is {size}, and {needs}; raise it"
    return None
