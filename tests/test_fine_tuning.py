"""Fine-tuning as people write it by hand: the same numbers as a loop of torch alone, and the same bits on every way."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional
from torch.testing import assert_close

from fedha import optimizers
from fedha.config import PrivacyConfig, TrainingConfig, parse
from fedha.errors import FedhaError
from fedha.exchange import Task
from fedha.federation import Server, run_round
from fedha.randomness import generator
from fedha.recipes import RECIPES
from tests.problems import SEED, Problem, make_problem

ROUNDS, WARMUP, RATE, MOST = 20, 3, 0.02, 0.3
PARTS = {"featurizer": 0.1, "head": 2.0}
SAID: dict[str, Any] = {
    "rounds": ROUNDS,
    "rates": PARTS,
    "clip_norm": MOST,
    "label_smoothing": 0.1,
    "decay": "weights",
}
ADAMW = {"name": "adamw", "weight_decay": 0.05, "betas": [0.8, 0.95]}


def run(problem: Problem, training: TrainingConfig, recipe: str = "erm") -> tuple[dict[str, Tensor], list[dict]]:
    server = Server(Task(RECIPES[recipe], training, SEED), dict(problem.model.named_parameters()))
    records = [run_round(server, problem.clients(), number) for number in range(1, training.rounds + 1)]
    return server.parameters, records


# --- a loop of torch alone ---


def by_hand(parameters: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """Two rates, and no decay of biases."""
    groups = [
        {
            "params": [
                value for name, value in parameters.items() if name.startswith(part) and bias == ("bias" in name)
            ],
            "part": factor,
            "weight_decay": 0.0 if bias else 0.05,
        }
        for part, factor in PARTS.items()
        for bias in (False, True)
    ]
    return torch.optim.AdamW(groups, betas=(0.8, 0.95))


def step_by_hand(
    problem: Problem, live: dict[str, Tensor], optimizer: torch.optim.Optimizer, loss: Tensor, done: int, total: int
) -> float:
    """Clip, warm up, fall as a cosine; returns the rate."""
    rate = RATE * min(1.0, (done + 1) / WARMUP)
    rate *= 0.5 * (1 + math.cos(math.pi * max(0, done - WARMUP) / (total - WARMUP)))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["part"]
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(live.values()), MOST)
    optimizer.step()
    return rate


def risk(problem: Problem, live: Mapping[str, Tensor], place: int, rows: Tensor) -> Tensor:
    examples = problem.domains[place].train
    logits = functional_call(problem.model, dict(live), (examples.inputs[rows],))
    return functional.cross_entropy(logits, examples.labels[rows], label_smoothing=0.1)


def leaves(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in parameters.items()}


def test_twenty_synchronous_steps_are_those_of_a_loop_by_hand() -> None:
    problem = make_problem()
    training = TrainingConfig(
        **SAID, optimizer=ADAMW, learning_rate=RATE, batch_size=6, schedule={"name": "cosine", "warmup": WARMUP}
    )
    found, records = run(problem, training)
    live = leaves(dict(problem.model.named_parameters()))
    optimizer, rates = by_hand(live), []
    for number in range(1, ROUNDS + 1):
        drawn = [
            torch.randperm(len(one.train), generator=generator(SEED, "measured rows", number, place))[:6]
            for place, one in enumerate(problem.domains)
        ]
        loss = torch.stack([risk(problem, live, place, rows) for place, rows in enumerate(drawn)]).mean()
        rates.append(step_by_hand(problem, live, optimizer, loss, number - 1, ROUNDS))
    assert_close(found, {name: value.detach() for name, value in live.items()}, rtol=1e-12, atol=1e-12)
    assert [one["rate"] for one in records] == pytest.approx(rates, rel=1e-14)
    assert records[-1]["rates"] == {part: records[-1]["rate"] * factor for part, factor in PARTS.items()}


def test_local_steps_are_those_of_a_loop_by_hand() -> None:
    problem, steps, rounds = make_problem(), 4, 5
    local = {"optimizer": ADAMW, "learning_rate": RATE, "steps": steps, "batch_size": 5}
    training = TrainingConfig(
        **{**SAID, "rounds": rounds},
        mode="local",
        local=local,
        schedule={"name": "cosine", "warmup": WARMUP, "by": "step"},
    )
    found, records = run(problem, training)
    start, last = {name: value.detach() for name, value in problem.model.named_parameters()}, 0.0
    for number in range(1, rounds + 1):
        ends = []
        for place, one in enumerate(problem.domains):
            live, draws = leaves(start), generator(SEED, "batches", number, place)
            optimizer = by_hand(live)
            sizes = ([5] * (len(one.train) // 5) + [len(one.train) % 5] * bool(len(one.train) % 5)) * steps
            order = torch.cat([torch.randperm(len(one.train), generator=draws) for _ in range(3)])
            for step, rows in enumerate(order[: sum(sizes[:steps])].split(sizes[:steps])):
                done = (number - 1) * steps + step
                last = step_by_hand(problem, live, optimizer, risk(problem, live, place, rows), done, rounds * steps)
            ends.append({name: value.detach() for name, value in live.items()})
        start = {name: torch.stack([one[name] for one in ends]).mean(0) for name in start}
    assert_close(found, start, rtol=1e-12, atol=1e-12)
    assert records[-1]["rate"] == pytest.approx(last, rel=1e-14)


# --- every optimiser ---

USABLE = [name for name in optimizers.known() if name not in ("lbfgs", "sparseadam", "muon")]
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "adam": {"amsgrad": True},
    "adamw": {"betas": [0.7, 0.9], "weight_decay": 0.2},
    "rmsprop": {"momentum": 0.5, "centered": True},
    "adagrad": {"initial_accumulator_value": 0.1, "lr_decay": 0.01},
    "nadam": {"decoupled_weight_decay": True, "weight_decay": 0.1},
}


def torchs(name: str, live: Mapping[str, Tensor], rate: float) -> torch.optim.Optimizer:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in OPTIONS.get(name, {}).items()}
    return optimizers.known()[name](list(live.values()), lr=rate, **options)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", USABLE)
def test_a_server_steps_with_any_of_torchs_optimisers_to_its_bits(name: str) -> None:
    problem = make_problem()
    optimizer = {"name": name, **OPTIONS.get(name, {})}
    found, _ = run(problem, TrainingConfig(rounds=6, optimizer=optimizer, learning_rate=0.03))
    live = leaves(dict(problem.model.named_parameters()))
    chosen = torchs(name, live, 0.03)
    for _ in range(6):
        chosen.zero_grad()
        losses = []
        for one in problem.domains:
            logits = functional_call(problem.model, dict(live), (one.train.inputs,))
            losses.append(functional.cross_entropy(logits, one.train.labels))
        torch.stack(losses).mean().backward()
        chosen.step()
    assert_close(found, {key: value.detach() for key, value in live.items()}, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", USABLE)
def test_clients_step_with_any_of_torchs_optimisers_fresh_each_round(name: str) -> None:
    problem = make_problem()
    local = {"optimizer": {"name": name, **OPTIONS.get(name, {})}, "learning_rate": 0.03, "steps": 3}
    found, _ = run(problem, TrainingConfig(mode="local", rounds=2, local=local))
    start = {key: value.detach() for key, value in problem.model.named_parameters()}
    for _ in range(2):
        ends = []
        for one in problem.domains:
            live = leaves(start)
            chosen = torchs(name, live, 0.03)
            for _ in range(3):
                chosen.zero_grad()
                logits = functional_call(problem.model, dict(live), (one.train.inputs,))
                functional.cross_entropy(logits, one.train.labels).backward()
                chosen.step()
            ends.append({key: value.detach() for key, value in live.items()})
        start = {key: torch.stack([one[key] for one in ends]).mean(0) for key in start}
    assert_close(found, start, rtol=1e-10, atol=1e-12)


def test_an_optimiser_without_options_that_is_fedhas_own_keeps_its_state_under_its_names() -> None:
    states = {}
    for given in ("adam", {"name": "adam", "eps": 1e-8}):
        server = Server(
            Task(RECIPES["erm"], TrainingConfig(optimizer=given), SEED), dict(make_problem().model.named_parameters())
        )
        states[str(given)] = server.states["adam"]
    own, torchs_own = states.values()
    assert set(torchs_own) == {*own, "steps"}


# --- what people misspell ---


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"optimizer": "adamm"}, "there is no optimizer 'adamm'; did you mean 'adam'"),
        (
            {"optimizer": {"name": "adamw", "weight_deca": 0.1}},
            "'adamw' has no option 'weight_deca'; did you",
        ),
        ({"optimizer": {"name": "adamw", "betas": 0.9}}, "betas is 0.9; give 2 numbers, such as [0.9, 0.999]"),
        ({"optimizer": {"name": "adamw", "betas": ["0.9", "1.5"]}}, "cannot be made with betas: .*Invalid beta"),
        ({"optimizer": {"name": "adamw", "eps": "small"}}, "eps is 'small'; give a number"),
        ({"optimizer": {"name": "adamw", "amsgrad": 1}}, "amsgrad is 1; give true or false"),
        ({"optimizer": {"name": "adamw", "lr": 0.1}}, "is given lr; give learning_rate beside it"),
        ({"optimizer": {"name": "adamw", "maximize": True}}, "has no option 'maximize'"),
        ({"optimizer": {"name": "adamw", "fused": "maybe"}}, "'adamw': fused is 'maybe'; give true or false"),
        ({"optimizer": "AdamW"}, r"there is no optimizer 'AdamW'; did you mean 'adamw'\?"),
        ({"optimizer": "adma"}, r"did you mean 'adamax' or 'adam'\?"),
        ({"optimizer": {"name": "adamw", "weight_decay": -1}}, "cannot be made with weight_decay: -1"),
        ({"optimizer": {"name": "sgd", "nesterov": True}}, "Nesterov momentum requires a momentum"),
        ({"optimizer": "lbfgs"}, "'lbfgs', which asks for the loss several times within a step"),
        ({"optimizer": "sparseadam"}, "'sparseadam', which takes sparse gradients alone"),
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum is 0.9, which 'adamw' reads among the optimizer's own"),
        ({"optimizer": "adamw", "mode": "local"}, "in mode 'local' the clients step: give local.optimizer 'adamw'"),
        ({"local": {"optimizer": "adamm"}}, "training.local.optimizer: there is no optimizer 'adamm'; did you mean"),
        ({"local": {"optimizer": {"betas": 1}}}, "names no optimizer; give a name"),
        (
            {"local": {"optimizer": {"name": "rmsprop", "alfa": 1}}},
            "'rmsprop' has no option 'alfa'; did you mean 'alpha'",
        ),
        (
            {"local": {"optimizer": {"name": "adamw", "eps": 1}, "momentum": 0.5}},
            "momentum is 0.5, which 'adamw' reads among",
        ),
        ({"local": {"optimizer": "rmsprop", "momentum": 0.5}}, "momentum is 0.5, which 'rmsprop' reads among the"),
        ({"optimizer": "rprop", "rates": {"head": 2}}, "'rprop', which finds the size of its steps itself"),
        ({"rates": {"head": -1}}, "training.rates.head is -1: input should be greater than or equal to 0"),
        ({"clip_norm": 0}, "training.clip_norm is 0: input should be greater than 0"),
        ({"decay": "weight"}, "training.decay is 'weight'"),
    ],
)
def test_what_an_optimiser_does_not_take_is_said_in_a_sentence(training: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhaError, match=said.replace("[", r"\[").replace("(", r"\(")):
        parse({"training": training})


def test_the_longest_beginning_of_a_name_counts_up_to_a_dot_and_whatever_the_precision() -> None:
    rates = {"featurizer": 0.1, "featurizer.trunk.layer4": 0.5, "head.bias": 2.0}
    names = {
        "featurizer.trunk.layer4.0.weight": 0.5,
        "featurizer.trunk.full.layer4.0.weight": 0.5,
        "featurizer.full.trunk.layer4.0.weight": 0.5,
        "featurizer.trunk.layer40.weight": 0.1,
        "head.bias": 2.0,
        "head.weight": 1.0,
    }
    assert {name: optimizers.rate_of(name, rates) for name in names} == names
    with pytest.raises(FedhaError, match=r"did you mean 'featurizer\.trunk\.layer4'"):
        optimizers.check_rates({"layer4": 2.0}, ["featurizer.trunk.layer4.0.weight", "head.weight"])


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"rates": {"heads": 2}}, "training.rates has 'heads', with which no trained parameter's name begins; did you"),
        ({"optimizer": "muon"}, "the optimizer 'muon' does not take this network's parameters: .*2D"),
        ({"mode": "local", "local": {"optimizer": "muon"}}, "the optimizer 'muon' does not take this network's"),
    ],
)
def test_what_a_network_does_not_fit_is_said_before_the_first_round(training: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        Server(Task(RECIPES["erm"], TrainingConfig(**training), 0), dict(make_problem().model.named_parameters()))


def test_scaffold_is_refused_what_its_controls_cannot_take() -> None:
    for given in ({"rates": {"head": 2}}, {"clip_norm": 1}, {"schedule": {"by": "step", "warmup": 2}}):
        with pytest.raises(FedhaError, match="whose clients answer what their steps at one rate added up to"):
            parse({"training": {"mode": "local", "optimizer": "scaffold", "local": {"steps": 3}, **given}})


def test_a_clients_rate_is_torchs_own_where_none_is_given() -> None:
    assert parse({"training": {"local": {"optimizer": "adamw"}}}).training.local.learning_rate == 1e-3
    assert parse({"training": {"local": {"optimizer": "adam"}}}).training.local.learning_rate == 0.1
    given = {"optimizer": {"name": "adamw", "weight_decay": "0.1"}, "learning_rate": "0.5"}
    local = parse({"training": {"local": given}}).training.local
    assert (local.learning_rate, local.optimizer) == (0.5, {"name": "adamw", "weight_decay": 0.1})


# --- where examples are protected ---


@pytest.mark.parametrize("mode", ["synchronous", "local"])
def test_the_gradient_that_is_clipped_is_the_noisy_one_where_examples_are_protected(mode: str) -> None:
    problem = make_problem()
    privacy = PrivacyConfig(protect="examples", noise_multiplier=50.0, guard_heads=False)
    moved = []
    for most in (None, 0.01):
        training = TrainingConfig(
            mode=mode,
            rounds=1,
            optimizer="sgd" if mode == "synchronous" else None,
            learning_rate=1.0,
            clip_norm=most,
            local={"steps": 1, "learning_rate": 1.0},
        )
        server = Server(Task(RECIPES["erm"], training, SEED, privacy), dict(problem.model.named_parameters()))
        run_round(server, problem.clients(), 1)
        gone = [server.parameters[name] - value.detach() for name, value in problem.model.named_parameters()]
        moved.append(float(torch.linalg.vector_norm(torch.cat([one.flatten() for one in gone]))))
    assert moved[0] > 1
    assert moved[1] <= 0.01 + 1e-12


# --- weight decay of weights alone ---


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("mode", ["synchronous", "local"])
def test_l2_of_weights_alone_leaves_biases_out(mode: str, chunk: int | None) -> None:
    problem = make_problem()

    def end(decay: str, strength: float) -> dict[str, Tensor]:
        training = TrainingConfig(
            mode=mode,
            rounds=1,
            weight_decay=strength,
            decay=decay,
            chunk=chunk,
            optimizer="sgd" if mode == "synchronous" else None,
            learning_rate=1.0,
            local={"steps": 1, "learning_rate": 1.0},
        )
        return run(problem, training)[0]

    plain, weights = end("all", 0.0), end("weights", 0.05)
    start = dict(problem.model.named_parameters())
    for name, value in weights.items():
        pull = 0.0 if name.endswith("bias") else 0.1
        assert_close(value, plain[name] - pull * start[name].detach(), rtol=1e-10, atol=1e-12)
