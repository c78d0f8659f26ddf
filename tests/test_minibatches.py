"""Minibatches: every pass takes each example once, none is too small for the recipe, and what cannot be is said."""

from dataclasses import replace

import pytest
import torch
from flwr.app import ArrayRecord, Context, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedha.batching import memory
from fedha.config import LocalConfig, ModelConfig, PrivacyConfig, TrainingConfig, parse
from fedha.data.domain import Domain, Examples
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.flower.client import Clients, app_for, seeded_site
from fedha.flower.strategy import HessianAlignment
from fedha.measurement import Circumstances, measure, view_head
from fedha.minibatches import epoch_sizes, minibatch_sizes, step_sizes, too_small
from fedha.models import build
from fedha.privacy.noise import seeded
from fedha.privacy.sampling import Sampling, draw_batches, releases
from fedha.privacy.shape import local_draws
from fedha.recipes import RECIPES
from fedha.table import STATISTICS
from tests.batching.twins import SEED, assert_same, local, make_cohort, twin_rounds

LEAST = st.integers(1, 4)


@given(st.integers(1, 60), st.none() | st.integers(1, 70), LEAST)
def test_a_pass_takes_every_example_once_and_a_small_rest_joins_the_batch_before(
    examples: int, batch_size: int | None, least: int
) -> None:
    sizes = epoch_sizes(examples, batch_size, least)
    size = min(batch_size or examples, examples)
    assert sum(sizes) == examples
    assert sizes[:-1] == [size] * (len(sizes) - 1)
    if size >= least:
        assert all(least <= one < size + least for one in sizes)
    if examples % size == 0 or examples % size >= least:  # nothing else changes
        assert sizes == [len(rows) for rows in torch.arange(examples).split(size)]


@given(st.integers(1, 40), st.integers(1, 12), LEAST, st.integers(1, 9))
def test_steps_go_through_passes(examples: int, batch_size: int, least: int, steps: int) -> None:
    epoch = epoch_sizes(examples, batch_size, least)
    assert minibatch_sizes(LocalConfig(batch_size=batch_size, epochs=3), examples, least) == 3 * epoch
    counted = minibatch_sizes(LocalConfig(batch_size=batch_size, steps=steps), examples, least)
    assert len(counted) == steps
    assert counted == (epoch * steps)[:steps]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_private_batches_are_counted_as_they_are_drawn(examples: int, batch: int, epochs: int) -> None:
    local_config = LocalConfig(batch_size=batch, epochs=epochs)
    training = TrainingConfig(mode="local", local=local_config)
    privacy = PrivacyConfig(protect="examples", noise_multiplier=1.0, sampling="shuffled")
    sampling, steps = local_draws(training, privacy, examples)
    drawn = [len(rows) for rows in draw_batches(sampling, steps, seeded(0))]
    assert drawn == step_sizes(Task(RECIPES["coral"], training, 0, privacy), examples)
    assert releases(Sampling("shuffled", min(batch, examples), examples), steps) == epochs


@pytest.mark.parametrize("sizes", [(9, 9, 9, 9), (9, 11, 5, 13)], ids=["even", "uneven"])
@pytest.mark.parametrize("settings", [{"epochs": 2}, {"steps": 5}], ids=["epochs", "steps"])
def test_coral_trains_where_one_example_is_left_alone_and_together(
    sizes: tuple[int, ...], settings: dict[str, int]
) -> None:
    cohort = make_cohort(ModelConfig(name="mlp", hidden=[5], precision="float64"), (2, 3, 3), sizes)
    assert_same(twin_rounds(cohort, RECIPES["coral"], local(batch_size=4, **settings), 2))


def test_memory_is_that_of_the_largest_batch() -> None:
    (client, *_) = make_cohort(ModelConfig(name="mlp", hidden=[5]), (2, 3, 3), (9,))
    parameters = dict(client.model.named_parameters())
    counts = {
        name: memory.multiplications(client, Request(Task(RECIPES[name], local(batch_size=4), SEED), 1, parameters))
        for name in ("erm", "coral")
    }
    assert counts["coral"] / counts["erm"] == 5 / 4


@pytest.mark.parametrize("name", sorted(name for name, row in STATISTICS.items() if not row.representation))
def test_each_statistic_says_how_many_examples_it_needs(name: str) -> None:
    model = build(ModelConfig(name="mlp", hidden=[3], precision="float64"), (4,), 2, SEED)
    view = view_head(model, {name: value.detach() for name, value in model.named_parameters()})
    around = Circumstances(SEED, 1, None, 3, {"gradient": torch.ones(view.shape, dtype=torch.float64)})
    least = STATISTICS[name].least_examples
    features = view.prepare(torch.randn(least, 3, dtype=torch.float64))
    labels = torch.zeros(least, dtype=torch.int64)
    assert bool(measure(name, view, features, labels, around).isfinite().all())
    with pytest.raises(ValueError, match="needs"):
        measure(name, view, features[1:], labels[1:], around)


@pytest.mark.parametrize("recipe", ["erm", "coral"])
@pytest.mark.parametrize("protect", ["nothing", "examples"])
def test_a_domain_has_as_many_examples_as_its_recipe_needs(recipe: str, protect: str) -> None:
    privacy = PrivacyConfig.model_validate({"protect": protect, "noise_multiplier": 1.0})
    task = Task(RECIPES[recipe], TrainingConfig(), 0, privacy)
    least = RECIPES[recipe].least_examples
    assert too_small(task, least) is None
    assert "training example" in str(too_small(task, least - 1))


def test_a_batch_size_that_no_step_could_work_with_is_refused_but_where_steps_measure_nothing() -> None:
    training = TrainingConfig(mode="local", local=LocalConfig(batch_size=1))
    assert "batch_size is 1" in str(too_small(Task(RECIPES["coral"], training, 0), 9))
    assert too_small(Task(RECIPES["erm"], training, 0), 9) is None
    shuffled = PrivacyConfig(protect="examples", noise_multiplier=1.0, sampling="shuffled")
    assert too_small(Task(RECIPES["coral"], training, 0, shuffled), 9) is None
    content = {"recipe": "coral", "training": {"mode": "local", "local": {"batch_size": 1}}}
    with pytest.raises(FedhaError, match=r"batch_size is 1 but recipe 'coral' aligns feature_covariance"):
        parse(content)
    parse({**content, "privacy": {"protect": "examples", "noise_multiplier": 1, "sampling": "poisson"}})


def test_terms_without_weight_need_nothing() -> None:
    row = RECIPES["coral"]
    assert row.least_examples == 2
    assert replace(row, terms=tuple(replace(term, weight=0.0) for term in row.terms)).least_examples == 1


@pytest.mark.parametrize("protect", ["nothing", "examples"])
def test_a_domain_that_is_too_small_is_named_before_anything_is_trained(protect: str) -> None:
    def domain(context: Context) -> Domain:
        place = int(context.node_config["partition-id"])
        part = Examples(torch.randn(1 if place == 1 else 9, 4), torch.arange(1 if place == 1 else 9) % 2)
        return Domain(f"d{place}", part, part)

    asked: list[str] = []

    class Heard(Clients):
        def answer(self, kind: str, content: RecordDict, context: Context) -> RecordDict:
            asked.append(kind)
            return super().answer(kind, content, context)

    model = build(ModelConfig(name="mlp", hidden=[3]), (4,), 2, SEED)
    privacy = PrivacyConfig.model_validate({"protect": protect, "noise_multiplier": 1.0})
    strategy = HessianAlignment("coral", clients=3, privacy=privacy)
    grid = InlineGrid(app_for(Heard(lambda _: model, domain, site=seeded_site)), 3)
    with pytest.raises(FedhaError, match=r"'d1' cannot be trained on: it has fewer than 2 training examples"):
        strategy.start(grid, ArrayRecord(dict(model.named_parameters())), num_rounds=1)
    assert set(asked) == {"query.introduce"}
