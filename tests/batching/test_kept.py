"""What is kept for a client is right as long as it is kept."""

import gc

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fedha.batching import kept
from fedha.batching.kept import Kept, Products, gram_matrices


def make_inputs(sizes: tuple[int, ...] = (4, 4, 3)) -> tuple[list[Tensor], Tensor]:
    draws = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, 6, generator=draws) for size in sizes]
    return parts, torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


def test_gram_matrices_are_the_same_when_kept() -> None:
    parts, stacked = make_inputs()
    expected = stacked @ stacked.transpose(1, 2)
    for order in ([0, 1, 2], [0, 1, 2], [1, 0], [2], [2, 0, 1]):
        chosen = stacked[order]
        assert_close(gram_matrices([parts[place] for place in order], chosen), expected[order])
    short = stacked[[2], :3]
    assert_close(gram_matrices([parts[2]], short), short @ short.transpose(1, 2))


def test_inputs_changed_in_place_are_computed_again() -> None:
    parts, stacked = make_inputs((4,))
    gram_matrices(parts, stacked)
    parts[0].mul_(2)
    assert_close(gram_matrices(parts, parts[0][None]), (parts[0] @ parts[0].T)[None])


def test_products_follow_the_weight() -> None:
    parts, stacked = make_inputs()
    products = Products()
    weight = torch.randn(5, 6)
    for _ in range(3):
        for _ in range(2):
            assert_close(products.of(parts, stacked, weight, keep=True), stacked @ weight.T)
        weight.add_(1)  # in place: the same tensor, another value


def test_products_kept_are_not_computed_again() -> None:
    parts, stacked = make_inputs()
    products, weight = Products(), torch.randn(5, 6)
    products.of(parts, stacked, weight, keep=True)
    assert_close(products.of(parts, torch.full_like(stacked, torch.nan), weight, keep=False)[0], parts[0] @ weight.T)
    forgetful = Products()
    forgetful.of(parts, stacked, weight, keep=False)
    assert forgetful.of(parts, torch.full_like(stacked, torch.nan), weight, keep=False).isnan().all()


def test_what_is_kept_goes_with_its_inputs_and_stays_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "BUDGET", 50)
    store, inputs = Kept(), [torch.zeros(1), torch.zeros(1), torch.zeros(1)]
    store.put(inputs, [torch.zeros(5), torch.ones(5), torch.zeros(5)])  # 20 bytes each
    assert store.get(inputs[:2]) is not None
    assert store.get(inputs) is None
    del inputs[0]
    gc.collect()
    store.put(inputs[1:], [torch.zeros(5)])
    values = store.get(inputs)
    assert values is not None
    assert float(values[0].sum()) == 5
