"""Requests of a server that wants more than was agreed on: refused before anything is computed, or worth nothing."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedha.audit.adversary_models import Mixing
from fedha.client import Client
from fedha.config import LARGEST, SMALLEST, PrivacyConfig
from fedha.data.domain import Domain
from fedha.data.examples import Examples
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.exchange import Request, Task
from fedha.features import Keeping
from fedha.flower.client import client_app, cryptographic_site
from fedha.flower.wire import pack_task, unpack_task, unpack_tensors
from fedha.models.split import SplitModel
from fedha.models.state import trained_parameters
from fedha.placement import placed_domain
from fedha.privacy import gate
from fedha.privacy.answers import evaluate_privately, release_statistics, train_privately
from fedha.privacy.clipping import private_means
from fedha.privacy.dpsgd import private_gradient
from fedha.privacy.mechanism import Mechanism
from fedha.privacy.moments import Batch, Moment, measure
from fedha.privacy.noise import cryptographic
from fedha.privacy.releasable import private_exchanges
from fedha.privacy.requests import refuse_constants, refuse_numbers, refuse_settings
from fedha.privacy.site import Site
from fedha.privacy.surrogate import risk_loss
from fedha.recipes import Recipe, Term
from tests.privacy.rounds import grid_of
from tests.privacy.rounds import settings as config_of
from tests.privacy.test_refusals import ask, parameters_of

SIZES = st.floats(-37, 37).map(lambda power: 10.0**power)  # of what a network may give
SIGNS = st.sampled_from([-1.0, 0.0, 1.0])
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


# --- one example moves a sum by at most the clip ---


def sum_of(moments: dict[str, Moment], rows: Tensor, norm: float, scales: dict[str, float], divisor: float) -> Tensor:
    """The scaled sum at a site in units of the clip, from some rows, the others being zeros; without its noise."""
    some = {name: one.without(rows) for name, one in moments.items()}
    means = private_means(some, Mechanism(norm, 0.0, divisor), cryptographic(), scales)
    return torch.cat([means[name].flatten() * (scales.get(name, 1.0) * divisor / norm) for name in moments])


def assert_bounded(moments: dict[str, Moment], norm: float, scales: dict[str, float], divisor: float = 1.0) -> None:
    """No row of them moves the sum by more than the clip, to the last bits of this quotient."""
    rows = len(next(iter(moments.values())).left)
    whole = sum_of(moments, torch.zeros(rows, dtype=torch.bool), norm, scales, divisor)
    assert bool(whole.isfinite().all())
    for gone in {0, rows // 2, rows - 1}:
        out = torch.zeros(rows, dtype=torch.bool)
        out[gone] = True
        moved = float((whole - sum_of(moments, out, norm, scales, divisor)).norm())
        assert moved <= 1 + 1e-12


@pytest.mark.parametrize("norm", [SMALLEST, 1.5e-12, 1.0, LARGEST])
@pytest.mark.parametrize("scale", [SMALLEST, 1.0, LARGEST])
@pytest.mark.parametrize("size", [1e-30, 1e-23, 1e-3, 1.0, 1e15])
def test_scales_and_clips_of_any_size_let_no_example_move_a_sum_further(norm: float, scale: float, size: float) -> None:
    """In float32 weights of such clips and scales are subnormal, and round up; squares of 1e-23 vanish."""
    draws = torch.Generator().manual_seed(0)
    right = torch.rand(100, 30, generator=draws) * size
    moments = {"feature_mean": Moment(torch.ones(100, 1), right), "risk": Moment(right[:, :1], torch.ones(100, 1))}
    assert_bounded(moments, norm, {"feature_mean": scale}, 100.0)


@settings(max_examples=60, suppress_health_check=QUIET)
@given(
    left=SIZES,
    right=SIZES,
    norm=st.floats(-12, 12).map(lambda power: 10.0**power),
    scale=st.floats(-12, 12).map(lambda power: 10.0**power),
    rows=st.integers(1, 40),
    signs=st.lists(SIGNS, min_size=4, max_size=4),
    precision=st.sampled_from([torch.float32, torch.float64, torch.float16]),
)
def test_what_networks_may_give_lets_no_example_move_a_sum_further(
    left: float, right: float, norm: float, scale: float, rows: int, signs: list[float], precision: torch.dtype
) -> None:
    spread = torch.linspace(0.3, 1.7, rows, dtype=torch.float64)[:, None] * torch.tensor(signs, dtype=torch.float64)
    one = Moment((spread[:, :2] * left).to(precision), (spread * right).to(precision))
    other = Moment((spread[:, 2:] / left).to(precision), (spread / right).to(precision))
    assert_bounded({"a": one, "b": other}, min(max(norm, SMALLEST), LARGEST), {"a": min(max(scale, SMALLEST), LARGEST)})


@pytest.mark.parametrize("sizes", [(1e-165, 1e153), (1e153, 1e-165), (1e-170, 1e150), (1e-300, 1e150)])
@pytest.mark.parametrize("scale", [1.0, LARGEST])
def test_what_vanishes_when_it_is_squared_is_clipped_all_the_same(sizes: tuple[float, float], scale: float) -> None:
    """Networks of float64 give numbers whose squares float64 has none for; the product with the other side is large."""
    left, right = (torch.full((3, 2), size, dtype=torch.float64) for size in sizes)
    assert_bounded({"a": Moment(left, right)}, SMALLEST, {"a": scale})


@pytest.mark.parametrize("size", [1e-30, 1e12, 1e18, 1e30, 3e38])
def test_a_direction_of_any_size_lets_no_example_move_a_sum_further(size: float) -> None:
    draws = torch.Generator().manual_seed(0)
    features = torch.cat([torch.randn(60, 6, generator=draws), torch.ones(60, 1)], 1)
    head, labels = torch.randn(3, 7, generator=draws), torch.randint(0, 3, (60,), generator=draws)
    batch = Batch.at(head, features, labels, torch.full((3, 7), size) * torch.randn(3, 7, generator=draws).sign())
    moments = measure(("gradient", "pooled_gradient_hessian_product"), batch)
    for norm in (SMALLEST, 5e-12, 1.0):
        assert_bounded(moments, norm, {})


@pytest.mark.parametrize("norm", [SMALLEST, 1e-3, LARGEST])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e8])
@pytest.mark.parametrize("layer", [nn.Linear, None], ids=["ghost", "one by one"])
def test_gradients_of_any_size_move_a_sites_sum_by_at_most_the_clip(norm: float, size: float, layer: Any) -> None:
    """Neighbours of a Poisson batch: one example less, so that all after it are added up elsewhere."""
    torch.manual_seed(0)
    body = (
        nn.Sequential(nn.Flatten(), nn.Linear(5, 4), nn.Tanh())
        if layer
        else nn.Sequential(nn.Conv1d(1, 1, 2), nn.Flatten())
    )
    model = SplitModel(body, nn.Linear(4, 3))
    inputs, labels = torch.randn(40, 1, 5) * size, torch.randint(0, 3, (40,))
    parameters = dict(model.named_parameters())

    def of(rows: Tensor) -> Tensor:
        mechanism = Mechanism(norm, 0.0, 40.0)
        some = private_gradient(risk_loss(model), parameters, inputs[rows], labels[rows], mechanism, cryptographic())
        return torch.cat([value.flatten().double() for value in some.values()]) * (40 / norm)

    whole = of(torch.arange(40))
    for gone in (0, 17, 39):
        rest = torch.arange(40) != gone
        assert float((whole - of(rest.nonzero()[:, 0])).norm()) <= 1 + 1e-6  # what is sent is float32


# --- nothing without noise ---


def site_of(rows: int = 242, features: int = 3) -> Client:
    """A client whose noise is its own, and whose features are its inputs."""
    draws = torch.Generator().manual_seed(1)
    inputs = torch.rand(rows, features, generator=draws)
    domain = Domain(
        "d",
        Examples(inputs, torch.randint(0, 2, (rows,), generator=draws)),
        Examples(inputs[:0], torch.zeros(0).long()),
    )
    torch.manual_seed(0)
    return Client(0, domain, SplitModel(nn.Flatten(), nn.Linear(features, 2)), site=Site("cryptographic"))


def request_of(client: Client, **privacy: Any) -> Request:
    """For the mean of the features, with settings that no schema has read, as a message can bring them."""
    settings = PrivacyConfig(protect="examples", noise_multiplier=1.0).model_copy(update=privacy)
    task = Task(Recipe("mine", (Term("feature_mean"),)), config_of("iga").training, 0, settings)
    parameters = trained_parameters(client.model)
    return Request(task, 1, parameters, measure=("feature_mean",), averaging_weight=0.5, kind="measure")


HOSTILE: dict[str, dict[str, Any]] = {
    "a scale that float32 does not hold": {"scales": {"feature_mean": 1e39}},
    "a scale that is infinite": {"scales": {"feature_mean": math.inf}},
    "a scale that is no number": {"scales": {"feature_mean": math.nan}},
    "a scale that is next to nothing": {"scales": {"feature_mean": 1e-39}},
    "a clip that is next to nothing": {"statistics_clip": 1.5e-15},
    "a clip that is too large": {"statistics_clip": 1e39},
    "a clip of updates": {"clip": 1e-320},
    "noise that is infinite": {"noise_multiplier": math.inf},
    "noise of statistics that is next to nothing": {"statistics_noise": 1e-300},
    "noise of evaluations": {"evaluation_noise": -1.0},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_settings_that_no_proof_speaks_of_are_refused_with_every_request(name: str) -> None:
    client = site_of()
    refusal = gate.refuse(
        client.site, "query.measure", request_of(client, **HOSTILE[name]), client.model, client.domain
    )
    assert refusal is not None
    assert refusal.kind == "request"
    assert "this site computes with" in refusal.sentence
    assert gate.refuse(client.site, "query.measure", request_of(client), client.model, client.domain) is None


@pytest.mark.parametrize(
    "change",
    [
        {"weight": math.nan},
        {"weight": 1e300},
        {"warmup_weight": -1.0},
        {"probes": -1},
        {"terms": (Term("gradient", client_average=1.0),)},
    ],
)
def test_a_recipe_of_numbers_that_are_none_is_refused(change: dict[str, Any]) -> None:
    task = request_of(site_of()).task
    refusal = refuse_settings(replace(task, recipe=replace(task.recipe, **change)))
    assert refusal is not None
    assert refusal.kind == "request"


@pytest.mark.parametrize("beyond", [1e30, -1e13, math.inf, math.nan])
@pytest.mark.parametrize("where", ["parameters", "references", "sent"])
def test_tensors_that_no_training_ends_at_are_refused(beyond: float, where: str) -> None:
    client = site_of()
    honest = replace(request_of(client), references={"feature_mean": torch.zeros(3)}, sent={"rule/x": torch.zeros(2)})
    tensors = {name: value.clone() for name, value in getattr(honest, where).items()}
    next(iter(tensors.values())).view(-1)[-1] = beyond
    request = replace(honest, **{where: tensors})
    refusal = gate.refuse(client.site, "query.measure", request, client.model, client.domain)
    assert refusal is not None
    assert refusal.kind == "request"


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.complex64, torch.int64])
@pytest.mark.parametrize("where", ["parameters", "running"])
def test_tensors_of_another_type_than_the_networks_are_refused(kind: torch.dtype, where: str) -> None:
    client = site_of()
    honest = replace(request_of(client), running={})
    tensors = {name: value.to(kind) for name, value in honest.parameters.items()}
    request = replace(honest, parameters=tensors) if where == "parameters" else replace(honest, running=tensors)
    refusal = gate.refuse(client.site, "query.measure", request, client.model, client.domain)
    assert refusal is not None
    assert refusal.kind == "request"


# --- what is looked at though nothing is covered ---

PLAIN: dict[str, dict[str, Any]] = {
    "parameters": {"parameters": 1e30},
    "parameters that are no numbers": {"parameters": math.nan},
    "references": {"references": 1e30},
    "references that are infinite": {"references": math.inf},
    "a weight": {"averaging_weight": math.nan},
    "a learning rate": {"training": {"learning_rate": 1e300}},
    "a decay": {"training": {"weight_decay": 1e200}},
    "a weight of a class": {"training": {"class_weights": [1.0, 1e90]}},
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("kind", ["query.measure", "train", "evaluate"])
def test_a_plain_client_too_refuses_numbers_that_no_training_ends_at(name: str, kind: str) -> None:
    changes = dict(PLAIN[name])
    config = config_of("iga", privacy={"protect": "nothing"}, training=changes.pop("training", {}))
    parameters = {key: value + changes.get("parameters", 0.0) for key, value in parameters_of(config).items()}
    asked: dict[str, Any] = {"measure": ("gradient",) if kind == "query.measure" else ()}
    asked |= {"evaluate": ("held_out",) if kind == "evaluate" else ()}
    asked |= {"references": {"gradient": torch.full((1, 7), changes.get("references", 0.0))}}
    asked |= {"averaging_weight": changes.get("averaging_weight", 0.5)}
    told = ask(grid_of(config), config, kind, parameters, **asked)
    assert isinstance(told, str)
    assert "the server" in told


@pytest.mark.parametrize("change", [{"mixup_alpha": math.nan}, {"sam_radius": 1e30}, {"sam_radius": -1.0}])
def test_a_plain_recipe_of_numbers_that_are_none_is_refused(change: dict[str, Any]) -> None:
    task = Task(Recipe("mine", **change), config_of("erm").training, 0)
    assert refuse_settings(task) is not None


@pytest.mark.parametrize("where", ["sent", "running", "references"])
def test_whatever_a_request_brings_beside_parameters_is_looked_at(where: str) -> None:
    task = Task(Recipe("erm"), config_of("erm").training, 0)
    honest = Request(task, 1, {"w": torch.ones(2)}, averaging_weight=0.5)
    assert refuse_numbers(honest) is None
    for worse in (math.nan, 1e30, -1e30):
        assert refuse_numbers(replace(honest, **{where: {"x": torch.tensor([0.0, worse])}})) is not None


def test_a_plain_client_answers_what_is_large_and_honest() -> None:
    """Inputs of a million have curvatures of a million millions."""
    config = config_of("iga", privacy={"protect": "nothing"})
    references = {"gradient": torch.full((1, 7), 1e15)}
    assert not isinstance(ask(grid_of(config), config, "train", parameters_of(config), references=references), str)


@pytest.mark.parametrize("number", [1e30, math.inf, math.nan])
def test_frozen_parameters_of_such_a_size_are_refused_and_a_mask_of_minus_infinity_is_not(number: float) -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(3, 3))
    body[1].weight.requires_grad_(False)
    body.register_buffer("mask", torch.zeros(2))
    model = SplitModel(body, nn.Linear(3, 2))
    assert refuse_constants(model, {"featurizer.1.weight": torch.full((3, 3), number)}) is not None
    honest = {"featurizer.mask": torch.full((2,), -math.inf), "featurizer.1.weight": torch.ones(3, 3)}
    assert refuse_constants(model, honest) is None


@pytest.mark.parametrize("seed", [0.0, -0.0, False, "0", None, [0]])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    """0.0 is 0 to a contract that compares, and other draws to who draws."""
    text = json.loads(pack_task(request_of(site_of()).task)) | {"seed": seed}
    with pytest.raises(FedhaError, match="which is no whole number; look at the server"):
        unpack_task(json.dumps(text))


@pytest.mark.parametrize("scale", [SMALLEST, LARGEST])
def test_where_rows_are_zeros_what_is_sent_is_noise(scale: float) -> None:
    """Zero times an infinite weight was no number: whether a row is zero was told without noise."""
    client = site_of()
    client.domain.train.inputs[:] = 0
    (sent,) = release_statistics(client, client.site, request_of(client, scales={"feature_mean": scale})).values()
    assert bool(sent.isfinite().all())
    assert float(sent.abs().max()) > 0


@pytest.mark.parametrize("scale", [1e39, math.inf, math.nan, 0.0])
def test_the_library_computes_with_no_such_scale_either(scale: float) -> None:
    with pytest.raises(ValueError, match="the scale of 'a' is"):
        private_means(
            {"a": Moment(torch.zeros(3, 1), torch.zeros(3, 2))}, Mechanism(1.0, 1e6, 3), cryptographic(), {"a": scale}
        )


# --- any request ---

NUMBERS = st.sampled_from(
    [math.nan, math.inf, -1.0, 0.0, 1e-320, 1e-39, SMALLEST, 1e-3, 1.0, 1e6, LARGEST, 1e13, 1e39, 1e300]
)
MOSTLY_FINE = st.sampled_from([SMALLEST, 1e-3, 1.0, 1e6, LARGEST])
TERMS = st.lists(
    st.sampled_from(
        [
            "gradient",
            "hessian_diagonal",
            "feature_mean",
            "feature_covariance",
            "gradient_variance",
            "pooled_gradient_hessian_product",
        ]
    ),
    unique=True,
)


class Quiet:
    """A site's source that adds nothing, so that what one example moves can be seen."""

    name = "cryptographic"

    def normal(self, size: int, precision: torch.dtype) -> Tensor:
        return torch.zeros(size, dtype=torch.float64)

    def uniform(self, size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64)

    def precision(self, wanted: torch.dtype) -> torch.dtype:
        return torch.float64

    def settle(self, noisy: Tensor, deviation: float) -> Tensor:
        return noisy


class QuietSite(Site):
    def source(self, seed: int, *key: int | str) -> Any:
        return Quiet()


NETWORKS: dict[str, Any] = {
    "linear": lambda: SplitModel(nn.Flatten(), nn.Linear(3, 2)),
    "one logit": lambda: SplitModel(nn.Flatten(), nn.Linear(3, 1)),
    "of float64": lambda: SplitModel(
        nn.Sequential(nn.Linear(3, 3, bias=False), nn.Softplus()), nn.Linear(3, 2)
    ).double(),
    "of bfloat16": lambda: SplitModel(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2)).bfloat16(),
    "hidden": lambda: SplitModel(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), nn.Linear(3, 3)),
    "frozen below": lambda: SplitModel(
        nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.ReLU(inplace=True), nn.Linear(4, 3)), nn.Linear(3, 2)
    ),
    "one layer twice": lambda: SplitModel(nn.Sequential(same := nn.Linear(3, 3), nn.Tanh(), same), nn.Linear(3, 2)),
    "by its examples' gradients": lambda: SplitModel(
        nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.GELU(), nn.Flatten()), nn.Linear(4, 2)
    ),
}


@st.composite
def hostile(draw: Any) -> tuple[Recipe, dict[str, Any], dict[str, Any]]:
    """A recipe, settings of privacy and sizes of tensors, of which one or none is what no proof speaks of."""
    numbers = {
        name: draw(MOSTLY_FINE) for name in ("statistics_clip", "clip", "weight", "parameters", "references", "inputs")
    }
    numbers |= {f"scale {place}": draw(MOSTLY_FINE) for place in range(3)}
    worse = draw(st.sampled_from(["", *numbers]))
    if worse:
        numbers[worse] = draw(NUMBERS)
    names = draw(TERMS)
    recipe = Recipe("mine", tuple(Term(name, weight=numbers["weight"]) for name in names))
    scales = {
        name: numbers[f"scale {place}"] for place, name in enumerate(["gradient", "feature_mean", "hessian_diagonal"])
    }
    privacy = {
        "statistics_clip": numbers["statistics_clip"],
        "clip": numbers["clip"],
        "scales": scales,
        "guard_heads": False,
    }
    sizes = {name: numbers[name] for name in ("parameters", "references", "inputs")}
    return recipe, privacy, {**sizes, "network": draw(st.sampled_from(sorted(NETWORKS)))}


@settings(max_examples=12, suppress_health_check=QUIET)
@given(request=hostile())
def test_no_request_moves_an_answer_by_more_than_its_account_says(request: Any) -> None:
    assert_covered(request)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
@settings(max_examples=600, suppress_health_check=QUIET)
@given(request=hostile())
def test_none_of_many_requests_moves_an_answer_by_more_than_its_account_says(request: Any) -> None:
    assert_covered(request)


def assert_covered(request: Any) -> None:
    """Whatever gets through the gate: an exchange, a gradient and an evaluation, with one example and without."""
    recipe, privacy, sizes = request
    one, other = (asked(recipe, privacy, sizes, there) for there in (True, False))
    assert one.keys() == other.keys()  # what is refused is refused without a look at the example
    scales, clips = privacy["scales"], {"measure": privacy["statistics_clip"], "train": privacy["clip"]}
    for kind, values in one.items():
        moved = [
            float((value - other[kind][name]).norm()) * (scales.get(name, 1.0) if kind == "measure" else 1.0)
            for name, value in values.items()
        ]
        kept = 9 * 2**-7 if sizes["network"] == "of bfloat16" else 1e-5  # of a sum of nine clips, in the network's type
        assert math.hypot(*moved) * 9 / clips.get(kind, 1.0) <= 1 + kept


def asked(recipe: Recipe, privacy: dict[str, Any], sizes: dict[str, Any], there: bool) -> dict[str, dict[str, Tensor]]:
    """What comes of each kind of request, float64: moments, a gradient, an accuracy; without what is refused."""
    client = site_of(9)
    torch.manual_seed(0)
    client.model, inputs = NETWORKS[sizes["network"]](), client.domain.train.inputs
    inputs *= sizes["inputs"]
    if not there:
        inputs[4] = math.nan
    precision = next(client.model.parameters()).dtype
    whole = placed_domain(replace(client.domain, held_out=client.domain.train), client.model)
    client.domain, client.site = whole, QuietSite("cryptographic")
    honest = request_of(client, evaluation_noise=1.0, **privacy)
    parameters = {name: value * sizes["parameters"] for name, value in honest.parameters.items()}
    honest = replace(honest, task=replace(honest.task, recipe=recipe), parameters=parameters, measure=())
    found: dict[str, dict[str, Tensor]] = {}

    def refused(request: Request) -> bool:
        kind = {"measure": "query.measure"}.get(request.kind, request.kind)
        return gate.refuse(client.site, kind, request, client.model, client.domain) is not None

    references: dict[str, Tensor] = {}
    for group in private_exchanges(recipe):
        around = replace(honest, measure=group, references=dict(references))
        if refused(around):
            return found
        sent = release_statistics(client, client.site, around)
        if not references:
            found["measure"] = {name: value.double() for name, value in client.state.released.items()}
        told = torch.tensor(sizes["references"], dtype=torch.float64).to(precision)  # which may be infinite
        references |= {name: told.expand(value.shape).clone() for name, value in sent.items()}
    client.state = replace(  # released with noise, it is public: the same with the example and without
        client.state, released={name: torch.zeros_like(value) for name, value in client.state.released.items()}
    )
    if not refused(around := replace(honest, references=references, kind="train")):
        gradient, _ = train_privately(client, client.site, around)
        found["train"] = {name: value.double() for name, value in gradient.items()}
    if not refused(around := replace(honest, evaluate=("held_out",), kind="evaluate")):
        accuracy = evaluate_privately(client, client.site, around)["held_out/accuracy"]
        found["evaluate"] = {"accuracy": torch.tensor(accuracy)}
    return found


# --- errors that a server could provoke ---


@pytest.mark.filterwarnings("ignore:features are up to")
@pytest.mark.parametrize("size", [1.0, 1e9])
def test_whether_features_fit_in_float16_is_told_by_no_error(size: float) -> None:
    """Frozen weights may be the server's, which chooses what does not fit: an error would bisect the largest one."""
    config = config_of("erm", privacy={"guard_heads": False})
    body = nn.Sequential(nn.Flatten(), nn.Linear(6, 6, bias=False).requires_grad_(False))
    body[1].weight.data = torch.eye(6)
    draws = torch.Generator().manual_seed(0)
    part = Examples(torch.randn(30, 6, generator=draws), torch.randint(0, 2, (30,), generator=draws))
    part.inputs[7] *= size
    model = SplitModel(body, nn.Linear(6, 1))
    app = client_app(
        lambda _: model, lambda _: Domain("d", part, part), site=cryptographic_site, keeping=Keeping(None, "float16")
    )
    parameters = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    told = ask(InlineGrid(app, 1), config, "train", parameters, measure=())
    assert "tensors" in told
    assert all(bool(value.isfinite().all()) for value in unpack_tensors(told["tensors"]).values())


# --- networks that mix examples ---


MIXING = {
    "batch norm without running statistics": lambda: nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(6, affine=False, track_running_stats=False)
    ),
    "a layer of somebody's": lambda: Mixing(nn.Flatten()),
}


@pytest.fixture(params=MIXING)
def mixing(request: pytest.FixtureRequest) -> tuple[Any, InlineGrid]:
    config = config_of("erm", privacy={"guard_heads": False})
    draws = torch.Generator().manual_seed(0)
    part = Examples(torch.randn(30, 6, generator=draws), torch.randint(0, 2, (30,), generator=draws))
    network = SplitModel(MIXING[request.param](), nn.Linear(6, 1))
    return config, InlineGrid(
        client_app(lambda _: network, lambda _: Domain("d", part, part), site=cryptographic_site), 1
    )


@pytest.mark.parametrize("kind", ["train", "evaluate", "query.measure"])
def test_layers_that_mix_examples_are_refused_though_nobody_was_introduced(mixing: Any, kind: str) -> None:
    config, grid = mixing
    parameters = dict(SplitModel(nn.Flatten(), nn.Linear(6, 1)).named_parameters())
    for _ in range(2):  # what is known of it is known of every request
        told = ask(grid, config, kind, parameters, measure=())
        assert told.endswith("it refuses to answer (network)")


def test_a_network_is_tried_once_and_again_where_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    client, tried = site_of(), []
    monkeypatch.setattr(gate, "check_model", lambda *_: tried.append(1))
    for _ in range(3):
        gate.refuse(client.site, "train", replace(request_of(client), measure=()), client.model, client.domain)
    assert len(tried) == 1
    client.model.featurizer.register_forward_hook(lambda *_: None)
    gate.refuse(client.site, "train", replace(request_of(client), measure=()), client.model, client.domain)
    assert len(tried) == 2


# --- an honest server ---


def test_an_honest_request_to_a_site_is_answered() -> None:
    config = config_of("exact_diagonal")
    told = ask(
        grid_of(config, cryptographic_site),
        config,
        "query.measure",
        parameters_of(config),
        measure=("gradient", "hessian_diagonal"),
    )
    assert "tensors" in told
