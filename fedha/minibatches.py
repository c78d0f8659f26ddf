"""How many rows each step of a round takes: the one place where a domain is cut into minibatches."""

from fedha.config import LocalConfig
from fedha.exchange import Task


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
        return [examples]
    private = task.privacy.protect == "examples"  # its steps measure nothing, see `too_small`
    return minibatch_sizes(task.training.local, examples, 1 if private else task.recipe.least_examples)


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
    cut = task.training.mode == "local" and task.privacy.protect != "examples"
    if cut and local.batch_size is not None and local.batch_size < least:
        return f"training.local.batch_size is {local.batch_size}, and {needs}; raise it"
    return None
