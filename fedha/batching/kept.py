"""Products of clients' inputs that are wanted again: kept by client, within a number of bytes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

BUDGET = 256 * 2**20  # bytes of each kind, a process


class Kept:
    """One tensor a client, which goes when the client's inputs go.

    Once the budget is used up those that are there stay: clients come round in turn, so that throwing out the oldest
    would throw out the next one needed.
    """

    def __init__(self) -> None:
        self._values: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def get(self, inputs: Sequence[Tensor]) -> list[Tensor] | None:
        """What was put for each of these inputs, if all are known and none has changed in place since."""
        known = [self._values.get(one) for one in inputs]
        if any(one is None or one[0] != own._version for one, own in zip(known, inputs, strict=True)):
            return None
        return [value for _, value in known]

    def put(self, inputs: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Keep a value for each of these inputs while there is room."""
        used = sum(value.nbytes for _, value in self._values.values())
        for own, value in zip(inputs, values, strict=True):
            used += value.nbytes
            if used <= BUDGET:
                self._values[own] = (own._version, value)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()


class Products:
    """``X W^T`` of each client for one W at a time: a round's exchanges have the same model."""

    def __init__(self) -> None:
        self._kept, self._weight = Kept(), torch.empty(0)

    def of(self, inputs: Sequence[Tensor], stacked: Tensor, weight: Tensor, keep: bool) -> Tensor:
        """All clients' products, in one product where they are not known.

        Args:
            inputs: As the clients hold them, [n_k, ...].
            stacked: The same, flat and side by side, [k, n, F], zeros beyond a client's own.
            weight: W, [H, F].
            keep: Whether to keep them.

        Returns:
            [k, n, H].
        """
        kind = (weight.dtype, weight.device) == (self._weight.dtype, self._weight.device)
        if not kind or not torch.equal(weight, self._weight):
            self._kept.clear()
            self._weight = weight.detach().clone() if keep else torch.empty(0)
        known = self._kept.get(inputs)
        if known is not None:
            return _side_by_side(known, stacked.new_zeros(*stacked.shape[:2], len(weight)))
        products = (stacked.flatten(0, 1) @ weight.detach().T).view(*stacked.shape[:2], -1)
        if keep:
            self._kept.put(inputs, [row[: len(own)] for row, own in zip(products, inputs, strict=True)])
        return products


_grams, products = Kept(), Products()


def gram_matrices(inputs: Sequence[Tensor], stacked: Tensor) -> Tensor:
    """``X X^T`` of each client, [k, n, n], made once and kept over rounds; arguments as in `Products.of`."""
    known = _grams.get(inputs)
    if known is not None:
        return _side_by_side(known, stacked.new_zeros(*stacked.shape[:2], stacked.shape[1]))
    grams = torch.bmm(stacked, stacked.transpose(1, 2))
    _grams.put(inputs, [gram[: len(own), : len(own)].clone() for gram, own in zip(grams, inputs, strict=True)])
    return grams


def _side_by_side(values: Sequence[Tensor], zeros: Tensor) -> Tensor:
    if all(value.shape == zeros.shape[1:] for value in values):
        torch.stack(list(values), out=zeros)
        return zeros
    for value, into in zip(values, zeros, strict=True):
        into[tuple(slice(length) for length in value.shape)] = value
    return zeros
