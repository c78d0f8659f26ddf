"""References: averages of the clients' statistics. The server needs the mean only."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from fedha.errors import FedhaError


def weighted_mean(values: Iterable[tuple[Mapping[str, Tensor], float]]) -> dict[str, Tensor]:
    """Average tensors by name, summed in the order given, one at a time.

    Args:
        values: Tensors by name and their weight, one pair a client, in client order; names and shapes are alike, and
            the weights sum to 1.

    Returns:
        The weighted mean by name.

    Raises:
        FedhaError: No clients, or names or shapes that differ.
    """
    mean: dict[str, Tensor] | None = None
    alone = False  # whether the mean is still the first client's own tensors
    for tensors, share in values:
        if mean is None:
            alone = share == 1
            mean = dict(tensors) if alone else {name: tensor * share for name, tensor in tensors.items()}
            continue
        if alone:
            mean, alone = {name: tensor.clone() for name, tensor in mean.items()}, False
        if _shapes(tensors) != _shapes(mean):
            raise FedhaError(
                f"clients disagree on what they sent: {_shapes(mean)} against {_shapes(tensors)}; "
                "do they run the same model?"
            )
        for name, tensor in tensors.items():
            mean[name].add_(tensor, alpha=share)
    if mean is None:
        raise FedhaError("there is nothing to average: no client replied")
    return mean


def moving_average(previous: Tensor | None, value: Tensor, decay: float) -> Tensor:
    """``decay * previous + (1 - decay) * value``; nothing before counts as zero, as FedIIR and Fishr start."""
    fresh = (1 - decay) * value
    return fresh if previous is None else decay * previous + fresh


def domain_means(numbers: Iterable[tuple[str, float, int]]) -> dict[str, float]:
    """Each domain's number: its only client's, or the mean over its clients' examples.

    Args:
        numbers: Domain, number and examples of each client.
    """
    groups: dict[str, list[tuple[float, int]]] = {}
    for domain, value, examples in numbers:
        groups.setdefault(domain, []).append((value, examples))
    return {domain: _pooled(group) for domain, group in groups.items()}


def _pooled(group: Sequence[tuple[float, int]]) -> float:
    if len(group) == 1:
        return group[0][0]
    return sum(value * examples for value, examples in group) / sum(examples for _, examples in group)


def _shapes(value: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in value.items()}
