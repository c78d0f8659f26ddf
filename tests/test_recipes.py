"""Every recipe keeps the laws, and its update is the gradient of its paper's objective, written again with autograd.

The published objectives below see all domains at once and use nothing of `fedha.statistics`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import yaml
from flwr.app import ConfigRecord, Message
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call, hessian, vmap
from torch.func import grad as grad_of
from torch.nn import functional
from torch.testing import assert_close

from fedha.client import Client
from fedha.config import LocalConfig, ModelConfig, RecipeConfig, TrainingConfig, parse
from fedha.data.domain import Domain, Examples
from fedha.engine.inline import InlineGrid
from fedha.exchange import Task
from fedha.federation import Server, run_round
from fedha.flower import HessianAlignment, client_app
from fedha.flower.wire import pack_tensors
from fedha.measurement import Circumstances, measure, view_head
from fedha.models import SplitModel, build
from fedha.random_features import KERNELS, frequencies
from fedha.recipes import RECIPES, Recipe, Term
from fedha.registry import statistic
from fedha.report.tables import bytes_per_round
from fedha.sketches import draw_signs

SEED = 7
PARTS = ("featurizer.", "head.")
PROBES = 5
SGD = TrainingConfig(rounds=10, optimizer="sgd", learning_rate=0.1)
LOCAL = TrainingConfig(mode="local", rounds=10, local=LocalConfig(steps=2, learning_rate=0.1))

CUSTOM = parse(yaml.safe_load("recipe: {name: mine, align: {gradient: 0.5, feature_mean: 2.0, risk: 3.0}}"))
# those that change a client's step, whatever is aligned, are in test_steps_changed.py; FedSR's network in test_fedsr.py
_APART = ("mixup_alpha", "sam_radius", "representation")
ROWS = {name: row for name, row in RECIPES.items() if not any(getattr(row, key) for key in _APART)}
ROWS["mine"] = CUSTOM.recipe[0].resolve()


# --- problems ---


@dataclass(frozen=True)
class Problem:
    """A small network and a few domains that differ."""

    model: SplitModel
    domains: tuple[Domain, ...]

    def clients(self) -> list[Client]:
        return [Client(place, domain, self.model) for place, domain in enumerate(self.domains)]

    def server(self, recipe: Recipe, training: TrainingConfig) -> Server:
        return Server(Task(recipe, training, SEED), dict(self.model.named_parameters()))

    def train(self, recipe: Recipe, training: TrainingConfig, rounds: int) -> dict[str, Tensor]:
        server, clients = self.server(recipe, training), self.clients()
        for number in range(1, rounds + 1):
            run_round(server, clients, number)
        return server.parameters


def make_domain(name: str, seed: int, examples: int, classes: int, precision: torch.dtype = torch.float64) -> Domain:
    draws = torch.Generator().manual_seed(seed)
    inputs = (1 + 0.3 * seed) * torch.randn(examples, 4, generator=draws, dtype=torch.float64) + 0.4 * seed
    labels = torch.randint(0, classes, (examples,), generator=draws)
    return Domain(name, Examples(inputs.to(precision), labels), Examples(inputs[:3].to(precision), labels[:3]))


def make_problem(head: str = "three classes", precision: str = "float64") -> Problem:
    classes = 2 if head == "one logit" else 3
    layers = [4] if head == "network" else []
    config = ModelConfig(hidden=[5], head_hidden=layers, one_logit=head == "one logit", precision=precision)
    sizes = (12, 17, 14)
    domains = (make_domain(f"d{k}", k, n, classes, getattr(torch, precision)) for k, n in enumerate(sizes))
    return Problem(build(config, (4,), classes, SEED), tuple(domains))


def make_twins() -> Problem:
    """Three clients with different names and the same data."""
    problem = make_problem()
    return replace(problem, domains=tuple(replace(problem.domains[1], name=name) for name in ("a", "b", "c")))


# --- what the papers minimise ---


@dataclass(frozen=True)
class Live:
    """All domains at one model with their graph, and what the method remembers of earlier rounds."""

    head: Tensor  # [C, D], the bias in the last column; [P] for a head that is a network
    logits: Callable[[Tensor, Tensor], Tensor]  # of (head, features)
    features: list[Tensor]  # [n, D - 1] a domain
    labels: list[Tensor]
    names: list[str]
    round: int
    memory: dict[str, Any]

    def losses(self, place: int, head: Tensor) -> Tensor:
        return example_losses(self.logits(head, self.features[place]), self.labels[place])

    def risks(self) -> list[Tensor]:
        return [self.losses(place, self.head).mean() for place in range(len(self.names))]

    def pooled(self) -> Tensor:
        return mean(self.risks())

    def gradients(self) -> list[Tensor]:
        return [derivative(risk, self.head) for risk in self.risks()]

    def hessians(self) -> list[Tensor]:
        size = self.head.numel()
        return [
            hessian(lambda head, k=k: self.losses(k, head).mean())(self.head).reshape(size, size)
            for k in range(len(self.names))
        ]


def example_losses(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits), reduction="none")
    return functional.cross_entropy(logits, labels, reduction="none")


def derivative(value: Tensor, at: Tensor) -> Tensor:
    return grad(value, at, create_graph=True)[0]


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


def spread(values: Sequence[Tensor], reference: Tensor) -> Tensor:
    return mean([(value - reference).square().sum() for value in values])


def no_penalty(live: Live) -> Tensor:
    return live.head.new_zeros(())


def hgp(live: Live) -> Tensor:
    def products(risk: Tensor) -> tuple[Tensor, Tensor]:
        gradient = derivative(risk, live.head)
        return gradient, gradient.norm() * derivative(gradient.norm(), live.head)

    gradients, curvatures = zip(*map(products, live.risks()), strict=True)
    pooled = products(live.pooled())
    return spread(gradients, pooled[0].detach()) + spread(curvatures, pooled[1].detach())


def hutchinson(live: Live, shared: bool = False) -> Tensor:
    def estimate(risk: Tensor, owner: str) -> Tensor:
        gradient = derivative(risk, live.head)
        signs = draw_signs(SEED, live.round, PROBES, live.head.shape, None if shared else owner).to(live.head)
        return mean([sign * derivative((gradient * sign).sum(), live.head) for sign in signs])

    estimates = [estimate(risk, f"client {name}") for risk, name in zip(live.risks(), live.names, strict=True)]
    pooled = derivative(live.pooled(), live.head).detach()
    return spread(live.gradients(), pooled) + spread(estimates, estimate(live.pooled(), "reference").detach())


def hutchinson_expected(live: Live) -> Tensor:
    shrinkage = mean([off_diagonal(one).square().sum() for one in live.hessians()])
    return exact_diagonal(live) + shrinkage / PROBES


def hutchinson_shared_expected(live: Live) -> Tensor:
    rest = [off_diagonal(one) for one in live.hessians()]
    return exact_diagonal(live) + spread(rest, mean(rest)) / PROBES


def exact_diagonal(live: Live) -> Tensor:
    diagonals = [one.diagonal() for one in live.hessians()]
    return iga(live) + spread(diagonals, mean(diagonals))


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix * (1 - torch.eye(len(matrix), dtype=matrix.dtype))


def irm(live: Live) -> Tensor:
    scale = torch.ones((), dtype=live.head.dtype, requires_grad=True)
    logits = [live.logits(live.head, features) * scale for features in live.features]
    risks = [example_losses(*one).mean() for one in zip(logits, live.labels, strict=True)]
    return mean([derivative(risk, scale).square() for risk in risks])


def vrex(live: Live) -> Tensor:
    return torch.stack(live.risks()).var(correction=0)


def iga(live: Live) -> Tensor:
    gradients = live.gradients()
    return spread(gradients, mean(gradients))


def fish(live: Live) -> Tensor:
    gradients = torch.stack(live.gradients()).flatten(1)
    count = len(gradients)
    products = gradients @ gradients.T
    return -(products.sum() - products.trace()) / (count * (count - 1))


def fishr(live: Live, decay: float = 0.95) -> Tensor:
    """DomainBed's: a moving average of each domain's variance, corrected by 1 / (1 - decay)."""
    averages = []
    for place in range(len(live.names)):

        def one_loss(head: Tensor, features: Tensor, label: Tensor) -> Tensor:
            return example_losses(live.logits(head, features[None]), label[None])[0]

        each = vmap(grad_of(one_loss), in_dims=(None, 0, 0))(live.head, live.features[place], live.labels[place])
        variance = (each - each.mean(0)).square().mean(0)
        average = decay * live.memory.get(place, 0.0) + (1 - decay) * variance
        live.memory[place] = average.detach()
        averages.append(average / (1 - decay))
    return mean([(average - mean(averages)).square().mean() for average in averages])


def coral(live: Live) -> Tensor:
    """DomainBed's: over pairs of domains. The row's sum to the mean, times 2 E / (E - 1), is the same."""
    pairs = [(a, b) for place, a in enumerate(live.features) for b in live.features[place + 1 :]]
    means = [(a.mean(0) - b.mean(0)).square().mean() for a, b in pairs]
    covariances = [(a.T.cov() - b.T.cov()).square().mean() for a, b in pairs]
    count = len(live.names)
    return (mean(means) + mean(covariances)) * (count - 1) / (2 * count)


def fediir(live: Live, decay: float = 0.95) -> Tensor:
    gradients = live.gradients()
    moved = decay * live.memory.get("gradient", 0.0) + (1 - decay) * mean(gradients).detach()
    live.memory["gradient"] = moved
    return spread(gradients, moved)


def cma(live: Live) -> Tensor:
    gradients, hessians, size = live.gradients(), live.hessians(), live.head.numel()
    return spread(gradients, mean(gradients)) / size + spread(hessians, mean(hessians)) / size**2


def cma_diagonal(live: Live) -> Tensor:
    diagonals, size = [one.diagonal() for one in live.hessians()], live.head.numel()
    return (spread(live.gradients(), mean(live.gradients())) + spread(diagonals, mean(diagonals))) / size


def mmd(live: Live) -> Tensor:
    return distance_of_features(live, "representation", live.features)


def rdm(live: Live) -> Tensor:
    return distance_of_features(live, "losses", [live.losses(k, live.head)[:, None] for k in range(len(live.names))])


def distance_of_features(live: Live, what: str, values: list[Tensor]) -> Tensor:
    """By random features of the round; that they stand for the kernels is `test_random_features`."""
    width = values[0].shape[1]
    drawn = frequencies(SEED, live.round, what, KERNELS[what], PROBES, width).flatten(0, 1)
    phases = [one @ drawn.T for one in values]
    means = [torch.cat([one.cos(), one.sin()], 1).mean(0) / PROBES**0.5 for one in phases]
    return spread(means, mean(means))


def mine(live: Live) -> Tensor:
    centres = [features.mean(0) for features in live.features]
    return 0.5 * iga(live) + 2 * spread(centres, mean(centres)) + 3 * vrex(live)


PENALTIES: dict[str, Callable[[Live], Tensor]] = {
    "erm": no_penalty,
    "hgp": hgp,
    "hutchinson": hutchinson,
    "hutchinson_shared": lambda live: hutchinson(live, shared=True),
    "hutchinson_expected": hutchinson_expected,
    "hutchinson_shared_expected": hutchinson_shared_expected,
    "exact_diagonal": exact_diagonal,
    "irm": irm,
    "vrex": vrex,
    "iga": iga,
    "fish": fish,
    "fishr": fishr,
    "coral": coral,
    "mmd": mmd,
    "rdm": rdm,
    "groupdro": no_penalty,
    "afl": no_penalty,
    "fediir": fediir,
    "cma": cma,
    "cma_diagonal": cma_diagonal,
    "mine": mine,
}


def look(problem: Problem, parameters: dict[str, Tensor], round: int, memory: dict[str, Any]) -> Live:
    """All domains at these parameters, which require gradients."""
    own = {part: {n.removeprefix(part): v for n, v in parameters.items() if n.startswith(part)} for part in PARTS}
    featurizer, head = own["featurizer."], own["head."]

    def linear(matrix: Tensor, features: Tensor) -> Tensor:
        return features @ matrix[:, :-1].T + matrix[:, -1]

    def network(flat: Tensor, features: Tensor) -> Tensor:
        pieces = torch.split(flat, [value.numel() for value in head.values()])
        weights = {name: piece.reshape(head[name].shape) for name, piece in zip(head, pieces, strict=True)}
        return functional_call(problem.model.head, weights, (features,))

    if isinstance(problem.model.head, nn.Linear):
        point, logits = torch.cat([head["weight"], head["bias"][:, None]], 1), linear
    else:
        point, logits = torch.cat([value.flatten() for value in head.values()]), network
    return Live(
        point,
        logits,
        [functional_call(problem.model.featurizer, featurizer, (d.train.inputs,)) for d in problem.domains],
        [domain.train.labels for domain in problem.domains],
        [domain.name for domain in problem.domains],
        round,
        memory,
    )


def objective(name: str, live: Live, weight: float, step_size: float = 0.01) -> Tensor:
    """The centralised objective: the mean risk, or group DRO's worst-case mixture, plus the weighted penalty."""
    risks = torch.stack(live.risks())
    if name == "groupdro":
        mixture = (
            live.memory.get("mixture", torch.full_like(risks, 1 / len(risks))) * (step_size * risks.detach()).exp()
        )
        live.memory["mixture"] = mixture / mixture.sum()
        return live.memory["mixture"] @ risks
    if name == "afl":
        mixture = live.memory.get("mixture", torch.full_like(risks, 1 / len(risks))) + step_size * risks.detach()
        live.memory["mixture"] = mixture - (mixture.sum() - 1) / len(risks)  # within the simplex: all stay positive
        return live.memory["mixture"] @ risks
    return risks.mean() + weight * PENALTIES[name](live)


def leaves(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}


def rounds_of(problem: Problem, recipe: Recipe, count: int) -> Iterator[tuple[int, dict[str, Tensor], dict, dict]]:
    """Rounds of the federation: number, parameters before, mean update, and the round's record."""
    server, clients = problem.server(recipe, SGD), problem.clients()
    for number in range(1, count + 1):
        before = leaves(server.parameters)
        record = run_round(server, clients, number)
        update = {name: (before[name].detach() - v) / SGD.learning_rate for name, v in server.parameters.items()}
        yield number, before, update, record


@pytest.mark.parametrize("head", ["three classes", "one logit", "network"])
@pytest.mark.parametrize("name", ROWS)
def test_mean_update_is_the_gradient_of_the_published_objective(name: str, head: str) -> None:
    problem, memory, weight = make_problem(head), {}, 1.7
    recipe = replace(ROWS[name], weight=weight, probes=PROBES)
    for number, before, update, record in rounds_of(problem, recipe, 4):
        loss = objective(name, look(problem, before, number, memory), weight)
        gradients = dict(zip(before, grad(loss, list(before.values())), strict=True))
        assert_close(update, gradients, rtol=1e-10, atol=1e-12)
        if name not in ("groupdro", "afl"):  # their record holds the plain mean over clients, as every recipe's does
            assert record["loss"] == pytest.approx(loss.item(), rel=1e-10)
        plain = grad(look(problem, before, number, {}).pooled(), list(before.values()))
        felt = max(float((a - b).abs().max()) for a, b in zip(gradients.values(), plain, strict=True))
        assert name == "erm" or felt > 1e-6, "the penalty is too small here to test anything"


def test_group_dro_weighs_by_step_size() -> None:
    problem, memory = make_problem(), {}
    recipe = RecipeConfig(name="groupdro", step_size=2.0).resolve()
    for number, before, update, _ in rounds_of(problem, recipe, 5):
        loss = objective("groupdro", look(problem, before, number, memory), 1.0, step_size=2.0)
        assert_close(list(update.values()), list(grad(loss, list(before.values()))), rtol=1e-10, atol=1e-12)
    assert max(memory["mixture"]) > 0.5  # far from uniform: the weights have moved


# --- laws ---


@pytest.mark.parametrize("training", [SGD, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", ROWS)
def test_zero_weights_are_erm(name: str, training: TrainingConfig) -> None:
    problem = make_problem()
    expected = problem.train(RECIPES["erm"], training, 3)
    without_weight = replace(ROWS[name], weight=0.0, step_size=0.0, probes=PROBES)
    without_terms = replace(
        ROWS[name], terms=tuple(replace(term, weight=0.0) for term in ROWS[name].terms), step_size=0.0
    )
    for recipe in (without_weight, without_terms):
        assert_close(problem.train(recipe, training, 3), expected, rtol=0, atol=1e-15)
    assert without_terms.exchanges == 1


@pytest.mark.parametrize("name", ROWS)
def test_identical_clients_feel_no_pull_but_where_the_row_says_why(name: str) -> None:
    twins = make_twins()
    recipe = replace(ROWS[name], weight=1.7, probes=PROBES)
    expected = twins.train(RECIPES["erm"], SGD, 3)
    distance = max(float((v - expected[k]).abs().max()) for k, v in twins.train(recipe, SGD, 3).items())
    if recipe.pull:
        assert distance > 1e-4
    else:
        assert distance < 1e-12


@pytest.mark.parametrize("training", [SGD, LOCAL], ids=["synchronous", "local"])
@pytest.mark.parametrize("name", ROWS)
def test_the_order_of_clients_is_immaterial(name: str, training: TrainingConfig) -> None:
    problem = make_problem()
    turned = replace(problem, domains=tuple(problem.domains[place] for place in (2, 0, 1)))
    sharp = any(statistic(term.statistic).sampled for term in ROWS[name].terms)  # kernels that magnify rounding
    recipe = replace(ROWS[name], weight=0.02 if sharp else 1.7, probes=PROBES)
    for averaging in ("domains", "examples"):
        by_rule = training.model_copy(update={"averaging": averaging})
        assert_close(turned.train(recipe, by_rule, 3), problem.train(recipe, by_rule, 3), rtol=0, atol=1e-12)


# --- why identical clients feel a pull, where they do ---


def pull_on_twins(recipe: Recipe) -> tuple[Live, list[Tensor], list[Tensor]]:
    """Identical clients before the first round, the parameters, and the recipe's update beyond ERM's."""
    twins = make_twins()
    (_, before, update, _), *_ = rounds_of(twins, recipe, 1)
    live = look(twins, before, 1, {})
    plain = grad(live.pooled(), list(before.values()), retain_graph=True)
    return live, list(before.values()), [u - p for u, p in zip(update.values(), plain, strict=True)]


def gradient_of(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    found = grad(value, parameters, retain_graph=True, materialize_grads=True)
    return list(found)


def test_fish_pulls_identical_clients_to_a_larger_gradient() -> None:
    live, parameters, pull = pull_on_twins(RECIPES["fish"])
    growth = gradient_of(-live.gradients()[0].square().sum(), parameters)
    assert_close(pull, growth, rtol=1e-9, atol=1e-11)


def test_irm_pulls_identical_clients_because_its_target_is_zero() -> None:
    live, parameters, pull = pull_on_twins(RECIPES["irm"])
    assert_close(pull, gradient_of(irm(live), parameters), rtol=1e-9, atol=1e-11)
    to_the_mean = Recipe("irm to the mean", (Term("scale_gradient"),))
    _, _, pull = pull_on_twins(to_the_mean)
    assert max(float(one.abs().max()) for one in pull) < 1e-12


def test_hutchinson_expected_pulls_identical_clients_to_less_curvature_as_one_over_probes() -> None:
    for probes in (2, 20):
        live, parameters, pull = pull_on_twins(replace(RECIPES["hutchinson_expected"], probes=probes))
        shrinkage = gradient_of(off_diagonal(live.hessians()[0]).square().sum() / probes, parameters)
        assert_close(pull, shrinkage, rtol=1e-9, atol=1e-11)


def test_hutchinson_pulls_identical_clients_because_their_signs_differ() -> None:
    twins = make_twins()
    parameters = dict(twins.model.named_parameters())
    view = view_head(twins.model, parameters)
    examples = twins.domains[0].train
    features = view.prepare(twins.model.featurizer(examples.inputs))

    def diagonal(statistic: str, client: str) -> Tensor:
        around = Circumstances(SEED, 1, client, PROBES, {})
        return measure(statistic, view, features, examples.labels, around)

    assert torch.equal(diagonal("hessian_diagonal", "a"), diagonal("hessian_diagonal", "b"))
    assert torch.equal(diagonal("hutchinson_diagonal_shared", "a"), diagonal("hutchinson_diagonal_shared", "b"))
    assert not torch.allclose(diagonal("hutchinson_diagonal", "a"), diagonal("hutchinson_diagonal", "b"))


def test_fediir_pulls_identical_clients_because_its_moving_average_starts_at_zero() -> None:
    live, parameters, pull = pull_on_twins(RECIPES["fediir"])
    gradient = live.gradients()[0]
    lag = gradient_of((gradient - 0.05 * gradient.detach()).square().sum(), parameters)
    assert_close(pull, lag, rtol=1e-9, atol=1e-11)
    _, _, pull = pull_on_twins(RecipeConfig(name="fediir", moving_average=0.0).resolve())
    assert max(float(one.abs().max()) for one in pull) < 1e-12


# --- what a row costs ---


class Counting(InlineGrid):
    """Counts requests, and the bytes of the tensors in them and in their replies."""

    sent = tensors_down = tensors_up = 0

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        asked = list(messages)
        self.sent += len(asked)
        self.tensors_down += sum(map(tensor_bytes, asked))
        return list(super().push_messages(asked))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = list(super().pull_messages(message_ids))
        self.tensors_up += sum(map(tensor_bytes, replies))
        return replies


def tensor_bytes(message: Message) -> int:
    records = message.content.array_records.values()
    return sum(array.numpy().nbytes for record in records for array in record.values())


@pytest.mark.parametrize("name", ROWS)
def test_a_round_costs_the_exchanges_and_bytes_of_the_table(name: str) -> None:
    problem = make_problem()
    recipe = replace(ROWS[name], probes=PROBES)
    parameters = dict(problem.model.named_parameters())
    grid = Counting(client_app(lambda _: problem.model, lambda c: problem.domains[c.node_config["partition-id"]]), 3)
    strategy = HessianAlignment(recipe, SGD, seed=SEED, clients=3)
    messages = strategy.configure_train(1, pack_tensors(parameters), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(messages))
    down, up = bytes_per_round(recipe, 3, 6, sum(v.numel() for v in parameters.values()), number=8)
    introductions = 3  # once a run
    assert (grid.sent - introductions, grid.tensors_down, grid.tensors_up) == (3 * recipe.exchanges, 3 * down, 3 * up)
    assert recipe.exchanges == {"erm": 1, "irm": 1, "groupdro": 1, "afl": 1, "hgp": 3}.get(name, 2)
