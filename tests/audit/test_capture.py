"""What was sent comes back from files as it was, and a curious client's subtraction gives what the other one sent."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fedha.audit import capture
from fedha.audit.sent import Sent, remainder
from fedha.errors import FedhaError
from tests.audit.made import mean_of


def made(round: int, client: int, seed: int, **changes: object) -> Sent:
    draws = torch.Generator().manual_seed(seed)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws, dtype=torch.float64)

    statistics = {"gradient": tensor(2, 3), "risk": tensor()}
    update = {"head.weight": tensor(2, 2), "head.bias": tensor(2)}
    parameters = {"head.weight": torch.ones(2, 2).double() * round, "head.bias": torch.zeros(2).double()}
    head = torch.ones(2, 3).double()
    return replace(Sent(round, client, head, statistics, update, 5, parameters, "synchronous"), **changes)


def assert_same(one: Sent, other: Sent) -> None:
    for name in ("round", "client", "examples", "mode", "averaging_weights"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("statistics", "update", "parameters"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
    assert (one.head is None) == (other.head is None)
    assert one.head is None or torch.equal(one.head, other.head)


def test_releases_come_back_as_they_were(tmp_path: Path) -> None:
    first = [made(1, 0, 0), made(1, 3, 1, update=None, mode="local"), made(1, 4, 2, head=None, statistics={})]
    first.append(mean_of([made(1, 0, 0), made(1, 1, 3)]))
    second = [made(2, 0, 4)]
    capture.append(tmp_path, second)
    capture.append(tmp_path, first)
    for one, other in zip(capture.read(tmp_path), [*first, *second], strict=True):
        assert_same(one, other)


def test_a_round_is_replaced_whole_and_its_model_is_kept_once(tmp_path: Path) -> None:
    capture.append(tmp_path, [made(1, 0, 0), made(1, 1, 1), made(1, 2, 2)])
    capture.append(tmp_path, [made(1, 0, 3), made(1, 1, 4)])
    assert [one.client for one in capture.read(tmp_path)] == [0, 1]
    (path,) = (tmp_path / capture.FOLDER).iterdir()
    with safe_open(path, framework="pt") as file:
        assert sum(name.startswith("models/") for name in file.keys()) == 2  # noqa: SIM118 (not a mapping)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match="holds no releases"):
        next(capture.read(tmp_path))
    with pytest.raises(FedhaError, match=r"rounds \[1, 2\]"):
        capture.append(tmp_path, [made(1, 0, 0), made(2, 0, 0)])
    capture.append(tmp_path, [made(1, 0, 0)])
    path = tmp_path / capture.FOLDER / "round-000001.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:40], b"", whole.replace(b'\\"form\\": 1', b'\\"form\\": 9')):
        path.write_bytes(damaged)
        with pytest.raises(FedhaError, match="round-000001"):
            next(capture.read(tmp_path))


def test_with_two_clients_each_learns_what_the_other_sent() -> None:
    own, other = made(1, 0, 0), made(1, 1, 1)
    found = remainder(mean_of([own, other]), own)
    assert (found.client, found.examples, dict(found.averaging_weights)) == (1, 5, {1: 1.0})
    torch.testing.assert_close(found.statistics, other.statistics)
    torch.testing.assert_close(found.update, other.update)


def test_with_three_a_client_learns_the_mean_of_the_others() -> None:
    parts = [made(1, place, place) for place in range(3)]
    found, expected = remainder(mean_of(parts), parts[0]), mean_of(parts[1:])
    assert (found.client, found.examples) == (None, 10)
    assert found.averaging_weights == pytest.approx(dict(expected.averaging_weights))
    torch.testing.assert_close(found.statistics, expected.statistics)


def test_a_client_that_is_not_in_the_aggregate_cannot_be_taken_out() -> None:
    parts = [made(1, place, place) for place in range(2)]
    for aggregate, own in [
        (mean_of(parts), made(1, 5, 0)),
        (mean_of(parts), made(2, 0, 0)),
        (mean_of(parts[:1]), parts[0]),
    ]:
        with pytest.raises(FedhaError, match="cannot be taken out"):
            remainder(aggregate, own)


def test_an_aggregate_names_its_clients() -> None:
    with pytest.raises(ValueError, match="averaging_weights are empty"):
        Sent(1, None, None, {}, None, 5, {}, "local")
