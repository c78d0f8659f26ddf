"""What a stranger's app gives its clients: taken where it is plainly meant, else refused in one sentence at once."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor, nn

from fedha.config import PrivacyConfig, TrainingConfig, parse
from fedha.data import Domain, Examples
from fedha.data.domain import DomainSet
from fedha.engine.inline import InlineGrid, inline_grid
from fedha.errors import FedhaError
from fedha.federation import run_round
from fedha.flower import HessianAlignment, client_app
from fedha.flower.serve import Job, load_domains, serve
from fedha.models import SplitModel
from fedha.recipes import RECIPES
from fedha.runs.listener import Silent
from tests.problems import make_problem

SILENT_BEFORE = ("erm", "hgp", "hutchinson", "exact_diagonal", "coral", "fishr", "vrex", "iga", "fish")


def network(_: Any = None) -> SplitModel:
    torch.manual_seed(0)
    return SplitModel(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 2))


def own(place: int) -> Domain:
    inputs = torch.randn(60, 8, generator=torch.Generator().manual_seed(place))
    labels = (inputs[:, 0] > 0).long()
    return Domain(f"h{place}", Examples(inputs, labels), Examples(inputs[:10].clone(), labels[:10].clone()))


def parameters(model: SplitModel | None = None) -> ArrayRecord:
    return ArrayRecord({name: value.detach() for name, value in (model or network()).named_parameters()})


def start(
    domain: Callable[[int], Any] = own,
    recipe: str = "erm",
    model: Callable[[Any], Any] = network,
    arrays: ArrayRecord | None = None,
    *,
    clients: int = 3,
    rounds: int = 1,
    site: Any = None,
    **options: Any,
) -> HessianAlignment:
    strategy = HessianAlignment(recipe, TrainingConfig(rounds=rounds), clients=clients, **options)
    app = client_app(
        model,
        lambda context: domain(int(context.node_config["partition-id"])),
        **({"site": site} if site else {}),
    )
    strategy.start(InlineGrid(app, clients), arrays or parameters(), num_rounds=rounds)
    return strategy


def changed(place: int, part: str, **changes: Callable[[Tensor], Any]) -> Callable[[int], Domain]:
    """Domains of which one part of one is changed."""

    def domain(other: int) -> Domain:
        whole = own(other)
        if other != place:
            return whole
        examples = getattr(whole, part)
        new = {name: change(getattr(examples, name)) for name, change in changes.items()}
        return replace(whole, **{part: replace(examples, **new)})

    return domain


def spoil(*at: int, value: float = torch.nan) -> Callable[[Tensor], Tensor]:
    def change(inputs: Tensor) -> Tensor:
        inputs[at] = value
        return inputs

    return change


# --- numbers that are not finite ---


@pytest.mark.parametrize("recipe", SILENT_BEFORE)
def test_one_nan_ends_every_recipes_run_with_its_place(recipe: str) -> None:
    with pytest.raises(
        FedhaError,
        match=r"^client 1 failed to introduce itself in round 1: inputs of domain 'h1' \(train\) contain NaN or "
        r"infinity: "
        r"1 number in 1 of 60 examples, column 3, first in example 7 \(counted from 0\); clean or impute them first$",
    ):
        start(changed(1, "train", inputs=spoil(7, 3)), recipe)


def test_fedha_run_says_it_in_the_same_words() -> None:
    domain = changed(1, "train", inputs=spoil(7, 3))(1)
    with pytest.raises(FedhaError) as told:
        DomainSet((domain,), (), 2, "made up").check()
    with pytest.raises(FedhaError) as heard:
        start(lambda place: domain)
    assert str(heard.value).endswith(str(told.value))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_held_out_examples_are_looked_at_too(value: float) -> None:
    with pytest.raises(FedhaError, match=r"'h2' \(held-out\) contain NaN or infinity: 1 number"):
        start(changed(2, "held_out", inputs=spoil(0, 1, value=value)))


def test_several_numbers_are_counted_and_their_columns_named() -> None:
    with pytest.raises(FedhaError, match=r"16 numbers in 8 of 60 examples, columns 3, 5, first in example 0"):
        start(
            changed(
                0,
                "train",
                inputs=lambda x: x.index_fill(1, torch.tensor([3, 5]), torch.nan).where(
                    (torch.arange(60) < 8)[:, None], x
                ),
            )
        )


def test_numbers_beyond_the_models_precision_are_named_as_such() -> None:
    with pytest.raises(FedhaError, match=r"hold numbers such as 1e\+39, beyond float32: 1 number .*; scale them first"):
        start(changed(1, "train", inputs=lambda x: spoil(4, 2, value=1e39)(x.double())))


def test_numbers_close_to_zero_are_numbers() -> None:
    start(changed(1, "train", inputs=lambda x: x * 1e-42))


@pytest.mark.parametrize("recipe", ["hgp", "hutchinson", "exact_diagonal", "coral", "fishr", "iga"])
def test_inputs_that_are_far_too_large_are_blamed_not_the_learning_rate_alone(recipe: str) -> None:
    with pytest.raises(FedhaError, match=r"'h1' is not finite in round \d+ \(.*inputs up to .*e\+2\d\); scale the inp"):
        start(changed(1, "train", inputs=lambda x: x * 1e20), recipe, rounds=3)


def test_under_skip_who_is_left_out_is_told(caplog: pytest.LogCaptureFixture) -> None:
    strategy = start(changed(1, "train", inputs=lambda x: x * 1e20), "hgp", rounds=3, on_client_error="skip")
    ((who, absence),) = strategy.left_out.items()
    assert (who, absence["rounds"]) == ("client 1 (domain 'h1')", 3)
    assert "scale the inputs" in absence["reason"]


def test_where_examples_are_protected_the_sites_own_log_says_it(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that leaves depends on an example: with or without it, the run goes on."""
    pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')
    logging.getLogger("flwr").propagate = True
    privacy = PrivacyConfig(protect="examples", noise_multiplier=1.0)
    for change in ({"inputs": spoil(7, 3)}, {"labels": lambda y: y.index_fill(0, torch.tensor([5]), -100)}):
        caplog.clear()
        start(changed(1, "train", **change), "iga", privacy=privacy)
        (line,) = [one for one in caplog.messages if "leaves examples of client 1 out" in one]
        assert "column 3" in line or "such as -100" in line


def test_where_answers_are_covered_neither_column_nor_count_leaves_the_site() -> None:
    privacy = PrivacyConfig(min_examples=5)
    with pytest.raises(
        FedhaError, match=r"client 1 failed .*: it could not answer \(FedhaError\); its own log says why$"
    ):
        start(changed(1, "train", inputs=spoil(7, 3)), privacy=privacy)


def test_the_plain_loop_refuses_what_the_engines_refuse() -> None:
    problem = make_problem()
    spoiled = replace(
        problem.domains[1], train=replace(problem.domains[1].train, inputs=problem.domains[1].train.inputs * torch.nan)
    )
    problem = replace(problem, domains=(problem.domains[0], spoiled, problem.domains[2]))
    server = problem.server(RECIPES["hgp"], TrainingConfig())
    with pytest.raises(FedhaError, match=r"gradient of domain 'd1' is not finite in round 1"):
        run_round(server, problem.clients(), 1)
    record = run_round(server, problem.clients(), 1, on_client_error="skip")
    assert record["clients"] == 2
    assert [one["client"] for one in record["events"]] == ["client 1 (domain 'd1')"]


# --- labels, inputs, networks, places ---


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("train", {"labels": lambda y: y.int()}),
        ("train", {"labels": lambda y: y.to(torch.uint8)}),
        ("train", {"labels": lambda y: y.bool()}),
        ("held_out", {"labels": lambda y: y.to(torch.int16)}),
        ("train", {"labels": lambda y: y.numpy().astype(np.int32), "inputs": lambda x: x.numpy()}),
        ("train", {"labels": lambda y: y.numpy().astype(">i8"), "inputs": lambda x: x.numpy().astype(">f8")}),
        ("train", {"inputs": lambda x: x.double()}),
        ("train", {"inputs": lambda x: x.numpy()[::-1][::-1]}),
        ("train", {"labels": lambda y: y.tolist()}),
        ("train", {"inputs": lambda x: x.requires_grad_()}),
        ("held_out", {"labels": lambda y: torch.zeros(0), "inputs": lambda x: torch.zeros(0)}),
    ],
)
def test_what_is_plainly_meant_trains_to_the_same_bits(part: str, change: dict[str, Callable[[Tensor], Any]]) -> None:
    usual, other = start(recipe="hgp"), start(changed(1, part, **change), "hgp")
    for name, value in usual.begun().parameters.items():
        assert torch.equal(value, other.begun().parameters[name])


REFUSED: dict[str, tuple[Callable[[int], Any], str]] = {
    "labels from 1": (
        changed(1, "train", labels=lambda y: y + 1),
        r"run from 1 to 2 but there are 2 .* count from 1: subtract 1",
    ),
    "labels to be ignored": (
        changed(1, "train", labels=lambda y: spoil(3, value=-100)(y)),
        r"run from -100 to 1 .*, and 1 of 60 are not, such as -100",
    ),
    "labels as floats": (
        changed(1, "train", labels=lambda y: y.float()),
        r"'h1' has torch.float32 labels \(train\); convert",
    ),
    "labels as text": (
        changed(1, "train", labels=lambda y: np.array(["cat", "dog"])[y.numpy()]),
        r"labels of domain 'h1' \(train\) are text; number the classes 0, 1, 2",
    ),
    "labels as objects": (
        changed(1, "train", labels=lambda y: np.array([None] * len(y))),
        r"a ndarray of objects; number the classes",
    ),
    "one-hot labels": (
        changed(1, "train", labels=lambda y: nn.functional.one_hot(y)),
        r"have shape \(60, 2\); .* \(labels.argmax\(1\)",
    ),
    "labels in a column": (
        changed(1, "train", labels=lambda y: y[:, None]),
        r"have shape \(60, 1\); .* \(labels.squeeze\(1\)\)",
    ),
    "too few labels": (changed(1, "train", labels=lambda y: y[:5]), r"'h1' has 60 train inputs but 5 labels"),
    "no examples": (
        changed(1, "train", labels=lambda y: y[:0], inputs=lambda x: x[:0]),
        r"source domain 'h1' has no training examples",
    ),
    "complex numbers": (
        changed(1, "train", inputs=lambda x: x + 0j),
        r"inputs of domain 'h1' \(train\) are torch.complex64; give real numbers",
    ),
    "text inputs": (
        changed(1, "train", inputs=lambda x: np.full((60, 8), "a")),
        r"inputs of domain 'h1' \(train\) are text; give numbers",
    ),
    "inputs without an axis": (
        changed(1, "train", inputs=lambda x: x[:, 0]),
        r"'h1' \(train\) have shape \(60,\); they must be \[n, ...\]",
    ),
    "sparse inputs": (changed(1, "train", inputs=lambda x: x.to_sparse()), r"sparse tensor; give a dense one"),
    "ragged inputs": (
        changed(1, "train", inputs=lambda x: [[1.0], [1.0, 2.0]]),
        r"'h1' \(train\) are a list that is no array",
    ),
    "other inputs": (
        changed(1, "train", inputs=lambda x: x[:, :5]),
        r"\(8,\) where they are held out but \(5,\) where they are trained on",
    ),
    "a tuple": (
        lambda place: (own(place).train, own(place).held_out),
        r"the data of client 0 are a tuple; let the function .* return fedha.data.Domain",
    ),
    "nothing": (lambda place: None, r"the data of client 0 are a NoneType"),
    "a part that is a tuple": (
        lambda place: replace(own(place), train=(own(place).train.inputs, own(place).train.labels)),
        r"train part of domain 'h0' is a tuple; make it",
    ),
    "a part that is missing": (
        lambda place: replace(own(place), held_out=None),
        r"held-out part of domain 'h0' is a NoneType",
    ),
    "a name that is a number": (
        lambda place: replace(own(place), name=place),
        r"the domain of client 0 is called 0; give it a name",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_meant_is_refused_in_one_sentence(name: str) -> None:
    domain, sentence = REFUSED[name]
    with pytest.raises(FedhaError, match=rf"^client \d failed to introduce itself in round 1: [^\n]*{sentence}[^\n]*$"):
        start(domain)


def conv(_: Any = None) -> SplitModel:
    return SplitModel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, 2))


def pictures(place: int) -> Domain:
    part = Examples(torch.rand(6, 9, 9, 3), torch.arange(6) % 2)
    return Domain(f"p{place}", part, part)


class Writing(nn.Module):
    """Remembers how often it was used."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("uses", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.uses += 1
        return inputs


class Eating(nn.Linear):
    """Changes its own weights, behind autograd's back."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.weight.data.mul_(0.9)
        return super().forward(inputs)


def frozen(_: Any = None) -> SplitModel:
    return network().requires_grad_(False)


NETWORKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "not in two parts": (
        lambda _: nn.Sequential(nn.Linear(8, 2)),
        r"the network is a Sequential, not a fedha.models.SplitModel",
    ),
    "a state_dict": (lambda _: network().state_dict(), r"the network is a state_dict, not"),
    "nothing": (lambda _: None, r"the network is a NoneType, not"),
    "of other inputs": (
        lambda _: SplitModel(nn.Linear(5, 4), nn.Linear(4, 2)),
        r"cannot take the inputs of domain 'h0', of shape \(8,\) each: mat1 and mat2",
    ),
    "with features that are no vectors": (
        lambda _: SplitModel(nn.Unflatten(1, (2, 4)), nn.Linear(4, 2)),
        r"featurizer gives \(2, 2, 4\) for 2 inputs; .*nn.Flatten",
    ),
    "without parameters": (
        lambda _: SplitModel(nn.Identity(), nn.Identity()),
        r"no parameters, so there is nothing to train",
    ),
    "frozen": (frozen, r"all parameters of the network are frozen \(requires_grad=False\)"),
    "with a memory": (
        lambda _: SplitModel(nn.Sequential(Writing(), nn.Linear(8, 4)), nn.Linear(4, 2)),
        r"writes to 'featurizer.0.uses' when it is given inputs",
    ),
    "that changes its weights": (
        lambda _: SplitModel(Eating(8, 4), nn.Linear(4, 2)),
        r"writes to 'featurizer.weight' when it is given inputs",
    ),
    "of fewer classes": (lambda _: SplitModel(nn.Linear(8, 4), nn.Linear(4, 1)), ""),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_does_not_fit_is_refused_before_the_first_round(name: str) -> None:
    model, sentence = NETWORKS[name]
    made = model(None)
    arrays = parameters(made) if sentence == "" else parameters()
    if not sentence:  # one logit tells two classes apart
        start(model=model, arrays=arrays)
        return
    with pytest.raises(FedhaError, match=rf"^client 0 failed to introduce itself in round 1: [^\n]*{sentence}[^\n]*$"):
        start(model=model, arrays=arrays)


def test_images_with_channels_last_are_told_what_to_do() -> None:
    with pytest.raises(
        FedhaError, match=r"of domain 'p0', of shape \(9, 9, 3\) each: .*; move the channels .*permute\(0, 3"
    ):
        start(pictures, model=conv, arrays=parameters(conv()))


def test_three_labels_for_a_network_of_two_classes_are_named() -> None:
    with pytest.raises(FedhaError, match=r"labels of domain 'h1' run from 0 to 2 but there are 2 classes"):
        start(changed(1, "train", labels=lambda y: spoil(0, value=2)(y)))


def normal() -> SplitModel:
    return SplitModel(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4).eval()), nn.Linear(4, 2))


ARRAYS: dict[str, tuple[Callable[[], ArrayRecord], Callable[[Any], SplitModel], str]] = {
    "with one missing": (
        lambda: ArrayRecord({k: v for k, v in network().state_dict().items() if k != "head.bias"}),
        network,
        r"lack 'head.bias', which the network has",
    ),
    "with a foreign one": (
        lambda: ArrayRecord({**network().state_dict(), "tail.weight": torch.ones(2)}),
        network,
        r"hold 'tail.weight', which the network does not have",
    ),
    "of another network": (
        lambda: ArrayRecord(SplitModel(nn.Sequential(nn.Linear(8, 7)), nn.Linear(7, 2)).state_dict()),
        network,
        r"'featurizer.0.weight' .* has shape \(7, 8\) but the client's network \(16, 8\)",
    ),
    "with some of the buffers": (
        lambda: ArrayRecord({k: v for k, v in normal().state_dict().items() if "num" not in k}),
        lambda _: normal(),
        r"lack 'featurizer.1.num_batches_tracked', which the network has; start from network\(\).state_dict",
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_not_the_networks_state_are_refused_by_name(name: str) -> None:
    arrays, model, sentence = ARRAYS[name]
    with pytest.raises(FedhaError, match=sentence):
        start(model=model, arrays=arrays())


@pytest.mark.parametrize(
    ("given", "what"), [((network(), own), "a SplitModel as model"), ((network, own(0)), "a Domain as domain")]
)
def test_what_should_be_a_function_is_named(given: Any, what: str) -> None:
    with pytest.raises(FedhaError, match=f"client_app was given {what}; give the function that makes it"):
        client_app(*given)


@pytest.mark.parametrize("place", ["north", -1, 1.5, True, ""])
def test_a_place_that_is_no_number_is_refused(place: Any) -> None:
    grid = InlineGrid(client_app(network, lambda _: own(0)), 1)
    for context in grid._contexts.values():
        context.node_config["partition-id"] = place
    with pytest.raises(
        FedhaError, match=rf"client 0 failed .*partition-id is {place!r}; give each client an id of its own"
    ):
        HessianAlignment("erm", clients=1).start(grid, parameters(), num_rounds=1)


def test_fedha_runs_own_networks_are_held_to_the_same() -> None:
    problem = make_problem()
    problem.model.head.weight.requires_grad_(False)
    with pytest.raises(FedhaError, match=r"the server trains other parameters than the clients; .*state_of\(model\)"):
        run_round(problem.server(RECIPES["erm"], TrainingConfig()), problem.clients(), 1)


# --- Flower's own loop ---


def over(strategy: HessianAlignment, **settings: Any) -> Any:
    return strategy.start(
        InlineGrid(client_app(network, lambda c: own(int(c.node_config["partition-id"]))), 2),
        parameters(),
        num_rounds=2,
        **settings,
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"train_config": ConfigRecord({"lr": 0.1})},
            r"train_config has lr = 0\.1, which no client reads; set it in Hess",
        ),
        ({"evaluate_config": ConfigRecord({"batch": 3})}, r"evaluate_config has batch = 3, .*knows parts alone"),
        (
            {"evaluate_config": ConfigRecord({"parts": "test"})},
            r"parts = 'test'; a domain's parts are held_out and train",
        ),
    ],
)
def test_settings_that_nobody_would_read_are_refused_by_name(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FedhaError, match=sentence):
        over(HessianAlignment("erm", clients=2), **settings)


def test_parts_can_be_asked_for() -> None:
    strategy = HessianAlignment("erm", clients=2)
    over(strategy, evaluate_config=ConfigRecord({"parts": "held_out,train"}))
    assert set(strategy.last_evaluation) == {"held_out", "train"}


def test_whoever_evaluates_the_model_cannot_change_it() -> None:
    def zeroing(round: int, arrays: ArrayRecord) -> None:
        for value in arrays.to_torch_state_dict().values():
            value.zero_()
        for array in arrays.values():
            array.numpy()[...] = 0

    usual, other = HessianAlignment("hgp", clients=2), HessianAlignment("hgp", clients=2)
    first, second = over(usual), over(other, evaluate_fn=zeroing)
    for name, value in first.arrays.to_torch_state_dict().items():
        assert torch.equal(value, second.arrays.to_torch_state_dict()[name])
        second.arrays.to_torch_state_dict()[name].zero_()
        assert torch.equal(value, other.begun().parameters[name])


def test_nobody_is_asked_for_an_evaluation_that_no_noise_covers(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')
    logging.getLogger("flwr").propagate = True
    strategy = HessianAlignment("iga", clients=2, privacy=PrivacyConfig(protect="examples", noise_multiplier=1.0))
    over(strategy)
    assert strategy.last_evaluation == {}
    assert [one for one in caplog.messages if "evaluation_noise" in one] == [
        "clients are not asked to evaluate: privacy.evaluation_noise is not set"
    ]


def test_handlers_of_ones_own_stand_beside_fedhas() -> None:
    app = client_app(network, lambda context: own(int(context.node_config["partition-id"])))

    @app.evaluate("mine")
    def mine(message: Message, context: Any) -> Message:
        return Message(message.content, reply_to=message)

    grid = InlineGrid(app, 2)
    strategy = HessianAlignment("erm", clients=2)
    strategy.start(grid, parameters(), num_rounds=1)
    content = parameters()
    (reply,) = grid.send_and_receive([Message(RecordDict({"arrays": content}), 2, "evaluate.mine", group_id="1")])
    assert "arrays" in reply.content


def test_a_listener_cannot_change_what_is_selected_from(tmp_path: Path) -> None:
    class Meddling(Silent):
        def round_done(self, record: Any) -> None:
            record["target"].clear()
            record["round"] = 0

        def finished(self, results: Any) -> None:
            results.clear()

    config = parse({"recipe": "erm", "training": {"rounds": 2}, "model": {"hidden": [4]}})
    domains = load_domains(config)
    results = serve(Job(config, tmp_path), inline_grid(config, domains), Meddling(), domains=domains)
    assert results["selection"]["final"]["round"] == 2
