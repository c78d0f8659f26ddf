"""A domain shared by several clients: nothing is lost, nothing is held twice, nothing is copied."""

import pytest
import torch

from fedha.config import parse
from fedha.data import load
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.shards import even_shards
from fedha.errors import FedhaError
from fedha.randomness import generator


def domains():
    return load(parse({}).data, 0)


def test_the_clients_of_a_domain_hold_its_examples_between_them() -> None:
    given = domains()
    parts = even_shards(given, 7, seed=3)
    assert [part.client_name for part in parts] == [
        f"{one.name}/{shard}" for one in given.sources for shard in range(7)
    ]
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
    one, again, other = (even_shards(given, 2, seed)[0].train.inputs for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, given.sources[0].train.inputs[: len(one)])


def test_the_shards_of_a_domain_share_memory() -> None:
    parts = even_shards(domains(), 5, 0)
    starts = {part.train.inputs.untyped_storage().data_ptr() for part in parts}
    assert len(starts) == 2  # one copy a source


def test_one_client_a_domain_holds_it_as_it_is() -> None:
    given = domains()
    assert even_shards(given, 1, 0) == list(given.sources)


def test_every_client_gets_as_many_of_each_label_give_or_take_one() -> None:
    for part in ("train", "held_out"):
        counts = torch.stack([getattr(one, part).labels.bincount(minlength=2) for one in even_shards(domains(), 10, 0)])
        for source in counts.split(10):
            assert (source.amax(0) - source.amin(0)).max() <= 1


def test_the_random_shards_are_those_of_earlier_versions() -> None:
    given = domains()
    order = torch.randperm(479, generator=generator(5, "data", "shards", "flip-0.2", "train"))
    parts = even_shards(given, 3, 5, "random")
    assert torch.equal(parts[1].train.inputs, given.sources[0].train.inputs[order.tensor_split(3)[1]])


def grouped(groups: torch.Tensor) -> DomainSet:
    labels = groups % 3 // 2
    part = Examples(torch.arange(float(len(groups)))[:, None], labels, groups)
    return DomainSet((Domain("a", part, part.select(slice(0, 0))),), (), 2, "made up")


def test_a_group_belongs_to_one_client() -> None:
    parts = even_shards(grouped(torch.arange(120) // 4), 5, 0)
    held = [set(part.train.groups.tolist()) for part in parts]
    assert sum(map(len, held)) == len(set.union(*held)) == 30
    assert [len(part.train) for part in parts] == [24] * 5
    assert [int(part.train.labels.sum()) for part in parts] == [8] * 5


def test_fewer_groups_than_clients_are_refused() -> None:
    with pytest.raises(FedhaError, match=r"'a' has 3 groups to train on for 4 clients, and a group is not divided"):
        even_shards(grouped(torch.arange(12) // 4), 4, 0)


def test_more_clients_than_examples_are_refused_where_the_data_are_loaded() -> None:
    with pytest.raises(FedhaError, match=r"479 training examples for 500 clients; lower data.clients_per_domain"):
        load(parse({"data": {"clients_per_domain": 500}}).data, 0)


def test_fewer_examples_than_clients_are_refused() -> None:
    with pytest.raises(FedhaError, match=r"'flip-0.2' has 479 training examples for 480 clients"):
        even_shards(domains(), 480, 0)
