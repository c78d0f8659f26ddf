"""References: averages of the clients' statistics. The server needs the mean only."""

from collections.abc import Iterable, Mapping

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
    for tensors, share in values:
        if mean is None:
            mean = {name: tensor * share for name, tensor in tensors.items()}
            continue
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


def _shapes(value: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in value.items()}
