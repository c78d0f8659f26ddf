"""A run done again says what the run said: the same model to the bit, and every message of the rounds asked for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedha import statistics
from fedha.audit import Attacker, Sent, audit, capture
from fedha.audit.network import features_of
from fedha.audit.overheard import Exchange, ListeningGrid
from fedha.audit.releases import releases_of, shows_single_clients
from fedha.audit.replay import difference, replay
from fedha.config import Config, parse
from fedha.data.shards import even_shards
from fedha.engine.inline import inline_grid
from fedha.exchange import Reply
from fedha.federation import Server
from fedha.flower.serve import Job, load_domains, serve
from fedha.flower.strategy import HessianAlignment
from fedha.flower.wire import pack_reply, unpack_reply
from fedha.models import build
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent

LOCAL = {"mode": "local", "optimizer": "fedadam", "local": {"epochs": 1, "batch_size": 100}}


def tiny(recipe: str, **changes: object) -> Config:
    content = {"recipe": recipe, "model": {"hidden": [8]}, "engine": {"name": "inline"}, "evaluation": {"every": 2}}
    return parse({**content, "training": {"rounds": 3}, **changes})


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("erm", {"training": {"rounds": 3, **LOCAL}}),
        ("hgp", {"data": {"clients_per_domain": 3}, "training": {"rounds": 3, "clients_per_round": 4}}),
        ("fishr", {"federation": {"schedule": "piggyback"}}),
        ("fediir", {"checkpoint": {"every": 1}}),
        ("groupdro", {}),
    ],
)
def test_a_replay_ends_with_the_runs_model_to_the_bit(recipe: str, changes: dict[str, object], tmp_path: Path) -> None:
    config = tiny(recipe, **changes)
    execute(config, tmp_path / "run", Silent())
    heard: list[int] = []
    again = replay(config, load_domains(config), rounds=[2], keep=tmp_path, after_round=heard.append)
    assert difference(again, runfolder.read_model(tmp_path / "run")) == 0.0
    assert heard == [1, 2, 3]
    assert {one.round for one in capture.read(tmp_path)} == {2}


def test_models_differ_by_their_largest_difference_or_cannot_be_compared() -> None:
    one, other = {"a": torch.zeros(2), "b": torch.ones(1)}, {"a": torch.tensor([0.0, -0.5]), "b": torch.ones(1)}
    assert difference(one, one) == 0.0
    assert difference(one, other) == 0.5
    assert difference(one, {"a": torch.zeros(2)}) is difference(one, {**one, "b": torch.ones(2)}) is None


def heard_of(config: Config, folder: Path) -> list[Sent]:
    replay(config, load_domains(config), rounds=[1, 2], keep=folder)
    return list(capture.read(folder))


@pytest.mark.parametrize("schedule", ["exact", "piggyback"])
def test_what_is_heard_is_each_clients_statistic_at_its_own_model(schedule: str, tmp_path: Path) -> None:
    config = tiny("exact_diagonal", federation={"schedule": schedule})
    domains = load_domains(config)
    model = build(config.model, domains.input_shape, domains.classes, 0)
    sent = heard_of(config, tmp_path)
    assert [(one.round, one.client) for one in sent] == [(1, 0), (1, 1), (1, None), (2, 0), (2, 1), (2, None)]
    for one in sent:
        if one.client is None:
            continue
        examples = domains.sources[one.client].train
        features = features_of(model, one.parameters, examples.inputs)
        for name in ("gradient", "hessian_diagonal"):
            expected = getattr(statistics, name)(one.head, features, examples.labels)
            torch.testing.assert_close(one.statistics[name], expected.detach(), msg=f"{name} of {one.whose}")
        assert one.update is not None
        assert one.update.keys() == one.parameters.keys()


def test_the_aggregate_is_the_mean_that_the_server_made(tmp_path: Path) -> None:
    config = tiny("hgp", data={"clients_per_domain": 2}, training={"rounds": 3, "averaging": "examples"})
    first = [one for one in heard_of(config, tmp_path) if one.round == 1]
    *clients, aggregate = first
    assert sum(aggregate.averaging_weights.values()) == pytest.approx(1)
    assert aggregate.examples == sum(one.examples for one in clients)
    for kind in ("statistics", "update"):
        for name, value in getattr(aggregate, kind).items():
            mean = sum(aggregate.averaging_weights[one.client] * getattr(one, kind)[name] for one in clients)
            torch.testing.assert_close(value, mean)


def test_clients_can_be_given_other_examples(tmp_path: Path) -> None:
    config = tiny("erm", training={"rounds": 1})
    domains = load_domains(config)
    few = [replace(one, train=one.train.select(slice(0, 3))) for one in even_shards(domains, 1, 0)]
    replay(config, domains, rounds=[1], keep=tmp_path, clients=few)
    assert [one.examples for one in capture.read(tmp_path)] == [3, 3, 6]


# Under secure aggregation


def exchanges_of(config: Config, folder: Path) -> tuple[list[Exchange], Server]:
    """The first round's messages, and the server after it."""
    domains, shown = load_domains(config), list[HessianAlignment]()
    grid = ListeningGrid(inline_grid(config, domains), [1])
    serve(Job(config, folder), grid, Silent(), domains=domains, shown=shown.append)
    return grid.take(), shown[0].begun()


def masked(exchanges: Sequence[Exchange], seed: int) -> list[Exchange]:
    """The same messages, every client's tensors replaced by words that masks have made uniform."""
    draws = torch.Generator().manual_seed(seed)

    def hidden(reply: Reply) -> Reply:
        length = sum(value.numel() for value in reply.tensors.values()) + 1
        words = torch.randint(-(2**63), 2**63 - 1, (length,), generator=draws, dtype=torch.int64)
        return replace(reply, tensors={"masked": words}, examples=0)

    return [
        replace(one, answered={node: pack_reply(hidden(unpack_reply(said))) for node, said in one.answered.items()})
        for one in exchanges
    ]


def test_of_masked_answers_only_the_sum_says_anything(tmp_path: Path) -> None:
    config = tiny("exact_diagonal", training={"rounds": 1}, data={"color_flips": [0.1, 0.2, 0.3]})
    domains = load_domains(config)
    exchanges, server = exchanges_of(config, tmp_path)
    places = {place: len(one.train) for place, one in enumerate(domains.sources)}
    plain = releases_of(exchanges, server, places)
    hidden = releases_of(masked(exchanges, 0), server, places)
    assert [one.client for one in hidden] == [0, 1, 2, None]
    assert shows_single_clients(exchanges)
    assert not shows_single_clients(masked(exchanges, 0))
    for one, other in zip(plain[:-1], hidden[:-1], strict=True):
        assert {n: v.shape for n, v in one.statistics.items()} == {n: v.shape for n, v in other.statistics.items()}
        assert other.update is not None
        assert one.examples == other.examples
        # nothing of the client's own: no correlation beyond that of independent vectors, six deviations of 1 / sqrt(n)
        flat = [torch.cat([v.flatten() for v in each.update.values()]).double() for each in (one, other)]
        correlation = float(torch.corrcoef(torch.stack(flat))[0, 1])
        assert abs(correlation) < 6 / len(flat[0]) ** 0.5
    for name, value in plain[-1].statistics.items():
        assert torch.equal(hidden[-1].statistics[name], value)
    model = build(config.model, domains.input_shape, domains.classes, 0)
    found = audit(hidden, dict(enumerate(domains.sources)), Attacker(2, model, inversions=0))
    errors = {one.client: one for one in found.found if one.attack == "feature_moments"}
    assert errors[None].value < errors[None].baseline  # the sum is as ever
    assert all(errors[place].value > errors[place].baseline for place in places)
