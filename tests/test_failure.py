"""What goes wrong at a client travels as fields, and Flower's own errors become sentences."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from torch.testing import assert_close

import fedha
from fedha.client import Client
from fedha.config import TrainingConfig, parse
from fedha.data.domain import Domain, DomainSet
from fedha.data.examples import Examples
from fedha.engine.inline import InlineGrid, inline_grid
from fedha.errors import ClientError, FedhaError
from fedha.flower import HessianAlignment
from fedha.flower import client as clients
from fedha.flower.failure import Failure, failure_of, find_failure, pack_failure
from fedha.flower.serve import Job, load_domains, serve
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests import models_of_others
from tests.driving import app_of, train_over
from tests.problems import make_problem

SPEC = {
    "recipe": "exact_diagonal",
    "training": {"rounds": 2},
    "model": {"hidden": [4]},
    "data": {"color_flips": [0.1, 0.2, 0.3]},
}


def asked() -> Message:
    return Message(RecordDict(), 2, "train", group_id="1")


@pytest.mark.parametrize("error", [FedhaError("it is <class 'X'>:<'y'>"), ValueError("a\nb: c"), KeyError("k")])
def test_a_failure_travels_exactly_whatever_its_text(error: Exception) -> None:
    InlineGrid(ClientApp(), 1)
    found = find_failure(Message(pack_failure(failure_of(error, 3)), reply_to=asked()))
    assert found == failure_of(error, 3)
    raised = found.error("client 3 failed")
    assert isinstance(raised, FedhaError) == isinstance(error, FedhaError)
    assert ": ".join(["client 3 failed", *([] if isinstance(error, FedhaError) else [type(error).__name__])]) in str(
        raised
    )
    assert hasattr(raised, "__notes__") != isinstance(error, FedhaError)


@pytest.mark.parametrize("code", [code for code in vars(ErrorCode).values() if isinstance(code, int)])
def test_every_code_of_flowers_becomes_a_sentence(code: int) -> None:
    InlineGrid(ClientApp(), 1)
    found = find_failure(Message(Error(code), reply_to=asked()))
    assert found is not None
    assert isinstance(found.error("client 1 failed"), ClientError)
    assert len(found.sentence) > 10


def test_a_strangers_app_that_raises_is_a_failed_client_on_the_inline_grid_too() -> None:
    problem, app = make_problem(), ClientApp()
    inner = app_of(problem)

    def answer(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 1:
            raise ZeroDivisionError("boom")
        return inner(message, context)

    clients.register(app, answer)
    with pytest.raises(
        ClientError, match=r"^client 1 \(domain 'd1'\) failed to train in round 1: ZeroDivisionError: b"
    ) as told:
        train_over(InlineGrid(app, 3), HessianAlignment("erm", clients=3), problem, 1)
    assert 'raise ZeroDivisionError("boom")' in told.value.__notes__[0]
    strategy = HessianAlignment("erm", clients=3, on_client_error="skip")
    _, (record,) = train_over(InlineGrid(app, 3), strategy, problem, 1)
    assert record["clients"] == 2
    assert strategy.left_out["client 1 (domain 'd1')"]["rounds"] == 1


def test_what_was_not_answered_has_not_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's memory is that of before the message, as where Flower's own process rolls it back."""
    problem = make_problem()
    app = app_of(problem)
    grid = InlineGrid(app, 3)
    strategy = HessianAlignment("fishr", TrainingConfig(rounds=2), clients=3, on_client_error="skip")
    train_over(grid, strategy, problem, 1)
    before = {name: dict(record) for name, record in grid._contexts[3].state.items()}

    def forgets(client: Client, context: Context) -> None:
        if client.client_id == 1:
            context.state.clear()
            raise ZeroDivisionError

    monkeypatch.setattr(clients, "_remember", forgets)
    list(strategy.configure_train(2, strategy.arrays, ConfigRecord(), grid))
    assert {name: dict(record) for name, record in grid._contexts[3].state.items()} == before


def domains_with(config: Any, scale: float) -> DomainSet:
    domains = load_domains(config)
    domains.sources[1].train.inputs.mul_(scale)
    return domains


@pytest.mark.parametrize("together", [False, True])
def test_the_rule_holds_one_by_one_and_together(together: bool, tmp_path: Path) -> None:
    config = parse(SPEC)
    domains = domains_with(config, 1e25)
    with pytest.raises(FedhaError, match=r"client 1 \(domain 'flip-0\.2'\) failed to measure in round 1"):
        serve(
            Job(config, tmp_path / "stop"), inline_grid(config, domains, together=together), Silent(), domains=domains
        )
    config = parse({**SPEC, "engine": {"on_client_error": "skip"}})
    grid = inline_grid(config, domains, together=together)
    results = serve(Job(config, tmp_path / "skip"), grid, Silent(), domains=domains)
    (who, absence), = results["left_out"].items()  # fmt: skip
    assert (who, absence["rounds"]) == ("client 1 (domain 'flip-0.2')", 2)
    assert runfolder.read_results(tmp_path / "skip")["left_out"] == results["left_out"]


@pytest.mark.parametrize("together", [False, True])
def test_a_gradient_that_is_not_finite_behind_a_finite_loss_is_its_clients_alone(together: bool) -> None:
    given = [shifted(f"d{place}", shift) for place, shift in enumerate((0, 100, 0, 0))]
    asked = {"target": "d3", "training": {"rounds": 2}, "recipe": "erm"}
    engine = {"name": "inline", "batching": together}
    with pytest.raises(FedhaError, match=r"client 1 \(domain 'd1'\) failed to train in round 1: the loss"):
        fedha.simulate(given, models_of_others.spoils, engine=engine, **asked)
    found = fedha.simulate(given, models_of_others.spoils, engine={**engine, "on_client_error": "skip"}, **asked)
    others = fedha.simulate([*given[:1], *given[2:]], models_of_others.spoils, engine=engine, **asked)
    assert_close(dict(found.model.state_dict()), dict(others.model.state_dict()))


def shifted(name: str, shift: float) -> Domain:
    whole = Examples(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) + shift, torch.arange(12) % 2)
    return Domain(name, whole.select(slice(8)), whole.select(slice(8, None)))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_in_a_secure_sum_nobody_learns_whose_numbers_failed(rule: str, together: bool, tmp_path: Path) -> None:
    privacy = {"secure_aggregation": True, "minimum": 2, "threshold": 2}
    config = parse({**SPEC, "privacy": privacy, "engine": {"on_client_error": rule}})
    domains = domains_with(config, 1e25)
    grid = inline_grid(config, domains, together=together)
    with pytest.raises(FedhaError, match="the sum of 3 clients means nothing") as told:
        serve(Job(config, tmp_path / rule), grid, Silent(), domains=domains)
    assert "flip-0.2" not in str(told.value)


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (TypeError("a fault of ours"), True),
        (RuntimeError("mat1 and mat2"), True),
        (FedhaError("a loss is not finite"), False),
        (torch.OutOfMemoryError("no memory"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_a_fault_in_batching_is_seen_once_and_what_was_foreseen_is_not(
    error: Exception, seen: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    table: dict[str, Callable[..., Any]] = {**clients._TOGETHER, "query.measure": fails, "train": fails}
    monkeypatch.setattr(clients, "_TOGETHER", table)
    config = parse(SPEC)
    domains = load_domains(config)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        grid = inline_grid(config, domains, together=True)
        serve(Job(config, tmp_path), grid, Silent(), domains=domains)
    told = [str(one.message) for one in heard if "one by one" in str(one.message)]
    assert len(told) == seen
    assert not seen or f"{type(error).__name__}: {error}" in told[0]


def test_a_failure_names_its_place_where_nothing_else_is_known() -> None:
    found = Failure("FedhaError", "no data", "", 2)
    assert str(found.error("client 2 failed to introduce itself")) == "client 2 failed to introduce itself: no data"
