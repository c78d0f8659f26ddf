"""References: averages of the clients' statistics. The server needs the mean only."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedha.errors import FedhaError


def weighted_mean(values: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Average tensors by name, summed in the order given.

    Args:
        values: One mapping a client, in client order, all with the same names and shapes.
        shares: One weight a client; they sum to 1.

    Returns:
        The weighted mean by name.

    Raises:
        FedhaError: No clients, or names or shapes that differ.
    """
    if not values:
        raise FedhaError("there is nothing to average: no client replied")
    first = values[0]
    for other in values[1:]:
        if {k: v.shape for k, v in other.items()} != {k: v.shape for k, v in first.items()}:
            raise FedhaError(
                f"clients disagree on what they sent: {_shapes(first)} against {_shapes(other)}; "
                "do they run the same model?"
            )
    mean = {name: tensor * shares[0] for name, tensor in first.items()}
    for share, value in zip(shares[1:], values[1:], strict=True):
        for name, tensor in value.items():
            mean[name] += tensor * share
    return mean


def moving_average(previous: Tensor | None, value: Tensor, decay: float) -> Tensor:
    """``decay * previous + (1 - decay) * value``; nothing before counts as zero, as FedIIR and Fishr start."""
    fresh = (1 - decay) * value
    return fresh if previous is None else decay * previous + fresh


def _shapes(value: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in value.items()}
