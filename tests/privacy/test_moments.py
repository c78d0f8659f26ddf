"""Each moment is the mean of what every example adds, in factors."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from fedha import registry, statistics
from fedha.errors import FedhaError
from fedha.privacy.moments import Batch, measure
from fedha.privacy.releasable import derive, private_exchanges, releasable, required
from fedha.recipes import RECIPES
from fedha.registry import add_statistic, moments
from fedha.statistic import Mean, Statistic
from fedha.table import STATISTICS
from tests.linear_clients import Client, make_client
from tests.privacy.twins import TERMS, clients, make_vector, terms


def batch_of(client: Client) -> Batch:
    return Batch.at(*client, make_vector(client))


def test_every_moment_has_a_twin() -> None:
    assert TERMS.keys() == moments().keys()


@pytest.mark.parametrize("name", moments())
@settings(max_examples=30)
@given(client=clients(), seed=st.integers(0, 1000))
def test_a_moments_outer_products_are_what_each_example_adds(name: str, client: Client, seed: int) -> None:
    moment, expected = measure([name], batch_of(client))[name], terms(name, client, make_vector(client))
    outer = torch.einsum("nu,nv->nuv", moment.left, moment.right)
    assert_close(outer.flatten(1), expected, rtol=1e-9, atol=1e-12)
    assert_close(moment.norms(), expected.norm(dim=1), rtol=1e-9, atol=1e-12)
    assert_close(moment.mean().flatten(), expected.mean(0), rtol=1e-9, atol=1e-12)
    direction = torch.randn(moment.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert_close(moment.along(direction), expected @ direction.flatten(), rtol=1e-9, atol=1e-12)


def plain(statistic: str, client: Client) -> Tensor:
    if statistic == "pooled_gradient_hessian_product":
        return statistics.hessian_vector_product(*client, make_vector(client))
    return getattr(statistics, statistic)(*client)


@pytest.mark.parametrize("statistic", releasable())
@given(client=clients())
def test_a_statistic_made_of_plain_moments_is_the_plain_statistic(statistic: str, client: Client) -> None:
    means = {name: moment.mean() for name, moment in measure(required([statistic]), batch_of(client)).items()}
    assert_close(derive(statistic, means, len(client.features)), plain(statistic, client), rtol=1e-9, atol=1e-12)


def test_moments_that_statistics_share_are_needed_once() -> None:
    assert required(["gradient", "gradient_variance", "hessian_diagonal"]) == (
        "gradient",
        "squared_gradient",
        "hessian_diagonal",
    )
    assert required([]) == ()


def test_every_statistic_of_the_table_is_releasable_or_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_added", {})
    refused = {}
    for name in {*STATISTICS, *(row.reference or name for name, row in STATISTICS.items())} - set(releasable()):
        with pytest.raises(FedhaError) as told:
            required([name])
        refused[name] = str(told.value)
    assert set(refused) == {
        "gradient_hessian_product",
        "hutchinson_diagonal",
        "hutchinson_diagonal_shared",
        "hessian",
        "hessian_off_diagonal",
        "off_diagonal_energy",
        "random_features",
        "risk_distribution",
        "representation_norm",
        "conditional_information",
    }
    for name, sentence in refused.items():
        assert sentence.startswith(f"statistic {name!r} cannot be sent with example-level privacy: ")
        assert "instead" in sentence
    add_statistic(Statistic("unbounded_logits", (Mean("unbounded_logits", lambda piece: piece.logits.mean(0)),)))
    with pytest.raises(FedhaError, match="nobody has bounded what one example adds to it"):
        required(["unbounded_logits"])


def test_the_recipes_that_can_be_private_and_what_each_of_their_releases_holds() -> None:
    fine = {}
    for recipe in RECIPES.values():
        with contextlib.suppress(FedhaError):
            fine[recipe.name] = private_exchanges(recipe)
    assert fine == {
        "erm": (),
        "groupdro": (("risk",),),  # what the server weighs by
        "afl": (("risk",),),
        "mixup": (),  # whose steps are refused, as sam's are
        "sam": (),
        "cma_diagonal": (("gradient", "hessian_diagonal"),),
        "exact_diagonal": (("gradient", "hessian_diagonal"),),
        "irm": (("scale_gradient",),),  # nobody asks for it; the pull towards zero needs it
        "vrex": (("risk",),),
        "iga": (("gradient",),),
        "fish": (("gradient",),),
        "fishr": (("gradient_variance",),),
        "coral": (("feature_mean", "feature_covariance"),),
        "fediir": (("gradient",),),
    }


def test_a_covariance_of_one_example_is_refused() -> None:
    means = {"feature_mean": torch.zeros(1, 3), "feature_square": torch.zeros(3, 3)}
    with pytest.raises(ValueError, match="a covariance needs two examples or more, got 1"):
        derive("feature_covariance", means, 1)


def test_a_released_covariance_is_symmetric_whatever_the_noise() -> None:
    draws = torch.Generator().manual_seed(0)
    means = {"feature_mean": torch.randn(1, 4, generator=draws), "feature_square": torch.randn(4, 4, generator=draws)}
    value = derive("feature_covariance", means, 10)
    assert torch.equal(value, value.T)


def test_a_batch_may_be_empty() -> None:
    client = make_client(0, 3, 2, 4)
    empty = Batch.at(client.head, client.features[:0], client.labels[:0], make_vector(client))
    for moment in measure(moments(), empty).values():
        assert len(moment.norms()) == 0


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.ones(2, 3), torch.zeros(2).long(), "features have 3 columns but the head expects 4; append the bias"),
        (torch.ones(2, 4), torch.zeros(3).long(), "there are 2 feature rows but 3 labels"),
    ],
)
def test_a_batch_of_wrong_shape_is_refused(features: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(["gradient"], Batch.at(torch.zeros(3, 4), features, labels))


@pytest.mark.parametrize("vector", [None, torch.zeros(4, 3)])
def test_a_hessian_vector_product_needs_its_direction(vector: Tensor | None) -> None:
    batch = Batch.at(torch.zeros(3, 4), torch.ones(2, 4), torch.zeros(2).long(), vector)
    with pytest.raises(ValueError, match="needs a direction of the head's shape"):
        measure(["pooled_gradient_hessian_product"], batch)
