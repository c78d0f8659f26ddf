"""A domain shared by several clients: nothing is lost, nothing is held twice, nothing is copied."""

import pytest
import torch

from fedha.config import parse
from fedha.data import load
from fedha.data.shards import client_domains
from fedha.errors import FedhaError


def domains():
    return load(parse({}).data, 0)


def test_the_clients_of_a_domain_hold_its_examples_between_them() -> None:
    given = domains()
    parts = client_domains(given, 7, seed=3)
    assert [part.client for part in parts] == [f"{one.name}/{shard}" for one in given.sources for shard in range(7)]
    for place, source in enumerate(given.sources):
        own = parts[7 * place : 7 * place + 7]
        for name in ("train", "held_out"):
            whole, pieces = getattr(source, name), [getattr(part, name) for part in own]
            rows = torch.cat([piece.inputs.flatten(1) for piece in pieces])
            labelled = torch.cat([rows, torch.cat([piece.labels for piece in pieces])[:, None]], 1)
            expected = torch.cat([whole.inputs.flatten(1), whole.labels[:, None]], 1)
            assert sorted(labelled.tolist()) == sorted(expected.tolist())
            assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_shards_are_drawn_at_random_from_the_seed() -> None:
    given = domains()
    one, again, other = (client_domains(given, 2, seed)[0].train.inputs for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, given.sources[0].train.inputs[: len(one)])


def test_the_shards_of_a_domain_share_memory() -> None:
    parts = client_domains(domains(), 5, 0)
    starts = {part.train.inputs.untyped_storage().data_ptr() for part in parts}
    assert len(starts) == 2  # one copy a source


def test_one_client_a_domain_holds_it_as_it_is() -> None:
    given = domains()
    assert client_domains(given, 1, 0) == list(given.sources)


def test_fewer_examples_than_clients_are_refused() -> None:
    with pytest.raises(FedhaError, match=r"'flip-0.2' has 479 training examples for 480 clients"):
        client_domains(domains(), 480, 0)
