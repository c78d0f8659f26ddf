"""What a card computes is what a processor computes, and the same each time."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress

import torch
from sides import by_hand, networks, rounds
from torch import Tensor, nn

from card.stage import Stage
from fedha import cross_entropy
from fedha.config import TrainingConfig
from fedha.data.domain import Domain, Examples
from fedha.errors import FedhaError
from fedha.measurement import Circumstances, measure, view_head
from fedha.models import SplitModel
from fedha.models.gaussian import gaussian
from fedha.recipes import RECIPES
from fedha.table import STATISTICS

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}  # of a norm
WIDTH, SIZE, ROUNDS = 12, 40, 2
STEADY = [name for name, one in RECIPES.items() if not one.representation]  # a card draws other numbers
FEW = ("erm", "hgp", "hutchinson", "exact_diagonal", "irm", "fishr", "coral")  # of a head without closed forms


def check(stage: Stage) -> None:
    """Statistics, then rounds of every recipe, on the section's device against the processor.

    Raises:
        AssertionError: Something differs, or is not the same twice; all is tried before.
    """
    wrong = []
    for dtype in TOLERANCE:
        kind = str(dtype).removeprefix("torch.")
        wrong += told(stage, f"statistics, {kind}", measured, dtype)
        wrong += told(stage, f"rounds one by one, {kind}", lambda d, t: trained(d, t, together=False), dtype)
        wrong += told(stage, f"rounds together, {kind}", lambda d, t: trained(d, t, together=True), dtype)
        wrong += told(stage, f"local steps, {kind}", local, dtype)
    # in float64 alone: Adam's first step is each gradient's sign, which rounding turns where it is nearly 0
    wrong += told(stage, "steps of the hand-written loop, float64", against_hand, torch.float64, ours_only=True)
    wrong += same_twice(stage)
    assert not wrong, "; ".join(wrong)


def told(
    stage: Stage,
    key: str,
    compute: Callable[[torch.device, torch.dtype], Mapping[str, Tensor]],
    dtype: torch.dtype,
    *,
    ours_only: bool = False,
) -> list[str]:
    """Compare what one function gives on the card with the processor's float64, and say the largest difference.

    Returns:
        What is beyond the tolerance: the largest difference, if it is.
    """
    card, cpu = compute(stage.device, dtype), torch.device("cpu")
    exact = (
        {name: torch.zeros_like(value) for name, value in card.items()} if ours_only else compute(cpu, torch.float64)
    )
    apart = {name: distance(value, exact[name], absolute=ours_only) for name, value in card.items()}
    worst = max(apart, key=lambda name: apart[name])
    told = {"compared": len(apart), "largest difference": apart[worst], "of": worst}
    if dtype != torch.float64:  # is it the card that rounds so, or is it the arithmetic?
        told["the processor's there"] = distance(compute(cpu, dtype)[worst], exact[worst])
    stage.say(key, told)
    return [] if apart[worst] <= TOLERANCE[dtype] else [f"{key}: {worst} differs by {apart[worst]:.2e}"]


def distance(one: Tensor, other: Tensor, *, absolute: bool = False) -> float:
    """Norm of the difference, over the other's norm; NaN counts as infinite."""
    one, other = one.double().cpu(), other.double().cpu()
    apart = float((one - other).norm() / (1 if absolute else max(float(other.norm()), 1e-30)))
    return apart if apart == apart else float("inf")


def networks_of(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, SplitModel]]:
    """A linear head, which has closed forms, and one that goes through torch.func."""
    for name, deep in (("linear", False), ("deep", True)):
        torch.manual_seed(3)
        head = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)) if deep else nn.Linear(6, 4)
        body = nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh())
        yield name, SplitModel(body, head).to(device, dtype)


def domains(device: torch.device, dtype: torch.dtype, count: int = 3, size: int = SIZE) -> list[Domain]:
    """Domains with some structure, the same on every device."""
    draws, found = torch.Generator().manual_seed(5), []
    for place in range(count):
        inputs = torch.randn(size, WIDTH, generator=draws, dtype=torch.float64) + place / 2
        labels = torch.randint(0, 4, (size,), generator=draws)
        some = Examples(inputs.to(device, dtype), labels.to(device))
        found.append(Domain(f"d{place}", some, some.select(slice(0, 2))))
    return found


def measured(device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every statistic of both heads; those of Gaussians on the linear one alone, which can be had with draws."""
    found = {}
    for kind, model in networks_of(device, dtype):
        for name, row in STATISTICS.items():
            if row.representation != "gaussian":
                found[f"{name}, {kind}"] = one_statistic(name, model, device, dtype)
            elif kind == "linear":
                found[f"{name}, {kind}"] = one_statistic(name, drawn_features(model), device, dtype)
    return found


def one_statistic(name: str, model: SplitModel, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Of one domain, along a direction that has no row like another: of equal ones the Hessian makes zero."""
    (domain,) = domains(device, dtype, 1)
    view = view_head(model, {name: value.detach() for name, value in model.named_parameters()})
    features = view.prepare(model.featurizer(domain.train.take())).detach()
    direction = torch.linspace(-1, 2, math.prod(view.shape), dtype=torch.float64).view(view.shape).sin()
    around = Circumstances(0, 1, "d0", 8, {"gradient": direction.to(device, dtype)})
    with cross_entropy.shared():
        return measure(name, view, features, domain.train.labels, around).detach()


def trained(device: torch.device, dtype: torch.dtype, *, together: bool) -> dict[str, Tensor]:
    """The parameters after some rounds of each recipe that draws nothing, in minibatches; one by one also in pieces."""
    found, whole = {}, 3 * SIZE
    for kind, model in networks_of(device, dtype):
        for recipe in STEADY if kind == "linear" else FEW:
            for chunk in (whole,) if together or dtype == torch.float32 else (whole, 7):
                key = f"{recipe}, {kind}, pieces of {chunk}"
                # some statistics cannot be in pieces, and some recipes' clients not together
                with suppress(FedhaError) if together or chunk < whole else nullcontext():
                    found |= after(model, domains(device, dtype), recipe, sgd(chunk), key, together=together)
    return found


def drawn_features(model: SplitModel) -> SplitModel:
    """The same network with a Gaussian of each example for its features, the same each time."""
    torch.manual_seed(4)
    return gaussian(model)


def sgd(chunk: int) -> TrainingConfig:
    """Plain steps, which do not enlarge the rounding of small gradients as Adam does."""
    return TrainingConfig(rounds=ROUNDS, optimizer="sgd", learning_rate=0.05, batch_size=16, chunk=chunk)


def after(
    model: SplitModel, sources: list[Domain], recipe: str, training: TrainingConfig, key: str, *, together: bool
) -> dict[str, Tensor]:
    """The parameters after some rounds, by the run's key and their name."""
    course = rounds.plain(model, sources, recipe, training, together=together)
    for _ in range(ROUNDS):
        server = next(course)
    return {f"{key}: {name}": value.detach().clone() for name, value in server.parameters.items()}


def local(device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same of local steps, together and one by one."""
    own = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2}
    training = TrainingConfig(mode="local", rounds=rounds.ENDLESS, local=own)
    found = {}
    for recipe in ("erm", "exact_diagonal", "hgp"):
        for together in (True, False):
            _, model = next(networks_of(device, dtype))
            key = f"{recipe}, {'together' if together else 'one by one'}"
            found |= after(model, domains(device, dtype), recipe, training, key, together=together)
    return found


def against_hand(device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """A round's parameters minus those after the hand-written loop's step, for every recipe that it has."""
    found = {}
    for recipe in by_hand.BY_HAND:
        sources = domains(device, dtype)
        _, mine = next(networks_of(device, dtype))
        server = next(rounds.plain(mine, sources, recipe, rounds.synchronous(None, 1e-3), together=True))
        _, other = next(networks_of(device, dtype))
        next(by_hand.steps(other, sources, recipe, SIZE, 1e-3))
        for name, value in other.named_parameters():
            found[f"{recipe}: {name}"] = server.parameters[name] - value.detach()
    return found


def same_twice(stage: Stage) -> list[str]:
    """Two trainings give the same bits; convolutions are only told of, whose sums a card may take in any order."""
    wrong = []
    for name, make, shape in (("mlp", lambda: networks.mlp(48, 16), (3, 4, 4)), ("cnn", networks.cnn, (3, 16, 16))):
        seen = []
        for _ in range(2):
            sources = networks.images(3, 24, shape, stage.device)
            training = rounds.synchronous(8, 1e-3, 24)
            seen.append(after(make().to(stage.device), sources, "hgp", training, name, together=True))
        apart = [key for key, value in seen[0].items() if not torch.equal(value, seen[1][key])]
        stage.say(f"same twice, {name}", {"parameters": len(seen[0]), "that differ": len(apart)})
        wrong += [f"{name} gives other bits the second time in {apart[0]}"] if apart and name != "cnn" else []
    return wrong
