"""Label smoothing and class weights: every closed form is autograd's of the softened loss, on every way to sum it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap
from torch.func import hessian as autograd_hessian
from torch.nn import functional
from torch.testing import assert_close

from fedha import cross_entropy, nonlinear, sketches, statistics
from fedha.config import PrivacyConfig, TrainingConfig, parse
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import Server, run_round
from fedha.measurement import Circumstances, Piece
from fedha.privacy.moments import Batch, measure
from fedha.recipes import RECIPES
from fedha.registry import moments
from fedha.targets import class_weights, softening, target_rows
from tests.linear_clients import HEADS, Client, make_client
from tests.problems import ROWS, SEED, make_problem

SOFT = TrainingConfig(label_smoothing=0.2, class_weights=[0.5, 2.0, 1.5])
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def soft_clients() -> st.SearchStrategy[Client]:
    """With soft targets, [n, C], each with a weight of its own; C = 2 for the one-logit head."""

    def make(seed: int, classes: int, examples: int, width: int, smooth: float) -> Client:
        client = make_client(seed, classes, examples, width)
        known = max(2, classes)
        weights = torch.rand(known, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
        rows = (1 - smooth) * torch.eye(known, dtype=torch.float64) + smooth / known
        return client._replace(labels=(rows * weights[:, None])[client.labels])

    return st.builds(make, st.integers(0, 2**31), HEADS, st.integers(2, 6), st.integers(2, 4), st.floats(0, 0.9))


def risk_twin(head: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    logits = features @ head.T
    if len(head) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    scores = logits.exp()
    return -(targets * (scores / scores.sum(1, keepdim=True)).log()).sum(1).mean()


def hessian_twin(head: Tensor, *data: Tensor) -> Tensor:
    return autograd_hessian(risk_twin)(head, *data).reshape(head.numel(), head.numel())


def each_gradient(head: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    return vmap(lambda row, target: grad(risk_twin)(head, row[None], target[None]))(features, targets)


TWINS: dict[str, Callable[..., Tensor]] = {
    "risk": risk_twin,
    "gradient": grad(risk_twin),
    "hessian_diagonal": lambda head, *data: hessian_twin(head, *data).diagonal().reshape(head.shape),
    "hessian": hessian_twin,
    "off_diagonal_energy": lambda head, *data: (
        hessian_twin(head, *data).square().sum() - hessian_twin(head, *data).diagonal().square().sum()
    ),
    "gradient_hessian_product": lambda head, *data: (
        hessian_twin(head, *data) @ grad(risk_twin)(head, *data).flatten()
    ).reshape(head.shape),
    "gradient_variance": lambda *client: each_gradient(*client).var(0, correction=0),
    "squared_gradient": lambda *client: each_gradient(*client).square().mean(0),
    "scale_gradient": lambda head, *data: grad(lambda scale: risk_twin(scale * head, *data))(head.new_ones(())),
}


@pytest.mark.parametrize("name", TWINS)
@settings(max_examples=15)
@given(client=soft_clients(), seed=st.integers(0, 1000))
def test_each_closed_form_of_soft_targets_is_autograds_with_its_gradient(name: str, client: Client, seed: int) -> None:
    def seen(statistic: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        live = [client.head.clone().requires_grad_(), client.features.clone().requires_grad_()]
        value = statistic(*live, client.labels)
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=value.dtype)
        return value, *torch.autograd.grad((value * weights).sum(), live, materialize_grads=True)

    for actual, expected in zip(seen(getattr(statistics, name)), seen(TWINS[name]), strict=True):
        assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("probes", [1, 40])
@given(client=soft_clients(), seed=st.integers(0, 1000))
def test_hutchinsons_estimate_of_soft_targets_is_that_of_their_hessian(client: Client, seed: int, probes: int) -> None:
    signs = sketches.draw_signs(seed, 1, probes, client.head.shape)
    flat = signs.flatten(1).double()
    expected = (flat * (flat @ hessian_twin(*client))).mean(0).reshape(client.head.shape)
    assert_close(sketches.hutchinson_diagonal(*client, signs), expected, **CLOSE)


@pytest.mark.parametrize("name", [name for name in TWINS if name != "hessian"])
@settings(max_examples=8)
@given(client=soft_clients())
def test_heads_that_are_not_linear_take_soft_targets_too(name: str, client: Client) -> None:
    def head(parameters: Mapping[str, Tensor], features: Tensor) -> Tensor:
        return features @ parameters["weight"].T

    value = getattr(nonlinear, name)(head, {"weight": client.head}, client.features, client.labels)
    assert_close(value.reshape(-1), TWINS[name](*client).reshape(-1), **CLOSE)


@given(client=soft_clients(), seed=st.integers(0, 1000))
def test_what_a_private_client_clips_has_the_closed_forms_as_its_mean(client: Client, seed: int) -> None:
    vector = torch.randn(client.head.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = measure(moments(), Batch.at(client.head, client.features, client.labels, vector))
    names = {"risk", "gradient", "hessian_diagonal", "squared_gradient", "scale_gradient", "accuracy"}
    for name in names:
        wanted = getattr(statistics, name)(*client)
        assert_close(found[name].mean().reshape(wanted.shape), wanted, **CLOSE)
    wanted = statistics.hessian_vector_product(*client, vector)
    assert_close(found["pooled_gradient_hessian_product"].mean(), wanted, **CLOSE)


@given(client=soft_clients())
def test_accuracy_and_somebodys_own_statistic_see_the_labels_behind_soft_targets(client: Client) -> None:
    head, features, targets = client
    piece = Piece(None, features, targets, Circumstances(0, 1, None, 1, {}))  # type: ignore[arg-type]
    assert torch.equal(piece.labels, targets.argmax(1))
    hits = statistics.accuracy(head, features, targets.argmax(1))
    assert torch.equal(statistics.accuracy(head, features, targets), hits)


def test_smoothing_is_torchs_and_weights_scale_each_example() -> None:
    labels, logits = torch.tensor([0, 2, 1, 1, 0]), torch.randn(5, 3, dtype=torch.float64)
    rows = target_rows(SOFT, 3, labels)
    smoothed = functional.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    expected = smoothed * torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)[labels]
    assert_close(cross_entropy.losses(logits, rows[labels]), expected, rtol=1e-12, atol=0)


def test_balanced_weights_make_the_classes_that_a_client_has_count_alike() -> None:
    labels = torch.tensor([0] * 6 + [2] * 2)
    weights = class_weights(TrainingConfig(class_weights="balanced"), 3, labels)
    assert weights[labels].sum() == len(labels)
    assert weights[0] * 6 == weights[2] * 2


# --- one loss on every way ---


def trained(training: TrainingConfig, name: str, privacy: PrivacyConfig | None = None) -> dict[str, Tensor]:
    problem = make_problem()
    task = Task(ROWS[name], training, SEED, privacy or PrivacyConfig())
    server = Server(task, dict(problem.model.named_parameters()))
    for number in (1, 2, 3):
        run_round(server, problem.clients(), number)
    return server.parameters


@pytest.mark.parametrize("weights", [[0.5, 2.0, 1.5], "balanced"])
@pytest.mark.parametrize("mode", ["synchronous", "local"])
@pytest.mark.parametrize("name", ["erm", "hgp", "exact_diagonal", "fishr", "irm", "vrex", "groupdro"])
def test_pieces_of_soft_targets_add_up(name: str, mode: str, weights: Any) -> None:
    training = TrainingConfig(mode=mode, label_smoothing=0.1, class_weights=weights, rounds=3)
    whole, pieces = (trained(training.model_copy(update={"chunk": chunk}), name) for chunk in (None, 5))
    assert_close(whole, pieces, **CLOSE)
    plain = trained(TrainingConfig(mode=mode, rounds=3), name)
    assert any(not torch.equal(value, plain[name]) for name, value in whole.items())


@pytest.mark.parametrize("name", ["erm", "exact_diagonal"])
def test_without_noise_and_clip_a_private_run_of_soft_targets_is_the_plain_one(name: str) -> None:
    open_handed = PrivacyConfig(
        protect="examples", noise_multiplier=1e-12, clip=1e6, statistics_clip=1e6, guard_heads=False
    )
    training = SOFT.model_copy(update={"rounds": 3, "optimizer": "sgd"})
    found = trained(training, name, open_handed)
    assert_close(found, trained(training, name), rtol=1e-5, atol=1e-5)


# --- what is refused ---


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"protect": "examples", "noise_multiplier": 1.0}, "which no noise covers; give a list of weights"),
        ({"secure_aggregation": True}, "which privacy.secure_aggregation hides; give a list of weights"),
    ],
)
def test_classes_are_not_balanced_by_counts_that_nobody_may_know(privacy: dict[str, Any], said: str) -> None:
    content = {"training": {"class_weights": "balanced"}, "recipe": "erm", "privacy": privacy}
    with pytest.raises(FedhaError, match=said):
        parse(content)
    with pytest.raises(FedhaError, match=said):
        Task(RECIPES["erm"], TrainingConfig(class_weights="balanced"), 0, PrivacyConfig(**privacy))
    parse({**content, "training": {"class_weights": [1, 2]}})


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"label_smoothing": 1}, "training.label_smoothing is 1: input should be less than 1"),
        ({"label_smoothing": -0.1}, "training.label_smoothing is -0.1"),
        ({"class_weights": "balance"}, "training.class_weights: it is 'balance'; give balanced, or a list"),
        ({"class_weights": [1, 0]}, "give balanced, or a list of numbers over 0"),
        ({"class_weights": ["1", "x"]}, "give balanced, or a list of numbers over 0"),
    ],
)
def test_other_softening_is_refused_in_a_sentence(training: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        parse({"training": training})


def test_weights_of_other_classes_are_refused_before_anything_is_trained() -> None:
    problem, training = make_problem(), TrainingConfig(class_weights=[1.0, 2.0])
    with pytest.raises(FedhaError, match="has 2 weights but the network tells 3 classes apart"):
        softening(training, problem.model, problem.domains[0].train)


def test_plain_labels_stay_as_they_are() -> None:
    problem = make_problem()
    labels = problem.domains[0].train.labels
    assert softening(TrainingConfig(), problem.model, problem.domains[0].train)(labels) is labels
