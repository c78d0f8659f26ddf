"""Domains that differ in the shares of their classes alone."""

import pytest
import torch

from fedha import data
from fedha.config import DataConfig, parse
from fedha.data import digits
from fedha.data.domain import Domain
from fedha.errors import FedhaError


def config(**section: object) -> DataConfig:
    return parse({"data": {"name": "digits_labels", "target": "labels1", "held_out": "0", **section}}).data


def parts(**section: object) -> list[Domain]:
    found = data.load(config(**section), 0)
    return sorted((*found.sources, *found.targets), key=lambda one: one.name)


@pytest.mark.parametrize("shares", [[0.1, 0.9, 0.5], [0.3, 0.6], [0, 1], [0.2, 0.2, 0.2, 0.9]])
def test_shares_are_what_was_asked_for_and_no_image_is_in_two(shares: list[float]) -> None:
    images, _ = digits.as_bytes()
    rows = []
    found = parts(shares=shares)
    for share, domain in zip(shares, found, strict=True):
        here = domain.held_out if domain.name == "labels1" else domain.train
        high = int((here.labels >= 5).sum())
        assert abs(high - share * len(here)) <= 1
        rows.append(here.inputs.flatten(1))
    sizes = [len(one) for one in rows]
    assert max(sizes) - min(sizes) <= 1
    every = torch.cat(rows)
    kept, there = (len(torch.unique(one, dim=0)) for one in (every, images.flatten(1)))
    assert kept >= len(every) - (len(images) - there)  # some images of the set are there twice


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"shares": ["1.5", "0"]}, r"data\.shares is 1\.5"),
        ({"shares": ["0.5"]}, r"data\.shares"),
        ({"shares": ["0.0001", "0.5"]}, r"leave 'labels0' no digit of a kind"),
        ({"target": "label1"}, r"did you mean 'labels1'"),
    ],
)
def test_what_does_not_fit_is_a_sentence(section: dict, message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        data.load(config(**section), 0)
