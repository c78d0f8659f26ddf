"""Claims are claims: no epsilon that is measured passes the one that is claimed, and some come near.

Neighbours differ in one example, in whose place is one that is not finite and adds nothing: n is public. Whoever
measures knows all else, chose scales, clips, directions and batches, and takes the best test there is.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from fedha.client import Client
from fedha.client_state import ClientState
from fedha.config import LARGEST, SMALLEST, LocalConfig, PrivacyConfig, TrainingConfig
from fedha.data.domain import Domain
from fedha.data.examples import Examples
from fedha.exchange import Request, Task
from fedha.models.split import SplitModel
from fedha.privacy import gate
from fedha.privacy.answers import evaluate_privately, release_statistics, train_privately
from fedha.privacy.client_level import private_mean
from fedha.privacy.clipping import private_means
from fedha.privacy.dpsgd import private_gradient
from fedha.privacy.ledger import Ledger, Release
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Moment
from fedha.privacy.noise import Source, cryptographic, seeded
from fedha.privacy.sampling import Sampling, draw_batches
from fedha.privacy.shape import evaluation_release, round_shape
from fedha.privacy.site import Site
from fedha.privacy.surrogate import risk_loss
from fedha.recipes import Recipe, Term
from tests.privacy.lower_bounds import assert_claim, bound, flat, measured

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

from fedha.privacy.accounting import spent

DELTA = 5e-3  # below one over the examples here; at a smaller one, claims are larger and measured bounds are not
LONG = (pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600))
SIZES = [pytest.param(800, id="quick"), pytest.param(20_000, id="long", marks=LONG)]
NOISE = 0.6


def sources(kind: str) -> Callable[[], Source]:
    """One source a release: a site's, or a simulation's, whose seed nobody knows here."""
    number = iter(range(10**9))
    return cryptographic if kind == "site" else lambda: seeded(next(number), "lower bounds")


def claimed(population: int, *made: tuple[Release, int]) -> float:
    return spent(Ledger("example", population, made), DELTA).epsilon


def nearness(trials: int) -> float:
    """By what factor a bound may miss a claim that is reached: what is rarer than one in so many is not seen."""
    return 3.0 if trials > 1000 else 6.0


# --- the bound itself ---


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    """0 of n: 1 - (alarm)^(1 / n); n of n: its complement."""
    assert bound(100, 0, 100, 0.0) == pytest.approx(math.log(0.005**0.01 / (1 - 0.005**0.01)))
    assert bound(0, 0, 100, 0.0) == 0.0
    assert bound(50, 50, 100, 0.0) < 0


def test_a_mechanism_that_adds_less_noise_than_it_says_is_found_out() -> None:
    """Half the deviation: 1.5 claimed, more is measured. A test that cannot fail would measure nothing."""
    release = Release(3.0, "whole", 10)
    draw = sources("simulation")
    found = measured(lambda there: float(there) / 1.0 + float(draw().normal(1, torch.float64)), 1.0, 3000, DELTA)
    assert found < claimed(10, (Release(1.0, "whole", 10), 1))
    assert found > 0.9 * claimed(10, (release, 1))


# --- each mechanism ---

CRAFTED = {
    "plain": (1.0, 1.0, 1.0),
    "the smallest clip and the largest scale": (SMALLEST, LARGEST, 1.0),
    "squares that vanish": (SMALLEST, LARGEST, 1e-23),
    "subnormal weights": (SMALLEST, LARGEST, 1e15),
    "the largest clip": (LARGEST, LARGEST, 1e17),
    "the smallest scale": (1.0, SMALLEST, 1e18),
}


@pytest.mark.parametrize("trials", SIZES)
@pytest.mark.parametrize(("name", "kind"), [("plain", "simulation"), *((name, "site") for name in CRAFTED)])
def test_an_exchange_of_statistics_tells_no_more_than_its_account(name: str, kind: str, trials: int) -> None:
    clip, scale, size = CRAFTED[name]
    draws, draw = torch.Generator().manual_seed(0), sources(kind)
    right = torch.rand(100, 8, generator=draws) * size
    right[-1] = right[-1].flip(0) * 1.5
    absent = torch.zeros(100, dtype=torch.bool)
    absent[-1] = True
    whole = {"feature_mean": Moment(torch.ones(100, 1), right)}
    without = {"feature_mean": whole["feature_mean"].without(absent)}
    scales, unit = {"feature_mean": scale}, 100 / clip

    def sent(there: bool, noise: float) -> Tensor:
        return unit * flat(
            private_means(whole if there else without, Mechanism(clip, noise, 100), draw(), scales), scales
        )

    base = sent(False, 0.0)
    moved = sent(True, 0.0) - base
    length = float(moved.norm())
    assert length <= 1 + 1e-12 or kind == "simulation"
    along = moved / max(length, 1e-300)
    found = measured(lambda there: float((sent(there, NOISE) - base) @ along) / NOISE, length / NOISE, trials, DELTA)
    claim = claimed(100, (Release(NOISE, "whole", 100), 1))
    assert_claim(found, claim, nearness(trials) if name in ("plain", "subnormal weights") else None)


@pytest.mark.parametrize(
    ("batch", "kind", "trials"),
    [
        (6, "site", 100),
        (12, "simulation", 600),
        *(pytest.param(batch, kind, 8000, marks=LONG) for batch in (1, 6, 12) for kind in ("simulation", "site")),
    ],
)
def test_a_step_of_poisson_batches_tells_no_more_than_its_account(batch: int, kind: str, trials: int) -> None:
    torch.manual_seed(0)
    model, draw = SplitModel(nn.Flatten(), nn.Linear(3, 1)), sources(kind)
    inputs, labels = torch.randn(12, 3), torch.randint(0, 2, (12,))
    absent = inputs.clone()
    absent[-1] = math.nan
    parameters, mechanism, noise = dict(model.named_parameters()), Mechanism(1e-3, NOISE, batch), NOISE

    def sent(there: bool, how: Mechanism, rows: Tensor) -> Tensor:
        some = private_gradient(
            risk_loss(model), parameters, (inputs if there else absent)[rows], labels[rows], how, draw()
        )
        return flat(some) * (batch / 1e-3)

    everybody = torch.arange(12)
    still = replace(mechanism, noise_multiplier=0.0)
    along = sent(True, still, everybody) - sent(False, still, everybody)
    along /= along.norm()
    sampling = Sampling("poisson", batch, 12)

    def output(there: bool) -> float:
        (rows,) = draw_batches(sampling, 1, draw())
        return float((sent(there, mechanism, rows) - sent(False, still, rows)) @ along) / noise

    found = measured(output, 1 / noise, trials, DELTA, drawn=batch / 12)
    claim = claimed(12, (Release(noise, "poisson", batch), 1))
    assert_claim(found, claim, nearness(trials) if batch == 12 else None)


@pytest.mark.parametrize("trials", SIZES)
def test_a_mean_over_clients_tells_no_more_than_its_account(trials: int) -> None:
    draw, mechanism = sources("site"), Mechanism(0.5, NOISE, 5)
    others = [{"w": torch.full((3,), float(place))} for place in range(4)]

    def output(there: bool) -> float:
        mine = {"w": torch.full((3,), 1e9 if there else math.nan)}
        noisy = private_mean([*others, mine], mechanism, draw())["w"]
        return float(noisy.double().sum()) / math.sqrt(3) * 10 / NOISE - 10 * middle / NOISE

    middle = float(
        private_mean([*others, {"w": torch.zeros(3)}], replace(mechanism, noise_multiplier=0.0), draw())["w"]
        .double()
        .sum()
    ) / math.sqrt(3)
    found = measured(output, 1 / NOISE, trials, DELTA)
    claim = spent(Ledger("client", 5, ((Release(NOISE, "whole", 5), 1),)), DELTA).epsilon
    assert_claim(found, claim, nearness(trials))


# --- a whole run of three rounds ---


@dataclass(frozen=True)
class Run:
    """Three rounds of one client, as its server reads them: what one example moves, in deviations of the noise.

    Attributes:
        privacy: The run's.
        training: The run's.
        recipe: The run's.
        kind: Where its noise comes from.
        size: Of the inputs.
    """

    privacy: PrivacyConfig
    training: TrainingConfig
    recipe: Recipe
    kind: str = "site"
    size: float = 1.0

    def client(self, there: bool) -> Client:
        """Its last example is there, or another that adds nothing."""
        draws = torch.Generator().manual_seed(0)
        inputs, labels = torch.randn(20, 3, generator=draws) * self.size, torch.randint(0, 2, (20,), generator=draws)
        inputs[-1] = torch.tensor([2.0, -1.0, 0.5]) * self.size if there else math.nan
        part = Examples(inputs, labels)
        torch.manual_seed(0)
        site = Site("cryptographic" if self.kind == "site" else "seeded")
        return Client(0, Domain("d", part, part), SplitModel(nn.Flatten(), nn.Linear(3, 2)), site=site)

    def requests(self, seed: int, client: Client) -> Iterable[Request]:
        """Of three rounds, the model being the same in each: who asks knows it and chose it."""
        task = Task(self.recipe, self.training, seed, self.privacy)
        parameters = {name: value.detach() for name, value in client.model.named_parameters()}
        references = {"gradient": torch.zeros(2, 4)}
        for number in (1, 2, 3):
            if self.recipe.terms:
                yield Request(task, number, parameters, measure=("gradient",), averaging_weight=0.5, kind="measure")
            yield Request(task, number, parameters, references if self.recipe.terms else {}, averaging_weight=0.5)
            if self.privacy.evaluation_noise is not None:
                yield Request(task, number, parameters, evaluate=("held_out",), averaging_weight=0.5, kind="evaluate")

    def sent(self, client: Client, seed: int) -> list[Tensor]:
        """All that leaves in three rounds; the gate lets the requests in, which differ in the seed alone."""
        answers, client.state = [], ClientState()
        for request in self.requests(seed, client):
            if seed == 0:
                kind = {"measure": "query.measure"}.get(request.kind, request.kind)
                assert gate.refuse(client.site, kind, request, client.model, client.domain) is None
            if request.kind == "measure":
                answers.append(flat(release_statistics(client, client.site, request)))
            elif request.kind == "train":
                answers.append(flat(train_privately(client, client.site, request)[0]))
            else:
                answers.append(torch.tensor([evaluate_privately(client, client.site, request)["held_out/accuracy"]]))
        return answers


PLAIN = PrivacyConfig(protect="examples", noise_multiplier=1.2, clip=1e-3, statistics_clip=1e-3, guard_heads=False)
SYNCHRONOUS = TrainingConfig(mode="synchronous")
ALIGNED = Recipe("mine", (Term("gradient", weight=1e-9),))


def local(batch: int, steps: int) -> TrainingConfig:
    return TrainingConfig(mode="local", local=LocalConfig(steps=steps, batch_size=batch, learning_rate=1.0))


RUNS: dict[str, Run] = {
    "synchronous, without statistics": Run(PLAIN, SYNCHRONOUS, Recipe("erm")),
    "synchronous, with statistics": Run(PLAIN, SYNCHRONOUS, ALIGNED),
    "a simulation's": Run(PLAIN, SYNCHRONOUS, ALIGNED, kind="simulation"),
    "local steps of the whole": Run(
        PLAIN, TrainingConfig(mode="local", local=LocalConfig(steps=2, learning_rate=1.0)), ALIGNED
    ),
    "poisson steps of one": Run(PLAIN.model_copy(update={"sampling": "poisson"}), local(1, 2), ALIGNED),
    "poisson steps of half": Run(PLAIN.model_copy(update={"sampling": "poisson"}), local(10, 2), ALIGNED),
    "shuffled passes": Run(PLAIN.model_copy(update={"sampling": "shuffled"}), local(5, 4), ALIGNED),
    "the smallest clips": Run(
        PLAIN.model_copy(update={"clip": SMALLEST, "statistics_clip": SMALLEST}), SYNCHRONOUS, ALIGNED
    ),
    "the smallest clip and the largest scale": Run(
        PLAIN.model_copy(update={"statistics_clip": SMALLEST, "scales": {"gradient": LARGEST}}), SYNCHRONOUS, ALIGNED
    ),
    "large inputs": Run(PLAIN, SYNCHRONOUS, ALIGNED, size=1e15),
}


@pytest.mark.parametrize(
    ("name", "trials"),
    [
        ("synchronous, with statistics", 60),
        ("poisson steps of half", 25),
        *(pytest.param(name, 2000, marks=LONG) for name in RUNS),
    ],
)
def test_a_run_of_three_rounds_tells_no_more_than_its_account(name: str, trials: int) -> None:
    """What one example moves in each answer is measured without noise; all answers along that are the test."""
    run = RUNS[name]
    clients = {there: run.client(there) for there in (True, False)}
    quiet = replace(run, privacy=run.privacy.model_copy(update={"noise_multiplier": 1e-9, "sampling": "whole"}))
    if name.startswith(("poisson", "shuffled")):
        quiet = replace(quiet, training=local(20, run.training.local.steps or 1))
    base, moved = ([answer.double() for answer in quiet.sent(clients[there], 0)] for there in (False, True))
    along = [(one - other) / (one - other).norm() for one, other in zip(moved, base, strict=True)]
    seeds = iter(range(10**9))

    def along_all(there: bool) -> Tensor:
        return torch.stack(
            [one.double() @ way for one, way in zip(run.sent(clients[there], next(seeds)), along, strict=True)]
        )

    # the noise of each answer, and what the example moves, from runs of their own
    some = {there: torch.stack([along_all(there) for _ in range(trials // 4)]) for there in (True, False)}
    middle, deviation = some[False].mean(0), some[False].std(0)
    signal = ((some[True].mean(0) - middle) / deviation).clamp(min=0)
    weights = signal / signal.norm()

    def output(there: bool) -> float:
        return float(((along_all(there) - middle) / deviation) @ weights)

    found = measured(output, float(signal.norm()), trials, DELTA)
    shape = round_shape(run.recipe, run.training, run.privacy, 20)
    claim = claimed(20, *((release, 3 * count) for release, count in shape))
    assert_claim(found, claim, (3.0 if name == "synchronous, with statistics" else 4.0) if trials > 1000 else None)


@pytest.mark.parametrize("trials", SIZES)
def test_an_evaluation_tells_no_more_than_its_account(trials: int) -> None:
    privacy = PLAIN.model_copy(update={"evaluation_noise": 1.0})
    run = Run(privacy, SYNCHRONOUS, Recipe("erm"))
    clients = {there: run.client(there) for there in (True, False)}
    request = next(one for one in run.requests(0, clients[True]) if one.kind == "evaluate")
    hits = {}
    for there, client in clients.items():
        with torch.no_grad():
            hits[there] = float(
                (client.model(client.domain.held_out.inputs).argmax(1) == client.domain.held_out.labels).sum()
            )
    sign = hits[True] - hits[False]

    def output(there: bool) -> float:
        told = evaluate_privately(clients[there], clients[there].site, request)["held_out/accuracy"]
        return (told * 20 - hits[False]) * (sign or 1.0)

    found = measured(output, abs(sign), trials, DELTA)
    assert_claim(found, claimed(20, (evaluation_release(privacy, 20), 1)))
