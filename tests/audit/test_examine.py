"""What an attacker knows of a run comes from its config alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedha.audit.drowning import drowned
from fedha.audit.examine import examine, update_scale
from fedha.audit.sent import Sent
from fedha.audit.settings import Settings
from fedha.config import parse
from fedha.data.domain import Domain, Examples
from fedha.errors import FedhaError


def domains(*sizes: int) -> list[Domain]:
    return [
        Domain(str(size), Examples(torch.zeros(size, 2), torch.zeros(size, dtype=torch.int64)), None) for size in sizes
    ]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("training", "sizes", "expected"),
    [
        ({"mode": "synchronous"}, (10, 20), None),
        ({"local": {"steps": 5, "learning_rate": 0.2}}, (10, 20), 1.0),
        ({"local": {"epochs": 2, "learning_rate": 0.1}}, (10, 20), 0.2),
        ({"local": {"epochs": 2, "batch_size": 8, "learning_rate": 0.1}}, (10, 16), 0.4),
        ({"local": {"epochs": 2, "batch_size": 8, "learning_rate": 0.1}}, (10, 20), None),  # 2 and 3 batches
        ({"local": {"steps": 5, "batch_size": 8, "learning_rate": 0.1}}, (10, 20), 0.5),
        ({"local": {"steps": 5, "momentum": 0.9}}, (10, 10), None),
        ({"local": {"steps": 5, "optimizer": "adam"}}, (10, 10), None),
        ({"local": {"steps": 5}, "schedule": "cosine"}, (10, 10), None),
        ({"local": {"steps": 5}, "rates": {"featurizer": 0.1}}, (10, 10), None),
        ({"local": {"steps": 5}, "clip_norm": 1.0}, (10, 10), None),
    ],
)
def test_an_update_is_a_gradient_where_every_client_takes_as_many_plain_steps(
    training: dict[str, Any], sizes: tuple[int, ...], expected: float | None
) -> None:
    config = parse({"training": {"mode": "local", **training}})
    found = update_scale(config, domains(*sizes))
    assert found == (None if expected is None else pytest.approx(expected))


def test_a_run_of_soft_targets_is_not_attacked_as_if_they_were_labels() -> None:
    config = parse({"training": {"label_smoothing": 0.1, "rounds": 1}})
    with pytest.raises(FedhaError, match="the attacks know the plain cross-entropy alone"):
        examine(config, Settings(), lambda *said: None, trained=None)


def release(client: int | None) -> Sent:
    draws = torch.Generator().manual_seed(0)
    tensors = {"a": torch.randn(50, 40, generator=draws), "zero": torch.zeros(3)}
    shares = {} if client is not None else {0: 1.0}
    return Sent(
        1, client, None, tensors, {"w": 5 * torch.ones(2000)}, 10, {"w": torch.ones(2000)}, "synchronous", shares
    )


def test_noise_is_measured_in_each_tensors_own_size() -> None:
    one = release(0)
    [noisy] = drowned([one], 3.0, seed=0)
    for before, after in ((one.statistics["a"], noisy.statistics["a"]), (one.update["w"], noisy.update["w"])):
        size = float(before.square().mean().sqrt())
        spread = float((after - before).std()) / size
        assert spread == pytest.approx(3.0, abs=5 * 3.0 / (2 * before.numel()) ** 0.5)  # five deviations
    assert noisy.parameters is one.parameters
    assert bool(noisy.statistics["zero"].isfinite().all())
    [same] = drowned([one], 0.0, seed=0)
    assert same is one


def test_every_release_is_drowned_in_noise_of_its_own_and_again_in_the_same() -> None:
    sent = [release(0), release(1), release(None), replace(release(0), round=2)]
    first, again = (list(drowned(sent, 1.0, seed=7)) for _ in range(2))
    values = [one.statistics["a"] for one in first]
    assert all(torch.equal(one.statistics["a"], other.statistics["a"]) for one, other in zip(first, again, strict=True))
    assert not any(torch.equal(values[0], other) for other in values[1:])
