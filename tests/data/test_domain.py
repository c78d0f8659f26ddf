"""Laws of domains: what a split keeps, what a check refuses, which names are domains."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha.data.domain import Domain, DomainSet, Examples, choose_sources, split, unseen
from fedha.data.sides import Cut
from fedha.errors import FedhaError


def examples(n=4, columns=3):
    return Examples(torch.arange(n * columns, dtype=torch.float32).reshape(n, columns), torch.arange(n) % 2)


def domain_set(**changes):
    sources = (Domain("a", examples(), examples(2)), Domain("b", examples(5), examples(0)))
    return dataclasses.replace(DomainSet(sources, (unseen("t", examples(3)),), 2, "made up"), **changes)


def with_train(part):
    return domain_set(sources=(Domain("a", examples(), examples(2)), Domain("b", part, examples(0))))


@given(st.integers(0, 40), st.floats(0, 1), st.sampled_from(["stratified", "random"]), st.integers(0, 2**31))
def test_a_split_is_a_partition_and_its_share_is_rounded(n, share, kind, seed):
    domain = split("a", examples(n), Cut(share, kind, seed))
    rows = torch.cat([domain.train.inputs, domain.held_out.inputs])
    assert torch.equal(rows[rows[:, 0].argsort()], examples(n).inputs)
    assert len(domain.held_out) == max(0, min(round(share * n), n - 1))
    for part in (domain.train, domain.held_out):
        assert torch.equal(part.labels, (part.inputs[:, 0] / 3).long() % 2)


def test_a_split_depends_on_its_seed():
    one, same, other = (split("a", examples(50), Cut(0.5, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one.train.inputs, same.train.inputs)
    assert not torch.equal(one.train.inputs, other.train.inputs)


def test_an_unseen_domain_is_only_evaluated_on():
    domain = unseen("t", examples(3))
    assert len(domain.train) == 0
    assert domain.train.inputs.shape == (0, 3)
    assert torch.equal(domain.held_out.inputs, examples(3).inputs)


def test_good_data_pass_unchanged():
    good = domain_set()
    assert good.check() is good
    assert good.input_shape == (3,)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (domain_set(sources=()), "no source domain"),
        (domain_set(targets=(unseen("a", examples(3)),)), "called a, b, a"),
        (domain_set(targets=(unseen("t", examples(0)),)), "target domain 't' has no examples"),
        (with_train(examples(0)), "source domain 'b' has no training examples"),
        (with_train(examples(0, columns=7)), "source domain 'b' has no training examples"),
        (with_train(examples(5, columns=7)), r"'b' have shape \(7,\) but those of 'a' \(3,\)"),
        (with_train(Examples(torch.zeros(5, 3), torch.zeros(4).long())), "5 train inputs but 4 labels"),
        (with_train(Examples(torch.zeros(2, 3), torch.tensor([0, 2]))), "run from 0 to 2 but there are 2 classes"),
        (with_train(Examples(torch.zeros(2, 3), torch.tensor([-1, 0]))), "run from -1 to 0"),
        (with_train(Examples(torch.zeros(2, 3), torch.zeros(2))), "float32 labels"),
        (with_train(Examples(torch.zeros(2, 3) + 0j, torch.zeros(2).long())), "complex64; give real numbers"),
        (with_train(Examples(torch.full((2, 3), torch.nan), torch.zeros(2).long())), "NaN or infinity"),
        (with_train(Examples(torch.full((2, 3), torch.inf), torch.zeros(2).long())), "NaN or infinity"),
    ],
)
def test_bad_data_are_refused_with_the_domain_and_the_value(bad, message):
    with pytest.raises(FedhaError, match=message):
        bad.check()


def test_the_held_out_part_is_checked_as_well():
    bad = domain_set(sources=(Domain("a", examples(), Examples(torch.zeros(1, 3), torch.tensor([9]))),))
    with pytest.raises(FedhaError, match=r"run from 9 to 9"):
        bad.check()


def test_sources_default_to_all_but_the_target():
    assert choose_sources(["a", "b", "c"], None, "b") == ["a", "c"]
    assert choose_sources(["a", "b", "c"], ["c", "a"], "b") == ["c", "a"]


@pytest.mark.parametrize(
    ("sources", "target", "message"),
    [
        (None, "cleaveland", "data.target names 'cleaveland'.*did you mean 'cleveland'.*cleveland, va"),
        (None, "VA", "data.target names 'VA'.*did you mean 'va'"),
        (["vaa"], "cleveland", "data.sources names 'vaa'.*did you mean 'va'"),
        (["xyz"], "va", "'xyz', which is no domain; the domains are cleveland, va"),
        (["va"], "va", "both data.target and in data.sources"),
        (["va", "va"], "cleveland", "name every domain once"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest_known_one(sources, target, message):
    with pytest.raises(FedhaError, match=message):
        choose_sources(["cleveland", "va"], sources, target)
